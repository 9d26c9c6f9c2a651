//! ROUTER (RFC 28): sends to the peer that the first frame names, puts the sender's id before what it receives.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::behaviour::{Behaviour, Ready, Sending, Unsent};
use super::{Duplicate, RoutingTable};
use crate::message::{Frame, Message};
use crate::options::Options;
use crate::peer::PeerId;
use crate::peer::Refusal;
use crate::pipe::{Content, Pipe};
use crate::wire::{ReadyPeer, SocketKind};

/// The ROUTER socket type: talks to each of its peers by routing id.
///
/// `recv` puts the sender's routing id before the message and `send` takes it from there; `recv_from` and `send_to`
/// keep it apart. A message to an unknown or full peer is dropped and counted, unless `mandatory` is on: then
/// `send` fails for an unknown peer and waits for a full one.
pub struct Router {
    peers: RoutingTable<Arc<Pipe>>,
    mandatory: bool,
    on_duplicate: Duplicate,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

/// The id by which a ROUTER knows a peer: 1 to 255 bytes, announced by the peer or made up for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoutingId(Frame);

impl RoutingId {
    /// The id's bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The id as the frame that stands before a message.
    pub fn into_frame(self) -> Frame {
        self.0
    }
}

impl<T: Into<Frame>> From<T> for RoutingId {
    fn from(id: T) -> Self {
        Self(id.into())
    }
}

/// The peer that a message is for: whoever has the routing id, or, of several that have it one after another, a certain one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) peer: Option<PeerId>,
}

impl<'a> From<&'a RoutingId> for To<'a> {
    fn from(id: &'a RoutingId) -> Self {
        Self { id: id.as_slice(), peer: None }
    }
}

impl std::hash::Hash for RoutingId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Display for RoutingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_slice().escape_ascii())
    }
}

impl super::Pattern for Router {}

impl Behaviour for Router {
    const KIND: SocketKind = SocketKind::Router;
    const RECEIVES: bool = true;
    const ENVELOPES: bool = true;
    const WAITS_FOR_CERTAIN_PEERS: bool = true;

    fn new(options: &Options, seed: u64) -> Self {
        let on_duplicate = if options.handover { Duplicate::HandOver } else { Duplicate::Refuse };
        let first_auto_id = seed as u32;
        Self { peers: RoutingTable::new(first_auto_id), mandatory: options.mandatory, on_duplicate }
    }

    fn ready(&mut self, pipe: &Arc<Pipe>, peer: &ReadyPeer, _: bool) -> Result<Ready, Refusal> {
        // A peer that was connected to may return under another id: the new one counts. An automatic id stays.
        if let Some(id) = self.peers.id_of(pipe.id()).cloned() {
            if id == peer.identity || (peer.identity.is_empty() && id.first() == Some(&0)) {
                return Ok(Ready { routing_id: id, ..Ready::default() });
            }
            self.peers.detach(pipe.id());
        }
        let attached = self
            .peers
            .attach(pipe.id(), &peer.identity, Arc::clone(pipe), self.on_duplicate)
            .map_err(|_| Refusal::DuplicateRoutingId {
                routing_id: peer.identity.escape_ascii().to_string(),
            })?;
        Ok(Ready {
            routing_id: attached.id,
            opening: Vec::new(),
            replaced: attached.replaced.map(|(_, pipe)| pipe),
        })
    }

    fn replaces(&self, peer: &ReadyPeer) -> bool {
        self.on_duplicate == Duplicate::HandOver && self.peers.find(&peer.identity).is_some()
    }

    fn gone(&mut self, id: PeerId) {
        self.peers.detach(id);
    }

    fn route(
        &mut self,
        message: &mut Message,
        to: Option<To<'_>>,
        sending: &mut Sending,
    ) -> Result<(), Unsent> {
        if let Some(to) = to {
            return self.route_to(to, message, sending);
        }
        if message.frames().len() < 2 {
            let reason = "a ROUTER's message is a routing id and at least one frame more";
            return Err(Unsent::Invalid { reason });
        }
        let id = message.pop_front().unwrap_or_default();
        let routed = self.route_to(To { id: &id, peer: None }, message, sending);
        if routed.is_err() {
            message.push_front(id);
        }
        routed
    }

    fn present(message: &mut Message) {
        if let Some(id) = message.peer().map(|peer| Frame::copy_from(peer.routing_id())) {
            message.push_front(id);
        }
    }
}

impl Router {
    fn route_to(
        &mut self,
        to: To<'_>,
        message: &Message,
        sending: &mut Sending,
    ) -> Result<(), Unsent> {
        let found = self.peers.find(to.id);
        let Some((_, pipe)) = found.filter(|(id, _)| to.peer.is_none_or(|peer| peer == *id)) else {
            if self.mandatory {
                return Err(Unsent::Unroutable { routing_id: to.id.to_vec() });
            }
            sending.dropped_unroutable += 1;
            return Ok(());
        };
        if !sending.offer(pipe, Content::Message(message)) {
            if self.mandatory {
                return Err(Unsent::NoRoom);
            }
            sending.dropped_hwm += 1;
        }
        Ok(())
    }
}

/// The routing id of a received message's sender.
pub(crate) fn sender_of(message: &Message) -> RoutingId {
    let id = message.peer().map(|peer| peer.routing_id()).unwrap_or_default();
    RoutingId(Frame::copy_from(id))
}

/// An id as [`Bytes`], for tests and tables.
impl From<RoutingId> for Bytes {
    fn from(id: RoutingId) -> Self {
        id.0.into_bytes()
    }
}
