//! What can be set: per topic, stored with it; the rest is set when a log is opened.

use std::ops::Deref;
use std::sync::OnceLock;
use std::time::Duration;

use super::error::LogError;
use super::format::Codec;
use super::format::batch::TimestampType;

/// Largest batch, header included, in bytes, and so the largest record that any topic may allow but for a few bytes.
///
/// Who reads takes what claims to be larger for damage, before memory is set aside for it. So no batch may be written that
/// is: records are counted before they get their offsets (`TopicOptions::record_limit`), batches from elsewhere before they
/// get theirs (`TopicOptions::batch_limit`), no codec makes a batch larger than its records, and what compaction cannot
/// make anew within this stays as it was.
pub const BATCH_BYTES_MAX: u32 = 64 << 20;

/// What a batch has beside the bytes of its first record, at most: its own header, and the record's framing.
const BATCH_OVERHEAD_BYTES: u32 = 128;

/// Largest size that any topic may set for its segments, in bytes: positions in them are 31 bits.
pub(super) const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// Bytes of batches between two index entries, where a topic does not say.
pub(super) const INDEX_INTERVAL_BYTES: u32 = 4096;

/// When an append counts as done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Level {
    /// As soon as the record has its offset, in memory: it survives nothing.
    Buffered,
    /// When it is written: it survives the end of this process, but no power cut.
    Written,
    /// When the medium says it is durable: it survives a power cut.
    #[default]
    Durable,
}

impl Level {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Buffered, "buffered"), (Self::Written, "written"), (Self::Durable, "durable")];

    /// The level's name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(level, _)| *level == self).map_or("durable", |(_, name)| name)
    }

    /// The level of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(level, _)| *level)
    }
}

/// How a topic keeps its records.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TopicOptions {
    /// Number of partitions, from 1 on. Each that is appended to or read has a file open from then on, of those that a process
    /// may have.
    pub partitions: u32,
    /// The level of an append that does not say one.
    pub level: Level,
    /// How batches are packed.
    pub codec: Codec,
    /// Whose time counts: the record's own, or that of the append.
    pub timestamps: TimestampType,
    /// A segment is not continued beyond this many bytes; below 2 GiB.
    pub segment_bytes: u32,
    /// A segment whose first record is older than this many milliseconds is not continued.
    pub segment_ms: i64,
    /// An index entry each so many bytes of batches.
    pub index_interval_bytes: u32,
    /// Largest index of a segment, in bytes; a full index ends the segment.
    pub index_bytes_max: u32,
    /// Largest record with its framing, or encoded batch, in bytes.
    pub record_bytes_max: u32,
    /// Records gather into batches of about this many bytes.
    pub batch_bytes: u32,
    /// Space is reserved ahead in steps of this many bytes; 0 for none.
    pub preallocate_bytes: u32,
    /// The oldest segments of a partition go as long as at least this many bytes stay; `None`: they stay.
    pub retention_bytes: Option<u64>,
    /// Segments go when their last append is longer ago than this, whatever times their records have; `None`: they stay.
    pub retention: Option<Duration>,
    /// Only the last record of each key is kept, sooner or later; records without key are refused.
    pub compact: bool,
    /// How long a tombstone can be read after compaction has met it first. A reader that needs longer from the start to
    /// the end of a partition may miss that a key was deleted.
    pub delete_retention: Duration,
    /// A partition is compacted when at least so many of a hundred bytes were appended since the last time.
    pub min_dirty_percent: u32,
    /// Options that a later version of this library stored; kept as they are.
    pub(super) unknown: Vec<String>,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            partitions: 1,
            level: Level::Durable,
            codec: Codec::None,
            timestamps: TimestampType::Create,
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            index_interval_bytes: INDEX_INTERVAL_BYTES,
            index_bytes_max: 10 << 20,
            record_bytes_max: 1 << 20,
            batch_bytes: 64 << 10,
            preallocate_bytes: 0,
            retention_bytes: None,
            retention: None,
            compact: false,
            delete_retention: Duration::from_secs(24 * 3600),
            min_dirty_percent: 50,
            unknown: Vec::new(),
        }
    }
}

/// Declares the setters, and the texts by which options are stored.
macro_rules! topic_options {
    ($($name:ident: $type:ty,)*) => {
        impl TopicOptions {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](field@Self::", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, value: $type) -> Self {
                    self.$name = value;
                    self
                }
            )*

            /// The options as `name=value` words.
            pub(super) fn words(&self) -> Vec<String> {
                let known = [$(format!("{}={}", stringify!($name), Word::show(&self.$name)),)*];
                known.into_iter().chain(self.unknown.iter().cloned()).collect()
            }

            /// Sets what a `name=value` word says; a name that is not known is kept for later versions. False if the value
            /// is none that the name can have, or the word is no such word.
            pub(super) fn set_word(&mut self, word: &str) -> bool {
                match word.split_once('=') {
                    $(Some((stringify!($name), value)) => match Word::read(value) {
                        Some(value) => { self.$name = value; true }
                        None => false,
                    },)*
                    Some(_) => { self.unknown.push(word.to_owned()); true }
                    None => false,
                }
            }
        }
    };
}

topic_options! {
    partitions: u32,
    level: Level,
    codec: Codec,
    timestamps: TimestampType,
    segment_bytes: u32,
    segment_ms: i64,
    index_interval_bytes: u32,
    index_bytes_max: u32,
    record_bytes_max: u32,
    batch_bytes: u32,
    preallocate_bytes: u32,
    retention_bytes: Option<u64>,
    retention: Option<Duration>,
    compact: bool,
    delete_retention: Duration,
    min_dirty_percent: u32,
}

impl TopicOptions {
    /// Largest record, each of its headers counted with its framing: alone in a batch it always fits.
    #[inline]
    pub(super) fn record_limit(&self) -> usize {
        self.record_bytes_max.min(BATCH_BYTES_MAX - BATCH_OVERHEAD_BYTES) as usize
    }

    /// Largest batch that is appended as it is; room for the largest record.
    #[inline]
    pub(super) fn batch_limit(&self) -> usize {
        self.record_limit() + BATCH_OVERHEAD_BYTES as usize
    }

    /// What records may gather to: the last one begins before [`batch_bytes`](field@Self::batch_bytes), or there is only one.
    #[inline]
    pub(super) fn gather_limit(&self) -> usize {
        self.batch_limit().max(self.batch_bytes as usize)
    }

    /// Whether there is anything to do for the topic beside appending and reading.
    pub(super) fn needs_maintenance(&self) -> bool {
        self.compact || self.retention.is_some() || self.retention_bytes.is_some()
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), LogError> {
        let invalid = |what, reason: String| Err(LogError::Invalid { what, reason });
        if !(1..=1_000_000).contains(&self.partitions) {
            return invalid("partitions", format!("{} is not in 1..=1000000", self.partitions));
        }
        if !self.codec.is_available() {
            let name = self.codec.name();
            return invalid("codec", format!("{name} needs the cargo feature `{name}`"));
        }
        if !(64..=BATCH_BYTES_MAX).contains(&self.record_bytes_max) {
            let found = self.record_bytes_max;
            return invalid(
                "record_bytes_max",
                format!("{found} is not in 64..={BATCH_BYTES_MAX}"),
            );
        }
        if self.batch_bytes > BATCH_BYTES_MAX {
            return invalid("batch_bytes", format!("is above {BATCH_BYTES_MAX}"));
        }
        // A segment may exceed its size by one batch, and positions in it are 31 bits.
        if !(64..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return invalid("segment_bytes", format!("{} is not in 64..=2^30", self.segment_bytes));
        }
        if self.segment_ms <= 0 {
            return invalid("segment_ms", "must be positive".to_owned());
        }
        if self.index_bytes_max < 24 {
            return invalid("index_bytes_max", "is below 24".to_owned());
        }
        if self.min_dirty_percent > 100 {
            return invalid("min_dirty_percent", "is above 100".to_owned());
        }
        Ok(())
    }
}

/// A value as one word of the catalogue.
trait Word: Sized {
    fn show(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

impl Word for bool {
    fn show(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Word for u64 {
    fn show(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl<T: Word> Word for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or("none".to_owned(), Word::show)
    }

    fn read(text: &str) -> Option<Self> {
        if text == "none" { Some(None) } else { T::read(text).map(Some) }
    }
}

/// Seconds with nine places.
impl Word for Duration {
    fn show(&self) -> String {
        format!("{}.{:09}", self.as_secs(), self.subsec_nanos())
    }

    fn read(text: &str) -> Option<Self> {
        let (seconds, nanos) = text.split_once('.')?;
        let nanos = nanos.parse().ok().filter(|count| nanos.len() == 9 && *count < 1_000_000_000);
        Some(Self::new(seconds.parse().ok()?, nanos?))
    }
}

impl Word for u32 {
    fn show(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Word for i64 {
    fn show(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Word for Level {
    fn show(&self) -> String {
        self.name().to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Word for Codec {
    fn show(&self) -> String {
        self.name().to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == text)
    }
}

impl Word for TimestampType {
    fn show(&self) -> String {
        match self {
            Self::Create => "create".to_owned(),
            Self::Append => "append".to_owned(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "create" => Some(Self::Create),
            "append" => Some(Self::Append),
            _ => None,
        }
    }
}

/// The options of a topic as they are now, read without a lock by all who append to it.
///
/// Each change is a link of a chain that only grows, which is what lets a reader keep its reference. A topic is changed by
/// hand a few times in the life of a process, so the way to the last link is short.
#[derive(Debug)]
pub(super) struct LiveOptions {
    options: TopicOptions,
    next: OnceLock<Box<LiveOptions>>,
}

impl LiveOptions {
    pub(super) fn new(options: TopicOptions) -> Self {
        Self { options, next: OnceLock::new() }
    }

    /// Lets other options count from now on.
    pub(super) fn set(&self, options: TopicOptions) {
        let mut link = self;
        let mut new = Box::new(Self::new(options));
        loop {
            match link.next.get() {
                Some(next) => link = next,
                None if **link == new.options => return,
                None => match link.next.set(new) {
                    Ok(()) => return,
                    Err(refused) => new = refused,
                },
            }
        }
    }
}

impl Deref for LiveOptions {
    type Target = TopicOptions;

    #[inline]
    fn deref(&self) -> &TopicOptions {
        let mut link = self;
        while let Some(next) = link.next.get() {
            link = next;
        }
        &link.options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_back_from_their_words() {
        let options = TopicOptions::default()
            .level(Level::Buffered)
            .codec(Codec::Lz4)
            .timestamps(TimestampType::Append)
            .segment_ms(12)
            .batch_bytes(7)
            .retention_bytes(Some(9))
            .retention(Some(Duration::new(3, 7)))
            .compact(true)
            .delete_retention(Duration::from_millis(1500))
            .min_dirty_percent(10);
        let mut read = TopicOptions::default();
        assert!(options.words().iter().all(|word| read.set_word(word)));
        assert_eq!(read, options);
        assert!(!read.set_word("colour") && !read.set_word("level=x"));
        assert!(!read.set_word("retention=1.5") && !read.set_word("compact=1"));
    }

    #[test]
    fn what_a_later_version_stored_is_kept() {
        let mut read = TopicOptions::default();
        assert!(read.set_word("colour=blue"));
        assert!(read.words().contains(&"colour=blue".to_owned()));
    }

    #[test]
    fn changed_options_count_for_everybody_at_once() {
        let live = LiveOptions::new(TopicOptions::default());
        for bytes in [1, 2, 2, 3] {
            live.set(TopicOptions::default().batch_bytes(bytes));
            assert_eq!(live.batch_bytes, bytes);
        }
        let links = std::iter::successors(Some(&live), |link| link.next.get().map(|next| &**next));
        assert_eq!(links.count(), 4, "what changes nothing is no link");
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        TopicOptions::default().check().unwrap();
        assert!(TopicOptions::default().partitions(0).check().is_err());
        assert!(TopicOptions::default().segment_bytes(u32::MAX).check().is_err());
        assert!(TopicOptions::default().record_bytes_max(u32::MAX).check().is_err());
    }
}
