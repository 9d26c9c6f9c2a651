//! A topic of an open log, and one partition of it, as callers have them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::append::{NewRecord, Ticket};
use super::error::LogError;
use super::format::Id;
use super::format::murmur2::partition_for_key;
use super::options::{Level, LiveOptions, TopicOptions};
use super::partition::Partition;
use super::read::{Position, Reader};
use super::{Open, partition, transaction};

/// A topic that is open.
#[derive(Debug)]
pub(super) struct TopicInner {
    pub(super) name: String,
    pub(super) id: Id,
    /// The same that its partitions have.
    pub(super) options: Arc<LiveOptions>,
    pub(super) partitions: Vec<Arc<Partition>>,
    /// Bytes of records without key: they go to one partition until a batch's worth has gone there.
    unkeyed_bytes: AtomicU64,
}

impl TopicInner {
    pub(super) fn new(
        name: String,
        id: Id,
        options: Arc<LiveOptions>,
        partitions: Vec<Arc<Partition>>,
    ) -> Self {
        Self { name, id, options, partitions, unkeyed_bytes: AtomicU64::new(0) }
    }

    pub(super) fn partition(&self, number: u32) -> Result<&Arc<Partition>, LogError> {
        self.partitions.get(number as usize).ok_or_else(|| {
            let (topic, partition) = (self.name.clone(), number);
            LogError::UnknownPartition { topic, partition }
        })
    }

    #[inline]
    pub(super) fn choose(&self, record: &NewRecord<'_>) -> Result<&Arc<Partition>, LogError> {
        let count = self.partitions.len();
        if count == 1 {
            return self.partition(0);
        }
        match (record.key, NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX))) {
            (Some(key), Some(count)) => self.partition(partition_for_key(key, count)),
            _ => {
                let bytes = record.bytes() as u64;
                let gone = self.unkeyed_bytes.fetch_add(bytes, Ordering::Relaxed);
                let batch = gone / u64::from(self.options.batch_bytes.max(1));
                self.partition((batch % count as u64) as u32)
            }
        }
    }
}

/// What a topic is and holds, at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id, by which it is told from an earlier one of the same name.
    pub id: Id,
    /// Its options.
    pub options: TopicOptions,
    /// Its partitions in order.
    pub partitions: Vec<PartitionDescription>,
}

/// What a partition holds, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// First offset that is there.
    pub earliest: i64,
    /// The offset after the last one that is written.
    pub end: i64,
    /// The offset after the last one that is durable.
    pub durable_end: i64,
    /// Number of segments.
    pub segments: usize,
    /// Bytes of all segments, without indexes.
    pub bytes: u64,
    /// Offsets that were cut from the front since the log was opened, by retention or by hand.
    pub removed_records: u64,
    /// Bytes of segments that were removed since then.
    pub removed_bytes: u64,
    /// Records that compaction removed since then.
    pub compacted_records: u64,
    /// Bytes that compaction gave back since then.
    pub compacted_bytes: u64,
}

/// A topic of an open log. Clones are the same topic; each keeps the log open.
#[derive(Clone, Debug)]
pub struct Topic {
    pub(super) inner: Arc<TopicInner>,
    pub(super) log: Arc<Open>,
}

impl Topic {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its options.
    pub fn options(&self) -> &TopicOptions {
        &self.inner.options
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.inner.partitions.len()).unwrap_or(u32::MAX)
    }

    /// What it holds now.
    pub fn describe(&self) -> TopicDescription {
        TopicDescription {
            name: self.inner.name.clone(),
            id: self.inner.id,
            options: TopicOptions::clone(&self.inner.options),
            partitions: self.inner.partitions.iter().map(|partition| describe(partition)).collect(),
        }
    }

    /// What one partition holds now.
    ///
    /// # Errors
    /// `UnknownPartition`.
    pub fn describe_partition(&self, partition: u32) -> Result<PartitionDescription, LogError> {
        self.inner.partition(partition).map(|partition| describe(partition))
    }

    /// Appends a record at the topic's level: to the partition of its key, or, without key, to one that changes from
    /// batch to batch. Returns at once; the ticket tells when it is done.
    ///
    /// Records of one thread to one partition keep their order.
    ///
    /// # Errors
    /// `TooLarge`, `KeyMissing`; `Poisoned`, `Closed`, `ReadOnly`. Whether it could be written is told by the ticket.
    #[inline]
    pub fn append<'a>(&self, record: impl Into<NewRecord<'a>>) -> Result<Ticket, LogError> {
        let record = record.into();
        let partition = self.inner.choose(&record)?;
        partition.check_key(&record)?;
        partition.append(&record, self.inner.options.level)
    }

    /// As [`append`](Self::append), at another level.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    #[inline]
    pub fn append_at<'a>(
        &self,
        level: Level,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<Ticket, LogError> {
        let record = record.into();
        let partition = self.inner.choose(&record)?;
        partition.check_key(&record)?;
        partition.append(&record, level)
    }

    /// Appends a record to a partition of the caller's choice.
    ///
    /// # Errors
    /// `UnknownPartition`, and as [`append`](Self::append).
    #[inline]
    pub fn append_to<'a>(
        &self,
        partition: u32,
        level: Level,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<Ticket, LogError> {
        let (record, partition) = (record.into(), self.inner.partition(partition)?);
        partition.check_key(&record)?;
        partition.append(&record, level)
    }

    /// Appends several records to one partition, one behind the other; the ticket is that of the last, and there is none
    /// for no records. A crash may keep only the first of them.
    ///
    /// # Errors
    /// As [`append_to`](Self::append_to); when one is too large none is appended.
    pub fn append_all(
        &self,
        partition: u32,
        level: Level,
        records: &[NewRecord<'_>],
    ) -> Result<Option<Ticket>, LogError> {
        let partition = self.inner.partition(partition)?;
        records.iter().try_for_each(|record| partition.check_key(record))?;
        partition.append_all(records, level)
    }

    /// Appends an encoded batch as it is, but for its offsets: from a remote or an idempotent producer, or from another
    /// log. A batch that its producer sent before, and that is one of the last five of it in the partition, is not appended
    /// again; the ticket has the offsets it got then. What is known of a producer outlives the end of the process, however
    /// that comes, unless the producer is silent for as long as [`LogOptions`](super::LogOptions::producer_expiry) says.
    ///
    /// # Errors
    /// `BadBatch`; `OutOfSequence` for a gap, or an older repetition; `Fenced`, and as [`append_to`](Self::append_to); `Invalid`
    /// for a producer id that is for transactions, from 2^62 on, or for more records than a batch can have.
    pub fn append_batch(
        &self,
        partition: u32,
        level: Level,
        batch: &[u8],
    ) -> Result<Ticket, LogError> {
        transaction::check_users_batch(batch)?;
        let partition = self.inner.partition(partition)?;
        partition.check_keys(batch)?;
        partition.append_batch(batch, level)
    }

    /// Writes what has gathered in all partitions.
    ///
    /// # Errors
    /// The first failure.
    pub fn flush(&self) -> Result<(), LogError> {
        self.inner.partitions.iter().try_for_each(|partition| partition.write_now())
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// The first failure.
    pub fn sync(&self) -> Result<(), LogError> {
        self.inner.partitions.iter().try_for_each(|partition| partition.flush_durable())
    }

    /// Reads a partition from a position on.
    ///
    /// # Errors
    /// `UnknownPartition`; `OffsetOutOfRange` for an offset that is not there any more, or beyond the end.
    pub fn read(&self, partition: u32, from: Position) -> Result<Reader, LogError> {
        let from = self.resolve(partition, from)?;
        Reader::new(self.inner.partition(partition)?.clone(), from)
    }

    /// The offset a position stands for now.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn offset_of(&self, partition: u32, position: Position) -> Result<i64, LogError> {
        let position = self.resolve(partition, position)?;
        self.inner.partition(partition)?.offset_of(position)
    }

    /// The position, with what a group has committed in place of its name.
    fn resolve(&self, partition: u32, position: Position) -> Result<Position, LogError> {
        match position {
            Position::Committed(group) => {
                let committed = self.log.goes_on_at(&group, self.name(), partition)?;
                Ok(committed.map_or(Position::Earliest, Position::Offset))
            }
            other => Ok(other),
        }
    }

    /// Forgets all records before an offset and gives back the space of segments that have no others. Durable when this
    /// returns; what is before the offset is made durable first.
    ///
    /// # Errors
    /// `OffsetOutOfRange` beyond the end; failures of the storage. If files could not be removed the records are forgotten
    /// nevertheless; called again this tries again, and so does the next pass of maintenance.
    pub fn truncate_front(&self, partition: u32, offset: i64) -> Result<(), LogError> {
        self.log.truncate_front(&self.inner, partition, offset)
    }
}

fn describe(partition: &partition::Partition) -> PartitionDescription {
    let (view, counters) = (partition.view(), &partition.counters);
    PartitionDescription {
        earliest: partition.log_start(),
        end: partition.written_end(),
        durable_end: partition.durable_end(),
        segments: view.segments.len(),
        bytes: view.segments.iter().map(|segment| segment.end()).sum(),
        removed_records: counters.removed_records.load(Ordering::Relaxed),
        removed_bytes: counters.removed_bytes.load(Ordering::Relaxed),
        compacted_records: counters.compacted_records.load(Ordering::Relaxed),
        compacted_bytes: counters.compacted_bytes.load(Ordering::Relaxed),
    }
}
