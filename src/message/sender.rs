//! Whom a received message came from: a counted reference that a thread uses again for its next message.
//!
//! To count a reference up and down costs as much as the rest of a short message. A thread that receives and drops one
//! message after another mostly does so for the same peer, so the reference of a dropped message is kept for the next one.
//! Bound: one peer's `PeerInfo` for each thread that ever dropped a received message.

use std::cell::Cell;
use std::sync::Arc;

use crate::peer::PeerInfo;

thread_local! {
    static LAST: Cell<Option<Arc<PeerInfo>>> = const { Cell::new(None) };
}

/// The peer a message came from; `None` inside for one that was made here.
#[derive(Clone, Default)]
pub(super) struct Sender(Option<Arc<PeerInfo>>);

impl Sender {
    /// A reference to `peer`, the one that this thread dropped last if it fits.
    #[inline]
    pub(super) fn new(peer: &Arc<PeerInfo>) -> Self {
        // A thread that ends has no place any more; then references are counted as usual.
        let last = LAST.try_with(Cell::take).unwrap_or_default();
        if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, peer)) {
            return Self(last);
        }
        Self(Some(Arc::clone(peer)))
    }

    #[inline]
    pub(super) fn peer(&self) -> Option<&PeerInfo> {
        self.0.as_deref()
    }
}

impl Drop for Sender {
    #[inline]
    fn drop(&mut self) {
        if let Some(peer) = self.0.take() {
            drop(LAST.try_with(|last| last.replace(Some(peer))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Endpoint;

    fn peer(id: u64) -> Arc<PeerInfo> {
        Arc::new(PeerInfo {
            id: crate::peer::PeerId(id),
            endpoint: "inproc://x".parse::<Endpoint>().unwrap(),
            address: String::new(),
            socket_type: None,
            routing_id: bytes::Bytes::new(),
            metadata: crate::wire::Metadata::default(),
        })
    }

    #[test]
    fn the_reference_of_a_dropped_message_serves_the_next_one_of_the_same_peer() {
        let (one, other) = (peer(1), peer(2));
        let before = Arc::strong_count(&one);
        drop(Sender::new(&one));
        assert_eq!(Arc::strong_count(&one), before + 1, "kept for the next");
        let again = Sender::new(&one);
        assert_eq!(Arc::strong_count(&one), before + 1, "and used for it");
        assert_eq!(again.peer(), Some(&*one));
        drop(again);
        drop(Sender::new(&other));
        assert_eq!(Arc::strong_count(&one), before, "one reference a thread, not more");
    }

    #[test]
    fn a_message_may_be_dropped_by_another_thread() {
        let one = peer(1);
        let sender = Sender::new(&one);
        std::thread::spawn(move || drop(sender)).join().unwrap();
        assert_eq!(Arc::strong_count(&one), 1, "the thread's place ended with it");
    }
}
