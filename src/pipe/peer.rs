//! What is known of a peer, and what it takes to become one.

use std::sync::Arc;

use bytes::Bytes;

use super::{Link, Pipe, Source};
use crate::pattern::PeerId;
use crate::transport::Endpoint;
use crate::wire::{Established, Metadata, ReadyPeer, SocketKind};

/// Who the peer of a received message is.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerInfo {
    pub(crate) id: PeerId,
    pub(crate) endpoint: Endpoint,
    pub(crate) address: String,
    pub(crate) socket_type: Option<SocketKind>,
    pub(crate) routing_id: Bytes,
    pub(crate) metadata: Metadata,
}

impl PeerInfo {
    /// Number of this peer within its socket; a reconnecting peer that was connected *to* keeps it.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The endpoint this peer was connected to or accepted on.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The peer's transport address, such as `127.0.0.1:40112`; empty when the transport has none.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The peer's socket type, if it named one.
    pub fn socket_type(&self) -> Option<SocketKind> {
        self.socket_type
    }

    /// The routing id under which a ROUTER knows the peer: what the peer announced, or an automatic one.
    pub fn routing_id(&self) -> &[u8] {
        &self.routing_id
    }

    /// The properties of the peer's READY command (RFC 37).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Why a socket does not take a peer that shook hands properly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Another connected peer has this routing id and `handover` is off.
    #[error("another peer with the routing id \"{routing_id}\" is connected")]
    DuplicateRoutingId {
        /// The routing id, printable.
        routing_id: String,
    },
    /// The socket has as many peers as `max_peers` allows.
    #[error("the socket has its {limit} peers already")]
    TooManyPeers {
        /// The value of `max_peers`.
        limit: usize,
    },
    /// The socket was closed meanwhile.
    #[error("the socket is closed")]
    Closed,
}

/// The pipe of a new peer.
pub(crate) enum Place {
    /// To be made.
    New,
    /// Made for this peer already.
    Made(Arc<Pipe>),
    /// Made by a connect before the peer was there; it outlives the session.
    Kept(Arc<Pipe>),
}

/// A peer that ended its handshake and asks to be attached. `established` proves the handshake: without it a
/// peer cannot reach a socket.
pub(crate) struct Candidate {
    pub(crate) place: Place,
    pub(crate) endpoint: Endpoint,
    pub(crate) address: String,
    pub(crate) peer: ReadyPeer,
    pub(crate) established: Established,
    pub(crate) link: Link,
    pub(crate) source: Source,
    /// Handshake bytes that the kernel did not take yet.
    pub(crate) unsent: Vec<u8>,
}
