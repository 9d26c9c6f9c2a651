//! Appending, transactions, groups, queues, retention, compaction and changes of topics at the same time: they wait for each
//! other in one order only, and nothing is lost.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use peermq::log::storage::MemoryStorage;
use peermq::log::{
    DurableQueue, Log, LogError, MemberOptions, NewRecord, OffsetCommit, Position, TopicOptions,
};
use support::{DIRECTORY, small};

/// Transactions of each of two threads.
const TRANSACTIONS: usize = 150;

fn open(storage: &MemoryStorage) -> Log {
    // Passes begin by themselves too, whenever a segment ends.
    let options = Log::options().storage(Arc::new(storage.clone()));
    options.linger(Some(Duration::from_millis(1))).open(DIRECTORY).unwrap()
}

/// Runs until the others are done.
fn until(done: &AtomicBool, mut run: impl FnMut()) {
    while !done.load(Ordering::SeqCst) {
        run();
    }
}

fn transact(log: &Log, who: usize) {
    let group = log.group(&format!("g{who}")).unwrap();
    for n in 0..TRANSACTIONS {
        let member = group.join(MemberOptions::new(["source"])).unwrap();
        let mut transaction = log.transaction();
        let (key, value) = (format!("{who} {}", n % 5), format!("{who} {n}"));
        transaction.append("latest", NewRecord::new(&value).key(&key)).unwrap();
        transaction.append("all", &value).unwrap();
        let offset = OffsetCommit::new("source", 0, n as i64 + 1);
        transaction.commit_offsets(&member.membership(), &[offset]).unwrap();
        transaction.commit().unwrap();
        member.leave().unwrap();
    }
}

/// Creates, alters and deletes a topic that others append to.
fn change_topics(log: &Log) {
    let compacted = small().compact(true).min_dirty_percent(0);
    let topic = log.create_topic("brief", compacted.clone()).unwrap();
    for n in 0..20 {
        drop(topic.append(NewRecord::new(&format!("{n:080}")).key("key")).unwrap());
    }
    topic.sync().unwrap();
    log.group("brief").unwrap().set_offsets(&[OffsetCommit::new("brief", 0, 3)]).unwrap();
    log.alter_topic("brief", compacted.partitions(2).retention_bytes(Some(400))).unwrap();
    drop(topic);
    log.delete_topic("brief").unwrap();
    assert_eq!(log.group("brief").unwrap().committed("brief", 0).unwrap(), None);
}

/// What a queue's worker and a caller that cuts the front do; the front of what is not delivered yet may be cut.
fn work(log: &Log, queue: &DurableQueue) {
    let jobs = log.topic("jobs").unwrap();
    for n in 0..10 {
        jobs.append(&format!("{n:080}")).unwrap().wait().unwrap();
    }
    for job in queue.acquire(5, Duration::from_secs(3600), Duration::ZERO).unwrap() {
        queue.ack(&[job.id]).unwrap();
    }
    let ends = jobs.describe().partitions[0];
    match jobs.truncate_front(0, ends.earliest + 3) {
        Ok(()) | Err(LogError::OffsetOutOfRange { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The values of a topic by key, or by themselves, each with how often it is there.
fn values(log: &Log, topic: &str) -> BTreeMap<String, usize> {
    let mut values = BTreeMap::new();
    for record in log.topic(topic).unwrap().read(0, Position::Earliest).unwrap() {
        let value = String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap();
        *values.entry(value).or_default() += 1;
    }
    values
}

fn check(log: &Log) {
    let all = values(log, "all");
    let latest = values(log, "latest");
    for who in 0..2 {
        for n in 0..TRANSACTIONS {
            assert_eq!(all[&format!("{who} {n}")], 1, "each is there, and once");
        }
        for n in TRANSACTIONS - 5..TRANSACTIONS {
            assert_eq!(latest[&format!("{who} {n}")], 1, "the last one of its key");
        }
        let committed = log.group(&format!("g{who}")).unwrap().committed("source", 0).unwrap();
        assert_eq!(committed.unwrap().offset, TRANSACTIONS as i64);
    }
}

#[test]
fn everything_at_once_goes_on_to_the_end_and_loses_nothing() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    log.create_topic("latest", small().compact(true).min_dirty_percent(0)).unwrap();
    log.create_topic("all", small()).unwrap();
    log.create_topic("jobs", small().retention_bytes(Some(2_000))).unwrap();
    let source = log.create_topic("source", TopicOptions::default()).unwrap();
    for _ in 0..TRANSACTIONS {
        drop(source.append("x").unwrap());
    }
    source.sync().unwrap();
    drop(source);
    let queue = DurableQueue::options().open(&log, "queue", "jobs").unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (log, queue, done) = (&log, &queue, &done);
        scope.spawn(move || until(done, || _ = log.maintain().unwrap()));
        scope.spawn(move || until(done, || change_topics(log)));
        scope.spawn(move || until(done, || work(log, queue)));
        scope.spawn(move || {
            until(done, || {
                for name in log.groups().unwrap() {
                    log.group(&name).unwrap().describe().unwrap();
                }
                check_order(log);
            });
        });
        let transacting = [0, 1].map(|who| scope.spawn(move || transact(log, who)));
        let ended = transacting.map(|thread| thread.join());
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok));
    });
    // On a busy machine the others may not have had a turn before that.
    (0..5).for_each(|_| work(&log, &queue));
    log.maintain().unwrap();
    check(&log);
    assert!(log.topic("latest").unwrap().describe().partitions[0].compacted_records > 0);
    assert!(log.topic("jobs").unwrap().describe().partitions[0].removed_records > 0);
    drop(queue);
    log.close().unwrap();
    check(&open(&storage));
}

/// Whoever reads while segments are replaced sees offsets rise.
fn check_order(log: &Log) {
    let reader = log.topic("latest").unwrap().read(0, Position::Earliest).unwrap();
    let offsets: Vec<i64> = reader.map(|record| record.unwrap().offset).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
}
