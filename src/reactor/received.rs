//! What a connection received and has not handed over: an incomplete message, or messages that the inbox had no room for.
//! And where its buffers come from and go to, so that a stream of large messages costs no fresh memory for each.
//!
//! A run leaves in the buffer it was read into; the receiver's last message of it brings the buffer back. Buffers stay
//! initialised to their full length, so that reading into one again needs no zeroing. Nothing is ever reserved because a
//! peer claims a length: a buffer grows with what arrived, or is one that did so before.

use std::sync::Arc;

use bytes::Bytes;

use crate::sync::{Mutex, lock};

/// A shorter buffer is not worth the way back.
const KEPT_BYTES_MIN: usize = 32 * 1024;
/// A longer one is given back to the system.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// A run, and what a waiting connection received, fills at least this part of its buffer: a quarter.
const USED_PART_MIN: usize = 4;
/// All buffers that one reactor keeps, in bytes.
const KEPT_SUM_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The buffers that a reactor's connections use in turn.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    sum_bytes: usize,
}

impl Buffers {
    /// The buffer that came back last of those that hold `bytes`.
    fn take(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut kept = lock(&self.0);
        let index = kept.buffers.iter().rposition(|buffer| buffer.len() >= bytes)?;
        let buffer = kept.buffers.remove(index);
        kept.sum_bytes -= buffer.len();
        Some(buffer)
    }

    fn put_back(&self, buffer: Vec<u8>) {
        let mut kept = lock(&self.0);
        if kept.sum_bytes + buffer.len() <= KEPT_SUM_BYTES_MAX {
            kept.sum_bytes += buffer.len();
            kept.buffers.push(buffer);
        }
    }

    /// The first `filled` bytes of `buffer`, which comes back when nobody needs them any more.
    fn share(&self, mut buffer: Vec<u8>, filled: usize) -> Bytes {
        if !(KEPT_BYTES_MIN..=KEPT_BYTES_MAX).contains(&buffer.len()) {
            buffer.truncate(filled);
            return Bytes::from(buffer);
        }
        Bytes::from_owner(Shared { buffer, filled, home: self.clone() })
    }
}

/// A buffer that is out as a run.
struct Shared {
    buffer: Vec<u8>,
    filled: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.home.put_back(std::mem::take(&mut self.buffer));
    }
}

/// Received bytes in order. Invariant: `start <= filled <= buffer.len()`.
pub(crate) struct Received {
    /// Initialised to its length; the received bytes are `start..filled`.
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Received {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { filled: bytes.len(), buffer: bytes, start: 0 }
    }

    /// What was received and not taken.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.filled).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.filled - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.filled
    }

    /// Room for `bytes` more; `add` follows with how many of them were filled.
    pub(crate) fn room(&mut self, bytes: usize, buffers: &Buffers) -> &mut [u8] {
        let end = self.filled + bytes;
        if end > self.buffer.len() {
            self.grow(bytes, buffers);
        }
        let end = self.filled + bytes;
        self.buffer.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Takes a kept buffer with room for `bytes` more, if there is one and this one has not: what is received now is not moved
    /// later. Returns whether there is that room.
    pub(crate) fn prepare(&mut self, bytes: usize, buffers: &Buffers) -> bool {
        if self.filled + bytes <= self.buffer.len() {
            return true;
        }
        match buffers.take((self.len() + bytes).max(KEPT_BYTES_MIN)) {
            Some(larger) => self.move_to(larger),
            None => return false,
        }
        true
    }

    /// Nothing more is there to read now. A buffer that is hardly used goes back, so that a connection that waits holds little
    /// more than what it received.
    pub(crate) fn settle(&mut self, buffers: &Buffers) {
        if self.is_wasted_on(self.len()) {
            let used = self.bytes().to_vec();
            let buffer = std::mem::replace(self, Self::new(used)).buffer;
            if buffer.len() <= KEPT_BYTES_MAX {
                buffers.put_back(buffer);
            }
        }
    }

    fn is_wasted_on(&self, bytes: usize) -> bool {
        self.buffer.len() >= KEPT_BYTES_MIN && bytes * USED_PART_MIN < self.buffer.len()
    }

    fn move_to(&mut self, mut larger: Vec<u8>) {
        let length = self.len();
        if let Some(place) = larger.get_mut(..length) {
            place.copy_from_slice(self.bytes());
        }
        *self = Self { buffer: larger, start: 0, filled: length };
    }

    fn grow(&mut self, bytes: usize, buffers: &Buffers) {
        let length = self.len();
        let needed = length + bytes;
        let larger = if needed >= KEPT_BYTES_MIN { buffers.take(needed) } else { None };
        if let Some(larger) = larger {
            return self.move_to(larger);
        }
        self.buffer.copy_within(self.start..self.filled, 0);
        self.buffer.truncate(length);
        self.buffer.reserve_exact(bytes);
        self.buffer.resize(needed, 0);
        (self.start, self.filled) = (0, length);
    }

    /// `bytes` of the room were filled.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.buffer.len());
    }

    /// Takes the first `end` bytes. Usually that is all, and the buffer goes with them; with `more` complete messages
    /// behind them, or in a buffer much larger than they are, they are copied out.
    pub(crate) fn take_run(&mut self, end: usize, more: bool, buffers: &Buffers) -> Bytes {
        let run = self.start..(self.start + end).min(self.filled);
        if more || self.is_wasted_on(run.len()) {
            let copy = Bytes::copy_from_slice(self.buffer.get(run.clone()).unwrap_or_default());
            self.start = run.end;
            return copy;
        }
        if run.is_empty() {
            // An unfinished message grows where it is: moving it at each read would cost the square of its length.
            return Bytes::new();
        }
        let rest = self.buffer.get(run.end..self.filled).unwrap_or_default().to_vec();
        let buffer = std::mem::replace(self, Self::new(rest)).buffer;
        let shared = buffers.share(buffer, run.end);
        // A slice counts references, which the whole does not.
        if run.start == 0 { shared } else { shared.slice(run) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn receive(received: &mut Received, bytes: &[u8], buffers: &Buffers) {
        received.room(bytes.len() + 3, buffers)[..bytes.len()].copy_from_slice(bytes);
        received.add(bytes.len());
    }

    #[test]
    fn an_unfinished_message_is_not_moved() {
        let buffers = Buffers::default();
        let mut received = Received::new(Vec::new());
        receive(&mut received, b"unfinished", &buffers);
        let place = received.bytes().as_ptr();
        assert!(received.take_run(0, false, &buffers).is_empty());
        assert_eq!((received.bytes().as_ptr(), received.bytes()), (place, &b"unfinished"[..]));
    }

    #[test]
    fn a_large_buffer_comes_back_with_the_last_of_its_messages_and_serves_the_next() {
        let buffers = Buffers::default();
        let mut received = Received::new(Vec::new());
        receive(&mut received, &[1; KEPT_BYTES_MIN], &buffers);
        let place = received.bytes().as_ptr();
        let run = received.take_run(KEPT_BYTES_MIN, false, &buffers);
        let message = run.slice(7..9);
        drop(run);
        receive(&mut received, &[2; KEPT_BYTES_MIN], &buffers);
        assert_ne!(received.bytes().as_ptr(), place, "still in use");
        assert_eq!(message, [1, 1][..]);
        drop(message);
        drop(received.take_run(KEPT_BYTES_MIN, false, &buffers));
        assert_eq!(lock(&buffers.0).buffers.len(), 2);
        receive(&mut received, &[3; KEPT_BYTES_MIN], &buffers);
        assert_eq!(lock(&buffers.0).buffers.len(), 1, "one of them is in use again");
    }

    #[test]
    fn a_connection_that_waits_holds_no_large_buffer_for_a_few_bytes() {
        let buffers = Buffers::default();
        drop(buffers.share(vec![0; KEPT_BYTES_MAX], 1));
        let mut received = Received::new(Vec::new());
        assert!(received.prepare(KEPT_BYTES_MIN, &buffers));
        receive(&mut received, b"few", &buffers);
        assert_eq!(received.buffer.len(), KEPT_BYTES_MAX);
        received.settle(&buffers);
        assert_eq!((received.bytes(), received.buffer.len()), (&b"few"[..], 3));
        assert!(received.prepare(KEPT_BYTES_MAX - 3, &buffers), "it went back");
        assert!(!received.prepare(KEPT_BYTES_MAX, &buffers), "there is no other");
    }

    #[test]
    fn what_is_kept_is_bounded_and_neither_small_nor_huge() {
        let buffers = Buffers::default();
        for bytes in [1, KEPT_BYTES_MIN - 1, KEPT_BYTES_MAX + 1] {
            drop(buffers.share(vec![0; bytes], bytes));
        }
        assert_eq!(lock(&buffers.0).buffers.len(), 0);
        for _ in 0..10 {
            drop(buffers.share(vec![0; KEPT_BYTES_MAX], 1));
        }
        assert_eq!(lock(&buffers.0).sum_bytes, KEPT_SUM_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_was_received_in_order(
            steps in proptest::collection::vec((0_usize..60_000, 0_usize..60_000, any::<[bool; 2]>()), 1..20)
        ) {
            let buffers = Buffers::default();
            let mut received = Received::new(Vec::new());
            let (mut sent, mut got) = (Vec::new(), Vec::new());
            for (arrives, taken, [more, settles]) in steps {
                let bytes: Vec<u8> = (0..arrives).map(|n| (sent.len() + n) as u8).collect();
                receive(&mut received, &bytes, &buffers);
                sent.extend_from_slice(&bytes);
                prop_assert_eq!(&sent[got.len()..], received.bytes());
                let end = taken.min(received.len());
                got.extend_from_slice(&received.take_run(end, more, &buffers));
                if settles {
                    received.settle(&buffers);
                }
            }
            got.extend_from_slice(received.bytes());
            prop_assert_eq!(got, sent);
        }
    }
}
