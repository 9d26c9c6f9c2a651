//! Prefix subscriptions: which peers want a message.
//!
//! On the way out PUB and XPUB ask [`Subscriptions::matches`] for the peers whose topics are a
//! prefix of the message's first frame. On the way in SUB filters once more with
//! [`Subscriptions::matches_any`] (RFC 29), where the one peer of the table is the socket itself.
//!
//! Topics come from peers, so their number, length and sum are limited per peer, and no work here
//! recurses. Repeated subscriptions are counted, as RFC 37 asks of a publisher.

use std::collections::BTreeSet;

use crate::peer::PeerId;
use crate::peer::PeerMap;
use tree::{Holder, NodeIndex, Tree};

mod tree;

/// What one peer may subscribe to. Repetitions of a topic it holds cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionLimits {
    /// Number of different topics.
    pub(crate) topics_per_peer_max: usize,
    /// Length of one topic in bytes.
    pub(crate) topic_bytes_max: usize,
    /// Sum of the lengths of all different topics in bytes.
    pub(crate) bytes_per_peer_max: usize,
}

impl Default for SubscriptionLimits {
    /// 100,000 topics of up to 64 KiB, 16 MiB together.
    fn default() -> Self {
        Self {
            topics_per_peer_max: 100_000,
            topic_bytes_max: 64 << 10,
            bytes_per_peer_max: 16 << 20,
        }
    }
}

/// A subscription was refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many {what} (the limit is {limit})")]
pub(crate) struct LimitExceeded {
    /// What there would be too many of.
    pub(crate) what: &'static str,
    /// The value of the limit in that unit.
    pub(crate) limit: usize,
}

/// A subscription was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscribed {
    /// The peer did not hold exactly this topic before.
    pub(crate) first_of_peer: bool,
    /// Nobody held exactly this topic before.
    pub(crate) first_of_topic: bool,
}

/// One count of a held topic was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cancelled {
    /// The peer does not hold the topic any more.
    pub(crate) last_of_peer: bool,
    /// Nobody holds the topic any more.
    pub(crate) last_of_topic: bool,
}

/// What one peer holds. The peer's place in the slab is its slot number.
#[derive(Debug)]
struct Holdings {
    /// The peer that has the slot, or had it last.
    peer: PeerId,
    /// The tree nodes of the peer's topics; empty exactly while the slot is free.
    topics: BTreeSet<NodeIndex>,
    /// Sum of the lengths of these topics.
    topic_bytes: usize,
    /// The epoch in which the peer was reported last.
    reported_in: u64,
}

/// The subscriptions of all peers of one socket. Memory follows the topics held: for each at most
/// two tree nodes, its bytes once, and a small entry per peer that holds it. Freed nodes and slots
/// are used again, not returned.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    /// All topics, each with the slots of the peers that hold it.
    tree: Tree,
    /// What each peer holds, by slot.
    peers: Vec<Holdings>,
    /// Slots without a peer.
    free_slots: Vec<usize>,
    /// The slot of each peer that holds something.
    slot_of: PeerMap<usize>,
    /// Number of different topics held.
    topic_count: usize,
    /// Number of the current call of `matches`, the mark that a peer was reported in it.
    epoch: u64,
    /// What each peer may hold.
    limits: SubscriptionLimits,
}

impl Subscriptions {
    /// No subscriptions, and `limits` for each peer to come.
    pub(crate) fn new(limits: SubscriptionLimits) -> Self {
        Self {
            tree: Tree::new(),
            peers: Vec::new(),
            free_slots: Vec::new(),
            slot_of: PeerMap::default(),
            topic_count: 0,
            epoch: 0,
            limits,
        }
    }

    /// Subscribes a peer to every subject that begins with `topic`; the empty topic is all of
    /// them. Repetitions are counted, up to `u32::MAX`.
    ///
    /// # Errors
    /// [`LimitExceeded`] if the topic is new to the peer and would exceed one of its limits.
    pub(crate) fn subscribe(
        &mut self,
        peer: PeerId,
        topic: &[u8],
    ) -> Result<Subscribed, LimitExceeded> {
        if let Some(holder) = self.holder_mut(peer, topic) {
            holder.count = holder.count.saturating_add(1);
            return Ok(Subscribed { first_of_peer: false, first_of_topic: false });
        }
        self.check_limits(peer, topic)?;
        let slot = self.claim_slot(peer);
        let node = self.tree.insert(topic);
        let first_of_topic = self.tree.holders(node).is_empty();
        self.tree.add_holder(node, slot);
        self.topic_count += usize::from(first_of_topic);
        let holdings = &mut self.peers[slot];
        holdings.topics.insert(node);
        holdings.topic_bytes += topic.len();
        Ok(Subscribed { first_of_peer: true, first_of_topic })
    }

    /// Takes one subscription of a peer back. `None` if the peer does not hold exactly this topic,
    /// which is no error: a peer may cancel what was refused or never asked for.
    pub(crate) fn cancel(&mut self, peer: PeerId, topic: &[u8]) -> Option<Cancelled> {
        let holder = self.holder_mut(peer, topic)?;
        if holder.count > 1 {
            holder.count -= 1;
            return Some(Cancelled { last_of_peer: false, last_of_topic: false });
        }
        let slot = holder.slot;
        let node = self.tree.find(topic)?;
        let last_of_topic = self.remove_holder(node, slot);
        let holdings = &mut self.peers[slot];
        holdings.topics.remove(&node);
        holdings.topic_bytes -= topic.len();
        if holdings.topics.is_empty() {
            self.slot_of.remove(&peer);
            self.free_slots.push(slot);
        }
        Some(Cancelled { last_of_peer: true, last_of_topic })
    }

    /// Removes all subscriptions of a peer and returns the topics that nobody holds any more, in
    /// no particular order. The cost follows what the peer held.
    pub(crate) fn remove_peer(&mut self, peer: PeerId) -> Vec<Vec<u8>> {
        let Some(slot) = self.slot_of.remove(&peer) else {
            return Vec::new();
        };
        self.free_slots.push(slot);
        let holdings = &mut self.peers[slot];
        holdings.topic_bytes = 0;
        let mut orphans = Vec::new();
        for node in std::mem::take(&mut holdings.topics) {
            if self.tree.holders(node).len() == 1 {
                orphans.push(self.tree.topic(node).to_vec());
            }
            self.remove_holder(node, slot);
        }
        orphans
    }

    /// Calls `each` exactly once for every peer that holds a prefix of `subject`. The cost follows
    /// the length of the subject and the number of matching subscriptions; nothing is allocated.
    pub(crate) fn matches(&mut self, subject: &[u8], mut each: impl FnMut(PeerId)) {
        self.epoch = self.epoch.wrapping_add(1);
        for holder in self.tree.prefixes(subject).flatten() {
            let holdings = &mut self.peers[holder.slot];
            if holdings.reported_in != self.epoch {
                holdings.reported_in = self.epoch;
                each(holdings.peer);
            }
        }
    }

    /// Whether any peer holds a prefix of `subject`; stops at the shortest one.
    pub(crate) fn matches_any(&self, subject: &[u8]) -> bool {
        self.tree.prefixes(subject).any(|holders| !holders.is_empty())
    }

    /// The different topics that a peer holds, in no particular order.
    pub(crate) fn topics_of(&self, peer: PeerId) -> impl Iterator<Item = Vec<u8>> {
        let slot = self.slot_of.get(&peer);
        let nodes = slot.into_iter().flat_map(|slot| &self.peers[*slot].topics);
        nodes.map(|node| self.tree.topic(*node).to_vec())
    }

    /// Number of peers that hold at least one topic.
    pub(crate) fn peer_count(&self) -> usize {
        self.slot_of.len()
    }

    /// Number of different topics held.
    pub(crate) fn topic_count(&self) -> usize {
        self.topic_count
    }

    /// The entry of a peer at a topic that it holds.
    fn holder_mut(&mut self, peer: PeerId, topic: &[u8]) -> Option<&mut Holder> {
        let slot = *self.slot_of.get(&peer)?;
        let node = self.tree.find(topic)?;
        self.tree.holder_mut(node, slot)
    }

    /// Whether the peer may hold this topic in addition to what it holds.
    fn check_limits(&self, peer: PeerId, topic: &[u8]) -> Result<(), LimitExceeded> {
        let limits = &self.limits;
        if topic.len() > limits.topic_bytes_max {
            return Err(LimitExceeded { what: "bytes in a topic", limit: limits.topic_bytes_max });
        }
        let holdings = self.slot_of.get(&peer).map(|slot| &self.peers[*slot]);
        let topics = holdings.map_or(0, |holdings| holdings.topics.len());
        if topics >= limits.topics_per_peer_max {
            let limit = limits.topics_per_peer_max;
            return Err(LimitExceeded { what: "topics of one peer", limit });
        }
        let bytes = holdings.map_or(0, |holdings| holdings.topic_bytes);
        if topic.len() > limits.bytes_per_peer_max.saturating_sub(bytes) {
            let limit = limits.bytes_per_peer_max;
            return Err(LimitExceeded { what: "bytes in the topics of one peer", limit });
        }
        Ok(())
    }

    /// The slot of a peer; a new one for a peer that holds nothing yet.
    fn claim_slot(&mut self, peer: PeerId) -> usize {
        if let Some(slot) = self.slot_of.get(&peer) {
            return *slot;
        }
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.peers[slot].peer = peer;
                slot
            }
            None => {
                let topics = BTreeSet::new();
                self.peers.push(Holdings { peer, topics, topic_bytes: 0, reported_in: self.epoch });
                self.peers.len() - 1
            }
        };
        self.slot_of.insert(peer, slot);
        slot
    }

    /// Takes a peer's slot off a topic; `true` if nobody holds the topic any more.
    fn remove_holder(&mut self, node: NodeIndex, slot: usize) -> bool {
        let last_of_topic = self.tree.remove_holder(node, slot);
        self.topic_count -= usize::from(last_of_topic);
        last_of_topic
    }
}

#[cfg(test)]
mod tests;
