//! A socket as its pipes see it, in a model: keeps what arrives and counts what is lost.

use std::sync::{Arc, PoisonError, Weak};

use crate::message::Message;
use crate::monitor::Event;
use crate::options::{Marks, Options};
use crate::peer::{PeerId, PeerInfo, Refusal};
use crate::pipe::{Candidate, Doorbell, Loss, Offer, Owner, Pipe, Ring, Run};
use crate::pipe::{Content, Manner};
use crate::sync::{Condvar, Mutex, lock};
use crate::transport::Endpoint;
use crate::wire::{HandshakeConfig, Metadata, ProtocolError, SubscriptionChange};

/// Owns one pipe.
#[derive(Default)]
pub(super) struct ModelOwner {
    seen: Mutex<Seen>,
    changed: Condvar,
    options: Arc<Options>,
}

/// What the owner was told.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) runs: Vec<Run>,
    pub(super) lost: u64,
    pub(super) sessions_lost: usize,
    pub(super) writable: usize,
}

impl ModelOwner {
    pub(super) fn seen<R>(&self, look: impl FnOnce(&mut Seen) -> R) -> R {
        look(&mut lock(&self.seen))
    }

    /// Waits for a run.
    pub(super) fn next_run(&self) -> Run {
        let mut seen = lock(&self.seen);
        while seen.runs.is_empty() {
            seen = self.changed.wait(seen).unwrap_or_else(PoisonError::into_inner);
        }
        seen.runs.remove(0)
    }
}

impl Owner for ModelOwner {
    fn attach(&self, _: Candidate) -> Result<Arc<Pipe>, Refusal> {
        unreachable!("the model attaches its pipes itself")
    }
    fn make_pipe(&self, _: Endpoint) -> Arc<Pipe> {
        unreachable!("the model makes its pipes itself")
    }
    fn session_lost(&self, _: &Arc<Pipe>) {
        lock(&self.seen).sessions_lost += 1;
    }
    fn meet(&self, _: &Endpoint, _: Option<Arc<Pipe>>) {}
    fn session_missed(&self, _: &Endpoint) {}
    fn forget(&self, _: &Arc<Pipe>) {}
    fn gone(&self, _: &Arc<Pipe>) {}
    fn deliver(&self, _: &Arc<Pipe>, _: &Arc<PeerInfo>, run: Run) -> Result<(), ProtocolError> {
        lock(&self.seen).runs.push(run);
        self.changed.notify_all();
        Ok(())
    }
    fn subscriptions(&self, _: &Arc<Pipe>, _: &[SubscriptionChange]) -> Result<(), ProtocolError> {
        Ok(())
    }
    fn writable(&self, _: PeerId) {
        lock(&self.seen).writable += 1;
    }
    fn tick(&self) -> bool {
        false
    }
    fn count_loss(&self, _: Loss, messages: u64) {
        lock(&self.seen).lost += messages;
    }
    fn report(&self, _: Event) {}
    fn options(&self) -> &Arc<Options> {
        &self.options
    }
    fn handshake(&self) -> Arc<HandshakeConfig> {
        unreachable!("no handshake in a model")
    }
}

/// A reactor that is never needed: the senders of the models answer, so that nothing gathers.
pub(super) struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self, _: Ring) {}
}

/// A pipe and its owner, with room for `recv_messages` in its inbox.
pub(super) fn pipe(number: u64, recv_messages: usize) -> (Arc<Pipe>, Arc<ModelOwner>) {
    let owner = Arc::new(ModelOwner::default());
    let recv_marks = Marks { messages: recv_messages, ..Marks::default() };
    let options = Options { recv_marks, ..Options::default() };
    let weak: Weak<ModelOwner> = Arc::downgrade(&owner);
    let pipe = Pipe::new(PeerId(number), Endpoint::Inproc("model".into()), weak, &options);
    (Arc::new(pipe), owner)
}

/// What a socket knows of the peer.
pub(super) fn info(pipe: &Pipe) -> Arc<PeerInfo> {
    Arc::new(PeerInfo {
        id: pipe.id(),
        endpoint: pipe.endpoint().clone(),
        address: String::new(),
        socket_type: None,
        routing_id: bytes::Bytes::new(),
        metadata: Metadata::default(),
    })
}

/// Sends as a socket does that answers: the sender writes.
pub(super) fn send(pipe: &Arc<Pipe>, text: &str) {
    let manner = Manner { answering: true, together: false, inline: true, told: true, sole: false };
    match pipe.offer(Content::Message(&Message::from(text)), manner) {
        Offer::AcceptedToWrite(role) => role.run(),
        Offer::Accepted => {}
        Offer::AcceptedToGather | Offer::Full => unreachable!("an answer within the marks"),
    }
}
