//! The command `compare`: plans the measurements, alternates the libraries, records every result.

mod case;
mod pair;
mod record;

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use case::{Case, GROUPS, Measure};
pub(crate) use record::Run;
use record::{Header, Sample};

use crate::library::{self, Known, UNSUPPORTED};
use crate::outcome::{Outcome, failure};
use crate::{report, system};

/// Where raw results are appended, one JSON object a line.
fn raw_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results/raw.jsonl")
}

fn docs_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench")
}

/// The command line of `compare`.
#[derive(Debug, Clone)]
struct Options {
    quick: bool,
    groups: Vec<String>,
    libraries: Vec<String>,
    rounds: usize,
    out: PathBuf,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            quick: false,
            groups: Vec::new(),
            libraries: Vec::new(),
            rounds: 0,
            out: docs_path(),
        };
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            let mut values = || {
                let mut values = Vec::new();
                while let Some(value) = rest.next_if(|value| !value.starts_with("--")) {
                    values.push(value.clone());
                }
                values
            };
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.groups = values(),
                "--libraries" => options.libraries = values(),
                "--rounds" => {
                    options.rounds = values().first().ok_or("--rounds needs a number")?.parse()?;
                }
                "--out" => options.out = values().first().ok_or("--out needs a path")?.into(),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        options.check()?;
        Ok(options)
    }

    fn check(&mut self) -> Outcome {
        if self.rounds == 0 {
            self.rounds = if self.quick { 2 } else { 5 };
        }
        if let Some(unknown) = self.groups.iter().find(|name| !GROUPS.contains(&name.as_str())) {
            return Err(format!("there is no group {unknown}; there are {GROUPS:?}").into());
        }
        let known = library::known();
        let is_known = |name: &&String| known.iter().any(|library| library.name == name.as_str());
        match self.libraries.iter().find(|name| !is_known(name)) {
            Some(unknown) => Err(format!("there is no library {unknown}").into()),
            None => Ok(()),
        }
    }

    fn wants_group(&self, group: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|name| name == group)
    }

    fn wants_library(&self, library: &str) -> bool {
        self.libraries.is_empty() || self.libraries.iter().any(|name| name == library)
    }

    fn timing(&self) -> Timing {
        let (warm_up_ms, window_ms) = if self.quick { (100, 250) } else { (300, 1000) };
        Timing {
            warm_up: Duration::from_millis(warm_up_ms),
            window: Duration::from_millis(window_ms),
        }
    }
}

/// How long a measurement warms up and lasts.
#[derive(Debug, Clone, Copy)]
struct Timing {
    warm_up: Duration,
    window: Duration,
}

/// Measures what the command line asks for and writes the report.
pub(crate) fn compare(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let begin = Instant::now();
    let mut run = Run::new(header(&options, arguments)?);
    fs::create_dir_all(raw_path().parent().ok_or("no folder for results")?)?;
    record::append(&raw_path(), &run.header)?;
    for group in GROUPS.iter().filter(|group| options.wants_group(group)) {
        measure_group(&options, group, &mut run)?;
    }
    run.header.seconds = begin.elapsed().as_secs_f64();
    record::append(&raw_path(), &run.header)?;
    report::write(&run, &options.out)?;
    println!("\n{:.0} s; {}", run.header.seconds, options.out.join("README.md").display());
    Ok(())
}

/// Writes the report of the last run again.
pub(crate) fn report_again() -> Outcome {
    report::write(&record::last_run(&raw_path())?, &docs_path())
}

/// A hash of this program's file.
fn program() -> Outcome<String> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(std::env::current_exe()?)?);
    Ok(format!("{:016x}", hasher.finish()))
}

fn header(options: &Options, arguments: &[String]) -> Outcome<Header> {
    let chosen = |library: &Known| options.wants_library(library.name);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_err(failure)?;
    let timing = options.timing();
    Ok(Header {
        started_unix_s: time.as_secs(),
        machine: system::machine(),
        program: program()?,
        command: arguments.join(" "),
        rounds: options.rounds,
        warm_up_ms: timing.warm_up.as_millis().try_into()?,
        window_ms: timing.window.as_millis().try_into()?,
        seconds: 0.0,
        libraries: library::known()
            .into_iter()
            .filter(chosen)
            .map(|library| {
                let absent = format!("not built: feature {} is off", library.feature);
                (library.name.to_owned(), library.version.unwrap_or(absent))
            })
            .collect(),
    })
}

/// Measures all cases of a group: round after round, in each round library after library.
fn measure_group(options: &Options, group: &str, run: &mut Run) -> Outcome {
    println!("\n# {group}");
    let built = library::known().into_iter().filter(|library| library.version.is_some());
    let names: Vec<&str> =
        built.map(|library| library.name).filter(|name| options.wants_library(name)).collect();
    let peak = run.median("throughput", "tcp 64 B", "libzmq", "messages_per_s");
    for case in case::plan(group, peak)? {
        let mut left_out: Vec<&str> = Vec::new();
        for round in 0..options.rounds.min(case.rounds_max) {
            for &name in &names {
                if left_out.contains(&name) || !case.suits(name) {
                    continue;
                }
                let sample = sample(&case, name, round, options.timing());
                if sample.error.as_ref().is_some_and(|e| e.starts_with(UNSUPPORTED)) {
                    left_out.push(name);
                }
                record::append(&raw_path(), &sample)?;
                run.samples.push(sample);
            }
        }
        report::print_case(run, &case);
        run.cases.push(case);
    }
    Ok(())
}

/// One measurement; a failure is a result, too.
fn sample(case: &Case, library: &str, round: usize, timing: Timing) -> Sample {
    let (figures, error) = match pair::measure(case, library, timing) {
        Ok(figures) => (figures, None),
        Err(error) => (Default::default(), Some(error.to_string())),
    };
    Sample {
        group: case.group.to_owned(),
        case: case.name.clone(),
        placement: case.placement.to_string(),
        library: library.to_owned(),
        round,
        figures,
        error,
    }
}
