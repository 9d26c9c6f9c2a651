//! Floods of messages that a filter refuses.

use std::sync::Weak;
use std::sync::atomic::AtomicUsize as Count;
use std::task::Wake;

use super::*;
use crate::options::Options;
use crate::pattern::Sub;
use crate::peer::PeerId;
use crate::pipe::{Chunk, Owner};
use crate::socket::core::Core;
use crate::transport::{Endpoint, ToEndpoint};
use crate::wire::{Metadata, SocketKind};

struct Peer {
    pipe: Arc<Pipe>,
    info: Arc<PeerInfo>,
}

impl Peer {
    fn new() -> Self {
        let endpoint: Endpoint = "inproc://flood".to_endpoint().unwrap();
        let owner: Weak<dyn Owner> = Weak::<Core<Sub>>::new();
        let id = PeerId(1);
        let pipe = Arc::new(Pipe::new(id, endpoint.clone(), owner, &Options::default()));
        let info = Arc::new(PeerInfo {
            id,
            endpoint,
            address: String::new(),
            socket_type: Some(SocketKind::Pub),
            routing_id: Bytes::new(),
            metadata: Metadata::default(),
        });
        Self { pipe, info }
    }

    fn send(&self, inbound: &Inbound, text: &str) {
        let mut chunk = Chunk::default();
        chunk.push(&Message::from(text));
        let run = Run::from(chunk);
        self.pipe.inbox().admitted(run.messages_left(), run.wire_bytes());
        assert!(inbound.deliver(&self.pipe, &self.info, run).is_ok());
    }
}

#[derive(Default)]
struct Woken(Count);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whatever is refused has a successor at once.
fn refuse(inbound: &Inbound, peer: &Peer) -> impl Fn(&Message) -> bool {
    let refused = Count::new(0);
    move |_| {
        assert!(refused.fetch_add(1, Ordering::SeqCst) < 100_000, "it never ends");
        peer.send(inbound, "another");
        false
    }
}

#[test]
fn a_flood_of_refused_messages_keeps_nobody_from_his_deadline() {
    let (inbound, peer) = (Inbound::default(), Peer::new());
    let woken = Arc::new(Woken::default());
    let (mut key, waker) = (None, Waker::from(Arc::clone(&woken)));
    peer.send(&inbound, "the first");
    let taken = inbound.take(Some((&mut key, &waker)), refuse(&inbound, &peer));
    assert!(matches!(taken, Err(RecvError::Empty)));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "he comes again");
    assert!(inbound.take(None, |_| true).is_ok(), "what came meanwhile is there");
}

#[test]
fn whoever_does_not_wait_gets_a_message_that_had_arrived_behind_any_number_of_refused_ones() {
    let (inbound, peer) = (Inbound::default(), Peer::new());
    for _ in 0..3 * REJECTED_MAX {
        peer.send(&inbound, "refused");
    }
    peer.send(&inbound, "wanted");
    let wanted = |message: &Message| {
        peer.send(&inbound, "another");
        message.body() == b"wanted"
    };
    assert_eq!(inbound.take(None, wanted).unwrap().body(), b"wanted");
    assert!(matches!(inbound.take(None, refuse(&inbound, &peer)), Err(RecvError::Empty)));
}
