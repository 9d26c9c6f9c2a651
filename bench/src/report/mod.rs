//! Tables on the terminal, the page `docs/bench/README.md`, and its charts.

mod bounds;
mod chart;
mod page;

use std::fs;
use std::path::Path;

use crate::compare::{Case, Measure, Run};
use crate::outcome::Outcome;

/// A window counts as disturbed when others used more than this part of the machine, in the median round. Below it lies
/// the resolution of the clock: 10 ms for each core of a short window.
pub(crate) const DISTURBED_SHARE: f64 = 0.05;

/// Prints the figures of a case.
pub(crate) fn print_case(run: &Run, case: &Case) {
    println!("{} ({})", case.name, case.placement);
    for (library, _) in &run.header.libraries {
        println!("  {library:20} {}", cell(run, case, library));
    }
}

/// Writes the page and the charts.
pub(crate) fn write(run: &Run, folder: &Path) -> Outcome {
    fs::create_dir_all(folder)?;
    for (name, svg) in chart::all(run) {
        fs::write(folder.join(name), svg)?;
    }
    fs::write(folder.join("README.md"), page::page(run))?;
    Ok(())
}

/// The figure of a case with its spread, or the reason why there is none.
fn cell(run: &Run, case: &Case, library: &str) -> String {
    let figure = run.spread(case.group, &case.name, library, case.measure.figure());
    let error = run.error(case.group, &case.name, library);
    match (figure, error) {
        (Some(spread), error) => {
            let show = |value| show(value, case.measure);
            let failed = if error.is_some() { ", some rounds failed" } else { "" };
            let (median, min, max) = (show(spread.median), show(spread.min), show(spread.max));
            format!("{median} ({min} - {max}{failed})")
        }
        (None, Some(error)) => error.replace('|', "/"),
        (None, None) => "-".to_owned(),
    }
}

/// A figure with its unit.
fn show(value: f64, measure: Measure) -> String {
    match measure {
        Measure::Rate if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
        Measure::Rate => format!("{:.1} k/s", value / 1e3),
        Measure::Time if value >= 1e4 => format!("{:.1} ms", value / 1e3),
        Measure::Time => format!("{value:.1} us"),
        Measure::Memory => format!("{:.2} KiB", value / 1024.0),
    }
}

/// The part of the machine that other processes used during the windows of a case: the worst median of any library.
fn foreign_share(run: &Run, case: &Case) -> f64 {
    let libraries = run.header.libraries.iter();
    libraries
        .filter_map(|(library, _)| run.median(case.group, &case.name, library, "foreign_cpu_share"))
        .fold(0.0, f64::max)
}
