//! Changes to a batch that is already encoded: where it stands in the log, who appended it, which producer it is from.

use super::attributes::{Attributes, TimestampType};
use super::builder::Producer;
use super::header::{
    ATTRIBUTES_AT, BatchHeader, CRC_AT, CRC_FROM, EPOCH_AT, LAST_DELTA_AT, MAX_TIMESTAMP_AT,
    PRODUCER_EPOCH_AT, PRODUCER_ID_AT, SEQUENCE_AT, put,
};
use crate::log::format::crc::crc32c;
use crate::log::format::error::{Fault, Field, FormatError};

/// Moves the batch at the front of `bytes` to another base offset. The CRC does not cover it, so nothing else changes.
///
/// # Errors
/// What [`BatchHeader::decode`] says; `Invalid` for an offset that is negative or leaves no room for the batch.
pub fn set_base_offset(bytes: &mut [u8], base_offset: i64) -> Result<(), FormatError> {
    let header = BatchHeader::decode(bytes)?;
    let last = base_offset.checked_add(header.last_offset_delta.into());
    if base_offset < 0 || last.is_none_or(|last| last == i64::MAX) {
        let fault = Fault::Invalid { found: base_offset };
        return Err(FormatError::new(Field::BaseOffset, 0, fault));
    }
    put(bytes, 0, base_offset.to_be_bytes());
    Ok(())
}

/// Sets the leader epoch of the batch at the front of `bytes`. The CRC does not cover it, so nothing else changes.
///
/// # Errors
/// What [`BatchHeader::decode`] says.
pub fn set_leader_epoch(bytes: &mut [u8], leader_epoch: i32) -> Result<(), FormatError> {
    BatchHeader::decode(bytes)?;
    put(bytes, EPOCH_AT, leader_epoch.to_be_bytes());
    Ok(())
}

/// Gives the batch at the front of `bytes` to another producer and computes its CRC again.
///
/// # Errors
/// What [`BatchHeader::decode`] says; `Truncated` if the batch is not whole.
pub fn set_producer(bytes: &mut [u8], producer: Producer) -> Result<(), FormatError> {
    change(bytes, |batch, _| {
        put(batch, PRODUCER_ID_AT, producer.id.to_be_bytes());
        put(batch, PRODUCER_EPOCH_AT, producer.epoch.to_be_bytes());
        put(batch, SEQUENCE_AT, producer.base_sequence.to_be_bytes());
    })
}

/// Stamps the batch at the front of `bytes` with the time of its append (milliseconds since 1970), which then counts for
/// all its records, and computes its CRC again.
///
/// # Errors
/// What [`BatchHeader::decode`] says; `Truncated` if the batch is not whole.
pub fn set_append_time(bytes: &mut [u8], append_time_ms: i64) -> Result<(), FormatError> {
    change(bytes, |batch, attributes| {
        let attributes = attributes.with_timestamp_type(TimestampType::Append);
        put(batch, ATTRIBUTES_AT, attributes.bits().to_be_bytes());
        put(batch, MAX_TIMESTAMP_AT, append_time_ms.to_be_bytes());
    })
}

/// Lets the batch at the front of `bytes` reach up to another last offset, as compaction does when it leaves out what
/// follows, and computes its CRC again. Not for batches of an idempotent producer: the delta tells the last sequence.
///
/// # Errors
/// What [`BatchHeader::decode`] says, of the batch as it would be too; `Truncated` if the batch is not whole.
pub fn set_last_offset_delta(bytes: &mut [u8], delta: i32) -> Result<(), FormatError> {
    let header = BatchHeader { last_offset_delta: delta, ..BatchHeader::decode(bytes)? };
    BatchHeader::decode(&header.encode())?;
    change(bytes, |batch, _| put(batch, LAST_DELTA_AT, delta.to_be_bytes()))
}

fn change(bytes: &mut [u8], edit: impl FnOnce(&mut [u8], Attributes)) -> Result<(), FormatError> {
    let header = BatchHeader::decode(bytes)?;
    let (needed, available) = (header.batch_bytes(), bytes.len());
    let Some(batch) = bytes.get_mut(..needed) else {
        let fault = Fault::Truncated { needed: needed as u64, available: available as u64 };
        return Err(FormatError::new(Field::Records, 0, fault));
    };
    edit(batch, header.attributes);
    let crc = crc32c(batch.get(CRC_FROM..).unwrap_or_default());
    put(batch, CRC_AT, crc.to_be_bytes());
    Ok(())
}
