//! The figures to reach: each bound with what was measured, and whether it is met.

use super::{DISTURBED_SHARE, foreign_share};
use crate::compare::Run;

const PEERMQ: &str = "peermq";
const LIBZMQ: &str = "libzmq";
const FLOOR: &str = "floor";
const COALESCED: &str = "monocoque-coalesced";
const EAGER: &str = "monocoque";
/// Rust libraries other than the fastest one in its special mode.
const RUST: [&str; 5] = ["omq", "rzmq", "rzmq-uring", "zeromq", "monocoque"];
const RUST_ALL: [&str; 6] = ["omq", "rzmq", "rzmq-uring", "zeromq", "monocoque", COALESCED];

/// What a bound compares with.
enum Against {
    /// The best of these libraries.
    Best(&'static [&'static str]),
    /// A fixed number.
    Number,
}

/// One bound on one figure.
pub(super) struct Bound {
    pub(super) what: &'static str,
    group: &'static str,
    /// The case, or its end where the beginning depends on the machine.
    case: &'static str,
    figure: &'static str,
    against: Against,
    /// Whether the figure must be at least `factor` times the other, or at most.
    at_least: bool,
    factor: f64,
    pub(super) text: &'static str,
}

/// A bound with what was measured. The verdict names what weakens it: peers that were not measured, a disturbed window.
pub(super) struct Verdict {
    pub(super) figure: String,
    pub(super) ratio: String,
    pub(super) verdict: String,
}

const THROUGHPUT: &str = "throughput";
const RATE: &str = "messages_per_s";

macro_rules! bound {
    ($what:expr, $group:expr, $case:expr, $figure:expr, >= $factor:expr, $text:expr, $against:expr) => {
        Bound {
            what: $what,
            group: $group,
            case: $case,
            figure: $figure,
            against: $against,
            at_least: true,
            factor: $factor,
            text: $text,
        }
    };
    ($what:expr, $group:expr, $case:expr, $figure:expr, <= $factor:expr, $text:expr, $against:expr) => {
        Bound {
            what: $what,
            group: $group,
            case: $case,
            figure: $figure,
            against: $against,
            at_least: false,
            factor: $factor,
            text: $text,
        }
    };
}

/// All bounds, in the order of the table.
pub(super) fn bounds() -> Vec<Bound> {
    let mut bounds = throughput();
    bounds.extend(round_trips());
    bounds.extend(others());
    bounds
}

fn throughput() -> Vec<Bound> {
    use Against::Best;
    let mut bounds = Vec::new();
    for (what, case) in [("PUSH-PULL tcp 16 B", "tcp 16 B"), ("PUSH-PULL tcp 64 B", "tcp 64 B")] {
        bounds.push(bound!(what, THROUGHPUT, case, RATE, >= 5.0, "5x libzmq", Best(&[LIBZMQ])));
        bounds.push(bound!(what, THROUGHPUT, case, RATE, >= 1.3, "1.3x monocoque coalescing", Best(&[COALESCED])));
        bounds.push(
            bound!(what, THROUGHPUT, case, RATE, >= 3.0, "3x every other Rust peer", Best(&RUST)),
        );
    }
    for (what, case) in [("PUSH-PULL tcp 256 B", "tcp 256 B"), ("PUSH-PULL tcp 1 KiB", "tcp 1 KiB")]
    {
        bounds.push(bound!(what, THROUGHPUT, case, RATE, >= 4.0, "4x libzmq", Best(&[LIBZMQ])));
        bounds.push(
            bound!(what, THROUGHPUT, case, RATE, >= 2.0, "2x every Rust peer", Best(&RUST_ALL)),
        );
    }
    let what = "PUSH-PULL tcp 1 KiB";
    bounds.push(bound!(what, THROUGHPUT, "tcp 1 KiB", RATE, >= 0.6, "0.6 of the raw write floor", Best(&[FLOOR])));
    let what = "PUSH-PULL tcp 16 KiB";
    bounds
        .push(bound!(what, THROUGHPUT, "tcp 16 KiB", RATE, >= 2.5, "2.5x libzmq", Best(&[LIBZMQ])));
    bounds.push(bound!(what, THROUGHPUT, "tcp 16 KiB", RATE, >= 0.8, "0.8 of the raw write floor", Best(&[FLOOR])));
    let what = "PUSH-PULL tcp 128 KiB";
    bounds.push(
        bound!(what, THROUGHPUT, "tcp 128 KiB", RATE, >= 1.8, "1.8x libzmq", Best(&[LIBZMQ])),
    );
    bounds.push(bound!(what, THROUGHPUT, "tcp 128 KiB", RATE, >= 0.8, "0.8 of the raw write floor", Best(&[FLOOR])));
    bounds
}

fn round_trips() -> Vec<Bound> {
    use Against::Best;
    let (group, same, each) = ("roundtrip", "tcp, one core", "tcp, one core each");
    let (one, two) = ("round trip 64 B, one core", "round trip 64 B, one core each");
    vec![
        bound!(one, group, same, "p50_us", <= 0.35, "p50 at most 0.35x libzmq", Best(&[LIBZMQ])),
        bound!(one, group, same, "p50_us", <= 1.25, "p50 at most 1.25x raw epoll", Best(&[FLOOR])),
        bound!(one, group, same, "p99_us", <= 1.5, "p99 at most 1.5x raw epoll", Best(&[FLOOR])),
        bound!(one, group, same, "p50_us", <= 1.0, "p50 not above monocoque eager", Best(&[EAGER])),
        bound!(two, group, each, "p50_us", <= 0.65, "p50 at most 0.65x libzmq", Best(&[LIBZMQ])),
        bound!(two, group, each, "p50_us", <= 1.25, "p50 at most 1.25x raw epoll", Best(&[FLOOR])),
    ]
}

fn others() -> Vec<Bound> {
    use Against::{Best, Number};
    let mut bounds = vec![
        bound!("ipc 64 B", "ipc", "ipc 64 B", RATE, >= 5.0, "5x libzmq", Best(&[LIBZMQ])),
        bound!("ipc round trip", "ipc", "ipc round trip", "p50_us", <= 0.35, "0.35x libzmq", Best(&[LIBZMQ])),
        bound!("inproc 64 B", "inproc", "inproc 64 B", RATE, >= 6.0, "6x libzmq", Best(&[LIBZMQ])),
        bound!("inproc round trip", "inproc", "inproc round trip", "p50_us", <= 0.6, "0.6x libzmq", Best(&[LIBZMQ])),
    ];
    for (what, case) in [
        ("PUB to 1, 64 B", "1 x 64 B"),
        ("PUB to 8, 64 B", "8 x 64 B"),
        ("PUB to 32, 64 B", "32 x 64 B"),
        ("PUB to 1, 1 KiB", "1 x 1 KiB"),
        ("PUB to 8, 1 KiB", "8 x 1 KiB"),
        ("PUB to 32, 1 KiB", "32 x 1 KiB"),
    ] {
        bounds.push(bound!(what, "fanout", case, RATE, >= 5.0, "5x libzmq", Best(&[LIBZMQ])));
    }
    let (router, idle) = ("ROUTER, 1,000 DEALERs, 64 B echo", "idle connections");
    bounds.extend([
        bound!(router, "router", "1,000 DEALERs", RATE, >= 3.0, "3x libzmq", Best(&[LIBZMQ])),
        bound!(router, "router", "1,000 DEALERs", "slowest_of_mean", >= 0.5, "slowest peer 0.5 of the mean", Number),
        bound!("CPU seconds per million 64 B messages", THROUGHPUT, "tcp 64 B", "cpu_s_per_million", <= 0.3, "0.3x libzmq", Best(&[LIBZMQ])),
        bound!("10,000 idle connections: bytes each", "memory", idle, "bytes_per_connection", <= 0.15, "0.15x libzmq", Best(&[LIBZMQ])),
        bound!("10,000 idle connections: bytes each", "memory", idle, "bytes_per_connection", <= 3072.0, "3 KiB", Number),
        bound!("10,000 idle connections: seconds to connect", "memory", idle, "connect_s", <= 5.0, "5 s", Number),
        bound!("10,000 idle connections: idle CPU share", "memory", idle, "listener_cpu_share", <= 0.01, "1 %", Number),
        bound!("open loop at 50 %: p99", "openloop", "50 % of libzmq's peak", "p99_us", <= 0.5, "0.5x libzmq", Best(&[LIBZMQ])),
    ]);
    bounds
}

impl Bound {
    /// The case that was measured under this name.
    fn case<'run>(&self, run: &'run Run) -> Option<&'run str> {
        let suffix = |name: &str| self.group == "memory" && name.ends_with(self.case);
        let mut cases = run.cases.iter().filter(|case| case.group == self.group);
        cases
            .find(|case| case.name == self.case || suffix(&case.name))
            .map(|case| case.name.as_str())
    }

    /// Compares the bound with a run; `None` when it was not measured.
    pub(super) fn judge(&self, run: &Run) -> Option<Verdict> {
        let case = self.case(run)?;
        let of = |library: &str| run.median(self.group, case, library, self.figure);
        let own = of(PEERMQ)?;
        let mut missing = Vec::new();
        let (other, name) = match self.against {
            Against::Number => (1.0, String::new()),
            Against::Best(libraries) => {
                missing.extend(libraries.iter().copied().filter(|name| of(name).is_none()));
                let measured = libraries.iter().filter_map(|name| Some((of(name)?, *name)));
                let better = |a: &(f64, &str), b: &(f64, &str)| a.0.total_cmp(&b.0);
                let best =
                    if self.at_least { measured.max_by(better) } else { measured.min_by(better) };
                let (other, name) = best?;
                (other, format!("x {name} ({})", number(other)))
            }
        };
        let ratio = own / other;
        let met = if self.at_least { ratio >= self.factor } else { ratio <= self.factor };
        let ratio = if name.is_empty() { String::new() } else { format!("{ratio:.2}{name}") };
        let mut verdict = String::from(if met { "met" } else { "missed" });
        if !missing.is_empty() {
            verdict += &format!(", but not measured: {}", missing.join(", "));
        }
        if run.cases.iter().any(|c| c.name == case && foreign_share(run, c) > DISTURBED_SHARE) {
            verdict += ", disturbed";
        }
        Some(Verdict { figure: format!("{} {}", number(own), self.unit()), ratio, verdict })
    }

    fn unit(&self) -> &'static str {
        match self.figure {
            RATE => "msg/s",
            "p50_us" | "p99_us" => "us",
            "bytes_per_connection" => "B",
            "connect_s" | "cpu_s_per_million" => "s",
            _ => "",
        }
    }
}

/// A number with three significant digits or more.
fn number(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{:.2} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.1} k", value / 1e3),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
