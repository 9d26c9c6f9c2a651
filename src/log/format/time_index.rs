//! The time index of a segment: from a timestamp to an offset.
//!
//! Entries of 12 bytes, big-endian: the largest timestamp so far (milliseconds since 1970), and the offset it came with,
//! relative to the segment's base. Timestamps rise strictly, offsets do not fall. As sparse and as rebuildable as the offset
//! index.

use super::error::{Fault, Field, FormatError};
use super::index::{SegmentBounds, check_whole, odd_bytes};

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

/// The entries of a time index, read where they are.
#[derive(Clone, Copy, Debug)]
pub struct TimeIndex<'a> {
    entries: &'a [[u8; ENTRY_BYTES]],
    /// Bytes after the last whole entry.
    odd_bytes: usize,
}

impl<'a> TimeIndex<'a> {
    /// The index in `bytes`. Zeros at the end are not entries: an index in use is preallocated.
    pub fn new(bytes: &'a [u8]) -> Self {
        let (entries, odd) = bytes.as_chunks();
        let used = entries.iter().rposition(|entry| *entry != [0; ENTRY_BYTES]);
        let entries = entries.get(..used.map_or(0, |last| last + 1)).unwrap_or_default();
        Self { entries, odd_bytes: odd_bytes(odd) }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The `n`-th entry, from 0.
    pub fn get(&self, n: usize) -> Option<TimeIndexEntry> {
        self.entries.get(n).copied().map(TimeIndexEntry::decode)
    }

    /// The last entry, which has the largest timestamp that is indexed.
    pub fn last(&self) -> Option<TimeIndexEntry> {
        self.entries.last().copied().map(TimeIndexEntry::decode)
    }

    /// The last entry whose timestamp is not above `timestamp_ms`: no record up to its offset is later. `None`: search from
    /// the start of the segment. Entries that do not rise give any entry, so check them first.
    pub fn lookup(&self, timestamp_ms: i64) -> Option<TimeIndexEntry> {
        let above = self
            .entries
            .partition_point(|entry| TimeIndexEntry::decode(*entry).timestamp_ms <= timestamp_ms);
        above.checked_sub(1).and_then(|n| self.get(n))
    }

    /// Checks that the entries rise and stay within the segment; if not, the index must be built again.
    ///
    /// # Errors
    /// The first wrong entry, or bytes that are no whole entry.
    pub fn check(&self, bounds: SegmentBounds) -> Result<(), FormatError> {
        let mut before: Option<TimeIndexEntry> = None;
        for (n, entry) in self.entries.iter().copied().map(TimeIndexEntry::decode).enumerate() {
            let wrong = |field, offset, found| {
                let fault = Fault::Invalid { found };
                Err(FormatError::new(field, n * ENTRY_BYTES + offset, fault))
            };
            let TimeIndexEntry { timestamp_ms, relative_offset } = entry;
            if before.is_some_and(|before| before.timestamp_ms >= timestamp_ms) {
                return wrong(Field::Timestamp, 0, timestamp_ms);
            }
            let falls = before.is_some_and(|before| before.relative_offset > relative_offset);
            if falls || relative_offset > bounds.last_relative_offset {
                return wrong(Field::RelativeOffset, 8, relative_offset.into());
            }
            before = Some(entry);
        }
        check_whole(self.odd_bytes, self.entries.len() * ENTRY_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
