//! A medium that is full: what can be deleted then, and that nothing is lost over it.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use peermq::log::inspect::Inspector;
use peermq::log::storage::Operation;
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::{Level, Log, LogError, ManualClock, Position, Topic, TopicOptions};
use support::{DIRECTORY, files, open, read_all, small};

const RECORDS: usize = 200;

/// A log with topic `t` of some segments, among whose records one is of a transaction that nothing says is complete.
fn sample(options: TopicOptions) -> (FaultyStorage, Arc<ManualClock>, Log, Topic) {
    let (storage, clock) = (FaultyStorage::new(), Arc::new(ManualClock::new(1_000_000)));
    let log = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone()).linger(None);
    let log = log.open(DIRECTORY).unwrap();
    let topic = log.create_topic("t", options.level(Level::Written)).unwrap();
    for n in 0..RECORDS - 1 {
        topic.append(&format!("{n:090}")).unwrap().wait().unwrap();
    }
    let mut transaction = log.transaction();
    transaction.append_to("t", 0, "of a transaction").unwrap();
    transaction.commit().unwrap();
    (storage, clock, log, topic)
}

/// Nothing more fits on the medium.
fn fill(storage: &FaultyStorage, topic: &Topic) {
    storage.limit_room(Some(0));
    let refused = topic.append("does not fit").unwrap().wait();
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
}

/// There is room again, and everything is in order.
fn assert_well(storage: &FaultyStorage, log: Log, topic: Option<Topic>) {
    if let Some(topic) = topic {
        let place = topic.append("fits").unwrap().wait().unwrap();
        assert_eq!(place, RECORDS as i64);
        assert!(topic.offset_of(0, Position::Earliest).unwrap() > 0);
    }
    storage.limit_room(None);
    log.close().unwrap();
    let report = Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    drop(open(storage));
}

#[test]
fn retention_lets_go_of_segments_on_a_full_medium() {
    let (storage, _clock, log, topic) = sample(small().retention_bytes(Some(1000)));
    fill(&storage, &topic);
    let maintained = log.maintain().unwrap();
    assert!(maintained.removed_records > 20, "{maintained:?}");
    assert_well(&storage, log, Some(topic));
}

#[test]
fn retention_by_age_lets_go_of_sealed_segments_though_the_last_one_finds_no_room_to_end() {
    let (storage, clock, log, topic) = sample(small().retention(Some(Duration::from_secs(60))));
    fill(&storage, &topic);
    clock.advance(60_001);
    let next = Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(Operation::Open);
    storage.inject(next.on(format!("{RECORDS:020}.log")));
    let refused = log.maintain();
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
    let earliest = topic.offset_of(0, Position::Earliest).unwrap();
    assert!(earliest > 20, "{earliest}");
    assert!(log.maintain().unwrap().removed_records > 0, "now there is room for the next segment");
    assert_well(&storage, log, Some(topic));
}

#[test]
fn the_front_can_be_cut_and_topics_deleted_on_a_full_medium() {
    let (storage, _clock, log, topic) = sample(small());
    fill(&storage, &topic);
    topic.truncate_front(0, 30).unwrap();
    assert_well(&storage, log, Some(topic));

    let (storage, _clock, log, topic) = sample(small());
    fill(&storage, &topic);
    drop(topic);
    log.delete_topic("t").unwrap();
    assert_eq!(log.topics(), Vec::<String>::new());
    assert_well(&storage, log, None);
}

#[test]
fn what_made_room_in_vain_is_not_missed() {
    let (storage, _clock, log, topic) = sample(small());
    let indexes = |storage: &FaultyStorage| {
        let indexes = files(storage).into_keys();
        indexes.filter(|path| path.to_string_lossy().ends_with("index")).count()
    };
    let before = indexes(&storage);
    let full = Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(Operation::Rename);
    storage.inject(full.on("log-start-offset").from_then_on());
    let refused = topic.truncate_front(0, 30);
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
    assert!(indexes(&storage) < before);
    let expected = read_all(&log, "t", 0).unwrap();
    assert_eq!(expected.len(), RECORDS);
    let killed = storage.kill();
    let report = Inspector::new().storage(Arc::new(killed.clone())).verify(DIRECTORY).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    for reopened in [killed, storage.power_cut(1).storage()] {
        let log = open(&reopened);
        assert_eq!(read_all(&log, "t", 0).unwrap(), expected);
        for offset in 0..RECORDS as i64 {
            let mut reader = log.topic("t").unwrap().read(0, Position::Offset(offset)).unwrap();
            assert_eq!(reader.next().unwrap().unwrap().offset, offset);
        }
    }
}
