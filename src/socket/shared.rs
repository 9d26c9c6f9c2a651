//! What all sockets of a context share: reactors, in-process names, and the list of who has to be closed at the end.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use crate::completion::Completion;
use crate::error::SetupError;
use crate::pipe::{Owner, Pipe};
use crate::reactor::{EndpointId, Job, Pool, Slot, SocketId};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, lock};
use crate::transport::Endpoint;
use crate::transport::inproc::Rendezvous;

/// What a context asks of each of its sockets when it ends.
pub(crate) trait SocketControl: Send + Sync {
    /// Closes with the socket's own linger time; returns at once.
    fn shut_down(&self);
    /// Counts what is queued in process as lost: nobody will read it any more.
    fn give_up_inproc(&self);
}

/// A socket that is bound to an in-process name.
pub(crate) struct Binder {
    pub(crate) socket: SocketId,
    pub(crate) owner: Weak<dyn Owner>,
}

/// A socket that connected to an in-process name before it was bound.
pub(crate) struct Connector {
    pub(crate) socket: SocketId,
    pub(crate) owner: Weak<dyn Owner>,
    /// `None` with `immediate`.
    pub(crate) pipe: Option<Arc<Pipe>>,
}

impl fmt::Debug for Binder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.socket)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.socket)
    }
}

/// A task that waits for something a reactor brings.
#[derive(Debug)]
pub(crate) struct WaitingTask(Arc<Shared>);

impl Drop for WaitingTask {
    fn drop(&mut self) {
        if let Some(pool) = self.0.pool.get() {
            pool.task_leaves();
        }
    }
}

/// What all sockets of a context share.
pub(crate) struct Shared {
    io_threads: usize,
    pool: OnceLock<Arc<Pool>>,
    /// Serialises the start of the pool with the end of the context.
    starting: Mutex<()>,
    pub(crate) inproc: Mutex<Rendezvous<Binder, Connector>>,
    sockets: Mutex<HashMap<SocketId, Weak<dyn SocketControl>>>,
    closes: Mutex<Vec<Completion>>,
    next_id: AtomicU64,
    closed: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("io_threads", &self.io_threads)
            .field("sockets", &lock(&self.sockets).len())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// `io_threads` of them are started with the first socket.
    pub(crate) fn new(io_threads: usize) -> Self {
        Self {
            io_threads,
            pool: OnceLock::new(),
            starting: Mutex::new(()),
            inproc: Mutex::default(),
            sockets: Mutex::default(),
            closes: Mutex::default(),
            next_id: AtomicU64::new(1),
            closed: AtomicBool::new(false),
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The I/O threads, started by whoever needs them first.
    pub(crate) fn pool(self: &Arc<Self>) -> Result<&Arc<Pool>, SetupError> {
        let _starting = lock(&self.starting);
        if self.is_closed() {
            return Err(SetupError::Closed);
        }
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let shared = Arc::downgrade(self);
        let failed = move || {
            // A reactor is gone: waiting for it would be for ever, so its sockets are closed.
            if let Some(shared) = shared.upgrade() {
                shared.shut_down();
            }
        };
        let pool = Pool::start(self.io_threads, failed).map_err(SetupError::Os)?;
        Ok(self.pool.get_or_init(|| pool))
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        self.pool.get().map(|pool| pool.slots()).unwrap_or_default()
    }

    /// The only reactor, if there is just one.
    pub(crate) fn only_slot(&self) -> Option<&Slot> {
        self.pool.get().and_then(|pool| pool.only()).map(|slot| &**slot)
    }

    /// Counts a waiting task as long as the result lives: the keepers turn for it.
    pub(crate) fn task_waits(self: &Arc<Self>) -> WaitingTask {
        if let Some(pool) = self.pool.get() {
            pool.task_waits();
        }
        WaitingTask(Arc::clone(self))
    }

    pub(crate) fn next_socket_id(&self) -> SocketId {
        SocketId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_endpoint_id(&self) -> EndpointId {
        EndpointId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a socket; fails when the context is closed.
    pub(crate) fn add_socket(
        &self,
        id: SocketId,
        socket: Weak<dyn SocketControl>,
    ) -> Result<(), SetupError> {
        let mut sockets = lock(&self.sockets);
        if self.is_closed() {
            return Err(SetupError::Closed);
        }
        sockets.insert(id, socket);
        Ok(())
    }

    pub(crate) fn remove_socket(&self, id: SocketId) {
        lock(&self.sockets).remove(&id);
    }

    /// Keeps a close that the end of the context has to wait for.
    pub(crate) fn remember_close(&self, completion: Completion) {
        let mut closes = lock(&self.closes);
        closes.retain(|close| !close.is_done());
        closes.push(completion);
    }

    /// Frees an in-process name.
    pub(crate) fn unbind_inproc(&self, endpoint: &Endpoint, socket: SocketId) {
        if let Endpoint::Inproc(name) = endpoint {
            lock(&self.inproc).unbind(name, |binder| binder.socket == socket);
        }
    }

    /// Stops waiting for an in-process name; `pipe` is the connector's, if it has one.
    pub(crate) fn forget_connector(
        &self,
        endpoint: &Endpoint,
        socket: SocketId,
        pipe: Option<&Arc<Pipe>>,
    ) {
        let Endpoint::Inproc(name) = endpoint else { return };
        lock(&self.inproc).cancel(name, |connector| {
            connector.socket == socket
                && match (pipe, &connector.pipe) {
                    (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                    (None, None) => true,
                    _ => false,
                }
        });
    }

    /// Closes all sockets; blocked calls end. Returns at once.
    pub(crate) fn shut_down(&self) {
        let sockets: Vec<_> = {
            let sockets = lock(&self.sockets);
            self.closed.store(true, Ordering::Release);
            sockets.values().filter_map(Weak::upgrade).collect()
        };
        sockets.iter().for_each(|socket| socket.shut_down());
        sockets.iter().for_each(|socket| socket.give_up_inproc());
        for slot in self.slots() {
            slot.post(Job::EndErrands);
        }
    }

    /// Closes all sockets, waits until they have sent what they had (or their linger times are over), stops the threads.
    pub(crate) fn terminate(&self) {
        self.shut_down();
        let closes = std::mem::take(&mut *lock(&self.closes));
        let pool = {
            let _starting = lock(&self.starting);
            self.pool.get()
        };
        if let Some(pool) = pool {
            // The end of a context may be reached on one of its own threads, by a waker that owns the last handle.
            if !pool.is_own_thread() {
                closes.iter().for_each(Completion::wait);
            }
            pool.stop();
        }
    }
}
