//! The server: lets other processes append to a log, read it and work on its queues, over a ROUTER socket.
//!
//! One thread takes requests and answers them ([`service`]); what has to wait - an append for its level, a long poll for
//! records, an acquisition for deliveries - is a small task there that the log wakes ([`work`]). That thread reads, and
//! writes what goes into a segment as it is, but never waits until something is synced, nor for somebody who does. Segments
//! that are full, and all syncs, it leaves to the keeper's threads (`append/keeper.rs`), which look after one partition each;
//! the rest goes to threads for that ([`blocking`]): making and deleting topics, cutting the front and transactions to one,
//! what is asked of groups to another, dead letters and the journals of queues to a third. (On a medium that is full a
//! failed write is cut off there and then, and synced.)
//!
//! A last thread hears of connections that end. Nothing a client does or omits keeps
//! another one waiting: answers to a client that does not read them are held up to a limit, and its further requests are
//! not looked at until it reads on.

mod blocking;
mod clients;
mod deadlines;
mod groups;
mod service;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::alarm::Alarm;
use crate::context::Context;
use crate::error::SetupError;
use crate::log::durable::DurableQueue;
use crate::log::{Log, threads};
use crate::monitor::{Event, Monitor};
use crate::peer::PeerId;
use crate::sync::{Mutex, lock};
use crate::transport::{Endpoint, ToEndpoint};
use service::Service;

/// So many times as many requests of a client may wait for records or a group as others may be in flight.
const POLLS_PER_REQUEST: usize = 16;

/// How a log is served. Every limit holds for each client by itself.
#[derive(Clone, Debug)]
pub struct LogServerOptions {
    queues: BTreeMap<String, DurableQueue>,
    limits: Limits,
}

/// What a client may ask for.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Limits {
    /// Requests that are not answered.
    pub(in crate::log) requests_max: usize,
    /// Bytes of batches of requests that are not answered.
    pub(in crate::log) request_bytes_max: usize,
    /// Bytes of answers that wait to be sent; beyond it no further request is looked at.
    pub(in crate::log) answer_bytes_max: usize,
    /// Bytes of batches in one answer, unless the first one alone is larger.
    pub(in crate::log) fetch_bytes_max: usize,
    /// The longest that a request waits.
    pub(in crate::log) wait_max: Duration,
}

impl Limits {
    /// Fetches that wait for records, and members that wait for changes of their groups.
    pub(in crate::log) fn polls_max(&self) -> usize {
        self.requests_max.saturating_mul(POLLS_PER_REQUEST)
    }
}

impl Default for LogServerOptions {
    fn default() -> Self {
        let limits = Limits {
            requests_max: 256,
            request_bytes_max: 128 << 20,
            answer_bytes_max: 16 << 20,
            fetch_bytes_max: 4 << 20,
            wait_max: Duration::from_secs(60),
        };
        Self { queues: BTreeMap::new(), limits }
    }
}

impl LogServerOptions {
    /// Requests of one client that are in flight; 256. Further ones are refused with `Busy`. Those that wait for records, of
    /// which a member has one for each partition, do not count among them; there may be 16 times as many.
    #[must_use]
    pub fn requests_max(mut self, requests: usize) -> Self {
        self.limits.requests_max = requests.max(1);
        self
    }

    /// Bytes of batches that one client's requests in flight may have together; 128 MiB, exceeded only by a single request that is
    /// larger. Further ones are refused with `Busy`, and sent again by its client.
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
        self.limits.fetch_bytes_max = bytes;
        self
    }

    /// The longest that a request may wait for records or deliveries; 60 s. No request can ask for more than 2^32 ms.
    #[must_use]
    pub fn wait_max(mut self, wait: Duration) -> Self {
        self.limits.wait_max = wait.min(Duration::from_millis(u32::MAX.into()));
        self
    }

    /// Offers a queue, under its name, to workers.
    #[must_use]
    pub fn queue(mut self, queue: &DurableQueue) -> Self {
        self.queues.insert(queue.name().to_owned(), queue.clone());
        self
    }

    /// Serves a log at an endpoint.
    ///
    /// # Errors
    /// As `bind` of a socket.
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
    /// Requests that were dropped without an answer, because a client sent far more than it may.
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
/// clients ask the next server of the same endpoint. Dropping it waits for the request that is being carried out, unless that
/// happens on a thread of a log or server, by a waker for instance: then it ends by itself.
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
        let socket = context
            .router()
            .mandatory(true)
            .linger(Duration::from_secs(1))
            .send_hwm_bytes(options.limits.answer_bytes_max.max(1))
            .open()?;
        let (alarm, control) = (Arc::new(Alarm::default()), Arc::new(Control::default()));
        let monitor = socket.monitor();
        let endpoint = socket.bind(endpoint)?;
        let service = Service::new(socket, log, options, Arc::clone(&alarm), Arc::clone(&control))?;
        let watched = (Arc::clone(&alarm), Arc::clone(&control));
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        named("peermq-log-watch").spawn(move || watch(&monitor, &watched.0, &watched.1))?;
        let thread = named("peermq-log-serve").spawn(move || service.run())?;
        Ok(Self { endpoint, alarm, control, thread: Some(thread) })
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
    }
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
