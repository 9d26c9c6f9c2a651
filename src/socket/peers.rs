//! The side of a socket that reactors and other sockets see: peers come and go, runs arrive, outboxes drain.

use std::sync::Arc;
use std::task::Waker;

use super::core::{Core, Peer};
use super::inbound::release;
use crate::monitor::{DisconnectReason, Event};
use crate::options::Options;
use crate::pattern::Behaviour;
use crate::peer::{PeerId, PeerInfo, Refusal};
use crate::pipe::{Candidate, Loss, Owner, Pipe, Place, Resume, Run};
use crate::reactor::Job;
use crate::sync::atomic::Ordering;
use crate::transport::Endpoint;
use crate::wire::{HandshakeConfig, ProtocolError, Subscription, SubscriptionChange};

impl<P: Behaviour> Core<P> {
    /// A pipe of this socket that is not attached yet.
    pub(super) fn new_pipe(&self, endpoint: Endpoint) -> Arc<Pipe> {
        let owner: std::sync::Weak<dyn Owner> = self.this.clone();
        Arc::new(Pipe::new(self.next_peer_id(), endpoint, owner, &self.options))
    }

    /// Wakes senders because a peer came, went or has room.
    fn wake_senders(&self, state: &mut super::core::State<P>, all: bool) -> Vec<Waker> {
        if all || P::WAITS_FOR_CERTAIN_PEERS {
            state.senders.take_all()
        } else {
            state.senders.take_one().into_iter().collect()
        }
    }

    /// A peer whose type only receives sent something: an old-style subscription (RFC 23), or nonsense.
    fn deliver_to_sender(&self, pipe: &Arc<Pipe>, mut run: Run) -> Result<(), ProtocolError> {
        let resume = release(pipe, &run);
        let mut changes = Vec::new();
        while let Some(message) = run.cut(None) {
            let change = match message.frames() {
                [only] => Subscription::from_message(only),
                _ => None,
            };
            match change {
                Some(change) => changes.push(change.into()),
                None => drop(self.losses.discarded.fetch_add(1, Ordering::Relaxed)),
            }
        }
        if let Some(resume) = resume {
            resume.run();
        }
        if changes.is_empty() { Ok(()) } else { self.subscriptions(pipe, &changes) }
    }

    fn evict(&self, replaced: Option<Arc<Pipe>>) {
        let Some(pipe) = replaced else { return };
        if matches!(pipe.endpoint(), Endpoint::Inproc(_)) {
            return pipe.part(DisconnectReason::HandedOver);
        }
        for slot in self.context.slots() {
            slot.post(Job::Evict(Arc::clone(&pipe)));
        }
        self.session_lost(&pipe);
    }
}

impl<P: Behaviour> Owner for Core<P> {
    fn attach(&self, candidate: Candidate) -> Result<Arc<Pipe>, Refusal> {
        let Candidate { place, endpoint, address, peer, established, link, source, unsent } =
            candidate;
        let mut state = self.locked();
        let (pipe, kept) = match place {
            Place::Kept(pipe) => (pipe, true),
            Place::Made(pipe) => (pipe, false),
            Place::New => (self.new_pipe(endpoint.clone()), false),
        };
        // A kept pipe that was disconnected lingers: it may send what it has, but routes nothing any more.
        let lingering = kept && !state.peers.contains_key(&pipe.id());
        let mut ready = crate::pattern::behaviour::Ready::default();
        let routes = !(lingering || kept && state.closed);
        if routes {
            if state.closed {
                return Err(Refusal::Closed);
            }
            let present = state.peers.len() + state.orphans.load(Ordering::Relaxed);
            let crowded = present >= self.options.peers_max && !state.pattern.replaces(&peer);
            if !kept && crowded {
                return Err(Refusal::TooManyPeers { limit: self.options.peers_max });
            }
            ready = state.pattern.ready(&pipe, &peer, kept)?;
            let attached = Peer { pipe: Arc::clone(&pipe), kept, ready: true };
            state.peers.insert(pipe.id(), attached);
        }
        let info = Arc::new(PeerInfo {
            id: pipe.id(),
            endpoint: endpoint.clone(),
            address,
            socket_type: peer.kind,
            routing_id: ready.routing_id,
            metadata: peer.metadata,
        });
        pipe.set_info(Arc::clone(&info));
        pipe.inbox().set_source(source);
        let mut opening = unsent;
        opening.extend_from_slice(&ready.opening);
        let role = pipe.link(link, &opening, established);
        let wakers = self.wake_senders(&mut state, true);
        // Before anybody can know of the peer who waits for it: a monitor made then does not hear of this one.
        self.report(Event::PeerReady { endpoint, peer: info });
        drop(state);
        self.changed.notify_all();
        self.evict(ready.replaced);
        if let Some(role) = role {
            role.run();
        }
        wakers.into_iter().for_each(Waker::wake);
        Ok(pipe)
    }

    fn make_pipe(&self, endpoint: Endpoint) -> Arc<Pipe> {
        self.new_pipe(endpoint)
    }

    fn session_lost(&self, pipe: &Arc<Pipe>) {
        let mut state = self.locked();
        let kept = match state.peers.get_mut(&pipe.id()) {
            Some(peer) => {
                peer.ready = false;
                peer.kept
            }
            None => return,
        };
        let sending = Self::distributed(&mut state);
        if kept {
            state.pattern.lost(pipe);
        } else {
            state.pattern.gone(pipe.id());
            state.peers.remove(&pipe.id());
        }
        let orphans = Arc::clone(&state.orphans);
        let closed = state.closed;
        let wakers = self.wake_senders(&mut state, true);
        drop(state);
        self.finish(sending);
        if !kept {
            pipe.abandon(Loss::Disconnect);
            pipe.inbox().orphan(&orphans);
        } else if closed && matches!(pipe.endpoint(), Endpoint::Inproc(_)) {
            // A closed socket lingers for the reader it had, not for the next one.
            pipe.abandon(Loss::Linger);
        }
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
        if !closed && matches!(pipe.endpoint(), Endpoint::Inproc(_)) {
            self.meet_later(pipe.endpoint(), kept.then(|| Arc::clone(pipe)));
        }
    }

    fn meet(&self, endpoint: &Endpoint, pipe: Option<Arc<Pipe>>) {
        // The socket may have disconnected, or been closed, since this was planned.
        if let Endpoint::Inproc(name) = endpoint
            && self.connected_as(endpoint, pipe.as_ref()).is_some()
        {
            self.meet_now(name, endpoint, pipe);
        }
    }

    fn session_missed(&self, endpoint: &Endpoint) {
        self.meet_later(endpoint, None);
    }

    fn forget(&self, pipe: &Arc<Pipe>) {
        self.context.forget_connector(pipe.endpoint(), self.id, Some(pipe));
    }

    fn gone(&self, pipe: &Arc<Pipe>) {
        let mut state = self.locked();
        if state.peers.remove(&pipe.id()).is_none() {
            return;
        }
        let sending = Self::distributed(&mut state);
        state.pattern.gone(pipe.id());
        let wakers = self.wake_senders(&mut state, true);
        drop(state);
        self.finish(sending);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn deliver(
        &self,
        pipe: &Arc<Pipe>,
        info: &Arc<PeerInfo>,
        run: Run,
    ) -> Result<(), ProtocolError> {
        if !P::RECEIVES {
            return self.deliver_to_sender(pipe, run);
        }
        if let Err(run) = self.inbound.deliver(pipe, info, run) {
            release(pipe, &run).into_iter().for_each(Resume::run);
        }
        Ok(())
    }

    fn subscriptions(
        &self,
        pipe: &Arc<Pipe>,
        changes: &[SubscriptionChange],
    ) -> Result<(), ProtocolError> {
        let mut state = self.locked();
        let apply = |change: &SubscriptionChange| {
            state.pattern.subscription(pipe, change.as_subscription())
        };
        let result = changes.iter().try_for_each(apply);
        drop(state);
        self.changed.notify_all();
        result
    }

    fn writable(&self, id: PeerId) {
        let mut state = self.locked();
        state.pattern.writable(id);
        let wakers = self.wake_senders(&mut state, false);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn tick(&self) -> bool {
        self.tick_answers()
    }

    fn count_loss(&self, cause: Loss, messages: u64) {
        self.losses.count(cause, messages);
    }

    fn report(&self, event: Event) {
        self.report_event(&event);
    }

    fn options(&self) -> &Arc<Options> {
        &self.options
    }

    fn handshake(&self) -> Arc<HandshakeConfig> {
        Arc::clone(&self.handshake)
    }
}
