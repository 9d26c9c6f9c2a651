//! Files of segments and who may touch them: what is open and for how long, and what a log leaves alone that is not its own
//! any more, or not yet as it will be.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/counted.rs"]
mod counted;
#[path = "log/hooked.rs"]
mod hooked;
#[path = "log/support.rs"]
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;

use counted::CountedStorage;
use hooked::HookedStorage;
use peermq::log::storage::{MemoryStorage, OpenMode, Operation, Storage};
use peermq::log::{Level, Log, LogError, NewRecord, Position, Topic, TopicOptions};
use support::{DIRECTORY, files, open, read_all, segments, small, try_open};

fn read_only(storage: &(impl Storage + Clone + 'static)) -> Result<Log, LogError> {
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

/// Files of sealed segments that a log keeps open, by its documentation.
const SEALED_MAX: usize = 64;

/// One segment for each record, each durable.
fn fill(topic: &Topic, count: usize) {
    (0..count).for_each(|n| _ = topic.append(&format!("{n:090}")).unwrap().wait().unwrap());
}

fn a_record_a_segment() -> TopicOptions {
    small().segment_bytes(100)
}

#[test]
fn of_any_number_of_segments_few_are_open() {
    // Of the active segment, the watermark, a reader, and what is read or replaced as a whole.
    let allowed = SEALED_MAX + 6;
    let storage = CountedStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", a_record_a_segment()).unwrap();
    fill(&topic, 200);
    assert!(storage.peak() <= allowed);
    for open_log in [&log, &read_only(&storage).unwrap()] {
        assert_eq!(read_all(open_log, "t", 0).unwrap().len(), 200);
        assert!(storage.peak() <= 2 * allowed, "both logs have some");
        let topic = open_log.topic("t").unwrap();
        for offset in (0..200).map(|n| n * 77 % 200) {
            let mut reader = topic.read(0, Position::Offset(offset)).unwrap();
            assert_eq!(reader.next().unwrap().unwrap().offset, offset);
        }
        assert_eq!(topic.read(0, Position::Time(i64::MAX)).unwrap().count(), 0);
        assert!(storage.peak() <= 2 * allowed);
    }
    drop((topic, log));
    assert_eq!(storage.open_files(), 0);
}

/// Files of watermarks that a log keeps open, by its documentation.
const MARKS_MAX: usize = 128;

#[test]
fn of_any_number_of_partitions_those_that_are_appended_to_have_a_file_open() {
    const PARTITIONS: u32 = 200;
    let storage = CountedStorage::new();
    let log = open(&storage);
    let options = TopicOptions::default().partitions(PARTITIONS);
    let topic = log.create_topic("t", options).unwrap();
    assert!(storage.peak() <= MARKS_MAX + 6);
    // There is room for more when what nobody uses is closed.
    storage.limit(PARTITIONS as usize + 10);
    for _ in 0..2 {
        for partition in 0..PARTITIONS {
            topic.append_to(partition, Level::Durable, "x").unwrap().wait().unwrap();
        }
    }
    drop(topic);
    log.close().unwrap();
    assert_eq!(storage.open_files(), 0);
    storage.peak();
    let log = open(&storage);
    assert!(storage.peak() <= MARKS_MAX + 6);
    for partition in 0..PARTITIONS {
        assert_eq!(read_all(&log, "t", partition).unwrap().len(), 2);
    }
}

#[test]
fn a_reader_has_its_segment_open_whatever_becomes_of_it() {
    let log = open(&MemoryStorage::new());
    let topic = log.create_topic("t", small()).unwrap();
    fill(&topic, SEALED_MAX * 5);
    let mut reader = topic.read(0, Position::Earliest).unwrap().chunk_bytes(1);
    assert_eq!(reader.next().unwrap().unwrap().offset, 0);
    // Others are read more, and then there is no segment of that name.
    assert_eq!(topic.read(0, Position::Earliest).unwrap().count(), SEALED_MAX * 5);
    log.delete_topic("t").unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset, 1);
}

#[test]
fn too_many_open_files_are_no_failure_of_the_medium() {
    let storage = CountedStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", a_record_a_segment()).unwrap();
    fill(&topic, 10);
    // There is room when what nobody uses is closed.
    storage.limit(6);
    fill(&topic, 40);
    assert_eq!(read_all(&log, "t", 0).unwrap().len(), 50);
    storage.limit(0);
    let refused = topic.append(&format!("{:090}", 0)).unwrap().wait();
    assert!(matches!(refused, Err(LogError::Storage { .. })), "{refused:?}");
    storage.limit(usize::MAX);
    fill(&topic, 1);
    log.close().unwrap();
    assert_eq!(read_all(&open(&storage), "t", 0).unwrap().len(), 51);
}

#[test]
fn a_log_that_is_made_while_another_process_looks_for_one_is_locked() {
    let storage = MemoryStorage::new();
    let hooked = HookedStorage::new(storage.clone());
    let (made, wait_made) = channel();
    hooked.before(Operation::List, DIRECTORY, move || made.send(open(&storage)).unwrap());
    let refused = try_open(&hooked).map(|_| ());
    assert!(hooked.is_done());
    assert!(matches!(refused, Err(LogError::Locked { .. })), "{refused:?}");
    wait_made.recv().unwrap().close().unwrap();
}

#[test]
fn indexes_that_a_reader_builds_do_not_displace_what_the_writer_has_noted_meanwhile() {
    const INDEX: &str = "/log/t-0/00000000000000000000.timeindex";
    let storage = MemoryStorage::new();
    let options = TopicOptions::default().index_interval_bytes(10).level(Level::Written);
    let put = |topic: &Topic, time: i64| {
        let record = NewRecord::new("x").timestamp_ms(time);
        topic.append(record).unwrap().wait().unwrap();
    };
    let log = open(&storage);
    let topic = log.create_topic("t", options).unwrap();
    (0..50).for_each(|n| put(&topic, 1000 + n));
    log.close().unwrap();
    storage.remove_file(INDEX.as_ref()).unwrap();

    let hooked = HookedStorage::new(storage);
    let topic = open(&hooked).topic("t").unwrap();
    let writer = topic.clone();
    hooked.before(Operation::Read, "t-0/00000000000000000000.log", move || {
        (0..10).for_each(|_| put(&writer, 5000));
    });
    assert_eq!(topic.read(0, Position::Offset(20)).unwrap().next().unwrap().unwrap().offset, 20);
    assert!(hooked.is_done());
    (0..50).for_each(|n| put(&topic, 3000 + n * 10));
    let mut reader = topic.read(0, Position::Time(4500)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset, 50, "the first that is so late");
}

#[test]
fn a_start_of_which_a_digit_has_rotted_lets_no_segment_be_removed() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", a_record_a_segment()).unwrap();
    fill(&topic, 100);
    topic.truncate_front(0, 12).unwrap();
    topic.truncate_front(0, 15).unwrap();
    drop(topic);
    log.close().unwrap();
    let path = PathBuf::from(DIRECTORY).join("log-start-offset-checkpoint");
    let text = files(&storage).remove(&path).unwrap();
    let at = text.windows(3).position(|digits| digits == b" 15").unwrap() as u64;
    let file = storage.open(&path, OpenMode::Write).unwrap();
    file.write_at(b" 75", at).unwrap();
    let before = segments(&storage);
    let refused = [try_open(&storage).map(drop), read_only(&storage).map(drop)];
    for refused in refused {
        assert!(refused.as_ref().is_err_and(LogError::is_corruption), "{refused:?}");
    }
    assert_eq!(segments(&storage), before);

    // What vouches for it may be missing, or damaged itself: that is no reason.
    file.write_at(b" 15", at).unwrap();
    let check = PathBuf::from(DIRECTORY).join("log-start-offset-check");
    storage.open(&check, OpenMode::Write).unwrap().write_at(b"?", 9).unwrap();
    assert_eq!(read_all(&open(&storage), "t", 0).unwrap().len(), 85);
    storage.remove_file(&check).unwrap();
    assert_eq!(read_all(&open(&storage), "t", 0).unwrap().len(), 85);
}
