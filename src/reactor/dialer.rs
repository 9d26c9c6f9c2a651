//! A dialer: keeps one connection to an endpoint alive. Resolves the name at each attempt, tries every address,
//! and waits longer after each failure, with jitter, so that a thousand clients do not return at once.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::earlier;
use super::linger::Lingering;
use super::mailbox::{Belongs, Job};
use super::resolver::Resolver;
use super::slot::Slot;
use crate::completion::Guard;
use crate::monitor::{Event, Failure};
use crate::options::Options;
use crate::pipe::{Loss, Pipe};
use crate::transport::endpoint::{Host, TcpEndpoint};
use crate::transport::{Endpoint, Stream, ipc, tcp};

/// Shortest pause between two attempts, whatever the options say: an attempt may fail at once.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The answer of the resolver, on its way back to the dialer with this token.
pub(crate) struct Dialed {
    pub(crate) dialer: usize,
    pub(crate) addresses: io::Result<Vec<SocketAddr>>,
}

pub(crate) struct Dialer {
    pub(crate) belongs: Belongs,
    /// `None` with `immediate`: then each session has a pipe of its own.
    pub(crate) pipe: Option<Arc<Pipe>>,
    phase: Phase,
    failures: u32,
    jitter: Jitter,
    lingering: Option<Lingering>,
}

enum Phase {
    Waiting {
        until: Option<Instant>,
    },
    Resolving,
    /// The addresses still to try after the connection with this token.
    Trying {
        connection: usize,
        others: VecDeque<SocketAddr>,
    },
    Up {
        connection: usize,
        since: Instant,
    },
}

/// What the reactor does next for a dialer.
pub(crate) enum Dial {
    Wait,
    /// Make a source of this stream and call `trying` with its token.
    Connecting(Stream),
}

impl Dialer {
    pub(crate) fn new(belongs: Belongs, pipe: Option<Arc<Pipe>>, seed: u64, now: Instant) -> Self {
        let phase = Phase::Waiting { until: Some(now) };
        Self { belongs, pipe, phase, failures: 0, jitter: Jitter(seed), lingering: None }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let lingering = self.lingering.as_ref().and_then(Lingering::deadline);
        match self.phase {
            Phase::Waiting { until } => earlier(until, lingering),
            Phase::Resolving | Phase::Trying { .. } => lingering,
            Phase::Up { .. } => None,
        }
    }

    /// How long, and for whom, a dialer that is closing lingers.
    pub(crate) fn closing(&self) -> Option<(Duration, Guard)> {
        self.lingering.as_ref().map(Lingering::terms)
    }

    /// The token of the connection in hand.
    pub(crate) fn connection(&self) -> Option<usize> {
        match self.phase {
            Phase::Trying { connection, .. } | Phase::Up { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// The deadline may have come. `Err` when the dialer is over.
    pub(crate) fn on_timer(
        &mut self,
        token: usize,
        slot: &Arc<Slot>,
        resolver: &Resolver,
        now: Instant,
    ) -> Result<Dial, ()> {
        // Once the connection stands, it lingers by itself.
        if let Some(lingering) = &mut self.lingering
            && !matches!(self.phase, Phase::Up { .. })
        {
            let report = self.pipe.as_ref().map(|pipe| pipe.outbox_report());
            let over = report
                .is_none_or(|report| report.drained || lingering.is_over(report.progress, now));
            if over {
                return Err(());
            }
        }
        match self.phase {
            Phase::Waiting { until: Some(until) } if until <= now => {
                Ok(self.attempt(token, slot, resolver, now))
            }
            _ => Ok(Dial::Wait),
        }
    }

    fn attempt(
        &mut self,
        token: usize,
        slot: &Arc<Slot>,
        resolver: &Resolver,
        now: Instant,
    ) -> Dial {
        let options = Arc::clone(self.belongs.owner.options());
        match &self.belongs.endpoint {
            Endpoint::Tcp(endpoint) => {
                if let Some(addresses) = tcp::literal_addresses(endpoint) {
                    return self.try_addresses(addresses, now);
                }
                if let Host::Name(name) = &endpoint.host {
                    self.phase = Phase::Resolving;
                    let slot = Arc::clone(slot);
                    let done = move |addresses| {
                        slot.post(Job::Resolved(Dialed { dialer: token, addresses }));
                    };
                    resolver.resolve(name.clone(), endpoint.port, Box::new(done));
                    return Dial::Wait;
                }
                let error = io::Error::from(io::ErrorKind::AddrNotAvailable);
                self.failed(&error, now);
                Dial::Wait
            }
            Endpoint::Ipc(endpoint) => match ipc::connect(endpoint, &options.transport) {
                Ok(stream) => self.begin(stream, VecDeque::new()),
                Err(error) => {
                    self.failed(&error, now);
                    Dial::Wait
                }
            },
            Endpoint::Inproc(_) => Dial::Wait,
        }
    }

    /// The resolver answered.
    pub(crate) fn resolved(
        &mut self,
        addresses: io::Result<Vec<SocketAddr>>,
        now: Instant,
    ) -> Dial {
        if !matches!(self.phase, Phase::Resolving) {
            return Dial::Wait;
        }
        match addresses {
            Ok(addresses) => self.try_addresses(addresses, now),
            Err(error) => {
                self.failed(&error, now);
                Dial::Wait
            }
        }
    }

    fn try_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) -> Dial {
        let options = Arc::clone(self.belongs.owner.options());
        let error = match tcp::usable_addresses(addresses, &options.transport) {
            Ok(usable) => {
                let mut addresses = VecDeque::from(usable);
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                while let Some(address) = addresses.pop_front() {
                    match start(&self.belongs.endpoint, address, &options) {
                        Ok(stream) => return self.begin(stream, addresses),
                        Err(error) => last = error,
                    }
                }
                last
            }
            Err(error) => error,
        };
        self.failed(&error, now);
        Dial::Wait
    }

    fn begin(&mut self, stream: Stream, others: VecDeque<SocketAddr>) -> Dial {
        self.phase = Phase::Trying { connection: usize::MAX, others };
        Dial::Connecting(stream)
    }

    /// The stream of `begin` became the source with this token.
    pub(crate) fn trying(&mut self, token: usize) {
        if let Phase::Trying { connection, .. } = &mut self.phase {
            *connection = token;
        }
    }

    /// The connection's handshake is over.
    pub(crate) fn up(&mut self, now: Instant) {
        if let Phase::Trying { connection, .. } = self.phase {
            self.phase = Phase::Up { connection, since: now };
        }
    }

    /// The connection could not be made: the next address, or a pause.
    pub(crate) fn connect_failed(&mut self, error: &io::Error, now: Instant) -> Dial {
        match std::mem::replace(&mut self.phase, Phase::Waiting { until: None }) {
            Phase::Trying { others, .. } if !others.is_empty() => {
                self.try_addresses(others.into(), now)
            }
            _ => {
                self.failed(error, now);
                Dial::Wait
            }
        }
    }

    /// A connection that stood is over, or its handshake failed. `Err` when the dialer is over too.
    pub(crate) fn connection_lost(&mut self, now: Instant) -> Result<(), ()> {
        let options = Arc::clone(self.belongs.owner.options());
        if let Phase::Up { since, .. } = self.phase
            && now.saturating_duration_since(since) >= options.reconnect_interval
        {
            // Only a session that lasted counts as a success: a peer that accepts and drops is met with pauses.
            self.failures = 0;
        }
        let retry = self.next_pause(&options);
        self.phase = Phase::Waiting { until: retry.and_then(|pause| now.checked_add(pause)) };
        let drained = self.pipe.as_ref().is_none_or(|pipe| pipe.outbox_report().drained);
        if self.lingering.is_some() && (drained || retry.is_none()) { Err(()) } else { Ok(()) }
    }

    fn failed(&mut self, error: &io::Error, now: Instant) {
        let options = Arc::clone(self.belongs.owner.options());
        let retry_in = self.next_pause(&options);
        self.belongs.owner.report(Event::ConnectFailed {
            endpoint: self.belongs.endpoint.clone(),
            reason: Failure::from(error),
            retry_in,
        });
        self.phase = Phase::Waiting { until: retry_in.and_then(|pause| now.checked_add(pause)) };
    }

    fn next_pause(&mut self, options: &Options) -> Option<Duration> {
        let failures = self.failures;
        self.failures = self.failures.saturating_add(1);
        options.reconnect.then(|| {
            let pause =
                pause_after(failures, options.reconnect_interval, options.reconnect_interval_max);
            self.jitter.at_least_half(pause).max(PAUSE_MIN)
        })
    }

    /// Begins to close. `Err` when there is nothing to linger for.
    pub(crate) fn close(&mut self, lingering: Lingering) -> Result<(), ()> {
        let drained = self.pipe.as_ref().is_none_or(|pipe| pipe.outbox_report().drained);
        if let Some(pipe) = &self.pipe {
            pipe.begin_close();
        }
        self.lingering = Some(lingering);
        if drained && self.connection().is_none() { Err(()) } else { Ok(()) }
    }

    /// The end of the dialer: what is still queued is lost and counted.
    pub(crate) fn finish(self) {
        if let Some(pipe) = &self.pipe {
            pipe.abandon(Loss::Linger);
            self.belongs.owner.gone(pipe);
        }
    }
}

fn start(endpoint: &Endpoint, remote: SocketAddr, options: &Options) -> io::Result<Stream> {
    let source = match endpoint {
        Endpoint::Tcp(TcpEndpoint { source: Some(source), .. }) => {
            Some(tcp::source_address(source, remote.is_ipv6())?)
        }
        _ => None,
    };
    tcp::connect(remote, source, &options.transport)
}

/// The pause after this many failures in a row, before jitter: doubled each time, up to the maximum.
fn pause_after(failures: u32, interval: Duration, interval_max: Duration) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    interval.checked_mul(factor).unwrap_or(interval_max).min(interval_max)
}

/// A small generator for jitter; its seed comes from outside.
struct Jitter(u64);

impl Jitter {
    /// A duration between half of `pause` and all of it.
    fn at_least_half(&mut self, pause: Duration) -> Duration {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fraction = (self.0 >> 33) as f64 / (1_u64 << 31) as f64;
        pause.mul_f64(0.5 + 0.5 * fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let pauses: Vec<u128> = (0..8).map(|n| pause_after(n, first, max).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pause_after(u32::MAX, first, max), max);
        assert_eq!(pause_after(40, Duration::MAX, Duration::MAX), Duration::MAX);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let mut jitter = Jitter(7);
        let pause = Duration::from_secs(1);
        let drawn: Vec<Duration> = (0..1_000).map(|_| jitter.at_least_half(pause)).collect();
        assert!(drawn.iter().all(|drawn| (pause / 2..=pause).contains(drawn)));
        assert!(drawn.iter().any(|drawn| *drawn < pause.mul_f64(0.55)));
        assert!(drawn.iter().any(|drawn| *drawn > pause.mul_f64(0.95)));
    }
}
