//! What callers of the log do not see: who is late, and who found the writer busy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::log::storage::faulty::FaultyStorage;
use crate::log::{Level, Log, NewRecord, Position, Topic, TopicOptions};
use crate::sync::lock;

fn open(storage: &FaultyStorage) -> Log {
    Log::options().storage(Arc::new(storage.clone())).linger(None).open("/log").unwrap()
}

/// A compacted topic with a segment for each record.
fn topic(log: &Log) -> Topic {
    let options = TopicOptions::default().segment_bytes(64).compact(true).min_dirty_percent(0);
    log.create_topic("t", options).unwrap()
}

fn put(topic: &Topic, key: &str, value: &str) {
    topic.append(NewRecord::new(value).key(key)).unwrap().wait().unwrap();
}

fn values(topic: &Topic) -> Vec<Vec<u8>> {
    let records = topic.read(0, Position::Earliest).unwrap().map(Result::unwrap);
    records.map(|record| record.value.unwrap_or_default().to_vec()).collect()
}

#[test]
fn whoever_tells_late_that_a_replaced_segment_is_durable_does_not_take_the_watermark_back_to_it() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = topic(&log);
    put(&topic, "a", "1");
    put(&topic, "a", "2");
    let partition = topic.inner.partition(0).unwrap();
    // Who syncs takes this before, and notes it after the sync, holding no lock between.
    let late = lock(&partition.writer).watermark(partition.shared.epoch);
    let next = NewRecord::new("3").key("b");
    topic.append_at(Level::Written, next).unwrap().wait().unwrap();
    // Room for both in one.
    log.alter_topic("t", topic.options().clone().segment_bytes(600)).unwrap();
    assert_eq!(log.maintain().unwrap().compacted_records, 1);
    let replaced = late.segment;
    assert!(partition.view().segments.iter().all(|segment| segment.base_offset != replaced));
    partition.now_durable(late);
    let reopened = open(&storage.kill());
    assert_eq!(values(&reopened.topic("t").unwrap()), [b"2", b"3"]);
}

#[test]
fn passes_that_are_made_as_often_as_may_be_leave_time_between_them() {
    let interval = |time| Log::options().maintenance_interval(time).maintenance_interval;
    assert!(interval(Some(Duration::ZERO)) >= Some(Duration::from_millis(10)));
    assert_eq!(interval(Some(Duration::MAX)), Some(Duration::MAX));
    assert_eq!(interval(None), None);
}

#[test]
fn what_somebody_wanted_written_while_a_pass_had_the_writer_is_written() {
    let log = open(&FaultyStorage::new());
    let topic = topic(&log);
    for value in ["1", "2", "3"] {
        put(&topic, value, value);
    }
    let partition = topic.inner.partition(0).unwrap();
    let end = partition.compactable(0).unwrap().unwrap();
    let _ticket = topic.append_at(Level::Written, NewRecord::new("4").key("4")).unwrap();
    assert_eq!(values(&topic).len(), 3);
    // As whoever finds the lock taken leaves it.
    partition.write_wanted.store(true, Ordering::SeqCst);
    let compacted = partition.compact(0, end, 1 << 10).unwrap().unwrap();
    assert_eq!(compacted.records, 0);
    assert_eq!(values(&topic).len(), 4);
}
