//! Counts words with as many processes as you like: a ventilator hands out text, workers count, a sink adds up.
//!
//! ```sh
//! cargo run --release --example wordcount                       # the text of this repository, 2 workers
//! cargo run --release --example wordcount -- --workers 4 --top 20 --check FILE DIRECTORY
//! ```
//!
//! ```text
//! ventilator --PUSH--> worker --PUSH--> sink
//!            \-------> worker ------->/
//!             \--- how much it was --/
//! ```
//!
//! One command starts everything: it runs the ventilator and the sink itself and itself again as worker processes. The
//! parts also run by hand, in separate terminals or on separate machines, started in any order:
//!
//! ```sh
//! wordcount sink       tcp://127.0.0.1:5558
//! wordcount worker     tcp://127.0.0.1:5557 tcp://127.0.0.1:5558                # as many as you like
//! wordcount ventilator tcp://127.0.0.1:5557 tcp://127.0.0.1:5558 --workers 2 FILE..
//! ```
//!
//! The text is read line by line and travels in batches of whole lines, up to 32 KiB to a message; a longer line is cut between
//! two words. A word is a run of alphanumeric characters, lower-cased. Memory does not grow with the input: queues have marks
//! in bytes, workers report and forget, and the sink holds one count for each different word.
//!
//! Nothing is lost unnoticed. Batches are numbered; a worker reports their numbers together with their counts; the
//! ventilator tells the sink how many there were. When a worker dies, what was handed to it and not reported back
//! is listed, and the exit status is 3.

use std::error::Error;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use peermq::{Context, Endpoint};

use self::outcome::Outcome;
use self::sink::Sink;
use self::text::Input;
use self::ventilator::Ventilator;

#[path = "wordcount/outcome.rs"]
mod outcome;
#[path = "wordcount/protocol.rs"]
mod protocol;
#[path = "wordcount/sink.rs"]
mod sink;
#[path = "wordcount/text.rs"]
mod text;
#[path = "wordcount/ventilator.rs"]
mod ventilator;
#[path = "wordcount/worker.rs"]
mod worker;

const USAGE: &str = "usage: wordcount [--workers N] [--top K] [--check] [PATH..]
       wordcount ventilator WORK SINK [--workers N] [PATH..]
       wordcount worker WORK SINK [--name NAME]
       wordcount sink SINK [--top K]

PATH          file or directory; without one, the text below the package's directory
WORK, SINK    endpoints such as tcp://127.0.0.1:5557
--workers N   worker processes to start, or for the ventilator to wait for (2; by hand 1)
--top K       how many of the most frequent words are printed (10)
--check       count again in a single process and compare
--silence S   seconds without progress after which the others are given up (10)
--patience S  seconds to wait for the others at the start (10; by hand without limit)

exit status: 0, 1 for an error or a failed check, 2 for bad usage, 3 when some text is not in the counts";

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long worker processes may take to end once everything is over.
const WORKERS_END: Duration = Duration::from_secs(10);

/// Any error, on its way to the user.
type Problem = Box<dyn Error + Send + Sync>;

/// How long to wait for others.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Without progress.
    silence: Duration,
    /// At the start; `None` is without limit.
    patience: Option<Duration>,
}

/// The command line.
struct Arguments {
    positional: Vec<String>,
    workers: Option<usize>,
    top: usize,
    check: bool,
    name: Option<String>,
    times: Times,
}

fn main() -> ExitCode {
    let result = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments.run(),
        Err(error) => {
            eprintln!("wordcount: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("wordcount: {error}");
        ExitCode::FAILURE
    })
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Problem> {
        let times = Times { silence: Duration::from_secs(10), patience: None };
        let mut this =
            Self { positional: vec![], workers: None, top: 10, check: false, name: None, times };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--check" => this.check = true,
                "--name" => this.name = Some(value()?),
                "--workers" => this.workers = Some(number(&value()?)?.max(1)),
                "--top" => this.top = number(&value()?)?,
                "--silence" => this.times.silence = seconds(&value()?)?,
                "--patience" => this.times.patience = Some(seconds(&value()?)?),
                option if option.starts_with("--") => {
                    return Err(format!("what is {option}?").into());
                }
                _ => this.positional.push(word),
            }
        }
        let enough = match this.positional.first().map(String::as_str) {
            Some("ventilator") => this.positional.len() >= 3,
            Some("worker") => this.positional.len() == 3,
            Some("sink") => this.positional.len() == 2,
            _ => true,
        };
        if enough { Ok(this) } else { Err("the role and its endpoints do not fit".into()) }
    }

    fn run(&self) -> Result<ExitCode, Problem> {
        let words: Vec<&str> = self.positional.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["ventilator", work, sink, paths @ ..] => self.run_ventilator(work, sink, paths),
            ["worker", work, sink] => {
                let pid = std::process::id();
                let name = self.name.clone().unwrap_or_else(|| format!("worker-{pid}"));
                worker::run(&work.parse()?, &sink.parse()?, name, self.times)?;
                Ok(ExitCode::SUCCESS)
            }
            ["sink", endpoint] => self.run_sink(endpoint),
            paths => self.run_all(&input(paths)),
        }
    }

    fn run_ventilator(&self, work: &str, sink: &str, paths: &[&str]) -> Result<ExitCode, Problem> {
        let context = Context::new();
        let socket = ventilator::socket(&context, self.times).bind(work)?;
        let ventilator = Ventilator::new(&context, socket, &sink.parse()?, self.times)?;
        let end = ventilator.run(&input(paths), self.workers.unwrap_or(1))?;
        eprintln!("wordcount: handed out {}", end.issued);
        if !end.trouble.is_empty() {
            return Err(end.trouble.into());
        }
        if end.undelivered > 0 {
            eprintln!("wordcount: {} batches were lost with their worker", end.undelivered);
            return Ok(ExitCode::from(3));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn run_sink(&self, endpoint: &str) -> Result<ExitCode, Problem> {
        let context = Context::new();
        let socket = sink::socket(&context).open()?;
        let events = socket.monitor();
        socket.bind(endpoint)?;
        let outcome = Sink::new(socket, events, self.times.silence).run()?;
        Ok(self.show(&outcome))
    }

    /// Runs ventilator and sink in this process and the workers in processes of their own.
    fn run_all(&self, input: &Input) -> Result<ExitCode, Problem> {
        let count = self.workers.unwrap_or(2);
        let patience = self.times.patience.unwrap_or(Duration::from_secs(10));
        let times = Times { patience: Some(patience), ..self.times };
        let context = Context::new();
        let work = ventilator::socket(&context, times).open()?;
        let work_endpoint = work.bind("tcp://127.0.0.1:*")?;
        let pull = sink::socket(&context).open()?;
        let events = pull.monitor();
        let sink_endpoint = pull.bind("tcp://127.0.0.1:*")?;

        let mut workers = Workers::start(count, &work_endpoint, &sink_endpoint, times)?;
        let ventilator = Ventilator::new(&context, work, &sink_endpoint, times)?;
        let outcome = thread::scope(|scope| {
            let ventilator = scope.spawn(|| {
                // Without the ventilator's last word the sink would wait for its silence.
                ventilator.run(input, count).inspect_err(|_| context.shutdown())
            });
            let outcome = Sink::new(pull, events, times.silence).run();
            ventilator.join().map_err(|_| "the ventilator's thread panicked")??;
            outcome
        })?;
        let status = self.show(&outcome);
        workers.finish();
        if self.check && outcome.is_complete() { check(input, &outcome) } else { Ok(status) }
    }

    /// Prints the result, and what is missing.
    fn show(&self, outcome: &Outcome) -> ExitCode {
        println!("{}", outcome.summary(self.top));
        if outcome.is_complete() {
            return ExitCode::SUCCESS;
        }
        eprintln!("wordcount: {}", outcome.account());
        ExitCode::from(3)
    }
}

/// Compares with a count in this process alone.
fn check(input: &Input, outcome: &Outcome) -> Result<ExitCode, Problem> {
    let (words, counts) = text::count_alone(input)?;
    if words == outcome.words && counts == outcome.counts {
        eprintln!("wordcount: check passed: a single process counts the same");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "wordcount: CHECK FAILED: a single process counts {words} words, {} different \
         (or the input has changed meanwhile)",
        counts.len()
    );
    Ok(ExitCode::FAILURE)
}

/// The worker processes. Those that are left at the end are killed.
struct Workers(Vec<Child>);

impl Workers {
    fn start(
        count: usize,
        work: &Endpoint,
        sink: &Endpoint,
        times: Times,
    ) -> Result<Self, Problem> {
        let program = std::env::current_exe()?;
        let mut workers = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new(&program);
            command.args(["worker", &work.to_string(), &sink.to_string()]);
            command.args(["--silence", &times.silence.as_secs_f64().to_string()]);
            if let Some(patience) = times.patience {
                command.args(["--patience", &patience.as_secs_f64().to_string()]);
            }
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
            eprintln!("wordcount: started worker-{}", child.id());
            workers.0.push(child);
        }
        Ok(workers)
    }

    /// Waits for the workers' ends and reports those that are not well.
    fn finish(&mut self) {
        let deadline = Instant::now() + WORKERS_END;
        for child in &mut self.0 {
            let status = loop {
                match child.try_wait() {
                    Ok(None) if Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    status => break status,
                }
            };
            match status {
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => eprintln!("wordcount: worker-{}: {status}", child.id()),
                Ok(None) => eprintln!("wordcount: worker-{} does not end: killed", child.id()),
                Err(error) => eprintln!("wordcount: worker-{}: {error}", child.id()),
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail only for a process that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn input(paths: &[&str]) -> Input {
    Input::new(paths.iter().map(PathBuf::from).collect())
}

fn number(text: &str) -> Result<usize, Problem> {
    text.parse().map_err(|_| format!("{text:?} is not a number").into())
}

fn seconds(text: &str) -> Result<Duration, Problem> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("{text:?} is not a number of seconds").into())
}
