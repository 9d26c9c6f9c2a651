//! What is offered to an outbox, how it wants to travel, and what follows from its being taken.

use std::sync::Arc;

use super::super::chunk::{Chunk, wire_length};
use super::Link;
use crate::message::Message;

/// What is offered: a message to frame, or a chunk framed once for many peers.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    Message(&'a Message),
    Framed(&'a Chunk),
}

impl Content<'_> {
    #[inline]
    pub(super) fn wire_bytes(self) -> usize {
        match self {
            Self::Message(message) => wire_length(message),
            Self::Framed(chunk) => chunk.wire_bytes(),
        }
    }

    #[inline]
    pub(super) fn messages(self) -> usize {
        match self {
            Self::Message(_) => 1,
            Self::Framed(chunk) => chunk.messages(),
        }
    }

    #[inline]
    pub(super) fn body_bytes(self) -> usize {
        match self {
            Self::Message(message) => message.body_bytes(),
            Self::Framed(_) => 0,
        }
    }

    #[inline]
    pub(super) fn push_onto(self, chunk: &mut Chunk) {
        match self {
            Self::Message(message) => chunk.push(message),
            Self::Framed(framed) => chunk.append(framed),
        }
    }
}

/// How a sender wants its message to travel.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// The socket received something since its last send: this is an answer, not a stream.
    pub(crate) answering: bool,
    /// What gathers is written by the socket, with other pipes, and not by the reactor's tick over this one.
    pub(crate) together: bool,
    /// The sender may write on its own thread.
    pub(crate) inline: bool,
    /// The socket wants to know when this begins a gathering (`Offer::AcceptedToGather`), and flushes it then. Whatever goes
    /// `together` must be told: nobody else writes it.
    pub(crate) told: bool,
    /// The socket has no other peer and leaves it to the outbox to count what it sent.
    pub(crate) sole: bool,
}

impl Manner {
    /// Whoever sends writes too, as soon as nobody else does.
    pub(super) const AT_ONCE: Self =
        Self { answering: true, together: false, inline: true, told: false, sole: false };

    /// Whoever asked waits for this message.
    #[inline]
    pub(super) fn answers_at_once(self) -> bool {
        self.answering && !self.together
    }
}

/// What follows from a state change; done by the caller with the lock released. No larger than two registers: what is returned
/// in memory must be read back behind all that the messages before have left to store.
pub(in crate::pipe) enum Next {
    Nothing,
    /// The caller holds the writer role now.
    Write,
    /// The message begins a gathering that is on nobody's account yet but the reactor's or the socket's tick.
    Gather,
    /// The message begins a gathering: put the outbox on its reactor's list.
    Schedule(Arc<Link>),
    /// The same, and the socket does not know of it yet.
    ScheduleAndTell(Arc<Link>),
}

/// What fits into an outbox, or into each of several, whatever else happens to them but offers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(crate) const MAX: Self = Self { messages: usize::MAX, bytes: usize::MAX };

    pub(crate) fn min(self, other: Self) -> Self {
        Self { messages: self.messages.min(other.messages), bytes: self.bytes.min(other.bytes) }
    }

    /// Uses up the room of one message, if it is there.
    pub(crate) fn take(&mut self, wire_bytes: usize) -> bool {
        let fits = self.messages > 0 && self.bytes >= wire_bytes;
        if fits {
            self.messages -= 1;
            self.bytes -= wire_bytes;
        }
        fits
    }
}
