//! What can be wrong with stored bytes: which field, at which byte, and why.

use std::fmt;

use super::compression::Codec;

/// Stored bytes (or a request to store some) that break the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} at byte {position}: {fault}")]
pub struct FormatError {
    /// The field that is wrong.
    pub field: Field,
    /// Where the field starts: bytes from the start of the batch, file or text. Inside the records of a compressed batch:
    /// bytes from the start of the decompressed records.
    pub position: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

impl FormatError {
    /// Kept out of line: errors are rare, and the decoders that build them are hot.
    #[cold]
    pub(super) fn new(field: Field, position: usize, fault: Fault) -> Self {
        Self { field, position, fault }
    }

    /// As [`new`](Self::new), for results that stay in registers.
    #[cold]
    #[inline(never)]
    pub(super) fn boxed(field: Field, position: usize, fault: Fault) -> Box<Self> {
        Box::new(Self::new(field, position, fault))
    }

    /// Whether the input merely ends too early, as a torn write leaves it.
    pub fn is_truncation(&self) -> bool {
        matches!(self.fault, Fault::Truncated { .. })
    }
}

/// Why a field is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The input ends inside the field.
    #[error("needs {needed} bytes, but {available} are left")]
    Truncated {
        /// Bytes that the field needs.
        needed: u64,
        /// Bytes that the input has from the field's start.
        available: u64,
    },
    /// A variable-length integer goes on after its last possible byte, or has bits beyond its width.
    #[error("a variable-length integer of more than {bits} bits")]
    Overlong {
        /// Bits that the integer may have.
        bits: u32,
    },
    /// The field contradicts the bytes or another field.
    #[error("is {found}, must be {expected}")]
    Mismatch {
        /// What the rest of the input implies.
        expected: i64,
        /// What the field says.
        found: i64,
    },
    /// The field has a value that the format does not allow here.
    #[error("{found} is not allowed")]
    Invalid {
        /// The value.
        found: i64,
    },
    /// More than the caller, or the format, allows.
    #[error("is larger than the limit of {limit}")]
    TooLarge {
        /// The limit: bytes, or the largest value.
        limit: u64,
    },
    /// Bytes are left over after the last field.
    #[error("{count} bytes are left over")]
    Trailing {
        /// How many.
        count: u64,
    },
    /// Text that is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// Text that does not follow its grammar.
    #[error("is malformed")]
    Malformed,
    /// The codec refused the stream.
    #[error("is not a valid {codec} stream")]
    BadStream {
        /// The codec of the batch.
        codec: Codec,
    },
    /// The codec is not built in.
    #[error("{codec} needs the cargo feature `{feature}`")]
    CodecOff {
        /// The codec of the batch.
        codec: Codec,
        /// The cargo feature to switch on.
        feature: &'static str,
    },
}

/// Declares the fields with their names in messages.
macro_rules! fields {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)*) => {
        /// A field of the storage format.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Field {
            $(#[doc = concat!("The ", $text, ".")] $name,)*
        }

        impl Field {
            /// The field's name as messages show it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

fields! {
    BatchHeader = "batch header",
    BaseOffset = "base offset of a batch",
    BatchLength = "length of a batch",
    LeaderEpoch = "leader epoch",
    Magic = "magic byte of a batch",
    Crc = "CRC of a batch",
    Attributes = "attributes of a batch",
    LastOffsetDelta = "last offset delta of a batch",
    BaseTimestamp = "base timestamp of a batch",
    BaseSequence = "base sequence of a batch",
    RecordsCount = "record count of a batch",
    Records = "records of a batch",
    RecordLength = "length of a record",
    RecordAttributes = "attributes of a record",
    TimestampDelta = "timestamp delta of a record",
    OffsetDelta = "offset delta of a record",
    KeyLength = "key length of a record",
    Key = "key of a record",
    ValueLength = "value length of a record",
    Value = "value of a record",
    HeaderCount = "header count of a record",
    HeaderKeyLength = "key length of a record header",
    HeaderKey = "key of a record header",
    HeaderValueLength = "value length of a record header",
    HeaderValue = "value of a record header",
    IndexFile = "index file",
    RelativeOffset = "relative offset of an index entry",
    Position = "file position of an index entry",
    Timestamp = "timestamp of an index entry",
    SnapshotVersion = "version of a producer snapshot",
    SnapshotCrc = "CRC of a producer snapshot",
    SnapshotEntries = "entries of a producer snapshot",
    Version = "version line",
    EntryCount = "entry count line",
    Topic = "topic",
    Partition = "partition",
    Offset = "offset",
    Epoch = "leader epoch of a checkpoint",
    TopicId = "topic id",
    Property = "property line",
    File = "text file",
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
