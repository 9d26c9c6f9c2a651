//! Appending records one by one, from one thread.

use std::fs;
use std::path::Path;
use std::time::Instant;

use peermq::log::Level;

use super::{FLOOR_CHUNKS_BYTES, create, no_part, records, stored, stored_bytes, value, warm};
use super::{TOPIC, write_file};
use crate::outcome::Outcome;
use crate::peer::{Job, finish, tell};

pub(super) fn run(job: &Job, directory: &Path) -> Outcome {
    warm(directory, stored_bytes(job)?)?;
    let seconds = match job.library.as_str() {
        "peermq" => peermq(job, directory)?,
        "floor" => floor(job, directory)?,
        #[cfg(feature = "commitlog")]
        "commitlog" => commitlog(job, directory)?,
        #[cfg(feature = "walrus")]
        "walrus" => walrus(job)?,
        _ => return no_part(job),
    };
    let count = records(job) as f64;
    finish(&[
        ("messages", count),
        ("messages_per_s", count / seconds),
        ("megabytes_per_s", count * job.size as f64 / seconds / 1e6),
    ])
}

/// Times the work between the words that tell the parent of it.
fn timed(work: impl FnOnce() -> Outcome) -> Outcome<f64> {
    tell("start");
    let begin = Instant::now();
    work()?;
    let seconds = begin.elapsed().as_secs_f64();
    tell("end");
    Ok(seconds)
}

fn peermq(job: &Job, directory: &Path) -> Outcome<f64> {
    let (_log, topic) = create(directory, Level::Written, 1)?;
    let value = value(job.size);
    timed(|| {
        for _ in 1..records(job) {
            let _ticket = topic.append(&value)?;
        }
        topic.append(&value)?.wait()?;
        Ok(())
    })
}

/// The same bytes as peermq writes, in the best of several sizes.
fn floor(job: &Job, directory: &Path) -> Outcome<f64> {
    let bytes = stored_bytes(job)?;
    let path = directory.join("raw");
    let mut best = f64::MAX;
    tell("start");
    for chunk_bytes in FLOOR_CHUNKS_BYTES {
        let chunk = stored(job.size, chunk_bytes)?;
        let begin = Instant::now();
        let file = write_file(&path, &chunk, bytes)?;
        best = best.min(begin.elapsed().as_secs_f64());
        drop(file);
        fs::remove_file(&path)?;
    }
    tell("end");
    Ok(best)
}

#[cfg(feature = "commitlog")]
fn commitlog(job: &Job, directory: &Path) -> Outcome<f64> {
    use commitlog::{CommitLog, LogOptions};
    let mut log = CommitLog::new(LogOptions::new(directory.join(TOPIC)))?;
    let value = value(job.size);
    timed(|| {
        for _ in 0..records(job) {
            log.append_msg(&value)?;
        }
        Ok(())
    })
}

/// Its directory comes from the environment, which the parent set.
#[cfg(feature = "walrus")]
fn walrus(job: &Job) -> Outcome<f64> {
    use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};
    let consistency = ReadConsistency::AtLeastOnce { persist_every: 1000 };
    let log = Walrus::with_consistency_and_schedule(consistency, FsyncSchedule::NoFsync)?;
    let value = value(job.size);
    timed(|| {
        for _ in 0..records(job) {
            log.append_for_topic(TOPIC, &value)?;
        }
        Ok(())
    })
}
