//! The offset index of a segment: from an offset to the place in the file where its batch is.
//!
//! Entries of 8 bytes, big-endian: offset relative to the segment's base, file position of the batch. Both rise strictly. The
//! index is sparse and has no checksum; it can always be built again from its segment.

use super::entries::{Entries, Entry};
use super::error::Field;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 8;

/// Where a batch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// Last offset of the batch, less the segment's base offset.
    pub relative_offset: u32,
    /// Where the batch begins in the segment's file, in bytes.
    pub position: u32,
}

impl IndexEntry {
    /// The entry's bytes.
    pub const fn encode(self) -> [u8; ENTRY_BYTES] {
        (((self.relative_offset as u64) << 32) | self.position as u64).to_be_bytes()
    }

    /// The entry with these bytes.
    pub const fn decode(bytes: [u8; ENTRY_BYTES]) -> Self {
        let both = u64::from_be_bytes(bytes);
        Self { relative_offset: (both >> 32) as u32, position: both as u32 }
    }
}

/// What a segment really has; an index that points beyond is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentBounds {
    /// Bytes of the segment's file.
    pub bytes: u32,
    /// Last offset in the segment, less its base offset.
    pub last_relative_offset: u32,
}

/// An offset index: looked up by offset, for the place to search from.
pub type OffsetIndex<'a> = Entries<'a, IndexEntry, ENTRY_BYTES>;

impl Entry<ENTRY_BYTES> for IndexEntry {
    type Key = u32;

    fn decode(bytes: [u8; ENTRY_BYTES]) -> Self {
        Self::decode(bytes)
    }

    fn key(self) -> u32 {
        self.relative_offset
    }

    fn fault(self, before: Option<Self>, bounds: SegmentBounds) -> Option<(Field, usize, i64)> {
        let Self { relative_offset, position } = self;
        let rises = before.is_none_or(|before| before.relative_offset < relative_offset);
        if !rises || relative_offset > bounds.last_relative_offset {
            return Some((Field::RelativeOffset, 0, relative_offset.into()));
        }
        let rises = before.is_none_or(|before| before.position < position);
        (!rises || position >= bounds.bytes).then_some((Field::Position, 4, position.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::error::Fault;
    use proptest::prelude::*;

    const BOUNDS: SegmentBounds = SegmentBounds { bytes: 1000, last_relative_offset: 100 };

    fn encoded(entries: &[(u32, u32)]) -> Vec<u8> {
        let entry = |&(relative_offset, position)| IndexEntry { relative_offset, position };
        entries.iter().map(entry).flat_map(IndexEntry::encode).collect()
    }

    #[test]
    fn an_entry_is_offset_then_position_big_endian() {
        let entry = IndexEntry { relative_offset: 0x0102_0304, position: 0x0506_0708 };
        assert_eq!(entry.encode(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(IndexEntry::decode([1, 2, 3, 4, 5, 6, 7, 8]), entry);
    }

    #[test]
    fn preallocated_zeros_are_no_entries_but_odd_bytes_are_wrong() {
        let mut bytes = encoded(&[(5, 0), (9, 500)]);
        bytes.extend_from_slice(&[0; 4096]);
        let index = OffsetIndex::new(&bytes);
        assert_eq!((index.len(), index.last().unwrap().position), (2, 500));
        assert_eq!(index.check(BOUNDS), Ok(()));
        bytes.push(1);
        let error = OffsetIndex::new(&bytes).check(BOUNDS).unwrap_err();
        assert_eq!((error.field, error.fault), (Field::IndexFile, Fault::Trailing { count: 1 }));
        assert!(OffsetIndex::new(&[0; 64]).is_empty());
    }

    #[test]
    fn entries_that_do_not_rise_or_leave_the_segment_are_found() {
        let cases = [
            (vec![(5, 0), (5, 10)], Field::RelativeOffset, 8),
            (vec![(5, 0), (4, 10)], Field::RelativeOffset, 8),
            (vec![(5, 0), (101, 10)], Field::RelativeOffset, 8),
            (vec![(5, 10), (6, 10)], Field::Position, 12),
            (vec![(5, 10), (6, 9)], Field::Position, 12),
            (vec![(5, 1000)], Field::Position, 4),
        ];
        for (entries, field, position) in cases {
            let error = OffsetIndex::new(&encoded(&entries)).check(BOUNDS).unwrap_err();
            assert_eq!((error.field, error.position), (field, position), "{entries:?}");
        }
        assert_eq!(OffsetIndex::new(&encoded(&[(0, 1), (100, 999)])).check(BOUNDS), Ok(()));
    }

    proptest! {
        #[test]
        fn a_lookup_agrees_with_a_scan(
            steps in prop::collection::vec((1..50u32, 1..50u32), 0..40),
            target in 0..2500u32,
        ) {
            let mut last = (0, 0);
            let mut entries = Vec::new();
            for (offset, position) in steps {
                last = (last.0 + offset, last.1 + position);
                entries.push(last);
            }
            let bytes = encoded(&entries);
            let index = OffsetIndex::new(&bytes);
            let scanned = entries.iter().rev().find(|entry| entry.0 <= target);
            let found = index.lookup(target).map(|entry| (entry.relative_offset, entry.position));
            prop_assert_eq!(found.as_ref(), scanned);
            for (n, entry) in entries.iter().enumerate() {
                prop_assert_eq!(index.lookup(entry.0), index.get(n));
            }
            let read: Vec<_> = (0..index.len()).filter_map(|n| index.get(n))
                .map(|entry| (entry.relative_offset, entry.position)).collect();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_bytes_are_looked_up_and_checked_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            target in any::<u32>(),
        ) {
            let index = OffsetIndex::new(&bytes);
            index.lookup(target);
            let bounds = SegmentBounds { bytes: u32::MAX, last_relative_offset: u32::MAX };
            if index.check(bounds).is_ok() {
                let all: Vec<_> = (0..index.len()).filter_map(|n| index.get(n)).collect();
                let rises = all.is_sorted_by(|a, b| {
                    a.relative_offset < b.relative_offset && a.position < b.position
                });
                prop_assert!(rises);
            }
        }
    }
}
