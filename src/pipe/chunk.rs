//! Outgoing chunks: messages framed as plain ZMTP (RFC 37) into one byte arena, ready for `sendmsg`.
//!
//! Short bodies are copied into the arena, long ones are only referenced and gathered when written. A chunk
//! is the unit of the outbox's queue; it always holds whole messages, so a queue can be cut between any two.

use std::io::IoSlice;

use bytes::Bytes;

use crate::message::{Frame, INLINE_BYTES_MAX, Message};
use crate::wire::{self, MORE};

/// Bytes of a chunk, and of one write. Loopback and real networks are fastest just below the kernel's 64 KiB
/// segmentation limit; a write above it leaves a tiny trailing segment and costs half of the bandwidth.
pub(crate) const UNIT_BYTES: usize = 48 * 1024;

/// Longest message of one frame that is stored inline, on the wire.
pub(crate) const SHORT_WIRE_BYTES_MAX: usize =
    wire::header_len(INLINE_BYTES_MAX) + INLINE_BYTES_MAX;

/// Bodies longer than this are referenced instead of copied.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// Slices handed to one write: enough to fill a unit with bodies just above `COPY_BYTES_MAX`.
const SLICES_MAX: usize = 32;

/// A body that is not in the arena: it belongs right behind the first `at` bytes of it.
#[derive(Debug, Clone)]
pub(crate) struct LargeBody {
    pub(crate) at: usize,
    pub(crate) body: Bytes,
}

/// Whole framed messages. `wire_bytes` counts the arena and the large bodies.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    arena: Vec<u8>,
    large: Vec<LargeBody>,
    messages: usize,
    wire_bytes: usize,
}

/// Length of `message` on the wire, in bytes: bodies and frame headers.
#[inline]
pub(crate) fn wire_length(message: &Message) -> usize {
    match message.frames() {
        [only] => wire::header_len(only.len()) + only.len(),
        frames => frames.iter().map(|frame| wire::header_len(frame.len()) + frame.len()).sum(),
    }
}

impl Chunk {
    /// An empty chunk that reuses the memory of `arena`.
    pub(crate) fn reusing(mut arena: Vec<u8>) -> Self {
        arena.clear();
        Self { arena, ..Self::default() }
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether a message of this length should open a new chunk instead.
    #[inline]
    pub(crate) fn is_full_for(&self, message_bytes: usize) -> bool {
        self.wire_bytes + message_bytes > UNIT_BYTES && self.messages > 0
    }

    /// Frames `message` onto the end.
    #[inline]
    pub(crate) fn push(&mut self, message: &Message) {
        if let [only] = message.frames() {
            self.push_frame(only, 0);
        } else {
            let frames = message.frames();
            let last = frames.len().saturating_sub(1);
            for (index, frame) in frames.iter().enumerate() {
                self.push_frame(frame, if index < last { MORE } else { 0 });
            }
        }
        self.messages += 1;
    }

    /// `push` for a message of one frame that is stored as a block. Returns its length on the wire.
    #[inline]
    pub(crate) fn push_short(&mut self, block: &[u8; INLINE_BYTES_MAX], len: usize) -> usize {
        let before = self.arena.len();
        self.arena.reserve(SHORT_WIRE_BYTES_MAX);
        wire::put_header(&mut self.arena, 0, len);
        let end = self.arena.len() + len;
        self.arena.extend_from_slice(block);
        self.arena.truncate(end);
        self.messages += 1;
        self.wire_bytes += end - before;
        end - before
    }

    #[inline]
    fn push_frame(&mut self, frame: &Frame, flags: u8) {
        if let Some((block, len)) = frame.as_block() {
            wire::put_header(&mut self.arena, flags, len);
            self.wire_bytes += wire::header_len(len) + len;
            let end = self.arena.len() + len;
            self.arena.extend_from_slice(block);
            self.arena.truncate(end);
            return;
        }
        let body = frame.as_slice();
        wire::put_header(&mut self.arena, flags, body.len());
        self.wire_bytes += wire::header_len(body.len()) + body.len();
        if body.len() > COPY_BYTES_MAX
            && let Some(shared) = frame.shared()
        {
            self.large.push(LargeBody { at: self.arena.len(), body: shared.clone() });
        } else {
            self.arena.extend_from_slice(body);
        }
    }

    /// Appends messages that are framed already: how a fan-out frames once for many peers.
    pub(crate) fn append(&mut self, framed: &Self) {
        let shift = self.arena.len();
        self.arena.extend_from_slice(&framed.arena);
        self.large.extend(
            framed.large.iter().map(|l| LargeBody { at: l.at + shift, body: l.body.clone() }),
        );
        self.messages += framed.messages;
        self.wire_bytes += framed.wire_bytes;
    }

    /// A copy of the first messages, as many as `messages` and `bytes` allow, but of `least` messages whatever their bytes.
    pub(crate) fn copy_front(&self, messages: usize, bytes: usize, least: usize) -> Self {
        let mut walk = Walk::new(self);
        let mut cut = Cut::default();
        while cut.messages < messages {
            let Some(next) = walk.next_message(self) else { break };
            if next.wire_bytes > bytes && cut.messages >= least {
                break;
            }
            cut = next;
        }
        Self {
            arena: self.arena.get(..cut.arena).unwrap_or_default().to_vec(),
            large: self.large.get(..cut.large).unwrap_or_default().to_vec(),
            messages: cut.messages,
            wire_bytes: cut.wire_bytes,
        }
    }

    /// Drops all messages and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.large.clear();
        (self.messages, self.wire_bytes) = (0, 0);
    }

    /// The bytes from offset `written` on, at most a unit of them, as slices for one write.
    pub(crate) fn with_slices<R>(
        &self,
        written: usize,
        write: impl FnOnce(&[IoSlice<'_>]) -> R,
    ) -> R {
        if self.large.is_empty() {
            let end = self.arena.len().min(written + UNIT_BYTES);
            return write(&[IoSlice::new(self.arena.get(written..end).unwrap_or_default())]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        let mut skip = written;
        let mut room = UNIT_BYTES;
        for piece in self.pieces() {
            let Some(rest) = piece.get(skip..).filter(|rest| !rest.is_empty()) else {
                skip -= piece.len();
                continue;
            };
            skip = 0;
            let Some(slot) = slices.get_mut(count).filter(|_| room > 0) else { break };
            let rest = rest.get(..room).unwrap_or(rest);
            *slot = IoSlice::new(rest);
            room -= rest.len();
            count += 1;
        }
        write(slices.get(..count).unwrap_or_default())
    }

    /// Arena ranges and large bodies in the order of the wire.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        let tail_from = self.large.last().map_or(0, |large| large.at);
        let tail = self.arena.get(tail_from..).unwrap_or_default();
        self.large
            .iter()
            .flat_map(move |large| {
                let before = self.arena.get(from..large.at).unwrap_or_default();
                from = large.at;
                [before, &large.body[..]]
            })
            .chain(std::iter::once(tail))
    }

    /// Splits off and returns the first messages, at most `messages` of them and, beyond the first, at most
    /// `bytes` bytes. What stays behind is the rest.
    pub(crate) fn split_front(&mut self, messages: usize, bytes: usize) -> Self {
        if self.messages <= messages && self.wire_bytes <= bytes {
            return std::mem::take(self);
        }
        let mut walk = Walk::new(self);
        let mut cut = Cut::default();
        while cut.messages < messages {
            let Some(next) = walk.next_message(self) else { break };
            if cut.messages > 0 && next.wire_bytes > bytes {
                break;
            }
            cut = next;
        }
        self.split_at(cut)
    }

    /// Drops everything up to offset `written` and, when that lies inside a message, the whole of that
    /// message. Returns how many messages were cut in two (0 or 1): those the peer can never complete.
    pub(crate) fn drop_written(&mut self, written: usize) -> u64 {
        let mut walk = Walk::new(self);
        let mut cut = Cut::default();
        while cut.wire_bytes < written {
            let Some(next) = walk.next_message(self) else { break };
            let torn = next.wire_bytes > written;
            cut = next;
            if torn {
                self.split_at(cut);
                return 1;
            }
        }
        self.split_at(cut);
        0
    }

    fn split_at(&mut self, cut: Cut) -> Self {
        let rest = self.arena.split_off(cut.arena.min(self.arena.len()));
        let mut rest_large = self.large.split_off(cut.large.min(self.large.len()));
        for large in &mut rest_large {
            large.at -= cut.arena;
        }
        let front = Self {
            arena: std::mem::replace(&mut self.arena, rest),
            large: std::mem::replace(&mut self.large, rest_large),
            messages: cut.messages,
            wire_bytes: cut.wire_bytes,
        };
        self.messages -= cut.messages;
        self.wire_bytes -= cut.wire_bytes;
        front
    }

    /// The memory of the arena, for reuse by a later chunk.
    pub(crate) fn into_arena(self) -> Vec<u8> {
        self.arena
    }

    /// The parts, for the receiving side of an in-process pipe.
    pub(crate) fn into_parts(self) -> (Vec<u8>, Vec<LargeBody>) {
        (self.arena, self.large)
    }
}

/// A place between two messages: what lies before it.
#[derive(Clone, Copy, Default)]
struct Cut {
    messages: usize,
    arena: usize,
    large: usize,
    wire_bytes: usize,
}

/// Steps from message to message by reading the frame headers back.
struct Walk {
    at: Cut,
}

impl Walk {
    fn new(_: &Chunk) -> Self {
        Self { at: Cut::default() }
    }

    fn next_message(&mut self, chunk: &Chunk) -> Option<Cut> {
        loop {
            let header = wire::parse_header(chunk.arena.get(self.at.arena..)?).ok()??;
            self.at.arena += header.header_len;
            self.at.wire_bytes += header.header_len + header.body_len;
            match chunk.large.get(self.at.large) {
                Some(large) if large.at == self.at.arena => self.at.large += 1,
                _ => self.at.arena += header.body_len,
            }
            if !header.more() {
                self.at.messages += 1;
                return Some(self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk_of(messages: &[Message]) -> Chunk {
        let mut chunk = Chunk::default();
        messages.iter().for_each(|message| chunk.push(message));
        chunk
    }

    fn written_from(chunk: &Chunk, mut written: usize) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let taken = chunk.with_slices(written, |slices| {
                slices.iter().for_each(|slice| out.extend_from_slice(slice));
                slices.iter().map(|slice| slice.len()).sum::<usize>()
            });
            assert!(taken <= UNIT_BYTES);
            if taken == 0 {
                return out;
            }
            written += taken;
        }
    }

    fn naive(messages: &[Message]) -> Vec<u8> {
        let mut out = Vec::new();
        for message in messages {
            let last = message.frames().len() - 1;
            for (index, frame) in message.frames().iter().enumerate() {
                wire::put_header(&mut out, u8::from(index < last), frame.len());
                out.extend_from_slice(frame);
            }
        }
        out
    }

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let size = prop_oneof![
            8 => 0_usize..80,
            2 => 250_usize..260,
            2 => 4_000_usize..6_000,
            1 => 40_000_usize..60_000
        ];
        let message = proptest::collection::vec(size, 1..4).prop_map(|sizes| {
            sizes.iter().map(|&size| vec![size as u8; size]).collect::<Message>()
        });
        proptest::collection::vec(message, 0..8)
    }

    proptest! {
        #[test]
        fn slices_from_any_offset_are_the_framed_messages(messages in messages(), at in any::<prop::sample::Index>()) {
            let chunk = chunk_of(&messages);
            let expected = naive(&messages);
            prop_assert_eq!(chunk.wire_bytes(), expected.len());
            let from = at.index(expected.len() + 1);
            prop_assert_eq!(written_from(&chunk, from), &expected[from..]);
        }

        #[test]
        fn splitting_the_front_keeps_order_and_counts(messages in messages(), n in 0_usize..9, bytes in 0_usize..70_000) {
            let mut rest = chunk_of(&messages);
            let front = rest.split_front(n, bytes);
            prop_assert!(front.messages() <= n);
            prop_assert!(front.messages() <= 1 || front.wire_bytes() <= bytes);
            prop_assert_eq!(front.messages() + rest.messages(), messages.len());
            prop_assert_eq!(written_from(&front, 0), naive(&messages[..front.messages()]));
            prop_assert_eq!(written_from(&rest, 0), naive(&messages[front.messages()..]));
        }

        #[test]
        fn dropping_what_was_written_loses_only_the_torn_message(messages in messages(), at in any::<prop::sample::Index>()) {
            let mut chunk = chunk_of(&messages);
            let written = at.index(chunk.wire_bytes() + 1);
            let torn = chunk.drop_written(written);
            let mut whole = 0;
            while whole < messages.len() && naive(&messages[..=whole]).len() <= written { whole += 1; }
            let expected_torn = u64::from(naive(&messages[..whole]).len() < written);
            prop_assert_eq!(torn, expected_torn);
            prop_assert_eq!(written_from(&chunk, 0), naive(&messages[whole + torn as usize..]));
        }

        #[test]
        fn appending_a_framed_message_equals_framing_it_again(messages in messages()) {
            let mut appended = Chunk::default();
            for message in &messages {
                appended.append(&chunk_of(std::slice::from_ref(message)));
            }
            prop_assert_eq!(appended.messages(), messages.len());
            prop_assert_eq!(written_from(&appended, 0), naive(&messages));
        }
    }
}
