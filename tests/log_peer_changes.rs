//! Readers, subscribers and producers in other places, when what they follow changes under them: other writers, other
//! options, another topic of the same name, media that fail, callers that are in a hurry.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Wake, Waker};
use std::time::Duration;

use harness::{SOON, Transport, wait_until};
use peermq::Context;
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation, Storage};
use peermq::log::{
    AppendTicket, DurablePublisher, DurableSubscriber, Level, Log, LogClient, LogRecord, LogServer,
    NewRecord, Position, RemoteCode, SubscribeError, SubscriberOptions, TopicOptions,
};

const OFTEN: Duration = Duration::from_millis(20);

fn open(storage: &(impl Storage + Clone + 'static)) -> Log {
    Log::open_in(Arc::new(storage.clone()), "/log").unwrap()
}

fn written() -> TopicOptions {
    TopicOptions::default().level(Level::Written)
}

fn append(log: &Log, values: impl IntoIterator<Item = String>) {
    let topic = log.topic("t").unwrap();
    for value in values {
        topic.append(&value).unwrap().wait().unwrap();
    }
}

fn numbers(numbers: std::ops::Range<i64>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

fn new(numbers: std::ops::Range<i64>) -> Vec<String> {
    numbers.map(|number| format!("new {number}")).collect()
}

/// A pair of endpoints: live and replay.
fn endpoints() -> [String; 2] {
    [Transport::Tcp.vacant(), Transport::Tcp.vacant()]
}

fn publish(context: &Context, log: &Log, [live, replay]: &[String; 2]) -> DurablePublisher {
    let options = DurablePublisher::options().level(Level::Written).announce_interval(OFTEN);
    options.bind(context, log, "t", &live[..], &replay[..]).unwrap()
}

/// A publisher that is kept waiting on a busy machine is not taken for one that is gone.
fn options() -> SubscriberOptions {
    DurableSubscriber::options().client(LogClient::options().timeout(SOON)).silence(SOON)
}

fn subscribe(context: &Context, [live, replay]: &[String; 2], from: Position) -> DurableSubscriber {
    options().connect(context, &live[..], &replay[..], "t", from).unwrap()
}

fn client(context: &Context, server: &LogServer) -> LogClient {
    LogClient::options().timeout(SOON).connect(context, server.endpoint().clone()).unwrap()
}

fn text(record: &LogRecord) -> String {
    String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec()).unwrap()
}

#[track_caller]
fn assert_next(subscriber: &mut DurableSubscriber, values: &[String]) {
    for value in values {
        let record = subscriber.next_timeout(SOON).unwrap();
        let record = record.unwrap_or_else(|| panic!("no {value}: {:?}", subscriber.stats()));
        assert_eq!(text(&record), *value, "{:?}", subscriber.stats());
    }
}

/// Waits until the subscriber is connected and knows of nothing that is missing.
fn join(publisher: &DurablePublisher, subscriber: &mut DurableSubscriber) {
    wait_until("the subscriber is live", || {
        assert!(subscriber.next_timeout(Duration::from_millis(1)).unwrap().is_none());
        subscriber.is_live() && publisher.subscribers() > 0
    });
}

#[test]
fn a_reader_that_asks_ahead_takes_another_writer_for_no_loss() {
    let storage = MemoryStorage::new();
    open(&storage).create_topic("t", written()).unwrap();
    let value = "x".repeat(1000);
    for _ in 0..3 {
        append(&open(&storage), vec![value.clone(); 50]);
    }
    let (log, context) = (open(&storage), Context::new());
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    // Answers hold records of two writers, and the next one is asked for before they are looked at.
    let options = LogClient::options().timeout(SOON).fetch_bytes(16 << 10);
    let client = options.connect(&context, server.endpoint().clone()).unwrap();
    let reader = client.read("t", 0, Position::Earliest).unwrap();
    let offsets: Vec<i64> = reader.take(150).map(|record| record.unwrap().offset).collect();
    assert_eq!(offsets, (0..150).collect::<Vec<_>>());
}

#[test]
fn a_reader_of_the_end_is_told_of_records_that_a_power_cut_took_before_it() {
    let (storage, end) = (FaultyStorage::new(), 10);
    let log = ten_of_which_five_are_durable(&storage);
    let (outer, at) = (Context::new(), endpoints());
    let first = Context::new();
    let publisher = publish(&first, &log, &at);
    let mut subscriber = subscribe(&outer, &at, Position::Latest);
    let reading = LogClient::options().timeout(SOON).connect(&outer, &at[1][..]).unwrap();
    let mut reader = reading.read("t", 0, Position::Latest).unwrap();
    assert!(reader.next().is_none());
    join(&publisher, &mut subscriber);
    assert_eq!(subscriber.position(0), Some(end));
    let survivor = cut(&storage);
    drop((publisher, first, log));
    let log = open(&survivor);
    let left = log.topic("t").unwrap().describe().partitions[0].end;
    append(&log, new(left..15));
    let _publisher = publish(&outer, &log, &at);
    let mut told = None;
    while told.is_none() {
        match subscriber.next_timeout(SOON) {
            Err(SubscribeError::Diverged { seen, resumes_at, .. }) => {
                told = Some((seen, resumes_at))
            }
            other => assert!(other.unwrap().is_none(), "nothing is handed out before it is told"),
        }
    }
    assert_eq!(told, Some((end, left)));
    assert_next(&mut subscriber, &new(left..15));
    let error = reader.next().unwrap().unwrap_err();
    assert_eq!(error.remote().unwrap().offset, Some(left), "{error}");
}

#[test]
fn a_subscriber_that_goes_on_at_a_bookmark_is_told_of_records_that_a_power_cut_took_before_it() {
    let storage = FaultyStorage::new();
    let log = ten_of_which_five_are_durable(&storage);
    let (outer, at) = (Context::new(), endpoints());
    let first = Context::new();
    let publisher = publish(&first, &log, &at);
    let mut subscriber = subscribe(&outer, &at, Position::Earliest);
    assert_next(&mut subscriber, &numbers(0..10));
    let kept = subscriber.bookmark(0).unwrap().to_string();
    let survivor = cut(&storage);
    drop((subscriber, publisher, first, log));
    let log = open(&survivor);
    let left = log.topic("t").unwrap().describe().partitions[0].end;
    append(&log, new(left..15));
    let _publisher = publish(&outer, &log, &at);
    let mut subscriber = resume(&outer, &at, &kept);
    assert_eq!(subscriber.position(0), Some(10));
    match subscriber.next_timeout(SOON) {
        Err(SubscribeError::Diverged { partition: 0, seen: 10, resumes_at, .. }) => {
            assert_eq!(resumes_at, left);
        }
        other => panic!("{other:?}"),
    }
    assert_next(&mut subscriber, &new(left..15));
    // What it has seen since is nobody's loss.
    let kept = subscriber.bookmark(0).unwrap().to_string();
    append(&log, new(15..16));
    assert_next(&mut resume(&outer, &at, &kept), &new(15..16));
}

#[test]
fn a_bookmark_in_another_topic_of_the_same_name_is_told_of() {
    let (log, context, at) = (open(&MemoryStorage::new()), Context::new(), endpoints());
    log.create_topic("t", written()).unwrap();
    append(&log, numbers(0..5));
    let _publisher = publish(&context, &log, &at);
    let mut subscriber = subscribe(&context, &at, Position::Earliest);
    assert_next(&mut subscriber, &numbers(0..5));
    let kept = subscriber.bookmark(0).unwrap().to_string();
    log.delete_topic("t").unwrap();
    log.create_topic("t", written()).unwrap();
    append(&log, new(0..8));
    let mut subscriber = resume(&context, &at, &kept);
    match subscriber.next_timeout(SOON) {
        Err(SubscribeError::Replaced { topic }) => assert_eq!(topic, "t"),
        other => panic!("{other:?}"),
    }
    assert_next(&mut subscriber, &new(0..8));
}

fn resume(context: &Context, [live, replay]: &[String; 2], kept: &str) -> DurableSubscriber {
    let options = options().resume(kept.parse().unwrap());
    options.connect(context, &live[..], &replay[..], "t", Position::Earliest).unwrap()
}

#[test]
fn a_partition_that_nothing_is_heard_of_is_read_though_others_are_heard_of() {
    let (log, context) = (open(&MemoryStorage::new()), Context::new());
    log.create_topic("t", written().partitions(2)).unwrap();
    let topic = log.topic("t").unwrap();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let live = context.publish().bind("tcp://127.0.0.1:0").unwrap();
    // Partition 0 has got nowhere, says a publisher that says nothing else.
    let mut announcement = b"t\0\x02".to_vec();
    announcement.extend(topic.describe().id.bits().to_be_bytes());
    announcement.extend([0; 4 + 4 + 3 * 8]);
    let options = options().silence(10 * OFTEN);
    let (live_at, replay_at) = (live.endpoint().unwrap(), server.endpoint().clone());
    let mut subscriber =
        options.connect(&context, live_at, replay_at, "t", Position::Earliest).unwrap();
    // Each partition was at its end once. Both at a time they need not be: with nothing to hear the log is asked again and again.
    wait_until("the subscriber hears", || {
        assert!(subscriber.next_timeout(Duration::from_millis(1)).unwrap().is_none());
        live.subscribers() > 0 && subscriber.stats().joined >= 2
    });
    topic.append_to(1, Level::Written, "x").unwrap().wait().unwrap();
    wait_until("the record comes", || {
        live.send(announcement.clone()).unwrap();
        subscriber.next_timeout(Duration::from_millis(1)).unwrap().is_some()
    });
    assert_eq!(subscriber.stats().unreadable, 0);
}

fn ten_of_which_five_are_durable(storage: &FaultyStorage) -> Log {
    let log = open(storage);
    log.create_topic("t", written()).unwrap();
    append(&log, numbers(0..5));
    log.sync().unwrap();
    append(&log, numbers(5..10));
    log
}

/// A power cut that takes some of the records from 5 on.
fn cut(storage: &FaultyStorage) -> FaultyStorage {
    let image_if_it_took = |seed: u64| {
        // Looked at in a copy: opening writes.
        let image = storage.power_cut(seed);
        let end = open(&image.storage()).topic("t").unwrap().describe().partitions[0].end;
        assert!(end >= 5, "what was durable is there");
        (end < 10).then(|| image.storage())
    };
    (0..1000).find_map(image_if_it_took).unwrap()
}

#[test]
fn a_subscriber_that_never_waits_gets_on_with_its_replay() {
    let (log, context, at) = (open(&MemoryStorage::new()), Context::new(), endpoints());
    log.create_topic("t", written()).unwrap();
    append(&log, numbers(0..100));
    let publisher = publish(&context, &log, &at);
    let mut subscriber = subscribe(&context, &at, Position::Earliest);
    let mut got = 0;
    wait_until("all records are there", || {
        while let Some(record) = subscriber.next_timeout(Duration::ZERO).unwrap() {
            assert_eq!(record.offset, got);
            got += 1;
        }
        got == 100 && subscriber.is_live()
    });
    let requests = publisher.server().stats().requests;
    assert!(requests < 10, "{requests} requests");
}

#[test]
fn a_partition_beyond_those_that_can_be_under_way_does_not_wait_until_one_has_nothing_to_send() {
    const UNDER_WAY: u32 = 64;
    const EACH: usize = 20;
    // Without a thread of its own, for which one of the appends might have to wait.
    let log = Log::options().storage(Arc::new(MemoryStorage::new())).linger(None);
    let (log, context) = (log.open("/log").unwrap(), Context::new());
    log.create_topic("t", written().partitions(UNDER_WAY + 1)).unwrap();
    let (endpoint, first) = (Transport::Tcp.vacant(), Context::new());
    let server = LogServer::bind(&first, &log, &endpoint[..]).unwrap();
    let options = LogClient::options().timeout(SOON).batch_bytes(1);
    let client = options.connect(&context, &endpoint[..]).unwrap();
    let append = |partition| client.append_to("t", partition, Level::Written, "x").unwrap();
    append(0).wait().unwrap();
    // Nothing gets on until all have something to send.
    drop((server, first));
    let busy = |partition| {
        (1..EACH).for_each(|_| drop(append(partition)));
        append(partition)
    };
    let lasts: Vec<AppendTicket> = (0..UNDER_WAY).map(busy).collect();
    let mut late = append(UNDER_WAY);
    let (sender, receiver) = channel();
    let note = Arc::new(Note { lasts, sender: Mutex::new(sender) });
    let waker = Waker::from(note);
    assert!(Pin::new(&mut late).poll(&mut TaskContext::from_waker(&waker)).is_pending());
    let _server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
    assert_eq!(receiver.recv_timeout(SOON).unwrap(), 0, "partitions that came to their end before");
}

/// Says how many of the appends are done when it is woken.
struct Note {
    lasts: Vec<AppendTicket>,
    sender: Mutex<Sender<usize>>,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        let done = self.lasts.iter().filter(|ticket| ticket.is_done()).count();
        let _ = self.sender.lock().unwrap().send(done);
    }
}

#[test]
fn what_is_woken_by_an_append_may_use_the_client_at_once() {
    let (log, context) = (open(&MemoryStorage::new()), Context::new());
    log.create_topic("t", written()).unwrap();
    let (endpoint, first) = (Transport::Tcp.vacant(), Context::new());
    let server = LogServer::bind(&first, &log, &endpoint[..]).unwrap();
    let client = LogClient::options().timeout(SOON).connect(&context, &endpoint[..]).unwrap();
    client.append("t", "0").unwrap().wait().unwrap();
    drop((server, first));
    let mut ticket = client.append("t", "1").unwrap();
    let (sender, receiver) = channel();
    let waker = Waker::from(Arc::new(Again(Mutex::new(Some((client.clone(), sender))))));
    assert!(Pin::new(&mut ticket).poll(&mut TaskContext::from_waker(&waker)).is_pending());
    let _server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
    match receiver.recv_timeout(SOON) {
        Ok(again) => assert_eq!(again.wait().unwrap(), 2),
        Err(_) => {
            // A client whose thread is stuck cannot be closed.
            std::mem::forget((client, ticket));
            panic!("the waker does not come back");
        }
    }
}

/// Appends once more when it is woken.
struct Again(Mutex<Option<(LogClient, Sender<AppendTicket>)>>);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        if let Some((client, sender)) = self.0.lock().unwrap().take() {
            let _ = sender.send(client.append("t", "from a waker").unwrap());
        }
    }
}

#[test]
fn an_append_tells_a_client_that_another_one_has_altered_the_topic() {
    let (log, context) = (open(&MemoryStorage::new()), Context::new());
    log.create_topic("t", written()).unwrap();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let (old, other) = (client(&context, &server), client(&context, &server));
    old.append("t", "x").unwrap().wait().unwrap();
    other.alter_topic("t", written().partitions(16)).unwrap();
    wait_until("what is appended goes to more partitions", || {
        let ticket = old.append("t", NewRecord::new("x").key("key 0")).unwrap();
        let partition = ticket.partition();
        ticket.wait().unwrap();
        partition > 0
    });
    for n in 0..50 {
        let key = format!("key {n}");
        let record = || NewRecord::new("x").key(&key);
        let one = old.append("t", record()).unwrap().partition();
        assert_eq!(one, other.append("t", record()).unwrap().partition(), "of {key}");
    }
}

#[test]
fn a_transaction_tells_a_client_that_another_one_has_altered_the_topic() {
    let (log, context) = (open(&MemoryStorage::new()), Context::new());
    log.create_topic("t", written()).unwrap();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let (old, other) = (client(&context, &server), client(&context, &server));
    let partition = || {
        let mut transaction = old.transaction();
        transaction.append("t", NewRecord::new("x").key("key 0")).unwrap();
        transaction.commit().unwrap()[0].0.partition
    };
    assert_eq!(partition(), 0);
    other.alter_topic("t", written().partitions(16)).unwrap();
    wait_until("what is appended goes to more partitions", || partition() > 0);
}

#[test]
fn a_reader_does_not_go_on_in_another_topic_of_the_same_name() {
    let (log, context) = (open(&MemoryStorage::new()), Context::new());
    log.create_topic("t", written()).unwrap();
    append(&log, numbers(0..5));
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, &server);
    let mut reader = client.read("t", 0, Position::Earliest).unwrap();
    for number in numbers(0..5) {
        assert_eq!(text(&reader.next().unwrap().unwrap()), number);
    }
    // Read in no other topic, though nothing was read in this one yet.
    let mut later = client.read("t", 0, Position::Latest).unwrap();
    log.delete_topic("t").unwrap();
    log.create_topic("t", written()).unwrap();
    append(&log, new(0..8));
    for reader in [&mut reader, &mut later] {
        let error = reader.next().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(RemoteCode::TopicReplaced), "{error}");
        assert_eq!(error.remote().unwrap().topic.as_deref(), Some("t"));
    }
    let anew = client.read("t", 0, Position::Earliest).unwrap();
    assert_eq!(anew.map(|record| text(&record.unwrap())).collect::<Vec<_>>(), new(0..8));
}

#[test]
fn a_topic_that_is_made_anew_is_published_and_its_subscribers_are_told() {
    let (log, context, at) = (open(&MemoryStorage::new()), Context::new(), endpoints());
    log.create_topic("t", written().partitions(2)).unwrap();
    let topic = log.topic("t").unwrap();
    for number in 0..10 {
        topic.append_to(number % 2, Level::Written, &number.to_string()).unwrap().wait().unwrap();
    }
    let publisher = publish(&context, &log, &at);
    let mut subscriber = subscribe(&context, &at, Position::Earliest);
    for _ in 0..10 {
        subscriber.next_timeout(SOON).unwrap().unwrap();
    }
    join(&publisher, &mut subscriber);
    log.delete_topic("t").unwrap();
    wait_until("the publisher knows that", || publisher.error().is_some());
    log.create_topic("t", written()).unwrap();
    // More than the old one had, so that its offsets alone tell nothing.
    append(&log, new(0..8));
    let told = loop {
        match subscriber.next_timeout(SOON) {
            Err(SubscribeError::Peer(error)) if error.code() == Some(RemoteCode::UnknownTopic) => {}
            Err(error) => break error,
            Ok(None) => {}
            Ok(Some(record)) => panic!("{record:?}"),
        }
    };
    assert!(matches!(told, SubscribeError::Replaced { .. }), "{told}");
    assert_next(&mut subscriber, &new(0..8));
    assert_eq!((subscriber.position(0), subscriber.position(1)), (Some(8), None));
    wait_until("the publisher goes on", || publisher.error().is_none());
    join(&publisher, &mut subscriber);
    let before = subscriber.stats().live;
    publisher.publish("new 8").unwrap().wait().unwrap();
    assert_next(&mut subscriber, &new(8..9));
    assert_eq!(subscriber.stats().live, before + 1);
}

#[test]
fn a_publisher_that_failed_to_read_holds_up_no_subscriber_and_goes_on_later() {
    let (storage, context, at) = (FaultyStorage::new(), Context::new(), endpoints());
    let log = open(&storage);
    log.create_topic("t", written()).unwrap();
    let publisher = publish(&context, &log, &at);
    let mut subscriber = subscribe(&context, &at, Position::Earliest);
    join(&publisher, &mut subscriber);
    let fault = Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::Read);
    storage.inject(fault.from_then_on());
    publisher.publish("0").unwrap().wait().unwrap();
    wait_until("the publisher fails", || publisher.error().is_some());
    // Who asks the log finds that it cannot be read, and does not take it for the end.
    match subscriber.next_timeout(SOON) {
        Err(SubscribeError::Peer(error)) => assert_eq!(error.code(), Some(RemoteCode::Storage)),
        other => panic!("{other:?}"),
    }
    storage.clear_faults();
    append(&log, numbers(1..10));
    assert_next(&mut subscriber, &numbers(0..10));
    wait_until("the publisher goes on", || publisher.error().is_none());
    join(&publisher, &mut subscriber);
    let before = subscriber.stats().live;
    append(&log, numbers(10..11));
    assert_next(&mut subscriber, &numbers(10..11));
    assert_eq!(subscriber.stats().live, before + 1);
}

#[test]
fn a_reader_that_waits_for_a_moment_waits_no_longer_when_the_server_is_gone() {
    let log = open(&MemoryStorage::new());
    log.create_topic("t", written()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let options = LogClient::options().timeout(Duration::from_secs(24 * 3600));
    let client = options.connect(&context, server.endpoint().clone()).unwrap();
    let mut reader = client.read("t", 0, Position::Earliest).unwrap();
    drop(server);
    let (told, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        told.send(reader.next_timeout(Duration::from_millis(10)).map(|record| record.is_none()))
    });
    assert!(outcome.recv_timeout(SOON).unwrap().unwrap());
}

#[test]
fn records_that_were_removed_before_they_were_published_are_told_of() {
    // What is appended `buffered` stays so.
    let options = Log::options().linger(Some(Duration::from_secs(3600)));
    let log = options.storage(Arc::new(MemoryStorage::new())).open("/log").unwrap();
    log.create_topic("t", written()).unwrap();
    let (context, at) = (Context::new(), endpoints());
    let publisher = publish(&context, &log, &at);
    append(&log, numbers(0..1));
    let mut subscriber = subscribe(&context, &at, Position::Earliest);
    assert_next(&mut subscriber, &numbers(0..1));
    join(&publisher, &mut subscriber);
    let topic = log.topic("t").unwrap();
    for value in numbers(1..50) {
        topic.append_at(Level::Buffered, &value).unwrap().wait().unwrap();
    }
    topic.truncate_front(0, 50).unwrap();
    append(&log, numbers(50..51));
    // The publisher may have been quicker with some of them.
    let mut expected = 1;
    while expected <= 50 {
        match subscriber.next_timeout(SOON) {
            Ok(Some(record)) if record.offset == expected => expected += 1,
            Err(SubscribeError::Expired { partition: 0, wanted, resumes_at: 50, .. })
                if wanted == expected =>
            {
                expected = 50;
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}
