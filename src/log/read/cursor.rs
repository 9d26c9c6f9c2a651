//! Where a reader is: which segment, which byte, which offset comes next. Reads chunks and cuts checked batches out.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::log::error::{Damage, LogError};
use crate::log::format::batch::HEADER_BYTES;
use crate::log::format::{Batch, BatchHeader};
use crate::log::options::BATCH_BYTES_MAX;
use crate::log::partition::Partition;
use crate::log::segment::{Found, Segment};

/// A place in a partition.
#[derive(Debug)]
pub(super) struct Cursor {
    /// `None` until the place was looked for.
    segment: Option<Arc<Segment>>,
    /// Start of the next batch in the segment's file, and the offset it must start with.
    here: Found,
    /// The offset of the first record that is wanted, not below which batches may begin.
    wanted: i64,
}

impl Cursor {
    pub(super) fn new(offset: i64) -> Self {
        Self { segment: None, here: Found { position: 0, offset }, wanted: offset }
    }

    /// Forgets where it is, but not what comes next.
    pub(super) fn lose_place(&mut self) {
        *self = Self::new(self.wanted);
    }

    /// At a batch that was found, of which nothing before an offset is wanted.
    pub(super) fn at(segment: Arc<Segment>, here: Found, earliest: i64) -> Self {
        Self { segment: Some(segment), here, wanted: here.offset.max(earliest) }
    }

    /// The offset of the next record.
    pub(super) fn next_offset(&self) -> i64 {
        self.wanted
    }

    /// Reads from the next batch on: at least one whole batch, about `bytes_max` bytes, nothing from `end` on. `None` if
    /// there is nothing. `old` gives its memory if nobody else uses it.
    pub(super) fn fetch(
        &mut self,
        partition: &Partition,
        end: i64,
        bytes_max: usize,
        old: Bytes,
    ) -> Result<Option<Bytes>, LogError> {
        if self.wanted < partition.log_start() {
            let place = Box::new(partition.home.place().at_offset(self.wanted));
            let earliest = partition.log_start();
            return Err(LogError::OffsetOutOfRange { place, earliest, end });
        }
        loop {
            if self.wanted >= end || self.here.offset >= end {
                return Ok(None);
            }
            let Some(segment) = self.segment.clone() else {
                let view = partition.view();
                let Some((_, segment)) = view.segment_of(self.wanted) else { return Ok(None) };
                self.here = segment.find(self.wanted)?;
                self.segment = Some(segment.clone());
                continue;
            };
            let left = segment.end().saturating_sub(self.here.position);
            if left == 0 {
                // Everything up to `end` is published, so the rest is in a later segment, or in one that has replaced this.
                let view = partition.view();
                let next = view.segment_of(self.here.offset).map(|(_, next)| next.clone());
                match next.filter(|next| !Arc::ptr_eq(next, &segment)) {
                    Some(next) if next.base_offset == self.here.offset => {
                        self.here = Found { position: 0, offset: next.base_offset };
                        self.segment = Some(next);
                    }
                    Some(_) => self.segment = None,
                    None => return Ok(None),
                }
                continue;
            }
            return self.read(&segment, left, bytes_max, old).map(Some);
        }
    }

    fn read(
        &self,
        segment: &Segment,
        left: u64,
        bytes_max: usize,
        old: Bytes,
    ) -> Result<Bytes, LogError> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let wanted = bytes_max.max(HEADER_BYTES).min(left);
        let chunk = self.read_bytes(segment, wanted, old)?;
        let header = BatchHeader::decode(&chunk).map_err(|error| self.corrupt(error))?;
        let needed = header.batch_bytes();
        if needed <= chunk.len() {
            return Ok(chunk);
        }
        if needed > left || needed > BATCH_BYTES_MAX as usize {
            let found = left as u64;
            return Err(self.corrupt(Damage::Short { expected: needed as u64, found }));
        }
        self.read_bytes(segment, needed, chunk)
    }

    fn read_bytes(&self, segment: &Segment, len: usize, old: Bytes) -> Result<Bytes, LogError> {
        let mut buffer = old.try_into_mut().unwrap_or_else(|_| BytesMut::new());
        buffer.resize(len, 0);
        let read = segment.file()?.read_at(&mut buffer, self.here.position);
        let read = read.map_err(|error| LogError::storage(segment.place(), error))?;
        buffer.truncate(read);
        Ok(buffer.freeze())
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
        let position = self.here.position + batch.bytes().len() as u64;
        self.here = Found { position, offset: next };
        self.wanted = self.wanted.max(next);
        Ok(Some((batch, wanted)))
    }

    #[cold]
    fn corrupt(&self, damage: impl Into<Damage>) -> LogError {
        let place = self.segment.as_ref().map(|segment| segment.place()).unwrap_or_default();
        let place = place.at_offset(self.here.offset).at_position(self.here.position);
        LogError::corrupt(place, damage)
    }
}
