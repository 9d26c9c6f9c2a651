//! What it takes to become a peer of a socket.

use std::sync::Arc;

use super::{Link, Pipe, Source};
use crate::transport::Endpoint;
use crate::wire::{Established, ReadyPeer};

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
