//! Publications that can be replayed: whatever is slow, lost or restarted, a subscriber gets each record once.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::{SOON, TRANSPORTS, Transport, unique, wait_until};
use peermq::Context;
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, Storage};
use peermq::log::{
    DurablePublisher, DurableSubscriber, Level, Log, LogClient, LogRecord, Position,
    SubscribeError, SubscriberOptions, TopicOptions,
};

const OFTEN: Duration = Duration::from_millis(20);

fn open(storage: &(impl Storage + Clone + 'static)) -> Log {
    Log::open_in(Arc::new(storage.clone()), "/log").unwrap()
}

fn log_with(topic: &str, partitions: u32) -> (MemoryStorage, Log) {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    log.create_topic(topic, TopicOptions::default().partitions(partitions)).unwrap();
    (storage, log)
}

/// A pair of endpoints: live and replay.
fn endpoints(transport: Transport) -> [String; 2] {
    [transport.vacant(), transport.vacant()]
}

fn publish(
    context: &Context,
    log: &Log,
    level: Level,
    [live, replay]: &[String; 2],
) -> DurablePublisher {
    let options = DurablePublisher::options().level(level).announce_interval(OFTEN);
    options.bind(context, log, "t", &live[..], &replay[..]).unwrap()
}

/// A publisher that is kept waiting on a busy machine is not taken for one that is gone.
fn options() -> SubscriberOptions {
    DurableSubscriber::options().client(LogClient::options().timeout(SOON)).silence(SOON)
}

fn subscribe(
    context: &Context,
    options: SubscriberOptions,
    [live, replay]: &[String; 2],
    from: Position,
) -> DurableSubscriber {
    options.connect(context, &live[..], &replay[..], "t", from).unwrap()
}

fn text(record: &LogRecord) -> String {
    String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec()).unwrap()
}

fn next(subscriber: &mut DurableSubscriber) -> String {
    let record = subscriber.next_timeout(SOON).unwrap();
    text(&record.unwrap_or_else(|| panic!("a record is missing: {:?}", subscriber.stats())))
}

/// The records of these numbers come, and in this order.
#[track_caller]
fn assert_numbers(subscriber: &mut DurableSubscriber, numbers: std::ops::Range<usize>) {
    for number in numbers {
        assert_eq!(next(subscriber), number.to_string(), "{:?}", subscriber.stats());
    }
}

fn publish_numbers(publisher: &DurablePublisher, numbers: std::ops::Range<usize>) {
    for number in numbers {
        publisher.publish(&number.to_string()).unwrap().wait().unwrap();
    }
}

/// Waits until the subscriber is connected and knows of nothing that is missing.
fn join(publisher: &DurablePublisher, subscriber: &mut DurableSubscriber) {
    wait_until("the subscriber is live", || {
        let none = subscriber.next_timeout(Duration::from_millis(1)).unwrap();
        assert!(none.is_none());
        subscriber.is_live() && publisher.subscribers() > 0
    });
}

#[test]
fn a_late_joiner_gets_everything_and_then_what_comes() {
    for transport in TRANSPORTS {
        let (_storage, log) = log_with("t", 1);
        let (context, at) = (Context::new(), endpoints(transport));
        let publisher = publish(&context, &log, Level::Durable, &at);
        publish_numbers(&publisher, 0..50);
        let mut subscriber = subscribe(&context, options(), &at, Position::Earliest);
        assert_numbers(&mut subscriber, 0..50);
        join(&publisher, &mut subscriber);
        let before = subscriber.stats();
        publish_numbers(&publisher, 50..100);
        assert_numbers(&mut subscriber, 50..100);
        let stats = subscriber.stats();
        assert_eq!(stats.replayed + stats.live, 100);
        assert!(stats.live > 0 && before.joined > 0, "{stats:?}");
        assert_eq!(subscriber.position(0), Some(100));
    }
}

#[test]
fn a_subscriber_of_the_end_gets_only_what_comes() {
    let (_storage, log) = log_with("t", 1);
    let (context, at) = (Context::new(), endpoints(Transport::Tcp));
    let publisher = publish(&context, &log, Level::Written, &at);
    publish_numbers(&publisher, 0..5);
    let mut subscriber = subscribe(&context, options(), &at, Position::Latest);
    publish_numbers(&publisher, 5..8);
    assert_numbers(&mut subscriber, 5..8);
    let own = options().start(0, Position::Offset(3));
    let mut from_three = subscribe(&context, own, &at, Position::Latest);
    assert_numbers(&mut from_three, 3..8);
}

#[test]
fn a_subscriber_that_is_slow_misses_publications_and_no_record_not_even_the_last() {
    let (_storage, log) = log_with("t", 1);
    let (context, at) = (Context::new(), endpoints(Transport::Inproc));
    let publisher = DurablePublisher::options()
        .level(Level::Written)
        .announce_interval(OFTEN)
        .send_hwm(2)
        .bind(&context, &log, "t", &at[0][..], &at[1][..])
        .unwrap();
    let mut subscriber = subscribe(&context, options().recv_hwm(2), &at, Position::Earliest);
    join(&publisher, &mut subscriber);
    publish_numbers(&publisher, 0..500);
    wait_until("publications were dropped", || publisher.stats().dropped > 0);
    assert_numbers(&mut subscriber, 0..500);
    let stats = subscriber.stats();
    assert!(stats.fell_back > 0 && stats.replayed > 0, "{stats:?}");
    join(&publisher, &mut subscriber);
    publish_numbers(&publisher, 500..501);
    assert_numbers(&mut subscriber, 500..501);
}

#[test]
fn what_others_append_is_published_too_and_partitions_keep_their_order() {
    let (_storage, log) = log_with("t", 3);
    let (context, at) = (Context::new(), endpoints(Transport::Tcp));
    let publisher = publish(&context, &log, Level::Written, &at);
    let mut subscriber = subscribe(&context, options(), &at, Position::Earliest);
    join(&publisher, &mut subscriber);
    let client = LogClient::options().timeout(SOON);
    let client = client.connect(&context, publisher.replay_endpoint().clone()).unwrap();
    let topic = log.topic("t").unwrap();
    let writer = thread::spawn(move || {
        for n in 0..300u32 {
            let partition = n % 3;
            if n % 2 == 0 {
                let ticket = client.append_to("t", partition, Level::Written, &n.to_string());
                ticket.unwrap().wait().unwrap();
            } else {
                let ticket = topic.append_to(partition, Level::Written, &n.to_string());
                ticket.unwrap().wait().unwrap();
            }
        }
    });
    let mut last = [None; 3];
    for _ in 0..300 {
        let record = subscriber.next_timeout(SOON).unwrap().unwrap();
        let number: u32 = text(&record).parse().unwrap();
        let before = &mut last[record.partition as usize];
        assert_eq!(number, before.map_or(record.partition, |before: u32| before + 3));
        *before = Some(number);
    }
    writer.join().unwrap();
    assert!(subscriber.stats().live > 0);
}

#[test]
fn a_restart_of_the_publisher_leaves_no_gap_and_no_duplicate() {
    for transport in [Transport::Tcp, Transport::Ipc] {
        let (storage, mut log) = log_with("t", 1);
        let (outer, at) = (Context::new(), endpoints(transport));
        let mut context = Context::new();
        let mut publisher = publish(&context, &log, Level::Durable, &at);
        let mut subscriber = subscribe(&outer, options(), &at, Position::Earliest);
        for round in 0..4 {
            publish_numbers(&publisher, round * 20..round * 20 + 10);
            assert_numbers(&mut subscriber, round * 20..round * 20 + 5);
            // Five of these are on their way when it goes, or lost.
            drop(publisher);
            drop(context);
            drop(log);
            log = open(&storage);
            // Appended while nobody publishes.
            for number in round * 20 + 10..round * 20 + 20 {
                let topic = log.topic("t").unwrap();
                topic.append(&number.to_string()).unwrap().wait().unwrap();
            }
            context = Context::new();
            publisher = publish(&context, &log, Level::Durable, &at);
            assert_numbers(&mut subscriber, round * 20 + 5..round * 20 + 20);
        }
        assert_eq!(subscriber.position(0), Some(80));
    }
}

#[test]
fn a_subscriber_that_starts_again_goes_on_where_it_was() {
    let (_storage, log) = log_with("t", 1);
    let (context, at) = (Context::new(), endpoints(Transport::Tcp));
    let publisher = publish(&context, &log, Level::Durable, &at);
    publish_numbers(&publisher, 0..10);
    let mut position = 0;
    for round in 0..5usize {
        let from = Position::Offset(position);
        let own = Context::new();
        let mut subscriber = subscribe(&own, options(), &at, from);
        publish_numbers(&publisher, 10 + round * 3..13 + round * 3);
        assert_numbers(&mut subscriber, round * 4..round * 4 + 4);
        position = subscriber.position(0).unwrap();
    }
    assert_eq!(position, 20);
}

#[test]
fn a_subscriber_reads_on_in_the_log_while_nothing_is_published() {
    let (_storage, log) = log_with("t", 1);
    let context = Context::new();
    let server = peermq::log::LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let at = [Transport::Tcp.vacant(), server.endpoint().to_string()];
    let mut subscriber = subscribe(&context, options().silence(OFTEN), &at, Position::Earliest);
    for number in 0..3 {
        log.topic("t").unwrap().append(&number.to_string()).unwrap().wait().unwrap();
        assert_numbers(&mut subscriber, number..number + 1);
    }
}

#[test]
fn records_that_were_removed_before_they_were_read_are_told_of() {
    let (_storage, log) = log_with("t", 1);
    let (context, at) = (Context::new(), endpoints(Transport::Tcp));
    let publisher = publish(&context, &log, Level::Durable, &at);
    publish_numbers(&publisher, 0..10);
    let mut subscriber = subscribe(&context, options(), &at, Position::Earliest);
    log.topic("t").unwrap().truncate_front(0, 7).unwrap();
    match subscriber.next_timeout(SOON) {
        Err(SubscribeError::Expired { partition: 0, wanted: 0, resumes_at: 7, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_numbers(&mut subscriber, 7..10);
}

/// A power cut that takes the records from 5 on, or some of them; those before are durable.
fn cut(storage: &FaultyStorage) -> FaultyStorage {
    for seed in 0..1000 {
        let image = storage.power_cut(seed);
        // Looked at in a copy: opening writes.
        let log = open(&image.storage());
        let end = log.topic("t").unwrap().describe().partitions[0].end;
        assert!(end >= 5, "what was durable is there");
        if end < 10 {
            return image.storage();
        }
    }
    panic!("no power cut takes anything");
}

/// A publisher at level `written` of which a power cut takes records that a subscriber has seen; others get their
/// offsets. What the subscriber sees: the values, and whether it was told of the loss.
fn after_a_power_cut(options: SubscriberOptions) -> (Vec<String>, Option<(i64, i64)>) {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    log.create_topic("t", TopicOptions::default()).unwrap();
    let (outer, at) = (Context::new(), endpoints(Transport::Tcp));
    let context = Context::new();
    let publisher = publish(&context, &log, Level::Written, &at);
    let durable_only = format!("{options:?}").contains("durable_only: true");
    let mut subscriber = subscribe(&outer, options, &at, Position::Earliest);
    let mut seen = Vec::new();
    publish_numbers(&publisher, 0..5);
    log.sync().unwrap();
    publish_numbers(&publisher, 5..10);
    for _ in 0..if durable_only { 5 } else { 10 } {
        seen.push(next(&mut subscriber));
    }
    let survivor = cut(&storage);
    drop((publisher, context, log));
    let log = open(&survivor);
    let end = log.topic("t").unwrap().describe().partitions[0].end;
    for number in end..15 {
        let topic = log.topic("t").unwrap();
        topic.append(&format!("new {number}")).unwrap().wait().unwrap();
    }
    let context = Context::new();
    let _publisher = publish(&context, &log, Level::Written, &at);
    let mut told = None;
    loop {
        match subscriber.next_timeout(SOON) {
            Ok(record) => {
                let record = record.unwrap();
                seen.push(text(&record));
                if record.offset == 14 {
                    return (seen, told);
                }
            }
            Err(SubscribeError::Diverged { partition: 0, seen: before, resumes_at, .. }) => {
                assert_eq!((told, resumes_at), (None, end));
                told = Some((before, resumes_at));
                seen.truncate(resumes_at as usize);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn records_that_a_power_cut_took_after_they_were_seen_are_told_of_and_replaced() {
    let (seen, told) = after_a_power_cut(options());
    let (before, resumes_at) = told.unwrap();
    assert_eq!(before, 10);
    assert!((5..10).contains(&resumes_at));
    assert_eq!(seen.len(), 15);
    for (number, value) in seen.iter().enumerate() {
        let new = number as i64 >= resumes_at;
        let expected = if new { format!("new {number}") } else { number.to_string() };
        assert_eq!(*value, expected);
    }
}

#[test]
fn a_subscriber_of_durable_records_never_sees_one_that_a_power_cut_takes() {
    let (seen, told) = after_a_power_cut(options().durable_only(true));
    assert_eq!(told, None);
    assert_eq!(seen.len(), 15);
}

#[test]
fn a_topic_whose_name_begins_like_another_is_not_mixed_up_with_it() {
    let (_storage, log) = log_with("t", 1);
    log.create_topic("tt", TopicOptions::default()).unwrap();
    let (context, at) = (Context::new(), [unique("inproc://live"), unique("inproc://log")]);
    let publisher = publish(&context, &log, Level::Durable, &at);
    let (live, replay) = (publisher.live_endpoint(), publisher.replay_endpoint());
    let mut other = options().connect(&context, live, replay, "tt", Position::Earliest).unwrap();
    publish_numbers(&publisher, 0..3);
    log.topic("tt").unwrap().append("other").unwrap().wait().unwrap();
    assert_eq!(next(&mut other), "other");
    assert_eq!(other.stats().unreadable, 0);
}
