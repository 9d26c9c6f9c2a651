//! What survives when one side goes away and comes back at the same place.

use std::fs;
use std::time::Duration;

use peermq::{Builder, Context, DisconnectReason, Event, HandshakeFailure, Pattern};

use crate::body::{assert_same, sequence};
use crate::matrix::{fresh_endpoint, vacant_tcp};
use crate::peer::Peer;
use crate::{PATIENCE, hex, wait_for};

/// Messages sent while nobody is there.
const QUEUED: usize = 500;
const BODY_BYTES: usize = 16;

/// Comes back quickly, so that the tests do.
fn eager<P: Pattern>(builder: Builder<P>) -> Builder<P> {
    let pause = Duration::from_millis(20);
    builder.recv_timeout(PATIENCE).reconnect_interval(pause).reconnect_interval_max(pause)
}

#[test]
fn the_queue_of_a_push_survives_the_restart_of_a_libzmq_pull() {
    let Some(mut peer) = Peer::start() else { return };
    for transport in ["tcp", "ipc-path"] {
        let context = Context::new();
        peer.ask("socket s PULL");
        let endpoint = match transport {
            "tcp" => vacant_tcp(),
            path => fresh_endpoint(path),
        };
        peer.ask(&format!("bind s {endpoint}"));
        let push = eager(context.push()).connect(&endpoint).unwrap();
        let monitor = push.monitor();
        push.send(sequence(0, BODY_BYTES)).unwrap();
        peer.ask(&format!("recv_sequence s 1 {BODY_BYTES}"));

        peer.kill();
        wait_for(&monitor, |event| matches!(event, Event::Disconnected { .. }));
        (0..QUEUED).for_each(|number| push.send(sequence(number, BODY_BYTES)).unwrap());
        peer.start_again();
        peer.ask("socket s PULL");
        peer.ask(&format!("bind s {endpoint}"));
        peer.ask(&format!("recv_sequence s {QUEUED} {BODY_BYTES}"));
        assert_eq!(push.stats().dropped_disconnect, 0);
        if let Some(path) = endpoint.strip_prefix("ipc://") {
            let _ = fs::remove_file(path);
        }
    }
}

#[test]
fn a_dealer_keeps_its_identity_when_a_libzmq_router_restarts() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    peer.ask("socket s ROUTER");
    let endpoint = vacant_tcp();
    peer.ask(&format!("bind s {endpoint}"));
    let dealer = eager(context.dealer()).routing_id("ours").connect(&endpoint).unwrap();
    let monitor = dealer.monitor();
    let exchange = |peer: &mut Peer| {
        dealer.send("ping").unwrap();
        let (id, ping) = (hex(b"ours"), hex(b"ping"));
        assert_eq!(peer.ask("recv s 120000"), format!("{id} {ping}"));
        peer.ask(&format!("send s {id} {}", hex(b"pong")));
        assert_eq!(dealer.recv().unwrap().body(), b"pong");
    };
    exchange(&mut peer);
    peer.kill();
    wait_for(&monitor, |event| matches!(event, Event::Disconnected { .. }));
    peer.start_again();
    peer.ask("socket s ROUTER router_mandatory=1");
    peer.ask(&format!("bind s {endpoint}"));
    exchange(&mut peer);
}

#[test]
fn a_libzmq_dealer_finds_a_router_that_restarts_and_keeps_its_queue_and_identity() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let router = context.router().recv_timeout(PATIENCE).bind(vacant_tcp()).unwrap();
    let endpoint = router.endpoint().unwrap();
    peer.ask("socket s DEALER routing_id=theirs reconnect_ivl=20");
    peer.ask("monitor s");
    peer.ask(&format!("connect s {endpoint}"));
    peer.ask("send s x6869");
    assert_eq!(router.recv_from().unwrap().0.as_slice(), b"theirs");

    router.close(PATIENCE).unwrap();
    peer.ask("event s DISCONNECTED");
    peer.ask(&format!("send_sequence s {QUEUED} {BODY_BYTES}"));
    let router = context.router().recv_timeout(PATIENCE).mandatory(true).bind(endpoint).unwrap();
    for number in 0..QUEUED {
        let (id, message) = router.recv_from().unwrap();
        assert_eq!(id.as_slice(), b"theirs");
        assert_same(number, &message, &sequence(number, BODY_BYTES));
        router.send_to(&id, message).unwrap();
    }
    peer.ask(&format!("recv_sequence s {QUEUED} {BODY_BYTES}"));
}

#[test]
fn a_killed_libzmq_dealer_comes_back_under_its_old_identity() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let router = context.router().recv_timeout(PATIENCE).mandatory(true);
    let router = router.bind("tcp://127.0.0.1:*").unwrap();
    let monitor = router.monitor();
    for _ in 0..3 {
        peer.ask("socket s DEALER routing_id=theirs");
        peer.ask(&format!("connect s {}", router.endpoint().unwrap()));
        peer.ask("send s x6869");
        let (id, message) = router.recv_from().unwrap();
        assert_eq!(id.as_slice(), b"theirs");
        router.send_to(&id, message).unwrap();
        assert_eq!(peer.ask("recv s 120000"), "x6869");
        peer.kill();
        wait_for(&monitor, |event| matches!(event, Event::Disconnected { .. }));
        peer.start_again();
    }
}

#[test]
fn a_second_libzmq_dealer_of_the_same_identity_is_refused_and_the_first_goes_on() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let router = context.router().recv_timeout(PATIENCE).bind("tcp://127.0.0.1:*").unwrap();
    let monitor = router.monitor();
    for name in ["first", "second"] {
        peer.ask(&format!("socket {name} DEALER routing_id=theirs"));
        peer.ask(&format!("connect {name} {}", router.endpoint().unwrap()));
        peer.ask(&format!("send {name} x6869"));
        if name == "first" {
            router.recv_from().unwrap();
        }
    }
    let event = wait_for(&monitor, |event| matches!(event, Event::HandshakeFailed { .. }));
    let Event::HandshakeFailed { reason, .. } = event else { unreachable!() };
    assert!(matches!(reason, HandshakeFailure::Refused(_)), "{reason:?}");
    peer.ask(&format!("send first {}", hex(b"still here")));
    assert_eq!(router.recv_from().unwrap().1.body(), b"still here");
}

#[test]
fn with_handover_a_second_libzmq_dealer_takes_the_place_of_the_first() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let router = context.router().recv_timeout(PATIENCE).mandatory(true).handover(true);
    let router = router.bind("tcp://127.0.0.1:*").unwrap();
    let monitor = router.monitor();
    for name in ["first", "second"] {
        // The first must not come back and take its place in turn.
        peer.ask(&format!("socket {name} DEALER routing_id=theirs reconnect_ivl=-1"));
        peer.ask(&format!("connect {name} {}", router.endpoint().unwrap()));
        peer.ask(&format!("send {name} {}", hex(name.as_bytes())));
        let (id, message) = router.recv_from().unwrap();
        assert_eq!((id.as_slice(), message.body()), (&b"theirs"[..], name.as_bytes()));
        router.send_to(&id, message).unwrap();
        assert_eq!(peer.ask(&format!("recv {name} 120000")), hex(name.as_bytes()));
    }
    let event = wait_for(&monitor, |event| matches!(event, Event::Disconnected { .. }));
    let Event::Disconnected { reason, .. } = event else { unreachable!() };
    assert_eq!(reason, DisconnectReason::HandedOver);
}
