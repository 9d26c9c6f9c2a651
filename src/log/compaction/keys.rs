//! The keys of a topic that is compacted: read from segments, and asked for when something is appended.

use std::sync::Arc;

use super::map::KeyMap;
use crate::log::append::NewRecord;
use crate::log::error::LogError;
use crate::log::format::BatchView;
use crate::log::format::batch::DECOMPRESSED_BYTES_MAX;
use crate::log::partition::Partition;
use crate::log::segment::{Expected, Scanner, Segment};

/// Notes the last offset of each key from an offset on; returns up to where, which is before the end if there is no room
/// for more. `None` if it was to stop.
pub(super) fn collect(
    keys: &mut KeyMap,
    segments: &[Arc<Segment>],
    from: i64,
    stop: &dyn Fn() -> bool,
) -> Result<Option<i64>, LogError> {
    let mut end = from;
    let mut scratch = Vec::new();
    for segment in segments.iter().filter(|segment| segment.next_offset() > from) {
        let file = segment.file()?;
        let expected = Expected { offset: segment.base_offset, epoch: i32::MIN };
        let mut scanner = Scanner::new(&*file, 0, segment.end(), expected);
        loop {
            if stop() {
                return Ok(None);
            }
            let offset = scanner.expected().offset;
            let (at, header) = match scanner.next() {
                Ok(Some(found)) => found,
                Ok(None) => {
                    scanner.check_end(segment)?;
                    break;
                }
                Err(error) => return Err(segment.scan_failed(error, offset)),
            };
            let place = || segment.place().at_offset(offset).at_position(at);
            let corrupt = |error| LogError::corrupt(place(), error);
            let batch = BatchView::parse(scanner.batch(at)).map_err(corrupt)?;
            if header.last_offset() < from || header.attributes.is_control() {
                continue;
            }
            for record in batch.records(&mut scratch, DECOMPRESSED_BYTES_MAX).map_err(corrupt)? {
                let record = record.map_err(corrupt)?;
                let offset = header.offset_of(record.offset_delta);
                let Some(key) = record.key.filter(|_| offset >= from) else { continue };
                if !keys.insert(key, offset) {
                    // Between two batches where that is possible: tombstones of one batch get their time together, from a
                    // pass that has all of their keys.
                    let whole = header.base_offset > from;
                    return Ok(Some(if whole { header.base_offset } else { offset }));
                }
            }
        }
        end = segment.next_offset();
    }
    Ok(Some(end))
}

impl Partition {
    /// Refuses a record without key in a compacted topic: nothing could ever supersede it.
    #[inline]
    pub(in crate::log) fn check_key(&self, record: &NewRecord<'_>) -> Result<(), LogError> {
        if self.options.compact && record.key.is_none() { Err(self.key_missing()) } else { Ok(()) }
    }

    /// As [`check_key`](Self::check_key), for an encoded batch.
    pub(in crate::log) fn check_keys(&self, batch: &[u8]) -> Result<(), LogError> {
        if !self.options.compact {
            return Ok(());
        }
        let mut scratch = Vec::new();
        let view = BatchView::parse(batch).map_err(|error| self.bad_batch(error))?;
        let records = view.records(&mut scratch, DECOMPRESSED_BYTES_MAX);
        for record in records.map_err(|error| self.bad_batch(error))? {
            if record.map_err(|error| self.bad_batch(error))?.key.is_none() {
                return Err(self.key_missing());
            }
        }
        Ok(())
    }

    #[cold]
    fn key_missing(&self) -> LogError {
        let (topic, partition) = (self.home.topic.clone(), self.home.partition);
        LogError::KeyMissing { topic, partition }
    }
}
