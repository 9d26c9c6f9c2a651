//! The storage format of durable topics: Kafka's record batch v2 and the files beside it, byte for byte. Pure: bytes and
//! limits come in, bytes and facts come out; no I/O, no clock.
//!
//! A record on its way to a segment file and back meets:
//!
//! 1. [`record`]: one record in variable-length integers ([`varint`]);
//! 2. [`batch`]: records behind a header of 61 bytes with a CRC-32C, the unit that is written, checked and read, perhaps
//!    packed by a [`compression`] codec;
//! 3. [`index`] and [`time_index`] (what they share: [`entries`]): where in a segment an offset or a time is;
//! 4. [`producers`]: which sequence numbers of idempotent producers a partition has seen;
//! 5. [`checkpoint`] and [`properties`]: the small text files of a log directory, with [`id`]s of topics;
//! 6. [`names`]: what all these files and their directories are called;
//! 7. [`murmur2`]: which partition a key belongs to.
//!
//! Whatever can be wrong with stored bytes is a [`FormatError`], which tells the field and its byte position. Nothing
//! here panics on input, and nothing allocates by a size that the input merely claims.

pub mod batch;
pub mod checkpoint;
pub mod compression;
pub mod crc;
mod cursor;
pub mod entries;
mod error;
pub mod id;
pub mod index;
pub mod murmur2;
pub mod names;
pub mod producers;
pub mod properties;
pub mod record;
#[cfg(test)]
mod tests;
pub mod time_index;
pub mod varint;

pub use batch::{Batch, BatchBuilder, BatchHeader, BatchOptions, BatchView, Producer};
pub use compression::Codec;
pub use error::{Fault, Field, FormatError};
pub use id::Id;
pub use record::{Header, HeaderRef, Record, RecordRef};
