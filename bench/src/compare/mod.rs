//! The command `compare`: plans the measurements, alternates the libraries, records every result.

mod case;
mod pair;
mod record;

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use case::Suits;
pub(crate) use case::{Case, GROUPS, Measure};
use record::Header;
#[cfg(test)]
pub(crate) use record::tests;
pub(crate) use record::{Archive, Row, Run, Spread};

use crate::library::{self, CANNOT, Known};
use crate::outcome::{Outcome, failure};
use crate::{report, system};

/// A library that failed this often in a case, and never succeeded, is not tried again in it.
const FAILURES_MAX: usize = 2;

/// The command line of `compare` and `report`.
#[derive(Debug, Clone)]
struct Options {
    quick: bool,
    groups: Vec<String>,
    libraries: Vec<String>,
    rounds: usize,
    raw: Option<PathBuf>,
    out: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            quick: false,
            groups: Vec::new(),
            libraries: Vec::new(),
            rounds: 0,
            raw: None,
            out: None,
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
                "--raw" => options.raw = values().first().map(PathBuf::from),
                "--out" => options.out = values().first().map(PathBuf::from),
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

    /// Where raw results are appended, one JSON object a line. Quick ones have a file of their own: they would pass for
    /// the latest real ones.
    fn raw(&self) -> PathBuf {
        let name = if self.quick { "results/quick.jsonl" } else { "results/raw.jsonl" };
        self.raw.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
    }

    /// Where the page and the charts go.
    fn out(&self) -> PathBuf {
        let name = if self.quick { "results/quick" } else { "../docs/bench" };
        self.out.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
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

/// Measures what the command line asks for, appends it to what there is, and writes the report of all.
pub(crate) fn compare(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let begin = Instant::now();
    let raw = options.raw();
    let mut run = Run::new(header(&options, arguments)?);
    fs::create_dir_all(raw.parent().ok_or("no folder for results")?)?;
    record::append(&raw, &run.header)?;
    for group in GROUPS.iter().filter(|group| options.wants_group(group)) {
        println!("\n# {group}");
        for case in case::plan(group)? {
            measure_case(&options, case, &mut run)?;
        }
        crate::log::remove_large(&std::env::temp_dir());
    }
    run.header.seconds = begin.elapsed().as_secs_f64();
    record::append(&raw, &run.header)?;
    println!("\n{:.0} s", run.header.seconds);
    if options.wants_group("log") {
        println!("files of logs: {}", run.header.device);
    }
    write_report(&options)
}

/// Writes the report again.
pub(crate) fn report_again(arguments: &[String]) -> Outcome {
    write_report(&Options::parse(arguments)?)
}

fn write_report(options: &Options) -> Outcome {
    let (raw, out) = (options.raw(), options.out());
    let archive = Archive::read(&raw)?;
    if archive.runs.is_empty() {
        return Err(format!("there are no results in {}", raw.display()).into());
    }
    report::write(&archive, &out)?;
    report::print_bounds(&archive, |group| options.wants_group(group));
    println!("{}", out.join("README.md").display());
    Ok(())
}

/// A hash of this program's file.
fn program() -> Outcome<String> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(std::env::current_exe()?)?);
    Ok(format!("{:016x}", hasher.finish()))
}

/// The commit of the sources beside this program, with `+` when they differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let folder = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git").args(["-C", folder]).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit)
            if git(&["status", "--porcelain", "--", ":/src", ":/Cargo.toml", ":/bench/src"])
                .is_some_and(|t| t.is_empty()) =>
        {
            commit
        }
        Some(commit) => commit + "+",
        None => "unknown".to_owned(),
    }
}

fn header(options: &Options, arguments: &[String]) -> Outcome<Header> {
    let chosen = |library: &Known| options.wants_library(library.name);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_err(failure)?;
    let timing = options.timing();
    let profile = if cfg!(debug_assertions) {
        "unoptimised: the figures say nothing"
    } else {
        "release, lto = \"thin\", codegen-units = 1"
    };
    Ok(Header {
        started_unix_s: time.as_secs(),
        machine: system::machine(),
        kernel: system::kernel(),
        device: system::device(&std::env::temp_dir()),
        program: program()?,
        commit: commit(),
        profile: profile.to_owned(),
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

/// Measures a case round after round, in each round library after library.
fn measure_case(options: &Options, mut case: Case, run: &mut Run) -> Outcome {
    let mut libraries: Vec<&str> = library::known()
        .into_iter()
        .filter(|library| library.version.is_some())
        .map(|library| library.name)
        // The open loop follows libzmq's peak, whoever is measured in it.
        .filter(|name| options.wants_library(name) || case.suits_only(name))
        .collect();
    let row = case.row()?;
    if let Some(percent) = case.rate_percent {
        let peak = run.median(&case::peak_row(&row), "libzmq", "messages_per_s");
        let Some(peak) = peak else {
            println!("{}: left out, because libzmq's peak was not found", case.name);
            return Ok(());
        };
        case.rate = peak * f64::from(percent) / 100.0;
    }
    for round in 0..options.rounds.min(case.rounds_max) {
        for name in libraries.clone() {
            let Some(sample) = sample(&case, name, round, options.timing())? else { continue };
            record::append(&options.raw(), &sample)?;
            let cannot = sample.error.as_ref().is_some_and(|error| error.starts_with(CANNOT));
            run.samples.push(sample);
            let hopeless = run.rounds(&row, name) == 0 && round + 1 >= FAILURES_MAX;
            if cannot || hopeless {
                libraries.retain(|other| *other != name);
            }
        }
    }
    report::print_row(run, &row);
    Ok(())
}

/// Names of the cases of a group.
#[cfg(test)]
pub(crate) fn planned(group: &str) -> Outcome<Vec<String>> {
    Ok(case::plan(group)?.into_iter().map(|case| case.name).collect())
}

/// One measurement; a failure is a result, too. `None` when this library has no part in the case.
fn sample(
    case: &Case,
    library: &str,
    round: usize,
    timing: Timing,
) -> Outcome<Option<record::Sample>> {
    let mut sample = case.sample(library, round)?;
    match case.suits(library) {
        Suits::Skipped => return Ok(None),
        Suits::Cannot(reason) => sample.error = Some(format!("{CANNOT}{reason}")),
        Suits::Yes => match pair::measure(case, library, timing) {
            Ok(figures) => sample.figures = figures,
            Err(error) => sample.error = Some(error.to_string()),
        },
    }
    Ok(Some(sample))
}
