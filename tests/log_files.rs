//! Files of segments and who may touch them: what is open and for how long, and what a log leaves alone that is not its own
//! any more, or not yet as it will be.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/hooked.rs"]
mod hooked;
#[path = "log/support.rs"]
mod support;

use std::sync::Arc;

use hooked::HookedStorage;
use peermq::log::storage::{MemoryStorage, OpenMode, Operation, Storage};
use peermq::log::{Level, Log, LogError, NewRecord, Position, Topic, TopicOptions};
use support::{DIRECTORY, files, open, read_all};

fn read_only(storage: &HookedStorage) -> Result<Log, LogError> {
    Log::options().storage(Arc::new(storage.clone())).open_read_only(DIRECTORY)
}

#[test]
fn a_reader_of_a_closed_log_changes_no_file_of_the_next_owner() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let options = TopicOptions::default().index_interval_bytes(10).level(Level::Written);
    let topic = log.create_topic("t", options).unwrap();
    let append = |topic: &Topic| {
        (0..50).for_each(|_| _ = topic.append("x").unwrap().wait().unwrap());
    };
    append(&topic);
    log.close().unwrap();

    // It has not looked into a file yet, and knows the active segment as it is now.
    let log = open(&storage);
    let mut reader = log.topic("t").unwrap().read(0, Position::Offset(20)).unwrap();
    log.close().unwrap();
    let next = open(&storage);
    append(&next.topic("t").unwrap());
    next.close().unwrap();

    let next = open(&storage);
    let before = files(&storage);
    assert_eq!(reader.next().unwrap().unwrap().offset, 20);
    assert_eq!(reader.count(), 29, "what it knew of can be read");
    assert_eq!(files(&storage), before);
    next.close().unwrap();
}

#[test]
fn a_log_that_is_rolled_and_compacted_while_it_is_opened_for_reading_is_not_taken_for_a_damaged_one()
 {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let options = TopicOptions::default().segment_bytes(300).compact(true).min_dirty_percent(1);
    let topic = log.create_topic("t", options).unwrap();
    let put = |topic: &Topic, value: &str| {
        topic.append(NewRecord::new(value).key("K")).unwrap().wait().unwrap();
    };
    (0..3).for_each(|_| put(&topic, "before"));
    let hooked = HookedStorage::new(storage.clone());
    let writer = log.clone();
    // The watermark was read, and the segment that it is of is replaced by a shorter one.
    hooked.before(Operation::List, "t-0", move || {
        (0..8).for_each(|_| put(&topic, "meanwhile"));
        assert!(writer.maintain().unwrap().compacted_records > 0);
    });
    let reader = read_only(&hooked).unwrap();
    assert!(hooked.is_done());
    assert_eq!(read_all(&reader, "t", 0).unwrap(), read_all(&log, "t", 0).unwrap());
}

#[test]
fn a_log_that_is_damaged_is_refused_when_it_is_opened_for_reading() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    log.create_topic("t", TopicOptions::default()).unwrap().append("x").unwrap().wait().unwrap();
    log.close().unwrap();
    let path = format!("{DIRECTORY}/t-0/00000000000000000000.log");
    storage.open(path.as_ref(), OpenMode::Write).unwrap().set_len(10).unwrap();
    let error = read_only(&HookedStorage::new(storage)).unwrap_err();
    assert!(error.is_corruption(), "{error}");
}
