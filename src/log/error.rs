//! What can go wrong with a log, by whose fault it is, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::FormatError;
use super::groups::Fencing;
use super::storage::{Operation, StorageError};

/// Where in a log something is: what is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The topic's name.
    pub topic: Option<String>,
    /// The partition's number.
    pub partition: Option<u32>,
    /// Base offset of the segment.
    pub segment: Option<i64>,
    /// The offset of the record that is, or should be, there.
    pub offset: Option<i64>,
    /// The file, or the directory.
    pub path: Option<PathBuf>,
    /// Bytes from the start of the file.
    pub position: Option<u64>,
}

impl Place {
    /// A place known by its path alone.
    pub(super) fn path(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// The place before what happened there; nothing if nothing is known of it.
    fn prefix(&self) -> String {
        if *self == Self::default() { String::new() } else { format!("{self}: ") }
    }

    /// The place as that for which something was done; nothing if nothing is known of it.
    fn purpose(&self) -> String {
        if *self == Self::default() { String::new() } else { format!(" for {self}") }
    }

    /// The same place, of this offset.
    pub(super) fn at_offset(self, offset: i64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    /// The same place, at this byte of its file.
    pub(super) fn at_position(self, position: u64) -> Self {
        Self { position: Some(position), ..self }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut part = |text: fmt::Arguments<'_>| {
            let written = write!(f, "{separator}{text}");
            separator = ", ";
            written
        };
        if let Some(topic) = &self.topic {
            part(format_args!("topic {topic}"))?;
        }
        if let Some(partition) = self.partition {
            part(format_args!("partition {partition}"))?;
        }
        if let Some(segment) = self.segment {
            part(format_args!("segment {segment}"))?;
        }
        if let Some(offset) = self.offset {
            part(format_args!("offset {offset}"))?;
        }
        if let Some(path) = &self.path {
            part(format_args!("{}", path.display()))?;
        }
        if let Some(position) = self.position {
            part(format_args!("byte {position}"))?;
        }
        Ok(())
    }
}

/// Why stored bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes break the format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A batch says it starts at another offset than the one that is next.
    #[error("a batch starts at offset {found}, not at {expected}")]
    WrongOffset {
        /// The offset that is next.
        expected: i64,
        /// What the batch says.
        found: i64,
    },
    /// A batch says that it is from a writer that cannot have written it there.
    #[error("a batch is from the writer of epoch {found}, expected was one of {at_least} or later")]
    WrongEpoch {
        /// The lowest epoch possible.
        at_least: i32,
        /// What the batch says.
        found: i32,
    },
    /// A file says that it is another partition's: it was put where it is, alone or with all of its directory.
    #[error("is of partition {found}")]
    WrongPartition {
        /// The number of that.
        found: u32,
    },
    /// A file is shorter than what was made durable of it.
    #[error("has {found} bytes, but {expected} were durable")]
    Short {
        /// Bytes that were durable.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A file that must be there is not.
    #[error("is missing")]
    Missing,
    /// A file of this module's own, or one that it vouches for, has a wrong checksum or a wrong form.
    #[error("has a wrong checksum or a wrong form")]
    Unreadable,
    /// Names in a directory contradict each other.
    #[error("is not a file or directory of this log")]
    Foreign,
}

/// Why an operation on a log failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The caller named a topic that does not exist.
    #[error("there is no topic {topic}")]
    UnknownTopic {
        /// The name.
        topic: String,
    },
    /// The caller named a partition that the topic does not have.
    #[error("topic {topic} has no partition {partition}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The number.
        partition: u32,
    },
    /// The caller wanted to create a topic that exists.
    #[error("topic {topic} exists already")]
    TopicExists {
        /// The name.
        topic: String,
    },
    /// The caller gave something that no topic or log can have.
    #[error("{what}: {reason}")]
    Invalid {
        /// What it was for.
        what: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// The caller's record or batch is larger than the topic allows.
    #[error(
        "topic {topic}, partition {partition}: {bytes} bytes are more than the {limit} that a \
         record or batch may have"
    )]
    TooLarge {
        /// The topic's name.
        topic: String,
        /// The partition that it was for.
        partition: u32,
        /// Bytes of the record or batch.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The caller asked for an offset that is not there any more, or not yet.
    #[error(
        "{place} is out of range: there are offsets {earliest} to {end}, the last one excluded"
    )]
    OffsetOutOfRange {
        /// Topic, partition and offset.
        place: Box<Place>,
        /// First offset that is there.
        earliest: i64,
        /// The offset that the next record will get.
        end: i64,
    },
    /// The caller's record has no key, which a compacted topic needs to know what it supersedes.
    #[error(
        "topic {topic}, partition {partition}: the topic is compacted and takes no record without \
         key"
    )]
    KeyMissing {
        /// The topic's name.
        topic: String,
        /// The partition that it was for.
        partition: u32,
    },
    /// The caller's batch breaks the format.
    #[error("refused a batch for {place}: {source}")]
    BadBatch {
        /// Topic and partition.
        place: Box<Place>,
        /// What is wrong with it; positions count from the start of the batch.
        source: FormatError,
    },
    /// The caller's idempotent producer skipped or repeated a sequence number.
    #[error(
        "refused a batch for {place}: producer {producer} sent sequence {found}, next is {expected}"
    )]
    OutOfSequence {
        /// Topic and partition.
        place: Box<Place>,
        /// The producer's id.
        producer: i64,
        /// The sequence number that is next.
        expected: i32,
        /// The sequence number of the batch's first record.
        found: i32,
    },
    /// The caller's idempotent producer was replaced by one of a later epoch.
    #[error(
        "refused a batch for {place}: producer {producer} has epoch {current} now, not {found}"
    )]
    Fenced {
        /// Topic and partition.
        place: Box<Place>,
        /// The producer's id.
        producer: i64,
        /// Its epoch now.
        current: i16,
        /// The epoch of the batch.
        found: i16,
    },
    /// The caller is no member of the group, or not the owner of the partition.
    #[error("member {member} of group {group}, in generation {generation}, was refused: {why}")]
    MemberFenced {
        /// The group's name.
        group: String,
        /// The member's id.
        member: String,
        /// The generation of its request.
        generation: i32,
        /// What speaks against it.
        why: Fencing,
    },
    /// The caller wanted to change a group from outside while it has members.
    #[error("group {group} has {members} members")]
    GroupNotEmpty {
        /// The group's name.
        group: String,
        /// How many members it has.
        members: usize,
    },
    /// The log was opened for reading only.
    #[error("the log is open for reading only")]
    ReadOnly,
    /// The topic was deleted, by this process or another one, while the caller had it.
    #[error("topic {topic} was deleted")]
    TopicDeleted {
        /// The topic's name, which may be that of another one by now.
        topic: String,
    },
    /// The log was closed meanwhile.
    #[error("the log is closed")]
    Closed,
    /// Somebody else has the directory open for writing.
    #[error("{} is in use by {holder}", directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The directory holds something else than a log of this library.
    #[error("{place} is not a log of this library: {reason}")]
    NotALog {
        /// The directory or file.
        place: Box<Place>,
        /// What speaks against it.
        reason: String,
    },
    /// The medium is full. The record is not there, of several the first ones may be; reading goes on, and a later append may
    /// succeed.
    #[error("no space{}: {source}", place.purpose())]
    Full {
        /// What was to be written.
        place: Box<Place>,
        /// What the storage said.
        source: Arc<StorageError>,
    },
    /// The medium failed.
    #[error("{}{source}", place.prefix())]
    Storage {
        /// What was read or written.
        place: Box<Place>,
        /// What the storage said.
        source: Arc<StorageError>,
    },
    /// A write or sync failed earlier, so that nobody knows what the medium holds. Nothing more is appended until the log
    /// is opened anew. Whether an append that ended with this error is there will be seen then.
    #[error(
        "the log takes no appends until it is opened anew, because of an earlier failure: {cause}"
    )]
    Poisoned {
        /// The failure.
        cause: Box<LogError>,
    },
    /// Stored bytes that were durable are not what they should be.
    #[error("{place} is damaged: {damage}")]
    Corrupt {
        /// Where.
        place: Box<Place>,
        /// What is wrong.
        damage: Damage,
    },
}

impl LogError {
    /// A failure of the storage at a place; a full medium is told from a broken one.
    #[cold]
    pub(super) fn storage(place: Place, source: StorageError) -> Self {
        if let Some(topic) = super::gate::deleted_topic(&source) {
            return Self::TopicDeleted { topic: topic.to_owned() };
        }
        if super::gate::is_closed(&source) {
            return Self::Closed;
        }
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let (place, source) = (Box::new(place), Arc::new(source));
        if full { Self::Full { place, source } } else { Self::Storage { place, source } }
    }

    /// Damage at a place.
    #[cold]
    pub(super) fn corrupt(place: Place, damage: impl Into<Damage>) -> Self {
        Self::Corrupt { place: Box::new(place), damage: damage.into() }
    }

    /// What later calls get to hear after this failure.
    #[cold]
    pub(super) fn poisoned(&self) -> Self {
        match self {
            Self::Poisoned { .. } => self.clone(),
            other => Self::Poisoned { cause: Box::new(other.clone()) },
        }
    }

    /// Whether the medium was full: the record was not appended, of several perhaps the first ones, and it may work later.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether an offset was asked for that is not there.
    pub(super) fn is_out_of_range(&self) -> bool {
        matches!(self, Self::OffsetOutOfRange { .. })
    }

    /// Whether the storage may have done what it says it could not: the names were changed, and not known to be durable.
    pub(super) fn is_uncertain(&self) -> bool {
        let (Self::Full { source, .. } | Self::Storage { source, .. }) = self else { return false };
        source.operation == Operation::SyncDir
    }

    /// Whether a file could not be opened because so many are: nothing was done, and it may work later.
    pub(super) fn is_out_of_files(&self) -> bool {
        let Self::Storage { source, .. } = self else { return false };
        source.operation == Operation::Open && super::segment::is_out_of_files(source)
    }

    /// Whether stored bytes were found damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }
}

/// A failure of the storage where nothing but its path is known.
impl From<StorageError> for LogError {
    fn from(source: StorageError) -> Self {
        Self::storage(Place::default(), source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_reads_as_a_sentence_whether_the_place_is_known_or_not() {
        let failed = |operation, kind| {
            let path = "/log/t-0";
            StorageError::new(operation, path, io::Error::from(kind))
        };
        let full = || failed(Operation::Write, io::ErrorKind::StorageFull);
        let place = Place { topic: Some("t".to_owned()), partition: Some(3), ..Place::default() };
        let text = LogError::from(full()).to_string();
        assert!(text.starts_with("no space: cannot write /log/t-0: "), "{text}");
        let text = LogError::storage(place.clone(), full()).to_string();
        assert!(text.starts_with("no space for topic t, partition 3: cannot write "), "{text}");
        let lost = || failed(Operation::Read, io::ErrorKind::NotFound);
        let text = LogError::from(lost()).to_string();
        assert!(text.starts_with("cannot read /log/t-0: "), "{text}");
        let text = LogError::corrupt(place.at_offset(7), Damage::Unreadable).to_string();
        let expected =
            "topic t, partition 3, offset 7 is damaged: has a wrong checksum or a wrong form";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_refused_names_the_partition_that_it_was_for() {
        let topic = || "t".to_owned();
        let too_large = LogError::TooLarge { topic: topic(), partition: 3, bytes: 9, limit: 5 };
        let expected =
            "topic t, partition 3: 9 bytes are more than the 5 that a record or batch may have";
        assert_eq!(too_large.to_string(), expected);
        let key_missing = LogError::KeyMissing { topic: topic(), partition: 3 };
        assert!(key_missing.to_string().starts_with("topic t, partition 3: "));
    }
}
