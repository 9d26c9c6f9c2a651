//! The header of a batch: 61 bytes as a value and back.

use super::attributes::{Attributes, TimestampType};
use crate::log::format::compression::Codec;
use crate::log::format::crc::crc32c;
use crate::log::format::error::{Fault, Field, FormatError};

/// Bytes of a batch's header.
pub const HEADER_BYTES: usize = 61;

/// The only batch version there is here.
pub(super) const MAGIC: u8 = 2;
/// What the length field leaves out: itself and the base offset before it.
pub(super) const LENGTH_OVERHEAD: usize = 12;

pub(super) const LENGTH_AT: usize = 8;
pub(super) const EPOCH_AT: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
pub(super) const CRC_FROM: usize = 21;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const LAST_DELTA_AT: usize = 23;
pub(super) const BASE_TIMESTAMP_AT: usize = 27;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
pub(super) const PRODUCER_ID_AT: usize = 43;
pub(super) const PRODUCER_EPOCH_AT: usize = 51;
pub(super) const SEQUENCE_AT: usize = 53;
pub(super) const COUNT_AT: usize = 57;

/// A batch's header. [`decode`](Self::decode) only returns headers whose numbers agree with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Offset of the first record; not negative, not under the CRC.
    pub base_offset: i64,
    /// Bytes after the length field: the batch's bytes less 12; not under the CRC.
    pub length: i32,
    /// Which writer appended the batch; -1 if unknown, not under the CRC.
    pub leader_epoch: i32,
    /// CRC-32C from the attributes to the end of the batch.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// Offset of the last record the batch was made with, less the base offset. Compaction keeps it.
    pub last_offset_delta: i32,
    /// Milliseconds since 1970 that timestamp deltas count from; with a delete horizon, that horizon.
    pub base_timestamp: i64,
    /// The largest timestamp, or the time of the append; milliseconds since 1970.
    pub max_timestamp: i64,
    /// The idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Its sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch; compaction may leave less than offsets, even none.
    pub records_count: i32,
}

impl BatchHeader {
    /// Decodes the header at the front of `bytes` and checks it; the CRC needs the whole batch and is not checked.
    ///
    /// # Errors
    /// `Truncated` before 61 bytes; else the first field that is impossible or contradicts another.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(fields) = bytes.first_chunk::<HEADER_BYTES>() else {
            let available = bytes.len() as u64;
            let fault = Fault::Truncated { needed: HEADER_BYTES as u64, available };
            return Err(FormatError::new(Field::BatchHeader, 0, fault));
        };
        if fields[MAGIC_AT] != MAGIC {
            let fault = Fault::Invalid { found: fields[MAGIC_AT].into() };
            return Err(FormatError::new(Field::Magic, MAGIC_AT, fault));
        }
        let bits = u16::from_be_bytes(array(fields, ATTRIBUTES_AT));
        let Some(attributes) = Attributes::from_bits(bits) else {
            let fault = Fault::Invalid { found: bits.into() };
            return Err(FormatError::new(Field::Attributes, ATTRIBUTES_AT, fault));
        };
        let header = Self {
            base_offset: i64::from_be_bytes(array(fields, 0)),
            length: i32::from_be_bytes(array(fields, LENGTH_AT)),
            leader_epoch: i32::from_be_bytes(array(fields, EPOCH_AT)),
            crc: u32::from_be_bytes(array(fields, CRC_AT)),
            attributes,
            last_offset_delta: i32::from_be_bytes(array(fields, LAST_DELTA_AT)),
            base_timestamp: i64::from_be_bytes(array(fields, BASE_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(array(fields, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(array(fields, PRODUCER_ID_AT)),
            producer_epoch: i16::from_be_bytes(array(fields, PRODUCER_EPOCH_AT)),
            base_sequence: i32::from_be_bytes(array(fields, SEQUENCE_AT)),
            records_count: i32::from_be_bytes(array(fields, COUNT_AT)),
        };
        header.check()?;
        Ok(header)
    }

    /// Whether the numbers agree with each other.
    fn check(&self) -> Result<(), FormatError> {
        let wrong = |field, position, found: i64| {
            Err(FormatError::new(field, position, Fault::Invalid { found }))
        };
        if self.length < (HEADER_BYTES - LENGTH_OVERHEAD) as i32 {
            return wrong(Field::BatchLength, LENGTH_AT, self.length.into());
        }
        if self.last_offset_delta < 0 {
            return wrong(Field::LastOffsetDelta, LAST_DELTA_AT, self.last_offset_delta.into());
        }
        let last = self.base_offset.checked_add(self.last_offset_delta.into());
        if self.base_offset < 0 || last.is_none_or(|last| last == i64::MAX) {
            return wrong(Field::BaseOffset, 0, self.base_offset);
        }
        let offsets = i64::from(self.last_offset_delta) + 1;
        if !(0..=offsets).contains(&self.records_count.into()) {
            return wrong(Field::RecordsCount, COUNT_AT, self.records_count.into());
        }
        let packed = self.length as usize + LENGTH_OVERHEAD - HEADER_BYTES;
        if (self.records_count == 0) != (packed == 0) {
            return wrong(Field::RecordsCount, COUNT_AT, self.records_count.into());
        }
        Ok(())
    }

    /// The 61 bytes of the header, with the fields as they are.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, self.base_offset.to_be_bytes());
        put(&mut bytes, LENGTH_AT, self.length.to_be_bytes());
        put(&mut bytes, EPOCH_AT, self.leader_epoch.to_be_bytes());
        put(&mut bytes, MAGIC_AT, [MAGIC]);
        put(&mut bytes, CRC_AT, self.crc.to_be_bytes());
        put(&mut bytes, ATTRIBUTES_AT, self.attributes.bits().to_be_bytes());
        put(&mut bytes, LAST_DELTA_AT, self.last_offset_delta.to_be_bytes());
        put(&mut bytes, BASE_TIMESTAMP_AT, self.base_timestamp.to_be_bytes());
        put(&mut bytes, MAX_TIMESTAMP_AT, self.max_timestamp.to_be_bytes());
        put(&mut bytes, PRODUCER_ID_AT, self.producer_id.to_be_bytes());
        put(&mut bytes, PRODUCER_EPOCH_AT, self.producer_epoch.to_be_bytes());
        put(&mut bytes, SEQUENCE_AT, self.base_sequence.to_be_bytes());
        put(&mut bytes, COUNT_AT, self.records_count.to_be_bytes());
        bytes
    }

    /// The whole batch that compaction leaves when no record of this one remains but its producer must be remembered: a
    /// header without records, plain and without delete horizon, with its CRC.
    pub fn encode_emptied(&self) -> [u8; HEADER_BYTES] {
        let emptied = Self {
            length: (HEADER_BYTES - LENGTH_OVERHEAD) as i32,
            attributes: self.attributes.with_codec(Codec::None).with_delete_horizon(false),
            base_timestamp: self.max_timestamp,
            records_count: 0,
            ..*self
        };
        let mut bytes = emptied.encode();
        let crc = crc32c(&bytes[CRC_FROM..]);
        put(&mut bytes, CRC_AT, crc.to_be_bytes());
        bytes
    }

    /// Bytes of the whole batch, the header included.
    #[inline]
    pub fn batch_bytes(&self) -> usize {
        usize::try_from(self.length).unwrap_or_default() + LENGTH_OVERHEAD
    }

    /// Offset of the last record the batch was made with.
    #[inline]
    pub fn last_offset(&self) -> i64 {
        self.offset_of(self.last_offset_delta)
    }

    /// Offset of the record with this delta.
    #[inline]
    pub fn offset_of(&self, offset_delta: i32) -> i64 {
        self.base_offset.saturating_add(offset_delta.into())
    }

    /// Timestamp of the record with this delta, in milliseconds since 1970.
    #[inline]
    pub fn timestamp_of(&self, timestamp_delta: i64) -> i64 {
        match self.attributes.timestamp_type() {
            TimestampType::Create => self.base_timestamp.saturating_add(timestamp_delta),
            TimestampType::Append => self.max_timestamp,
        }
    }

    /// When tombstones of the batch may go, in milliseconds since 1970, if compaction has set that.
    pub fn delete_horizon(&self) -> Option<i64> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// The idempotent producer's sequence number of the last record; it wraps from `i32::MAX` to 0. -1 without producer.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }
}

/// The `N` bytes at a fixed place of the header.
fn array<const N: usize>(fields: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&fields[at..at + N]);
    bytes
}

/// Overwrites bytes at a fixed place of a batch that has its header.
pub(super) fn put<const N: usize>(batch: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = batch.get_mut(at..at + N) {
        place.copy_from_slice(&bytes);
    }
}
