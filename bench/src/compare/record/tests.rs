//! The archive: medians, and which run a cell comes from.
#![allow(clippy::unwrap_used)]

use super::*;

pub(crate) fn header(started_unix_s: u64) -> Header {
    let names = ["peermq", "libzmq", "omq", "floor"];
    Header {
        started_unix_s,
        machine: "a machine".into(),
        kernel: "Linux".into(),
        device: String::new(),
        program: "0".into(),
        commit: "c".into(),
        profile: "release".into(),
        command: String::new(),
        rounds: 3,
        warm_up_ms: 1,
        window_ms: 1,
        seconds: 1.0,
        libraries: names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect(),
    }
}

/// A sample of the throughput of 64 B, as (library, messages per second).
pub(crate) fn sample(library: &str, round: usize, rate: f64) -> Sample {
    Sample {
        group: "throughput".into(),
        case: "64 B".into(),
        number: 1,
        measure: Measure::Rate,
        placement: "half of the cores each".into(),
        library: library.into(),
        round,
        figures: Figures::from([("messages_per_s".to_owned(), rate)]),
        error: None,
    }
}

pub(crate) fn run(started_unix_s: u64, rates: &[(&str, f64)]) -> Run {
    let samples = rates.iter().map(|(library, rate)| sample(library, 0, *rate)).collect();
    Run { header: header(started_unix_s), samples }
}

fn text(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        text += &(serde_json::to_string(&run.header).unwrap() + "\n");
        for sample in &run.samples {
            text += &(serde_json::to_string(sample).unwrap() + "\n");
        }
        text += &(serde_json::to_string(&run.header).unwrap() + "\n");
    }
    text
}

#[test]
fn the_median_of_an_odd_number_is_the_middle_and_of_an_even_number_lies_between() {
    let odd = Spread::of(vec![9.0, 1.0, 4.0]).unwrap();
    assert_eq!((odd.median, odd.min, odd.max), (4.0, 1.0, 9.0));
    let even = Spread::of(vec![8.0, 1.0, 2.0, 4.0]).unwrap();
    assert_eq!((even.median, even.min, even.max), (3.0, 1.0, 8.0));
    assert_eq!(Spread::of(vec![]), None);
}

#[test]
fn rounds_that_failed_give_no_figure_but_a_reason() {
    let mut failed = sample("omq", 1, 0.0);
    failed.figures.clear();
    failed.error = Some("did not finish".into());
    let mut run = run(1, &[("omq", 5.0)]);
    run.samples.push(failed);
    let row = run.samples[0].row();
    assert_eq!(run.spread(&row, "omq", "messages_per_s").unwrap().median, 5.0);
    assert_eq!((run.rounds(&row, "omq"), run.error(&row, "omq")), (1, Some("did not finish")));
}

#[test]
fn a_file_gives_back_the_runs_that_were_written() {
    let runs = [run(1, &[("peermq", 2.0)]), run(2, &[("libzmq", 1.0)])];
    assert_eq!(Archive::parse(&text(&runs)).unwrap().runs, runs);
    assert!(Archive::parse("{}").is_err());
}

#[test]
fn each_cell_comes_from_the_latest_run_that_tried_it() {
    let archive = Archive {
        runs: vec![run(1, &[("peermq", 1.0), ("omq", 2.0)]), run(2, &[("peermq", 3.0)])],
    };
    let row = &archive.rows("throughput")[0];
    let started =
        |libraries: &[&str]| archive.latest(row, libraries).unwrap().header.started_unix_s;
    assert_eq!(started(&["peermq"]), 2);
    assert_eq!(started(&["omq"]), 1);
    assert_eq!(started(&["peermq", "omq"]), 1, "only what alternated is compared");
    assert!(archive.latest(row, &["peermq", "libzmq"]).is_none());
    assert_eq!(archive.used().len(), 2);
}

#[test]
fn a_run_that_is_wholly_replaced_is_no_longer_used() {
    let archive = Archive {
        runs: vec![run(1, &[("peermq", 1.0)]), run(2, &[("peermq", 3.0), ("omq", 1.0)])],
    };
    let used: Vec<u64> = archive.used().iter().map(|run| run.header.started_unix_s).collect();
    assert_eq!(used, [2]);
    assert_eq!(archive.libraries()[0].0, "peermq");
}
