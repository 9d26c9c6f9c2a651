//! What a socket type decides. One file per type implements this; the socket brings lock, waiting and I/O.

use std::sync::Arc;

use bytes::Bytes;

use super::{LimitExceeded, To};
use crate::message::Message;
use crate::options::Options;
use crate::peer::PeerId;
use crate::peer::Refusal;
use crate::pipe::{Chunk, Content, Manner, Offer, Pipe, WriteRole};
use crate::wire::{ProtocolError, ReadyPeer, SocketKind, Subscription};

/// Pipes of one fan-out that the sender may write on its own thread; the reactor writes the others.
const INLINE_WRITES_MAX: usize = 2;

/// Decisions of one socket type, and the state they need. Called under the socket's lock; implementations do
/// no I/O and do not block.
pub(crate) trait Behaviour: Sized + Send + 'static {
    /// The type.
    const KIND: SocketKind;
    /// Whether messages of peers are delivered; a type that only sends discards them.
    const RECEIVES: bool;
    /// Whether one message goes to many peers.
    const FANS_OUT: bool = false;
    /// Whether `admits` must be asked about each message.
    const FILTERS: bool = false;
    /// Whether received messages get an envelope.
    const ENVELOPES: bool = false;
    /// Whether a second connect to the same endpoint does nothing, as in libzmq.
    const CONNECTS_ONCE: bool = false;
    /// Whether a waiting sender waits for a certain peer: then all are woken when any has room.
    const WAITS_FOR_CERTAIN_PEERS: bool = false;

    /// `seed`: a number that differs from socket to socket.
    fn new(options: &Options, seed: u64) -> Self;

    /// A connected pipe exists, whose peer is not there yet.
    fn opened(&mut self, _pipe: &Arc<Pipe>) {}

    /// The peer of a pipe ended its handshake. `kept`: the pipe was `opened` before, by a connect.
    fn ready(&mut self, pipe: &Arc<Pipe>, peer: &ReadyPeer, kept: bool) -> Result<Ready, Refusal>;

    /// Whether the peer would take the place of another one.
    fn replaces(&self, _peer: &ReadyPeer) -> bool {
        false
    }

    /// The session of a connected pipe ended; the pipe stays and waits for the next one.
    fn lost(&mut self, _pipe: &Arc<Pipe>) {}

    /// The pipe is gone.
    fn gone(&mut self, id: PeerId);

    /// A pipe that had refused a message has room again.
    fn writable(&mut self, _id: PeerId) {}

    /// Chooses the pipe (or pipes) and offers the message, which stays as it was unless it is accepted. `to` names the peer
    /// for a type that addresses one.
    fn route(
        &mut self,
        message: &mut Message,
        to: Option<To<'_>>,
        sending: &mut Sending,
    ) -> Result<(), Unsent>;

    /// Hands over what `route` gathered for many peers (`Sending::gather_for`).
    fn distribute(&mut self, _sending: &mut Sending) {}

    /// Messages that `route` gathered and has not handed over yet, and their bytes, over all peers.
    fn gathered(&self) -> (usize, usize) {
        (0, 0)
    }

    /// The peer subscribed or cancelled.
    fn subscription(
        &mut self,
        _pipe: &Arc<Pipe>,
        _change: Subscription<'_>,
    ) -> Result<(), ProtocolError> {
        Ok(())
    }

    /// Whether a received message is for this socket (`FILTERS`).
    fn admits(&self, _message: &Message) -> bool {
        true
    }

    /// The pipe that takes every message as long as it has room, if there is one.
    fn only_peer(&self) -> Option<&Arc<Pipe>> {
        None
    }

    /// Whether every message is for this socket (`FILTERS`).
    fn admits_all(&self) -> bool {
        false
    }

    /// Puts a received message's envelope on (`ENVELOPES`).
    fn present(_message: &mut Message) {}

    /// Peers with at least one subscription.
    fn subscribers(&self) -> usize {
        0
    }
}

/// What follows when a peer becomes ready.
#[derive(Default)]
pub(crate) struct Ready {
    /// The id under which the socket knows the peer.
    pub(crate) routing_id: Bytes,
    /// Commands that the session begins with.
    pub(crate) opening: Vec<u8>,
    /// The peer whose place this one took.
    pub(crate) replaced: Option<Arc<Pipe>>,
}

/// Why a message was not routed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Unsent {
    /// No peer (or not every peer that must) has room.
    NoRoom,
    /// There is no such peer.
    Unroutable { routing_id: Vec<u8> },
    /// The message breaks a rule of the type.
    Invalid { reason: &'static str },
}

/// One send on its way: how it may travel, what it left to do, what it dropped.
pub(crate) struct Sending {
    answering: bool,
    together: bool,
    /// The socket receives too, and flushes before it waits for that.
    receives: bool,
    inline_left: usize,
    first: Option<WriteRole>,
    more: Vec<WriteRole>,
    /// Pipes that began to gather with this send.
    pub(crate) gathering_first: Option<Arc<Pipe>>,
    pub(crate) gathering_more: Vec<Arc<Pipe>>,
    /// The pattern began to gather for so many peers; the socket sees to it that it is distributed.
    pub(crate) gathering_for: usize,
    /// Copies dropped at a high-water mark.
    pub(crate) dropped_hwm: u64,
    /// Messages for nobody.
    pub(crate) dropped_unroutable: u64,
}

impl Sending {
    /// `answering`: something was received since the last send. `together`: further sends are about to follow.
    pub(crate) fn new(answering: bool, together: bool, receives: bool) -> Self {
        Self {
            answering,
            together,
            receives,
            inline_left: INLINE_WRITES_MAX,
            first: None,
            more: Vec::new(),
            gathering_first: None,
            gathering_more: Vec::new(),
            gathering_for: 0,
            dropped_hwm: 0,
            dropped_unroutable: 0,
        }
    }

    /// Offers to one pipe; false when it is full. A writer role that comes of it is kept for `run`.
    #[inline]
    pub(crate) fn offer(&mut self, pipe: &Arc<Pipe>, content: Content<'_>) -> bool {
        let Self { answering, .. } = *self;
        // A publication that happens to have one target is a stream like any other.
        let fans_out = matches!(content, Content::Framed(_));
        let together = fans_out || self.together && answering;
        let inline = self.inline_left > 0 && !(together && self.together);
        let told = self.receives || fans_out;
        let manner = Manner { answering, together, inline, told, sole: false };
        match pipe.offer(content, manner) {
            Offer::Full => false,
            Offer::Accepted => true,
            Offer::AcceptedToGather => {
                match self.gathering_first {
                    None => self.gathering_first = Some(Arc::clone(pipe)),
                    Some(_) => self.gathering_more.push(Arc::clone(pipe)),
                }
                true
            }
            Offer::AcceptedToWrite(role) => {
                self.inline_left = self.inline_left.saturating_sub(1);
                self.keep(role);
                true
            }
        }
    }

    /// Further sends are about to follow: the pattern may gather.
    pub(crate) fn is_one_of_many(&self) -> bool {
        self.together
    }

    /// Offers framed messages to one pipe, to be written by `run`. Those without room are dropped, and counted.
    pub(crate) fn offer_front(&mut self, pipe: &Arc<Pipe>, framed: &Chunk) {
        let (taken, role) = pipe.offer_front(framed);
        self.dropped_hwm += (framed.messages() - taken) as u64;
        role.into_iter().for_each(|role| self.keep(role));
    }

    /// What this pipe's own sends have gathered is to be written by `run`.
    pub(crate) fn offer_gathered(&mut self, pipe: &Arc<Pipe>) {
        pipe.claim_gathered().into_iter().for_each(|role| self.keep(role));
    }

    fn keep(&mut self, role: WriteRole) {
        match self.first {
            None => self.first = Some(role),
            Some(_) => self.more.push(role),
        }
    }

    /// Writes what this send made this thread responsible for. False when that is nothing. No lock may be held.
    #[inline]
    pub(crate) fn run(self) -> bool {
        let writes = self.first.is_some();
        if let Some(role) = self.first {
            role.run();
        }
        // Even an empty vector costs to be walked by value.
        if !self.more.is_empty() {
            self.more.into_iter().for_each(WriteRole::run);
        }
        writes
    }
}

impl From<LimitExceeded> for ProtocolError {
    fn from(exceeded: LimitExceeded) -> Self {
        Self::SubscriptionsExceeded { what: exceeded.what, limit: exceeded.limit }
    }
}
