//! Files that are kept in `tests/golden/log/`: written by a real broker, by another implementation, and by this one. How
//! they were made is told beside them.

use std::path::{Path, PathBuf};
use std::{env, fs};

use bytes::Bytes;
use kafka_protocol::records::Compression;

use super::independent::their_batch;
use super::samples::{SAMPLE_TIME_MS, Sample, batch_of, sample};
use crate::log::format::batch::{
    Batch, BatchOptions, DECOMPRESSED_BYTES_MAX, Producer, TimestampType, batches,
};
use crate::log::format::checkpoint::{
    decode_epochs, decode_offsets, encode_epochs, encode_offsets,
};
use crate::log::format::compression::Codec;
use crate::log::format::index::{IndexEntry, OffsetIndex, SegmentBounds};
use crate::log::format::names::{DirectoryName, FileKind, FileName};
use crate::log::format::producers::{self, ProducerEntry};
use crate::log::format::properties::{MetaProperties, PartitionMetadata};
use crate::log::format::time_index::{TimeIndex, TimeIndexEntry};

/// Records of the segments that hold the fixed sequence, in two batches of half of them.
const RECORDS: usize = 80;
/// Records of the segments that have an index, in batches of 20.
const INDEXED_RECORDS: usize = 400;
/// Bytes between two index entries, as a broker counts them.
const INDEX_INTERVAL_BYTES: usize = 4096;

const FIRST_SEGMENT: FileName = FileName::live(0, FileKind::Log);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log")
}

fn file(writer: &str, topic: &str, base_offset: u64, kind: FileKind) -> PathBuf {
    let directory = DirectoryName::new(topic, 0).unwrap().to_string();
    golden().join(writer).join(directory).join(FileName::live(base_offset, kind).to_string())
}

fn read(writer: &str, topic: &str, base_offset: u64, kind: FileKind) -> Bytes {
    let path = file(writer, topic, base_offset, kind);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

/// Compares with the kept file, or keeps it if the environment says so.
fn keep(writer: &str, topic: &str, name: FileName, bytes: &[u8]) {
    let path = file(writer, topic, name.base_offset, name.kind);
    if env::var_os("PEERMQ_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    assert!(fs::read(&path).unwrap() == bytes, "{} differs", path.display());
}

/// The validated batches of a segment.
fn valid_batches(segment: &Bytes) -> Vec<Batch> {
    let mut rest = segment.clone();
    let mut found = Vec::new();
    for view in batches(segment) {
        let view = view.unwrap();
        view.validate(&mut Vec::new(), DECOMPRESSED_BYTES_MAX).unwrap();
        found.push(Batch::parse(&rest).unwrap());
        rest = rest.slice(view.bytes().len()..);
    }
    found
}

/// The records of a segment with their offsets.
fn records(batches: &[Batch]) -> Vec<(i64, Sample)> {
    let mut all = Vec::new();
    for batch in batches {
        for record in batch.records(DECOMPRESSED_BYTES_MAX).unwrap() {
            let record = record.unwrap();
            let (key, value, headers) = (record.key, record.value, record.headers);
            let timestamp_ms = batch.header().timestamp_of(record.timestamp_delta);
            let sample = Sample { timestamp_ms, key, value, headers };
            all.push((batch.header().offset_of(record.offset_delta), sample));
        }
    }
    all
}

fn fixed_sequence(count: usize) -> Vec<(i64, Sample)> {
    (0..count).map(|n| (n as i64, sample(n))).collect()
}

/// Two batches of the fixed sequence.
fn segment(mut batch: impl FnMut(BatchOptions, &[Sample]) -> Vec<u8>) -> Vec<u8> {
    let samples: Vec<_> = (0..RECORDS).map(sample).collect();
    let halves = samples.chunks(RECORDS / 2).enumerate();
    let options = |n| {
        let first = n * RECORDS / 2;
        let producer = Producer { id: 7, epoch: 0, base_sequence: first as i32 };
        BatchOptions { base_offset: first as i64, leader_epoch: 0, producer, ..Default::default() }
    };
    halves.flat_map(|(n, half)| batch(options(n), half)).collect()
}

#[test]
fn segments_of_a_real_broker_hold_what_was_sent_in_every_codec() {
    for codec in Codec::ALL.into_iter().filter(|codec| codec.is_available()) {
        let topic = format!("golden-{codec}");
        let batches = valid_batches(&read("kafka-4.3.1", &topic, 0, FileKind::Log));
        assert!(batches.iter().all(|batch| batch.header().attributes.codec() == codec));
        assert_eq!(records(&batches), fixed_sequence(RECORDS), "{codec}");
        let last = batches.last().unwrap().header();
        let sequence = if codec == Codec::None { -1 } else { RECORDS as i32 - 1 };
        assert_eq!(last.last_sequence(), sequence, "{codec}");
    }
}

#[test]
fn batches_of_a_real_broker_are_written_here_byte_for_byte() {
    let segment = read("kafka-4.3.1", "golden-none", 0, FileKind::Log);
    let mut written = Vec::new();
    for batch in valid_batches(&segment) {
        let samples: Vec<_> =
            records(std::slice::from_ref(&batch)).into_iter().map(|(_, sample)| sample).collect();
        let base_offset = batch.header().base_offset;
        let options = BatchOptions { base_offset, leader_epoch: 0, ..Default::default() };
        written.extend(batch_of(options, &samples));
    }
    assert!(written == segment);
}

#[test]
fn timestamps_that_a_real_broker_set_count_for_the_whole_batch() {
    let batches = valid_batches(&read("kafka-4.3.1", "golden-append", 0, FileKind::Log));
    for batch in &batches {
        assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::Append);
        assert!(batch.header().max_timestamp > SAMPLE_TIME_MS + 1_000_000_000);
        let times: Vec<_> = records(std::slice::from_ref(batch));
        assert!(
            times.iter().all(|(_, sample)| sample.timestamp_ms == batch.header().max_timestamp)
        );
    }
    assert_eq!(records(&batches).len(), RECORDS);
}

#[test]
fn transactions_of_a_real_broker_end_with_control_batches() {
    let mut batches = valid_batches(&read("kafka-4.3.1", "golden-txn", 0, FileKind::Log));
    batches.extend(valid_batches(&read("kafka-4.3.1", "golden-txn", 5, FileKind::Log)));
    let (control, data): (Vec<_>, Vec<_>) =
        batches.into_iter().partition(|batch| batch.header().attributes.is_control());
    assert!(data.iter().all(|batch| batch.header().attributes.is_transactional()));
    let sent: Vec<_> = records(&data).into_iter().map(|(_, sample)| sample).collect();
    assert_eq!(sent, (0..15).map(sample).collect::<Vec<_>>());
    // Version 0, then 1 for commit or 0 for abort.
    let markers: Vec<_> =
        records(&control).into_iter().map(|(_, marker)| marker.key.unwrap()).collect();
    assert_eq!(markers, [&[0, 0, 0, 1][..], &[0, 0, 0, 0], &[0, 0, 0, 1]]);
    let snapshot = read("kafka-4.3.1", "golden-txn", 18, FileKind::ProducerSnapshot);
    let entries = producers::decode(&snapshot).unwrap();
    assert_eq!(entries.len(), 1);
    let header = data.last().unwrap().header();
    assert_eq!((entries[0].producer_id, entries[0].last_sequence), (header.producer_id, -1));
    assert_eq!(producers::encode(&entries).unwrap(), snapshot);
}

#[cfg(feature = "lz4")]
#[test]
fn a_segment_that_a_real_broker_compacted_keeps_its_offsets() {
    let batches = valid_batches(&read("kafka-4.3.1", "golden-compacted", 0, FileKind::Log));
    let first = batches[0].header();
    assert_eq!((first.records_count, first.last_offset_delta), (5, 29));
    let records = records(&batches);
    assert!(records.is_sorted_by(|a, b| a.0 < b.0));
    let mut keys: Vec<_> = records.iter().map(|(_, sample)| sample.key.clone().unwrap()).collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "one record a key");
}

#[test]
fn indexes_of_a_real_broker_lead_to_their_batches() {
    let segment = read("kafka-4.3.1", "golden-big", 0, FileKind::Log);
    let bounds = SegmentBounds { bytes: segment.len() as u32, last_relative_offset: 399 };
    let bytes = read("kafka-4.3.1", "golden-big", 0, FileKind::OffsetIndex);
    let index = OffsetIndex::new(&bytes);
    assert_eq!((index.len(), index.check(bounds)), (5, Ok(())));
    for n in 0..index.len() {
        let entry = index.get(n).unwrap();
        let batch = Batch::parse(&segment.slice(entry.position as usize..)).unwrap();
        assert_eq!(batch.header().last_offset(), i64::from(entry.relative_offset));
        assert_eq!(entry.encode(), bytes[n * 8..n * 8 + 8]);
    }
    let bytes = read("kafka-4.3.1", "golden-big", 0, FileKind::TimeIndex);
    let index = TimeIndex::new(&bytes);
    assert_eq!((index.len(), index.check(bounds)), (1, Ok(())));
    let latest = valid_batches(&segment).iter().map(|batch| batch.header().max_timestamp).max();
    assert_eq!(index.last().map(|entry| entry.timestamp_ms), latest);
}

#[test]
fn text_files_of_a_real_broker_are_read_and_written_alike() {
    let text = |name: &str| fs::read_to_string(golden().join("kafka-4.3.1").join(name)).unwrap();
    for name in [
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
        "cleaner-offset-checkpoint",
    ] {
        let text = text(name);
        let entries = decode_offsets(text.as_bytes()).unwrap();
        assert_eq!(encode_offsets(&entries).unwrap(), text);
    }
    let epochs = text("golden-txn-0/leader-epoch-checkpoint");
    assert_eq!(encode_epochs(&decode_epochs(epochs.as_bytes()).unwrap()).unwrap(), epochs);
    let metadata = text("golden-txn-0/partition.metadata");
    assert_eq!(PartitionMetadata::decode(metadata.as_bytes()).unwrap().encode(), metadata);
    assert_eq!(MetaProperties::decode(text("meta.properties").as_bytes()).unwrap().node_id, 1);
}

#[test]
fn every_file_that_a_real_broker_left_has_a_known_name() {
    let mut found = 0;
    for directory in fs::read_dir(golden().join("kafka-4.3.1")).unwrap().map(Result::unwrap) {
        if !directory.path().is_dir() {
            continue;
        }
        let name = directory.file_name().into_string().unwrap();
        assert_eq!(DirectoryName::parse(&name).unwrap().to_string(), name);
        for file in fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
            let name = file.file_name().into_string().unwrap();
            if !["leader-epoch-checkpoint", "partition.metadata"].contains(&name.as_str()) {
                assert_eq!(FileName::parse(&name).unwrap().to_string(), name);
                found += 1;
            }
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn segments_of_another_implementation_are_read() {
    let codecs = [
        (Codec::None, Compression::None),
        (Codec::Gzip, Compression::Gzip),
        (Codec::Snappy, Compression::Snappy),
    ];
    for (codec, compression) in codecs.into_iter().filter(|(codec, _)| codec.is_available()) {
        let topic = format!("golden-{codec}");
        let written =
            segment(|options, samples| their_batch(&options, compression, samples).into());
        if env::var_os("PEERMQ_WRITE_GOLDEN").is_some() || codec == Codec::None {
            keep("kafka-protocol-0.18", &topic, FIRST_SEGMENT, &written);
        }
        let batches = valid_batches(&read("kafka-protocol-0.18", &topic, 0, FileKind::Log));
        assert_eq!(records(&batches), fixed_sequence(RECORDS), "{codec}");
    }
}

#[test]
fn segments_written_here_stay_as_they_were() {
    for codec in Codec::ALL.into_iter().filter(|codec| codec.is_available()) {
        let topic = format!("golden-{codec}");
        let written =
            segment(|options, samples| batch_of(BatchOptions { codec, ..options }, samples));
        // How well a codec packs may change with its crate; what comes out again may not.
        if env::var_os("PEERMQ_WRITE_GOLDEN").is_some() || codec == Codec::None {
            keep("peermq", &topic, FIRST_SEGMENT, &written);
        }
        let batches = valid_batches(&read("peermq", &topic, 0, FileKind::Log));
        assert_eq!(records(&batches), fixed_sequence(RECORDS), "{codec}");
    }
}

#[test]
fn a_segment_with_its_companions_written_here_stays_as_it_was() {
    let (mut log, mut index, mut time_index) = (Vec::new(), Vec::new(), Vec::new());
    let mut unindexed = 0;
    let mut latest = TimeIndexEntry { timestamp_ms: i64::MIN, relative_offset: 0 };
    for base in (0..INDEXED_RECORDS).step_by(20) {
        let samples: Vec<_> = (base..base + 20).map(sample).collect();
        let producer = Producer { id: 7, epoch: 1, base_sequence: base as i32 };
        let base_offset = base as i64;
        let options = BatchOptions { base_offset, leader_epoch: 2, producer, ..Default::default() };
        let batch = batch_of(options, &samples);
        let relative_offset = base as u32 + 19;
        let timestamp_ms = samples.iter().map(|sample| sample.timestamp_ms).max().unwrap();
        if timestamp_ms > latest.timestamp_ms {
            latest = TimeIndexEntry { timestamp_ms, relative_offset };
        }
        if unindexed > INDEX_INTERVAL_BYTES {
            index.extend(IndexEntry { relative_offset, position: log.len() as u32 }.encode());
            unindexed = 0;
        }
        unindexed += batch.len();
        log.extend(batch);
    }
    time_index.extend(latest.encode());
    let snapshot = producers::encode(&[ProducerEntry {
        producer_id: 7,
        epoch: 1,
        last_sequence: 399,
        last_offset: 399,
        offset_delta: 19,
        timestamp_ms: latest.timestamp_ms,
        coordinator_epoch: -1,
        transaction_first_offset: -1,
    }])
    .unwrap();
    for (base_offset, kind, bytes) in [
        (0, FileKind::Log, &log),
        (0, FileKind::OffsetIndex, &index),
        (0, FileKind::TimeIndex, &time_index),
        (400, FileKind::ProducerSnapshot, &snapshot),
    ] {
        keep("peermq", "golden-indexed", FileName::live(base_offset, kind), bytes);
    }
    let bounds = SegmentBounds { bytes: log.len() as u32, last_relative_offset: 399 };
    assert_eq!(OffsetIndex::new(&index).check(bounds), Ok(()));
    assert_eq!(TimeIndex::new(&time_index).check(bounds), Ok(()));
}
