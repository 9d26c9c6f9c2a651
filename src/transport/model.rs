//! The kernel of a model: a poller that blocks, its waker, and a stream that takes as much as the model says. All of it is
//! visible to loom.

use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};

use super::readiness::{Registry, Token};
use crate::sync::{Condvar, Mutex, lock};

/// What a turning thread polls: the waker's flag, and messages that came.
#[derive(Debug, Default)]
pub(crate) struct Poller {
    state: Mutex<Readiness>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Readiness {
    woken: bool,
    messages: usize,
}

impl Poller {
    /// Messages that came since the last poll. Without any, and if `block`, waits for one or for the waker.
    pub(crate) fn poll(&self, block: bool) -> usize {
        let mut state = lock(&self.state);
        while block && !state.woken && state.messages == 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.woken = false;
        std::mem::take(&mut state.messages)
    }

    /// A message comes in.
    pub(crate) fn arrive(&self) {
        lock(&self.state).messages += 1;
        self.changed.notify_all();
    }
}

/// Stands for the poller's own waker.
#[derive(Debug, Default)]
pub(crate) struct Waker(pub(crate) Arc<Poller>);

impl Waker {
    /// As the real one is made; nothing of a model is made so.
    #[allow(clippy::unnecessary_wraps)]
    pub(crate) fn new(_: &Registry, _: Token) -> io::Result<Self> {
        Ok(Self::default())
    }

    #[allow(clippy::unnecessary_wraps)]
    pub(crate) fn wake(&self) -> io::Result<()> {
        lock(&self.0.state).woken = true;
        self.0.changed.notify_all();
        Ok(())
    }
}

/// The kernel's send buffer of one connection.
#[derive(Debug)]
pub(crate) struct Kernel {
    state: Mutex<Buffer>,
    changed: Condvar,
}

#[derive(Debug)]
struct Buffer {
    room: usize,
    taken: Vec<u8>,
    /// A write was refused since there was room last: the next room is an event.
    refused: bool,
}

impl Kernel {
    pub(crate) fn new(room: usize) -> Self {
        let buffer = Buffer { room, taken: Vec::new(), refused: false };
        Self { state: Mutex::new(buffer), changed: Condvar::default() }
    }

    /// One write, of as much as there is room for.
    pub(crate) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = lock(&self.state);
        if state.room == 0 {
            state.refused = true;
            drop(state);
            self.changed.notify_all();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = state.taken.len();
        for slice in slices {
            let count = slice.len().min(state.room);
            state.taken.extend(slice.iter().take(count));
            state.room -= count;
        }
        let count = state.taken.len() - before;
        drop(state);
        self.changed.notify_all();
        Ok(count)
    }

    /// Waits until a write was refused, then makes room: what follows is a writable event.
    pub(crate) fn drain(&self, room: usize) {
        let mut state = lock(&self.state);
        while !state.refused {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.refused = false;
        state.room += room;
    }

    /// Waits for that many bytes and returns all that came.
    pub(crate) fn received(&self, bytes: usize) -> Vec<u8> {
        let mut state = lock(&self.state);
        while state.taken.len() < bytes {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taken.clone()
    }
}
