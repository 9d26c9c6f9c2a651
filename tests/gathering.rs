//! What a quick publisher gathers for several subscribers (invariant O6): nothing of it is lost, whoever leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use harness::{KERNEL, SOON, TRANSPORTS, Transport, endpoint, send_at_least};
use peermq::{Context, Pub, Socket, Sub};

const MANY: usize = 1_000_000;

/// Two subscribers to everything, which read as fast as the reactor.
fn two_subscribers(context: &Context, publisher: &Socket<Pub>) -> [Socket<Sub>; 2] {
    let subscribers = [(); 2].map(|()| {
        let builder = context.subscribe().topic("").recv_hwm(MANY);
        builder.connect(endpoint(publisher)).unwrap()
    });
    publisher.wait_for_subscribers(2, SOON).unwrap();
    subscribers
}

fn publish_numbers(publisher: &Socket<Pub>, count: usize) {
    (0..count).for_each(|number| publisher.send(number.to_string()).unwrap());
}

fn assert_hears_numbers(subscriber: &Socket<Sub>, count: usize) {
    for number in 0..count {
        assert_eq!(subscriber.recv_timeout(SOON).unwrap().to_text(), number.to_string());
    }
}

#[test]
fn a_quick_publishers_numbers_reach_every_subscriber_in_order() {
    for transport in TRANSPORTS {
        let context = Context::new();
        // With room for all of them nothing depends on when the threads run; small marks are tried where there is one thread only
        // (`socket::gathering::tests`).
        let publisher = context.publish().send_hwm(MANY).bind(transport.fresh()).unwrap();
        let subscribers = two_subscribers(&context, &publisher);
        publish_numbers(&publisher, 2_000);
        subscribers.iter().for_each(|subscriber| assert_hears_numbers(subscriber, 2_000));
        assert_eq!(publisher.stats().dropped_hwm, 0);
    }
}

#[test]
fn a_peer_that_is_disconnected_gets_what_was_published_before() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let subscribers = [(); 2].map(|()| {
            context.subscribe().topic("").recv_hwm(MANY).bind(transport.fresh()).unwrap()
        });
        let publisher = context.publish().connect(endpoint(&subscribers[0])).unwrap();
        publisher.connect(endpoint(&subscribers[1])).unwrap();
        publisher.wait_for_subscribers(2, SOON).unwrap();
        publish_numbers(&publisher, 100);
        publisher.disconnect(endpoint(&subscribers[1])).unwrap();
        subscribers.iter().for_each(|subscriber| assert_hears_numbers(subscriber, 100));
    }
}

#[test]
fn peers_of_an_endpoint_that_is_unbound_get_what_was_published_before() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().bind(transport.fresh()).unwrap();
        let subscribers = two_subscribers(&context, &publisher);
        publish_numbers(&publisher, 100);
        publisher.unbind(endpoint(&publisher)).unwrap();
        subscribers.iter().for_each(|subscriber| assert_hears_numbers(subscriber, 100));
    }
}

#[test]
fn a_publisher_that_must_not_drop_asks_every_peer_for_room_that_it_sent_to_alone() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().no_drop(true).send_hwm(100).kernel_send_buffer(KERNEL);
        let publisher = publisher.bind(transport.fresh()).unwrap();
        let all = context.subscribe().topic("").recv_hwm(1);
        let all = all.connect(endpoint(&publisher)).unwrap();
        let xs = context.subscribe().topic("x").recv_hwm(MANY);
        let xs = xs.connect(endpoint(&publisher)).unwrap();
        publisher.wait_for_subscribers(2, SOON).unwrap();
        (0..3).for_each(|_| publisher.send("x").unwrap());
        // To one of them alone, until it is full: in process when both marks are reached. On a wire nobody can tell, and what is
        // accepted after all must arrive.
        let inproc = transport == Transport::Inproc;
        let surely = if inproc { 98 } else { 0 };
        let alone = send_at_least(surely, 0, |number, time| {
            publisher.send_timeout([number, "of many bytes ".repeat(100)], time)
        });
        let accepted = (0..50).take_while(|_| publisher.try_send("x").is_ok()).count();
        assert!(!inproc || (alone, accepted) == (98, 0), "{alone}, {accepted}");
        assert_eq!(publisher.stats().dropped_hwm, 0, "{transport:?}");
        for _ in 0..3 + accepted {
            assert_eq!(xs.recv_timeout(SOON).unwrap().body(), b"x");
        }
        let came: Vec<_> = (0..3 + alone + accepted)
            .map(|_| all.recv_timeout(SOON).unwrap().to_text().into_owned())
            .collect();
        assert_eq!(came.iter().filter(|text| *text == "x").count(), 3 + accepted, "{transport:?}");
    }
}
