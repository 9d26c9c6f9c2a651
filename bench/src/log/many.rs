//! A log of many partitions that is open and does nothing.

use std::path::Path;

use peermq::log::{Level, Log};

use super::{TOPIC, create, no_part};
use crate::outcome::Outcome;
use crate::peer::{Job, finish, tell};
use crate::system;

pub(super) fn run(job: &Job, directory: &Path) -> Outcome {
    if job.library != "peermq" {
        return no_part(job);
    }
    let (log, topic) = create(directory, Level::Written, u32::try_from(job.peers)?)?;
    // Each has records, so that nothing is saved on empty ones.
    for partition in 0..topic.partitions() {
        let _ticket = topic.append_to(partition, Level::Buffered, "first")?;
    }
    drop(topic);
    log.close()?;
    let log = Log::open(directory.join("log"))?;
    let topic = log.topic(TOPIC)?;
    for partition in 0..topic.partitions() {
        let _ticket = topic.append_to(partition, Level::Buffered, "second")?;
    }
    topic.flush()?;
    tell("start");
    std::thread::sleep(job.window);
    tell("end");
    let bytes = system::resident_bytes(std::process::id())? as f64;
    finish(&[
        ("connections", job.peers as f64),
        ("resident_bytes", bytes),
        ("bytes_per_connection", bytes / job.peers as f64),
    ])
}
