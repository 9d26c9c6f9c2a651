//! What the log's model test knows of each partition.

use std::collections::VecDeque;

use peermq::log::format::{BatchBuilder, BatchOptions, batch};
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, OpenMode, Storage};
use peermq::log::{LogRecord, NewRecord};

use crate::support::files;

/// How long tombstones stay in a compacted topic.
pub(crate) const DELETE_RETENTION_MS: i64 = 5_000;
/// Idempotent producers.
pub(crate) const PRODUCERS: u64 = 2;
/// Batches by which a repetition of each is known.
const BATCHES: usize = 5;

/// A storage that can crash.
pub(crate) trait Disk: Storage + Clone + 'static {
    fn empty() -> Self;
    /// What another process finds when this one is killed.
    fn killed(&self) -> Self;
    /// What a power cut leaves.
    fn cut(&self, seed: u64) -> Self;
}

impl Disk for FaultyStorage {
    fn empty() -> Self {
        Self::new()
    }

    fn killed(&self) -> Self {
        self.kill()
    }

    fn cut(&self, seed: u64) -> Self {
        self.power_cut(seed).storage()
    }
}

/// Cheap, but a power cut takes no more than a kill.
impl Disk for MemoryStorage {
    fn empty() -> Self {
        Self::new()
    }

    fn killed(&self) -> Self {
        let copy = Self::new();
        for (path, bytes) in files(self) {
            copy.create_dir_all(path.parent().unwrap()).unwrap();
            copy.open(&path, OpenMode::Create).unwrap().write_at(&bytes, 0).unwrap();
        }
        copy
    }

    fn cut(&self, _: u64) -> Self {
        self.killed()
    }
}

/// A record that was appended.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) time: i64,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    /// By the log's clock.
    pub(crate) appended: i64,
    /// Compaction has removed it: it must never come back.
    pub(crate) gone: bool,
}

impl Appended {
    /// As it is given to the log.
    pub(crate) fn new_record(&self) -> NewRecord<'_> {
        let record = match &self.value {
            Some(value) => NewRecord::new(value).key(&self.key),
            None => NewRecord::tombstone(&self.key),
        };
        record.timestamp_ms(self.time)
    }

    /// Whether a record that was read is this one.
    pub(crate) fn is(&self, record: &LogRecord) -> bool {
        let text = |bytes: &Option<bytes::Bytes>| {
            bytes.as_ref().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        record.timestamp_ms == self.time
            && text(&record.key).as_ref() == Some(&self.key)
            && text(&record.value) == self.value
    }
}

/// What a partition must hold.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) compacted: bool,
    /// All records from offset 0 on, whether they were cut from the front or not.
    pub(crate) records: Vec<Appended>,
    pub(crate) start: usize,
    pub(crate) written: usize,
    pub(crate) durable: usize,
    /// What each idempotent producer appended, by its number.
    pub(crate) producers: [Producer; PRODUCERS as usize],
}

impl Model {
    /// Checks one record that was read after all before `from` were dealt with; returns the offset after it. What was
    /// skipped must be superseded, or a tombstone that was there for long enough.
    pub(crate) fn read(&mut self, from: usize, record: &LogRecord, now: i64) -> usize {
        let offset = record.offset as usize;
        assert!(offset >= from, "{offset} comes after {from}");
        assert!(self.records[offset].is(record), "{record:?} is not {:?}", self.records[offset]);
        assert!(!self.records[offset].gone, "{offset} has come back");
        self.skip(from, offset, now);
        offset + 1
    }

    /// Notes that nothing is left between two offsets.
    pub(crate) fn skip(&mut self, from: usize, to: usize, now: i64) {
        for offset in from..to {
            let record = &self.records[offset];
            if record.gone {
                continue;
            }
            let superseded = self.records[offset + 1..].iter().any(|later| later.key == record.key);
            let expired = record.value.is_none() && now - record.appended > DELETE_RETENTION_MS;
            let may_go = self.compacted && (superseded || expired);
            assert!(
                may_go,
                "{offset} is missing (of {to}, compacted: {}): {record:?}",
                self.compacted
            );
            self.records[offset].gone = true;
        }
    }

    pub(crate) fn end(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn all_durable(&mut self) {
        (self.written, self.durable) = (self.end(), self.end());
    }

    /// Notes that only what is before `end` is left, and that the log was opened anew.
    pub(crate) fn reopened(&mut self, end: usize) {
        self.records.truncate(end);
        (self.written, self.durable) = (end, self.durable.min(end));
        for producer in &mut self.producers {
            producer.batches.retain(|batch| batch.offsets.1 < end);
            producer.batches.iter_mut().for_each(|batch| batch.may_be_forgotten = true);
        }
    }
}

/// A batch of an idempotent producer.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    pub(crate) records: usize,
    /// Its first offset and its last one.
    pub(crate) offsets: (usize, usize),
    /// The log was opened anew since: only the last one is remembered in any case.
    may_be_forgotten: bool,
}

/// What an idempotent producer appended.
#[derive(Default)]
pub(crate) struct Producer {
    batches: VecDeque<Batch>,
}

/// What is to become of a batch of an idempotent producer.
#[derive(Debug)]
pub(crate) enum Expected {
    Append,
    /// It is there, with these offsets; unless that may be forgotten, and it is out of sequence.
    Known {
        offsets: (usize, usize),
        or_refused: bool,
    },
    OutOfSequence,
    Fenced,
}

impl Producer {
    /// The batch that it appended last, or some before that one.
    pub(crate) fn batch(&self, back: usize) -> Option<Batch> {
        self.batches.iter().nth_back(back).cloned()
    }

    /// The epoch and the sequence number that come next.
    pub(crate) fn next(&self) -> (i16, i32) {
        let next = |last: &Batch| (last.epoch, last.sequence + last.records as i32);
        self.batches.back().map_or((0, 0), next)
    }

    pub(crate) fn expected(&self, epoch: i16, sequence: i32, records: usize) -> Expected {
        let (current, next) = self.next();
        if self.batches.is_empty() {
            return Expected::Append;
        }
        if epoch < current {
            return Expected::Fenced;
        }
        if epoch > current {
            return if sequence == 0 { Expected::Append } else { Expected::OutOfSequence };
        }
        let mut known = self.batches.iter().rev().take(BATCHES).enumerate();
        let same = |batch: &Batch| {
            (batch.epoch, batch.sequence, batch.records) == (epoch, sequence, records)
        };
        if let Some((back, batch)) = known.find(|(_, batch)| same(batch)) {
            let or_refused = back > 0 && batch.may_be_forgotten;
            return Expected::Known { offsets: batch.offsets, or_refused };
        }
        if sequence == next { Expected::Append } else { Expected::OutOfSequence }
    }

    pub(crate) fn appended(&mut self, epoch: i16, sequence: i32, offsets: (usize, usize)) {
        let records = offsets.1 + 1 - offsets.0;
        let may_be_forgotten = false;
        self.batches.push_back(Batch { epoch, sequence, records, offsets, may_be_forgotten });
        // As many as a crash may take, and those that may be repeated.
        if self.batches.len() > 500 {
            self.batches.pop_front();
        }
    }
}

/// A batch of an idempotent producer.
pub(crate) fn encode(producer: batch::Producer, records: &[Appended]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
    for record in records {
        let value = record.value.as_deref().map(str::as_bytes);
        builder.append(record.time, Some(record.key.as_bytes()), value, []).unwrap();
    }
    builder.finish().unwrap()
}
