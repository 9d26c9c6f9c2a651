//! What the server knows of its clients: requests in flight, and answers that wait to be sent. A client of which there
//! is nothing is forgotten.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::SendError;
use crate::log::groups::Beating;
use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::Request;
use crate::message::Message;
use crate::pattern::{Router, RoutingId};
use crate::peer::PeerId;
use crate::socket::{SendFuture, Socket};

/// A request that waits until its client has read what it was answered, and whose member is not silent meanwhile.
pub(super) type Deferred = (u64, Request, Vec<Bytes>, Option<Beating>);

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It waits until something comes.
    Poll,
    /// It asks for what has come.
    Look,
    Other,
}

impl Kind {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            waits if waits.waits() => Self::Poll,
            Request::Fetch(_) | Request::Acquire(_) | Request::AwaitGroup(_) => Self::Look,
            _ => Self::Other,
        }
    }
}

/// Requests in flight.
#[derive(Debug, Default)]
struct Requests {
    /// By number.
    bytes_of: HashMap<u64, (Kind, usize)>,
    /// Of all of them.
    bytes: usize,
}

impl Requests {
    fn remove(&mut self, correlation: u64) -> Option<Kind> {
        let (kind, bytes) = self.bytes_of.remove(&correlation)?;
        self.bytes -= bytes;
        Some(kind)
    }
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    routing_id: RoutingId,
    /// The connection: a client that comes back under its routing id is another one, and gets none of these answers.
    peer: PeerId,
    /// Requests that are not answered, but for those that only wait for something to come.
    active: Requests,
    /// Those that only wait.
    polls: Requests,
    pub(super) deferred: VecDeque<Deferred>,
    /// Tasks that could go on, but whose answers have to wait until it has read others.
    pub(super) held: BTreeSet<u64>,
    answers: VecDeque<Message>,
    answer_bytes: usize,
    /// Bytes of what tasks have taken for it and cannot give yet, by task, and of all that.
    taken: HashMap<u64, usize>,
    taken_bytes: usize,
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
    pub(super) fn new(routing_id: RoutingId, peer: PeerId) -> Self {
        Self {
            routing_id,
            peer,
            active: Requests::default(),
            polls: Requests::default(),
            deferred: VecDeque::new(),
            held: BTreeSet::new(),
            answers: VecDeque::new(),
            answer_bytes: 0,
            taken: HashMap::new(),
            taken_bytes: 0,
            sending: None,
        }
    }

    /// Whether there is nothing to be known of it.
    pub(super) fn is_idle(&self) -> bool {
        let asked = self.active.bytes_of.len() + self.polls.bytes_of.len();
        asked == 0 && self.answers.is_empty() && self.sending.is_none()
    }

    /// Whether a request of this number is not answered yet.
    pub(super) fn has_asked(&self, correlation: u64) -> bool {
        [&self.active, &self.polls].iter().any(|asked| asked.bytes_of.contains_key(&correlation))
    }

    /// Whether there is room for so many more bytes of requests of a kind. There is for any one alone.
    pub(super) fn takes(&self, kind: Kind, bytes: usize, bytes_max: usize) -> bool {
        let Requests { bytes: before, .. } =
            if kind == Kind::Poll { &self.polls } else { &self.active };
        *before == 0 || before.saturating_add(bytes) <= bytes_max
    }

    /// A request is in flight.
    pub(super) fn ask(&mut self, kind: Kind, correlation: u64, bytes: usize) {
        let asked = if kind == Kind::Poll { &mut self.polls } else { &mut self.active };
        asked.bytes_of.insert(correlation, (kind, bytes));
        asked.bytes += bytes;
    }

    /// How many requests in flight only wait for something to come.
    pub(super) fn polls(&self) -> usize {
        self.polls.bytes_of.len()
    }

    /// A request is answered, which was of this kind.
    pub(super) fn finish(&mut self, correlation: u64) -> Option<Kind> {
        self.polls.remove(correlation).or_else(|| self.active.remove(correlation))
    }

    /// A task has taken so many bytes for it which it cannot give yet; 0 when it gives them, or gives them up.
    pub(super) fn takes_up(&mut self, task: u64, bytes: usize) {
        let before = match bytes {
            0 => self.taken.remove(&task),
            _ => self.taken.insert(task, bytes),
        };
        self.taken_bytes = self.taken_bytes + bytes - before.unwrap_or(0);
    }

    /// Whether it has to read before it is given more.
    pub(super) fn is_over(&self, bytes_max: usize) -> bool {
        self.answer_bytes + self.taken_bytes > bytes_max
    }

    /// Requests that are not answered, or whose answers are not sent; without those that only wait.
    pub(super) fn in_flight(&self) -> usize {
        let active = self.active.bytes_of.len();
        active + self.answers.len() + usize::from(self.sending.is_some())
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
            match socket.try_send_to_peer(&self.routing_id, self.peer, answer) {
                Ok(()) => self.answer_bytes = self.answer_bytes.saturating_sub(bytes),
                Err(SendError::Full(answer)) => {
                    let to = self.routing_id.clone();
                    let future = socket.send_to_peer_async(to, self.peer, answer);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::Frame;
    use crate::pattern::Dealer;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A server's socket with room for one answer, a client's that is known there as `x`, and what is known of it.
    fn connected() -> (crate::Context, Socket<Router>, Socket<Dealer>, Client) {
        let context = crate::Context::new();
        let router = context.router().mandatory(true).send_hwm(1).open().unwrap();
        let endpoint = router.bind("inproc://log").unwrap();
        let dealer = context.dealer().routing_id("x").recv_hwm(1).open().unwrap();
        dealer.connect(endpoint).unwrap();
        dealer.send("request").unwrap();
        let (from, request) = router.recv_from_timeout(PATIENCE).unwrap();
        let peer = request.peer().unwrap().id();
        (context, router, dealer, Client::new(from, peer))
    }

    #[test]
    fn requests_in_flight_have_so_many_bytes_together_or_are_one() {
        let (_context, _router, _dealer, mut client) = connected();
        let (one, poll) = (Kind::Other, Kind::Poll);
        assert!(client.takes(one, 101, 100), "one alone");
        client.ask(one, 1, 101);
        assert!(!client.takes(one, 1, 100));
        assert_eq!(client.finish(1), Some(one));
        client.ask(one, 2, 60);
        assert!(client.takes(one, 40, 100) && !client.takes(one, 41, 100));
        client.ask(one, 3, 40);
        client.finish(2);
        assert!(client.takes(one, 60, 100) && !client.takes(one, 61, 100) && client.has_asked(3));
        // Those that wait, as they do most of the time, by themselves: one alone has to be alone some day.
        client.ask(poll, 4, 90);
        assert!(client.takes(one, 60, 100) && !client.takes(poll, 11, 100));
        assert_eq!((client.finish(4), client.finish(4)), (Some(poll), None));
        assert!(client.takes(poll, 101, 100));
    }

    /// Another client under the routing id of the first, which is gone.
    fn replaced(
        context: &crate::Context,
        router: &Socket<Router>,
        first: Socket<Dealer>,
    ) -> Socket<Dealer> {
        let monitor = router.monitor();
        first.close(Duration::ZERO).ok();
        while !matches!(monitor.recv_timeout(PATIENCE).unwrap(), crate::Event::Disconnected { .. })
        {
        }
        let next = context.dealer().routing_id("x").open().unwrap();
        next.connect(router.endpoint().unwrap()).unwrap();
        router.wait_for_peers(1, PATIENCE).unwrap();
        next
    }

    fn text(message: Message) -> Vec<u8> {
        message.frames().iter().flat_map(|frame| frame.to_vec()).collect()
    }

    #[test]
    fn an_answer_does_not_reach_another_connection_with_the_routing_id() {
        let (context, router, dealer, mut client) = connected();
        let next = replaced(&context, &router, dealer);
        client.push(Message::from("for the first"));
        let alarm = Arc::new(Alarm::default());
        assert_eq!(client.send(&router, &alarm, 2), Sent::Gone);
        router.send_to(&client.routing_id, "for the second").unwrap();
        assert_eq!(text(next.recv_timeout(PATIENCE).unwrap()), b"for the second");
    }

    #[test]
    fn an_answer_that_waits_for_room_is_not_sent_over_the_next_connection() {
        let (context, router, dealer, mut client) = connected();
        let alarm = Arc::new(Alarm::default());
        while client.sending.is_none() {
            client.push(Message::from(Frame::from("for the first")));
            assert_eq!(client.send(&router, &alarm, 2), Sent::Going);
        }
        let next = replaced(&context, &router, dealer);
        assert_eq!(client.send(&router, &alarm, 2), Sent::Gone);
        router.send_to(&client.routing_id, "for the second").unwrap();
        assert_eq!(text(next.recv_timeout(PATIENCE).unwrap()), b"for the second");
    }
}
