//! What a client of a log in another process is told: of what it has appended, of where it failed and why; and what it can
//! count on when either side goes.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{SOON, TRANSPORTS, Transport, wait_until};
use peermq::log::storage::MemoryStorage;
use peermq::log::{
    DurablePublisher, DurableSubscriber, Log, LogClient, LogServer, Position, RemoteCode,
    TopicOptions,
};
use peermq::{Context, Endpoint};

/// Enough for one that is free a moment later to be missed.
const ROUNDS: usize = 300;

fn log_with(topic: &str) -> Log {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic(topic, TopicOptions::default()).unwrap();
    log
}

fn client(context: &Context, endpoint: &Endpoint) -> LogClient {
    LogClient::options().timeout(SOON).connect(context, endpoint.clone()).unwrap()
}

/// What is done meanwhile lets this be counted no more often than once in a millisecond, but for a few times.
#[track_caller]
fn assert_paced(count: impl Fn() -> u64, meanwhile: impl FnOnce()) {
    let (start, before) = (Instant::now(), count());
    meanwhile();
    let counted = u128::from(count() - before);
    let elapsed = start.elapsed();
    assert!(counted <= elapsed.as_millis() + 10, "{counted} times in {elapsed:?}");
}

#[test]
fn the_address_of_a_server_is_free_when_its_drop_returns() {
    let log = log_with("t");
    let context = Context::new();
    for endpoint in TRANSPORTS.map(Transport::vacant) {
        for _ in 0..ROUNDS {
            drop(LogServer::bind(&context, &log, &endpoint[..]).unwrap());
        }
    }
}

#[test]
fn the_addresses_of_a_publisher_are_free_when_its_drop_returns() {
    let log = log_with("t");
    let context = Context::new();
    for (live, replay) in TRANSPORTS.map(|transport| (transport.vacant(), transport.vacant())) {
        for _ in 0..ROUNDS {
            let bound = DurablePublisher::bind(&context, &log, "t", &live[..], &replay[..]);
            drop(bound.unwrap());
        }
    }
}

#[test]
fn a_client_without_room_for_records_appends_them_one_by_one() {
    let log = log_with("t");
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let options = LogClient::options().timeout(SOON).buffer_bytes(0).batch_bytes(0);
    let client = options.connect(&context, server.endpoint().clone()).unwrap();
    let tickets: Vec<_> = (0..50).map(|_| client.append("t", "x").unwrap()).collect();
    for (offset, ticket) in (0..).zip(tickets) {
        assert_eq!(ticket.wait().unwrap(), offset);
    }
}

#[test]
fn whoever_may_not_wait_at_a_server_or_gets_nothing_there_does_not_ask_without_a_pause() {
    const WHILE: Duration = Duration::from_millis(100);
    let log = log_with("t");
    let context = Context::new();
    for options in [
        LogServer::options().wait_max(Duration::ZERO),
        LogServer::options().fetch_bytes_max(0),
        LogServer::options().wait_max(Duration::ZERO).answer_bytes_max(0).request_bytes_max(0),
    ] {
        let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
        let client = client(&context, server.endpoint());
        let mut reader = client.read("t", 0, Position::Latest).unwrap();
        let before = reader.next_offset();
        assert_paced(
            || server.stats().requests,
            || assert!(reader.next_timeout(WHILE).unwrap().is_none()),
        );
        client.append("t", "x").unwrap().wait().unwrap();
        assert_eq!(reader.next_timeout(SOON).unwrap().unwrap().offset, before);
    }
}

#[test]
fn without_an_interval_neither_publisher_nor_subscriber_is_busy_with_nothing() {
    let log = log_with("t");
    let context = Context::new();
    let (live, replay) = (Transport::Tcp.vacant(), Transport::Tcp.vacant());
    let publisher = DurablePublisher::options().announce_interval(Duration::ZERO);
    let start = Instant::now();
    let publisher = publisher.bind(&context, &log, "t", &live[..], &replay[..]).unwrap();
    wait_until("it has announced a few times", || publisher.stats().announcements > 50);
    assert!(start.elapsed() >= Duration::from_millis(50), "{:?}", start.elapsed());
    drop(publisher);

    let publisher = DurablePublisher::options().announce_interval(SOON);
    let publisher = publisher.bind(&context, &log, "t", &live[..], &replay[..]).unwrap();
    let options = DurableSubscriber::options().client(LogClient::options().timeout(SOON));
    let options = options.silence(Duration::ZERO);
    let connected = options.connect(&context, &live[..], &replay[..], "t", Position::Earliest);
    let mut subscriber = connected.unwrap();
    assert_paced(
        || publisher.server().stats().requests,
        || assert!(subscriber.next_timeout(Duration::from_millis(100)).unwrap().is_none()),
    );
}

#[test]
fn an_offset_is_looked_for_where_it_is_said_to_be() {
    let log = log_with("t");
    let topic = log.topic("t").unwrap();
    (0..5).for_each(|offset| assert_eq!(topic.append("x").unwrap().wait().unwrap(), offset));
    topic.truncate_front(0, 2).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    for offset in 2..=5 {
        assert_eq!(client.offset_of("t", 0, Position::Offset(offset)).unwrap(), offset);
    }
    for offset in [1, 6] {
        let error = client.offset_of("t", 0, Position::Offset(offset)).unwrap_err();
        let remote = error.remote().unwrap();
        assert_eq!(remote.code, RemoteCode::OffsetOutOfRange, "{error}");
        assert_eq!((remote.earliest, remote.end), (Some(2), Some(5)), "{error}");
    }
    let error = client.offset_of("t", 3, Position::Offset(2)).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownPartition), "{error}");
    let error = client.offset_of("nothing", 0, Position::Offset(2)).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownTopic), "{error}");
}
