//! PUB (RFC 29): sends each message to every peer that subscribed to a prefix of its first frame.

use std::fmt;
use std::sync::Arc;

use super::behaviour::{Behaviour, Ready, Sending, Unsent};
use super::{SubscriptionLimits, Subscriptions, To};
use crate::message::Message;
use crate::options::{Marks, Options};
use crate::peer::Refusal;
use crate::peer::{PeerId, PeerMap};
use crate::pipe::{Chunk, Content, Pipe, Room, wire_length};
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
    conflate: bool,
    marks: Marks,
    /// Whom the last message went to, in the order of the subscriptions.
    targets: Vec<Arc<Pipe>>,
    target_ids: Vec<PeerId>,
    /// Messages for all targets, framed once; they reach the peers' queues by `distribute`.
    gathered: Chunk,
    /// Reused from message to message.
    matched: Vec<PeerId>,
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
            conflate: options.conflate,
            marks: options.send_marks,
            targets: Vec::new(),
            target_ids: Vec::new(),
            gathered: Chunk::default(),
            matched: Vec::new(),
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
        self.targets.retain(|pipe| pipe.id() != id);
        self.target_ids.retain(|&target| target != id);
    }

    fn route(
        &mut self,
        message: &mut Message,
        _: Option<To<'_>>,
        sending: &mut Sending,
    ) -> Result<(), Unsent> {
        self.matched.clear();
        self.subscriptions.matches(message.body(), |id| self.matched.push(id));
        if self.matched != self.target_ids {
            self.distribute(sending);
            self.aim();
        }
        if self.targets.len() == 1 {
            self.distribute(sending);
            return self.publish_to_one(message, sending);
        }
        if sending.is_one_of_many() && self.gather(message, sending) {
            return Ok(());
        }
        self.distribute(sending);
        self.publish_to_each(message, sending)
    }

    fn distribute(&mut self, sending: &mut Sending) {
        if self.gathered.is_empty() {
            return;
        }
        for pipe in &self.targets {
            sending.offer_front(pipe, &self.gathered);
        }
        self.gathered.clear();
    }

    fn gathered(&self) -> (usize, usize) {
        let (messages, bytes) = (self.gathered.messages(), self.gathered.wire_bytes());
        (messages * self.targets.len(), bytes * self.targets.len())
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
        let all = self.peers.len() == 1
            && self.gathered.is_empty()
            && self.subscriptions.matches_any(&[]);
        if all { self.peers.values().next() } else { None }
    }

    fn subscribers(&self) -> usize {
        self.subscriptions.peer_count()
    }
}

impl Pub {
    /// Makes those that matched the targets. Nothing may be gathered for others.
    fn aim(&mut self) {
        debug_assert!(self.gathered.is_empty());
        self.targets.clear();
        self.targets.extend(self.matched.iter().filter_map(|id| self.peers.get(id).cloned()));
        self.target_ids.clear();
        self.target_ids.extend(self.targets.iter().map(|pipe| pipe.id()));
    }

    /// Frames the message for all targets at once and leaves it to `distribute`, which this calls itself when a unit is full.
    /// False when it must be offered to each of them now.
    fn gather(&mut self, message: &Message, sending: &mut Sending) -> bool {
        let wire_bytes = wire_length(message);
        if self.conflate || self.targets.is_empty() {
            return false;
        }
        let (messages, bytes) = (self.gathered.messages(), self.gathered.wire_bytes());
        if !self.marks.admit(messages, bytes, wire_bytes) {
            return false;
        }
        if self.no_drop && !self.takes_room(wire_bytes) {
            return false;
        }
        if self.gathered.is_full_for(wire_bytes) {
            self.distribute(sending);
        }
        if self.gathered.is_empty() {
            sending.gathering_for = self.targets.len();
            // A unit is made for empty queues: what gathers in them goes first.
            self.targets.iter().for_each(|pipe| sending.offer_gathered(pipe));
        }
        self.gathered.push(message);
        // With no room for another one like this, in the unit or in an empty queue, all goes out now, and the next one finds the
        // queues empty again.
        let (messages, bytes) = (self.gathered.messages(), self.gathered.wire_bytes());
        if self.gathered.is_full_for(wire_bytes) || !self.marks.admit(messages, bytes, wire_bytes) {
            self.distribute(sending);
            self.room = Room::default();
        }
        true
    }

    /// Uses up room for one message with every peer. What is gathered has its room already.
    fn takes_room(&mut self, wire_bytes: usize) -> bool {
        if self.room.take(wire_bytes) {
            return true;
        }
        if !self.gathered.is_empty() {
            return false;
        }
        self.room = self.peers.values().map(|pipe| pipe.room()).fold(Room::MAX, Room::min);
        self.room.take(wire_bytes)
    }

    fn publish_to_each(&mut self, message: &Message, sending: &mut Sending) -> Result<(), Unsent> {
        let mut framed = Chunk::reusing(std::mem::take(&mut self.arena));
        framed.push(message);
        if self.no_drop && !self.all_have_room(framed.wire_bytes()) {
            self.arena = framed.into_arena();
            return Err(Unsent::NoRoom);
        }
        for pipe in &self.targets {
            if !sending.offer(pipe, Content::Framed(&framed)) {
                sending.dropped_hwm += 1;
            }
        }
        self.arena = framed.into_arena();
        Ok(())
    }

    fn publish_to_one(&mut self, message: &Message, sending: &mut Sending) -> Result<(), Unsent> {
        // What one peer takes is not taken from the room of all; that is asked for anew.
        self.room = Room::default();
        if self.targets.iter().all(|pipe| sending.offer(pipe, Content::Message(message))) {
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
        if self.takes_room(wire_bytes) {
            return true;
        }
        self.room = Room::default();
        let full = self.targets.iter().filter(|pipe| !pipe.has_room(wire_bytes)).count();
        full == 0
    }
}
