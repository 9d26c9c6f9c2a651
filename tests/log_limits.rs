//! The largest batch: nothing is written that whoever reads would take for damage, and what is refused has no offset.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;

use peermq::log::format::batch::batches;
use peermq::log::format::{BatchBuilder, BatchOptions, Codec};
use peermq::log::inspect::Inspector;
use peermq::log::storage::MemoryStorage;
use peermq::log::{
    BATCH_BYTES_MAX, Level, Log, LogError, ManualClock, NewRecord, Position, Topic, TopicOptions,
};
use proptest::prelude::*;
use support::{DIRECTORY, Random, open, segments};

/// What a batch has beside its largest record.
const OVERHEAD: usize = 128;

/// Bytes that no codec makes less of.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let words = std::iter::repeat_with(|| random.next().to_le_bytes());
    words.flatten().take(bytes).collect()
}

fn available() -> Vec<Codec> {
    Codec::ALL.into_iter().filter(|codec| codec.is_available()).collect()
}

/// Bytes of the batches of one partition.
fn batch_sizes(storage: &MemoryStorage, partition: &str) -> Vec<usize> {
    let of_partition =
        |path: &Path| path.parent().is_some_and(|parent| parent.ends_with(partition));
    let found = segments(storage).into_iter().filter(|(path, _)| of_partition(path));
    found
        .flat_map(|(_, bytes)| {
            let sizes = batches(&bytes).map(|batch| batch.unwrap().bytes().len());
            sizes.collect::<Vec<_>>()
        })
        .collect()
}

fn assert_sound(storage: &MemoryStorage) {
    let report = Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

fn values(log: &Log, topic: &str) -> Vec<Vec<u8>> {
    let reader = log.topic(topic).unwrap().read(0, Position::Earliest).unwrap();
    reader.map(|record| record.unwrap().value.unwrap().to_vec()).collect()
}

/// Appends a record in one of the ways there are.
fn append(log: &Log, topic: &Topic, way: u8, codec: Codec, value: &[u8]) -> Result<(), LogError> {
    match way {
        0 => topic.append_to(0, Level::Buffered, value).map(drop),
        1 => topic.append_all(0, Level::Written, &[NewRecord::new(value)]).map(drop),
        2 => {
            let options = BatchOptions { codec, ..BatchOptions::default() };
            let mut builder = BatchBuilder::new(options);
            builder.append(7, None, Some(value), []).unwrap();
            topic.append_batch(0, Level::Written, &builder.finish().unwrap()).map(drop)
        }
        _ => {
            let mut transaction = log.transaction();
            transaction.append_to("t", 0, value)?;
            transaction.commit().map(drop)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_batch_exceeds_what_the_topic_allows_whatever_the_codec_makes_of_it(
        codec in prop::sample::select(available()), record_max in 64u32..1500, batch in 1u32..2000,
        appends in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), any::<bool>()), 1..40),
        seed: u64,
    ) {
        let storage = MemoryStorage::new();
        let log = open(&storage);
        let options = TopicOptions::default().level(Level::Written).codec(codec);
        let options = options.record_bytes_max(record_max).batch_bytes(batch);
        let topic = log.create_topic("t", options).unwrap();
        let mut expected = Vec::new();
        for (n, (way, bytes, largest)) in appends.into_iter().enumerate() {
            let (limit, bytes) = (record_max as usize, bytes.index(record_max as usize + 3));
            let bytes = if largest { limit } else { bytes };
            let value = noise(seed.wrapping_add(n as u64), bytes);
            match append(&log, &topic, way, codec, &value) {
                Ok(()) => expected.push(value),
                Err(error) => {
                    prop_assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
                    prop_assert!(bytes > limit, "{bytes} of {limit}");
                }
            }
        }
        log.sync().unwrap();
        prop_assert_eq!(values(&log, "t"), expected);
        log.close().unwrap();
        let largest = batch_sizes(&storage, "t-0").into_iter().max().unwrap_or(0);
        let allowed = (record_max as usize + OVERHEAD).max(batch as usize);
        prop_assert!(largest <= allowed, "{largest} of {allowed}");
        assert_sound(&storage);
    }
}

/// A topic without other limits than the one that all have.
fn unlimited(log: &Log, options: TopicOptions) -> Topic {
    let options = options.record_bytes_max(BATCH_BYTES_MAX).batch_bytes(BATCH_BYTES_MAX);
    log.create_topic("t", options.level(Level::Written)).unwrap()
}

#[test]
fn the_largest_record_of_all_is_read_back_and_one_byte_more_gets_no_offset() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = unlimited(&log, TopicOptions::default());
    let largest = BATCH_BYTES_MAX as usize - OVERHEAD;
    let value = noise(1, largest + 1);
    let refused = topic.append(&value);
    assert!(matches!(refused, Err(LogError::TooLarge { .. })), "{:?}", refused.err());
    // The second does not fit beside the first.
    let _first = topic.append("first").unwrap();
    assert_eq!(topic.append(&value[..largest]).unwrap().wait().unwrap(), 1);
    let read = values(&log, "t");
    assert_eq!(read.len(), 2);
    assert!(read[1] == value[..largest]);
    log.close().unwrap();
    assert_eq!(batch_sizes(&storage, "t-0").len(), 2);
    assert_sound(&storage);
}

/// A batch of exactly so many bytes, of which the first record is a tombstone and the last one fills it up.
fn batch_of(bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(7, Some(b"deleted"), None, []).unwrap();
    let (key, room) = (Some(&b"kept"[..]), bytes - builder.bytes());
    let mut value = noise(2, room);
    while builder.bytes_of(7, key, Some(&value), []) > room {
        value.pop();
    }
    builder.append(7, key, Some(&value), []).unwrap();
    let batch = builder.finish().unwrap();
    assert_eq!(batch.len(), bytes);
    batch
}

#[test]
fn a_batch_from_elsewhere_may_be_as_large_as_any_and_no_byte_larger() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = unlimited(&log, TopicOptions::default());
    let refused = topic.append_batch(0, Level::Written, &batch_of(BATCH_BYTES_MAX as usize + 1));
    assert!(matches!(refused, Err(LogError::TooLarge { .. })), "{:?}", refused.err());
    let largest = batch_of(BATCH_BYTES_MAX as usize);
    assert_eq!(topic.append_batch(0, Level::Written, &largest).unwrap().wait().unwrap(), 1);
    assert_eq!(topic.read(0, Position::Earliest).unwrap().map(Result::unwrap).count(), 2);
    log.close().unwrap();
    assert_sound(&storage);
}

#[test]
fn what_compaction_would_make_too_large_stays_as_it_is() {
    let storage = MemoryStorage::new();
    // So late that what counts from the end of the tombstone takes more bytes than what counts from the first record.
    let clock = Arc::new(ManualClock::new(1 << 50));
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock).linger(None);
    let log = options.open(DIRECTORY).unwrap();
    let topic = unlimited(&log, TopicOptions::default().compact(true).segment_bytes(64));
    for batch in [batch_of(BATCH_BYTES_MAX as usize), batch_of(500)] {
        topic.append_batch(0, Level::Durable, &batch).unwrap().wait().unwrap();
    }
    log.maintain().unwrap();
    let sizes = batch_sizes(&storage, "t-0");
    assert_eq!(sizes, [BATCH_BYTES_MAX as usize, 500]);
    let keys = topic.read(0, Position::Earliest).unwrap().map(|record| record.unwrap().key);
    assert_eq!(
        keys.map(Option::unwrap).collect::<Vec<_>>(),
        ["deleted", "kept", "deleted", "kept"]
    );
    log.close().unwrap();
    assert_sound(&storage);
}

/// Times that no two of lie within what one batch can hold, but for the last ones.
const FAR_APART_MS: [i64; 8] = [7, i64::MIN, i64::MAX, -2, i64::MIN, 1 << 62, 8, 7];

fn far_apart() -> Vec<NewRecord<'static>> {
    let record = |time: &i64| NewRecord::new("v").key("k").timestamp_ms(*time);
    FAR_APART_MS.iter().map(record).collect()
}

#[test]
fn records_are_appended_however_far_apart_the_times_are_of_those_who_share_a_batch() {
    let storage = MemoryStorage::new();
    let clock = ManualClock::new(7);
    let log = Log::options().storage(Arc::new(storage.clone())).clock(Arc::new(clock));
    let log = log.linger(None).open(DIRECTORY).unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    for record in far_apart() {
        let _ticket = topic.append_at(Level::Buffered, record).unwrap();
    }
    // The log's own time comes behind one that is as far away as can be.
    let _ticket = topic.append_at(Level::Buffered, "now").unwrap();
    topic.append_all(0, Level::Durable, &far_apart()).unwrap().unwrap().wait().unwrap();
    let mut transaction = log.transaction();
    far_apart().into_iter().for_each(|record| transaction.append("t", record).unwrap());
    assert_eq!(transaction.commit().unwrap().len(), FAR_APART_MS.len());
    let expected = [&FAR_APART_MS[..], &[7], &FAR_APART_MS, &FAR_APART_MS].concat();
    let times = |log: &Log| {
        let reader = log.topic("t").unwrap().read(0, Position::Earliest).unwrap();
        reader.map(|record| record.unwrap().timestamp_ms).collect::<Vec<_>>()
    };
    assert_eq!(times(&log), expected);
    log.close().unwrap();
    assert_sound(&storage);
    assert_eq!(times(&open(&storage)), expected);
}
