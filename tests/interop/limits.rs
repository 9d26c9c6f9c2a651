//! High-water marks and linger across the two implementations: what was accepted arrives once and in order, what was not
//! is counted.

use std::iter;
use std::thread;
use std::time::Duration;

use peermq::{Context, Message, SendError};

use crate::body::{assert_same, sequence};
use crate::peer::Peer;
use crate::{PATIENCE, hex, wait_until};

/// Large enough that a few thousand of them fill every kernel buffer.
const BODY_BYTES: usize = 10_000;
/// How long a full queue must stay full to count as such: longer than an I/O thread takes to move on.
const SETTLED: Duration = Duration::from_millis(300);
const LINGERING: usize = 10_000;

fn number_of(message: &Message) -> u64 {
    u64::from_be_bytes(message.body()[..8].try_into().unwrap())
}

#[test]
fn a_push_to_a_libzmq_pull_that_does_not_read_gets_full_and_loses_nothing() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    peer.ask("socket s PULL rcvhwm=10");
    let endpoint = peer.ask("bind s tcp://127.0.0.1:*");
    let push = context.push().send_hwm(100).connect(&endpoint).unwrap();
    let mut accepted = 0;
    loop {
        // Full for a while, and still full: the I/O threads of a busy machine may have been kept waiting all the while.
        while push.send_timeout(sequence(accepted, BODY_BYTES), SETTLED).is_ok() {
            accepted += 1;
        }
        let queued = push.stats().queued_messages;
        assert!(queued <= 100, "{queued} messages are queued at a mark of 100");
        match push.try_send(sequence(accepted, BODY_BYTES)) {
            Ok(()) => accepted += 1,
            Err(SendError::Full(_)) if queued > 0 => break,
            other => assert!(matches!(other, Err(SendError::Full(_))), "{other:?}"),
        }
    }

    peer.tell(&format!("recv_sequence s {} {BODY_BYTES}", accepted + 1));
    push.send_timeout(sequence(accepted, BODY_BYTES), PATIENCE).unwrap();
    peer.answer();
    assert_eq!(peer.ask("recv s 100"), "none");
    wait_until("nothing is queued", || push.stats().queued_messages == 0);
}

#[test]
fn a_libzmq_push_gets_full_while_a_pull_does_not_read_and_loses_nothing() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let pull = context.pull().recv_hwm(10).recv_timeout(PATIENCE).bind("tcp://127.0.0.1:*");
    let pull = pull.unwrap();
    peer.ask("socket s PUSH sndhwm=100");
    peer.ask(&format!("connect s {}", pull.endpoint().unwrap()));
    let accepted: usize = peer.ask(&format!("fill s {BODY_BYTES} 100000")).parse().unwrap();
    for number in 0..accepted {
        assert_same(number, &pull.recv().unwrap(), &sequence(number, BODY_BYTES));
    }
    peer.ask("send s x656e64");
    assert_eq!(pull.recv().unwrap().body(), b"end");
}

#[test]
fn a_pub_counts_what_it_drops_for_a_slow_libzmq_sub() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let publisher = context.publish().send_hwm(100).bind("tcp://127.0.0.1:*").unwrap();
    peer.ask("socket s SUB rcvhwm=10");
    peer.ask("subscribe s x");
    peer.ask(&format!("connect s {}", publisher.endpoint().unwrap()));
    publisher.wait_for_subscribers(1, PATIENCE).unwrap();
    let mut sent = 0;
    while publisher.stats().dropped_hwm < 500 {
        publisher.send(sequence(sent, BODY_BYTES)).unwrap();
        sent += 1;
    }
    let stats = publisher.stats();
    assert_eq!(stats.sent_messages, sent as u64);
    let left = stats.sent_messages - stats.dropped_hwm;
    peer.ask(&format!("recv_increasing s {left} {BODY_BYTES}"));
    assert_eq!(peer.ask("recv s 100"), "none", "{stats:?}");
}

#[test]
fn a_slow_sub_gets_what_a_libzmq_pub_did_not_drop_in_order() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    peer.ask("socket s PUB sndhwm=100 sndbuf=65536");
    let endpoint = peer.ask("bind s tcp://127.0.0.1:*");
    let sub = context.subscribe().topic("").recv_hwm(10).recv_timeout(PATIENCE);
    let sub = sub.kernel_recv_buffer(256 << 10).connect(&endpoint).unwrap();
    let probe = b"are you there?";
    peer.tell(&format!("publish_until_told s {}", hex(probe)));
    assert_eq!(sub.recv().unwrap().body(), probe);
    peer.ask(&format!("send_sequence s 5000 {BODY_BYTES}"));
    peer.answer();
    let first = iter::repeat_with(|| sub.recv().unwrap()).find(|message| message.body() != probe);
    let numbers: Vec<u64> = first
        .into_iter()
        .chain(iter::from_fn(|| sub.recv_timeout(SETTLED).ok()))
        .map(|message| {
            let number = number_of(&message);
            assert_same(number as usize, &message, &sequence(number as usize, BODY_BYTES));
            number
        })
        .collect();
    assert!((1..5_000).contains(&numbers.len()), "{} of 5000 arrived", numbers.len());
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order or twice");
}

#[test]
fn messages_of_a_push_that_is_dropped_with_its_context_at_once_all_arrive() {
    let Some(mut peer) = Peer::start() else { return };
    peer.ask("socket s PULL");
    let endpoint = peer.ask("bind s tcp://127.0.0.1:*");
    let context = Context::new();
    let push = context.push().send_hwm(usize::MAX).connect(&endpoint).unwrap();
    (0..LINGERING).for_each(|number| push.send(sequence(number, 16)).unwrap());
    peer.tell(&format!("recv_sequence s {LINGERING} 16"));
    drop(push);
    drop(context);
    peer.answer();
}

#[test]
fn messages_of_a_dropped_push_wait_for_a_libzmq_pull_that_reads_later() {
    let Some(mut peer) = Peer::start() else { return };
    peer.ask("socket s PULL rcvhwm=10");
    let endpoint = peer.ask("bind s tcp://127.0.0.1:*");
    let context = Context::new();
    let unlimited = context.push().send_hwm(usize::MAX).send_hwm_bytes(usize::MAX);
    let push = unlimited.connect(&endpoint).unwrap();
    (0..LINGERING).for_each(|number| push.send(sequence(number, BODY_BYTES)).unwrap());
    let queued = push.stats().queued_messages;
    assert!(queued > 0, "the kernel took everything");
    drop(push);
    let closing = thread::spawn(move || drop(context));
    peer.ask(&format!("recv_sequence s {LINGERING} {BODY_BYTES}"));
    closing.join().unwrap();
}

#[test]
fn messages_of_a_closed_libzmq_push_all_arrive_though_read_later() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let pull = context.pull().recv_hwm(10).recv_timeout(PATIENCE).bind("tcp://127.0.0.1:*");
    let pull = pull.unwrap();
    peer.ask("socket s PUSH sndhwm=0");
    peer.ask(&format!("connect s {}", pull.endpoint().unwrap()));
    peer.ask(&format!("send_sequence s {LINGERING} {BODY_BYTES}"));
    peer.ask("close s -1");
    for number in 0..LINGERING {
        assert_same(number, &pull.recv().unwrap(), &sequence(number, BODY_BYTES));
    }
}
