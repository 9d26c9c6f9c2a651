//! What a salvaged log must not be mistaken for: the old one, or what others have.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

#[path = "log/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peermq::Context;
use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::inspect::{Inspector, Issue, SalvageReport, Severity};
use peermq::log::storage::{MemoryStorage, OpenMode, Storage};
use peermq::log::{Damage, Level, Log, LogClient, LogError, LogServer, Position};
use support::{DIRECTORY, files, open, read_all, small, try_open};

const OUT: &str = "/saved";

fn open_saved(storage: &MemoryStorage) -> Log {
    Log::options().storage(Arc::new(storage.clone())).linger(None).open(OUT).unwrap()
}

fn salvage(storage: &MemoryStorage) -> SalvageReport {
    Inspector::new().storage(Arc::new(storage.clone())).salvage(DIRECTORY, OUT).unwrap()
}

/// An id for a producer, as a server of this log gives it to a client.
fn producer_id(log: &Log) -> i64 {
    let context = Context::new();
    let server = LogServer::bind(&context, log, "tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(Duration::from_secs(60));
    let client = client.connect(&context, server.endpoint()).unwrap();
    client.new_producer().unwrap()
}

fn append(log: &Log, id: i64, value: &str) -> i64 {
    let producer = Producer { id, epoch: 0, base_sequence: 0 };
    let mut batch = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    batch.append(1000, None, Some(value.as_bytes()), []).unwrap();
    let topic = log.topic("t").unwrap();
    let ticket = topic.append_batch(0, Level::Durable, &batch.finish().unwrap()).unwrap();
    ticket.wait().unwrap()
}

/// A log that was opened several times, with a record of a client in each; returns the ids of their producers.
fn with_clients(storage: &MemoryStorage) -> Vec<i64> {
    let log = open(storage);
    log.create_topic("t", small()).unwrap();
    log.close().unwrap();
    let ids = (0..5).map(|n| {
        let log = open(storage);
        let id = producer_id(&log);
        append(&log, id, &format!("old {n}"));
        log.close().unwrap();
        id
    });
    ids.collect()
}

#[test]
fn no_producer_of_a_salvaged_log_gets_an_id_that_the_old_log_has_records_of() {
    // Without the catalogue the files of partitions tell which openings there were; and without those the batches do.
    let lost: [&[&str]; 2] = [
        &["topics.catalogue"],
        &["topics.catalogue", "t-0/leader-epoch-checkpoint", "t-0/durable-watermark"],
    ];
    for lost in lost {
        let storage = MemoryStorage::new();
        let old = with_clients(&storage);
        for name in lost {
            storage.remove_file(&Path::new(DIRECTORY).join(name)).unwrap();
        }
        assert_eq!(salvage(&storage).records, 5);
        if lost.len() == 1 {
            let path = Path::new(OUT).join("t-0/leader-epoch-checkpoint");
            let file = storage.open(&path, OpenMode::Read).unwrap();
            let mut text = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_at(&mut text, 0).unwrap();
            let text = String::from_utf8(text).unwrap();
            let writer: i64 =
                text.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
            assert!(writer > 6, "readers of the old log see another writer: {text}");
        }
        for _ in 0..6 {
            let log = open_saved(&storage);
            let id = producer_id(&log);
            let newest = old.iter().map(|id| id >> 32).max().unwrap();
            assert!(id >> 32 > newest, "{lost:?}: {id:x} after {newest:x}");
            log.close().unwrap();
        }
        let log = open_saved(&storage);
        assert_eq!(append(&log, producer_id(&log), "new"), 5, "{lost:?}: it is a new record");
    }
}

#[test]
fn a_copy_of_a_segment_under_another_name_is_not_taken_in() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    for n in 0..30 {
        topic.append_to(0, Level::Durable, &n.to_string()).unwrap().wait().unwrap();
    }
    let old: Vec<_> = topic.read(0, Position::Earliest).unwrap().map(Result::unwrap).collect();
    drop(topic);
    log.close().unwrap();
    let named = |base: i64| PathBuf::from(format!("{DIRECTORY}/t-0/{base:020}.log"));
    let segment = files(&storage)[&named(0)].clone();
    let copy = storage.open(&named(99_999), OpenMode::Create).unwrap();
    copy.write_at(&segment, 0).unwrap();
    let report = salvage(&storage);
    assert_eq!((report.records, report.mended_batches), (30, 0), "{report:?}");
    assert!(!report.is_complete(), "what should have been there is lost, for all that is known");
    let saved = open_saved(&storage);
    let saved = saved.topic("t").unwrap();
    let found: Vec<_> = saved.read(0, Position::Earliest).unwrap().map(Result::unwrap).collect();
    assert_eq!(found, old);
}

#[test]
fn the_new_log_is_not_written_into_the_old_one_by_a_detour() {
    let directory = std::env::temp_dir().join(format!("peermq-detour-{}", std::process::id()));
    // Left by an earlier process of this number.
    let _ = std::fs::remove_dir_all(&directory);
    let old = directory.join("old");
    Log::open(&old).unwrap().close().unwrap();
    std::fs::create_dir_all(directory.join("other")).unwrap();
    let mut detours = vec![directory.join("other/../old/new"), directory.join("no/../old/new")];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&old, directory.join("link")).unwrap();
        detours.push(directory.join("link/new"));
        detours.push(directory.join("link/../old/new"));
    }
    for detour in detours {
        let refused = Inspector::new().salvage(&old, &detour).unwrap_err();
        assert!(matches!(refused, LogError::Invalid { .. }), "{}: {refused}", detour.display());
        assert!(!old.join("new").exists());
    }
    Inspector::new().salvage(&old, directory.join("old/../new")).unwrap();
    assert!(directory.join("new/topics.catalogue").exists());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn partitions_that_changed_places_are_found_and_not_opened() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small().partitions(2)).unwrap();
    for partition in [0, 1, 1] {
        topic.append_to(partition, Level::Durable, "x").unwrap().wait().unwrap();
    }
    drop(topic);
    log.close().unwrap();
    let path = |name: &str| Path::new(DIRECTORY).join(name);
    for (from, to) in [("t-0", "aside"), ("t-1", "t-0"), ("aside", "t-1")] {
        storage.rename(&path(from), &path(to)).unwrap();
    }
    let report = Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap();
    for (partition, other) in [(0, 1), (1, 0)] {
        let told = report.findings.iter().any(|one| {
            let wrong = |found: &u32| *found == other && one.severity == Severity::Unsound;
            one.place.partition == Some(partition)
                && matches!(&one.issue, Issue::Damaged(Damage::WrongPartition { found }) if wrong(found))
        });
        assert!(told, "{:#?}", report.findings);
    }
    match try_open(&storage).unwrap_err() {
        LogError::Corrupt { damage: Damage::WrongPartition { found: 1 }, place } => {
            assert_eq!(place.partition, Some(0));
        }
        other => panic!("{other}"),
    }
    for (from, to) in [("t-0", "aside"), ("t-1", "t-0"), ("aside", "t-1")] {
        storage.rename(&path(from), &path(to)).unwrap();
    }
    let log = open(&storage);
    let ends = [0, 1].map(|n| log.topic("t").unwrap().describe_partition(n).unwrap().end);
    assert_eq!(ends, [1, 2]);
}

#[test]
fn what_watermark_and_last_segment_lost_together_is_missed_if_the_log_was_closed_in_order() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    for _ in 0..3 {
        topic.append_to(0, Level::Durable, "x").unwrap().wait().unwrap();
    }
    drop(topic);
    log.close().unwrap();
    let newest = "sequence 3";
    let mut inspector = Inspector::new().storage(Arc::new(storage.clone()));
    let partition = Path::new(DIRECTORY).join("t-0");
    let (watermark, mut text) = (partition.join("durable-watermark"), Vec::new());
    inspector.dump(&watermark, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.contains(newest)).unwrap();
    let at = line.split([' ', ':']).find_map(|word| word.parse::<u64>().ok()).unwrap();
    let write = |path: &Path| storage.open(path, OpenMode::Write).unwrap();
    write(&watermark).write_at(&[0xff], at + 40).unwrap();
    let report = inspector.verify(DIRECTORY).unwrap();
    assert!(report.is_sound(), "the other slot will do: {:#?}", report.findings);
    let segment = write(&partition.join("00000000000000000000.log"));
    segment.set_len(segment.len().unwrap() - 1).unwrap();
    let report = inspector.verify(DIRECTORY).unwrap();
    let is_it = |issue: &Issue| matches!(issue, Issue::EndsEarly { end: 2, closed_at: 3 });
    assert!(report.findings.iter().any(|one| is_it(&one.issue)), "{:#?}", report.findings);
    assert!(!report.is_sound());
}

/// Appends a record to each of two topics, both or none.
fn transact(log: &Log, n: usize) {
    let mut transaction = log.transaction();
    for topic in ["a", "b"] {
        transaction.append(topic, &format!("{n}")).unwrap();
    }
    transaction.commit().unwrap();
}

/// The files of a log with four transactions, that was closed, or whose process was killed: then it ends with an intent.
fn with_transactions(clean: bool) -> MemoryStorage {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    for topic in ["a", "b"] {
        log.create_topic(topic, small()).unwrap();
    }
    (0..4).for_each(|n| transact(&log, n));
    if clean {
        log.close().unwrap();
        return storage;
    }
    copy_of(&storage)
}

fn copy_of(storage: &MemoryStorage) -> MemoryStorage {
    let copy = MemoryStorage::new();
    for (path, bytes) in files(storage) {
        copy.create_dir_all(path.parent().unwrap()).unwrap();
        copy.open(&path, OpenMode::Create).unwrap().write_at(&bytes, 0).unwrap();
    }
    copy
}

/// Salvages the log; the new one must be open to appends, and tell the truth of the transactions in it.
fn assert_usable(storage: &MemoryStorage, context: &str) -> SalvageReport {
    let report = salvage(storage);
    let in_doubt = report.findings.iter().any(|one| matches!(one.issue, Issue::TransactionInDoubt));
    let saved = open_saved(storage);
    let [a, b] = ["a", "b"].map(|topic| read_all(&saved, topic, 0).unwrap());
    let is_last = |(_, value): &(i64, String)| value == "3";
    let whole = a.iter().any(is_last) == b.iter().any(is_last);
    let told = report.lost.iter().any(|lost| lost.topic != "__transactions");
    assert!(whole || in_doubt || told, "{context}: {a:?} {b:?} {report:#?}");
    transact(&saved, 9);
    saved.close().unwrap();
    let saved = open_saved(storage);
    for (topic, before) in [("a", a), ("b", b)] {
        let now = read_all(&saved, topic, 0).unwrap();
        assert_eq!(now.len(), before.len() + 1, "{context}: nothing was appended twice");
        assert_eq!(now.last().unwrap().1, "9", "{context}");
    }
    let mut inspector = Inspector::new().storage(Arc::new(storage.clone()));
    assert!(inspector.verify(OUT).unwrap().is_sound(), "{context}");
    report
}

#[test]
fn a_salvaged_log_takes_appends_whatever_was_lost_of_its_transactions() {
    for clean in [true, false] {
        let original = with_transactions(clean);
        let lost: Vec<_> = files(&original)
            .into_iter()
            .filter(|(path, _)| path.to_str().unwrap().contains("__transactions"))
            .collect();
        assert!(lost.len() > 3, "{lost:?}");
        for (path, bytes) in lost {
            let storage = copy_of(&original);
            storage.remove_file(&path).unwrap();
            assert_usable(&storage, &format!("clean {clean}, without {}", path.display()));
            let is_segment = path.extension().is_some_and(|extension| extension == "log");
            for len in (0..bytes.len()).rev().step_by(37) {
                let storage = copy_of(&original);
                storage.open(&path, OpenMode::Write).unwrap().set_len(len as u64).unwrap();
                let context = format!("clean {clean}, {len} bytes of {}", path.display());
                let report = assert_usable(&storage, &context);
                let doubts = report.findings.iter().filter(|one| {
                    matches!(one.issue, Issue::TransactionInDoubt)
                        && one.severity == Severity::Unsound
                });
                assert_eq!(doubts.count(), report.lost.len(), "{context}: {report:#?}");
                assert!(!is_segment || !report.is_complete(), "{context}: {report:#?}");
            }
        }
    }
}

#[test]
fn a_salvaged_log_takes_appends_whatever_its_last_transaction_lacks() {
    for clean in [true, false] {
        let original = with_transactions(clean);
        let of_topics = |path: &Path| {
            let path = path.to_str().unwrap();
            path.ends_with(".log") && (path.contains("/a-0/") || path.contains("/b-0/"))
        };
        for (path, bytes) in files(&original).into_iter().filter(|(path, _)| of_topics(path)) {
            for len in (0..bytes.len()).rev().step_by(37) {
                let storage = copy_of(&original);
                storage.open(&path, OpenMode::Write).unwrap().set_len(len as u64).unwrap();
                assert_usable(&storage, &format!("clean {clean}, {len} of {}", path.display()));
            }
        }
    }
}
