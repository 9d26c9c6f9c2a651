//! A log against a plain model: random appends, reads, cuts, crashes and openings, by a seed that is printed.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::sync::Arc;

use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::{Level, Log, LogError, ManualClock, NewRecord, Position, Ticket, TopicOptions};
use support::{DIRECTORY, Random, small};

/// What a partition must hold.
#[derive(Default)]
struct Model {
    /// (timestamp, value) of every offset from 0 on, whether it was cut from the front or not.
    records: Vec<(i64, String)>,
    start: usize,
    written: usize,
    durable: usize,
}

struct Run {
    random: Random,
    storage: FaultyStorage,
    clock: Arc<ManualClock>,
    log: Option<Log>,
    partitions: Vec<Model>,
    tickets: Vec<(Ticket, usize)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut run = Self {
            random: Random(seed),
            storage: FaultyStorage::new(),
            clock: Arc::new(ManualClock::new(1_000)),
            log: None,
            partitions: vec![Model::default(), Model::default()],
            tickets: Vec::new(),
        };
        run.open();
        let options: TopicOptions = small().partitions(2).segment_ms(50_000);
        run.log().create_topic("t", options).unwrap();
        run
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn open(&mut self) {
        let options = Log::options().storage(Arc::new(self.storage.clone())).linger(None);
        self.log = Some(options.clock(self.clock.clone()).open(DIRECTORY).unwrap());
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=54 => self.append(),
            55..=69 => self.wait(),
            70..=84 => self.read(),
            85..=89 => self.find_time(),
            90..=92 => self.cut_front(),
            93..=94 => self.close(),
            95..=96 => self.crash(true),
            97 => self.crash(false),
            _ => self.clock.advance(self.random.next() as i64 & 0x3fff),
        }
    }

    fn append(&mut self) {
        let partition = self.random.below(2) as usize;
        let level =
            [Level::Buffered, Level::Written, Level::Durable][self.random.below(3) as usize];
        let time = 1_000 + self.random.below(5_000) as i64;
        let limit = if self.random.below(10) == 0 { 300 } else { 30 };
        let size = self.random.below(limit);
        let model = &mut self.partitions[partition];
        let offset = model.records.len();
        let value = format!("{offset} {}", "v".repeat(size as usize));
        let record = NewRecord::new(&value).timestamp_ms(time);
        let topic = self.log.as_ref().unwrap().topic("t").unwrap();
        let ticket = topic.append_to(partition as u32, level, record).unwrap();
        assert_eq!((ticket.offset(), ticket.partition()), (offset as i64, partition as u32));
        model.records.push((time, value));
        self.tickets.push((ticket, partition));
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
        let partition = self.random.below(2) as usize;
        let topic = self.log().topic("t").unwrap();
        let from = self.random.below(self.partitions[partition].records.len() as u64 + 1) as usize;
        let model = &mut self.partitions[partition];
        let reader = topic.read(partition as u32, Position::Offset(from as i64));
        if from < model.start {
            assert!(matches!(reader, Err(LogError::OffsetOutOfRange { .. })));
            return;
        }
        let mut end = from;
        for record in reader.unwrap().chunk_bytes(300).take(20) {
            let record = record.unwrap();
            assert_eq!(record.offset, end as i64);
            let (time, value) = &model.records[end];
            assert_eq!(
                (record.timestamp_ms, &record.value.unwrap()[..]),
                (*time, value.as_bytes())
            );
            end += 1;
        }
        assert!(end >= model.written.min(from + 20), "ends at {end}, {} written", model.written);
        // What can be read survives a kill.
        model.written = model.written.max(end);
    }

    fn find_time(&mut self) {
        let partition = self.random.below(2) as usize;
        let time = self.random.below(7_000) as i64;
        let model = &mut self.partitions[partition];
        // Looking for a time writes what has gathered.
        model.written = model.records.len();
        let expected = (model.start..model.records.len())
            .find(|offset| model.records[*offset].0 >= time)
            .unwrap_or(model.records.len());
        let topic = self.log.as_ref().unwrap().topic("t").unwrap();
        let found = topic.offset_of(partition as u32, Position::Time(time)).unwrap();
        assert_eq!(found, expected as i64, "first at {time} or later");
    }

    fn cut_front(&mut self) {
        let partition = self.random.below(2) as usize;
        let topic = self.log().topic("t").unwrap();
        let end = self.partitions[partition].records.len() as u64;
        let to = self.random.below(end + 1) as usize;
        topic.truncate_front(partition as u32, to as i64).unwrap();
        let model = &mut self.partitions[partition];
        model.start = model.start.max(to);
        (model.written, model.durable) = (model.records.len(), model.records.len());
    }

    fn close(&mut self) {
        self.tickets.clear();
        self.log.take().unwrap().close().unwrap();
        for model in &mut self.partitions {
            (model.written, model.durable) = (model.records.len(), model.records.len());
        }
        self.open();
        self.check();
    }

    fn crash(&mut self, power: bool) {
        self.storage = if power {
            self.storage.power_cut(self.random.next()).storage()
        } else {
            self.storage.kill()
        };
        self.tickets.clear();
        // What the old one does when it is dropped does not reach the new storage.
        self.log = None;
        self.storage.forget_history();
        self.open();
        let topic = self.log.as_ref().unwrap().topic("t").unwrap();
        for (number, model) in self.partitions.iter_mut().enumerate() {
            let end = topic.describe_partition(number as u32).unwrap().end as usize;
            let at_least = if power { model.durable } else { model.written };
            assert!((at_least..=model.records.len()).contains(&end), "{end}, not {at_least}");
            model.records.truncate(end);
            (model.written, model.durable) = (end, model.durable.min(end));
        }
        self.check();
    }

    fn check(&self) {
        let topic = self.log().topic("t").unwrap();
        for (number, model) in self.partitions.iter().enumerate() {
            let mut offset = model.start;
            for record in topic.read(number as u32, Position::Earliest).unwrap() {
                let record = record.unwrap();
                assert_eq!(record.offset, offset as i64);
                assert_eq!(record.value.unwrap(), model.records[offset].1);
                offset += 1;
            }
            assert_eq!(offset, model.records.len());
        }
    }
}

#[test]
fn random_operations_agree_with_a_plain_model() {
    let setting = |name: &str, default| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (first, seeds) = (setting("PEERMQ_LOG_SEED", 1), setting("PEERMQ_LOG_SEEDS", 20));
    let steps = setting("PEERMQ_LOG_STEPS", 1_500u64);
    for seed in first..first + seeds {
        println!("PEERMQ_LOG_SEED={seed}");
        let mut run = Run::new(seed);
        for _ in 0..steps {
            run.step();
        }
        run.check_at_end();
    }
}

impl Run {
    fn check_at_end(&mut self) {
        self.log().sync().unwrap();
        self.check();
    }
}
