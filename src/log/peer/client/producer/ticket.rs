//! What an append gives back: the fate of its batch, to be waited for in a thread or as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::LaneKey;
use crate::log::peer::client::error::Asked;
use crate::log::peer::client::{Core, PeerError};
use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// What becomes of the records of a batch: the first offset, or an error.
#[derive(Debug, Default)]
pub(super) struct Fate {
    state: Mutex<FateState>,
    set: Condvar,
}

#[derive(Debug, Default)]
struct FateState {
    outcome: Option<Result<i64, PeerError>>,
    wakers: Vec<Waker>,
    /// How many flushes will tell of it.
    flushes: usize,
    /// Whether one has told of it.
    told: bool,
}

impl Fate {
    /// What has become of it. Returns who is to be woken, when nothing is locked any more, and whether a flush will tell.
    pub(super) fn set(&self, outcome: Result<i64, PeerError>) -> (Vec<Waker>, bool) {
        let mut state = lock(&self.state);
        state.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        let is_flushed = state.flushes > 0;
        drop(state);
        self.set.notify_all();
        (wakers, is_flushed)
    }

    /// A flush will tell of it.
    pub(super) fn begin_flush(&self) {
        lock(&self.state).flushes += 1;
    }

    /// A flush ends that tells of it: what there is to tell, if that is known by now.
    pub(super) fn end_flush(&self) -> Option<Result<i64, PeerError>> {
        let mut state = lock(&self.state);
        state.flushes = state.flushes.saturating_sub(1);
        state.told |= state.outcome.is_some();
        state.outcome.clone()
    }

    /// A flush ends without telling of it: what the next one is to tell, unless another has told it, or will.
    pub(super) fn drop_flush(&self) -> Option<Result<i64, PeerError>> {
        let mut state = lock(&self.state);
        state.flushes = state.flushes.saturating_sub(1);
        let is_left = state.flushes == 0 && !state.told;
        state.outcome.clone().filter(|_| is_left)
    }

    /// The outcome, after waiting for it until the deadline.
    pub(super) fn wait_until(&self, deadline: Option<Instant>) -> Option<Result<i64, PeerError>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(outcome) = &state.outcome {
                return Some(outcome.clone());
            }
            state = match deadline.map(|end| end.saturating_duration_since(now())) {
                Some(left) if left.is_zero() => return None,
                Some(left) => {
                    let waited = self.set.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.set.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The outcome, once it is there; else the waker is called when it is.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<Result<i64, PeerError>> {
        let mut state = lock(&self.state);
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        Poll::Pending
    }
}

/// Tells when an append to a log in another process is done. Dropping it takes nothing back; what fails then is told by
/// [`LogClient::flush`](crate::log::LogClient::flush).
#[derive(Debug)]
#[must_use = "an append is only known to be done when its ticket was waited for"]
pub struct AppendTicket {
    pub(super) core: Arc<Core>,
    pub(super) fate: Arc<Fate>,
    pub(super) key: LaneKey,
    /// Offsets after the first one of the batch.
    pub(super) delta: i64,
}

impl AppendTicket {
    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.key.1
    }

    /// Whether waiting would not block.
    pub fn is_done(&self) -> bool {
        lock(&self.fate.state).outcome.is_some()
    }

    /// Waits until the append has its level, at most for the client's timeout; returns the offset.
    ///
    /// # Errors
    /// `Timeout`: the append is still pursued, and its ticket lost; use [`wait_timeout`](Self::wait_timeout) to go on
    /// waiting. `Refused`. After `Refused` with `Poisoned` or `Storage`, whether the record is there will be seen when
    /// the log is opened anew.
    pub fn wait(self) -> Result<i64, PeerError> {
        match self.wait_until(self.core.deadline(Duration::ZERO))? {
            Some(offset) => Ok(offset),
            None => Err(self.core.timed_out(&Asked::append(&self.key.0, self.key.1))),
        }
    }

    /// Waits, but no longer than this: `None` then, and the ticket can be waited for again.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), without `Timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<i64>, PeerError> {
        self.wait_until(now().checked_add(timeout))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<i64>, PeerError> {
        let outcome = self.fate.wait_until(deadline).transpose()?;
        Ok(outcome.map(|first| first + self.delta))
    }
}

impl Future for AppendTicket {
    type Output = Result<i64, PeerError>;

    /// Has no deadline of its own.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.fate.poll(context.waker());
        polled.map(|outcome| outcome.map(|first| first + self.delta))
    }
}
