//! What recalling producers reads after a crash, and what not.

use std::path::PathBuf;

use super::*;
use crate::log::format::names::FileName;
use crate::log::format::{BatchBuilder, BatchOptions, Producer};
use crate::log::storage::Storage;
use crate::log::storage::faulty::FaultyStorage;
use crate::log::{Level, Log, LogOptions, Topic, TopicOptions};

const SNAPSHOT_BYTES: u64 = 20_000;
/// Index entries that are saved together.
const SAVED_ENTRIES: i64 = 512;

fn options(storage: &FaultyStorage) -> LogOptions {
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    LogOptions { producer_snapshot_bytes: SNAPSHOT_BYTES, ..options }
}

/// A batch of one record.
fn batch(id: i64, sequence: i64) -> Vec<u8> {
    let producer = Producer { id, epoch: 0, base_sequence: sequence as i32 };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    builder.append(7, None, Some(b"value"), []).unwrap();
    builder.finish().unwrap()
}

fn append(topic: &Topic, id: i64, sequence: i64) -> i64 {
    let ticket = topic.append_batch(0, Level::Written, &batch(id, sequence)).unwrap();
    ticket.wait().unwrap()
}

/// Offsets of the snapshots that are there, rising.
fn snapshots(storage: &FaultyStorage) -> Vec<i64> {
    let entries = storage.list("/log/t-0".as_ref()).unwrap().into_iter();
    let names = entries.filter_map(|entry| FileName::parse(entry.name.to_str()?));
    let snapshots = names.filter(|name| name.kind == FileKind::ProducerSnapshot);
    let mut offsets: Vec<_> = snapshots.map(|name| name.base_offset as i64).collect();
    offsets.sort_unstable();
    offsets
}

/// After a kill, a bit of the batch at this offset turned over.
fn killed(storage: &FaultyStorage, offset: i64) -> FaultyStorage {
    let killed = storage.kill();
    let path = PathBuf::from("/log/t-0/00000000000000000000.log");
    let at = offset as u64 * batch(7, 0).len() as u64 + 65;
    killed.flip_bit(&path, at * 8).unwrap();
    killed
}

#[test]
fn producers_are_recalled_from_the_last_snapshot_and_no_more_batches_than_lie_between_two() {
    let storage = FaultyStorage::new();
    let log = options(&storage).open("/log").unwrap();
    // As many entries as batches, so that the index tells where the snapshot is.
    let topic = log.create_topic("t", TopicOptions::default().index_interval_bytes(1)).unwrap();
    let bytes = batch(7, 0).len() as u64;
    let between = (SNAPSHOT_BYTES.div_ceil(bytes)) as i64;
    assert_eq!(append(&topic, 8, 0), 0);
    for sequence in 0..2999 {
        assert_eq!(append(&topic, 7, sequence), sequence + 1);
        let (end, newest) = (sequence + 2, snapshots(&storage).last().copied().unwrap_or(0));
        assert!(end - newest < between, "{end}, {newest}");
    }
    log.sync().unwrap();
    let newest = *snapshots(&storage).last().unwrap();

    // What is before the snapshot, and what the index knows of it, is not looked at.
    let reopened = killed(&storage, newest - SAVED_ENTRIES - 2);
    let log = options(&reopened).open("/log").unwrap();
    let topic = log.topic("t").unwrap();
    assert_eq!((append(&topic, 8, 0), append(&topic, 7, 2998)), (0, 2999), "known as repeated");
    assert_eq!(append(&topic, 7, 2999), 3000);

    let refused = options(&killed(&storage, newest)).open("/log");
    assert!(refused.unwrap_err().is_corruption(), "what is behind it is");
}

#[test]
fn no_producer_is_recalled_from_a_segment_that_is_too_short() {
    let storage = FaultyStorage::new();
    let log = options(&storage).open("/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default().segment_bytes(1000)).unwrap();
    for sequence in 0..100 {
        append(&topic, 7, sequence);
    }
    log.sync().unwrap();
    let killed = storage.kill();
    // Then all segments are read.
    for snapshot in snapshots(&killed) {
        let name = FileName::live(snapshot as u64, FileKind::ProducerSnapshot).to_string();
        killed.remove_file(&PathBuf::from("/log/t-0").join(name)).unwrap();
    }
    options(&killed.kill()).open("/log").unwrap();
    let path = PathBuf::from("/log/t-0/00000000000000000000.log");
    let file = killed.open(&path, crate::log::storage::OpenMode::Write).unwrap();
    file.set_len(file.len().unwrap() - batch(7, 0).len() as u64).unwrap();
    assert!(options(&killed).open("/log").unwrap_err().is_corruption());
}
