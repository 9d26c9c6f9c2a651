//! A log on real files below the temporary directory: appending, appending durably, reading, and from an append to its
//! delivery.
//!
//! ```sh
//! cargo bench --features log --bench log
//! ```

#![allow(clippy::expect_used)] // A benchmark that fails has nothing better to do than to stop.

#[allow(dead_code, reason = "sockets and messages are not measured here")]
mod common;

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use peermq::log::{Level, Log, Position, Topic, TopicOptions};

use common::criterion;

const SIZES_BYTES: [usize; 2] = [100, 1024];

/// Bytes of the records of a log that is read.
const READ_BYTES: usize = 64 << 20;

/// Of the topic: what a round appends to is made and deleted by it.
const TOPIC: &str = "records";

fn main() {
    let mut criterion = criterion();
    let directory = Directory::new();
    let log = Log::open(directory.0.join("log")).expect("a log");
    append(&mut criterion, &log);
    append_durably(&mut criterion, &log);
    read(&mut criterion, &log);
    deliver(&mut criterion, log);
    criterion.final_summary();
}

/// A directory that is removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("peermq-benches-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans temporary directories.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Does something with a topic that is there for it alone.
fn with_topic<T>(log: &Log, level: Level, run: impl FnOnce(&Topic) -> T) -> T {
    let options = TopicOptions::default().level(level);
    let result = run(&log.create_topic(TOPIC, options).expect("a topic"));
    log.delete_topic(TOPIC).expect("deleted");
    result
}

/// Appends so many records one by one and waits until all are written.
fn append_all(topic: &Topic, value: &[u8], records: u64) {
    for _ in 1..records {
        let _ticket = topic.append(value).expect("appended");
    }
    topic.append(value).expect("appended").wait().expect("written");
}

fn append(criterion: &mut Criterion, log: &Log) {
    let mut group = criterion.benchmark_group("log/append");
    for size in SIZES_BYTES {
        let value = vec![b'x'; size];
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|records| {
                with_topic(log, Level::Written, |topic| {
                    let start = Instant::now();
                    append_all(topic, &value, records);
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
}

fn append_durably(criterion: &mut Criterion, log: &Log) {
    let mut group = criterion.benchmark_group("log/append-durably");
    let value = [b'x'; 100];
    group.throughput(Throughput::Elements(1));
    group.bench_function("one caller", |bencher| {
        bencher.iter_custom(|records| {
            with_topic(log, Level::Durable, |topic| {
                let start = Instant::now();
                for _ in 0..records {
                    topic.append(&value).expect("appended").wait().expect("durable");
                }
                start.elapsed()
            })
        });
    });
    group.finish();
}

fn read(criterion: &mut Criterion, log: &Log) {
    let mut group = criterion.benchmark_group("log/read");
    for size in SIZES_BYTES {
        let records = (READ_BYTES / size) as u64;
        let bytes = records * size as u64;
        group.throughput(Throughput::ElementsAndBytes { elements: records, bytes });
        with_topic(log, Level::Written, |topic| {
            append_all(topic, &vec![b'x'; size], records);
            group.bench_function(BenchmarkId::new("lent", size), |bencher| {
                bencher.iter(|| assert_eq!(visit(topic), records));
            });
            group.bench_function(BenchmarkId::new("to keep", size), |bencher| {
                bencher.iter(|| assert_eq!(take(topic), records));
            });
        });
    }
    group.finish();
}

/// Visits all records; how many there are.
fn visit(topic: &Topic) -> u64 {
    let (mut count, mut scratch) = (0, Vec::new());
    let mut reader = topic.read(0, Position::Earliest).expect("a reader");
    while let Some(batch) = reader.next_batch().expect("read") {
        let visited = batch.visit(&mut scratch, |_, _, record| {
            black_box(record);
            count += 1;
            true
        });
        visited.expect("sound records");
    }
    count
}

/// Takes all records; how many there are.
fn take(topic: &Topic) -> u64 {
    let mut count = 0;
    for record in topic.read(0, Position::Earliest).expect("a reader") {
        black_box(&record.expect("read"));
        count += 1;
    }
    count
}

/// From before an append until a thread that follows has told of the record.
fn deliver(criterion: &mut Criterion, log: Log) {
    let options = TopicOptions::default().level(Level::Written);
    let topic = log.create_topic(TOPIC, options).expect("a topic");
    let follower = topic.read(0, Position::Earliest).expect("a reader").follow();
    let (got, gets) = sync_channel::<()>(1);
    let following = thread::spawn(move || {
        for record in follower {
            black_box(&record.expect("followed"));
            if got.send(()).is_err() {
                return;
            }
        }
    });
    let round = || -> Duration {
        let start = Instant::now();
        let _ticket = topic.append(&[b'x'; 100]).expect("appended");
        gets.recv().expect("the follower is there");
        start.elapsed()
    };
    let mut group = criterion.benchmark_group("log/deliver");
    group.throughput(Throughput::Elements(1));
    group.bench_function("and tell", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| round()).sum());
    });
    group.finish();
    log.close().expect("closed");
    following.join().expect("the follower ended with the log");
}
