//! Records gather here until somebody writes them: encoded already, with their offsets, in batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Group, NewRecord, Ticket};
use crate::log::error::LogError;
use crate::log::format::batch::{
    TimestampType, set_append_time, set_base_offset, set_leader_epoch,
};
use crate::log::format::{BatchBuilder, BatchHeader, BatchOptions, BatchView, Codec, FormatError};
use crate::log::options::{Level, TopicOptions};
use crate::log::partition::Partition;
use crate::log::partition::producers::{Producers, Verdict};
use crate::sync::{MutexGuard, lock};

/// Records that share one look at the clock.
const RECORDS_PER_CLOCK: u32 = 64;
/// What nobody waits for is written when this many batches' worth has gathered, or this many bytes: systems are a third
/// faster with such pieces than with single batches.
const WRITTEN_BATCHES: usize = 4;
const WRITTEN_BYTES: usize = 256 << 10;
/// Appenders wait for the writer when this many batches' worth has gathered.
const GATHERED_BATCHES_MAX: usize = 16;

/// A batch that is complete but for its header, or complete, or that could not be completed.
#[derive(Debug)]
pub(in crate::log) enum Parcel {
    Records(BatchBuilder),
    Encoded(Vec<u8>),
    Bad(FormatError),
}

/// What has gathered in a partition and is not being written yet.
#[derive(Debug)]
pub(in crate::log) struct Gather {
    open: Option<BatchBuilder>,
    closed: Vec<Parcel>,
    /// Bytes in `closed`.
    closed_bytes: usize,
    /// Whether the keeper has been asked to write it.
    called: bool,
    /// The fate of all that is here; `None` when nothing is.
    group: Option<Arc<Group>>,
    /// The fate of what is being written.
    in_flight: Option<Arc<Group>>,
    /// What the next record gets.
    pub(in crate::log) next_offset: i64,
    /// Up to `next_offset`.
    pub(in crate::log) producers: Producers,
    now_ms: i64,
    clock_left: u32,
}

/// When to write what nobody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// When it has gathered for a while.
    Later,
    /// The keeper does it as soon as it can.
    Soon,
    /// As `Soon`, and it was asked already.
    Called,
    /// Before more gathers.
    Now,
}

/// What would be written now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log) struct Outlook {
    /// No fewer than it takes in the segment.
    pub(in crate::log) bytes: u64,
    pub(in crate::log) batches: usize,
    pub(in crate::log) next_offset: i64,
    pub(in crate::log) max_timestamp: i64,
    /// Whether any producer is known.
    pub(in crate::log) producers: bool,
}

/// What is taken out to be written.
#[derive(Debug)]
pub(in crate::log) struct Load {
    pub(in crate::log) parcels: Vec<Parcel>,
    pub(in crate::log) group: Arc<Group>,
}

impl Gather {
    pub(in crate::log) fn new(next_offset: i64, producers: Producers) -> Self {
        Self {
            open: None,
            closed: Vec::new(),
            closed_bytes: 0,
            called: false,
            group: None,
            in_flight: None,
            next_offset,
            producers,
            now_ms: 0,
            clock_left: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.closed_bytes + self.open.as_ref().map_or(0, BatchBuilder::bytes)
    }

    /// Whether what has gathered should be written though nobody waits for it. `Soon` is said once.
    #[inline]
    pub(super) fn due(&mut self, options: &TopicOptions) -> Due {
        let (bytes, batch) = (self.bytes(), options.batch_bytes as usize);
        if bytes < batch.saturating_mul(WRITTEN_BATCHES).min(batch.max(WRITTEN_BYTES)) {
            Due::Later
        } else if self.is_full(options) {
            Due::Now
        } else if std::mem::replace(&mut self.called, true) {
            Due::Called
        } else {
            Due::Soon
        }
    }

    pub(super) fn group(&mut self, partition: &Arc<Partition>) -> &Arc<Group> {
        self.group.get_or_insert_with(|| Arc::new(Group::new(partition.clone())))
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.closed_bytes += open.bytes();
            self.closed.push(Parcel::Records(open));
        }
    }

    /// Closes a full batch. A plain one gets its checksum here: its bytes are in the cache of this core still, and another one
    /// may have to fetch them from it. To compress takes long, so whoever writes does that, without the lock.
    fn close_full(&mut self, codec: Codec) {
        if codec != Codec::None {
            return self.close();
        }
        if let Some(open) = self.open.take() {
            self.closed_bytes += open.bytes();
            self.closed.push(open.finish().map_or_else(Parcel::Bad, Parcel::Encoded));
        }
    }

    /// Starts a batch at the next offset.
    fn start(&mut self, partition: &Partition) -> BatchBuilder {
        self.now_ms = partition.shared.clock.now_ms();
        self.clock_left = RECORDS_PER_CLOCK;
        let appended = partition.options.timestamps == TimestampType::Append;
        let options = BatchOptions {
            base_offset: self.next_offset,
            leader_epoch: partition.shared.epoch,
            codec: partition.options.codec,
            append_time_ms: appended.then_some(self.now_ms),
            ..BatchOptions::default()
        };
        BatchBuilder::with_buffer(options, partition.shared.spares.take())
    }

    /// Encodes a record into the open batch; returns its offset.
    #[inline]
    pub(super) fn push(
        &mut self,
        partition: &Partition,
        record: &NewRecord<'_>,
    ) -> Result<i64, LogError> {
        if self.open.is_some() && self.clock_left == 0 {
            self.now_ms = partition.shared.clock.now_ms();
            self.clock_left = RECORDS_PER_CLOCK;
        }
        if let Some(open) = &self.open
            && (open.bytes() + bytes_bound(record) > partition.options.gather_limit()
                || !open.reaches(record.timestamp_ms.unwrap_or(self.now_ms)))
        {
            self.close();
        }
        if self.open.is_none() {
            self.open = Some(self.start(partition));
        }
        self.clock_left -= 1;
        let Some(open) = &mut self.open else { return Err(LogError::Closed) };
        let timestamp = record.timestamp_ms.unwrap_or(self.now_ms);
        let headers = record.headers.iter().copied();
        let offset = match open.append(timestamp, record.key, record.value, headers) {
            Ok(offset) => offset,
            Err(error) => {
                // An empty batch must not be written.
                self.open = self.open.take().filter(|open| !open.is_empty());
                return Err(partition.bad_batch(error));
            }
        };
        self.next_offset = offset + 1;
        if open.bytes() >= partition.options.batch_bytes as usize {
            let codec = open.codec();
            self.close_full(codec);
        }
        Ok(offset)
    }

    /// Whether appenders wait until it is written.
    pub(in crate::log) fn is_full(&self, options: &TopicOptions) -> bool {
        let batch = options.batch_bytes as usize;
        self.bytes() >= batch.saturating_mul(GATHERED_BATCHES_MAX).max(batch)
    }

    /// What would be written now; `None` if nothing has gathered.
    pub(in crate::log) fn outlook(&self) -> Option<Outlook> {
        self.group.as_ref()?;
        let max_timestamp = |parcel: &Parcel| match parcel {
            Parcel::Records(builder) => builder.max_timestamp(),
            Parcel::Encoded(batch) => BatchHeader::decode(batch).map_or(-1, |it| it.max_timestamp),
            Parcel::Bad(_) => -1,
        };
        let open = self.open.iter().map(BatchBuilder::max_timestamp);
        Some(Outlook {
            bytes: self.bytes() as u64,
            batches: self.closed.len() + usize::from(self.open.is_some()),
            next_offset: self.next_offset,
            max_timestamp: self.closed.iter().map(max_timestamp).chain(open).max().unwrap_or(-1),
            producers: !self.producers.is_empty(),
        })
    }

    /// Takes out what has gathered, to be written.
    pub(in crate::log) fn take(&mut self) -> Option<Load> {
        self.close();
        let group = self.group.take()?;
        self.in_flight = Some(group.clone());
        self.closed_bytes = 0;
        self.called = false;
        Some(Load { parcels: std::mem::take(&mut self.closed), group })
    }

    /// What was taken out is written; its buffers can be used again.
    pub(in crate::log) fn written(&mut self, partition: &Partition, buffers: Vec<Vec<u8>>) {
        self.in_flight = None;
        partition.shared.spares.give(buffers, partition.options.batch_bytes as usize);
    }

    /// What was taken out failed from some offset on, and so does all that gathered behind it: the next record gets that
    /// offset. Returns the fate of what gathered.
    pub(in crate::log) fn failed(
        &mut self,
        next_offset: i64,
        producers: &Producers,
    ) -> Option<Arc<Group>> {
        self.in_flight = None;
        self.open = None;
        self.closed.clear();
        self.closed_bytes = 0;
        self.called = false;
        self.next_offset = next_offset;
        self.producers = producers.clone();
        self.group.take()
    }

    /// The fate of a batch that is not written yet but was appended before.
    fn fate(&mut self, partition: &Arc<Partition>) -> Arc<Group> {
        match (&self.group, &self.in_flight) {
            (Some(group), _) | (None, Some(group)) => group.clone(),
            (None, None) => Group::done(partition.clone()),
        }
    }
}

/// Largest framing of a record, and of a header: length, attributes, deltas, lengths, count.
const FRAMING_BYTES_MAX: usize = 64;

/// No less than what a record takes in a batch.
#[inline]
fn bytes_bound(record: &NewRecord<'_>) -> usize {
    record.bytes() + FRAMING_BYTES_MAX * (1 + record.headers.len())
}

impl Partition {
    /// Appends one record. It has its offset when this returns; the ticket tells when more has happened.
    ///
    /// # Errors
    /// `TooLarge`; whatever stops all appends.
    #[inline]
    pub(in crate::log) fn append(
        self: &Arc<Self>,
        record: &NewRecord<'_>,
        level: Level,
    ) -> Result<Ticket, LogError> {
        self.check_record(record)?;
        let mut gather = self.gather_open()?;
        let offset = gather.push(self, record)?;
        let group = gather.group(self).clone();
        let due = gather.due(&self.options);
        drop(gather);
        let ticket = Ticket::new(group, offset, offset, level);
        self.gathered(due);
        Ok(ticket)
    }

    /// Appends several records, whose offsets go on from one another; the ticket is that of the last.
    pub(in crate::log) fn append_all(
        self: &Arc<Self>,
        records: &[NewRecord<'_>],
        level: Level,
    ) -> Result<Option<Ticket>, LogError> {
        for record in records {
            self.check_record(record)?;
        }
        let mut gather = self.gather_open()?;
        let first = gather.next_offset;
        let mut last = None;
        for record in records {
            // The group first: what is pushed has a fate even if the next record fails.
            gather.group(self);
            last = Some(gather.push(self, record)?);
        }
        let Some(last) = last else { return Ok(None) };
        let group = gather.group(self).clone();
        let due = gather.due(&self.options);
        drop(gather);
        self.gathered(due);
        Ok(Some(Ticket::new(group, first, last, level)))
    }

    /// Appends a batch that somebody else encoded: checked, moved to its offset, otherwise as it is. A batch of an
    /// idempotent producer that is there already is not appended again; the ticket then has its old offsets.
    ///
    /// # Errors
    /// `BadBatch` if anything about it is wrong, `OutOfSequence`, `Fenced`, and as [`append`](Self::append).
    pub(in crate::log) fn append_batch(
        self: &Arc<Self>,
        batch: &[u8],
        level: Level,
    ) -> Result<Ticket, LogError> {
        self.check_size(batch.len(), self.options.batch_limit())?;
        let mut batch = batch.to_vec();
        check_foreign(&batch).map_err(|error| self.bad_batch(error))?;
        let mut gather = self.gather_open()?;
        gather.close();
        let first = gather.next_offset;
        let prepared = set_base_offset(&mut batch, first)
            .and_then(|()| set_leader_epoch(&mut batch, self.shared.epoch))
            .and_then(|()| match self.options.timestamps {
                TimestampType::Append => set_append_time(&mut batch, self.shared.clock.now_ms()),
                TimestampType::Create => Ok(()),
            })
            .and_then(|()| BatchView::parse(&batch));
        let header = *prepared.map_err(|error| self.bad_batch(error))?.header();
        match gather.producers.judge(&header, || self.home.place())? {
            Verdict::Duplicate { first_offset, last_offset } => {
                let fate = gather.fate(self);
                return Ok(Ticket::new(fate, first_offset, last_offset, level));
            }
            Verdict::Append => gather.producers.note(&header),
        }
        gather.closed_bytes += batch.len();
        gather.closed.push(Parcel::Encoded(batch));
        gather.next_offset = header.last_offset() + 1;
        let group = gather.group(self).clone();
        let due = gather.due(&self.options);
        drop(gather);
        self.gathered(due);
        Ok(Ticket::new(group, first, header.last_offset(), level))
    }

    /// The gather, if it takes anything. It is asked under its lock, so that whoever closes the log and then writes what
    /// has gathered leaves nothing behind.
    #[inline]
    fn gather_open(&self) -> Result<MutexGuard<'_, Gather>, LogError> {
        let gather = lock(&self.gather);
        self.check()?;
        Ok(gather)
    }

    #[inline]
    fn check_record(&self, record: &NewRecord<'_>) -> Result<(), LogError> {
        self.check_size(bytes_bound(record) - FRAMING_BYTES_MAX, self.options.record_limit())
    }

    #[inline]
    fn check_size(&self, bytes: usize, limit: usize) -> Result<(), LogError> {
        if bytes <= limit { Ok(()) } else { Err(self.too_large(bytes, limit)) }
    }

    /// Writes if enough has gathered, or if somebody waits for it.
    #[inline]
    fn gathered(self: &Arc<Self>, due: Due) {
        if due == Due::Now {
            // A failure may be that of others; the ticket knows.
            self.write_for_task();
        } else if self.is_followed() {
            self.write_without_waiting();
        } else if due == Due::Soon {
            self.write_soon();
        } else if !self.lingering.load(Ordering::Relaxed) {
            self.linger();
        }
    }

    /// Whether somebody waits to read what is appended. Those who wait until it is durable wait for the keeper to write it, if
    /// there is one.
    #[inline]
    fn is_followed(&self) -> bool {
        self.followers.any() || (self.durable_followers.any() && !self.shared.keeper.has_thread())
    }

    /// Has written what has gathered, in a thread beside this one if there is one: copying into the page cache takes
    /// longer than all else, and meanwhile more can gather.
    #[inline(never)]
    fn write_soon(self: &Arc<Self>) {
        if self.shared.keeper.has_thread() {
            self.shared.keeper.write(self);
        } else {
            self.write_without_waiting();
        }
    }

    #[cold]
    fn linger(self: &Arc<Self>) {
        if !self.lingering.swap(true, Ordering::SeqCst) {
            self.shared.keeper.linger(self);
        }
    }
}

/// Refuses batches that a log of our own could not have encoded.
pub(in crate::log) fn check_foreign(batch: &[u8]) -> Result<(), FormatError> {
    use crate::log::format::batch::DECOMPRESSED_BYTES_MAX;
    use crate::log::format::{Fault, Field};
    let invalid = |field, found: i64| {
        Err(FormatError { field, position: 0, fault: Fault::Invalid { found } })
    };
    let view = BatchView::parse(batch)?;
    if view.bytes().len() != batch.len() {
        let count = (batch.len() - view.bytes().len()) as u64;
        let (field, position) = (Field::Records, view.bytes().len());
        return Err(FormatError { field, position, fault: Fault::Trailing { count } });
    }
    let header = view.header();
    if header.attributes.is_control() {
        return invalid(Field::Attributes, header.attributes.bits().into());
    }
    if header.attributes.has_delete_horizon() {
        // Only compaction knows when everything that its tombstones supersede is gone.
        return invalid(Field::Attributes, header.attributes.bits().into());
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        // All batches of the producer would be taken for repetitions of the first.
        return invalid(Field::BaseSequence, header.base_sequence.into());
    }
    if header.records_count != header.last_offset_delta.saturating_add(1) {
        return invalid(Field::RecordsCount, header.records_count.into());
    }
    if header.attributes.codec() != Codec::None && !header.attributes.codec().is_available() {
        // Kept as it is; whoever reads it needs the codec.
        return view.check_crc();
    }
    view.validate(&mut Vec::new(), DECOMPRESSED_BYTES_MAX)
}
