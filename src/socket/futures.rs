//! The futures behind every send and receive. They name no executor; blocking calls run them too.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::core::{Core, NotSent};
use super::shared::WaitingTask;
use super::wait::Key;
use crate::error::{RecvError, SendError};
use crate::message::{Frame, Message};
use crate::pattern::{Behaviour, Pattern, Router, RoutingId, To, Unsent, sender_of};
use crate::peer::PeerId;

/// Sends without waiting.
#[allow(clippy::result_large_err)]
#[inline]
pub(super) fn try_send<P: Behaviour>(
    core: &Core<P>,
    mut message: Message,
    to: Option<To<'_>>,
) -> Result<(), SendError> {
    core.send_attempt(&mut message, to, None).map_err(|not_sent| send_error(not_sent, message))
}

fn send_error(not_sent: NotSent, message: Message) -> SendError {
    match not_sent {
        NotSent::Closed => SendError::Closed(message),
        NotSent::Unsent(Unsent::NoRoom) => SendError::Full(message),
        NotSent::Unsent(Unsent::Invalid { reason }) => SendError::Invalid { reason, message },
        NotSent::Unsent(Unsent::Unroutable { routing_id }) => {
            SendError::Unroutable { routing_id: routing_id.escape_ascii().to_string(), message }
        }
    }
}

/// The short way of `try_recv` for sockets that do not filter. `Empty` says nothing.
#[inline(always)]
pub(super) fn take_short<P: Behaviour>(core: &Core<P>) -> Result<Message, RecvError> {
    if !core.admits_everything() {
        return Err(RecvError::Empty);
    }
    core.inbound().take_short()
}

/// Receives without waiting.
#[inline]
pub(super) fn try_recv<P: Behaviour>(core: &Core<P>) -> Result<Message, RecvError> {
    let taken = core.inbound().take(None, |message| core.admits(message));
    if let Err(RecvError::Empty) = &taken {
        core.flush();
    }
    taken
}

/// Receives, or registers the task of `context`.
pub(super) fn poll_take<P: Behaviour>(
    core: &Core<P>,
    key: &mut Key,
    context: &Context<'_>,
) -> Poll<Result<Message, RecvError>> {
    let waiting = Some((key, context.waker()));
    match core.inbound().take(waiting, |message| core.admits(message)) {
        Err(RecvError::Empty) => Poll::Pending,
        taken => Poll::Ready(taken),
    }
}

/// What was received, as the application sees it.
#[inline]
pub(super) fn presented<P: Behaviour>(
    mut received: Result<Message, RecvError>,
) -> Result<Message, RecvError> {
    if let Ok(message) = &mut received {
        present::<P>(message);
    }
    received
}

/// Makes a received message what the application sees.
#[inline]
pub(super) fn present<P: Behaviour>(message: &mut Message) {
    if P::ENVELOPES {
        P::present(message);
    }
}

/// A received message beside its sender's routing id.
pub(super) fn with_sender(message: Message) -> (RoutingId, Message) {
    (sender_of(&message), message)
}

/// [`To`] for as long as a send takes.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) id: RoutingId,
    pub(super) peer: Option<PeerId>,
}

impl Destination {
    pub(super) fn to(&self) -> To<'_> {
        To { id: self.id.as_slice(), peer: self.peer }
    }
}

impl From<RoutingId> for Destination {
    fn from(id: RoutingId) -> Self {
        Self { id, peer: None }
    }
}

/// A send that waits for room; see [`Socket::send_async`](super::Socket::send_async).
#[must_use = "futures do nothing unless awaited"]
pub struct SendFuture<P: Pattern> {
    core: Arc<Core<P>>,
    message: Option<Message>,
    to: Option<Destination>,
    key: Key,
    waiter: Waiter,
}

/// Who runs a future: a task, for which the keeper has to turn, or a thread that turns for itself.
#[derive(Debug)]
enum Waiter {
    Thread,
    Task(Option<WaitingTask>),
}

impl<P: Pattern> SendFuture<P> {
    pub(super) fn new(core: Arc<Core<P>>, message: Message, to: Option<Destination>) -> Self {
        Self { core, message: Some(message), to, key: None, waiter: Waiter::Task(None) }
    }

    /// The future of a blocking send.
    pub(super) fn of_thread(core: Arc<Core<P>>, message: Message, to: Option<Destination>) -> Self {
        Self { core, message: Some(message), to, key: None, waiter: Waiter::Thread }
    }

    /// The message that was not sent; empty once it was.
    pub(super) fn into_message(mut self) -> Message {
        self.message.take().unwrap_or_else(|| Message::from(Vec::<Frame>::new()))
    }
}

impl<P: Pattern> Future for SendFuture<P> {
    type Output = Result<(), SendError>;

    /// # Panics
    /// Never; polled again after it was ready, it stays pending.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(mut message) = this.message.take() else { return Poll::Pending };
        let waiting = Some((&mut this.key, context.waker()));
        let to = this.to.as_ref().map(Destination::to);
        match this.core.send_attempt(&mut message, to, waiting) {
            Ok(()) => {
                this.core.leave_senders(&mut this.key, true);
                Poll::Ready(Ok(()))
            }
            Err(NotSent::Unsent(Unsent::NoRoom)) => {
                this.message = Some(message);
                if let Waiter::Task(waiting @ None) = &mut this.waiter {
                    *waiting = Some(this.core.task_waits());
                }
                Poll::Pending
            }
            Err(other) => Poll::Ready(Err(send_error(other, message))),
        }
    }
}

impl<P: Pattern> Drop for SendFuture<P> {
    fn drop(&mut self) {
        self.core.leave_senders(&mut self.key, false);
    }
}

impl<P: Pattern> fmt::Debug for SendFuture<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendFuture").field("message", &self.message).finish_non_exhaustive()
    }
}

/// A receive that waits for a message; see [`Socket::recv_async`](super::Socket::recv_async).
#[must_use = "futures do nothing unless awaited"]
pub struct RecvFuture<P: Pattern> {
    core: Arc<Core<P>>,
    key: Key,
    waiting: Option<WaitingTask>,
}

impl<P: Pattern> RecvFuture<P> {
    pub(super) fn new(core: Arc<Core<P>>) -> Self {
        Self { core, key: None, waiting: None }
    }

    fn poll_raw(&mut self, context: &Context<'_>) -> Poll<Result<Message, RecvError>> {
        let polled = poll_take(&self.core, &mut self.key, context);
        if polled.is_ready() {
            self.core.inbound().leave_after(&mut self.key, true);
            self.waiting = None;
        } else if self.waiting.is_none() {
            self.waiting = Some(self.core.task_waits());
        }
        if polled.is_pending() {
            self.core.flush();
        }
        polled
    }
}

impl<P: Pattern> Future for RecvFuture<P> {
    type Output = Result<Message, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_raw(context).map(presented::<P>)
    }
}

impl<P: Pattern> Drop for RecvFuture<P> {
    fn drop(&mut self) {
        self.core.inbound().leave_after(&mut self.key, false);
    }
}

impl<P: Pattern> fmt::Debug for RecvFuture<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvFuture").field("waiting", &self.key.is_some()).finish_non_exhaustive()
    }
}

/// A receive that waits for a message and names its sender; see
/// [`Socket::recv_from_async`](super::Socket::recv_from_async).
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct RecvFromFuture(RecvFuture<Router>);

impl RecvFromFuture {
    pub(super) fn new(core: Arc<Core<Router>>) -> Self {
        Self(RecvFuture::new(core))
    }
}

impl Future for RecvFromFuture {
    type Output = Result<(RoutingId, Message), RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_raw(context).map_ok(with_sender)
    }
}
