//! Work queues whose topic is deleted, and made anew.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::wait_until;
use peermq::Context;
use peermq::log::storage::Operation;
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::{
    Delivery, DeliveryId, DurableQueue, Log, LogClient, LogError, LogServer, ManualClock, Position,
    QueueError, QueueOptions, RemoteCode, TopicOptions,
};

/// For what comes in any case.
const LONG: Duration = Duration::from_secs(60);
/// Ends when the clock is set, and not before.
const LOCK: Duration = Duration::from_secs(3600);
const NOW: Duration = Duration::ZERO;

fn reopen(storage: &FaultyStorage) -> (Arc<ManualClock>, Log) {
    let clock = Arc::new(ManualClock::new(1_000));
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone());
    (clock, options.linger(None).open("/log").unwrap())
}

/// A log with a topic `jobs` with as many records as these.
fn open(jobs: &[&str]) -> (FaultyStorage, Arc<ManualClock>, Log) {
    let storage = FaultyStorage::new();
    let (clock, log) = reopen(&storage);
    make(&log, jobs);
    (storage, clock, log)
}

fn make(log: &Log, jobs: &[&str]) {
    let topic = log.create_topic("jobs", TopicOptions::default()).unwrap();
    for job in jobs {
        topic.append(job).unwrap().wait().unwrap();
    }
}

fn queue(log: &Log) -> DurableQueue {
    QueueOptions::default().start(Position::Latest).open(log, "q", "jobs").unwrap()
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

fn values(deliveries: &[Delivery]) -> Vec<&str> {
    let values = deliveries.iter().map(|delivery| delivery.record.value.as_deref().unwrap());
    values.map(|value| std::str::from_utf8(value).unwrap()).collect()
}

fn is_deleted<T>(result: &Result<T, LogError>) -> bool {
    matches!(result, Err(LogError::TopicDeleted { topic }) if topic == "jobs")
}

#[test]
fn who_waits_hears_that_the_topic_was_deleted_and_gets_the_records_of_the_next_one() {
    let (_storage, _clock, log) = open(&["old"]);
    let local = queue(&log);
    let context = Context::new();
    let options = LogServer::options().queue(&local);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(LONG);
    let client = client.connect(&context, server.endpoint()).unwrap();
    let waits = |count| wait_until("all wait", || local.stats().waiting == count);
    let here = || {
        let local = local.clone();
        thread::spawn(move || local.acquire(1, LOCK, LONG))
    };
    let there = || {
        let remote = client.queue("q");
        thread::spawn(move || remote.acquire(1, LOCK, LONG))
    };

    let (one, other) = (here(), there());
    waits(2);
    log.delete_topic("jobs").unwrap();
    let heard = one.join().unwrap();
    assert!(is_deleted(&heard), "{heard:?}");
    let heard = other.join().unwrap().unwrap_err();
    assert_eq!(heard.code(), Some(RemoteCode::UnknownTopic), "{heard}");
    assert!(is_deleted(&local.acquire(1, LOCK, NOW)), "nor has it anything later");

    make(&log, &["a", "b"]);
    assert_eq!(values(&there().join().unwrap().unwrap()), ["a"]);
    assert_eq!(values(&here().join().unwrap().unwrap()), ["b"]);
    let same = queue(&log);
    assert_eq!(same.stats().locked, 2, "it is the same queue");

    // In one go: whoever waits need not hear of it.
    let (one, other) = (here(), there());
    waits(2);
    log.delete_topic("jobs").unwrap();
    make(&log, &["c", "d"]);
    for heard in [one.join().unwrap().map_err(drop), other.join().unwrap().map_err(drop)] {
        assert!(heard.is_err() || ["c", "d"].contains(&values(&heard.unwrap())[0]));
    }
}

#[test]
fn what_is_available_of_a_topic_is_gone_with_it() {
    let (_storage, _clock, log) = open(&[]);
    let queue = queue(&log);
    make_more(&log, 3);
    let first = queue.acquire(1, LOCK, NOW).unwrap();
    assert_eq!(queue.stats().available, 2);
    log.delete_topic("jobs").unwrap();
    assert!(is_deleted(&queue.acquire(1, LOCK, NOW)));
    // Of what a worker had it may say what it likes.
    queue.ack(&ids(&first)).unwrap();
}

fn make_more(log: &Log, jobs: usize) {
    for n in 0..jobs {
        log.topic("jobs").unwrap().append(&n.to_string()).unwrap().wait().unwrap();
    }
}

#[test]
fn what_a_worker_says_of_a_topic_that_is_gone_is_not_said_of_the_next() {
    let (storage, _clock, log) = open(&[]);
    let local = queue(&log);
    make_more(&log, 2);
    let old = ids(&local.acquire(2, LOCK, NOW).unwrap());
    let context = Context::new();
    let options = LogServer::options().queue(&local);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(LONG).connect(&context, server.endpoint()).unwrap();

    log.delete_topic("jobs").unwrap();
    make(&log, &["a", "b"]);
    let new = ids(&local.acquire(2, LOCK, NOW).unwrap());
    let named = |id: &DeliveryId| (id.partition, id.offset, id.attempt);
    assert!(old.iter().map(named).eq(new.iter().map(named)), "one would be taken for the other");
    assert!(matches!(local.ack(&old), Err(QueueError::LockLost { .. })));
    let refused = client.queue("q").reject(&old).unwrap_err();
    assert_eq!(refused.code(), Some(RemoteCode::LockLost), "{refused}");
    assert_eq!(local.stats().locked, 2);
    client.queue("q").ack(&new[..1]).unwrap();

    // And it is remembered what of the new one is done with.
    drop((server, client, local));
    log.close().unwrap();
    let (_clock, log) = reopen(&storage);
    assert_eq!(values(&queue(&log).acquire(9, LOCK, NOW).unwrap()), ["b"]);
}

#[test]
fn every_power_cut_leaves_what_was_acknowledged_of_the_topic_made_anew() {
    let (storage, _clock, log) = open(&[]);
    let queue = queue(&log);
    make_more(&log, 6);
    queue.ack(&ids(&queue.acquire(4, LOCK, NOW).unwrap())).unwrap();
    log.delete_topic("jobs").unwrap();
    make(&log, &["a", "b", "c", "d", "e", "f"]);
    let begun = storage.recorded();
    let mut acknowledged = vec![(begun, Vec::new())];
    for _ in 0..2 {
        let got = queue.acquire(2, LOCK, NOW).unwrap();
        queue.ack(&[got[1].id]).unwrap();
        let mut all = acknowledged.last().unwrap().1.clone();
        all.push(values(&got[1..])[0].to_owned());
        acknowledged.push((storage.recorded(), all));
    }
    let mut cuts = 0;
    for seed in 0..400 {
        let image = storage.power_cut(seed);
        let before = acknowledged.iter().rev().find(|(at, _)| *at <= image.crash_point());
        let Some((_, gone)) = before else { continue };
        cuts += 1;
        let (_clock, log) = reopen(&image.storage());
        let again = self::queue(&log);
        let left = again.acquire(99, LOCK, NOW).unwrap();
        let left = values(&left);
        let at_most_gone = &acknowledged.last().unwrap().1;
        for job in ["a", "b", "c", "d", "e", "f"] {
            let is_there = left.contains(&job);
            assert!(!is_there || !gone.iter().any(|gone| gone == job), "{left:?}, seed {seed}");
            assert!(is_there || at_most_gone.iter().any(|gone| gone == job), "{left:?}, {seed}");
        }
    }
    assert!(cuts > 20, "{cuts} cuts came after the topic was made");
}

#[test]
fn a_queue_that_cannot_begin_anew_says_why_and_tries_again() {
    let (storage, clock, log) = open(&[]);
    let queue = queue(&log);
    make_more(&log, 1);
    let old = queue.acquire(1, LOCK, NOW).unwrap();
    log.delete_topic("jobs").unwrap();
    make(&log, &["a"]);
    let full = Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(Operation::Write);
    storage.inject(full.on("__queue.q-0"));
    let refused = queue.acquire(1, LOCK, NOW);
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
    // It is left alone for a second.
    let refused = queue.acquire(1, LOCK, NOW);
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
    assert!(matches!(queue.ack(&ids(&old)), Err(QueueError::LockLost { .. })));
    clock.advance(1000);
    let got = queue.acquire(1, LOCK, NOW).unwrap();
    assert_eq!(values(&got), ["a"]);
    queue.ack(&ids(&got)).unwrap();
}

#[test]
fn the_dead_of_a_topic_that_is_gone_are_brought_away_before_it_is_forgotten() {
    let (_storage, clock, log) = open(&[]);
    log.create_topic("dead", TopicOptions::default()).unwrap();
    let options = QueueOptions::default().dead_letters("dead").attempts_max(1);
    let queue = options.open(&log, "q", "jobs").unwrap();
    make_more(&log, 1);
    queue.acquire(1, Duration::from_millis(1), NOW).unwrap();
    log.delete_topic("jobs").unwrap();
    make(&log, &["a"]);
    clock.advance(10);
    assert_eq!(values(&queue.acquire(9, LOCK, NOW).unwrap()), ["a"]);
    assert_eq!(queue.stats().dead, 1);
    assert_eq!(log.topic("dead").unwrap().describe().partitions[0].end, 1);
}

#[test]
fn dead_letters_do_not_go_to_the_topic_that_they_are_of() {
    let (_storage, _clock, log) = open(&["a"]);
    let options = || QueueOptions::default().dead_letters("jobs");
    let refused = options().open(&log, "q", "jobs").unwrap_err();
    assert_eq!(refused.to_string(), "dead_letters: jobs is the topic that q itself is over");
    assert!(matches!(refused, LogError::Invalid { .. }));
    let _open = queue(&log);
    assert!(options().open(&log, "q", "jobs").is_err(), "nor of one that is open");
}
