//! What becomes of a queue whose topic is deleted: it gives nothing of it any more, and says so. If another topic gets the
//! name, the queue begins anew over that one, at its earliest record, in place: whoever has the queue works on.
//!
//! Deliveries name the topic that they are of, so what a worker says of one of the old topic is said of nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::journal::Memory;
use super::state::{Found, RETRY_MS, State};
use super::{DurableQueue, QueueOptions};
use crate::log::error::LogError;
use crate::log::topic::Topic;
use crate::log::wakers;

/// What has become of the topic that a queue is over.
#[derive(Debug)]
pub(super) enum Standing {
    There,
    Deleted,
    /// Another one has its name.
    Replaced(Topic),
}

impl State {
    /// What has become of the topic.
    pub(super) fn standing(&self) -> Standing {
        let topic = &self.topic;
        // Its name was free before this was set.
        if !topic.inner.partitions.iter().any(|it| it.retired.load(Ordering::SeqCst)) {
            return Standing::There;
        }
        let log = topic.log.clone();
        match topic.log.find_topic(topic.name()) {
            Some(inner) => Standing::Replaced(Topic { inner, log }),
            None => Standing::Deleted,
        }
    }

    /// What there is to be found over a topic that is gone; `None` if it is there.
    pub(super) fn gone(&self) -> Option<Found> {
        let deleted = || LogError::TopicDeleted { topic: self.topic.name().to_owned() };
        match self.standing() {
            Standing::There => None,
            Standing::Deleted => {
                Some(Found { failed: Some(deleted()), hopeless: true, ..Found::default() })
            }
            // Somebody begins anew, and wakes who waits for that.
            Standing::Replaced(_) => {
                let failed = self.not_anew.as_ref().map(|(_, error)| error.clone());
                Some(Found { failed, ..Found::default() })
            }
        }
    }

    /// Whether the queue is to begin anew, and nobody has failed at that just now.
    pub(super) fn wants_anew(&self) -> bool {
        self.not_anew.is_none() && matches!(self.standing(), Standing::Replaced(_))
    }

    /// Forgets all about the topic: nothing of it is locked any more, and so nothing of it noted.
    fn forget(&mut self, options: &QueueOptions) {
        self.core = Core::of(options);
        self.records.clear();
        self.readers.clear();
        self.unburied.clear();
        self.unread = false;
    }
}

impl DurableQueue {
    /// Begins at the earliest record of the topic that has got the name, if one has. For who has `chores`.
    pub(super) fn begin_anew(&self) -> Result<(), LogError> {
        let mut state = self.state();
        if !state.wants_anew() {
            return Ok(());
        }
        let Standing::Replaced(topic) = state.standing() else { return Ok(()) };
        // First of all: notes behind the picture are about the new topic.
        state.forget(&self.inner.options);
        let id = (topic.name().to_owned(), topic.inner.id);
        let drawing = state.journal.draw(Memory { topic: id, partitions: BTreeMap::new() });
        drop(state);
        // Before anything of the new topic is given: a picture that is not written would leave its notes to the old one.
        let drawn = drawing.and_then(|drawing| drawing.wait());

        let mut state = self.state();
        let begun = match drawn {
            Ok(cut) => {
                state.journal.drawn(&cut);
                // Its partitions are taken up like those that a topic gets later.
                state.topic = topic;
                Ok(cut)
            }
            Err(error) => {
                let now_ms = self.inner.clock.steady_ms();
                state.not_anew = Some((now_ms.saturating_add(RETRY_MS), error.clone()));
                Err(error)
            }
        };
        let next = state.first_waiter();
        drop(state);
        wakers::call(next);
        begun?.forget_before()
    }
}
