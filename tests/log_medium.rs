//! What a medium that rots or fails makes of transactions, committed offsets, idempotent producers, and of changes of topics.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::storage::Storage;
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::{
    Level, Log, LogError, ManualClock, MemberOptions, NewRecord, OffsetCommit, Position,
};
use support::{DIRECTORY, files, open, read_all, small, try_open};

/// A number from the environment, for long runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The next batch of an idempotent producer, of one record.
fn produced(sequence: i32) -> Vec<u8> {
    let producer = Producer { id: 7, epoch: 0, base_sequence: sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    builder.append(1_000, Some(b"key"), Some(b"produced"), []).unwrap();
    builder.finish().unwrap()
}

/// A record in each of two topics, and an offset, all or nothing.
fn transact(log: &Log, n: i64) -> Result<(), LogError> {
    let member = log.group("g")?.join(MemberOptions::new(["t"]))?;
    let mut transaction = log.transaction();
    for topic in ["t", "a"] {
        transaction.append(topic, &format!("transaction {n}"))?;
    }
    transaction.commit_offsets(&member.membership(), &[OffsetCommit::new("t", 0, n)])?;
    transaction.commit().map(drop)
}

/// What a log with everything in it holds.
struct Whole {
    t: Vec<(i64, String)>,
    a: Vec<(i64, String)>,
    /// Where the last batch of the producer is.
    produced: i64,
}

/// The last sequence number of the producer.
const SEQUENCE: i32 = 9;
/// The last transaction, which commits this offset.
const LAST: i64 = 3;

/// A log after a clean stop, and as a kill would have left it; both hold the same.
fn whole() -> (FaultyStorage, FaultyStorage, Whole) {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    log.create_topic("a", small()).unwrap();
    let mut last = 0;
    for sequence in 0..=SEQUENCE {
        let ticket = topic.append_batch(0, Level::Durable, &produced(sequence)).unwrap();
        last = ticket.wait().unwrap();
        topic.append(&format!("plain {sequence}")).unwrap().wait().unwrap();
    }
    for n in 1..=LAST {
        transact(&log, n).unwrap();
    }
    log.sync().unwrap();
    let (t, a) = (read_all(&log, "t", 0).unwrap(), read_all(&log, "a", 0).unwrap());
    let killed = storage.kill();
    drop(topic);
    log.close().unwrap();
    (storage, killed, Whole { t, a, produced: last })
}

/// Whether all of a log with one wrong bit can be used. What it shows, and does, must be right in any case.
fn use_rotten(storage: &FaultyStorage, whole: &Whole, context: &str) -> Result<(), LogError> {
    let log = try_open(storage)?;
    let t = log.topic("t")?;
    assert_eq!(read_all(&log, "t", 0)?, whole.t, "{context}");
    assert_eq!(read_all(&log, "a", 0)?, whole.a, "{context}");
    let committed = |log: &Log| -> Result<Option<i64>, LogError> {
        let committed = log.group("g")?.committed("t", 0)?;
        Ok(committed.map(|committed| committed.offset))
    };
    assert_eq!(committed(&log)?, Some(LAST), "{context}");
    let again = t.append_batch(0, Level::Durable, &produced(SEQUENCE))?.wait()?;
    assert_eq!(again, whole.produced, "appended again: {context}");
    transact(&log, LAST + 1)?;
    drop((t, log));
    let log = try_open(&storage.kill())?;
    assert_eq!(committed(&log)?, Some(LAST + 1), "{context}");
    for (topic, before) in [("t", &whole.t), ("a", &whole.a)] {
        let now = read_all(&log, topic, 0)?;
        assert_eq!(now.len(), before.len() + 1, "{topic}: {context}");
        assert_eq!(now[..before.len()], before[..], "{topic}: {context}");
    }
    Ok(())
}

#[test]
fn flipped_bits_of_what_groups_transactions_and_producers_left_are_noticed_or_do_no_harm() {
    // Neighbouring bits show the same but for few; the long form takes each.
    let stride = setting("PEERMQ_LOG_ROT_STRIDE", 11);
    let (clean, killed, whole) = whole();
    let (mut noticed, mut kinds) = (0, std::collections::BTreeSet::new());
    for (storage, stopped) in [(&clean, "clean"), (&killed, "killed")] {
        for (path, bytes) in files(storage) {
            let kind = path.file_name().unwrap().to_str().unwrap().to_owned();
            kinds.insert(kind.rsplit('.').next().unwrap().to_owned());
            for bit in (0..bytes.len() as u64 * 8).step_by(stride as usize) {
                // The space between the slots of the watermark is never read.
                if kind == "durable-watermark" && bit / 8 % 4096 >= 64 {
                    continue;
                }
                let rotten = storage.kill();
                rotten.flip_bit(&path, bit).unwrap();
                let context = format!("{stopped}, {}, bit {bit}", path.display());
                noticed += u64::from(use_rotten(&rotten, &whole, &context).is_err());
            }
        }
    }
    assert!(noticed > 8_000 / stride, "only {noticed} flips were noticed");
    for kind in ["log", "index", "timeindex", "snapshot", "durable-watermark", "segment-times"] {
        assert!(kinds.contains(kind), "{kind} is not in {kinds:?}");
    }
}

/// What was acknowledged of a script, and what was tried.
#[derive(Debug, Default)]
struct Outcome {
    made: Option<bool>,
    altered: Option<bool>,
    cut: Option<bool>,
    deleted: Option<bool>,
    committed: Option<bool>,
}

fn open_at(storage: &FaultyStorage, now_ms: i64) -> Result<Log, LogError> {
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    options.clock(Arc::new(ManualClock::new(now_ms))).open(DIRECTORY)
}

/// Changes everything that can be changed, as far as it gets.
fn administer(storage: &FaultyStorage, now_ms: i64) -> Outcome {
    let mut outcome = Outcome::default();
    let Ok(log) = open_at(storage, now_ms) else { return outcome };
    outcome.made = Some(log.create_topic("new", small()).is_ok());
    outcome.altered = Some(log.alter_topic("t", small().partitions(2)).is_ok());
    let cut = log.topic("t").and_then(|topic| topic.truncate_front(0, 7));
    outcome.cut = Some(cut.is_ok());
    let _ = log.maintain();
    outcome.deleted = Some(log.delete_topic("old").is_ok());
    let offsets = [OffsetCommit::new("t", 0, 9)];
    let committed = log.group("g").and_then(|group| group.set_offsets(&offsets));
    outcome.committed = Some(committed.is_ok());
    let _ = log.close();
    outcome
}

/// A log to be administered: a topic to cut and alter, one to delete, one whose records are old.
fn prepared(now_ms: i64) -> FaultyStorage {
    let storage = FaultyStorage::new();
    let log = open_at(&storage, now_ms).unwrap();
    for (name, options) in [
        ("t", small()),
        ("old", small()),
        ("aged", small().retention(Some(Duration::from_secs(1)))),
    ] {
        let topic = log.create_topic(name, options).unwrap();
        for n in 0..12 {
            let value = format!("{n:080}");
            topic.append(NewRecord::new(&value)).unwrap().wait().unwrap();
        }
    }
    log.group("g").unwrap().set_offsets(&[OffsetCommit::new("t", 0, 5)]).unwrap();
    log.close().unwrap();
    storage.forget_history();
    storage
}

/// Opens what is left; everything that was acknowledged is done, what was not is done or not.
fn check(storage: &FaultyStorage, now_ms: i64, outcome: &Outcome, context: &str) {
    let log = open_at(storage, now_ms).unwrap_or_else(|error| panic!("{error}: {context}"));
    let agrees = |tried: Option<bool>, done: bool, what: &str| {
        assert!(tried.is_some() || !done, "{what} without a call: {context}");
        assert!(tried != Some(true) || done, "{what} is undone: {context}");
    };
    agrees(outcome.made, log.topic("new").is_ok(), "made");
    agrees(outcome.deleted, log.topic("old").is_err(), "deleted");
    let topic = log.topic("t").unwrap();
    agrees(outcome.altered, topic.partitions() == 2, "altered");
    let start = topic.offset_of(0, Position::Earliest).unwrap();
    assert!([0, 7].contains(&start), "{start}: {context}");
    agrees(outcome.cut, start == 7, "cut");
    let committed = log.group("g").unwrap().committed("t", 0).unwrap().unwrap().offset;
    assert!([5, 9].contains(&committed), "{committed}: {context}");
    agrees(outcome.committed, committed == 9, "committed");
    let expected: Vec<_> = (start..12).map(|n| (n, format!("{n:080}"))).collect();
    assert_eq!(read_all(&log, "t", 0).unwrap(), expected, "{context}");
    let aged = read_all(&log, "aged", 0).unwrap();
    let first = aged.first().map_or(12, |(offset, _)| *offset);
    assert_eq!(log.topic("aged").unwrap().offset_of(0, Position::Earliest).unwrap(), first);
    assert_eq!(aged.len() as i64, 12 - first, "{context}");
    // And everything goes on.
    for name in log.topics() {
        log.topic(&name).unwrap().append("next").unwrap().wait().unwrap();
    }
    log.maintain().unwrap();
    log.close().unwrap();
}

#[test]
fn an_error_at_any_call_while_topics_are_changed_undoes_nothing_that_was_acknowledged() {
    let now_ms = 1_000_000;
    let prepared = prepared(now_ms);
    // All of `aged` is old.
    let now_ms = now_ms + 1_001;
    for action in [
        FaultAction::Fail(Errno::Io),
        FaultAction::Fail(Errno::NoSpace),
        FaultAction::ShortWrite(Errno::NoSpace),
        FaultAction::Interrupt,
    ] {
        for nth in 0.. {
            let storage = prepared.kill();
            storage.inject(Fault::at(nth, action));
            let outcome = administer(&storage, now_ms);
            let met = storage.faults_met();
            storage.clear_faults();
            let context = format!("{action:?} at call {nth}, {outcome:?}");
            for survivor in [storage.kill(), storage.power_cut(nth).storage()] {
                check(&survivor, now_ms, &outcome, &context);
            }
            if met == 0 {
                assert!(nth > 100, "only {nth} calls");
                break;
            }
        }
    }
}

#[test]
fn a_time_is_found_after_a_kill_though_the_time_index_was_lost_or_cut_short() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let options = small().segment_bytes(1 << 20).index_interval_bytes(60);
    let topic = log.create_topic("t", options).unwrap();
    // So many that the indexes are saved once; the latest time is one that only the lost entries have.
    let times: Vec<i64> = (0..700).map(|n| if n == 300 { 9_000 } else { 1_000 + n }).collect();
    for time in &times {
        let record = NewRecord::new("value").timestamp_ms(*time);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
    }
    topic.sync().unwrap();
    let path = std::path::PathBuf::from(format!("{DIRECTORY}/t-0/00000000000000000000.timeindex"));
    let bytes = files(&storage)[&path].len() as u64;
    assert!(bytes > 3_000, "{bytes} bytes of index");
    for left in [0, 12, bytes / 3, bytes] {
        let killed = storage.kill();
        let file = killed.open(&path, peermq::log::storage::OpenMode::Write).unwrap();
        file.set_len(left).unwrap();
        let log = open(&killed);
        let topic = log.topic("t").unwrap();
        for time in [1_000, 1_250, 1_301, 1_650, 8_999, 9_000, 9_001] {
            let first = times.iter().position(|found| *found >= time).unwrap_or(times.len());
            let found = topic.offset_of(0, Position::Time(time)).unwrap();
            assert_eq!(found, first as i64, "{time}, {left} bytes left of the index");
        }
    }
}

#[test]
fn a_batch_of_an_earlier_opening_that_comes_back_behind_the_end_is_no_record() {
    let path = std::path::PathBuf::from(format!("{DIRECTORY}/t-0/00000000000000000000.log"));
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    topic.append("first").unwrap().wait().unwrap();
    let killed = storage.kill();
    drop(topic);
    // One opening appends two records; a crash takes the first of them.
    let lost = open(&killed);
    let topic = lost.topic("t").unwrap();
    topic.append("lost").unwrap().wait().unwrap();
    let from = files(&killed)[&path].len();
    topic.append("stale").unwrap().wait().unwrap();
    let stale = files(&killed)[&path][from..].to_vec();
    // A later one has another record in its place, as long as that.
    drop(log);
    drop(open(&storage));
    let log = open(&storage);
    log.topic("t").unwrap().append("kept").unwrap().wait().unwrap();
    let crashed = storage.kill();
    let file = crashed.open(&path, peermq::log::storage::OpenMode::Write).unwrap();
    assert_eq!(file.len().unwrap(), from as u64);
    file.write_at(&stale, from as u64).unwrap();
    let log = open(&crashed);
    let expected = [(0, "first".to_owned()), (1, "kept".to_owned())];
    assert_eq!(read_all(&log, "t", 0).unwrap(), expected);
}

#[test]
fn where_the_batches_of_each_opening_begin_is_noted() {
    let storage = FaultyStorage::new();
    open(&storage).create_topic("t", small()).unwrap();
    for _ in 0..3 {
        let log = open(&storage);
        log.topic("t").unwrap().append("x").unwrap().wait().unwrap();
    }
    let path = std::path::PathBuf::from(format!("{DIRECTORY}/t-0/leader-epoch-checkpoint"));
    let text = String::from_utf8(files(&storage)[&path].clone()).unwrap();
    let entry = |line: &str| -> (i32, i64) {
        let (epoch, start) = line.split_once(' ').unwrap();
        (epoch.parse().unwrap(), start.parse().unwrap())
    };
    let entries: Vec<_> = text.lines().skip(2).map(entry).collect();
    let starts: Vec<_> = entries.iter().map(|entry| entry.1).collect();
    assert_eq!(starts, [0, 1, 2], "{text}");
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0), "{text}");
}
