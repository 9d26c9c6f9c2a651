//! The context: reactors, in-process names, and the orderly end of everything.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::completion::Completion;
use crate::error::{OptionError, SetupError};
use crate::pattern::{Dealer, Pattern, Pub, Pull, Push, Router, Sub};
use crate::pipe::{Owner, Pipe, lock};
use crate::reactor::{EndpointId, Mailbox, Pool, SocketId};
use crate::socket::Builder;
use crate::transport::Endpoint;
use crate::transport::inproc::Rendezvous;

/// Most I/O threads a context takes.
const IO_THREADS_MAX: usize = 64;

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
    pub(crate) fn is_closed(&self) -> bool {
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

    pub(crate) fn mailboxes(&self) -> &[Arc<Mailbox>] {
        self.pool.get().map(|pool| pool.mailboxes()).unwrap_or_default()
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

    /// Frees an in-process name, or stops waiting for it.
    pub(crate) fn forget_inproc(
        &self,
        endpoint: &Endpoint,
        socket: SocketId,
        pipe: Option<&Arc<Pipe>>,
    ) {
        let Endpoint::Inproc(name) = endpoint else { return };
        let mut names = lock(&self.inproc);
        names.unbind(name, |binder| binder.socket == socket && pipe.is_none());
        names.cancel(name, |connector| {
            connector.socket == socket
                && match (pipe, &connector.pipe) {
                    (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                    _ => pipe.is_none(),
                }
        });
    }

    /// Closes all sockets; blocked calls end. Returns at once.
    fn shut_down(&self) {
        let sockets: Vec<_> = {
            let sockets = lock(&self.sockets);
            self.closed.store(true, Ordering::Release);
            sockets.values().filter_map(Weak::upgrade).collect()
        };
        sockets.iter().for_each(|socket| socket.shut_down());
        sockets.iter().for_each(|socket| socket.give_up_inproc());
    }

    /// Closes all sockets, waits until they have sent what they had (or their linger times are over), stops the threads.
    fn terminate(&self) {
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

/// The last handle's end is the context's end.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.terminate();
    }
}

/// Owns the I/O threads and makes sockets. Cloning gives another handle to the same context.
///
/// Dropping the last handle closes every socket of the context (blocked calls return an error) and blocks until
/// what they had accepted is sent, or their linger time has passed without progress. Sockets do not keep the context
/// alive: keep a handle where they are used.
///
/// ```
/// let ctx = peermq::Context::new();
/// let pull = ctx.pull().bind("inproc://jobs")?;
/// let push = ctx.push().connect("inproc://jobs")?;
/// push.send("hello")?;
/// assert_eq!(pull.recv()?.body(), b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    handle: Arc<Handle>,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// A context with one I/O thread, which is started with the first socket.
    pub fn new() -> Self {
        Self::of_threads(1)
    }

    /// A context with this many I/O threads. One serves about a million small messages a second over many connections;
    /// more help when one core is not enough.
    ///
    /// # Errors
    /// [`OptionError`] unless `count` is between 1 and 64.
    pub fn with_io_threads(count: usize) -> Result<Self, OptionError> {
        if !(1..=IO_THREADS_MAX).contains(&count) {
            return Err(OptionError {
                option: "io_threads",
                value: count.to_string(),
                reason: "must be between 1 and 64",
            });
        }
        Ok(Self::of_threads(count))
    }

    fn of_threads(io_threads: usize) -> Self {
        let shared = Arc::new(Shared {
            io_threads,
            pool: OnceLock::new(),
            starting: Mutex::new(()),
            inproc: Mutex::default(),
            sockets: Mutex::default(),
            closes: Mutex::default(),
            next_id: AtomicU64::new(1),
            closed: AtomicBool::new(false),
        });
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// Closes every socket without waiting: blocked calls return [`Closed`](crate::RecvError::Closed), new sockets
    /// are refused. What was accepted still goes out; dropping the last handle waits for that.
    pub fn shutdown(&self) {
        self.handle.shared.shut_down();
    }

    fn builder<P: Pattern>(&self) -> Builder<P> {
        Builder::new(Arc::clone(&self.handle.shared))
    }

    /// A [`Push`] socket.
    pub fn push(&self) -> Builder<Push> {
        self.builder()
    }

    /// A [`Pull`] socket.
    pub fn pull(&self) -> Builder<Pull> {
        self.builder()
    }

    /// A [`Dealer`] socket.
    pub fn dealer(&self) -> Builder<Dealer> {
        self.builder()
    }

    /// A [`Router`] socket.
    pub fn router(&self) -> Builder<Router> {
        self.builder()
    }

    /// A [`Pub`] socket; `pub` is a keyword.
    pub fn publish(&self) -> Builder<Pub> {
        self.builder()
    }

    /// A [`Sub`] socket.
    pub fn subscribe(&self) -> Builder<Sub> {
        self.builder()
    }
}

/// Errors of the operating system while the first socket starts the I/O threads.
impl From<SetupError> for io::Error {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Os(error) => error,
            other => Self::other(other),
        }
    }
}
