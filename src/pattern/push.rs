//! PUSH (RFC 30): sends to the peers in turn, skips full ones, waits when all are full or there is none.

use std::sync::Arc;

use super::behaviour::{Behaviour, Ready, Sending, Unsent};
use super::{Balance, To};
use crate::message::Message;
use crate::options::Options;
use crate::peer::PeerId;
use crate::peer::Refusal;
use crate::pipe::{Content, Pipe};
use crate::wire::{ReadyPeer, SocketKind};

/// The PUSH socket type: one end of a pipeline, sends only.
///
/// Each message goes to one peer, in turn among those with room. Without such a peer `send` waits. A peer that was
/// connected to counts from the start (its queue outlives its connection); one that connected here counts while it is
/// connected, and what it had not got is lost with its connection, and counted.
#[derive(Debug)]
pub struct Push {
    peers: Balance<Arc<Pipe>>,
}

impl super::Pattern for Push {}

impl Behaviour for Push {
    const KIND: SocketKind = SocketKind::Push;
    const RECEIVES: bool = false;

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

/// Sends to the next peer with room.
#[inline]
pub(super) fn balance_route(
    peers: &mut Balance<Arc<Pipe>>,
    message: &Message,
    sending: &mut Sending,
) -> Result<(), Unsent> {
    let content = Content::Message(message);
    peers.pick(|pipe| sending.offer(pipe, content).then_some(())).ok_or(Unsent::NoRoom)
}
