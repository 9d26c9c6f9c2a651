//! A process that appends is killed at random moments, again and again: whatever it acknowledged is there afterwards,
//! where it said, and nothing is there that it was never given.
//!
//! `PEERMQ_LOG_KILLS` sets the number of kills (50; the long form has 1,000), `PEERMQ_LOG_KILL_SEED` the seed.

#![cfg(all(unix, feature = "log"))]
#![allow(clippy::unwrap_used)]

#[path = "log/program.rs"]
mod program;
#[path = "log/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::thread;

use peermq::log::inspect::Inspector;
use peermq::log::{Log, Position, TopicOptions};
use program::{Directory, command};
use support::Random;

const PARTITIONS: u32 = 3;
/// Most acknowledgements that a cycle waits for before it kills.
const ACKS_MAX: u64 = 1500;

/// What is known to be in the log: by partition and offset.
type Known = BTreeMap<(u32, i64), String>;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// What one killed process was given, and what it acknowledged.
struct Cycle {
    name: String,
    /// Lines that were handed to it, the last perhaps in part.
    given: u64,
    acknowledged: Vec<(u32, i64)>,
}

/// The record `n` of a cycle. Some are long, so that a kill finds half-written batches.
fn value(cycle: &str, n: u64) -> String {
    let long = if n.is_multiple_of(97) { 5000 } else { n as usize % 40 };
    format!("{cycle} {n} {}", "x".repeat(long))
}

/// Starts the program, feeds it, and kills it after so many acknowledgements.
fn run_and_kill(log: &str, name: String, level: &str, kill_after: u64) -> Cycle {
    let mut child = command(&["append", log, "t", "--acks", "--level", level]).spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let feeder = thread::spawn({
        let name = name.clone();
        move || {
            let mut given = 0;
            loop {
                given += 1;
                // The end shows as a broken pipe.
                if writeln!(stdin, "{}", value(&name, given - 1)).is_err() {
                    return given;
                }
            }
        }
    });
    let mut acknowledged = Vec::new();
    let mut killed = kill_after == 0;
    if killed {
        child.kill().unwrap();
    }
    // What it printed before its end is read to the end; the last line may be a part of one.
    let (mut stdout, mut line) = (BufReader::new(stdout), String::new());
    while stdout.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        let (partition, offset) = line.trim_end().split_once(' ').unwrap();
        acknowledged.push((partition.parse().unwrap(), offset.parse().unwrap()));
        if !killed && acknowledged.len() as u64 >= kill_after {
            child.kill().unwrap();
            killed = true;
        }
        line.clear();
    }
    let output = child.wait_with_output().unwrap();
    assert!(killed, "it ended by itself: {}", String::from_utf8_lossy(&output.stderr));
    let given = feeder.join().unwrap();
    Cycle { name, given, acknowledged }
}

/// The records of a partition from an offset on.
fn read(log: &Log, partition: u32, from: i64) -> Vec<(i64, String)> {
    let reader = log.topic("t").unwrap().read(partition, Position::Offset(from)).unwrap();
    let row = |record: peermq::log::LogRecord| {
        (record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap())
    };
    reader.map(|record| row(record.unwrap())).collect()
}

/// Opens the log as the next process would, and compares.
fn check(log: &str, cycle: &Cycle, known: &mut Known, context: &str) {
    let report = Inspector::new().verify(log).unwrap();
    assert!(report.is_sound(), "{context}: {:#?}", report.findings);
    let log = Log::options().linger(None).create(false).open(log).unwrap();
    let mut given: BTreeSet<String> = (0..cycle.given).map(|n| value(&cycle.name, n)).collect();
    let mut fresh = Known::new();
    for partition in 0..PARTITIONS {
        let end = known.range((partition, 0)..(partition + 1, 0)).next_back();
        let from = end.map_or(0, |((_, offset), _)| offset + 1);
        for (next, (offset, value)) in (from..).zip(read(&log, partition, from)) {
            assert_eq!(offset, next, "{context}: partition {partition} has a gap");
            let new = given.remove(&value);
            assert!(new, "{context}: {partition} {offset} was never given, or is there twice");
            fresh.insert((partition, offset), value);
        }
    }
    check_order(cycle, &fresh, context);
    known.extend(fresh);
    log.close().unwrap();
}

/// Everything acknowledged is there, and records that have no key keep their order.
fn check_order(cycle: &Cycle, fresh: &Known, context: &str) {
    for (n, place) in cycle.acknowledged.iter().enumerate() {
        // Acknowledgements come in the order of the lines.
        let expected = value(&cycle.name, n as u64);
        assert_eq!(fresh.get(place), Some(&expected), "{context}: record {n} at {place:?}");
    }
    let number = |value: &str| value.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    for partition in 0..PARTITIONS {
        let of_partition = fresh.range((partition, 0)..(partition + 1, 0));
        let numbers: Vec<u64> = of_partition.map(|(_, value)| number(value)).collect();
        assert!(numbers.is_sorted(), "{context}: partition {partition} is out of order");
    }
}

#[test]
fn whatever_was_acknowledged_before_a_kill_is_there_after_it_and_nothing_else() {
    let cycles = setting("PEERMQ_LOG_KILLS").unwrap_or(50);
    let seed = setting("PEERMQ_LOG_KILL_SEED").unwrap_or_else(|| {
        u64::from(std::process::id()) ^ std::ptr::from_ref(&cycles).addr() as u64
    });
    println!("seed {seed}, {cycles} kills");
    let mut random = Random(seed);
    let directory = Directory::new("kill");
    let log = directory.join("log");
    let options = TopicOptions::default()
        .partitions(PARTITIONS)
        .segment_bytes(64 << 10)
        .batch_bytes(2 << 10)
        .index_interval_bytes(512);
    let made = Log::open(&log).unwrap();
    made.create_topic("t", options).unwrap();
    made.close().unwrap();
    let mut known = Known::new();
    for number in 0..cycles {
        let level = if random.below(2) == 0 { "durable" } else { "written" };
        // Often while it opens the log or has just begun.
        let kill_after = match random.below(4) {
            0 => random.below(3),
            _ => random.below(ACKS_MAX),
        };
        let cycle = run_and_kill(&log, format!("c{number}"), level, kill_after);
        let context = format!("seed {seed}, cycle {number}, {level}, killed after {kill_after}");
        check(&log, &cycle, &mut known, &context);
    }
    // Nothing that was there once has changed.
    let log = Log::open(&log).unwrap();
    for partition in 0..PARTITIONS {
        for (offset, value) in read(&log, partition, 0) {
            let before = known.remove(&(partition, offset));
            assert_eq!(before.as_ref(), Some(&value), "seed {seed}: {partition} {offset}");
        }
    }
    assert!(known.is_empty(), "seed {seed}: {} records are gone", known.len());
}
