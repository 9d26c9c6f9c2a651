//! What the server knows of its clients: requests in flight, and answers that wait to be sent. A client of which there
//! is nothing is forgotten.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::SendError;
use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::Request;
use crate::message::Message;
use crate::pattern::{Router, RoutingId};
use crate::peer::PeerId;
use crate::socket::{SendFuture, Socket};

/// A request that waits until its client has read what it was answered.
pub(super) type Deferred = (u64, Request, Vec<Bytes>);

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    routing_id: RoutingId,
    /// Numbers of requests that are not answered, but for those that only wait for something to come.
    pub(super) active: HashSet<u64>,
    /// Those.
    pub(super) polls: HashSet<u64>,
    pub(super) deferred: VecDeque<Deferred>,
    /// Tasks that could go on, but whose answers have to wait until it has read others.
    pub(super) held: BTreeSet<u64>,
    answers: VecDeque<Message>,
    answer_bytes: usize,
    /// The answer for which there was no room, its bytes, and the task that waits for it.
    sending: Option<(SendFuture<Router>, usize, u64)>,
}

/// How the sending of answers went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// All are sent, or wait for room.
    Going,
    /// The client is gone.
    Gone,
}

impl Client {
    pub(super) fn new(routing_id: RoutingId) -> Self {
        Self {
            routing_id,
            active: HashSet::new(),
            polls: HashSet::new(),
            deferred: VecDeque::new(),
            held: BTreeSet::new(),
            answers: VecDeque::new(),
            answer_bytes: 0,
            sending: None,
        }
    }

    /// Whether there is nothing to be known of it.
    pub(super) fn is_idle(&self) -> bool {
        let asked = self.active.len() + self.polls.len();
        asked == 0 && self.answers.is_empty() && self.sending.is_none()
    }

    /// Requests that are not answered, or whose answers are not sent; without those that only wait.
    pub(super) fn in_flight(&self) -> usize {
        self.active.len() + self.answers.len() + usize::from(self.sending.is_some())
    }

    /// Bytes of answers that wait to be sent.
    pub(super) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// The task that waits for room, if one does.
    pub(super) fn sending_task(&self) -> Option<u64> {
        self.sending.as_ref().map(|(_, _, task)| *task)
    }

    /// Queues an answer.
    pub(super) fn push(&mut self, answer: Message) {
        self.answer_bytes += answer.body_bytes();
        self.answers.push_back(answer);
    }

    /// Sends what there is room for. `task` is the number by which it waits for more room, if it must.
    pub(super) fn send(&mut self, socket: &Socket<Router>, alarm: &Arc<Alarm>, task: u64) -> Sent {
        loop {
            if let Some((future, bytes, task)) = &mut self.sending {
                let waker = alarm.waker(*task);
                match Pin::new(future).poll_sending(&mut Context::from_waker(&waker)) {
                    Poll::Pending => return Sent::Going,
                    Poll::Ready(Ok(())) => {
                        self.answer_bytes = self.answer_bytes.saturating_sub(*bytes);
                        self.sending = None;
                    }
                    Poll::Ready(Err(_)) => return Sent::Gone,
                }
                continue;
            }
            let Some(answer) = self.answers.pop_front() else {
                self.answer_bytes = 0;
                return Sent::Going;
            };
            let bytes = answer.body_bytes();
            match socket.try_send_to(&self.routing_id, answer) {
                Ok(()) => self.answer_bytes = self.answer_bytes.saturating_sub(bytes),
                Err(SendError::Full(answer)) => {
                    let future = socket.send_to_async(self.routing_id.clone(), answer);
                    self.sending = Some((future, bytes, task));
                }
                Err(_) => return Sent::Gone,
            }
        }
    }
}

/// The future of a send, polled by hand.
trait PollSending {
    fn poll_sending(self, context: &mut Context<'_>) -> Poll<Result<(), SendError>>;
}

impl PollSending for Pin<&mut SendFuture<Router>> {
    #[allow(clippy::result_large_err)]
    fn poll_sending(self, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll(context)
    }
}

/// All clients of which there is something.
pub(super) type Clients = HashMap<PeerId, Client>;
