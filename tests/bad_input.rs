//! Whatever arrives on a port: each wrong thing gives a typed event that names endpoint and reason, the connection ends,
//! and a good peer of the same socket goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

#[path = "bad_input/configuration.rs"]
mod configuration;
#[path = "bad_input/floods.rs"]
mod floods;
mod harness;

use std::time::Duration;

use harness::raw::{self, COMMAND, MORE, Raw};
use harness::{SOON, Transport, WIRES, disconnection, endpoint, handshake_failure};
use peermq::{
    Builder, Context, DisconnectReason, Endpoint, Event, HandshakeFailure, Monitor, ProtocolError,
    Pull, Push, Socket, SocketKind,
};

/// A PULL socket with a good peer, to which bad ones come.
struct Victim {
    // Dropped first: it must not look for the other one where that was.
    push: Socket<Push>,
    pull: Socket<Pull>,
    monitor: Monitor,
    endpoint: Endpoint,
    _context: Context,
}

impl Victim {
    fn new(transport: Transport) -> Self {
        Self::with(transport, |builder| builder)
    }

    fn with(transport: Transport, options: impl FnOnce(Builder<Pull>) -> Builder<Pull>) -> Self {
        let context = Context::new();
        let builder = context.pull().recv_timeout(SOON).handshake_timeout(SOON);
        let pull = options(builder).bind(transport.fresh()).unwrap();
        let endpoint = endpoint(&pull);
        let push = context.push().send_timeout(SOON).connect(&endpoint).unwrap();
        pull.wait_for_peers(1, SOON).unwrap();
        let monitor = pull.monitor();
        Self { push, pull, monitor, endpoint, _context: context }
    }

    /// The good peer is served, and nothing else was delivered.
    #[track_caller]
    fn assert_well(&self) {
        for text in ["still", "here"] {
            self.push.send([text, "as ever"]).unwrap();
            assert_eq!(harness::texts(&self.pull.recv().unwrap()), [text, "as ever"]);
        }
    }

    /// A connection that says `bytes` before anything else is refused for this reason.
    fn refuse_greeting(&self, bytes: &[u8]) -> HandshakeFailure {
        let mut peer = Raw::connect(&self.endpoint);
        // It may be found out before it has said all.
        let _ = peer.try_send(bytes);
        peer.expect_closed();
        self.failure()
    }

    /// As `refuse_greeting`, for what comes after the greetings.
    fn refuse_after_greeting(&self, bytes: &[u8]) -> HandshakeFailure {
        let mut peer = Raw::connect(&self.endpoint);
        peer.greet(1);
        let _ = peer.try_send(bytes);
        peer.expect_closed();
        self.failure()
    }

    fn failure(&self) -> HandshakeFailure {
        let (endpoint, reason) = handshake_failure(&self.monitor);
        assert_eq!(endpoint, self.endpoint);
        self.assert_well();
        reason
    }

    /// A PUSH peer that shook hands properly is disconnected for this reason once it says `bytes`.
    fn refuse_traffic(&self, bytes: &[u8]) -> ProtocolError {
        let mut peer = Raw::peer(&self.endpoint, "PUSH");
        // It may be found out before it has said all.
        let _ = peer.try_send(bytes);
        peer.expect_closed();
        match disconnection(&self.monitor) {
            (endpoint, DisconnectReason::Protocol(error)) => {
                assert_eq!(endpoint, self.endpoint);
                self.assert_well();
                error
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A READY command with this metadata.
fn ready(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let metadata: Vec<u8> =
        properties.iter().flat_map(|(name, value)| raw::property(name, value)).collect();
    raw::command("READY", &metadata)
}

#[test]
fn another_protocol_on_the_port_is_refused_with_its_first_bytes() {
    const TLS_CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0";
    for transport in WIRES {
        let victim = Victim::new(transport);
        for (input, shown) in [
            (&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], "GET / HTTP/1.1\\r\\n"),
            (TLS_CLIENT_HELLO, "\\x16\\x03\\x01"),
            (b"\0", "\\x00"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0"),
        ] {
            match victim.refuse_greeting(input) {
                HandshakeFailure::Protocol(ProtocolError::NotZmtp { first_bytes }) => {
                    // It may be refused before more has come.
                    let begins = first_bytes.starts_with(shown) || shown.starts_with(&first_bytes);
                    assert!(begins && !first_bytes.is_empty(), "{first_bytes}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn an_older_zmtp_and_another_mechanism_are_refused_by_name() {
    let victim = Victim::new(Transport::Tcp);
    let mut old = raw::greeting(0);
    old[10] = 1;
    let failure = victim.refuse_greeting(&old);
    assert!(
        matches!(failure, HandshakeFailure::Protocol(ProtocolError::VersionTooOld { .. })),
        "{failure:?}"
    );
    let mut curve = raw::greeting(1);
    curve[12..17].copy_from_slice(b"CURVE");
    match victim.refuse_greeting(&curve) {
        HandshakeFailure::Protocol(ProtocolError::MechanismMismatch { ours, theirs }) => {
            assert_eq!((ours.as_str(), theirs.as_str()), ("NULL", "CURVE"));
        }
        other => panic!("{other:?}"),
    }
    let mut junk = raw::greeting(1);
    junk[20] = b'!';
    let failure = victim.refuse_greeting(&junk);
    assert!(
        matches!(failure, HandshakeFailure::Protocol(ProtocolError::MechanismMismatch { .. })),
        "{failure:?}"
    );
}

#[test]
fn padding_filler_and_a_newer_version_are_not_held_against_a_peer() {
    let victim = Victim::new(Transport::Tcp);
    let mut greeting = raw::greeting(9);
    greeting[1..9].fill(0xAA);
    greeting[32] = 1;
    greeting[33..].fill(0x55);
    let mut peer = Raw::connect(&victim.endpoint);
    peer.send(&greeting);
    peer.send(&ready(&[("Socket-Type", b"PUSH")]));
    peer.send(&raw::message(&[b"hello"]));
    assert_eq!(victim.pull.recv().unwrap().body(), b"hello");
    victim.assert_well();
}

#[test]
fn a_mute_peer_is_given_up_after_the_handshake_timeout() {
    const LIMIT: Duration = Duration::from_millis(40);
    for transport in WIRES {
        let victim = Victim::with(transport, |builder| builder.handshake_timeout(LIMIT));
        let mut mute = Raw::connect(&victim.endpoint);
        mute.expect_closed();
        assert_eq!(victim.failure(), HandshakeFailure::Timeout(LIMIT));
        let mut half = Raw::connect(&victim.endpoint);
        // On a busy machine it may be given up before that.
        let _ = half.try_send(&raw::greeting(1));
        half.expect_closed();
        assert_eq!(victim.failure(), HandshakeFailure::Timeout(LIMIT));
    }
}

#[test]
fn the_handshake_deadline_is_one_for_all_its_bytes() {
    const LIMIT: Duration = Duration::from_secs(1);
    let victim = Victim::with(Transport::Tcp, |builder| builder.handshake_timeout(LIMIT));
    let mut slow = Raw::connect(&victim.endpoint);
    // One byte every few milliseconds: never silent for long, and not done for a minute.
    let mut bytes = raw::greeting(1).to_vec();
    bytes.extend(ready(&[("X-endless", &[b'x'; 13_000])]));
    let failure = bytes.iter().find_map(|byte| {
        let _ = slow.try_send(&[*byte]);
        match victim.monitor.recv_timeout(Duration::from_millis(5)) {
            Ok(Event::HandshakeFailed { reason, .. }) => Some(reason),
            _ => None,
        }
    });
    assert_eq!(failure, Some(HandshakeFailure::Timeout(LIMIT)));
    victim.assert_well();
}

#[test]
fn a_connecting_socket_gives_up_a_mute_listener_too_and_comes_again() {
    const LIMIT: Duration = Duration::from_millis(200);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let context = Context::new();
    let push = context
        .push()
        .handshake_timeout(LIMIT)
        .reconnect_interval(Duration::from_millis(5))
        .open()
        .unwrap();
    let monitor = push.monitor();
    push.connect(format!("tcp://{}", listener.local_addr().unwrap())).unwrap();
    let mut first = Raw::accept(&listener);
    assert_eq!(handshake_failure(&monitor).1, HandshakeFailure::Timeout(LIMIT));
    first.expect_closed();
    push.send("at last").unwrap();
    // It gives up this test too, and comes again, when a busy machine makes it answer late.
    let heard = std::iter::repeat_with(|| {
        let mut next = Raw::accept(&listener);
        next.try_shake_hands(1, "PULL", b"").ok()?;
        next.try_read_frame()
    });
    assert_eq!(heard.flatten().next(), Some((0, b"at last".to_vec())));
}

#[test]
fn a_handshake_and_messages_that_drip_byte_by_byte_are_understood() {
    for transport in WIRES {
        let victim = Victim::new(transport);
        let mut peer = Raw::connect(&victim.endpoint);
        let mut bytes = raw::greeting(1).to_vec();
        bytes.extend(ready(&[("Socket-Type", b"PUSH")]));
        bytes.extend(raw::message(&[b"drip", b"", b"drop"]));
        bytes.extend(raw::message(&[&[7; 300]]));
        for byte in bytes {
            peer.send(&[byte]);
        }
        assert_eq!(harness::texts(&victim.pull.recv().unwrap()), ["drip", "", "drop"]);
        assert_eq!(victim.pull.recv().unwrap().body(), [7; 300]);
        victim.assert_well();
    }
}

#[test]
fn a_wrong_socket_type_is_refused_with_both_names_and_told_why() {
    for transport in WIRES {
        let victim = Victim::new(transport);
        let mut peer = Raw::connect(&victim.endpoint);
        peer.greet(1);
        peer.send(&ready(&[("Socket-Type", b"SUB")]));
        let told = std::iter::from_fn(|| peer.try_read_frame())
            .any(|(flags, body)| flags == COMMAND && body.starts_with(b"\x05ERROR"));
        assert!(told, "no ERROR command");
        let expected = ProtocolError::IncompatibleSocketType {
            ours: SocketKind::Pull,
            theirs: SocketKind::Sub,
        };
        let failure = victim.failure();
        assert_eq!(failure, HandshakeFailure::Protocol(expected));
        let text = failure.to_string();
        assert!(text.contains("PULL") && text.contains("SUB"), "{text}");
    }
}

#[test]
fn a_connecting_socket_of_the_wrong_type_hears_why_it_is_refused() {
    let context = Context::new();
    let publisher = context.publish().bind("tcp://127.0.0.1:0").unwrap();
    let push = context.push().open().unwrap();
    let (theirs, ours) = (publisher.monitor(), push.monitor());
    push.connect(endpoint(&publisher)).unwrap();
    for monitor in [theirs, ours] {
        let (at, reason) = handshake_failure(&monitor);
        assert_eq!(at, endpoint(&publisher));
        let text = reason.to_string();
        assert!(text.contains("PUB") && text.contains("PUSH"), "{text}");
    }
}

#[test]
fn traffic_and_foreign_commands_before_ready_are_refused() {
    use ProtocolError as E;
    let victim = Victim::new(Transport::Tcp);
    let early = victim.refuse_after_greeting(&raw::message(&[b"too early"]));
    assert_eq!(early, HandshakeFailure::Protocol(E::TrafficBeforeReady));
    match victim.refuse_after_greeting(&raw::command("HELLO", b"")) {
        HandshakeFailure::Protocol(E::UnexpectedCommand { name }) => assert_eq!(name, "HELLO"),
        other => panic!("{other:?}"),
    }
    match victim.refuse_after_greeting(&raw::command("ERROR", b"\x04nope")) {
        HandshakeFailure::Protocol(E::PeerError { reason }) => assert_eq!(reason, "nope"),
        other => panic!("{other:?}"),
    }
    for malformed in [raw::frame(COMMAND, b""), raw::frame(COMMAND, b"\x09READY")] {
        let failure = victim.refuse_after_greeting(&malformed);
        assert!(
            matches!(failure, HandshakeFailure::Protocol(E::MalformedCommand { .. })),
            "{failure:?}"
        );
    }
}

#[test]
fn junk_metadata_is_refused() {
    use ProtocolError as E;
    let victim = Victim::new(Transport::Tcp);
    let pull: (&str, &[u8]) = ("Socket-Type", b"PUSH");
    let many: Vec<(&str, &[u8])> =
        std::iter::once(pull).chain((0..100).map(|_| ("X-a", &b""[..]))).collect();
    let mut endless_value = raw::property("Socket-Type", b"PUSH");
    endless_value.extend(b"\x03X-a\xff\xff\xff\xff");
    let mut truncated = raw::property("Socket-Type", b"PUSH");
    truncated.pop();
    for malformed in [
        ready(&[("", b"value"), pull]),
        ready(&[pull, pull]),
        ready(&many),
        raw::command("READY", &endless_value),
        raw::command("READY", &truncated),
        raw::command("READY", b"\xff"),
    ] {
        let failure = victim.refuse_after_greeting(&malformed);
        assert!(
            matches!(failure, HandshakeFailure::Protocol(E::MalformedMetadata { .. })),
            "{failure:?}"
        );
    }
    match victim.refuse_after_greeting(&ready(&[("Socket-Type", b"PU\nSH")])) {
        HandshakeFailure::Protocol(E::UnknownSocketType(name)) => assert_eq!(name, "PU\\nSH"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handshake_that_is_too_long_is_refused_at_its_claim() {
    let victim = Victim::new(Transport::Tcp);
    for claim in [20_000, 1 << 40] {
        let failure = victim.refuse_after_greeting(&raw::long_header(COMMAND, claim));
        assert!(
            matches!(
                failure,
                HandshakeFailure::Protocol(
                    ProtocolError::HandshakeTooLong { .. } | ProtocolError::CommandTooLong { .. }
                )
            ),
            "{failure:?}"
        );
    }
}

#[test]
fn a_peer_that_closes_in_its_handshake_is_reported() {
    for transport in WIRES {
        let victim = Victim::new(transport);
        let mut peer = Raw::connect(&victim.endpoint);
        peer.greet(1);
        drop(peer);
        let failure = victim.failure();
        // Closing with our READY unread may reset the connection.
        assert!(
            matches!(failure, HandshakeFailure::PeerClosed | HandshakeFailure::Io(_)),
            "{failure:?}"
        );
    }
}

#[test]
fn a_frame_length_beyond_all_memory_is_refused() {
    let victim = Victim::new(Transport::Tcp);
    for length in [1 << 63, (1 << 63) - 1, u64::MAX, u64::MAX - 8, (1 << 30) + 1] {
        for flags in [0, MORE] {
            match victim.refuse_traffic(&raw::long_header(flags, length)) {
                ProtocolError::FrameTooLong { length: told, .. } => assert_eq!(told, length),
                other => panic!("{other:?}"),
            }
        }
        let error = victim.refuse_traffic(&raw::long_header(COMMAND, length));
        assert!(
            matches!(
                error,
                ProtocolError::CommandTooLong { .. } | ProtocolError::FrameTooLong { .. }
            ),
            "{error:?}"
        );
    }
}

#[test]
fn a_message_above_the_limit_is_refused_in_one_frame_and_in_many() {
    for transport in WIRES {
        let victim = Victim::with(transport, |builder| builder.max_message_bytes(1_000));
        let mut fits = Raw::peer(&victim.endpoint, "PUSH");
        fits.send(&raw::message(&[&[1; 500], &[2; 500]]));
        assert_eq!(victim.pull.recv().unwrap().body_bytes(), 1_000);
        drop(fits);
        disconnection(&victim.monitor);
        let one = victim.refuse_traffic(&raw::message(&[&[0; 1_001]]));
        assert_eq!(one, ProtocolError::FrameTooLong { length: 1_001, limit: 1_000 });
        let many = victim.refuse_traffic(&raw::message(&[&[0; 400], &[0; 400], &[0; 201]]));
        assert_eq!(many, ProtocolError::MessageTooLarge { limit: 1_000 });
        // Refused when the frame is announced, before its body came.
        let mut announced = raw::frame(MORE, &[0; 600]);
        announced.extend(raw::long_header(0, 401));
        let error = victim.refuse_traffic(&announced);
        assert_eq!(error, ProtocolError::MessageTooLarge { limit: 1_000 });
    }
}

#[test]
fn endless_frames_of_one_message_are_refused() {
    let victim = Victim::with(Transport::Tcp, |builder| builder.max_frames(100));
    let endless: Vec<u8> = (0..200).flat_map(|_| raw::frame(MORE, b"")).collect();
    let error = victim.refuse_traffic(&endless);
    assert_eq!(error, ProtocolError::TooManyFrames { limit: 100 });
    let most: Vec<&[u8]> = vec![b""; 100];
    let mut peer = Raw::peer(&victim.endpoint, "PUSH");
    peer.send(&raw::message(&most));
    assert_eq!(victim.pull.recv().unwrap().frames().len(), 100);
}

#[test]
fn flags_and_commands_that_the_protocol_does_not_have_are_refused() {
    use ProtocolError as E;
    let victim = Victim::new(Transport::Tcp);
    assert_eq!(victim.refuse_traffic(&[0x08, 0]), E::ReservedFlags(0x08));
    assert_eq!(victim.refuse_traffic(&[0xFF, 0]), E::ReservedFlags(0xFF));
    assert_eq!(victim.refuse_traffic(&[COMMAND | MORE, 0]), E::CommandHasMore);
    for malformed in [
        raw::frame(COMMAND, b""),
        raw::frame(COMMAND, b"\0"),
        raw::frame(COMMAND, b"\x10PING"),
        raw::command("PING", b""),
        raw::command("PING", b"\0"),
        raw::command("ERROR", b"\x40short"),
    ] {
        let error = victim.refuse_traffic(&malformed);
        assert!(matches!(error, E::MalformedCommand { .. }), "{error:?}");
    }
    match victim.refuse_traffic(&ready(&[("Socket-Type", b"PUSH")])) {
        E::UnexpectedCommand { name } => assert_eq!(name, "READY"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_commands_and_pings_do_not_disturb_the_messages_around_them() {
    let victim = Victim::new(Transport::Tcp);
    let mut peer = Raw::peer(&victim.endpoint, "PUSH");
    let mut bytes = raw::frame(MORE, b"one");
    bytes.extend(raw::command("X-FUTURE", b"whatever"));
    bytes.extend(raw::command("PING", b"\0\0context"));
    bytes.extend(raw::frame(0, b"two"));
    peer.send(&bytes);
    assert_eq!(harness::texts(&victim.pull.recv().unwrap()), ["one", "two"]);
    assert_eq!(peer.read_frame(), (COMMAND, b"\x04PONGcontext".to_vec()));
    // A context may have 16 bytes; more is not echoed.
    peer.send(&raw::command("PING", b"\0\x010123456789abcdef+"));
    assert_eq!(peer.read_frame(), (COMMAND, b"\x04PONG0123456789abcdef".to_vec()));
}

#[test]
fn a_peer_that_goes_in_the_middle_of_a_message_leaves_no_part_of_it() {
    for transport in WIRES {
        let victim = Victim::new(transport);
        let mut half = raw::message(&[b"whole"]);
        half.extend(raw::frame(MORE, b"first frame"));
        half.extend(&raw::frame(0, &[0; 200])[..100]);
        let mut peer = Raw::peer(&victim.endpoint, "PUSH");
        peer.send(&half);
        drop(peer);
        let (_, reason) = disconnection(&victim.monitor);
        assert!(
            matches!(reason, DisconnectReason::PeerClosed | DisconnectReason::Io(_)),
            "{reason:?}"
        );
        assert_eq!(victim.pull.recv().unwrap().body(), b"whole");
        victim.assert_well();
    }
}

#[test]
fn an_identity_that_is_reserved_or_too_long_is_refused() {
    let context = Context::new();
    let router = context.router().recv_timeout(SOON).handshake_timeout(SOON);
    let router = router.bind("tcp://127.0.0.1:0").unwrap();
    let dealer = context.dealer().connect(endpoint(&router)).unwrap();
    let monitor = router.monitor();
    for (identity, expected) in [
        (&b"\0abcd"[..], ProtocolError::ReservedIdentity),
        (&[b'x'; 256], ProtocolError::IdentityTooLong { length: 256 }),
    ] {
        let mut peer = Raw::connect(&endpoint(&router));
        peer.greet(1);
        let _ = peer.try_send(&ready(&[("Socket-Type", b"DEALER"), ("Identity", identity)]));
        peer.expect_closed();
        assert_eq!(handshake_failure(&monitor).1, HandshakeFailure::Protocol(expected));
        dealer.send("well").unwrap();
        assert_eq!(router.recv_from().unwrap().1.body(), b"well");
    }
}

#[test]
fn what_a_type_must_not_send_is_discarded_and_counted() {
    let context = Context::new();
    let push = context.push().handshake_timeout(SOON).bind("tcp://127.0.0.1:0").unwrap();
    let mut pull = Raw::peer(&endpoint(&push), "PULL");
    pull.send(&raw::message(&[b"not", b"mine to say"]));
    pull.send(&raw::message(&[b"nor this"]));
    harness::wait_until("both are counted", || push.stats().discarded == 2);
    push.send_timeout("still served", SOON).unwrap();
    assert_eq!(pull.read_frame(), (0, b"still served".to_vec()));
}
