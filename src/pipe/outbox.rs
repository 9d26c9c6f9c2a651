//! The outbox: one peer's queue of framed chunks and the rule who writes it.
//!
//! Phases, all under one short mutex (invariants O1 to O4 of docs/design.md):
//!
//! - `Idle`: nobody writes. With a session, nothing is queued.
//! - `Scheduled`: a streaming sender is gathering; the outbox is on its reactor's list and is written at the next
//!   tick, or by the sender when a unit is full.
//! - `Writing`: exactly one thread holds the writer role and, outside the lock, the chunk in flight.
//! - `Blocked`: the kernel (or the inbox at the other end) is full; the next writable event claims the role.
//!
//! O1: order on the wire is the order of acceptance; there is one queue and one writer.
//! O2: a writable event during `Writing` leaves a mark (`kicked`) that the writer checks before it goes `Blocked`.
//! O3: queued messages survive the end of a session; only the half-written one is dropped, and counted.
//! O4: a refused offer (`refused`) is followed by `Owner::writable` once half of both marks is free.

mod offer;
mod state;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::offer::Next;
pub(crate) use self::offer::{Content, Manner, Room};
use self::state::{CONTROL_BYTES, GATHER_MAX, Phase, STREAMING_GAP, State};
use super::chunk::{Chunk, LargeBody};
use super::{Doorbell, Loss, Now};
use crate::options::Marks;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Biased, BiasedGuard, Fault, planted};
use crate::transport::Stream;

/// Writes one thread does in one role before it leaves the rest to the reactor.
pub(super) const WRITES_PER_ROLE_MAX: usize = 16;

/// The session that an outbox is joined to.
#[derive(Clone)]
pub(crate) enum Link {
    Wire {
        stream: Arc<Stream>,
        doorbell: Arc<dyn Doorbell>,
        connection: usize,
    },
    Inproc {
        doorbell: Arc<dyn Doorbell>,
    },
    /// Models only: a kernel that takes as much as the model says.
    #[cfg(loom)]
    Modelled {
        kernel: Arc<crate::transport::model::Kernel>,
        doorbell: Arc<dyn Doorbell>,
    },
}

impl Link {
    pub(super) fn doorbell(&self) -> &Arc<dyn Doorbell> {
        match self {
            Self::Wire { doorbell, .. } | Self::Inproc { doorbell } => doorbell,
            #[cfg(loom)]
            Self::Modelled { doorbell, .. } => doorbell,
        }
    }
}

/// A snapshot for statistics and for closing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OutboxReport {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// Bytes written so far, over all sessions: progress in the sense of linger.
    pub(crate) progress: u64,
    /// Nothing is queued and nobody is writing.
    pub(crate) drained: bool,
    /// Messages were written in the current session.
    pub(crate) wrote_messages: bool,
    /// Accepted as from the only peer (`Manner::sole`), and the bytes of their bodies.
    pub(crate) sole_messages: u64,
    pub(crate) sole_bytes: u64,
}

pub(crate) struct Outbox {
    marks: Marks,
    conflate: bool,
    state: Biased<State>,
    made: Instant,
    /// When the last write that left nothing to write ended, in nanoseconds since `made`. Changed with the state, read without: a
    /// tick that asks a busy sender's outbox must not take the favour away.
    wrote_ns: AtomicU64,
}

/// What a writer is writing. A chunk keeps all its messages until it is wholly written.
pub(super) enum Flight {
    Control { bytes: Vec<u8>, written: usize },
    Chunk { chunk: Chunk, written: usize },
}

impl Flight {
    /// One write, of at most a unit.
    pub(super) fn write_to(&self, stream: &Stream) -> io::Result<Written> {
        self.write_with(|slices| match slices {
            [only] => stream.write(only),
            several => stream.write_vectored(several),
        })
    }

    /// `write_to` for anything that takes slices.
    pub(super) fn write_with(
        &self,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Written> {
        let count = match self {
            Self::Control { bytes, written } => {
                write(&[IoSlice::new(bytes.get(*written..).unwrap_or_default())])
            }
            Self::Chunk { chunk, written } => chunk.with_slices(*written, write),
        }?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(Written::Bytes(count))
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Control { bytes, written } => *written >= bytes.len(),
            Self::Chunk { chunk, written } => *written >= chunk.wire_bytes(),
        }
    }
}

/// What one write did.
pub(super) enum Written {
    Bytes(usize),
    /// In process: these left the flight's chunk for the other end's inbox.
    Moved {
        messages: usize,
        wire_bytes: usize,
    },
}

/// A flight with the session it is written in.
pub(super) struct Job {
    flight: Flight,
    link: Arc<Link>,
    session: u64,
}

impl Job {
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn flight(&self) -> &Flight {
        &self.flight
    }

    pub(super) fn flight_mut(&mut self) -> &mut Flight {
        &mut self.flight
    }
}

/// What follows from a write; done by the writer with the lock released.
pub(super) struct Step {
    /// The role is still held: begin the next write.
    pub(super) more: bool,
    pub(super) made_room: bool,
    pub(super) torn: u64,
    pub(super) cause: Loss,
    pub(super) note: Option<(Arc<Link>, Note)>,
    /// Bodies that were written; dropped by the writer.
    pub(super) spent: Vec<LargeBody>,
}

/// What the writer tells whoever serves the other end of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Note {
    Flush,
    Drained,
    Broken,
}

impl Outbox {
    pub(super) fn new(marks: Marks, conflate: bool, now: Instant) -> Self {
        let state = State {
            phase: Phase::Idle,
            queue: VecDeque::new(),
            flight: None,
            flight_is_out: false,
            control: Vec::new(),
            control_max: CONTROL_BYTES,
            link: None,
            session: 0,
            messages: 0,
            bytes: 0,
            kicked: false,
            refused: false,
            listed: false,
            closing: false,
            wrote_messages: false,
            abandoned: None,
            last_write: now.checked_sub(STREAMING_GAP).unwrap_or(now),
            unlooked: 0,
            noted: false,
            quick: 0,
            quick_bytes: 0,
            active: false,
            progress: 0,
            sole_messages: 0,
            sole_bytes: 0,
            spare: None,
            moved_bytes: 0,
        };
        Self { marks, conflate, state: Biased::new(state), made: now, wrote_ns: AtomicU64::new(0) }
    }

    /// Takes the message if the marks allow it and decides who writes it; `None` when it is full.
    #[inline]
    pub(super) fn offer(&self, content: Content<'_>, manner: Manner) -> Option<Next> {
        let mut state = self.state.lock();
        if !manner.answers_at_once() && state.append_quickly(content) {
            state.count_sole(content, manner);
            return Some(Next::Nothing);
        }
        self.offer_slowly(state, content, manner)
    }

    #[inline(never)]
    fn offer_slowly(
        &self,
        mut state: BiasedGuard<'_, State>,
        content: Content<'_>,
        manner: Manner,
    ) -> Option<Next> {
        let wire_bytes = content.wire_bytes();
        if state.abandoned.is_some() || state.closing {
            return None;
        }
        if !state.admits(self.marks, wire_bytes) {
            state.refused = true;
            return None;
        }
        state.append(content, wire_bytes);
        state.count_sole(content, manner);
        let at_mark = !self.marks.admit(state.messages, state.bytes, 0);
        let next = state.after_append(manner, wire_bytes, at_mark);
        state.quick = 0;
        if state.phase == Phase::Scheduled {
            state.grant_quick(self.marks, wire_bytes);
        }
        Some(next)
    }

    /// `offer` where only the newest message is kept: returns what it replaces too, to be dropped outside the lock.
    pub(super) fn offer_newest(
        &self,
        content: Content<'_>,
        manner: Manner,
    ) -> Option<(Next, VecDeque<Chunk>)> {
        let wire_bytes = content.wire_bytes();
        let mut state = self.state.lock();
        if state.abandoned.is_some() || state.closing {
            return None;
        }
        let replaced = state.take_queue();
        state.append(content, wire_bytes);
        state.count_sole(content, manner);
        Some((state.after_append(manner, wire_bytes, false), replaced))
    }

    /// Takes as many of the framed messages as the marks allow, to be written at once. Returns how many, too.
    pub(super) fn offer_front(&self, framed: &Chunk) -> (Next, usize) {
        let mut state = self.state.lock();
        if state.abandoned.is_some() || state.closing {
            return (Next::Nothing, 0);
        }
        let room = state.room(self.marks);
        let fits = room.messages >= framed.messages() && room.bytes >= framed.wire_bytes();
        let least = usize::from(state.takes_any(self.marks));
        let front = (!fits).then(|| framed.copy_front(room.messages, room.bytes, least));
        let taken = front.as_ref().unwrap_or(framed);
        if taken.is_empty() {
            return (Next::Nothing, 0);
        }
        state.append(Content::Framed(taken), taken.wire_bytes());
        state.quick = 0;
        (state.after_append(Manner::AT_ONCE, taken.wire_bytes(), true), taken.messages())
    }

    pub(super) fn conflates(&self) -> bool {
        self.conflate
    }

    pub(super) fn has_room(&self, wire_bytes: usize) -> bool {
        let mut state = self.state.lock();
        let room = self.conflate || state.admits(self.marks, wire_bytes);
        state.refused |= !room;
        room
    }

    pub(super) fn room(&self) -> Room {
        if self.conflate {
            return Room::MAX;
        }
        self.state.lock().room(self.marks)
    }

    /// True when the caller got the writer role.
    pub(super) fn control(&self, commands: &[u8]) -> bool {
        let mut state = self.state.lock();
        if state.link.is_none() {
            return false;
        }
        state.append_control(commands);
        state.claim_if(|phase| matches!(phase, Phase::Idle | Phase::Scheduled))
    }

    /// True when the caller got the writer role.
    pub(super) fn link(&self, link: Link, opening: &[u8]) -> bool {
        let mut state = self.state.lock();
        debug_assert!(state.link.is_none(), "a session ends before the next begins");
        state.link = Some(Arc::new(link));
        state.wrote_messages = false;
        state.session += 1;
        state.control.extend_from_slice(opening);
        // A writer of the former session may still be out; it finds this one and goes on (O1).
        state.has_work() && state.claim_if(|phase| phase == Phase::Idle)
    }

    /// Returns how many messages were torn, and whether that made the room that a refused sender waits for (O4).
    pub(super) fn unlink(&self) -> (u64, bool) {
        let mut state = self.state.lock();
        let torn = state.end_session();
        (torn, state.take_made_room(self.marks))
    }

    /// Returns how many messages were dropped; a flight that is out is counted by its writer.
    pub(super) fn abandon(&self, cause: Loss) -> u64 {
        let mut state = self.state.lock();
        let torn = state.end_session();
        let queue = state.take_queue();
        state.abandoned = Some(cause);
        state.quick = 0;
        state.messages = 0;
        state.bytes = 0;
        // A socket may know of its first pipe longer than of the peer.
        state.spare = None;
        state.control = Vec::new();
        // The chunks hold bodies of others, whose code must not run under the lock.
        drop(state);
        torn + queue.iter().map(|chunk| chunk.messages() as u64).sum::<u64>()
    }

    pub(super) fn begin_close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.quick = 0;
    }

    pub(super) fn report(&self) -> OutboxReport {
        let state = self.state.lock();
        OutboxReport {
            messages: state.messages,
            bytes: state.bytes,
            progress: state.progress,
            drained: state.phase != Phase::Writing && !state.has_work(),
            wrote_messages: state.wrote_messages,
            sole_messages: state.sole_messages,
            sole_bytes: state.sole_bytes,
        }
    }

    /// Bytes of commands waiting to be written.
    pub(crate) fn control_bytes(&self) -> usize {
        self.state.lock().control.len()
    }

    pub(super) fn claim_writable(&self) -> bool {
        let mut state = self.state.lock();
        state.kicked |= state.phase == Phase::Writing && !planted(Fault::KickForgotten);
        state.claim_if(|phase| phase == Phase::Blocked)
    }

    pub(super) fn claim_scheduled(&self) -> bool {
        let mut state = self.state.lock();
        state.noted = false;
        state.claim_if(|phase| phase == Phase::Scheduled)
    }

    /// Whether the socket is to keep this outbox among those that it flushes. One that does not gather is told of anew.
    pub(super) fn stays_noted(&self) -> bool {
        let mut state = self.state.lock();
        state.noted = state.phase == Phase::Scheduled;
        state.noted
    }

    /// Whether to write now, and whether to stay on the reactor's list. A sender that writes its units itself is left alone; the
    /// outbox stays listed until a whole tick brought nothing, so that such a sender does not ring at every unit.
    pub(super) fn claim_tick(&self, now: Instant) -> (bool, bool) {
        if self.wrote_recently(now) {
            return (false, true);
        }
        let mut state = self.state.lock();
        let gathers = state.phase == Phase::Scheduled;
        let claimed = gathers && state.gathers_long(now);
        if claimed {
            state.phase = Phase::Writing;
        }
        state.listed = gathers || std::mem::take(&mut state.active);
        (claimed, state.listed)
    }

    fn wrote_recently(&self, now: Instant) -> bool {
        let ended = self.made + Duration::from_nanos(self.wrote_ns.load(Ordering::Relaxed));
        ended != self.made && now.saturating_duration_since(ended) < 2 * GATHER_MAX
    }

    /// The next flight of the writer; `None` ends the role.
    pub(super) fn begin_write(&self) -> Option<Job> {
        let mut state = self.state.lock();
        debug_assert_eq!(state.phase, Phase::Writing);
        state.kicked = false;
        let link = state.link.clone();
        let job = link.and_then(|link| {
            let flight = state.next_flight()?;
            Some(Job { flight, link, session: state.session })
        });
        state.flight_is_out = job.is_some();
        if job.is_none() {
            state.phase = Phase::Idle;
        }
        job
    }

    /// Accounts for a write and decides how the role goes on. `last` ends it even when there is more.
    pub(super) fn end_write(
        &self,
        job: Job,
        written: io::Result<Written>,
        last: bool,
        now: Now,
    ) -> Step {
        let mut state = self.state.lock();
        let Job { flight, link, session } = job;
        state.flight_is_out = false;
        let mut step = Step {
            more: false,
            made_room: false,
            torn: 0,
            cause: Loss::Disconnect,
            note: None,
            spent: Vec::new(),
        };
        let mut broken = false;
        if session != state.session && !planted(Fault::SessionMistaken) {
            // The session ended meanwhile, but what this write did is done: it is not to be sent again.
            step.torn = state.recover_after(flight, written);
            step.cause = state.abandoned.unwrap_or(Loss::Disconnect);
        } else {
            match written {
                Ok(written) => step.spent = state.advance(flight, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.flight = Some(flight);
                    step.more = state.kicked;
                    if !state.kicked {
                        state.phase = Phase::Blocked;
                        // Nothing more will drain for a while: whoever was refused may fill what room there is.
                        let room = self.marks.admit(state.messages, state.bytes, 0);
                        step.made_room = state.refused && room;
                        state.refused &= !step.made_room;
                    }
                    return step;
                }
                Err(_) => {
                    state.flight = Some(flight);
                    step.torn = state.end_session();
                    broken = true;
                }
            }
        }
        step.made_room = state.take_made_room(self.marks);
        let note = state.after_write(&mut step, last, now);
        if state.phase == Phase::Idle {
            let since = state.last_write.saturating_duration_since(self.made);
            self.wrote_ns.store(since.as_nanos() as u64, Ordering::Relaxed);
        }
        let note = if broken { Some(Note::Broken) } else { note };
        step.note = note.map(|note| (link, note));
        step
    }
}

#[cfg(test)]
mod tests;
