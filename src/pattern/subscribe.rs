//! SUB (RFC 29): tells its peers what it wants, and filters what comes once more.

use std::fmt;
use std::sync::Arc;

use super::behaviour::{Behaviour, Ready, Sending, Unsent};
use super::{SubscriptionLimits, Subscriptions, To};
use crate::error::OptionError;
use crate::message::Message;
use crate::options::{Options, TOPIC_BYTES_MAX, check_topic};
use crate::peer::PeerId;
use crate::peer::Refusal;
use crate::pipe::{Pipe, WriteRole};
use crate::wire::{self, ReadyPeer, SocketKind, Version};

/// The application, as the one holder of the subscriptions.
const SELF: PeerId = PeerId(0);

/// The SUB socket type: receives what it subscribed to.
///
/// A subscription is a prefix of the first frame; the empty one is everything. Subscriptions are counted: a
/// topic subscribed to twice is cancelled by the second `unsubscribe`. They are not subject to high-water marks and
/// are told again to every peer that comes back.
pub struct Sub {
    peers: Vec<(Arc<Pipe>, Version)>,
    subscriptions: Subscriptions,
}

impl fmt::Debug for Sub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sub")
            .field("peers", &self.peers.len())
            .field("topics", &self.subscriptions.topic_count())
            .finish()
    }
}

impl super::Pattern for Sub {}

impl Behaviour for Sub {
    const KIND: SocketKind = SocketKind::Sub;
    const RECEIVES: bool = true;
    const FILTERS: bool = true;
    const CONNECTS_ONCE: bool = true;

    fn new(options: &Options, _: u64) -> Self {
        let limits = SubscriptionLimits {
            topics_per_peer_max: usize::MAX,
            topic_bytes_max: TOPIC_BYTES_MAX,
            bytes_per_peer_max: usize::MAX,
        };
        let mut sub = Self { peers: Vec::new(), subscriptions: Subscriptions::new(limits) };
        for topic in &options.subscriptions {
            // Their length was checked with the other options.
            let _ = sub.subscriptions.subscribe(SELF, topic);
        }
        sub
    }

    fn ready(&mut self, pipe: &Arc<Pipe>, peer: &ReadyPeer, _: bool) -> Result<Ready, Refusal> {
        let mut opening = Vec::new();
        for topic in self.subscriptions.topics_of(SELF) {
            wire::put_subscription(&mut opening, peer.version, true, &topic);
        }
        self.peers.retain(|(known, _)| known.id() != pipe.id());
        self.peers.push((Arc::clone(pipe), peer.version));
        Ok(Ready { opening, ..Ready::default() })
    }

    fn lost(&mut self, pipe: &Arc<Pipe>) {
        self.gone(pipe.id());
    }

    fn gone(&mut self, id: PeerId) {
        self.peers.retain(|(pipe, _)| pipe.id() != id);
    }

    fn route(&mut self, _: &mut Message, _: Option<To<'_>>, _: &mut Sending) -> Result<(), Unsent> {
        Err(Unsent::Invalid { reason: "a SUB socket does not send" })
    }

    fn admits(&self, message: &Message) -> bool {
        self.subscriptions.matches_any(message.body())
    }

    fn admits_all(&self) -> bool {
        self.subscriptions.matches_any(&[])
    }
}

impl Sub {
    /// Subscribes and returns what must be written to tell the peers.
    pub(crate) fn subscribe(&mut self, topic: &[u8]) -> Result<Vec<WriteRole>, OptionError> {
        check_topic(topic)?;
        let first = self.subscriptions.subscribe(SELF, topic).is_ok_and(|s| s.first_of_topic);
        Ok(if first { self.tell(true, topic) } else { Vec::new() })
    }

    /// Cancels one subscription; `None` when there is none.
    pub(crate) fn unsubscribe(&mut self, topic: &[u8]) -> Option<Vec<WriteRole>> {
        let cancelled = self.subscriptions.cancel(SELF, topic)?;
        Some(if cancelled.last_of_topic { self.tell(false, topic) } else { Vec::new() })
    }

    fn tell(&self, subscribe: bool, topic: &[u8]) -> Vec<WriteRole> {
        let mut command = Vec::new();
        let mut roles = Vec::new();
        for (pipe, version) in &self.peers {
            command.clear();
            wire::put_subscription(&mut command, *version, subscribe, topic);
            roles.extend(pipe.send_control(&command));
        }
        roles
    }
}
