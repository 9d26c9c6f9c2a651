//! Fair queueing: one message per peer and turn over the peers with something to read.
//!
//! On the way in the reactor hands a peer's chunk to [`FairQueue::enter`]; `recv` of PULL, SUB,
//! DEALER and ROUTER takes the next message through [`FairQueue::next`].
//!
//! Lanes live in a slab and the turn is a queue of slab numbers, so that taking a message hashes
//! nothing. A slot whose lane has run dry keeps its peer's number until another peer needs the
//! slot: the peer that was last there finds its way back without a change to the map.

use std::collections::VecDeque;

use crate::peer::PeerId;
use crate::peer::PeerMap;

/// One peer's queue of inbound chunks.
pub(crate) trait Lane {
    /// What the reactor hands over at once: a run of one or more complete messages.
    type Chunk;

    /// Appends a chunk.
    fn push(&mut self, chunk: Self::Chunk);

    /// Drops what is queued and keeps the chunk only.
    fn replace(&mut self, chunk: Self::Chunk);

    /// Whether no message is left.
    fn is_empty(&self) -> bool;
}

/// A place in the slab.
#[derive(Debug)]
struct Slot<L> {
    /// The peer whose lane is here, or was the last to be here.
    peer: PeerId,
    /// Present exactly while the slot is in the turn.
    lane: Option<L>,
    /// Whether the slot's number is in the list of free ones. A slot that its last peer has come
    /// back to is still listed; whoever takes it from the list passes over it.
    listed_free: bool,
}

/// The lanes of one socket in turn. Memory grows with the largest number of lanes that ever had
/// messages at the same time; a lane itself goes as soon as it is empty.
#[derive(Debug)]
pub(crate) struct FairQueue<L> {
    /// All slots; their numbers never change.
    slots: Vec<Slot<L>>,
    /// Slots with messages; the front has the next turn.
    turn: VecDeque<usize>,
    /// The slot that bears a peer's number, with or without a lane.
    slot_of: PeerMap<usize>,
    /// Slots to look at before the slab grows.
    free: Vec<usize>,
}

impl<L: Lane> FairQueue<L> {
    /// A queue without lanes.
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            turn: VecDeque::new(),
            slot_of: PeerMap::default(),
            free: Vec::new(),
        }
    }

    /// Appends a chunk, which holds at least one message, to the peer's lane. A peer that had
    /// nothing to read gets a lane from `make` and is put last in the turn.
    pub(crate) fn enter(&mut self, id: PeerId, make: impl FnOnce() -> L, chunk: L::Chunk) {
        self.lane(id, make).push(chunk);
    }

    /// As [`enter`](Self::enter), but the chunk replaces what the peer has waiting (conflate). The
    /// peer keeps its place in the turn.
    pub(crate) fn enter_newest(&mut self, id: PeerId, make: impl FnOnce() -> L, chunk: L::Chunk) {
        self.lane(id, make).replace(chunk);
    }

    /// Gives the lane whose turn it is to `take`, which removes one message. Afterwards the lane
    /// goes last, or is dropped if nothing is left in it. `None` if no lane has messages, or if
    /// `take` found none.
    #[inline]
    pub(crate) fn next<R>(&mut self, take: impl FnOnce(&mut L) -> Option<R>) -> Option<R> {
        let number = *self.turn.front()?;
        let slot = self.slots.get_mut(number)?;
        let lane = slot.lane.as_mut()?;
        let taken = take(lane);
        if lane.is_empty() {
            slot.lane = None;
            self.turn.pop_front();
            if !slot.listed_free {
                slot.listed_free = true;
                self.free.push(number);
            }
        } else {
            self.pass_turn();
        }
        taken
    }

    /// The lane whose turn it is, for a short way of [`next`](Self::next) that leaves something in the lane; the lane goes last.
    /// If nothing is taken, [`take_turn_back`](Self::take_turn_back) follows.
    #[inline]
    pub(crate) fn pass_front(&mut self) -> Option<&mut L> {
        let number = *self.turn.front()?;
        self.pass_turn();
        self.slots.get_mut(number)?.lane.as_mut()
    }

    /// The lane that went last with `pass_front` has the turn again.
    #[inline]
    pub(crate) fn take_turn_back(&mut self) {
        if self.turn.len() > 1 {
            self.turn.rotate_right(1);
        }
    }

    #[inline]
    fn pass_turn(&mut self) {
        if self.turn.len() > 1 {
            self.turn.rotate_left(1);
        }
    }

    /// Whether there is nothing to read.
    pub(crate) fn is_empty(&self) -> bool {
        self.turn.is_empty()
    }

    /// Number of peers with something to read.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.turn.len()
    }

    /// The peer's lane; a new one enters the turn at its end.
    fn lane(&mut self, id: PeerId, make: impl FnOnce() -> L) -> &mut L {
        let number = match self.slot_of.get(&id) {
            Some(&number) => number,
            None => self.claim_slot(id),
        };
        let slot = &mut self.slots[number];
        if slot.lane.is_none() {
            self.turn.push_back(number);
        }
        slot.lane.get_or_insert_with(make)
    }

    /// A slot without a lane, made out to `id`.
    fn claim_slot(&mut self, id: PeerId) -> usize {
        while let Some(number) = self.free.pop() {
            let slot = &mut self.slots[number];
            slot.listed_free = false;
            if slot.lane.is_none() {
                self.slot_of.remove(&slot.peer);
                slot.peer = id;
                self.slot_of.insert(id, number);
                return number;
            }
        }
        let number = self.slots.len();
        self.slots.push(Slot { peer: id, lane: None, listed_free: false });
        self.slot_of.insert(id, number);
        number
    }
}

#[cfg(test)]
mod tests;
