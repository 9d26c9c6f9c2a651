//! Binding and connecting, and their ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Attachment, Core, Peer};
use super::shared::{Binder, Connector};
use crate::completion::{Guard, completion};
use crate::error::SetupError;
use crate::monitor::{DisconnectReason, Event, HandshakeFailure};
use crate::pattern::Behaviour;
use crate::pipe::{Candidate, INPROC_VERSION, Joint, Link, Loss, Owner, Pipe, Place, Source};
use crate::reactor::{Belongs, EndpointId, Errand, Job, Scope};
use crate::sync::lock;
use crate::transport::{self, Endpoint, EndpointError, Listener, ipc, tcp};
use crate::wire::{Established, Metadata, ProtocolError, ReadyPeer};

impl<P: Behaviour> Core<P> {
    fn belongs(&self, endpoint_id: EndpointId, endpoint: Endpoint) -> Option<Belongs> {
        let owner: Arc<dyn Owner> = self.this.upgrade()?;
        Some(Belongs { socket: self.id, endpoint_id, endpoint, owner })
    }

    /// Binds and returns the real endpoint.
    pub(crate) fn bind(&self, endpoint: &Endpoint) -> Result<Endpoint, SetupError> {
        endpoint.check_bind()?;
        let failed = |source| SetupError::Bind { endpoint: endpoint.clone(), source };
        let (listener, real) = match endpoint {
            Endpoint::Tcp(tcp) => tcp::bind(tcp, &self.options.transport).map_err(failed)?,
            Endpoint::Ipc(ipc) => ipc::bind(ipc, &self.options.transport).map_err(failed)?,
            Endpoint::Inproc(name) => {
                self.bind_inproc(endpoint, name)?;
                return Ok(endpoint.clone());
            }
        };
        self.listen(listener, &real)?;
        Ok(real)
    }

    fn listen(&self, listener: Listener, real: &Endpoint) -> Result<(), SetupError> {
        let id = self.context.next_endpoint_id();
        let belongs = self.belongs(id, real.clone()).ok_or(SetupError::Closed)?;
        let slot = self.context.pool()?.next().ok_or(SetupError::Closed)?;
        let mut state = self.locked();
        if state.closed {
            return Err(SetupError::Closed);
        }
        state.endpoints.push(Attachment { id, endpoint: real.clone(), bound: true, pipe: None });
        // Posted under the lock, so that a close cannot overtake it.
        slot.post(Job::Listen { listener, belongs });
        Ok(())
    }

    /// Connects. Returns once the endpoint is noted; the connection is made in the background.
    pub(crate) fn connect(&self, endpoint: &Endpoint) -> Result<(), SetupError> {
        endpoint.check_connect()?;
        let id = self.context.next_endpoint_id();
        let pipe = (!self.options.immediate).then(|| self.new_pipe(endpoint.clone()));
        {
            let mut state = self.locked();
            if state.closed {
                return Err(SetupError::Closed);
            }
            if P::CONNECTS_ONCE
                && state.endpoints.iter().any(|a| !a.bound && a.endpoint == *endpoint)
            {
                return Ok(());
            }
            if let Endpoint::Inproc(name) = endpoint {
                self.check_inproc_type(endpoint, name)?;
            }
            let slot = self.context.pool()?.next().ok_or(SetupError::Closed)?;
            state.endpoints.push(Attachment {
                id,
                endpoint: endpoint.clone(),
                bound: false,
                pipe: pipe.clone(),
            });
            if let Some(pipe) = &pipe {
                let peer = Peer { pipe: Arc::clone(pipe), kept: true, ready: false };
                state.peers.insert(pipe.id(), peer);
                state.pattern.opened(pipe);
            }
            if !matches!(endpoint, Endpoint::Inproc(_)) {
                let belongs = self.belongs(id, endpoint.clone()).ok_or(SetupError::Closed)?;
                slot.post(Job::Dial { pipe: pipe.clone(), belongs });
            }
        }
        if let Endpoint::Inproc(name) = endpoint {
            self.meet_now(name, endpoint, pipe);
        }
        // A sender that waits for any peer at all may go on.
        let wakers = self.locked().senders.take_all();
        wakers.into_iter().for_each(std::task::Waker::wake);
        Ok(())
    }

    /// Stops listening at the endpoint; connections that came there are closed, lingering. The address is free when this
    /// returns.
    pub(crate) fn unbind(&self, endpoint: &Endpoint) -> Result<(), SetupError> {
        let attachment = self.take_attachment(endpoint, true)?;
        if matches!(endpoint, Endpoint::Inproc(_)) {
            self.context.unbind_inproc(endpoint, self.id);
            self.stop_routing_to_accepted(endpoint);
            self.close_inproc_pipes(|pipe, kept| !kept && pipe.endpoint() == endpoint);
            return Ok(());
        }
        self.stop_routing_to_accepted(endpoint);
        let (unbound, guard) = completion();
        self.post_close(Scope::Listener(attachment.id), guard);
        unbound.wait();
        let (closing, guard) = completion();
        self.post_close(Scope::Endpoint(attachment.id), guard);
        self.context.remember_close(closing);
        Ok(())
    }

    /// Drops the connection to the endpoint and does not make it again. What is queued goes out within the linger time.
    pub(crate) fn disconnect(&self, endpoint: &Endpoint) -> Result<(), SetupError> {
        let attachment = self.take_attachment(endpoint, false)?;
        if let Some(pipe) = &attachment.pipe {
            let mut state = self.locked();
            let sending = Self::distributed(&mut state);
            state.peers.remove(&pipe.id());
            state.pattern.gone(pipe.id());
            drop(state);
            self.finish(sending);
        }
        self.changed.notify_all();
        let (closing, guard) = completion();
        if matches!(endpoint, Endpoint::Inproc(_)) {
            match &attachment.pipe {
                Some(pipe) => self.close_inproc_pipe(pipe, self.options.linger, guard),
                None => {
                    self.context.forget_connector(endpoint, self.id, None);
                    self.close_inproc_pipes(|pipe, kept| !kept && pipe.endpoint() == endpoint);
                }
            }
        } else {
            self.post_close(Scope::Endpoint(attachment.id), guard);
            self.context.remember_close(closing);
        }
        Ok(())
    }

    /// Peers that came to the endpoint get what is queued for them, and nothing more.
    fn stop_routing_to_accepted(&self, endpoint: &Endpoint) {
        let mut locked = self.locked();
        let state = &mut *locked;
        let sending = Self::distributed(state);
        for peer in state.peers.values().filter(|peer| !peer.kept) {
            if peer.pipe.endpoint() == endpoint {
                state.pattern.gone(peer.pipe.id());
                peer.pipe.begin_close();
            }
        }
        drop(locked);
        self.finish(sending);
    }

    fn take_attachment(&self, endpoint: &Endpoint, bound: bool) -> Result<Attachment, SetupError> {
        let mut state = self.locked();
        if state.closed {
            return Err(SetupError::Closed);
        }
        let found =
            state.endpoints.iter().position(|a| a.bound == bound && a.endpoint == *endpoint);
        let role = if bound { "bound" } else { "connected" };
        let unknown = || SetupError::UnknownEndpoint { endpoint: endpoint.clone(), role };
        found.map(|index| state.endpoints.remove(index)).ok_or_else(unknown)
    }

    fn post_close(&self, scope: Scope, guard: Guard) {
        let linger = self.options.linger;
        for slot in self.context.slots() {
            slot.post(Job::Close { scope, linger, guard: guard.clone() });
        }
    }

    /// The endpoint of the last bind or connect.
    pub(crate) fn last_endpoint(&self) -> Option<Endpoint> {
        self.locked().endpoints.last().map(|attachment| attachment.endpoint.clone())
    }

    fn bind_inproc(&self, endpoint: &Endpoint, name: &str) -> Result<(), SetupError> {
        // Also in process streaming senders need the tick of a reactor.
        self.context.pool()?;
        let id = self.context.next_endpoint_id();
        let owner: std::sync::Weak<dyn Owner> = self.this.clone();
        let waiting = {
            let mut state = self.locked();
            if state.closed {
                return Err(SetupError::Closed);
            }
            let binder = Binder { socket: self.id, owner };
            let waiting = lock(&self.context.inproc).bind(name, binder).map_err(|_| {
                let source = io::Error::from(io::ErrorKind::AddrInUse);
                SetupError::Bind { endpoint: endpoint.clone(), source }
            })?;
            let bound = Attachment { id, endpoint: endpoint.clone(), bound: true, pipe: None };
            state.endpoints.push(bound);
            waiting
        };
        self.report_event(&Event::Listening { endpoint: endpoint.clone() });
        if let Some(binder) = self.this.upgrade() {
            for connector in waiting {
                self.join(endpoint, binder.clone(), connector);
            }
        }
        Ok(())
    }

    fn check_inproc_type(&self, endpoint: &Endpoint, name: &str) -> Result<(), SetupError> {
        let names = lock(&self.context.inproc);
        let Some(owner) = names.bound(name).and_then(|binder| binder.owner.upgrade()) else {
            return Ok(());
        };
        let theirs = owner.handshake().kind;
        if P::KIND.is_compatible_with(theirs) {
            return Ok(());
        }
        Err(SetupError::IncompatibleSocketType {
            endpoint: endpoint.clone(),
            ours: P::KIND,
            theirs,
        })
    }

    /// Joins whoever is bound to the name, or waits there for it.
    pub(super) fn meet_now(&self, name: &str, endpoint: &Endpoint, pipe: Option<Arc<Pipe>>) {
        let connector = self.connector(pipe);
        let binder = {
            let mut names = lock(&self.context.inproc);
            match names.bound(name).and_then(|binder| binder.owner.upgrade()) {
                Some(binder) => binder,
                None => {
                    // A binder that is gone did not come to free its name yet.
                    names.unbind(name, |_| true);
                    return names.wait(name, connector);
                }
            }
        };
        self.join(endpoint, binder, connector);
    }

    /// A session in process is over: waits for the name to be bound anew. If it is bound still - the connector was refused,
    /// evicted, or the binder unbinds this very moment - it is met again after a pause, as over a wire.
    pub(super) fn meet_later(&self, endpoint: &Endpoint, pipe: Option<Arc<Pipe>>) {
        let Endpoint::Inproc(name) = endpoint else { return };
        let attachment = self.connected_as(endpoint, pipe.as_ref());
        let Some(id) = attachment.filter(|_| self.options.reconnect) else { return };
        {
            let mut names = lock(&self.context.inproc);
            if names.bound(name).is_none() {
                return names.wait(name, self.connector(pipe));
            }
        }
        if let Some(belongs) = self.belongs(id, endpoint.clone())
            && let Some(slot) = self.context.slots().first()
        {
            let pause = self.options.reconnect_interval;
            let errand = Errand::meet_again(belongs, pipe, pause, transport::now());
            slot.post(Job::Errand(errand));
        }
    }

    /// The attachment of a connect to the endpoint, with this pipe or without one.
    pub(super) fn connected_as(
        &self,
        endpoint: &Endpoint,
        pipe: Option<&Arc<Pipe>>,
    ) -> Option<EndpointId> {
        let state = self.locked();
        let same_pipe = |other: &Option<Arc<Pipe>>| match (pipe, other) {
            (Some(pipe), Some(other)) => Arc::ptr_eq(pipe, other),
            (None, None) => true,
            _ => false,
        };
        let mut connects = state.endpoints.iter().filter(|a| !a.bound && a.endpoint == *endpoint);
        connects.find(|attachment| same_pipe(&attachment.pipe)).map(|attachment| attachment.id)
    }

    fn connector(&self, pipe: Option<Arc<Pipe>>) -> Connector {
        let owner: std::sync::Weak<dyn Owner> = self.this.clone();
        Connector { socket: self.id, owner, pipe }
    }

    /// Closes an in-process pipe: it parts when it is drained, or when its linger time is over.
    pub(super) fn close_inproc_pipe(&self, pipe: &Arc<Pipe>, linger: Duration, guard: Guard) {
        if linger.is_zero() {
            pipe.abandon(Loss::Linger);
        }
        pipe.begin_close_with(guard);
        pipe.flush();
        if pipe.outbox_report().drained {
            self.context.forget_connector(pipe.endpoint(), self.id, Some(pipe));
            return pipe.part(DisconnectReason::Closed);
        }
        let id = self.context.next_endpoint_id();
        if let Some(belongs) = self.belongs(id, pipe.endpoint().clone())
            && let Some(slot) = self.context.slots().first()
        {
            let errand = Errand::linger(belongs, Arc::clone(pipe), linger, transport::now());
            slot.post(Job::Errand(errand));
        }
    }

    /// Joins two sockets of this context: two pipes, each the other's stream.
    fn join(&self, endpoint: &Endpoint, binder: Arc<dyn Owner>, connector: Connector) {
        let Some(connecting) = connector.owner.upgrade() else { return };
        let (ours, theirs) = (connecting.handshake(), binder.handshake());
        if !ours.kind.is_compatible_with(theirs.kind) {
            let error =
                ProtocolError::IncompatibleSocketType { ours: ours.kind, theirs: theirs.kind };
            return report_refused(&connecting, endpoint, error.into());
        }
        let there = binder.make_pipe(endpoint.clone());
        let immediate = connector.pipe.is_none();
        let (here, place) = match connector.pipe {
            Some(pipe) => (Arc::clone(&pipe), Place::Kept(pipe)),
            None => {
                let pipe = connecting.make_pipe(endpoint.clone());
                (Arc::clone(&pipe), Place::Made(pipe))
            }
        };
        let joint = Joint::join(&here, &there);
        let attach_there = self.candidate(Place::Made(Arc::clone(&there)), endpoint, &ours, &here);
        let attach_here = self.candidate(place, endpoint, &theirs, &there);
        let (Some(attach_there), Some(attach_here)) = (attach_there, attach_here) else { return };
        let attached = binder.attach(attach_there).inspect_err(|refusal| {
            report_refused(&binder, endpoint, refusal.clone().into());
        });
        let attached = attached.and_then(|_| connecting.attach(attach_here));
        if let Err(refusal) = &attached {
            report_refused(&connecting, endpoint, refusal.clone().into());
        }
        joint.settle(attached.is_ok());
        if attached.is_err() && immediate {
            // Its pipe was never attached, so its socket does not hear of the end.
            connecting.session_missed(endpoint);
        }
        there.writable();
        here.writable();
    }

    fn candidate(
        &self,
        place: Place,
        endpoint: &Endpoint,
        peer: &crate::wire::HandshakeConfig,
        other: &Arc<Pipe>,
    ) -> Option<Candidate> {
        let slot = self.context.slots().first()?.clone();
        Some(Candidate {
            place,
            endpoint: endpoint.clone(),
            address: String::new(),
            peer: ReadyPeer {
                version: INPROC_VERSION,
                kind: Some(peer.kind),
                identity: peer.identity.clone(),
                metadata: Metadata::default(),
            },
            established: Established::in_process(),
            link: Link::Inproc { doorbell: slot },
            source: Source::Inproc(Arc::clone(other)),
            unsent: Vec::new(),
        })
    }

    fn close_inproc_pipes(&self, which: impl Fn(&Pipe, bool) -> bool) {
        let pipes: Vec<Arc<Pipe>> = {
            let state = self.locked();
            let chosen = state.peers.values().filter(|peer| which(&peer.pipe, peer.kept));
            chosen.map(|peer| Arc::clone(&peer.pipe)).collect()
        };
        for pipe in pipes {
            self.close_inproc_pipe(&pipe, self.options.linger, completion().1);
        }
    }
}

fn report_refused(owner: &Arc<dyn Owner>, endpoint: &Endpoint, reason: HandshakeFailure) {
    owner.report(Event::HandshakeFailed {
        endpoint: endpoint.clone(),
        address: String::new(),
        reason,
    });
}

/// The error of an endpoint that should be there and is not.
impl From<EndpointError> for io::Error {
    fn from(error: EndpointError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
