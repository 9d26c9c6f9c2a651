//! Builds a batch: records are encoded where they will stay, the header follows when all are in.

use super::attributes::{Attributes, TimestampType};
use super::header::{BatchHeader, CRC_AT, CRC_FROM, HEADER_BYTES, LENGTH_OVERHEAD, put};
use crate::log::format::compression::Codec;
use crate::log::format::crc::crc32c;
use crate::log::format::error::{Fault, Field, FormatError};
use crate::log::format::record::{HeaderRef, Parts, framed_len};

/// Largest batch; its length is a signed 32-bit integer.
const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// Which idempotent producer a batch is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Producer {
    /// The producer's id; -1 if the batch is from none.
    pub id: i64,
    /// Its epoch; -1 without producer.
    pub epoch: i16,
    /// Its sequence number of the first record; -1 without producer.
    pub base_sequence: i32,
}

impl Producer {
    /// No producer: nothing is deduplicated.
    pub const NONE: Self = Self { id: -1, epoch: -1, base_sequence: -1 };
}

/// What is known of a batch before its records are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchOptions {
    /// Offset of the first record; not negative.
    pub base_offset: i64,
    /// Which writer appends it; -1 if unknown.
    pub leader_epoch: i32,
    /// How the records are packed. They stay plain if that would not make them smaller, so that no batch is larger than its
    /// records and a header.
    pub codec: Codec,
    /// The time of the append in milliseconds since 1970, which then counts for all records; `None` keeps theirs.
    pub append_time_ms: Option<i64>,
    /// The idempotent producer, or [`Producer::NONE`].
    pub producer: Producer,
    /// Part of a transaction.
    pub transactional: bool,
    /// Holds control records, which are not for consumers.
    pub control: bool,
    /// When tombstones in here may go, in milliseconds since 1970; compaction sets it.
    pub delete_horizon_ms: Option<i64>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            base_offset: 0,
            leader_epoch: -1,
            codec: Codec::None,
            append_time_ms: None,
            producer: Producer::NONE,
            transactional: false,
            control: false,
            delete_horizon_ms: None,
        }
    }
}

/// Collects records into one batch at the end of a buffer.
///
/// ```
/// use peermq::log::format::{BatchBuilder, BatchOptions, BatchView};
///
/// let mut builder = BatchBuilder::new(BatchOptions { base_offset: 7, ..Default::default() });
/// builder.append(1_700_000_000_000, Some(b"key"), Some(b"value"), [])?;
/// let bytes = builder.finish()?;
/// assert_eq!(BatchView::parse(&bytes)?.header().last_offset(), 7);
/// # Ok::<(), peermq::log::format::FormatError>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    buffer: Vec<u8>,
    /// Where the batch begins in `buffer`; its header's place is kept free from the beginning.
    start: usize,
    records_count: i32,
    /// Of the last record, or -1 before the first.
    last_offset_delta: i32,
    base_timestamp: i64,
    /// Whether `base_timestamp` stays what it is, rather than becoming the first record's timestamp.
    is_base_given: bool,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// A builder with a buffer of its own.
    pub fn new(options: BatchOptions) -> Self {
        Self::with_buffer(options, Vec::new())
    }

    /// A builder that appends its batch to `buffer`, so that a buffer can be used again, or hold several batches.
    pub fn with_buffer(options: BatchOptions, mut buffer: Vec<u8>) -> Self {
        let start = buffer.len();
        buffer.resize(start + HEADER_BYTES, 0);
        Self {
            options,
            buffer,
            start,
            records_count: 0,
            last_offset_delta: -1,
            base_timestamp: options.delete_horizon_ms.unwrap_or(-1),
            is_base_given: options.delete_horizon_ms.is_some(),
            max_timestamp: -1,
        }
    }

    /// How the records will be packed.
    pub(crate) fn codec(&self) -> Codec {
        self.options.codec
    }

    /// Lets timestamp deltas count from there, in milliseconds since 1970, unless there is a delete horizon. A batch that is
    /// made anew from its own base takes any of its records again, however far apart their times are.
    pub(in crate::log) fn counting_from(mut self, base_timestamp_ms: i64) -> Self {
        if !self.is_base_given {
            (self.base_timestamp, self.is_base_given) = (base_timestamp_ms, true);
        }
        self
    }

    /// Whether a record of this time, in milliseconds since 1970, can go into the batch: one may be too far from what times
    /// count from, and goes into a batch of its own.
    #[inline]
    pub(in crate::log) fn reaches(&self, timestamp_ms: i64) -> bool {
        timestamp_ms.checked_sub(self.base_for(timestamp_ms)).is_some()
    }

    /// Largest timestamp that the batch would have, in milliseconds since 1970; -1 before the first record.
    pub(in crate::log) fn max_timestamp(&self) -> i64 {
        self.options.append_time_ms.unwrap_or(self.max_timestamp)
    }

    /// Records so far.
    pub fn records_count(&self) -> usize {
        self.records_count as usize
    }

    /// Whether no record is in.
    pub fn is_empty(&self) -> bool {
        self.records_count == 0
    }

    /// Bytes of the batch so far, the header included. Exactly what [`finish`](Self::finish) will add without codec; with
    /// one, no less than that.
    pub fn bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Bytes that [`append`](Self::append) would add for this record. Exact; saturates at `usize::MAX`.
    pub fn bytes_of<'a, H>(
        &self,
        timestamp_ms: i64,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: H,
    ) -> usize
    where
        H: IntoIterator<Item = HeaderRef<'a>, IntoIter: Clone>,
    {
        let timestamp_delta = timestamp_ms.saturating_sub(self.base_for(timestamp_ms));
        let offset_delta = self.last_offset_delta.saturating_add(1);
        let headers = headers.into_iter();
        Parts { timestamp_delta, offset_delta, key, value, headers }.encoded_len()
    }

    /// Appends a record at the next offset, which it returns. `timestamp_ms` is in milliseconds since 1970.
    ///
    /// # Errors
    /// `TooLarge` if the batch would exceed 2 GiB or the offset its range; the batch is as before then.
    #[inline]
    pub fn append<'a, H>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: H,
    ) -> Result<i64, FormatError>
    where
        H: IntoIterator<Item = HeaderRef<'a>, IntoIter: Clone>,
    {
        let Some(offset_delta) = self.last_offset_delta.checked_add(1) else {
            return Err(too_large(Field::OffsetDelta, self.bytes(), i32::MAX as u64));
        };
        self.append_at(offset_delta, timestamp_ms, key, value, headers)
    }

    /// Appends a record at a given distance from the base offset, as compaction does when it leaves records out. Returns
    /// the record's offset.
    ///
    /// # Errors
    /// As [`append`](Self::append); `Invalid` if the delta is not above that of the record before.
    #[inline]
    pub fn append_at<'a, H>(
        &mut self,
        offset_delta: i32,
        timestamp_ms: i64,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: H,
    ) -> Result<i64, FormatError>
    where
        H: IntoIterator<Item = HeaderRef<'a>, IntoIter: Clone>,
    {
        if offset_delta <= self.last_offset_delta {
            let fault = Fault::Invalid { found: offset_delta.into() };
            return Err(FormatError::new(Field::OffsetDelta, self.bytes(), fault));
        }
        let base_timestamp = self.base_for(timestamp_ms);
        let Some(timestamp_delta) = timestamp_ms.checked_sub(base_timestamp) else {
            return Err(too_large(Field::TimestampDelta, self.bytes(), i64::MAX as u64));
        };
        let headers = headers.into_iter();
        let parts = Parts { timestamp_delta, offset_delta, key, value, headers };
        let body = parts.body_len();
        if framed_len(body) > BATCH_BYTES_MAX.saturating_sub(self.bytes()) {
            return Err(too_large(Field::Records, self.bytes(), BATCH_BYTES_MAX as u64));
        }
        parts.put(body, &mut self.buffer);
        if self.records_count == 0 {
            self.base_timestamp = base_timestamp;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.records_count += 1;
        self.last_offset_delta = offset_delta;
        Ok(self.options.base_offset.saturating_add(offset_delta.into()))
    }

    /// Finishes the batch and returns the buffer, whose last bytes it is.
    ///
    /// # Errors
    /// `Invalid` record count without records; what the codec says; `Invalid` base offset if it is negative or the last
    /// offset is beyond what can be counted.
    pub fn finish(self) -> Result<Vec<u8>, FormatError> {
        let last_offset_delta = self.last_offset_delta;
        self.finish_with_last_offset_delta(last_offset_delta)
    }

    /// Finishes the batch as one that once reached further, as compaction does.
    ///
    /// # Errors
    /// As [`finish`](Self::finish); `Invalid` if a record lies beyond that delta.
    pub fn finish_with_last_offset_delta(
        mut self,
        last_offset_delta: i32,
    ) -> Result<Vec<u8>, FormatError> {
        let invalid = |field, found| Err(FormatError::new(field, 0, Fault::Invalid { found }));
        if self.records_count == 0 {
            return invalid(Field::RecordsCount, 0);
        }
        if last_offset_delta < self.last_offset_delta {
            return invalid(Field::LastOffsetDelta, last_offset_delta.into());
        }
        self.pack()?;
        let header = self.header(last_offset_delta);
        let batch = self.buffer.get_mut(self.start..).unwrap_or_default();
        put(batch, 0, header.encode());
        // The decoder's rules are the rules: what it refuses is never handed out.
        BatchHeader::decode(batch)?;
        let crc = crc32c(batch.get(CRC_FROM..).unwrap_or_default());
        put(batch, CRC_AT, crc.to_be_bytes());
        Ok(self.buffer)
    }

    /// Replaces the records by what the codec makes of them, if that is smaller.
    fn pack(&mut self) -> Result<(), FormatError> {
        if self.options.codec == Codec::None {
            return Ok(());
        }
        let records = self.start + HEADER_BYTES;
        let mut packed = Vec::new();
        let plain = self.buffer.get(records..).unwrap_or_default();
        self.options.codec.encode(plain, &mut packed)?;
        if packed.len() >= plain.len() {
            self.options.codec = Codec::None;
            return Ok(());
        }
        self.buffer.truncate(records);
        self.buffer.extend_from_slice(&packed);
        Ok(())
    }

    /// The header of the batch as it is in the buffer, without CRC.
    fn header(&self, last_offset_delta: i32) -> BatchHeader {
        let options = &self.options;
        let timestamps = match options.append_time_ms {
            Some(_) => TimestampType::Append,
            None => TimestampType::Create,
        };
        BatchHeader {
            base_offset: options.base_offset,
            // `append` and `pack` keep the batch within 31 bits.
            length: (self.bytes() - LENGTH_OVERHEAD) as i32,
            leader_epoch: options.leader_epoch,
            crc: 0,
            attributes: Attributes::new(options.codec, timestamps)
                .with_transactional(options.transactional)
                .with_control(options.control)
                .with_delete_horizon(options.delete_horizon_ms.is_some()),
            last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: options.append_time_ms.unwrap_or(self.max_timestamp),
            producer_id: options.producer.id,
            producer_epoch: options.producer.epoch,
            base_sequence: options.producer.base_sequence,
            records_count: self.records_count,
        }
    }

    /// What timestamp deltas count from: the horizon or what else was given, else the first record's timestamp.
    #[inline]
    fn base_for(&self, timestamp_ms: i64) -> i64 {
        let first = self.records_count == 0 && !self.is_base_given;
        if first { timestamp_ms } else { self.base_timestamp }
    }
}

#[cold]
fn too_large(field: Field, position: usize, limit: u64) -> FormatError {
    FormatError::new(field, position, Fault::TooLarge { limit })
}
