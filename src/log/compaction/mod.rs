//! Compaction: of the records of a key only the last one stays, and of a tombstone, after a while, not even that.
//!
//! It works on sealed segments, whose records are durable, and never keeps an appender waiting but for the moment in which
//! readers are shown the new segments. A pass over a partition goes so:
//!
//! 1. What was appended since the last pass is read, and the last offset of each key goes into a table of fixed size
//!    ([`map`]). When that is full the pass ends there, and the next one goes on.
//! 2. All segments before that are copied without the records that the table knows a later one for ([`copy`]), several
//!    small ones to one ([`output`]). Offsets stay.
//! 3. The copies take the place of the originals, oldest first ([`swap`]).
//!
//! A tombstone is first met by a pass, which removes everything before it, and then stays readable for the topic's
//! `delete_retention`: its batch gets the time until when (the delete horizon of the format).

mod copy;
mod keys;
mod map;
mod output;
mod swap;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk;
use super::error::LogError;
use super::format::names::FileState;
use super::partition::Partition;
use super::partition::times::{Times, UNKNOWN};
use super::segment::{Expected, Scanner, Segment};
use crate::log::wakers::hold;
use crate::sync::lock;
use copy::{Copied, Copier, Rules};
use map::KeyMap;
use output::Output;
pub(super) use swap::{FILE as NOTE, finish, pending, read_note};

/// What a pass over a partition came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Compacted {
    /// Everything before this offset is compacted.
    pub(super) until: i64,
    /// Records that were removed.
    pub(super) records: u64,
    /// Bytes of segments less than before.
    pub(super) bytes: u64,
}

impl Partition {
    /// Whether compaction is to stop: for the sake of whoever wants to remove segments, or of the log's end.
    fn is_upkeep_to_stop(&self) -> bool {
        self.upkeep_wanted.load(Ordering::SeqCst) > 0
            || self.shared.maintenance.is_ending()
            || self.check().is_err()
    }

    /// Up to where the partition can be compacted, of which everything before `clean_until` is. `None` if it is not worth
    /// it yet, or somebody wants to remove segments, who goes first.
    pub(super) fn compactable(&self, clean_until: i64) -> Result<Option<i64>, LogError> {
        let _upkeep = hold(&self.upkeep);
        if self.is_upkeep_to_stop() {
            return Ok(None);
        }
        // What an earlier pass had to leave when the medium failed it.
        swap::finish_noted(self)?;
        let view = self.view();
        let Some((active, sealed)) = view.segments.split_last() else { return Ok(None) };
        let clean_until = known_clean(clean_until, active.base_offset);
        let due = self.is_due(sealed, clean_until, self.shared.clock.now_ms())?;
        Ok(due.then_some(active.base_offset))
    }

    /// Compacts the segments before `end`, which [`compactable`](Self::compactable) told, with a table of about
    /// `table_bytes`; the caller sees to it that no transaction needs what is in them. `None` if it was to stop.
    pub(super) fn compact(
        &self,
        clean_until: i64,
        end: i64,
        table_bytes: usize,
    ) -> Result<Option<Compacted>, LogError> {
        let _upkeep = hold(&self.upkeep);
        let stop = || self.is_upkeep_to_stop();
        if stop() {
            return Ok(None);
        }
        let clean_until = known_clean(clean_until, end);
        let view = self.view();
        let sealed = view.segments.partition_point(|segment| segment.base_offset < end);
        let sealed = view.segments.get(..sealed).unwrap_or_default();
        let now_ms = self.shared.clock.now_ms();
        // No more keys than offsets.
        let keys_max = u64::try_from(end.saturating_sub(clean_until)).unwrap_or(0);
        let mut keys = KeyMap::new(table_bytes, keys_max);
        let Some(end) = keys::collect(&mut keys, sealed, clean_until, &stop)? else {
            return Ok(None);
        };
        let delete_retention = self.options.delete_retention.as_millis();
        let delete_retention = i64::try_from(delete_retention).unwrap_or(i64::MAX);
        let producers = lock(&self.writer).producers.last_offsets();
        // Of somebody who found the writer busy just then.
        self.write_if_wanted();
        let horizon_ms = now_ms.saturating_add(delete_retention);
        let kept = Cell::new(false);
        let rules = Rules { keys, end, producers, now_ms, horizon_ms, kept };
        let mut compacted = Compacted { until: end, ..Compacted::default() };
        let behind = sealed.partition_point(|segment| segment.base_offset < end);
        let mut rest = sealed.get(..behind).unwrap_or_default();
        while !rest.is_empty() {
            match self.compact_some(rest, &rules, &mut compacted, &stop)? {
                Some(done) => rest = rest.get(done..).unwrap_or_default(),
                None => return Ok(None),
            }
        }
        Ok(Some(compacted))
    }

    /// Whether enough was appended since the last pass, or a tombstone may go.
    fn is_due(
        &self,
        sealed: &[Arc<Segment>],
        clean_until: i64,
        now_ms: i64,
    ) -> Result<bool, LogError> {
        let clean = sealed.partition_point(|segment| segment.next_offset() <= clean_until);
        let (clean, dirty) = sealed.split_at(clean);
        let bytes = |segments: &[Arc<Segment>]| segments.iter().map(|s| s.end()).sum::<u64>();
        let (clean_bytes, dirty_bytes) = (bytes(clean), bytes(dirty));
        let percent = u64::from(self.options.min_dirty_percent);
        if dirty_bytes > 0 && dirty_bytes * 100 >= (clean_bytes + dirty_bytes) * percent {
            return Ok(true);
        }
        for segment in clean {
            if segment.times().horizon == UNKNOWN {
                segment.set_times(Times { horizon: first_horizon(segment)?, ..segment.times() });
            }
        }
        Ok(clean.iter().any(|segment| segment.times().horizon < now_ms))
    }

    /// Compacts the first of these segments, and those behind it that find room in the same one; how many that were. `None`
    /// if it was to stop.
    fn compact_some(
        &self,
        segments: &[Arc<Segment>],
        rules: &Rules,
        compacted: &mut Compacted,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<usize>, LogError> {
        let Some(first) = segments.first() else { return Ok(Some(0)) };
        let path = swap::path(&self.home, first.base_offset, FileState::Cleaned);
        let (new, copied, count) = match self.copy_some(segments, rules, &path, stop) {
            Ok(Some(copied)) => copied,
            // What cannot be removed is when the log is opened next.
            other => {
                let _ = disk::remove_if_there(&*self.home.storage, &path);
                return other.map(|_| None);
            }
        };
        let sources = segments.get(..count).unwrap_or_default();
        let times = sources.iter().map(|source| source.times()).reduce(Times::merged);
        let times = Times { horizon: copied.horizon_ms, ..times.unwrap_or(Times::NONE) };
        if copied.changed == 0 && sources.len() == 1 {
            first.set_times(times);
            let removed = disk::remove_if_there(&*self.home.storage, &path);
            return removed.map(|()| Some(1)).map_err(|error| self.home.failed(error));
        }
        new.set_times(times);
        match swap::swap(self, sources, &new) {
            Ok(true) => {}
            // It has its name still if nothing came of it.
            other => {
                let _ = disk::remove_if_there(&*self.home.storage, &path);
                return other.map(|_| None);
            }
        }
        let before: u64 = sources.iter().map(|source| source.end()).sum();
        let bytes = before.saturating_sub(new.end());
        compacted.records += copied.records;
        compacted.bytes += bytes;
        self.counters.compacted(copied.records, bytes);
        Ok(Some(sources.len()))
    }

    /// Writes the copy of the first of these segments, and of those behind it that find room; also how many. `None` if it was
    /// to stop.
    fn copy_some(
        &self,
        segments: &[Arc<Segment>],
        rules: &Rules,
        path: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<(Arc<Segment>, Copied, usize)>, LogError> {
        let base_offset = segments.first().map_or(0, |first| first.base_offset);
        let output = Output::create(self, base_offset, path)?;
        let mut copier = Copier::new(rules, output);
        let room = u64::from(self.options.segment_bytes);
        let mut next_offset = base_offset;
        let mut count = 0;
        for source in segments {
            let reach = source.next_offset() - 1 - base_offset;
            let fits = copier.bytes() + source.end() <= room && reach <= i64::from(i32::MAX);
            if count > 0 && !fits {
                break;
            }
            if !copier.copy(source, stop)? {
                return Ok(None);
            }
            next_offset = source.next_offset();
            count += 1;
        }
        let (segment, copied) = copier.finish(next_offset)?;
        Ok(Some((segment, copied, count)))
    }
}

/// Up to where a partition is compacted whose last segment begins at `active`: a checkpoint from beyond that is none.
fn known_clean(clean_until: i64, active: i64) -> i64 {
    if clean_until > active { 0 } else { clean_until }
}

/// When the first tombstone of a segment may go.
fn first_horizon(segment: &Segment) -> Result<i64, LogError> {
    let file = segment.file()?;
    let expected = Expected { offset: segment.base_offset, epoch: i32::MIN };
    let mut scanner = Scanner::new(&*file, 0, segment.end(), expected);
    let mut first = i64::MAX;
    loop {
        let offset = scanner.expected().offset;
        match scanner.next() {
            Ok(Some((_, header))) => first = header.delete_horizon().unwrap_or(i64::MAX).min(first),
            Ok(None) => return scanner.check_end(segment).map(|()| first),
            Err(error) => return Err(segment.scan_failed(error, offset)),
        }
    }
}
