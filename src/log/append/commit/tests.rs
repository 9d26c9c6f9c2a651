//! Those who read what is durable, between those who append: they come last, and are called when nobody is left.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Wake, Waker};

use super::*;
use crate::log::storage::MemoryStorage;
use crate::log::{Level, Log, LogError, TopicOptions};

/// Counts calls.
#[derive(Debug, Default)]
struct Calls(AtomicU64);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A partition with a record that is written only, and a registered reader of durable ones.
fn written() -> (Log, Arc<Partition>, Arc<Calls>) {
    let log = Log::options().storage(Arc::new(MemoryStorage::new())).linger(None);
    let log = log.open("/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append_at(Level::Written, "x").unwrap().wait().unwrap();
    let partition = topic.inner.partition(0).unwrap().clone();
    let calls = Arc::new(Calls::default());
    partition.durable_followers.register(7, &Waker::from(calls.clone()));
    (log, partition, calls)
}

#[test]
fn who_reads_leaves_it_to_the_one_that_syncs_and_is_called_if_that_came_too_early_for_it() {
    let (_log, partition, calls) = written();
    assert!(partition.is_left_to_readers());
    assert!(lock(&partition.commit.queue).lead_if_idle());
    let turn = Turn { partition: &partition, took: Duration::ZERO, is_caller: true };
    partition.sync_for_readers();
    assert!(!partition.is_left_to_readers());
    assert_eq!((partition.durable_end(), calls.0.load(Ordering::SeqCst)), (0, 0));
    // It had looked what is written before the record was.
    drop(turn);
    assert_eq!(calls.0.load(Ordering::SeqCst), 1);
    partition.sync_for_readers();
    assert_eq!(partition.durable_end(), 1);
    assert!(!partition.is_left_to_readers());
}

#[test]
fn who_reads_leaves_it_to_those_who_wait_and_is_called_if_they_give_up() {
    let (_log, partition, calls) = written();
    assert!(lock(&partition.commit.queue).lead_if_idle());
    for offset in 5..7 {
        assert!(matches!(lock(&partition.commit.queue).next(offset, true), Next::Wait(_)));
    }
    // One of the two is on its way to sync then.
    let _called = lock(&partition.commit.queue).end_turn(0, Duration::ZERO);
    partition.sync_for_readers();
    assert_eq!((partition.durable_end(), calls.0.load(Ordering::SeqCst)), (0, 0));
    assert!(partition.commit(5, None, || Some(LogError::Closed)).is_err());
    assert_eq!(calls.0.load(Ordering::SeqCst), 1);
    partition.sync_for_readers();
    assert_eq!(partition.durable_end(), 1);
}

#[test]
fn who_reads_is_none_of_the_callers_that_the_next_one_waits_for() {
    let mut queue = Queue::default();
    assert!(queue.lead_if_idle());
    assert!(matches!(queue.next(1, true), Next::Wait(_)));
    let _called = queue.end_readers_turn(2, Duration::from_secs(9));
    assert!(matches!(queue.next(2, true), Next::Lead), "one caller is all there is");
}
