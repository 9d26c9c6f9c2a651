//! What the files and directories of a log are called.
//!
//! A topic's partition is the directory `<topic>-<partition>`; its files are named by a base offset in 20 digits and a kind.
//! A suffix tells how far a file has come: `.cleaned` while it is built, `.swap` when it is complete, none when it is in use,
//! `.deleted` when it is not any more.

use std::fmt;

/// Offsets of topic partitions, oldest that must be kept.
pub const LOG_START_OFFSETS: &str = "log-start-offset-checkpoint";
/// Offsets of topic partitions, from which on recovery must look.
pub const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// Offsets of topic partitions, up to which compaction has come.
pub const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";
/// In a partition's directory: where each leader epoch began.
pub const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";
/// In a partition's directory: the topic's id.
pub const PARTITION_METADATA: &str = "partition.metadata";
/// Whose log directory this is.
pub const META_PROPERTIES: &str = "meta.properties";
/// The lock file.
pub const LOCK: &str = ".lock";
/// There after a clean stop only.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// Most characters of a topic's name.
pub const TOPIC_NAME_CHARS_MAX: usize = 249;
/// Highest number of a partition.
pub const PARTITION_MAX: u32 = i32::MAX as u32;

const OFFSET_DIGITS: usize = 20;
/// What the directory of a deleted partition ends with, after a point and 32 hexadecimal digits.
const DELETED_DIRECTORY: &str = "-delete";
const MARK_DIGITS: usize = 32;
/// Longest name that file systems take.
const NAME_BYTES_MAX: usize = 255;

/// Whether a topic may be called so: 1 to 249 of `[a-zA-Z0-9._-]`, and not `.` or `..`.
pub fn is_valid_topic(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=TOPIC_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !matches!(name, "." | "..")
}

/// What a file of a partition holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum FileKind {
    /// `.log`: batches.
    Log,
    /// `.index`: the offset index.
    OffsetIndex,
    /// `.timeindex`: the time index.
    TimeIndex,
    /// `.txnindex`: aborted transactions.
    TransactionIndex,
    /// `.snapshot`: producers' states.
    ProducerSnapshot,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Log,
        Self::OffsetIndex,
        Self::TimeIndex,
        Self::TransactionIndex,
        Self::ProducerSnapshot,
    ];

    /// The kind's part of the name, with its point.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Log => ".log",
            Self::OffsetIndex => ".index",
            Self::TimeIndex => ".timeindex",
            Self::TransactionIndex => ".txnindex",
            Self::ProducerSnapshot => ".snapshot",
        }
    }
}

/// How far a file has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[non_exhaustive]
pub enum FileState {
    /// No suffix: in use.
    #[default]
    Live,
    /// `.cleaned`: being built; of no worth after a crash.
    Cleaned,
    /// `.swap`: complete, about to replace live files.
    Swap,
    /// `.deleted`: to be removed.
    Deleted,
}

impl FileState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Live, Self::Cleaned, Self::Swap, Self::Deleted];

    /// The suffix, with its point.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Live => "",
            Self::Cleaned => ".cleaned",
            Self::Swap => ".swap",
            Self::Deleted => ".deleted",
        }
    }
}

/// The name of a partition's file; its text is what `Display` shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileName {
    /// First offset the file is about, not above `i64::MAX`.
    pub base_offset: u64,
    /// What it holds.
    pub kind: FileKind,
    /// How far it has come.
    pub state: FileState,
}

impl FileName {
    /// The name of a live file.
    pub const fn live(base_offset: u64, kind: FileKind) -> Self {
        Self { base_offset, kind, state: FileState::Live }
    }

    /// The file's name, taken apart; `None` if it is not one of these files.
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_at_checked(OFFSET_DIGITS)?;
        let base_offset = decimal(digits).filter(|offset| i64::try_from(*offset).is_ok())?;
        for kind in FileKind::ALL {
            let Some(suffix) = rest.strip_prefix(kind.extension()) else { continue };
            let state = FileState::ALL.into_iter().find(|state| state.suffix() == suffix);
            if let Some(state) = state {
                return Some(Self { base_offset, kind, state });
            }
        }
        None
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (extension, suffix) = (self.kind.extension(), self.state.suffix());
        write!(f, "{:0OFFSET_DIGITS$}{extension}{suffix}", self.base_offset)
    }
}

/// The name of a partition's directory, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DirectoryName<'a> {
    /// The topic's name, a valid one.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: u32,
    /// For a partition that is being deleted: what tells it from other deleted ones of the same name.
    pub deleted_mark: Option<u128>,
}

impl<'a> DirectoryName<'a> {
    /// The directory of a partition; `None` if the topic's name is not valid or the number too high.
    pub fn new(topic: &'a str, partition: u32) -> Option<Self> {
        (is_valid_topic(topic) && partition <= PARTITION_MAX).then_some(Self {
            topic,
            partition,
            deleted_mark: None,
        })
    }

    /// What the directory is called when the partition is deleted. Of a topic's name that is too long for that the end is
    /// left out, as Kafka does.
    pub fn deleted(self, mark: u128) -> Self {
        let marked = Self { deleted_mark: Some(mark), ..self };
        let too_much = marked.to_string().len().saturating_sub(NAME_BYTES_MAX);
        let kept = self.topic.len().saturating_sub(too_much);
        Self { topic: self.topic.get(..kept).unwrap_or(self.topic), ..marked }
    }

    /// The directory's name, taken apart; `None` if it is not that of a partition.
    pub fn parse(name: &'a str) -> Option<Self> {
        if let Some(deleted) = name.strip_suffix(DELETED_DIRECTORY)
            && let Some((live, mark)) = deleted.rsplit_once('.')
            && let Some(mark) = hexadecimal(mark)
        {
            return Some(Self { deleted_mark: Some(mark), ..Self::parse_live(live)? });
        }
        Self::parse_live(name)
    }

    fn parse_live(name: &'a str) -> Option<Self> {
        let (topic, partition) = name.rsplit_once('-')?;
        // `01` would be a second name for partition 1.
        let canonical = partition == "0" || !partition.starts_with('0');
        let partition = decimal(partition).filter(|_| canonical)?;
        Self::new(topic, u32::try_from(partition).ok()?)
    }
}

impl fmt::Display for DirectoryName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)?;
        match self.deleted_mark {
            Some(mark) => write!(f, ".{mark:0MARK_DIGITS$x}{DELETED_DIRECTORY}"),
            None => Ok(()),
        }
    }
}

/// A number of decimal digits and nothing else: no sign, no space.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// 32 lower-case hexadecimal digits.
fn hexadecimal(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && text.len() == MARK_DIGITS).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topic_names_follow_kafkas_rule() {
        let longest = "x".repeat(249);
        for name in ["a", "orders.eu_west-1", "...", "-", "0", &longest] {
            assert!(is_valid_topic(name), "{name}");
        }
        let too_long = "x".repeat(250);
        for name in ["", ".", "..", "a b", "a/b", "caf\u{e9}", "a\0", &too_long] {
            assert!(!is_valid_topic(name), "{name}");
        }
    }

    #[test]
    fn file_names_are_kafkas() {
        let index = FileName::live(368_769, FileKind::OffsetIndex);
        assert_eq!(index.to_string(), "00000000000000368769.index");
        let swap = FileName { state: FileState::Swap, ..FileName::live(0, FileKind::Log) };
        assert_eq!(swap.to_string(), "00000000000000000000.log.swap");
        assert_eq!(
            FileName::parse("00000000000000000121.timeindex.deleted"),
            Some(FileName {
                base_offset: 121,
                kind: FileKind::TimeIndex,
                state: FileState::Deleted,
            })
        );
        for name in [
            "",
            ".log",
            "0.log",
            "000000000000000000000.log",
            "0000000000000000000.log",
            "+0000000000000000001.log",
            "-0000000000000000001.log",
            "09223372036854775808.log",
            "99999999999999999999.log",
            "00000000000000000000",
            "00000000000000000000.logs",
            "00000000000000000000.log.swap.swap",
            "00000000000000000000.LOG",
            "0000000000000000000\u{e9}.log",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
        assert!(FileName::parse("09223372036854775807.log").is_some());
    }

    #[test]
    fn directory_names_that_are_not_of_a_partition_are_refused() {
        for name in [
            "",
            "-",
            "-0",
            "orders",
            "orders-",
            "orders-01",
            "orders-+1",
            "a b-0",
            "..-0",
            "orders-2147483648",
            "orders-0-delete",
            "orders-0.12-delete",
        ] {
            assert_eq!(DirectoryName::parse(name), None, "{name}");
        }
        let parsed = DirectoryName::parse("a-b-2147483647").unwrap();
        assert_eq!((parsed.topic, parsed.partition), ("a-b", 2_147_483_647));
        let deleted = "orders-3.00c0ffee00c0ffee00c0ffee00c0ffee-delete";
        let parsed = DirectoryName::parse(deleted).unwrap();
        assert_eq!((parsed.topic, parsed.partition), ("orders", 3));
        assert_eq!(parsed.to_string(), deleted);
    }

    proptest! {
        #[test]
        fn file_names_read_back(
            base_offset in 0..=i64::MAX as u64,
            kind in prop::sample::select(&FileKind::ALL[..]),
            state in prop::sample::select(&FileState::ALL[..]),
        ) {
            let name = FileName { base_offset, kind, state };
            prop_assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn directory_names_read_back(
            topic in "[a-zA-Z0-9._-]{1,20}", partition in 0..=PARTITION_MAX, mark: Option<u128>,
        ) {
            prop_assume!(is_valid_topic(&topic));
            let name = DirectoryName { topic: &topic, partition, deleted_mark: mark };
            let text = name.to_string();
            prop_assert_eq!(DirectoryName::parse(&text), Some(name));
        }

        #[test]
        fn any_text_is_refused_or_shown_as_it_was(text in "[0-9]{20}\\.[a-z.]{0,12}|[a-z.-]{0,4}[0-9-]{0,4}|.*") {
            if let Some(name) = FileName::parse(&text) {
                prop_assert_eq!(name.to_string(), text.clone());
            }
            if let Some(name) = DirectoryName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
