//! A log against a plain model: random appends, reads, cuts, passes of retention and compaction, crashes and openings, by a
//! seed that is printed.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, OpenMode, Storage};
use peermq::log::{
    Level, Log, LogError, LogRecord, ManualClock, NewRecord, Position, Ticket, TopicOptions,
};
use support::{DIRECTORY, Random, files, small};

/// How long records stay in the topic that is not compacted.
const RETENTION_MS: i64 = 40_000;
/// Bytes that stay there.
const RETENTION_BYTES: u64 = 3_000;
/// How long tombstones stay in the other one.
const DELETE_RETENTION_MS: i64 = 5_000;

/// Topic and number of the partitions: two that are cut by age and size, one that is compacted.
const PARTITIONS: [(&str, u32); 3] = [("t", 0), ("t", 1), ("c", 0)];
/// The one that is compacted.
const COMPACTED: usize = 2;

/// A storage that can crash.
trait Disk: Storage + Clone + 'static {
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
struct Appended {
    time: i64,
    key: String,
    value: Option<String>,
    /// By the log's clock.
    appended: i64,
    /// Compaction has removed it: it must never come back.
    gone: bool,
}

impl Appended {
    /// Whether a record that was read is this one.
    fn is(&self, record: &LogRecord) -> bool {
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
struct Model {
    compacted: bool,
    /// All records from offset 0 on, whether they were cut from the front or not.
    records: Vec<Appended>,
    start: usize,
    written: usize,
    durable: usize,
}

impl Model {
    /// Checks one record that was read after all before `from` were dealt with; returns the offset after it. What was
    /// skipped must be superseded, or a tombstone that was there for long enough.
    fn read(&mut self, from: usize, record: &LogRecord, now: i64) -> usize {
        let offset = record.offset as usize;
        assert!(offset >= from, "{offset} comes after {from}");
        assert!(self.records[offset].is(record), "{record:?} is not {:?}", self.records[offset]);
        assert!(!self.records[offset].gone, "{offset} has come back");
        self.skip(from, offset, now);
        offset + 1
    }

    /// Notes that nothing is left between two offsets.
    fn skip(&mut self, from: usize, to: usize, now: i64) {
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

    fn end(&self) -> usize {
        self.records.len()
    }

    fn all_durable(&mut self) {
        (self.written, self.durable) = (self.end(), self.end());
    }
}

struct Run<D> {
    random: Random,
    storage: D,
    clock: Arc<ManualClock>,
    now: i64,
    log: Option<Log>,
    partitions: Vec<Model>,
    tickets: Vec<(Ticket, usize)>,
    /// One of so many steps opens the log anew.
    reopens: u64,
    /// How much more seldom than otherwise passes of maintenance are, which cost most.
    rarely: u64,
}

impl<D: Disk> Run<D> {
    fn new(seed: u64, reopens: u64, rarely: u64) -> Self {
        let now = 1_000;
        let mut run = Self {
            random: Random(seed),
            storage: D::empty(),
            clock: Arc::new(ManualClock::new(now)),
            now,
            log: None,
            partitions: PARTITIONS
                .map(|(topic, _)| Model { compacted: topic == "c", ..Model::default() })
                .into(),
            tickets: Vec::new(),
            reopens,
            rarely,
        };
        run.open();
        let retention = Duration::from_millis(RETENTION_MS as u64);
        let options: TopicOptions = small().partitions(2).segment_ms(50_000);
        let options = options.retention(Some(retention)).retention_bytes(Some(RETENTION_BYTES));
        run.log().create_topic("t", options).unwrap();
        let delete_retention = Duration::from_millis(DELETE_RETENTION_MS as u64);
        let options = small().compact(true).min_dirty_percent(30).segment_ms(50_000);
        run.log().create_topic("c", options.delete_retention(delete_retention)).unwrap();
        run
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn open(&mut self) {
        let options = Log::options().storage(Arc::new(self.storage.clone())).linger(None);
        // Room for few keys, so that compaction goes on in parts.
        let options = options.compaction_bytes(24 * 16);
        self.log = Some(options.clock(self.clock.clone()).open(DIRECTORY).unwrap());
    }

    fn step(&mut self) {
        if self.random.below(self.reopens) == 0 {
            match self.random.below(5) {
                0..=1 => self.close(),
                2..=3 => self.crash(true),
                _ => self.crash(false),
            }
            return;
        }
        match self.random.below(95) {
            0..=54 => self.append(),
            55..=69 => self.wait(),
            70..=81 => self.read(),
            82..=85 => self.find_time(),
            86..=88 => self.cut_front(),
            89..=91 if self.random.below(self.rarely) == 0 => self.maintain(),
            89..=91 => self.append(),
            _ => {
                self.now += self.random.next() as i64 & 0xfff;
                self.clock.set(self.now);
            }
        }
    }

    /// A partition of the model, with its topic and number.
    fn choose(&mut self) -> (usize, &'static str, u32) {
        let index = self.random.below(PARTITIONS.len() as u64) as usize;
        (index, PARTITIONS[index].0, PARTITIONS[index].1)
    }

    fn append(&mut self) {
        let (index, topic, partition) = self.choose();
        let level =
            [Level::Buffered, Level::Written, Level::Durable][self.random.below(3) as usize];
        let time = 1_000 + self.random.below(5_000) as i64;
        let limit = if self.random.below(10) == 0 { 300 } else { 30 };
        let size = self.random.below(limit) as usize;
        let key = format!("{}", self.random.below(25));
        let model = &mut self.partitions[index];
        let offset = model.end();
        let value = (index != COMPACTED || self.random.below(5) > 0)
            .then(|| format!("{offset} {}", "v".repeat(size)));
        let record = match &value {
            Some(value) => NewRecord::new(value).key(&key),
            None => NewRecord::tombstone(&key),
        };
        let topic = self.log.as_ref().unwrap().topic(topic).unwrap();
        let ticket = topic.append_to(partition, level, record.timestamp_ms(time)).unwrap();
        assert_eq!((ticket.offset(), ticket.partition()), (offset as i64, partition));
        model.records.push(Appended { time, key, value, appended: self.now, gone: false });
        self.tickets.push((ticket, index));
    }

    fn wait(&mut self) {
        if self.tickets.is_empty() {
            return;
        }
        let index = self.random.below(self.tickets.len() as u64) as usize;
        let (ticket, partition) = self.tickets.swap_remove(index);
        let (level, model) = (ticket.level(), &mut self.partitions[partition]);
        let end = ticket.wait().unwrap() as usize + 1;
        if level >= Level::Written {
            model.written = model.written.max(end);
        }
        if level == Level::Durable {
            model.durable = model.durable.max(end);
        }
    }

    fn read(&mut self) {
        let (index, topic, partition) = self.choose();
        let topic = self.log().topic(topic).unwrap();
        let model = &mut self.partitions[index];
        // Not always far from the end, where most of it is gone.
        let span = if self.random.below(2) == 0 { model.end() } else { model.end().min(60) };
        let from = model.end() - self.random.below(span as u64 + 1) as usize;
        let reader = topic.read(partition, Position::Offset(from as i64));
        if from < model.start {
            assert!(matches!(reader, Err(LogError::OffsetOutOfRange { .. })));
            return;
        }
        let (mut end, mut count) = (from, 0);
        let mut reader = reader.unwrap().chunk_bytes(300);
        while count < 20
            && let Some(record) = reader.next_record().unwrap()
        {
            end = model.read(end, &record, self.now);
            assert_eq!(reader.next_offset(), end as i64);
            count += 1;
        }
        if count < 20 {
            let next = reader.next_offset() as usize;
            model.skip(end, next, self.now);
            end = next;
            assert!(end >= model.written, "ends at {end}, {} written", model.written);
        }
        // What can be read survives a kill.
        model.written = model.written.max(end);
    }

    fn find_time(&mut self) {
        let (index, topic, partition) = self.choose();
        let time = self.random.below(7_000) as i64;
        let topic = self.log.as_ref().unwrap().topic(topic).unwrap();
        let found = topic.offset_of(partition, Position::Time(time)).unwrap();
        let model = &mut self.partitions[index];
        // Looking for a time writes what has gathered.
        model.written = model.end();
        let expected = if index == COMPACTED {
            let records = topic.read(partition, Position::Earliest).unwrap().map(Result::unwrap);
            let mut late = records.filter(|record| record.timestamp_ms >= time);
            late.next().map_or(model.end(), |record| record.offset as usize)
        } else {
            let mut late = (model.start..model.end()).filter(|at| model.records[*at].time >= time);
            late.next().unwrap_or(model.end())
        };
        assert_eq!(found, expected as i64, "first at {time} or later");
    }

    fn cut_front(&mut self) {
        let (index, topic, partition) = self.choose();
        let topic = self.log().topic(topic).unwrap();
        let model = &mut self.partitions[index];
        // Seldom all of it.
        let span = (model.end() - model.start) as u64;
        let to = model.start + (self.random.below(span + 1) * self.random.below(8) / 7) as usize;
        topic.truncate_front(partition, to as i64).unwrap();
        model.start = model.start.max(to);
        model.all_durable();
    }

    fn maintain(&mut self) {
        self.log().maintain().unwrap();
        let topic = self.log.as_ref().unwrap().topic("t").unwrap();
        for (index, described) in topic.describe().partitions.iter().enumerate() {
            let (model, earliest) = (&mut self.partitions[index], described.earliest as usize);
            assert!(earliest >= model.start);
            if described.bytes < RETENTION_BYTES {
                for removed in &model.records[model.start..earliest] {
                    let age = self.now - removed.appended;
                    assert!(age > RETENTION_MS, "removed when it was {age} old");
                }
            }
            model.start = earliest;
            // A segment is below 1000 bytes here, and as much more may be in the one that is appended to.
            assert!(described.bytes < RETENTION_BYTES + 2_000, "{described:?}");
        }
    }

    fn close(&mut self) {
        self.tickets.clear();
        self.log.take().unwrap().close().unwrap();
        self.partitions.iter_mut().for_each(Model::all_durable);
        self.open();
        self.check();
    }

    fn crash(&mut self, power: bool) {
        self.storage =
            if power { self.storage.cut(self.random.next()) } else { self.storage.killed() };
        self.tickets.clear();
        // What the old one does when it is dropped does not reach the new storage.
        self.log = None;
        self.open();
        for (model, (topic, number)) in self.partitions.iter_mut().zip(PARTITIONS) {
            let topic = self.log.as_ref().unwrap().topic(topic).unwrap();
            let described = topic.describe_partition(number).unwrap();
            let end = described.end as usize;
            let at_least = if power { model.durable } else { model.written };
            assert!((at_least..=model.end()).contains(&end), "{end}, not {at_least}");
            assert_eq!(described.earliest as usize, model.start);
            model.records.truncate(end);
            (model.written, model.durable) = (end, model.durable.min(end));
        }
        self.check();
    }

    /// Reads everything.
    fn check(&mut self) {
        for (model, (topic, number)) in self.partitions.iter_mut().zip(PARTITIONS) {
            let topic = self.log.as_ref().unwrap().topic(topic).unwrap();
            let (mut offset, start) = (model.start, model.start);
            for record in topic.read(number, Position::Earliest).unwrap() {
                offset = model.read(offset, &record.unwrap(), self.now);
            }
            model.skip(offset, model.end(), self.now);
            assert_eq!(topic.offset_of(number, Position::Earliest).unwrap(), start as i64);
        }
    }

    /// Compacts everything that there is, and checks that of each key the last record is left, and no tombstone.
    fn check_at_end(&mut self) {
        self.log().sync().unwrap();
        self.check();
        let topic = self.log.as_ref().unwrap().topic("c").unwrap();
        let delete_retention = Duration::from_millis(DELETE_RETENTION_MS as u64);
        let options = small().compact(true).min_dirty_percent(0).segment_ms(50_000);
        let options = options.delete_retention(delete_retention);
        self.log.as_ref().unwrap().alter_topic("c", options).unwrap();
        // What was begun so long ago is ended, then compacted; then the tombstones' time is over.
        for pause in [50_001, DELETE_RETENTION_MS + 1] {
            self.now += pause;
            self.clock.set(self.now);
            self.maintain();
        }
        let model = &mut self.partitions[COMPACTED];
        let mut last = BTreeMap::new();
        for (offset, record) in model.records.iter().enumerate().skip(model.start) {
            last.insert(&record.key, (offset, record.value.is_some()));
        }
        let mut expected: Vec<_> =
            last.into_values().filter(|(_, valued)| *valued).map(|(at, _)| at as i64).collect();
        expected.sort_unstable();
        let records = topic.read(0, Position::Earliest).unwrap();
        let left: Vec<_> = records.map(|record| record.unwrap().offset).collect();
        assert_eq!(left, expected);
        self.check();
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs so many steps for each seed; one of `reopens` opens the log anew.
fn run<D: Disk>(seeds: u64, steps: u64, reopens: u64, rarely: u64) {
    let first = setting("PEERMQ_LOG_SEED", 1);
    for seed in first..first + seeds {
        println!("PEERMQ_LOG_SEED={seed}");
        let mut run = Run::<D>::new(seed, reopens, rarely);
        for _ in 0..steps {
            run.step();
        }
        run.check_at_end();
    }
    println!("{} steps", seeds * steps);
}

#[test]
fn random_operations_and_power_cuts_agree_with_a_plain_model() {
    let (seeds, steps) = (setting("PEERMQ_LOG_SEEDS", 20), setting("PEERMQ_LOG_STEPS", 1_500));
    run::<FaultyStorage>(seeds, steps, 20, 1);
}

#[test]
fn millions_of_random_operations_agree_with_a_plain_model() {
    run::<MemoryStorage>(1, setting("PEERMQ_LOG_CHEAP_STEPS", 2_000_000), 5_000, 10);
}
