//! Record batches: 61 bytes of header, then the records, plain or packed by a codec.
//!
//! | byte | field | bytes | under the CRC |
//! |---|---|---|---|
//! | 0 | base offset | 8 | no |
//! | 8 | length of all after this field | 4 | no |
//! | 12 | leader epoch | 4 | no |
//! | 16 | magic = 2 | 1 | no |
//! | 17 | CRC-32C of byte 21 to the end | 4 | - |
//! | 21 | attributes | 2 | yes |
//! | 23 | last offset delta | 4 | yes |
//! | 27 | base timestamp | 8 | yes |
//! | 35 | max timestamp | 8 | yes |
//! | 43 | producer id | 8 | yes |
//! | 51 | producer epoch | 2 | yes |
//! | 53 | base sequence | 4 | yes |
//! | 57 | record count | 4 | yes |
//! | 61 | records | | yes |
//!
//! All integers are big-endian. What the CRC does not cover is for the reader of a segment to check: offsets must go on
//! from batch to batch.

mod attributes;
mod builder;
mod header;
mod patch;
mod records;
mod view;

pub use attributes::{Attributes, TimestampType};
pub use builder::{BatchBuilder, BatchOptions, Producer};
pub use header::{BatchHeader, HEADER_BYTES};
pub use patch::{
    set_append_time, set_base_offset, set_last_offset_delta, set_leader_epoch, set_producer,
};
pub(in crate::log) use records::RECORDS_MAX;
pub use records::{DECOMPRESSED_BYTES_MAX, Records, RecordsRef};
pub use view::{Batch, BatchView, Batches, batches};

#[cfg(test)]
mod tests;
