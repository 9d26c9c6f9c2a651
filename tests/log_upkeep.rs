//! Retention and compaction as users of a log see them.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use peermq::log::format::batch::{BatchView, Producer, batches};
use peermq::log::format::{BatchBuilder, BatchOptions, Codec};
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, OpenMode, Storage};
use peermq::log::{
    Level, Log, LogError, LogRecord, ManualClock, NewRecord, Position, Topic, TopicOptions,
};
use support::{DIRECTORY, Random, files, segments, small};

/// A log in memory with a clock of its own.
struct Bench {
    storage: MemoryStorage,
    clock: Arc<ManualClock>,
    log: Log,
}

impl Bench {
    fn new() -> Self {
        Self::with(1 << 20)
    }

    fn with(compaction_bytes: usize) -> Self {
        let (storage, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new(1_000_000)));
        let log = open(&storage, &clock, compaction_bytes);
        Self { storage, clock, log }
    }

    /// Closes the log and opens it again.
    fn reopen(self) -> Self {
        let Self { storage, clock, log } = self;
        log.close().unwrap();
        let log = open(&storage, &clock, 1 << 20);
        Self { storage, clock, log }
    }

    fn topic(&self) -> Topic {
        self.log.topic("t").unwrap()
    }
}

fn open(storage: &MemoryStorage, clock: &Arc<ManualClock>, compaction_bytes: usize) -> Log {
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone());
    options.linger(None).compaction_bytes(compaction_bytes).open(DIRECTORY).unwrap()
}

/// Appends records of about 100 bytes one by one.
fn fill(topic: &Topic, count: usize) {
    for n in 0..count {
        let value = format!("{n:090}");
        topic.append_at(Level::Written, &value).unwrap().wait().unwrap();
    }
}

#[test]
fn a_time_is_found_whatever_single_bit_of_a_time_index_is_wrong() {
    let storage = FaultyStorage::new();
    let log = support::open(&storage);
    let options = small().segment_bytes(20_000).index_interval_bytes(400);
    let topic = log.create_topic("t", options).unwrap();
    let mut random = Random(3);
    // The largest time comes again and again, and larger ones between that no entry tells of.
    let times: Vec<i64> = (0..60).map(|n| 1_000 + n / 6 * 8 + random.below(5) as i64 * 8).collect();
    for time in &times {
        let record = NewRecord::new("value").timestamp_ms(*time);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
    }
    drop(topic);
    log.close().unwrap();
    let path = PathBuf::from(format!("{DIRECTORY}/t-0/00000000000000000000.timeindex"));
    let bytes = files(&storage)[&path].len() as u64;
    assert!(bytes > 60, "{bytes} bytes of index");
    for bit in 0..bytes * 8 {
        let rotten = storage.kill();
        rotten.flip_bit(&path, bit).unwrap();
        let log = support::open(&rotten);
        let topic = log.topic("t").unwrap();
        for time in (990..1_120).step_by(8) {
            let first = times.iter().position(|found| *found >= time).unwrap_or(times.len());
            let found = topic.offset_of(0, Position::Time(time)).unwrap();
            assert_eq!(found, first as i64, "bit {bit}, {time}");
        }
    }
}

fn compacted() -> TopicOptions {
    small().compact(true).min_dirty_percent(0).delete_retention(Duration::from_millis(500))
}

fn put(topic: &Topic, key: &str, value: &str) -> i64 {
    topic.append_at(Level::Written, NewRecord::new(value).key(key)).unwrap().wait().unwrap()
}

/// Appends enough of one key that what is before lies in sealed segments.
fn seal(topic: &Topic) {
    for n in 0..12 {
        put(topic, "seal", &format!("{n:090}"));
    }
}

fn records(topic: &Topic) -> Vec<LogRecord> {
    let records: Vec<_> = topic.read(0, Position::Earliest).unwrap().map(Result::unwrap).collect();
    assert!(records.is_sorted_by(|a, b| a.offset < b.offset), "offsets rise");
    records
}

fn text(bytes: &Option<Bytes>) -> String {
    String::from_utf8(bytes.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Offset, key and value of all records but those that [`seal`] appends.
fn contents(topic: &Topic) -> Vec<(i64, String, Option<String>)> {
    let kept = |record: &LogRecord| record.key.as_deref() != Some(b"seal");
    let shown = |record: LogRecord| {
        let value = record.value.is_some().then(|| text(&record.value));
        (record.offset, text(&record.key), value)
    };
    records(topic).into_iter().filter(kept).map(shown).collect()
}

#[test]
fn records_go_by_the_age_of_their_append_whatever_time_they_have_themselves() {
    let bench = Bench::new();
    let options = small().retention(Some(Duration::from_secs(10)));
    let topic = bench.log.create_topic("t", options).unwrap();
    for n in 0..20i64 {
        // Some are dated long ago, some far ahead.
        let time = if n % 2 == 0 { 0 } else { i64::MAX / 2 };
        let value = format!("{n:090}");
        let record = NewRecord::new(&value).timestamp_ms(time);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
        bench.clock.advance(1000);
    }
    bench.log.maintain().unwrap();
    let earliest = topic.describe().partitions[0].earliest;
    assert!((6..=10).contains(&earliest), "ten seconds stay, by segments: {earliest}");
    assert_eq!(records(&topic)[0].offset, earliest);
    let described = topic.describe().partitions[0];
    assert_eq!(described.removed_records, earliest as u64);
    assert!(described.removed_bytes > 90 * earliest as u64);
}

#[test]
fn a_topic_that_gets_nothing_more_ages_to_the_last_record() {
    let bench = Bench::new();
    let options = TopicOptions::default().retention(Some(Duration::from_secs(10)));
    let topic = bench.log.create_topic("t", options).unwrap();
    fill(&topic, 3);
    bench.clock.advance(10_000);
    assert_eq!(bench.log.maintain().unwrap().removed_records, 0);
    bench.clock.advance(1);
    assert_eq!(bench.log.maintain().unwrap().removed_records, 3);
    assert!(records(&topic).is_empty());
    let earliest = topic.offset_of(0, Position::Earliest).unwrap();
    assert_eq!((earliest, topic.append("x").unwrap().wait().unwrap()), (3, 3));
    let bench = bench.reopen();
    assert_eq!(records(&bench.topic()).len(), 1);
}

#[test]
fn by_size_the_oldest_segments_go_and_at_least_the_limit_stays() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", small().retention_bytes(Some(2000))).unwrap();
    fill(&topic, 100);
    let mut before = topic.read(0, Position::Earliest).unwrap().chunk_bytes(1);
    assert_eq!(before.next().unwrap().unwrap().offset, 0);
    bench.log.maintain().unwrap();
    let described = topic.describe().partitions[0];
    assert!((2000..2600).contains(&described.bytes), "{} bytes", described.bytes);
    // A reader of a segment that is gone is told where to go on.
    let refused = before.find_map(Result::err).unwrap();
    assert!(
        matches!(refused, LogError::OffsetOutOfRange { earliest, .. } if earliest == described.earliest)
    );
    let refused = topic.read(0, Position::Offset(0)).unwrap_err();
    assert!(
        matches!(refused, LogError::OffsetOutOfRange { earliest, .. } if earliest == described.earliest)
    );
    assert_eq!(bench.log.maintain().unwrap().removed_records, 0);
    let bench = bench.reopen();
    assert_eq!(bench.topic().describe().partitions[0].earliest, described.earliest);
    assert_eq!(segments(&bench.storage).len(), described.segments);
}

#[test]
fn ages_survive_a_restart_and_what_is_not_known_is_young() {
    let bench = Bench::new();
    let options = small().retention(Some(Duration::from_secs(10)));
    let topic = bench.log.create_topic("t", options).unwrap();
    fill(&topic, 20);
    drop(topic);
    bench.clock.advance(9_000);
    let bench = bench.reopen();
    bench.clock.advance(1_001);
    assert_eq!(bench.log.maintain().unwrap().removed_records, 20, "they were ten seconds old");

    let topic = bench.topic();
    fill(&topic, 20);
    drop(topic);
    let path = format!("{DIRECTORY}/t-0/segment-times");
    let times = bench.storage.open(path.as_ref(), OpenMode::Write).unwrap();
    times.set_len(0).unwrap();
    bench.clock.advance(9_000);
    let Bench { storage, clock, log } = bench;
    // Closing would note the active segment, which is not what this is about.
    log.close().unwrap();
    times.set_len(0).unwrap();
    let log = open(&storage, &clock, 1 << 20);
    clock.advance(10_000);
    assert_eq!(log.maintain().unwrap().removed_records, 0, "as of the opening");
    clock.advance(1);
    assert_eq!(log.maintain().unwrap().removed_records, 20);
}

#[test]
fn a_segment_is_ended_when_it_was_begun_too_long_ago() {
    let bench = Bench::new();
    let options = TopicOptions::default().segment_ms(1000);
    let topic = bench.log.create_topic("t", options).unwrap();
    for _ in 0..4 {
        // All dated alike, so that only the time of the append can tell.
        let record = NewRecord::new("x").timestamp_ms(5);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
        bench.clock.advance(600);
    }
    assert_eq!(topic.describe().partitions[0].segments, 2);
}

#[test]
fn of_each_key_the_last_record_stays_with_its_offset() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    let mut last = BTreeMap::new();
    for n in 0..200 {
        let key = format!("k{}", n * n % 17);
        let value = format!("{n} {}", "v".repeat(n % 50));
        let offset = put(&topic, &key, &value);
        last.insert(key, (offset, value));
    }
    seal(&topic);
    let before = topic.describe().partitions[0];
    let maintained = bench.log.maintain().unwrap();
    let expected = |topic: &Topic| {
        let mut expected: Vec<_> = last
            .iter()
            .map(|(key, (offset, value))| (*offset, key.clone(), Some(value.clone())))
            .collect();
        expected.sort();
        assert_eq!(contents(topic), expected);
        for (offset, _, value) in &expected {
            let mut reader = topic.read(0, Position::Offset(*offset)).unwrap();
            assert_eq!(text(&reader.next().unwrap().unwrap().value), *value.as_ref().unwrap());
        }
        // Every offset that is gone leads to the next that is there.
        let there = records(topic);
        for offset in 0..212 {
            let next = there.iter().find(|record| record.offset >= offset).unwrap();
            let mut reader = topic.read(0, Position::Offset(offset)).unwrap();
            assert_eq!(reader.next_record().unwrap().unwrap().offset, next.offset);
            assert_eq!(reader.next_offset(), next.offset + 1);
        }
    };
    expected(&topic);
    let after = topic.describe().partitions[0];
    assert!(after.segments < before.segments / 2, "small segments were merged: {after:?}");
    assert!(after.bytes < before.bytes / 3);
    assert_eq!(after.compacted_records, maintained.compacted_records);
    assert_eq!(after.compacted_bytes, before.bytes - after.bytes);
    assert_eq!(segments(&bench.storage).len(), after.segments);
    let leftovers: Vec<_> = files(&bench.storage)
        .into_keys()
        .filter(|path| {
            let name = path.to_str().unwrap();
            [".cleaned", ".swap", "segment-swap", ".tmp"].iter().any(|end| name.ends_with(end))
        })
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    assert_eq!(bench.log.maintain().unwrap().compacted_records, 0, "nothing is left to do");
    drop(topic);
    let bench = bench.reopen();
    expected(&bench.topic());
    let checkpoint = &files(&bench.storage)
        [&std::path::PathBuf::from(format!("{DIRECTORY}/cleaner-offset-checkpoint"))];
    let checkpoint = String::from_utf8(checkpoint.clone()).unwrap();
    let until = records(&bench.topic()).last().unwrap().offset;
    assert!(checkpoint.starts_with("0\n1\nt 0 "), "{checkpoint}");
    let clean: i64 = checkpoint.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((200..=until).contains(&clean), "the active segment is not touched: {clean}");
}

#[test]
fn a_tombstone_stays_for_its_time_after_compaction_met_it_and_then_goes_with_its_key() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    put(&topic, "a", "1");
    put(&topic, "b", "2");
    let tombstone = NewRecord::tombstone("a");
    assert_eq!(topic.append(tombstone).unwrap().wait().unwrap(), 2);
    seal(&topic);
    bench.clock.advance(1_000_000);
    bench.log.maintain().unwrap();
    let b = (1, "b".to_owned(), Some("2".to_owned()));
    let waiting = [b.clone(), (2, "a".to_owned(), None)];
    assert_eq!(contents(&topic), waiting, "its time begins with the compaction");
    bench.clock.advance(500);
    bench.log.maintain().unwrap();
    assert_eq!(contents(&topic), waiting);
    drop(topic);
    let bench = bench.reopen();
    bench.clock.advance(1);
    bench.log.maintain().unwrap();
    assert_eq!(contents(&bench.topic()), [b]);
}

#[test]
fn a_compacted_topic_takes_no_record_without_key() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    let missing =
        |refused: LogError| matches!(refused, LogError::KeyMissing { topic } if topic == "t");
    assert!(missing(topic.append("x").unwrap_err()));
    assert!(missing(topic.append_to(0, Level::Written, "x").unwrap_err()));
    let both = [NewRecord::new("x").key("k"), NewRecord::new("x")];
    assert!(missing(topic.append_all(0, Level::Written, &both).unwrap_err()));
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(0, Some(b"k"), None, []).unwrap();
    builder.append(0, None, Some(b"v"), []).unwrap();
    let batch = builder.finish().unwrap();
    assert!(missing(topic.append_batch(0, Level::Written, &batch).unwrap_err()));
    topic.sync().unwrap();
    assert!(records(&topic).is_empty());
}

#[test]
fn more_keys_than_fit_into_the_table_are_compacted_part_by_part() {
    // Room for sixteen keys.
    let bench = Bench::with(24 * 22);
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    for round in 0..3 {
        for n in 0..100 {
            put(&topic, &format!("key {n}"), &format!("round {round}"));
        }
    }
    seal(&topic);
    bench.log.maintain().unwrap();
    let left = contents(&topic);
    assert_eq!(left.len(), 100);
    assert!(
        left.iter().all(|(offset, _, value)| *offset >= 200 && value.as_deref() == Some("round 2"))
    );
}

#[test]
fn readers_that_are_under_way_survive_a_compaction_here_and_in_other_processes() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    for n in 0..100 {
        put(&topic, &format!("k{}", n % 10), &format!("{n}"));
    }
    seal(&topic);
    let elsewhere = || {
        let options = Log::options().storage(Arc::new(bench.storage.clone())).linger(None);
        options.open_read_only(DIRECTORY).unwrap()
    };
    let (early, late, other) = (elsewhere(), elsewhere(), elsewhere());
    let read_only = early.topic("t").unwrap();
    let mut readers: Vec<_> = [&topic, &read_only]
        .into_iter()
        .flat_map(|topic| {
            (0..60).step_by(7).map(|taken| {
                let mut reader = topic.read(0, Position::Earliest).unwrap().chunk_bytes(1);
                let read = (0..taken).map(|_| reader.next_record().unwrap().unwrap().offset).last();
                (read, reader)
            })
        })
        .collect();
    bench.log.maintain().unwrap();
    let there: Vec<_> = records(&topic).iter().map(|record| record.offset).collect();
    for (read, reader) in &mut readers {
        let mut last = read.unwrap_or(-1);
        let mut missed: Vec<_> = there.iter().filter(|offset| **offset > last).collect();
        while let Some(record) = reader.next_record().unwrap() {
            assert!(record.offset > last, "{} after {last}", record.offset);
            last = record.offset;
            missed.retain(|offset| **offset != last);
        }
        assert!(missed.is_empty(), "after {read:?}: {missed:?}");
    }
    // One that had opened no segment before finds the new ones.
    assert_eq!(contents(&late.topic("t").unwrap()), contents(&topic));
    for n in 0..100 {
        put(&topic, &format!("k{}", n % 10), &format!("again {n}"));
    }
    seal(&topic);
    bench.log.maintain().unwrap();
    for log in [&early, &late, &other] {
        log.refresh().unwrap();
        assert_eq!(contents(&log.topic("t").unwrap()), contents(&topic));
    }
}

fn append(topic: &Topic, batch: &[u8]) -> i64 {
    topic.append_batch(0, Level::Durable, batch).unwrap().wait().unwrap()
}

fn produced(id: i64, sequence: i32, key: &str) -> Vec<u8> {
    let producer = Producer { id, epoch: 0, base_sequence: sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    for n in 0..3 {
        builder.append(n, Some(key.as_bytes()), Some(b"value"), []).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn a_producer_is_remembered_by_its_last_batch_though_nothing_of_it_is_left() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    assert_eq!(append(&topic, &produced(7, 0, "k")), 2);
    assert_eq!(append(&topic, &produced(7, 3, "k")), 5);
    put(&topic, "k", "newer");
    seal(&topic);
    bench.log.maintain().unwrap();
    assert_eq!(contents(&topic), [(6, "k".to_owned(), Some("newer".to_owned()))]);
    drop(topic);
    // Without snapshots all that is known of it is what the segments tell.
    for path in files(&bench.storage).into_keys() {
        if path.extension().is_some_and(|extension| extension == "snapshot") {
            bench.storage.remove_file(&path).unwrap();
        }
    }
    let copy = MemoryStorage::new();
    for (path, bytes) in files(&bench.storage) {
        copy.create_dir_all(path.parent().unwrap()).unwrap();
        copy.open(&path, OpenMode::Create).unwrap().write_at(&bytes, 0).unwrap();
    }
    let log = open(&copy, &bench.clock, 1 << 20);
    let topic = log.topic("t").unwrap();
    assert_eq!(append(&topic, &produced(7, 3, "k")), 5, "known");
    assert!(matches!(
        topic.append_batch(0, Level::Durable, &produced(7, 9, "k")),
        Err(LogError::OutOfSequence { expected: 6, .. })
    ));
}

#[test]
fn producers_that_were_silent_for_a_day_are_forgotten_and_old_snapshots_go() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", small()).unwrap();
    let append = |batch: &[u8]| {
        topic.append_batch(0, Level::Durable, batch).map(|ticket| ticket.wait().unwrap())
    };
    append(&produced(7, 0, "k")).unwrap();
    assert_eq!(append(&produced(7, 0, "k")).unwrap(), 2);
    for sequence in 0..30 {
        append(&produced(8, 3 * sequence, "k")).unwrap();
    }
    let snapshots = files(&bench.storage)
        .into_keys()
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"));
    assert_eq!(snapshots.count(), 2, "one for each that may be needed");
    bench.clock.advance(24 * 3600 * 1000);
    bench.log.maintain().unwrap();
    assert!(append(&produced(7, 9, "k")).is_err(), "it is remembered for a day");
    bench.clock.advance(1);
    bench.log.maintain().unwrap();
    assert_eq!(append(&produced(7, 9, "k")).unwrap(), 95, "who is not known may go on anywhere");
}

#[test]
fn our_decoder_and_an_independent_one_agree_on_compacted_segments() {
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy] {
        if !codec.is_available() {
            continue;
        }
        let bench = Bench::new();
        let topic = bench.log.create_topic("t", compacted().codec(codec)).unwrap();
        for n in 0..60 {
            let keys: Vec<_> = (0..4).map(|i| format!("{}", (n * 5 + i * i) % 23)).collect();
            let value = format!("value {n}");
            let batch: Vec<_> = keys
                .iter()
                .map(|key| match n % 7 {
                    3 => NewRecord::tombstone(key),
                    _ => NewRecord::new(&value).key(key).timestamp_ms(1000 + n),
                })
                .collect();
            topic.append_all(0, Level::Written, &batch).unwrap().unwrap().wait().unwrap();
            if n % 9 == 0 {
                append(&topic, &produced(n, 0, &format!("{}", n % 23)));
            }
        }
        seal(&topic);
        bench.log.maintain().unwrap();
        let (mut ours, mut theirs, mut emptied) = (Vec::new(), Vec::new(), 0);
        for bytes in segments(&bench.storage).into_values() {
            let mut next = None;
            for batch in batches(&bytes) {
                let batch: BatchView<'_> = batch.unwrap();
                batch.validate(&mut Vec::new(), 1 << 20).unwrap();
                let header = batch.header();
                assert!(next.is_none_or(|next| next == header.base_offset), "no gap");
                next = Some(header.last_offset() + 1);
                if header.records_count == 0 {
                    emptied += 1;
                    continue;
                }
                let mut one = Bytes::copy_from_slice(batch.bytes());
                for record in RecordBatchDecoder::decode(&mut one).unwrap().records {
                    theirs.push((record.offset, record.timestamp, record.key, record.value));
                }
            }
        }
        for record in records(&topic) {
            ours.push((record.offset, record.timestamp_ms, record.key, record.value));
        }
        assert!(ours.len() > 20 && emptied > 0, "{} records, {emptied} emptied", ours.len());
        assert_eq!(ours, theirs, "{codec:?}");
    }
}

#[test]
fn changed_options_count_at_once_for_topics_that_are_open_already() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", TopicOptions::default().level(Level::Written)).unwrap();
    topic.append("no key").unwrap().wait().unwrap();
    let options = small().compact(true).level(Level::Durable).record_bytes_max(64);
    bench.log.alter_topic("t", options.clone()).unwrap();
    assert_eq!(*topic.options(), options);
    assert!(matches!(topic.append("x"), Err(LogError::KeyMissing { .. })));
    let large = "x".repeat(1000);
    assert!(matches!(
        topic.append(NewRecord::new(&large).key("k")),
        Err(LogError::TooLarge { .. })
    ));
    let ticket = topic.append(NewRecord::new("x").key("k")).unwrap();
    assert_eq!(ticket.level(), Level::Durable);
    ticket.wait().unwrap();
    assert_eq!(topic.describe().partitions[0].durable_end, 2);
    // What has no key supersedes nothing and is superseded by nothing.
    bench.log.alter_topic("t", compacted()).unwrap();
    put(&topic, "k", "y");
    seal(&topic);
    bench.log.maintain().unwrap();
    let left: Vec<_> = contents(&topic).into_iter().map(|(offset, ..)| offset).collect();
    assert_eq!(left, [0, 2]);
}

#[test]
fn appending_goes_on_while_a_log_is_compacted() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    let writer = topic.clone();
    let appended = std::thread::spawn(move || {
        let mut last = BTreeMap::new();
        for n in 0..3000 {
            let key = format!("k{}", n % 37);
            last.insert(key.clone(), (put(&writer, &key, &format!("{n}")), n));
        }
        last
    });
    while !appended.is_finished() {
        bench.log.maintain().unwrap();
    }
    let last = appended.join().unwrap();
    seal(&topic);
    bench.log.maintain().unwrap();
    let left = contents(&topic);
    assert_eq!(left.len(), 37);
    for (offset, key, value) in left {
        let (expected, n) = &last[&key];
        assert_eq!((offset, value.unwrap()), (*expected, n.to_string()));
    }
}

#[test]
fn a_topic_deleted_while_it_is_compacted_is_gone_and_one_of_its_name_begins_anew() {
    let bench = Bench::new();
    for _ in 0..20 {
        let topic = bench.log.create_topic("t", compacted()).unwrap();
        for n in 0..60 {
            put(&topic, &format!("k{}", n % 5), "v");
        }
        let log = bench.log.clone();
        let pass = std::thread::spawn(move || log.maintain().map(drop));
        bench.log.delete_topic("t").unwrap();
        // It may have met the deletion, but nothing worse.
        if let Err(error) = pass.join().unwrap() {
            assert!(matches!(error, LogError::TopicDeleted { .. }), "{error}");
        }
        assert!(
            files(&bench.storage).into_keys().all(|path| !path.to_str().unwrap().contains("t-0"))
        );
    }
}

#[test]
fn the_thread_of_the_log_does_it_by_itself_when_a_segment_ends() {
    let storage = MemoryStorage::new();
    let log = Log::open_in(Arc::new(storage), DIRECTORY).unwrap();
    let topic = log.create_topic("t", small().retention_bytes(Some(0))).unwrap();
    let mut reader = topic.read(0, Position::Earliest).unwrap().follow();
    fill(&topic, 50);
    // Retention runs sooner or later; the reader that is left behind is told so.
    loop {
        if topic.describe().partitions[0].removed_records > 0 {
            break;
        }
        fill(&topic, 1);
        std::thread::yield_now();
    }
    let refused = topic.read(0, Position::Offset(0)).unwrap_err();
    assert!(matches!(refused, LogError::OffsetOutOfRange { .. }));
    let _ = reader.reader().next_record();
    assert!(log.maintenance_failure().is_none());
    drop((reader, topic));
    log.close().unwrap();
}
