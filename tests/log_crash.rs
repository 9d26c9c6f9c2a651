//! What a log keeps when the power goes, the process dies, the medium fails or rots.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::path::Path;

use peermq::log::storage::Storage;
use peermq::log::storage::faulty::{CrashImage, Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::{Level, Log, LogError};
use support::{Random, files, open, read_all, segments, small, try_open};

/// What a script did, and when.
#[derive(Default)]
struct Done {
    /// Values in the order of their appends.
    appended: Vec<String>,
    /// (crash point, records): after so many operations so many records were acknowledged as durable.
    durable: Vec<(usize, usize)>,
}

impl Done {
    /// Records that must be there after a power cut at this point.
    fn durable_at(&self, point: usize) -> usize {
        let before = self.durable.iter().filter(|(when, _)| *when <= point);
        before.map(|(_, records)| *records).max().unwrap_or(0)
    }
}

/// Appends a record and waits for its level.
fn append(log: &Log, storage: &FaultyStorage, done: &mut Done, level: Level) {
    let value = format!("record {} {}", done.appended.len(), "x".repeat(done.appended.len() % 60));
    let ticket = log.topic("t").unwrap().append_at(level, &value).unwrap();
    assert_eq!(ticket.offset(), done.appended.len() as i64);
    done.appended.push(value);
    ticket.wait().unwrap();
    if level == Level::Durable {
        done.durable.push((storage.recorded(), done.appended.len()));
    }
}

/// A log with one topic, closed, and nothing of that in the record.
fn prepared() -> FaultyStorage {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    log.create_topic("t", small()).unwrap();
    log.close().unwrap();
    storage.forget_history();
    storage
}

/// Opens what a crash left, and checks that it holds all that it must and nothing that was never appended; then that
/// recovering again changes nothing, and that appending goes on.
fn check(storage: &FaultyStorage, done: &Done, at_least: usize, context: &dyn Fn() -> String) {
    let log = match try_open(storage) {
        Ok(log) => log,
        Err(error) => panic!("{error}\n{}", context()),
    };
    let found: Vec<String> =
        read_all(&log, "t", 0).unwrap().into_iter().map(|(_, value)| value).collect();
    assert!(found.len() >= at_least, "{} of {at_least} left\n{}", found.len(), context());
    assert!(found.len() <= done.appended.len(), "{}", context());
    assert_eq!(found, done.appended[..found.len()], "{}", context());
    let recovered = segments(storage);
    let killed = storage.kill();
    drop(log);
    let again = open(&killed);
    assert_eq!(segments(&killed), recovered, "recovery changed its mind\n{}", context());
    let next = again.topic("t").unwrap().append("next").unwrap();
    assert_eq!(next.wait().unwrap(), found.len() as i64);
    let last = read_all(&again, "t", 0).unwrap().pop().unwrap();
    assert_eq!(last, (found.len() as i64, "next".to_owned()));
}

fn check_image(image: &CrashImage, done: &Done, context: &dyn Fn() -> String) {
    let at_least = done.durable_at(image.crash_point());
    check(&image.storage(), done, at_least, &|| {
        format!("power cut after {} operations\n{}", image.crash_point(), context())
    });
}

#[test]
fn every_power_cut_of_short_scripts_keeps_what_was_acknowledged_as_durable() {
    use Level::{Durable, Written};
    let scripts: [&[Level]; 4] = [
        &[Durable, Durable],
        &[Written, Durable],
        &[Durable, Written, Written],
        &[Written, Written, Durable, Written],
    ];
    for script in scripts {
        let storage = prepared();
        let log = open(&storage);
        // The first append of an opening notes its epoch; that has its own test, and far too many images.
        let mut done = Done::default();
        append(&log, &storage, &mut done, Durable);
        storage.forget_history();
        done.durable = vec![(0, 1)];
        for level in script {
            append(&log, &storage, &mut done, *level);
        }
        let history = storage.history();
        let mut images = 0;
        for image in history.every_image(4_000_000).unwrap() {
            images += 1;
            check_image(&image, &done, &|| format!("{script:?}: {:#?}", history.describe()));
        }
        assert!(images > 5, "{images} images");
    }
}

#[test]
fn sampled_power_cuts_of_long_scripts_keep_what_was_acknowledged_as_durable() {
    let samples: u64 = setting("PEERMQ_LOG_CUTS", 1500);
    let first = setting("PEERMQ_LOG_CUT_SEED", 0);
    for script in first..first + 4 {
        let mut random = Random(script);
        let storage = prepared();
        let mut done = Done::default();
        let mut log = open(&storage);
        for step in 0..60 {
            let level = if random.below(3) == 0 { Level::Durable } else { Level::Written };
            append(&log, &storage, &mut done, level);
            if step % 20 == 19 {
                log.close().unwrap();
                done.durable.push((storage.recorded(), done.appended.len()));
                log = open(&storage);
            }
        }
        let history = storage.history();
        for seed in 0..samples / 4 {
            let image = history.sample(seed);
            check_image(&image, &done, &|| format!("script {script}, seed {seed}"));
        }
        for point in 0..=history.len() {
            check(&history.killed_at(point), &done, done.durable_at(point), &|| {
                format!("script {script}, killed after {point}")
            });
        }
        drop(log);
    }
}

/// A number from the environment, for long runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn every_crash_while_a_topic_is_made_leaves_it_whole_or_not_there() {
    let storage = FaultyStorage::new();
    open(&storage).close().unwrap();
    storage.forget_history();
    let log = open(&storage);
    log.create_topic("t", small().partitions(2)).unwrap();
    let made = storage.recorded();
    log.delete_topic("t").unwrap();
    let deleted = storage.recorded();
    let history = storage.history();
    for seed in 0..3000 {
        let image = history.sample(seed);
        let point = image.crash_point();
        let recovered = image.storage();
        let log = match try_open(&recovered) {
            Ok(log) => log,
            Err(error) => panic!("{error}: seed {seed}, after {point}: {:#?}", history.describe()),
        };
        let there = !log.topics().is_empty();
        assert!(there || point < made || point > made, "seed {seed}: acknowledged, but gone");
        assert!(!there || point < deleted, "seed {seed}: deleted, but there");
        if there {
            log.topic("t").unwrap().append("x").unwrap().wait().unwrap();
        } else {
            log.create_topic("t", small()).unwrap();
        }
    }
}

/// A script under a fault: what was acknowledged, and what may be there besides.
fn run_with_fault(storage: &FaultyStorage) -> Result<Vec<(String, bool)>, LogError> {
    let mut tried = Vec::new();
    let Ok(log) = try_open(storage) else { return Ok(tried) };
    let topic = log.topic("t")?;
    for n in 0..8 {
        let level = if n % 2 == 0 { Level::Durable } else { Level::Written };
        let value = format!("{n} {}", "x".repeat(150));
        let Ok(ticket) = topic.append_at(level, &value) else { continue };
        let offset = ticket.offset();
        match ticket.wait() {
            Ok(found) => {
                assert_eq!(found, offset);
                tried.push((value, true));
            }
            Err(error) if error.is_full() => {}
            Err(_) => tried.push((value, false)),
        }
        // Reading must not be hurt by whatever appending met, unless the fault hits the read itself.
        match read_all(&log, "t", 0) {
            Ok(records) => {
                for (value, _) in tried.iter().filter(|(_, acknowledged)| *acknowledged) {
                    assert!(records.iter().any(|(_, found)| found == value), "{value} is gone");
                }
            }
            Err(error) => assert!(!error.is_corruption(), "{error}"),
        }
    }
    drop(topic);
    let _ = log.close();
    Ok(tried)
}

#[test]
fn an_error_at_any_call_loses_nothing_that_was_acknowledged() {
    for action in [
        FaultAction::Fail(Errno::Io),
        FaultAction::Fail(Errno::NoSpace),
        FaultAction::ShortWrite(Errno::NoSpace),
        FaultAction::ShortWrite(Errno::Io),
        FaultAction::Interrupt,
    ] {
        for forever in [false, true] {
            // Calls that are interrupted for ever are repeated for ever.
            if forever && action == FaultAction::Interrupt {
                continue;
            }
            for nth in 0.. {
                let storage = prepared();
                let fault = Fault::at(nth, action);
                storage.inject(if forever { fault.from_then_on() } else { fault });
                let tried = run_with_fault(&storage).unwrap();
                let met = storage.faults_met();
                storage.clear_faults();
                let context = format!("{action:?}, forever: {forever}, at call {nth}");
                let survivors = [storage.kill(), storage.power_cut(nth).storage()];
                for (after, survivor) in survivors.iter().enumerate() {
                    let log = match try_open(survivor) {
                        Ok(log) => log,
                        Err(error) => panic!("{context}, {after}: {error}"),
                    };
                    let found = read_all(&log, "t", 0).unwrap();
                    let mut rest = found.iter().map(|(_, value)| value);
                    for (n, (value, acknowledged)) in tried.iter().enumerate() {
                        // What survives a kill is what was written; a power cut may take that, but not what was durable
                        // when a later one was.
                        let durable = tried[n..].iter().any(|(value, acknowledged)| {
                            *acknowledged && value.as_bytes()[0] % 2 == 0
                        });
                        if *acknowledged && (after == 0 || durable) {
                            assert!(
                                rest.any(|found| found == value),
                                "{context}, {after}: {value}"
                            );
                        }
                    }
                    for (_, value) in &found {
                        let known = tried.iter().any(|(known, _)| known == value);
                        assert!(known, "{context}, {after}: {value} was refused, but is there");
                    }
                }
                if met == 0 {
                    assert!(nth > 50, "only {nth} calls");
                    break;
                }
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed_or_does_no_harm() {
    let storage = prepared();
    let log = open(&storage);
    let mut done = Done::default();
    for _ in 0..9 {
        append(&log, &storage, &mut done, Level::Durable);
    }
    let unclean = storage.kill();
    log.close().unwrap();
    let expected: Vec<(i64, String)> = (0..).zip(done.appended.iter().cloned()).collect();
    let mut noticed = 0;
    for (storage, stopped) in [(storage.kill(), "clean"), (unclean, "killed")] {
        for (path, bytes) in files(&storage) {
            for bit in 0..bytes.len() as u64 * 8 {
                // The space between the slots of the watermark is never read.
                if path.ends_with("durable-watermark") && bit / 8 % 4096 >= 64 {
                    continue;
                }
                let rotten = storage.kill();
                rotten.flip_bit(&path, bit).unwrap();
                let context = format!("{stopped}, {}, bit {bit}", path.display());
                noticed += u64::from(!read_rotten(&rotten, &expected, &context));
            }
        }
    }
    assert!(noticed > 1000, "only {noticed} flips were noticed");
}

/// Whether a log with one wrong bit can be read as a whole. What it shows must be right in any case.
fn read_rotten(storage: &FaultyStorage, expected: &[(i64, String)], context: &str) -> bool {
    let Ok(log) = try_open(storage) else { return false };
    let Ok(topic) = log.topic("t") else { return false };
    // In one go, and then each record by itself, which takes other ways through the indexes.
    if let Ok(found) = read_all(&log, "t", 0) {
        assert_eq!(found, expected, "{context}");
    }
    for (offset, value) in expected {
        let Ok(mut reader) = topic.read(0, peermq::log::Position::Offset(*offset)) else {
            return false;
        };
        match reader.next_record() {
            Ok(Some(record)) => {
                assert_eq!(record.offset, *offset, "{context}");
                assert_eq!(record.value.as_deref(), Some(value.as_bytes()), "{context}");
            }
            Ok(None) => panic!("{context}: record {offset} is gone without a word"),
            Err(error) => {
                assert!(error.to_string().contains("topic t, partition 0"), "{context}: {error}");
                return false;
            }
        }
    }
    true
}

#[test]
fn damage_below_the_watermark_is_refused_and_above_it_cut() {
    let storage = prepared();
    let log = open(&storage);
    let mut done = Done::default();
    for _ in 0..3 {
        append(&log, &storage, &mut done, Level::Durable);
    }
    let segment = Path::new("/log/t-0/00000000000000000000.log");
    let durable_bytes = storage.metadata(segment).unwrap().len;
    append(&log, &storage, &mut done, Level::Written);

    let torn = storage.kill();
    torn.flip_bit(segment, (durable_bytes + 70) * 8).unwrap();
    let reopened = open(&torn);
    assert_eq!(read_all(&reopened, "t", 0).unwrap().len(), 3);

    let short = storage.kill();
    let file = short.open(segment, peermq::log::storage::OpenMode::Write).unwrap();
    file.set_len(durable_bytes - 1).unwrap();
    let refused = try_open(&short).unwrap_err();
    assert!(refused.is_corruption());
    let text = refused.to_string();
    for part in ["topic t", "partition 0", "segment 0", "offset 3", "00000000000000000000.log"] {
        assert!(text.contains(part), "{text}");
    }
}
