//! Appending durably: every caller waits for its record before it appends the next.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use peermq::log::{Level, Topic};

use super::{create, no_part, quantile, stored, value};
use crate::outcome::{Outcome, failure};
use crate::peer::{Job, finish, tell};

pub(super) fn run(job: &Job, directory: &Path) -> Outcome {
    let (times, callers) = match job.library.as_str() {
        "peermq" => (peermq(job, directory)?, 1.0),
        // What would be if every sync took one record of each caller.
        "floor" => (floor(job, directory)?, job.peers as f64),
        _ => return no_part(job),
    };
    let Times { mut nanoseconds, seconds } = times;
    nanoseconds.sort_unstable();
    let count = nanoseconds.len() as f64;
    finish(&[
        ("messages", count * callers),
        ("messages_per_s", count * callers / seconds),
        ("p50_us", quantile(&nanoseconds, 0.5) / 1e3),
        ("p90_us", quantile(&nanoseconds, 0.9) / 1e3),
        ("p99_us", quantile(&nanoseconds, 0.99) / 1e3),
        ("p999_us", quantile(&nanoseconds, 0.999) / 1e3),
    ])
}

/// How long each append, or sync, took, and all of them.
struct Times {
    nanoseconds: Vec<u64>,
    seconds: f64,
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn peermq(job: &Job, directory: &Path) -> Outcome<Times> {
    let (_log, topic) = create(directory, Level::Durable, 1)?;
    let (over, ready) = (AtomicBool::new(false), Barrier::new(job.peers + 1));
    let (over, ready) = (&over, &ready);
    let caller = |topic: &Topic| -> Outcome<Vec<(Instant, u64)>> {
        let value = value(job.size);
        let mut times = Vec::new();
        ready.wait();
        while !over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            topic.append(&value)?.wait()?;
            times.push((begin, nanoseconds(begin)));
        }
        Ok(times)
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..job.peers).map(|_| scope.spawn(|| caller(&topic))).collect();
        ready.wait();
        thread::sleep(job.warm_up);
        tell("start");
        let begin = Instant::now();
        thread::sleep(job.window);
        over.store(true, Ordering::Relaxed);
        let seconds = begin.elapsed().as_secs_f64();
        tell("end");
        let mut times = Vec::new();
        for caller in callers {
            times.extend(caller.join().map_err(|_| failure("a caller panicked"))??);
        }
        let end = begin + Duration::from_secs_f64(seconds);
        let within = times
            .into_iter()
            .filter(|(at, took)| *at >= begin && *at + Duration::from_nanos(*took) <= end);
        Ok(Times { nanoseconds: within.map(|(_, took)| took).collect(), seconds })
    })
}

/// One thread that writes a small batch behind the last one and syncs it.
fn floor(job: &Job, directory: &Path) -> Outcome<Times> {
    let file = File::options().write(true).create_new(true).open(directory.join("raw"))?;
    // A batch of one record: its header, the record's framing, the value.
    let batch = stored(job.size, job.size + 70)?;
    let mut position = 0;
    let mut write = || -> Outcome<u64> {
        let begin = Instant::now();
        file.write_all_at(&batch, position)?;
        file.sync_data()?;
        position += batch.len() as u64;
        Ok(nanoseconds(begin))
    };
    let warm = Instant::now();
    while warm.elapsed() < job.warm_up {
        write()?;
    }
    tell("start");
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < job.window {
        times.push(write()?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    tell("end");
    Ok(Times { nanoseconds: times, seconds })
}
