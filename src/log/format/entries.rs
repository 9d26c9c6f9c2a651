//! What the two indexes of a segment have in common: entries of one size that rise, sparse, without a checksum.

use std::marker::PhantomData;

use super::error::{Fault, Field, FormatError};
use super::index::SegmentBounds;

/// An entry of an index, of `N` bytes.
pub trait Entry<const N: usize>: Copy {
    /// What is looked up.
    type Key: Ord;

    /// The entry with these bytes.
    fn decode(bytes: [u8; N]) -> Self;

    /// By what it is found; rises from entry to entry.
    fn key(self) -> Self::Key;

    /// What is wrong with it behind this one and in a segment with these bounds, if anything: the field, where in the entry
    /// that is, and what it says.
    fn fault(self, before: Option<Self>, bounds: SegmentBounds) -> Option<(Field, usize, i64)>;
}

/// The entries of an index, read where they are.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a, E, const N: usize> {
    entries: &'a [[u8; N]],
    /// Bytes after the last whole entry that are not zeros.
    odd_bytes: usize,
    kind: PhantomData<E>,
}

impl<'a, E: Entry<N>, const N: usize> Entries<'a, E, N> {
    /// The index in `bytes`. Zeros at the end are not entries: an index in use is preallocated.
    pub fn new(bytes: &'a [u8]) -> Self {
        let (entries, odd) = bytes.as_chunks();
        let used = entries.iter().rposition(|entry| *entry != [0; N]);
        // All zeros may also be the true first entry, of a segment whose first batch has one record. Leaving it out is
        // harmless: what it says is where every search starts anyway.
        let entries = entries.get(..used.map_or(0, |last| last + 1)).unwrap_or_default();
        // A preallocated file need not have room for a whole number of entries.
        let odd_bytes = if odd.iter().all(|byte| *byte == 0) { 0 } else { odd.len() };
        Self { entries, odd_bytes, kind: PhantomData }
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
    pub fn get(&self, n: usize) -> Option<E> {
        self.entries.get(n).copied().map(E::decode)
    }

    /// The last entry.
    pub fn last(&self) -> Option<E> {
        self.entries.last().copied().map(E::decode)
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = E> + use<'a, E, N> {
        self.entries.iter().copied().map(E::decode)
    }

    /// The last entry whose key is not above this one; `None`: search from the start of the segment. Entries that do not
    /// rise give any entry, so check them first.
    pub fn lookup(&self, key: E::Key) -> Option<E> {
        let above = self.entries.partition_point(|entry| E::decode(*entry).key() <= key);
        above.checked_sub(1).and_then(|n| self.get(n))
    }

    /// Checks that the entries rise and stay within the segment; if not, the index must be built again.
    ///
    /// # Errors
    /// The first wrong entry, or bytes that are no whole entry.
    pub fn check(&self, bounds: SegmentBounds) -> Result<(), FormatError> {
        let mut before = None;
        for (n, entry) in self.iter().enumerate() {
            if let Some((field, at, found)) = entry.fault(before, bounds) {
                return Err(FormatError::new(field, n * N + at, Fault::Invalid { found }));
            }
            before = Some(entry);
        }
        if self.odd_bytes == 0 {
            return Ok(());
        }
        let fault = Fault::Trailing { count: self.odd_bytes as u64 };
        Err(FormatError::new(Field::IndexFile, self.entries.len() * N, fault))
    }
}
