//! Reading a log from its beginning to its end, several times: the fastest counts. It was written just before and read
//! once, so that it is in the page cache and the system has done what it does when a page is first read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use peermq::log::{Level, Log, Position, Topic};

use super::{FLOOR_CHUNKS_BYTES, TOPIC, create, no_part, records, stored_bytes, value, warm};
use crate::outcome::Outcome;
use crate::peer::{Job, finish, tell};

/// How often everything is read, after the first time: as often as there are sizes for the floor to try.
const PASSES: usize = FLOOR_CHUNKS_BYTES.len();

pub(super) fn run(job: &Job, directory: &Path, visit: bool) -> Outcome {
    if !matches!(job.library.as_str(), "peermq" | "floor") {
        return no_part(job);
    }
    warm(directory, stored_bytes(job)?)?;
    write(job, directory)?;
    let seconds = match job.library.as_str() {
        "peermq" => peermq(job, directory, visit)?,
        _ => floor(directory)?,
    };
    let count = records(job) as f64;
    finish(&[
        ("messages", count),
        ("messages_per_s", count / seconds),
        ("megabytes_per_s", count * job.size as f64 / seconds / 1e6),
    ])
}

/// Writes the log that is read, by whomever.
fn write(job: &Job, directory: &Path) -> Outcome {
    let (log, topic) = create(directory, Level::Written, 1)?;
    let value = value(job.size);
    for _ in 0..records(job) {
        let _ticket = topic.append(&value)?;
    }
    drop(topic);
    log.close()?;
    Ok(())
}

/// Reads once, then several times between the words that tell the parent of it: the shortest time, in seconds.
fn fastest(mut pass: impl FnMut(usize) -> Outcome) -> Outcome<f64> {
    pass(0)?;
    let mut best = f64::MAX;
    tell("start");
    for number in 0..PASSES {
        let begin = Instant::now();
        pass(number)?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    tell("end");
    Ok(best)
}

fn peermq(job: &Job, directory: &Path, visit: bool) -> Outcome<f64> {
    let log = Log::open(directory.join("log"))?;
    let topic = log.topic(TOPIC)?;
    fastest(|_| {
        let count = if visit { visited(&topic, job.size)? } else { taken(&topic, job.size)? };
        if count != records(job) {
            return Err(format!("{count} records instead of {}", records(job)).into());
        }
        Ok(())
    })
}

fn taken(topic: &Topic, size: usize) -> Outcome<u64> {
    let mut count = 0;
    for record in topic.read(0, Position::Earliest)? {
        count += u64::from(record?.value.is_some_and(|value| value.len() == size));
    }
    Ok(count)
}

fn visited(topic: &Topic, size: usize) -> Outcome<u64> {
    let (mut count, mut scratch) = (0, Vec::new());
    let mut reader = topic.read(0, Position::Earliest)?;
    while let Some(batch) = reader.next_batch()? {
        batch.visit(&mut scratch, |_, _, record| {
            count += u64::from(record.value.is_some_and(|value| value.len() == size));
            true
        })?;
    }
    Ok(count)
}

/// `pread` of the same files, in another size each time.
fn floor(directory: &Path) -> Outcome<f64> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory.join("log").join(format!("{TOPIC}-0")))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(File::open(path)?);
        }
    }
    let mut chunks = FLOOR_CHUNKS_BYTES.map(|bytes| vec![0; bytes]);
    fastest(|number| {
        let chunk = chunks.get_mut(number).ok_or("as many passes as sizes")?;
        for file in &files {
            let mut position = 0;
            while let read @ 1.. = file.read_at(chunk, position)? {
                position += read as u64;
            }
        }
        Ok(())
    })
}
