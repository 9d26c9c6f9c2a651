//! PUB (RFC 29): sends each message to every peer that subscribed to a prefix of its first frame.

use std::fmt;
use std::sync::Arc;

use super::behaviour::{Behaviour, Ready, Sending, Unsent};
use super::{SubscriptionLimits, Subscriptions};
use crate::message::Message;
use crate::options::Options;
use crate::peer::Refusal;
use crate::peer::{PeerId, PeerMap};
use crate::pipe::{Chunk, Content, Pipe, Room};
use crate::wire::{ProtocolError, ReadyPeer, SocketKind, Subscription};

/// The PUB socket type: publishes to whoever subscribed.
///
/// A subscriber whose queue is full misses the message, which is counted under `hwm`, and nobody else does. With
/// `no_drop`, `send` waits instead until every subscriber that wants the message has room.
pub struct Pub {
    peers: PeerMap<Arc<Pipe>>,
    subscriptions: Subscriptions,
    no_drop: bool,
    /// What every peer has room for, by the last time they were asked: only this socket fills their queues.
    room: Room,
    /// Reused from message to message.
    targets: Vec<Arc<Pipe>>,
    arena: Vec<u8>,
}

impl fmt::Debug for Pub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pub")
            .field("peers", &self.peers.len())
            .field("topics", &self.subscriptions.topic_count())
            .finish_non_exhaustive()
    }
}

impl super::Pattern for Pub {}

impl Behaviour for Pub {
    const KIND: SocketKind = SocketKind::Pub;
    const RECEIVES: bool = false;
    const FANS_OUT: bool = true;
    const CONNECTS_ONCE: bool = true;
    const WAITS_FOR_CERTAIN_PEERS: bool = true;

    fn new(options: &Options, _: u64) -> Self {
        Self {
            peers: PeerMap::default(),
            subscriptions: Subscriptions::new(SubscriptionLimits::default()),
            no_drop: options.no_drop,
            room: Room::default(),
            targets: Vec::new(),
            arena: Vec::new(),
        }
    }

    fn ready(&mut self, pipe: &Arc<Pipe>, _: &ReadyPeer, _: bool) -> Result<Ready, Refusal> {
        self.peers.insert(pipe.id(), Arc::clone(pipe));
        self.room = Room::default();
        Ok(Ready::default())
    }

    /// A subscriber tells all its topics again when it is back.
    fn lost(&mut self, pipe: &Arc<Pipe>) {
        self.subscriptions.remove_peer(pipe.id());
    }

    fn gone(&mut self, id: PeerId) {
        self.subscriptions.remove_peer(id);
        self.peers.remove(&id);
    }

    fn route(
        &mut self,
        message: &mut Message,
        _: Option<&[u8]>,
        sending: &mut Sending,
    ) -> Result<(), Unsent> {
        let Self { peers, subscriptions, targets, .. } = self;
        targets.clear();
        subscriptions.matches(message.body(), |id| targets.extend(peers.get(&id).cloned()));
        if let [only] = targets.as_slice() {
            let only = Arc::clone(only);
            return self.publish_to_one(&only, message, sending);
        }
        let mut framed = Chunk::reusing(std::mem::take(&mut self.arena));
        framed.push(message);
        if self.no_drop && !self.all_have_room(framed.wire_bytes()) {
            self.arena = framed.into_arena();
            return Err(Unsent::NoRoom);
        }
        for pipe in self.targets.drain(..) {
            if !sending.offer(&pipe, Content::Framed(&framed)) {
                sending.dropped_hwm += 1;
            }
        }
        self.arena = framed.into_arena();
        Ok(())
    }

    fn subscription(
        &mut self,
        pipe: &Arc<Pipe>,
        change: Subscription<'_>,
    ) -> Result<(), ProtocolError> {
        if !self.peers.contains_key(&pipe.id()) {
            return Ok(());
        }
        match change {
            Subscription::Subscribe(topic) => {
                self.subscriptions.subscribe(pipe.id(), topic)?;
            }
            Subscription::Cancel(topic) => {
                self.subscriptions.cancel(pipe.id(), topic);
            }
        }
        Ok(())
    }

    fn only_peer(&self) -> Option<&Arc<Pipe>> {
        let all = self.peers.len() == 1 && self.subscriptions.matches_any(&[]);
        if all { self.peers.values().next() } else { None }
    }

    fn subscribers(&self) -> usize {
        self.subscriptions.peer_count()
    }
}

impl Pub {
    fn publish_to_one(
        &mut self,
        pipe: &Arc<Pipe>,
        message: &Message,
        sending: &mut Sending,
    ) -> Result<(), Unsent> {
        self.targets.clear();
        if sending.offer(pipe, Content::Message(message)) {
            return Ok(());
        }
        if self.no_drop {
            return Err(Unsent::NoRoom);
        }
        sending.dropped_hwm += 1;
        Ok(())
    }

    /// Whether every target has room. Each full one tells when it has room again.
    fn all_have_room(&mut self, wire_bytes: usize) -> bool {
        if self.room.take(wire_bytes) {
            return true;
        }
        self.room = self.peers.values().map(|pipe| pipe.room()).fold(Room::MAX, Room::min);
        if self.room.take(wire_bytes) {
            return true;
        }
        let full = self.targets.iter().filter(|pipe| !pipe.has_room(wire_bytes)).count();
        full == 0
    }
}
