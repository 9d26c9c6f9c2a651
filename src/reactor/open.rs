//! An open connection: from bytes to runs of messages, commands, heartbeats and the linger time of a close.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Exhausted, Io, earlier};
use super::linger::Lingering;
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

pub(crate) struct Open {
    pipe: Arc<Pipe>,
    info: Option<Arc<PeerInfo>>,
    scanner: Scanner,
    heartbeat: Heartbeat,
    lingering: Option<Lingering>,
    /// Received and not yet handed over, from `start` on: an incomplete message, or messages that the inbox had no
    /// room for.
    received: Vec<u8>,
    start: usize,
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
            received: rest,
            start: 0,
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
            match self.fill(stream, io.scratch) {
                Ok((0, _)) => return Err(DisconnectReason::PeerClosed),
                Ok((_, short)) => exhausted = short,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Exhausted::Yes);
                }
                Err(error) => return Err(DisconnectReason::Io(Failure::from(&error))),
            }
            self.heartbeat.heard(io.now);
        }
        self.hand_over(allowance, io.now)?;
        Ok(if self.unscanned { Exhausted::No } else { exhausted })
    }

    /// Reads into the scratch buffer and copies out what arrived; a long body goes straight to its place, whose
    /// size grows with what has arrived, never with what is claimed.
    fn fill(&mut self, stream: &Stream, scratch: &mut [u8]) -> io::Result<(usize, Exhausted)> {
        if self.missing > scratch.len() {
            let ask = self.missing.min(self.received.len().max(scratch.len()));
            let count = stream.read_into(&mut self.received, ask)?;
            return Ok((count, Exhausted::No));
        }
        let count = stream.read(scratch)?;
        let short = if count < scratch.len() { Exhausted::Probably } else { Exhausted::No };
        self.received.extend_from_slice(scratch.get(..count).unwrap_or_default());
        Ok((count, short))
    }

    /// Scans what was received, handles its commands and delivers its complete messages as one run.
    fn hand_over(
        &mut self,
        allowance: wire::Allowance,
        now: Instant,
    ) -> Result<(), DisconnectReason> {
        let Self { pipe, scanner, heartbeat, .. } = self;
        let Some(owner) = pipe.owner() else { return Err(DisconnectReason::Closed) };
        let (mut answers, mut changes) = (Vec::new(), Vec::new());
        let input = self.received.get(self.start..).unwrap_or_default();
        let scan = scanner.scan(input, allowance, &mut |body| {
            on_command(body, pipe, heartbeat, &mut answers, &mut changes, now)
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
        let run = take_run(&mut self.received, &mut self.start, scan.end, self.unscanned);
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

/// Takes the first `end` bytes of `received` from `start` on. Usually that is all of it, and it is moved; with `more`
/// complete messages behind them they are copied out.
fn take_run(received: &mut Vec<u8>, start: &mut usize, end: usize, more: bool) -> Vec<u8> {
    if more {
        let end = *start + end;
        let run = received.get(*start..end).unwrap_or_default().to_vec();
        *start = end;
        return run;
    }
    received.drain(..std::mem::take(start));
    if end == 0 {
        // An unfinished message grows where it is: moving it at each read would cost the square of its length.
        return Vec::new();
    }
    let rest = received.split_off(end.min(received.len()));
    std::mem::replace(received, rest)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_message_is_not_moved() {
        let mut received = Vec::with_capacity(64);
        received.extend_from_slice(b"unfinished");
        let place = received.as_ptr();
        assert_eq!(take_run(&mut received, &mut 0, 0, false), b"");
        assert_eq!((received.as_ptr(), &received[..]), (place, &b"unfinished"[..]));
    }

    #[test]
    fn runs_are_taken_in_order_whatever_stays_behind() {
        let mut received = b"aabbbcc".to_vec();
        let mut start = 0;
        assert_eq!(take_run(&mut received, &mut start, 2, true), b"aa");
        assert_eq!(take_run(&mut received, &mut start, 0, true), b"");
        assert_eq!(take_run(&mut received, &mut start, 3, false), b"bbb");
        assert_eq!((&received[..], start), (&b"cc"[..], 0));
        assert_eq!(take_run(&mut received, &mut start, 2, false), b"cc");
    }
}
