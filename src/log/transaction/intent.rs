//! The records of the internal topic of transactions: an intent has everything that a transaction appends, so that it can
//! be completed from that alone; a mark says that everything before it is complete.
//!
//! A record is version (2 bytes, 1), kind (2 bytes: 0 intent, 1 mark). An intent goes on with the number of parts (4), and
//! for each part: topic (length in 2 bytes, name), id of the topic (16), partition (4), the offset from which on the part is
//! (8), bytes (4) and the batches of the part back to back, as they are appended but for their offsets. Big-endian.

use crate::log::fields::{Fields, put_text};
use crate::log::format::Id;

const VERSION: i16 = 1;
const KIND_INTENT: i16 = 0;
const KIND_MARK: i16 = 1;

/// What a transaction appends to one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) topic: String,
    /// By which a later topic of the same name is known.
    pub(super) id: Id,
    pub(super) partition: u32,
    /// If the part is in the partition, then from this offset on.
    pub(super) from: i64,
    /// Batches back to back.
    pub(super) batches: Vec<u8>,
}

/// A record of the topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Intent(Vec<Part>),
    Mark,
}

/// A mark.
pub(super) fn encode_mark() -> Vec<u8> {
    [VERSION.to_be_bytes(), KIND_MARK.to_be_bytes()].concat()
}

/// An intent.
pub(super) fn encode_intent(parts: &[Part]) -> Vec<u8> {
    let mut out = [VERSION.to_be_bytes(), KIND_INTENT.to_be_bytes()].concat();
    out.extend_from_slice(&length(parts.len()));
    for part in parts {
        put_text(&mut out, &part.topic);
        out.extend_from_slice(&part.id.bits().to_be_bytes());
        out.extend_from_slice(&part.partition.to_be_bytes());
        out.extend_from_slice(&part.from.to_be_bytes());
        out.extend_from_slice(&length(part.batches.len()));
        out.extend_from_slice(&part.batches);
    }
    out
}

impl Record {
    /// `None` if it is not what is written here.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.short()? != VERSION {
            return None;
        }
        let record = match fields.short()? {
            KIND_MARK => Self::Mark,
            KIND_INTENT => {
                let mut parts = Vec::new();
                for _ in 0..fields.int()? {
                    parts.push(decode_part(&mut fields)?);
                }
                Self::Intent(parts)
            }
            _ => return None,
        };
        fields.is_empty().then_some(record)
    }
}

fn decode_part(fields: &mut Fields<'_>) -> Option<Part> {
    let topic = fields.text()?;
    let id = Id::from_bits(u128::from_be_bytes(fields.array()?));
    let partition = u32::try_from(fields.int()?).ok()?;
    let from = fields.long()?;
    let len = usize::try_from(fields.int()?).ok()?;
    Some(Part { topic, id, partition, from, batches: fields.bytes(len)?.to_vec() })
}

/// A length in four bytes. What is too long for that is too large for a batch, and refused as such.
fn length(len: usize) -> [u8; 4] {
    i32::try_from(len).unwrap_or(i32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part() -> impl Strategy<Value = Part> {
        let bytes = prop::collection::vec(any::<u8>(), 0..30);
        ("[a-z]{1,9}", any::<u128>(), 0u32..=i32::MAX as u32, any::<i64>(), bytes).prop_map(
            |(topic, id, partition, from, batches)| Part {
                topic,
                id: Id::from_bits(id),
                partition,
                from,
                batches,
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_reads_back_and_no_beginning_of_it_does(parts in prop::collection::vec(part(), 0..4)) {
            let intent = (encode_intent(&parts), Record::Intent(parts));
            for (bytes, record) in [intent, (encode_mark(), Record::Mark)] {
                for end in 0..bytes.len() {
                    prop_assert_eq!(Record::decode(&bytes[..end]), None);
                }
                prop_assert_eq!(Record::decode(&bytes), Some(record));
            }
        }

        #[test]
        fn whatever_the_bytes_are_reading_them_ends(bytes in prop::collection::vec(0u8..3, 0..80)) {
            _ = Record::decode(&bytes);
        }
    }
}
