//! Sources of a reactor by token. A token is an index and a generation, so that an event for a source that is
//! gone never reaches the one that took its place.

use std::time::Instant;

/// Bits of a token that hold the index; the rest is the generation.
const INDEX_BITS: u32 = usize::BITS / 2;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;

/// The token that the reactor's own waker uses: no source gets it, for its index is never given out.
pub(crate) const WAKER_TOKEN: usize = INDEX_MASK;

pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<usize>,
}

struct Entry<T> {
    generation: usize,
    value: Option<T>,
    /// The earliest timer that is set for this source; older ones in the heap are stale.
    armed: Option<Instant>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// The token that the next `insert` will use.
    pub(crate) fn next_token(&self) -> usize {
        match self.free.last() {
            Some(&index) => {
                let generation = self.entries.get(index).map_or(0, |entry| entry.generation);
                (generation << INDEX_BITS) | index
            }
            None => self.entries.len(),
        }
    }

    pub(crate) fn insert(&mut self, value: T) -> usize {
        let token = self.next_token();
        match self.free.pop() {
            Some(index) => {
                if let Some(entry) = self.entries.get_mut(index) {
                    entry.value = Some(value);
                    entry.armed = None;
                }
            }
            None => self.entries.push(Entry { generation: 0, value: Some(value), armed: None }),
        }
        token
    }

    fn entry(&self, token: usize) -> Option<&Entry<T>> {
        let entry = self.entries.get(token & INDEX_MASK)?;
        (entry.generation == token >> INDEX_BITS).then_some(entry)
    }

    fn entry_mut(&mut self, token: usize) -> Option<&mut Entry<T>> {
        let entry = self.entries.get_mut(token & INDEX_MASK)?;
        (entry.generation == token >> INDEX_BITS).then_some(entry)
    }

    pub(crate) fn get(&self, token: usize) -> Option<&T> {
        self.entry(token)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, token: usize) -> Option<&mut T> {
        self.entry_mut(token)?.value.as_mut()
    }

    pub(crate) fn remove(&mut self, token: usize) -> Option<T> {
        let entry = self.entry_mut(token)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1) & (usize::MAX >> INDEX_BITS);
        entry.armed = None;
        self.free.push(token & INDEX_MASK);
        Some(value)
    }

    pub(crate) fn armed(&mut self, token: usize) -> Option<&mut Option<Instant>> {
        self.entry_mut(token).map(|entry| &mut entry.armed)
    }

    /// Tokens of all sources for which `wanted` holds.
    pub(crate) fn tokens_where(&self, wanted: impl Fn(&T) -> bool) -> Vec<usize> {
        let tokens = self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let value = entry.value.as_ref()?;
            wanted(value).then_some((entry.generation << INDEX_BITS) | index)
        });
        tokens.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_a_gone_source_finds_nothing_even_when_its_place_is_taken() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        assert_eq!(slab.next_token(), slab.insert('b'));
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.tokens_where(|_| true).len(), 1);
    }

    #[test]
    fn generations_wrap_without_touching_the_index() {
        let mut slab = Slab::new();
        let other = slab.insert(1);
        let token = slab.insert(2);
        slab.entries[1].generation = usize::MAX >> INDEX_BITS;
        let last = (usize::MAX >> INDEX_BITS) << INDEX_BITS | 1;
        assert_eq!(slab.get(token), None);
        assert_eq!(slab.remove(last), Some(2));
        assert_eq!(slab.insert(3), 1);
        assert_eq!(slab.get(other), Some(&1));
    }
}
