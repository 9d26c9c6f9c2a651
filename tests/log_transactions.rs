//! Atomic appends: all or nothing, whatever crashes and fails.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::time::Duration;

use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{
    Fencing, Level, Log, LogError, MemberOptions, Membership, OffsetCommit, Position,
    TopicPartition,
};
use support::{Random, open, read_all, small, try_open};

const TOPICS: [&str; 2] = ["a", "b"];
/// A transaction above all that a script has.
const LAST: usize = 16;

/// A log with two topics to write to and one to read from, closed, with nothing of that in the record.
fn prepared() -> FaultyStorage {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    log.create_topic("a", small()).unwrap();
    log.create_topic("b", small().partitions(2)).unwrap();
    let source = log.create_topic("source", small()).unwrap();
    for _ in 0..LAST {
        let _ticket = source.append("x").unwrap();
    }
    source.sync().unwrap();
    // The internal topics too: making a topic has its own tests.
    transact(&log, 0).unwrap();
    log.close().unwrap();
    storage.forget_history();
    storage
}

/// Transaction `n`: a record in each of three partitions, one of them with two, and an offset.
fn transact(log: &Log, n: usize) -> Result<Vec<(TopicPartition, i64)>, LogError> {
    let group = log.group("g")?;
    let member = group.join(MemberOptions::new(["source"]))?;
    let mut transaction = log.transaction();
    let value = value(n);
    transaction.append("a", &value)?;
    transaction.append_to("b", 0, &value)?;
    transaction.append_to("b", 1, &value)?;
    transaction.append("a", &value)?;
    let offset = OffsetCommit::new("source", 0, n as i64 + 1);
    transaction.commit_offsets(&member.membership(), &[offset])?;
    transaction.commit()
}

fn value(n: usize) -> String {
    format!("{n} {}", "x".repeat(n * 37 % 90))
}

/// As [`transact`]; everything must be where it is said to be.
fn transact_and_look(log: &Log, n: usize) {
    let places = transact(log, n).unwrap();
    let order: Vec<_> = places.iter().map(|(place, _)| (&*place.topic, place.partition)).collect();
    assert_eq!(order, [("a", 0), ("b", 0), ("b", 1), ("a", 0)]);
    assert_eq!(places[3].1, places[0].1 + 1);
    for (place, offset) in places {
        let topic = log.topic(&place.topic).unwrap();
        let mut reader = topic.read(place.partition, Position::Offset(offset)).unwrap();
        let record = reader.next().unwrap().unwrap();
        assert_eq!(record.value.as_deref(), Some(value(n).as_bytes()));
    }
}

/// The transactions of which records are there, in order; refuses halves, repetitions and disorder.
fn found(log: &Log, context: &dyn Fn() -> String) -> Vec<usize> {
    let numbers = |topic: &str, partition| -> Vec<usize> {
        let values = read_all(log, topic, partition).unwrap().into_iter();
        let number = |value: String| value.split(' ').next().unwrap().parse().ok();
        values.filter_map(|(_, value)| number(value)).collect()
    };
    let whole = numbers("b", 0);
    assert_eq!(numbers("b", 1), whole, "{}", context());
    let twice: Vec<usize> = whole.iter().flat_map(|n| [*n, *n]).collect();
    assert_eq!(numbers("a", 0), twice, "{}", context());
    assert!(whole.is_sorted_by(|a, b| a < b), "{whole:?} {}", context());
    let committed = log.group("g").unwrap().committed("source", 0).unwrap();
    let expected = whole.last().map(|n| *n as i64 + 1);
    assert_eq!(committed.map(|committed| committed.offset), expected, "{}", context());
    whole
}

/// Opens what a crash left: transactions up to `at_least` are there, and none that was not begun; and it stays so.
fn check(storage: &FaultyStorage, at_least: usize, begun: usize, context: &dyn Fn() -> String) {
    let log = match try_open(storage) {
        Ok(log) => log,
        Err(error) => panic!("{error}\n{}", context()),
    };
    let before = found(&log, context);
    assert!(before.len() >= at_least, "{before:?} of {at_least}\n{}", context());
    assert!(before.len() <= begun, "{before:?} of {begun}\n{}", context());
    // Once more, after a crash right behind the recovery.
    let again = open(&storage.kill());
    assert_eq!(found(&again, context), before, "recovery changed its mind\n{}", context());
    transact_and_look(&again, LAST - 1);
    assert_eq!(found(&again, context).len(), before.len() + 1, "{}", context());
}

/// A script of transactions and appends in between, with what was acknowledged when.
fn script(
    storage: &FaultyStorage,
    transactions: usize,
    random: &mut Random,
) -> Vec<(usize, usize)> {
    let mut acknowledged = vec![(0, 1)];
    let mut log = open(storage);
    for n in 1..=transactions {
        if random.below(2) == 0 {
            let ticket = log.topic(TOPICS[random.below(2) as usize]).unwrap();
            let level = if random.below(3) == 0 { Level::Durable } else { Level::Written };
            ticket.append_at(level, "between").unwrap().wait().unwrap();
        }
        transact_and_look(&log, n);
        acknowledged.push((storage.recorded(), n + 1));
        if random.below(5) == 0 {
            log.close().unwrap();
            log = open(storage);
        }
    }
    acknowledged
}

/// A number from the environment, for long runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn every_kill_and_many_power_cuts_leave_all_of_a_transaction_or_nothing() {
    let samples = setting("PEERMQ_LOG_CUTS", 600);
    let first = setting("PEERMQ_LOG_CUT_SEED", 1);
    for (seed, transactions) in (first..).zip([2, 3, 6, 9]) {
        let storage = prepared();
        let acknowledged = script(&storage, transactions, &mut Random(seed));
        let at_least = |point: usize| {
            let before = acknowledged.iter().filter(|(when, _)| *when <= point);
            before.map(|(_, count)| *count).max().unwrap()
        };
        let history = storage.history();
        let begun = transactions + 1;
        for point in 0..=history.len() {
            let context = || format!("script {seed}, killed after {point}");
            check(&history.killed_at(point), at_least(point), begun, &context);
            // Each call once with a power cut right behind it.
            let image = history.sample_at(point, seed);
            let context = || format!("script {seed}, power cut after {point}");
            check(&image.storage(), at_least(point), begun, &context);
        }
        for sample in 0..samples / 4 {
            let image = history.sample(sample);
            let point = image.crash_point();
            let context = || format!("script {seed}, sample {sample}: power cut after {point}");
            check(&image.storage(), at_least(point), begun, &context);
        }
    }
}

#[test]
fn a_failure_at_any_call_leaves_all_of_a_transaction_or_nothing() {
    let prepared = prepared();
    for action in [
        FaultAction::Fail(Errno::Io),
        FaultAction::Fail(Errno::NoSpace),
        FaultAction::ShortWrite(Errno::NoSpace),
    ] {
        for forever in [false, true] {
            // One that lasts differs little from one that begins a little later.
            for nth in (0..).step_by(if forever { 5 } else { 1 }) {
                let storage = prepared.kill();
                let fault = Fault::at(nth, action);
                storage.inject(if forever { fault.from_then_on() } else { fault });
                let mut acknowledged = vec![0];
                let mut refused = Vec::new();
                if let Ok(log) = try_open(&storage) {
                    for n in 1..=3 {
                        match transact(&log, n) {
                            Ok(_) => acknowledged.push(n),
                            Err(error) if error.is_full() => refused.push(n),
                            Err(_) => {}
                        }
                    }
                    let _ = log.close();
                }
                let met = storage.faults_met();
                storage.clear_faults();
                let context = || format!("{action:?}, forever: {forever}, at call {nth}");
                for survivor in [storage.kill(), storage.power_cut(nth).storage()] {
                    check(&survivor, acknowledged.len(), 4, &context);
                    let there = found(&open(&survivor), &context);
                    assert!(acknowledged.iter().all(|n| there.contains(n)), "{}", context());
                    let phantom = refused.iter().find(|n| there.contains(n));
                    assert_eq!(phantom, None, "refused, but there: {}", context());
                }
                if met == 0 {
                    assert!(nth > 30, "only {nth} calls");
                    break;
                }
            }
        }
    }
}

#[test]
fn after_half_a_transaction_nothing_is_appended_until_the_log_is_opened_anew() {
    let storage = prepared();
    let log = open(&storage);
    transact(&log, 1).unwrap();
    let full = Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(Operation::Write).on("b-1");
    storage.inject(full.from_then_on());
    let error = transact(&log, 2).unwrap_err();
    assert!(matches!(error, LogError::Poisoned { .. }), "{error}");
    assert!(error.to_string().contains("topic b, partition 1"), "{error}");
    assert!(matches!(log.topic("a").unwrap().append("x"), Err(LogError::Poisoned { .. })));
    assert_eq!(read_all(&log, "b", 1).unwrap().len(), 2, "reading goes on");
    drop(log);
    storage.clear_faults();
    let log = open(&storage);
    assert_eq!(found(&log, &String::new), [0, 1, 2]);
}

#[test]
fn what_was_meant_for_a_deleted_topic_is_deleted_with_it() {
    let log = open(&prepared());
    let mut transaction = log.transaction();
    transaction.append("a", "x").unwrap();
    transaction.append_to("b", 0, "x").unwrap();
    log.delete_topic("b").unwrap();
    log.create_topic("b", small().partitions(2)).unwrap();
    let refused = transaction.commit().unwrap_err();
    assert!(matches!(&refused, LogError::UnknownTopic { topic } if topic == "b"), "{refused}");
    assert_eq!(read_all(&log, "a", 0).unwrap().len(), 2, "nothing of it was appended");

    // And one whose topic goes before it could be completed.
    let storage = prepared();
    let log = open(&storage);
    transact(&log, 1).unwrap();
    let killed = storage.kill();
    drop(log);
    let log = open(&killed);
    log.delete_topic("b").unwrap();
    log.create_topic("b", small().partitions(2)).unwrap();
    drop(log);
    let log = open(&killed);
    assert_eq!(read_all(&log, "b", 0).unwrap(), []);
    assert_eq!(read_all(&log, "a", 0).unwrap().len(), 4);
}

#[test]
fn a_fenced_member_can_commit_no_transaction() {
    let log = open(&prepared());
    let group = log.group("g").unwrap();
    let member = group.join(MemberOptions::new(["source"])).unwrap();
    let membership = member.membership();
    drop(member);
    let mut transaction = log.transaction();
    transaction.append("a", "late").unwrap();
    transaction.commit_offsets(&membership, &[OffsetCommit::new("source", 0, 9)]).unwrap();
    let other = Membership { member: "other".to_owned(), ..membership };
    assert!(transaction.commit_offsets(&other, &[]).is_err());
    let refused = transaction.commit().unwrap_err();
    let LogError::MemberFenced { why: Fencing::UnknownMember, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(read_all(&log, "a", 0).unwrap().len(), 2);
    assert_eq!(group.committed("source", 0).unwrap().unwrap().offset, 1);
}

#[test]
fn transactions_of_several_threads_and_their_order_in_all_partitions_agree() {
    let log = open(&MemoryStorage::new());
    log.create_topic("a", small()).unwrap();
    log.create_topic("b", small().partitions(2)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..25 {
                    let mut transaction = log.transaction();
                    let value = format!("{thread}/{n}");
                    transaction.append("a", &value).unwrap();
                    transaction.append_to("b", 1, &value).unwrap();
                    transaction.commit().unwrap();
                    log.topic("a").unwrap().append("between").unwrap().wait().unwrap();
                }
            });
        }
    });
    let values = |topic, partition| -> Vec<String> {
        let all = read_all(&log, topic, partition).unwrap().into_iter().map(|(_, value)| value);
        all.filter(|value| value != "between").collect()
    };
    assert_eq!(values("a", 0).len(), 100);
    assert_eq!(values("a", 0), values("b", 1));
}

#[test]
fn a_large_transaction_is_split_into_batches_that_its_topics_allow_and_too_large_a_record_refused()
{
    let storage = prepared();
    let log = open(&storage);
    let mut transaction = log.transaction();
    let value = "v".repeat(150);
    for _ in 0..30 {
        transaction.append_to("b", 0, &value).unwrap();
    }
    let refused = transaction.append_to("b", 0, &"v".repeat(500)).unwrap_err();
    assert!(matches!(refused, LogError::TooLarge { limit: 528, .. }), "{refused}");
    let refused = transaction.append_to("b", 7, &value).unwrap_err();
    assert!(matches!(refused, LogError::UnknownPartition { partition: 7, .. }), "{refused}");
    let places = transaction.commit().unwrap();
    let offsets: Vec<i64> = places.iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, (1..31).collect::<Vec<_>>());
    assert_eq!(places[0].0, TopicPartition::new("b", 0));
    // More batches than are remembered of a producer; none of them may be repeated.
    let log = open(&storage.kill());
    assert_eq!(read_all(&log, "b", 0).unwrap().len(), 31);
    assert_eq!(log.transaction().commit().unwrap(), []);
}

#[test]
fn old_intents_go_and_the_producer_of_transactions_is_not_for_users() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let wide = small().record_bytes_max(6 << 20).segment_bytes(1 << 30);
    let topic = log.create_topic("a", wide).unwrap();
    let value = "v".repeat(5 << 20);
    for _ in 0..8 {
        let mut transaction = log.transaction();
        transaction.append("a", &value).unwrap();
        transaction.commit().unwrap();
    }
    let bytes: usize = support::files(&storage)
        .iter()
        .filter(|(path, _)| path.to_string_lossy().contains("__transactions"))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(bytes < 25 << 20, "{bytes} bytes of intents are kept");
    let producer = Producer { id: i64::MAX, epoch: 0, base_sequence: 99 };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    builder.append(0, None, Some(b"x"), []).unwrap();
    let refused = topic.append_batch(0, Level::Written, &builder.finish().unwrap()).unwrap_err();
    assert!(matches!(refused, LogError::Invalid { .. }), "{refused}");
}

#[test]
fn a_member_that_consumes_transforms_and_produces_does_so_exactly_once() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let source = log.create_topic("source", small()).unwrap();
    log.create_topic("a", small()).unwrap();
    for n in 0..30 {
        source.append(&n.to_string()).unwrap().wait().unwrap();
    }
    drop((source, log));
    let mut random = Random(5);
    let mut survivor = storage;
    loop {
        let log = open(&survivor);
        let options = MemberOptions::new(["source"]).records_max(3);
        let mut member = log.group("g").unwrap().join(options).unwrap();
        let records = member.poll(Duration::ZERO).unwrap().records;
        if records.is_empty() {
            break;
        }
        survivor.forget_history();
        let mut transaction = log.transaction();
        for one in &records {
            transaction.append("a", &one.record.value.clone().unwrap()).unwrap();
        }
        transaction.commit_offsets(&member.membership(), &member.positions()).unwrap();
        transaction.commit().unwrap();
        // The power goes at some point of that, and it begins anew.
        let history = survivor.history();
        let image = history.sample(random.next());
        survivor = image.storage();
    }
    let log = open(&survivor);
    let values = read_all(&log, "a", 0).unwrap().into_iter().map(|(_, value)| value);
    assert_eq!(values.collect::<Vec<_>>(), (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
}
