//! Compares peermq with other messaging libraries: two processes per measurement, the same work for each library.
//!
//! ```sh
//! cargo run --release --manifest-path bench/Cargo.toml -- compare [--quick] [--only GROUP..] [--libraries NAME..]
//! cargo run --release --manifest-path bench/Cargo.toml -- report      # writes the page again from the raw results
//! ```
//!
//! `compare` starts this same binary as `peer ..` for each side of a measurement (`src/peer/`), which drives one
//! library through the small interface of `src/library/`. `src/compare/` plans, runs and records; `src/report/` writes
//! tables, bounds and charts.

mod compare;
mod library;
mod log;
mod outcome;
mod peer;
mod report;
mod system;

use std::process::ExitCode;

use crate::outcome::Outcome;

const USAGE: &str = "usage: peermq-bench compare [--quick] [--only GROUP..] [--libraries NAME..] [--rounds N]
       peermq-bench report [--quick]

compare      measures, appends raw results to bench/results/raw.jsonl, and writes docs/bench/ from all of them: of each
             cell of a table the latest, so that a group can be measured again alone
  --quick      short windows and few rounds: shows that everything runs, not how fast; kept apart, in bench/results/
  --only       some groups: throughput roundtrip ipc inproc fanout router memory openloop log
  --libraries  some libraries: peermq libzmq omq rzmq rzmq-uring zeromq monocoque monocoque-coalesced nng commitlog walrus floor
  --rounds N   measurements of each figure (5; quick: 2)
report       writes the page again from the raw results
  --raw FILE   both commands: other raw results
  --out DIR    both commands: another place for the page and the charts";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peermq-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome {
    match arguments.split_first() {
        Some((command, rest)) if command == "compare" => compare::compare(rest),
        Some((command, rest)) if command == "report" => compare::report_again(rest),
        Some((command, [job])) if command == "peer" => peer::run(job),
        _ => Err(USAGE.into()),
    }
}
