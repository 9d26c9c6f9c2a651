//! Incoming runs: complete messages as they stood on the wire, cut one by one on the receiver's thread.
//!
//! A run comes from a read (all bodies in the arena) or, in process, straight from the sender's chunk (large
//! bodies beside it). Command frames may stand between and inside messages; they were handled when the run
//! was found and are skipped here.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::chunk::{Chunk, LargeBody};
use crate::message::{Frame, INLINE_BYTES_MAX, Message};
use crate::peer::PeerInfo;
use crate::wire;

/// A body may keep its whole run alive if it makes up at least this fraction of it; otherwise it is copied
/// out, so that a kept message never pins much more than 32 times its size.
const PIN_FACTOR_MAX: usize = 32;

/// Complete messages not yet cut. Invariant: the bytes were accepted by the scanner, so headers parse.
#[derive(Debug)]
pub(crate) struct Run {
    arena: Bytes,
    large: VecDeque<LargeBody>,
    at: usize,
    messages_left: usize,
    wire_bytes: usize,
}

impl Run {
    /// A run of `messages` complete messages, all of them within `arena`.
    pub(crate) fn new(arena: impl Into<Bytes>, messages: usize) -> Self {
        let arena = arena.into();
        let wire_bytes = arena.len();
        Self { arena, large: VecDeque::new(), at: 0, messages_left: messages, wire_bytes }
    }

    /// Messages not cut yet.
    pub(crate) fn messages_left(&self) -> usize {
        self.messages_left
    }

    /// Length of the whole run on the wire in bytes, whatever was cut already.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// Drops all messages but the last and returns how many were dropped (conflation).
    pub(crate) fn keep_newest(&mut self) -> u64 {
        let mut dropped = 0;
        while self.messages_left > 1 {
            if self.cut(None).is_none() {
                break;
            }
            dropped += 1;
        }
        dropped
    }

    /// Cuts the next message out; `None` when all are cut.
    #[inline]
    pub(crate) fn cut(&mut self, peer: Option<&Arc<PeerInfo>>) -> Option<Message> {
        if self.messages_left == 0 {
            return None;
        }
        let place = self.next_frame()?;
        self.messages_left -= 1;
        if place.more {
            return self.cut_parts(&place, peer);
        }
        Some(Message::received(self.frame(&place)?, peer))
    }

    /// Steps over the next message if it is one short frame with another message behind it: what most traffic consists of.
    /// Returns the block that begins with its body, and the body's length; `None` leaves all as it was.
    #[inline]
    pub(crate) fn next_short(&mut self) -> Option<(&[u8; INLINE_BYTES_MAX], usize)> {
        let (&[flags, len], rest) = self.arena.get(self.at..)?.split_first_chunk()?;
        let (block, len) = (rest.first_chunk()?, usize::from(len));
        if flags != 0 || len > INLINE_BYTES_MAX || self.messages_left < 2 {
            return None;
        }
        self.messages_left -= 1;
        self.at += wire::header_len(len) + len;
        Some((block, len))
    }

    /// `next_short` for a longer frame that was received, as its body.
    #[inline]
    pub(crate) fn next_long(&mut self) -> Option<Bytes> {
        if self.messages_left < 2 || !self.large.is_empty() {
            return None;
        }
        let header = wire::parse_header(self.arena.get(self.at..)?).ok()??;
        if header.more() || header.is_command() || header.body_len <= INLINE_BYTES_MAX {
            return None;
        }
        let start = self.at + header.header_len;
        let end = start.checked_add(header.body_len)?;
        let body = self.body(start, end)?;
        self.at = end;
        self.messages_left -= 1;
        Some(body)
    }

    /// The rest of a message of several frames.
    fn cut_parts(&mut self, first: &Place, peer: Option<&Arc<PeerInfo>>) -> Option<Message> {
        let mut frames = vec![self.frame(first)?];
        let mut more = true;
        while more && let Some(place) = self.next_frame() {
            more = place.more;
            frames.push(self.frame(&place)?);
        }
        Some(Message::received_parts(frames, peer))
    }

    /// Steps to the next frame that is no command.
    #[inline]
    fn next_frame(&mut self) -> Option<Place> {
        loop {
            let header = wire::parse_header(self.arena.get(self.at..)?).ok()??;
            let start = self.at + header.header_len;
            let end = start.checked_add(header.body_len)?;
            if header.is_command() {
                self.at = end;
                continue;
            }
            let large = self.large.front().is_some_and(|large| large.at == start);
            self.at = if large { start } else { end };
            return Some(Place { start, end, more: header.more(), large });
        }
    }

    #[inline]
    fn frame(&mut self, place: &Place) -> Option<Frame> {
        if place.large {
            return self.large.pop_front().map(|large| Frame::from(large.body));
        }
        let len = place.end - place.start;
        if len <= INLINE_BYTES_MAX
            && let Some(block) = self.arena.get(place.start..).and_then(<[u8]>::first_chunk)
        {
            return Some(Frame::from_block(block, len));
        }
        if len <= INLINE_BYTES_MAX {
            return self.arena.get(place.start..place.end).map(Frame::copy_from);
        }
        self.body(place.start, place.end).map(Frame::from)
    }

    /// A body that no frame stores inline: a slice, unless it would keep too much alive.
    #[inline]
    fn body(&self, start: usize, end: usize) -> Option<Bytes> {
        let body = self.arena.get(start..end)?;
        let pins_little = body.len().saturating_mul(PIN_FACTOR_MAX) >= self.arena.len();
        Some(if pins_little { self.arena.slice(start..end) } else { Bytes::copy_from_slice(body) })
    }
}

/// Where a frame's body is: in the arena, or beside it.
struct Place {
    start: usize,
    end: usize,
    more: bool,
    large: bool,
}

impl From<Chunk> for Run {
    fn from(chunk: Chunk) -> Self {
        let (messages_left, wire_bytes) = (chunk.messages(), chunk.wire_bytes());
        let (arena, large) = chunk.into_parts();
        Self { arena: Bytes::from(arena), large: large.into(), at: 0, messages_left, wire_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_framed_is_cut_again(
            sizes in proptest::collection::vec(proptest::collection::vec(0_usize..9_000, 1..4), 0..6)
        ) {
            let mut chunk = Chunk::default();
            let mut expected = Vec::new();
            for frames in &sizes {
                let message: Message = frames.iter().map(|&size| vec![size as u8; size]).collect();
                chunk.push(&message);
                expected.push(message);
            }
            let mut run = Run::from(chunk);
            let cut: Vec<Message> = std::iter::from_fn(|| run.cut(None)).collect();
            prop_assert_eq!(cut, expected);
            prop_assert_eq!(run.messages_left(), 0);
        }
    }

    proptest! {
        #[test]
        fn the_short_way_cuts_what_the_long_way_cuts(
            sizes in proptest::collection::vec(0_usize..300, 0..40),
            commands in any::<u64>(),
        ) {
            let mut arena = Vec::new();
            for (index, &size) in sizes.iter().enumerate() {
                if commands >> (index % 64) & 1 == 1 {
                    wire::put_ping(&mut arena, 0, b"x");
                }
                wire::put_header(&mut arena, 0, size);
                arena.resize(arena.len() + size, index as u8);
            }
            let mut long = Run::new(arena.clone(), sizes.len());
            let mut short = Run::new(arena, sizes.len());
            while let Some(expected) = long.cut(None) {
                let quick = short.next_short().map(|(block, len)| Frame::from_block(block, len));
                let quick = quick.or_else(|| short.next_long().map(Frame::from));
                let message = quick.map(Message::from).or_else(|| short.cut(None));
                prop_assert_eq!(message, Some(expected));
                prop_assert_eq!(short.messages_left(), long.messages_left());
            }
            prop_assert!(short.next_short().is_none() && short.next_long().is_none());
        }
    }

    #[test]
    fn commands_inside_a_message_are_skipped() {
        let mut arena = Vec::new();
        wire::put_pong(&mut arena, b"x");
        wire::put_header(&mut arena, wire::MORE, 1);
        arena.push(b'a');
        wire::put_ping(&mut arena, 0, b"");
        wire::put_header(&mut arena, 0, 1);
        arena.push(b'b');
        let mut run = Run::new(arena, 1);
        assert_eq!(run.cut(None), Some(Message::from(["a", "b"])));
        assert_eq!(run.cut(None), None);
    }

    #[test]
    fn a_small_message_does_not_pin_its_run() {
        let mut arena = Vec::new();
        for len in [200, 60_000] {
            wire::put_header(&mut arena, 0, len);
            arena.resize(arena.len() + len, 7);
        }
        let mut run = Run::new(arena, 2);
        let range = run.arena.as_ptr_range();
        let small = run.cut(None).unwrap();
        let large = run.cut(None).unwrap();
        assert!(!range.contains(&small.body().as_ptr()));
        assert!(range.contains(&large.body().as_ptr()));
    }

    #[test]
    fn keeping_the_newest_counts_the_others() {
        let mut chunk = Chunk::default();
        ["a", "b", "c"].iter().for_each(|text| chunk.push(&Message::from(*text)));
        let mut run = Run::from(chunk);
        assert_eq!(run.keep_newest(), 2);
        assert_eq!(run.cut(None), Some(Message::from("c")));
    }
}
