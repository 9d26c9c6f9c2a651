//! The write side of a partition: appends finished batches to the last segment and starts new ones. All of it runs
//! under the partition's writer lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ahead::Ahead;
use super::producers::Producers;
use super::times::TimesFile;
use super::watermark::Watermark;
use super::{Partition, View};
use crate::log::append::gather::Outlook;
use crate::log::disk;
use crate::log::error::LogError;
use crate::log::format::checkpoint::{EpochStart, encode_epochs};
use crate::log::format::names::{FileKind, FileName, LEADER_EPOCHS};
use crate::log::format::{BatchHeader, producers};
use crate::log::options::BATCH_BYTES_MAX;
use crate::log::segment::Segment;
use crate::log::threads;
use crate::sync::lock;

/// The writer's own state.
#[derive(Debug)]
pub(in crate::log) struct Writer {
    pub(in crate::log) active: Arc<Segment>,
    /// Where each writer's batches begin, as in the file.
    pub(in crate::log) epochs: Vec<EpochStart>,
    /// Producers up to the published end; those of gathered batches are elsewhere.
    pub(in crate::log) producers: Producers,
    /// Whether this incarnation has appended: it is in `epochs`, the indexes are loaded.
    pub(in crate::log) begun: bool,
    /// Timestamp of the active segment's first batch.
    first_timestamp: Option<i64>,
    /// Largest timestamp of the active segment.
    max_timestamp: i64,
    index_full: bool,
    /// Bytes for which space is reserved in the active segment.
    reserved: u64,
    /// Zeros behind the end of the active segment.
    pub(super) ahead: Ahead,
    /// Headers of the batches being appended; kept for its memory.
    headers: Vec<BatchHeader>,
    /// When segments were appended to, as in the file.
    pub(in crate::log) times: TimesFile,
    /// Offsets of the producer snapshots that are there, rising.
    pub(in crate::log) snapshots: Vec<i64>,
    /// Bytes appended since the last snapshot.
    since_snapshot: u64,
    /// Bytes may lie behind the published end that were not cut off yet: nothing is written before they are.
    pub(in crate::log) uncut: bool,
}

impl Writer {
    /// A writer that goes on after what `active` holds.
    pub(in crate::log) fn new(
        active: Arc<Segment>,
        epochs: Vec<EpochStart>,
        producers: Producers,
        max_timestamp: i64,
    ) -> Self {
        Self {
            active,
            epochs,
            producers,
            begun: false,
            first_timestamp: None,
            max_timestamp,
            index_full: false,
            reserved: 0,
            ahead: Ahead::default(),
            headers: Vec::new(),
            times: TimesFile::default(),
            snapshots: Vec::new(),
            since_snapshot: 0,
            uncut: false,
        }
    }

    /// What will be durable after a sync of the active segment that begins now.
    pub(in crate::log) fn watermark(&self, epoch: i32) -> Watermark {
        Watermark {
            segment: self.active.base_offset,
            position: self.active.end(),
            offset: self.active.next_offset(),
            epoch,
            max_timestamp: self.max_timestamp,
            producers: !self.producers.is_empty(),
            sync_failed: false,
        }
    }

    /// Whether what has gathered can be written without waiting for more than a system call: it needs no other segment, and
    /// nothing is to be noted beside it durably.
    pub(in crate::log) fn writes_at_once(&self, partition: &Partition, next: Outlook) -> bool {
        let Outlook { bytes, batches, next_offset, max_timestamp, producers } = next;
        let (options, end) = (&partition.options, self.active.end());
        let fits = end + bytes <= u64::from(options.segment_bytes);
        let near = next_offset - self.active.base_offset <= i64::from(i32::MAX);
        // Of several batches the first might be too old for the last.
        let young = self
            .first_timestamp
            .map_or(batches < 2, |first| max_timestamp.saturating_sub(first) <= options.segment_ms);
        let snapshot = (producers || !self.snapshots.is_empty())
            && self.since_snapshot + bytes >= partition.shared.producer_snapshot_bytes;
        let continues = fits && near && young && !self.index_full;
        let now_ms = partition.shared.clock.now_ms();
        self.begun && !self.uncut && continues && !snapshot && !self.is_old(partition, now_ms)
    }

    /// Appends encoded batches, whose offsets go on from the published end. What was appended before an error is
    /// published, and nothing else is there.
    pub(in crate::log) fn append(
        &mut self,
        partition: &Partition,
        batches: &[Vec<u8>],
    ) -> Result<(), LogError> {
        self.cut(partition)?;
        match self.begin(partition) {
            Err(error) if error.is_full() && partition.shared.take_ahead() => {
                self.begin(partition)?;
            }
            begun => begun?,
        }
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        for batch in batches {
            let decoded = BatchHeader::decode(batch);
            headers.push(decoded.map_err(|error| partition.bad_batch(error))?);
            // It cannot be: whoever hands batches over has seen to that. But what readers take for damage is never written.
            if batch.len() > BATCH_BYTES_MAX as usize {
                return Err(partition.too_large(batch.len(), BATCH_BYTES_MAX as usize));
            }
        }
        let mut appended = self.append_all(partition, batches, &headers);
        if appended.as_ref().is_err_and(LogError::is_full) && partition.shared.take_ahead() {
            // There is room now that only zeros took.
            let end = self.active.next_offset();
            let done = headers.partition_point(|header| header.base_offset < end);
            let (_, batches) = batches.split_at(done);
            let (_, headers) = headers.split_at(done);
            appended = self.append_all(partition, batches, headers);
            // What the first write has left is the beginning of just these batches.
            self.uncut &= appended.is_err();
        }
        self.headers = headers;
        appended
    }

    fn append_all(
        &mut self,
        partition: &Partition,
        mut batches: &[Vec<u8>],
        mut headers: &[BatchHeader],
    ) -> Result<(), LogError> {
        let now_ms = partition.shared.clock.now_ms();
        while let Some(first) = headers.first() {
            if self.is_old(partition, now_ms) || self.must_roll(partition, first, self.active.end())
            {
                self.roll(partition)?;
            }
            let mut end = self.active.end();
            let mut count = 0;
            for header in headers {
                if count > 0 && self.must_roll(partition, header, end) {
                    break;
                }
                end += header.batch_bytes() as u64;
                count += 1;
            }
            let (batches_now, batches_later) = batches.split_at(count);
            let (headers_now, headers_later) = headers.split_at(count);
            self.write(partition, batches_now, headers_now, end, now_ms)?;
            (batches, headers) = (batches_later, headers_later);
        }
        Ok(())
    }

    /// Whether the active segment was begun so long ago that it must not be continued.
    pub(in crate::log) fn is_old(&self, partition: &Partition, now_ms: i64) -> bool {
        let first = self.active.times().first;
        first >= 0 && now_ms.saturating_sub(first) > partition.options.segment_ms
    }

    /// Whether this batch must not go behind `end` bytes of the active segment.
    fn must_roll(&self, partition: &Partition, next: &BatchHeader, end: u64) -> bool {
        if end == 0 {
            return false;
        }
        let options = &partition.options;
        let full = end + next.batch_bytes() as u64 > u64::from(options.segment_bytes);
        let far = next.last_offset() - self.active.base_offset > i64::from(i32::MAX);
        let age = |first: i64| next.max_timestamp.saturating_sub(first);
        let old = self.first_timestamp.is_some_and(|first| age(first) > options.segment_ms);
        full || far || old || self.index_full
    }

    fn write(
        &mut self,
        partition: &Partition,
        batches: &[Vec<u8>],
        headers: &[BatchHeader],
        end: u64,
        now_ms: i64,
    ) -> Result<(), LogError> {
        let active = self.active.clone();
        self.reserve(partition, end);
        if let Err(error) = active.write(batches) {
            if !error.is_full() {
                return Err(partition.poison(&error));
            }
            let all = self.keep_whole(partition, batches, headers, now_ms)?;
            return if all { Ok(()) } else { Err(error) };
        }
        self.publish(partition, headers, end, now_ms);
        Ok(())
    }

    /// After a write for which there was no space: what got into the file as whole batches stays, because another process
    /// may have read it, and what did not is cut off, because it must not be taken for an append when something shorter
    /// follows it. Whether all of them stay.
    #[cold]
    fn keep_whole(
        &mut self,
        partition: &Partition,
        batches: &[Vec<u8>],
        headers: &[BatchHeader],
        now_ms: i64,
    ) -> Result<bool, LogError> {
        let active = self.active.clone();
        let count = active.count_written(batches).map_err(|error| partition.poison(&error))?;
        let (kept, lost) = headers.split_at(count.min(headers.len()));
        let bytes: u64 = kept.iter().map(|header| header.batch_bytes() as u64).sum();
        self.publish(partition, kept, active.end() + bytes, now_ms);
        self.uncut = true;
        // That waits for the medium. Nothing follows before it is done, so whoever can wait may do it later.
        if !threads::must_not_block() {
            self.cut(partition)?;
        }
        Ok(lost.is_empty())
    }

    /// Cuts off what a write has left for which there was no space, if that was not done then.
    pub(in crate::log) fn cut(&mut self, partition: &Partition) -> Result<(), LogError> {
        if self.uncut {
            partition.cut_to_end(&self.active)?;
            self.ahead.cut();
            self.uncut = false;
        }
        Ok(())
    }

    /// Lets readers see batches that are in the file.
    fn publish(&mut self, partition: &Partition, headers: &[BatchHeader], end: u64, now_ms: i64) {
        let active = self.active.clone();
        if headers.is_empty() {
            return;
        }
        let mut at = active.end();
        for header in headers {
            let index_bytes = active.note(at, header, partition.options.index_interval_bytes);
            self.index_full |= index_bytes >= partition.options.index_bytes_max as usize;
            self.first_timestamp.get_or_insert(header.base_timestamp);
            self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
            self.producers.note_at(header, now_ms);
            at += header.batch_bytes() as u64;
        }
        let next_offset =
            headers.last().map_or(active.next_offset(), |last| last.last_offset() + 1);
        self.since_snapshot += end - active.end();
        let first = active.appended(now_ms);
        active.publish(end, next_offset);
        if first {
            self.times.note(&partition.home, &active);
        }
        partition.written_end.store(next_offset, Ordering::SeqCst);
        partition.wake_readers();
        if self.since_snapshot >= partition.shared.producer_snapshot_bytes {
            self.save_snapshot(partition);
        }
    }

    /// Reserves space ahead, if the topic wants that. It may fail.
    fn reserve(&mut self, partition: &Partition, end: u64) {
        let step = u64::from(partition.options.preallocate_bytes);
        if step > 0 && end > self.reserved {
            self.reserved = end.next_multiple_of(step).min(partition.options.segment_bytes.into());
            self.reserved = self.reserved.max(end);
            if let Ok(file) = self.active.file() {
                let _ = file.preallocate(self.reserved);
            }
        }
    }

    /// Makes ready for the first append of this incarnation: notes where its batches begin.
    pub(in crate::log) fn begin(&mut self, partition: &Partition) -> Result<(), LogError> {
        if self.begun {
            return Ok(());
        }
        self.active.prepare()?;
        // It stays open, so that no write will fail for want of that.
        self.active.file()?;
        self.first_timestamp = match self.active.end() {
            0 => None,
            _ => self.active.first_timestamp()?,
        };
        let (epoch, start_offset) = (partition.shared.epoch, self.active.next_offset());
        // An entry that was written in vain, for an append that failed, is replaced.
        self.epochs.retain(|entry| entry.epoch < epoch && entry.start_offset < start_offset);
        self.epochs.push(EpochStart { epoch, start_offset });
        save_epochs(partition, &self.epochs)?;
        self.begun = true;
        Ok(())
    }

    /// Ends the active segment and starts the next. A segment only exists when all before it are durable.
    pub(in crate::log) fn roll(&mut self, partition: &Partition) -> Result<(), LogError> {
        self.cut(partition)?;
        let ended = self.active.clone();
        self.times.note(&partition.home, &ended);
        self.expire_producers(partition);
        // Whoever finds a segment that has another one behind it takes all of its file for batches.
        self.cut_ahead(partition)?;
        partition.sync_to(&ended, self.watermark(partition.shared.epoch))?;
        let base_offset = ended.next_offset();
        self.save_snapshot(partition);
        let next = self.create_segment(partition, base_offset)?;
        if self.reserved > ended.end() {
            let _ = ended.file().map(|file| file.set_len(ended.end()));
        }
        // Indexes can be built again, so a failure to save them stops nothing.
        let _ = ended.seal();
        self.active = next.clone();
        (self.first_timestamp, self.max_timestamp) = (None, -1);
        (self.index_full, self.reserved) = (false, 0);
        self.ahead.rolled();
        let mut view = lock(&partition.view);
        let mut segments = view.segments.clone();
        segments.push(next);
        *view = Arc::new(View { segments });
        drop(view);
        partition.now_durable(self.watermark(partition.shared.epoch));
        partition.shared.maintenance.wanted(&partition.options);
        Ok(())
    }

    fn create_segment(
        &self,
        partition: &Partition,
        base_offset: i64,
    ) -> Result<Arc<Segment>, LogError> {
        let home = &partition.home;
        let created = Segment::create(home.clone(), base_offset).and_then(|segment| {
            let synced = home.storage.sync_dir(&home.directory);
            synced.map_err(|error| home.failed(error)).map(|()| segment)
        });
        created.map(Arc::new).map_err(|error| {
            if error.is_out_of_files() {
                return error;
            }
            // The active segment goes on, and nothing may lie beside what it gets to hold, after a power cut neither.
            let path = home.file(base_offset, FileKind::Log);
            let removed = disk::remove_if_there(&*home.storage, &path)
                .and_then(|()| home.storage.sync_dir(&home.directory));
            match removed {
                Ok(()) if error.is_full() => error,
                _ => partition.poison(&error),
            }
        })
    }

    /// Forgets producers that were silent for too long.
    pub(in crate::log) fn expire_producers(&mut self, partition: &Partition) {
        let shared = &partition.shared;
        let silent_since_ms = shared.clock.now_ms().saturating_sub(shared.producer_expiry_ms);
        let expired = self.producers.expire(silent_since_ms);
        if expired.is_empty() {
            return;
        }
        let mut gather = lock(&partition.gather);
        for (producer, last_offset) in expired {
            gather.producers.forget(producer, last_offset);
        }
    }

    /// Writes down what is known of producers up to the end, and removes what was written so long ago that nothing needs
    /// it. It may fail: an older one and the log say the same.
    pub(in crate::log) fn save_snapshot(&mut self, partition: &Partition) {
        self.since_snapshot = 0;
        let offset = self.active.next_offset();
        if self.producers.is_empty() && self.snapshots.is_empty() {
            return;
        }
        let home = &partition.home;
        let name = FileName::live(u64::try_from(offset).unwrap_or(0), FileKind::ProducerSnapshot);
        let Ok(bytes) = producers::encode(&self.producers.entries()) else { return };
        let name = name.to_string();
        if disk::replace(&*home.storage, &home.directory, &name, &bytes).is_err() {
            return;
        }
        self.snapshots.retain(|known| *known < offset);
        self.snapshots.push(offset);
        // After a crash those count that are not beyond the watermark, which must not fall behind what is removed here; and
        // should the newest of them be damaged then, there is one before it.
        let watermark = lock(&partition.watermark);
        let Ok(()) = watermark.sync() else { return };
        let durable = watermark.last().offset;
        drop(watermark);
        let usable = self.snapshots.partition_point(|snapshot| *snapshot <= durable);
        for old in self.snapshots.drain(..usable.saturating_sub(2)) {
            let path = home.file(old, FileKind::ProducerSnapshot);
            // One that stays does no harm, and goes when the log is opened next.
            let _ = disk::remove_if_there(&*home.storage, &path);
        }
    }
}

/// Replaces the file of epochs.
pub(in crate::log) fn save_epochs(
    partition: &Partition,
    epochs: &[EpochStart],
) -> Result<(), LogError> {
    let home = &partition.home;
    let text = encode_epochs(epochs).map_err(|error| partition.bad_batch(error))?;
    let replaced = disk::replace(&*home.storage, &home.directory, LEADER_EPOCHS, text.as_bytes());
    replaced.map_err(|error| home.failed(error))
}
