//! The number by which a socket knows one of its peers, and the map keyed by it.
//!
//! Every strategy of this module names peers by [`PeerId`]; none of them holds a connection.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

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
pub(super) type PeerMap<V> = HashMap<PeerId, V, BuildHasherDefault<PeerHasher>>;

/// The hasher of [`PeerMap`]: multiplication by 2^64 divided by the golden ratio.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerHasher(u64);

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
