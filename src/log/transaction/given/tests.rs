//! Transactions that come encoded, more than once, or wrong.

use std::sync::Arc;

use super::*;
use crate::log::format::batch::{HEADER_BYTES, Producer, RECORDS_MAX};
use crate::log::format::crc::crc32c;
use crate::log::format::{BatchBuilder, BatchOptions};
use crate::log::storage::MemoryStorage;
use crate::log::{Codec, Level, Log, TopicOptions};

fn batch(id: i64, base_sequence: i32, values: &[&str]) -> Bytes {
    let producer = Producer { id, epoch: 0, base_sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    for value in values {
        builder.append(5, None, Some(value.as_bytes()), []).unwrap();
    }
    Bytes::from(builder.finish().unwrap())
}

/// A few bytes that say they are so many records, in a codec that is not built in, so that nobody can count them; `None` if all
/// codecs are.
fn claiming(id: i64, base_sequence: i32, records: usize) -> Option<Bytes> {
    const CRC_AT: std::ops::Range<usize> = 17..21;
    let codec = Codec::ALL.into_iter().find(|codec| !codec.is_available())?;
    let header = BatchHeader::decode(&batch(id, base_sequence, &["x"])).unwrap();
    let records_count = i32::try_from(records).unwrap();
    let header = BatchHeader {
        attributes: header.attributes.with_codec(codec),
        last_offset_delta: records_count - 1,
        records_count,
        length: i32::try_from(HEADER_BYTES + 3 - 12).unwrap(),
        ..header
    };
    let mut bytes = [&header.encode()[..], &[1, 2, 3]].concat();
    let crc = crc32c(&bytes[CRC_AT.end..]);
    bytes[CRC_AT].copy_from_slice(&crc.to_be_bytes());
    Some(Bytes::from(bytes))
}

fn given(topic: &str, batches: Vec<Bytes>) -> Given {
    Given { topic: topic.to_owned(), partition: 0, batches }
}

fn open(storage: &MemoryStorage) -> Log {
    Log::open_in(Arc::new(storage.clone()), "/log").unwrap()
}

fn fresh() -> (MemoryStorage, Log) {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    log.create_topic("a", TopicOptions::default()).unwrap();
    log.create_topic("b", TopicOptions::default()).unwrap();
    (storage, log)
}

fn end(log: &Log, topic: &str) -> i64 {
    log.topic(topic).unwrap().describe().partitions[0].end
}

#[test]
fn what_comes_twice_is_there_once_and_answered_alike_also_after_a_restart() {
    let (storage, log) = fresh();
    log.topic("a").unwrap().append("before").unwrap().wait().unwrap();
    // More batches than a partition remembers of a producer.
    let many: Vec<Bytes> = (0..8).map(|n| batch(GIVEN | 7, 2 * n, &["x", "y"])).collect();
    let parts = [given("a", many), given("b", vec![batch(GIVEN | 7, 0, &["z"])])];
    let first = log.inner.commit_given(&parts, None, &[]).unwrap();
    assert_eq!(first, [1, 3, 5, 7, 9, 11, 13, 15, 0]);
    assert_eq!(log.inner.commit_given(&parts, None, &[]).unwrap(), first);
    log.topic("a").unwrap().append("behind").unwrap().wait().unwrap();
    log.close().unwrap();
    let log = open(&storage);
    assert_eq!(log.inner.commit_given(&parts, None, &[]).unwrap(), first);
    assert_eq!((end(&log, "a"), end(&log, "b")), (18, 1));
    // What is not there any more has no place.
    log.topic("a").unwrap().truncate_front(0, 18).unwrap();
    let gone = log.inner.commit_given(&parts, None, &[]).unwrap();
    assert_eq!((gone.first(), gone.last()), (Some(&GONE), Some(&0)));
}

#[test]
fn what_cannot_be_appended_is_refused_before_anything_is_and_harms_nobody() {
    let (_storage, log) = fresh();
    let good = || given("a", vec![batch(GIVEN, 0, &["x"])]);
    let mut damaged = batch(GIVEN, 0, &["x"]).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let large = "x".repeat(2 << 20);
    log.create_topic("keyed", TopicOptions::default().compact(true)).unwrap();
    log.inner.internal_topic("__own", TopicOptions::default()).unwrap();
    let bad = [
        given("b", vec![Bytes::from(damaged)]),
        given("b", vec![batch(GIVEN, 0, &[&large])]),
        given("b", vec![batch(7, 0, &["an ordinary producer"])]),
        given("b", vec![batch(-1, -1, &["nobody"])]),
        given("b", vec![batch(PRODUCER, 0, &["the log itself"])]),
        given("b", vec![batch(GIVEN, 0, &["x"]), batch(GIVEN, 2, &["a gap"])]),
        given("b", vec![batch(GIVEN, 0, &["x"]), batch(GIVEN + 1, 1, &["somebody else"])]),
        given("keyed", vec![batch(GIVEN, 0, &["no key"])]),
        given("__own", vec![batch(GIVEN, 0, &["x"])]),
        given("nothing", vec![batch(GIVEN, 0, &["x"])]),
        good(),
    ];
    for bad in bad {
        let said = format!("{bad:?}");
        let refused = log.inner.commit_given(&[good(), bad], None, &[]);
        assert!(refused.is_err(), "{said}");
        assert_eq!((end(&log, "a"), end(&log, "b")), (0, 0), "{said}");
    }
    let nobody = log.inner.commit_given(&[good()], None, &[OffsetCommit::new("b", 0, 0)]);
    assert!(matches!(nobody, Err(LogError::Invalid { .. })));
    assert_eq!(log.inner.commit_given(&[good()], None, &[]).unwrap(), [0]);
    let skipped = [given("a", vec![batch(GIVEN, 9, &["x"])])];
    assert!(matches!(
        log.inner.commit_given(&skipped, None, &[]),
        Err(LogError::OutOfSequence { expected: 1, found: 9, .. })
    ));
    // Nobody else can use up the numbers of a transaction.
    let append = log.topic("a").unwrap().append_batch(0, Level::Durable, &batch(GIVEN, 1, &["x"]));
    assert!(matches!(append, Err(LogError::Invalid { .. })));
}

#[test]
fn what_comes_twice_is_answered_whatever_became_of_its_topics_meanwhile() {
    let (_storage, log) = fresh();
    let large = "x".repeat(2000);
    let parts = || {
        [given("a", vec![batch(GIVEN, 0, &[&large])]), given("b", vec![batch(GIVEN, 0, &["x"])])]
    };
    log.topic("b").unwrap().append("before").unwrap().wait().unwrap();
    assert_eq!(log.inner.commit_given(&parts(), None, &[]).unwrap(), [0, 1]);
    log.alter_topic("a", TopicOptions::default().record_bytes_max(1000)).unwrap();
    log.alter_topic("b", TopicOptions::default().compact(true)).unwrap();
    assert_eq!(log.inner.commit_given(&parts(), None, &[]).unwrap(), [0, 1]);
    log.delete_topic("a").unwrap();
    assert_eq!(log.inner.commit_given(&parts(), None, &[]).unwrap(), [GONE, 1]);
    // Another topic of that name does not have it either.
    log.create_topic("a", TopicOptions::default()).unwrap();
    assert_eq!(log.inner.commit_given(&parts(), None, &[]).unwrap(), [GONE, 1]);
    assert_eq!((end(&log, "a"), end(&log, "b")), (0, 2));
    // What was not carried out before is not excused.
    let next =
        [given("a", vec![batch(GIVEN, 1, &["x"])]), given("b", vec![batch(GIVEN, 1, &["x"])])];
    assert!(log.inner.commit_given(&next, None, &[]).is_err());
    assert_eq!((end(&log, "a"), end(&log, "b")), (0, 2));
}

#[test]
fn what_a_transaction_takes_grows_with_its_bytes_and_not_with_the_records_that_it_claims() {
    // If each record took but a byte, this would be more than any machine has.
    const BATCHES: i32 = 20_000;
    let (_storage, log) = fresh();
    let batches = |sequence: &mut usize| {
        let batch = claiming(GIVEN, i32::try_from(*sequence).unwrap(), RECORDS_MAX);
        *sequence = (*sequence + RECORDS_MAX) & i32::MAX as usize;
        batch
    };
    let mut sequence = 0;
    let all: Option<Vec<Bytes>> = (0..BATCHES).map(|_| batches(&mut sequence)).collect();
    let Some(all) = all else { return };
    let records = i64::try_from(RECORDS_MAX).unwrap();
    let expected: Vec<i64> = (0..BATCHES).map(|batch| i64::from(batch) * records).collect();
    let parts = [given("a", all), given("b", vec![batch(GIVEN, 0, &["x"])])];
    let offsets = log.inner.commit_given(&parts, None, &[]).unwrap();
    assert!(offsets[..expected.len()] == expected && offsets[expected.len()..] == [0]);
    assert_eq!(end(&log, "a"), i64::from(BATCHES) * records);
}

#[test]
fn a_batch_that_claims_more_records_than_fit_into_any_is_refused() {
    let (_storage, log) = fresh();
    for records in [RECORDS_MAX + 1, i32::MAX as usize] {
        let Some(batch) = claiming(GIVEN, 0, records) else { return };
        let refused = log.inner.commit_given(&[given("a", vec![batch])], None, &[]);
        assert!(matches!(refused, Err(LogError::Invalid { what: "batch", .. })), "{refused:?}");
        let batch = claiming(7, 0, records).unwrap();
        let refused = log.topic("a").unwrap().append_batch(0, Level::Durable, &batch);
        assert!(matches!(refused, Err(LogError::Invalid { what: "batch", .. })), "{refused:?}");
    }
    assert_eq!(end(&log, "a"), 0);
    let batch = claiming(7, 0, RECORDS_MAX).unwrap();
    let kept = log.topic("a").unwrap().append_batch(0, Level::Durable, &batch).unwrap();
    assert_eq!(kept.wait().unwrap(), i64::try_from(RECORDS_MAX).unwrap() - 1);
}
