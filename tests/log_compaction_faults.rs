//! What compaction must not do when the power goes between two swaps, when the note of one fails, when a batch cannot be
//! made anew as it should be, and what batches of others must not bring along.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation, Storage};
use peermq::log::{Level, Log, LogError, ManualClock, NewRecord, Position, Topic, TopicOptions};
use support::{DIRECTORY, small};

const NOW_MS: i64 = 1_000_000;
/// How long tombstones stay.
const DELETE_RETENTION: Duration = Duration::from_secs(1);

/// Opens the log of a storage; compaction has room for one new key at a time.
fn open_at(storage: &(impl Storage + Clone + 'static), clock: &Arc<ManualClock>) -> Log {
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    options.clock(clock.clone()).compaction_bytes(0).open(DIRECTORY).unwrap()
}

fn open(storage: &FaultyStorage) -> Log {
    open_at(storage, &Arc::new(ManualClock::new(NOW_MS)))
}

fn compacted(segment_bytes: u32) -> TopicOptions {
    let options = small().segment_bytes(segment_bytes).compact(true).min_dirty_percent(0);
    options.delete_retention(DELETE_RETENTION)
}

/// A record: offset, key and value.
type Found = (i64, String, Option<String>);

/// All records, whose offsets rise.
fn read(topic: &Topic) -> Vec<Found> {
    let text = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let records = topic.read(0, Position::Earliest).unwrap().map(Result::unwrap);
    let records: Vec<Found> = records
        .map(|record| (record.offset, text(record.key.unwrap_or_default()), record.value.map(text)))
        .collect();
    assert!(records.is_sorted_by(|a, b| a.0 < b.0), "out of order: {records:?}");
    records
}

fn put(topic: &Topic, key: &str, value: &str) {
    topic.append(NewRecord::new(value).key(key)).unwrap().wait().unwrap();
}

/// The last value of each key.
fn last_values(records: &[Found]) -> BTreeMap<String, Option<String>> {
    records.iter().map(|(_, key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn every_power_cut_of_a_swap_that_follows_another_leaves_segments_that_go_on_from_one_another() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    // A segment for each record. The table has room for one key, so the second pass begins with what the first one made.
    let topic = log.create_topic("t", compacted(64)).unwrap();
    for (key, value) in [("a", "1"), ("a", "2"), ("b", "3"), ("b", "4"), ("c", "5")] {
        put(&topic, key, value);
    }
    let expected = last_values(&read(&topic));
    log.alter_topic("t", compacted(600)).unwrap();
    drop(topic);
    log.close().unwrap();
    let log = open(&storage);
    storage.forget_history();
    assert_eq!(log.maintain().unwrap().compacted_records, 2);

    let history = storage.history();
    let done = history.describe();
    let notes = done.iter().enumerate().filter(|(_, what)| what.contains("to segment-swap"));
    let notes: Vec<usize> = notes.map(|(at, _)| at).collect();
    assert_eq!(notes.len(), 2, "{done:#?}");
    let mut images = 0;
    let later = |at: usize| at > notes[0];
    for image in history.every_image(100_000).unwrap().filter(|image| later(image.crash_point())) {
        images += 1;
        let context = || format!("after {}: {:#?}", image.crash_point(), history.describe());
        let storage = image.storage();
        let log = open(&storage);
        let topic = log.topic("t").unwrap();
        assert_eq!(last_values(&read(&topic)), expected, "{}", context());
        let maintained = log.maintain();
        assert!(maintained.is_ok(), "{maintained:?} {}", context());
        assert_eq!(last_values(&read(&topic)), expected, "{}", context());
        drop(topic);
        log.close().unwrap();
        let again = open(&storage).topic("t").unwrap();
        assert_eq!(last_values(&read(&again)), expected, "{}", context());
    }
    println!("{images} images");
    assert!(images > 50, "{images} images");
}

/// What is cut off after a swap failed half-way, and what the log holds then, if any sync of names in the swap can fail.
fn cut_after_failed_sync_of_names(errno: Errno) {
    for nth in 0.. {
        let context = || format!("{errno:?} at sync {nth}");
        let storage = FaultyStorage::new();
        let log = open(&storage);
        let topic = log.create_topic("t", compacted(300)).unwrap();
        for n in 0..24 {
            put(&topic, ["a", "b"][n % 2], &format!("value {n}"));
        }
        let expected = last_values(&read(&topic));
        let fault = Fault::at(nth, FaultAction::Fail(errno)).of(Operation::SyncDir).on("t-0");
        storage.inject(fault);
        let outcome = log.maintain();
        let met = storage.faults_met();
        storage.clear_faults();
        let right = match &outcome {
            Ok(_) => met == 0,
            Err(LogError::Full { .. }) => errno == Errno::NoSpace,
            Err(error) => errno == Errno::Io && matches!(error, LogError::Poisoned { .. }),
        };
        assert!(right, "{outcome:?} {}", context());
        // The next pass finishes what it finds, and gets no further.
        let full = Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(Operation::Open);
        storage.inject(full.on(".cleaned").from_then_on());
        let _ = log.maintain();
        storage.clear_faults();

        let cut = topic.truncate_front(0, 8);
        let start = if cut.is_ok() { 8 } else { 0 };
        assert!(cut.is_ok() || errno == Errno::Io, "{cut:?} {}", context());
        let appended = topic.append(NewRecord::new("last").key("c")).and_then(|t| t.wait());
        assert_eq!(appended.is_ok(), cut.is_ok(), "{appended:?} {}", context());
        let mut expected = expected;
        if appended.is_ok() {
            expected.insert("c".to_owned(), Some("last".to_owned()));
        }
        let check = |topic: &Topic| {
            let found = read(topic);
            assert!(found.iter().all(|(offset, ..)| *offset >= start), "{found:?} {}", context());
            assert_eq!(last_values(&found), expected, "{}", context());
        };
        check(&topic);
        drop(topic);
        let _ = log.close();
        for survivor in [storage.kill(), storage.power_cut(nth).storage()] {
            let log = open(&survivor);
            check(&log.topic("t").unwrap());
            log.maintain().unwrap();
            check(&log.topic("t").unwrap());
        }
        if met == 0 {
            outcome.unwrap();
            assert!(nth > 4, "only {nth} syncs");
            return;
        }
    }
}

#[test]
fn a_swap_for_whose_names_there_is_no_space_is_not_done_behind_the_back_of_whoever_cuts_the_front()
{
    cut_after_failed_sync_of_names(Errno::NoSpace);
}

#[test]
fn a_swap_whose_names_could_not_be_synced_stops_all_or_is_not_done_behind_anybodys_back() {
    cut_after_failed_sync_of_names(Errno::Io);
}

/// A topic that compacts all there is in each pass, its clock, and its log.
fn tombstones() -> (Log, Topic, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let options = Log::options().storage(Arc::new(MemoryStorage::new())).linger(None);
    let log = options.clock(clock.clone()).open(DIRECTORY).unwrap();
    let topic = log.create_topic("t", compacted(64)).unwrap();
    (log, topic, clock)
}

/// Makes what was appended so far part of sealed segments, and compacts it.
fn pass(log: &Log, topic: &Topic) -> Vec<Found> {
    put(topic, "seal", "1");
    put(topic, "seal", "2");
    log.maintain().unwrap();
    let mut found = read(topic);
    found.retain(|(_, key, _)| key != "seal");
    found
}

#[test]
fn a_value_in_a_batch_of_times_as_far_apart_as_can_be_does_not_outlive_its_tombstone() {
    let (log, topic, clock) = tombstones();
    let records = [
        NewRecord::new("secret").key("k").timestamp_ms(0),
        NewRecord::new("1").key("a").timestamp_ms(i64::MIN),
        NewRecord::new("2").key("b").timestamp_ms(i64::MAX),
    ];
    topic.append_all(0, Level::Durable, &records).unwrap().unwrap().wait().unwrap();
    topic.append(NewRecord::tombstone("k")).unwrap().wait().unwrap();
    let others = [(1, "a".into(), Some("1".into())), (2, "b".into(), Some("2".into()))];
    let mut with_tombstone = others.to_vec();
    with_tombstone.push((3, "k".to_owned(), None));
    assert_eq!(pass(&log, &topic), with_tombstone);
    clock.advance(2 * DELETE_RETENTION.as_millis() as i64);
    assert_eq!(pass(&log, &topic), others);
    let times = topic.read(0, Position::Earliest).unwrap().map(|record| record.unwrap());
    let times: Vec<i64> = times.take(2).map(|record| record.timestamp_ms).collect();
    assert_eq!(times, [i64::MIN, i64::MAX], "as they were");
}

#[test]
fn a_tombstone_of_a_time_too_early_for_any_horizon_stays_and_what_it_supersedes_goes() {
    let (log, topic, clock) = tombstones();
    let records = [
        NewRecord::new("old").key("k").timestamp_ms(i64::MIN),
        NewRecord::tombstone("k").timestamp_ms(i64::MIN),
    ];
    topic.append_all(0, Level::Durable, &records).unwrap().unwrap().wait().unwrap();
    let tombstone = [(1, "k".to_owned(), None)];
    for _ in 0..3 {
        assert_eq!(pass(&log, &topic), tombstone);
        clock.advance(2 * DELETE_RETENTION.as_millis() as i64);
    }
}

/// A batch of one record that somebody else made.
fn foreign(options: BatchOptions, value: Option<&[u8]>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    builder.append(NOW_MS, Some(b"k"), value, []).unwrap();
    builder.finish().unwrap()
}

#[test]
fn a_batch_that_brings_a_delete_horizon_is_refused_so_that_its_tombstones_stay_as_long_as_others() {
    let (log, topic, _) = tombstones();
    put(&topic, "k", "old");
    let batch = foreign(BatchOptions { delete_horizon_ms: Some(0), ..Default::default() }, None);
    let refused = topic.append_batch(0, Level::Durable, &batch);
    assert!(matches!(refused, Err(LogError::BadBatch { .. })), "{refused:?}");
    let batch = foreign(BatchOptions::default(), None);
    topic.append_batch(0, Level::Durable, &batch).unwrap().wait().unwrap();
    assert_eq!(pass(&log, &topic), [(1, "k".to_owned(), None)]);
}

#[test]
fn a_batch_of_a_producer_without_sequence_number_is_refused_rather_than_taken_for_a_repetition() {
    let (_log, topic, _) = tombstones();
    let batch = |base_sequence| {
        let producer = Producer { id: 5, epoch: 0, base_sequence };
        foreign(BatchOptions { producer, ..Default::default() }, Some(b"value"))
    };
    for _ in 0..2 {
        let refused = topic.append_batch(0, Level::Durable, &batch(-1));
        assert!(matches!(refused, Err(LogError::BadBatch { .. })), "{refused:?}");
    }
    for sequence in [0, 1] {
        let ticket = topic.append_batch(0, Level::Durable, &batch(sequence)).unwrap();
        assert_eq!(ticket.wait().unwrap(), i64::from(sequence));
    }
}
