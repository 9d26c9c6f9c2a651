//! Durable topics on the command line.
//!
//! ```sh
//! cargo build --release --features log --example log      # makes target/release/examples/log
//!
//! log create /tmp/shop orders 3
//! echo 'alice:two apples' | log append /tmp/shop orders --key-separator : --acks
//! log tail /tmp/shop orders --from earliest
//! log describe /tmp/shop
//! log verify /tmp/shop
//!
//! log serve /tmp/shop tcp://127.0.0.1:5570 &
//! echo 'bob:one pear' | log append --connect tcp://127.0.0.1:5570 orders --key-separator : --acks
//! log tail --connect tcp://127.0.0.1:5570 orders --follow
//! ```
//!
//! `append` reads records from stdin, one a line; with `--key-separator` what is before its first occurrence in a line
//! is the key, and a line without it is a record without key. `tail` prints `PARTITION OFFSET KEY VALUE` between tabs;
//! a backslash, tab, line feed or carriage return in a key or value is printed as `\\`, `\t`, `\n` or `\r`, all other
//! bytes as they are, and null as nothing; from an offset that no partition has reached it fails, unless it is to
//! follow. `serve` lets other processes append and read until SIGINT or SIGTERM ends it and closes the log, and prints
//! where; if it is killed, what it has acknowledged is in the log. `groups` prints what consumer groups have committed.
//! Results go to stdout, progress and errors to stderr. The exit status is 0 when all went well, 1 after a failure (of
//! `verify` and `dump`: also when something is damaged; of `salvage`: when something is lost), 2 for wrong usage.

#[path = "log/append.rs"]
mod append;
#[path = "log/arguments.rs"]
mod arguments;
#[path = "log/inspect.rs"]
mod inspect;
#[path = "log/perf.rs"]
mod perf;
#[path = "log/serve.rs"]
mod serve;
#[path = "log/tail.rs"]
mod tail;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use arguments::Command;
use peermq::Context;
use peermq::log::{Log, LogClient, LogClientOptions, LogError, RemoteTopic, TopicOptions};

const USAGE: &str = "usage: log COMMAND ...

log create DIR TOPIC PARTITIONS
log append DIR TOPIC [--level buffered|written|durable] [--key-separator :] [--acks]
log tail DIR TOPIC [--from earliest|latest|OFFSET|@UNIX_MS] [--max N] [--follow]
log serve DIR ENDPOINT
log describe DIR
log groups DIR
log dump FILE
log verify DIR
log salvage DIR OUT
log perf DIR append|read --records N --size S [--level L] [--callers T]

append and tail take --connect ENDPOINT in place of DIR; log --help prints this";

/// Who waits for a server for longer is told what is in the way.
const HINT_AFTER: Duration = Duration::from_secs(1);
/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

type Outcome = Result<ExitCode, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let command = match Command::parse(arguments) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("log: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(code) => code,
        // Whoever read the output has had enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Help => {
            let mut out = io::stdout().lock();
            writeln!(out, "{USAGE}")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Create { directory, topic, partitions } => {
            let options = TopicOptions::default().partitions(partitions);
            // Before there is a log that nobody gets anything of.
            Log::check_topic(&topic, &options)?;
            let log = Log::open(directory)?;
            log.create_topic(&topic, options)?;
            log.close()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Append(job) => append::run(job),
        Command::Tail(job) => tail::run(job),
        Command::Describe { directory } => inspect::describe(&directory),
        Command::Groups { directory } => inspect::groups(&directory),
        Command::Serve { directory, endpoint } => serve::run(&directory, &endpoint),
        Command::Dump { file } => inspect::dump(&file),
        Command::Verify { directory } => inspect::verify(&directory),
        Command::Salvage { directory, out } => inspect::salvage(&directory, &out),
        Command::Perf(job) => perf::run(job),
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::BrokenPipe;
        }
        next = error.source();
    }
    false
}

/// A log that is there already, for appending.
fn open_existing(directory: &std::path::Path) -> Result<Log, LogError> {
    Log::options().create(false).open(directory)
}

/// A log that is served, and a topic of it.
fn connect(
    context: &Context,
    options: LogClientOptions,
    endpoint: &str,
    topic: &str,
) -> Result<(LogClient, RemoteTopic), Box<dyn Error + Send + Sync>> {
    let client = options.clone().connect(context, endpoint)?;
    // Whoever has mistyped the endpoint should not have to wait for long to be told.
    let hasty = options.timeout(HINT_AFTER).connect(context, endpoint)?;
    let described = match hasty.describe(topic) {
        Err(error) if error.is_timeout() => {
            eprintln!("log: {error}; trying on");
            client.describe(topic)
        }
        described => described,
    };
    Ok((client, described?))
}

/// Prints a line on stderr now and then.
struct Progress {
    last: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { last: Instant::now() }
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.last.elapsed() >= PROGRESS_INTERVAL {
            self.last = Instant::now();
            eprintln!("log: {}", line());
        }
    }
}
