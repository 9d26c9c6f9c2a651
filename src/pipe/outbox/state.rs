//! What the outbox's mutex protects, and the steps between its phases. Every function here is called with the lock
//! held and does no I/O.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::chunk::{Chunk, LargeBody, SHORT_WIRE_BYTES_MAX, UNIT_BYTES};
use super::{Content, Flight, Link, Manner, Next, Note, Room, Step, Written};
use crate::options::Marks;
use crate::pipe::{Loss, Now};
use crate::wire;

/// A message that comes sooner than this after the end of the last write belongs to a stream, and gathers.
pub(super) const STREAMING_GAP: Duration = Duration::from_micros(20);

/// A streaming sender writes what it gathered once the last write is this long ago, though the unit is not full.
pub(super) const GATHER_MAX: Duration = Duration::from_micros(50);

/// Commands that wait to be written may take so many bytes, whatever they are.
pub(super) const CONTROL_BYTES: usize = 64 * 1024;

/// Messages from one look at the clock to the next while gathering: a look costs a third of a message.
const LOOK_AFTER: u8 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Idle,
    Scheduled,
    Writing,
    Blocked,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) queue: VecDeque<Chunk>,
    /// A flight that was interrupted; it goes before everything else.
    pub(super) flight: Option<Flight>,
    /// The writer has a flight in its hands.
    pub(super) flight_is_out: bool,
    /// Commands for the current session, written at the next chunk boundary.
    pub(super) control: Vec<u8>,
    /// When there are more bytes of them, those that undo each other are dropped.
    pub(super) control_max: usize,
    pub(super) link: Option<Arc<Link>>,
    /// Counts sessions, so that a writer notices that its session ended while it wrote.
    pub(super) session: u64,
    /// Accepted and not yet written, the flight included.
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) kicked: bool,
    pub(super) refused: bool,
    /// On the reactor's list of scheduled outboxes.
    pub(super) listed: bool,
    pub(super) closing: bool,
    /// In the current session.
    pub(super) wrote_messages: bool,
    pub(super) abandoned: Option<Loss>,
    pub(super) last_write: Instant,
    /// The socket knows that it gathers, until it flushes.
    pub(super) noted: bool,
    /// Messages gathered since the sender last looked at the clock.
    pub(super) unlooked: u8,
    /// Messages that may be appended to the last chunk while gathering, with no question asked: neither mark nor unit is
    /// reached by them, and no look at the clock is due.
    pub(super) quick: u8,
    /// And at most so many bytes of them.
    pub(super) quick_bytes: usize,
    /// Something was written since the last tick.
    pub(super) active: bool,
    pub(super) progress: u64,
    pub(super) sole_messages: u64,
    pub(super) sole_bytes: u64,
    pub(super) spare: Option<Vec<u8>>,
    /// What left last with its arena, in process: the next arena is made for as much.
    pub(super) moved_bytes: usize,
}

impl State {
    pub(super) fn append(&mut self, content: Content<'_>, wire_bytes: usize) {
        let chunk = match self.queue.back_mut() {
            Some(chunk) if !chunk.is_full_for(wire_bytes) => chunk,
            _ => {
                let arena = self.spare.take();
                let arena = arena.unwrap_or_else(|| Vec::with_capacity(self.moved_bytes));
                self.queue.push_back(Chunk::reusing(arena));
                match self.queue.back_mut() {
                    Some(chunk) => chunk,
                    None => return,
                }
            }
        };
        content.push_onto(chunk);
        self.messages += content.messages();
        self.bytes += wire_bytes;
    }

    /// Queues commands. Of subscriptions that the peer is slow to read no more are kept than tell it what is true now.
    pub(super) fn append_control(&mut self, commands: &[u8]) {
        self.control.extend_from_slice(commands);
        if self.control.len() > self.control_max {
            self.control = wire::coalesce_subscriptions(&self.control);
            // So that each command is gone through a few times at most, however many there are.
            self.control_max = CONTROL_BYTES.max(2 * self.control.len());
        }
    }

    pub(super) fn after_append(
        &mut self,
        manner: Manner,
        wire_bytes: usize,
        at_mark: bool,
    ) -> Next {
        // What gathers with others is written with the others.
        let stale = self.phase == Phase::Scheduled && !manner.together && self.is_stale();
        match self.phase {
            Phase::Idle if self.link.is_none() => Next::Nothing,
            Phase::Idle if at_mark || manner.inline && (manner.answering || self.is_lonely()) => {
                self.phase = Phase::Writing;
                Next::Write
            }
            Phase::Idle => {
                self.phase = Phase::Scheduled;
                debug_assert!(manner.told || !manner.together, "nobody would write it");
                let news = manner.told && !std::mem::replace(&mut self.noted, true);
                match self.schedule(manner.together) {
                    Some(link) if news => Next::ScheduleAndTell(link),
                    Some(link) => Next::Schedule(link),
                    None if news => Next::Gather,
                    None => Next::Nothing,
                }
            }
            // An answer does not wait for what gathers: it takes it along.
            Phase::Scheduled
                if manner.answers_at_once()
                    || at_mark
                    || self.has_full_unit(wire_bytes)
                    || stale =>
            {
                self.phase = Phase::Writing;
                Next::Write
            }
            _ => Next::Nothing,
        }
    }

    /// Whether a message is taken.
    pub(super) fn admits(&self, marks: Marks, wire_bytes: usize) -> bool {
        self.takes_any(marks) || marks.admit(self.messages, self.bytes, wire_bytes)
    }

    /// Whether one message of any size is taken. A unit that nobody has begun to write is no backlog, and no reason to refuse a
    /// large message: both are written together.
    pub(super) fn takes_any(&self, marks: Marks) -> bool {
        let gathers = matches!(self.phase, Phase::Scheduled | Phase::Writing)
            && !self.flight_is_out
            && self.flight.is_none()
            && self.bytes <= marks.bytes.min(UNIT_BYTES);
        self.messages < marks.messages && (gathers || self.messages == 0)
    }

    /// What the marks leave.
    pub(super) fn room(&self, marks: Marks) -> Room {
        Room {
            messages: marks.messages.saturating_sub(self.messages),
            bytes: marks.bytes.saturating_sub(self.bytes),
        }
    }

    pub(super) fn is_lonely(&self) -> bool {
        crate::transport::now().saturating_duration_since(self.last_write) >= STREAMING_GAP
    }

    /// The short way of `append` and `after_append` for what streams consist of.
    #[inline]
    pub(super) fn append_quickly(&mut self, content: Content<'_>) -> bool {
        if self.quick == 0 || self.phase != Phase::Scheduled {
            return false;
        }
        let Some(chunk) = self.queue.back_mut() else { return false };
        let wire_bytes = match content {
            Content::Message(message) => match message.as_short() {
                Some((block, len)) if SHORT_WIRE_BYTES_MAX <= self.quick_bytes => {
                    chunk.push_short(block, len)
                }
                _ => return self.append_less_quickly(content),
            },
            Content::Framed(_) => return self.append_less_quickly(content),
        };
        self.count_quick(wire_bytes);
        true
    }

    /// `append_quickly` for what is not stored inline.
    fn append_less_quickly(&mut self, content: Content<'_>) -> bool {
        let wire_bytes = content.wire_bytes();
        let Some(chunk) = self.queue.back_mut() else { return false };
        if wire_bytes > self.quick_bytes {
            return false;
        }
        content.push_onto(chunk);
        self.count_quick(wire_bytes);
        true
    }

    #[inline]
    fn count_quick(&mut self, wire_bytes: usize) {
        self.quick -= 1;
        self.quick_bytes -= wire_bytes;
        self.bytes += wire_bytes;
        self.messages += 1;
    }

    /// Counts what a socket without other peers sent.
    #[inline]
    pub(super) fn count_sole(&mut self, content: Content<'_>, manner: Manner) {
        if manner.sole {
            self.sole_messages += 1;
            self.sole_bytes += content.body_bytes() as u64;
        }
    }

    /// Grants quick appends up to the next look at the clock. `wire_bytes`: of the message before them; one like it must go
    /// the long way once the unit has no room for another.
    pub(super) fn grant_quick(&mut self, marks: Marks, wire_bytes: usize) {
        let messages = marks.messages.saturating_sub(self.messages + 1);
        let looks = usize::from(LOOK_AFTER.saturating_sub(self.unlooked + 1));
        self.quick = messages.min(looks) as u8;
        self.unlooked += self.quick;
        let unit = marks.bytes.min(UNIT_BYTES);
        self.quick_bytes = unit.saturating_sub(self.bytes + 2 * wire_bytes);
    }

    /// Whether the gathering takes too long, by the sender's occasional look at the clock.
    fn is_stale(&mut self) -> bool {
        self.unlooked += 1;
        if self.unlooked < LOOK_AFTER {
            return false;
        }
        self.unlooked = 0;
        self.gathers_long(crate::transport::now())
    }

    pub(super) fn gathers_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_write) >= GATHER_MAX
    }

    /// The first chunk is closed, or has no room for another message like the last: it goes out without a tail of its own.
    pub(super) fn has_full_unit(&self, last_wire_bytes: usize) -> bool {
        self.queue.len() > 1 || self.bytes + last_wire_bytes > UNIT_BYTES
    }

    /// The link whose reactor is to tick over this outbox from now on, unless it does so, or the socket sees to it.
    fn schedule(&mut self, by_socket: bool) -> Option<Arc<Link>> {
        if self.listed || by_socket {
            return None;
        }
        self.listed = self.link.is_some();
        self.link.clone()
    }

    pub(super) fn claim_if(&mut self, allowed: impl FnOnce(Phase) -> bool) -> bool {
        let claimed = allowed(self.phase);
        if claimed {
            self.phase = Phase::Writing;
        }
        claimed
    }

    pub(super) fn has_work(&self) -> bool {
        self.flight.is_some() || !self.control.is_empty() || !self.queue.is_empty()
    }

    pub(super) fn next_flight(&mut self) -> Option<Flight> {
        if let Some(flight) = self.flight.take() {
            return Some(flight);
        }
        if !self.control.is_empty() {
            let bytes = std::mem::take(&mut self.control);
            return Some(Flight::Control { bytes, written: 0 });
        }
        self.queue.pop_front().map(|chunk| Flight::Chunk { chunk, written: 0 })
    }

    /// Returns the large bodies of a chunk that is done with: they belong to others, whose code must not run under the lock.
    pub(super) fn advance(&mut self, mut flight: Flight, done: Written) -> Vec<LargeBody> {
        self.wrote_messages |= matches!(flight, Flight::Chunk { .. });
        match (&mut flight, done) {
            (
                Flight::Control { written, .. } | Flight::Chunk { written, .. },
                Written::Bytes(n),
            ) => {
                *written += n;
                self.progress += n as u64;
            }
            (_, Written::Moved { messages, wire_bytes }) => {
                self.messages -= messages;
                self.bytes -= wire_bytes;
                self.progress += wire_bytes as u64;
                self.moved_bytes = wire_bytes.min(UNIT_BYTES);
            }
        }
        if !flight.is_done() {
            self.flight = Some(flight);
            return Vec::new();
        }
        let Flight::Chunk { chunk, .. } = flight else { return Vec::new() };
        self.messages -= chunk.messages();
        self.bytes -= chunk.wire_bytes();
        let (arena, large) = chunk.into_parts();
        self.spare = Some(arena).filter(|arena| (1..=2 * UNIT_BYTES).contains(&arena.capacity()));
        large
    }

    pub(super) fn after_write(&mut self, step: &mut Step, last: bool, now: Now) -> Option<Note> {
        if self.link.is_none() || !self.has_work() {
            self.phase = Phase::Idle;
            self.last_write = now();
            self.active = true;
            return (self.closing && !self.has_work()).then_some(Note::Drained);
        }
        if last {
            self.phase = Phase::Scheduled;
            let news = !self.listed;
            self.listed = true;
            return news.then_some(Note::Flush);
        }
        step.more = true;
        None
    }

    /// Ends the session and returns how many messages it tore. A writer that is out recovers its own flight.
    pub(super) fn end_session(&mut self) -> u64 {
        self.link = None;
        self.session += 1;
        self.control.clear();
        if self.phase != Phase::Writing {
            self.phase = Phase::Idle;
        }
        let flight = self.flight.take();
        flight.map_or(0, |flight| self.recover(flight))
    }

    /// `recover` for a flight that was out when its session ended, with what its last write did.
    pub(super) fn recover_after(&mut self, mut flight: Flight, done: io::Result<Written>) -> u64 {
        match (&mut flight, done) {
            (Flight::Chunk { written, .. }, Ok(Written::Bytes(n))) => *written += n,
            (_, Ok(Written::Moved { messages, wire_bytes })) if self.abandoned.is_none() => {
                self.messages -= messages;
                self.bytes -= wire_bytes;
            }
            _ => {}
        }
        self.recover(flight)
    }

    /// Whether a refused sender is to be told that there is room again (O4); at most once for each refusal.
    pub(super) fn take_made_room(&mut self, marks: Marks) -> bool {
        let made_room = self.refused && marks.drained(self.messages, self.bytes);
        self.refused &= !made_room;
        made_room
    }

    /// Puts a flight of an ended session back, without what the peer got and without the message that was cut in
    /// two. Returns how many messages were lost.
    pub(super) fn recover(&mut self, flight: Flight) -> u64 {
        let Flight::Chunk { mut chunk, written } = flight else { return 0 };
        let (messages, bytes) = (chunk.messages(), chunk.wire_bytes());
        let torn = chunk.drop_written(written);
        if self.abandoned.is_some() {
            return torn + chunk.messages() as u64;
        }
        self.messages -= messages - chunk.messages();
        self.bytes -= bytes - chunk.wire_bytes();
        if !chunk.is_empty() {
            self.queue.push_front(chunk);
        }
        torn
    }

    /// Takes out all chunks that are not in flight (conflation, or the end).
    pub(super) fn take_queue(&mut self) -> VecDeque<Chunk> {
        let queue = std::mem::take(&mut self.queue);
        for chunk in &queue {
            self.messages -= chunk.messages();
            self.bytes -= chunk.wire_bytes();
        }
        queue
    }
}
