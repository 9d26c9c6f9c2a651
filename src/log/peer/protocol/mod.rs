//! The protocol between a log's server and its clients: requests and answers as values, and their bytes. No I/O here.
//!
//! A message is a head frame and, where the kind has them, frames of stored batches as they are. The head begins with
//! the version, the kind and the number by which the answer finds its request; see `docs/log-peer.md`.

mod groups;
mod position;
mod queues;
mod remote;
#[cfg(test)]
mod tests;
pub(in crate::log) mod wire;

use bytes::Bytes;

pub use groups::MemberFencing;
pub(in crate::log) use groups::{
    AwaitGroup, Commit, GroupName, GroupNames, GroupState, GroupVersion, Heartbeat, Leave,
    ListOffsets, MemberName, MemberState, Membership, Offset, Offsets, ProgressState, Transact,
    TransactPart, Transacted,
};
pub(in crate::log) use position::WirePosition;
pub(in crate::log) use queues::{
    Acquire, Acquired, QueueName, QueueState, Settle, Settled, Verdict, WireDelivery,
};
pub use remote::{RemoteCode, RemoteError};
pub(in crate::log) use wire::LIST_MAX;
pub use wire::Malformed;
use wire::{Input, Wire, wire_kinds, wire_struct};

use crate::log::format::Id;
use crate::log::options::{BATCH_BYTES_MAX, Level};
use crate::message::{Frame, Message};

/// The version of the protocol that is spoken here.
pub(in crate::log) const VERSION: u8 = 2;

/// Bytes of a request at most, head and batches: the largest batch, and what goes with it.
pub(in crate::log) const REQUEST_BYTES_MAX: usize = BATCH_BYTES_MAX as usize + (1 << 20);

/// The kind of an answer that refuses its request, whatever that was.
const REFUSED: u8 = 255;
/// Bit by which answers are told from requests.
const ANSWER: u8 = 128;

/// No epoch is known of the records before the offset that is asked for.
pub(in crate::log) const NO_EPOCH: i32 = -1;

wire_struct! {
    /// Something without fields: an answer that says no more than "done", or a request without parameters.
    pub(in crate::log) struct Nothing {}
}

wire_struct! {
    /// Appends the batch in the second frame.
    pub(in crate::log) struct Append {
        topic: String,
        partition: u32,
        /// The answer comes when the append has this level.
        level: Level,
    }
}

wire_struct! {
    /// Asks for batches.
    pub(in crate::log) struct Fetch {
        topic: String,
        partition: u32,
        offset: i64,
        /// A writer in whose log everything before the offset was; the answer is `Diverged` if what is left of that log
        /// ends before the offset.
        last_epoch: i32,
        /// The first batch is sent even if it is larger.
        bytes_max: u32,
        /// The answer waits until there are so many, or the time is up.
        bytes_min: u32,
        wait_ms: u32,
        durable_only: bool,
        /// The topic that is meant, if that is known: the answer is `TopicReplaced` if another one has its name.
        topic_id: Option<Id>,
    }
}

wire_struct! {
    /// Names a topic.
    pub(in crate::log) struct TopicName {
        topic: String,
    }
}

wire_struct! {
    /// Names a topic and how it is to be; options as `name=value`.
    pub(in crate::log) struct TopicSetup {
        topic: String,
        options: Vec<String>,
    }
}

wire_struct! {
    /// Asks to forget what is before an offset.
    pub(in crate::log) struct Truncate {
        topic: String,
        partition: u32,
        offset: i64,
    }
}

wire_struct! {
    /// Asks which offset a position stands for.
    pub(in crate::log) struct OffsetAt {
        topic: String,
        partition: u32,
        position: WirePosition,
    }
}

wire_kinds! {
    /// What a client asks.
    pub(in crate::log) enum Request {
        1 NewProducer(NewProducer),
        2 Append(Append),
        3 Fetch(Fetch),
        4 ListTopics(ListTopics),
        5 DescribeTopic(DescribeTopic),
        6 CreateTopic(CreateTopic),
        7 AlterTopic(AlterTopic),
        8 DeleteTopic(DeleteTopic),
        9 Truncate(Truncate),
        10 OffsetAt(OffsetAt),
        11 Heartbeat(Heartbeat),
        12 Leave(Leave),
        13 Commit(Commit),
        14 ListOffsets(ListOffsets),
        15 AwaitGroup(AwaitGroup),
        16 ListGroups(ListGroups),
        17 DescribeGroup(DescribeGroup),
        18 DeleteGroup(DeleteGroup),
        19 Transact(Transact),
        20 Acquire(Acquire),
        21 Settle(Settle),
        22 QueueStats(QueueName),
    }
}

/// Requests that have the fields of another.
macro_rules! same_fields {
    ($($(#[$doc:meta])* $name:ident($fields:ident),)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub(in crate::log) struct $name(pub(in crate::log) $fields);

        impl Wire for $name {
            const BYTES_MIN: usize = $fields::BYTES_MIN;

            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }

            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                $fields::take(input).map(Self)
            }
        }
    )*};
}

same_fields! {
    /// Asks for an id for an idempotent producer.
    NewProducer(Nothing),
    /// Asks for the names of all topics.
    ListTopics(Nothing),
    /// Asks what a topic is and holds.
    DescribeTopic(TopicName),
    /// Creates a topic.
    CreateTopic(TopicSetup),
    /// Changes a topic's options.
    AlterTopic(TopicSetup),
    /// Deletes a topic.
    DeleteTopic(TopicName),
    /// Asks for the names of all groups.
    ListGroups(Nothing),
    /// Asks what a group is and has.
    DescribeGroup(GroupName),
    /// Deletes a group.
    DeleteGroup(GroupName),
    /// Said when what was asked for is done.
    Done(Nothing),
}

wire_struct! {
    /// An id that no other producer of this log has or gets.
    pub(in crate::log) struct ProducerId {
        id: i64,
        epoch: i16,
    }
}

wire_struct! {
    /// Where an append is.
    pub(in crate::log) struct Appended {
        first_offset: i64,
        last_offset: i64,
        /// As that of [`TopicState`], now.
        fingerprint: u64,
    }
}

wire_struct! {
    /// The ends of a partition, and batches in further frames.
    pub(in crate::log) struct Fetched {
        earliest: i64,
        end: i64,
        durable_end: i64,
        /// The writer that has the log open.
        incarnation: i32,
        /// Where to go on: behind the last batch, or behind what is not there any more.
        next_offset: i64,
        /// A writer in whose log everything before `next_offset` is.
        last_epoch: i32,
        topic_id: Id,
    }
}

wire_struct! {
    /// The names of all topics.
    pub(in crate::log) struct TopicNames {
        topics: Vec<String>,
    }
}

wire_struct! {
    /// What a partition holds.
    pub(in crate::log) struct PartitionState {
        earliest: i64,
        end: i64,
        durable_end: i64,
        segments: u32,
        bytes: u64,
    }
}

wire_struct! {
    /// What a topic is and holds.
    pub(in crate::log) struct TopicState {
        topic: String,
        id: String,
        options: Vec<String>,
        partitions: Vec<PartitionState>,
        /// Another one when the topic has become another one for who appends to it.
        fingerprint: u64,
    }
}

wire_struct! {
    /// The offset a position stands for.
    pub(in crate::log) struct OffsetFound {
        offset: i64,
        /// Of a position that a group committed: whether it has.
        committed: bool,
        /// A writer in whose log everything before the offset is.
        last_epoch: i32,
        topic_id: Id,
    }
}

wire_kinds! {
    /// What a server answers.
    pub(in crate::log) enum Answer {
        1 ProducerId(ProducerId),
        2 Appended(Appended),
        3 Fetched(Fetched),
        4 TopicNames(TopicNames),
        5 TopicState(TopicState),
        6 Done(Done),
        10 OffsetFound(OffsetFound),
        11 Membership(Membership),
        14 Offsets(Offsets),
        15 GroupVersion(GroupVersion),
        16 GroupNames(GroupNames),
        17 GroupState(GroupState),
        19 Transacted(Transacted),
        20 Acquired(Acquired),
        21 Settled(Settled),
        22 QueueState(QueueState),
    }
}

impl Request {
    /// Whether it may wait at the server until something comes. A member has as many of them under way as it has partitions.
    pub(in crate::log) fn waits(&self) -> bool {
        match self {
            Self::Fetch(fetch) => fetch.wait_ms > 0,
            Self::Acquire(acquire) => acquire.wait_ms > 0,
            Self::AwaitGroup(group) => group.wait_ms > 0,
            _ => false,
        }
    }

    /// Whether it is for its answer alone: in vain, or worse, if that reaches nobody.
    pub(in crate::log) fn only_asks(&self) -> bool {
        matches!(self, Self::Fetch(_) | Self::Acquire(_) | Self::AwaitGroup(_))
    }
}

/// The bytes every head begins with: version, kind, correlation.
fn head(version: u8, kind: u8, correlation: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    version.put(&mut out);
    kind.put(&mut out);
    correlation.put(&mut out);
    out
}

fn message(head: Vec<u8>, body: Vec<Bytes>) -> Message {
    let mut frames = Vec::with_capacity(1 + body.len());
    frames.push(Frame::from(head));
    frames.extend(body.into_iter().map(Frame::from));
    Message::from(frames)
}

/// A request as a message.
pub(in crate::log) fn encode_request(
    correlation: u64,
    request: &Request,
    body: Vec<Bytes>,
) -> Message {
    let mut out = head(VERSION, request.code(), correlation);
    request.put_fields(&mut out);
    message(out, body)
}

/// An answer, or a refusal, as a message.
pub(in crate::log) fn encode_answer(correlation: u64, outcome: &Outcome) -> Message {
    match outcome {
        Ok(Reply { answer, body }) => {
            let mut out = head(VERSION, answer.code() | ANSWER, correlation);
            answer.put_fields(&mut out);
            message(out, body.clone())
        }
        Err(error) if error.code == RemoteCode::Version => {
            encode_version_refusal(VERSION, correlation, error)
        }
        Err(error) => {
            let mut out = head(VERSION, REFUSED, correlation);
            error.put(&mut out);
            message(out, Vec::new())
        }
    }
}

/// Refuses a request of another version, in that version: whoever sent it is to understand this one answer.
pub(in crate::log) fn encode_version_refusal(
    version: u8,
    correlation: u64,
    error: &RemoteError,
) -> Message {
    let mut out = head(version, REFUSED, correlation);
    error.put_in_all_versions(&mut out);
    message(out, Vec::new())
}

/// An answer with the batches that go with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::log) struct Reply {
    pub(in crate::log) answer: Answer,
    pub(in crate::log) body: Vec<Bytes>,
}

impl<T: Into<Answer>> From<T> for Reply {
    fn from(answer: T) -> Self {
        Self { answer: answer.into(), body: Vec::new() }
    }
}

/// How a request ends.
pub(in crate::log) type Outcome = Result<Reply, RemoteError>;

/// A message that could not be decoded, with its number as far as that was readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log) struct Unreadable {
    pub(in crate::log) correlation: Option<u64>,
    pub(in crate::log) reason: Malformed,
}

/// Takes version, kind and correlation off the head.
fn begin<'a>(message: &'a Message) -> Result<(u8, u64, Input<'a>), Unreadable> {
    let mut input = Input::new(message.body());
    let mut numbers = || Ok((u8::take(&mut input)?, u8::take(&mut input)?, u64::take(&mut input)?));
    let (version, kind, correlation) =
        numbers().map_err(|reason| Unreadable { correlation: None, reason })?;
    if version != VERSION {
        let reason = Malformed::Version { found: version };
        return Err(Unreadable { correlation: Some(correlation), reason });
    }
    Ok((kind, correlation, input))
}

/// The frames behind the head.
fn body(message: &Message) -> Vec<Bytes> {
    message.frames().iter().skip(1).map(|frame| frame.clone().into_bytes()).collect()
}

/// Decodes a request: its number, itself, the frames that go with it.
pub(in crate::log) fn decode_request(
    message: &Message,
) -> Result<(u64, Request, Vec<Bytes>), Unreadable> {
    let (kind, correlation, mut input) = begin(message)?;
    let failed = |reason| Unreadable { correlation: Some(correlation), reason };
    let request = Request::take_fields(kind, &mut input).map_err(failed)?;
    input.end().map_err(failed)?;
    let wanted = match &request {
        Request::Append(_) => 1,
        Request::Transact(transact) => transact.frames(),
        _ => 0,
    };
    if message.frames().len() - 1 != wanted {
        return Err(failed(Malformed::Frames));
    }
    Ok((correlation, request, body(message)))
}

/// Decodes an answer: its number, and how the request ended. One of another version is a refusal to speak this one.
pub(in crate::log) fn decode_answer(message: &Message) -> Result<(u64, Outcome), Unreadable> {
    let (kind, correlation, mut input) = match begin(message) {
        Err(Unreadable {
            correlation: Some(correlation),
            reason: Malformed::Version { found },
        }) => {
            return Ok((correlation, Err(RemoteError::of_version(found))));
        }
        begun => begun?,
    };
    let failed = |reason| Unreadable { correlation: Some(correlation), reason };
    if kind == REFUSED {
        if let Some(error) = RemoteError::take_in_all_versions(&input) {
            return Ok((correlation, Err(error)));
        }
        let error = RemoteError::take(&mut input).map_err(failed)?;
        input.end().map_err(failed)?;
        return Ok((correlation, Err(error)));
    }
    if kind & ANSWER == 0 {
        return Err(failed(Malformed::Kind { found: kind }));
    }
    let answer = Answer::take_fields(kind & !ANSWER, &mut input).map_err(failed)?;
    input.end().map_err(failed)?;
    let body = body(message);
    let fits = match &answer {
        Answer::Fetched(_) => true,
        Answer::Acquired(acquired) => acquired.deliveries.len() == body.len(),
        _ => body.is_empty(),
    };
    if !fits {
        return Err(failed(Malformed::Frames));
    }
    Ok((correlation, Ok(Reply { answer, body })))
}
