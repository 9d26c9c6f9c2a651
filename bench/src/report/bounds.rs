//! The figures to reach: each bound with what was measured, and whether it is met.

use super::number::{Kind, digits};
use super::{DISTURBED_SHARE, foreign_share};
use crate::compare::{Archive, Row, Run};

const PEERMQ: &str = "peermq";
const LIBZMQ: &str = "libzmq";
const FLOOR: &str = "floor";
const COALESCED: &str = "monocoque-coalesced";
const EAGER: &str = "monocoque";
/// Rust libraries other than the fastest one in its special mode.
const RUST: [&str; 5] = ["omq", "rzmq", "rzmq-uring", "zeromq", "monocoque"];
const RUST_ALL: [&str; 6] = ["omq", "rzmq", "rzmq-uring", "zeromq", "monocoque", COALESCED];

/// What a bound compares with.
#[derive(Debug, Clone, Copy)]
enum Against {
    /// Each of these libraries; the one that comes closest decides.
    Each(&'static [&'static str]),
    /// A fixed number.
    Number,
}

/// The direction of a bound with its factor, or its number.
#[derive(Debug, Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(factor) => ratio >= factor,
            Self::AtMost(factor) => ratio <= factor,
        }
    }

    /// Whether the first ratio is harder to accept than the second.
    fn closer(self, first: f64, second: f64) -> bool {
        match self {
            Self::AtLeast(_) => first < second,
            Self::AtMost(_) => first > second,
        }
    }
}

/// One bound on one figure.
pub(super) struct Bound {
    /// The row of the table.
    pub(super) what: &'static str,
    pub(super) group: &'static str,
    /// The case, or the end of its name where the beginning depends on the machine.
    case: &'static str,
    figure: &'static str,
    /// The figure of the other side; mostly the same.
    other_figure: &'static str,
    limit: Limit,
    against: Against,
    /// The bound in words.
    pub(super) text: &'static str,
}

/// A bound with what was measured.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// Ours, with its unit.
    pub(super) figure: String,
    /// Theirs, with its unit and, when there was a choice, whose it is.
    pub(super) other: String,
    pub(super) ratio: String,
    /// Met or missed, and what weakens that.
    pub(super) verdict: String,
}

const LOAD: &str = "throughput";
const TRIP: &str = "roundtrip";
const RATE: &str = "messages_per_s";
const P50: &str = "p50_us";
const P99: &str = "p99_us";

fn bound(
    (what, group, case): (&'static str, &'static str, &'static str),
    figure: &'static str,
    limit: Limit,
    against: Against,
    text: &'static str,
) -> Bound {
    Bound { what, group, case, figure, other_figure: figure, limit, against, text }
}

const OF_LIBZMQ: Against = Against::Each(&[LIBZMQ]);
const OF_FLOOR: Against = Against::Each(&[FLOOR]);

/// The bounds against libzmq, in the order of the table.
pub(super) fn against_libzmq() -> Vec<Bound> {
    use Limit::{AtLeast, AtMost};
    let least = |what, figure, factor, text| bound(what, figure, AtLeast(factor), OF_LIBZMQ, text);
    let most = |what, figure, factor, text| bound(what, figure, AtMost(factor), OF_LIBZMQ, text);
    let open = ("open loop at 50 % of libzmq's peak, p99", "openloop", "50 % of libzmq's peak");
    let idle = ("10,000 idle connections, memory of each", "memory", "idle connections");
    let cpu = ("CPU seconds per million 64 B messages, both sides", LOAD, "tcp 64 B");
    vec![
        least(("PUSH-PULL tcp 16 B", LOAD, "tcp 16 B"), RATE, 5.0, "at least 5x"),
        least(("PUSH-PULL tcp 64 B", LOAD, "tcp 64 B"), RATE, 5.0, "at least 5x"),
        least(("PUSH-PULL tcp 256 B", LOAD, "tcp 256 B"), RATE, 4.0, "at least 4x"),
        least(("PUSH-PULL tcp 1 KiB", LOAD, "tcp 1 KiB"), RATE, 4.0, "at least 4x"),
        least(("PUSH-PULL tcp 16 KiB", LOAD, "tcp 16 KiB"), RATE, 2.5, "at least 2.5x"),
        least(("PUSH-PULL tcp 128 KiB", LOAD, "tcp 128 KiB"), RATE, 1.8, "at least 1.8x"),
        most(ONE_CORE, P50, 0.35, "at most 0.35x"),
        most(CORE_EACH, P50, 0.65, "at most 0.65x"),
        least(("ipc: throughput 64 B", "ipc", "ipc 64 B"), RATE, 5.0, "at least 5x"),
        most(("ipc: round trip 64 B, p50", "ipc", "ipc round trip"), P50, 0.35, "at most 0.35x"),
        least(("inproc: throughput 64 B", "inproc", "inproc 64 B"), RATE, 6.0, "at least 6x"),
        most(
            ("inproc: round trip 64 B, p50", "inproc", "inproc round trip"),
            P50,
            0.6,
            "at most 0.6x",
        ),
        least(("PUB to 1, 64 B", "fanout", "1 x 64 B"), RATE, 5.0, "at least 5x"),
        least(("PUB to 8, 64 B", "fanout", "8 x 64 B"), RATE, 5.0, "at least 5x"),
        least(("PUB to 32, 64 B", "fanout", "32 x 64 B"), RATE, 5.0, "at least 5x"),
        least(("PUB to 1, 1 KiB", "fanout", "1 x 1 KiB"), RATE, 5.0, "at least 5x"),
        least(("PUB to 8, 1 KiB", "fanout", "8 x 1 KiB"), RATE, 5.0, "at least 5x"),
        least(("PUB to 32, 1 KiB", "fanout", "32 x 1 KiB"), RATE, 5.0, "at least 5x"),
        least(ROUTER, RATE, 3.0, "at least 3x"),
        most(cpu, "cpu_s_per_million", 0.3, "at most 0.3x"),
        most(idle, "bytes_per_connection", 0.15, "at most 0.15x"),
        most(open, P99, 0.5, "at most 0.5x"),
    ]
}

const ONE_CORE: (&str, &str, &str) =
    ("DEALER-ROUTER round trip 64 B, both on one core, p50", TRIP, "tcp, one core");
const ONE_CORE_P99: (&str, &str, &str) =
    ("DEALER-ROUTER round trip 64 B, both on one core, p99", TRIP, "tcp, one core");
const CORE_EACH: (&str, &str, &str) = ("the same, one core each, p50", TRIP, "tcp, one core each");
const ROUTER: (&str, &str, &str) =
    ("ROUTER with 1,000 DEALERs, 64 B echo", "router", "1,000 DEALERs");

/// The bounds against everything else, in the order of the table.
pub(super) fn against_others() -> Vec<Bound> {
    use Against::{Each, Number};
    use Limit::{AtLeast, AtMost};
    let least = |what, factor, against, text| bound(what, RATE, AtLeast(factor), against, text);
    let mut bounds = Vec::new();
    for what in [("PUSH-PULL tcp 16 B", LOAD, "tcp 16 B"), ("PUSH-PULL tcp 64 B", LOAD, "tcp 64 B")]
    {
        bounds.push(least(what, 1.3, Each(&[COALESCED]), "at least 1.3x monocoque coalescing"));
        bounds.push(least(what, 3.0, Each(&RUST), "at least 3x every other Rust peer"));
    }
    let kibibyte = ("PUSH-PULL tcp 1 KiB", LOAD, "tcp 1 KiB");
    for what in [("PUSH-PULL tcp 256 B", LOAD, "tcp 256 B"), kibibyte] {
        bounds.push(least(what, 2.0, Each(&RUST_ALL), "at least 2x every Rust peer"));
    }
    bounds.push(least(kibibyte, 0.6, OF_FLOOR, "at least 0.6x the raw write floor"));
    for what in [
        ("PUSH-PULL tcp 16 KiB", LOAD, "tcp 16 KiB"),
        ("PUSH-PULL tcp 128 KiB", LOAD, "tcp 128 KiB"),
    ] {
        bounds.push(least(what, 0.8, OF_FLOOR, "at least 0.8x the raw write floor"));
    }
    let raw = "at most 1.25x raw epoll ping-pong";
    let idle = |what| (what, "memory", "idle connections");
    bounds.extend([
        bound(ONE_CORE, P50, AtMost(1.25), OF_FLOOR, raw),
        bound(ONE_CORE_P99, P99, AtMost(1.5), OF_FLOOR, "at most 1.5x raw epoll ping-pong"),
        bound(ONE_CORE, P50, AtMost(1.0), Each(&[EAGER]), "not above monocoque eager"),
        bound(
            ("DEALER-ROUTER round trip 64 B, one core each, p50", CORE_EACH.1, CORE_EACH.2),
            P50,
            AtMost(1.25),
            OF_FLOOR,
            raw,
        ),
        bound(
            ("ROUTER with 1,000 DEALERs, slowest peer of the mean", "router", "1,000 DEALERs"),
            "slowest_of_mean",
            AtLeast(0.5),
            Number,
            "at least 0.5",
        ),
        bound(
            idle("10,000 idle connections, memory of each"),
            "bytes_per_connection",
            AtMost(3072.0),
            Number,
            "at most 3 KiB",
        ),
        bound(
            idle("10,000 idle connections, time to connect all"),
            "connect_s",
            AtMost(5.0),
            Number,
            "at most 5 s",
        ),
        bound(
            idle("10,000 idle connections, idle CPU"),
            "listener_cpu_share",
            AtMost(0.01),
            Number,
            "at most 1 % of a core",
        ),
    ]);
    bounds
}

/// Of 1,000 partitions all together, 64 MiB.
const PARTITION_BYTES_MAX: f64 = (64u64 << 20) as f64 / 1000.0;

/// The bounds on the log, in the order of the table.
pub(super) fn of_the_log() -> Vec<Bound> {
    use Limit::{AtLeast, AtMost};
    let of = |what, case, figure, limit, against, text| {
        bound((what, "log", case), figure, limit, against, text)
    };
    let floor =
        |what, case| of(what, case, RATE, AtLeast(0.7), OF_FLOOR, "at least 0.7x the raw calls");
    let logs = Against::Each(&["commitlog", "walrus"]);
    let number =
        |what, case, figure, limit, text| of(what, case, figure, limit, Against::Number, text);
    let idle = "1,000 partitions, open and idle";
    let closed = "open 10 GiB after a clean stop";
    let killed = "open 10 GiB after a kill";
    let callers = "64 durable callers";
    vec![
        of(
            "append 100 B, one thread (this bound or the next, whichever is lower)",
            "append 100 B",
            RATE,
            AtLeast(3.0),
            logs,
            "at least 3x the best other log",
        ),
        floor("append 100 B, one thread (this bound or the one before)", "append 100 B"),
        floor("append 1 KiB, one thread", "append 1 KiB"),
        of(
            "64 callers that append durably",
            callers,
            RATE,
            AtLeast(0.5),
            OF_FLOOR,
            "at least 0.5x one record of each a sync",
        ),
        Bound {
            other_figure: P50,
            ..of(
                "64 callers that append durably, p99",
                callers,
                P99,
                AtMost(3.0),
                OF_FLOOR,
                "at most 3 raw fdatasyncs",
            )
        },
        of(
            "one durable append, p50",
            "one durable append",
            P50,
            AtMost(1.2),
            OF_FLOOR,
            "at most 1.2 raw fdatasyncs",
        ),
        floor("read 1 KiB, borrowed", "visit 1 KiB"),
        floor("read 1 KiB, each record to keep", "read 1 KiB"),
        number("read 100 B, borrowed", "visit 100 B", RATE, AtLeast(1e7), "at least 10 M/s"),
        number("read 100 B, to keep", "read 100 B", RATE, AtLeast(1e7), "at least 10 M/s"),
        number(
            "append to delivery, same core, p50",
            "append to delivery, same core",
            P50,
            AtMost(10.0),
            "at most 10 us",
        ),
        number("open 10 GiB after a clean stop", closed, P50, AtMost(50e3), "under 50 ms"),
        number("open 10 GiB after a kill", killed, P50, AtMost(1e6), "under 1 s"),
        number(
            "1,000 partitions, memory of each",
            idle,
            "bytes_per_connection",
            AtMost(PARTITION_BYTES_MAX),
            "64 MiB for all",
        ),
    ]
}

/// One comparison: with whom, in which run, both figures, and ours divided by theirs.
struct Compared<'a> {
    library: &'static str,
    run: &'a Run,
    own: f64,
    other: f64,
    ratio: f64,
}

impl Bound {
    /// The row in which this was measured; the last where the name depends on the machine.
    fn row(&self, archive: &Archive) -> Option<Row> {
        let mut rows = archive.rows(self.group);
        rows.retain(|row| {
            row.case == self.case || (self.group == "memory" && row.case.ends_with(self.case))
        });
        rows.pop()
    }

    /// Compares the bound with what was measured.
    pub(super) fn judge(&self, archive: &Archive) -> Verdict {
        let verdict = |text: &str| Verdict { verdict: text.to_owned(), ..Verdict::default() };
        let Some(row) = self.row(archive) else { return verdict("not measured") };
        match self.against {
            Against::Number => self.judge_number(archive, &row),
            Against::Each(libraries) => self.judge_each(archive, &row, libraries),
        }
        .unwrap_or_else(|reason| verdict(&reason))
    }

    fn judge_number(&self, archive: &Archive, row: &Row) -> Result<Verdict, String> {
        let run = archive.latest(row, &[PEERMQ]).ok_or("not measured")?;
        let own = figure_of(run, row, PEERMQ, self.figure)?;
        Ok(Verdict {
            figure: Kind::of(self.figure).show(own),
            verdict: self.text_of(own, &[run], row, &[]),
            ..Verdict::default()
        })
    }

    fn judge_each(
        &self,
        archive: &Archive,
        row: &Row,
        libraries: &[&'static str],
    ) -> Result<Verdict, String> {
        let (mut missing, mut closest): (Vec<String>, Option<Compared>) = (Vec::new(), None);
        for library in libraries {
            match self.compare(archive, row, library) {
                Ok(found) => {
                    let closer = closest
                        .as_ref()
                        .is_none_or(|known| self.limit.closer(found.ratio, known.ratio));
                    if closer {
                        closest = Some(found);
                    }
                }
                Err(reason) if reason.starts_with(PEERMQ) => return Err(reason),
                Err(reason) => missing.push(reason),
            }
        }
        let Some(found) = closest else { return Err(missing.join("; ")) };
        let kind = Kind::of(self.figure);
        let whose =
            if libraries.len() > 1 { format!(" ({})", found.library) } else { String::new() };
        Ok(Verdict {
            figure: kind.show(found.own),
            other: kind.show(found.other) + &whose,
            ratio: digits(found.ratio),
            verdict: self.text_of(found.ratio, &[found.run], row, &missing),
        })
    }

    /// Compares with one library, in the latest run in which both took part.
    fn compare<'a>(
        &self,
        archive: &'a Archive,
        row: &Row,
        library: &'static str,
    ) -> Result<Compared<'a>, String> {
        let run = archive
            .latest(row, &[PEERMQ, library])
            .ok_or_else(|| format!("{library}: not measured"))?;
        let own = figure_of(run, row, PEERMQ, self.figure)?;
        let other = figure_of(run, row, library, self.other_figure)?;
        if other <= 0.0 {
            return Err(format!("{library}: nothing to divide by"));
        }
        Ok(Compared { library, run, own, other, ratio: own / other })
    }

    /// Met or missed, with what weakens that: peers without a figure, others on the machine.
    fn text_of(&self, ratio: f64, runs: &[&Run], row: &Row, missing: &[String]) -> String {
        let mut text = String::from(if self.limit.met(ratio) { "**met**" } else { "missed" });
        if !missing.is_empty() {
            text += &format!("; without {}", missing.join(", "));
        }
        if runs.iter().any(|run| foreign_share(run, row) > DISTURBED_SHARE) {
            text += "; disturbed";
        }
        text
    }
}

/// A figure of a library, or why there is none.
fn figure_of(run: &Run, row: &Row, library: &str, figure: &str) -> Result<f64, String> {
    run.median(row, library, figure).ok_or_else(|| {
        let reason = run.error(row, library).unwrap_or("no figure");
        format!("{library}: {reason}")
    })
}

#[cfg(test)]
mod tests;
