//! Deleting a topic whose front was cut and making one of its name: power cuts at every moment of it, and failures at every
//! call. There is the old topic or the new one or none, and the new one has nothing of the old.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::path::Path;

use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{Operation, Storage};
use peermq::log::{Level, Log, LogError, NewRecord, TopicOptions};
use support::{DIRECTORY, Random, files, open, read_all, small, try_open};

/// Appends records to a topic, each durable when this returns. The name of each is in its value.
fn fill(log: &Log, what: &str, count: usize) -> Result<(), LogError> {
    let topic = log.topic("t")?;
    for n in 0..count {
        let value = format!("{what} {n}");
        topic.append(NewRecord::new(&value).key(&value))?.wait()?;
    }
    Ok(())
}

fn filled(what: &str, from: usize, to: usize) -> Vec<(i64, String)> {
    (from..to).map(|n| (n as i64, format!("{what} {n}"))).collect()
}

/// Compacted, so that there is a checkpoint of that too.
fn options() -> TopicOptions {
    small().compact(true).min_dirty_percent(1)
}

/// The directories of the topic's partitions, whole or about to go.
fn directories(storage: &impl Storage) -> Vec<String> {
    let entries = storage.list(Path::new(DIRECTORY)).unwrap().into_iter();
    let names = entries.map(|entry| entry.name.into_string().unwrap());
    names.filter(|name| name.starts_with("t-")).collect()
}

/// A log with the topic `t`, compacted, of whose 30 records the first 20 are cut off.
fn prepared(storage: &FaultyStorage) -> Log {
    let log = open(storage);
    log.create_topic("t", options()).unwrap();
    fill(&log, "old", 30).unwrap();
    log.maintain().unwrap();
    log.topic("t").unwrap().truncate_front(0, 20).unwrap();
    log
}

/// A topic with new records, made after whatever happened before; the log is opened anew if it takes no appends. `ask`:
/// whether it is deleted once more before, though it seems to be gone.
fn make_anew(log: Log, storage: &FaultyStorage, ask: bool) -> Log {
    let log = if log.create_topic("probe", small()).is_err() {
        drop(log);
        open(storage)
    } else {
        log
    };
    if ask || log.topic("t").is_ok() {
        match log.delete_topic("t") {
            Ok(()) | Err(LogError::UnknownTopic { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    log.create_topic("t", options()).unwrap();
    for (path, bytes) in files(storage) {
        let checkpoint = path.to_string_lossy().ends_with("-offset-checkpoint");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!checkpoint || !text.lines().any(|line| line.starts_with("t ")), "{text}");
    }
    fill(&log, "new", 40).unwrap();
    log
}

#[test]
fn a_deletion_that_failed_at_any_call_leaves_the_topic_whole_or_nothing_to_the_next_of_its_name() {
    let mut as_it_was = 0;
    for action in [FaultAction::Fail(Errno::Io), FaultAction::Fail(Errno::NoSpace)] {
        for forever in [false, true] {
            for nth in 0.. {
                let storage = FaultyStorage::new();
                let log = prepared(&storage);
                let fault = Fault::at(nth, action);
                storage.inject(if forever { fault.from_then_on() } else { fault });
                let deleted = log.delete_topic("t");
                let met = storage.faults_met();
                storage.clear_faults();
                let context = format!("{action:?}, forever: {forever}, at call {nth}: {deleted:?}");
                if met == 0 {
                    deleted.unwrap();
                    assert!(nth > 20, "only {nth} calls");
                    break;
                }
                if log.topic("t").is_ok() {
                    assert!(deleted.is_err());
                    as_it_was += 1;
                    // What is acknowledged from now on must stay.
                    let more = fill(&log, "more", 1).is_ok();
                    for survivor in [storage.kill(), storage.power_cut(nth).storage()] {
                        let found = try_open(&survivor).and_then(|log| read_all(&log, "t", 0));
                        if more {
                            let found = found.unwrap_or_else(|error| panic!("{context}: {error}"));
                            assert_eq!(found[..10], filled("old", 20, 30), "{context}");
                            assert_eq!(found[10..], [(30, "more 0".to_owned())], "{context}");
                        }
                    }
                }
                let log = make_anew(log, &storage, nth % 2 == 0);
                assert_eq!(read_all(&log, "t", 0).unwrap(), filled("new", 0, 40), "{context}");
                for survivor in [storage.kill(), storage.power_cut(nth).storage()] {
                    let log = open(&survivor);
                    assert_eq!(read_all(&log, "t", 0).unwrap(), filled("new", 0, 40), "{context}");
                    assert_eq!(directories(&survivor), ["t-0"], "{context}");
                }
                log.close().unwrap();
                let log = open(&storage);
                assert_eq!(read_all(&log, "t", 0).unwrap(), filled("new", 0, 40), "{context}");
            }
        }
    }
    assert!(as_it_was > 0, "no failure kept the topic");
}

#[test]
fn a_deletion_gives_the_space_back_before_it_needs_any_for_what_it_writes_down() {
    for written in ["log-start-offset-checkpoint", "cleaner-offset-checkpoint"] {
        let storage = FaultyStorage::new();
        let log = prepared(&storage);
        let full = Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(Operation::Write);
        storage.inject(full.on(written).from_then_on());
        assert!(log.delete_topic("t").unwrap_err().is_full(), "{written}");
        assert_eq!(directories(&storage), [""; 0], "{written}");
        storage.clear_faults();
        log.delete_topic("t").unwrap();
        assert!(matches!(log.delete_topic("t"), Err(LogError::UnknownTopic { .. })), "{written}");
    }
}

#[test]
fn a_topic_that_could_not_be_made_at_any_call_leaves_nothing_to_the_next_of_its_name() {
    for action in [FaultAction::Fail(Errno::Io), FaultAction::Fail(Errno::NoSpace)] {
        for nth in 0.. {
            let storage = FaultyStorage::new();
            let log = prepared(&storage);
            log.delete_topic("t").unwrap();
            storage.inject(Fault::at(nth, action));
            let made = log.create_topic("t", options());
            let met = storage.faults_met();
            storage.clear_faults();
            let context = format!("{action:?}, at call {nth}: {made:?}");
            if met == 0 {
                assert!(nth > 20, "only {nth} calls");
                break;
            }
            assert_eq!(made.is_ok(), log.topic("t").is_ok(), "{context}");
            let log = make_anew(log, &storage, nth % 2 == 0);
            log.close().unwrap();
            for survivor in [storage.kill(), storage.power_cut(nth).storage()] {
                let log = open(&survivor);
                assert_eq!(read_all(&log, "t", 0).unwrap(), filled("new", 0, 40), "{context}");
                assert_eq!(directories(&survivor), ["t-0"], "{context}");
            }
        }
    }
}

/// What is left of a log: nothing of the topic; or its first offset and its values.
fn found(log: &Log) -> Option<(i64, Vec<String>)> {
    let topic = log.topic("t").ok()?;
    let earliest = topic.describe().partitions[0].earliest;
    let values = read_all(log, "t", 0).unwrap().into_iter().map(|(_, value)| value);
    Some((earliest, values.collect()))
}

/// A log that recovered works on, nothing of other topics is in the way, and recovering again finds the same.
fn check_recovered(storage: &FaultyStorage, log: Log, context: &dyn Fn() -> String) {
    let before = found(&log);
    if before.is_none() {
        let made = log.create_topic("t", small());
        made.unwrap_or_else(|error| panic!("{error}: {}", context()));
    }
    let (earliest, mut values) = found(&log).unwrap();
    if before.is_none() {
        assert_eq!((earliest, values.len()), (0, 0), "{}", context());
    }
    fill(&log, "next", 1).unwrap_or_else(|error| panic!("{error}: {}", context()));
    values.push("next 0".to_owned());
    let killed = storage.kill();
    let again = try_open(&killed).unwrap_or_else(|error| panic!("{error}: {}", context()));
    assert_eq!(found(&again), Some((earliest, values)), "{}", context());
    assert_eq!(directories(&killed), ["t-0"], "{}", context());
}

#[test]
fn every_power_cut_of_a_deletion_and_a_new_topic_of_the_name_leaves_one_of_them_or_none() {
    // What cuts the front writes one file more, whose sync may hide that another one is missing.
    cut_everywhere(0);
    cut_everywhere(1);
}

/// The topic that is deleted begins with this offset.
fn cut_everywhere(start: i64) {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    log.create_topic("t", small()).unwrap();
    fill(&log, "old", 2).unwrap();
    log.topic("t").unwrap().truncate_front(0, start).unwrap();
    log.close().unwrap();
    let log = open(&storage);
    storage.forget_history();
    log.delete_topic("t").unwrap();
    let deleted = storage.recorded();
    log.create_topic("t", small()).unwrap();
    let made = storage.recorded();
    let history = storage.history();
    let rest = filled("old", start as usize, 2).into_iter().map(|(_, value)| value);
    let all_of_old = Some((start, rest.collect()));
    let (mut old, mut none, mut new) = (0, 0, 0);
    for image in history.every_image(4_000_000).unwrap() {
        let point = image.crash_point();
        let context = || format!("after {point} operations of {:#?}", history.describe());
        let recovered = image.storage();
        let log = try_open(&recovered).unwrap_or_else(|error| panic!("{error}: {}", context()));
        match found(&log) {
            None => {
                assert!(point < made, "made, but gone: {}", context());
                none += 1;
            }
            left if left == all_of_old => {
                assert!(point < deleted, "deleted, but there: {}", context());
                old += 1;
            }
            left => {
                assert_eq!(left, Some((0, Vec::new())), "{}", context());
                assert!(point > deleted, "{}", context());
                new += 1;
            }
        }
        check_recovered(&recovered, log, &context);
    }
    println!("start {start}: {old} with the old topic, {none} with none, {new} with the new one");
    assert!(old > 5 && none > 100 && new > 0, "{old}, {none}, {new}");
}

/// What is acknowledged after so many operations: the number of the topic, where it begins, how many records are durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    point: usize,
    topic: Option<usize>,
    earliest: usize,
    durable: usize,
}

/// Topics of one name that come and go, with records, and with fronts that are cut.
fn come_and_go(storage: &FaultyStorage, random: &mut Random) -> Vec<Known> {
    let log = open(storage);
    let (mut topic, mut earliest, mut durable) = (None, 0, 0);
    let mut known = vec![Known { point: 0, topic, earliest, durable }];
    for number in 0..6 {
        log.create_topic("t", small()).unwrap();
        (topic, earliest, durable) = (Some(number), 0, 0);
        known.push(Known { point: storage.recorded(), topic, earliest, durable });
        for _ in 0..random.below(20) {
            let handle = log.topic("t").unwrap();
            let level = if random.below(2) == 0 { Level::Durable } else { Level::Written };
            let ticket = handle.append_at(level, &format!("{number} {:020}", random.next()));
            let offset = ticket.unwrap().wait().unwrap() as usize;
            if level == Level::Durable {
                durable = offset + 1;
            }
            if random.below(6) == 0 {
                handle.truncate_front(0, offset as i64).unwrap();
                (earliest, durable) = (offset, offset + 1);
            }
            known.push(Known { point: storage.recorded(), topic, earliest, durable });
        }
        log.delete_topic("t").unwrap();
        (topic, earliest, durable) = (None, 0, 0);
        known.push(Known { point: storage.recorded(), topic, earliest, durable });
    }
    known
}

#[test]
fn sampled_power_cuts_while_topics_come_and_go_leave_the_right_one_with_all_that_was_durable() {
    let samples: u64 =
        std::env::var("PEERMQ_LOG_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(1200);
    for script in 0..3 {
        let storage = FaultyStorage::new();
        open(&storage).close().unwrap();
        storage.forget_history();
        let known = come_and_go(&storage, &mut Random(script));
        let history = storage.history();
        for seed in 0..samples / 3 {
            let image = history.sample(seed);
            let point = image.crash_point();
            let context = || format!("script {script}, seed {seed}, after {point} operations");
            let recovered = image.storage();
            let log = try_open(&recovered).unwrap_or_else(|error| panic!("{error}: {}", context()));
            let last = known.iter().rposition(|known| known.point <= point).unwrap();
            let (before, after) = (known[last], known.get(last + 1).copied());
            let left = found(&log);
            let number = left.as_ref().map(|(_, values)| {
                values.first().map(|value| value.split(' ').next().unwrap().parse().unwrap())
            });
            let possible = [Some(before), after].into_iter().flatten();
            let fits = |known: Known| match (&left, number) {
                (Some((earliest, values)), Some(number)) => {
                    let end = *earliest as usize + values.len();
                    known.topic.is_some()
                        && (number.is_none() || number == known.topic)
                        && known.earliest == *earliest as usize
                        && (before.topic != known.topic || end >= before.durable)
                }
                _ => known.topic.is_none(),
            };
            assert!(possible.clone().any(fits), "{left:?}, {before:?}, {after:?}: {}", context());
            check_recovered(&recovered, log, &context);
        }
    }
}
