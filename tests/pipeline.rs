//! PUSH and PULL (RFC 30): who gets a message, in which order, and what is lost with a connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;
#[path = "pipeline/marks.rs"]
mod marks;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use harness::ports::reserve_port;
use harness::raw::{self, MORE, Raw};
use harness::{
    KERNEL, MOMENT, SOON, TRANSPORTS, Transport, WIRES, assert_silent, disconnection, endpoint,
    peer_ready, texts, unique, wait_until,
};
use peermq::{Context, Message, Pull, SendError, Socket};
use socket2::SockRef;

/// Receives `count` numbers sent as text.
fn numbers(pull: &Socket<Pull>, count: usize) -> Vec<usize> {
    (0..count).map(|_| pull.recv_timeout(SOON).unwrap().to_text().parse().unwrap()).collect()
}

#[test]
fn a_bound_push_gives_each_of_n_peers_every_nth_message() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let push = context.push().bind(transport.fresh()).unwrap();
        let pulls: Vec<_> =
            (0..3).map(|_| context.pull().connect(endpoint(&push)).unwrap()).collect();
        push.wait_for_peers(3, SOON).unwrap();
        for number in 0..30 {
            push.send(number.to_string()).unwrap();
        }
        let mut first = HashSet::new();
        for pull in &pulls {
            let got = numbers(pull, 10);
            assert!(got.windows(2).all(|pair| pair[1] == pair[0] + 3), "{transport:?}: {got:?}");
            assert!(first.insert(got[0]));
            assert_silent(pull.recv_timeout(Duration::ZERO));
        }
    }
}

#[test]
fn a_connected_push_counts_its_endpoints_from_the_start() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let present = context.pull().bind(transport.fresh()).unwrap();
        let absent = transport.vacant();
        let push = context.push().connect(endpoint(&present)).unwrap();
        push.connect(&absent).unwrap();
        for number in 0..10 {
            push.send(number.to_string()).unwrap();
        }
        assert_eq!(numbers(&present, 5), [0, 2, 4, 6, 8]);
        assert_silent(present.recv_timeout(MOMENT));
        let late = context.pull().bind(&absent).unwrap();
        assert_eq!(numbers(&late, 5), [1, 3, 5, 7, 9]);
    }
}

#[test]
fn a_push_takes_part_in_the_turns_as_peers_come_and_go() {
    let context = Context::new();
    let push = context.push().bind(unique("inproc://turns")).unwrap();
    let stays = context.pull().connect(endpoint(&push)).unwrap();
    let goes = context.pull().connect(endpoint(&push)).unwrap();
    push.wait_for_peers(2, SOON).unwrap();
    (0..4).for_each(|number| push.send(number.to_string()).unwrap());
    assert_eq!(numbers(&stays, 2).len() + numbers(&goes, 2).len(), 4);
    drop(goes);
    wait_until("the peer is gone", || push.stats().peers == 1);
    (4..8).for_each(|number| push.send(number.to_string()).unwrap());
    assert_eq!(numbers(&stays, 4), [4, 5, 6, 7]);
}

#[test]
fn what_was_sent_is_counted_while_the_only_peer_comes_gets_company_and_goes() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let push = context.push().bind(transport.fresh()).unwrap();
        let first = context.pull().connect(endpoint(&push)).unwrap();
        push.wait_for_peers(1, SOON).unwrap();
        for number in 0..10 {
            push.send(number.to_string()).unwrap();
        }
        assert_eq!(numbers(&first, 10), (0..10).collect::<Vec<_>>(), "{transport:?}");
        let second = context.pull().connect(endpoint(&push)).unwrap();
        push.wait_for_peers(2, SOON).unwrap();
        for number in 0..10 {
            push.send(number.to_string()).unwrap();
        }
        assert_eq!((numbers(&first, 5).len(), numbers(&second, 5).len()), (5, 5));
        first.close(SOON).unwrap();
        wait_until("the first is gone", || push.stats().peers == 1);
        push.send("10").unwrap();
        assert_eq!(numbers(&second, 1), [10]);
        second.close(SOON).unwrap();
        wait_until("the second is gone", || push.stats().peers == 0);
        assert_eq!(push.try_send("x"), Err(SendError::Full("x".into())), "{transport:?}");
        let stats = push.stats();
        assert_eq!((stats.sent_messages, stats.sent_bytes), (21, 22), "{transport:?}");
        push.clone().close(SOON).unwrap();
        assert_eq!(push.try_send("x"), Err(SendError::Closed("x".into())), "{transport:?}");
    }
}

#[test]
fn a_pull_takes_one_message_of_each_peer_in_turn() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().bind(transport.fresh()).unwrap();
        for name in ["a", "b", "c"] {
            let push = context.push().connect(endpoint(&pull)).unwrap();
            (0..10).for_each(|number| push.send([name, &number.to_string()]).unwrap());
            // A close that ends well was met by the other side's end: everything has arrived.
            push.close(SOON).unwrap();
        }
        for number in 0..10 {
            let turn: Vec<_> = (0..3).map(|_| texts(&pull.recv_timeout(SOON).unwrap())).collect();
            let number = number.to_string();
            let expected = ["a", "b", "c"].map(|name| vec![name.to_owned(), number.clone()]);
            let distinct: HashSet<_> = turn.iter().cloned().collect();
            assert_eq!(distinct, HashSet::from(expected), "{transport:?}");
        }
    }
}

#[test]
fn the_messages_of_one_peer_keep_their_order_and_their_frames() {
    const COUNT: usize = 3_000;
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().bind(transport.fresh()).unwrap();
        let push = context.push().connect(endpoint(&pull)).unwrap();
        // Short, empty, and around every boundary of framing.
        let sizes = [0, 1, 254, 255, 256, 4_095, 4_096, 4_097, 20_000];
        let make = move |number: usize| -> Vec<Vec<u8>> {
            let mut frames = vec![number.to_string().into_bytes()];
            frames.extend((0..number % 4).map(|n| vec![n as u8; sizes[(number + n) % 9]]));
            frames
        };
        let sender = std::thread::spawn(move || {
            (0..COUNT).for_each(|number| push.send(Message::from_iter(make(number))).unwrap());
        });
        for number in 0..COUNT {
            let message = pull.recv_timeout(SOON).unwrap();
            assert_eq!(message, Message::from_iter(make(number)), "{transport:?}");
        }
        sender.join().unwrap();
    }
}

#[test]
fn without_a_peer_a_bound_push_accepts_nothing() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let push = context.push().bind(transport.fresh()).unwrap();
        assert_eq!(push.try_send("a"), Err(SendError::Full("a".into())));
        assert_eq!(push.send_timeout("b", MOMENT), Err(SendError::Timeout("b".into())));
        assert_eq!(push.stats().sent_messages, 0);
        let pull = context.pull().connect(endpoint(&push)).unwrap();
        push.send_timeout("c", SOON).unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"c");
    }
}

#[test]
fn a_connected_push_accepts_its_mark_before_there_is_a_peer() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let vacant = transport.vacant();
        let push = context.push().send_hwm(7).connect(&vacant).unwrap();
        for number in 0..7 {
            push.try_send(number.to_string()).unwrap();
        }
        assert_eq!(push.try_send("7"), Err(SendError::Full("7".into())));
        assert_eq!(push.send_timeout("7", MOMENT), Err(SendError::Timeout("7".into())));
        assert_eq!(push.stats().queued_messages, 7);
        let pull = context.pull().bind(&vacant).unwrap();
        assert_eq!(numbers(&pull, 7), [0, 1, 2, 3, 4, 5, 6]);
        push.send_timeout("7", SOON).unwrap();
        assert_eq!(numbers(&pull, 1), [7]);
    }
}

#[test]
fn with_immediate_a_connected_push_accepts_nothing_before_there_is_a_peer() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let vacant = transport.vacant();
        let interval = Duration::from_millis(5);
        let push = context.push().immediate(true).reconnect_interval(interval).open().unwrap();
        push.connect(&vacant).unwrap();
        assert_eq!(push.try_send("a"), Err(SendError::Full("a".into())));
        assert_eq!(push.send_timeout("b", MOMENT), Err(SendError::Timeout("b".into())));
        let pull = context.pull().bind(&vacant).unwrap();
        push.send_timeout("c", SOON).unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"c");
        assert_eq!(push.stats().sent_messages, 1);
    }
}

#[test]
fn the_queue_of_a_connected_push_survives_the_peer() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let first = context.pull().bind(transport.vacant()).unwrap();
        let address = endpoint(&first);
        let interval = Duration::from_millis(5);
        let push = context.push().reconnect_interval(interval).connect(&address).unwrap();
        push.send("before").unwrap();
        assert_eq!(first.recv_timeout(SOON).unwrap().body(), b"before");
        first.unbind(&address).unwrap();
        wait_until("the peer is gone", || push.stats().peers == 0);
        (0..10).for_each(|number| push.send(number.to_string()).unwrap());
        let second = context.pull().bind(&address).unwrap();
        assert_eq!(numbers(&second, 10), (0..10).collect::<Vec<_>>(), "{transport:?}");
        push.send("10").unwrap();
        assert_eq!(numbers(&second, 1), [10]);
        assert_eq!(push.stats().dropped_disconnect, 0);
        assert_silent(first.recv_timeout(Duration::ZERO));
    }
}

#[test]
fn the_queue_of_an_accepted_peer_is_lost_with_it_and_counted() {
    // In process there is no kernel in between, so the count is exact.
    let context = Context::new();
    let push = context.push().send_hwm(5).bind(unique("inproc://lost")).unwrap();
    let pull = context.pull().recv_hwm(1).connect(endpoint(&push)).unwrap();
    push.wait_for_peers(1, SOON).unwrap();
    (0..6).for_each(|number| push.send_timeout(number.to_string(), SOON).unwrap());
    drop(pull);
    wait_until("the peer is gone", || push.stats().peers == 0);
    wait_until("the loss is counted", || push.stats().dropped_disconnect >= 5);
    let stats = push.stats();
    assert_eq!((stats.sent_messages, stats.dropped_disconnect, stats.queued_messages), (6, 5, 0));

    for transport in WIRES {
        let push = context.push().send_hwm(50).kernel_send_buffer(KERNEL).handshake_timeout(SOON);
        let push = push.bind(transport.fresh()).unwrap();
        let peer = Raw::peer(&endpoint(&push), "PULL");
        push.wait_for_peers(1, SOON).unwrap();
        let body = vec![0; 1 << 18];
        while push.send_timeout(body.clone(), MOMENT).is_ok() {}
        let queued = push.stats().queued_messages;
        assert!(queued > 1);
        drop(peer);
        wait_until("the peer is gone", || push.stats().peers == 0);
        assert_eq!(push.stats().queued_messages, 0);
        wait_until("the loss is counted", || push.stats().dropped_disconnect > 0);
        // What was queued counts until its chunk is written as a whole, so a little of it may have gone out.
        let lost = push.stats().dropped_disconnect;
        assert!(lost <= queued, "{transport:?}: {lost} of {queued}");
    }
}

#[test]
fn a_large_message_is_never_delivered_in_part_across_a_reconnect() {
    const COUNT: usize = 5;
    let reserved = reserve_port();
    let listener = std::net::TcpListener::bind(reserved).unwrap();
    // Of what the first message has left to send the kernel never holds all.
    SockRef::from(&listener).set_recv_buffer_size(8 * KERNEL).unwrap();
    let address = format!("tcp://{reserved}");
    let context = Context::new();
    let interval = Duration::from_millis(5);
    let push = context.push().reconnect_interval(interval).kernel_send_buffer(KERNEL);
    let push = push.handshake_timeout(SOON).open().unwrap();
    let monitor = push.monitor();
    push.connect(&address).unwrap();
    let part = |number: usize, index: u8| [vec![number as u8, index], vec![7; 1 << 20]].concat();
    for number in 0..COUNT {
        push.send([part(number, 0), part(number, 1), part(number, 2)]).unwrap();
    }
    let mut first = Raw::accept(&listener);
    first.shake_hands(1, "PULL", b"");
    // The first message breaks off in its second frame.
    first.read((1 << 20) + (1 << 19));
    drop((first, listener));
    disconnection(&monitor);
    let pull = context.pull().bind(&address).unwrap();
    push.send_timeout("the end", SOON).unwrap();
    let mut next = 0;
    let mut delivered = 0;
    loop {
        let message = pull.recv_timeout(SOON).unwrap();
        if message.body() == b"the end" {
            break;
        }
        let number = usize::from(message.body()[0]);
        assert!(number >= next, "{number} came after {next}");
        let expected = [part(number, 0), part(number, 1), part(number, 2)];
        assert!(message == Message::from_iter(expected), "message {number} is damaged");
        next = number + 1;
        delivered += 1;
    }
    // The one that was broken in two is counted.
    assert_eq!(delivered, COUNT - 1);
    wait_until("the loss is counted", || push.stats().dropped_disconnect == 1);
}

#[test]
fn half_a_message_from_a_lost_peer_is_not_joined_to_what_it_sends_later() {
    for transport in WIRES {
        let context = Context::new();
        let pull = context.pull().handshake_timeout(SOON).bind(transport.fresh()).unwrap();
        let monitor = pull.monitor();
        let mut peer = Raw::peer(&endpoint(&pull), "PUSH");
        peer.send(&raw::frame(MORE, b"half of one"));
        peer_ready(&monitor);
        drop(peer);
        disconnection(&monitor);
        let mut again = Raw::peer(&endpoint(&pull), "PUSH");
        again.send(&raw::message(&[b"all", b"of another"]));
        assert_eq!(texts(&pull.recv_timeout(SOON).unwrap()), ["all", "of another"]);
    }
}

#[test]
fn what_a_peer_sent_before_it_went_is_still_delivered() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().bind(transport.fresh()).unwrap();
        let push = context.push().connect(endpoint(&pull)).unwrap();
        (0..100).for_each(|number| push.send(number.to_string()).unwrap());
        push.close(SOON).unwrap();
        wait_until("the peer is gone", || pull.stats().peers == 0);
        assert_eq!(numbers(&pull, 100), (0..100).collect::<Vec<_>>());
    }
}

/// What the promise of a short way means: no thread but the sender's has to run before the message is on its way.
#[test]
fn a_message_sent_alone_on_an_idle_connection_is_on_the_wire_when_send_returns() {
    // Idle: nothing was written for much longer than a streaming sender pauses.
    let idle = || {
        let since = Instant::now();
        while since.elapsed() < Duration::from_micros(500) {}
    };
    let context = Context::new();
    for transport in WIRES {
        let push = context.push().handshake_timeout(SOON).bind(transport.fresh()).unwrap();
        let mut peer = Raw::peer(&endpoint(&push), "PULL");
        push.wait_for_peers(1, SOON).unwrap();
        for round in 0..100 {
            idle();
            push.send("x").unwrap();
            assert_eq!(push.stats().queued_messages, 0, "{transport:?}, round {round}");
            assert_eq!(peer.read_frame(), (0, b"x".to_vec()));
        }
    }
    // What was written to a Unix socket is at its other end; the loopback interface may take its time.
    let push = context.push().handshake_timeout(SOON).bind("ipc://*").unwrap();
    let mut stream =
        UnixStream::connect(endpoint(&push).to_string().replace("ipc://", "")).unwrap();
    stream.write_all(&raw::greeting(1)).unwrap();
    stream.write_all(&raw::command("READY", &raw::property("Socket-Type", b"PULL"))).unwrap();
    push.wait_for_peers(1, SOON).unwrap();
    let ready = raw::command("READY", &raw::property("Socket-Type", b"PUSH"));
    stream.read_exact(&mut vec![0; 64 + ready.len()]).unwrap();
    stream.set_nonblocking(true).unwrap();
    for round in 0..100 {
        idle();
        push.send("x").unwrap();
        let mut received = [0; 8];
        let count = stream.read(&mut received).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(&received[..count], [0, 1, b'x']);
    }
}

#[test]
fn a_message_without_frames_is_refused() {
    let context = Context::new();
    let push = context.push().connect(unique("inproc://empty")).unwrap();
    let nothing = Message::from_iter(Vec::<&str>::new());
    assert!(matches!(push.try_send(nothing), Err(SendError::Invalid { .. })));
    push.try_send("").unwrap();
}

#[test]
fn every_accepted_message_is_accounted_for() {
    let context = Context::new();
    let pull = context.pull().bind(Transport::Tcp.fresh()).unwrap();
    let push = context.push().connect(endpoint(&pull)).unwrap();
    (0..10).for_each(|number| push.send(["x", &number.to_string()]).unwrap());
    (0..10).for_each(|_| drop(pull.recv_timeout(SOON).unwrap()));
    let (sent, received) = (push.stats(), pull.stats());
    assert_eq!((sent.sent_messages, sent.sent_bytes), (10, 20));
    assert_eq!((received.received_messages, received.received_bytes), (10, 20));
    wait_until("nothing is queued", || push.stats().queued_messages == 0);
    assert_eq!(push.stats().queued_bytes, 0);
}
