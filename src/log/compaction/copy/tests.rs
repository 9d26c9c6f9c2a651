//! What stays when a batch cannot be made anew.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use super::{Copier, Rules};
use crate::log::compaction::map::KeyMap;
use crate::log::compaction::output::Output;
use crate::log::compaction::swap;
use crate::log::error::{Damage, LogError};
use crate::log::format::names::FileState;
use crate::log::format::{BatchBuilder, BatchOptions, BatchView};
#[cfg(feature = "snappy")]
use crate::log::format::{
    Codec, Producer,
    batch::{HEADER_BYTES, set_producer},
};
use crate::log::options::BATCH_BYTES_MAX;
use crate::log::partition::Partition;
use crate::log::storage::MemoryStorage;
use crate::log::{Log, TopicOptions};

/// A partition, which is open as long as its log is.
fn partition() -> (Log, Arc<Partition>) {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let partition = topic.inner.partition(0).unwrap().clone();
    (log, partition)
}

/// A pass that knows the last offsets of keys.
fn rules(last: &[(&[u8], i64)]) -> Rules {
    let mut keys = KeyMap::new(1 << 10, u64::MAX);
    for (key, offset) in last {
        assert!(keys.insert(key, *offset));
    }
    let (producers, kept) = (HashSet::new(), Cell::new(false));
    Rules { keys, end: 100, producers, now_ms: 50, horizon_ms: 1 << 40, kept }
}

fn copier<'a>(partition: &'a Partition, rules: &'a Rules) -> Copier<'a> {
    let path = swap::path(&partition.home, 0, FileState::Cleaned);
    Copier::new(rules, Output::create(partition, 0, &path).unwrap())
}

fn batch(base_offset: i64, records: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { base_offset, ..Default::default() });
    for (key, value) in records {
        builder.append(7, Some(key), *value, []).unwrap();
    }
    builder.finish().unwrap()
}

fn try_copy(copier: &mut Copier<'_>, bytes: &[u8]) -> Result<(), LogError> {
    let batch = BatchView::parse(bytes).unwrap();
    copier.batch(batch.header(), &batch, &Default::default)
}

fn copy(copier: &mut Copier<'_>, bytes: &[u8]) {
    try_copy(copier, bytes).unwrap();
}

#[test]
fn segments_that_overlap_do_not_become_one() {
    let (_log, partition) = partition();
    let rules = rules(&[]);
    let mut copier = copier(&partition, &rules);
    let two: [(&[u8], Option<&[u8]>); 2] = [(b"a", Some(b"1")), (b"b", Some(b"2"))];
    copy(&mut copier, &batch(0, &two));
    let error = try_copy(&mut copier, &batch(1, &two)).unwrap_err();
    let wrong = Damage::WrongOffset { expected: 2, found: 1 };
    assert!(matches!(&error, LogError::Corrupt { damage, .. } if *damage == wrong), "{error}");
    copy(&mut copier, &batch(2, &two));
}

#[test]
fn a_tombstone_for_whose_horizon_there_is_no_room_stays_without_and_what_is_superseded_goes() {
    let (_log, partition) = partition();
    let rules = rules(&[(b"a", 9), (b"k", 1), (b"b", 2), (b"c", 3)]);
    let mut copier = copier(&partition, &rules);
    // Counted from a horizon, each time takes more bytes than counted from the first one.
    copier.growth = 0;
    copy(&mut copier, &batch(0, &[(b"a", Some(b"")), (b"k", None), (b"b", None), (b"c", None)]));
    assert!(!rules.kept.get());
    assert_eq!((copier.copied.records, copier.copied.changed), (1, 1));
    assert_eq!(copier.copied.horizon_ms, i64::MAX);
    let left = BatchView::parse(&copier.rebuilt).unwrap();
    assert_eq!((left.header().delete_horizon(), left.header().records_count), (None, 3));
}

/// A batch that is packed better than it would be again, as one block of snappy and not as several; its first record has
/// the key `a`.
#[cfg(feature = "snappy")]
fn packed_well() -> Vec<u8> {
    let noise = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 40)).to_be_bytes()[1];
    let text: Vec<u8> = (0..28_000).map(noise).collect();
    let records: [(&[u8], Option<&[u8]>); 2] =
        [(b"a", Some(b"old")), (b"b", Some(&text.repeat(2)))];
    let plain = batch(0, &records);
    let mut header = *BatchView::parse(&plain).unwrap().header();
    let packed = snap::raw::Encoder::new().compress_vec(&plain[HEADER_BYTES..]).unwrap();
    header.length -= i32::try_from(plain.len() - HEADER_BYTES - packed.len()).unwrap();
    header.attributes = header.attributes.with_codec(Codec::Snappy);
    let mut bytes = [&header.encode(), &*packed].concat();
    // The CRC, which is computed anew with any change.
    set_producer(&mut bytes, Producer::NONE).unwrap();
    bytes
}

#[cfg(feature = "snappy")]
#[test]
fn behind_a_value_that_could_not_be_removed_no_tombstone_gets_a_time_to_go() {
    let (_log, partition) = partition();
    let rules = rules(&[(b"a", 2), (b"k", 3)]);
    for growth in [i32::MAX as usize, 0] {
        rules.kept.set(false);
        let mut copier = copier(&partition, &rules);
        copier.growth = growth;
        copy(&mut copier, &packed_well());
        let removed = growth > 0;
        assert_eq!((copier.copied.records, rules.kept.get()), (u64::from(removed), !removed));
        copier.growth = i32::MAX as usize;
        copy(&mut copier, &batch(2, &[(b"a", None), (b"k", None)]));
        let horizon = if removed { rules.horizon_ms } else { i64::MAX };
        assert_eq!(copier.copied.horizon_ms, horizon, "growth {growth}");
    }
}

#[test]
fn a_batch_never_grows_beyond_what_readers_take() {
    let (_log, partition) = partition();
    let rules = rules(&[]);
    let mut copier = copier(&partition, &rules);
    let (limit, room) = (BATCH_BYTES_MAX as usize, copier.growth);
    assert!(!copier.is_room_for(limit + 1, limit));
    assert_eq!(copier.growth, room, "nothing was taken");
    assert!(copier.is_room_for(limit, limit - 5));
    assert_eq!(copier.growth, room - 5);
}
