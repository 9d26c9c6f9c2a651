//! A log in memory with a clock of its own, and what the tests of retention and compaction do to it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::storage::MemoryStorage;
use peermq::log::{Level, Log, LogRecord, ManualClock, NewRecord, Position, Topic, TopicOptions};

use crate::support::{DIRECTORY, small};

/// A log in memory with a clock of its own.
pub(crate) struct Bench {
    pub(crate) storage: MemoryStorage,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) log: Log,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(1 << 20)
    }

    pub(crate) fn with(compaction_bytes: usize) -> Self {
        let (storage, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new(1_000_000)));
        let log = open(&storage, &clock, compaction_bytes);
        Self { storage, clock, log }
    }

    /// Closes the log and opens it again.
    pub(crate) fn reopen(self) -> Self {
        let Self { storage, clock, log } = self;
        log.close().unwrap();
        let log = open(&storage, &clock, 1 << 20);
        Self { storage, clock, log }
    }

    pub(crate) fn topic(&self) -> Topic {
        self.log.topic("t").unwrap()
    }
}

pub(crate) fn open(
    storage: &MemoryStorage,
    clock: &Arc<ManualClock>,
    compaction_bytes: usize,
) -> Log {
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone());
    options.linger(None).compaction_bytes(compaction_bytes).open(DIRECTORY).unwrap()
}

/// Appends records of about 100 bytes one by one.
pub(crate) fn fill(topic: &Topic, count: usize) {
    for n in 0..count {
        let value = format!("{n:090}");
        topic.append_at(Level::Written, &value).unwrap().wait().unwrap();
    }
}

pub(crate) fn compacted() -> TopicOptions {
    small().compact(true).min_dirty_percent(0).delete_retention(Duration::from_millis(500))
}

pub(crate) fn put(topic: &Topic, key: &str, value: &str) -> i64 {
    topic.append_at(Level::Written, NewRecord::new(value).key(key)).unwrap().wait().unwrap()
}

/// Appends enough of one key that what is before lies in sealed segments.
pub(crate) fn seal(topic: &Topic) {
    for n in 0..12 {
        put(topic, "seal", &format!("{n:090}"));
    }
}

pub(crate) fn records(topic: &Topic) -> Vec<LogRecord> {
    let records: Vec<_> = topic.read(0, Position::Earliest).unwrap().map(Result::unwrap).collect();
    assert!(records.is_sorted_by(|a, b| a.offset < b.offset), "offsets rise");
    records
}

pub(crate) fn text(bytes: &Option<Bytes>) -> String {
    String::from_utf8(bytes.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Offset, key and value of all records but those that [`seal`] appends.
pub(crate) fn contents(topic: &Topic) -> Vec<(i64, String, Option<String>)> {
    let kept = |record: &LogRecord| record.key.as_deref() != Some(b"seal");
    let shown = |record: LogRecord| {
        let value = record.value.is_some().then(|| text(&record.value));
        (record.offset, text(&record.key), value)
    };
    records(topic).into_iter().filter(kept).map(shown).collect()
}

pub(crate) fn append(topic: &Topic, batch: &[u8]) -> i64 {
    topic.append_batch(0, Level::Durable, batch).unwrap().wait().unwrap()
}

pub(crate) fn produced(id: i64, sequence: i32, key: &str) -> Vec<u8> {
    let producer = Producer { id, epoch: 0, base_sequence: sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    for n in 0..3 {
        builder.append(n, Some(key.as_bytes()), Some(b"value"), []).unwrap();
    }
    builder.finish().unwrap()
}
