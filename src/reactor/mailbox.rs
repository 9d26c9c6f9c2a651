//! The mailbox: how other threads give a reactor work.
//!
//! Rule (R4 of docs/design.md): the job goes in first, the wake-up second, and only if the turner may be
//! asleep. A full fence on both sides makes one of the two see the other: either the poster sees `asleep` and
//! wakes, or the turner sees the job before it blocks.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use super::dialer::Dialed;
use super::errand::Errand;
use super::listener::Accepted;
use crate::completion::Guard;
use crate::pipe::{Owner, Pipe};
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::{Fault, Mutex, lock, planted};
use crate::transport::readiness::Waker;
use crate::transport::{Endpoint, Listener};

/// Number of a bound or connected endpoint within a context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct EndpointId(pub(crate) u64);

/// Number of a socket within a context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SocketId(pub(crate) u64);

/// Who a source on a reactor belongs to.
#[derive(Clone)]
pub(crate) struct Belongs {
    pub(crate) socket: SocketId,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) endpoint: Endpoint,
    pub(crate) owner: Arc<dyn Owner>,
}

impl fmt::Debug for Belongs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.socket, self.endpoint)
    }
}

/// Which sources are closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    Socket(SocketId),
    /// A listener and what it accepted, or a dialer and its connection.
    Endpoint(EndpointId),
    /// A listener alone.
    Listener(EndpointId),
}

impl Scope {
    pub(crate) fn covers(self, belongs: &Belongs, is_listener: bool) -> bool {
        match self {
            Self::Socket(socket) => belongs.socket == socket,
            Self::Endpoint(endpoint) => belongs.endpoint_id == endpoint,
            Self::Listener(endpoint) => is_listener && belongs.endpoint_id == endpoint,
        }
    }
}

/// Work for a reactor.
pub(crate) enum Job {
    /// The inbox of this connection drained: read on.
    Resume(usize),
    /// The outbox of this closing connection is empty.
    Drained(usize),
    /// Writing to this connection failed.
    Broken(usize),
    Listen {
        listener: Listener,
        belongs: Belongs,
    },
    Dial {
        pipe: Option<Arc<Pipe>>,
        belongs: Belongs,
    },
    Adopt(Accepted),
    Resolved(Dialed),
    /// Closes all sources in the scope, lingering.
    Close {
        scope: Scope,
        linger: Duration,
        guard: Guard,
    },
    /// Does something for an in-process endpoint when its time has come.
    Errand(Errand),
    /// The context ends: what waits in process is given up.
    EndErrands,
    /// Drops the connection of a pipe whose place another peer took.
    Evict(Arc<Pipe>),
}

pub(crate) struct Mailbox {
    /// `None` once the reactor has ended.
    jobs: Mutex<Option<Vec<Job>>>,
    asleep: AtomicBool,
    /// Somebody wants the turner to come out of its poll.
    nudged: AtomicBool,
    waker: Waker,
}

impl Mailbox {
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            jobs: Mutex::new(Some(Vec::new())),
            asleep: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            waker,
        }
    }

    /// Posts a job and wakes the turner if it may be asleep. A job for a reactor that has ended is dropped, and its guard
    /// with it.
    pub(crate) fn post(&self, job: Job) {
        let mut jobs = lock(&self.jobs);
        match &mut *jobs {
            Some(jobs) => jobs.push(job),
            None => {
                drop(jobs);
                return;
            }
        }
        drop(jobs);
        self.wake();
    }

    /// Makes the turner come back from its poll, now or when it next gets there.
    pub(crate) fn nudge(&self) {
        self.nudged.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::Relaxed)
            && let Err(error) = self.waker.wake()
        {
            debug_assert!(error.kind() == io::ErrorKind::WouldBlock, "waking failed: {error}");
        }
    }

    /// Swaps the posted jobs into `jobs`, which must be empty.
    pub(crate) fn take(&self, jobs: &mut Vec<Job>) {
        debug_assert!(jobs.is_empty());
        if let Some(posted) = &mut *lock(&self.jobs) {
            std::mem::swap(posted, jobs);
        }
    }

    /// The reactor has ended. Jobs hold sockets, which hold the mailbox: nothing may stay in here.
    pub(crate) fn close(&self) {
        let jobs = lock(&self.jobs).take();
        drop(jobs);
    }

    /// Announces that the turner is about to block. False when a job is waiting: then it must not block.
    pub(crate) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let looked = planted(Fault::SleptWithoutLook);
        let may = looked || (!self.nudged.swap(false, Ordering::Relaxed) && !self.has_jobs());
        if !may {
            self.awake();
        }
        may
    }

    /// Whether jobs are waiting.
    pub(crate) fn has_jobs(&self) -> bool {
        lock(&self.jobs).as_ref().is_some_and(|jobs| !jobs.is_empty())
    }

    /// The turner is awake and will look at its jobs before it blocks again.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}
