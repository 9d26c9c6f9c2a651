//! `Socket<P>`: what an application holds. Sending and receiving exist once each, as futures; the blocking calls run the
//! same futures on the calling thread.

mod answers;
mod builder;
mod core;
mod endpoints;
mod futures;
mod gathering;
#[cfg(not(loom))]
mod inbound;
#[cfg(loom)]
pub(crate) mod inbound;
mod only_peer;
mod peers;
mod shared;
mod stats;
#[cfg(not(loom))]
mod wait;
#[cfg(loom)]
pub(crate) mod wait;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use builder::{Builder, TcpKeepalive};
pub use futures::{RecvFromFuture, RecvFuture, SendFuture};
pub(crate) use shared::Shared;
pub use stats::Stats;

use self::core::Core;
use self::futures::Destination;
use self::wait::block_on;
use crate::error::{CloseError, RecvError, SendError, SetupError, WaitError};
use crate::message::Message;
use crate::monitor::{Monitor, monitor};
use crate::pattern::{Behaviour, CanReceive, CanSend, Pattern, Pub, Router, RoutingId, Sub, To};
#[cfg(feature = "log")]
use crate::peer::PeerId;
use crate::transport::{self, Endpoint, ToEndpoint};

/// A socket of type `P`.
///
/// Cheap to clone; all clones are the same socket. It may be used from any number of threads and tasks at once,
/// blocking and async calls side by side. Messages of one peer come in the order in which they were sent; what several
/// receivers of one socket make of that order is theirs.
///
/// Dropping the last clone closes the socket without waiting: what was accepted still goes out within the linger time,
/// and [`Context`](crate::Context)'s end waits for it. [`close`](Self::close) waits, and tells what was lost.
pub struct Socket<P: Pattern> {
    handle: Arc<Handle<P>>,
}

struct Handle<P: Behaviour> {
    core: Arc<Core<P>>,
}

impl<P: Behaviour> Drop for Handle<P> {
    fn drop(&mut self) {
        self.core.begin_close(self.core.options().linger);
        self.core.leave_context();
    }
}

impl<P: Pattern> Clone for Socket<P> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<P: Pattern> fmt::Debug for Socket<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("type", &P::KIND).field("stats", &self.stats()).finish()
    }
}

impl<P: Pattern> Socket<P> {
    pub(crate) fn new(core: Arc<Core<P>>) -> Self {
        Self { handle: Arc::new(Handle { core }) }
    }

    fn core(&self) -> &Arc<Core<P>> {
        &self.handle.core
    }

    /// Binds to an endpoint and returns the real one: with the port, path or address that was chosen for a wildcard.
    ///
    /// The socket listens when this returns. A host name is looked up on the calling thread.
    ///
    /// # Errors
    /// [`SetupError::Endpoint`] for a bad endpoint, [`SetupError::Bind`] when the address is taken or not ours,
    /// [`SetupError::Closed`].
    pub fn bind(&self, endpoint: impl ToEndpoint) -> Result<Endpoint, SetupError> {
        self.core().bind(&endpoint.to_endpoint()?)
    }

    /// Connects to an endpoint. Returns at once; the connection is made, and made again whenever it is lost, in the
    /// background. Connecting twice to the same endpoint does nothing for DEALER, PUB and SUB, and makes a second
    /// connection for the other types.
    ///
    /// # Errors
    /// [`SetupError::Endpoint`] for a bad endpoint, [`SetupError::IncompatibleSocketType`] for an `inproc://` peer of a
    /// wrong type, [`SetupError::Closed`].
    pub fn connect(&self, endpoint: impl ToEndpoint) -> Result<(), SetupError> {
        self.core().connect(&endpoint.to_endpoint()?)
    }

    /// Stops listening at an endpoint, named as `bind` returned it. The address is free when this returns. Connections
    /// that came there are closed within the linger time.
    ///
    /// # Errors
    /// [`SetupError::UnknownEndpoint`] when the socket is not bound there, [`SetupError::Endpoint`],
    /// [`SetupError::Closed`].
    pub fn unbind(&self, endpoint: impl ToEndpoint) -> Result<(), SetupError> {
        self.core().unbind(&endpoint.to_endpoint()?)
    }

    /// Ends the connection to an endpoint, named as in `connect`, within the linger time. Returns at once.
    ///
    /// # Errors
    /// [`SetupError::UnknownEndpoint`] when the socket is not connected there, [`SetupError::Endpoint`],
    /// [`SetupError::Closed`].
    pub fn disconnect(&self, endpoint: impl ToEndpoint) -> Result<(), SetupError> {
        self.core().disconnect(&endpoint.to_endpoint()?)
    }

    /// The endpoint of the last `bind` (the real one) or `connect`; `None` before the first.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.core().last_endpoint()
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// The events of this socket's connections from now on. Several monitors each get all of them.
    pub fn monitor(&self) -> Monitor {
        let (reporter, monitor) = monitor();
        self.core().add_monitor(reporter);
        monitor
    }

    /// Waits until at least `count` peers are connected: their handshakes are over and their queues attached.
    ///
    /// # Errors
    /// [`WaitError::Timeout`] with the number that were there, [`WaitError::Closed`].
    pub fn wait_for_peers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        self.core().wait_until(count, timeout, |state| state.ready_peers())
    }

    /// Closes this socket and all its clones, and waits until everything accepted has been sent or `deadline` has passed
    /// (counted from the last progress).
    ///
    /// # Errors
    /// [`CloseError`] with the number of messages that were dropped.
    pub fn close(self, deadline: Duration) -> Result<(), CloseError> {
        let lost = |stats: Stats| stats.dropped_linger + stats.dropped_disconnect;
        let lost_before = lost(self.stats());
        self.core().begin_close(deadline).wait();
        match lost(self.stats()) - lost_before {
            0 => Ok(()),
            unsent => Err(CloseError { unsent }),
        }
    }
}

impl<P: CanSend> Socket<P> {
    /// Sends a message, waiting for room if the type's rule is to wait (PUSH, DEALER, a `mandatory` ROUTER, a `no_drop`
    /// PUB), at most for the `send_timeout` option.
    ///
    /// `Ok` means accepted: the message is queued for its peer, and if the connection was idle it is on the wire.
    ///
    /// # Errors
    /// [`SendError::Timeout`], [`SendError::Closed`], [`SendError::Unroutable`] (`mandatory` ROUTER),
    /// [`SendError::Invalid`]; each hands the message back.
    #[allow(clippy::result_large_err)]
    #[inline]
    pub fn send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        if self.core().send_short(&message) {
            return Ok(());
        }
        self.send_within(message, None, self.core().options().send_timeout)
    }

    /// Sends a message if that needs no waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] instead of waiting; otherwise as [`send`](Self::send).
    #[allow(clippy::result_large_err)]
    #[inline]
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        let message = message.into();
        if self.core().send_short(&message) {
            return Ok(());
        }
        futures::try_send(self.core(), message, None)
    }

    /// Sends a message, waiting at most for `timeout`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[allow(clippy::result_large_err)]
    pub fn send_timeout(
        &self,
        message: impl Into<Message>,
        timeout: Duration,
    ) -> Result<(), SendError> {
        self.send_within(message.into(), None, Some(timeout))
    }

    /// Sends a message as a future that any executor can run.
    ///
    /// Cancel-safe: the message is accepted when the future is ready, and dropped with the future before that.
    pub fn send_async(&self, message: impl Into<Message>) -> SendFuture<P> {
        SendFuture::new(Arc::clone(self.core()), message.into(), None)
    }

    #[allow(clippy::result_large_err)]
    fn send_within(
        &self,
        message: Message,
        to: Option<&RoutingId>,
        timeout: Option<Duration>,
    ) -> Result<(), SendError> {
        match futures::try_send(self.core(), message, to.map(To::from)) {
            Err(SendError::Full(message)) => {
                let deadline = timeout.and_then(|timeout| transport::now().checked_add(timeout));
                let core = Arc::clone(self.core());
                let to = to.cloned().map(Destination::from);
                let mut future = SendFuture::of_thread(core, message, to);
                match block_on(&mut future, self.core().slot(), deadline) {
                    Some(sent) => sent,
                    None => Err(SendError::Timeout(future.into_message())),
                }
            }
            done => done,
        }
    }
}

impl<P: CanReceive> Socket<P> {
    /// Receives the next message, waiting at most for the `recv_timeout` option.
    ///
    /// # Errors
    /// [`RecvError::Timeout`], [`RecvError::Closed`].
    #[inline(always)]
    pub fn recv(&self) -> Result<Message, RecvError> {
        let mut short = futures::take_short(self.core());
        if let Ok(message) = &mut short {
            futures::present::<P>(message);
            return short;
        }
        futures::presented::<P>(self.recv_within(self.core().options().recv_timeout))
    }

    /// Receives the next message if there is one.
    ///
    /// # Errors
    /// [`RecvError::Empty`], [`RecvError::Closed`].
    #[inline]
    pub fn try_recv(&self) -> Result<Message, RecvError> {
        let mut short = futures::take_short(self.core());
        if let Ok(message) = &mut short {
            futures::present::<P>(message);
            return short;
        }
        futures::presented::<P>(futures::try_recv(self.core()))
    }

    /// Receives the next message, waiting at most for `timeout`.
    ///
    /// # Errors
    /// [`RecvError::Timeout`], [`RecvError::Closed`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Message, RecvError> {
        futures::presented::<P>(self.recv_within(Some(timeout)))
    }

    /// Receives the next message as a future that any executor can run.
    ///
    /// Its waker is called on whatever thread brings the message, which may be inside another thread's `recv` or `send`: it must
    /// not block.
    ///
    /// Cancel-safe: a dropped future has taken no message.
    pub fn recv_async(&self) -> RecvFuture<P> {
        RecvFuture::new(Arc::clone(self.core()))
    }

    /// Waits for a message as [`recv`](Self::recv) does, then takes what else is there, up to the free capacity of
    /// `messages` (and at least one). Returns how many were appended.
    ///
    /// # Errors
    /// [`RecvError::Timeout`], [`RecvError::Closed`]; nothing is appended then.
    pub fn recv_many(&self, messages: &mut Vec<Message>) -> Result<usize, RecvError> {
        let room = (messages.capacity() - messages.len()).max(1);
        messages.push(self.recv()?);
        for taken in 1..room {
            match self.try_recv() {
                Ok(message) => messages.push(message),
                Err(_) => return Ok(taken),
            }
        }
        Ok(room)
    }

    /// Receives message after message, waiting for each, until the socket is closed.
    pub fn iter(&self) -> impl Iterator<Item = Message> + '_ {
        std::iter::from_fn(|| futures::presented::<P>(self.recv_within(None)).ok())
    }

    #[cold]
    fn recv_within(&self, timeout: Option<Duration>) -> Result<Message, RecvError> {
        match futures::try_recv(self.core()) {
            Err(RecvError::Empty) => {
                let deadline = timeout.and_then(|timeout| transport::now().checked_add(timeout));
                let mut key = None;
                let future = std::future::poll_fn(|context| {
                    futures::poll_take(self.core(), &mut key, context)
                });
                let received = block_on(future, self.core().slot(), deadline);
                self.core().inbound().leave_after(&mut key, received.is_some());
                received.unwrap_or(Err(RecvError::Timeout))
            }
            done => done,
        }
    }
}

impl Socket<Sub> {
    /// Subscribes to messages whose first frame begins with `topic`; the empty topic is everything.
    ///
    /// Every connected publisher is told, and every one that connects later. Messages that a publisher sent before it
    /// heard of the subscription do not come.
    ///
    /// # Errors
    /// [`SetupError::Option`] for a topic longer than 65,536 bytes, [`SetupError::Closed`].
    pub fn subscribe(&self, topic: impl AsRef<[u8]>) -> Result<(), SetupError> {
        let roles = self.core().with_pattern(|sub| sub.subscribe(topic.as_ref()))??;
        roles.into_iter().for_each(crate::pipe::WriteRole::run);
        Ok(())
    }

    /// Takes one subscription back. Returns whether there was one.
    ///
    /// # Errors
    /// [`SetupError::Closed`].
    pub fn unsubscribe(&self, topic: impl AsRef<[u8]>) -> Result<bool, SetupError> {
        let told = self.core().with_pattern(|sub| sub.unsubscribe(topic.as_ref()))?;
        let existed = told.is_some();
        told.into_iter().flatten().for_each(crate::pipe::WriteRole::run);
        Ok(existed)
    }
}

impl Socket<Pub> {
    /// Waits until at least `count` peers have subscribed to something.
    ///
    /// # Errors
    /// [`WaitError::Timeout`] with the number that had, [`WaitError::Closed`].
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<(), WaitError> {
        self.core().wait_until(count, timeout, |state| state.pattern.subscribers())
    }

    /// Peers with at least one subscription.
    pub fn subscribers(&self) -> usize {
        self.core().with_pattern(|publisher| publisher.subscribers()).unwrap_or(0)
    }
}

impl Socket<Router> {
    /// Sends a message to the peer with this routing id; waits and fails as [`send`](Self::send) does.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[allow(clippy::result_large_err)]
    pub fn send_to(&self, to: &RoutingId, message: impl Into<Message>) -> Result<(), SendError> {
        self.send_within(message.into(), Some(to), self.core().options().send_timeout)
    }

    /// [`send_to`](Self::send_to) without waiting.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    #[allow(clippy::result_large_err)]
    pub fn try_send_to(
        &self,
        to: &RoutingId,
        message: impl Into<Message>,
    ) -> Result<(), SendError> {
        futures::try_send(self.core(), message.into(), Some(to.into()))
    }

    /// [`send_to`](Self::send_to) as a future; cancel-safe as [`send_async`](Self::send_async).
    pub fn send_to_async(&self, to: RoutingId, message: impl Into<Message>) -> SendFuture<Router> {
        SendFuture::new(Arc::clone(self.core()), message.into(), Some(to.into()))
    }

    /// [`try_send_to`](Self::try_send_to) as long as the routing id is this very peer's: nothing goes to another one that has it
    /// after this one is gone.
    #[cfg(feature = "log")]
    #[allow(clippy::result_large_err)]
    pub(crate) fn try_send_to_peer(
        &self,
        to: &RoutingId,
        peer: PeerId,
        message: Message,
    ) -> Result<(), SendError> {
        let to = To { id: to.as_slice(), peer: Some(peer) };
        futures::try_send(self.core(), message, Some(to))
    }

    /// Whether this very peer is there. An accepted one that is not never will be again.
    #[cfg(feature = "log")]
    pub(crate) fn has_peer(&self, peer: PeerId) -> bool {
        self.core().has_peer(peer)
    }

    /// [`try_send_to_peer`](Self::try_send_to_peer) as a future; cancel-safe as [`send_async`](Self::send_async).
    #[cfg(feature = "log")]
    pub(crate) fn send_to_peer_async(
        &self,
        to: RoutingId,
        peer: PeerId,
        message: Message,
    ) -> SendFuture<Router> {
        let to = Destination { id: to, peer: Some(peer) };
        SendFuture::new(Arc::clone(self.core()), message, Some(to))
    }

    /// Receives the next message and its sender's routing id.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_from(&self) -> Result<(RoutingId, Message), RecvError> {
        if let Ok(message) = futures::take_short(self.core()) {
            return Ok(futures::with_sender(message));
        }
        self.recv_within(self.core().options().recv_timeout).map(futures::with_sender)
    }

    /// [`recv_from`](Self::recv_from) without waiting.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_from(&self) -> Result<(RoutingId, Message), RecvError> {
        futures::try_recv(self.core()).map(futures::with_sender)
    }

    /// [`recv_from`](Self::recv_from), waiting at most for `timeout`.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_from_timeout(&self, timeout: Duration) -> Result<(RoutingId, Message), RecvError> {
        self.recv_within(Some(timeout)).map(futures::with_sender)
    }

    /// [`recv_from`](Self::recv_from) as a future; cancel-safe as [`recv_async`](Self::recv_async).
    pub fn recv_from_async(&self) -> RecvFromFuture {
        RecvFromFuture::new(Arc::clone(self.core()))
    }
}
