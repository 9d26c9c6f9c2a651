//! The client: a log in another process, through its server.
//!
//! All calls of a client share one connection ([`link`]): requests that were not answered when it was lost are sent
//! again over the next one, and appends are numbered so that the server knows those it has already ([`producer`]). A
//! call ends at its deadline at the latest, with an error that names endpoint and request.

mod error;
mod group;
mod link;
mod member;
mod options;
mod producer;
mod queue;
pub(in crate::log) mod reader;
pub(in crate::log) mod records;
mod transaction;

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::protocol::{
    AlterTopic, Answer, Append, CreateTopic, DeleteTopic, DescribeTopic, ListGroups, ListTopics,
    NewProducer, Nothing, OffsetAt, OffsetFound, Request, TopicName, TopicSetup, TopicState,
    Truncate,
};
use crate::context::Context;
use crate::error::SetupError;
use crate::log::append::NewRecord;
use crate::log::options::{Level, TopicOptions};
use crate::log::read::Position;
use crate::sync::Mutex;
use crate::transport::{Endpoint, ToEndpoint, now};
pub use error::{Connection, PeerError, Subject};
pub use group::RemoteGroup;
use link::{Answered, Link};
use member::Beat;
pub use member::RemoteMember;
pub use options::LogClientOptions;
pub use producer::{AppendTicket, FlushError, Unacknowledged};
use producer::{Flushing, Producer};
pub use queue::RemoteQueue;
pub use reader::RemoteReader;
pub use transaction::RemoteTransaction;
use transaction::Transactor;

/// What all clones of a client share. Its thread has it too, but not the [`Handle`].
#[derive(Debug)]
pub(super) struct Core {
    link: Link,
    producer: Producer,
    options: LogClientOptions,
    /// Members of groups, for which the client's thread sends heartbeats.
    beats: Mutex<Vec<Weak<Beat>>>,
    /// Producers of transactions that no transaction uses now.
    transactors: Mutex<Vec<Transactor>>,
}

#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.close();
    }
}

/// A log in another process. Clones are the same client; it is closed when the last one, and the last reader of it, is
/// dropped. May be used from any number of threads.
///
/// Closing it so waits for nothing: of what was [appended](Self::append) and not acknowledged by then, some is not sent any more,
/// and nobody is told. Who does not wait for every ticket calls [`flush`](Self::flush) before, or [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct LogClient {
    handle: Arc<Handle>,
}

/// What a topic in another process is and holds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RemoteTopic {
    /// Its name.
    pub name: String,
    /// Its id as text, by which it is told from an earlier one of the same name.
    pub id: String,
    /// Its options, as far as this version knows them.
    pub options: TopicOptions,
    /// Its partitions in order.
    pub partitions: Vec<RemotePartition>,
}

/// What a partition in another process holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RemotePartition {
    /// First offset that is there.
    pub earliest: i64,
    /// The offset after the last one that is written.
    pub end: i64,
    /// The offset after the last one that is durable.
    pub durable_end: i64,
    /// Number of segments.
    pub segments: u32,
    /// Bytes of all segments.
    pub bytes: u64,
}

impl From<TopicState> for RemoteTopic {
    fn from(state: TopicState) -> Self {
        let mut options = TopicOptions::default();
        for word in &state.options {
            // A newer server may have options that mean nothing here.
            options.set_word(word);
        }
        let partitions = state.partitions.iter().map(|partition| RemotePartition {
            earliest: partition.earliest,
            end: partition.end,
            durable_end: partition.durable_end,
            segments: partition.segments,
            bytes: partition.bytes,
        });
        Self { name: state.topic, id: state.id, options, partitions: partitions.collect() }
    }
}

/// Takes the answer that the request must have.
macro_rules! answer_of {
    ($core:expr, $reply:expr, $kind:ident) => {{
        let $crate::log::peer::client::link::Answered { answer, asked, .. } = $reply;
        match answer {
            Answer::$kind(answer) => Ok(answer),
            other => Err($core.bad_answer(&asked, format!("it is {}", other.name()))),
        }
    }};
}
pub(super) use answer_of;

impl LogClient {
    /// A client of the server at an endpoint, with the usual options.
    ///
    /// # Errors
    /// As `connect` of a socket.
    pub fn connect(context: &Context, endpoint: impl ToEndpoint) -> Result<Self, SetupError> {
        LogClientOptions::default().connect(context, endpoint)
    }

    /// How a client is to behave.
    pub fn options() -> LogClientOptions {
        LogClientOptions::default()
    }

    fn start(
        options: LogClientOptions,
        context: &Context,
        endpoint: &Endpoint,
    ) -> Result<Self, SetupError> {
        let producer = Producer::default();
        let (link, monitor) = Link::open(context, endpoint, options.reconnect_interval)?;
        let (beats, transactors) = (Mutex::default(), Mutex::default());
        let core = Arc::new(Core { link, producer, options, beats, transactors });
        core.start_threads(monitor)?;
        core.link.connect(endpoint)?;
        Ok(Self { handle: Arc::new(Handle { core }) })
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// The server's endpoint.
    pub fn endpoint(&self) -> &str {
        self.core().link.endpoint()
    }

    /// The names of all topics.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn topics(&self) -> Result<Vec<String>, PeerError> {
        let core = self.core();
        let reply = core.call(ListTopics(Nothing {}).into(), Vec::new(), Duration::ZERO)?;
        answer_of!(core, reply, TopicNames).map(|names| names.topics)
    }

    /// What a topic is and holds now.
    ///
    /// # Errors
    /// `Refused` with `UnknownTopic`; any other [`PeerError`].
    pub fn describe(&self, topic: &str) -> Result<RemoteTopic, PeerError> {
        let request = DescribeTopic(TopicName { topic: topic.to_owned() });
        self.core().topic_call(request.into())
    }

    /// Creates a topic; durable when this returns.
    ///
    /// # Errors
    /// `Refused` with `TopicExists` - which, after a connection was lost, may be this very call's work - or `Invalid`;
    /// any other [`PeerError`].
    pub fn create_topic(
        &self,
        topic: &str,
        options: TopicOptions,
    ) -> Result<RemoteTopic, PeerError> {
        let setup = TopicSetup { topic: topic.to_owned(), options: options.words() };
        self.core().topic_call(CreateTopic(setup).into())
    }

    /// Changes the options of a topic, as [`Log::alter_topic`](crate::log::Log::alter_topic) does.
    ///
    /// # Errors
    /// `Refused`; any other [`PeerError`].
    pub fn alter_topic(
        &self,
        topic: &str,
        options: TopicOptions,
    ) -> Result<RemoteTopic, PeerError> {
        let setup = TopicSetup { topic: topic.to_owned(), options: options.words() };
        self.core().producer.forget_topic(topic);
        self.core().topic_call(AlterTopic(setup).into())
    }

    /// Deletes a topic with all its records; durable when this returns.
    ///
    /// # Errors
    /// `Refused` with `UnknownTopic` - which, after a connection was lost, may be this very call's work; any other
    /// [`PeerError`].
    pub fn delete_topic(&self, topic: &str) -> Result<(), PeerError> {
        self.core().producer.forget_topic(topic);
        let request = DeleteTopic(TopicName { topic: topic.to_owned() });
        self.core().done_call(request.into())
    }

    /// Forgets all records of a partition before an offset.
    ///
    /// # Errors
    /// `Refused` with `OffsetOutOfRange` beyond the end; any other [`PeerError`].
    pub fn truncate_front(
        &self,
        topic: &str,
        partition: u32,
        offset: i64,
    ) -> Result<(), PeerError> {
        let request = Truncate { topic: topic.to_owned(), partition, offset };
        self.core().done_call(request.into())
    }

    /// The offset a position stands for now.
    ///
    /// # Errors
    /// `Refused` with `UnknownTopic`, `UnknownPartition`, or `OffsetOutOfRange` for an offset that is not there any more, or
    /// beyond the end; any other [`PeerError`].
    pub fn offset_of(
        &self,
        topic: &str,
        partition: u32,
        position: Position,
    ) -> Result<i64, PeerError> {
        self.find(topic, partition, position).map(|found| found.offset)
    }

    /// Asks the server where a position is.
    pub(in crate::log) fn find(
        &self,
        topic: &str,
        partition: u32,
        position: Position,
    ) -> Result<OffsetFound, PeerError> {
        let position = position.into();
        let core = self.core();
        let request = OffsetAt { topic: topic.to_owned(), partition, position };
        let reply = core.call(request.into(), Vec::new(), Duration::ZERO)?;
        answer_of!(core, reply, OffsetFound)
    }

    /// Appends a record: to the partition of its key, or, without key, to one that changes from batch to batch. Returns
    /// when the record is encoded; the ticket tells the rest. However often the connection is lost and the server
    /// started anew meanwhile, the record is in the log once.
    ///
    /// It is on its way then, and not there: when the client is dropped before the ticket is done, or before
    /// [`flush`](Self::flush) has returned, it may be lost.
    ///
    /// # Errors
    /// `NotSent` if there was no room for it in time; `Timeout` or `NotSent` if nothing was known of the topic; `Refused` with
    /// `UnknownTopic`; any other [`PeerError`]. Whether it could be appended is told by the ticket.
    pub fn append<'a>(
        &self,
        topic: &str,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<AppendTicket, PeerError> {
        producer::append(self.core(), topic, None, None, &record.into())
    }

    /// As [`append`](Self::append), to a partition and at a level of the caller's choice.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_to<'a>(
        &self,
        topic: &str,
        partition: u32,
        level: Level,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<AppendTicket, PeerError> {
        producer::append(self.core(), topic, Some(partition), Some(level), &record.into())
    }

    /// Waits until everything is acknowledged that was appended before, by any clone, at most this long.
    ///
    /// # Errors
    /// What of it was not: what was refused since the last flush, whether its ticket has told that or not, and, if the time is
    /// up, what has no answer yet. That is still pursued. A failure is told to all who flush at that moment, else to who does so
    /// next; who shares a client and has to know about records of his own waits for their tickets.
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let mut flushing = Flushing::begin(self.core());
        flushing.wait_until(now().checked_add(timeout));
        flushing.finish()
    }

    /// As [`flush`](Self::flush), for a task, and for as long as it takes. A future that is dropped leaves it to the next flush
    /// to tell what has failed.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn flush_async(&self) -> Result<(), FlushError> {
        let mut flushing = Flushing::begin(self.core());
        poll_fn(|context| flushing.poll(context.waker())).await;
        flushing.finish()
    }

    /// Closes the client, with all its clones: nothing is appended any more from now on, what was is waited for as by
    /// [`flush`](Self::flush), and then every call that waits ends with `Closed`.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); but nothing is pursued any more. Whether records that had no answer when the time was up are in
    /// the log is not known.
    pub fn close(self, timeout: Duration) -> Result<(), FlushError> {
        self.core().refuse_appends();
        let flushed = self.flush(timeout);
        self.core().close();
        flushed
    }

    /// As [`close`](Self::close), for a task, and for as long as it takes. If the future is dropped before it is done the client is
    /// not closed, but takes no more appends.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn close_async(self) -> Result<(), FlushError> {
        self.core().refuse_appends();
        let flushed = self.flush_async().await;
        self.core().close();
        flushed
    }

    /// Appends an encoded batch as it is, but for its offsets; waits until it has the level. Only a batch of an
    /// idempotent producer is sure to be there once if the connection is lost meanwhile. Returns its first and last
    /// offset.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn append_batch(
        &self,
        topic: &str,
        partition: u32,
        level: Level,
        batch: impl Into<Bytes>,
    ) -> Result<(i64, i64), PeerError> {
        let core = self.core();
        let request = Append { topic: topic.to_owned(), partition, level };
        let reply = core.call(request.into(), vec![batch.into()], Duration::ZERO)?;
        let appended = answer_of!(core, reply, Appended)?;
        Ok((appended.first_offset, appended.last_offset))
    }

    /// A producer id that nobody else has, for batches that the caller encodes.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn new_producer(&self) -> Result<i64, PeerError> {
        self.core().new_producer(self.core().deadline(Duration::ZERO))
    }

    /// Reads a partition from a position on, record by record, asking for the next ones while the last are dealt with.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn read(
        &self,
        topic: &str,
        partition: u32,
        from: Position,
    ) -> Result<RemoteReader, PeerError> {
        let reader = |offset| RemoteReader::new(self.clone(), topic, partition, offset);
        if let Position::Offset(offset) = from {
            return Ok(reader(offset));
        }
        let found = self.find(topic, partition, from)?;
        Ok(reader(found.offset).found(&found))
    }

    /// A consumer group. Nothing is asked yet.
    pub fn group(&self, name: &str) -> RemoteGroup {
        RemoteGroup::new(self.clone(), name)
    }

    /// The names of all groups that have members, committed offsets or a past, sorted.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn groups(&self) -> Result<Vec<String>, PeerError> {
        let core = self.core();
        let reply = core.call(ListGroups(Nothing {}).into(), Vec::new(), Duration::ZERO)?;
        answer_of!(core, reply, GroupNames).map(|names| names.groups)
    }

    /// Starts to collect a transaction.
    pub fn transaction(&self) -> RemoteTransaction {
        RemoteTransaction::new(self.clone())
    }

    /// A queue that the server offers. Nothing is asked yet.
    pub fn queue(&self, name: &str) -> RemoteQueue {
        RemoteQueue::new(self.clone(), name)
    }

    /// Bytes that a reader asks for at a time.
    pub(in crate::log) fn fetch_bytes(&self) -> u32 {
        self.core().options.fetch_bytes
    }
}

impl Core {
    /// When a call must be over that was asked to wait this long.
    pub(super) fn deadline(&self, wait: Duration) -> Option<Instant> {
        now().checked_add(self.options.timeout.saturating_add(wait))
    }

    /// Asks, and waits for the answer.
    fn call(
        self: &Arc<Self>,
        request: Request,
        body: Vec<Bytes>,
        wait: Duration,
    ) -> Result<Answered, PeerError> {
        let deadline = self.deadline(wait);
        self.begin(request, body, deadline)?.wait(deadline)
    }

    fn topic_call(self: &Arc<Self>, request: Request) -> Result<RemoteTopic, PeerError> {
        let reply = self.call(request, Vec::new(), Duration::ZERO)?;
        answer_of!(self, reply, TopicState).map(RemoteTopic::from)
    }

    fn done_call(self: &Arc<Self>, request: Request) -> Result<(), PeerError> {
        let reply = self.call(request, Vec::new(), Duration::ZERO)?;
        answer_of!(self, reply, Done).map(drop)
    }

    fn new_producer(self: &Arc<Self>, deadline: Option<Instant>) -> Result<i64, PeerError> {
        let request = NewProducer(Nothing {}).into();
        let reply = self.begin(request, Vec::new(), deadline)?.wait(deadline)?;
        answer_of!(self, reply, ProducerId).map(|producer| producer.id)
    }
}
