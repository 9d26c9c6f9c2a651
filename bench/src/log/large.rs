//! Opening a log of 10 GiB. It is made once and used by all rounds, and removed when the group is done.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs};

use peermq::log::{Level, Log, Topic};

use super::{TOPIC, Task, create, no_part, value};
use crate::library::Address;
use crate::outcome::Outcome;
use crate::peer::{Job, Role, finish, tell};

/// Bytes of the records of the whole log.
const LOG_BYTES: u64 = 10 << 30;
/// Bytes of the records that a writer appends before it is killed: almost a segment, the longest tail there can be.
const TAIL_BYTES: u64 = 900 << 20;
const RECORD_BYTES: usize = 1024;
/// What the writer says before it waits to be killed.
const FILLED: &str = "filled";

/// Where the log lies: beside the directories of the single measurements.
fn place(directory: &Path) -> PathBuf {
    directory.with_file_name("peermq-bench-large")
}

/// Removes the log that measurements in this directory made.
pub(crate) fn remove(parent: &Path) {
    let _ = fs::remove_dir_all(place(&parent.join("any")));
}

fn append(topic: &Topic, bytes: u64) -> Outcome {
    let value = value(RECORD_BYTES);
    for _ in 1..bytes / RECORD_BYTES as u64 {
        let _ticket = topic.append(&value)?;
    }
    topic.append(&value)?.wait()?;
    Ok(())
}

/// The log, closed in order.
fn made(directory: &Path) -> Outcome<PathBuf> {
    let place = place(directory);
    let complete = place.join("complete");
    if !complete.exists() {
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place)?;
        let (log, topic) = create(&place, Level::Written, 1)?;
        append(&topic, LOG_BYTES)?;
        drop(topic);
        log.close()?;
        fs::write(complete, [])?;
    }
    let log = place.join("log");
    // An earlier measurement may have left it unclosed.
    Log::open(&log)?.close()?;
    Ok(log)
}

/// Appends without syncing and waits for the end.
pub(super) fn fill(directory: &Path) -> Outcome {
    let log = Log::open(directory)?;
    append(&log.topic(TOPIC)?, TAIL_BYTES)?;
    tell(FILLED);
    loop {
        std::thread::park();
    }
}

/// Starts a process that appends, and kills it.
fn kill_a_writer(job: &Job, log: &Path) -> Outcome {
    let address = Address::Directory(log.to_owned());
    let writer = Job { role: Role::Log(Task::Fill), address, ..job.clone() };
    let mut child = Command::new(env::current_exe()?)
        .args(["peer", &serde_json::to_string(&writer)?])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("no standard output")?;
    let said = BufReader::new(out).lines().map_while(Result::ok).any(|line| line == FILLED);
    child.kill()?;
    child.wait()?;
    if said { Ok(()) } else { Err("the writer ended by itself".into()) }
}

pub(super) fn open(job: &Job, directory: &Path, killed: bool) -> Outcome {
    if job.library != "peermq" {
        return no_part(job);
    }
    let path = made(directory)?;
    if killed {
        kill_a_writer(job, &path)?;
    }
    tell("start");
    let begin = Instant::now();
    let log = Log::open(&path)?;
    let seconds = begin.elapsed().as_secs_f64();
    tell("end");
    log.close()?;
    finish(&[("p50_us", seconds * 1e6)])
}
