//! Round robin over the peers that have room: the outgoing choice of PUSH and DEALER.
//!
//! On the way out a socket of these types asks [`Balance::pick`] which peer takes the next message.
//!
//! The peers with room stand in a queue whose front has the next turn, so a peer that leaves the
//! queue, for whatever reason, changes nothing in the order of the others.

use std::collections::{BTreeMap, VecDeque};

use crate::peer::PeerId;

/// The peers of one socket with whatever the socket needs to reach each (`T`), in turn.
///
/// Every peer is either ready (in the rotation) or parked (full). [`pick`](Self::pick) parks,
/// [`writable`](Self::writable) brings back. Both must run under the same lock as the peer's own
/// notice of room; otherwise a notice could fall between the refusal and the parking and be lost.
#[derive(Debug)]
pub(crate) struct Balance<T> {
    /// Peers in the rotation; the front has the next turn.
    ready: VecDeque<(PeerId, T)>,
    /// Peers that refused a message and have not reported room since.
    parked: BTreeMap<PeerId, T>,
}

impl<T> Balance<T> {
    /// A rotation without peers.
    pub(crate) fn new() -> Self {
        Self { ready: VecDeque::new(), parked: BTreeMap::new() }
    }

    /// Adds a peer, last in the current turn. `id` must not be attached already.
    pub(crate) fn attach(&mut self, id: PeerId, target: T) {
        debug_assert!(self.iter().all(|(other, _)| other != id), "{id} is attached twice");
        self.ready.push_back((id, target));
    }

    /// Removes a peer and gives its target back; `None` if it is unknown. Linear in the number of
    /// ready peers.
    pub(crate) fn detach(&mut self, id: PeerId) -> Option<T> {
        if let Some(target) = self.parked.remove(&id) {
            return Some(target);
        }
        let position = self.ready.iter().position(|(ready, _)| *ready == id)?;
        self.ready.remove(position).map(|(_, target)| target)
    }

    /// Takes note that a full peer has room again and puts it last in the current turn. `false` if
    /// the peer is unknown or was ready anyway.
    pub(crate) fn writable(&mut self, id: PeerId) -> bool {
        match self.parked.remove(&id) {
            Some(target) => {
                self.ready.push_back((id, target));
                true
            }
            None => false,
        }
    }

    /// Offers a message to the ready peers in turn, beginning with the one after the last success.
    ///
    /// A peer for which `offer` returns `None` is full and leaves the rotation until
    /// [`writable`](Self::writable). The first `Some` ends the search and is returned; `None` means
    /// that no peer has room. Constant time when nobody is full: parked peers are never visited.
    pub(crate) fn pick<R>(&mut self, mut offer: impl FnMut(&T) -> Option<R>) -> Option<R> {
        while let Some((_, target)) = self.ready.front() {
            if let Some(accepted) = offer(target) {
                if self.ready.len() > 1 {
                    self.ready.rotate_left(1);
                }
                return Some(accepted);
            }
            if let Some((id, target)) = self.ready.pop_front() {
                self.parked.insert(id, target);
            }
        }
        None
    }

    /// The target of the only attached peer, if it is ready: whom every pick takes.
    pub(crate) fn only(&self) -> Option<&T> {
        let alone = self.ready.len() == 1 && self.parked.is_empty();
        self.ready.front().filter(|_| alone).map(|(_, target)| target)
    }

    /// Whether no peer is attached, full or not.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.parked.is_empty()
    }

    /// Number of attached peers, full ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.parked.len()
    }

    /// Every attached peer: the ready ones in turn, then the full ones by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerId, &T)> {
        let parked = self.parked.iter().map(|(id, target)| (*id, target));
        self.ready.iter().map(|(id, target)| (*id, target)).chain(parked)
    }
}

#[cfg(test)]
mod tests;
