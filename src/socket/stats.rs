//! Statistics: what was sent and received, and every loss by its cause.

use crate::pipe::Loss;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a socket's counters since it was made.
///
/// `sent` counts accepted messages. For a socket that sends each message to one peer, `sent` is what the operating system
/// took, plus what is queued, plus all that was dropped; a fan-out counts losses per subscriber.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that `send` accepted.
    pub sent_messages: u64,
    /// Bytes of their bodies.
    pub sent_bytes: u64,
    /// Messages that `recv` returned.
    pub received_messages: u64,
    /// Bytes of their bodies.
    pub received_bytes: u64,
    /// Received messages that no subscription of this socket matches (SUB).
    pub filtered: u64,
    /// Messages (of a fan-out: copies) dropped because a peer's queue was full (PUB; ROUTER without `mandatory`).
    pub dropped_hwm: u64,
    /// Accepted messages lost with the connection of their peer.
    pub dropped_disconnect: u64,
    /// Messages for a routing id that nobody has (ROUTER without `mandatory`).
    pub dropped_unroutable: u64,
    /// Accepted messages that were not sent before the linger time of a close was over.
    pub dropped_linger: u64,
    /// Messages, sent or received, that a newer one replaced (`conflate`).
    pub dropped_conflate: u64,
    /// Messages that a peer sent although its type must not; discarded.
    pub discarded: u64,
    /// Messages accepted and not yet written, over all peers.
    pub queued_messages: u64,
    /// Their bytes on the wire.
    pub queued_bytes: u64,
    /// Peers that are connected now.
    pub peers: usize,
}

/// Counters that are touched rarely and from any thread.
#[derive(Debug, Default)]
pub(crate) struct LossCounters {
    pub(crate) hwm: AtomicU64,
    pub(crate) disconnect: AtomicU64,
    pub(crate) unroutable: AtomicU64,
    pub(crate) linger: AtomicU64,
    pub(crate) conflate: AtomicU64,
    pub(crate) discarded: AtomicU64,
}

impl LossCounters {
    pub(crate) fn count(&self, cause: Loss, messages: u64) {
        let counter = match cause {
            Loss::Disconnect => &self.disconnect,
            Loss::Linger => &self.linger,
            Loss::Conflate => &self.conflate,
        };
        counter.fetch_add(messages, Ordering::Relaxed);
    }

    /// Copies the counters into a snapshot.
    pub(crate) fn read_into(&self, stats: &mut Stats) {
        stats.dropped_hwm = self.hwm.load(Ordering::Relaxed);
        stats.dropped_disconnect = self.disconnect.load(Ordering::Relaxed);
        stats.dropped_unroutable = self.unroutable.load(Ordering::Relaxed);
        stats.dropped_linger = self.linger.load(Ordering::Relaxed);
        stats.dropped_conflate = self.conflate.load(Ordering::Relaxed);
        stats.discarded = self.discarded.load(Ordering::Relaxed);
    }
}
