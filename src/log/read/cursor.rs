//! Where a reader is: which segment, which byte, which offset comes next. Reads chunks and cuts checked batches out.

use std::sync::Arc;

use bytes::Bytes;

use super::window::Window;
use crate::log::error::{Damage, LogError};
use crate::log::format::batch::HEADER_BYTES;
use crate::log::format::{Batch, BatchHeader};
use crate::log::options::BATCH_BYTES_MAX;
use crate::log::partition::Partition;
use crate::log::segment::{Found, Segment};
use crate::log::storage::StorageFile;

/// A place in a partition.
#[derive(Debug)]
pub(super) struct Cursor {
    /// `None` until the place was looked for.
    segment: Option<Arc<Segment>>,
    /// The segment's file, once something was read from it: it stays good when the segment is let go of.
    file: Option<Arc<dyn StorageFile>>,
    /// Start of the next batch in the segment's file, and the offset it must start with.
    here: Found,
    /// The offset of the first record that is wanted, not below which batches may begin.
    wanted: i64,
    /// Bytes of the last batch; the next ones often have as many.
    batch_bytes: usize,
}

impl Cursor {
    pub(super) fn new(offset: i64) -> Self {
        let here = Found { position: 0, offset };
        Self { segment: None, file: None, here, wanted: offset, batch_bytes: 0 }
    }

    /// Forgets where it is, but not what comes next.
    pub(super) fn lose_place(&mut self) {
        *self = Self::new(self.wanted);
    }

    /// At a batch that was found, of which nothing before an offset is wanted.
    pub(super) fn at(segment: Arc<Segment>, here: Found, earliest: i64) -> Self {
        let wanted = here.offset.max(earliest);
        Self { segment: Some(segment), file: None, here, wanted, batch_bytes: 0 }
    }

    /// The offset of the next record.
    pub(super) fn next_offset(&self) -> i64 {
        self.wanted
    }

    /// Reads from the next batch on, which the window may have a part of: at least one whole batch, about `bytes_max`
    /// bytes, nothing from `end` on. False if there is nothing. Unless that went well, the window is empty afterwards.
    pub(super) fn fetch(
        &mut self,
        partition: &Partition,
        end: i64,
        bytes_max: usize,
        window: &mut Window,
    ) -> Result<bool, LogError> {
        let fetched = self.try_fetch(partition, end, bytes_max, window);
        if !matches!(fetched, Ok(true)) {
            *window = Window::default();
        }
        fetched
    }

    fn try_fetch(
        &mut self,
        partition: &Partition,
        end: i64,
        bytes_max: usize,
        window: &mut Window,
    ) -> Result<bool, LogError> {
        if self.wanted < partition.log_start() {
            return Err(self.out_of_range(partition, end));
        }
        loop {
            if self.wanted >= end || self.here.offset >= end {
                return Ok(false);
            }
            let Some(segment) = self.segment.clone() else {
                let view = partition.view();
                let Some((_, segment)) = view.segment_of(self.wanted) else { return Ok(false) };
                // The start is published before what is in front of it goes.
                if self.wanted < segment.base_offset {
                    return Err(self.out_of_range(partition, end));
                }
                // What is left of the window may not be what is here.
                window.take_all();
                self.here = segment.find(self.wanted)?;
                (self.segment, self.file) = (Some(segment.clone()), None);
                continue;
            };
            let left = segment.end().saturating_sub(self.here.position);
            if left == 0 {
                // Everything up to `end` is published, so the rest is in a later segment, or in one that has replaced this.
                let view = partition.view();
                let Some((at, next)) = view.segment_of(self.here.offset) else { return Ok(false) };
                if Arc::ptr_eq(next, &segment) {
                    let next = view.segments.get(at + 1).map_or(end, |next| next.base_offset);
                    return Err(segment.ends_early(self.here, next));
                }
                (self.segment, self.file) = (None, None);
                if next.base_offset == self.here.offset {
                    window.take_all();
                    self.here = Found { position: 0, offset: next.base_offset };
                    self.segment = Some(next.clone());
                }
                continue;
            }
            self.read(&segment, left, bytes_max, window)?;
            return Ok(true);
        }
    }

    fn read(
        &mut self,
        segment: &Segment,
        left: u64,
        bytes_max: usize,
        window: &mut Window,
    ) -> Result<(), LogError> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        // A window that ends soon after a batch leaves little to be moved to the front of the next one.
        let part = bytes_max.checked_rem(self.batch_bytes).filter(|part| *part < bytes_max);
        let beyond = part.unwrap_or(0).saturating_sub(self.batch_bytes / 16);
        self.extend(window, segment, (bytes_max - beyond).max(HEADER_BYTES).min(left))?;
        let header = BatchHeader::decode(&window.rest()).map_err(|error| self.corrupt(error))?;
        let needed = header.batch_bytes();
        if needed <= window.left() {
            return Ok(());
        }
        if needed > left || needed > BATCH_BYTES_MAX as usize {
            let found = left as u64;
            return Err(self.corrupt(Damage::Short { expected: needed as u64, found }));
        }
        self.extend(window, segment, needed)?;
        if window.left() < needed {
            let found = window.left() as u64;
            return Err(self.corrupt(Damage::Short { expected: needed as u64, found }));
        }
        Ok(())
    }

    /// Reads until the window has this many bytes from the next batch on, or the file ends.
    fn extend(
        &mut self,
        window: &mut Window,
        segment: &Segment,
        len: usize,
    ) -> Result<(), LogError> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(segment.file()?),
        };
        let position = self.here.position;
        window.extend(len, |buffer, kept| {
            let read = file.read_at(buffer, position + kept as u64);
            read.map_err(|error| LogError::storage(segment.place(), error))
        })
    }

    /// The batch at the front of `bytes`, checked, and the first offset of it that is wanted; `None` if it is not there
    /// as a whole. The place moves behind it.
    pub(super) fn cut_batch(&mut self, bytes: &Bytes) -> Result<Option<(Batch, i64)>, LogError> {
        let batch = match Batch::parse(bytes) {
            Ok(batch) => batch,
            Err(error) if error.is_truncation() => return Ok(None),
            Err(error) => return Err(self.corrupt(error)),
        };
        batch.view().check_crc().map_err(|error| self.corrupt(error))?;
        let header = batch.header();
        if header.base_offset != self.here.offset {
            let (expected, found) = (self.here.offset, header.base_offset);
            return Err(self.corrupt(Damage::WrongOffset { expected, found }));
        }
        let wanted = self.wanted;
        let next = header.last_offset() + 1;
        self.batch_bytes = batch.bytes().len();
        let position = self.here.position + self.batch_bytes as u64;
        self.here = Found { position, offset: next };
        self.wanted = self.wanted.max(next);
        Ok(Some((batch, wanted)))
    }

    /// The front was cut meanwhile.
    #[cold]
    fn out_of_range(&self, partition: &Partition, end: i64) -> LogError {
        let place = Box::new(partition.home.place().at_offset(self.wanted));
        LogError::OffsetOutOfRange { place, earliest: partition.log_start(), end }
    }

    #[cold]
    fn corrupt(&self, damage: impl Into<Damage>) -> LogError {
        let place = self.segment.as_ref().map(|segment| segment.place()).unwrap_or_default();
        let place = place.at_offset(self.here.offset).at_position(self.here.position);
        LogError::corrupt(place, damage)
    }
}
