//! The memory of batches that were written, for the next ones: of any partition of the log, so that those which nobody
//! appends to any more keep none.

use crate::sync::{Mutex, lock};

/// Bytes that are kept, of all partitions together. Several that are appended to as fast as they are written need less.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// Buffers that are kept at most, however small they are.
const KEPT_MAX: usize = 512;
/// A buffer larger than this many batches' size is not kept, as only single records need it, ...
const TIMES_BATCH_MAX: usize = 4;
/// ... but for one that is not larger than this, whatever size batches have: it may be of another partition.
const ANY_BATCH_BYTES: usize = 512 << 10;

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
pub(in crate::log) struct Spares {
    /// Its lock is held for moments, and no other is taken under it.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    /// What they could hold.
    bytes: usize,
}

impl Spares {
    /// An empty buffer: the one given back last, which is in a cache still, or a new one if there is none.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut kept = lock(&self.kept);
        let buffer = kept.buffers.pop().unwrap_or_default();
        kept.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps buffers of batches of about so many bytes, as far as that is worth it.
    pub(super) fn give(&self, mut buffers: Vec<Vec<u8>>, batch_bytes: usize) {
        let bytes_max = batch_bytes.saturating_mul(TIMES_BATCH_MAX).max(ANY_BATCH_BYTES);
        let mut kept = lock(&self.kept);
        buffers.retain_mut(|buffer| {
            let bytes = kept.bytes.saturating_add(buffer.capacity());
            let has_room = kept.buffers.len() < KEPT_MAX && bytes <= KEPT_BYTES_MAX;
            let keeps = has_room && (1..=bytes_max).contains(&buffer.capacity());
            if keeps {
                buffer.clear();
                kept.bytes = bytes;
                kept.buffers.push(std::mem::take(buffer));
            }
            !keeps
        });
        drop(kept);
        // What is left goes without the lock.
        drop(buffers);
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.kept).buffers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_are_kept_whoever_gives_them_and_the_last_are_taken_first() {
        let spares = Spares::default();
        let buffers = |count, bytes| (0..count).map(|_| Vec::with_capacity(bytes)).collect();
        spares.give(buffers(100, 256 << 10), 0);
        spares.give(buffers(100, 256 << 10), 64 << 10);
        assert_eq!(spares.count(), 128);
        assert_eq!(spares.take().capacity(), 256 << 10);
        spares.give(buffers(1, 1000), 64);
        assert_eq!((spares.count(), spares.take().capacity()), (128, 1000));
        (0..127).for_each(|_| assert!(spares.take().capacity() > 0));
        assert_eq!((spares.take().capacity(), lock(&spares.kept).bytes), (0, 0));
    }

    #[test]
    fn of_small_ones_many_are_kept_but_not_any_number() {
        let spares = Spares::default();
        spares.give((0..10_000).map(|_| Vec::with_capacity(10)).collect(), 64);
        assert_eq!(spares.count(), KEPT_MAX);
    }

    #[test]
    fn what_only_a_large_record_needed_is_not_kept_and_what_was_kept_is_empty() {
        let spares = Spares::default();
        spares.give(vec![Vec::with_capacity((4 << 20) + 1), vec![7; 4 << 20]], 1 << 20);
        spares.give(vec![Vec::with_capacity(600 << 10)], 64 << 10);
        assert_eq!(spares.count(), 1);
        let buffer = spares.take();
        assert!(buffer.is_empty() && buffer.capacity() == 4 << 20);
    }
}
