//! PULL (RFC 30): receives from its peers fairly, one message of each in turn.

use std::sync::Arc;

use super::To;
use super::behaviour::{Behaviour, Ready, Sending, Unsent};
use crate::message::Message;
use crate::options::Options;
use crate::peer::PeerId;
use crate::peer::Refusal;
use crate::pipe::Pipe;
use crate::wire::{ReadyPeer, SocketKind};

/// The PULL socket type: the other end of a pipeline, receives only.
///
/// Takes one message of each peer in turn among those that have some.
#[derive(Debug)]
pub struct Pull;

impl super::Pattern for Pull {}

impl Behaviour for Pull {
    const KIND: SocketKind = SocketKind::Pull;
    const RECEIVES: bool = true;

    fn new(_: &Options, _: u64) -> Self {
        Self
    }

    fn ready(&mut self, _: &Arc<Pipe>, _: &ReadyPeer, _: bool) -> Result<Ready, Refusal> {
        Ok(Ready::default())
    }

    fn gone(&mut self, _: PeerId) {}

    fn route(&mut self, _: &mut Message, _: Option<To<'_>>, _: &mut Sending) -> Result<(), Unsent> {
        Err(Unsent::Invalid { reason: "a PULL socket does not send" })
    }
}
