//! DEALER (RFC 28): sends to its peers in turn, receives from them fairly, adds no envelope.

use std::sync::Arc;

use super::behaviour::{Behaviour, Ready, Sending, Unsent};
use super::push::balance_route;
use super::{Balance, To};
use crate::message::Message;
use crate::options::Options;
use crate::peer::PeerId;
use crate::peer::Refusal;
use crate::pipe::Pipe;
use crate::wire::{ReadyPeer, SocketKind};

/// The DEALER socket type: asynchronous requests, both directions at any time.
///
/// Sends as a PUSH does and receives as a PULL does. It adds no envelope: to talk to a REP socket, put an empty
/// frame before the request and expect one before the answer.
#[derive(Debug)]
pub struct Dealer {
    peers: Balance<Arc<Pipe>>,
}

impl super::Pattern for Dealer {}

impl Behaviour for Dealer {
    const KIND: SocketKind = SocketKind::Dealer;
    const RECEIVES: bool = true;
    const CONNECTS_ONCE: bool = true;

    fn new(_: &Options, _: u64) -> Self {
        Self { peers: Balance::new() }
    }

    fn opened(&mut self, pipe: &Arc<Pipe>) {
        self.peers.attach(pipe.id(), Arc::clone(pipe));
    }

    fn ready(&mut self, pipe: &Arc<Pipe>, _: &ReadyPeer, kept: bool) -> Result<Ready, Refusal> {
        if !kept {
            self.peers.attach(pipe.id(), Arc::clone(pipe));
        }
        Ok(Ready::default())
    }

    fn gone(&mut self, id: PeerId) {
        self.peers.detach(id);
    }

    fn writable(&mut self, id: PeerId) {
        self.peers.writable(id);
    }

    fn only_peer(&self) -> Option<&Arc<Pipe>> {
        self.peers.only()
    }

    #[inline]
    fn route(
        &mut self,
        message: &mut Message,
        _: Option<To<'_>>,
        sending: &mut Sending,
    ) -> Result<(), Unsent> {
        balance_route(&mut self.peers, message, sending)
    }
}
