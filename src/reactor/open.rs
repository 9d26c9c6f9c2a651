//! An open connection: from bytes to runs of messages, commands, heartbeats and the linger time of a close.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Exhausted, Io, earlier};
use super::linger::Lingering;
use super::received::Received;
use crate::monitor::{DisconnectReason, Failure};
use crate::options::Options;
use crate::peer::PeerInfo;
use crate::pipe::{Loss, Pipe, Run};
use crate::transport::Stream;
use crate::wire::{
    self, Beat, Command, Ended, Heartbeat, HeartbeatConfig, ProtocolError, Scan, ScanFailure,
    Scanner, Subscription, SubscriptionChange, Version,
};

/// PONGs and the like that may wait for a peer that does not read, in bytes. A peer that floods us with PINGs
/// gets no answers beyond that.
const CONTROL_BYTES_MAX: usize = 1_024;

/// A body of which more is missing is read to its place; less comes through the scratch buffer with what follows it.
const LONG_READ_BYTES_MIN: usize = 8 * 1024;

pub(crate) struct Open {
    pipe: Arc<Pipe>,
    info: Option<Arc<PeerInfo>>,
    scanner: Scanner,
    heartbeat: Heartbeat,
    lingering: Option<Lingering>,
    received: Received,
    /// Length of the last run, where that was more than one read brings: the next is likely to be as long.
    long_run_bytes: Option<usize>,
    /// Bytes that complete the frame in progress, by the peer's claim.
    missing: usize,
    /// `received` may hold complete messages.
    unscanned: bool,
    /// The inbox is at a mark: what there is to read waits.
    held: bool,
}

impl Open {
    /// `rest`: what came behind the handshake.
    pub(crate) fn new(
        pipe: Arc<Pipe>,
        options: &Options,
        version: Version,
        rest: Vec<u8>,
        now: Instant,
    ) -> Self {
        // PING came with ZMTP 3.1.
        let knows_ping = version >= Version::V3_1;
        let config = HeartbeatConfig {
            interval: options.heartbeat_interval.filter(|_| knows_ping),
            timeout: options.heartbeat_timeout(),
            ttl: options.heartbeat_ttl,
            shows_life: knows_ping,
        };
        Self {
            info: pipe.info(),
            pipe,
            scanner: Scanner::new(options.limits),
            heartbeat: Heartbeat::new(config, now),
            lingering: None,
            unscanned: !rest.is_empty(),
            received: Received::new(rest),
            long_run_bytes: None,
            missing: 1,
            held: false,
        }
    }

    pub(crate) fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Whether the inbox's mark keeps messages from being read.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    pub(crate) fn linger(&mut self, lingering: Lingering) {
        self.lingering = Some(lingering);
    }

    pub(crate) fn take_lingering(&mut self) -> Option<Lingering> {
        self.lingering.take()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let linger = self.lingering.as_ref().and_then(Lingering::deadline);
        earlier(linger, self.heartbeat.next_deadline())
    }

    /// The inbox has room again, so what the peer sends is heard again.
    pub(crate) fn resume(&mut self, now: Instant) {
        self.held = false;
        self.heartbeat.resume(now);
    }

    /// One read and what follows from it.
    pub(crate) fn read(
        &mut self,
        stream: &Stream,
        io: &mut Io<'_>,
    ) -> Result<Exhausted, DisconnectReason> {
        let Some(allowance) = self.pipe.inbox().allowance() else {
            self.held = true;
            self.heartbeat.suspend(io.now);
            return Ok(Exhausted::Yes);
        };
        let mut exhausted = Exhausted::No;
        if !self.unscanned {
            match self.fill(stream, io) {
                Ok((0, _)) => return Err(DisconnectReason::PeerClosed),
                Ok((_, short)) => exhausted = short,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Exhausted::Yes);
                }
                Err(error) => return Err(DisconnectReason::Io(Failure::from(&error))),
            }
            self.heartbeat.heard(io.now);
        }
        self.hand_over(allowance, io)?;
        Ok(if self.unscanned { Exhausted::No } else { exhausted })
    }

    /// Reads into the scratch buffer and copies out what arrived; a long body goes straight to its place, whose
    /// size grows with what has arrived, never with what is claimed.
    fn fill(&mut self, stream: &Stream, io: &mut Io<'_>) -> io::Result<(usize, Exhausted)> {
        let scratch_bytes = io.scratch.len();
        let ask = if self.missing >= LONG_READ_BYTES_MIN {
            // The little more than twice spares a message just longer than that its last few bytes in a read of their own.
            let growth = self.received.len().max(scratch_bytes) + LONG_READ_BYTES_MIN;
            self.missing.min(growth)
        } else if self.received.is_empty()
            && let Some(bytes) = self.long_run_bytes
            && self.received.prepare(bytes.max(scratch_bytes), io.buffers)
        {
            scratch_bytes
        } else {
            let count = stream.read(io.scratch)?;
            let arrived = io.scratch.get(..count).unwrap_or_default();
            self.received.room(count, io.buffers).copy_from_slice(arrived);
            self.received.add(count);
            return Ok((count, Exhausted::after(count, scratch_bytes)));
        };
        let room = self.long_run_bytes.unwrap_or(0).saturating_sub(self.received.len()).max(ask);
        // Without such a buffer this one grows.
        let _ = self.received.prepare(room, io.buffers);
        let read = stream.read(self.received.room(ask, io.buffers));
        self.received.add(*read.as_ref().unwrap_or(&0));
        if !matches!(read, Ok(count) if count == ask) {
            self.received.settle(io.buffers);
        }
        read.map(|count| (count, Exhausted::after(count, ask)))
    }

    /// Scans what was received, handles its commands and delivers its complete messages as one run.
    fn hand_over(
        &mut self,
        allowance: wire::Allowance,
        io: &Io<'_>,
    ) -> Result<(), DisconnectReason> {
        let Self { pipe, scanner, heartbeat, .. } = self;
        let Some(owner) = pipe.owner() else { return Err(DisconnectReason::Closed) };
        let (mut answers, mut changes) = (Vec::new(), Vec::new());
        let scan = scanner.scan(self.received.bytes(), allowance, &mut |body| {
            on_command(body, pipe, heartbeat, &mut answers, &mut changes, io.now)
        });
        // What was complete before an error is delivered, wherever the segments of the stream were cut.
        let (scan, error) = match scan {
            Ok(scan) => (scan, None),
            Err(ScanFailure { error, end, messages }) => {
                (Scan { end, messages, ended: Ended::NeedMore { bytes: 1 } }, Some(error))
            }
        };
        if !changes.is_empty() {
            owner.subscriptions(pipe, &changes)?;
        }
        self.unscanned = scan.ended == Ended::Allowance;
        self.missing = match scan.ended {
            Ended::NeedMore { bytes } => bytes,
            Ended::Allowance => 1,
        };
        let run = self.received.take_run(scan.end, self.unscanned, io.buffers);
        if !run.is_empty() {
            self.long_run_bytes = Some(run.len()).filter(|&bytes| bytes > io.scratch.len());
        }
        if scan.messages > 0
            && let Some(info) = &self.info
        {
            self.pipe.deliver(info, Run::new(run, scan.messages))?;
        }
        if !answers.is_empty()
            && let Some(role) = self.pipe.send_control(&answers)
        {
            role.run();
        }
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Heartbeats and linger.
    pub(crate) fn on_timer(&mut self, now: Instant) -> Result<(), DisconnectReason> {
        if let Some(lingering) = &mut self.lingering
            && lingering.is_over(self.pipe.outbox_report().progress, now)
        {
            self.pipe.abandon(Loss::Linger);
            return Err(DisconnectReason::Closed);
        }
        match self.heartbeat.poll(now) {
            Beat::Nothing => Ok(()),
            Beat::Dead => Err(DisconnectReason::Protocol(ProtocolError::HeartbeatTimeout)),
            Beat::SendPing { ttl_deciseconds } => {
                let mut ping = Vec::new();
                wire::put_ping(&mut ping, ttl_deciseconds, &[]);
                if self.pipe.control_bytes() < CONTROL_BYTES_MAX
                    && let Some(role) = self.pipe.send_control(&ping)
                {
                    role.run();
                }
                Ok(())
            }
        }
    }
}

fn on_command(
    body: &[u8],
    pipe: &Pipe,
    heartbeat: &mut Heartbeat,
    answers: &mut Vec<u8>,
    changes: &mut Vec<SubscriptionChange>,
    now: Instant,
) -> Result<(), ProtocolError> {
    match Command::parse(body)? {
        Command::Ping { ttl_deciseconds, context } => {
            heartbeat.ping_received(ttl_deciseconds, now);
            if answers.len() + pipe.control_bytes() < CONTROL_BYTES_MAX {
                wire::put_pong(answers, context);
            }
            Ok(())
        }
        Command::Subscribe(topic) => {
            changes.push(Subscription::Subscribe(topic).into());
            Ok(())
        }
        Command::Cancel(topic) => {
            changes.push(Subscription::Cancel(topic).into());
            Ok(())
        }
        Command::Error(reason) => {
            Err(ProtocolError::PeerError { reason: reason.escape_ascii().to_string() })
        }
        // A second READY breaks the closed set of RFC 37; unknown commands are left to later versions.
        Command::Ready(_) => Err(ProtocolError::UnexpectedCommand { name: "READY".to_owned() }),
        Command::Pong { .. } | Command::Unknown(_) => Ok(()),
    }
}
