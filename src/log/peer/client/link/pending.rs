//! A request that is under way, and the place for its answer.

use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::{CALLS_MAX, CROWD, Sink, State};
use crate::log::peer::client::error::Asked;
use crate::log::peer::client::{Core, PeerError};
use crate::log::peer::protocol::{
    self, Answer, REQUEST_BYTES_MAX, RemoteCode, RemoteError, Request,
};
use crate::log::wakers;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};
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

impl Core {
    /// Puts a request under way, waiting for room if there are very many.
    pub(in crate::log::peer::client) fn begin(
        self: &Arc<Self>,
        request: Request,
        body: Vec<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<Pending, PeerError> {
        let link = &self.link;
        if request.waits() {
            return self.begin_task(&request, body);
        }
        self.check_size(&request, &body)?;
        let mut state = lock(&link.state);
        while state.waited >= CALLS_MAX && !state.closed {
            state = match deadline.map(|end| end.saturating_duration_since(now())) {
                Some(left) if left.is_zero() => {
                    let connection = state.connection();
                    drop(state);
                    return Err(self.not_sent(&(&request).into(), connection, CROWD));
                }
                Some(left) => {
                    let waited = link.room.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => link.room.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        if state.closed {
            return Err(self.closed());
        }
        state.waited += 1;
        Ok(self.pending(state, &request, body, Sink::Slot))
    }

    /// Puts a request under way at once.
    pub(in crate::log::peer::client) fn begin_task(
        self: &Arc<Self>,
        request: &Request,
        body: Vec<Bytes>,
    ) -> Result<Pending, PeerError> {
        self.check_size(request, &body)?;
        let state = lock(&self.link.state);
        if state.closed {
            return Err(self.closed());
        }
        Ok(self.pending(state, request, body, Sink::Task))
    }

    /// Refuses what a server would end the connection for, and again when it is sent anew.
    fn check_size(&self, request: &Request, body: &[Bytes]) -> Result<(), PeerError> {
        // No others become so large.
        if !matches!(request, Request::Append(_) | Request::Transact(_) | Request::Commit(_)) {
            return Ok(());
        }
        let head = protocol::encode_request(0, request, Vec::new()).body_bytes();
        let bytes = body.iter().fold(head, |sum, frame| sum.saturating_add(frame.len()));
        if bytes <= REQUEST_BYTES_MAX {
            return Ok(());
        }
        let text =
            format!("{bytes} bytes are more than the {REQUEST_BYTES_MAX} that a request may have");
        Err(self.refused(&request.into(), RemoteError::new(RemoteCode::TooLarge, text)))
    }

    fn pending(
        self: &Arc<Self>,
        state: MutexGuard<'_, State>,
        request: &Request,
        body: Vec<Bytes>,
        sink: impl FnOnce(Arc<Slot>) -> Sink,
    ) -> Pending {
        let slot = Arc::new(Slot::default());
        let queue = match request {
            Request::Acquire(acquire) => Some(acquire.queue.clone()),
            _ => None,
        };
        let (correlation, asked) = self.link.submit(state, request, body, sink(Arc::clone(&slot)));
        Pending { core: Arc::clone(self), correlation, asked, queue, slot }
    }
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
