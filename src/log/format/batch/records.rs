//! Walks the records of a batch, borrowed or sharing its memory.

use std::iter::FusedIterator;

use bytes::Bytes;

use super::header::{BatchHeader, COUNT_AT};
use crate::log::format::cursor::Checked;
use crate::log::format::error::{Fault, Field, FormatError};
use crate::log::format::record::{Record, RecordRef};

/// A sensible limit on the decompressed records of one batch, in bytes: far above what producers are allowed to send.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;

/// No batch has more records than this: each takes at least 7 bytes of those, for its length, attributes, two deltas, two
/// lengths and a count.
pub(in crate::log) const RECORDS_MAX: usize = DECOMPRESSED_BYTES_MAX / 7;

/// Where a walk through the records is. It ends with the first error.
#[derive(Clone, Debug)]
struct Walk {
    position: usize,
    /// Records still to come by the header's count.
    left: i32,
    last_delta: i32,
    delta_max: i32,
}

impl Walk {
    fn new(header: &BatchHeader, position: usize) -> Self {
        Self {
            position,
            left: header.records_count,
            last_delta: -1,
            delta_max: header.last_offset_delta,
        }
    }

    /// The next record of `bytes`, which must be the same at each call.
    #[inline(always)]
    fn step<'b>(&mut self, bytes: &'b [u8]) -> Checked<Option<RecordRef<'b>>> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.try_step(bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                self.left = 0;
                Err(error)
            }
        }
    }

    #[inline(always)]
    fn try_step<'b>(&mut self, bytes: &'b [u8]) -> Checked<RecordRef<'b>> {
        if self.position >= bytes.len() {
            return Err(FormatError::boxed(
                Field::RecordsCount,
                COUNT_AT,
                Fault::TooLarge { limit: u64::from(self.last_delta.wrapping_add(1) as u32) },
            ));
        }
        let (record, next) = RecordRef::decode_checked(bytes, self.position)?;
        // Offsets rise, and none lies beyond what the header promises.
        if record.offset_delta <= self.last_delta || record.offset_delta > self.delta_max {
            let fault = Fault::Invalid { found: record.offset_delta.into() };
            return Err(FormatError::boxed(Field::OffsetDelta, self.position, fault));
        }
        self.last_delta = record.offset_delta;
        self.position = next;
        self.left -= 1;
        if self.left == 0 && next != bytes.len() {
            let fault = Fault::Trailing { count: (bytes.len() - next) as u64 };
            return Err(FormatError::boxed(Field::Records, next, fault));
        }
        Ok(record)
    }
}

/// The records of a batch, borrowed. Ends after an error.
#[derive(Clone, Debug)]
pub struct RecordsRef<'a> {
    bytes: &'a [u8],
    walk: Walk,
}

impl<'a> RecordsRef<'a> {
    pub(super) fn new(header: &BatchHeader, bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, walk: Walk::new(header, position) }
    }

    /// As [`next`](Self::next), for hot loops: the record need not pass through memory.
    #[inline(always)]
    pub(in crate::log) fn try_next(&mut self) -> Checked<Option<RecordRef<'a>>> {
        self.walk.step(self.bytes)
    }
}

impl<'a> Iterator for RecordsRef<'a> {
    type Item = Result<RecordRef<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.try_next().map_err(|error| *error).transpose()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.walk.left).ok())
    }
}

impl FusedIterator for RecordsRef<'_> {}

/// The records of a batch, sharing its memory (or that of its decompressed records). Ends after an error.
#[derive(Clone, Debug)]
pub struct Records {
    bytes: Bytes,
    walk: Walk,
}

impl Records {
    pub(super) fn new(header: &BatchHeader, bytes: Bytes, position: usize) -> Self {
        Self { bytes, walk: Walk::new(header, position) }
    }

    /// The next record, borrowed, its headers not checked; and the memory that it can share.
    #[inline(always)]
    pub(in crate::log) fn try_next(&mut self) -> Checked<Option<(RecordRef<'_>, &Bytes)>> {
        let record = self.walk.step(&self.bytes)?;
        Ok(record.map(|record| (record, &self.bytes)))
    }
}

impl Iterator for Records {
    type Item = Result<Record, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let record = match self.try_next() {
            Ok(record) => record.map(|(record, memory)| record.to_record(memory))?,
            Err(error) => Err(*error),
        };
        if record.is_err() {
            self.walk.left = 0;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.walk.left).ok())
    }
}

impl FusedIterator for Records {}
