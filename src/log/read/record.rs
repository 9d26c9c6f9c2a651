//! What readers hand out: batches, and records that share a batch's memory.

use bytes::Bytes;

use crate::log::format::batch::{DECOMPRESSED_BYTES_MAX, Records};
use crate::log::format::record::{Header, share};
use crate::log::format::{Batch, BatchHeader, FormatError, RecordRef};

/// A record of a partition. Key and value share the memory of what was read with it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LogRecord {
    /// The partition's number.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Its time, in milliseconds since 1970: its own, or that of the append.
    pub timestamp_ms: i64,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: Vec<Header>,
}

/// A batch as it is stored, its CRC checked.
#[derive(Clone, Debug)]
pub struct ReadBatch {
    pub(super) batch: Batch,
    pub(super) first_offset: i64,
}

impl ReadBatch {
    /// The batch itself, which may begin before [`first_offset`](Self::first_offset).
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The offset from which on records were asked for.
    pub fn first_offset(&self) -> i64 {
        self.first_offset
    }

    /// The offset after the batch.
    pub fn next_offset(&self) -> i64 {
        self.batch.header().last_offset() + 1
    }

    /// Visits the records that were asked for: offset, timestamp in milliseconds since 1970, record. The fastest way to
    /// read: nothing is allocated for a record. Stops when `visit` returns false.
    ///
    /// # Errors
    /// What is wrong with a record, or with the packed stream of records.
    #[inline]
    pub fn visit(
        &self,
        scratch: &mut Vec<u8>,
        mut visit: impl FnMut(i64, i64, RecordRef<'_>) -> bool,
    ) -> Result<(), FormatError> {
        let header: BatchHeader = *self.batch.header();
        let mut records = self.batch.view().records(scratch, DECOMPRESSED_BYTES_MAX)?;
        while let Some(record) = records.try_next().map_err(|error| *error)? {
            let offset = header.offset_of(record.offset_delta);
            if offset >= self.first_offset
                && !visit(offset, header.timestamp_of(record.timestamp_delta), record)
            {
                break;
            }
        }
        Ok(())
    }

    /// The first record that is not before a time.
    pub(super) fn first_since(&self, timestamp_ms: i64) -> Result<Option<i64>, FormatError> {
        let mut found = None;
        self.visit(&mut Vec::new(), |offset, timestamp, _| {
            if timestamp >= timestamp_ms {
                found = Some(offset);
            }
            found.is_none()
        })?;
        Ok(found)
    }
}

/// A batch whose records are being handed out.
#[derive(Debug)]
pub(super) struct Pending {
    header: BatchHeader,
    partition: u32,
    records: Records,
    next_offset: i64,
    failed: Option<FormatError>,
}

impl Pending {
    pub(super) fn new(
        batch: &ReadBatch,
        partition: u32,
        bytes_max: usize,
    ) -> Result<Self, FormatError> {
        Ok(Self {
            header: *batch.batch.header(),
            partition,
            records: batch.batch.records(bytes_max)?,
            next_offset: batch.first_offset,
            failed: None,
        })
    }

    /// The offset of the next record; after the last one that after the batch.
    pub(super) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// What is wrong with the record after the last one that [`next`](Self::next) gave.
    pub(super) fn failed(&self) -> Option<FormatError> {
        self.failed
    }

    /// The next record that was asked for; `None` after the last one, and for good after an error, which
    /// [`failed`](Self::failed) tells. The error takes no part in the result, which is put together in its place as its
    /// last act: on its way from one place of memory to the next, a record costs more than its decoding.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<LogRecord> {
        if self.failed.is_some() {
            return None;
        }
        loop {
            let (record, memory) = match self.records.try_next() {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.next_offset = self.next_offset.max(self.header.last_offset() + 1);
                    return None;
                }
                Err(error) => {
                    self.failed = Some(*error);
                    return None;
                }
            };
            let offset = self.header.offset_of(record.offset_delta);
            if offset < self.next_offset {
                continue;
            }
            let headers = match record.shared_headers(memory) {
                Ok(headers) => headers,
                Err(error) => {
                    self.failed = Some(*error);
                    return None;
                }
            };
            self.next_offset = offset + 1;
            return Some(LogRecord {
                partition: self.partition,
                offset,
                timestamp_ms: self.header.timestamp_of(record.timestamp_delta),
                key: share(memory, record.key),
                value: share(memory, record.value),
                headers,
            });
        }
    }
}
