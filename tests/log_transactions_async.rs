//! Transactions that tasks commit, on any executor: nothing blocks them, and nobody has to wait for it to be done.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;
#[path = "log/hooked.rs"]
mod hooked;

use std::sync::Arc;
use std::sync::mpsc::channel;

use harness::futures::{Task, block_on};
use hooked::HookedStorage;
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{
    Log, LogError, MemberOptions, OffsetCommit, Position, TopicOptions, TopicPartition, Transaction,
};

const INTENTS: &str = "__transactions-0/00000000000000000000.log";

fn open(storage: &HookedStorage) -> Log {
    Log::options().storage(Arc::new(storage.clone())).linger(None).open("/log").unwrap()
}

/// A log with two topics.
fn fresh() -> (HookedStorage, Log) {
    let storage = HookedStorage::new(MemoryStorage::new());
    let log = open(&storage);
    for topic in ["a", "b"] {
        log.create_topic(topic, TopicOptions::default()).unwrap();
    }
    (storage, log)
}

fn collected(log: &Log, value: &str) -> Transaction {
    let mut transaction = log.transaction();
    transaction.append("a", value).unwrap();
    transaction.append("b", value).unwrap();
    transaction
}

fn values(log: &Log, topic: &str) -> Vec<String> {
    let reader = log.topic(topic).unwrap().read(0, Position::Earliest).unwrap();
    let value = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    reader.map(|record| value(record.unwrap().value.as_deref().unwrap())).collect()
}

fn places(offset: i64) -> Vec<(TopicPartition, i64)> {
    ["a", "b"].map(|topic| (TopicPartition::new(topic, 0), offset)).to_vec()
}

#[test]
fn tasks_commit_in_the_order_of_their_calls_and_are_not_blocked_meanwhile() {
    let (storage, log) = fresh();
    let (release, released) = channel::<()>();
    collected(&log, "first").commit().unwrap();
    storage.before(Operation::SyncData, INTENTS, move || released.recv().unwrap());
    let mut two = Task::pending(collected(&log, "second").commit_async());
    drop(collected(&log, "nobody waits").commit_async());
    let four = Task::pending(collected(&log, "fourth").commit_async());
    assert!(!two.is_woken() && two.poll().is_none());
    release.send(()).unwrap();
    assert_eq!(four.finish().unwrap(), places(3));
    assert_eq!(two.finish().unwrap(), places(1));
    for topic in ["a", "b"] {
        assert_eq!(values(&log, topic), ["first", "second", "nobody waits", "fourth"]);
    }
}

#[test]
fn a_task_hears_why_nothing_was_committed_and_the_next_is_none_the_worse() {
    let (_storage, log) = fresh();
    let group = log.group("g").unwrap();
    let member = group.join(MemberOptions::new(["a"])).unwrap();
    let mut fenced = collected(&log, "fenced");
    fenced.commit_offsets(&member.membership(), &[OffsetCommit::new("a", 0, 0)]).unwrap();
    member.leave().unwrap();
    let refused = block_on(fenced.commit_async());
    assert!(matches!(refused, Err(LogError::MemberFenced { .. })), "{refused:?}");
    assert_eq!(block_on(collected(&log, "x").commit_async()).unwrap(), places(0));
    let (late, later) = (collected(&log, "late"), collected(&log, "later"));
    assert!(block_on(log.transaction().commit_async()).unwrap().is_empty());
    log.close().unwrap();
    for transaction in [late, later] {
        assert!(matches!(block_on(transaction.commit_async()), Err(LogError::Closed)));
    }
}

#[test]
fn a_log_that_is_closed_while_tasks_commit_leaves_nobody_waiting() {
    let (storage, log) = fresh();
    collected(&log, "first").commit().unwrap();
    let (release, released) = channel::<()>();
    let (reached, reach) = channel();
    storage.before(Operation::SyncData, INTENTS, move || {
        reached.send(()).unwrap();
        released.recv().unwrap();
    });
    let under_way = Task::pending(collected(&log, "second").commit_async());
    reach.recv().unwrap();
    // The close waits for the one that has the turn, and takes it before or after the next.
    let closing = std::thread::spawn({
        let log = log.clone();
        move || log.close()
    });
    let waiting = Task::pending(collected(&log, "third").commit_async());
    let behind = Task::pending(collected(&log, "fourth").commit_async());
    release.send(()).unwrap();
    assert_eq!(under_way.finish().unwrap(), places(1));
    let outcomes = [waiting.finish(), behind.finish()];
    closing.join().unwrap().unwrap();
    drop(log);
    let mut expected = vec!["first", "second"];
    for (outcome, value) in outcomes.into_iter().zip(["third", "fourth"]) {
        match outcome {
            Ok(found) => {
                assert_eq!(found, places(expected.len() as i64));
                expected.push(value);
            }
            Err(error) => assert!(matches!(error, LogError::Closed), "{error}"),
        }
    }
    assert_eq!(values(&open(&storage), "a"), expected);
}

#[test]
fn the_transaction_that_has_the_log_last_closes_it() {
    let (storage, log) = fresh();
    let ticket = collected(&log, "x").commit_async();
    drop(log);
    assert_eq!(block_on(ticket).unwrap(), places(0));
    assert_eq!(values(&open(&storage), "a"), ["x"]);
}
