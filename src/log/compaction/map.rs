//! The last offset of each key, in a table of fixed size.
//!
//! Keys are known by 128 bits of two keyed hashes, whose keys are drawn anew for each table: nobody can prepare two keys
//! that are taken for one, and that two are by chance is less likely than any failure of the medium.

use std::hash::{BuildHasher, RandomState};

/// A slot: both hashes, and the offset plus one; 0 there is an empty slot.
type Slot = [u64; 3];

/// Slots that are filled, of sixteen, before the table counts as full.
const FILLED_SIXTEENTHS: usize = 12;

/// Keys and the last offset of each.
#[derive(Debug)]
pub(super) struct KeyMap {
    slots: Vec<Slot>,
    /// Keys that may still be added.
    room: usize,
    hashes: [RandomState; 2],
}

impl KeyMap {
    /// A table of about so many bytes, with room for one key at least. It is smaller if so many keys, which is as many as there
    /// can be, need less, or if there is no such memory.
    pub(super) fn new(bytes: usize, keys_max: u64) -> Self {
        let needed = keys_max.saturating_mul(16) / FILLED_SIXTEENTHS as u64 + 1;
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        let mut count = (bytes / size_of::<Slot>()).min(needed).max(2);
        let mut slots = Vec::new();
        while slots.try_reserve_exact(count).is_err() && count > 2 {
            count = (count / 2).max(2);
        }
        slots.resize(count, [0; 3]);
        let room = (count * FILLED_SIXTEENTHS / 16).max(1);
        Self { slots, room, hashes: [RandomState::new(), RandomState::new()] }
    }

    fn hashes(&self, key: &[u8]) -> [u64; 2] {
        self.hashes.each_ref().map(|hash| hash.hash_one(key))
    }

    /// The slot of a key, or the empty one it would get. There always is an empty one.
    fn slot(&self, [first, second]: [u64; 2]) -> usize {
        let count = self.slots.len();
        let mut at = (first % count as u64) as usize;
        while let Some(slot) = self.slots.get(at) {
            if slot[2] == 0 || (slot[0] == first && slot[1] == second) {
                break;
            }
            at = (at + 1) % count;
        }
        at
    }

    /// Notes that a key occurs at an offset, which is above all before; false if there is no room for it.
    pub(super) fn insert(&mut self, key: &[u8], offset: i64) -> bool {
        let hashes = self.hashes(key);
        let at = self.slot(hashes);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot[2] == 0 {
            let Some(room) = self.room.checked_sub(1) else { return false };
            self.room = room;
        }
        *slot = [hashes[0], hashes[1], offset.cast_unsigned() + 1];
        true
    }

    /// The last offset at which a key occurs, if it does.
    pub(super) fn last_offset(&self, key: &[u8]) -> Option<i64> {
        let slot = self.slots.get(self.slot(self.hashes(key)))?;
        slot[2].checked_sub(1).map(u64::cast_signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn it_agrees_with_a_map_until_it_is_full_and_then_still_takes_known_keys() {
        let mut map = KeyMap::new(24 * 128, u64::MAX);
        let mut plain = HashMap::new();
        let mut offset = 0;
        let refused = loop {
            let key = format!("{}", offset * offset % 1009);
            if !map.insert(key.as_bytes(), offset) {
                break key;
            }
            plain.insert(key, offset);
            offset += 1;
        };
        assert_eq!(plain.len(), 96, "three quarters of it");
        assert_eq!(map.last_offset(refused.as_bytes()), None);
        for (key, offset) in &plain {
            assert_eq!(map.last_offset(key.as_bytes()), Some(*offset));
        }
        let known = plain.keys().next().unwrap();
        assert!(map.insert(known.as_bytes(), 7000));
        assert_eq!(map.last_offset(known.as_bytes()), Some(7000));
    }

    #[test]
    fn it_is_no_larger_than_its_keys_need_and_than_there_is_memory_for() {
        let mut map = KeyMap::new(usize::MAX, 5);
        assert!(map.slots.len() < 10);
        assert!((0..5).all(|n| map.insert(&[n], n.into())), "but all find room");
        let mut map = KeyMap::new(0, u64::MAX);
        assert!(map.insert(b"a", 0));
    }

    #[test]
    fn the_smallest_one_takes_a_key() {
        let mut map = KeyMap::new(0, 5);
        assert!(map.insert(b"a", 0) && !map.insert(b"b", 1) && map.insert(b"a", 2));
        assert_eq!((map.last_offset(b"a"), map.last_offset(b"b")), (Some(2), None));
    }
}
