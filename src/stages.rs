//! The stages of a message's path one by one, without locks, threads and I/O, for `benches/stages.rs`. Not part of the
//! library: compiled with the feature `stages` only, and may change at any time.

use crate::message::Message;
use crate::pattern::{
    Balance, Duplicate, FairQueue, Lane, RoutingTable, SubscriptionLimits, Subscriptions,
};
use crate::peer::PeerId;
use crate::pipe::{Chunk, Run};

fn ids(peers: usize) -> impl Iterator<Item = PeerId> {
    (0..peers as u64).map(PeerId)
}

/// Frame: a message is made from a slice and put into the chunk that will be written.
#[derive(Debug)]
pub struct Framing(Vec<u8>, Chunk);

impl Framing {
    /// Messages of one frame of this many bytes.
    pub fn new(body_bytes: usize) -> Self {
        Self(vec![b'x'; body_bytes], Chunk::default())
    }

    /// Frames one message; a full chunk gives way to an empty one in the same memory. Returns the bytes in the chunk.
    pub fn run(&mut self) -> usize {
        let Self(body, chunk) = self;
        if chunk.is_full_for(body.len()) {
            *chunk = Chunk::reusing(std::mem::take(chunk).into_arena());
        }
        chunk.push(&Message::from(body.as_slice()));
        chunk.wire_bytes()
    }
}

/// Cut: the next message out of a run as it was read.
#[derive(Debug)]
pub struct Cutting(Run, Vec<u8>, usize);

impl Cutting {
    /// Runs as long as one write, with messages of one frame of this many bytes.
    pub fn new(body_bytes: usize) -> Self {
        let (message, mut chunk) = (Message::from(vec![b'x'; body_bytes]), Chunk::default());
        while !chunk.is_full_for(body_bytes) {
            chunk.push(&message);
        }
        let messages = chunk.messages();
        Self(Run::new(Vec::new(), 0), chunk.into_arena(), messages)
    }

    /// Cuts one message; after the last of a run a copy of it takes its place. Returns the length of the body.
    pub fn run(&mut self) -> usize {
        if self.0.messages_left() == 0 {
            self.0 = Run::new(self.1.clone(), self.2);
        }
        self.0.cut(None).map_or(0, |message| message.body().len())
    }
}

/// Route, out: PUSH and DEALER pick the peer whose turn it is.
#[derive(Debug)]
pub struct Picking(Balance<u64>);

impl Picking {
    /// Among this many peers with room.
    pub fn new(peers: usize) -> Self {
        let mut balance = Balance::new();
        ids(peers).for_each(|id| balance.attach(id, id.0));
        Self(balance)
    }

    /// Picks one; returns its number.
    pub fn run(&mut self) -> Option<u64> {
        self.0.pick(|number| Some(*number))
    }
}

/// Route, out: ROUTER looks a peer up by its routing id.
#[derive(Debug)]
pub struct Lookup(RoutingTable<u64>, Vec<bytes::Bytes>);

impl Lookup {
    /// Among this many peers with generated routing ids.
    pub fn new(peers: usize) -> Self {
        let mut table = RoutingTable::new(0);
        let attached = ids(peers).flat_map(|id| table.attach(id, b"", id.0, Duplicate::Refuse));
        let ids = attached.map(|attached| attached.id).collect();
        Self(table, ids)
    }

    /// Looks up a peer by its place; returns its number.
    pub fn run(&mut self, place: usize) -> Option<u64> {
        self.0.find(self.1.get(place)?).map(|(_, number)| *number)
    }
}

/// Route, in: the fair queue names the peer whose message is received next.
#[derive(Debug)]
pub struct Queueing(FairQueue<Waiting>, usize);

/// How many messages of a peer wait.
#[derive(Debug)]
struct Waiting(usize);
#[rustfmt::skip] // One line each, as they say nothing.
impl Lane for Waiting {
    type Chunk = usize;
    fn push(&mut self, messages: usize) { self.0 += messages; }
    fn replace(&mut self, messages: usize) { self.0 = messages; }
    fn is_empty(&self) -> bool { self.0 == 0 }
}

impl Queueing {
    /// Among this many peers.
    pub fn new(peers: usize) -> Self {
        Self(FairQueue::new(), peers)
    }

    /// Takes one message; when none is left, every peer hands over 100. Returns how many are left in its lane.
    pub fn run(&mut self) -> Option<usize> {
        if self.0.is_empty() {
            ids(self.1).for_each(|id| self.0.enter(id, || Waiting(0), 100));
        }
        self.0.next(|lane| lane.0.checked_sub(1).inspect(|left| lane.0 = *left))
    }
}

/// Match: PUB finds the subscribers of a message among all topics.
#[derive(Debug)]
pub struct Matching(Subscriptions, Vec<u8>);

impl Matching {
    /// One peer for each of so many topics, `topic/0/` and so on, and a message for the last.
    pub fn new(topics: usize) -> Self {
        let mut subscriptions = Subscriptions::new(SubscriptionLimits::default());
        for id in ids(topics) {
            let _ = subscriptions.subscribe(id, format!("topic/{}/", id.0).as_bytes());
        }
        let subject = format!("topic/{}/more", topics.saturating_sub(1)).into_bytes();
        Self(subscriptions, subject)
    }

    /// Matches one message; returns the number of its subscribers.
    pub fn run(&mut self) -> usize {
        let mut matched = 0;
        self.0.matches(&self.1, |_| matched += 1);
        matched
    }
}
