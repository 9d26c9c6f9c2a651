//! A request that is under way, and the place for its answer.

use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use crate::log::peer::client::error::Asked;
use crate::log::peer::client::{Core, PeerError};
use crate::log::peer::protocol::Answer;
use crate::log::wakers;
use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// An answer with the batches that go with it, and what it answers.
#[derive(Debug)]
pub(in crate::log::peer::client) struct Answered {
    pub(in crate::log::peer::client) answer: Answer,
    pub(in crate::log::peer::client) body: Vec<Bytes>,
    pub(in crate::log::peer::client) asked: Arc<Asked>,
}

/// A place for one answer.
#[derive(Debug, Default)]
pub(in crate::log::peer::client) struct Slot {
    state: Mutex<SlotState>,
    set: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    outcome: Option<Result<Answered, PeerError>>,
    waker: Option<Waker>,
}

impl Slot {
    pub(super) fn set(&self, outcome: Result<Answered, PeerError>) {
        let mut state = lock(&self.state);
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        self.set.notify_all();
        wakers::call(waker);
    }
}

/// A request that is under way. Dropped, its answer is of no interest any more.
///
/// What was not sent until then is not sent any more, and what was is not sent again over another connection: later requests,
/// of which it knows nothing, may have been answered before.
#[derive(Debug)]
pub(in crate::log::peer::client) struct Pending {
    pub(super) core: Arc<Core>,
    pub(super) correlation: u64,
    pub(super) asked: Arc<Asked>,
    /// The queue that deliveries are asked of.
    pub(super) queue: Option<String>,
    pub(super) slot: Arc<Slot>,
}

impl Pending {
    /// Waits for the answer.
    pub(in crate::log::peer::client) fn wait(
        self,
        deadline: Option<Instant>,
    ) -> Result<Answered, PeerError> {
        if !self.wait_until(deadline)
            && let Some(overdue) = self.core.give_up(&self)
        {
            return Err(overdue);
        }
        // Answered in the last moment, perhaps.
        self.take().unwrap_or_else(|| Err(self.core.timed_out(&self.asked)))
    }

    /// The answer, if it is there.
    pub(in crate::log::peer::client) fn take(&self) -> Option<Result<Answered, PeerError>> {
        lock(&self.slot.state).outcome.take()
    }

    /// The answer, once it is there; else the waker is called when it is.
    pub(in crate::log::peer::client) fn poll(
        &self,
        waker: &Waker,
    ) -> Poll<Result<Answered, PeerError>> {
        let mut state = lock(&self.slot.state);
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        state.waker = Some(waker.clone());
        Poll::Pending
    }

    /// Waits until there is an answer; false if the time is up.
    pub(in crate::log::peer::client) fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.slot.state);
        while state.outcome.is_none() {
            state = match deadline.map(|end| end.saturating_duration_since(now())) {
                Some(left) if left.is_zero() => return false,
                Some(left) => {
                    let waited = self.slot.set.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.slot.set.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        drop(self.core.give_up(self));
    }
}
