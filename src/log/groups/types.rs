//! What groups and their callers say to each other: requests, replies, descriptions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::log::error::LogError;
use crate::log::read::LogRecord;

/// Largest text with a commit, in bytes.
const METADATA_BYTES_MAX: usize = 4096;

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: u32,
}

impl TopicPartition {
    /// A partition of a topic.
    pub fn new(topic: impl Into<String>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// How partitions are divided among the members of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// As even as can be, and as few partitions as possible change hands.
    #[default]
    Sticky,
    /// Of each topic a run of neighbouring partitions: members that read topics with equal numbers of partitions get the
    /// same numbers of each.
    Range,
    /// All partitions of all topics in turn.
    RoundRobin,
}

impl Strategy {
    /// All strategies. When members of a group differ, that of the most members counts, and the earlier one here if
    /// several have as many.
    pub const ALL: [Self; 3] = [Self::Sticky, Self::Range, Self::RoundRobin];

    /// The strategy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sticky => "sticky",
            Self::Range => "range",
            Self::RoundRobin => "round-robin",
        }
    }

    /// The strategy of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == name)
    }
}

/// What a member tells the coordinator of its group, now and then: that it lives, what it wants to read, what it owns.
///
/// A member sends one heartbeat after the other. The answer to one that it has given up waiting for it must ignore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeartbeatRequest {
    /// The member's id. Each member makes one that nobody else has, when it joins; empty to be given one by the
    /// coordinator (a join that is repeated because its answer was lost then leaves a member behind, which is expelled
    /// when its session ends).
    pub member: String,
    /// A name that outlives the process: whoever joins with it takes the place and the partitions of the member that had it
    /// before, which is expelled and told so ([`Fencing::Replaced`]).
    pub instance: Option<String>,
    /// The generation of the last answer; 0 to join.
    pub generation: i32,
    /// Numbers the heartbeats of a member, rising. One that is not above the last is an old one that took its time: it is
    /// answered, but what it says about `owned` and `topics` is out of date and passed over.
    pub sequence: u64,
    /// The topics to read. Those that do not exist have no partitions until they do.
    pub topics: Vec<String>,
    /// How to divide partitions.
    pub strategy: Strategy,
    /// After so long without heartbeat the member is expelled.
    pub session_timeout: Duration,
    /// All partitions that the member has at this moment, those included that it has been told to give up but still works
    /// on. What it has been told to give up and does not name here goes to its next owner.
    pub owned: Vec<TopicPartition>,
}

/// The coordinator's answer to a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HeartbeatReply {
    /// The member's id, for all further requests.
    pub member: String,
    /// The generation of the member, for heartbeats and commits: that of the group, or as long as it has something to give up
    /// the one in which it had not.
    pub generation: i32,
    /// What the member owns from now on, and may read and commit. It need not have owned it before; what is in neither list
    /// it does not own (any more).
    pub assigned: Vec<TopicPartition>,
    /// What the member still owns and has to give up: it finishes and commits what it has read of it, and then leaves it
    /// out of `owned`.
    pub revoked: Vec<TopicPartition>,
    /// How many partitions it will get, when it has given up what it has to, and their owners have.
    pub awaited: usize,
    /// The next heartbeat is expected after about so long, or at once if there is something to give up.
    pub heartbeat_interval: Duration,
}

/// The next offset to read of a partition, as a group commits it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommit {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: u32,
    /// The next offset to read: that after the last record dealt with.
    pub offset: i64,
    /// A text of the caller's own, kept with it; at most 4096 bytes.
    pub metadata: String,
}

impl OffsetCommit {
    /// A commit without text.
    pub fn new(topic: impl Into<String>, partition: u32, offset: i64) -> Self {
        Self { topic: topic.into(), partition, offset, metadata: String::new() }
    }

    /// Refuses a text that is too long to be kept.
    pub(super) fn check_metadata(&self) -> Result<(), LogError> {
        let Self { topic, partition, metadata, .. } = self;
        if metadata.len() <= METADATA_BYTES_MAX {
            return Ok(());
        }
        let bytes = metadata.len();
        let reason = format!(
            "{bytes} bytes for topic {topic}, partition {partition}, are more than the \
             {METADATA_BYTES_MAX} that there may be"
        );
        Err(LogError::Invalid { what: "metadata of a commit", reason })
    }

    /// Adds a text.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

/// What a group committed last for a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// The committer's text.
    pub metadata: String,
    /// When it was committed, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// Who commits: a member of a group in the generation that it knows. By this a late commit of a former member is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The group's name.
    pub group: String,
    /// The member's id.
    pub member: String,
    /// The generation of the last answer the member got.
    pub generation: i32,
}

/// Why a member's request was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fencing {
    /// The member left, was silent for longer than its session, or was there before the log was opened anew. It has to join
    /// again, and owns nothing.
    #[error("it is not a member (any more)")]
    UnknownMember,
    /// The member owns the partition now, but the request is from a generation before it got it, or from one that has not
    /// been.
    #[error("it owns {partition} since generation {since}, and the group is in {current}")]
    WrongGeneration {
        /// The partition.
        partition: TopicPartition,
        /// The generation in which the member got it.
        since: i32,
        /// The group's generation.
        current: i32,
    },
    /// The member does not own the partition.
    #[error("it does not own {partition}")]
    NotOwner {
        /// The partition.
        partition: TopicPartition,
    },
    /// Another member has joined with the same instance name and has its place. It owns nothing, and does not join again by
    /// itself: two of one name would expel each other for ever.
    #[error("another member has joined with its instance name {instance}")]
    Replaced {
        /// The name.
        instance: String,
    },
}

/// A record, as a member of a group gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GroupRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The record, with its partition and offset.
    pub record: LogRecord,
}

/// What happened to a member's partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GroupEvent {
    /// They are the member's from now on.
    Assigned(Vec<TopicPartition>),
    /// They will be somebody else's. No more records of them come, and what came can be committed until the next
    /// `poll`, which gives them up.
    Revoked(Vec<TopicPartition>),
    /// The member was expelled, and has joined again. They may be somebody else's already, and nothing can be committed for
    /// them.
    Lost(Vec<TopicPartition>),
}

/// What a member's `poll` found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Polled {
    /// Records, each partition's in order.
    pub records: Vec<GroupRecord>,
    /// What happened to the member's partitions, before these records.
    pub events: Vec<GroupEvent>,
}

/// What a group is and has, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GroupDescription {
    /// Its name.
    pub name: String,
    /// Its generation; 0 if it never had a member.
    pub generation: i32,
    /// How its partitions are divided; `None` without members.
    pub strategy: Option<Strategy>,
    /// Whether each member has what it shall have.
    pub settled: bool,
    /// Its members by id.
    pub members: Vec<MemberDescription>,
    /// Its progress in every partition that a member reads or that it has committed for.
    pub offsets: Vec<GroupOffset>,
}

/// A member of a group, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemberDescription {
    /// Its id.
    pub member: String,
    /// The name that outlives it.
    pub instance: Option<String>,
    /// The topics it reads.
    pub topics: Vec<String>,
    /// The strategy it wants.
    pub strategy: Strategy,
    /// What it owns and may keep.
    pub assigned: Vec<TopicPartition>,
    /// What it owns and has to give up.
    pub revoked: Vec<TopicPartition>,
    /// What it will get when others have given it up.
    pub awaited: Vec<TopicPartition>,
    /// Time since its last heartbeat.
    pub silent_for: Duration,
}

/// A group's progress in a partition, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GroupOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// What the group has committed, if it has.
    pub committed: Option<Committed>,
    /// The first offset of the partition that is there.
    pub earliest: i64,
    /// The offset after the last one written.
    pub end: i64,
}

impl GroupOffset {
    /// Offsets from the committed one to the end; `None` if nothing is committed.
    pub fn lag(&self) -> Option<i64> {
        self.committed.as_ref().map(|committed| self.end.saturating_sub(committed.offset))
    }

    /// Offsets that the group had not read when the front of the partition was cut; they are in `lag` too. Reading on from
    /// the committed offset is refused until the group's offset is set anew.
    pub fn lost(&self) -> i64 {
        let committed = self.committed.as_ref().map_or(self.earliest, |committed| committed.offset);
        self.earliest.saturating_sub(committed).max(0)
    }
}
