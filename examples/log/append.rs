//! `log append`: lines of stdin become records.
//!
//! This thread appends as fast as lines come; another one waits for the tickets in their order and prints the
//! acknowledgements, so that many records are on their way at once and one sync serves all of them.

use std::io::{self, BufRead, BufWriter, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use peermq::Context;
use peermq::log::{AppendTicket, BATCH_BYTES_MAX, Level, Log, LogClient, NewRecord, Ticket, Topic};

use crate::arguments::{Append, Target};
use crate::{Outcome, Progress, connect, open_existing};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Tickets handed over at a time, and how many such loads may wait.
const TICKETS_PER_LOAD: usize = 256;
const LOADS_MAX: usize = 64;
/// What is longer is no record in any topic, and is not read to its end.
const LINE_BYTES_MAX: u64 = BATCH_BYTES_MAX as u64;
/// Bytes of stdin read at a time.
const INPUT_BYTES: usize = 256 << 10;

/// Where records go.
enum Sink {
    Log(Topic, Level),
    Server(LogClient, String),
}

impl Sink {
    fn append(&self, record: NewRecord<'_>) -> Result<Waiting, Error> {
        Ok(match self {
            Self::Log(topic, level) => Waiting::Log(topic.append_at(*level, record)?),
            Self::Server(client, topic) => Waiting::Server(client.append(topic, record)?),
        })
    }
}

/// A record on its way.
enum Waiting {
    Log(Ticket),
    Server(AppendTicket),
}

impl Waiting {
    fn partition(&self) -> u32 {
        match self {
            Self::Log(ticket) => ticket.partition(),
            Self::Server(ticket) => ticket.partition(),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Log(ticket) => ticket.is_done(),
            Self::Server(ticket) => ticket.is_done(),
        }
    }

    fn wait(self) -> Result<i64, Error> {
        Ok(match self {
            Self::Log(ticket) => ticket.wait()?,
            Self::Server(ticket) => ticket.wait()?,
        })
    }
}

pub(crate) fn run(job: Append) -> Outcome {
    match &job.target {
        Target::Directory(directory) => {
            let log = open_existing(directory)?;
            let topic = log.topic(&job.topic)?;
            let level = job.level.unwrap_or(topic.options().level);
            append(&job, &Sink::Log(topic, level), Some(log))
        }
        Target::Server(endpoint) => {
            let context = Context::new();
            let options = LogClient::options();
            let options =
                job.level.into_iter().fold(options, |options, level| options.level(level));
            // A topic that is not there is an error also when nothing is appended to it.
            let (client, _) = connect(&context, options, endpoint, &job.topic)?;
            append(&job, &Sink::Server(client, job.topic.clone()), None)
        }
    }
}

/// Appends stdin. `log`: what is to be closed then.
fn append(job: &Append, sink: &Sink, log: Option<Log>) -> Outcome {
    let (sender, tickets) = sync_channel(LOADS_MAX);
    let (acks, closing) = (job.acks, log.clone());
    let waiter = thread::spawn(move || {
        let mut out = BufWriter::new(io::stdout().lock());
        match acknowledge(&tickets, acks, &mut out) {
            Ok(()) => {}
            // Stdin may be silent for long, and whoever feeds it may be waiting for an acknowledgement.
            Err(failure) => give_up(closing, failure),
        }
    });
    let separator = job.key_separator.as_deref().map(str::as_bytes);
    let appended = append_lines(sink, separator, sender);
    if waiter.join().is_err() {
        return Err("the thread that waits for acknowledgements panicked".into());
    }
    let closed = log.map_or(Ok(()), Log::close);
    appended?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

/// Why acknowledging ended early.
enum Failure {
    Append(Error),
    Output(io::Error),
}

/// Ends the process after a failure. What was acknowledged is in the log; nobody was told more.
fn give_up(log: Option<Log>, failure: Failure) -> ! {
    match failure {
        Failure::Append(error) => eprintln!("log: {error}"),
        // Nobody is there to hear it, and not everything was appended.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Failure::Output(error) => eprintln!("log: cannot write to stdout: {error}"),
    }
    if let Err(error) = log.map_or(Ok(()), Log::close) {
        eprintln!("log: {error}");
    }
    std::process::exit(1);
}

/// Appends every line; returns when stdin ends.
fn append_lines(
    sink: &Sink,
    separator: Option<&[u8]>,
    sender: SyncSender<Vec<Waiting>>,
) -> Result<(), Error> {
    let mut input = io::BufReader::with_capacity(INPUT_BYTES, io::stdin().lock());
    let (mut line, mut load) = (Vec::new(), Vec::with_capacity(TICKETS_PER_LOAD));
    let (mut progress, mut count) = (Progress::new(), 0u64);
    let gone = || "acknowledging has ended";
    loop {
        // Before this thread waits for more input, everything so far is on its way.
        if load.len() == TICKETS_PER_LOAD || !(load.is_empty() || input.buffer().contains(&b'\n')) {
            let full = std::mem::replace(&mut load, Vec::with_capacity(TICKETS_PER_LOAD));
            sender.send(full).map_err(|_| gone())?;
            progress.tell(|| format!("{count} records appended"));
        }
        line.clear();
        let appended = match (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(()),
            Ok(bytes) if bytes as u64 == LINE_BYTES_MAX => {
                Err(at_line(count, &format!("a line is longer than {LINE_BYTES_MAX} bytes")))
            }
            Ok(_) => {
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                let appended = sink.append(record_of(text, separator));
                appended.map_err(|error| at_line(count, &error))
            }
            Err(error) => Err(error.into()),
        };
        match appended {
            Ok(ticket) => load.push(ticket),
            Err(error) => {
                // What was appended before is acknowledged.
                sender.send(load).map_err(|_| gone())?;
                return Err(error);
            }
        }
        count += 1;
    }
}

/// What is said of a line, behind so many others, that is not in the log.
fn at_line(before: u64, error: &dyn std::fmt::Display) -> Error {
    format!("line {}: {error}", before + 1).into()
}

/// A line as a record.
fn record_of<'a>(line: &'a [u8], separator: Option<&[u8]>) -> NewRecord<'a> {
    let Some(separator) = separator else { return NewRecord::new(line) };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => {
            let (key, value) = line.split_at(at);
            NewRecord::new(value.get(separator.len()..).unwrap_or_default()).key(key)
        }
        None => NewRecord::new(line),
    }
}

/// Waits for the tickets in order; prints each when it is done. Nothing printed is held back while this waits.
fn acknowledge(
    tickets: &Receiver<Vec<Waiting>>,
    print: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    // Each line has a ticket, in their order.
    let mut count = 0;
    loop {
        let load = match tickets.try_recv() {
            Ok(load) => load,
            Err(TryRecvError::Disconnected) => return out.flush().map_err(Failure::Output),
            Err(TryRecvError::Empty) => {
                out.flush().map_err(Failure::Output)?;
                match tickets.recv() {
                    Ok(load) => load,
                    Err(_) => return Ok(()),
                }
            }
        };
        for ticket in load {
            let partition = ticket.partition();
            if !ticket.is_done() {
                out.flush().map_err(Failure::Output)?;
            }
            let refused = |error| Failure::Append(at_line(count, &error));
            let offset = ticket.wait().map_err(refused)?;
            count += 1;
            if print {
                writeln!(out, "{partition} {offset}").map_err(Failure::Output)?;
            }
        }
    }
}
