//! Work queues when something is not as it should be: letters that are refused, damaged partitions, topics that are not
//! the same any more, clocks that are set, queues opened twice.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use harness::{SOON, wait_until};
use peermq::Context;
use peermq::log::storage::MemoryStorage;
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::{
    Clock, Delivery, DeliveryId, DurableQueue, Level, Log, LogClient, LogError, LogRecord,
    LogServer, ManualClock, NewRecord, Position, QueueError, QueueOptions, TopicOptions,
};

const LOCK: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(3600);
const NOW: Duration = Duration::ZERO;

fn open() -> (Arc<ManualClock>, Log) {
    let clock = Arc::new(ManualClock::new(1_000));
    let options = Log::options().storage(Arc::new(MemoryStorage::new())).clock(clock.clone());
    let log = options.open("/log").unwrap();
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    (clock, log)
}

fn append(log: &Log, value: &(impl AsRef<[u8]> + ?Sized)) {
    log.topic("jobs").unwrap().append(value).unwrap().wait().unwrap();
}

fn queue(log: &Log, options: QueueOptions) -> DurableQueue {
    options.open(log, "q", "jobs").unwrap()
}

fn with_letters() -> QueueOptions {
    DurableQueue::options().dead_letters("dead")
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

fn values(deliveries: &[Delivery]) -> Vec<&str> {
    let values = deliveries.iter().map(|delivery| delivery.record.value.as_deref().unwrap());
    values.map(|value| std::str::from_utf8(value).unwrap()).collect()
}

fn offsets(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().map(|delivery| delivery.record.offset).collect()
}

fn letters(log: &Log) -> Vec<LogRecord> {
    let dead = log.topic("dead").unwrap();
    let letters = dead.read(0, Position::Earliest).unwrap().map(Result::unwrap);
    letters.collect()
}

fn header<'a>(letter: &'a LogRecord, name: &str) -> Option<&'a str> {
    let found = letter.headers.iter().find(|header| header.key == name)?;
    found.value.as_deref().map(|value| std::str::from_utf8(value).unwrap())
}

#[test]
fn a_record_too_large_for_a_dead_letter_leaves_its_value_out_and_holds_up_nobody() {
    let (_clock, log) = open();
    let topic = log.topic("jobs").unwrap();
    log.create_topic("dead", TopicOptions::default()).unwrap();
    let queue = queue(&log, with_letters());
    append(&log, "small");
    let mut large = vec![b'x'; 1 << 20];
    while topic.append(NewRecord::new(&large).key("key")).is_err() {
        large.pop();
    }
    topic.flush().unwrap();
    append(&log, "next");
    let got = queue.acquire(2, LOCK, NOW).unwrap();
    queue.reject(&ids(&got)).unwrap();
    assert_eq!(values(&queue.acquire(9, LOCK, NOW).unwrap()), ["next"]);
    let letters = letters(&log);
    let of =
        |n: usize| (letters[n].value.as_deref().unwrap(), header(&letters[n], "peermq.left_out"));
    assert_eq!(letters.len(), 2, "no letter is sent again");
    assert_eq!((of(0), of(1)), ((&b"small"[..], None), (&b""[..], Some("value"))));
    assert_eq!(letters[1].key.as_deref(), Some(&b"key"[..]));
    assert_eq!(header(&letters[1], "peermq.origin.offset"), Some("1"));
    assert_eq!((queue.stats().dead, queue.stats().unburied), (2, 0));
}

#[test]
fn a_letter_whose_key_and_headers_are_too_large_tells_its_origin_alone() {
    let (_clock, log) = open();
    log.create_topic("dead", TopicOptions::default().record_bytes_max(700)).unwrap();
    let queue = queue(&log, with_letters());
    let key = "k".repeat(690);
    let topic = log.topic("jobs").unwrap();
    topic.append(NewRecord::new("value").key(&key)).unwrap().wait().unwrap();
    queue.reject(&ids(&queue.acquire(1, LOCK, NOW).unwrap())).unwrap();
    let letters = letters(&log);
    assert_eq!((letters.len(), &letters[0].key), (1, &None));
    assert_eq!(header(&letters[0], "peermq.left_out"), Some("value key headers"));
    assert_eq!(header(&letters[0], "peermq.origin.topic"), Some("jobs"));
}

#[test]
fn a_letter_without_key_gets_its_origin_as_key_in_a_compacted_topic() {
    let (_clock, log) = open();
    log.create_topic("dead", TopicOptions::default().compact(true)).unwrap();
    let queue = queue(&log, with_letters());
    append(&log, "job");
    queue.reject(&ids(&queue.acquire(1, LOCK, NOW).unwrap())).unwrap();
    assert_eq!(letters(&log)[0].key.as_deref(), Some(&b"jobs/0/0"[..]));
}

#[test]
fn letters_wait_while_their_topic_is_deleted_and_work_goes_on() {
    let (clock, log) = open();
    log.create_topic("dead", TopicOptions::default()).unwrap();
    let queue = queue(&log, with_letters());
    for job in ["0", "1", "2"] {
        append(&log, job);
    }
    let got = queue.acquire(1, LOCK, NOW).unwrap();
    log.delete_topic("dead").unwrap();
    assert!(matches!(queue.reject(&ids(&got)), Err(QueueError::Log(_))));
    let got = queue.acquire(9, LOCK, NOW).unwrap();
    assert_eq!(values(&got), ["1", "2"]);
    queue.ack(&ids(&got)).unwrap();
    assert_eq!((queue.stats().dead, queue.stats().unburied), (0, 1));
    assert!(queue.dead_letter_error().is_some());
    log.create_topic("dead", TopicOptions::default()).unwrap();
    clock.advance(999);
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty());
    assert_eq!(letters(&log).len(), 0, "it is left alone for a second");
    clock.advance(1);
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty());
    assert_eq!(letters(&log).len(), 1);
    assert_eq!((queue.stats().dead, queue.stats().unburied), (1, 0));
    assert!(queue.dead_letter_error().is_none());
}

/// A log with one job in each of these partitions, of which the first one cannot be read.
fn damaged(partitions: u32) -> Log {
    let storage = FaultyStorage::new();
    let options = || Log::options().storage(Arc::new(storage.clone()));
    let log = options().open("/log").unwrap();
    let topic = TopicOptions::default().partitions(partitions);
    let topic = log.create_topic("jobs", topic).unwrap();
    for partition in 0..partitions {
        topic.append_to(partition, Level::Durable, "job").unwrap().wait().unwrap();
    }
    drop(topic);
    log.close().unwrap();
    storage.flip_bit(Path::new("/log/jobs-0/00000000000000000000.log"), 8 * 65).unwrap();
    options().open("/log").unwrap()
}

#[test]
fn without_a_partition_that_can_be_read_nobody_waits() {
    let log = damaged(1);
    let error = queue(&log, DurableQueue::options()).acquire(1, LOCK, LONG).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
}

#[test]
fn a_damaged_partition_keeps_nobody_from_the_records_of_the_others() {
    let log = damaged(3);
    let queue = queue(&log, DurableQueue::options());
    let got = queue.acquire(9, LONG, NOW).unwrap();
    let of = |delivery: &Delivery| (delivery.id.partition, delivery.id.offset);
    assert_eq!(got.iter().map(of).collect::<Vec<_>>(), [(1, 0), (2, 0)]);
    queue.ack(&ids(&got)).unwrap();
    // The damage is told to who gets nothing, and nobody who waits is sent away before his time.
    assert!(matches!(queue.acquire(9, LOCK, NOW), Err(LogError::Corrupt { .. })));
    let waiter = queue.clone();
    let waiting = thread::spawn(move || waiter.acquire(1, LOCK, LONG).unwrap().len());
    wait_until("the worker waits", || queue.stats().waiting == 1);
    let topic = log.topic("jobs").unwrap();
    topic.append_to(1, Level::Durable, "job").unwrap().wait().unwrap();
    wait_until("the worker is woken", || waiting.is_finished());
    assert_eq!(waiting.join().unwrap(), 1);
}

#[test]
fn a_queue_begins_at_the_first_record_of_a_topic_that_was_made_anew() {
    let (_clock, log) = open();
    let latest = || DurableQueue::options().start(Position::Latest);
    let first = queue(&log, latest());
    append(&log, "0");
    append(&log, "1");
    first.ack(&ids(&first.acquire(9, LOCK, NOW).unwrap())).unwrap();
    log.delete_topic("jobs").unwrap();
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    for job in ["a", "b", "c"] {
        append(&log, job);
    }
    drop(first);
    let second = queue(&log, latest());
    let got = second.acquire(9, LOCK, NOW).unwrap();
    assert_eq!(values(&got), ["a", "b", "c"]);
    second.ack(&ids(&got[..2])).unwrap();
    drop(second);
    assert_eq!(values(&queue(&log, latest()).acquire(9, LOCK, NOW).unwrap()), ["c"]);
}

#[test]
fn a_queue_is_not_opened_over_a_topic_of_another_name() {
    let (_clock, log) = open();
    drop(queue(&log, DurableQueue::options()));
    log.create_topic("other", TopicOptions::default()).unwrap();
    let refused = DurableQueue::options().open(&log, "q", "other").unwrap_err();
    assert_eq!(refused.to_string(), "queue: q is over topic jobs, not over other");
}

#[test]
fn a_queue_that_is_opened_twice_is_the_same() {
    let (_clock, log) = open();
    append(&log, "0");
    append(&log, "1");
    let (one, other) = (queue(&log, DurableQueue::options()), queue(&log, DurableQueue::options()));
    let got = one.acquire(1, LOCK, NOW).unwrap();
    assert_eq!(offsets(&other.acquire(9, LOCK, NOW).unwrap()), [1]);
    other.ack(&ids(&got)).unwrap();
    let refused = DurableQueue::options().attempts_max(9).open(&log, "q", "jobs");
    assert!(matches!(refused, Err(LogError::Invalid { .. })), "it works another way");
    drop((one, other));
    let third = DurableQueue::options().attempts_max(9).open(&log, "q", "jobs").unwrap();
    assert_eq!(offsets(&third.acquire(9, LOCK, NOW).unwrap()), [1]);
}

/// A clock whose time of day is set while its steady time stands still.
#[derive(Debug, Default)]
struct Wall {
    now_ms: AtomicI64,
    steady_ms: AtomicI64,
}

impl Clock for Wall {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn steady_ms(&self) -> i64 {
        self.steady_ms.load(Ordering::Relaxed)
    }
}

#[test]
fn a_lock_lasts_as_long_as_it_is_whatever_the_time_of_day_is_set_to() {
    let clock = Arc::new(Wall::default());
    let options = Log::options().storage(Arc::new(MemoryStorage::new())).clock(clock.clone());
    let log = options.open("/log").unwrap();
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    append(&log, "0");
    let queue = queue(&log, DurableQueue::options());
    let first = queue.acquire(1, LOCK, NOW).unwrap();
    clock.now_ms.store(10_000_000, Ordering::Relaxed);
    assert!(queue.acquire(1, LOCK, NOW).unwrap().is_empty());
    queue.renew(&ids(&first), LOCK).unwrap();
    clock.now_ms.store(-10_000_000, Ordering::Relaxed);
    clock.steady_ms.store(30_000, Ordering::Relaxed);
    let second = queue.acquire(1, LOCK, NOW).unwrap();
    assert_eq!(second[0].id.attempt, 2);
    assert!(queue.ack(&ids(&first)).is_err());
    queue.ack(&ids(&second)).unwrap();
}

#[test]
fn a_lock_that_is_renewed_to_end_sooner_is_not_waited_for_longer() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    append(&log, "0");
    let queue = queue(&log, DurableQueue::options());
    let first = queue.acquire(1, LONG, NOW).unwrap();
    let waiter = queue.clone();
    let waiting = thread::spawn(move || waiter.acquire(1, LOCK, LONG).unwrap());
    wait_until("the worker waits", || queue.stats().waiting == 1);
    queue.renew(&ids(&first), Duration::from_millis(1)).unwrap();
    wait_until("the worker has it", || waiting.is_finished());
    assert_eq!(waiting.join().unwrap()[0].id.attempt, 2);
}

#[test]
fn everything_is_noted_however_much_is_out() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let options = TopicOptions::default().partitions(9).level(Level::Written);
    let topic = log.create_topic("jobs", options).unwrap();
    let records = vec![NewRecord::new("x"); 32 << 10];
    for partition in 0..9 {
        topic.append_all(partition, Level::Written, &records).unwrap().unwrap().wait().unwrap();
    }
    topic.sync().unwrap();
    let queue = queue(&log, DurableQueue::options().window(32 << 10).level(Level::Written));
    let got = queue.acquire(usize::MAX, LONG, NOW).unwrap();
    assert_eq!(got.len(), 9 << 15, "a note of all these deliveries is larger than a record may be");
    queue.ack(&ids(&got[..got.len() - 1])).unwrap();
    drop(queue);
    let again = self::queue(&log, DurableQueue::options()).acquire(9, LOCK, NOW).unwrap();
    assert_eq!((again[0].id.offset, again[0].id.attempt, again.len()), ((32 << 10) - 1, 2, 1));
}

#[test]
fn a_queue_whose_journal_is_long_opens_again_and_again() {
    let storage = MemoryStorage::new();
    let reopen = || Log::options().storage(Arc::new(storage.clone())).open("/log").unwrap();
    let log = reopen();
    let topic = log.create_topic("jobs", TopicOptions::default()).unwrap();
    // So many notes that a picture is due, about more records than a message may list.
    let (rounds, each) = (512, 130);
    for _ in 0..rounds * each {
        drop(topic.append_at(Level::Buffered, NewRecord::new("j")).unwrap());
    }
    log.sync().unwrap();
    let first = queue(&log, DurableQueue::options());
    for _ in 0..rounds {
        let got = first.acquire(each, LOCK, SOON).unwrap();
        assert_eq!(got.len(), each);
        first.ack(&ids(&got)).unwrap();
    }
    drop((first, topic));
    log.close().unwrap();
    for open in 0..3 {
        let log = reopen();
        let again = queue(&log, DurableQueue::options());
        assert!(again.acquire(9, LOCK, NOW).unwrap().is_empty(), "open {open}");
        assert_eq!(again.stats().missed, 0);
        log.close().unwrap();
    }
    let log = reopen();
    append(&log, "next");
    let got = queue(&log, DurableQueue::options()).acquire(9, LOCK, NOW).unwrap();
    assert_eq!(offsets(&got), [i64::try_from(rounds * each).unwrap()]);
}

#[test]
fn an_answer_to_a_remote_worker_has_no_more_bytes_than_one_to_a_reader() {
    let (_clock, log) = open();
    let large = vec![b'x'; 1000];
    for _ in 0..5 {
        append(&log, &large);
    }
    let local = queue(&log, DurableQueue::options());
    let context = Context::new();
    let options = LogServer::options().queue(&local).fetch_bytes_max(2500);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client =
        LogClient::options().timeout(SOON).connect(&context, server.endpoint().clone()).unwrap();
    let queue = client.queue("q");
    assert_eq!(offsets(&queue.acquire(99, LOCK, SOON).unwrap()), [0, 1]);
    assert_eq!(offsets(&queue.acquire(99, LOCK, SOON).unwrap()), [2, 3]);
    assert_eq!(local.stats().delivered, 4, "what does not fit is not delivered");
    drop(server);
    // A record that is larger than that goes alone.
    let options = LogServer::options().queue(&local).fetch_bytes_max(1);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client =
        LogClient::options().timeout(SOON).connect(&context, server.endpoint().clone()).unwrap();
    assert_eq!(offsets(&client.queue("q").acquire(99, LOCK, SOON).unwrap()), [4]);
}
