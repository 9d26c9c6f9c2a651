//! Copies segments without the records that are not needed any more.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use super::map::KeyMap;
use super::output::Output;
use crate::log::error::{Damage, LogError, Place};
use crate::log::format::batch::{DECOMPRESSED_BYTES_MAX, TimestampType};
use crate::log::format::{
    BatchBuilder, BatchHeader, BatchOptions, BatchView, FormatError, HeaderRef, Producer, RecordRef,
};
use crate::log::options::{BATCH_BYTES_MAX, SEGMENT_BYTES_MAX};
use crate::log::segment::{Expected, Scanner, Segment};

/// By what is decided which records stay.
#[derive(Debug)]
pub(super) struct Rules {
    /// The last offsets of keys.
    pub(super) keys: KeyMap,
    /// Where `keys` ends: records from here on stay.
    pub(super) end: i64,
    /// Last offsets of the batches by which idempotent producers are remembered.
    pub(super) producers: HashSet<i64>,
    pub(super) now_ms: i64,
    /// When a tombstone that is met now may go.
    pub(super) horizon_ms: i64,
    /// Whether something had to stay that a later record supersedes. Then no tombstone behind it gets a horizon: it may
    /// be the one that must not go.
    pub(super) kept: Cell<bool>,
}

/// What is to become of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Goes,
    Stays,
    /// A tombstone that stays for now, before which nothing of its key is left.
    Waits,
    /// A tombstone that stays, and of whose key there may be something before it.
    Unsettled,
}

impl Rules {
    fn fate(&self, header: &BatchHeader, record: &RecordRef<'_>) -> Fate {
        let offset = header.offset_of(record.offset_delta);
        // Only in topics that were not compacted always; it supersedes nothing, and nothing does it.
        let Some(key) = record.key else { return Fate::Stays };
        let last = self.keys.last_offset(key);
        if last.is_some_and(|last| last > offset) {
            return Fate::Goes;
        }
        if record.value.is_some() || offset >= self.end {
            return if record.value.is_some() { Fate::Stays } else { Fate::Unsettled };
        }
        match header.delete_horizon() {
            Some(horizon) if horizon < self.now_ms => Fate::Goes,
            Some(_) => Fate::Waits,
            None if last == Some(offset) => Fate::Waits,
            None => Fate::Unsettled,
        }
    }
}

/// What was left out, and what is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copied {
    /// Records that were left out.
    pub(super) records: u64,
    /// Batches that are not what they were.
    pub(super) changed: u64,
    /// When the first tombstone may go, of those that stay; `i64::MAX` if none waits.
    pub(super) horizon_ms: i64,
}

/// A copy being made.
#[derive(Debug)]
pub(super) struct Copier<'a> {
    rules: &'a Rules,
    output: Output<'a>,
    /// Bytes by which the copy may still outgrow its sources: positions in a segment are 31 bits.
    growth: usize,
    copied: Copied,
    /// Of the last batch that was met.
    epoch: i32,
    scratch: Vec<u8>,
    rebuilt: Vec<u8>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(rules: &'a Rules, output: Output<'a>) -> Self {
        // A segment is at most its largest size and a batch.
        let growth = i32::MAX as usize - (SEGMENT_BYTES_MAX + BATCH_BYTES_MAX) as usize;
        let copied = Copied { records: 0, changed: 0, horizon_ms: i64::MAX };
        let (scratch, rebuilt) = (Vec::new(), Vec::new());
        Self { rules, output, growth, copied, epoch: 0, scratch, rebuilt }
    }

    /// Bytes of the copy so far.
    pub(super) fn bytes(&self) -> u64 {
        self.output.bytes()
    }

    /// Copies one segment; false if it was to stop before the end.
    pub(super) fn copy(
        &mut self,
        segment: &Segment,
        stop: &dyn Fn() -> bool,
    ) -> Result<bool, LogError> {
        let file = segment.file()?;
        let expected = Expected { offset: segment.base_offset, epoch: i32::MIN };
        let mut scanner = Scanner::new(&*file, 0, segment.end(), expected);
        loop {
            if stop() {
                return Ok(false);
            }
            let offset = scanner.expected().offset;
            match scanner.next() {
                Ok(Some((at, header))) => {
                    let place = || segment.place().at_offset(offset).at_position(at);
                    let batch = BatchView::parse(scanner.batch(at))
                        .map_err(|error| LogError::corrupt(place(), error))?;
                    self.epoch = header.leader_epoch;
                    self.batch(&header, &batch, &place)?;
                }
                Ok(None) => return scanner.check_end(segment).map(|()| true),
                Err(error) => return Err(segment.scan_failed(error, offset)),
            }
        }
    }

    /// Copies one batch as far as it stays.
    fn batch(
        &mut self,
        header: &BatchHeader,
        batch: &BatchView<'_>,
        place: &dyn Fn() -> Place,
    ) -> Result<(), LogError> {
        let corrupt = |error| LogError::corrupt(place(), error);
        let (expected, found) = (self.output.next_offset(), header.base_offset);
        if found < expected {
            // Segments that overlap must not become one.
            return Err(LogError::corrupt(place(), Damage::WrongOffset { expected, found }));
        }
        let count = u64::from(header.records_count.cast_unsigned());
        if header.attributes.is_control() {
            return self.output.push(batch.bytes(), header);
        }
        let (mut stay, mut waits, mut unsettled) = (0u64, false, false);
        let records = batch.records(&mut self.scratch, DECOMPRESSED_BYTES_MAX).map_err(corrupt)?;
        for record in records {
            let fate = self.rules.fate(header, &record.map_err(corrupt)?);
            stay += u64::from(fate != Fate::Goes);
            waits |= fate == Fate::Waits;
            unsettled |= fate == Fate::Unsettled;
        }
        if stay == 0 {
            return self.emptied(header, count);
        }
        let old = header.delete_horizon().filter(|_| waits || unsettled);
        let settles = waits && !unsettled && old.is_none() && !self.rules.kept.get();
        let new = settles.then_some(self.rules.horizon_ms);
        // Without a new one if need be: the tombstones stay for good then, which is better than what they are for.
        for horizon in new.map(Some).into_iter().chain((stay < count).then_some(old)) {
            if self.rebuild(header, batch, horizon).map_err(corrupt)? {
                self.note_horizon(horizon);
                self.copied.records += count - stay;
                self.copied.changed += 1;
                return self.output.push(&self.rebuilt, header);
            }
        }
        if stay < count {
            self.rules.kept.set(true);
        }
        self.note_horizon(old);
        self.output.push(batch.bytes(), header)
    }

    /// Of a batch that stays: when its tombstones may go.
    fn note_horizon(&mut self, horizon_ms: Option<i64>) {
        self.copied.horizon_ms = self.copied.horizon_ms.min(horizon_ms.unwrap_or(i64::MAX));
    }

    /// Leaves a batch out of which nothing stays, unless its producer is remembered by it: then as one without records.
    fn emptied(&mut self, header: &BatchHeader, count: u64) -> Result<(), LogError> {
        self.copied.records += count;
        if !self.rules.producers.contains(&header.last_offset()) {
            self.copied.changed += 1;
            return Ok(());
        }
        self.copied.changed += u64::from(count > 0);
        self.output.push(&header.encode_emptied(), header)
    }

    /// Makes the batch anew from the records that stay. False if it cannot be: its times are too far from a new horizon to
    /// be counted from there, or it has grown, as it was packed better, to more than a batch may have or there is room for.
    fn rebuild(
        &mut self,
        header: &BatchHeader,
        batch: &BatchView<'_>,
        delete_horizon_ms: Option<i64>,
    ) -> Result<bool, FormatError> {
        let appended = header.attributes.timestamp_type() == TimestampType::Append;
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        let options = BatchOptions {
            base_offset: header.base_offset,
            leader_epoch: header.leader_epoch,
            codec: header.attributes.codec(),
            append_time_ms: appended.then_some(header.max_timestamp),
            producer: Producer { id, epoch, base_sequence: header.base_sequence },
            transactional: header.attributes.is_transactional(),
            control: false,
            delete_horizon_ms,
        };
        let mut buffer = std::mem::take(&mut self.rebuilt);
        buffer.clear();
        let builder = BatchBuilder::with_buffer(options, buffer);
        let mut builder = builder.counting_from(header.base_timestamp);
        for record in batch.records(&mut self.scratch, DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            if self.rules.fate(header, &record) == Fate::Goes {
                continue;
            }
            let headers: Vec<HeaderRef<'_>> = record.headers().collect::<Result<_, _>>()?;
            let timestamp_ms = header.base_timestamp.saturating_add(record.timestamp_delta);
            let (key, value) = (record.key, record.value);
            let appended =
                builder.append_at(record.offset_delta, timestamp_ms, key, value, headers);
            if appended.is_err() {
                return Ok(false);
            }
        }
        let Ok(rebuilt) = builder.finish_with_last_offset_delta(header.last_offset_delta) else {
            return Ok(false);
        };
        self.rebuilt = rebuilt;
        Ok(self.is_room_for(self.rebuilt.len(), batch.bytes().len()))
    }

    /// Whether a batch of so many bytes can take the place of one of so many; the room is taken then.
    fn is_room_for(&mut self, bytes: usize, before: usize) -> bool {
        let growth = bytes.saturating_sub(before);
        let Some(left) = self.growth.checked_sub(growth) else { return false };
        // Nobody reads a longer one.
        let fits = bytes <= BATCH_BYTES_MAX as usize;
        self.growth = if fits { left } else { self.growth };
        fits
    }

    /// Ends the copy at an offset.
    pub(super) fn finish(self, next_offset: i64) -> Result<(Arc<Segment>, Copied), LogError> {
        let segment = self.output.finish(next_offset, self.epoch)?;
        Ok((Arc::new(segment), self.copied))
    }
}
