//! Who is at the other end: the number by which a socket knows a peer, the map keyed by it, what is known of the peer,
//! and why one is not taken.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;

use crate::transport::Endpoint;
use crate::wire::{Metadata, SocketKind};

/// Number of one peer within one socket. A number is never given to a second peer, so a late event
/// about a peer that has gone cannot be taken for one about its successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(pub(crate) u64);

impl fmt::Display for PeerId {
    /// Writes `peer 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}

/// A map by peer. Peer numbers are handed out by the socket in sequence and never chosen by a
/// peer, so one multiplication spreads them and no keyed hash is needed against collisions.
pub(crate) type PeerMap<V> = HashMap<PeerId, V, BuildHasherDefault<PeerHasher>>;

/// The hasher of [`PeerMap`]: multiplication by 2^64 divided by the golden ratio.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerHasher(u64);

impl Hasher for PeerHasher {
    /// Folds bytes in one by one; peer numbers take the direct way through `write_u64`.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    /// Folds in one number.
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    /// The hash of everything written so far.
    fn finish(&self) -> u64 {
        self.0
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    #[test]
    fn a_peer_is_displayed_by_its_number() {
        assert_eq!(PeerId(7).to_string(), "peer 7");
    }

    #[test]
    fn peer_numbers_in_sequence_hash_to_different_values() {
        let build = BuildHasherDefault::<PeerHasher>::default();
        let low: HashSet<u64> = (0..1024).map(|n| build.hash_one(PeerId(n)) & 1023).collect();
        assert_eq!(low.len(), 1024, "the low bits, which choose the bucket, must not collide");
    }
}
