//! The records of the internal topic of groups: Kafka's of `__consumer_offsets`, key version 1 and value version 3 for a
//! committed offset, key version 2 and value version 3 for the group itself, of which only the generation is used. A key
//! without value says that it is gone. Integers are big-endian, texts have their length in two bytes before them.

use super::types::Committed;
use crate::log::fields::{Fields, put_text};

const KEY_OFFSET: i16 = 1;
/// As version 1; what older brokers wrote.
const KEY_OFFSET_OLD: i16 = 0;
const KEY_GROUP: i16 = 2;
const VALUE_OFFSET: i16 = 3;
const VALUE_GROUP: i16 = 3;
/// What Kafka calls groups of consumers.
const PROTOCOL_TYPE: &str = "consumer";
/// No leader epoch, no text.
const NONE: i16 = -1;

/// What a record is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// The offset of a group in a partition.
    Offset { group: String, topic: String, partition: u32 },
    /// The group itself.
    Group { group: String },
}

impl Key {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Offset { group, topic, partition } => {
                out.extend_from_slice(&KEY_OFFSET.to_be_bytes());
                put_text(&mut out, group);
                put_text(&mut out, topic);
                out.extend_from_slice(&partition.to_be_bytes());
            }
            Self::Group { group } => {
                out.extend_from_slice(&KEY_GROUP.to_be_bytes());
                put_text(&mut out, group);
            }
        }
        out
    }

    /// `None` if it is no key of a version known here.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Fields::new(bytes);
        let key = match bytes.short()? {
            KEY_OFFSET | KEY_OFFSET_OLD => {
                let (group, topic) = (bytes.text()?, bytes.text()?);
                Self::Offset { group, topic, partition: u32::try_from(bytes.int()?).ok()? }
            }
            KEY_GROUP => Self::Group { group: bytes.text()? },
            _ => return None,
        };
        bytes.is_empty().then_some(key)
    }
}

/// The value of a committed offset.
pub(super) fn encode_offset(committed: &Committed) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&VALUE_OFFSET.to_be_bytes());
    out.extend_from_slice(&committed.offset.to_be_bytes());
    out.extend_from_slice(&i32::from(NONE).to_be_bytes());
    put_text(&mut out, &committed.metadata);
    out.extend_from_slice(&committed.timestamp_ms.to_be_bytes());
    out
}

pub(super) fn decode_offset(bytes: &[u8]) -> Option<Committed> {
    let mut bytes = Fields::new(bytes);
    if bytes.short()? != VALUE_OFFSET {
        return None;
    }
    let (offset, _leader_epoch) = (bytes.long()?, bytes.int()?);
    let committed = Committed { offset, metadata: bytes.text()?, timestamp_ms: bytes.long()? };
    bytes.is_empty().then_some(committed)
}

/// The value of a group that reached a generation. Its members are not kept: they join again.
pub(super) fn encode_generation(generation: i32, timestamp_ms: i64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&VALUE_GROUP.to_be_bytes());
    put_text(&mut out, PROTOCOL_TYPE);
    out.extend_from_slice(&generation.to_be_bytes());
    // No protocol, no leader.
    out.extend_from_slice(&NONE.to_be_bytes());
    out.extend_from_slice(&NONE.to_be_bytes());
    out.extend_from_slice(&timestamp_ms.to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    out
}

/// The generation; what follows it is not looked at.
pub(super) fn decode_generation(bytes: &[u8]) -> Option<i32> {
    let mut bytes = Fields::new(bytes);
    if bytes.short()? != VALUE_GROUP {
        return None;
    }
    bytes.text()?;
    bytes.int()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_values_are_the_bytes_that_kafka_writes() {
        let key = Key::Offset { group: "g1".to_owned(), topic: "t".to_owned(), partition: 7 };
        assert_eq!(key.encode(), b"\0\x01\0\x02g1\0\x01t\0\0\0\x07");
        assert_eq!(Key::Group { group: "g1".to_owned() }.encode(), b"\0\x02\0\x02g1");
        let committed = Committed { offset: 258, metadata: "m".to_owned(), timestamp_ms: 3 };
        let expected = b"\0\x03\0\0\0\0\0\0\x01\x02\xff\xff\xff\xff\0\x01m\0\0\0\0\0\0\0\x03";
        assert_eq!(encode_offset(&committed), expected);
        let expected = b"\0\x03\0\x08consumer\0\0\0\x05\xff\xff\xff\xff\0\0\0\0\0\0\0\x09\0\0\0\0";
        assert_eq!(encode_generation(5, 9), expected);
    }

    proptest! {
        #[test]
        fn they_read_back_as_they_were_written(
            group in "[a-z\u{e4}]{0,9}", topic in "[a-z]{1,9}", partition in 0u32..=i32::MAX as u32,
            offset in 0i64.., metadata in ".{0,20}", timestamp_ms: i64, generation: i32,
        ) {
            let key = Key::Offset { group: group.clone(), topic, partition };
            prop_assert_eq!(Key::decode(&key.encode()), Some(key));
            let key = Key::Group { group };
            prop_assert_eq!(Key::decode(&key.encode()), Some(key));
            let committed = Committed { offset, metadata, timestamp_ms };
            prop_assert_eq!(decode_offset(&encode_offset(&committed)), Some(committed));
            prop_assert_eq!(decode_generation(&encode_generation(generation, 1)), Some(generation));
        }

        #[test]
        fn whatever_the_bytes_are_reading_them_ends(bytes in prop::collection::vec(0u8..4, 0..40)) {
            _ = (Key::decode(&bytes), decode_offset(&bytes), decode_generation(&bytes));
        }
    }
}
