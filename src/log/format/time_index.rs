//! The time index of a segment: from a timestamp to an offset.
//!
//! Entries of 12 bytes, big-endian: the largest timestamp so far (milliseconds since 1970), and the offset it came with,
//! relative to the segment's base. Timestamps rise strictly, offsets do not fall. As sparse and as rebuildable as the offset
//! index.

use super::entries::{Entries, Entry};
use super::error::Field;
use super::index::SegmentBounds;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 12;

/// When offsets begin to be later than a timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeIndexEntry {
    /// Largest timestamp up to the offset, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Offset of the record with that timestamp (or of its batch's last one), less the segment's base offset.
    pub relative_offset: u32,
}

impl TimeIndexEntry {
    /// The entry's bytes.
    pub const fn encode(self) -> [u8; ENTRY_BYTES] {
        let [a, b, c, d, e, f, g, h] = self.timestamp_ms.to_be_bytes();
        let [i, j, k, l] = self.relative_offset.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// The entry with these bytes.
    pub const fn decode(bytes: [u8; ENTRY_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            timestamp_ms: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            relative_offset: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

/// A time index: looked up by time, for an offset up to which no record is later.
pub type TimeIndex<'a> = Entries<'a, TimeIndexEntry, ENTRY_BYTES>;

impl Entry<ENTRY_BYTES> for TimeIndexEntry {
    type Key = i64;

    fn decode(bytes: [u8; ENTRY_BYTES]) -> Self {
        Self::decode(bytes)
    }

    fn key(self) -> i64 {
        self.timestamp_ms
    }

    fn fault(self, before: Option<Self>, bounds: SegmentBounds) -> Option<(Field, usize, i64)> {
        let Self { timestamp_ms, relative_offset } = self;
        if before.is_some_and(|before| before.timestamp_ms >= timestamp_ms) {
            return Some((Field::Timestamp, 0, timestamp_ms));
        }
        let falls = before.is_some_and(|before| before.relative_offset > relative_offset);
        let wrong = falls || relative_offset > bounds.last_relative_offset;
        wrong.then_some((Field::RelativeOffset, 8, relative_offset.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::error::Fault;
    use proptest::prelude::*;

    const BOUNDS: SegmentBounds = SegmentBounds { bytes: 1000, last_relative_offset: 100 };

    fn encoded(entries: &[(i64, u32)]) -> Vec<u8> {
        let entry =
            |&(timestamp_ms, relative_offset)| TimeIndexEntry { timestamp_ms, relative_offset };
        entries.iter().map(entry).flat_map(TimeIndexEntry::encode).collect()
    }

    #[test]
    fn an_entry_is_timestamp_then_offset_big_endian() {
        let entry =
            TimeIndexEntry { timestamp_ms: 0x0102_0304_0506_0708, relative_offset: 0x090a_0b0c };
        assert_eq!(entry.encode(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(TimeIndexEntry::decode(entry.encode()), entry);
    }

    #[test]
    fn entries_that_do_not_rise_or_leave_the_segment_are_found() {
        let cases = [
            (vec![(5, 0), (5, 10)], Field::Timestamp, 12),
            (vec![(5, 0), (4, 10)], Field::Timestamp, 12),
            (vec![(5, 3), (6, 2)], Field::RelativeOffset, 20),
            (vec![(5, 101)], Field::RelativeOffset, 8),
        ];
        for (entries, field, position) in cases {
            let error = TimeIndex::new(&encoded(&entries)).check(BOUNDS).unwrap_err();
            assert_eq!((error.field, error.position), (field, position), "{entries:?}");
        }
        let sound = encoded(&[(-1, 0), (0, 0), (9, 100)]);
        assert_eq!(TimeIndex::new(&sound).check(BOUNDS), Ok(()));
    }

    #[test]
    fn preallocated_zeros_are_no_entries_whatever_their_number() {
        let mut bytes = encoded(&[(7, 1)]);
        bytes.extend_from_slice(&[0; 100]);
        let index = TimeIndex::new(&bytes);
        assert_eq!((index.len(), index.check(BOUNDS)), (1, Ok(())));
        *bytes.last_mut().unwrap() = 1;
        let error = TimeIndex::new(&bytes).check(BOUNDS).unwrap_err();
        assert_eq!(error.fault, Fault::Trailing { count: 4 });
    }

    proptest! {
        #[test]
        fn a_lookup_agrees_with_a_scan(
            steps in prop::collection::vec((1..50i64, 0..50u32), 0..40),
            target in -10..2500i64,
        ) {
            let mut last = (0, 0);
            let mut entries = Vec::new();
            for (time, offset) in steps {
                last = (last.0 + time, last.1 + offset);
                entries.push(last);
            }
            let bytes = encoded(&entries);
            let index = TimeIndex::new(&bytes);
            let scanned = entries.iter().rev().find(|entry| entry.0 <= target);
            let found = index.lookup(target).map(|entry| (entry.timestamp_ms, entry.relative_offset));
            prop_assert_eq!(found.as_ref(), scanned);
            for (n, entry) in entries.iter().enumerate() {
                prop_assert_eq!(index.lookup(entry.0), index.get(n));
            }
            prop_assert_eq!(index.len(), entries.len());
            prop_assert_eq!(index.last().map(TimeIndexEntry::encode).map(Vec::from),
                bytes.rchunks(ENTRY_BYTES).next().map(Vec::from));
        }

        #[test]
        fn arbitrary_bytes_are_looked_up_and_checked_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            target in any::<i64>(),
        ) {
            let index = TimeIndex::new(&bytes);
            index.lookup(target);
            let bounds = SegmentBounds { bytes: u32::MAX, last_relative_offset: u32::MAX };
            if index.check(bounds).is_ok() {
                let all: Vec<_> = (0..index.len()).filter_map(|n| index.get(n)).collect();
                let rises = all.is_sorted_by(|a, b| {
                    a.timestamp_ms < b.timestamp_ms && a.relative_offset <= b.relative_offset
                });
                prop_assert!(rises);
            }
        }
    }
}
