//! Walks the batches of a segment's file one after another and checks each: for recovery, for building indexes, for
//! finding an offset between two index entries.

use super::{Found, Segment};
use crate::log::error::{Damage, LogError};
use crate::log::format::batch::HEADER_BYTES;
use crate::log::format::{BatchHeader, BatchView, Fault, Field, FormatError};
use crate::log::options::BATCH_BYTES_MAX;
use crate::log::storage::{StorageError, StorageFile};

/// Bytes read at a time, unless a batch is longer.
const CHUNK_BYTES: usize = 256 << 10;

/// What a batch must continue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Expected {
    /// The offset it must start with.
    pub(crate) offset: i64,
    /// The lowest epoch it may have: that of the batch before it.
    pub(crate) epoch: i32,
}

/// Why a walk ended before its end.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// The file could not be read.
    Storage(StorageError),
    /// What is at this position is no batch, or not the next one.
    Bad { position: u64, damage: Damage },
}

/// A walk through a range of a segment's file.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    file: &'a dyn StorageFile,
    /// Where the walk ends; a batch that reaches beyond is cut off.
    end: u64,
    expected: Expected,
    /// Bytes of the file from `buffer_at` on; reused, only `filled` of it counts.
    buffer: Vec<u8>,
    filled: usize,
    buffer_at: u64,
    /// Start of the next batch, in the file.
    position: u64,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(file: &'a dyn StorageFile, from: u64, end: u64, expected: Expected) -> Self {
        Self { file, end, expected, buffer: Vec::new(), filled: 0, buffer_at: from, position: from }
    }

    /// Start of the next batch; after an error that of the bad one.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// What the next batch must continue.
    pub(crate) fn expected(&self) -> Expected {
        self.expected
    }

    /// The next batch and where it starts; `None` at the end of the range. Its CRC is right, and it continues the one
    /// before.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, BatchHeader)>, ScanError> {
        let at = self.position;
        if at >= self.end {
            return Ok(None);
        }
        let header = match BatchHeader::decode(self.have(HEADER_BYTES)?) {
            Ok(header) => header,
            Err(error) => return Err(self.bad(error)),
        };
        let needed = header.batch_bytes();
        let available = self.end - at;
        if needed as u64 > available || needed > BATCH_BYTES_MAX as usize {
            let fault = Fault::Truncated { needed: needed as u64, available };
            let error = FormatError { field: Field::BatchLength, position: 8, fault };
            return Err(self.bad(error));
        }
        let checked =
            BatchView::parse(self.have(needed)?).and_then(|view| view.check_crc().map(|()| view));
        if let Err(error) = checked {
            return Err(self.bad(error));
        }
        let Expected { offset, epoch } = self.expected;
        if header.base_offset != offset {
            let found = header.base_offset;
            return Err(self.bad(Damage::WrongOffset { expected: offset, found }));
        }
        if header.leader_epoch < epoch {
            let found = header.leader_epoch;
            return Err(self.bad(Damage::WrongEpoch { at_least: epoch, found }));
        }
        self.expected = Expected { offset: header.last_offset() + 1, epoch: header.leader_epoch };
        self.position = at + needed as u64;
        Ok(Some((at, header)))
    }

    /// After the end: checks that it is where the segment ends, of which more is known to be there than its file may have.
    pub(crate) fn check_end(&self, segment: &Segment) -> Result<(), LogError> {
        let next = segment.next_offset();
        let here = Found { position: self.position, offset: self.expected.offset };
        if here.offset == next { Ok(()) } else { Err(segment.ends_early(here, next)) }
    }

    /// The bytes of the batch that [`next`](Self::next) gave last, which starts at `at`.
    pub(crate) fn batch(&self, at: u64) -> &[u8] {
        let place = |position: u64| usize::try_from(position.saturating_sub(self.buffer_at)).ok();
        let (Some(start), Some(end)) = (place(at), place(self.position)) else { return &[] };
        self.buffer.get(start..end).unwrap_or_default()
    }

    fn bad(&self, damage: impl Into<Damage>) -> ScanError {
        ScanError::Bad { position: self.position, damage: damage.into() }
    }

    /// Bytes from the next batch on: at least so many, unless the file ends.
    fn have(&mut self, needed: usize) -> Result<&[u8], ScanError> {
        let start = usize::try_from(self.position - self.buffer_at).unwrap_or(usize::MAX);
        if self.filled.saturating_sub(start) < needed {
            let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
            let wanted = needed.max(CHUNK_BYTES).min(left);
            self.buffer_at = self.position;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            let buffer = self.buffer.get_mut(..wanted).unwrap_or_default();
            let read = self.file.read_at(buffer, self.position);
            self.filled = read.map_err(ScanError::Storage)?;
            return Ok(self.buffer.get(..self.filled).unwrap_or_default());
        }
        Ok(self.buffer.get(start..self.filled).unwrap_or_default())
    }
}

impl Segment {
    /// The error of whoever came to the end of what is there of the segment, though what follows begins at `next` only.
    #[cold]
    pub(crate) fn ends_early(&self, here: Found, next: i64) -> LogError {
        let place = self.place().at_offset(here.offset).at_position(here.position);
        LogError::corrupt(place, Damage::WrongOffset { expected: here.offset, found: next })
    }
}
