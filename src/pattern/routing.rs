//! ROUTER's map from routing id to peer.
//!
//! On the way out the first frame of a message is looked up here to find the peer; on the way in
//! the peer's id is put in front of what it sent. An id is either claimed by the peer in its
//! handshake (RFC 37, property `Identity`) or generated: a zero byte and a counter of 4 bytes.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};

use crate::peer::PeerId;
use crate::peer::PeerMap;

/// What happens to a peer that claims an id which is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicate {
    /// The newcomer is refused.
    Refuse,
    /// The newcomer takes the id over and the old peer loses it.
    HandOver,
}

/// The claimed routing id belongs to another peer. The caller closes the newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the routing id is already in use by {owner}")]
pub(crate) struct DuplicateId {
    /// The peer that keeps the id.
    pub(crate) owner: PeerId,
}

/// A peer has got its routing id.
#[derive(Debug)]
pub(crate) struct Attached<T> {
    /// The id under which the peer can be found from now on.
    pub(crate) id: Bytes,
    /// The peer that lost this id by a hand-over, with its target.
    pub(crate) replaced: Option<(PeerId, T)>,
}

/// The peers of one ROUTER by routing id, with whatever the socket needs to reach each (`T`).
///
/// The two maps mirror each other: a peer is in `id_of` exactly if it owns that id in `owners`.
#[derive(Debug)]
pub(crate) struct RoutingTable<T> {
    /// Who owns an id. Peers choose ids, so this map keeps the keyed hash of the standard library.
    owners: HashMap<Bytes, (PeerId, T)>,
    /// The id that a peer owns.
    id_of: PeerMap<Bytes>,
    /// Counter for the next generated id.
    next_auto_id: u32,
}

impl<T> RoutingTable<T> {
    /// An empty table whose generated ids start with `first_auto_id`. A random start keeps the ids
    /// of one run from being mistaken for those of an earlier one.
    pub(crate) fn new(first_auto_id: u32) -> Self {
        Self { owners: HashMap::new(), id_of: PeerMap::default(), next_auto_id: first_auto_id }
    }

    /// Adds a peer under the id it claims, or under a generated one if the claim is empty. `peer`
    /// must not own an id already.
    ///
    /// # Errors
    /// [`DuplicateId`] if another peer owns the id and `on_duplicate` says refuse; nothing has
    /// changed then, and `target` is dropped.
    pub(crate) fn attach(
        &mut self,
        peer: PeerId,
        claimed: &[u8],
        target: T,
        on_duplicate: Duplicate,
    ) -> Result<Attached<T>, DuplicateId> {
        debug_assert!(!self.id_of.contains_key(&peer), "{peer} is attached twice");
        let id = match self.owners.get(claimed) {
            Some(&(owner, _)) if on_duplicate == Duplicate::Refuse => {
                return Err(DuplicateId { owner });
            }
            _ if claimed.is_empty() => self.generate_id(),
            _ => Bytes::copy_from_slice(claimed),
        };
        let replaced = self.owners.insert(id.clone(), (peer, target));
        if let Some((loser, _)) = &replaced {
            self.id_of.remove(loser);
        }
        self.id_of.insert(peer, id.clone());
        Ok(Attached { id, replaced })
    }

    /// Removes a peer that goes away and returns what it owned. `None` if it owns nothing: it is
    /// unknown, or its id was handed over, and then the new owner stays.
    pub(crate) fn detach(&mut self, peer: PeerId) -> Option<(Bytes, T)> {
        let id = self.id_of.remove(&peer)?;
        let (_, target) = self.owners.remove(&id)?;
        Some((id, target))
    }

    /// The peer that owns a routing id.
    pub(crate) fn find(&self, id: &[u8]) -> Option<(PeerId, &T)> {
        self.owners.get(id).map(|(peer, target)| (*peer, target))
    }

    /// The routing id that a peer owns.
    pub(crate) fn id_of(&self, peer: PeerId) -> Option<&Bytes> {
        self.id_of.get(&peer)
    }

    /// Every routing id with its owner, in no particular order.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, PeerId, &T)> {
        self.owners.iter().map(|(id, (peer, target))| (id, *peer, target))
    }

    /// Number of peers.
    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    /// The next generated id that nobody owns. Ends because memory cannot hold 2^32 owners.
    fn generate_id(&mut self) -> Bytes {
        loop {
            let mut id = BytesMut::with_capacity(5);
            id.put_u8(0);
            id.put_u32(self.next_auto_id);
            self.next_auto_id = self.next_auto_id.wrapping_add(1);
            let id = id.freeze();
            if !self.owners.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests;
