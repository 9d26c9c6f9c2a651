//! Ratios and bounds on made-up runs.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::compare::tests::{run, sample};

fn archive(runs: Vec<Run>) -> Archive {
    Archive { runs }
}

/// A bound on the throughput of the made-up case.
fn on_rate(limit: Limit, against: Against) -> Bound {
    bound(("64 B", "throughput", "64 B"), RATE, limit, against, "")
}

const FIVE_TIMES: Limit = Limit::AtLeast(5.0);

#[test]
fn a_ratio_at_the_bound_is_met_and_one_below_is_missed() {
    let judge = |own| {
        let archive = archive(vec![run(1, &[("peermq", own), ("libzmq", 2e6)])]);
        on_rate(FIVE_TIMES, OF_LIBZMQ).judge(&archive)
    };
    let met = judge(10e6);
    assert_eq!((met.ratio.as_str(), met.verdict.as_str()), ("5.00", "**met**"));
    assert_eq!((met.figure.as_str(), met.other.as_str()), ("10.0 M msg/s", "2.00 M msg/s"));
    assert_eq!(judge(9.9e6).verdict, "missed");
}

#[test]
fn where_less_is_better_a_ratio_above_the_bound_is_missed() {
    let judge = |own| {
        let archive = archive(vec![run(1, &[("peermq", own), ("libzmq", 10.0)])]);
        on_rate(Limit::AtMost(0.35), OF_LIBZMQ).judge(&archive).verdict
    };
    assert_eq!(judge(3.5), "**met**");
    assert_eq!(judge(3.6), "missed");
}

#[test]
fn of_several_libraries_the_closest_decides() {
    let archive =
        archive(vec![run(1, &[("peermq", 10.0), ("libzmq", 2.0), ("omq", 4.0), ("floor", 1.0)])]);
    let each = Against::Each(&["libzmq", "omq", "floor"]);
    let least = on_rate(Limit::AtLeast(3.0), each).judge(&archive);
    assert_eq!((least.ratio.as_str(), least.verdict.as_str()), ("2.50", "missed"));
    assert!(least.other.ends_with("(omq)"), "{}", least.other);
    let most = on_rate(Limit::AtMost(3.0), each).judge(&archive);
    assert_eq!(most.ratio, "10.0");
}

#[test]
fn medians_are_compared_not_single_rounds() {
    let mut made = run(1, &[("peermq", 90.0), ("libzmq", 10.0)]);
    made.samples.push(sample("peermq", 1, 50.0));
    made.samples.push(sample("peermq", 2, 40.0));
    let verdict = on_rate(FIVE_TIMES, OF_LIBZMQ).judge(&archive(vec![made]));
    assert_eq!(verdict.ratio, "5.00");
}

#[test]
fn figures_of_different_runs_are_not_compared() {
    let runs = vec![run(1, &[("peermq", 10.0), ("libzmq", 1.0)]), run(2, &[("peermq", 2.0)])];
    assert_eq!(on_rate(FIVE_TIMES, OF_LIBZMQ).judge(&archive(runs)).ratio, "10.0");
    let apart = vec![run(1, &[("libzmq", 1.0)]), run(2, &[("peermq", 2.0)])];
    let verdict = on_rate(FIVE_TIMES, OF_LIBZMQ).judge(&archive(apart));
    assert_eq!(verdict.verdict, "libzmq: not measured");
}

#[test]
fn a_library_without_a_figure_weakens_a_verdict_and_our_own_absence_ends_it() {
    let mut made = run(1, &[("peermq", 10.0), ("libzmq", 1.0), ("omq", 1.0)]);
    made.samples[2].figures.clear();
    made.samples[2].error = Some("did not finish".into());
    let bound = on_rate(FIVE_TIMES, Against::Each(&["libzmq", "omq"]));
    assert_eq!(
        bound.judge(&archive(vec![made.clone()])).verdict,
        "**met**; without omq: did not finish"
    );
    made.samples[0].figures.clear();
    made.samples[0].error = Some("did not finish".into());
    assert_eq!(bound.judge(&archive(vec![made])).verdict, "peermq: did not finish");
}

#[test]
fn others_on_the_machine_are_told() {
    let mut made = run(1, &[("peermq", 10.0), ("libzmq", 1.0)]);
    made.samples[1].figures.insert("foreign_cpu_share".into(), 0.2);
    assert_eq!(
        on_rate(FIVE_TIMES, OF_LIBZMQ).judge(&archive(vec![made])).verdict,
        "**met**; disturbed"
    );
}

#[test]
fn a_number_is_compared_with_the_figure_itself() {
    let archive = archive(vec![run(1, &[("peermq", 0.5)])]);
    assert_eq!(on_rate(Limit::AtLeast(0.5), Against::Number).judge(&archive).verdict, "**met**");
    assert_eq!(on_rate(Limit::AtLeast(0.6), Against::Number).judge(&archive).verdict, "missed");
}

#[test]
fn every_bound_names_a_case_that_is_planned() {
    for bound in against_libzmq().into_iter().chain(against_others()) {
        let cases = crate::compare::planned(bound.group).unwrap();
        assert!(cases.iter().any(|case| case.ends_with(bound.case)), "{}", bound.what);
    }
}
