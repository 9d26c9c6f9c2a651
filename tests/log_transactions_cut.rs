//! Every power cut of a transaction, at each of its operations and with everything that may have reached the medium by
//! then; and every power cut of the recovery behind it.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::{GroupMember, Log, MemberOptions, OffsetCommit};
use support::{open, read_all, small, try_open};

const TOPICS: [&str; 2] = ["a", "b"];
/// More than any script has.
const SOURCE: usize = 9;

/// What a script is.
#[derive(Clone, Copy, Debug)]
struct Script {
    /// Transactions before the one that is looked at; the first one of an opening finds another state than later ones.
    before: usize,
    /// Whether it commits an offset too.
    offsets: bool,
    /// Whether the front of a partition is cut behind it, for which it must be marked as complete.
    cut: bool,
}

/// A log with two topics to write to and one to read from, closed, with one transaction in it.
fn prepared(offsets: bool) -> FaultyStorage {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    for topic in TOPICS {
        log.create_topic(topic, small()).unwrap();
    }
    let source = log.create_topic("source", small()).unwrap();
    for _ in 0..SOURCE {
        let _ticket = source.append("x").unwrap();
    }
    source.sync().unwrap();
    drop(source);
    transact(&log, 0, offsets.then(|| member(&log)).as_ref());
    log.close().unwrap();
    storage
}

fn member(log: &Log) -> GroupMember {
    log.group("g").unwrap().join(MemberOptions::new(["source"])).unwrap()
}

/// Transaction `n`: a record in each topic, and an offset for a member.
fn transact(log: &Log, n: usize, member: Option<&GroupMember>) {
    let mut transaction = log.transaction();
    for topic in TOPICS {
        transaction.append(topic, &n.to_string()).unwrap();
    }
    if let Some(member) = member {
        let offset = OffsetCommit::new("source", 0, n as i64 + 1);
        transaction.commit_offsets(&member.membership(), &[offset]).unwrap();
    }
    transaction.commit().unwrap();
}

/// How many transactions are there; refuses halves, repetitions and disorder. The front of topic `a` may be gone.
fn found(log: &Log, offsets: bool, context: &dyn Fn() -> String) -> usize {
    let rows = |topic| -> Vec<(i64, usize)> {
        let rows = read_all(log, topic, 0).unwrap().into_iter();
        rows.map(|(offset, value)| (offset, value.parse().unwrap())).collect()
    };
    let (a, b) = (rows("a"), rows("b"));
    let count = b.len();
    assert!(b.iter().all(|(offset, n)| *offset == *n as i64), "{b:?}: {}", context());
    assert_eq!(a, b[count - a.len()..], "{}", context());
    assert!(!a.is_empty(), "{}", context());
    if offsets {
        let committed = log.group("g").unwrap().committed("source", 0).unwrap().unwrap();
        assert_eq!(committed.offset, count as i64, "{}", context());
    }
    count
}

/// Opens what a crash left; returns how many transactions are there.
fn recovered(storage: &FaultyStorage, offsets: bool, context: &dyn Fn() -> String) -> (Log, usize) {
    let log = match try_open(storage) {
        Ok(log) => log,
        Err(error) => panic!("{error}\n{}", context()),
    };
    let count = found(&log, offsets, context);
    (log, count)
}

/// The counts that a crash after some operation of a script may leave.
struct Bounds {
    begun: usize,
    /// After so many operations it was acknowledged.
    acknowledged: usize,
}

impl Bounds {
    fn check(&self, count: usize, point: usize, context: &dyn Fn() -> String) {
        let least = if point >= self.acknowledged { self.begun } else { self.begun - 1 };
        assert!((least..=self.begun).contains(&count), "{count} of {}: {}", self.begun, context());
    }
}

fn run(script: &Script) -> (FaultyStorage, Log, Bounds) {
    let storage = prepared(script.offsets);
    let log = open(&storage);
    let member = script.offsets.then(|| member(&log));
    for n in 1..=script.before {
        transact(&log, n, member.as_ref());
    }
    // Epochs, generations and internal topics have their own tests; all of it is durable from here on.
    log.sync().unwrap();
    storage.forget_history();
    let n = script.before + 1;
    transact(&log, n, member.as_ref());
    let bounds = Bounds { begun: n + 1, acknowledged: storage.recorded() };
    if script.cut {
        log.topic("a").unwrap().truncate_front(0, n as i64).unwrap();
    }
    std::mem::forget(member);
    (storage, log, bounds)
}

/// The scripts of this kind; the first transaction of an opening also finds out where the last intent is. In the short form
/// each of the three ways in which they differ is taken once.
fn scripts() -> impl Iterator<Item = Script> {
    let all = std::env::var_os("PEERMQ_LOG_ALL_SCRIPTS").is_some();
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let scripts = kinds
        .into_iter()
        .flat_map(|(offsets, cut)| [0, 1].map(|before| Script { before, offsets, cut }));
    // What marks a transaction is the same with offsets, and there are twenty thousand images of it.
    scripts.filter(|script| !(script.offsets && script.cut && script.before == 1)).filter(
        move |script| {
            all || (script.offsets, script.cut) != (true, true)
                && script.before != usize::from(script.offsets)
        },
    )
}

#[test]
fn every_power_cut_of_a_transaction_leaves_all_of_it_or_nothing() {
    let mut images = 0;
    for script in scripts() {
        let (storage, _log, bounds) = run(&script);
        let history = storage.history();
        for image in history.every_image(10_000_000).unwrap() {
            images += 1;
            let point = image.crash_point();
            let context =
                || format!("{script:?}, power cut after {point}: {:#?}", history.describe());
            let storage = image.storage();
            let (_first, count) = recovered(&storage, script.offsets, &context);
            bounds.check(count, point, &context);
            // Once more, after a crash right behind the recovery; and the next transaction is whole too.
            let (again, there) = recovered(&storage.kill(), script.offsets, &context);
            assert_eq!(there, count, "recovery changed its mind: {}", context());
            transact(&again, count, script.offsets.then(|| member(&again)).as_ref());
            assert_eq!(found(&again, script.offsets, &context), count + 1, "{}", context());
        }
    }
    assert!(images > 5_000, "{images} images");
}

#[test]
fn a_power_cut_at_any_point_of_the_recovery_of_a_transaction_changes_nothing_of_its_outcome() {
    let (mut cuts, mut completed) = (0, 0);
    for script in scripts() {
        let (storage, _log, bounds) = run(&script);
        let history = storage.history();
        for (number, image) in history.every_image(10_000_000).unwrap().enumerate().step_by(229) {
            let point = image.crash_point();
            let context = || format!("{script:?}, image {number}, power cut after {point}");
            let storage = image.storage();
            let (_first, count) = recovered(&storage, script.offsets, &context);
            completed += usize::from(count == bounds.begun && point < bounds.acknowledged);
            let recovery = storage.history();
            for again in 0..=recovery.len() {
                cuts += 1;
                let image = recovery.sample_at(again, number as u64);
                let context = || format!("{}, then after {again}", context());
                let (_log, there) = recovered(&image.storage(), script.offsets, &context);
                assert_eq!(there, count, "{}: {:#?}", context(), recovery.describe());
            }
        }
        // After a kill nothing that was not synced is durable yet, and the power goes during the recovery.
        for point in 0..=history.len() {
            let storage = history.killed_at(point);
            let context = || format!("{script:?}, killed after {point}");
            let (_first, count) = recovered(&storage, script.offsets, &context);
            bounds.check(count, point, &context);
            let recovery = storage.history();
            for again in 0..=recovery.len() {
                cuts += 1;
                let context = || format!("{}, then a power cut after {again}", context());
                let image = recovery.sample_at(again, point as u64);
                let (_log, there) = recovered(&image.storage(), script.offsets, &context);
                bounds.check(there, point, &context);
                if again == recovery.len() {
                    assert_eq!(there, count, "what was recovered was not durable: {}", context());
                }
            }
        }
    }
    assert!(cuts > 1_000 && completed > 4, "{cuts} cuts, {completed} completed");
}
