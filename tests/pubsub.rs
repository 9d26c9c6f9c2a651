//! PUB and SUB (RFC 29): who hears what, and what a slow subscriber costs whom.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::time::Duration;

use harness::futures::Task;
use harness::raw::{self, COMMAND, Raw};
use harness::{
    KERNEL, MOMENT, SOON, TRANSPORTS, WIRES, assert_silent, endpoint, publish_until_heard,
    send_at_least, settle, texts, unique, wait_until,
};
use peermq::{Context, Pub, SendError, Socket, Sub};

/// Publishes the texts and then an end mark that everyone who is subscribed to `~` hears; returns what came before it.
fn heard(publisher: &Socket<Pub>, subscriber: &Socket<Sub>, sent: &[&str]) -> Vec<String> {
    for text in sent {
        publisher.send([*text, "body"]).unwrap();
    }
    publisher.send("~end").unwrap();
    let mut heard = Vec::new();
    loop {
        let message = subscriber.recv_timeout(SOON).unwrap();
        if message.body() == b"~end" {
            return heard;
        }
        assert_eq!(message.get(1).map(|frame| frame.as_slice()), Some(&b"body"[..]));
        heard.push(message.to_text().into_owned());
    }
}

#[test]
fn a_subscriber_hears_what_begins_with_one_of_its_topics() {
    let sent = ["", "a", "ab", "abc", "b", "ba", "\0", "A"];
    for transport in TRANSPORTS {
        for (topics, expected) in [
            (&["a"][..], &["a", "ab", "abc"][..]),
            (&["ab", "b"], &["ab", "abc", "b", "ba"]),
            (&["ab", "abc", "a"], &["a", "ab", "abc"]),
            (&["abcd", "c"], &[]),
            (&[""], &sent),
            (&["", "a"], &sent),
            (&["\0"], &["\0"]),
        ] {
            let context = Context::new();
            let publisher = context.publish().bind(transport.fresh()).unwrap();
            let subscriber = context.subscribe().connect(endpoint(&publisher)).unwrap();
            subscriber.subscribe("~end").unwrap();
            settle(&publisher, &subscriber);
            for topic in topics {
                subscriber.subscribe(topic).unwrap();
            }
            // The mark of a second settling shows that the topics are known. With the empty topic the copies of the first
            // mark that are still on their way are heard, too, and only a probe shows that the publisher knows it.
            if topics.contains(&"") {
                publish_until_heard(&publisher, &subscriber, "probe");
                publisher.send("last").unwrap();
                while subscriber.recv_timeout(SOON).unwrap().body() != b"last" {}
            } else {
                settle(&publisher, &subscriber);
            }
            assert_eq!(heard(&publisher, &subscriber, &sent), expected, "{transport:?} {topics:?}");
        }
    }
}

#[test]
fn topics_around_the_length_of_a_short_frame_are_understood() {
    // SUBSCRIBE has 10 bytes before the topic; the older form has one.
    let lengths = [0, 1, 244, 245, 246, 247, 253, 254, 255, 256, 257, 65_536];
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().bind(transport.fresh()).unwrap();
        for length in lengths {
            let topic = "t".repeat(length);
            let subscriber =
                context.subscribe().topic(&topic).connect(endpoint(&publisher)).unwrap();
            publisher.wait_for_subscribers(1, SOON).unwrap();
            publisher.send([&topic[..], "body"]).unwrap();
            let got = subscriber.recv_timeout(SOON).unwrap();
            assert_eq!(texts(&got), [&topic[..], "body"], "{transport:?}");
            drop(subscriber);
            wait_until("the subscriber is forgotten", || publisher.subscribers() == 0);
        }
    }
}

#[test]
fn a_publisher_is_told_in_the_form_that_its_version_reads() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    for length in [0, 1, 244, 245, 246, 247, 254, 255, 256] {
        let topic = vec![b't'; length];
        let context = Context::new();
        let subscriber = context.subscribe().topic(&topic).handshake_timeout(SOON);
        let _subscriber = subscriber.connect(&address).unwrap();
        let mut new = Raw::accept(&listener);
        new.shake_hands(1, "PUB", b"");
        let expected = [&b"\x09SUBSCRIBE"[..], &topic].concat();
        assert_eq!(new.read_frame(), (COMMAND, expected));
        drop(context);
        let context = Context::new();
        let subscriber = context.subscribe().topic(&topic).handshake_timeout(SOON);
        let subscriber = subscriber.connect(&address).unwrap();
        let mut old = Raw::accept(&listener);
        old.shake_hands(0, "PUB", b"");
        assert_eq!(old.read_frame(), (0, [&b"\x01"[..], &topic].concat()));
        assert!(subscriber.unsubscribe(&topic).unwrap());
        assert_eq!(old.read_frame(), (0, [&b"\0"[..], &topic].concat()));
        old.send(&raw::message(&[b"heard by nobody"]));
        wait_until("it is filtered", || {
            assert!(subscriber.try_recv().is_err());
            subscriber.stats().filtered == 1
        });
        // Before the end of its connection: it must not connect again, and be accepted in place of the next one.
        drop((subscriber, context));
    }
}

#[test]
fn subscriptions_in_either_form_are_accepted_and_counted() {
    for minor in [0, 1] {
        let context = Context::new();
        let publisher =
            context.publish().handshake_timeout(SOON).bind("tcp://127.0.0.1:0").unwrap();
        let mut peer = Raw::connect(&endpoint(&publisher));
        peer.shake_hands(minor, "SUB", b"");
        let mut changes = raw::command("SUBSCRIBE", b"a");
        changes.extend(raw::message(&[b"\x01a"]));
        changes.extend(raw::message(&[b"\x01end"]));
        changes.extend(raw::command("CANCEL", b"a"));
        peer.send(&changes);
        peer.wait_heard();
        publisher.send("a").unwrap();
        assert_eq!(peer.read_frame(), (0, b"a".to_vec()));
        // The second one is taken back too.
        peer.send(&raw::message(&[b"\0a"]));
        peer.wait_heard();
        publisher.send("a").unwrap();
        publisher.send("end").unwrap();
        assert_eq!(peer.read_frame(), (0, b"end".to_vec()));
    }
}

#[test]
fn a_subscription_made_twice_holds_until_it_is_taken_back_twice() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().bind(transport.fresh()).unwrap();
        let subscriber =
            context.subscribe().topic("~end").topic("a").connect(endpoint(&publisher)).unwrap();
        subscriber.subscribe("a").unwrap();
        assert!(subscriber.unsubscribe("a").unwrap());
        settle(&publisher, &subscriber);
        assert_eq!(heard(&publisher, &subscriber, &["a", "b"]), ["a"]);
        assert!(subscriber.unsubscribe("a").unwrap());
        assert!(!subscriber.unsubscribe("a").unwrap());
        settle(&publisher, &subscriber);
        assert!(heard(&publisher, &subscriber, &["a", "b"]).is_empty());
    }
}

#[test]
fn a_burst_reaches_all_of_many_subscribers_though_nothing_follows_it() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().no_drop(true).bind(transport.fresh()).unwrap();
        let subscribers: Vec<_> = (0..9)
            .map(|_| context.subscribe().topic("").connect(endpoint(&publisher)).unwrap())
            .collect();
        publisher.wait_for_subscribers(subscribers.len(), SOON).unwrap();
        for burst in [1, 3, 500] {
            (0..burst).for_each(|number| publisher.send(number.to_string()).unwrap());
            for subscriber in &subscribers {
                for number in 0..burst {
                    let message = subscriber.recv_timeout(SOON).unwrap();
                    assert_eq!(message.to_text(), number.to_string(), "{transport:?}");
                }
            }
        }
    }
}

#[test]
fn what_goes_to_all_arrives_after_what_went_to_one_of_them() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().no_drop(true).bind(transport.fresh()).unwrap();
        let [one, other] = [["all", "one"], ["all", "other"]].map(|[first, second]| {
            let subscriber = context.subscribe().topic(first).topic(second);
            subscriber.connect(endpoint(&publisher)).unwrap()
        });
        publisher.wait_for_subscribers(2, SOON).unwrap();
        for _ in 0..3 {
            (0..20).for_each(|_| publisher.send("one").unwrap());
            (0..20).for_each(|_| assert_eq!(one.recv_timeout(SOON).unwrap().body(), b"one"));
            // Meanwhile the reactor strikes the outbox off its list.
            assert_silent(other.recv_timeout(MOMENT));
            (0..20).for_each(|_| publisher.send("all").unwrap());
            for subscriber in [&one, &other] {
                for _ in 0..20 {
                    assert_eq!(subscriber.recv_timeout(SOON).unwrap().body(), b"all");
                }
            }
        }
    }
}

#[test]
fn publications_stay_in_order_while_those_who_want_them_come_and_go() {
    const ROUND: usize = 700;
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().no_drop(true).bind(transport.fresh()).unwrap();
        let subscriber = |topic: &str| {
            let builder = context.subscribe().topic(topic).recv_hwm(10_000);
            builder.connect(endpoint(&publisher)).unwrap()
        };
        // Bursts of different lengths: some fill a unit, some do not, some are single messages.
        let topic = |number: usize| if number * number % 97 < 40 { "x" } else { "y" };
        let publish = |round: usize| {
            for number in round * ROUND..(round + 1) * ROUND {
                publisher.send(format!("{} {number}", topic(number))).unwrap();
            }
        };
        let hears = |subscriber: &Socket<Sub>, round: usize, wanted: &str| {
            for number in round * ROUND..(round + 1) * ROUND {
                if wanted.is_empty() || topic(number) == wanted {
                    let message = subscriber.recv_timeout(SOON).unwrap();
                    assert_eq!(message.to_text(), format!("{} {number}", topic(number)));
                }
            }
        };
        let (all, too, xs) = (subscriber(""), subscriber(""), subscriber("x"));
        publisher.wait_for_subscribers(3, SOON).unwrap();
        publish(0);
        hears(&xs, 0, "x");
        drop(xs);
        publish(1);
        [0, 1].iter().for_each(|&round| hears(&too, round, ""));
        drop(too);
        publish(2);
        wait_until("one is left", || publisher.stats().peers == 1);
        publish(3);
        (0..4).for_each(|round| hears(&all, round, ""));
        assert_eq!(publisher.stats().dropped_hwm, 0);
    }
}

#[test]
fn a_late_subscriber_misses_what_was_published_before_it_came() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().bind(transport.fresh()).unwrap();
        publisher.send("early").unwrap();
        let subscriber = context.subscribe().topic("").connect(endpoint(&publisher)).unwrap();
        publisher.wait_for_subscribers(1, SOON).unwrap();
        publisher.send("late").unwrap();
        assert_eq!(subscriber.recv_timeout(SOON).unwrap().body(), b"late");
        // What nobody wanted was not lost: nobody counts it.
        assert_eq!(publisher.stats().dropped_hwm, 0);
    }
}

#[test]
fn a_publisher_may_connect_to_its_subscribers() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let vacant = transport.vacant();
        let publisher = context.publish().connect(&vacant).unwrap();
        publisher.send("to nobody").unwrap();
        assert_eq!(publisher.stats().queued_messages, 0);
        let subscriber = context.subscribe().topic("").bind(&vacant).unwrap();
        publisher.wait_for_subscribers(1, SOON).unwrap();
        publisher.send("to one").unwrap();
        assert_eq!(subscriber.recv_timeout(SOON).unwrap().body(), b"to one");
    }
}

#[test]
fn a_slow_subscriber_in_process_loses_exactly_what_is_counted() {
    let context = Context::new();
    let publisher = context.publish().send_hwm(5).bind(unique("inproc://slow")).unwrap();
    let slow = context.subscribe().topic("").recv_hwm(5).connect(endpoint(&publisher)).unwrap();
    let fast = context.subscribe().topic("").connect(endpoint(&publisher)).unwrap();
    publisher.wait_for_subscribers(2, SOON).unwrap();
    for number in 0..100 {
        publisher.send(number.to_string()).unwrap();
        assert_eq!(fast.recv_timeout(SOON).unwrap().to_text(), number.to_string());
        // Five are with the slow one, five wait for it; on its way there a message counts against the publisher's mark.
        let waiting = (number + 1_u64).saturating_sub(5).min(5);
        wait_until("it is where it stays", || publisher.stats().queued_messages == waiting);
    }
    wait_until("what was dropped is counted", || publisher.stats().dropped_hwm == 90);
    for number in 0..10 {
        assert_eq!(slow.recv_timeout(SOON).unwrap().to_text(), number.to_string());
    }
    assert_silent(slow.recv_timeout(MOMENT));
    // What was received may be off its queue a moment later.
    wait_until("the queues are empty", || publisher.stats().queued_messages == 0);
    publisher.send("and on").unwrap();
    assert_eq!(slow.recv_timeout(SOON).unwrap().body(), b"and on");
    assert_eq!(publisher.stats().dropped_hwm, 90);
}

#[test]
fn a_slow_subscriber_on_a_wire_loses_exactly_what_is_counted_and_delays_nobody() {
    const COUNT: usize = 200;
    for transport in WIRES {
        let context = Context::new();
        let publisher = context
            .publish()
            .send_hwm(10)
            .kernel_send_buffer(KERNEL)
            .handshake_timeout(SOON)
            .bind(transport.fresh())
            .unwrap();
        let mut slow = Raw::peer(&endpoint(&publisher), "SUB");
        slow.send(&raw::command("SUBSCRIBE", b""));
        let fast = context.subscribe().topic("").connect(endpoint(&publisher)).unwrap();
        publisher.wait_for_subscribers(2, SOON).unwrap();
        let body = vec![0; 100_000];
        for number in 0..COUNT {
            publisher.send([number.to_string().into_bytes(), body.clone()]).unwrap();
            assert_eq!(fast.recv_timeout(SOON).unwrap().to_text(), number.to_string());
        }
        let reader = std::thread::spawn(move || slow.count_messages());
        publisher.clone().close(SOON).unwrap();
        let dropped = publisher.stats().dropped_hwm;
        assert!(dropped > 0);
        assert_eq!(reader.join().unwrap() + dropped as usize, COUNT, "{transport:?}");
    }
}

#[test]
fn without_dropping_a_publisher_waits_and_delivers_everything_it_accepted() {
    let context = Context::new();
    let publisher =
        context.publish().no_drop(true).send_hwm(5).bind(unique("inproc://no-drop")).unwrap();
    let slow = context.subscribe().topic("").recv_hwm(5).connect(endpoint(&publisher)).unwrap();
    let fast = context.subscribe().topic("").connect(endpoint(&publisher)).unwrap();
    publisher.wait_for_subscribers(2, SOON).unwrap();
    let sent = send_at_least(10, 0, |text, timeout| publisher.send_timeout(text, timeout));
    assert_eq!(sent, 10);
    assert_eq!(publisher.try_send("10"), Err(SendError::Full("10".into())));
    // A refused message reached nobody.
    for number in 0..10 {
        assert_eq!(fast.recv_timeout(SOON).unwrap().to_text(), number.to_string());
    }
    assert_silent(fast.recv_timeout(Duration::ZERO));
    let waiting = {
        let publisher = publisher.clone();
        std::thread::spawn(move || publisher.send_timeout("10", SOON))
    };
    for number in 0..11 {
        assert_eq!(slow.recv_timeout(SOON).unwrap().to_text(), number.to_string());
    }
    waiting.join().unwrap().unwrap();
    assert_eq!(fast.recv_timeout(SOON).unwrap().body(), b"10");
    assert_eq!(publisher.stats().dropped_hwm, 0);
}

#[test]
fn a_publisher_that_waits_goes_on_when_the_full_subscriber_leaves() {
    for transport in WIRES {
        let context = Context::new();
        let publisher = context.publish().no_drop(true).send_hwm(2).handshake_timeout(SOON);
        let publisher = publisher.bind(transport.fresh()).unwrap();
        let mut stuck = Raw::peer(&endpoint(&publisher), "SUB");
        stuck.send(&raw::command("SUBSCRIBE", b""));
        publisher.wait_for_subscribers(1, SOON).unwrap();
        let mut waiting = loop {
            // A moment without room is not yet a full subscriber: what is queued may still be on its way.
            while publisher.send_timeout(vec![0; 1 << 20], MOMENT).is_ok() {}
            let mut waiting = Task::new(publisher.send_async("to nobody"));
            match waiting.poll() {
                None => break waiting,
                Some(sent) => sent.unwrap(),
            }
        };
        drop(stuck);
        waiting.wait_woken();
        let mut sent = waiting.poll();
        while sent.is_none() {
            waiting.wait_woken();
            sent = waiting.poll();
        }
        assert_eq!(sent, Some(Ok(())));
    }
}

#[test]
fn more_subscriptions_than_any_mark_survive_a_reconnect() {
    const COUNT: usize = 3_000;
    for transport in TRANSPORTS {
        let context = Context::new();
        let first = context.publish().bind(transport.vacant()).unwrap();
        let address = endpoint(&first);
        let subscriber = context
            .subscribe()
            .send_hwm(1_000)
            .recv_hwm(2 * COUNT)
            .reconnect_interval(Duration::from_millis(5))
            .connect(&address)
            .unwrap();
        for topic in 0..COUNT {
            subscriber.subscribe(format!("{topic:04}")).unwrap();
        }
        settle(&first, &subscriber);
        first.unbind(&address).unwrap();
        wait_until("the publisher is gone", || subscriber.stats().peers == 0);
        let second = context.publish().send_hwm(2 * COUNT).bind(&address).unwrap();
        settle(&second, &subscriber);
        for topic in 0..COUNT {
            second.send(format!("{topic:04}")).unwrap();
        }
        for topic in 0..COUNT {
            let message = subscriber.recv_timeout(SOON).unwrap();
            assert_eq!(message.to_text(), format!("{topic:04}"), "{transport:?}");
        }
    }
}

#[test]
fn a_subscriber_that_leaves_is_forgotten() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().bind(transport.fresh()).unwrap();
        let stays = context.subscribe().topic("a").connect(endpoint(&publisher)).unwrap();
        let goes = context.subscribe().topic("a").connect(endpoint(&publisher)).unwrap();
        publisher.wait_for_subscribers(2, SOON).unwrap();
        goes.disconnect(endpoint(&publisher)).unwrap();
        wait_until("it is forgotten", || publisher.subscribers() == 1);
        assert_eq!(publisher.stats().peers, 1);
        publisher.send("a").unwrap();
        assert_eq!(stays.recv_timeout(SOON).unwrap().body(), b"a");
        assert_silent(goes.recv_timeout(MOMENT));
    }
}

#[test]
fn a_conflating_subscriber_keeps_the_newest_message_whole() {
    let context = Context::new();
    let publisher = context.publish().bind(unique("inproc://newest")).unwrap();
    let subscriber =
        context.subscribe().topic("a").conflate(true).connect(endpoint(&publisher)).unwrap();
    publisher.wait_for_subscribers(1, SOON).unwrap();
    for number in 0..100 {
        publisher.send(["a", &number.to_string()]).unwrap();
    }
    wait_until("all has arrived", || subscriber.stats().dropped_conflate == 99);
    assert_eq!(texts(&subscriber.recv_timeout(SOON).unwrap()), ["a", "99"]);
    assert_silent(subscriber.recv_timeout(Duration::ZERO));
}

#[test]
fn a_subscriber_that_is_waited_for_has_all_the_topics_it_came_with() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().bind(transport.fresh()).unwrap();
        for round in 0..50 {
            let builder = context.subscribe().topic("first").topic("second");
            let subscriber = builder.connect(endpoint(&publisher)).unwrap();
            publisher.wait_for_subscribers(1, SOON).unwrap();
            publisher.send("second").unwrap();
            let got = subscriber.recv_timeout(SOON);
            assert!(got.is_ok_and(|got| got.body() == b"second"), "{transport:?}, round {round}");
            drop(subscriber);
            wait_until("the subscriber is forgotten", || publisher.subscribers() == 0);
        }
    }
}
