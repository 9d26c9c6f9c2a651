//! What retention and compaction leave when the power goes, the process dies, the medium fails or rots meanwhile.

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
use peermq::log::{Level, Log, LogError, ManualClock, NewRecord, Position, Topic, TopicOptions};
use support::{DIRECTORY, Random, files, segments, small};

/// When everything happens, unless a test says otherwise.
const NOW_MS: i64 = 1_000_000;
/// How long tombstones stay.
const DELETE_RETENTION_MS: i64 = 1_000;

fn try_open_at(storage: &FaultyStorage, now_ms: i64) -> Result<Log, LogError> {
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    options.clock(Arc::new(ManualClock::new(now_ms))).compaction_bytes(24 * 64).open(DIRECTORY)
}

fn open_at(storage: &FaultyStorage, now_ms: i64) -> Log {
    try_open_at(storage, now_ms).unwrap()
}

fn compacted() -> TopicOptions {
    let delete_retention = Duration::from_millis(DELETE_RETENTION_MS as u64);
    small().compact(true).min_dirty_percent(0).delete_retention(delete_retention)
}

/// A record that a script appended: key and value.
type Appended = (String, Option<String>);

/// What a script did, and when.
#[derive(Clone, Default)]
struct Done {
    appended: Vec<Appended>,
    /// (crash point, records): after so many operations so many records were durable.
    durable: Vec<(usize, usize)>,
    /// (crash point, offset): after so many operations the log began there.
    cut: Vec<(usize, i64)>,
}

impl Done {
    fn durable_at(&self, point: usize) -> usize {
        let before = self.durable.iter().filter(|(when, _)| *when <= point);
        before.map(|(_, records)| *records).max().unwrap_or(0)
    }

    fn cut_at(&self, point: usize) -> i64 {
        let before = self.cut.iter().filter(|(when, _)| *when <= point);
        before.map(|(_, offset)| *offset).max().unwrap_or(0)
    }

    fn put(&mut self, log: &Log, storage: &FaultyStorage, key: &str, value: Option<&str>) {
        let record = value.map_or_else(|| NewRecord::tombstone(key), NewRecord::new);
        let topic = log.topic("t").unwrap();
        let ticket = topic.append_at(Level::Durable, record.key(key)).unwrap();
        assert_eq!(ticket.wait().unwrap(), self.appended.len() as i64);
        self.appended.push((key.to_owned(), value.map(str::to_owned)));
        self.durable.push((storage.recorded(), self.appended.len()));
    }

    /// Appends so much of one key that all before is in sealed segments.
    fn seal(&mut self, log: &Log, storage: &FaultyStorage) {
        for n in 0..8 {
            self.put(log, storage, "seal", Some(&format!("{n:090}")));
        }
    }
}

/// A log with one topic and a script's first records in sealed segments, and nothing of that in the record.
fn prepared(options: TopicOptions, keys: &[(&str, Option<&str>)]) -> (FaultyStorage, Log, Done) {
    let storage = FaultyStorage::new();
    let log = open_at(&storage, NOW_MS);
    log.create_topic("t", options).unwrap();
    let mut done = Done::default();
    for (key, value) in keys {
        done.put(&log, &storage, key, *value);
    }
    done.seal(&log, &storage);
    // What was left to the medium before is durable then, and nothing to enumerate.
    log.close().unwrap();
    let log = open_at(&storage, NOW_MS);
    storage.forget_history();
    done.durable = vec![(0, done.appended.len())];
    (storage, log, done)
}

/// All records: offset, key and value.
fn read(log: &Log) -> Result<Vec<(i64, Appended)>, LogError> {
    let text = |bytes: Option<bytes::Bytes>| {
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let mut records = Vec::new();
    for record in log.topic("t")?.read(0, Position::Earliest)? {
        let record = record?;
        records.push((record.offset, (text(record.key).unwrap_or_default(), text(record.value))));
    }
    assert!(records.is_sorted_by(|a, b| a.0 < b.0), "twice or out of order");
    Ok(records)
}

/// Checks what a log holds of which so many records were durable, and which began at an offset.
fn check_contents(
    log: &Log,
    done: &Done,
    durable: usize,
    start: i64,
    context: &dyn Fn() -> String,
) {
    let found = read(log).unwrap();
    let end = log.topic("t").unwrap().describe().partitions[0].end as usize;
    assert!((durable..=done.appended.len()).contains(&end), "{end} of {durable}: {}", context());
    let there: BTreeMap<i64, &Appended> = found.iter().map(|(at, record)| (*at, record)).collect();
    for (offset, record) in &found {
        assert_eq!(*record, done.appended[*offset as usize], "at {offset}: {}", context());
        assert!(*offset >= start, "{offset} is before the start: {}", context());
    }
    let earliest = log.topic("t").unwrap().offset_of(0, Position::Earliest).unwrap();
    for (offset, (key, value)) in done.appended[..end].iter().enumerate().skip(earliest as usize) {
        let later = || done.appended[offset + 1..end].iter().any(|(other, _)| other == key);
        let lost = !there.contains_key(&(offset as i64)) && value.is_some() && !later();
        assert!(!lost, "{offset} of {key} is gone: {}", context());
    }
}

/// Opens what a crash left and checks it; recovering again changes nothing, and compaction and appending go on.
fn check(storage: &FaultyStorage, done: &Done, point: usize, context: &dyn Fn() -> String) {
    let log = match try_open_at(storage, NOW_MS) {
        Ok(log) => log,
        Err(error) => panic!("{error}\n{}", context()),
    };
    check_contents(&log, done, done.durable_at(point), done.cut_at(point), context);
    let recovered = segments(storage);
    let killed = storage.kill();
    drop(log);
    let again = open_at(&killed, NOW_MS);
    assert_eq!(segments(&killed), recovered, "recovery changed its mind\n{}", context());
    let end = again.topic("t").unwrap().describe().partitions[0].end;
    again.maintain().unwrap();
    check_contents(&again, done, end as usize, done.cut_at(point), context);
    let next = again.topic("t").unwrap().append(NewRecord::new("next").key("next")).unwrap();
    assert_eq!(next.wait().unwrap(), end, "{}", context());
    for name in files(&killed).keys().map(|path| path.to_str().unwrap()) {
        let left = name.contains("t-0/")
            && [".cleaned", ".swap", ".tmp", "segment-swap"].iter().any(|end| name.ends_with(end));
        assert!(!left, "{name} is left\n{}", context());
    }
}

/// Checks every way in which a power cut at any moment of the record could have left the storage, and every kill.
fn check_every_crash(storage: &FaultyStorage, done: &Done) -> usize {
    let history = storage.history();
    let mut images = 0;
    for image in history.every_image(100_000).unwrap() {
        images += 1;
        let point = image.crash_point();
        check(&image.storage(), done, point, &|| {
            format!("power cut after {point} operations: {:#?}", history.describe())
        });
    }
    for point in 0..=history.len() {
        check(&history.killed_at(point), done, point, &|| format!("killed after {point}"));
    }
    images
}

#[test]
fn every_power_cut_of_a_compaction_leaves_what_was_there_or_what_will_be() {
    let scripts: [&[(&str, Option<&str>)]; 3] = [
        // Nothing stays of it but the last record.
        &[("a", Some("1")), ("a", Some("2")), ("a", Some("3"))],
        &[("a", Some("1")), ("b", Some("2")), ("a", None), ("b", Some("3")), ("c", Some("4"))],
        &[("a", Some("1")), ("b", None), ("c", Some("3"))],
    ];
    for script in scripts {
        let (storage, log, done) = prepared(compacted(), script);
        let maintained = log.maintain().unwrap();
        assert!(maintained.compacted_records > 0);
        let images = check_every_crash(&storage, &done);
        assert!(images > 50, "{images} images");
    }
}

#[test]
fn every_power_cut_while_tombstones_go_leaves_no_older_value_of_their_keys() {
    let script = [("a", Some("1")), ("b", Some("2")), ("a", None), ("b", None)];
    let (storage, log, _) = prepared(compacted(), &script);
    log.maintain().unwrap();
    drop(log);
    let log = open_at(&storage, NOW_MS + DELETE_RETENTION_MS + 1);
    storage.forget_history();
    let before = read(&log).unwrap();
    log.maintain().unwrap();
    let after = read(&log).unwrap();
    assert!(before.iter().any(|(_, (key, _))| key == "a"));
    assert!(after.iter().all(|(_, (key, _))| key == "seal"));
    for image in storage.history().every_image(100_000).unwrap() {
        let log = open_at(&image.storage(), NOW_MS);
        let found = read(&log).unwrap();
        assert!(found == before || found == after, "after {}: {found:?}", image.crash_point());
    }
}

#[test]
fn every_power_cut_of_retention_removes_whole_segments_from_the_front_only() {
    // Two segments go: each of their files may, or may not yet, be gone after a power cut.
    let options = small().retention_bytes(Some(700));
    let (storage, log, mut done) = prepared(options, &[("a", Some("1"))]);
    assert!(log.maintain().unwrap().removed_records > 0);
    let start = log.topic("t").unwrap().offset_of(0, Position::Earliest).unwrap();
    done.cut.push((storage.recorded(), start));
    let images = check_every_crash(&storage, &done);
    assert!(images > 10, "{images} images");
}

/// A number from the environment, for long runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn sampled_power_cuts_of_long_scripts_lose_nothing_but_what_was_superseded_or_cut() {
    let samples = setting("PEERMQ_LOG_UPKEEP_CUTS", 1_200);
    let first = setting("PEERMQ_LOG_CUT_SEED", 0);
    for script in first..first + 4 {
        let mut random = Random(script);
        let (storage, mut log, mut done) = prepared(compacted(), &[("k1", Some("first"))]);
        for step in 0..60 {
            let key = format!("k{}", random.below(7));
            let value = format!("{step} {}", "x".repeat(random.below(90) as usize));
            let value = (random.below(6) > 0).then_some(&*value);
            done.put(&log, &storage, &key, value);
            match random.below(12) {
                0..=2 => _ = log.maintain().unwrap(),
                3 => {
                    let topic = log.topic("t").unwrap();
                    let earliest = topic.offset_of(0, Position::Earliest).unwrap();
                    topic.truncate_front(0, earliest + 1).unwrap();
                    done.cut.push((storage.recorded(), earliest + 1));
                }
                4 => {
                    log.close().unwrap();
                    log = open_at(&storage, NOW_MS);
                }
                _ => {}
            }
        }
        let history = storage.history();
        for seed in 0..samples / 4 {
            let image = history.sample(seed);
            check(&image.storage(), &done, image.crash_point(), &|| {
                format!("script {script}, seed {seed}, after {}", image.crash_point())
            });
        }
        for point in (0..=history.len()).step_by(3) {
            check(&history.killed_at(point), &done, point, &|| {
                format!("script {script}, killed after {point}")
            });
        }
        drop(log);
    }
}

fn produced(id: i64, sequence: i32) -> Vec<u8> {
    let producer = Producer { id, epoch: 0, base_sequence: sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    builder.append(NOW_MS, Some(b"key"), Some(&[b'v'; 100]), []).unwrap();
    builder.finish().unwrap()
}

#[test]
fn a_producer_of_which_nothing_is_left_is_known_after_any_power_cut() {
    let storage = FaultyStorage::new();
    let log = open_at(&storage, NOW_MS);
    let topic = log.create_topic("t", small()).unwrap();
    let append = |topic: &Topic, batch: &[u8]| {
        topic.append_batch(0, Level::Durable, batch).unwrap().wait().unwrap()
    };
    assert_eq!(append(&topic, &produced(7, 0)), 0);
    for sequence in 0..40 {
        append(&topic, &produced(8, sequence));
        if sequence % 10 == 9 {
            topic.truncate_front(0, i64::from(sequence)).unwrap();
        }
    }
    let known_from = storage.recorded();
    for sequence in 40..50 {
        append(&topic, &produced(8, sequence));
    }
    let history = storage.history();
    let first = setting("PEERMQ_LOG_CUT_SEED", 0) << 32;
    for seed in first..first + setting("PEERMQ_LOG_UPKEEP_CUTS", 1_200) / 2 {
        let image = history.sample(seed);
        if image.crash_point() < known_from {
            continue;
        }
        let log = open_at(&image.storage(), NOW_MS);
        let again = append(&log.topic("t").unwrap(), &produced(7, 0));
        assert_eq!(again, 0, "seed {seed}: appended again");
    }
    drop(topic);
}

#[test]
fn an_error_at_any_call_of_a_compaction_loses_nothing_and_the_next_pass_goes_on() {
    let keys = [("a", Some("1")), ("b", Some("2")), ("a", None), ("b", Some("3"))];
    for action in [
        FaultAction::Fail(Errno::Io),
        FaultAction::Fail(Errno::NoSpace),
        FaultAction::ShortWrite(Errno::NoSpace),
        FaultAction::Interrupt,
    ] {
        for nth in 0.. {
            let (storage, log, done) = prepared(compacted(), &keys);
            storage.inject(Fault::at(nth, action));
            let context = || format!("{action:?} at call {nth}");
            let outcome = log.maintain();
            let met = storage.faults_met();
            storage.clear_faults();
            let all = done.appended.len();
            check_contents(&log, &done, all, 0, &context);
            for survivor in [storage.kill(), storage.power_cut(nth).storage()] {
                check(&survivor, &done, 0, &context);
            }
            if let Err(error) = log.maintain() {
                assert!(matches!(error, LogError::Poisoned { .. }), "{error}: {}", context());
            } else {
                check_contents(&log, &done, all, 0, &context);
                let left = read(&log).unwrap();
                let twice = left.iter().filter(|(_, (key, _))| key == "b").count();
                assert_eq!(twice, 1, "{}", context());
            }
            if met == 0 {
                outcome.unwrap();
                assert!(nth > 30, "only {nth} calls");
                break;
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_compacted_log_is_noticed_or_does_no_harm() {
    let keys = [("a", Some("1")), ("b", Some("2")), ("a", Some("3")), ("b", None)];
    let (storage, log, _) = prepared(compacted(), &keys);
    let producer = Producer { id: 7, epoch: 0, base_sequence: 0 };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    builder.append(NOW_MS, Some(b"seal"), Some(b"produced"), []).unwrap();
    let batch = builder.finish().unwrap();
    let topic = log.topic("t").unwrap();
    topic.append_batch(0, Level::Durable, &batch).unwrap().wait().unwrap();
    drop(topic);
    Done { appended: vec![Default::default(); 13], ..Done::default() }.seal(&log, &storage);
    log.maintain().unwrap();
    let unclean = storage.kill();
    let expected = read(&log).unwrap();
    log.close().unwrap();
    let mut noticed = 0;
    for (storage, stopped) in [(storage.kill(), true), (unclean, false)] {
        for (path, bytes) in files(&storage) {
            // Closing changes nothing in what is sealed.
            let large = ["log", "index", "timeindex"]
                .iter()
                .any(|kind| path.extension().is_some_and(|found| found == *kind));
            if large && !stopped {
                continue;
            }
            for bit in 0..bytes.len() as u64 * 8 {
                if path.ends_with("durable-watermark") && bit / 8 % 4096 >= 64 {
                    continue;
                }
                let rotten = storage.kill();
                rotten.flip_bit(&path, bit).unwrap();
                let context = format!("{}, bit {bit}", path.display());
                let Ok(log) = try_open_at(&rotten, NOW_MS) else {
                    noticed += 1;
                    continue;
                };
                if log.topic("t").is_err() {
                    continue;
                }
                match read(&log) {
                    Ok(found) => {
                        // A pass may find that less was done than is; it never removes more than it should.
                        assert_eq!(found, expected, "{context}");
                        let batches = path.extension().is_some_and(|extension| extension == "log");
                        if !batches && log.maintain().is_ok() {
                            let found = read(&log).unwrap();
                            let kept =
                                |key: &str| found.iter().rfind(|(_, (other, _))| other == key);
                            for key in ["a", "b", "seal"] {
                                let last = expected.iter().rfind(|(_, (other, _))| other == key);
                                assert_eq!(kept(key), last, "{context}");
                            }
                        }
                    }
                    Err(_) => noticed += 1,
                }
            }
        }
    }
    assert!(noticed > 1000, "only {noticed} flips were noticed");
}
