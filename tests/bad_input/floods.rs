//! Too much of anything: claims, commands, subscriptions, connections. Memory stays within what was received, limits
//! hold, and others are served.

use std::time::Duration;

use peermq::{Context, DisconnectReason, Event, HandshakeFailure, ProtocolError, Refusal};

use super::Victim;
use crate::harness::raw::{self, MORE, Raw};
use crate::harness::{
    self, SOON, Transport, alone, disconnection, endpoint, handshake_failure, peer_ready,
    requested_bytes, resident_bytes, wait_event,
};

const MIB: u64 = 1 << 20;

#[test]
fn memory_grows_with_what_arrived_and_not_with_what_was_claimed() {
    if !alone("floods::memory_grows_with_what_arrived_and_not_with_what_was_claimed", None) {
        return;
    }
    let victim = Victim::new(Transport::Tcp);
    victim.assert_well();
    let before = resident_bytes();
    let requested_before = requested_bytes();
    let peers: Vec<Raw> = (0..16)
        .map(|_| {
            let mut peer = Raw::peer(&victim.endpoint, "PUSH");
            peer_ready(&victim.monitor);
            // A whole GiB is allowed, and announced; a few bytes of it come.
            peer.send(&raw::long_header(0, 1 << 30));
            peer.send(&[1; 1_000]);
            peer
        })
        .collect();
    victim.assert_well();
    let held = resident_bytes();
    let requested = requested_bytes().saturating_sub(requested_before);
    assert!(requested < 512 * MIB, "{requested} bytes were asked for by 16 claims of a GiB");
    // Each connection is read: the end of all these messages is noticed.
    drop(peers);
    (0..16).for_each(|_| drop(disconnection(&victim.monitor)));
    let grown = held.max(resident_bytes()).saturating_sub(before);
    assert!(grown < 32 * MIB, "{grown} bytes for 16 KiB received");
}

#[test]
fn a_flood_of_pings_from_a_peer_that_does_not_read_takes_no_memory() {
    if !alone("floods::a_flood_of_pings_from_a_peer_that_does_not_read_takes_no_memory", None) {
        return;
    }
    let victim = Victim::new(Transport::Tcp);
    let mut peer = Raw::peer(&victim.endpoint, "PUSH");
    victim.assert_well();
    let before = resident_bytes();
    let pings = raw::command("PING", b"\0\x000123456789abcdef").repeat(4_096);
    // 26 MB: the answers fill the kernel's buffers several times over.
    for _ in 0..256 {
        peer.send(&pings);
    }
    victim.assert_well();
    peer.send(&raw::message(&[b"and a message"]));
    assert_eq!(victim.pull.recv().unwrap().body(), b"and a message");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes");
}

#[test]
fn too_many_subscriptions_end_the_connection_of_their_peer_alone() {
    let context = Context::new();
    let publisher = context.publish().handshake_timeout(SOON).bind("tcp://127.0.0.1:0").unwrap();
    let good = context.subscribe().topic("good").recv_timeout(SOON).open().unwrap();
    good.connect(endpoint(&publisher)).unwrap();
    publisher.wait_for_subscribers(1, SOON).unwrap();
    let monitor = publisher.monitor();
    let many: Vec<u8> = (0..100_001_u32)
        .flat_map(|topic| raw::command("SUBSCRIBE", &topic.to_be_bytes()))
        .collect();
    let long: Vec<u8> = (0..300_u32)
        .flat_map(|topic| {
            let mut body = topic.to_be_bytes().to_vec();
            body.resize(65_536, b'x');
            raw::command("SUBSCRIBE", &body)
        })
        .collect();
    for flood in [many, long] {
        let mut peer = Raw::peer(&endpoint(&publisher), "SUB");
        let _ = peer.try_send(&flood);
        peer.expect_closed();
        let (_, reason) = disconnection(&monitor);
        assert!(
            matches!(
                reason,
                DisconnectReason::Protocol(ProtocolError::SubscriptionsExceeded { .. })
            ),
            "{reason:?}"
        );
        harness::wait_until("the peer is forgotten", || publisher.subscribers() == 1);
        publisher.send("good news").unwrap();
        assert_eq!(good.recv().unwrap().body(), b"good news");
    }
}

#[test]
fn a_repeated_subscription_costs_nothing_and_an_unknown_one_is_not_taken_back() {
    let context = Context::new();
    let publisher = context.publish().handshake_timeout(SOON).bind("tcp://127.0.0.1:0").unwrap();
    let mut peer = Raw::peer(&endpoint(&publisher), "SUB");
    let mut commands = raw::command("CANCEL", b"never");
    commands.extend(raw::command("SUBSCRIBE", b"again").repeat(110_000));
    commands.extend(raw::command("CANCEL", b"").repeat(10));
    commands.extend(raw::command("SUBSCRIBE", b"end"));
    peer.send(&commands);
    peer.wait_heard();
    assert_eq!(publisher.subscribers(), 1);
    publisher.send("again").unwrap();
    publisher.send("end").unwrap();
    assert_eq!(peer.read_frame(), (0, b"again".to_vec()));
    assert_eq!(peer.read_frame(), (0, b"end".to_vec()));
}

#[test]
fn connections_in_their_handshake_are_limited_and_the_next_ones_wait() {
    let context = Context::new();
    let pull = context
        .pull()
        .max_half_open(2)
        .handshake_timeout(SOON)
        .recv_timeout(SOON)
        .bind("tcp://127.0.0.1:0")
        .unwrap();
    let monitor = pull.monitor();
    let accepted = |monitor: &peermq::Monitor| {
        wait_event(monitor, "a connection was accepted", |event| {
            matches!(event, Event::Accepted { .. }).then_some(())
        });
    };
    let first = Raw::connect(&endpoint(&pull));
    let second = Raw::connect(&endpoint(&pull));
    accepted(&monitor);
    accepted(&monitor);
    let push = context.push().connect(endpoint(&pull)).unwrap();
    push.send("in turn").unwrap();
    let waited = pull.recv_timeout(harness::MOMENT);
    assert_eq!(waited, Err(peermq::RecvError::Timeout), "the third one was accepted");
    drop(first);
    assert_eq!(pull.recv().unwrap().body(), b"in turn");
    drop(second);
}

#[test]
fn max_peers_refuses_the_next_one_and_says_so() {
    let victim = Victim::with(Transport::Tcp, |builder| builder.max_peers(1));
    let mut second = Raw::peer(&victim.endpoint, "PUSH");
    second.expect_closed();
    let refused = HandshakeFailure::Refused(Refusal::TooManyPeers { limit: 1 });
    assert_eq!(victim.failure(), refused);
}

#[test]
fn accepting_pauses_at_the_end_of_file_descriptors_and_goes_on_after_it() {
    const NAME: &str =
        "floods::accepting_pauses_at_the_end_of_file_descriptors_and_goes_on_after_it";
    if !alone(NAME, Some(64)) {
        return;
    }
    let victim = Victim::new(Transport::Tcp);
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    // One descriptor for this end of a connection, none for the other.
    hoard.pop();
    let address = victim.endpoint.to_string();
    let late = std::net::TcpStream::connect(address.strip_prefix("tcp://").unwrap()).unwrap();
    let (at, retry_in) = wait_event(&victim.monitor, "accepting failed", |event| match event {
        Event::AcceptFailed { endpoint, retry_in, .. } => Some((endpoint.clone(), *retry_in)),
        _ => None,
    });
    assert_eq!(at, victim.endpoint);
    assert!(retry_in <= Duration::from_secs(1));
    victim.assert_well();
    hoard.clear();
    wait_event(&victim.monitor, "a connection was accepted", |event| {
        matches!(event, Event::Accepted { .. }).then_some(())
    });
    victim.assert_well();
    drop(late);
}

#[test]
fn a_peer_that_never_ends_its_message_is_cut_off_at_the_limit() {
    let context = Context::new();
    let pull = context.pull().max_message_bytes(1 << 20).handshake_timeout(SOON);
    let pull = pull.bind("ipc://*").unwrap();
    let monitor = pull.monitor();
    let mut peer = Raw::peer(&endpoint(&pull), "PUSH");
    let frame = raw::frame(MORE, &[0; 60_000]);
    let sent = (0..1_000).take_while(|_| peer.try_send(&frame).is_ok()).count();
    assert!(sent < 1_000, "it was never stopped");
    let (_, reason) = disconnection(&monitor);
    let expected = ProtocolError::MessageTooLarge { limit: 1 << 20 };
    assert_eq!(reason, DisconnectReason::Protocol(expected));
}

#[test]
fn a_listener_that_talks_nonsense_is_named_and_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let context = Context::new();
    let pull = context
        .pull()
        .recv_timeout(SOON)
        .handshake_timeout(SOON)
        .reconnect_interval(Duration::from_millis(5))
        .open()
        .unwrap();
    let monitor = pull.monitor();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    pull.connect(&endpoint).unwrap();
    let mut nonsense = Raw::accept(&listener);
    nonsense.send(b"220 smtp.example ESMTP\r\n");
    let (at, reason) = handshake_failure(&monitor);
    assert_eq!(at.to_string(), endpoint);
    assert!(
        matches!(reason, HandshakeFailure::Protocol(ProtocolError::NotZmtp { .. })),
        "{reason:?}"
    );
    let mut sense = Raw::accept(&listener);
    sense.shake_hands(1, "PUSH", b"");
    sense.send(&raw::message(&[b"sense"]));
    assert_eq!(pull.recv().unwrap().body(), b"sense");
}
