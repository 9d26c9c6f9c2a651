//! ROUTER and DEALER (RFC 28): envelopes, ids, and what happens to messages for whom nobody is there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::time::Duration;

use harness::futures::Task;
use harness::raw::{self, Raw};
use harness::{
    MOMENT, SOON, TRANSPORTS, WIRES, assert_silent, disconnection, endpoint, handshake_failure,
    texts, unique, wait_until,
};
use peermq::{
    Context, DisconnectReason, HandshakeFailure, Message, Refusal, Router, RoutingId, SendError,
    Socket,
};

/// A ROUTER with this option, bound in process with marks of 2, and a DEALER "d" with marks of 2 that reads nothing.
fn full_pair(
    context: &Context,
    mandatory: bool,
) -> (Socket<Router>, Socket<peermq::Dealer>, RoutingId) {
    let router =
        context.router().mandatory(mandatory).send_hwm(2).bind(unique("inproc://full")).unwrap();
    let dealer = context.dealer().routing_id("d").recv_hwm(2).connect(endpoint(&router)).unwrap();
    router.wait_for_peers(1, SOON).unwrap();
    let id = RoutingId::from("d");
    for number in 0..4 {
        router.try_send_to(&id, number.to_string()).unwrap();
        // Until the dealer has them, messages on their way count against the router's mark.
        if number < 2 {
            wait_until("the dealer has it", || router.stats().queued_messages == 0);
        }
    }
    (router, dealer, id)
}

#[test]
fn a_router_puts_the_senders_id_before_a_message_and_takes_it_as_the_address() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let router = context.router().bind(transport.fresh()).unwrap();
        let dealer = context.dealer().routing_id("me").connect(endpoint(&router)).unwrap();
        dealer.send(["", "question", ""]).unwrap();
        let request = router.recv_timeout(SOON).unwrap();
        assert_eq!(texts(&request), ["me", "", "question", ""]);
        assert_eq!(request.peer().unwrap().routing_id(), b"me");
        router.send(["me", "", "answer"]).unwrap();
        assert_eq!(texts(&dealer.recv_timeout(SOON).unwrap()), ["", "answer"]);
        dealer.send("plain").unwrap();
        let (id, plain) = router.recv_from_timeout(SOON).unwrap();
        assert_eq!((id.as_slice(), plain.body()), (&b"me"[..], &b"plain"[..]));
        router.send_to(&id, plain).unwrap();
        assert_eq!(texts(&dealer.recv_timeout(SOON).unwrap()), ["plain"]);
        // Sent back whole, a received message finds its way by its envelope.
        dealer.send("echo").unwrap();
        router.send(router.recv_timeout(SOON).unwrap()).unwrap();
        assert_eq!(texts(&dealer.recv_timeout(SOON).unwrap()), ["echo"]);
    }
}

#[test]
fn a_peer_without_an_id_gets_one_of_five_bytes_with_a_zero_first() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let router = context.router().bind(transport.fresh()).unwrap();
        let dealers: Vec<_> =
            (0..3).map(|_| context.dealer().connect(endpoint(&router)).unwrap()).collect();
        let mut ids = Vec::new();
        for (number, dealer) in dealers.iter().enumerate() {
            dealer.send(number.to_string()).unwrap();
            let (id, message) = router.recv_from_timeout(SOON).unwrap();
            assert_eq!((id.as_slice().len(), id.as_slice()[0]), (5, 0));
            assert_eq!(message.to_text(), number.to_string());
            assert!(!ids.contains(&id));
            ids.push(id);
        }
        for (number, (id, dealer)) in ids.iter().zip(&dealers).enumerate() {
            router.send_to(id, number.to_string()).unwrap();
            assert_eq!(dealer.recv_timeout(SOON).unwrap().to_text(), number.to_string());
        }
    }
}

#[test]
fn two_routers_know_each_other_by_their_ids() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let one = context.router().routing_id("one").bind(transport.fresh()).unwrap();
        let two = context.router().routing_id("two").connect(endpoint(&one)).unwrap();
        one.wait_for_peers(1, SOON).unwrap();
        two.wait_for_peers(1, SOON).unwrap();
        one.send(["two", "hello"]).unwrap();
        assert_eq!(texts(&two.recv_timeout(SOON).unwrap()), ["one", "hello"]);
        two.send(["one", "hello"]).unwrap();
        assert_eq!(texts(&one.recv_timeout(SOON).unwrap()), ["two", "hello"]);
    }
}

#[test]
fn answers_that_gather_go_out_though_the_socket_neither_waits_nor_sends_again() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let router = context.router().bind(transport.fresh()).unwrap();
        let connect = |number: usize| {
            let dealer = context.dealer().routing_id(number.to_string());
            dealer.connect(endpoint(&router)).unwrap()
        };
        let dealers: Vec<_> = (0..8).map(connect).collect();
        router.wait_for_peers(dealers.len(), SOON).unwrap();
        let mut answered = [0; 8];
        for round in 0..40 {
            dealers.iter().for_each(|dealer| dealer.send(round.to_string()).unwrap());
        }
        // Further requests stay at hand behind these.
        for _ in 0..20 * dealers.len() {
            let (id, request) = router.recv_from_timeout(SOON).unwrap();
            router.send_to(&id, request).unwrap();
            answered[id.to_string().parse::<usize>().unwrap()] += 1;
        }
        for (dealer, answers) in dealers.iter().zip(answered) {
            for round in 0..answers {
                let answer = dealer.recv_timeout(SOON).unwrap();
                assert_eq!(answer.to_text(), round.to_string(), "{transport:?}");
            }
        }
    }
}

#[test]
fn a_message_for_an_unknown_id_is_dropped_and_counted() {
    let context = Context::new();
    let router = context.router().bind("tcp://127.0.0.1:0").unwrap();
    router.send(["nobody", "a"]).unwrap();
    router.send_to(&"nobody".into(), "b").unwrap();
    let stats = router.stats();
    assert_eq!((stats.sent_messages, stats.dropped_unroutable), (2, 2));
}

#[test]
fn with_mandatory_a_message_for_an_unknown_id_comes_back() {
    let context = Context::new();
    let router = context.router().mandatory(true).bind("tcp://127.0.0.1:0").unwrap();
    match router.send(["nobody", "a", "b"]) {
        Err(SendError::Unroutable { routing_id, message }) => {
            assert_eq!(
                (routing_id.as_str(), texts(&message)),
                ("nobody", text(["nobody", "a", "b"]))
            );
        }
        other => panic!("{other:?}"),
    }
    match router.try_send_to(&"\n".into(), "a") {
        Err(SendError::Unroutable { routing_id, message }) => {
            assert_eq!((routing_id.as_str(), texts(&message)), ("\\n", text(["a"])));
        }
        other => panic!("{other:?}"),
    }
    let stats = router.stats();
    assert_eq!((stats.sent_messages, stats.dropped_unroutable), (0, 0));
}

fn text<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

#[test]
fn a_message_for_a_full_peer_is_dropped_and_counted() {
    let context = Context::new();
    let (router, dealer, id) = full_pair(&context, false);
    router.send_to(&id, "lost").unwrap();
    assert_eq!(router.stats().dropped_hwm, 1);
    for number in 0..4 {
        assert_eq!(dealer.recv_timeout(SOON).unwrap().to_text(), number.to_string());
    }
    assert_silent(dealer.recv_timeout(Duration::ZERO));
}

#[test]
fn with_mandatory_a_message_for_a_full_peer_waits_for_room() {
    let context = Context::new();
    let (router, dealer, id) = full_pair(&context, true);
    assert_eq!(router.try_send_to(&id, "4"), Err(SendError::Full("4".into())));
    // A full peer holds up nobody else.
    let other = context.dealer().routing_id("other").connect(endpoint(&router)).unwrap();
    router.wait_for_peers(2, SOON).unwrap();
    router.try_send_to(&"other".into(), "free").unwrap();
    assert_eq!(other.recv_timeout(SOON).unwrap().body(), b"free");
    let waiting = {
        let (router, id) = (router.clone(), id.clone());
        std::thread::spawn(move || router.send_to(&id, "4"))
    };
    for number in 0..5 {
        assert_eq!(dealer.recv_timeout(SOON).unwrap().to_text(), number.to_string());
    }
    waiting.join().unwrap().unwrap();
    assert_eq!(router.stats().dropped_hwm, 0);
}

#[test]
fn a_send_that_waits_for_a_full_peer_ends_when_that_peer_goes() {
    let context = Context::new();
    let (router, dealer, id) = full_pair(&context, true);
    let by_id = Task::pending(router.send_to_async(id, "by id"));
    let by_envelope = Task::pending(router.send_async(["d", "by envelope"]));
    let blocked = {
        let router = router.clone();
        std::thread::spawn(move || router.send(["d", "blocked"]))
    };
    drop(dealer);
    for (result, frames) in [
        (by_id.finish(), text(["by id"])),
        (by_envelope.finish(), text(["d", "by envelope"])),
        (blocked.join().unwrap(), text(["d", "blocked"])),
    ] {
        match result {
            Err(SendError::Unroutable { routing_id, message }) => {
                assert_eq!((routing_id.as_str(), texts(&message)), ("d", frames));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_send_that_waits_for_a_full_peer_on_a_wire_ends_when_that_peer_goes() {
    for transport in WIRES {
        let context = Context::new();
        let router = context.router().mandatory(true).send_hwm(2).handshake_timeout(SOON);
        let router = router.bind(transport.fresh()).unwrap();
        let mut peer = Raw::connect(&endpoint(&router));
        peer.shake_hands(1, "DEALER", b"stuck");
        router.wait_for_peers(1, SOON).unwrap();
        let id = RoutingId::from("stuck");
        let message = Message::from(vec![0; 1 << 20]);
        while router.try_send_to(&id, message.clone()).is_ok() {}
        let waiting = Task::new(router.send_to_async(id.clone(), message));
        drop(peer);
        wait_until("the peer is gone", || router.stats().peers == 0);
        let mut waiting = waiting;
        let result = match waiting.poll() {
            Some(result) => result,
            None => waiting.finish(),
        };
        assert!(matches!(result, Err(SendError::Unroutable { .. })), "{transport:?}: {result:?}");
    }
}

#[test]
fn a_second_peer_with_the_same_id_is_refused_and_the_first_goes_on() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let router = context.router().bind(transport.fresh()).unwrap();
        let first = context.dealer().routing_id("same").connect(endpoint(&router)).unwrap();
        router.wait_for_peers(1, SOON).unwrap();
        let monitor = router.monitor();
        let second = context
            .dealer()
            .routing_id("same")
            .reconnect(false)
            .linger(Duration::ZERO)
            .open()
            .unwrap();
        second.connect(endpoint(&router)).unwrap();
        let (at, reason) = handshake_failure(&monitor);
        let refusal = Refusal::DuplicateRoutingId { routing_id: "same".to_owned() };
        assert_eq!((at, reason), (endpoint(&router), HandshakeFailure::Refused(refusal)));
        second.send("from the second").unwrap();
        first.send("from the first").unwrap();
        assert_eq!(texts(&router.recv_timeout(SOON).unwrap()), ["same", "from the first"]);
        router.send(["same", "to the first"]).unwrap();
        assert_eq!(first.recv_timeout(SOON).unwrap().body(), b"to the first");
        assert_silent(router.recv_timeout(MOMENT));
        assert_silent(second.recv_timeout(Duration::ZERO));
        assert_eq!(router.stats().peers, 1);
    }
}

#[test]
fn with_handover_the_newcomer_takes_the_id_and_the_old_connection_ends() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let router = context.router().handover(true).bind(transport.fresh()).unwrap();
        let old = context.dealer().routing_id("same").reconnect(false).open().unwrap();
        old.connect(endpoint(&router)).unwrap();
        router.wait_for_peers(1, SOON).unwrap();
        router.send(["same", "to the old"]).unwrap();
        assert_eq!(old.recv_timeout(SOON).unwrap().body(), b"to the old");
        let monitor = router.monitor();
        let new = context.dealer().routing_id("same").connect(endpoint(&router)).unwrap();
        new.wait_for_peers(1, SOON).unwrap();
        assert_eq!(disconnection(&monitor), (endpoint(&router), DisconnectReason::HandedOver));
        wait_until("the old one is cut off", || old.stats().peers == 0);
        router.send(["same", "to the new"]).unwrap();
        assert_eq!(new.recv_timeout(SOON).unwrap().body(), b"to the new");
        new.send("from the new").unwrap();
        assert_eq!(texts(&router.recv_timeout(SOON).unwrap()), ["same", "from the new"]);
        assert_silent(old.recv_timeout(Duration::ZERO));
        assert_eq!(router.stats().peers, 1);
    }
}

#[test]
fn a_peer_that_comes_back_is_known_by_the_same_id() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let router = context.router().bind(transport.fresh()).unwrap();
        for round in 0..3 {
            let dealer = context.dealer().routing_id("again").connect(endpoint(&router)).unwrap();
            router.wait_for_peers(1, SOON).unwrap();
            router.send(["again".to_owned(), round.to_string()]).unwrap();
            assert_eq!(dealer.recv_timeout(SOON).unwrap().to_text(), round.to_string());
            drop(dealer);
            wait_until("it is gone", || router.stats().peers == 0);
        }
    }
}

#[test]
fn a_connected_dealer_keeps_its_queue_and_its_id_when_the_router_returns() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let first = context.router().bind(transport.vacant()).unwrap();
        let address = endpoint(&first);
        let interval = Duration::from_millis(5);
        let dealer =
            context.dealer().routing_id("kept").reconnect_interval(interval).open().unwrap();
        dealer.connect(&address).unwrap();
        dealer.send("0").unwrap();
        assert_eq!(texts(&first.recv_timeout(SOON).unwrap()), ["kept", "0"]);
        first.unbind(&address).unwrap();
        wait_until("the router is gone", || dealer.stats().peers == 0);
        dealer.send("1").unwrap();
        let second = context.router().bind(&address).unwrap();
        assert_eq!(texts(&second.recv_timeout(SOON).unwrap()), ["kept", "1"]);
        second.send(["kept", "2"]).unwrap();
        assert_eq!(texts(&dealer.recv_timeout(SOON).unwrap()), ["2"]);
    }
}

#[test]
fn a_message_for_a_router_to_send_has_an_address_and_a_body() {
    let context = Context::new();
    let router = context.router().bind("tcp://127.0.0.1:0").unwrap();
    match router.send("lone") {
        Err(SendError::Invalid { message, .. }) => assert_eq!(texts(&message), ["lone"]),
        other => panic!("{other:?}"),
    }
    let nothing = Message::from_iter(Vec::<&str>::new());
    assert!(matches!(router.send(nothing.clone()), Err(SendError::Invalid { .. })));
    let result = router.send_to(&"nobody".into(), nothing);
    assert!(matches!(result, Err(SendError::Invalid { .. })), "{result:?}");
}

#[test]
fn dealers_deal_to_their_peers_in_turn_and_hear_them_in_turn() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let dealer = context.dealer().bind(transport.fresh()).unwrap();
        let peers: Vec<_> =
            (0..3).map(|_| context.dealer().connect(endpoint(&dealer)).unwrap()).collect();
        dealer.wait_for_peers(3, SOON).unwrap();
        for number in 0..9 {
            dealer.send(number.to_string()).unwrap();
        }
        for peer in &peers {
            let got: Vec<usize> = (0..3)
                .map(|_| peer.recv_timeout(SOON).unwrap().to_text().parse().unwrap())
                .collect();
            assert!(got.windows(2).all(|pair| pair[1] == pair[0] + 3), "{got:?}");
            (0..3).for_each(|_| peer.send("answer").unwrap());
        }
        (0..9).for_each(|_| assert_eq!(dealer.recv_timeout(SOON).unwrap().body(), b"answer"));
    }
}

#[test]
fn a_dealer_without_room_waits_as_a_push_does() {
    let context = Context::new();
    let bound = context.dealer().bind(unique("inproc://alone")).unwrap();
    assert_eq!(bound.try_send("a"), Err(SendError::Full("a".into())));
    let connected = context.dealer().send_hwm(2).connect(unique("inproc://nobody")).unwrap();
    connected.try_send("a").unwrap();
    connected.try_send("b").unwrap();
    assert_eq!(connected.send_timeout("c", MOMENT), Err(SendError::Timeout("c".into())));
}

#[test]
fn a_message_knows_its_peer() {
    let context = Context::new();
    let router = context.router().handshake_timeout(SOON).bind("tcp://127.0.0.1:0").unwrap();
    let mut peer = Raw::connect(&endpoint(&router));
    peer.greet(1);
    let mut properties = raw::property("socket-type", b"DEALER");
    properties.extend(raw::property("Identity", b"raw"));
    properties.extend(raw::property("X-Role", b"test"));
    peer.send(&raw::command("READY", &properties));
    peer.send(&raw::message(&[b"hello"]));
    let (_, message) = router.recv_from_timeout(SOON).unwrap();
    let info = message.peer().unwrap();
    assert_eq!(info.endpoint(), &endpoint(&router));
    assert!(info.address().starts_with("127.0.0.1:"), "{}", info.address());
    assert_eq!(info.socket_type().unwrap().name(), "DEALER");
    assert_eq!(info.routing_id(), b"raw");
    assert_eq!(info.metadata().get("x-role"), Some(&b"test"[..]));
}
