//! The messages that both sides make for themselves; `peer.py` has the same rules.

use std::sync::OnceLock;

use bytes::Bytes;
use peermq::{Frame, Message};

const MIB: usize = 1 << 20;
const SIZES: [usize; 11] =
    [0, 1, 254, 255, 256, 8_191, 8_192, 65_535, 65_536, MIB, LARGEST_BODY_BYTES];
const FRAME_COUNTS: [usize; 3] = [1, 2, 100];
/// The largest body, and about the largest message: frames beyond that sum are short.
pub(crate) const LARGEST_BODY_BYTES: usize = 16 * MIB;
/// Prime, so that no buffer size divides it: a shifted or repeated block shows.
const PERIOD: usize = 65_521;

/// Bytes from which all bodies are cut.
fn pattern() -> &'static Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut state = 1_u32;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7FFF_FFFF;
                (state >> 16) as u8
            })
            .collect();
        period.repeat(LARGEST_BODY_BYTES / PERIOD + 2).into()
    })
}

/// The messages of the matrix with bodies up to `largest` bytes, in the order in which both sides send them.
pub(crate) fn shapes(largest: usize) -> Vec<Message> {
    let sizes = SIZES.into_iter().filter(|size| *size <= largest);
    let shapes = sizes.flat_map(|size| FRAME_COUNTS.map(|count| (size, count)));
    shapes.enumerate().map(|(number, (size, count))| shape(number, size, count)).collect()
}

fn shape(number: usize, size: usize, count: usize) -> Message {
    let full =
        LARGEST_BODY_BYTES.checked_div(size).map_or(count, |fitting| fitting.clamp(1, count));
    (0..count)
        .map(|index| {
            let start = (number * 1_009 + index * 31) % PERIOD;
            let length = if index < full { size } else { index };
            Frame::from(pattern().slice(start..start + length))
        })
        .collect()
}

/// Message `number` of a series whose messages have `size` bytes, at least 8.
pub(crate) fn sequence(number: usize, size: usize) -> Message {
    let mut body = (number as u64).to_be_bytes().to_vec();
    body.extend_from_slice(&pattern()[..size - 8]);
    Message::from(body)
}

/// Fails without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(number: usize, received: &Message, expected: &Message) {
    let lengths = |message: &Message| {
        message.frames().iter().take(5).map(|frame| frame.len()).collect::<Vec<_>>()
    };
    assert!(
        received == expected,
        "message {number} differs: {} frames of {:?}... bytes instead of {} of {:?}...",
        received.frames().len(),
        lengths(received),
        expected.frames().len(),
        lengths(expected),
    );
}
