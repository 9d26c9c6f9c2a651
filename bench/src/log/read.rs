//! Reading a log from its beginning to its end. It was written just before, so that it is in the page cache.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use peermq::log::{Level, Log, Position, Reader};

use super::{FLOOR_CHUNKS_BYTES, TOPIC, create, no_part, records, stored, stored_bytes, value};
use super::{warm, write_file};
use crate::outcome::Outcome;
use crate::peer::{Job, finish, tell};

pub(super) fn run(job: &Job, directory: &Path, visit: bool) -> Outcome {
    warm(directory, stored_bytes(job)?)?;
    let seconds = match job.library.as_str() {
        "peermq" => peermq(job, directory, visit)?,
        "floor" => floor(job, directory)?,
        _ => return no_part(job),
    };
    let count = records(job) as f64;
    finish(&[
        ("messages", count),
        ("messages_per_s", count / seconds),
        ("megabytes_per_s", count * job.size as f64 / seconds / 1e6),
    ])
}

fn peermq(job: &Job, directory: &Path, visit: bool) -> Outcome<f64> {
    let (log, topic) = create(directory, Level::Written, 1)?;
    let value = value(job.size);
    for _ in 0..records(job) {
        let _ticket = topic.append(&value)?;
    }
    drop(topic);
    log.close()?;
    let log = Log::open(directory.join("log"))?;
    let reader = log.topic(TOPIC)?.read(0, Position::Earliest)?;
    tell("start");
    let begin = Instant::now();
    let count = if visit { visited(reader, job.size)? } else { taken(reader, job.size)? };
    let seconds = begin.elapsed().as_secs_f64();
    tell("end");
    if count != records(job) {
        return Err(format!("{count} records instead of {}", records(job)).into());
    }
    Ok(seconds)
}

fn taken(reader: Reader, size: usize) -> Outcome<u64> {
    let mut count = 0;
    for record in reader {
        count += u64::from(record?.value.is_some_and(|value| value.len() == size));
    }
    Ok(count)
}

fn visited(mut reader: Reader, size: usize) -> Outcome<u64> {
    let (mut count, mut scratch) = (0, Vec::new());
    while let Some(batch) = reader.next_batch()? {
        batch.visit(&mut scratch, |_, _, record| {
            count += u64::from(record.value.is_some_and(|value| value.len() == size));
            true
        })?;
    }
    Ok(count)
}

/// The same bytes in the best of several sizes.
fn floor(job: &Job, directory: &Path) -> Outcome<f64> {
    let bytes = stored_bytes(job)?;
    let file = write_file(&directory.join("raw"), &stored(job.size, 1 << 20)?, bytes)?;
    let mut best = f64::MAX;
    tell("start");
    for chunk_bytes in FLOOR_CHUNKS_BYTES {
        let mut chunk = vec![0; chunk_bytes];
        let begin = Instant::now();
        let mut position = 0;
        while position < bytes {
            position += file.read_at(&mut chunk, position)? as u64;
        }
        best = best.min(begin.elapsed().as_secs_f64());
    }
    tell("end");
    Ok(best)
}
