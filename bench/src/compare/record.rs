//! Raw results: one JSON object a line, a header before and after the samples of each run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Case;
use super::case::{GROUPS, plan};
use crate::outcome::Outcome;
use crate::peer::Figures;

/// What holds for a whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) started_unix_s: u64,
    pub(crate) machine: String,
    /// A hash of this program, to tell runs of different builds apart.
    #[serde(default)]
    pub(crate) program: String,
    /// Arguments of `compare`.
    pub(crate) command: String,
    pub(crate) rounds: usize,
    pub(crate) warm_up_ms: u64,
    pub(crate) window_ms: u64,
    /// How long the run took; zero in the header before it.
    pub(crate) seconds: f64,
    /// Name and version, or the reason why it is not there.
    pub(crate) libraries: Vec<(String, String)>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) group: String,
    pub(crate) case: String,
    pub(crate) placement: String,
    pub(crate) library: String,
    pub(crate) round: usize,
    pub(crate) figures: Figures,
    /// Why there are no figures.
    pub(crate) error: Option<String>,
}

/// All of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) header: Header,
    pub(crate) cases: Vec<Case>,
    pub(crate) samples: Vec<Sample>,
}

/// Median and spread of one figure over the rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Run {
    pub(crate) fn new(header: Header) -> Self {
        Self { header, cases: Vec::new(), samples: Vec::new() }
    }

    fn samples<'run, 'name>(
        &'run self,
        group: &'name str,
        case: &'name str,
        library: &'name str,
    ) -> impl Iterator<Item = &'run Sample> + use<'run, 'name> {
        self.samples.iter().filter(move |sample| {
            sample.group == group && sample.case == case && sample.library == library
        })
    }

    /// Median and spread of a figure; `None` when no round gave it.
    pub(crate) fn spread(
        &self,
        group: &str,
        case: &str,
        library: &str,
        figure: &str,
    ) -> Option<Spread> {
        let samples = self.samples(group, case, library);
        let mut values: Vec<f64> =
            samples.filter_map(|sample| sample.figures.get(figure).copied()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.as_slice() {
            [.., _] if values.len() % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Spread { median, min, max })
    }

    /// Median of a figure.
    pub(crate) fn median(
        &self,
        group: &str,
        case: &str,
        library: &str,
        figure: &str,
    ) -> Option<f64> {
        self.spread(group, case, library, figure).map(|spread| spread.median)
    }

    /// Why a library has no figure, or fewer than there were rounds.
    pub(crate) fn error(&self, group: &str, case: &str, library: &str) -> Option<&str> {
        self.samples(group, case, library).find_map(|sample| sample.error.as_deref())
    }
}

/// Appends one line.
pub(crate) fn append(path: &Path, line: &impl Serialize) -> Outcome {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(line)?)?;
    Ok(())
}

/// Reads the last run of a file.
pub(crate) fn last_run(path: &Path) -> Outcome<Run> {
    let text = fs::read_to_string(path)?;
    let mut run: Option<Run> = None;
    for line in text.lines() {
        if let Ok(header) = serde_json::from_str::<Header>(line) {
            match &mut run {
                Some(run) if run.header.started_unix_s == header.started_unix_s => {
                    run.header = header;
                }
                _ => run = Some(Run::new(header)),
            }
        } else if let Some(run) = &mut run {
            run.samples.push(serde_json::from_str(line)?);
        }
    }
    let mut run = run.ok_or("there is no run")?;
    let peak = run.median("throughput", "tcp 64 B", "libzmq", "messages_per_s");
    for group in GROUPS {
        let measured =
            |case: &Case| run.samples.iter().any(|s| s.group == case.group && s.case == case.name);
        let cases: Vec<Case> =
            plan(group, peak.or(Some(0.0)))?.into_iter().filter(measured).collect();
        run.cases.extend(cases);
    }
    Ok(run)
}
