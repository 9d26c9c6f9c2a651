//! Tables on the terminal, the page `docs/bench/README.md`, and its charts.

mod axis;
mod bounds;
mod chart;
mod number;
mod page;
mod table;
mod time;

use std::fs;
use std::path::Path;

use crate::compare::{Archive, Row, Run};
use crate::outcome::Outcome;
use number::Kind;

/// A window counts as disturbed when others used more than this part of the machine, in the median round. Below it lies
/// the resolution of the clock: 10 ms for each core of a short window.
const DISTURBED_SHARE: f64 = 0.05;

/// Prints the figures of a case.
pub(crate) fn print_row(run: &Run, row: &Row) {
    println!("{} ({})", row.case, row.placement);
    for (library, _) in &run.header.libraries {
        if !run.tried(row, library) {
            continue;
        }
        let kind = Kind::of(row.measure.figure());
        let figure = run.spread(row, library, row.measure.figure()).map(|spread| {
            let [median, min, max] = [spread.median, spread.min, spread.max].map(|v| kind.show(v));
            format!("{median} ({min} .. {max})")
        });
        let words = [figure.as_deref(), run.error(row, library)];
        println!("  {library:20} {}", words.into_iter().flatten().collect::<Vec<_>>().join("; "));
    }
}

/// Prints the figures to reach in some groups, with what was measured last.
pub(crate) fn print_bounds(archive: &Archive, wanted: impl Fn(&str) -> bool) {
    let bounds = [bounds::against_libzmq(), bounds::against_others(), bounds::of_the_log()];
    for bound in bounds.iter().flatten().filter(|bound| wanted(bound.group)) {
        let found = bound.judge(archive);
        let figures = [found.figure, found.other, found.ratio];
        let figures: Vec<_> = figures.into_iter().filter(|text| !text.is_empty()).collect();
        println!("{}: {}; {}: {}", bound.what, figures.join(", "), bound.text, found.verdict);
    }
}

/// Writes the page and the charts. They depend on nothing but the results.
pub(crate) fn write(archive: &Archive, folder: &Path) -> Outcome {
    fs::create_dir_all(folder)?;
    for (name, svg) in chart::all(archive) {
        fs::write(folder.join(name), svg)?;
    }
    fs::write(folder.join("README.md"), page::page(archive))?;
    Ok(())
}

/// The part of the machine that other processes used during the windows of a case: the worst median of any library.
fn foreign_share(run: &Run, row: &Row) -> f64 {
    let libraries = run.header.libraries.iter();
    libraries
        .filter_map(|(library, _)| run.median(row, library, "foreign_cpu_share"))
        .fold(0.0, f64::max)
}
