//! A connection: one stream from its first byte to its last. On the way in it stands between the kernel and the
//! inbox: reads into the reactor's scratch buffer, finds runs of complete messages, hands them to the pipe.
//!
//! Phases: connecting, opening (handshake), open, leaving (everything is sent; what comes is discarded until
//! the peer closes, because closing with unread bytes would make the kernel throw sent ones away).

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::linger::Lingering;
use super::mailbox::Belongs;
use super::open::Open;
use super::received::Buffers;
use super::slot::Slot;
use crate::completion::Guard;
use crate::monitor::{DisconnectReason, Event, Failure, HandshakeFailure};
use crate::pipe::{Candidate, Link, Loss, Pipe, Place, Source};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::transport::Stream;
use crate::transport::readiness::Registry;
use crate::wire::{self, Handshake, Progress};

/// Reads of one connection in one turn; then the others have theirs.
const READS_PER_TURN: usize = 4;

/// What a connection needs from the reactor while it works.
pub(crate) struct Io<'a> {
    pub(crate) scratch: &'a mut [u8],
    pub(crate) buffers: &'a Buffers,
    pub(crate) doorbell: &'a Arc<Slot>,
    pub(crate) now: Instant,
}

/// Where a connection comes from.
pub(crate) enum Origin {
    /// Accepted; the permit counts it among the listener's half-open ones until the handshake is over.
    Accepted { permit: Option<HalfOpen> },
    /// Made by the dialer with this token, for this pipe unless there is to be none before the handshake.
    Dialed { dialer: usize, pipe: Option<Arc<Pipe>> },
}

/// One of a listener's places for connections in their handshake, given back on drop.
pub(crate) struct HalfOpen(pub(crate) Arc<AtomicUsize>);

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(crate) struct Connection {
    pub(crate) belongs: Belongs,
    pub(crate) origin: Origin,
    stream: Arc<Stream>,
    address: String,
    token: usize,
    phase: Phase,
    /// On the reactor's run list.
    pub(crate) listed: bool,
    /// The peer has closed its side, so a short read does not mean that nothing is left.
    read_closed: bool,
    /// The peer takes nothing any more.
    broken: bool,
}

enum Phase {
    Connecting { until: Option<Instant> },
    Opening { handshake: Option<Handshake>, unsent: Vec<u8>, until: Option<Instant> },
    Open(Box<Open>),
    Leaving { pipe: Arc<Pipe>, lingering: Lingering, progress: u64 },
}

/// How a call into a connection ended.
pub(crate) enum Outcome {
    /// Wait for the next event.
    Wait,
    /// There is more to do than one turn allows.
    Again,
    Ended(Ending),
}

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum Ending {
    ConnectFailed(io::Error),
    HandshakeFailed(HandshakeFailure),
    Disconnected(DisconnectReason),
}

impl Connection {
    /// A stream whose connection is being made.
    pub(crate) fn connecting(
        belongs: Belongs,
        origin: Origin,
        stream: Stream,
        token: usize,
        now: Instant,
    ) -> Self {
        let until = now.checked_add(belongs.owner.options().connect_timeout);
        let phase = Phase::Connecting { until };
        let (stream, address) = (Arc::new(stream), String::new());
        Self {
            belongs,
            origin,
            stream,
            address,
            token,
            phase,
            listed: false,
            read_closed: false,
            broken: false,
        }
    }

    /// A stream that was accepted.
    pub(crate) fn accepted(
        belongs: Belongs,
        permit: HalfOpen,
        stream: Stream,
        address: String,
        token: usize,
        now: Instant,
    ) -> Self {
        let origin = Origin::Accepted { permit: Some(permit) };
        let mut connection = Self::connecting(belongs, origin, stream, token, now);
        connection.address = address;
        connection.open(now);
        connection
    }

    fn open(&mut self, now: Instant) {
        let options = self.belongs.owner.options();
        let mut unsent = Vec::new();
        let handshake = Handshake::start(self.belongs.owner.handshake(), &mut unsent);
        let until = now.checked_add(options.handshake_timeout);
        self.phase = Phase::Opening { handshake: Some(handshake), unsent, until };
    }

    pub(crate) fn pipe(&self) -> Option<&Arc<Pipe>> {
        match &self.phase {
            Phase::Open(open) => Some(open.pipe()),
            _ => None,
        }
    }

    /// Whether the handshake was completed.
    pub(crate) fn was_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_) | Phase::Leaving { .. })
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Connecting { until } | Phase::Opening { until, .. } => *until,
            Phase::Open(open) => open.deadline(),
            Phase::Leaving { lingering, .. } => lingering.deadline(),
        }
    }

    /// The stream is ready. `read_closed`: nothing comes after what is there to read.
    pub(crate) fn ready(
        &mut self,
        readable: bool,
        writable: bool,
        read_closed: bool,
        io: &mut Io<'_>,
    ) -> Outcome {
        self.read_closed |= read_closed;
        if let Phase::Connecting { .. } = self.phase {
            match self.stream.finish_connect() {
                Ok(true) => {}
                Ok(false) => return Outcome::Wait,
                Err(error) => return Outcome::Ended(Ending::ConnectFailed(error)),
            }
            self.address = self.stream.peer_address();
            self.belongs.owner.report(Event::Connected {
                endpoint: self.belongs.endpoint.clone(),
                address: self.address.clone(),
            });
            self.open(io.now);
        }
        if writable {
            self.on_writable();
        }
        if readable || read_closed { self.read(io) } else { Outcome::Wait }
    }

    fn on_writable(&mut self) {
        match &mut self.phase {
            Phase::Opening { unsent, .. } => write_some(&self.stream, unsent),
            Phase::Open(open) => open.pipe().writable(),
            Phase::Connecting { .. } | Phase::Leaving { .. } => {}
        }
    }

    /// Reads what is there, within the budget of one turn.
    pub(crate) fn read(&mut self, io: &mut Io<'_>) -> Outcome {
        let outcome = self.read_some(io);
        let held = matches!(&self.phase, Phase::Open(open) if open.is_held());
        match outcome {
            Outcome::Wait if self.broken && !held => {
                Outcome::Ended(Ending::Disconnected(DisconnectReason::PeerClosed))
            }
            other => other,
        }
    }

    fn read_some(&mut self, io: &mut Io<'_>) -> Outcome {
        for _ in 0..READS_PER_TURN {
            let exhausted: Exhausted = match &mut self.phase {
                Phase::Connecting { .. } => return Outcome::Wait,
                Phase::Opening { .. } => match self.read_opening(io) {
                    Ok(exhausted) => exhausted,
                    Err(failure) => return Outcome::Ended(Ending::HandshakeFailed(failure)),
                },
                Phase::Open(open) => match open.read(&self.stream, io) {
                    Ok(exhausted) => exhausted,
                    Err(reason) => return Outcome::Ended(Ending::Disconnected(reason)),
                },
                Phase::Leaving { .. } => match self.stream.read(io.scratch) {
                    Ok(1..) => Exhausted::No,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Exhausted::Yes,
                    _ => return Outcome::Ended(Ending::Disconnected(DisconnectReason::Closed)),
                },
            };
            match exhausted {
                Exhausted::Yes => return Outcome::Wait,
                Exhausted::Probably if !self.read_closed => return Outcome::Wait,
                _ => {}
            }
        }
        Outcome::Again
    }

    fn read_opening(&mut self, io: &mut Io<'_>) -> Result<Exhausted, HandshakeFailure> {
        let Phase::Opening { handshake, unsent, .. } = &mut self.phase else {
            return Ok(Exhausted::Yes);
        };
        write_some(&self.stream, unsent);
        let count = match self.stream.read(io.scratch) {
            Ok(0) => return Err(HandshakeFailure::PeerClosed),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Exhausted::Yes),
            Err(error) => return Err(HandshakeFailure::Io(Failure::from(&error))),
        };
        let input = io.scratch.get(..count).unwrap_or_default();
        let Some(state) = handshake.take() else { return Ok(Exhausted::Yes) };
        let progress = state.receive(input, unsent);
        write_some(&self.stream, unsent);
        match progress? {
            Progress::Pending(next) => {
                *handshake = Some(next);
                Ok(Exhausted::No)
            }
            Progress::Done { peer, established, consumed } => {
                let unsent = std::mem::take(unsent);
                let version = peer.version;
                let rest = input.get(consumed..).unwrap_or_default().to_vec();
                let place = match &mut self.origin {
                    Origin::Dialed { pipe: Some(pipe), .. } => Place::Kept(Arc::clone(pipe)),
                    Origin::Dialed { pipe: None, .. } => Place::New,
                    Origin::Accepted { permit } => {
                        *permit = None;
                        Place::New
                    }
                };
                let candidate = Candidate {
                    place,
                    endpoint: self.belongs.endpoint.clone(),
                    address: self.address.clone(),
                    peer,
                    established,
                    link: Link::Wire {
                        stream: Arc::clone(&self.stream),
                        doorbell: io.doorbell.clone(),
                        connection: self.token,
                    },
                    source: Source::Wire { doorbell: io.doorbell.clone(), connection: self.token },
                    unsent,
                };
                let owner = &self.belongs.owner;
                let pipe = owner.attach(candidate).inspect_err(|refusal| {
                    // The peer has our READY already, so this is its only way to learn the reason. Best effort.
                    let mut error = Vec::new();
                    wire::put_error(&mut error, &refusal.to_string());
                    let _ = self.stream.write(&error);
                })?;
                self.phase =
                    Phase::Open(Box::new(Open::new(pipe, owner.options(), version, rest, io.now)));
                Ok(Exhausted::No)
            }
        }
    }

    /// A writer met an error. What had arrived before is still read, also if it has to wait for the inbox; then the connection
    /// is over.
    pub(crate) fn broken(&mut self, io: &mut Io<'_>) -> Outcome {
        self.read_closed = true;
        self.broken = true;
        self.read(io)
    }

    /// The inbox has room again.
    pub(crate) fn resume(&mut self, io: &mut Io<'_>) -> Outcome {
        if let Phase::Open(open) = &mut self.phase {
            open.resume(io.now);
        }
        self.read(io)
    }

    /// The connection's deadline may have come.
    pub(crate) fn on_timer(&mut self, now: Instant) -> Outcome {
        match &mut self.phase {
            Phase::Connecting { until } if until.is_some_and(|until| until <= now) => {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                Outcome::Ended(Ending::ConnectFailed(error))
            }
            Phase::Opening { until, .. } if until.is_some_and(|until| until <= now) => {
                let limit = self.belongs.owner.options().handshake_timeout;
                Outcome::Ended(Ending::HandshakeFailed(HandshakeFailure::Timeout(limit)))
            }
            Phase::Open(open) => match open.on_timer(now) {
                Ok(()) => Outcome::Wait,
                Err(reason) => Outcome::Ended(Ending::Disconnected(reason)),
            },
            Phase::Leaving { lingering, progress, .. } => match lingering.is_over(*progress, now) {
                true => Outcome::Ended(Ending::Disconnected(DisconnectReason::Closed)),
                false => Outcome::Wait,
            },
            Phase::Connecting { .. } | Phase::Opening { .. } => Outcome::Wait,
        }
    }

    /// Begins to close: what is queued may still go out for as long as `lingering` says.
    pub(crate) fn close(
        &mut self,
        linger: std::time::Duration,
        guard: Guard,
        now: Instant,
    ) -> Outcome {
        let over = || Outcome::Ended(Ending::Disconnected(DisconnectReason::Closed));
        match &mut self.phase {
            Phase::Connecting { .. } | Phase::Opening { .. } => match &self.origin {
                Origin::Dialed { pipe: Some(pipe), .. }
                    if !linger.is_zero() && !pipe.outbox_report().drained =>
                {
                    Outcome::Wait
                }
                _ => over(),
            },
            Phase::Open(open) => {
                open.pipe().begin_close();
                if linger.is_zero() {
                    open.pipe().abandon(Loss::Linger);
                    return over();
                }
                open.pipe().flush();
                let progress = open.pipe().outbox_report().progress;
                open.linger(Lingering::new(linger, progress, now, guard));
                self.leave_if_drained(now)
            }
            Phase::Leaving { lingering, progress, .. } => {
                *lingering = Lingering::new(linger, *progress, now, guard);
                Outcome::Wait
            }
        }
    }

    /// Goes from open to leaving once the outbox of a closing connection is empty.
    pub(crate) fn leave_if_drained(&mut self, now: Instant) -> Outcome {
        let Phase::Open(open) = &mut self.phase else { return Outcome::Wait };
        let report = open.pipe().outbox_report();
        if !report.drained {
            return Outcome::Wait;
        }
        let Some(mut lingering) = open.take_lingering() else { return Outcome::Wait };
        if !report.wrote_messages {
            // Nothing on the way could be lost by closing at once.
            return Outcome::Ended(Ending::Disconnected(DisconnectReason::Closed));
        }
        lingering.is_over(report.progress, now);
        // Both are best effort: on an error the read below finds the connection broken.
        let _ = self.stream.shutdown_write();
        let pipe = Arc::clone(open.pipe());
        pipe.unlink();
        self.phase = Phase::Leaving { pipe, lingering, progress: report.progress };
        Outcome::Again
    }

    /// Ends the stream and tells the socket. The connection is no source of the reactor any more.
    pub(crate) fn finish(self, registry: &Registry, ending: &Ending) {
        let owner = &self.belongs.owner;
        let endpoint = self.belongs.endpoint.clone();
        // A writer may still hold the stream for a moment, so closing it here would not be enough. Either fails only
        // for a stream that is gone already.
        let _ = self.stream.deregister(registry);
        let _ = self.stream.shutdown();
        match ending {
            Ending::ConnectFailed(_) => {}
            Ending::HandshakeFailed(reason) => owner.report(Event::HandshakeFailed {
                endpoint,
                address: self.address.clone(),
                reason: reason.clone(),
            }),
            Ending::Disconnected(reason) => {
                // `self` lives to the end of this function: whoever waits for the close goes on when all is counted.
                let pipe = match &self.phase {
                    Phase::Open(open) => Some(Arc::clone(open.pipe())),
                    Phase::Leaving { pipe, .. } => Some(Arc::clone(pipe)),
                    Phase::Connecting { .. } | Phase::Opening { .. } => None,
                };
                let peer = pipe.as_ref().and_then(|pipe| pipe.info());
                owner.report(Event::Disconnected { endpoint, peer, reason: reason.clone() });
                if let Some(pipe) = pipe {
                    pipe.unlink();
                    owner.session_lost(&pipe);
                }
            }
        }
    }
}

/// Whether a stream may hold more to read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exhausted {
    No,
    /// A read came back short: the next arrival is a new event, unless the peer closed meanwhile.
    Probably,
    Yes,
}

impl Exhausted {
    /// After a read that asked for `asked` bytes.
    pub(super) fn after(count: usize, asked: usize) -> Self {
        if count < asked { Self::Probably } else { Self::No }
    }
}

/// Writes the front of a short handshake buffer. An error shows in the next read.
fn write_some(stream: &Stream, unsent: &mut Vec<u8>) {
    while !unsent.is_empty() {
        match stream.write(unsent) {
            Ok(count @ 1..) => drop(unsent.drain(..count)),
            _ => return,
        }
    }
}

/// The earlier of two deadlines.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}
