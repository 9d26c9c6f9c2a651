//! A worker's sends and receives: the same call in every form it has, chosen anew each time, until it succeeds.

use std::sync::Arc;
use std::time::Duration;

use peermq::{
    CanReceive, CanSend, Message, RecvError, Router, RoutingId, SendError, SendFuture, Socket,
};

use super::chance::{Chance, GiveUp, sleep};
use super::executor::Style;
use super::ledger::Ledger;

/// The way to one receiver, or to several in turn.
pub(crate) trait Outlet: Sync {
    /// The socket's type.
    type Of: CanSend;
    /// Waits for room, with or without a limit.
    fn send(&self, message: Message, limit: Option<Duration>) -> Result<(), SendError>;
    /// Does not wait.
    fn try_send(&self, message: Message) -> Result<(), SendError>;
    /// Waits as a task.
    fn send_async(&self, message: Message) -> SendFuture<Self::Of>;
}

impl<P: CanSend> Outlet for Socket<P> {
    type Of = P;

    fn send(&self, message: Message, limit: Option<Duration>) -> Result<(), SendError> {
        match limit {
            Some(limit) => self.send_timeout(message, limit),
            None => Socket::send(self, message),
        }
    }

    fn try_send(&self, message: Message) -> Result<(), SendError> {
        Socket::try_send(self, message)
    }

    fn send_async(&self, message: Message) -> SendFuture<P> {
        Socket::send_async(self, message)
    }
}

/// The way back to a peer of a ROUTER.
pub(crate) struct Reply<'a>(pub(crate) &'a Socket<Router>, pub(crate) RoutingId);

impl Outlet for Reply<'_> {
    type Of = Router;

    fn send(&self, message: Message, _: Option<Duration>) -> Result<(), SendError> {
        self.0.send_to(&self.1, message)
    }

    fn try_send(&self, message: Message) -> Result<(), SendError> {
        self.0.try_send_to(&self.1, message)
    }

    fn send_async(&self, message: Message) -> SendFuture<Router> {
        self.0.send_to_async(self.1.clone(), message)
    }
}

/// One thread or task with its own chance and temper.
pub(crate) struct Worker {
    /// How it waits.
    pub(crate) style: Style,
    /// What it draws from.
    pub(crate) chance: Chance,
    /// Where it enters what it did.
    pub(crate) ledger: Arc<Ledger>,
    /// It pauses once in so many calls.
    pub(crate) pauses_once_in: u64,
    /// It loses patience once in so many calls.
    pub(crate) impatient_once_in: u64,
}

impl Worker {
    async fn maybe_pause(&mut self) {
        if !self.chance.one_in(self.pauses_once_in) {
            return;
        }
        if self.style == Style::Blocking || self.chance.one_in(2) {
            self.chance.pause();
        } else {
            sleep(self.chance.moment()).await;
        }
    }

    /// Sends `message` until it is accepted. False when the socket is closed.
    pub(crate) async fn send(&mut self, outlet: &impl Outlet, message: Message) -> bool {
        self.maybe_pause().await;
        let mut message = message;
        loop {
            let impatient = self.chance.one_in(self.impatient_once_in);
            let limit = impatient.then(|| self.chance.moment());
            let sent = if impatient && self.chance.one_in(2) {
                outlet.try_send(message)
            } else if self.style == Style::Blocking {
                outlet.send(message, limit)
            } else if let Some(limit) = limit {
                let again = message.clone();
                let given_up = GiveUp::new(outlet.send_async(message), limit).await;
                given_up.unwrap_or(Err(SendError::Timeout(again)))
            } else {
                outlet.send_async(message).await
            };
            match sent {
                Ok(()) => {
                    self.ledger.note_progress();
                    return true;
                }
                Err(SendError::Full(back) | SendError::Timeout(back)) => message = back,
                Err(SendError::Closed(_)) => return false,
                Err(error) => {
                    self.ledger.fail(format!("send: {error}"));
                    return false;
                }
            }
        }
    }

    /// Receives until there is a message. `None` when the socket is closed.
    pub(crate) async fn recv<P: CanReceive>(&mut self, socket: &Socket<P>) -> Option<Message> {
        self.maybe_pause().await;
        loop {
            let impatient = self.chance.one_in(self.impatient_once_in);
            let limit = impatient.then(|| self.chance.moment());
            let received = if impatient && self.chance.one_in(2) {
                socket.try_recv()
            } else if self.style != Style::Blocking {
                let future = socket.recv_async();
                match limit {
                    None => future.await,
                    Some(limit) => {
                        GiveUp::new(future, limit).await.unwrap_or(Err(RecvError::Timeout))
                    }
                }
            } else if let Some(limit) = limit {
                socket.recv_timeout(limit)
            } else {
                socket.recv()
            };
            match received {
                Ok(message) => {
                    self.ledger.note_progress();
                    return Some(message);
                }
                Err(RecvError::Empty | RecvError::Timeout) => {}
                Err(_) => return None,
            }
        }
    }
}
