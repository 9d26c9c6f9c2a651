//! The short way to the only peer: a socket that sends to just one has nothing to choose, and meets no lock but the outbox's.
//!
//! R5: `open` says that the pipe is the one choice of the socket's pattern, and that nobody waits for room. It is set again
//! by whoever gives the socket's lock back. A send that has read it just before a change counts as sent before the
//! change: what is offered then is refused or kept by the outbox itself, which is closed and abandoned under its own lock.

use std::sync::{Arc, OnceLock};

use crate::pipe::Pipe;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The first pipe of a socket, as long as it is its only choice. Later pipes go the long way: this one can be read without
/// a lock because it never changes.
#[derive(Default)]
pub(super) struct OnlyPeer {
    first: OnceLock<Arc<Pipe>>,
    open: AtomicBool,
}

impl OnlyPeer {
    /// The pipe, while the way is open.
    #[inline]
    pub(super) fn get(&self) -> Option<&Arc<Pipe>> {
        if self.open.load(Ordering::Acquire) { self.first.get() } else { None }
    }

    /// The first pipe, whether or not the way is open.
    pub(super) fn first(&self) -> Option<&Arc<Pipe>> {
        self.first.get()
    }

    /// Opens or closes the way. The socket's lock is held.
    pub(super) fn set(&self, only: Option<&Arc<Pipe>>) {
        let open =
            only.is_some_and(|only| Arc::ptr_eq(only, self.first.get_or_init(|| Arc::clone(only))));
        self.open.store(open, Ordering::Release);
    }
}
