//! Members that wait as tasks live as long as nothing happens: nobody polls them to send heartbeats meanwhile, and who
//! waits for its turn is not silent.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::log::clock::Clock;
use crate::log::wakers;
use crate::sync::{Mutex, lock};

/// Whether a member waits as a task, or until when it did. Its lock is a leaf.
#[derive(Debug)]
pub(in crate::log) struct Presence {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Until it is woken.
    Waiting(Waker),
    /// It has something to do since this moment, on the log's steady clock.
    Since(i64),
}

impl Presence {
    /// Of a member that does not wait.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let state = Mutex::new(State::Since(clock.steady_ms()));
        Arc::new(Self { clock, state })
    }

    /// The member waits from now on. Whatever happens wakes it by this.
    pub(super) fn wait(&self, waker: &Waker) {
        // The one before is dropped without the lock.
        let _before = std::mem::replace(&mut *lock(&self.state), State::Waiting(waker.clone()));
    }

    /// The member does not wait any more.
    pub(super) fn end(&self) {
        self.take();
    }

    fn take(&self) -> Option<Waker> {
        let mut state = lock(&self.state);
        match &*state {
            State::Since(_) => None,
            State::Waiting(_) => {
                match std::mem::replace(&mut *state, State::Since(self.clock.steady_ms())) {
                    State::Waiting(waker) => Some(waker),
                    State::Since(_) => None,
                }
            }
        }
    }

    /// The last moment, up to `now_ms`, at which it waited.
    pub(in crate::log::groups) fn seen_ms(&self, now_ms: i64) -> i64 {
        match &*lock(&self.state) {
            State::Waiting(_) => now_ms,
            State::Since(since_ms) => *since_ms,
        }
    }
}

impl Wake for Presence {
    fn wake(self: Arc<Self>) {
        wakers::call(self.take());
    }
}
