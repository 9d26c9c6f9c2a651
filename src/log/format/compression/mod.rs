//! The codecs of a batch's records, as Kafka's clients use them: which stream format, which framing, which block size.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt;

use super::batch::HEADER_BYTES;
use super::error::{Fault, Field, FormatError};

/// How the records of a batch are packed. All codecs can be named; whether one is built in depends on the cargo feature
/// of its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Codec {
    /// Plain records.
    #[default]
    None,
    /// One gzip member (RFC 1952).
    Gzip,
    /// Snappy in the stream framing of the xerial library.
    Snappy,
    /// An LZ4 frame of independent blocks.
    Lz4,
    /// A Zstandard frame.
    Zstd,
}

/// Why a codec's stream was not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
    allow(dead_code, reason = "without codecs nothing is decoded")
)]
enum Refused {
    Bad,
    TooLarge,
}

impl Codec {
    /// All codecs, in the order of their ids.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The id in a batch's attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec with this id.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name, as Kafka's `compression.type` has it; also the cargo feature that builds it in.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether the codec is built in.
    pub const fn is_available(self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// Packs `plain` and appends the result to `out`.
    ///
    /// # Errors
    /// `CodecOff` if the codec is not built in; `BadStream` if it fails, which none should.
    pub fn encode(self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
        let packed = match self {
            Self::None => {
                out.extend_from_slice(plain);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Self::Gzip => gzip::encode(plain, out),
            #[cfg(feature = "snappy")]
            Self::Snappy => snappy::encode(plain, out),
            #[cfg(feature = "lz4")]
            Self::Lz4 => lz4::encode(plain, out),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::encode(plain, out),
            #[allow(unreachable_patterns, reason = "reached when a feature is off")]
            _ => return Err(self.off()),
        };
        packed.map_err(|refused| self.refused(refused, 0))
    }

    /// Unpacks `packed` and appends the result to `out`. That grows with what the stream has yielded or, by the expansion
    /// its codec is capable of, still can yield; its capacity stays within twice what it held plus `bytes_max`, whatever
    /// sizes the stream claims. Working memory beside it is below 1 MiB.
    ///
    /// # Errors
    /// `CodecOff` if the codec is not built in; `TooLarge` if more than `bytes_max` bytes come out; `BadStream` if the
    /// stream is damaged, ends early or goes on after its end. What was appended is cut off again then.
    pub fn decode(
        self,
        packed: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), FormatError> {
        let start = out.len();
        let unpacked = match self {
            Self::None if packed.len() > bytes_max => Err(Refused::TooLarge),
            Self::None => {
                out.extend_from_slice(packed);
                Ok(())
            }
            #[cfg(feature = "gzip")]
            Self::Gzip => gzip::decode(packed, out, bytes_max),
            #[cfg(feature = "snappy")]
            Self::Snappy => snappy::decode(packed, out, bytes_max),
            #[cfg(feature = "lz4")]
            Self::Lz4 => lz4::decode(packed, out, bytes_max),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::decode(packed, out, bytes_max),
            #[allow(unreachable_patterns, reason = "reached when a feature is off")]
            _ => return Err(self.off()),
        };
        unpacked.map_err(|refused| {
            out.truncate(start);
            self.refused(refused, bytes_max)
        })
    }

    #[allow(dead_code, reason = "unused when every feature is on")]
    fn off(self) -> FormatError {
        let fault = Fault::CodecOff { codec: self, feature: self.name() };
        FormatError::new(Field::Records, HEADER_BYTES, fault)
    }

    fn refused(self, refused: Refused, bytes_max: usize) -> FormatError {
        let fault = match refused {
            Refused::Bad => Fault::BadStream { codec: self },
            Refused::TooLarge => Fault::TooLarge { limit: bytes_max as u64 },
        };
        FormatError::new(Field::Records, HEADER_BYTES, fault)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
