//! The client: a log in another process, through its server.
//!
//! All calls of a client share one connection ([`link`]): requests that were not answered when it was lost are sent
//! again over the next one, and appends are numbered so that the server knows those it has already ([`producer`]). A
//! call ends at its deadline at the latest, with an error that names endpoint and request.

mod group;
mod link;
mod member;
mod options;
mod producer;
mod queue;
pub(in crate::log) mod reader;
pub(in crate::log) mod records;
mod transaction;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::protocol::{
    AlterTopic, Answer, Append, CreateTopic, DeleteTopic, DescribeTopic, ListGroups, ListTopics,
    NewProducer, Nothing, OffsetAt, OffsetFound, RemoteCode, RemoteError, Reply, Request,
    TopicName, TopicSetup, TopicState, Truncate,
};
use crate::context::Context;
use crate::error::SetupError;
use crate::log::append::NewRecord;
use crate::log::groups::Fencing;
use crate::log::options::{Level, TopicOptions};
use crate::log::read::Position;
use crate::sync::Mutex;
use crate::transport::{Endpoint, ToEndpoint, now};
pub use group::RemoteGroup;
use link::Link;
use member::Beat;
pub use member::RemoteMember;
pub use options::LogClientOptions;
pub use producer::AppendTicket;
use producer::Producer;
pub use queue::RemoteQueue;
pub use reader::RemoteReader;
pub use transaction::RemoteTransaction;
use transaction::Transactor;

/// Why a call to a log in another process failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// There was no answer in time. Whether the server did what it was asked is not known; an append is still pursued.
    #[error("{endpoint} did not answer the request {request} in time")]
    Timeout {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
    },
    /// The request was not sent in time, and will not be.
    #[error("the request {request} could not be sent to {endpoint} in time: {reason}")]
    NotSent {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
        /// What was in the way: mostly why there is no connection.
        reason: String,
    },
    /// The server refused.
    #[error("{endpoint} refused the request {request}: {error}")]
    Refused {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
        /// What it said.
        error: Box<RemoteError>,
    },
    /// The answer makes no sense, or its records are damaged.
    #[error("{endpoint} gave a bad answer to the request {request}: {reason}")]
    BadAnswer {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The client, or the context of its socket, was closed.
    #[error("the client of {endpoint} is closed")]
    Closed {
        /// The server's endpoint.
        endpoint: String,
    },
}

impl PeerError {
    /// Why the server refused, if it did.
    pub fn code(&self) -> Option<RemoteCode> {
        self.remote().map(|error| error.code)
    }

    /// What the server said, if it refused.
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Refused { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Why a member of a group was refused, if one was.
    pub fn fencing(&self) -> Option<&Fencing> {
        self.remote().and_then(|error| error.fencing.as_ref()).map(|fencing| &fencing.why)
    }

    /// Whether there was no answer in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::NotSent { .. })
    }
}

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
    ($core:expr, $request:expr, $reply:expr, $kind:ident) => {
        match $reply.answer {
            Answer::$kind(answer) => Ok(answer),
            other => Err($core.bad_answer($request, format!("it is {}", other.name()))),
        }
    };
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
        answer_of!(core, "ListTopics", reply, TopicNames).map(|names| names.topics)
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
        answer_of!(core, "OffsetAt", reply, OffsetFound)
    }

    /// Appends a record: to the partition of its key, or, without key, to one that changes from batch to batch. Returns
    /// when the record is encoded; the ticket tells the rest. However often the connection is lost and the server
    /// started anew meanwhile, the record is in the log once.
    ///
    /// # Errors
    /// `Timeout` if there was no room for it in time, or nothing was known of the topic; `Refused` with `UnknownTopic`;
    /// any other [`PeerError`]. Whether it could be appended is told by the ticket.
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
        let appended = answer_of!(core, "Append", reply, Appended)?;
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
        answer_of!(core, "ListGroups", reply, GroupNames).map(|names| names.groups)
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
    pub(super) fn call(
        self: &Arc<Self>,
        request: Request,
        body: Vec<Bytes>,
        wait: Duration,
    ) -> Result<Reply, PeerError> {
        let deadline = self.deadline(wait);
        self.begin(request, body, deadline)?.wait(deadline)
    }

    fn topic_call(self: &Arc<Self>, request: Request) -> Result<RemoteTopic, PeerError> {
        let name = request.name();
        let reply = self.call(request, Vec::new(), Duration::ZERO)?;
        answer_of!(self, name, reply, TopicState).map(RemoteTopic::from)
    }

    fn done_call(self: &Arc<Self>, request: Request) -> Result<(), PeerError> {
        let name = request.name();
        let reply = self.call(request, Vec::new(), Duration::ZERO)?;
        answer_of!(self, name, reply, Done).map(drop)
    }

    fn new_producer(self: &Arc<Self>, deadline: Option<Instant>) -> Result<i64, PeerError> {
        let request = NewProducer(Nothing {}).into();
        let reply = self.begin(request, Vec::new(), deadline)?.wait(deadline)?;
        answer_of!(self, "NewProducer", reply, ProducerId).map(|producer| producer.id)
    }

    pub(super) fn timed_out(&self, request: &'static str) -> PeerError {
        PeerError::Timeout { endpoint: self.link.endpoint().to_owned(), request }
    }

    pub(super) fn refused(&self, request: &'static str, error: RemoteError) -> PeerError {
        let endpoint = self.link.endpoint().to_owned();
        PeerError::Refused { endpoint, request, error: Box::new(error) }
    }

    pub(super) fn bad_answer(&self, request: &'static str, reason: impl ToString) -> PeerError {
        let endpoint = self.link.endpoint().to_owned();
        PeerError::BadAnswer { endpoint, request, reason: reason.to_string() }
    }

    pub(super) fn closed(&self) -> PeerError {
        PeerError::Closed { endpoint: self.link.endpoint().to_owned() }
    }
}
