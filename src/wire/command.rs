//! Commands: frames that talk to the peer's library instead of its application (RFC 37).
//!
//! The handshake reads READY and ERROR here, the connection reads the rest as the scanner hands
//! it out. The `put_` functions append whole command frames to an outgoing buffer.

use super::error::ProtocolError;
use super::frame::{self, COMMAND};
use super::greeting::Version;

/// Longest PING context that is kept and echoed (RFC 37).
const CONTEXT_BYTES_MAX: usize = 16;
/// Longest reason of an ERROR command: its length has one byte.
const REASON_BYTES_MAX: usize = 255;

/// A command as received, borrowed from the frame body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command<'a> {
    /// The sender is ready; its property list, not yet parsed.
    Ready(&'a [u8]),
    /// The sender gives up; its reason.
    Error(&'a [u8]),
    /// Adds one subscription to the topic prefix.
    Subscribe(&'a [u8]),
    /// Takes one subscription to the topic prefix back.
    Cancel(&'a [u8]),
    /// Asks for a PONG.
    Ping {
        /// How long silence of the sender may last, in tenths of a second; 0 for any time.
        ttl_deciseconds: u16,
        /// To be echoed; at most 16 bytes.
        context: &'a [u8],
    },
    /// Answers a PING.
    Pong {
        /// The context of the PING; at most 16 bytes.
        context: &'a [u8],
    },
    /// Any other command, by its name.
    Unknown(&'a [u8]),
}

impl<'a> Command<'a> {
    /// Reads the body of a command frame.
    ///
    /// # Errors
    /// `MalformedCommand` if the name is empty or passes the end, or if a PING or ERROR is
    /// shorter than its fixed part says.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let (name, data) = split_prefixed(body)
            .ok_or_else(|| malformed("nameless", "its name is longer than the command"))?;
        Ok(match name {
            b"" => return Err(malformed("nameless", "its name is empty")),
            b"READY" => Self::Ready(data),
            b"ERROR" => {
                let (reason, _) = split_prefixed(data)
                    .ok_or_else(|| malformed("ERROR", "its reason is longer than the command"))?;
                Self::Error(reason)
            }
            b"SUBSCRIBE" => Self::Subscribe(data),
            b"CANCEL" => Self::Cancel(data),
            b"PING" => {
                let (ttl, context) = data
                    .split_first_chunk::<2>()
                    .ok_or_else(|| malformed("PING", "it is too short for its TTL"))?;
                let ttl_deciseconds = u16::from_be_bytes(*ttl);
                Self::Ping { ttl_deciseconds, context: cut_context(context) }
            }
            b"PONG" => Self::Pong { context: cut_context(data) },
            _ => Self::Unknown(name),
        })
    }

    /// The name on the wire.
    pub(crate) const fn name(&self) -> &'a [u8] {
        match self {
            Self::Ready(_) => b"READY",
            Self::Error(_) => b"ERROR",
            Self::Subscribe(_) => b"SUBSCRIBE",
            Self::Cancel(_) => b"CANCEL",
            Self::Ping { .. } => b"PING",
            Self::Pong { .. } => b"PONG",
            Self::Unknown(name) => name,
        }
    }
}

/// A change of subscription that arrived as an ordinary message (RFC 23 and older; every XPUB
/// accepts it from anyone).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subscription<'a> {
    /// Adds one subscription to the topic prefix.
    Subscribe(&'a [u8]),
    /// Takes one subscription to the topic prefix back.
    Cancel(&'a [u8]),
}

/// A subscription or cancellation on its own, for a batch that outlives the bytes it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionChange {
    /// Whether it subscribes, or else cancels.
    subscribe: bool,
    /// The topic prefix.
    topic: Vec<u8>,
}

impl From<Subscription<'_>> for SubscriptionChange {
    fn from(change: Subscription<'_>) -> Self {
        match change {
            Subscription::Subscribe(topic) => Self { subscribe: true, topic: topic.to_vec() },
            Subscription::Cancel(topic) => Self { subscribe: false, topic: topic.to_vec() },
        }
    }
}

impl SubscriptionChange {
    /// The change as it came.
    pub(crate) fn as_subscription(&self) -> Subscription<'_> {
        match self.subscribe {
            true => Subscription::Subscribe(&self.topic),
            false => Subscription::Cancel(&self.topic),
        }
    }
}

impl<'a> Subscription<'a> {
    /// Reads a single-frame message: byte 1 or 0, then the topic; `None` for anything else.
    pub(crate) fn from_message(body: &'a [u8]) -> Option<Self> {
        match body.split_first()? {
            (1, topic) => Some(Self::Subscribe(topic)),
            (0, topic) => Some(Self::Cancel(topic)),
            _ => None,
        }
    }
}

/// Appends READY with an encoded property list.
pub(crate) fn put_ready(out: &mut Vec<u8>, properties: &[u8]) {
    put_command(out, b"READY", &[], properties);
}

/// Appends ERROR. The reason is cut to 255 bytes; what is not printable ASCII becomes `?`.
pub(crate) fn put_error(out: &mut Vec<u8>, reason: &str) {
    let is_printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let reason: Vec<u8> = reason
        .bytes()
        .take(REASON_BYTES_MAX)
        .map(|byte| if is_printable(byte) { byte } else { b'?' })
        .collect();
    put_command(out, b"ERROR", &[reason.len() as u8], &reason);
}

/// Appends PING. A context beyond 16 bytes is cut.
pub(crate) fn put_ping(out: &mut Vec<u8>, ttl_deciseconds: u16, context: &[u8]) {
    put_command(out, b"PING", &ttl_deciseconds.to_be_bytes(), cut_context(context));
}

/// Appends PONG. A context beyond 16 bytes is cut.
pub(crate) fn put_pong(out: &mut Vec<u8>, context: &[u8]) {
    put_command(out, b"PONG", &[], cut_context(context));
}

/// Appends a subscription (or its cancellation) in the form that the peer's version reads.
pub(crate) fn put_subscription(out: &mut Vec<u8>, version: Version, subscribe: bool, topic: &[u8]) {
    match version {
        Version::V3_1 => {
            let name: &[u8] = if subscribe { b"SUBSCRIBE" } else { b"CANCEL" };
            put_command(out, name, &[], topic);
        }
        Version::V3_0 => {
            frame::put_header(out, 0, 1 + topic.len());
            out.push(u8::from(subscribe));
            out.extend_from_slice(topic);
        }
    }
}

/// Appends a command frame whose data is `head` followed by `tail`. The name has at most 255
/// bytes.
fn put_command(out: &mut Vec<u8>, name: &[u8], head: &[u8], tail: &[u8]) {
    debug_assert!(!name.is_empty() && name.len() <= 255);
    frame::put_header(out, COMMAND, 1 + name.len() + head.len() + tail.len());
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
}

/// Splits a field with a one-byte length from the front; `None` if it passes the end.
fn split_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// The part of a context that is kept.
fn cut_context(context: &[u8]) -> &[u8] {
    context.get(..CONTEXT_BYTES_MAX).unwrap_or(context)
}

/// Short form of the error.
const fn malformed(name: &'static str, reason: &'static str) -> ProtocolError {
    ProtocolError::MalformedCommand { name, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body of the one frame in `out`, which must be a command.
    fn command_body(out: &[u8]) -> &[u8] {
        let header = frame::parse_header(out).unwrap().unwrap();
        assert!(header.is_command());
        assert_eq!(out.len(), header.header_len + header.body_len);
        &out[header.header_len..]
    }

    #[test]
    fn a_ping_has_the_bytes_of_the_rfc() {
        let mut out = Vec::new();
        put_ping(&mut out, 0x0102, b"ctx");
        assert_eq!(out, b"\x04\x0a\x04PING\x01\x02ctx");
    }

    #[test]
    fn commands_without_a_proper_name_are_malformed() {
        for body in [&b""[..], b"\0", b"\0abc", b"\x05PING", b"\xff"] {
            let error = Command::parse(body).unwrap_err();
            assert!(matches!(error, ProtocolError::MalformedCommand { .. }), "{body:?}");
        }
    }

    #[test]
    fn a_ping_shorter_than_its_ttl_is_malformed() {
        for body in [&b"\x04PING"[..], b"\x04PING\0"] {
            assert!(Command::parse(body).is_err());
        }
        let empty = Command::Ping { ttl_deciseconds: 0, context: b"" };
        assert_eq!(Command::parse(b"\x04PING\0\0"), Ok(empty));
    }

    #[test]
    fn contexts_are_cut_to_sixteen_bytes() {
        let long = b"0123456789abcdefXYZ";
        let mut body = b"\x04PING\0\x01".to_vec();
        body.extend_from_slice(long);
        let cut = &long[..16];
        assert_eq!(Command::parse(&body), Ok(Command::Ping { ttl_deciseconds: 1, context: cut }));
        let mut out = Vec::new();
        put_pong(&mut out, long);
        assert_eq!(Command::parse(command_body(&out)), Ok(Command::Pong { context: cut }));
    }

    #[test]
    fn an_error_whose_reason_passes_the_end_is_malformed() {
        assert!(Command::parse(b"\x05ERROR").is_err());
        assert!(Command::parse(b"\x05ERROR\x04400").is_err());
        assert_eq!(Command::parse(b"\x05ERROR\x03400"), Ok(Command::Error(b"400")));
    }

    #[test]
    fn our_error_reasons_are_short_and_printable() {
        let mut out = Vec::new();
        put_error(&mut out, &"\n".repeat(300));
        assert_eq!(Command::parse(command_body(&out)), Ok(Command::Error(&[b'?'; 255])));
    }

    #[test]
    fn names_are_kept_for_unknown_commands_and_known_ones() {
        let join = Command::parse(b"\x04JOINgroup").unwrap();
        assert_eq!(join, Command::Unknown(b"JOIN"));
        assert_eq!(join.name(), b"JOIN");
        assert_eq!(Command::parse(b"\x04PONG").unwrap().name(), b"PONG");
    }

    #[test]
    fn a_3_0_peer_gets_subscriptions_as_messages() {
        let mut out = Vec::new();
        put_subscription(&mut out, Version::V3_0, true, b"ab");
        put_subscription(&mut out, Version::V3_0, false, b"");
        assert_eq!(out, b"\0\x03\x01ab\0\x01\0");
        out.clear();
        put_subscription(&mut out, Version::V3_0, true, &[7; 255]);
        assert_eq!(out[..10], [2, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn messages_are_read_as_subscriptions_only_by_their_first_byte() {
        assert_eq!(Subscription::from_message(b"\x01a"), Some(Subscription::Subscribe(b"a")));
        assert_eq!(Subscription::from_message(b"\0"), Some(Subscription::Cancel(b"")));
        assert_eq!(Subscription::from_message(b""), None);
        assert_eq!(Subscription::from_message(b"\x02a"), None);
    }

    proptest! {
        #[test]
        fn subscriptions_of_any_length_read_back(
            topic in prop::collection::vec(any::<u8>(), 0..600),
            subscribe: bool,
        ) {
            let mut out = Vec::new();
            put_subscription(&mut out, Version::V3_1, subscribe, &topic);
            let expected =
                if subscribe { Command::Subscribe(&topic) } else { Command::Cancel(&topic) };
            prop_assert_eq!(Command::parse(command_body(&out)), Ok(expected));
        }

        #[test]
        fn any_body_is_read_without_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(command) = Command::parse(&body) {
                prop_assert!(!command.name().is_empty());
            }
        }
    }
}
