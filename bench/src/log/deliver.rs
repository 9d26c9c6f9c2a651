//! From the append to its delivery: a thread appends a record, a follower in the same process gets it and lets the first
//! go on.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use peermq::log::{Level, Position};

use super::{create, no_part, quantile};
use crate::outcome::{Outcome, failure};
use crate::peer::{Job, finish, tell};
use crate::system::now_ns;

pub(super) fn run(job: &Job, directory: &Path) -> Outcome {
    if job.library != "peermq" {
        return no_part(job);
    }
    let (_log, topic) = create(directory, Level::Written, 1)?;
    let mut follower = topic.read(0, Position::Earliest)?.follow();
    let (got, gets) = sync_channel::<u64>(1);
    let following = thread::spawn(move || -> Outcome {
        while let Some(record) = follower.next() {
            let value = record?.value.unwrap_or_default();
            let begun_ns = value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            if got.send(now_ns().saturating_sub(begun_ns)).is_err() {
                break;
            }
        }
        Ok(())
    });
    let mut value = vec![b'x'; job.size.max(8)];
    let mut deliver = || -> Outcome<u64> {
        if let Some(stamp) = value.first_chunk_mut() {
            *stamp = now_ns().to_le_bytes();
        }
        let _ticket = topic.append(&value)?;
        gets.recv().map_err(|_| failure("the follower ended"))
    };
    let warm = Instant::now();
    while warm.elapsed() < job.warm_up {
        deliver()?;
    }
    tell("start");
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < job.window {
        times.push(deliver()?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    tell("end");
    drop(gets);
    // It ends when it is told of the next record; the process ends without waiting for that.
    drop(following);
    times.sort_unstable();
    finish(&[
        ("messages", times.len() as f64),
        ("messages_per_s", times.len() as f64 / seconds),
        ("p50_us", quantile(&times, 0.5) / 1e3),
        ("p90_us", quantile(&times, 0.9) / 1e3),
        ("p99_us", quantile(&times, 0.99) / 1e3),
        ("p999_us", quantile(&times, 0.999) / 1e3),
    ])
}
