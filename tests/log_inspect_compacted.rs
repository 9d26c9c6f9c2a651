//! Verifying, salvaging and dumping logs that compaction has been in, or was when a crash came.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions, producers};
use peermq::log::inspect::{Inspector, Severity, VerifyReport};
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{OpenMode, Storage};
use peermq::log::{Level, Log, ManualClock, NewRecord, Position};
use support::{DIRECTORY, Random, files, small};

const OUT: &str = "/saved";
const DELETE_RETENTION_MS: i64 = 1000;

/// Offset, key, value.
type Row = (i64, String, Option<String>);

/// A topic that is compacted whenever there is something to do.
struct Scene {
    storage: FaultyStorage,
    clock: Arc<ManualClock>,
    log: Log,
    random: Random,
    /// Next sequence numbers of two idempotent producers.
    sequences: [i32; 2],
}

fn open_in(storage: &FaultyStorage, directory: &str, clock: &Arc<ManualClock>) -> Log {
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone());
    options.linger(None).open(directory).unwrap()
}

impl Scene {
    fn new(seed: u64) -> Self {
        let (storage, clock) = (FaultyStorage::new(), Arc::new(ManualClock::new(1_000_000)));
        let log = open_in(&storage, DIRECTORY, &clock);
        let delete_retention = Duration::from_millis(DELETE_RETENTION_MS as u64);
        let options = small().compact(true).min_dirty_percent(0);
        log.create_topic("t", options.delete_retention(delete_retention)).unwrap();
        Self { storage, clock, log, random: Random(seed), sequences: [0; 2] }
    }

    /// Appends a few batches; some with a producer, some tombstones; now and then the log is opened anew.
    fn append_some(&mut self) {
        for _ in 0..20 {
            let topic = self.log.topic("t").unwrap();
            let key = format!("k{}", self.random.below(6));
            let value = "v".repeat(self.random.below(120) as usize);
            let which = self.random.below(6) as usize;
            let ticket = match self.sequences.get_mut(which) {
                Some(sequence) => {
                    let id = 7 + which as i64;
                    let producer = Producer { id, epoch: 0, base_sequence: *sequence };
                    let options = BatchOptions { producer, ..BatchOptions::default() };
                    let mut batch = BatchBuilder::new(options);
                    for key in [&key, "other"] {
                        let (key, value) = (key.as_bytes(), value.as_bytes());
                        batch.append(self.clock_ms(), Some(key), Some(value), []).unwrap();
                    }
                    self.sequences[which] += 2;
                    topic.append_batch(0, Level::Durable, &batch.finish().unwrap())
                }
                None if which == 2 => topic.append(NewRecord::tombstone(&key)),
                None => topic.append(NewRecord::new(&value).key(&key)),
            };
            ticket.unwrap().wait().unwrap();
        }
        if self.random.below(2) == 0 {
            self.reopen();
        }
    }

    fn clock_ms(&self) -> i64 {
        peermq::log::Clock::now_ms(&*self.clock)
    }

    fn reopen(&mut self) {
        let other = open_in(&FaultyStorage::new(), DIRECTORY, &self.clock);
        std::mem::replace(&mut self.log, other).close().unwrap();
        self.log = open_in(&self.storage, DIRECTORY, &self.clock);
    }

    fn maintain(&mut self) -> u64 {
        self.clock.advance(DELETE_RETENTION_MS / 2 + 1);
        self.log.maintain().unwrap().compacted_records
    }
}

fn rows(log: &Log) -> Vec<Row> {
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let reader = log.topic("t").unwrap().read(0, Position::Earliest).unwrap();
    let row = |record: peermq::log::LogRecord| {
        (record.offset, text(record.key.unwrap_or_default()), record.value.map(text))
    };
    reader.map(|record| row(record.unwrap())).collect()
}

fn verify(storage: &FaultyStorage) -> VerifyReport {
    Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap()
}

/// Salvages the log; nothing of it may be lost. What the new log holds.
fn salvaged(storage: &FaultyStorage, clock: &Arc<ManualClock>, context: &str) -> (Log, Vec<Row>) {
    let report =
        Inspector::new().storage(Arc::new(storage.clone())).salvage(DIRECTORY, OUT).unwrap();
    assert!(report.is_complete(), "{context}: {report:#?}");
    assert_eq!(report.mended_batches, 0, "{context}: {report:#?}");
    let log = open_in(storage, OUT, clock);
    let rows = rows(&log);
    (log, rows)
}

#[test]
fn a_compacted_log_is_sound_and_salvage_keeps_every_record_of_it() {
    for seed in 0..12 {
        let mut scene = Scene::new(seed);
        let mut compacted = 0;
        for round in 0..8 {
            scene.append_some();
            compacted += scene.maintain();
            let context = format!("seed {seed}, round {round}");
            let storage = scene.storage.kill();
            let report = verify(&storage);
            assert!(report.findings.is_empty(), "{context}: {:#?}", report.findings);
            let expected = rows(&scene.log);
            let (log, found) = salvaged(&storage, &scene.clock, &context);
            assert_eq!(found, expected, "{context}");
            // It goes on as the old one would.
            let end = log.topic("t").unwrap().append(NewRecord::new("v").key("next")).unwrap();
            assert_eq!(
                end.wait().unwrap(),
                scene.log.topic("t").unwrap().describe().partitions[0].end
            );
            log.maintain().unwrap();
            let latest = |rows: &[Row], key: &str| {
                rows.iter()
                    .rfind(|(_, other, _)| other == key)
                    .and_then(|(.., value)| value.clone())
            };
            let again = rows(&log);
            for key in ["k0", "k1", "k2", "k3", "k4", "k5", "other"] {
                assert_eq!(latest(&again, key), latest(&expected, key), "{context}: {key}");
            }
        }
        assert!(compacted > 50, "seed {seed}: {compacted} records were compacted");
    }
}

#[test]
fn wherever_a_compaction_is_interrupted_the_log_is_sound_and_salvage_finds_the_same() {
    let mut scene = Scene::new(3);
    for _ in 0..2 {
        scene.append_some();
    }
    scene.reopen();
    scene.storage.forget_history();
    scene.maintain();
    let history = scene.storage.history();
    let killed = (0..=history.len())
        .map(|point| (format!("killed after {point}"), history.killed_at(point)));
    let cut = (0..100).map(|seed| (format!("power cut {seed}"), history.sample(seed).storage()));
    let mut leftovers = 0;
    for (context, storage) in killed.chain(cut) {
        let report = verify(&storage);
        assert!(report.is_sound(), "{context}: {:#?}", report.findings);
        leftovers += report.findings.len();
        let (_, found) = salvaged(&storage.kill(), &scene.clock, &context);
        let log = open_in(&storage, DIRECTORY, &scene.clock);
        let expected = rows(&log);
        // What is there of a swap that will be done may be either.
        let missing = expected.iter().find(|row| !found.contains(row));
        assert_eq!(missing, None, "{context}");
        let report = verify(&storage);
        assert!(report.is_sound(), "{context}: {:#?}", report.findings);
    }
    assert!(leftovers > 20, "{leftovers} leftovers");
}

/// The storage in the middle of a swap: the note is there, and what it replaces is not gone.
fn interrupted() -> FaultyStorage {
    let mut scene = Scene::new(3);
    scene.append_some();
    scene.append_some();
    scene.reopen();
    scene.storage.forget_history();
    scene.maintain();
    let history = scene.storage.history();
    let mut points = (0..=history.len()).map(|point| history.killed_at(point));
    let is_named = |storage: &FaultyStorage| {
        let names: Vec<PathBuf> = files(storage).into_keys().collect();
        let is = |path: &Path| names.iter().any(|name| name == path);
        is(&note()) && !names.iter().any(|name| name.to_str().unwrap().ends_with(".swap"))
    };
    // The new segment gets its name before the others go.
    points.find(is_named).unwrap()
}

fn note() -> PathBuf {
    Path::new(DIRECTORY).join("t-0/segment-swap")
}

fn dump(storage: &FaultyStorage, path: &Path) -> (bool, String) {
    let mut out = Vec::new();
    let sound = Inspector::new().storage(Arc::new(storage.clone())).dump(path, &mut out).unwrap();
    (sound, String::from_utf8(out).unwrap())
}

#[test]
fn the_note_of_a_swap_and_the_times_of_segments_are_shown_and_every_flipped_bit_is_noticed() {
    let storage = interrupted();
    let (sound, text) = dump(&storage, &note());
    assert!(sound && text.contains("the new segment 0 is in place of all before"), "{text}");
    let times = Path::new(DIRECTORY).join("t-0/segment-times");
    let (sound, text) = dump(&storage, &times);
    assert!(sound && text.contains("segment 0 up to offset"), "{text}");
    for (path, severity) in [(note(), Severity::Unsound), (times, Severity::Harmless)] {
        let bytes = files(&storage)[&path].len() as u64;
        assert!(bytes >= 28, "{bytes} bytes of {}", path.display());
        for bit in 0..bytes * 8 {
            let rotten = storage.kill();
            rotten.flip_bit(&path, bit).unwrap();
            let context = format!("{}, bit {bit}", path.display());
            let report = verify(&rotten);
            let here = |finding: &&peermq::log::inspect::Finding| {
                finding.place.path.as_deref() == Some(&*path) && finding.severity == severity
            };
            assert!(report.findings.iter().any(|finding| here(&finding)), "{context}");
            assert!(!dump(&rotten, &path).0, "{context}");
        }
    }
}

#[test]
fn what_a_named_segment_replaces_is_left_over_and_not_a_second_truth() {
    let storage = interrupted();
    let report = verify(&storage);
    assert!(report.is_sound(), "{:#?}", report.findings);
    assert!(storage.metadata(&note()).is_ok());
    let clock = Arc::new(ManualClock::new(1_000_000));
    let (_, found) = salvaged(&storage.kill(), &clock, "interrupted");
    let log = open_in(&storage, DIRECTORY, &clock);
    assert_eq!(found, rows(&log));
    log.close().unwrap();
    let report = verify(&storage);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

#[test]
fn a_log_that_was_compacted_once_is_sound_though_nothing_but_its_batches_tells_of_that() {
    let mut outdated = 0;
    for seed in 0..12 {
        let mut scene = Scene::new(seed);
        for _ in 0..4 {
            scene.append_some();
            scene.maintain();
        }
        scene.log.alter_topic("t", small()).unwrap();
        // Of the two snapshots the first may tell of a batch that is not there any more.
        let storage = scene.storage.kill();
        storage.remove_file(&Path::new(DIRECTORY).join("cleaner-offset-checkpoint")).unwrap();
        let report = verify(&storage);
        assert!(report.is_sound(), "seed {seed}: {:#?}", report.findings);
        // What a snapshot tells of a batch that is as it was is still held against it.
        let snapshot = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "snapshot");
        let Some((path, bytes)) = files(&storage).into_iter().rfind(|(path, _)| snapshot(path))
        else {
            continue;
        };
        let mut entries = producers::decode(&bytes).unwrap();
        // Of a producer's batches the last one counts; those before it may be gone.
        let Some(producer) = entries.first().map(|entry| entry.producer_id) else { continue };
        let Some(entry) = entries.iter_mut().rfind(|entry| entry.producer_id == producer) else {
            continue;
        };
        entry.last_sequence += 1;
        let bytes = producers::encode(&entries).unwrap();
        storage.open(&path, OpenMode::Write).unwrap().write_at(&bytes, 0).unwrap();
        assert!(!verify(&storage).is_sound(), "seed {seed}");
        outdated += 1;
    }
    assert!(outdated > 0);
}
