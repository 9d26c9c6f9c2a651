//! Zeros that are written ahead of the end of a last segment, where small pieces are synced all the time: they are never
//! taken for records, nothing that was acknowledged is lost over them, and nobody lacks the space that they take.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peermq::log::format::batch::batches;
use peermq::log::inspect::{Finding, Inspector, VerifyReport};
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage, History};
use peermq::log::storage::{OpenMode, Operation, Storage};
use peermq::log::{Level, Log, LogError, ManualClock, Topic, TopicOptions};
use support::{DIRECTORY, Random, open, read_all, segments, small, try_open};

/// After so many syncs of small pieces the next one writes ahead.
const BEFORE: usize = 4;

/// How long what records are filled with is, one after another. Some of those that are written over zeros lie in two sectors.
const LENGTHS: [usize; 8] = [10, 40, 80, 20, 60, 330, 20, 150];

/// Opens the log of a storage; its clock stands still, so that all appends follow each other quickly.
fn open_at_once(storage: &FaultyStorage) -> (Log, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone());
    (options.linger(None).open(DIRECTORY).unwrap(), clock)
}

/// Where the batches of a segment end.
fn end_of_batches(segment: &[u8]) -> usize {
    let mut batches = batches(segment);
    while batches.next().is_some_and(|batch| batch.is_ok()) {}
    batches.position()
}

/// How many zeros are behind the batches of each segment that has any.
fn zeros(storage: &FaultyStorage) -> Vec<(PathBuf, usize)> {
    let behind = segments(storage).into_iter().filter_map(|(path, bytes)| {
        let behind = bytes.get(end_of_batches(&bytes)..).unwrap_or_default();
        let only_zeros = !behind.is_empty() && behind.iter().all(|byte| *byte == 0);
        only_zeros.then_some((path, behind.len()))
    });
    behind.collect()
}

fn verify(storage: &FaultyStorage) -> VerifyReport {
    Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap()
}

/// What was appended to topic `t`, and when it was durable.
struct Script {
    storage: FaultyStorage,
    log: Log,
    values: Vec<String>,
    /// (crash point, records): after so many operations so many records were acknowledged as durable.
    durable: Vec<(usize, usize)>,
}

impl Script {
    /// A log whose next durable append writes ahead.
    fn begun(options: TopicOptions) -> Self {
        let storage = FaultyStorage::new();
        let (log, _) = open_at_once(&storage);
        log.create_topic("t", options).unwrap();
        let mut script = Self { storage, log, values: Vec::new(), durable: Vec::new() };
        for _ in 0..BEFORE {
            script.append(Level::Durable);
        }
        assert_eq!(zeros(&script.storage), []);
        script.storage.forget_history();
        script.durable = vec![(0, BEFORE)];
        script
    }

    fn append(&mut self, level: Level) {
        let n = self.values.len();
        // Some are like what was written ahead of them.
        let filling = if n % 3 == 2 { "\0" } else { "x" };
        let value = format!("record {n} {}", filling.repeat(LENGTHS[n % LENGTHS.len()]));
        let ticket = self.log.topic("t").unwrap().append_at(level, &value).unwrap();
        self.values.push(value);
        ticket.wait().unwrap();
        if level == Level::Durable {
            self.durable.push((self.storage.recorded(), self.values.len()));
        }
    }

    /// How many records must be there after a power cut at this point.
    fn durable_at(&self, point: usize) -> usize {
        let before = self.durable.iter().filter(|(when, _)| *when <= point);
        before.map(|(_, records)| *records).max().unwrap_or(0)
    }

    /// Opens what a crash left: all that must be there is, nothing else, and it goes on. Whether it had zeros.
    fn check(&self, left: &FaultyStorage, point: usize, context: &dyn Fn() -> String) -> bool {
        let had_zeros = !zeros(left).is_empty();
        let looked_at = verify(left);
        assert!(looked_at.is_sound(), "{:?}\n{}", looked_at.findings, context());
        let log = match try_open(left) {
            Ok(log) => log,
            Err(error) => panic!("{error}\n{}", context()),
        };
        let values = |log: &Log| -> Vec<String> {
            let records = read_all(log, "t", 0).unwrap();
            records.into_iter().map(|(_, value)| value).collect()
        };
        let (found, at_least) = (values(&log), self.durable_at(point));
        assert!(found.len() >= at_least, "{} of {at_least} left\n{}", found.len(), context());
        assert_eq!(found, self.values[..found.len()], "{}", context());
        assert_eq!(zeros(left), [], "{}", context());
        let next = log.topic("t").unwrap().append("next").unwrap();
        assert_eq!(next.wait().unwrap(), found.len() as i64);
        let again = open(&left.kill());
        assert_eq!(values(&again)[..], [&found[..], &["next".to_owned()]].concat());
        had_zeros
    }

    /// Checks what kills left at each point; how many of them met zeros.
    fn check_kills(&self, history: &History) -> usize {
        let points = 0..=history.len();
        let met = points.filter(|point| {
            self.check(&history.killed_at(*point), *point, &|| format!("killed after {point}"))
        });
        met.count()
    }
}

#[test]
fn every_power_cut_around_what_is_written_ahead_keeps_what_was_acknowledged_as_durable() {
    use Level::{Durable, Written};
    let one = small().segment_bytes(1500);
    // In the last one the segment gets full.
    let scripts: [(TopicOptions, &[Level]); 4] = [
        (one.clone(), &[Durable, Durable, Written]),
        (one.clone(), &[Durable, Written, Durable]),
        (one, &[Durable, Written, Written, Written]),
        (small().segment_bytes(1100), &[Durable, Durable, Durable]),
    ];
    for (options, script) in scripts {
        let mut done = Script::begun(options);
        for level in script {
            done.append(*level);
        }
        let history = done.storage.history();
        let context = || format!("{script:?}: {:#?}", history.describe());
        let (mut images, mut with_zeros) = (0, 0);
        for image in history.every_image(4_000_000).unwrap() {
            images += 1;
            with_zeros += usize::from(done.check(&image.storage(), image.crash_point(), &context));
        }
        println!("{images} images, {with_zeros} with zeros");
        assert!(with_zeros > 100 && images > with_zeros, "{with_zeros} of {images}");
        assert!(done.check_kills(&history) > 3);
    }
}

/// A number from the environment, for long runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn sampled_power_cuts_and_kills_of_long_scripts_keep_what_was_acknowledged_as_durable() {
    let samples = setting("PEERMQ_LOG_CUTS", 600);
    let first = setting("PEERMQ_LOG_CUT_SEED", 0);
    for seed in first..first + 3 {
        let mut random = Random(seed);
        let mut script = Script::begun(small().segment_bytes(2000));
        for step in 0..60 {
            let level = if random.below(4) == 0 { Level::Written } else { Level::Durable };
            script.append(level);
            if step % 30 == 29 {
                let (storage, log) = (script.storage.clone(), script.log);
                log.close().unwrap();
                assert_eq!(zeros(&storage), []);
                script.durable.push((storage.recorded(), script.values.len()));
                script.log = open_at_once(&storage).0;
            }
        }
        let history = script.storage.history();
        for cut in 0..samples / 3 {
            let image = history.sample(cut);
            let context = || format!("script {seed}, power cut {cut}");
            script.check(&image.storage(), image.crash_point(), &context);
        }
        assert!(script.check_kills(&history) > history.len() / 3);
    }
}

/// Appends under a fault: what was acknowledged (`true`), and what may be there besides. What was refused for lack of space
/// is not.
fn append_under_fault(script: &mut Script) -> Vec<(String, Level, bool)> {
    use Level::{Durable, Written};
    let topic = script.log.topic("t").unwrap();
    let mut tried = Vec::new();
    for level in [Durable, Durable, Written, Durable, Durable, Durable, Durable, Written, Durable] {
        let value = format!("record {} {}", script.values.len() + tried.len(), "y".repeat(150));
        match topic.append_at(level, &value).and_then(|ticket| ticket.wait()) {
            Ok(_) => tried.push((value, level, true)),
            Err(error) if error.is_full() => {}
            Err(_) => tried.push((value, level, false)),
        }
        match read_all(&script.log, "t", 0) {
            Ok(records) => {
                for (value, ..) in tried.iter().filter(|(.., acknowledged)| *acknowledged) {
                    assert!(records.iter().any(|(_, found)| found == value), "{value} is gone");
                }
            }
            Err(error) => assert!(!error.is_corruption(), "{error}"),
        }
    }
    tried
}

/// After a fault and a crash: what was acknowledged is there, and nothing that was refused.
fn check_after_fault(
    script: &Script,
    tried: &[(String, Level, bool)],
    left: &FaultyStorage,
    killed: bool,
    context: &str,
) {
    let log = match try_open(left) {
        Ok(log) => log,
        Err(error) => panic!("{context}: {error}"),
    };
    let records = read_all(&log, "t", 0).unwrap();
    let mut found = records.iter().map(|(_, value)| value);
    for value in &script.values {
        assert_eq!(found.next(), Some(value), "{context}");
    }
    let later = found.clone();
    for (n, (value, _, acknowledged)) in tried.iter().enumerate() {
        let durable = tried[n..].iter().any(|(_, level, ok)| *ok && *level == Level::Durable);
        if *acknowledged && (killed || durable) {
            assert!(found.any(|found| found == value), "{context}: {value} is gone");
        }
    }
    for value in later {
        assert!(tried.iter().any(|(known, ..)| known == value), "{context}: {value} was refused");
    }
}

#[test]
fn an_error_at_any_call_around_what_is_written_ahead_loses_nothing() {
    let actions = [
        FaultAction::Fail(Errno::Io),
        FaultAction::Fail(Errno::NoSpace),
        FaultAction::ShortWrite(Errno::NoSpace),
        FaultAction::ShortWrite(Errno::Io),
        FaultAction::Interrupt,
    ];
    for (action, forever) in actions.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        // Calls that are interrupted for ever are repeated for ever.
        if forever && action == FaultAction::Interrupt {
            continue;
        }
        for nth in 0.. {
            let mut script = Script::begun(small().segment_bytes(1600));
            let fault = Fault::at(nth, action);
            script.storage.inject(if forever { fault.from_then_on() } else { fault });
            let tried = append_under_fault(&mut script);
            let killed = script.storage.kill();
            let met = script.storage.faults_met();
            // It may fail as well.
            let storage = script.storage.clone();
            let (log, values, durable) = (script.log, script.values, script.durable);
            let _ = log.close();
            storage.clear_faults();
            let (log, _) = open_at_once(&FaultyStorage::new());
            let script = Script { storage: storage.clone(), log, values, durable };
            let context = format!("{action:?}, forever: {forever}, at call {nth}");
            check_after_fault(&script, &tried, &killed, true, &format!("{context}, killed"));
            check_after_fault(
                &script,
                &tried,
                &storage.kill(),
                true,
                &format!("{context}, closed"),
            );
            let cut = storage.power_cut(nth).storage();
            check_after_fault(&script, &tried, &cut, false, &format!("{context}, power cut"));
            if met == 0 {
                assert!(nth > 40, "only {nth} calls");
                break;
            }
        }
    }
}

/// A topic whose last segment ends with zeros.
fn ahead(log: &Log, storage: &FaultyStorage, name: &str) -> Topic {
    let topic = log.create_topic(name, TopicOptions::default()).unwrap();
    let before = zeros(storage).len();
    for n in 0..=BEFORE {
        topic.append(&format!("{n}")).unwrap().wait().unwrap();
    }
    assert_eq!(zeros(storage).len(), before + 1);
    topic
}

#[test]
fn only_the_last_segment_of_an_open_log_ends_with_zeros_and_no_reader_minds() {
    let mut script = Script::begun(small().segment_bytes(2000));
    for _ in 0..20 {
        script.append(Level::Durable);
    }
    let storage = script.storage.clone();
    let paths: Vec<_> = segments(&storage).into_keys().collect();
    assert!(paths.len() > 2);
    let with_zeros: Vec<_> = zeros(&storage).into_iter().map(|(path, _)| path).collect();
    assert_eq!(with_zeros, paths[paths.len() - 1..]);
    let beside = Log::options().storage(Arc::new(storage.clone())).open_read_only(DIRECTORY);
    let beside = beside.unwrap();
    let values = |log: &Log| -> Vec<String> {
        read_all(log, "t", 0).unwrap().into_iter().map(|(_, value)| value).collect()
    };
    assert_eq!(values(&beside), script.values);
    for level in [Level::Durable, Level::Written, Level::Durable] {
        for _ in 0..9 {
            script.append(level);
            assert_eq!(values(&beside), script.values);
        }
    }
    script.log.close().unwrap();
    assert_eq!(zeros(&storage), []);
    assert_eq!(verify(&storage).findings.len(), 0);
    assert_eq!(values(&beside), script.values);
    // Nothing is left to be cut off.
    storage.inject(Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::SetLen).on(".log"));
    assert_eq!(values(&open(&storage)), script.values);
    assert_eq!(storage.faults_met(), 0);
}

#[test]
fn zeros_are_the_end_of_a_last_segment_and_damage_in_any_other_place() {
    let mut script = Script::begun(small().segment_bytes(2000));
    for _ in 0..22 {
        script.append(Level::Durable);
    }
    let storage = script.storage.kill();
    assert_eq!(verify(&storage).findings.len(), 0);
    let inspector = || Inspector::new().storage(Arc::new(storage.clone()));
    let paths: Vec<_> = segments(&storage).into_keys().collect();
    let dumped = |path: &Path| {
        let mut text = Vec::new();
        let is_sound = inspector().dump(path, &mut text).unwrap();
        (is_sound, String::from_utf8(text).unwrap().contains("zeros written ahead"))
    };
    let last = paths.last().unwrap();
    assert_eq!(dumped(last), (true, true));
    assert_eq!(dumped(&paths[0]), (true, false));
    let saved = inspector().salvage(DIRECTORY, "/saved").unwrap();
    assert!(saved.is_complete() && saved.findings.is_empty(), "{saved:?}");
    assert_eq!(saved.records, script.values.len() as u64);

    // Zeros in the place of what was durable.
    let bytes = segments(&storage)[last].clone();
    let mut whole = batches(&bytes);
    whole.next().unwrap().unwrap();
    let second = whole.position();
    assert!(second < end_of_batches(&bytes));
    let overwritten = storage.kill();
    let file = overwritten.open(last, OpenMode::Write).unwrap();
    file.write_at(&vec![0; bytes.len() - second], second as u64).unwrap();
    let report = verify(&overwritten);
    assert!(!report.is_sound());
    let there = |finding: &Finding| finding.place.position == Some(second as u64);
    assert!(report.findings.iter().any(there), "{:?}", report.findings);
    assert!(try_open(&overwritten).unwrap_err().is_corruption());

    let file = storage.open(&paths[0], OpenMode::Write).unwrap();
    file.write_at(&[0; 100], segments(&storage)[&paths[0]].len() as u64).unwrap();
    assert!(!verify(&storage).is_sound());
    assert_eq!(dumped(&paths[0]), (false, false));
    let read = try_open(&storage).and_then(|log| read_all(&log, "t", 0));
    assert!(read.unwrap_err().is_corruption());
}

#[test]
fn records_take_all_the_room_there_is_whatever_was_to_be_written_ahead() {
    const ROOM: u64 = 6000;
    let storage = FaultyStorage::new();
    let (log, _) = open_at_once(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("first").unwrap().wait().unwrap();
    let bytes = |storage: &FaultyStorage| -> u64 {
        segments(storage).values().map(|bytes| bytes.len() as u64).sum()
    };
    let before = bytes(&storage);
    storage.limit_room(Some(ROOM));
    let value = "x".repeat(100);
    let (mut taken, mut batch) = (1, 0);
    let refused = loop {
        let before = bytes(&storage);
        match topic.append(&value).unwrap().wait() {
            Ok(_) => (taken, batch) = (taken + 1, bytes(&storage) - before),
            Err(error) => break error,
        }
    };
    assert!(refused.is_full(), "{refused}");
    assert!(batch > 100 && bytes(&storage) - before + batch > ROOM, "only {taken} records");
    let killed = storage.kill();
    assert_eq!(read_all(&open(&killed), "t", 0).unwrap().len(), taken);
    storage.limit_room(None);
    for _ in 0..9 {
        topic.append(&value).unwrap().wait().unwrap();
    }
    log.close().unwrap();
    assert_eq!(read_all(&open(&storage), "t", 0).unwrap().len(), taken + 9);
}

#[test]
fn what_is_written_ahead_in_one_topic_takes_no_room_from_another() {
    let storage = FaultyStorage::new();
    let (log, clock) = open_at_once(&storage);
    let first = ahead(&log, &storage, "a");
    let second = log.create_topic("b", TopicOptions::default()).unwrap();
    storage.limit_room(Some(0));
    for n in 0..9 {
        second.append(&format!("{n}")).unwrap().wait().unwrap();
        assert_eq!(zeros(&storage), [], "nor is more written ahead now");
    }
    storage.limit_room(None);
    first.append("more").unwrap().wait().unwrap();
    assert_eq!(zeros(&storage), []);
    clock.advance(10_001);
    for _ in 0..=BEFORE {
        first.append("later").unwrap().wait().unwrap();
    }
    assert_eq!(zeros(&storage).len(), 1);
    // The start that is written down needs room.
    storage.limit_room(Some(0));
    first.truncate_front(0, 3).unwrap();
    assert_eq!(zeros(&storage), []);
    storage.limit_room(None);
    log.close().unwrap();
    let log = open(&storage);
    assert_eq!(read_all(&log, "a", 0).unwrap().len(), 2 * (BEFORE + 1) + 1 - 3);
    assert_eq!(read_all(&log, "b", 0).unwrap().len(), 9);
    assert_eq!(verify(&storage).findings.len(), 0);
}

#[test]
fn a_batch_that_needs_the_room_of_another_topic_in_part_gets_it_without_being_there_twice() {
    let storage = FaultyStorage::new();
    let (log, _) = open_at_once(&storage);
    let second = log.create_topic("b", TopicOptions::default().batch_bytes(200)).unwrap();
    second.append("first").unwrap().wait().unwrap();
    ahead(&log, &storage, "a");
    // Several batches in one write, of which the second stops where the room ends.
    storage.limit_room(Some(250));
    let value = "y".repeat(150);
    let tickets: Vec<_> = (0..5).map(|_| second.append_at(Level::Durable, &value)).collect();
    for ticket in tickets {
        ticket.unwrap().wait().unwrap();
    }
    let records = read_all(&log, "b", 0).unwrap();
    assert_eq!(records.len(), 6);
    assert!(records.iter().zip(0..).all(|((offset, _), n)| *offset == n), "{records:?}");
    assert_eq!(read_all(&open(&storage.power_cut(1).storage()), "b", 0).unwrap(), records);
}

#[test]
fn few_partitions_have_zeros_however_many_there_are_and_none_keeps_what_others_need() {
    const HOLDERS: usize = 16;
    let storage = FaultyStorage::new();
    let (log, clock) = open_at_once(&storage);
    let topic = log.create_topic("t", TopicOptions::default().partitions(100)).unwrap();
    let append = |partition: u32, count: usize| {
        for _ in 0..count {
            topic.append_to(partition, Level::Durable, "value").unwrap().wait().unwrap();
        }
    };
    for partition in 0..100 {
        append(partition, 2 * BEFORE);
    }
    let all = zeros(&storage);
    assert_eq!(all.len(), HOLDERS, "{all:?}");
    assert!(all.iter().all(|(_, bytes)| *bytes <= 20 << 10), "{all:?}");
    clock.advance(51);
    append(99, 80);
    let all = zeros(&storage);
    assert!(all.len() == 1 && all[0].0.starts_with("/log/t-99"), "{all:?}");

    // Whoever holds on to a deleted topic does not hold on to that.
    let kept: Vec<_> = (0..20)
        .map(|n| {
            let name = format!("deleted-{n}");
            let topic = ahead(&log, &storage, &name);
            log.delete_topic(&name).unwrap();
            topic
        })
        .collect();
    ahead(&log, &storage, "last");
    drop(kept);
    log.close().unwrap();
    assert_eq!(zeros(&storage), []);
}

#[test]
fn nothing_is_written_ahead_where_syncs_are_rare_or_pieces_are_long() {
    let storage = FaultyStorage::new();
    let (log, clock) = open_at_once(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let long = "x".repeat(65 << 10);
    for n in 0..40 {
        let value = if n < 20 { "short" } else { &long };
        topic.append(value).unwrap().wait().unwrap();
        topic.append_at(Level::Written, "unsynced").unwrap().wait().unwrap();
        if n < 20 {
            clock.advance(51);
        }
        assert_eq!(zeros(&storage), []);
    }
    for n in 0..BEFORE + 2 {
        assert_eq!(zeros(&storage).len(), usize::from(n >= BEFORE), "{n}");
        topic.append("short").unwrap().wait().unwrap();
    }
}

#[test]
fn without_space_ahead_appends_go_on_and_another_error_there_stops_them() {
    let write_ahead = |errno| {
        let script = Script::begun(TopicOptions::default());
        // The first write is that of the record.
        let fault = Fault::at(1, FaultAction::ShortWrite(errno)).of(Operation::Write);
        script.storage.inject(fault.on(".log"));
        let appended = script.log.topic("t").unwrap().append("one more");
        let appended = appended.and_then(|ticket| ticket.wait());
        assert_eq!(script.storage.faults_met(), 1);
        (script, appended)
    };
    let (script, appended) = write_ahead(Errno::NoSpace);
    appended.unwrap();
    assert_eq!(zeros(&script.storage), []);
    let before = script.storage.calls(Some(Operation::Write));
    script.log.topic("t").unwrap().append("not tried again").unwrap().wait().unwrap();
    let writes = script.storage.calls(Some(Operation::Write)) - before;
    assert_eq!(writes, 2, "the record and the watermark");
    let (script, appended) = write_ahead(Errno::Io);
    assert!(matches!(appended, Err(LogError::Poisoned { .. })), "{appended:?}");
    assert!(script.log.close().is_err());
    let log = open(&script.storage);
    assert_eq!(read_all(&log, "t", 0).unwrap().len(), BEFORE + 1);
}
