//! What is measured: groups of cases, each with its transport, size, roles and placement.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::{Row, Sample};
use crate::log::Task;
use crate::outcome::Outcome;
use crate::peer::Role;
use crate::system;

/// Groups in the order in which they are measured.
pub(crate) const GROUPS: [&str; 9] =
    ["throughput", "roundtrip", "ipc", "inproc", "fanout", "router", "memory", "openloop", "log"];

/// Connections of the memory measurement.
const IDLE_CONNECTIONS: usize = 10_000;
/// Files that a process needs beside its connections.
const SPARE_FILES: u64 = 200;
/// Files that rzmq opens for a connection when it uses io_uring.
const RZMQ_URING_FILES: u64 = 5;
/// Parts of libzmq's peak at which the open loop runs, in percent.
const LOADS_PERCENT: [u32; 3] = [10, 50, 80];

/// Where the two sides run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Both on the first core.
    SameCore,
    /// The listener on the first half of the cores, the other on the second.
    Halves,
    /// One process on all cores, its two application threads on a half each.
    Whole,
    /// One process on all cores.
    Free,
}

impl Placement {
    /// Cores of the listener and of the connecting side.
    pub(crate) fn cores(self) -> Outcome<(Vec<usize>, Vec<usize>)> {
        let all = system::cores()?;
        let (first, second) = all.split_at(all.len().div_ceil(2));
        let core = all.first().copied().ok_or("no core")?;
        Ok(match self {
            Self::SameCore => (vec![core], vec![core]),
            Self::Halves if second.is_empty() => (first.to_vec(), first.to_vec()),
            Self::Halves => (first.to_vec(), second.to_vec()),
            Self::Whole | Self::Free => (all.clone(), all),
        })
    }

    /// The placement in words, with the numbers of the cores.
    fn text(self) -> Outcome<String> {
        let (listener, connector) = self.cores()?;
        let names =
            |cores: &[usize]| cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (first, second) = (names(&listener), names(&connector));
        Ok(match self {
            Self::SameCore => format!("both sides on core {first}"),
            Self::Free => format!("one process on cores {first}"),
            Self::Halves => format!("listener on core {first}, connecting side on core {second}"),
            Self::Whole => {
                format!("one process on cores {first}, its two threads on a half each")
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Ipc,
    Inproc,
    /// None: a directory for the files of a log.
    Directory,
}

/// The figure that a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Messages per second; more is better.
    Rate,
    /// Time in microseconds; less is better.
    Time,
    /// Bytes of memory per connection; less is better.
    Memory,
}

impl Measure {
    /// The name of the figure in a result.
    pub(crate) fn figure(self) -> &'static str {
        match self {
            Self::Rate => "messages_per_s",
            Self::Time => "p50_us",
            Self::Memory => "bytes_per_connection",
        }
    }
}

/// One measurement, the same for each library.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) group: &'static str,
    /// The place in its group.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) transport: Transport,
    /// Bytes of one message.
    pub(crate) size: usize,
    /// Connections.
    pub(crate) peers: usize,
    /// The rate of a schedule, as a part of libzmq's peak in percent.
    pub(crate) rate_percent: Option<u32>,
    /// Messages per second of the schedule; known when the peak is.
    pub(crate) rate: f64,
    pub(crate) listener: Role,
    /// `None` when both sides are in the listener's process.
    pub(crate) connector: Option<Role>,
    pub(crate) placement: Placement,
    pub(crate) measure: Measure,
    pub(crate) rounds_max: usize,
}

impl Case {
    fn new(group: &'static str, name: String, listener: Role, connector: Option<Role>) -> Self {
        Self {
            group,
            number: 0,
            name,
            transport: Transport::Tcp,
            size: 64,
            peers: 1,
            rate_percent: None,
            rate: 0.0,
            listener,
            connector,
            placement: Placement::Halves,
            measure: Measure::Rate,
            rounds_max: usize::MAX,
        }
    }

    /// Whether the side that connects counts; otherwise the listener does.
    pub(crate) fn connector_counts(&self) -> bool {
        !matches!(self.connector, None | Some(Role::Push | Role::PacedPush | Role::Pub))
    }

    /// Whether the case is measured with a library.
    pub(crate) fn suits(&self, library: &str) -> Suits {
        let monocoque = library.starts_with("monocoque");
        let log_only = matches!(library, "commitlog" | "walrus");
        match self.group {
            "log" => self.suits_log(library),
            _ if log_only => Suits::Skipped,
            "openloop" if self.rate_percent.is_none() && library != "libzmq" => Suits::Skipped,
            "fanout" | "inproc" | "memory" | "router" if library == "floor" => Suits::Skipped,
            // Its publisher gathers nothing, so that this would be the eager mode again.
            "fanout" if library == "monocoque-coalesced" => Suits::Skipped,
            "memory" | "router" if monocoque => Suits::Cannot("one connection per socket"),
            "memory" if library == "rzmq-uring" && !self.has_files(RZMQ_URING_FILES) => {
                Suits::Cannot("opens five files for each connection, more than this system allows")
            }
            "memory" | "router" if library == "nng" => Suits::Cannot("no ROUTER, no ZMTP"),
            "inproc" if monocoque || library == "zeromq" => Suits::Cannot("no inproc"),
            _ => Suits::Yes,
        }
    }

    /// Whether a case of the group `log` is measured with a library.
    fn suits_log(&self, library: &str) -> Suits {
        let suits = match self.listener {
            Role::Log(Task::Append) => {
                matches!(library, "peermq" | "commitlog" | "walrus" | "floor")
            }
            Role::Log(Task::Durable | Task::Read | Task::Visit) => {
                matches!(library, "peermq" | "floor")
            }
            _ => library == "peermq",
        };
        if suits { Suits::Yes } else { Suits::Skipped }
    }

    /// Whether a process may open so many files for each connection.
    fn has_files(&self, each: u64) -> bool {
        let wanted = self.peers as u64 * each + SPARE_FILES;
        system::files_max().is_ok_and(|files| files >= wanted)
    }

    /// Whether this library is the only one of the case, which other cases depend on.
    pub(crate) fn suits_only(&self, library: &str) -> bool {
        self.name == PEAK && self.suits(library) == Suits::Yes
    }

    /// Longest time that the case may take beyond its window; a process that takes longer is ended.
    pub(crate) fn patience(&self) -> Duration {
        // rzmq takes 80 s for 10,000 connections.
        Duration::from_secs(match self.group {
            "memory" => 120,
            // The log of 10 GiB may have to be made.
            "log" => 300,
            _ => 10,
        })
    }

    /// A sample of this case without figures.
    pub(crate) fn sample(&self, library: &str, round: usize) -> Outcome<Sample> {
        Ok(Sample {
            group: self.group.to_owned(),
            case: self.name.clone(),
            number: self.number,
            measure: self.measure,
            placement: self.placement.text()?,
            library: library.to_owned(),
            round,
            figures: Default::default(),
            error: None,
        })
    }

    /// The row of the tables.
    pub(crate) fn row(&self) -> Outcome<Row> {
        Ok(self.sample("", 0)?.row())
    }
}

/// Whether a case is measured with a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suits {
    Yes,
    /// It would say nothing; no cell.
    Skipped,
    /// The library lacks what the case needs; the cell says why.
    Cannot(&'static str),
}

/// The name of the case that finds out how fast libzmq is, for the open loop.
const PEAK: &str = "libzmq's peak, 64 B";

/// How fast the neutral clients of a library may come. rzmq's listener closes for ever when connections come faster than
/// its tasks take the events of one another: its event bus holds 256.
pub(crate) fn connection_pace(library: &str) -> Duration {
    if library.starts_with("rzmq") { Duration::from_millis(1) } else { Duration::ZERO }
}

/// The row of libzmq's peak beside a row of the open loop.
pub(crate) fn peak_row(row: &Row) -> Row {
    Row { case: PEAK.to_owned(), ..row.clone() }
}

/// The cases of a group.
pub(crate) fn plan(group: &str) -> Outcome<Vec<Case>> {
    let mut cases = match group {
        "throughput" => [16, 64, 256, 1024, 4096, 16 * 1024, 128 * 1024].map(throughput).into(),
        "roundtrip" => [Placement::SameCore, Placement::Halves].map(round_trip).into(),
        "ipc" => on_transport("ipc", Transport::Ipc),
        "inproc" => on_transport("inproc", Transport::Inproc),
        "fanout" => {
            let sizes = [64, 1024].into_iter();
            sizes.flat_map(|size| [1, 8, 32].map(|peers| fan_out(size, peers))).collect()
        }
        "router" => vec![router()],
        "memory" => vec![memory()?],
        "openloop" => {
            let peak = Case { group: "openloop", name: PEAK.to_owned(), ..throughput(64) };
            let loads = LOADS_PERCENT.into_iter().map(open_loop);
            [peak].into_iter().chain(loads).collect()
        }
        "log" => logs(),
        _ => Vec::new(),
    };
    for (number, case) in cases.iter_mut().enumerate() {
        case.number = number;
    }
    Ok(cases)
}

fn size_name(bytes: usize) -> String {
    if bytes >= 1024 { format!("{} KiB", bytes / 1024) } else { format!("{bytes} B") }
}

fn throughput(size: usize) -> Case {
    let name = format!("tcp {}", size_name(size));
    Case { size, ..Case::new("throughput", name, Role::Pull, Some(Role::Push)) }
}

fn round_trip(placement: Placement) -> Case {
    let name =
        if placement == Placement::SameCore { "tcp, one core" } else { "tcp, one core each" };
    let (listener, connector) = (Role::Router, Some(Role::Dealer));
    let case = Case::new("roundtrip", name.to_owned(), listener, connector);
    Case { placement, measure: Measure::Time, ..case }
}

fn on_transport(group: &'static str, transport: Transport) -> Vec<Case> {
    let inside = transport == Transport::Inproc;
    let (placement, measure) =
        (if inside { Placement::Whole } else { Placement::Halves }, Measure::Time);
    let case = |what: &str, listener, connector| Case {
        transport,
        placement,
        ..Case::new(group, format!("{group} {what}"), listener, connector)
    };
    let [stream, trip] = if inside {
        [case("64 B", Role::PushPull, None), case("round trip", Role::DealerRouter, None)]
    } else {
        [
            case("64 B", Role::Pull, Some(Role::Push)),
            case("round trip", Role::Router, Some(Role::Dealer)),
        ]
    };
    vec![stream, Case { measure, ..trip }]
}

fn fan_out(size: usize, peers: usize) -> Case {
    let name = format!("{peers} x {}", size_name(size));
    Case { size, peers, ..Case::new("fanout", name, Role::Pub, Some(Role::Sub)) }
}

fn router() -> Case {
    let name = "1,000 DEALERs".to_owned();
    Case { peers: 1000, ..Case::new("router", name, Role::Router, Some(Role::EchoClients)) }
}

fn memory() -> Outcome<Case> {
    let files = system::files_max()?.saturating_sub(SPARE_FILES);
    let peers = usize::try_from(files)?.min(IDLE_CONNECTIONS);
    let name = format!("{peers} idle connections");
    let case = Case::new("memory", name, Role::Router, Some(Role::IdleClients));
    Ok(Case { peers, measure: Measure::Memory, rounds_max: 3, ..case })
}

fn open_loop(percent: u32) -> Case {
    let name = format!("{percent} % of libzmq's peak");
    let case = Case::new("openloop", name, Role::TimedPull, Some(Role::PacedPush));
    Case { rate_percent: Some(percent), measure: Measure::Time, ..case }
}

/// Partitions of the log that is open and idle.
const IDLE_PARTITIONS: usize = 1000;
/// Callers that append durably at once.
const DURABLE_CALLERS: usize = 64;

fn logs() -> Vec<Case> {
    let case = |name: &str, task, size| Case {
        transport: Transport::Directory,
        placement: Placement::Free,
        size,
        ..Case::new("log", name.to_owned(), Role::Log(task), None)
    };
    let time = |case: Case| Case { measure: Measure::Time, ..case };
    let durable = |name, peers| Case { peers, ..case(name, Task::Durable, 100) };
    let delivered = time(case("append to delivery, same core", Task::Deliver, 100));
    let idle = case("1,000 partitions, open and idle", Task::Idle, 100);
    let large = |name, task| Case { rounds_max: 3, ..time(case(name, task, 1024)) };
    vec![
        case("append 100 B", Task::Append, 100),
        case("append 1 KiB", Task::Append, 1024),
        time(durable("one durable append", 1)),
        durable("64 durable callers", DURABLE_CALLERS),
        case("read 1 KiB", Task::Read, 1024),
        case("visit 1 KiB", Task::Visit, 1024),
        case("read 100 B", Task::Read, 100),
        case("visit 100 B", Task::Visit, 100),
        Case { placement: Placement::SameCore, ..delivered },
        large("open 10 GiB after a clean stop", Task::OpenClosed),
        large("open 10 GiB after a kill", Task::OpenKilled),
        Case { peers: IDLE_PARTITIONS, measure: Measure::Memory, rounds_max: 3, ..idle },
    ]
}
