//! Raw results: one JSON object a line, a header before and after the samples of each run. All of a page follows from
//! these lines; nothing on it is looked up while it is written.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Measure;
use crate::outcome::Outcome;
use crate::peer::Figures;

/// What holds for a whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The start, in seconds of Unix time; names the run.
    pub(crate) started_unix_s: u64,
    pub(crate) machine: String,
    /// The kernel and its release.
    pub(crate) kernel: String,
    /// Where the files of logs lie; empty in runs of an older program.
    #[serde(default)]
    pub(crate) device: String,
    /// A hash of this program, to tell runs of different builds apart.
    pub(crate) program: String,
    /// The commit that was measured, where git can tell.
    pub(crate) commit: String,
    /// How this program was compiled.
    pub(crate) profile: String,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) group: String,
    pub(crate) case: String,
    /// The place of the case in its group.
    pub(crate) number: usize,
    pub(crate) measure: Measure,
    pub(crate) placement: String,
    pub(crate) library: String,
    pub(crate) round: usize,
    pub(crate) figures: Figures,
    /// Why there are no figures.
    pub(crate) error: Option<String>,
}

/// A run with all its samples.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) header: Header,
    pub(crate) samples: Vec<Sample>,
}

/// Median and spread of one figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without values.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

/// Names one row of a table: what is compared between libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) case: String,
    pub(crate) number: usize,
    pub(crate) measure: Measure,
    pub(crate) placement: String,
}

impl Run {
    pub(crate) fn new(header: Header) -> Self {
        Self { header, samples: Vec::new() }
    }

    /// What a library did in a case.
    fn samples<'run>(
        &'run self,
        row: &Row,
        library: &str,
    ) -> impl Iterator<Item = &'run Sample> + use<'run> {
        let (group, case, library) = (row.group.clone(), row.case.clone(), library.to_owned());
        self.samples
            .iter()
            .filter(move |s| s.group == group && s.case == case && s.library == library)
    }

    /// Whether a library was tried in a case, with whatever result.
    pub(crate) fn tried(&self, row: &Row, library: &str) -> bool {
        self.samples(row, library).next().is_some()
    }

    /// Rounds that gave figures.
    pub(crate) fn rounds(&self, row: &Row, library: &str) -> usize {
        self.samples(row, library).filter(|sample| sample.error.is_none()).count()
    }

    /// Median and spread of a figure; `None` when no round gave it.
    pub(crate) fn spread(&self, row: &Row, library: &str, figure: &str) -> Option<Spread> {
        let samples = self.samples(row, library);
        Spread::of(samples.filter_map(|sample| sample.figures.get(figure).copied()).collect())
    }

    /// Median of a figure.
    pub(crate) fn median(&self, row: &Row, library: &str, figure: &str) -> Option<f64> {
        self.spread(row, library, figure).map(|spread| spread.median)
    }

    /// Why a library has no figure, or fewer than there were rounds.
    pub(crate) fn error(&self, row: &Row, library: &str) -> Option<&str> {
        self.samples(row, library).find_map(|sample| sample.error.as_deref())
    }

    /// The cases that were measured, in the order of their numbers.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for sample in &self.samples {
            if !rows.iter().any(|row| row.group == sample.group && row.case == sample.case) {
                rows.push(sample.row());
            }
        }
        rows
    }
}

impl Sample {
    pub(crate) fn row(&self) -> Row {
        Row {
            group: self.group.clone(),
            case: self.case.clone(),
            number: self.number,
            measure: self.measure,
            placement: self.placement.clone(),
        }
    }
}

/// Every run of a file, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    pub(crate) runs: Vec<Run>,
}

impl Archive {
    /// Reads a file; one that is not there is empty.
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        Self::parse(&fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> Outcome<Self> {
        let mut runs: Vec<Run> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if let Ok(header) = serde_json::from_str::<Header>(line) {
                match runs.last_mut() {
                    Some(run) if run.header.started_unix_s == header.started_unix_s => {
                        run.header = header;
                    }
                    _ => runs.push(Run::new(header)),
                }
                continue;
            }
            let sample = serde_json::from_str(line)
                .map_err(|error| format!("line {}: {error}", number + 1))?;
            runs.last_mut()
                .ok_or("the first line is not the header of a run")?
                .samples
                .push(sample);
        }
        Ok(Self { runs })
    }

    /// All cases of a group, each as it was last measured.
    pub(crate) fn rows(&self, group: &str) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for run in self.runs.iter().rev() {
            for row in run.rows().into_iter().filter(|row| row.group == group) {
                if !rows.iter().any(|known| known.case == row.case) {
                    rows.push(row);
                }
            }
        }
        rows.sort_by_key(|row| row.number);
        rows
    }

    /// The latest run in which all these libraries were tried in a case: their figures alternated and may be compared.
    pub(crate) fn latest(&self, row: &Row, libraries: &[&str]) -> Option<&Run> {
        let all_tried = |run: &&Run| libraries.iter().all(|library| run.tried(row, library));
        self.runs.iter().rev().find(all_tried)
    }

    /// Runs from which the latest record of some cell comes.
    pub(crate) fn used(&self) -> Vec<&Run> {
        let mut starts = BTreeSet::new();
        for run in &self.runs {
            for row in run.rows() {
                for (library, _) in &run.header.libraries {
                    let latest = self.latest(&row, &[library]);
                    starts.extend(latest.map(|run| run.header.started_unix_s));
                }
            }
        }
        self.runs.iter().filter(|run| starts.contains(&run.header.started_unix_s)).collect()
    }

    /// Names and versions of the libraries of all used runs, the versions as last seen.
    pub(crate) fn libraries(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for run in self.used().into_iter().rev() {
            for (name, version) in &run.header.libraries {
                if !found.iter().any(|(known, _)| known == name) {
                    found.push((name, version));
                }
            }
        }
        let order = crate::library::known();
        found.sort_by_key(|(name, _)| order.iter().position(|library| library.name == *name));
        found
    }
}

/// Appends one line.
pub(crate) fn append(path: &Path, line: &impl Serialize) -> Outcome {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(line)?)?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
