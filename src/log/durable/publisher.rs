//! The publisher: sends what is appended to a topic to whoever listens just now. The log is what counts; who misses a
//! publication reads it there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::live::{self, Header};
use crate::context::Context;
use crate::error::SetupError;
use crate::log::append::{NewRecord, Ticket};
use crate::log::error::LogError;
use crate::log::format::Id;
use crate::log::options::Level;
use crate::log::partition::Partition;
use crate::log::peer::alarm::Alarm;
use crate::log::peer::watch::Watch;
use crate::log::peer::{LogServer, LogServerOptions, free};
use crate::log::read::{Position, Reader};
use crate::log::topic::Topic;
use crate::log::{Log, threads};
use crate::pattern::Pub;
use crate::socket::Socket;
use crate::sync::{Mutex, lock};
use crate::transport::{Endpoint, ToEndpoint, now};

/// The task that is woken when the publisher ends; partitions have the numbers behind.
const CONTROL: u64 = 0;

/// Why a publisher could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A socket could not be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// How a topic is published.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    level: Level,
    announce_interval: Duration,
    send_hwm: usize,
    server: LogServerOptions,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            level: Level::Durable,
            announce_interval: Duration::from_millis(250),
            send_hwm: 1000,
            server: LogServerOptions::default(),
        }
    }
}

impl PublisherOptions {
    /// What is published has this level before: durable. At a lower level subscribers hear of records earlier, and may
    /// have seen some that a crash takes; they are told then.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// How often it is announced how far each partition has got, so that a subscriber which missed the last record
    /// notices; 250 ms, at least 1 ms.
    #[must_use]
    pub fn announce_interval(mut self, interval: Duration) -> Self {
        self.announce_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Publications queued for each subscriber; 1000. Beyond it they are dropped, and the subscriber reads them in the
    /// log.
    #[must_use]
    pub fn send_hwm(mut self, messages: usize) -> Self {
        self.send_hwm = messages;
        self
    }

    /// How the log is served to those who replay.
    #[must_use]
    pub fn server(mut self, server: LogServerOptions) -> Self {
        self.server = server;
        self
    }

    /// Publishes a topic at one endpoint, and serves its log to those who replay at another.
    ///
    /// # Errors
    /// `UnknownTopic`; as `bind` of a socket.
    pub fn bind(
        self,
        context: &Context,
        log: &Log,
        topic: &str,
        live: impl ToEndpoint,
        replay: impl ToEndpoint,
    ) -> Result<DurablePublisher, PublishError> {
        DurablePublisher::start(self, context, log, topic, live, replay)
    }
}

/// What a publisher has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PublisherStats {
    /// Batches that were published.
    pub batches: u64,
    /// Announcements that were made.
    pub announcements: u64,
    /// Publications that were dropped because a subscriber's queue was full.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    batches: AtomicU64,
    announcements: AtomicU64,
    error: Mutex<Option<LogError>>,
}

/// Publishes what is appended to a topic - through [`publish`](Self::publish), through any other handle of the topic, or
/// by remote clients - and serves the log to those who replay. It never waits for a subscriber. When its drop returns both
/// endpoints are free.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use peermq::Context;
/// use peermq::log::storage::MemoryStorage;
/// use peermq::log::{DurablePublisher, DurableSubscriber, Log, Position, TopicOptions};
///
/// let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log")?;
/// log.create_topic("prices", TopicOptions::default())?;
/// let context = Context::new();
/// let (live, replay) = ("inproc://prices", "inproc://prices-log");
/// let publisher = DurablePublisher::bind(&context, &log, "prices", live, replay)?;
/// publisher.publish("12.50")?.wait()?;
///
/// // Whoever comes late gets everything.
/// let mut subscriber =
///     DurableSubscriber::connect(&context, live, replay, "prices", Position::Earliest)?;
/// let record = subscriber.next_timeout(Duration::from_secs(60))?.unwrap();
/// assert_eq!(record.value.as_deref(), Some(&b"12.50"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DurablePublisher {
    log: Log,
    /// As it was at first; another topic may have its name since.
    topic: Topic,
    level: Level,
    live: Endpoint,
    server: LogServer,
    socket: Socket<Pub>,
    alarm: Arc<Alarm>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl DurablePublisher {
    /// Publishes a topic at `live` and serves its log at `replay`, in the usual way.
    ///
    /// # Errors
    /// As [`PublisherOptions::bind`].
    pub fn bind(
        context: &Context,
        log: &Log,
        topic: &str,
        live: impl ToEndpoint,
        replay: impl ToEndpoint,
    ) -> Result<Self, PublishError> {
        PublisherOptions::default().bind(context, log, topic, live, replay)
    }

    /// How a topic is to be published.
    pub fn options() -> PublisherOptions {
        PublisherOptions::default()
    }

    fn start(
        options: PublisherOptions,
        context: &Context,
        log: &Log,
        topic: &str,
        live: impl ToEndpoint,
        replay: impl ToEndpoint,
    ) -> Result<Self, PublishError> {
        let topic = log.topic(topic)?;
        let level = options.level.max(Level::Written);
        let server = options.server.bind(context, log, replay)?;
        let socket =
            context.publish().send_hwm(options.send_hwm).linger(Duration::from_secs(1)).open()?;
        let live = socket.bind(live)?;
        let (alarm, shared) = (Arc::new(Alarm::default()), Arc::new(Shared::default()));
        let tails = Tails {
            log: log.clone(),
            topic: topic.name().to_owned(),
            topic_id: topic.inner.id,
            begun: false,
            prefix: live::subscription(topic.name()),
            level,
            socket: socket.clone(),
            alarm: Arc::clone(&alarm),
            shared: Arc::clone(&shared),
            tails: Vec::new(),
        };
        let interval = options.announce_interval;
        let builder = std::thread::Builder::new().name("peermq-log-publish".to_owned());
        let thread = builder.spawn(move || tails.run(interval)).map_err(SetupError::from)?;
        let thread = Some(thread);
        let (log, level) = (log.clone(), options.level);
        Ok(Self { log, topic, level, live, server, socket, alarm, shared, thread })
    }

    /// Appends a record at the publisher's level; it is published when it has it.
    ///
    /// # Errors
    /// As [`Topic::append`]; `UnknownTopic` if the topic was deleted, and none has its name now.
    pub fn publish<'a>(&self, record: impl Into<NewRecord<'a>>) -> Result<Ticket, LogError> {
        let record = record.into();
        let is_retired = |partition: &Arc<Partition>| partition.retired.load(Ordering::SeqCst);
        match self.topic.append_at(self.level, record) {
            Err(_) if self.topic.inner.partitions.iter().any(is_retired) => {
                self.log.topic(self.topic.name())?.append_at(self.level, record)
            }
            appended => appended,
        }
    }

    /// Where it is published.
    pub fn live_endpoint(&self) -> &Endpoint {
        &self.live
    }

    /// Where the log is served.
    pub fn replay_endpoint(&self) -> &Endpoint {
        self.server.endpoint()
    }

    /// The server of the log.
    pub fn server(&self) -> &LogServer {
        &self.server
    }

    /// Subscribers that are connected.
    pub fn subscribers(&self) -> usize {
        self.socket.subscribers()
    }

    /// What it has done so far.
    pub fn stats(&self) -> PublisherStats {
        PublisherStats {
            batches: self.shared.batches.load(Ordering::Relaxed),
            announcements: self.shared.announcements.load(Ordering::Relaxed),
            dropped: self.socket.stats().dropped_hwm,
        }
    }

    /// What keeps it from publishing some or all of the topic, if anything does: stored bytes that are damaged, for
    /// instance, or that the topic is deleted. It is tried again at each announcement; subscribers are told to ask the log
    /// meanwhile. Appending goes on as far as the log takes it.
    pub fn error(&self) -> Option<LogError> {
        lock(&self.shared.error).clone()
    }
}

impl Drop for DurablePublisher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.alarm.ring(CONTROL);
        self.thread.take().into_iter().for_each(threads::join);
        free(&self.socket, &self.live);
    }
}

/// The end of one partition.
#[derive(Debug)]
struct Tail {
    reader: Reader,
    watch: Watch,
    /// Everything before was published.
    published_to: i64,
    /// Since the last announcement it could not be read.
    failed: bool,
}

/// The thread that publishes.
struct Tails {
    log: Log,
    topic: String,
    /// The topic whose tails these are.
    topic_id: Id,
    /// Whether the tails of the first topic were opened.
    begun: bool,
    prefix: Vec<u8>,
    level: Level,
    socket: Socket<Pub>,
    alarm: Arc<Alarm>,
    shared: Arc<Shared>,
    tails: Vec<Tail>,
}

impl Tails {
    fn run(mut self, interval: Duration) {
        threads::begin_work();
        let mut announce_at: Option<Instant> = None;
        while !self.shared.stop.load(Ordering::SeqCst) {
            let due = announce_at.is_none_or(|at| at <= now());
            let mut failure = if due { self.open().err() } else { None };
            for partition in 0..self.tails.len() {
                if let Err(error) = self.publish(partition) {
                    failure.get_or_insert(error);
                    self.tails.iter_mut().skip(partition).take(1).for_each(|t| t.failed = true);
                }
            }
            if due || failure.is_some() {
                *lock(&self.shared.error) = failure;
            }
            if due {
                (0..self.tails.len()).for_each(|partition| self.announce(partition));
                announce_at = now().checked_add(interval);
            }
            self.alarm.wait(announce_at);
        }
    }

    /// Takes in partitions that are new: from their end now on, but those that were added later, and those of a topic that
    /// was made anew, from their beginning. Those that failed get another chance.
    fn open(&mut self) -> Result<(), LogError> {
        let topic = match self.log.topic(&self.topic) {
            Ok(topic) if topic.inner.id == self.topic_id => topic,
            other => {
                self.tails.clear();
                let topic = other?;
                (self.topic_id, self.begun) = (topic.inner.id, true);
                topic
            }
        };
        self.tails.iter_mut().for_each(|tail| tail.failed = false);
        for (number, partition) in topic.inner.partitions.iter().enumerate().skip(self.tails.len())
        {
            let watch = Watch::new(Arc::clone(partition), self.level);
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let end = Position::Offset(watch.end());
            let position = if self.begun { Position::Earliest } else { end };
            let reader = topic.read(number, position)?;
            let reader = if self.level == Level::Durable { reader.durable_only() } else { reader };
            let published_to = reader.next_offset();
            self.tails.push(Tail { reader, watch, published_to, failed: false });
        }
        self.begun = true;
        Ok(())
    }

    /// Publishes what a partition has got, and waits for more.
    fn publish(&mut self, partition: usize) -> Result<(), LogError> {
        let waker = self.alarm.waker(partition as u64 + 1);
        let Some(tail) = self.tails.get_mut(partition).filter(|tail| !tail.failed) else {
            return Ok(());
        };
        for registered in [false, true] {
            loop {
                let batch = match tail.reader.next_batch() {
                    Ok(Some(batch)) => batch,
                    Ok(None) => break,
                    Err(LogError::OffsetOutOfRange { earliest, .. })
                        if earliest > tail.reader.next_offset() =>
                    {
                        tail.reader.seek(Position::Offset(earliest))?;
                        // What was cut was never published, and subscribers are to find out.
                        tail.published_to = tail.reader.next_offset();
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let header = tail.header(self.topic_id, partition, batch.next_offset());
                tail.published_to = batch.next_offset();
                let message =
                    live::encode(&self.prefix, &header, Some(batch.batch().bytes().clone()));
                // A PUB never waits; it fails only when its context ends, and this thread with it.
                let _ = self.socket.send(message);
                self.shared.batches.fetch_add(1, Ordering::Relaxed);
            }
            if !registered {
                tail.watch.register(&waker);
            }
        }
        Ok(())
    }

    fn announce(&mut self, partition: usize) {
        let Some(tail) = self.tails.get(partition) else { return };
        let mut header = tail.header(self.topic_id, partition, tail.published_to);
        if tail.failed {
            // What cannot be published is to be asked for.
            let end = tail.watch.end().max(tail.published_to);
            (header.from, header.next) = (end, end);
        }
        let _ = self.socket.send(live::encode(&self.prefix, &header, None));
        self.shared.announcements.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tail {
    fn header(&self, topic_id: Id, partition: usize, next: i64) -> Header {
        let known = self.watch.partition();
        Header {
            topic_id,
            partition: u32::try_from(partition).unwrap_or(u32::MAX),
            incarnation: known.shared.epoch,
            from: self.published_to,
            next,
            durable_end: known.durable_end(),
        }
    }
}
