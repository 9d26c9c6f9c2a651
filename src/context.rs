//! The context: where sockets are made, and the orderly end of all of them.

use std::io;
use std::sync::Arc;

use crate::error::{OptionError, SetupError};
use crate::pattern::{Dealer, Pattern, Pub, Pull, Push, Router, Sub};
use crate::socket::{Builder, Shared};

/// Most I/O threads a context takes.
const IO_THREADS_MAX: usize = 64;

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
/// what they had accepted is sent and their peers have closed in turn, or their linger time has passed without progress. Sockets do not keep the context
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

    /// A context with this many I/O threads. More than one helps when a single core is not enough for all connections;
    /// with one, a thread that waits turns it itself, which is the shortest way for a message.
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
        let shared = Arc::new(Shared::new(io_threads));
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
