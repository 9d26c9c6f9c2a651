//! Transactions, committed offsets and generations while the topics they are kept in, and those they go to, are compacted
//! and cut, and the power goes or the process dies meanwhile.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::{
    Log, LogError, ManualClock, MemberOptions, NewRecord, OffsetCommit, Position, TopicOptions,
};
use support::{DIRECTORY, Random, segments, small};

/// After so long a segment of any topic is not continued, and tombstones of compacted ones have been there long enough.
const LONG_MS: i64 = 8 * 24 * 3600 * 1000;
/// Records to read: as many as a script can commit.
const SOURCE: i64 = 64;

fn try_open_at(storage: &FaultyStorage, clock: &Arc<ManualClock>) -> Result<Log, LogError> {
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone());
    options.linger(None).open(DIRECTORY)
}

fn open_at(storage: &FaultyStorage, clock: &Arc<ManualClock>) -> Log {
    try_open_at(storage, clock).unwrap()
}

/// What a script did until some operation of the storage.
#[derive(Clone, Debug, Default)]
struct Done {
    /// Transactions; the next one has this number.
    transactions: usize,
    /// What the group `alone` committed.
    alone: i64,
    /// Of the group `g`.
    generation: i32,
    /// Whether the group `brief` was deleted.
    deleted: bool,
}

/// A log that is closed, with nothing of that in the record: a compacted topic, one of which little is kept, and one to read.
fn prepared(clock: &Arc<ManualClock>) -> FaultyStorage {
    let storage = FaultyStorage::new();
    let log = open_at(&storage, clock);
    log.create_topic("latest", small().compact(true).min_dirty_percent(0)).unwrap();
    log.create_topic("recent", small().retention_bytes(Some(900))).unwrap();
    let source = log.create_topic("source", TopicOptions::default()).unwrap();
    for _ in 0..SOURCE {
        drop(source.append("x").unwrap());
    }
    source.sync().unwrap();
    drop(source);
    log.group("brief").unwrap().set_offsets(&[OffsetCommit::new("source", 0, 5)]).unwrap();
    let mut done = Done::default();
    transact(&log, &mut done).unwrap();
    log.close().unwrap();
    storage.forget_history();
    storage
}

fn key(n: usize) -> String {
    format!("k{}", n % 3)
}

/// Two records of this size fill two batches, of which the second supersedes the first.
fn value(n: usize, part: &str) -> String {
    format!("{n} {part} {}", "x".repeat(280))
}

/// The next transaction: twice the same key, one other record, and an offset of the group.
fn transact(log: &Log, done: &mut Done) -> Result<(), LogError> {
    let n = done.transactions;
    let group = log.group("g")?;
    let member = group.join(MemberOptions::new(["source"]))?;
    let mut transaction = log.transaction();
    for part in ["first", "second"] {
        transaction.append("latest", NewRecord::new(&value(n, part)).key(&key(n)))?;
    }
    transaction.append("recent", &value(n, "only"))?;
    let offset = OffsetCommit::new("source", 0, n as i64 + 1);
    transaction.commit_offsets(&member.membership(), &[offset])?;
    let places = transaction.commit()?;
    assert_eq!(places[1].1, places[0].1 + 1);
    done.transactions += 1;
    done.generation = group.describe()?.generation;
    Ok(())
}

/// The records of a topic: offset, key, number of the transaction and its part.
fn rows(log: &Log, topic: &str) -> Vec<(i64, String, usize, String)> {
    let text = |bytes: Option<bytes::Bytes>| {
        String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
    };
    let row = |record: peermq::log::LogRecord| {
        let value = text(record.value);
        let mut words = value.split(' ');
        let (n, part) = (words.next().unwrap().parse().unwrap(), words.next().unwrap());
        (record.offset, text(record.key), n, part.to_owned())
    };
    let reader = log.topic(topic).unwrap().read(0, Position::Earliest).unwrap();
    reader.map(|record| row(record.unwrap())).collect()
}

/// How many transactions are there; refuses halves, repetitions and what was superseded coming back as the latest.
fn transactions(log: &Log, context: &dyn Fn() -> String) -> usize {
    let recent: Vec<usize> = rows(log, "recent").iter().map(|(_, _, n, _)| *n).collect();
    let count = recent.last().map_or(0, |last| last + 1);
    let expected: Vec<usize> = (count - recent.len()..count).collect();
    assert_eq!(recent, expected, "{}", context());
    let latest = rows(log, "latest");
    assert!(latest.is_sorted_by(|a, b| a.0 < b.0), "{latest:?}\n{}", context());
    let order: Vec<_> = latest.iter().map(|(_, _, n, part)| (*n, part.clone())).collect();
    assert!(order.is_sorted_by(|a, b| a < b), "twice: {order:?}\n{}", context());
    let by_key: BTreeMap<_, _> =
        latest.iter().map(|(_, key, n, part)| (key.clone(), (*n, part.as_str()))).collect();
    for n in count.saturating_sub(3)..count {
        assert_eq!(by_key[&key(n)], (n, "second"), "{latest:?}\n{}", context());
    }
    let committed = log.group("g").unwrap().committed("source", 0).unwrap();
    assert_eq!(committed.unwrap().offset, count as i64, "{}", context());
    count
}

/// Everything that is there, against what was acknowledged and what was begun.
fn check_contents(log: &Log, least: &Done, most: &Done, context: &dyn Fn() -> String) -> usize {
    let count = transactions(log, context);
    assert!((least.transactions..=most.transactions).contains(&count), "{count}: {}", context());
    let committed = |group: &str| {
        let committed = log.group(group).unwrap().committed("source", 0).unwrap();
        committed.map(|committed| committed.offset)
    };
    let alone = committed("alone").unwrap_or(0);
    assert!((least.alone..=most.alone).contains(&alone), "{alone}: {}", context());
    let generation = log.group("g").unwrap().describe().unwrap().generation;
    assert!(generation >= least.generation, "{generation}: {}", context());
    let brief = committed("brief");
    assert!(brief == Some(5) || brief.is_none(), "{brief:?}: {}", context());
    assert!(!least.deleted || brief.is_none(), "it came back: {}", context());
    assert!(most.deleted || brief.is_some(), "it is gone: {}", context());
    count
}

/// Opens what a crash left and checks it; then a pass, and a crash right behind it, change nothing.
fn check(
    storage: &FaultyStorage,
    now_ms: i64,
    least: &Done,
    most: &Done,
    context: &dyn Fn() -> String,
) {
    let clock = Arc::new(ManualClock::new(now_ms));
    let log = match try_open_at(storage, &clock) {
        Ok(log) => log,
        Err(error) => panic!("{error}\n{}", context()),
    };
    let count = check_contents(&log, least, most, context);
    clock.advance(LONG_MS);
    log.maintain().unwrap();
    let again = open_at(&storage.kill(), &clock);
    let context = || format!("after another pass: {}", context());
    assert_eq!(check_contents(&again, least, most, &context), count, "{}", context());
    let mut done = Done { transactions: count, ..Done::default() };
    transact(&again, &mut done).unwrap();
    assert_eq!(transactions(&again, &context), count + 1, "{}", context());
}

/// A script, with what was done after which operation; the last entry is what was begun.
fn script(
    storage: &FaultyStorage,
    clock: &Arc<ManualClock>,
    steps: usize,
    random: &mut Random,
) -> Vec<(usize, Done)> {
    let mut done = Done { transactions: 1, ..Done::default() };
    let mut all = vec![(0, done.clone())];
    let mut log = open_at(storage, clock);
    let mut compacted = 0;
    for step in 0..steps {
        match random.below(8) {
            0..=2 => transact(&log, &mut done).unwrap(),
            3..=4 => {
                done.alone += 1;
                let offset = OffsetCommit::new("source", 0, done.alone);
                log.group("alone").unwrap().set_offsets(&[offset]).unwrap();
            }
            5..=6 => {
                clock.advance(LONG_MS);
                compacted += log.maintain().unwrap().compacted_records;
            }
            _ => {
                log.close().unwrap();
                log = open_at(storage, clock);
            }
        }
        if step == steps / 2 {
            log.group("brief").unwrap().delete().unwrap();
            done.deleted = true;
        }
        all.push((storage.recorded(), done.clone()));
    }
    clock.advance(LONG_MS);
    compacted += log.maintain().unwrap().compacted_records;
    assert!(compacted > 5, "{compacted} records were compacted");
    all.push((usize::MAX, done));
    all
}

/// A number from the environment, for long runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn transactions_and_offsets_survive_compaction_and_any_crash() {
    let samples = setting("PEERMQ_LOG_CUTS", 240) / 4;
    let first = setting("PEERMQ_LOG_CUT_SEED", 0);
    for seed in first..first + 4 {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let storage = prepared(&clock);
        let done = script(&storage, &clock, 24, &mut Random(seed));
        let now_ms = peermq::log::Clock::now_ms(&*clock);
        let history = storage.history();
        let bounds = |point: usize| {
            let behind = done.partition_point(|(when, _)| *when <= point);
            (&done[behind - 1].1, &done[behind.min(done.len() - 1)].1)
        };
        let stride = setting("PEERMQ_LOG_KILL_STRIDE", 13) as usize;
        for point in (seed as usize % stride..=history.len()).step_by(stride) {
            let (least, most) = bounds(point);
            let context = || format!("script {seed}, killed after {point}");
            check(&history.killed_at(point), now_ms, least, most, &context);
        }
        for sample in 0..samples {
            let image = history.sample(sample);
            let point = image.crash_point();
            let (least, most) = bounds(point);
            let context = || format!("script {seed}, sample {sample}: power cut after {point}");
            check(&image.storage(), now_ms, least, most, &context);
        }
    }
}

#[test]
fn of_many_commits_few_stay_on_the_medium() {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let storage = prepared(&clock);
    let log = open_at(&storage, &clock);
    let bytes = || -> usize {
        let segments = segments(&storage).into_iter();
        let ours = segments.filter(|(path, _)| path.to_str().unwrap().contains("__offsets-0"));
        ours.map(|(_, bytes)| bytes.len()).sum()
    };
    let commit = |offset| {
        let offset = OffsetCommit::new("source", 0, offset);
        log.group("alone").unwrap().set_offsets(&[offset]).unwrap();
    };
    (1..SOURCE).for_each(commit);
    let before = bytes();
    clock.advance(LONG_MS);
    assert!(log.maintain().unwrap().compacted_records > SOURCE as u64 - 3);
    let after = bytes();
    assert!(after * 4 < before, "{after} bytes of {before}");
    let committed = |log: &Log, group: &str| {
        log.group(group).unwrap().committed("source", 0).unwrap().unwrap().offset
    };
    for log in [open_at(&storage.kill(), &clock), log] {
        let found = ["alone", "g", "brief"].map(|group| committed(&log, group));
        assert_eq!(found, [SOURCE - 1, 1, 5]);
    }
}

#[test]
fn a_record_without_key_is_refused_in_a_transaction_before_anything_of_it_is_there() {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let storage = prepared(&clock);
    let log = open_at(&storage, &clock);
    let refused =
        |error| matches!(error, LogError::KeyMissing { topic, partition: 0 } if topic == "latest");
    let mut transaction = log.transaction();
    assert!(refused(transaction.append("latest", "no key").unwrap_err()));
    transaction.append("recent", "no key").unwrap();
    // It becomes one where keys are needed while the transaction is collected.
    transaction.append("latest", NewRecord::new("value").key("key")).unwrap();
    let options = log.topic("recent").unwrap().options().clone();
    log.alter_topic("recent", options.compact(true)).unwrap();
    let before = storage.kill();
    let error = transaction.commit().unwrap_err();
    assert!(
        matches!(&error, LogError::KeyMissing { topic, partition: 0 } if topic == "recent"),
        "{error}"
    );
    assert_eq!(segments(&storage), segments(&before));
    let mut done = Done { transactions: 1, ..Done::default() };
    log.alter_topic("recent", small()).unwrap();
    transact(&log, &mut done).unwrap();
    assert_eq!(transactions(&log, &|| String::new()), 2);
}
