//! Handshakes from bytes: whole, split, corrupted and hostile.

use proptest::prelude::*;

use super::super::frame::COMMAND;
use super::*;

/// A configuration with default limits.
fn config(kind: SocketKind, identity: &'static [u8]) -> Arc<HandshakeConfig> {
    let identity = Bytes::from_static(identity);
    let limits = WireLimits::default();
    Arc::new(HandshakeConfig { kind, identity, properties: Vec::new(), limits })
}

/// Everything that a socket with this configuration sends in a handshake that goes well.
fn sent_by(config: &Arc<HandshakeConfig>) -> Vec<u8> {
    let mut out = greeting::encode(Mechanism::Null, false).to_vec();
    config.put_ready(&mut out);
    out
}

/// How a handshake ended: the peer and the bytes it took, `None` if it waits for more.
type Ending = Result<Option<(ReadyPeer, usize)>, ProtocolError>;

/// Feeds `stream` in pieces of the given sizes (then in single bytes).
fn feed(config: &Arc<HandshakeConfig>, stream: &[u8], sizes: &[usize]) -> (Ending, Vec<u8>) {
    let mut out = Vec::new();
    let mut handshake = Handshake::start(Arc::clone(config), &mut out);
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(1));
    let mut at = 0;
    while at < stream.len() {
        let piece_end = (at + sizes.next().unwrap()).min(stream.len());
        match handshake.receive(&stream[at..piece_end], &mut out) {
            Ok(Progress::Pending(next)) => handshake = next,
            Ok(Progress::Done { peer, consumed, .. }) => {
                return (Ok(Some((peer, at + consumed))), out);
            }
            Err(error) => return (Err(error), out),
        }
        at = piece_end;
    }
    (Ok(None), out)
}

/// Feeds a greeting and one command frame with this body to a ROUTER.
fn answer_with(body: &[u8]) -> (Ending, Vec<u8>) {
    let mut stream = greeting::encode(Mechanism::Null, false).to_vec();
    frame::put_header(&mut stream, COMMAND, body.len());
    stream.extend_from_slice(body);
    feed(&config(SocketKind::Router, b""), &stream, &[stream.len()])
}

/// Names and values of properties.
type Properties<'a> = &'a [(&'a str, &'a [u8])];

/// The body of a READY with these properties.
fn ready_body(properties: Properties<'_>) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in properties {
        metadata::put_property(&mut body, name, value);
    }
    body
}

/// The error that a READY with these properties meets at a ROUTER, and what it is told.
fn refused(properties: Properties<'_>) -> (ProtocolError, Vec<u8>) {
    let (ending, mut out) = answer_with(&ready_body(properties));
    let sent = sent_by(&config(SocketKind::Router, b"")).len();
    (ending.unwrap_err(), out.split_off(sent))
}

#[test]
fn a_dealer_ready_without_identity_has_the_43_bytes_of_libzmq() {
    let sent = sent_by(&config(SocketKind::Dealer, b""));
    let expected = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0";
    assert_eq!(sent[64..], expected[..]);
    assert_eq!(expected.len(), 43);
}

#[test]
fn only_types_that_may_have_an_identity_announce_it() {
    let identified = |kind| {
        sent_by(&config(kind, b"me")).windows(14).any(|part| part == b"Identity\0\0\0\x02me")
    };
    assert!(identified(SocketKind::Router));
    assert!(identified(SocketKind::Req));
    assert!(!identified(SocketKind::Push));
}

#[test]
fn greeting_goes_out_at_once_and_ready_when_the_peers_greeting_is_accepted() {
    let config = config(SocketKind::Pull, b"");
    let mut out = Vec::new();
    let handshake = Handshake::start(Arc::clone(&config), &mut out);
    assert_eq!(out.len(), 64);
    let theirs = greeting::encode(Mechanism::Null, false);
    let Ok(Progress::Pending(handshake)) = handshake.receive(&theirs[..63], &mut out) else {
        panic!("63 bytes are not a greeting");
    };
    assert_eq!(out.len(), 64);
    assert!(matches!(handshake.receive(&theirs[63..], &mut out), Ok(Progress::Pending(_))));
    assert_eq!(out, sent_by(&config));
}

#[test]
fn two_peers_learn_about_each_other_and_traffic_is_left_alone() {
    let dealer = Arc::new(HandshakeConfig {
        kind: SocketKind::Dealer,
        identity: Bytes::from_static(b"worker-1"),
        properties: vec![("X-Zone".to_owned(), b"north".to_vec())],
        limits: WireLimits::default(),
    });
    let mut stream = sent_by(&dealer);
    let handshake_bytes = stream.len();
    stream.extend_from_slice(b"\0\x05hello");
    let (ending, out) = feed(&config(SocketKind::Router, b""), &stream, &[stream.len()]);
    let (peer, consumed) = ending.unwrap().unwrap();
    assert_eq!(consumed, handshake_bytes);
    assert_eq!(peer.version, Version::V3_1);
    assert_eq!(peer.kind, Some(SocketKind::Dealer));
    assert_eq!(peer.identity, b"worker-1"[..]);
    assert_eq!(peer.metadata.get("x-zone"), Some(&b"north"[..]));
    assert_eq!(out, sent_by(&config(SocketKind::Router, b"")));
}

#[test]
fn a_peer_that_names_no_type_is_tolerated_and_keeps_its_identity() {
    let (ending, _) = answer_with(&ready_body(&[("Identity", b"x")]));
    let (peer, _) = ending.unwrap().unwrap();
    assert_eq!((peer.kind, &peer.identity[..]), (None, &b"x"[..]));
}

#[test]
fn an_identity_from_a_type_that_may_not_have_one_is_ignored() {
    let pull = config(SocketKind::Pull, b"");
    let mut stream = greeting::encode(Mechanism::Null, false).to_vec();
    let body = ready_body(&[("Socket-Type", b"PUSH"), ("Identity", b"\0x")]);
    frame::put_header(&mut stream, COMMAND, body.len());
    stream.extend_from_slice(&body);
    let (peer, _) = feed(&pull, &stream, &[]).0.unwrap().unwrap();
    assert!(peer.identity.is_empty());
}

#[test]
fn bad_types_and_identities_are_answered_with_an_error_command() {
    let long = [b'i'; 256];
    let cases: [(Properties<'_>, ProtocolError); 4] = [
        (
            &[("Socket-Type", b"PULL")],
            ProtocolError::IncompatibleSocketType {
                ours: SocketKind::Router,
                theirs: SocketKind::Pull,
            },
        ),
        (&[("Socket-Type", b"dealer")], ProtocolError::UnknownSocketType("dealer".to_owned())),
        (&[("Socket-Type", b"REQ"), ("Identity", b"\0a")], ProtocolError::ReservedIdentity),
        (
            &[("Socket-Type", b"REQ"), ("Identity", &long)],
            ProtocolError::IdentityTooLong { length: 256 },
        ),
    ];
    for (properties, expected) in cases {
        let (error, told) = refused(properties);
        assert_eq!(error, expected);
        let header = frame::parse_header(&told).unwrap().unwrap();
        assert_eq!(told.len(), header.header_len + header.body_len);
        let command = Command::parse(&told[header.header_len..]).unwrap();
        let reason = expected.error_reason().unwrap();
        assert_eq!(command, Command::Error(reason.as_bytes()));
    }
}

#[test]
fn malformed_metadata_is_refused_without_an_answer() {
    let (error, told) = refused(&[("Identity", b""), ("identity", b"")]);
    assert!(matches!(error, ProtocolError::MalformedMetadata { .. }));
    assert!(told.is_empty());
}

#[test]
fn a_refusal_by_the_peer_carries_its_reason() {
    let (ending, _) = answer_with(b"\x05ERROR\x05no\n\xffo");
    let reason = "no\\n\u{fffd}o".to_owned();
    assert_eq!(ending, Err(ProtocolError::PeerError { reason }));
}

#[test]
fn other_commands_before_ready_are_refused_by_name() {
    for (body, name) in [
        (&b"\x04PING\0\0"[..], "PING"),
        (b"\x09SUBSCRIBE", "SUBSCRIBE"),
        (b"\x05HELLO", "HELLO"),
        (b"\x01\n", "\\n"),
    ] {
        let name = name.to_owned();
        assert_eq!(answer_with(body).0, Err(ProtocolError::UnexpectedCommand { name }));
    }
}

#[test]
fn a_message_before_ready_is_refused_by_its_header() {
    let mut stream = greeting::encode(Mechanism::Null, false).to_vec();
    stream.extend_from_slice(&[0, 200]);
    let (ending, _) = feed(&config(SocketKind::Router, b""), &stream, &[]);
    assert_eq!(ending, Err(ProtocolError::TrafficBeforeReady));
}

#[test]
fn a_ready_that_claims_more_than_the_handshake_limit_is_refused_by_its_header() {
    let claim = |limits: WireLimits, length: u64| {
        let mut stream = greeting::encode(Mechanism::Null, false).to_vec();
        stream.push(6);
        stream.extend_from_slice(&length.to_be_bytes());
        let (kind, identity) = (SocketKind::Router, Bytes::new());
        let config = Arc::new(HandshakeConfig { kind, identity, properties: vec![], limits });
        feed(&config, &stream, &[64, 9]).0
    };
    let limits = WireLimits::default();
    let limit = limits.handshake_bytes_max;
    let largest = limit as u64 - 64 - 9;
    assert_eq!(claim(limits, largest), Ok(None));
    assert_eq!(claim(limits, largest + 1), Err(ProtocolError::HandshakeTooLong { limit }));
    let long = (1 << 62, limits.command_bytes_max);
    assert_eq!(
        claim(limits, long.0),
        Err(ProtocolError::CommandTooLong { length: long.0, limit: long.1 })
    );
}

#[test]
fn buffered_bytes_grow_by_what_arrived_not_by_what_is_claimed() {
    let mut stream = greeting::encode(Mechanism::Null, false).to_vec();
    stream.extend_from_slice(&[6, 0, 0, 0, 0, 0, 0, 0x3f, 0, 5]);
    let mut out = Vec::new();
    let handshake = Handshake::start(config(SocketKind::Router, b""), &mut out);
    let Ok(Progress::Pending(Handshake { state: State::Ready(ready), .. })) =
        handshake.receive(&stream, &mut out)
    else {
        panic!("one body byte is not a command");
    };
    assert_eq!(ready.bytes, [5]);
    assert!(ready.bytes.capacity() < 64);
}

proptest! {
    #[test]
    fn any_split_gives_the_same_peer_and_the_same_bytes(
        sizes in prop::collection::vec(1usize..50, 0..40),
        trailing in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let ours = config(SocketKind::Router, b"");
        let mut stream = sent_by(&config(SocketKind::Dealer, b"id"));
        stream.extend_from_slice(&trailing);
        let whole = feed(&ours, &stream, &[stream.len()]);
        prop_assert!(matches!(whole.0, Ok(Some(_))));
        prop_assert_eq!(whole, feed(&ours, &stream, &sizes));
    }

    #[test]
    fn any_one_byte_corruption_ends_the_same_way_in_any_split(
        at: prop::sample::Index,
        byte: u8,
        sizes in prop::collection::vec(1usize..50, 0..40),
    ) {
        let ours = config(SocketKind::Router, b"");
        let mut stream = sent_by(&config(SocketKind::Dealer, b"id"));
        let at = at.index(stream.len());
        stream[at] = byte;
        let whole = feed(&ours, &stream, &[stream.len()]);
        let split = feed(&ours, &stream, &sizes);
        match (&whole.0, &split.0) {
            (Err(ProtocolError::NotZmtp { .. }), Err(ProtocolError::NotZmtp { .. })) => {}
            // What was sent before the violation may depend on when it arrived.
            (Err(whole), Err(split)) => prop_assert_eq!(whole, split),
            _ => prop_assert_eq!(whole, split),
        }
    }

    #[test]
    fn any_bytes_after_the_greeting_are_read_without_panic(
        garbage in prop::collection::vec(any::<u8>(), 0..100),
        flags in 0u8..8,
    ) {
        let mut stream = greeting::encode(Mechanism::Null, false).to_vec();
        stream.push(flags);
        stream.extend_from_slice(&garbage);
        let _ = feed(&config(SocketKind::Router, b""), &stream, &[stream.len()]);
    }
}
