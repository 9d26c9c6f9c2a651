//! `log tail`: prints records, and waits for more with `--follow`. Reads beside the process that appends.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use peermq::Context;
use peermq::log::{
    Log, LogClient, LogError, LogRecord, Position, Reader, RemotePartition, RemoteReader, Topic,
};

use crate::arguments::{Tail, Target};
use crate::{Outcome, connect};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Records printed of one partition before it is the next one's turn, when following.
const TURN_RECORDS: u64 = 1000;
/// First and longest pause between two looks for more: the process that appends cannot wake this one.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// A partition being printed.
struct Source {
    records: Records,
    /// Records before this offset are not wanted.
    from: i64,
}

/// Where records come from.
enum Records {
    Log(Reader),
    Server(RemoteReader),
}

impl Records {
    /// The next record; `None` at the end for now.
    fn next(&mut self) -> Result<Option<LogRecord>, Error> {
        Ok(match self {
            Self::Log(reader) => reader.next_record()?,
            Self::Server(reader) => reader.next().transpose()?,
        })
    }
}

pub(crate) fn run(job: Tail) -> Outcome {
    let context = Context::new();
    let mut sources = match &job.target {
        Target::Directory(directory) => {
            let topic = Log::read_only(directory)?.topic(&job.topic)?;
            check_end(&job, topic.describe().partitions.iter().map(|partition| partition.end))?;
            let open = |partition| open(&topic, partition, &job.from);
            (0..topic.partitions()).map(open).collect::<Result<Vec<_>, _>>()?
        }
        Target::Server(endpoint) => {
            let options = LogClient::options();
            let (client, topic) = connect(&context, options, endpoint, &job.topic)?;
            check_end(&job, topic.partitions.iter().map(|partition| partition.end))?;
            let open = |(number, partition)| open_remote(&client, &job, number, partition);
            (0..).zip(&topic.partitions).map(open).collect::<Result<Vec<_>, _>>()?
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = job.max.unwrap_or(u64::MAX);
    if job.follow {
        follow(&mut sources, &mut left, &mut out)?;
    } else {
        for source in &mut sources {
            print(source, u64::MAX, &mut left, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses an offset that no partition has reached, unless it is to be waited for.
fn check_end(job: &Tail, ends: impl Iterator<Item = i64>) -> Result<(), Error> {
    let (Position::Offset(offset), Some(end)) = (&job.from, ends.max()) else { return Ok(()) };
    if *offset <= end || job.follow {
        return Ok(());
    }
    let topic = &job.topic;
    Err(format!("offset {offset} is beyond the end of topic {topic}, which is at {end}").into())
}

/// A partition from a position on. An offset counts for every partition: one that begins later is read from its
/// beginning, one that has not come so far yet when it has.
fn open(topic: &Topic, partition: u32, from: &Position) -> Result<Source, LogError> {
    let Position::Offset(offset) = from else {
        let records = Records::Log(topic.read(partition, from.to_owned())?);
        return Ok(Source { records, from: 0 });
    };
    let reader = match topic.read(partition, Position::Offset(*offset)) {
        Err(LogError::OffsetOutOfRange { earliest, .. }) if *offset < earliest => {
            tell_start(partition, earliest);
            topic.read(partition, Position::Earliest)?
        }
        Err(LogError::OffsetOutOfRange { .. }) => topic.read(partition, Position::Latest)?,
        reader => reader?,
    };
    Ok(Source { records: Records::Log(reader), from: *offset })
}

/// As [`open`], through a server.
fn open_remote(
    client: &LogClient,
    job: &Tail,
    number: u32,
    partition: &RemotePartition,
) -> Result<Source, Error> {
    let read = |from| client.read(&job.topic, number, from).map(Records::Server);
    let Position::Offset(offset) = job.from else {
        return Ok(Source { records: read(job.from.clone())?, from: 0 });
    };
    let position = if offset < partition.earliest {
        tell_start(number, partition.earliest);
        Position::Earliest
    } else if offset > partition.end {
        Position::Latest
    } else {
        Position::Offset(offset)
    };
    Ok(Source { records: read(position)?, from: offset })
}

fn tell_start(partition: u32, earliest: i64) {
    eprintln!("log: partition {partition} begins at offset {earliest} now");
}

/// Prints what a partition has, up to a number of records; returns how many that were.
fn print(
    source: &mut Source,
    turn: u64,
    left: &mut u64,
    out: &mut impl Write,
) -> Result<u64, Error> {
    let mut printed = 0;
    while printed < turn && *left > 0 {
        let Some(record) = source.records.next()? else { break };
        if record.offset < source.from {
            continue;
        }
        write_record(&record, out)?;
        printed += 1;
        *left -= 1;
    }
    Ok(printed)
}

/// Prints for ever, or until so many records are printed.
fn follow(sources: &mut [Source], left: &mut u64, out: &mut impl Write) -> Outcome {
    let mut pause = PAUSE_MIN;
    while *left > 0 {
        let mut printed = 0;
        for source in &mut *sources {
            printed += print(source, TURN_RECORDS, left, out)?;
        }
        if printed > 0 {
            pause = PAUSE_MIN;
            continue;
        }
        out.flush()?;
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Ok(ExitCode::SUCCESS)
}

/// One line: partition, offset, key, value.
fn write_record(record: &LogRecord, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{}\t{}\t", record.partition, record.offset)?;
    write_escaped(record.key.as_deref().unwrap_or_default(), out)?;
    out.write_all(b"\t")?;
    write_escaped(record.value.as_deref().unwrap_or_default(), out)?;
    out.write_all(b"\n")
}

/// Bytes such that they neither end the field nor the line.
fn write_escaped(bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    let escape = |byte: u8| match byte {
        b'\\' => Some(br"\\"),
        b'\t' => Some(br"\t"),
        b'\n' => Some(br"\n"),
        b'\r' => Some(br"\r"),
        _ => None,
    };
    let mut plain = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if let Some(escaped) = escape(*byte) {
            out.write_all(bytes.get(plain..at).unwrap_or_default())?;
            out.write_all(escaped)?;
            plain = at + 1;
        }
    }
    out.write_all(bytes.get(plain..).unwrap_or_default())
}
