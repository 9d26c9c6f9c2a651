//! Subscriptions: commands with a 3.1 peer (RFC 37), messages with a 3.0 peer (RFC 23), many, long, and again after a
//! reconnect.

use std::net::TcpListener;
use std::time::Duration;

use peermq::{Context, Event, Message, Pub, Socket};

use crate::matrix::vacant_tcp;
use crate::peer::Peer;
use crate::raw::{COMMAND, Raw};
use crate::{PATIENCE, hex, wait_for};

/// More than any default high-water mark.
const MANY: usize = 5_000;
const PAUSE: Duration = Duration::from_millis(20);

/// How a subscription looks on the wire.
#[derive(Clone, Copy, Debug)]
enum Style {
    Message,
    Command,
}

impl Style {
    /// Flags and body of the frame that adds or removes a topic.
    fn frame(self, add: bool, topic: &[u8]) -> (u8, Vec<u8>) {
        match (self, add) {
            (Self::Message, _) => (0, [&[u8::from(add)][..], topic].concat()),
            (Self::Command, true) => (COMMAND, [b"\x09SUBSCRIBE", topic].concat()),
            (Self::Command, false) => (COMMAND, [b"\x06CANCEL", topic].concat()),
        }
    }
}

/// Topics around the length where a frame's header changes, none a prefix of another.
fn long_topics() -> Vec<Vec<u8>> {
    let lengths = [1, 245, 246, 254, 255, 256, 300, 5_000];
    (b'a'..).zip(lengths).map(|(letter, length)| vec![letter; length]).collect()
}

#[test]
fn a_sub_speaks_the_style_of_its_publishers_version() {
    for (minor, style) in [(0, Style::Message), (1, Style::Command)] {
        let context = Context::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
        let sub = context.subscribe().topic("early").recv_timeout(PATIENCE);
        let sub = sub.handshake_timeout(PATIENCE).connect(&endpoint).unwrap();
        let mut publisher = Raw::accept(&listener);
        publisher.shake_hands(minor, "PUB");
        assert_eq!(publisher.read_frame(), style.frame(true, b"early"));
        for topic in long_topics() {
            sub.subscribe(&topic).unwrap();
            assert_eq!(publisher.read_frame(), style.frame(true, &topic));
            sub.unsubscribe(&topic).unwrap();
            assert_eq!(publisher.read_frame(), style.frame(false, &topic));
        }
        publisher.write_frame(0, b"late worm");
        publisher.write_frame(0, b"early bird");
        assert_eq!(sub.recv().unwrap().body(), b"early bird");
        assert_eq!(sub.stats().filtered, 1);
    }
}

#[test]
fn a_topic_subscribed_twice_is_announced_once_and_cancelled_with_the_second() {
    let context = Context::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let sub = context.subscribe().handshake_timeout(PATIENCE).connect(&endpoint).unwrap();
    let mut publisher = Raw::accept(&listener);
    publisher.shake_hands(1, "PUB");
    sub.wait_for_peers(1, PATIENCE).unwrap();
    sub.subscribe("a").unwrap();
    sub.subscribe("a").unwrap();
    assert!(sub.unsubscribe("a").unwrap());
    sub.subscribe("b").unwrap();
    assert!(sub.unsubscribe("a").unwrap());
    assert!(!sub.unsubscribe("a").unwrap());
    let expected = [(true, b"a"), (true, b"b"), (false, b"a")];
    for (add, topic) in expected {
        assert_eq!(publisher.read_frame(), Style::Command.frame(add, topic));
    }
}

#[test]
fn a_pub_takes_both_styles_from_peers_of_both_versions() {
    for minor in [0, 1] {
        for style in [Style::Message, Style::Command] {
            let context = Context::new();
            let publisher = context.publish().handshake_timeout(PATIENCE);
            let publisher = publisher.bind("tcp://127.0.0.1:*").unwrap();
            let mut sub = Raw::connect(&publisher.endpoint().unwrap());
            sub.shake_hands(minor, "SUB");
            for topic in long_topics() {
                let (flags, body) = style.frame(true, &topic);
                sub.write_frame(flags, &body);
            }
            settle(&mut sub);
            for topic in long_topics() {
                publisher.send(topic[1..].to_vec()).unwrap();
                publisher.send(topic.clone()).unwrap();
                assert_eq!(sub.read_frame(), (0, topic), "{style:?} from a 3.{minor} peer");
            }
            let topics = long_topics();
            for topic in &topics[1..] {
                let (flags, body) = style.frame(false, topic);
                sub.write_frame(flags, &body);
            }
            settle(&mut sub);
            topics.iter().rev().for_each(|topic| publisher.send(topic.clone()).unwrap());
            assert_eq!(sub.read_frame(), (0, topics[0].clone()), "{style:?} from a 3.{minor} peer");
        }
    }
}

/// Waits until everything written so far has been handled: frames are handled in order, and a PING is answered.
fn settle(raw: &mut Raw) {
    raw.write_frame(COMMAND, b"\x04PING\0\0");
    assert_eq!(raw.read_frame(), (COMMAND, b"\x04PONG".to_vec()));
}

/// Publishes `topic` until their socket `s` has received it: then all that it had subscribed to before is known.
fn settle_theirs(publisher: &Socket<Pub>, peer: &mut Peer, topic: &str) {
    peer.ask(&format!("subscribe s {}", hex(topic.as_bytes())));
    peer.tell("recv s 120000");
    // The pauses grow, so that what is published next finds room.
    let mut pause = PAUSE;
    let answer = loop {
        publisher.send(topic).unwrap();
        if let Some(answer) = peer.answer_within(pause) {
            break answer;
        }
        pause = (2 * pause).min(Duration::from_secs(1));
    };
    assert_eq!(answer, hex(topic.as_bytes()));
}

/// What their socket `s` receives next, apart from `skipped`.
fn next_of_theirs(peer: &mut Peer, skipped: &str) -> String {
    let skipped = hex(skipped.as_bytes());
    loop {
        let received = peer.ask("recv s 120000");
        if received != skipped {
            return received;
        }
    }
}

#[test]
fn a_libzmq_sub_gets_what_it_subscribed_to_with_long_topics_until_it_unsubscribes() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let publisher = context.publish().no_drop(true).bind("tcp://127.0.0.1:*").unwrap();
    peer.ask("socket s SUB");
    peer.ask(&format!("connect s {}", publisher.endpoint().unwrap()));
    for topic in long_topics() {
        peer.ask(&format!("subscribe s {}", hex(&topic)));
    }
    settle_theirs(&publisher, &mut peer, "zzz1");
    for topic in long_topics() {
        publisher.send(topic[1..].to_vec()).unwrap();
        publisher.send(Message::from([topic.as_slice(), b"body"])).unwrap();
        let expected = format!("{} {}", hex(&topic), hex(b"body"));
        assert_eq!(next_of_theirs(&mut peer, "zzz1"), expected);
    }
    for topic in long_topics() {
        peer.ask(&format!("unsubscribe s {}", hex(&topic)));
    }
    settle_theirs(&publisher, &mut peer, "zzz2");
    long_topics().into_iter().for_each(|topic| publisher.send(topic).unwrap());
    publisher.send("zzz2 end").unwrap();
    assert_eq!(next_of_theirs(&mut peer, "zzz2"), hex(b"zzz2 end"));
}

#[test]
fn a_pub_discards_messages_of_a_libzmq_xsub_and_counts_them() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let publisher = context.publish().no_drop(true).bind("tcp://127.0.0.1:*").unwrap();
    peer.ask("socket s XSUB");
    peer.ask(&format!("connect s {}", publisher.endpoint().unwrap()));
    peer.ask(&format!("send s {}", hex(b"upstream")));
    settle_theirs(&publisher, &mut peer, "zzz");
    assert_eq!(publisher.stats().discarded, 1);
}

#[test]
fn many_subscriptions_reach_a_libzmq_xpub_and_again_after_it_restarts() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    peer.ask("socket s XPUB");
    let endpoint = vacant_tcp();
    peer.ask(&format!("bind s {endpoint}"));
    let sub = context.subscribe().recv_timeout(PATIENCE).reconnect_interval(PAUSE);
    let sub = sub.reconnect_interval_max(PAUSE).connect(&endpoint).unwrap();
    let monitor = sub.monitor();
    for number in 0..MANY {
        sub.subscribe(format!("topic-{number:05}")).unwrap();
    }
    peer.ask(&format!("expect_many s {MANY}"));
    for _ in 0..2 {
        peer.kill();
        wait_for(&monitor, |event| matches!(event, Event::Disconnected { .. }));
        peer.start_again();
        peer.ask("socket s XPUB");
        peer.ask(&format!("bind s {endpoint}"));
        peer.ask(&format!("expect_many s {MANY}"));
        peer.ask(&format!("send s {}", hex(b"topic-04999 and more")));
        assert_eq!(sub.recv().unwrap().body(), b"topic-04999 and more");
    }
    // Each was announced just once.
    assert_eq!(peer.ask("recv s 100"), "none");
}

#[test]
fn many_subscriptions_of_a_libzmq_sub_are_known_again_after_the_pub_restarts() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let endpoint = vacant_tcp();
    peer.ask("socket s SUB sndhwm=0 reconnect_ivl=20");
    peer.ask(&format!("subscribe_many s {MANY}"));
    for round in 0..2 {
        let publisher = context.publish().no_drop(true).bind(&endpoint).unwrap();
        if round == 0 {
            peer.ask(&format!("connect s {endpoint}"));
        }
        // libzmq announces again in the order of the alphabet, so this topic comes last.
        settle_theirs(&publisher, &mut peer, "zzz");
        peer.tell(&format!("recv_many s {MANY} zzz"));
        (0..MANY).for_each(|number| publisher.send(format!("topic-{number:05}")).unwrap());
        peer.answer();
        publisher.close(PATIENCE).unwrap();
    }
}
