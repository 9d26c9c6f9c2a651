//! Why a call to a log in another process failed: what it was about, and how it stood with the connection.

use std::fmt;

use super::Core;
use crate::log::groups::Fencing;
use crate::log::peer::protocol::{RemoteCode, RemoteError, Request, WirePosition};

/// What a request is about; what does not apply to it is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subject {
    /// The queue's name.
    pub queue: Option<String>,
    /// The group's name.
    pub group: Option<String>,
    /// The id of the group's member.
    pub member: Option<String>,
    /// The topic's name.
    pub topic: Option<String>,
    /// The partition's number.
    pub partition: Option<u32>,
    /// The offset that was asked for, or that of the first record concerned.
    pub offset: Option<i64>,
    /// How many more places it is about than the one that is named.
    pub more: usize,
}

impl Subject {
    pub(super) fn topic(topic: &str) -> Self {
        Self { topic: Some(topic.to_owned()), ..Self::default() }
    }

    pub(super) fn partition(topic: &str, partition: u32) -> Self {
        Self { partition: Some(partition), ..Self::topic(topic) }
    }

    pub(super) fn group(group: &str, member: &str) -> Self {
        let member = Some(member.to_owned()).filter(|member| !member.is_empty());
        Self { group: Some(group.to_owned()), member, ..Self::default() }
    }

    fn queue(queue: &str) -> Self {
        Self { queue: Some(queue.to_owned()), ..Self::default() }
    }

    /// The same, at this offset.
    pub(super) fn at(self, offset: i64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    /// The same, at the first of so many places.
    pub(super) fn at_first(self, first: Option<(&str, u32)>, places: usize) -> Self {
        let Some((topic, partition)) = first else { return self };
        let (topic, partition) = (Some(topic.to_owned()), Some(partition));
        Self { topic, partition, more: places.saturating_sub(1), ..self }
    }

    /// It as that for which something was done; nothing if it is about nothing in particular.
    fn purpose(&self) -> String {
        if *self == Self::default() { String::new() } else { format!(" for {self}") }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut part = |name: &str, value: Option<&dyn fmt::Display>| match value {
            Some(value) => {
                let written = write!(f, "{separator}{name} {value}");
                separator = ", ";
                written
            }
            None => Ok(()),
        };
        let texts = [
            ("queue", &self.queue),
            ("group", &self.group),
            ("member", &self.member),
            ("topic", &self.topic),
        ];
        for (name, text) in texts {
            part(name, text.as_ref().map(|text| text as _))?;
        }
        part("partition", self.partition.as_ref().map(|number| number as _))?;
        part("offset", self.offset.as_ref().map(|offset| offset as _))?;
        if self.more > 0 { write!(f, " and {} more", self.more) } else { Ok(()) }
    }
}

impl From<&Request> for Subject {
    fn from(request: &Request) -> Self {
        match request {
            Request::NewProducer(_) | Request::ListTopics(_) | Request::ListGroups(_) => {
                Self::default()
            }
            Request::Append(append) => Self::partition(&append.topic, append.partition),
            Request::Fetch(fetch) => {
                Self::partition(&fetch.topic, fetch.partition).at(fetch.offset)
            }
            Request::DescribeTopic(name) => Self::topic(&name.0.topic),
            Request::DeleteTopic(name) => Self::topic(&name.0.topic),
            Request::CreateTopic(setup) => Self::topic(&setup.0.topic),
            Request::AlterTopic(setup) => Self::topic(&setup.0.topic),
            Request::Truncate(truncate) => {
                Self::partition(&truncate.topic, truncate.partition).at(truncate.offset)
            }
            Request::OffsetAt(at) => {
                let place = Self::partition(&at.topic, at.partition);
                match &at.position {
                    WirePosition::Offset(offset) => place.at(*offset),
                    WirePosition::Committed(group) => Self { group: Some(group.clone()), ..place },
                    _ => place,
                }
            }
            Request::Heartbeat(beat) => Self::group(&beat.group, &beat.member),
            Request::Leave(leave) => Self::group(&leave.group, &leave.member),
            Request::Commit(commit) => {
                let member = commit.member.as_ref().map_or("", |(member, _)| member);
                let first = commit.offsets.first().map(|at| (&at.topic[..], at.partition));
                Self::group(&commit.group, member).at_first(first, commit.offsets.len())
            }
            Request::ListOffsets(list) => Self::group(&list.group, ""),
            Request::AwaitGroup(wait) => Self::group(&wait.group, ""),
            Request::DescribeGroup(name) => Self::group(&name.0.group, ""),
            Request::DeleteGroup(name) => Self::group(&name.0.group, ""),
            Request::Transact(transact) => {
                let member = transact.member.as_ref();
                let of = member.map(|member| Self::group(&member.group, &member.member));
                let part = transact.parts.first().map(|at| (&at.topic[..], at.partition));
                let offset = transact.offsets.first().map(|at| (&at.topic[..], at.partition));
                let places = transact.parts.len() + transact.offsets.len();
                of.unwrap_or_default().at_first(part.or(offset), places)
            }
            Request::Acquire(acquire) => Self::queue(&acquire.queue),
            Request::Settle(settle) => {
                let first = settle.deliveries.first();
                Self {
                    partition: first.map(|delivery| delivery.partition),
                    offset: first.map(|delivery| delivery.offset),
                    more: settle.deliveries.len().saturating_sub(1),
                    ..Self::queue(&settle.queue)
                }
            }
            Request::QueueStats(name) => Self::queue(&name.queue),
        }
    }
}

/// A request, as errors name it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) request: &'static str,
    pub(super) subject: Subject,
}

impl Asked {
    pub(super) fn new(request: &'static str, subject: Subject) -> Self {
        Self { request, subject }
    }

    /// An append to a partition.
    pub(super) fn append(topic: &str, partition: u32) -> Self {
        Self::new("Append", Subject::partition(topic, partition))
    }

    fn subject(&self) -> Box<Subject> {
        Box::new(self.subject.clone())
    }
}

impl From<&Request> for Asked {
    fn from(request: &Request) -> Self {
        Self::new(request.name(), request.into())
    }
}

/// How it stands with the connection of a client to its server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// It is there.
    Up,
    /// It was there, and is not any more.
    Lost {
        /// Why it is not, as far as that is known: what the last attempt to make it again met, or why it ended.
        reason: Option<String>,
    },
    /// It has never been there.
    Never {
        /// What the last attempt to make it met, if there was one.
        reason: Option<String>,
    },
}

impl Connection {
    pub(super) fn new(is_there: bool, was_there: bool, reason: Option<String>) -> Self {
        match (is_there, was_there) {
            (true, _) => Self::Up,
            (false, true) => Self::Lost { reason },
            (false, false) => Self::Never { reason },
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, reason) = match self {
            Self::Up => return f.write_str("the connection is there"),
            Self::Lost { reason } => ("the connection is lost", reason),
            Self::Never { reason } => ("there was never a connection", reason),
        };
        match reason {
            Some(reason) => write!(f, "{text}: {reason}"),
            None => f.write_str(text),
        }
    }
}

/// Why a call to a log in another process failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// There was no answer in time. Whether the server did what it was asked is not known; an append is still pursued.
    #[error(
        "{endpoint} did not answer the request {request}{} in time; {connection}",
        subject.purpose()
    )]
    Timeout {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
        /// What it was about.
        subject: Box<Subject>,
        /// Whether there was anybody to answer.
        connection: Connection,
    },
    /// The request was not sent in time, and will not be.
    #[error(
        "the request {request}{} could not be sent to {endpoint} in time: {reason}",
        subject.purpose()
    )]
    NotSent {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
        /// What it was about.
        subject: Box<Subject>,
        /// Whether there was anybody to send it to.
        connection: Connection,
        /// What was in the way: mostly why there is no connection.
        reason: String,
    },
    /// The server refused.
    #[error("{endpoint} refused the request {request}{}: {error}", subject.purpose())]
    Refused {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
        /// What it was about.
        subject: Box<Subject>,
        /// What it said.
        error: Box<RemoteError>,
    },
    /// The answer makes no sense, or its records are damaged.
    #[error("{endpoint} gave a bad answer to the request {request}{}: {reason}", subject.purpose())]
    BadAnswer {
        /// The server's endpoint.
        endpoint: String,
        /// The kind of the request.
        request: &'static str,
        /// What it was about.
        subject: Box<Subject>,
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

    /// What the request was about; nothing of it is known when the client is closed.
    pub fn subject(&self) -> Option<&Subject> {
        match self {
            Self::Timeout { subject, .. }
            | Self::NotSent { subject, .. }
            | Self::Refused { subject, .. }
            | Self::BadAnswer { subject, .. } => Some(subject),
            Self::Closed { .. } => None,
        }
    }

    /// How it stood with the connection when the time was up, if that is what it failed for.
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Timeout { connection, .. } | Self::NotSent { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// Why a member of a group was refused, if one was.
    pub fn fencing(&self) -> Option<&Fencing> {
        self.remote().and_then(|error| error.fencing.as_ref()).map(|fencing| &fencing.why)
    }

    /// The same, of a request that was made for this.
    pub(super) fn about(mut self, what: impl FnOnce() -> Subject) -> Self {
        match &mut self {
            Self::Timeout { subject, .. }
            | Self::NotSent { subject, .. }
            | Self::Refused { subject, .. }
            | Self::BadAnswer { subject, .. } => **subject = what(),
            Self::Closed { .. } => {}
        }
        self
    }

    /// Whether there was no answer in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::NotSent { .. })
    }
}

impl Core {
    fn endpoint(&self) -> String {
        self.link.endpoint().to_owned()
    }

    pub(super) fn timed_out(&self, asked: &Asked) -> PeerError {
        self.unanswered(asked, self.link.connection())
    }

    pub(super) fn unanswered(&self, asked: &Asked, connection: Connection) -> PeerError {
        let (endpoint, request, subject) = (self.endpoint(), asked.request, asked.subject());
        PeerError::Timeout { endpoint, request, subject, connection }
    }

    /// `crowd`: what kept it from being sent if there is a connection.
    pub(super) fn not_sent(&self, asked: &Asked, connection: Connection, crowd: &str) -> PeerError {
        let (endpoint, request, subject) = (self.endpoint(), asked.request, asked.subject());
        let reason = match &connection {
            Connection::Up => crowd.to_owned(),
            missing => missing.to_string(),
        };
        PeerError::NotSent { endpoint, request, subject, connection, reason }
    }

    pub(super) fn refused(&self, asked: &Asked, error: RemoteError) -> PeerError {
        let (endpoint, request, subject) = (self.endpoint(), asked.request, asked.subject());
        PeerError::Refused { endpoint, request, subject, error: Box::new(error) }
    }

    pub(super) fn bad_answer(&self, asked: &Asked, reason: impl ToString) -> PeerError {
        let (endpoint, request, subject) = (self.endpoint(), asked.request, asked.subject());
        PeerError::BadAnswer { endpoint, request, subject, reason: reason.to_string() }
    }

    pub(super) fn closed(&self) -> PeerError {
        PeerError::Closed { endpoint: self.endpoint() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::groups::OffsetCommit;
    use crate::log::peer::client::group::wire_offset;
    use crate::log::peer::protocol::{ListTopics, MemberName, Nothing, Transact, TransactPart};

    #[test]
    fn a_transaction_is_named_by_its_member_and_the_first_of_its_places() {
        let member = MemberName { group: "g".to_owned(), member: "m".to_owned(), generation: 4 };
        let part = |partition| TransactPart { topic: "t".to_owned(), partition, batches: 1 };
        let offsets = vec![wire_offset(&OffsetCommit::new("u", 1, 7))];
        let said = |parts| {
            let (member, offsets) = (Some(member.clone()), offsets.clone());
            Subject::from(&Transact { member, offsets, parts }.into()).purpose()
        };
        let of = " for group g, member m";
        assert_eq!(said(vec![part(3), part(4)]), format!("{of}, topic t, partition 3 and 2 more"));
        assert_eq!(said(Vec::new()), format!("{of}, topic u, partition 1"));
    }

    #[test]
    fn what_is_about_nothing_in_particular_says_nothing_of_it() {
        assert_eq!(Subject::from(&ListTopics(Nothing {}).into()).purpose(), "");
    }
}
