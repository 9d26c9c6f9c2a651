//! `log perf`: appends to, or reads, the topic `perf` of a log and prints the rate and how long one call took.
//!
//! At level `durable` each caller waits for one record before it appends the next, and a call is an append until it is
//! durable. At the other levels callers do not wait for single records: a call is the handing over of one record, and
//! the rate counts until all of them are written. In reading, a call gets one batch.

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use peermq::log::{Level, Log, LogError, NewRecord, Position, Topic, TopicOptions};

use crate::arguments::Perf;
use crate::{Outcome, Progress, open_existing};

const TOPIC: &str = "perf";
/// One of so many calls is timed where calls are shorter than looking at the clock is cheap.
const CALLS_PER_SAMPLE: u64 = 64;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What was measured.
#[derive(Default)]
struct Measured {
    records: u64,
    bytes: u64,
    calls: Vec<Duration>,
}

impl Measured {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.calls.extend(other.calls);
    }
}

pub(crate) fn run(job: Perf) -> Outcome {
    let log = if job.reads { open_existing(&job.directory)? } else { Log::open(&job.directory)? };
    let topic = match log.topic(TOPIC) {
        Err(LogError::UnknownTopic { .. }) if !job.reads => {
            log.create_topic(TOPIC, TopicOptions::default())?
        }
        found => found?,
    };
    let progress = Mutex::new((Progress::new(), 0));
    let tell = |more: u64| {
        // Whoever finds it busy tells next time.
        if let Ok(mut progress) = progress.try_lock() {
            let (progress, count) = &mut *progress;
            *count += more;
            progress.tell(|| format!("{count} records"));
        }
    };
    let start = Instant::now();
    let measured = thread::scope(|scope| -> Result<Measured, Failure> {
        let start = |caller| {
            let (job, topic, tell) = (&job, &topic, &tell);
            thread::Builder::new().spawn_scoped(scope, move || match job.reads {
                true => read(job, topic, tell),
                false => append(job, topic, caller, tell),
            })
        };
        let callers = (0..job.callers).map(start).collect::<Result<Vec<_>, _>>()?;
        let mut sum = Measured::default();
        for caller in callers {
            sum.add(caller.join().map_err(|_| "a caller panicked")??);
        }
        if !job.reads {
            topic.flush()?;
        }
        Ok(sum)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    drop(topic);
    log.close()?;
    print(&job, measured, seconds);
    Ok(ExitCode::SUCCESS)
}

/// The share of one caller.
fn append(
    job: &Perf,
    topic: &Topic,
    caller: usize,
    tell: &impl Fn(u64),
) -> Result<Measured, Failure> {
    let callers = job.callers as u64;
    let records = job.records / callers + u64::from((caller as u64) < job.records % callers);
    let value = vec![b'x'; job.size];
    let waits = job.level == Level::Durable;
    let mut measured =
        Measured { records, bytes: records * job.size as u64, ..Measured::default() };
    let mut last = None;
    for n in 0..records {
        let start = (waits || n % CALLS_PER_SAMPLE == 0).then(Instant::now);
        let ticket = topic.append_at(job.level, NewRecord::new(&value))?;
        if waits {
            ticket.wait()?;
        } else {
            last = Some(ticket);
        }
        if let Some(start) = start {
            measured.calls.push(start.elapsed());
            tell(if waits { 1 } else { CALLS_PER_SAMPLE });
        }
    }
    if let Some(ticket) = last {
        ticket.wait()?;
    }
    Ok(measured)
}

/// Every caller reads as many records as there are to be read.
fn read(job: &Perf, topic: &Topic, tell: &impl Fn(u64)) -> Result<Measured, Failure> {
    let (mut measured, mut scratch) = (Measured::default(), Vec::new());
    for partition in 0..topic.partitions() {
        let mut reader = topic.read(partition, Position::Earliest)?;
        while measured.records < job.records {
            let start = Instant::now();
            let Some(batch) = reader.next_batch()? else { break };
            let (mut records, mut bytes) = (0, 0);
            let left = job.records - measured.records;
            batch.visit(&mut scratch, |_, _, record| {
                records += 1;
                bytes += record.value.map_or(0, <[u8]>::len) as u64;
                records < left
            })?;
            measured.calls.push(start.elapsed());
            (measured.records, measured.bytes) =
                (measured.records + records, measured.bytes + bytes);
            tell(records);
        }
    }
    if measured.records < job.records {
        let (there, wanted) = (measured.records, job.records);
        return Err(format!("there are {there} records, not {wanted}: append them first").into());
    }
    Ok(measured)
}

fn print(job: &Perf, mut measured: Measured, seconds: f64) {
    measured.calls.sort_unstable();
    let quantile = |of: f64| {
        let at = (measured.calls.len() as f64 * of) as usize;
        let call = measured.calls.get(at.min(measured.calls.len().saturating_sub(1)));
        call.map_or(0.0, |call| call.as_secs_f64() * 1e6)
    };
    println!(
        "{} records={} size={} level={} callers={} {:.0} records/s {:.1} MB/s p50={:.2} p99={:.2} us",
        if job.reads { "read" } else { "append" },
        measured.records,
        job.size,
        job.level.name(),
        job.callers,
        measured.records as f64 / seconds,
        measured.bytes as f64 / seconds / 1e6,
        quantile(0.5),
        quantile(0.99),
    );
}
