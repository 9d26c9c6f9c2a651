//! The server: lets other processes append to a log, read it and work on its queues, over a ROUTER socket.
//!
//! One thread takes requests and answers them ([`service`]); what has to wait - an append for its level, a long poll for
//! records, an acquisition for deliveries - is a small task there that the log wakes ([`work`]). That thread reads, and
//! writes what goes into a segment as it is, but never waits until something is synced, nor for somebody who does. Segments
//! that are full, what a write has left for which there was no space, and all syncs, it leaves to the keeper's threads
//! (`append/keeper.rs`), which look after one partition each; the rest goes to threads for that ([`blocking`]): making and deleting
//! topics, cutting the front and transactions to one, what is asked of groups to another (commits when what they name is durable:
//! [`commits`]), dead letters and the journals of queues to a third.
//!
//! A last thread hears of connections that end. Nothing a client does or omits keeps
//! another one waiting: answers to a client that does not read them are held up to a limit, and its further requests are
//! not looked at until it reads on.

mod blocking;
mod clients;
mod commits;
mod deadlines;
mod groups;
mod limits;
mod service;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::alarm::Alarm;
use crate::context::Context;
use crate::error::{OptionError, SetupError};
use crate::log::durable::DurableQueue;
use crate::log::peer::protocol::REQUEST_BYTES_MAX;
use crate::log::{Log, threads};
use crate::monitor::{Event, Monitor};
use crate::pattern::{Pattern, Router};
use crate::peer::PeerId;
use crate::socket::Socket;
use crate::sync::{Mutex, lock};
use crate::transport::{Endpoint, ToEndpoint};
use limits::Limits;
use service::Service;

/// How a log is served. Every limit holds for each client by itself.
#[derive(Clone, Debug, Default)]
pub struct LogServerOptions {
    queues: Vec<DurableQueue>,
    limits: Limits,
}

impl LogServerOptions {
    /// Requests of one client that are in flight; 256. Further ones are refused with `Busy`. Those that wait for records, of
    /// which a member has one for each partition, do not count among them; there may be 16 times as many.
    #[must_use]
    pub fn requests_max(mut self, requests: usize) -> Self {
        self.limits.requests_max = requests.max(1);
        self
    }

    /// Bytes that one client's requests in flight may have together; 128 MiB, exceeded only by a single request that is larger.
    /// Those that wait may have as many. Further ones are refused with `Busy`, and sent again by its client. No request has more
    /// than 65 MiB, which is what the largest batch takes: the connection of a larger one ends.
    #[must_use]
    pub fn request_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.request_bytes_max = bytes;
        self
    }

    /// Bytes of answers that are held for a client that does not read them; 16 MiB, exceeded by at most one answer.
    /// Beyond that its requests wait.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.answer_bytes_max = bytes;
        self
    }

    /// Bytes of batches in one answer; 4 MiB. A batch that is larger goes alone.
    #[must_use]
    pub fn fetch_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.fetch_bytes_max = bytes.max(1);
        self
    }

    /// The longest that a request may wait for records or deliveries, before its client asks again; 60 s, at least 1 ms. No
    /// request can ask for more than 2^32 ms.
    #[must_use]
    pub fn wait_max(mut self, wait: Duration) -> Self {
        self.limits.wait_max =
            wait.clamp(Duration::from_millis(1), Duration::from_millis(u32::MAX.into()));
        self
    }

    /// The longest session of a member; 30 min. So long a member of a client that is gone is waited for. One that wants a longer
    /// session is refused with `OverLimit`.
    #[must_use]
    pub fn session_max(mut self, session: Duration) -> Self {
        self.limits.session_max = session;
        self
    }

    /// The longest lock on a delivery, acquired or renewed; 12 h. So long the record of a worker that is gone is nobody else's. A
    /// longer one is refused with `OverLimit`.
    #[must_use]
    pub fn lock_max(mut self, lock: Duration) -> Self {
        self.limits.lock_max = lock;
        self
    }

    /// Members of one group; 1,000. A further one is refused with `OverLimit`, unless it takes the place of the one with its
    /// instance name.
    #[must_use]
    pub fn members_max(mut self, members: usize) -> Self {
        self.limits.members_max = members;
        self
    }

    /// Offers a queue of the log, under its name, to workers.
    #[must_use]
    pub fn queue(mut self, queue: &DurableQueue) -> Self {
        self.queues.push(queue.clone());
        self
    }

    /// Serves a log at an endpoint.
    ///
    /// # Errors
    /// `Option` for a queue of another log; else as `bind` of a socket.
    pub fn bind(
        self,
        context: &Context,
        log: &Log,
        endpoint: impl ToEndpoint,
    ) -> Result<LogServer, SetupError> {
        LogServer::start(self, context, log, endpoint)
    }
}

/// What a server has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LogServerStats {
    /// Requests that were taken.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that were dropped without an answer, because a client sent far more than it may, or was gone already.
    pub dropped: u64,
    /// Messages that were no requests.
    pub unreadable: u64,
    /// Requests in flight now: long polls, mostly.
    pub waiting: u64,
    /// Clients of which something is in flight or queued now.
    pub clients: u64,
}

/// What the threads of a server share.
#[derive(Debug, Default)]
pub(in crate::log) struct Control {
    stop: AtomicBool,
    gone: Mutex<Vec<PeerId>>,
    requests: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    unreadable: AtomicU64,
    waiting: AtomicU64,
    clients: AtomicU64,
}

/// The task by which the service hears of what its other threads have for it.
pub(in crate::log) const CONTROL: u64 = 1;

/// Serves a log until it is dropped. What is appended stays appended; requests that wait are not answered any more, and
/// clients ask the next server of the same endpoint, which may be bound as soon as the drop returns. Dropping it waits for the
/// request that is being carried out, unless that happens on a thread of a log or server, by a waker for instance: then it ends
/// by itself.
///
/// It is dropped before its log is closed, or soon afterwards: what clients ask of a log that is closed stays unanswered, for the
/// next server to do. Only who waits for records or deliveries hears at once that the log is closed.
///
/// ```
/// use std::sync::Arc;
/// use peermq::Context;
/// use peermq::log::storage::MemoryStorage;
/// use peermq::log::{Log, LogClient, LogServer, NewRecord, Position, TopicOptions};
///
/// let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log")?;
/// let context = Context::new();
/// let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0")?;
///
/// let client = LogClient::connect(&context, server.endpoint())?;
/// client.create_topic("orders", TopicOptions::default())?;
/// client.append("orders", NewRecord::new("two apples"))?.wait()?;
/// let record = client.read("orders", 0, Position::Earliest)?.next().unwrap()?;
/// assert_eq!(record.value.as_deref(), Some(&b"two apples"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LogServer {
    endpoint: Endpoint,
    socket: Socket<Router>,
    alarm: Arc<Alarm>,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl LogServer {
    /// Serves a log at an endpoint, without queues and with the usual limits.
    ///
    /// # Errors
    /// As `bind` of a socket.
    pub fn bind(
        context: &Context,
        log: &Log,
        endpoint: impl ToEndpoint,
    ) -> Result<Self, SetupError> {
        LogServerOptions::default().bind(context, log, endpoint)
    }

    /// How a log is to be served.
    pub fn options() -> LogServerOptions {
        LogServerOptions::default()
    }

    fn start(
        options: LogServerOptions,
        context: &Context,
        log: &Log,
        endpoint: impl ToEndpoint,
    ) -> Result<Self, SetupError> {
        if let Some(foreign) = options.queues.iter().find(|queue| !queue.is_of(log)) {
            let (option, value) = ("queue", foreign.name().to_owned());
            let reason = "must be a queue of the log that is served";
            return Err(OptionError { option, value, reason }.into());
        }
        let socket = context
            .router()
            .mandatory(true)
            .linger(Duration::from_secs(1))
            .send_hwm_bytes(options.limits.answer_bytes_max.max(1))
            .max_message_bytes(REQUEST_BYTES_MAX)
            .open()?;
        let (alarm, control) = (Arc::new(Alarm::default()), Arc::new(Control::default()));
        let monitor = socket.monitor();
        let endpoint = socket.bind(endpoint)?;
        let bells = (Arc::clone(&alarm), Arc::clone(&control));
        let service = Service::new(socket.clone(), log, options, bells.0, bells.1)?;
        let watched = (Arc::clone(&alarm), Arc::clone(&control));
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        named("peermq-log-watch").spawn(move || watch(&monitor, &watched.0, &watched.1))?;
        let thread = named("peermq-log-serve").spawn(move || service.run())?;
        Ok(Self { endpoint, socket, alarm, control, thread: Some(thread) })
    }

    /// Where it is served, with the port that was chosen.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What it has done so far.
    pub fn stats(&self) -> LogServerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogServerStats {
            requests: read(&self.control.requests),
            refused: read(&self.control.refused),
            dropped: read(&self.control.dropped),
            unreadable: read(&self.control.unreadable),
            waiting: read(&self.control.waiting),
            clients: read(&self.control.clients),
        }
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::SeqCst);
        self.alarm.ring(CONTROL);
        self.thread.take().into_iter().for_each(threads::join);
        free(&self.socket, &self.endpoint);
    }
}

/// Lets go of an endpoint at once: the drop of a socket leaves that to the background. What was accepted still goes out.
pub(in crate::log) fn free<P: Pattern>(socket: &Socket<P>, endpoint: &Endpoint) {
    // It fails only where the context was shut down: that closes all of its sockets, and its end waits for them.
    let _ = socket.unbind(endpoint.clone());
}

/// Tells the service of connections that ended. Ends with the socket.
fn watch(monitor: &Monitor, alarm: &Alarm, control: &Control) {
    for event in monitor.iter() {
        if let Event::Disconnected { peer: Some(peer), .. } = event {
            lock(&control.gone).push(peer.id());
            alarm.ring(CONTROL);
        }
    }
}
