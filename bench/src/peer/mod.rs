//! One side of a measurement: a process that drives one library in one role until its parent ends it.
//!
//! A listener prints `bound` when peers may come. The side that counts prints `start` and `end` around the measured
//! window (the parent reads CPU clocks then) and `result JSON` after it.

mod clients;
mod latency;
mod openloop;
mod throughput;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::library::{self, Address, Library};
use crate::log::{self, Task};
use crate::outcome::Outcome;
use crate::system;

/// Figures by name; the names carry the units.
pub(crate) type Figures = BTreeMap<String, f64>;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Connects and sends as fast as it can.
    Push,
    /// Binds and counts.
    Pull,
    /// Connects and makes round trips.
    Dealer,
    /// Binds and echoes.
    Router,
    /// Binds and sends to all subscribers as fast as it can.
    Pub,
    /// Connects several subscribers, each with a thread, and counts.
    Sub,
    /// Push and pull as threads of one process.
    PushPull,
    /// Dealer and router as threads of one process.
    DealerRouter,
    /// Connects and sends by a schedule.
    PacedPush,
    /// Binds and compares with the schedule.
    TimedPull,
    /// Many connections of a neutral ZMTP DEALER that each keep messages going round.
    EchoClients,
    /// Many connections of a neutral ZMTP DEALER that do nothing.
    IdleClients,
    /// Appends to a log or reads one.
    Log(Task),
}

/// The command line of a peer process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) library: String,
    pub(crate) role: Role,
    pub(crate) address: Address,
    /// Bytes of one message.
    pub(crate) size: usize,
    /// Connections on the side of which there are several.
    pub(crate) peers: usize,
    /// Between two connections of the neutral clients; zero for no limit.
    pub(crate) pace: Duration,
    /// Where the process runs.
    pub(crate) cores: Vec<usize>,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// Messages per second of the schedule.
    pub(crate) rate: f64,
}

static JOB_SIZE: OnceLock<usize> = OnceLock::new();

/// Bytes of one message in this process, for streams without framing.
pub(crate) fn job_size() -> usize {
    JOB_SIZE.get().copied().unwrap_or(0)
}

/// Runs the job that the parent wrote as JSON. Returns only with an error.
pub(crate) fn run(job: &str) -> Outcome {
    let job: Job = serde_json::from_str(job)?;
    system::prepare_peer()?;
    system::pin(&job.cores)?;
    JOB_SIZE.get_or_init(|| job.size);
    match job.role {
        Role::EchoClients => clients::echo(&job),
        Role::IdleClients => clients::idle(&job),
        Role::Log(task) => log::run(task, &job),
        _ => library::with_library(&job.library, &job),
    }
}

impl Job {
    /// Does the work of the role with a library.
    pub(crate) fn work<L: Library>(&self) -> Outcome {
        match self.role {
            Role::Push => throughput::push::<L>(self),
            Role::Pull => throughput::pull::<L>(self),
            Role::Pub => throughput::publish::<L>(self),
            Role::Sub => throughput::subscribe::<L>(self),
            Role::PushPull => throughput::push_pull::<L>(self),
            Role::Router => latency::router::<L>(self),
            Role::Dealer => latency::dealer::<L>(self),
            Role::DealerRouter => latency::dealer_router::<L>(self),
            Role::PacedPush => openloop::paced_push::<L>(self),
            Role::TimedPull => openloop::timed_pull::<L>(self),
            Role::EchoClients | Role::IdleClients | Role::Log(_) => {
                Err("this role needs no sockets".into())
            }
        }
    }

    /// Keeps a thread that shares its process with the other side on its part of the cores.
    fn settle(&self, part: Part) -> Outcome {
        if !matches!(self.address, Address::Inproc(_)) {
            return Ok(());
        }
        let (first, second) = self.cores.split_at(self.cores.len() / 2);
        match part {
            Part::First if !first.is_empty() => system::pin(first),
            _ => system::pin(second),
        }
    }
}

/// Which half of the cores.
#[derive(Clone, Copy)]
enum Part {
    First,
    Second,
}

/// Tells the parent something; without it there is nothing left to do.
pub(crate) fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Tells the parent that peers may come.
fn tell_bound() {
    tell("bound");
}

/// Tells the parent the figures and waits to be ended by it.
pub(crate) fn finish(figures: &[(&str, f64)]) -> Outcome {
    let figures: Figures = figures.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    tell(&format!("result {}", serde_json::to_string(&figures)?));
    loop {
        std::thread::park();
    }
}

/// Ends the process for the failure of one of its threads, which the parent reports.
fn fail_together(outcome: Outcome) {
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
