//! The group `log`: one process per measurement, which appends to or reads a log in a directory of its own.
//!
//! Appends and reads have a fixed number of bytes, so that all sides touch the same amount of page cache. Before its
//! measurement every process writes as many bytes to a file and removes it: memory that the system gets for the first
//! time, in a virtual machine even from its host, can cost more than the write itself.

mod append;
mod deliver;
mod durable;
mod large;
mod many;
mod read;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::{Level, Log, Topic, TopicOptions};
use serde::{Deserialize, Serialize};

pub(crate) use large::remove as remove_large;

use crate::library::{Address, CANNOT};
use crate::outcome::Outcome;
use crate::peer::Job;

/// What a process of this group does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    /// Appends records one by one from one thread, until all are written.
    Append,
    /// Appends durably from `peers` threads, each waiting for its record before the next.
    Durable,
    /// Reads records one after another, each with memory of its own to keep.
    Read,
    /// Visits the records of one batch after another, borrowed.
    Visit,
    /// Appends a record and waits until a follower has got it.
    Deliver,
    /// Opens a log of 10 GiB that was closed.
    OpenClosed,
    /// Opens a log of 10 GiB whose writer was killed.
    OpenKilled,
    /// Appends to the log of 10 GiB until it is killed.
    Fill,
    /// Opens a log of `peers` partitions and does nothing.
    Idle,
}

/// The only topic of every log here.
const TOPIC: &str = "records";

/// Bytes that appends and reads touch for each second of the window.
const BYTES_PER_WINDOW_SECOND: f64 = (512u64 << 20) as f64;

/// Whole blocks that the floor tries; the fastest counts.
const FLOOR_CHUNKS_BYTES: [usize; 5] = [16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20];

/// Does a task. Returns only with an error.
pub(crate) fn run(task: Task, job: &Job) -> Outcome {
    let Address::Directory(directory) = &job.address else {
        return Err("a log needs a directory".into());
    };
    fs::create_dir_all(directory)?;
    match task {
        Task::Append => append::run(job, directory),
        Task::Durable => durable::run(job, directory),
        Task::Read | Task::Visit => read::run(job, directory, task == Task::Visit),
        Task::Deliver => deliver::run(job, directory),
        Task::OpenClosed => large::open(job, directory, false),
        Task::OpenKilled => large::open(job, directory, true),
        Task::Fill => large::fill(directory),
        Task::Idle => many::run(job, directory),
    }
}

/// A library that has no part in a task.
fn no_part<T>(job: &Job) -> Outcome<T> {
    Err(format!("{CANNOT}{} is not compared here", job.library).into())
}

/// Records of a measurement with a fixed amount of bytes.
fn records(job: &Job) -> u64 {
    let bytes = BYTES_PER_WINDOW_SECOND * job.window.as_secs_f64();
    (bytes / job.size.max(1) as f64) as u64
}

/// A new log with the topic.
fn create(directory: &Path, level: Level, partitions: u32) -> Outcome<(Log, Topic)> {
    let log = Log::open(directory.join("log"))?;
    let topic =
        log.create_topic(TOPIC, TopicOptions::default().level(level).partitions(partitions))?;
    Ok((log, topic))
}

/// A batch of records of this size, as peermq stores them with default options; and how many records it has.
fn stored_batch(size: usize) -> Outcome<(Vec<u8>, usize)> {
    let wanted = TopicOptions::default().batch_bytes as usize;
    let (mut builder, value) = (BatchBuilder::new(BatchOptions::default()), value(size));
    while builder.bytes() < wanted {
        builder.append(1_700_000_000_000, None, Some(&value), [])?;
    }
    let count = builder.records_count();
    Ok((builder.finish()?, count))
}

/// The content of all records.
fn value(size: usize) -> Vec<u8> {
    vec![b'x'; size]
}

/// Stored batches back to back, at least this many bytes.
fn stored(size: usize, bytes: usize) -> Outcome<Vec<u8>> {
    let (batch, _) = stored_batch(size)?;
    Ok(batch.iter().copied().cycle().take(bytes.max(1)).collect())
}

/// Bytes that all records of a measurement take in the files of peermq.
fn stored_bytes(job: &Job) -> Outcome<u64> {
    let (batch, count) = stored_batch(job.size)?;
    Ok((batch.len() as f64 / count as f64 * records(job) as f64) as u64)
}

/// Writes a file of this many bytes in pieces of the length of `chunk`.
fn write_file(path: &Path, chunk: &[u8], bytes: u64) -> Outcome<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    let mut position = 0;
    while position < bytes {
        let left = usize::try_from(bytes - position)?.min(chunk.len());
        file.write_all_at(chunk.get(..left).unwrap_or_default(), position)?;
        position += left as u64;
    }
    Ok(file)
}

/// Lets the system have the memory that a file of this many bytes will need.
fn warm(directory: &Path, bytes: u64) -> Outcome {
    let path = directory.join("warm");
    drop(write_file(&path, &vec![0; 1 << 20], bytes)?);
    fs::remove_file(path)?;
    Ok(())
}

/// The value at a part of sorted values.
fn quantile(sorted: &[u64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = ((sorted.len() as f64 * part) as usize).min(last);
    sorted.get(index).copied().unwrap_or(0) as f64
}
