//! The frame header: flags and a length of one or eight bytes (RFC 37, "framing").
//!
//! Everything after the greeting is frames. Every message in either direction passes through
//! these functions, so they are small and inlined.

use super::error::ProtocolError;

/// Flag: further frames of the same message follow.
pub(crate) const MORE: u8 = 1;
/// Flag: the length has eight bytes instead of one.
pub(crate) const LONG: u8 = 2;
/// Flag: the body is a command, not part of a message.
pub(crate) const COMMAND: u8 = 4;

/// Header bytes of a frame with a one-byte length.
pub(super) const SHORT_HEADER_BYTES: usize = 2;
/// Header bytes of a frame with an eight-byte length.
pub(super) const LONG_HEADER_BYTES: usize = 9;
/// Longest body that a one-byte length can state.
const SHORT_BODY_BYTES_MAX: usize = 255;
/// Longest body that memory can hold at all; a longer claim is refused before any arithmetic.
const BODY_BYTES_MAX: usize = isize::MAX as usize;

/// A decoded frame header. `header_len + body_len` cannot overflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// The flags byte; no reserved bit is set, and COMMAND never comes with MORE.
    pub(crate) flags: u8,
    /// Bytes of the header itself: 2 or 9.
    pub(crate) header_len: usize,
    /// Bytes of the body, as claimed by the peer.
    pub(crate) body_len: usize,
}

impl Header {
    /// Whether further frames of the same message follow.
    #[inline]
    pub(crate) const fn more(self) -> bool {
        self.flags & MORE != 0
    }

    /// Whether the body is a command.
    #[inline]
    pub(crate) const fn is_command(self) -> bool {
        self.flags & COMMAND != 0
    }
}

/// Decodes the header at the front of `input`; `None` if it is not complete.
///
/// # Errors
/// `ReservedFlags`, `CommandHasMore`, or `FrameTooLong` for a length no memory can hold.
#[inline]
pub(crate) fn parse_header(input: &[u8]) -> Result<Option<Header>, ProtocolError> {
    let Some((&flags, rest)) = input.split_first() else { return Ok(None) };
    if flags & !(MORE | LONG | COMMAND) != 0 {
        return Err(ProtocolError::ReservedFlags(flags));
    }
    if flags & (MORE | COMMAND) == MORE | COMMAND {
        return Err(ProtocolError::CommandHasMore);
    }
    if flags & LONG == 0 {
        return Ok(rest.first().map(|&length| Header {
            flags,
            header_len: SHORT_HEADER_BYTES,
            body_len: usize::from(length),
        }));
    }
    let Some(length) = rest.first_chunk::<8>().copied().map(u64::from_be_bytes) else {
        return Ok(None);
    };
    match usize::try_from(length) {
        Ok(body_len) if body_len <= BODY_BYTES_MAX => {
            Ok(Some(Header { flags, header_len: LONG_HEADER_BYTES, body_len }))
        }
        _ => Err(ProtocolError::FrameTooLong { length, limit: BODY_BYTES_MAX }),
    }
}

/// Bytes of the header that [`put_header`] writes for a body of this length.
#[inline]
pub(crate) const fn header_len(body_len: usize) -> usize {
    if body_len <= SHORT_BODY_BYTES_MAX { SHORT_HEADER_BYTES } else { LONG_HEADER_BYTES }
}

/// Appends a frame header; LONG is added to the flags where the length needs it.
#[inline]
pub(crate) fn put_header(out: &mut Vec<u8>, flags_without_long: u8, body_len: usize) {
    debug_assert!(flags_without_long & !(MORE | COMMAND) == 0);
    match u8::try_from(body_len) {
        Ok(length) => out.extend_from_slice(&[flags_without_long, length]),
        Err(_) => {
            let mut header = [0; LONG_HEADER_BYTES];
            header[0] = flags_without_long | LONG;
            header[1..].copy_from_slice(&(body_len as u64).to_be_bytes());
            out.extend_from_slice(&header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_up_to_255_are_short_and_longer_ones_long() {
        let mut out = Vec::new();
        put_header(&mut out, MORE, 255);
        assert_eq!(out, [1, 255]);
        out.clear();
        put_header(&mut out, COMMAND, 256);
        assert_eq!(out, [6, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn reserved_flags_and_commands_with_more_are_refused_from_the_first_byte() {
        for bit in 3..8 {
            let flags = 1 << bit;
            assert_eq!(parse_header(&[flags]), Err(ProtocolError::ReservedFlags(flags)));
        }
        assert_eq!(parse_header(&[5]), Err(ProtocolError::CommandHasMore));
    }

    #[test]
    fn lengths_that_no_memory_holds_are_refused() {
        for length in [1 << 63, u64::MAX - 9, u64::MAX] {
            let mut input = vec![LONG];
            input.extend_from_slice(&u64::to_be_bytes(length));
            let limit = isize::MAX as usize;
            assert_eq!(parse_header(&input), Err(ProtocolError::FrameTooLong { length, limit }));
        }
    }

    #[test]
    fn a_long_header_may_state_a_short_length() {
        let header = parse_header(&[2, 0, 0, 0, 0, 0, 0, 0, 7]).unwrap().unwrap();
        assert_eq!((header.header_len, header.body_len), (9, 7));
    }

    proptest! {
        #[test]
        fn a_header_reads_back_as_written_and_only_when_complete(
            flags in prop::sample::select(vec![0, MORE, COMMAND]),
            body_len in prop_oneof![0usize..600, 0usize..BODY_BYTES_MAX],
        ) {
            let mut out = Vec::new();
            put_header(&mut out, flags, body_len);
            prop_assert_eq!(out.len(), header_len(body_len));
            for cut in 0..out.len() {
                prop_assert_eq!(parse_header(&out[..cut]), Ok(None));
            }
            let header = parse_header(&out).unwrap().unwrap();
            prop_assert_eq!((header.header_len, header.body_len), (out.len(), body_len));
            prop_assert_eq!(header.more(), flags == MORE);
            prop_assert_eq!(header.is_command(), flags == COMMAND);
        }
    }
}
