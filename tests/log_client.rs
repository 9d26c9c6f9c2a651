//! What a client of a log in another process is told: of what it has appended, of where it failed and why; and what it can
//! count on when either side goes.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use harness::futures::{Task, block_on};
use harness::{SOON, TRANSPORTS, Transport, wait_until};
use peermq::log::storage::MemoryStorage;
use peermq::log::{
    Connection, DurablePublisher, DurableQueue, DurableSubscriber, Level, Log, LogClient,
    LogServer, MemberOptions, OffsetCommit, PeerError, Position, RemoteCode, SubscribeError,
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

/// How many records a topic has.
fn records(log: &Log, topic: &str) -> i64 {
    log.topic(topic).unwrap().describe().partitions.iter().map(|partition| partition.end).sum()
}

#[test]
fn what_was_appended_before_a_flush_is_there_when_it_returns() {
    let log = log_with("t");
    log.create_topic("u", TopicOptions::default().partitions(8)).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    for round in 1..=3 {
        let client = client(&context, server.endpoint());
        for n in 0..1000 {
            drop(client.append("t", "x").unwrap());
            drop(client.append_to("u", n % 8, Level::Durable, "x").unwrap());
        }
        match round {
            1 => client.flush(SOON).unwrap(),
            2 => block_on(client.flush_async()).unwrap(),
            _ => block_on(client.clone().close_async()).unwrap(),
        }
        assert_eq!((records(&log, "t"), records(&log, "u")), (round * 1000, round * 1000));
        client.flush(Duration::ZERO).unwrap();
    }
}

#[test]
fn a_flush_tells_how_many_records_were_refused_and_where_once() {
    let log = log_with("t");
    let small = TopicOptions::default().record_bytes_max(500).partitions(2);
    log.create_topic("small", small).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    for _ in 0..3 {
        drop(client.append_to("small", 1, Level::Written, &[b'x'; 1000]).unwrap());
        drop(client.append("t", "x").unwrap());
    }
    let error = client.flush(SOON).unwrap_err();
    assert_eq!(
        (error.records, &error.first.topic[..], error.first.partition),
        (3, "small", 1),
        "{error}"
    );
    assert_eq!(error.first.error.code(), Some(RemoteCode::TooLarge), "{error}");
    assert_eq!(error.endpoint, client.endpoint());
    assert_eq!(records(&log, "t"), 3);
    // Its ticket tells of it, too.
    let large = client.append_to("small", 1, Level::Written, &[b'x'; 1000]).unwrap();
    assert_eq!(large.wait().unwrap_err().code(), Some(RemoteCode::TooLarge));
    drop(client.append_to("small", 7, Level::Written, "x").unwrap());
    let error = client.close(SOON).unwrap_err();
    let mut told: Vec<_> =
        error.partitions.iter().map(|one| (one.partition, one.records)).collect();
    told.sort_unstable();
    assert_eq!(told, [(1, 1), (7, 1)], "{error}");
}

#[test]
fn a_record_that_no_request_has_room_for_is_refused_and_keeps_nothing_behind_it() {
    let log = log_with("t");
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let large = vec![b'x'; 66 << 20];
    let before = client.append("t", "x").unwrap();
    let refused = client.append("t", &large[..]).unwrap();
    let behind = client.append("t", "x").unwrap();
    assert_eq!(refused.wait().unwrap_err().code(), Some(RemoteCode::TooLarge));
    assert_eq!((before.wait().unwrap(), behind.wait().unwrap()), (0, 1));
    let error = client.flush(SOON).unwrap_err();
    assert_eq!(
        (error.records, error.first.error.code()),
        (1, Some(RemoteCode::TooLarge)),
        "{error}"
    );
    let error = client.append_batch("t", 0, Level::Durable, large).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::TooLarge), "{error}");
    client.close(SOON).unwrap();
    assert_eq!(records(&log, "t"), 2);
}

#[test]
fn what_has_no_answer_is_told_by_a_flush_and_pursued_and_by_a_close_and_given_up() {
    let log = log_with("t");
    let (context, endpoint) = (Context::new(), Transport::Tcp.vacant());
    let server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
    let client = client(&context, &endpoint.parse().unwrap());
    client.append("t", "x").unwrap().wait().unwrap();
    drop(server);
    for _ in 0..5 {
        drop(client.append("t", "x").unwrap());
    }
    wait_until("it says that the connection is lost", || {
        let error = client.flush(Duration::ZERO).unwrap_err();
        assert_eq!(
            (error.records, &error.first.topic[..], error.first.partition),
            (5, "t", 0),
            "{error}"
        );
        assert!(error.first.error.is_timeout(), "{error}");
        matches!(error.first.error.connection(), Some(Connection::Lost { .. }))
    });
    let flushing = client.clone();
    let mut task = Task::pending(async move { flushing.flush_async().await });
    let server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
    loop {
        task.wait_woken();
        if let Some(flushed) = task.poll() {
            break flushed.unwrap();
        }
    }
    assert_eq!(records(&log, "t"), 6);

    drop(server);
    drop(client.append("t", "x").unwrap());
    let other = client.clone();
    let error = client.close(Duration::ZERO).unwrap_err();
    assert_eq!(
        (error.records, &error.first.topic[..], error.first.partition),
        (1, "t", 0),
        "{error}"
    );
    assert!(matches!(other.append("t", "x").unwrap_err(), PeerError::Closed { .. }));
    assert!(matches!(other.topics().unwrap_err(), PeerError::Closed { .. }));
}

#[test]
fn a_close_ends_those_who_wait_for_room_and_those_who_wait_for_records() {
    let log = log_with("t");
    let (context, endpoint) = (Context::new(), Transport::Tcp.vacant());
    let server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
    let options = LogClient::options().timeout(SOON).buffer_bytes(1).batch_bytes(1);
    let client = options.connect(&context, &endpoint[..]).unwrap();
    client.append("t", "x").unwrap().wait().unwrap();
    let mut reader = client.read("t", 0, Position::Latest).unwrap();
    drop(server);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let appending = client.clone();
    let appender = thread::spawn(move || {
        loop {
            match appending.append("t", "x") {
                Ok(_) => drop(begun.send(())),
                Err(error) => return error,
            }
        }
    });
    let follower = thread::spawn(move || reader.next_timeout(SOON));
    has_begun.recv_timeout(SOON).unwrap();
    let error = client.close(Duration::ZERO).unwrap_err();
    assert!(error.records > 0, "{error}");
    assert!(matches!(appender.join().unwrap(), PeerError::Closed { .. }));
    assert!(matches!(follower.join().unwrap().unwrap_err(), PeerError::Closed { .. }));
}

/// What an error says, and how it stood with the connection then.
fn said<T: std::fmt::Debug>(outcome: Result<T, PeerError>) -> (String, Option<Connection>) {
    let error = outcome.unwrap_err();
    (error.to_string(), error.connection().cloned())
}

#[test]
fn whatever_is_asked_of_a_server_that_is_not_there_the_error_says_so_and_what_it_was_about() {
    let (context, endpoint) = (Context::new(), Transport::Tcp.vacant());
    let options = LogClient::options().timeout(Duration::from_millis(20));
    let client = options.connect(&context, &endpoint[..]).unwrap();
    let at = Position::Offset;
    let offsets = [OffsetCommit::new("t", 3, 9), OffsetCommit::new("u", 0, 1)];
    let (group, queue, lock) = (client.group("g"), client.queue("q"), Duration::from_secs(1));
    let asked = [
        (said(client.topics()), "ListTopics could"),
        (said(client.describe("t")), "DescribeTopic for topic t could"),
        (said(client.create_topic("t", TopicOptions::default())), "for topic t could"),
        (said(client.delete_topic("t")), "for topic t could"),
        (said(client.truncate_front("t", 3, 7)), "for topic t, partition 3, offset 7 could"),
        (said(client.offset_of("t", 3, at(7))), "for topic t, partition 3, offset 7 could"),
        (said(client.append("t", "x")), "DescribeTopic for topic t could"),
        (said(client.append_batch("t", 3, Level::Durable, vec![])), "topic t, partition 3 could"),
        (
            said(client.read("t", 3, at(9)).unwrap().next().unwrap()),
            "Fetch for topic t, partition 3, offset 9 could",
        ),
        (said(client.transaction().append("t", "x")), "DescribeTopic for topic t could"),
        (said(group.describe()), "DescribeGroup for group g could"),
        (said(group.leave("m")), "Leave for group g, member m could"),
        (said(group.set_offsets(&offsets[..1])), "Commit for group g, topic t, partition 3 could"),
        (
            said(group.commit("m", 1, &offsets)),
            "group g, member m, topic t, partition 3 and 1 more",
        ),
        (said(group.join(MemberOptions::new(["t"]))), "Heartbeat for group g in time"),
        (said(queue.acquire(1, lock, Duration::ZERO)), "Acquire for queue q could"),
        (said(queue.stats()), "QueueStats for queue q could"),
    ];
    for ((said, connection), expected) in asked {
        assert!(said.contains(&endpoint) && said.contains(expected), "{expected:?}: {said}");
        assert!(said.contains("there was never a connection"), "{said}");
        assert!(matches!(connection, Some(Connection::Never { .. })), "{said}: {connection:?}");
    }
    wait_until("it knows what is wrong", || {
        said(client.topics()).0.contains("never a connection: Connection refused")
    });
}

#[test]
fn an_error_tells_a_connection_that_was_lost_from_one_that_is_there() {
    let log = log_with("t");
    let (context, endpoint) = (Context::new(), Transport::Tcp.vacant());
    let server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
    let options = LogClient::options().timeout(Duration::from_secs(1));
    let client = options.connect(&context, &endpoint[..]).unwrap();
    // It may take longer than that until there is one.
    wait_until("there is a connection", || client.describe("t").is_ok());
    drop(server);
    wait_until("it is lost", || {
        let (said, connection) = said(client.describe("t"));
        assert!(said.contains("DescribeTopic for topic t"), "{said}");
        matches!(connection, Some(Connection::Lost { .. })) && said.contains("connection is lost")
    });
}

#[test]
fn a_lock_that_is_over_is_named_by_its_queue_and_its_record() {
    let log = log_with("t");
    let topic = log.topic("t").unwrap();
    (0..3).for_each(|offset| assert_eq!(topic.append("x").unwrap().wait().unwrap(), offset));
    let queue = DurableQueue::options().open(&log, "q", "t").unwrap();
    let context = Context::new();
    let server = LogServer::options().queue(&queue);
    let server = server.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let deliveries = queue.acquire(3, SOON, SOON).unwrap();
    let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.id).collect();
    queue.ack(&ids[1..]).unwrap();
    let local = queue.ack(&ids[1..]).unwrap_err().to_string();
    assert_eq!(local, "the lock of queue q on topic t, partition 0, offset 1 is over");
    let error = client.queue("q").ack(&ids).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::LockLost));
    let remote = error.remote().unwrap();
    assert_eq!(remote.topic.as_deref(), Some("t"), "{error}");
    assert_eq!((remote.partition, remote.offset), (Some(0), Some(1)), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("Settle for queue q, partition 0, offset 1: the lock of queue q"),
        "{said}"
    );
}

#[test]
fn a_subscriber_says_of_which_topic_records_are_missing() {
    let log = log_with("t");
    let topic = log.topic("t").unwrap();
    (0..3).for_each(|offset| assert_eq!(topic.append("x").unwrap().wait().unwrap(), offset));
    topic.truncate_front(0, 2).unwrap();
    let context = Context::new();
    let (live, replay) = (Transport::Tcp.vacant(), Transport::Tcp.vacant());
    let publisher = DurablePublisher::bind(&context, &log, "t", &live[..], &replay[..]).unwrap();
    let options = DurableSubscriber::options().client(LogClient::options().timeout(SOON));
    let subscriber = options.connect(&context, &live[..], &replay[..], "t", Position::Offset(0));
    let mut subscriber = subscriber.unwrap();
    let error = subscriber.next_timeout(SOON).unwrap_err().to_string();
    let expected = "records 0 to 2 of topic t, partition 0, the last one excluded, are removed";
    assert_eq!(error, expected);
    context.shutdown();
    let error = loop {
        match subscriber.next_timeout(SOON) {
            Err(SubscribeError::Peer(_)) | Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(error, "the context of the subscriber to topic t is closed");
    drop(publisher);
}
