//! Verifying, salvaging and dumping logs that are damaged in every way that fits into a test.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peermq::log::format::batch::{Producer, batches, set_base_offset};
use peermq::log::format::{BatchBuilder, BatchOptions, producers};
use peermq::log::inspect::{Inspector, Issue, LostRange, SalvageReport, Severity, VerifyReport};
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{OpenMode, Operation, Storage};
use peermq::log::{Damage, Level, Log, LogError, NewRecord, Position, TopicOptions};
use support::{DIRECTORY, Random, files, open, small, try_open};

const OUT: &str = "/saved";

/// Offset, key, value, time.
type Row = (i64, Option<Vec<u8>>, Option<Vec<u8>>, i64);

fn verify(storage: &FaultyStorage) -> VerifyReport {
    Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap()
}

fn salvage(storage: &FaultyStorage) -> Result<SalvageReport, LogError> {
    Inspector::new().storage(Arc::new(storage.clone())).salvage(DIRECTORY, OUT)
}

fn open_saved(storage: &FaultyStorage) -> Log {
    Log::options().storage(Arc::new(storage.clone())).linger(None).open(OUT).unwrap()
}

fn rows(log: &Log, topic: &str, partition: u32) -> Vec<Row> {
    let reader = log.topic(topic).unwrap().read(partition, Position::Earliest).unwrap();
    let row = |record: peermq::log::LogRecord| {
        let bytes = |bytes: Option<bytes::Bytes>| bytes.map(|bytes| bytes.to_vec());
        (record.offset, bytes(record.key), bytes(record.value), record.timestamp_ms)
    };
    reader.map(|record| row(record.unwrap())).collect()
}

/// A log with several segments, two partitions, a cut front, a producer; stopped cleanly or not.
fn sample(clean: bool) -> (FaultyStorage, BTreeMap<u32, Vec<Row>>) {
    sample_of(20, clean)
}

/// As [`sample`], with so many records before those of the producer.
fn sample_of(records: i64, clean: bool) -> (FaultyStorage, BTreeMap<u32, Vec<Row>>) {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small().partitions(2)).unwrap();
    for n in 0..records {
        let value = format!("value {n} {}", "x".repeat(n as usize * 5));
        let key = format!("key {}", n % 3);
        let record = NewRecord::new(&value).key(&key).timestamp_ms(1000 + 10 * n);
        topic.append_to(0, Level::Durable, record).unwrap().wait().unwrap();
    }
    topic.append_to(1, Level::Durable, "other").unwrap().wait().unwrap();
    let producer = Producer { id: 7, epoch: 0, base_sequence: 0 };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    for n in 0..3 {
        builder.append(2000 + n, None, Some(b"from a producer"), []).unwrap();
    }
    let batch = builder.finish().unwrap();
    topic.append_batch(0, Level::Durable, &batch).unwrap().wait().unwrap();
    topic.truncate_front(0, 2).unwrap();
    let expected = (0..2).map(|partition| (partition, rows(&log, "t", partition))).collect();
    drop(topic);
    let killed = storage.kill();
    log.close().unwrap();
    storage.forget_history();
    (if clean { storage } else { killed }, expected)
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "index" || extension == "timeindex")
}

#[test]
fn a_sound_log_is_found_sound_and_nothing_is_changed_by_looking() {
    for clean in [true, false] {
        let (storage, _) = sample(clean);
        let before = files(&storage);
        let report = verify(&storage);
        assert!(report.is_sound() && report.findings.is_empty(), "{:#?}", report.findings);
        assert_eq!((report.topics, report.partitions), (1, 2));
        assert_eq!(report.records, report.batches + 2, "all but one have a single record");
        assert!(report.segments > 3 && report.undecoded_batches == 0);
        let saved = salvage(&storage).unwrap();
        assert!(saved.is_complete() && saved.findings.is_empty(), "{saved:#?}");
        assert_eq!(files(&storage), before);
    }
}

#[test]
fn progress_ends_with_all_bytes_seen() {
    let (storage, _) = sample(true);
    let mut last = (0, 0);
    let mut inspector = Inspector::new()
        .storage(Arc::new(storage.clone()))
        .on_progress(|progress| last = (progress.bytes, progress.bytes_total));
    let report = inspector.verify(DIRECTORY).unwrap();
    drop(inspector);
    assert_eq!(last, (report.bytes, report.bytes));
}

#[test]
fn a_salvaged_log_is_the_same_log_with_a_later_writer() {
    let (storage, expected) = sample(false);
    let log = open(&storage);
    let (id, options) = {
        let described = log.topic("t").unwrap().describe();
        (described.id, described.options)
    };
    log.close().unwrap();
    salvage(&storage).unwrap();
    let saved = open_saved(&storage);
    let described = saved.topic("t").unwrap().describe();
    assert_eq!((described.id, described.options), (id, options));
    assert_eq!(described.partitions[0].earliest, 2);
    for (partition, rows_there) in &expected {
        assert_eq!(&rows(&saved, "t", *partition), rows_there);
    }
    // What the producer sent is known there too.
    let producer = Producer { id: 7, epoch: 0, base_sequence: 0 };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    for n in 0..3 {
        builder.append(2000 + n, None, Some(b"from a producer"), []).unwrap();
    }
    let batch = builder.finish().unwrap();
    let again = saved.topic("t").unwrap().append_batch(0, Level::Durable, &batch).unwrap();
    assert_eq!(again.offset(), 22);
    let next = saved.topic("t").unwrap().append_to(0, Level::Durable, "next").unwrap();
    assert_eq!(next.wait().unwrap(), 23);
    saved.close().unwrap();
    let report = Inspector::new().storage(Arc::new(storage.clone())).verify(OUT).unwrap();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

/// What a log without a finding must do.
fn check_harmless(storage: &FaultyStorage, expected: &BTreeMap<u32, Vec<Row>>, context: &str) {
    let log = match try_open(storage) {
        Ok(log) => log,
        Err(error) => panic!("{context}: found sound, but {error}"),
    };
    for (partition, expected) in expected {
        let mut found = rows(&log, "t", *partition);
        // What was in front of the log's start may be there again.
        found.retain(|row| row.0 >= expected[0].0);
        assert_eq!(&found, expected, "{context}");
        let topic = log.topic("t").unwrap();
        for row in expected {
            let mut reader = topic.read(*partition, Position::Offset(row.0)).unwrap();
            assert_eq!(reader.next().unwrap().unwrap().offset, row.0, "{context}");
        }
    }
}

/// What a salvaged log may hold: records that were appended, at their offsets, and all that were not lost.
fn check_saved(
    storage: &FaultyStorage,
    report: &SalvageReport,
    expected: &BTreeMap<u32, Vec<Row>>,
    ruined: bool,
    context: &str,
) {
    let saved = open_saved(storage);
    for (partition, expected) in expected {
        let Ok(topic) = saved.topic("t") else { panic!("{context}: the topic is gone") };
        if *partition >= topic.partitions() {
            continue;
        }
        let found = rows(&saved, "t", *partition);
        let lost = |offset: i64| {
            report.lost.iter().any(|lost| {
                lost.partition == *partition
                    && lost.from <= offset
                    && lost.to.is_none_or(|to| offset < to)
            })
        };
        for row in &found {
            // Of what was in front of the log's start, more may be there. Ruins may have lost the true offset.
            let same = |other: &&Row| (&row.1, &row.2, row.3) == (&other.1, &other.2, other.3);
            let moved = ruined && expected.iter().any(|other| same(&other));
            let known = expected.contains(row) || row.0 < expected[0].0 || moved;
            assert!(known, "{context}: {row:?} was never appended");
            assert!(!lost(row.0), "{context}: {} is there and lost", row.0);
        }
        for row in expected {
            let there = found.contains(row) || ruined && found.iter().any(|r| r.2 == row.2);
            assert!(there || lost(row.0), "{context}: {} is gone unsaid", row.0);
        }
    }
    saved.close().unwrap();
    let report = Inspector::new().storage(Arc::new(storage.clone())).verify(OUT).unwrap();
    assert!(report.findings.is_empty(), "{context}: {:#?}", report.findings);
}

/// Where the batches of a segment end: zeros may be behind them.
fn end_of_batches(segment: &[u8]) -> u64 {
    let mut batches = batches(segment);
    while batches.next().is_some_and(|batch| batch.is_ok()) {}
    batches.position() as u64
}

/// Whether a bit is where nothing is ever read.
fn is_unknowable(path: &Path, byte: u64) -> bool {
    path.ends_with("durable-watermark") && byte % 4096 >= 64
}

#[test]
fn every_flipped_bit_is_found_or_harmless_and_costs_no_record_but_those_it_hit() {
    let (mut found, mut mended) = (0, 0);
    for clean in [true, false] {
        let (storage, expected) = sample_of(5, clean);
        for (path, bytes) in files(&storage) {
            for bit in (0..bytes.len() as u64 * 8).filter(|bit| !is_unknowable(&path, bit / 8)) {
                let rotten = storage.kill();
                rotten.flip_bit(&path, bit).unwrap();
                let context = format!("clean: {clean}, {}, bit {bit}", path.display());
                let report = Inspector::new().storage(Arc::new(rotten.clone())).verify(DIRECTORY);
                let report = report.unwrap();
                found += usize::from(!report.findings.is_empty());
                let segment = path.extension().is_some_and(|extension| extension == "log");
                if segment && bit / 8 < end_of_batches(&bytes) {
                    assert!(!report.is_sound(), "{context}");
                }
                if is_index(&path) {
                    assert!(report.is_sound(), "{context}: {:?}", report.findings);
                }
                if report.is_sound() {
                    check_harmless(&rotten.kill(), &expected, &context);
                }
                // What is saved does not depend on how the log was stopped.
                if clean && (segment || bit % 16 == 0) {
                    let report = salvage(&rotten).unwrap();
                    mended += report.mended_batches;
                    let hit: i64 = report
                        .lost
                        .iter()
                        .map(|lost| lost.to.unwrap_or(lost.from + 1) - lost.from)
                        .sum();
                    assert!(hit <= 3, "{context}: {:?}", report.lost);
                    check_saved(&rotten, &report, &expected, false, &context);
                }
            }
        }
    }
    assert!(found > 4000 && mended > 400, "{found} found, {mended} mended");
}

/// Overwrites, cuts and lengthens files at random.
fn ruin(storage: &FaultyStorage, random: &mut Random) -> Vec<PathBuf> {
    // But for the file in which another number means something else, and the only one that can contradict it.
    let files: Vec<(PathBuf, Vec<u8>)> = files(storage)
        .into_iter()
        .filter(|(path, _)| !path.ends_with("log-start-offset-checkpoint"))
        .filter(|(path, _)| !path.ends_with("log-start-offset-check"))
        .collect();
    let mut ruined = Vec::new();
    for _ in 0..=random.below(3) {
        let (path, bytes) = &files[random.below(files.len() as u64) as usize];
        let Ok(file) = storage.open(path, OpenMode::Write) else { continue };
        let at = random.below(bytes.len() as u64 + 1);
        match random.below(5) {
            0 => file.set_len(at).unwrap(),
            1 => file.set_len(bytes.len() as u64 + random.below(200)).unwrap(),
            2 => storage.remove_file(path).unwrap(),
            3 => {
                // A part of another place, so that whole batches are where they do not belong.
                let from = random.below(bytes.len() as u64 + 1) as usize;
                file.write_at(&bytes[from..], at).unwrap();
            }
            _ => {
                let noise: Vec<u8> = (0..random.below(90)).map(|_| random.next() as u8).collect();
                file.write_at(&noise, at).unwrap();
            }
        }
        ruined.push(path.clone());
    }
    ruined
}

#[test]
fn ruins_are_looked_at_without_panic_and_yield_no_record_that_was_not_appended() {
    let (storage, expected) = sample(true);
    for seed in 0..1500 {
        let mut random = Random(seed);
        let ruins = storage.kill();
        let ruined = ruin(&ruins, &mut random);
        let context = format!("seed {seed}: {ruined:?}");
        let inspected = Inspector::new().storage(Arc::new(ruins.clone())).verify(DIRECTORY);
        let Ok(report) = inspected else { continue };
        if report.is_sound() {
            check_harmless(&ruins.kill(), &expected, &context);
        }
        let Ok(report) = salvage(&ruins) else { continue };
        if open_saved(&ruins).topic("t").is_ok() {
            check_saved(&ruins, &report, &expected, true, &context);
        }
    }
}

#[test]
fn a_batch_inside_a_value_is_not_taken_for_one_when_its_own_batch_is_damaged() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(1, None, Some(b"phantom"), []).unwrap();
    let mut inner = builder.finish().unwrap();
    set_base_offset(&mut inner, 1).unwrap();
    topic.append("first").unwrap().wait().unwrap();
    topic.append(&inner).unwrap().wait().unwrap();
    topic.append("third").unwrap().wait().unwrap();
    log.close().unwrap();
    let path = Path::new("/log/t-0/00000000000000000000.log");
    let bytes = files(&storage).remove(path).unwrap();
    let outer = bytes.windows(6).position(|window| window == b"\0\0\0\0\0\x01").unwrap_or(0);
    let second = 61 + bytes[8..12].iter().fold(0usize, |sum, byte| sum << 8 | *byte as usize) - 49;
    assert!(outer < bytes.len());
    for bit in (second * 8)..((second + 75) * 8) {
        let rotten = storage.kill();
        rotten.flip_bit(path, bit as u64).unwrap();
        let report = salvage(&rotten).unwrap();
        let saved = open_saved(&rotten);
        let values: Vec<_> = rows(&saved, "t", 0).into_iter().map(|row| row.2.unwrap()).collect();
        assert!(!values.contains(&b"phantom".to_vec()), "bit {bit}");
        assert!(values.contains(&b"first".to_vec()) && values.contains(&b"third".to_vec()));
        assert_eq!(values.contains(&inner), report.is_complete(), "bit {bit}");
    }
}

#[test]
fn lost_offsets_are_named_and_never_given_out_again() {
    let (storage, expected) = sample(true);
    let logs: Vec<PathBuf> = files(&storage)
        .into_keys()
        .filter(|path| path.starts_with("/log/t-0") && path.extension().is_some_and(|e| e == "log"))
        .collect();
    let base = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<i64>().unwrap();
    // A segment in the middle and the last one are gone.
    let (middle, last) = (&logs[1], &logs[logs.len() - 1]);
    let behind = base(&logs[2]);
    assert!(logs.len() > 3);
    storage.remove_file(middle).unwrap();
    storage.open(last, OpenMode::Write).unwrap().set_len(0).unwrap();
    let report = verify(&storage);
    assert!(!report.is_sound());
    let report = salvage(&storage).unwrap();
    let lost: Vec<(i64, Option<i64>)> =
        report.lost.iter().map(|LostRange { from, to, .. }| (*from, *to)).collect();
    assert_eq!(lost, [(base(middle), Some(behind)), (base(last), Some(23))]);
    check_saved(&storage, &report, &expected, false, "two segments gone");
    let saved = open_saved(&storage);
    let topic = saved.topic("t").unwrap();
    let mut reader = topic.read(0, Position::Offset(base(middle))).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset, behind, "readers pass over");
    let next = topic.append_to(0, Level::Durable, "next").unwrap();
    assert_eq!(next.wait().unwrap(), 23);
}

#[test]
fn a_log_without_catalogue_is_saved_by_its_directories() {
    let (storage, expected) = sample(true);
    storage.remove_file(Path::new("/log/topics.catalogue")).unwrap();
    assert!(!verify(&storage).is_sound());
    let report = salvage(&storage).unwrap();
    check_saved(&storage, &report, &expected, false, "no catalogue");
    assert!(report.is_complete());
}

#[test]
fn a_torn_tail_is_harmless_and_what_was_durable_is_not() {
    let (storage, _) = sample(false);
    let last = files(&storage)
        .into_keys()
        .rfind(|path| path.starts_with("/log/t-0") && path.extension().is_some_and(|e| e == "log"));
    let last = last.unwrap();
    let len = end_of_batches(&files(&storage)[&last]);
    storage.open(&last, OpenMode::Write).unwrap().set_len(len).unwrap();
    let torn = storage.kill();
    torn.open(&last, OpenMode::Write).unwrap().write_at(&[7; 33], len).unwrap();
    let report = verify(&torn);
    assert!(report.is_sound());
    let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert!(matches!(finding.issue, Issue::TornTail { bytes: 33, batches: 0 }));
    assert_eq!((finding.place.offset, finding.place.position), (Some(23), Some(len)));
    assert!(salvage(&torn).unwrap().is_complete());

    storage.open(&last, OpenMode::Write).unwrap().set_len(len - 1).unwrap();
    let report = verify(&storage);
    let finding = &report.findings[0];
    assert_eq!(finding.severity, Severity::Unsound);
    assert_eq!(finding.place.topic.as_deref(), Some("t"));
    assert_eq!(finding.place.partition, Some(0));
    assert_eq!(finding.place.path.as_deref(), Some(&*last));
    assert!(finding.to_string().contains("topic t, partition 0, segment"), "{finding}");
}

#[test]
fn what_cannot_be_read_is_reported_and_the_rest_is_saved() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default().batch_bytes(1000)).unwrap();
    for n in 0..200 {
        let value = format!("{n} {}", "x".repeat(1000));
        topic.append_at(Level::Written, &value).unwrap().wait().unwrap();
    }
    log.close().unwrap();
    let mut complete = 0;
    for nth in 0.. {
        let broken = storage.kill();
        let fault = Fault::at(nth, FaultAction::Fail(Errno::Io)).of(Operation::Read);
        broken.inject(fault.from_then_on());
        let report = Inspector::new().storage(Arc::new(broken.clone())).verify(DIRECTORY);
        let met = broken.faults_met();
        if met == 0 {
            assert!(nth > 5);
            break;
        }
        if let Ok(report) = report {
            assert!(!report.findings.is_empty(), "read {nth}");
            complete += usize::from(report.records == 200);
        }
    }
    assert_eq!(complete, 0);
}

#[test]
fn a_new_log_is_refused_where_something_is_or_within_the_old_one() {
    let (storage, _) = sample(true);
    let mut inspector = Inspector::new().storage(Arc::new(storage.clone()));
    assert!(matches!(inspector.salvage(DIRECTORY, "/log/t-0"), Err(LogError::Invalid { .. })));
    assert!(matches!(inspector.salvage(DIRECTORY, "/log/new"), Err(LogError::Invalid { .. })));
    inspector.salvage(DIRECTORY, OUT).unwrap();
    assert!(matches!(inspector.salvage(DIRECTORY, OUT), Err(LogError::Invalid { .. })));
    assert!(matches!(inspector.verify("/nowhere"), Err(LogError::Storage { .. })));
    storage.create_dir_all(Path::new("/empty")).unwrap();
    assert!(matches!(inspector.verify("/empty"), Err(LogError::NotALog { .. })));
}

#[test]
fn every_file_of_a_log_is_shown_and_damage_in_it_said() {
    let (storage, _) = sample(true);
    let inspector = Inspector::new().storage(Arc::new(storage.clone()));
    let mut all = String::new();
    for path in files(&storage).into_keys() {
        let mut text = Vec::new();
        assert!(inspector.dump(&path, &mut text).unwrap(), "{}", path.display());
        all.push_str(&String::from_utf8(text).unwrap());
    }
    for part in [
        "  offset 0 time 1000 key \"key 0\" value \"value 0 \"\n",
        "  offset 22 time 2002 key null value \"from a producer\"\n",
        "producer 7 epoch 0 sequence 0",
        "snapshot of 1 producers",
        "  t 0 offset 2\n",
        "  epoch 1 from offset 0\n",
        "catalogue of 1 topics, opened 1 times",
        "sequence 0, partition 0, segment 0, byte 0, offset 0, largest time -1, epoch -1",
        "log directory: cluster peermq-log",
        "  time 1",
        " up to offset ",
        "in the batch at byte",
    ] {
        assert!(all.contains(part), "no {part:?} in\n{all}");
    }
    let path = Path::new("/log/t-0/00000000000000000000.log");
    storage.flip_bit(path, 70 * 8).unwrap();
    let mut text = Vec::new();
    assert!(!inspector.dump(path, &mut text).unwrap());
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("damaged: ") && text.contains("CRC of a batch"), "{text}");
    assert!(inspector.dump("/log/t-0/photo.jpg", &mut Vec::new()).is_err());
}

#[test]
fn a_wrong_writer_and_a_wrong_snapshot_are_found() {
    let (storage, _) = sample(true);
    let path = Path::new("/log/t-0/leader-epoch-checkpoint");
    let file = storage.open(path, OpenMode::Write).unwrap();
    file.write_at(b"0\n1\n3 0\n", 0).unwrap();
    let report = verify(&storage);
    let first = &report.findings[0].issue;
    assert!(matches!(first, Issue::WrongWriter { expected: 3, found: 1 }), "{first}");

    let (storage, _) = sample(true);
    let found =
        files(&storage).into_keys().find(|path| path.to_string_lossy().contains(".snapshot"));
    let path = found.unwrap();
    let mut entries = producers::decode(&files(&storage)[&path]).unwrap();
    entries[0].last_sequence += 1;
    let file = storage.open(&path, OpenMode::Write).unwrap();
    file.write_at(&producers::encode(&entries).unwrap(), 0).unwrap();
    let report = verify(&storage);
    assert!(matches!(report.findings[..], [ref finding]
        if matches!(finding.issue, Issue::SnapshotDiffers { producer: 7 })));
    assert!(!report.is_sound());
}

#[test]
fn an_index_that_is_missing_or_points_elsewhere_is_harmless_and_named() {
    for (kind, entry_bytes, at) in [("index", 8, 7), ("timeindex", 12, 7)] {
        let (storage, expected) = sample(true);
        let (path, bytes) = files(&storage)
            .into_iter()
            .find(|(path, bytes)| {
                path.starts_with("/log/t-0")
                    && path.extension().is_some_and(|extension| extension == kind)
                    && bytes.len() >= 2 * entry_bytes
            })
            .unwrap();
        // Between two entries, so that the order of the index stays right.
        let last = bytes.len() - entry_bytes + at;
        let file = storage.open(&path, OpenMode::Write).unwrap();
        file.write_at(&[bytes[last] - 1], last as u64).unwrap();
        let report = verify(&storage);
        let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
        let entry = bytes.len() / entry_bytes - 1;
        let named = matches!(finding.issue, Issue::IndexEntry { entry: found } if found == entry);
        assert!(named && finding.place.path.as_deref() == Some(&*path), "{finding}");
        assert!(report.is_sound());
        check_harmless(&storage.kill(), &expected, kind);

        let first = Path::new("/log/t-0/00000000000000000000").with_extension(kind);
        storage.remove_file(&first).unwrap();
        let report = verify(&storage);
        let missing = |issue: &Issue| matches!(issue, Issue::Damaged(Damage::Missing));
        assert!(report.is_sound());
        assert!(report.findings.iter().any(|finding| missing(&finding.issue)));
    }
}

#[test]
fn what_interrupted_operations_left_is_harmless() {
    let (storage, _) = sample(true);
    for path in ["/log/topics.catalogue.tmp", "/log/t-0/00000000000000000003.log.deleted"] {
        storage.open(Path::new(path), OpenMode::Create).unwrap();
    }
    // A partition beyond the catalogued number.
    storage.create_dir(Path::new("/log/t-2")).unwrap();
    let report = verify(&storage);
    assert!(report.is_sound());
    assert_eq!(report.findings.len(), 3);
    assert!(report.findings.iter().all(|finding| matches!(finding.issue, Issue::Leftover)));
    // A partition of no topic may be somebody's records.
    storage.create_dir(Path::new("/log/u-0")).unwrap();
    assert!(!verify(&storage).is_sound());
}
