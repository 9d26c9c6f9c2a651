//! One partition of what is subscribed to.

use std::time::Instant;

use crate::log::durable::merge::Merge;
use crate::log::durable::subscriber::SubscribeError;
use crate::log::peer::protocol::{Fetch, NO_EPOCH};
use crate::log::peer::{PeerError, RemoteCode, RemoteError};
use crate::transport::now;

#[derive(Debug)]
pub(super) struct Part {
    pub(super) merge: Merge,
    /// The offset after the last record that was handed out.
    pub(super) position: i64,
    /// A writer in whose log everything before the next record was.
    pub(super) last_epoch: i32,
    /// When something was heard of it.
    pub(super) heard_at: Instant,
}

impl Part {
    pub(super) fn new(offset: i64, last_epoch: i32, held_bytes: usize) -> Self {
        let merge = Merge::new(offset, held_bytes);
        Self { merge, position: offset, last_epoch, heard_at: now() }
    }

    /// Everything before the next record was in this writer's log.
    pub(super) fn was_in(&mut self, epoch: i32) {
        self.last_epoch = self.last_epoch.max(epoch);
    }

    /// What is asked for to go on.
    pub(super) fn fetch(&self, fetch: Fetch) -> Fetch {
        Fetch { offset: self.merge.next(), last_epoch: self.last_epoch, ..fetch }
    }

    /// What a refusal means, and where to go on after it.
    pub(super) fn gone(&mut self, topic: &str, partition: u32, error: PeerError) -> SubscribeError {
        let topic = topic.to_owned();
        let Some(RemoteError { code, offset, earliest, end, .. }) = error.remote() else {
            return error.into();
        };
        let wanted = self.merge.next();
        let seen = wanted;
        let (resumes_at, error) = match (code, offset, earliest, end) {
            (RemoteCode::Diverged, Some(resumes_at), ..) => {
                let resumes_at = *resumes_at;
                (resumes_at, SubscribeError::Diverged { topic, partition, seen, resumes_at })
            }
            (RemoteCode::OffsetOutOfRange, _, Some(earliest), _) if *earliest > wanted => {
                let resumes_at = *earliest;
                (resumes_at, SubscribeError::Expired { topic, partition, wanted, resumes_at })
            }
            (RemoteCode::OffsetOutOfRange, _, _, Some(end)) if *end < wanted => {
                let resumes_at = *end;
                (resumes_at, SubscribeError::Diverged { topic, partition, seen, resumes_at })
            }
            _ => return error.into(),
        };
        self.merge.reset(resumes_at);
        self.position = resumes_at;
        // After a divergence the old writer still bounds what was seen: a further crash is noticed too.
        if matches!(error, SubscribeError::Expired { .. }) {
            self.last_epoch = NO_EPOCH;
        }
        error
    }
}
