//! The two ways out of a pipe: up to the socket that owns it, and across to the reactor that serves it.

use std::sync::Arc;

use super::{Candidate, Pipe, Run};
use crate::monitor::Event;
use crate::options::Options;
use crate::peer::{PeerId, PeerInfo, Refusal};
use crate::transport::Endpoint;
use crate::wire::{HandshakeConfig, ProtocolError, SubscriptionChange};

/// Why accepted or matching messages did not reach a peer. Each has its counter in the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The connection ended with the message queued or half written.
    Disconnect,
    /// The linger time ended without progress, or the socket was closed without one.
    Linger,
    /// A newer message took its place.
    Conflate,
}

/// What a pipe and its connection report to the socket they belong to. Called from any thread, with no lock of
/// pipe or reactor held; implementations do not block.
pub(crate) trait Owner: Send + Sync {
    /// Attaches a peer; its pipe is linked and told apart from all others when this returns.
    fn attach(&self, candidate: Candidate) -> Result<Arc<Pipe>, Refusal>;
    /// A pipe of this socket for a peer in the same process.
    fn make_pipe(&self, endpoint: Endpoint) -> Arc<Pipe>;
    /// The session of this pipe ended. A pipe that was connected stays; an accepted one is gone.
    fn session_lost(&self, pipe: &Arc<Pipe>);
    /// In process: meets whoever is bound to the endpoint, or waits there for it. `pipe` is the connector's, if it has one.
    fn meet(&self, endpoint: &Endpoint, pipe: Option<Arc<Pipe>>);
    /// In process: a connect without a pipe of its own was refused.
    fn session_missed(&self, endpoint: &Endpoint);
    /// In process: the connector's pipe waits for nobody any more.
    fn forget(&self, pipe: &Arc<Pipe>);
    /// The pipe is gone for good.
    fn gone(&self, pipe: &Arc<Pipe>);
    /// Complete messages from the peer, already counted in the pipe's inbox.
    fn deliver(
        &self,
        pipe: &Arc<Pipe>,
        info: &Arc<PeerInfo>,
        run: Run,
    ) -> Result<(), ProtocolError>;
    /// The peer subscribed or cancelled. What came together takes effect at once, so that whoever waits for a subscriber does
    /// not find it with half of its topics.
    fn subscriptions(
        &self,
        pipe: &Arc<Pipe>,
        changes: &[SubscriptionChange],
    ) -> Result<(), ProtocolError>;
    /// The pipe's outbox had refused a message and has room again.
    fn writable(&self, id: PeerId);
    /// The reactor's tick over answers that the socket gathers (`Ring::Answers`). False when it need not come again.
    fn tick(&self) -> bool;
    /// Messages were lost after having been accepted.
    fn count_loss(&self, cause: Loss, messages: u64);
    /// Something happened that a monitor may want to know.
    fn report(&self, event: Event);
    /// The socket's options.
    fn options(&self) -> &Arc<Options>;
    /// What the socket says of itself in a handshake.
    fn handshake(&self) -> Arc<HandshakeConfig>;
}

/// What a pipe asks of the reactor its connection lives on.
pub(crate) enum Ring {
    /// Look at this outbox within a tick: its sender is streaming and may stop at any message.
    Flush(Arc<Pipe>),
    /// Look at this socket within a tick: it gathers answers and may stop at any of them.
    Answers(Arc<dyn Owner>),
    /// The inbox of this connection drained: read on.
    Resume(usize),
    /// The outbox of this closing connection is empty.
    Drained(usize),
    /// Writing to this connection failed.
    Broken(usize),
}

/// The way from a pipe to a reactor.
pub(crate) trait Doorbell: Send + Sync {
    /// Posts the job, then wakes the reactor if it may be asleep.
    fn ring(&self, job: Ring);
}
