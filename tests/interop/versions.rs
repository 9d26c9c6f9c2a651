//! Handshakes: how libzmq sees ours, and who is refused.

use peermq::{Context, Event, HandshakeFailure, ProtocolError};

use crate::peer::Peer;
use crate::raw::Raw;
use crate::{PATIENCE, wait_for};

/// The greeting of ZMTP 2.0 up to the identity: revision 1, socket type PUSH, empty identity (RFC 15).
const GREETING_2_0: &[u8] = b"\xFF\0\0\0\0\0\0\0\x01\x7F\x01\x08\0\0";
/// The same for the versioned form of ZMTP 1.0: revision 0.
const GREETING_1_0: &[u8] = b"\xFF\0\0\0\0\0\0\0\x01\x7F\0\x08\x01\0";
/// ZMTP 1.0 with an identity of such a length that its frame begins with an eight-byte length (RFC 13).
const GREETING_1_0_LONG: &[u8] = b"\xFF\0\0\0\0\0\0\x01\0\0";
/// ZMTP 1.0 as it was before there were versions: just the frame of an empty identity.
const GREETING_1_0_UNVERSIONED: &[u8] = b"\x01\0";

/// Why a PULL socket does not take a peer that begins with these bytes, and that it goes on serving others.
fn refusal_of(greeting: &[u8]) -> HandshakeFailure {
    let context = Context::new();
    let pull = context.pull().recv_timeout(PATIENCE).handshake_timeout(PATIENCE);
    let pull = pull.bind("tcp://127.0.0.1:*").unwrap();
    let monitor = pull.monitor();
    let endpoint = pull.endpoint().unwrap();
    let mut old = Raw::connect(&endpoint);
    old.write(greeting);
    let event = wait_for(&monitor, |event| matches!(event, Event::HandshakeFailed { .. }));
    let Event::HandshakeFailed { reason, endpoint: reported, .. } = event else { unreachable!() };
    assert_eq!(reported, endpoint);

    let mut modern = Raw::connect(&endpoint);
    modern.shake_hands(1, "PUSH");
    modern.write_frame(0, b"still here");
    assert_eq!(pull.recv().unwrap().body(), b"still here");
    reason
}

#[test]
fn a_peer_of_zmtp_2_0_is_refused_as_too_old() {
    let expected = ProtocolError::VersionTooOld { major: 2, minor: 0 };
    assert_eq!(refusal_of(GREETING_2_0), HandshakeFailure::Protocol(expected));
}

#[test]
fn a_peer_of_zmtp_1_0_is_refused_as_too_old() {
    for greeting in [GREETING_1_0, GREETING_1_0_LONG] {
        let expected = ProtocolError::VersionTooOld { major: 1, minor: 0 };
        assert_eq!(refusal_of(greeting), HandshakeFailure::Protocol(expected));
    }
}

#[test]
fn a_peer_from_before_versions_is_refused_as_no_zmtp() {
    let refusal = refusal_of(GREETING_1_0_UNVERSIONED);
    let no_zmtp = matches!(&refusal, HandshakeFailure::Protocol(ProtocolError::NotZmtp { .. }));
    assert!(no_zmtp, "{refusal:?}");
}

#[test]
fn the_monitor_of_libzmq_sees_the_handshake_succeed_on_both_sides() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let pull = context.pull().bind("tcp://127.0.0.1:*").unwrap();
    peer.ask("socket push PUSH");
    peer.ask("monitor push");
    peer.ask(&format!("connect push {}", pull.endpoint().unwrap()));
    peer.ask("event push HANDSHAKE_SUCCEEDED");

    peer.ask("socket pull PULL");
    peer.ask("monitor pull");
    let endpoint = peer.ask("bind pull tcp://127.0.0.1:*");
    let push = context.push().connect(&endpoint).unwrap();
    peer.ask("event pull HANDSHAKE_SUCCEEDED");
    push.wait_for_peers(1, PATIENCE).unwrap();
}

#[test]
fn a_libzmq_peer_of_a_wrong_type_is_refused_and_the_right_one_is_served() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let pull = context.pull().recv_timeout(PATIENCE).bind("tcp://127.0.0.1:*").unwrap();
    let monitor = pull.monitor();
    let endpoint = pull.endpoint().unwrap();
    peer.ask("socket wrong PUB");
    peer.ask(&format!("connect wrong {endpoint}"));
    let event = wait_for(&monitor, |event| matches!(event, Event::HandshakeFailed { .. }));
    let Event::HandshakeFailed { reason, .. } = event else { unreachable!() };
    let HandshakeFailure::Protocol(ProtocolError::IncompatibleSocketType { ours, theirs }) = reason
    else {
        panic!("{reason:?}");
    };
    assert_eq!((ours.name(), theirs.name()), ("PULL", "PUB"));

    peer.ask("socket right PUSH");
    peer.ask(&format!("connect right {endpoint}"));
    peer.ask("send right x6869");
    assert_eq!(pull.recv().unwrap().body(), b"hi");
}
