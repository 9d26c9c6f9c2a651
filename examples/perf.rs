//! The measuring stick: one role per process, a fixed command line, one line of result.
//!
//! ```sh
//! cargo build --release --example perf             # makes target/release/examples/perf
//!
//! perf pull   tcp://127.0.0.1:5555 64 1000000      # one terminal: prints the throughput
//! perf push   tcp://127.0.0.1:5555 64 1000000      # another; the order of starting does not matter
//!
//! perf router ipc:///tmp/perf 64 10000             # echoes
//! perf dealer ipc:///tmp/perf 64 10000             # prints the round-trip times
//!
//! perf pub    tcp://127.0.0.1:5556 64 1000000 --subscribers 2
//! perf sub    tcp://127.0.0.1:5556 64 1000000      # twice
//!
//! perf inproc-thr inproc://a 64 1000000            # both sides as threads of one process
//! perf inproc-lat inproc://a 64 10000
//! ```
//!
//! Throughput counts from the first message to the last as the application receives them. Round trips are in
//! microseconds; their first tenth is not counted.

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use peermq::{
    Builder, CanReceive, CanSend, Context, Dealer, Endpoint, Frame, Message, Pattern, Router,
    SendError, Socket,
};

const USAGE: &str = "usage: perf ROLE ENDPOINT SIZE COUNT [--batch N] [--subscribers N]

ROLE        pull    binds, receives COUNT messages, prints the throughput
            push    connects, sends COUNT messages of SIZE bytes
            router  binds, echoes COUNT messages
            dealer  connects, makes COUNT round trips, prints their times
            sub     connects, receives COUNT messages, prints the throughput
            pub     binds, waits for its subscribers, sends COUNT messages
            inproc-thr, inproc-lat
                    push and pull, dealer and router, as threads of this process
ENDPOINT    tcp://host:port, ipc://path or inproc://name
SIZE        of one message in bytes, at most 1073741824
--batch N   pull, sub and inproc-thr take up to N messages with one call
--subscribers N
            how many subscribers pub waits for (1)";

/// Largest message that a socket accepts by default.
const SIZE_MAX_BYTES: usize = 1 << 30;
/// Larger bodies are shared with the socket; smaller ones are stored in the message itself.
const COPIED_MAX_BYTES: usize = 64;
/// How long a closing sender waits for progress.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let job = match Job::parse(&arguments) {
        Ok(job) => job,
        Err(error) => {
            eprintln!("perf: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match job.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The command line.
#[derive(Clone, Debug)]
struct Job {
    role: Role,
    endpoint: Endpoint,
    /// Bytes of one message.
    size: usize,
    count: usize,
    batch: Option<usize>,
    subscribers: usize,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Pull,
    Push,
    Router,
    Dealer,
    Sub,
    Pub,
    InprocThroughput,
    InprocLatency,
}

impl Role {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "pull" => Self::Pull,
            "push" => Self::Push,
            "router" => Self::Router,
            "dealer" => Self::Dealer,
            "sub" => Self::Sub,
            "pub" => Self::Pub,
            "inproc-thr" => Self::InprocThroughput,
            "inproc-lat" => Self::InprocLatency,
            _ => return Err(format!("there is no role {name:?}")),
        })
    }

    /// Whether both sides are in this process.
    fn is_whole(self) -> bool {
        matches!(self, Self::InprocThroughput | Self::InprocLatency)
    }
}

impl Job {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut positional = Vec::new();
        let mut batch = None;
        let mut subscribers = 1;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--batch" => batch = Some(number(argument, rest.next())?),
                "--subscribers" => subscribers = number(argument, rest.next())?,
                option if option.starts_with('-') => {
                    return Err(format!("unknown option {option}"));
                }
                _ => positional.push(argument),
            }
        }
        let [role, endpoint, size, count] = positional.as_slice() else {
            return Err("ROLE ENDPOINT SIZE COUNT are needed".to_owned());
        };
        let role = Role::parse(role)?;
        let endpoint: Endpoint =
            endpoint.parse().map_err(|error: peermq::EndpointError| error.to_string())?;
        if role.is_whole() != matches!(endpoint, Endpoint::Inproc(_)) {
            return Err("inproc:// goes with inproc-thr and inproc-lat, and only with them".into());
        }
        let size: usize = size.parse().map_err(|_| format!("SIZE {size:?} is not a number"))?;
        if size > SIZE_MAX_BYTES {
            return Err(format!("SIZE {size} is more than {SIZE_MAX_BYTES}"));
        }
        Ok(Self { role, endpoint, size, count: number("COUNT", Some(count))?, batch, subscribers })
    }

    fn run(&self) -> Outcome {
        let context = Context::new();
        match self.role {
            Role::Pull => self.receive_all(&context.pull().bind(&self.endpoint)?),
            Role::Push => self.send_all(quick(context.push()).connect(&self.endpoint)?),
            Role::Router => self.echo_all(router(&context).bind(&self.endpoint)?),
            Role::Dealer => self.round_trips(&quick(context.dealer()).connect(&self.endpoint)?),
            Role::Sub => {
                self.receive_all(&quick(context.subscribe()).topic("").connect(&self.endpoint)?)
            }
            Role::Pub => {
                let publisher = context.publish().no_drop(true).bind(&self.endpoint)?;
                publisher.wait_for_subscribers(self.subscribers, Duration::MAX)?;
                self.send_all(publisher)
            }
            Role::InprocThroughput => {
                let pull = context.pull().bind(&self.endpoint)?;
                let push = context.push().connect(&self.endpoint)?;
                self.beside(&context, |job| job.send_all(push), || self.receive_all(&pull))
            }
            Role::InprocLatency => {
                let router = router(&context).bind(&self.endpoint)?;
                let dealer = context.dealer().connect(&self.endpoint)?;
                self.beside(&context, |job| job.echo_all(router), || self.round_trips(&dealer))
            }
        }
    }

    /// Runs one side on a thread of its own and the other on this one.
    fn beside(
        &self,
        context: &Context,
        there: impl FnOnce(&Self) -> Outcome + Send,
        here: impl FnOnce() -> Outcome,
    ) -> Outcome {
        thread::scope(|scope| {
            let there = scope.spawn(move || there(self));
            // The other side must not wait for one that has failed.
            here().inspect_err(|_| context.shutdown())?;
            there.join().map_err(|_| "the other side's thread panicked")?
        })
    }

    /// Sends all messages, each made from a fixed buffer as an application would, then closes gracefully.
    fn send_all<P: CanSend>(&self, socket: Socket<P>) -> Outcome {
        let payload = Payload::of_size(self.size);
        for _ in 0..self.count {
            socket.send(payload.message())?;
        }
        socket.close(CLOSE_DEADLINE)?;
        Ok(())
    }

    /// Receives all messages and prints the throughput.
    fn receive_all<P: CanReceive>(&self, socket: &Socket<P>) -> Outcome {
        self.check(&socket.recv()?)?;
        let start = Instant::now();
        match self.batch {
            None => {
                for _ in 1..self.count {
                    self.check(&socket.recv()?)?;
                }
            }
            Some(batch) => self.receive_batches(socket, batch)?,
        }
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        let messages_per_s = (self.count - 1) as f64 / seconds;
        println!(
            "thr size={} n={} {:.3} M msg/s {:.1} MB/s",
            self.size,
            self.count,
            messages_per_s / 1e6,
            messages_per_s * self.size as f64 / 1e6,
        );
        Ok(())
    }

    /// Receives all messages but the first, several with one call.
    fn receive_batches<P: CanReceive>(&self, socket: &Socket<P>, batch: usize) -> Outcome {
        let mut messages = Vec::new();
        messages.try_reserve_exact(batch)?;
        let mut left = self.count - 1;
        while left > 0 {
            left = left.saturating_sub(socket.recv_many(&mut messages)?);
            for message in messages.drain(..) {
                self.check(&message)?;
            }
        }
        Ok(())
    }

    /// Sends every message back to where it came from, then closes gracefully.
    fn echo_all(&self, socket: Socket<Router>) -> Outcome {
        for _ in 0..self.count {
            let (peer, message) = socket.recv_from()?;
            self.check(&message)?;
            match socket.send_to(&peer, message) {
                // The peer has gone meanwhile, and nobody waits for this answer any more.
                Ok(()) | Err(SendError::Unroutable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        socket.close(CLOSE_DEADLINE)?;
        Ok(())
    }

    /// Makes all round trips and prints their times.
    fn round_trips(&self, socket: &Socket<Dealer>) -> Outcome {
        let payload = Payload::of_size(self.size);
        let mut times_ns: Vec<u64> = Vec::new();
        times_ns.try_reserve_exact(self.count)?;
        for _ in 0..self.count {
            let start = Instant::now();
            socket.send(payload.message())?;
            let reply = socket.recv()?;
            times_ns.push(start.elapsed().as_nanos().try_into().unwrap_or(u64::MAX));
            self.check(&reply)?;
        }
        times_ns.drain(..self.count / 10);
        let mean_us = times_ns.iter().sum::<u64>() as f64 / times_ns.len().max(1) as f64 / 1e3;
        times_ns.sort_unstable();
        println!(
            "rtt size={} n={} p50={:.1} p99={:.1} p99.9={:.1} mean={mean_us:.1} us",
            self.size,
            self.count,
            quantile_us(&times_ns, 0.5),
            quantile_us(&times_ns, 0.99),
            quantile_us(&times_ns, 0.999),
        );
        Ok(())
    }

    #[inline]
    fn check(&self, message: &Message) -> Result<(), String> {
        let (frames, bytes) = (message.frames().len(), message.body().len());
        if frames == 1 && bytes == self.size {
            return Ok(());
        }
        Err(format!(
            "received {frames} frames, the first of {bytes} bytes; expected one of {} bytes",
            self.size
        ))
    }
}

/// A ROUTER that does not drop an answer because its peer is slow.
fn router(context: &Context) -> Builder<Router> {
    context.router().mandatory(true)
}

/// Makes the connecting side find a peer that is started after it at once.
fn quick<P: Pattern>(builder: Builder<P>) -> Builder<P> {
    let interval = Duration::from_millis(10);
    builder.reconnect_interval(interval).reconnect_interval_max(interval)
}

/// The fixed content of all messages.
struct Payload {
    bytes: Vec<u8>,
    shared: Frame,
}

impl Payload {
    fn of_size(size: usize) -> Self {
        let bytes = vec![b'x'; size];
        let shared = Frame::copy_from(&bytes);
        Self { bytes, shared }
    }

    /// One message: a copy of a small body, a reference to a large one.
    #[inline]
    fn message(&self) -> Message {
        if self.bytes.len() <= COPIED_MAX_BYTES {
            self.bytes.as_slice().into()
        } else {
            self.shared.clone().into()
        }
    }
}

/// The time that this fraction of the sorted times does not exceed, in microseconds.
fn quantile_us(sorted_ns: &[u64], fraction: f64) -> f64 {
    let rank = (sorted_ns.len() as f64 * fraction).ceil() as usize;
    let time_ns = sorted_ns.get(rank.saturating_sub(1)).copied().unwrap_or(0);
    time_ns as f64 / 1e3
}

/// The value of an option: a number of at least one.
fn number(name: &str, value: Option<&String>) -> Result<usize, String> {
    let value = value.ok_or_else(|| format!("{name} needs a number"))?;
    match value.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{name} {value:?} is not a number of at least 1")),
    }
}
