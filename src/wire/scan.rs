//! Finds complete messages in received bytes, without copying them (RFC 37, "traffic").
//!
//! This is the hot path of receiving: the reactor reads into its buffer, the scanner says how much
//! of it is a run of complete messages, and the run goes to the inbox as one piece. Messages are
//! cut out of the run only when the application receives them. Commands are handed out on the way
//! and stay in the run, where their flag tells the reader to skip them.

use super::error::ProtocolError;
use super::frame::{self, COMMAND, Header, LONG, LONG_HEADER_BYTES, MORE, SHORT_HEADER_BYTES};
use super::limits::WireLimits;

/// What the inbox still takes. A message is taken while both numbers are above zero, so the last
/// one may overshoot `bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Allowance {
    /// Messages.
    pub(crate) messages: usize,
    /// Bytes as they stand in the run: bodies, frame headers, commands between frames.
    pub(crate) bytes: usize,
}

impl Allowance {
    /// Whether one more message is taken.
    #[inline]
    const fn allows_message(self) -> bool {
        self.messages > 0 && self.bytes > 0
    }

    /// Pays for one message.
    #[inline]
    const fn spend(&mut self, message_wire_bytes: usize) {
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(message_wire_bytes);
    }
}

/// What one scan found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scan {
    /// `input[..end]` is the run: complete messages and command frames.
    pub(crate) end: usize,
    /// Complete messages in the run.
    pub(crate) messages: usize,
    /// Why it ends there.
    pub(crate) ended: Ended,
}

/// Why a run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The input is used up.
    NeedMore {
        /// How many more bytes complete the frame in progress, at least 1; while its header is
        /// incomplete, how many are known to be missing of that. A claim of the peer: never
        /// reserve memory by it.
        bytes: usize,
    },
    /// More input is there, but the allowance is used up.
    Allowance,
}

/// What ended a connection's traffic, and the complete messages before it, which are still good.
#[derive(Debug)]
pub(crate) struct ScanFailure {
    pub(crate) error: ProtocolError,
    /// `input[..end]` holds `messages` complete messages.
    pub(crate) end: usize,
    /// See `end`.
    pub(crate) messages: usize,
}

/// Finds runs in the bytes of one connection.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// What the peer is held to.
    limits: WireLimits,
    /// The message in progress.
    partial: Partial,
}

/// How far the message in progress is known. All zero at a message boundary; `frames > 0` inside
/// a message.
#[derive(Debug, Default)]
struct Partial {
    /// Bytes of its complete frames and of the commands between them, headers included.
    wire_bytes: usize,
    /// Its complete frames.
    frames: usize,
    /// Bytes of their bodies; at most `message_bytes_max`.
    body_bytes: usize,
    /// Commands between its frames.
    commands: usize,
    /// Bytes of their bodies.
    command_bytes: usize,
}

/// The run found so far.
struct Run {
    /// End of the last complete message, or of a command frame at a boundary.
    end: usize,
    /// Complete messages.
    messages: usize,
    /// What the inbox takes beyond them.
    left: Allowance,
}

impl Scanner {
    /// A scanner at a message boundary.
    pub(crate) fn new(limits: WireLimits) -> Self {
        Self { limits, partial: Partial::default() }
    }

    /// Scans `input`, which begins where the previous scan's `end` was: an incomplete message is
    /// presented again from its first byte, with more bytes behind it. Complete frames are never
    /// parsed twice, and each command body is passed to `on_command` once, in order.
    ///
    /// Commands at a message boundary are handed out even when no message is allowed; a message
    /// that began when one was allowed waits, with the commands inside it, for a new allowance.
    ///
    /// # Errors
    /// A malformed header, a claim beyond the limits (before the body arrives), or the error of
    /// `on_command`, with the run that was complete before it.
    pub(crate) fn scan(
        &mut self,
        input: &[u8],
        allowance: Allowance,
        on_command: &mut dyn FnMut(&[u8]) -> Result<(), ProtocolError>,
    ) -> Result<Scan, ScanFailure> {
        debug_assert!(self.partial.wire_bytes <= input.len());
        let mut run = Run { end: 0, messages: 0, left: allowance };
        loop {
            if self.partial.frames == 0 {
                self.skip_small_messages(input, &mut run);
            }
            match self.scan_frame(input, &mut run, on_command) {
                Ok(None) => {}
                Ok(Some(ended)) => {
                    return Ok(Scan { end: run.end, messages: run.messages, ended });
                }
                Err(error) => {
                    return Err(ScanFailure { error, end: run.end, messages: run.messages });
                }
            }
        }
    }

    /// Advances over complete messages of one short frame: what most traffic consists of. Stops
    /// before anything else, errors included.
    #[inline]
    fn skip_small_messages(&self, input: &[u8], run: &mut Run) {
        let limits_allow_one_frame = self.limits.frames_per_message_max > 0;
        while let Some(&[0, length, ..]) = input.get(run.end..) {
            let body_len = usize::from(length);
            let wire_bytes = SHORT_HEADER_BYTES + body_len;
            let is_complete = input.len() - run.end >= wire_bytes;
            let is_within_limits =
                limits_allow_one_frame && body_len <= self.limits.message_bytes_max;
            if !(is_complete && is_within_limits && run.left.allows_message()) {
                return;
            }
            run.end += wire_bytes;
            run.messages += 1;
            run.left.spend(wire_bytes);
        }
    }

    /// Takes the next frame of any kind; returns why the run ends if there is none to take.
    fn scan_frame(
        &mut self,
        input: &[u8],
        run: &mut Run,
        on_command: &mut dyn FnMut(&[u8]) -> Result<(), ProtocolError>,
    ) -> Result<Option<Ended>, ProtocolError> {
        let rest = input.get(run.end + self.partial.wire_bytes..).unwrap_or_default();
        let Some(&flags) = rest.first() else { return Ok(Some(Ended::NeedMore { bytes: 1 })) };
        let belongs_to_message = self.partial.frames > 0 || flags & COMMAND == 0;
        if belongs_to_message && !run.left.allows_message() {
            return Ok(Some(Ended::Allowance));
        }
        let Some(header) = frame::parse_header(rest)? else {
            let header_bytes =
                if flags & LONG == 0 { SHORT_HEADER_BYTES } else { LONG_HEADER_BYTES };
            return Ok(Some(Ended::NeedMore { bytes: header_bytes - rest.len() }));
        };
        self.check_claim(header)?;
        let behind_header = rest.get(header.header_len..).unwrap_or_default();
        let Some(body) = behind_header.get(..header.body_len) else {
            let bytes = header.body_len - behind_header.len();
            return Ok(Some(Ended::NeedMore { bytes }));
        };
        if header.is_command() {
            on_command(body)?;
            self.take_command(header, run);
        } else {
            self.take_message_frame(header, run);
        }
        Ok(None)
    }

    /// Holds a frame to the limits by what its header claims.
    fn check_claim(&self, header: Header) -> Result<(), ProtocolError> {
        let limits = &self.limits;
        let partial = &self.partial;
        let length = header.body_len as u64;
        if header.is_command() {
            let limit = limits.command_bytes_max;
            if header.body_len > limit {
                return Err(ProtocolError::CommandTooLong { length, limit });
            }
            return if partial.frames > 0 { self.check_inner_command(header) } else { Ok(()) };
        }
        let limit = limits.message_bytes_max;
        if header.body_len > limit {
            return Err(ProtocolError::FrameTooLong { length, limit });
        }
        if header.body_len > limit.saturating_sub(partial.body_bytes) {
            return Err(ProtocolError::MessageTooLarge { limit });
        }
        // MORE on the last allowed frame already promises one too many.
        let frames_promised = partial.frames + 1 + usize::from(header.flags & MORE != 0);
        if frames_promised > limits.frames_per_message_max {
            return Err(ProtocolError::TooManyFrames { limit: limits.frames_per_message_max });
        }
        Ok(())
    }

    /// Bounds the commands inside a message: they are kept with it until it is complete, so
    /// without a limit a peer could make us keep PINGs for ever. A message and the commands inside
    /// it together hold at most `message_bytes_max + command_bytes_max`.
    fn check_inner_command(&self, header: Header) -> Result<(), ProtocolError> {
        let limits = &self.limits;
        let partial = &self.partial;
        if partial.commands >= limits.frames_per_message_max {
            return Err(ProtocolError::TooManyFrames { limit: limits.frames_per_message_max });
        }
        let room = limits
            .message_bytes_max
            .saturating_add(limits.command_bytes_max)
            .saturating_sub(partial.body_bytes)
            .saturating_sub(partial.command_bytes);
        if header.body_len > room {
            return Err(ProtocolError::MessageTooLarge { limit: limits.message_bytes_max });
        }
        Ok(())
    }

    /// Accounts for a complete command frame, which has been handed out.
    fn take_command(&mut self, header: Header, run: &mut Run) {
        let wire_bytes = header.header_len + header.body_len;
        if self.partial.frames == 0 {
            run.end += wire_bytes;
            return;
        }
        self.partial.wire_bytes += wire_bytes;
        self.partial.commands += 1;
        self.partial.command_bytes += header.body_len;
    }

    /// Accounts for a complete message frame; the last of a message extends the run.
    fn take_message_frame(&mut self, header: Header, run: &mut Run) {
        self.partial.wire_bytes += header.header_len + header.body_len;
        self.partial.frames += 1;
        self.partial.body_bytes += header.body_len;
        if !header.more() {
            let message = std::mem::take(&mut self.partial);
            run.end += message.wire_bytes;
            run.messages += 1;
            run.left.spend(message.wire_bytes);
        }
    }
}

#[cfg(test)]
mod tests;
