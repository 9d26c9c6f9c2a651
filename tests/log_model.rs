//! A log against a plain model: random appends, reads, cuts, passes of retention and compaction, crashes and openings, by a
//! seed that is printed.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/model.rs"]
mod model;
#[path = "log/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Appended, DELETE_RETENTION_MS, Disk, Expected, Model, PRODUCERS, encode};
use peermq::log::format::batch::Producer;
use peermq::log::storage::MemoryStorage;
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::{
    Level, Log, LogError, ManualClock, MemberOptions, OffsetCommit, Position, Ticket, TopicOptions,
    TopicPartition,
};
use support::{DIRECTORY, Random, small};

/// How long records stay in the topic that is not compacted.
const RETENTION_MS: i64 = 40_000;
/// Bytes that stay there.
const RETENTION_BYTES: u64 = 3_000;
/// Topic and number of the first partitions: one that is compacted, and two that are cut by age and size.
const PARTITIONS: [(&str, u32); 3] = [("c", 0), ("t", 0), ("t", 1)];
/// The one that is compacted.
const COMPACTED: usize = 0;
/// The one that a group commits offsets of.
const READ: usize = 1;
/// Most partitions of the topic that is cut.
const PARTITIONS_MAX: u32 = 4;

struct Run<D> {
    random: Random,
    storage: D,
    clock: Arc<ManualClock>,
    now: i64,
    log: Option<Log>,
    /// Topic and number of each partition.
    places: Vec<(&'static str, u32)>,
    partitions: Vec<Model>,
    /// What the group has committed.
    committed: Option<usize>,
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
            places: PARTITIONS.into(),
            committed: None,
            partitions: PARTITIONS
                .map(|(topic, _)| Model { compacted: topic == "c", ..Model::default() })
                .into(),
            tickets: Vec::new(),
            reopens,
            rarely,
        };
        run.open();
        let (cut, compacted) = (run.cut_options(), run.compacted_options());
        run.log().create_topic("t", cut).unwrap();
        run.log().create_topic("c", compacted).unwrap();
        run
    }

    /// Small sizes of any kind, some of which hold a record each.
    fn sizes(&mut self) -> TopicOptions {
        let batch_bytes = 80 + self.random.below(200) as u32;
        let segment_bytes = 400 + self.random.below(500) as u32;
        let index_interval_bytes = 50 + self.random.below(400) as u32;
        let options = small().batch_bytes(batch_bytes).segment_bytes(segment_bytes);
        // Three of the largest records in one batch.
        let options = options.record_bytes_max(1_200);
        options.index_interval_bytes(index_interval_bytes).segment_ms(50_000)
    }

    /// Options of the topic that is cut by age and size.
    fn cut_options(&mut self) -> TopicOptions {
        let retention = Duration::from_millis(RETENTION_MS as u64);
        let options = self.sizes().partitions(self.places.len() as u32 - 1);
        options.retention(Some(retention)).retention_bytes(Some(RETENTION_BYTES))
    }

    /// Options of the topic that is compacted.
    fn compacted_options(&mut self) -> TopicOptions {
        let delete_retention = Duration::from_millis(DELETE_RETENTION_MS as u64);
        let percent = 10 + self.random.below(50) as u32;
        self.sizes().compact(true).min_dirty_percent(percent).delete_retention(delete_retention)
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
            0..=47 => self.append(),
            48..=53 => self.produce(),
            54 if self.random.below(self.rarely) == 0 => match self.random.below(8) {
                0..=5 => self.transact(),
                6 => self.commit_offset(),
                _ => self.alter(),
            },
            54 => self.append(),
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
        let index = self.random.below(self.places.len() as u64) as usize;
        (index, self.places[index].0, self.places[index].1)
    }

    /// Makes a record for a partition, which will have this offset.
    fn record(&mut self, index: usize, offset: usize) -> Appended {
        let time = 1_000 + self.random.below(5_000) as i64;
        let limit = if self.random.below(10) == 0 { 300 } else { 30 };
        let size = self.random.below(limit) as usize;
        let key = format!("{}", self.random.below(25));
        let value = (index != COMPACTED || self.random.below(5) > 0)
            .then(|| format!("{offset} {}", "v".repeat(size)));
        Appended { time, key, value, appended: self.now, gone: false }
    }

    fn append(&mut self) {
        let (index, topic, partition) = self.choose();
        let level =
            [Level::Buffered, Level::Written, Level::Durable][self.random.below(3) as usize];
        let offset = self.partitions[index].end();
        let appended = self.record(index, offset);
        let topic = self.log().topic(topic).unwrap();
        let ticket = topic.append_to(partition, level, appended.new_record()).unwrap();
        assert_eq!((ticket.offset(), ticket.partition()), (offset as i64, partition));
        self.partitions[index].records.push(appended);
        self.tickets.push((ticket, index));
    }

    /// Records for any partitions, all or none, perhaps with an offset of the group.
    fn transact(&mut self) {
        let log = self.log().clone();
        let offset = self.random.below(self.partitions[READ].written as u64 + 1) as usize;
        let mut transaction = log.transaction();
        let mut expected = Vec::new();
        for _ in 0..self.random.below(4) {
            let (index, topic, partition) = self.choose();
            let offset = self.partitions[index].end();
            let appended = self.record(index, offset);
            transaction.append_to(topic, partition, appended.new_record()).unwrap();
            self.partitions[index].records.push(appended);
            expected.push((TopicPartition::new(topic, partition), offset as i64));
        }
        // The member leaves when all is done.
        let member = (self.random.below(4) == 0)
            .then(|| log.group("g").unwrap().join(MemberOptions::new(["t"])).unwrap());
        if let Some(member) = &member {
            let offsets = [OffsetCommit::new("t", 0, offset as i64)];
            transaction.commit_offsets(&member.membership(), &offsets).unwrap();
        }
        // What has gathered for its partitions before is in front of it.
        assert_eq!(transaction.commit().unwrap(), expected);
        for (place, _) in &expected {
            let place = (&*place.topic, place.partition);
            let index = self.places.iter().position(|known| *known == place).unwrap();
            self.partitions[index].all_durable();
        }
        if member.is_some() {
            self.committed = Some(offset);
        }
        self.check_committed();
    }

    fn commit_offset(&mut self) {
        let offset = self.random.below(self.partitions[READ].written as u64 + 1) as usize;
        let offsets = [OffsetCommit::new("t", 0, offset as i64)];
        self.log().group("g").unwrap().set_offsets(&offsets).unwrap();
        self.committed = Some(offset);
        self.check_committed();
    }

    /// What was committed is there, and what it says was read is durable.
    fn check_committed(&mut self) {
        let committed = self.log().group("g").unwrap().committed("t", 0).unwrap();
        let committed = committed.map(|committed| committed.offset as usize);
        assert_eq!(committed, self.committed);
        let model = &mut self.partitions[READ];
        model.durable = model.durable.max(committed.unwrap_or(0));
        model.written = model.written.max(model.durable);
    }

    /// Other options for a topic, and perhaps one partition more, while it is in use.
    fn alter(&mut self) {
        if self.random.below(2) == 0 {
            let options = self.compacted_options();
            self.log().alter_topic("c", options).unwrap();
            return;
        }
        let partitions = self.places.len() as u32 - 1;
        if partitions < PARTITIONS_MAX && self.random.below(4) == 0 {
            self.places.push(("t", partitions));
            self.partitions.push(Model::default());
        }
        let options = self.cut_options();
        let topic = self.log().alter_topic("t", options).unwrap();
        assert_eq!(topic.partitions() as usize, self.places.len() - 1);
    }

    /// A batch of an idempotent producer: the next one, one that was sent before, one behind a gap, or of another epoch.
    fn produce(&mut self) {
        let (index, topic, partition) = self.choose();
        let number = self.random.below(PRODUCERS);
        let producer = &self.partitions[index].producers[number as usize];
        let ((mut epoch, mut sequence), mut count) =
            (producer.next(), 1 + self.random.below(3) as usize);
        match self.random.below(12) {
            0..=3 => {
                if let Some(sent) = producer.batch(self.random.below(7) as usize) {
                    (epoch, sequence, count) = (sent.epoch, sent.sequence, sent.records);
                }
            }
            4 => sequence += 1 + self.random.below(3) as i32,
            5 if self.random.below(5) == 0 => (epoch, sequence) = (epoch + 1, 0),
            5 => epoch += 1,
            6 if epoch > 0 => epoch -= 1,
            _ => {}
        }
        let expected = producer.expected(epoch, sequence, count);
        let first = self.partitions[index].end();
        let records: Vec<_> = (first..first + count).map(|at| self.record(index, at)).collect();
        let id = 100 + number as i64;
        let batch = encode(Producer { id, epoch, base_sequence: sequence }, &records);
        let topic = self.log().topic(topic).unwrap();
        let outcome = topic.append_batch(partition, Level::Durable, &batch);
        let model = &mut self.partitions[index];
        match (outcome, expected) {
            (Ok(ticket), Expected::Append) => {
                let offsets = (first, first + count - 1);
                assert_eq!(
                    (ticket.first_offset(), ticket.offset()),
                    (first as i64, offsets.1 as i64)
                );
                model.records.extend(records);
                model.producers[number as usize].appended(epoch, sequence, offsets);
                self.tickets.push((ticket, index));
            }
            (Ok(ticket), Expected::Known { offsets, .. }) => {
                let found = (ticket.first_offset() as usize, ticket.offset() as usize);
                assert_eq!(found, offsets, "another place than it got");
                self.tickets.push((ticket, index));
            }
            (
                Err(LogError::OutOfSequence { .. }),
                Expected::OutOfSequence | Expected::Known { or_refused: true, .. },
            )
            | (Err(LogError::Fenced { .. }), Expected::Fenced) => {}
            (outcome, expected) => panic!("{outcome:?}, not {expected:?}"),
        }
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
        for (number, described) in topic.describe().partitions.iter().enumerate() {
            let index = number + 1;
            let (model, earliest) = (&mut self.partitions[index], described.earliest as usize);
            assert!(earliest >= model.start);
            if described.bytes < RETENTION_BYTES {
                for removed in &model.records[model.start..earliest] {
                    let age = self.now - removed.appended;
                    assert!(age > RETENTION_MS, "removed when it was {age} old");
                }
            }
            model.start = earliest;
            // A segment is not much above 1000 bytes here, and as much more may be in the one that is appended to.
            assert!(described.bytes < RETENTION_BYTES + 2_500, "{described:?}");
        }
    }

    fn close(&mut self) {
        self.tickets.clear();
        self.log.take().unwrap().close().unwrap();
        for model in &mut self.partitions {
            model.all_durable();
            model.reopened(model.end());
        }
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
        for (model, (topic, number)) in self.partitions.iter_mut().zip(self.places.iter().copied())
        {
            let topic = self.log.as_ref().unwrap().topic(topic).unwrap();
            let described = topic.describe_partition(number).unwrap();
            let end = described.end as usize;
            let at_least = if power { model.durable } else { model.written };
            assert!((at_least..=model.end()).contains(&end), "{end}, not {at_least}");
            assert_eq!(described.earliest as usize, model.start);
            model.reopened(end);
        }
        self.check();
    }

    /// Reads everything.
    fn check(&mut self) {
        self.check_committed();
        for (model, (topic, number)) in self.partitions.iter_mut().zip(self.places.iter().copied())
        {
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
        let options = self.compacted_options().min_dirty_percent(0);
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
        let rest = left.iter().filter(|at| !expected.contains(at));
        let rest: Vec<_> = rest.map(|at| (at, &model.records[*at as usize])).collect();
        assert_eq!(left, expected, "{rest:?}");
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
