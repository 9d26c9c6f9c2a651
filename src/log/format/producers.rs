//! The `.snapshot` file of a partition: what it has seen of idempotent producers up to the offset in the file's name.
//!
//! Of each producer there may be several entries, for its last batches in their order; who keeps one of each keeps the last.
//!
//! Version (2 bytes, 1) | CRC-32C of all that follows (4) | entry count (4) | entries of 46 bytes; all big-endian.

use super::crc::crc32c;
use super::error::{Fault, Field, FormatError};

const VERSION: u16 = 1;
const VERSION_BYTES: usize = 2;
const HEADER_BYTES: usize = 10;
const ENTRY_BYTES: usize = 46;
/// Where the bytes under the CRC begin.
const CRC_FROM: usize = 6;

/// One of the last batches of a producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerEntry {
    /// The producer's id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The batch's last sequence number.
    pub last_sequence: i32,
    /// Offset of the batch's last record.
    pub last_offset: i64,
    /// Offsets from the first to the last record of the batch.
    pub offset_delta: i32,
    /// When the batch was appended, in milliseconds since 1970; Kafka notes its max timestamp here.
    pub timestamp_ms: i64,
    /// Epoch of the transaction coordinator, or -1.
    pub coordinator_epoch: i32,
    /// First offset of the transaction that is open, or -1.
    pub transaction_first_offset: i64,
}

/// Encodes a snapshot.
///
/// # Errors
/// `TooLarge` for more entries than a 31-bit count can say.
pub fn encode(entries: &[ProducerEntry]) -> Result<Vec<u8>, FormatError> {
    let Ok(count) = i32::try_from(entries.len()) else {
        let fault = Fault::TooLarge { limit: i32::MAX as u64 };
        return Err(FormatError::new(Field::SnapshotEntries, CRC_FROM, fault));
    };
    let mut body = Vec::with_capacity(4 + entries.len() * ENTRY_BYTES);
    body.extend_from_slice(&count.to_be_bytes());
    for entry in entries {
        body.extend_from_slice(&entry.producer_id.to_be_bytes());
        body.extend_from_slice(&entry.epoch.to_be_bytes());
        body.extend_from_slice(&entry.last_sequence.to_be_bytes());
        body.extend_from_slice(&entry.last_offset.to_be_bytes());
        body.extend_from_slice(&entry.offset_delta.to_be_bytes());
        body.extend_from_slice(&entry.timestamp_ms.to_be_bytes());
        body.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        body.extend_from_slice(&entry.transaction_first_offset.to_be_bytes());
    }
    let mut file = Vec::with_capacity(CRC_FROM + body.len());
    file.extend_from_slice(&VERSION.to_be_bytes());
    file.extend_from_slice(&crc32c(&body).to_be_bytes());
    file.append(&mut body);
    Ok(file)
}

/// Decodes a snapshot, the whole file.
///
/// # Errors
/// `Truncated`, a version other than 1, a wrong CRC, or a count that does not fit the bytes.
pub fn decode(file: &[u8]) -> Result<Vec<ProducerEntry>, FormatError> {
    let mut fields = Fields { rest: file };
    if file.len() < HEADER_BYTES {
        let fault = Fault::Truncated { needed: HEADER_BYTES as u64, available: file.len() as u64 };
        return Err(FormatError::new(Field::SnapshotEntries, 0, fault));
    }
    let version = u16::from_be_bytes(fields.take());
    if version != VERSION {
        let fault = Fault::Invalid { found: version.into() };
        return Err(FormatError::new(Field::SnapshotVersion, 0, fault));
    }
    let found = u32::from_be_bytes(fields.take());
    let expected = crc32c(fields.rest);
    if found != expected {
        let fault = Fault::Mismatch { expected: expected.into(), found: found.into() };
        return Err(FormatError::new(Field::SnapshotCrc, VERSION_BYTES, fault));
    }
    let count = i32::from_be_bytes(fields.take());
    let (whole, odd) = (fields.rest.len() / ENTRY_BYTES, fields.rest.len() % ENTRY_BYTES);
    if odd != 0 || usize::try_from(count) != Ok(whole) {
        let fault = Fault::Mismatch { expected: whole as i64, found: count.into() };
        return Err(FormatError::new(Field::SnapshotEntries, CRC_FROM, fault));
    }
    Ok((0..whole).map(|_| fields.entry()).collect())
}

/// Takes fields from the front; the caller has checked that they are there.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            debug_assert!(false, "the length was checked");
            return [0; N];
        };
        self.rest = rest;
        *bytes
    }

    fn entry(&mut self) -> ProducerEntry {
        ProducerEntry {
            producer_id: i64::from_be_bytes(self.take()),
            epoch: i16::from_be_bytes(self.take()),
            last_sequence: i32::from_be_bytes(self.take()),
            last_offset: i64::from_be_bytes(self.take()),
            offset_delta: i32::from_be_bytes(self.take()),
            timestamp_ms: i64::from_be_bytes(self.take()),
            coordinator_epoch: i32::from_be_bytes(self.take()),
            transaction_first_offset: i64::from_be_bytes(self.take()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<ProducerEntry>> {
        let entry = any::<(i64, i16, i32, i64, i32, i64, i32, i64)>().prop_map(|fields| {
            let (producer_id, epoch, last_sequence, last_offset, ..) = fields;
            let (.., offset_delta, timestamp_ms, coordinator_epoch, transaction_first_offset) =
                fields;
            ProducerEntry {
                producer_id,
                epoch,
                last_sequence,
                last_offset,
                offset_delta,
                timestamp_ms,
                coordinator_epoch,
                transaction_first_offset,
            }
        });
        prop::collection::vec(entry, 0..6)
    }

    #[test]
    fn the_fields_stand_where_kafka_puts_them() {
        let entry = ProducerEntry {
            producer_id: 1,
            epoch: 2,
            last_sequence: 3,
            last_offset: 4,
            offset_delta: 5,
            timestamp_ms: 6,
            coordinator_epoch: -1,
            transaction_first_offset: -1,
        };
        let file = encode(&[entry]).unwrap();
        let mut body = vec![0, 0, 0, 1];
        body.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5]);
        body.extend([0, 0, 0, 0, 0, 0, 0, 6]);
        body.extend([0xff; 12]);
        assert_eq!(file[..2], [0, 1]);
        assert_eq!(file[2..6], crc32c(&body).to_be_bytes());
        assert_eq!(file[6..], body);
    }

    #[test]
    fn a_count_that_does_not_fit_the_bytes_is_refused_though_the_crc_is_right() {
        for (count, bytes) in [(1, 0), (0, 46), (1, 47), (-1, 0), (i32::MAX, 46)] {
            let mut body = i32::to_be_bytes(count).to_vec();
            body.resize(4 + bytes, 0);
            let mut file = vec![0, 1];
            file.extend(crc32c(&body).to_be_bytes());
            file.extend(body);
            let error = decode(&file).unwrap_err();
            assert_eq!((error.field, error.position), (Field::SnapshotEntries, 6), "{count}");
        }
    }

    proptest! {
        #[test]
        fn a_snapshot_reads_back_and_any_flipped_bit_or_cut_is_found(
            entries in entries(), bit in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut file = encode(&entries).unwrap();
            prop_assert_eq!(decode(&file), Ok(entries));
            let cut = cut.index(file.len());
            prop_assert!(decode(&file[..cut]).is_err());
            let bit = bit.index(file.len() * 8);
            file[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&file).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
