//! Everything a peer can do wrong on the wire, in one enum.
//!
//! The readers of this module return it, the connection closes on it, and monitors show its text
//! to users. [`ProtocolError::error_reason`] is the one place that decides what the peer is told.

use super::kind::SocketKind;

/// Longest piece of peer-chosen text that an error keeps, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// A peer broke the protocol, or does not speak it. The connection is closed; others are not
/// affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The first byte cannot begin a ZMTP greeting: another protocol, or a port scanner.
    #[error("the peer does not speak ZMTP; it began with \"{first_bytes}\"")]
    NotZmtp {
        /// Up to 16 of the first bytes, escaped.
        first_bytes: String,
    },
    /// The peer speaks ZMTP older than 3.0.
    #[error("the peer speaks ZMTP {major}.{minor}; 3.0 or newer is required")]
    VersionTooOld {
        /// Major protocol version.
        major: u8,
        /// Minor protocol version.
        minor: u8,
    },
    /// The two sides are configured for different security mechanisms.
    #[error("the peer uses security mechanism \"{theirs}\", this socket {ours}")]
    MechanismMismatch {
        /// Name of our mechanism.
        ours: String,
        /// Name in the peer's greeting, escaped.
        theirs: String,
    },
    /// A frame has flag bits set that ZMTP 3.1 reserves. The value is the whole flags byte.
    #[error("frame with reserved flag bits set (flags {0:#04x})")]
    ReservedFlags(u8),
    /// A command frame announces further frames.
    #[error("command frame with the MORE flag")]
    CommandHasMore,
    /// A single frame is longer than a whole message may be.
    #[error("frame of {length} bytes exceeds the limit of {limit}")]
    FrameTooLong {
        /// Length claimed by the frame header, in bytes.
        length: u64,
        /// Longest frame accepted, in bytes.
        limit: usize,
    },
    /// The frames of one message add up to more than a message may hold.
    #[error("message exceeds the limit of {limit} bytes")]
    MessageTooLarge {
        /// Largest message accepted, in bytes.
        limit: usize,
    },
    /// One message has more frames, or more commands between its frames, than allowed.
    #[error("message has more than {limit} frames")]
    TooManyFrames {
        /// Most frames accepted in one message.
        limit: usize,
    },
    /// A command is longer than allowed.
    #[error("command of {length} bytes exceeds the limit of {limit}")]
    CommandTooLong {
        /// Length claimed by the frame header, in bytes.
        length: u64,
        /// Longest command accepted, in bytes.
        limit: usize,
    },
    /// The body of a command does not follow its grammar.
    #[error("malformed {name} command: {reason}")]
    MalformedCommand {
        /// Name of the command, or `"nameless"`.
        name: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A command that has no place in the handshake arrived before READY.
    #[error("command {name} is not allowed during the handshake")]
    UnexpectedCommand {
        /// Name of the command, escaped.
        name: String,
    },
    /// A message frame arrived before READY.
    #[error("message received before the handshake was complete")]
    TrafficBeforeReady,
    /// Greeting and READY together are longer than allowed.
    #[error("handshake exceeds the limit of {limit} bytes")]
    HandshakeTooLong {
        /// Longest handshake accepted, in bytes.
        limit: usize,
    },
    /// The property list of READY does not follow its grammar or its limits.
    #[error("malformed metadata: {reason}")]
    MalformedMetadata {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The peer announces a socket type that ZMTP does not know. The value is escaped.
    #[error("unknown socket type \"{0}\"")]
    UnknownSocketType(String),
    /// The peer's socket type may not be connected to ours.
    #[error("a {ours} socket cannot talk to a {theirs} socket")]
    IncompatibleSocketType {
        /// Type of our socket.
        ours: SocketKind,
        /// Type the peer announced.
        theirs: SocketKind,
    },
    /// The peer's identity begins with a zero byte, which marks identities made by the receiver.
    #[error("the peer's identity begins with a zero byte, which is reserved")]
    ReservedIdentity,
    /// The peer's identity is longer than 255 bytes.
    #[error("the peer's identity has {length} bytes; at most 255 are allowed")]
    IdentityTooLong {
        /// Length of the identity, in bytes.
        length: usize,
    },
    /// The peer refused us with an ERROR command.
    #[error("the peer refused the connection: \"{reason}\"")]
    PeerError {
        /// The peer's reason, escaped, at most 255 bytes.
        reason: String,
    },
    /// The peer holds more subscriptions than allowed.
    #[error("the peer exceeds the limit of {limit} on subscription {what}")]
    SubscriptionsExceeded {
        /// What there is too much of, such as `"count"` or `"bytes"`.
        what: &'static str,
        /// The limit in units of `what`.
        limit: usize,
    },
    /// Nothing was heard from the peer for the heartbeat timeout or the peer's own TTL.
    #[error("nothing was heard from the peer within the heartbeat timeout")]
    HeartbeatTimeout,
}

impl ProtocolError {
    /// The reason to send in an ERROR command before closing, where the peer can do something
    /// about it (RFC 37: incompatible socket types and bad identities); `None` otherwise.
    pub(crate) fn error_reason(&self) -> Option<String> {
        match self {
            Self::IncompatibleSocketType { ours, theirs } => {
                Some(format!("incompatible socket type {theirs}, this is a {ours}"))
            }
            Self::UnknownSocketType(_) => Some("unknown socket type".to_owned()),
            Self::ReservedIdentity => Some("identity begins with a zero byte".to_owned()),
            Self::IdentityTooLong { .. } => Some("identity longer than 255 bytes".to_owned()),
            _ => None,
        }
    }
}

/// Peer-chosen bytes as printable ASCII, cut to the first 255 bytes of input.
pub(super) fn escaped_ascii(bytes: &[u8]) -> String {
    bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes).escape_ascii().to_string()
}

/// Peer-chosen text, decoded lossily, with whatever does not print escaped; at most 255 bytes
/// of output.
pub(super) fn printable_text(bytes: &[u8]) -> String {
    let bytes = bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes);
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        let piece = c.escape_debug().to_string();
        if text.len() + piece.len() > TEXT_BYTES_MAX {
            break;
        }
        text.push_str(&piece);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_told_only_what_it_can_mend() {
        let incompatible = ProtocolError::IncompatibleSocketType {
            ours: SocketKind::Pull,
            theirs: SocketKind::Sub,
        };
        assert_eq!(
            incompatible.error_reason().as_deref(),
            Some("incompatible socket type SUB, this is a PULL")
        );
        assert!(ProtocolError::ReservedIdentity.error_reason().is_some());
        assert!(ProtocolError::IdentityTooLong { length: 256 }.error_reason().is_some());
        assert_eq!(ProtocolError::CommandHasMore.error_reason(), None);
        assert_eq!(ProtocolError::HeartbeatTimeout.error_reason(), None);
    }

    #[test]
    fn peer_text_cannot_smuggle_control_characters_or_grow() {
        assert_eq!(printable_text(b"no\r\n\x1b[2J"), "no\\r\\n\\u{1b}[2J");
        assert!(printable_text(&[0xFF; 4096]).len() <= TEXT_BYTES_MAX);
        assert!(printable_text(&[0; 4096]).len() <= TEXT_BYTES_MAX);
        assert_eq!(escaped_ascii(b"a\0\xff"), "a\\x00\\xff");
    }
}
