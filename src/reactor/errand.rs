//! Errands for in-process endpoints: the two things about them that need a timer. A connector that was refused or
//! evicted tries again after a pause, and a closed socket's queue waits for its reader (or for somebody to bind the name)
//! as long as it lingers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::linger::Lingering;
use super::mailbox::Belongs;
use crate::completion::completion;
use crate::monitor::DisconnectReason;
use crate::pipe::{Loss, Pipe};

pub(crate) struct Errand {
    pub(crate) belongs: Belongs,
    task: Task,
}

enum Task {
    MeetAgain { at: Option<Instant>, pipe: Option<Arc<Pipe>> },
    Linger { pipe: Arc<Pipe>, lingering: Lingering },
}

impl Errand {
    /// Meets whoever is bound to the name after `pause`; `pipe` is the connector's, if it has one.
    pub(crate) fn meet_again(
        belongs: Belongs,
        pipe: Option<Arc<Pipe>>,
        pause: Duration,
        now: Instant,
    ) -> Self {
        Self { belongs, task: Task::MeetAgain { at: now.checked_add(pause), pipe } }
    }

    /// Gives the queue of a closing pipe up when the linger time is over. Whoever waits for the close is held by the pipe
    /// itself, which lets go as soon as it is drained.
    pub(crate) fn linger(
        belongs: Belongs,
        pipe: Arc<Pipe>,
        linger: Duration,
        now: Instant,
    ) -> Self {
        let progress = pipe.outbox_report().progress;
        let lingering = Lingering::new(linger, progress, now, completion().1);
        Self { belongs, task: Task::Linger { pipe, lingering } }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.task {
            Task::MeetAgain { at, .. } => *at,
            Task::Linger { lingering, .. } => lingering.deadline(),
        }
    }

    /// Whether the errand is done with when its socket closes.
    pub(crate) fn ends_with_socket(&self) -> bool {
        matches!(self.task, Task::MeetAgain { .. })
    }

    /// The deadline may have come. True when there is something to `run`, and the errand is over.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        match &mut self.task {
            Task::MeetAgain { at, .. } => at.is_some_and(|at| at <= now),
            Task::Linger { pipe, lingering } => {
                let report = pipe.outbox_report();
                report.drained || lingering.is_over(report.progress, now)
            }
        }
    }

    /// Runs an errand that lingers; one that would meet somebody is dropped.
    pub(crate) fn give_up(self) {
        if !self.ends_with_socket() {
            self.run();
        }
    }

    pub(crate) fn run(self) {
        let owner = &self.belongs.owner;
        match self.task {
            Task::MeetAgain { pipe, .. } => owner.meet(&self.belongs.endpoint, pipe),
            Task::Linger { pipe, .. } => {
                pipe.abandon(Loss::Linger);
                owner.forget(&pipe);
                pipe.part(DisconnectReason::Closed);
            }
        }
    }
}
