//! The connection of a client: requests that are not answered yet, sent as soon as there is a server, and again to the
//! next one when it is gone.
//!
//! A *session* is the life of one connection. A request remembers in which session it was sent; the thread of the client
//! sends what was not sent in the present one. Requests are made so that the server can do them twice.

mod pending;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::Asked;
use super::member::{Beat, Beaten};
use super::{Connection, Core, PeerError};
use crate::context::Context;
use crate::error::{SendError, SetupError};
use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::{
    self, Answer, DescribeTopic, RemoteCode, Reply, Request, Settle, TopicName, Verdict,
};
use crate::message::Message;
use crate::monitor::{Event, Monitor};
use crate::pattern::Dealer;
use crate::socket::{SendFuture, Socket};
use crate::sync::{Condvar, Mutex, MutexGuard, lock};
use crate::transport::{Endpoint, now};
pub(super) use pending::{Answered, Pending, Slot};

/// Calls in flight, without appends of records and without those that wait at the server until something comes: these must not
/// keep others from being asked at all. The server takes more, of both kinds.
const CALLS_MAX: usize = 64;
/// Appends of records in flight: one for each partition, but no more than this.
pub(super) const APPENDS_MAX: usize = 64;
/// Pause after the server said that it is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// What keeps a request from being sent while there is a connection.
const CROWD: &str = "too many others are in flight";
/// Longest pause before a lost connection is made again.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The tasks of the client's thread.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const CONTROL: u64 = 2;

/// The connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket<Dealer>,
    endpoint: String,
    alarm: Arc<Alarm>,
    state: Mutex<State>,
    /// Rung when a call ends: there is room for another.
    room: Condvar,
    correlations: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    /// Number of the present connection; none is 0.
    session: u64,
    closed: bool,
    /// Why there was no connection when one was tried last.
    trouble: Option<String>,
    calls: BTreeMap<u64, Call>,
    /// Calls that somebody waits for.
    waited: usize,
    /// Whether there may be calls that were not sent in this session.
    unsent: bool,
    /// When to send again what the server was too busy for.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Call {
    message: Message,
    asked: Arc<Asked>,
    sent_in: u64,
    sink: Sink,
}

impl State {
    fn connection(&self) -> Connection {
        Connection::new(self.connected, self.session > 0, self.trouble.clone())
    }
}

/// Where the answer goes.
#[derive(Debug, Clone)]
pub(super) enum Sink {
    /// To somebody who waits, or will, and counts among the calls in flight.
    Slot(Arc<Slot>),
    /// To a task, or to somebody whose request waits at the server. It does not count: it must not wait for others before it can
    /// ask, nor others for it.
    Task(Arc<Slot>),
    /// To a member of a group.
    Beat(Arc<Beat>, Beaten),
    /// To what is known of a topic that is appended to.
    Topic(Arc<str>),
    /// To the batches of a partition.
    Lane(super::producer::LaneKey),
    /// Nobody waits any more for the deliveries of this queue: they go back.
    GiveBack(String),
    /// Nowhere.
    Nobody,
}

impl Link {
    /// A socket that is not connected yet, and its monitor.
    pub(super) fn open(
        context: &Context,
        endpoint: &Endpoint,
        reconnect_interval: Duration,
    ) -> Result<(Self, Monitor), SetupError> {
        let socket = context
            .dealer()
            .immediate(true)
            .linger(Duration::from_secs(1))
            .reconnect_interval(reconnect_interval)
            .reconnect_interval_max(RECONNECT_MAX.max(reconnect_interval))
            .open()?;
        let monitor = socket.monitor();
        let link = Self {
            socket,
            endpoint: endpoint.to_string(),
            alarm: Arc::default(),
            state: Mutex::default(),
            room: Condvar::default(),
            correlations: AtomicU64::new(1),
        };
        Ok((link, monitor))
    }

    pub(super) fn connect(&self, endpoint: &Endpoint) -> Result<(), SetupError> {
        self.socket.connect(endpoint.clone())
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Notes what happened to the connection.
    fn session(&self, connected: bool) {
        let mut state = lock(&self.state);
        state.connected = connected;
        if connected {
            state.trouble = None;
            state.session += 1;
            state.unsent = true;
            // Deliveries that nobody waits for are not asked for again.
            state.calls.retain(|_, call| !matches!(call.sink, Sink::GiveBack(_)));
        }
        drop(state);
        self.alarm.ring(CONTROL);
    }

    fn trouble(&self, why: &impl ToString) {
        lock(&self.state).trouble = Some(why.to_string());
    }

    /// How it stands with it now.
    pub(super) fn connection(&self) -> Connection {
        lock(&self.state).connection()
    }

    /// Puts a request under way: sends it if there is a connection with room, else leaves it to the thread.
    fn submit(
        &self,
        mut state: MutexGuard<'_, State>,
        request: &Request,
        body: Vec<Bytes>,
        sink: Sink,
    ) -> (u64, Arc<Asked>) {
        let correlation = self.correlations.fetch_add(1, Ordering::Relaxed);
        let message = protocol::encode_request(correlation, request, body);
        let asked = Arc::new(Asked::from(request));
        let mut call = Call { message, asked: Arc::clone(&asked), sent_in: 0, sink };
        // Behind others that wait to be sent it would overtake them.
        let sent =
            state.connected && !state.unsent && self.socket.try_send(call.message.clone()).is_ok();
        if sent {
            call.sent_in = state.session;
        } else {
            state.unsent = true;
        }
        state.calls.insert(correlation, call);
        drop(state);
        if !sent {
            self.alarm.ring(CONTROL);
        }
        (correlation, asked)
    }
}

impl Core {
    /// Starts the client's threads: one that sends and receives, and one that hears of connections.
    pub(super) fn start_threads(self: &Arc<Self>, monitor: Monitor) -> Result<(), SetupError> {
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let core = Arc::clone(self);
        named("peermq-log-client").spawn(move || core.run())?;
        let core = Arc::downgrade(self);
        named("peermq-log-watch").spawn(move || {
            for event in monitor.iter() {
                let Some(core) = core.upgrade() else { return };
                match event {
                    Event::PeerReady { .. } => core.link.session(true),
                    Event::Disconnected { reason, .. } => {
                        core.link.session(false);
                        core.link.trouble(&reason);
                    }
                    Event::ConnectFailed { reason, .. } => core.link.trouble(&reason),
                    Event::HandshakeFailed { reason, .. } => core.link.trouble(&reason),
                    _ => {}
                }
            }
        })?;
        Ok(())
    }

    /// Sends what a member of a group has to say. False if the client is closed.
    pub(super) fn submit_beat(&self, request: &Request, beat: &Arc<Beat>, kind: Beaten) -> bool {
        let state = lock(&self.link.state);
        if state.closed {
            return false;
        }
        self.link.submit(state, request, Vec::new(), Sink::Beat(Arc::clone(beat), kind));
        true
    }

    /// Sends the next batch of a partition. False if the client is closed.
    pub(super) fn submit_append(
        &self,
        request: &Request,
        batch: Bytes,
        lane: super::producer::LaneKey,
    ) -> bool {
        let state = lock(&self.link.state);
        if state.closed {
            return false;
        }
        self.link.submit(state, request, vec![batch], Sink::Lane(lane));
        true
    }

    /// Asks what a topic is now.
    pub(super) fn submit_describe(&self, topic: &Arc<str>) {
        let state = lock(&self.link.state);
        if !state.closed {
            let request = DescribeTopic(TopicName { topic: topic.to_string() }).into();
            self.link.submit(state, &request, Vec::new(), Sink::Topic(Arc::clone(topic)));
        }
    }

    /// Sends what nobody waits for.
    pub(super) fn submit_aside(&self, request: &Request) {
        let state = lock(&self.link.state);
        if !state.closed {
            self.link.submit(state, request, Vec::new(), Sink::Nobody);
        }
    }

    /// Nobody waits for this answer any more. Says why there was none yet, unless it is there by now.
    pub(super) fn give_up(&self, pending: &Pending) -> Option<PeerError> {
        let mut state = lock(&self.link.state);
        let call = state.calls.get_mut(&pending.correlation)?;
        if matches!(call.sink, Sink::GiveBack(_)) {
            return None;
        }
        let sent = call.sent_in > 0;
        let counts = matches!(call.sink, Sink::Slot(_));
        match &pending.queue {
            // The server may be about to lock records for it.
            Some(queue) if sent => call.sink = Sink::GiveBack(queue.clone()),
            _ => drop(state.calls.remove(&pending.correlation)),
        }
        let connection = state.connection();
        if counts {
            state.waited = state.waited.saturating_sub(1);
        }
        drop(state);
        if counts {
            self.link.room.notify_one();
        }
        Some(match sent {
            true => self.unanswered(&pending.asked, connection),
            false => self.not_sent(&pending.asked, connection, CROWD),
        })
    }

    /// Ends everything: whoever waits gets an error.
    pub(super) fn close(&self) {
        let mut state = lock(&self.link.state);
        state.closed = true;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        for call in calls.into_values() {
            match call.sink {
                Sink::Slot(slot) | Sink::Task(slot) => slot.set(Err(self.closed())),
                Sink::Beat(beat, kind) => self.beaten(&beat, kind, Err(self.closed())),
                Sink::Topic(_) | Sink::Lane(_) | Sink::GiveBack(_) | Sink::Nobody => {}
            }
        }
        self.fail_lanes();
        self.link.room.notify_all();
        self.link.alarm.ring(CONTROL);
    }

    /// The client's thread.
    fn run(self: Arc<Self>) {
        let socket = &self.link.socket;
        let receive = self.link.alarm.waker(RECEIVE);
        let mut receiving = socket.recv_async();
        let mut sending = None;
        loop {
            self.send_unsent(&mut sending);
            loop {
                let polled = Pin::new(&mut receiving).poll(&mut TaskContext::from_waker(&receive));
                match polled {
                    Poll::Ready(Ok(message)) => self.received(&message),
                    Poll::Ready(Err(_)) => return self.close(),
                    Poll::Pending => break,
                }
                receiving = socket.recv_async();
            }
            let (closed, retry_at) = {
                let state = lock(&self.link.state);
                (state.closed, state.retry_at)
            };
            if closed {
                return;
            }
            let next = [retry_at, self.beat_if_due()].into_iter().flatten().min();
            self.link.alarm.wait(next);
            if retry_at.is_some_and(|retry_at| retry_at <= now()) {
                let mut state = lock(&self.link.state);
                (state.retry_at, state.unsent) = (None, true);
            }
        }
    }

    /// Sends what was not sent in this session, in the order in which it came.
    fn send_unsent(&self, sending: &mut Option<(SendFuture<Dealer>, u64, u64)>) {
        let send = self.link.alarm.waker(SEND);
        let mut state = lock(&self.link.state);
        // Dropped, it has sent nothing.
        sending.take_if(|(_, correlation, _)| !state.calls.contains_key(correlation));
        if let Some((future, correlation, session)) = sending {
            match Pin::new(future).poll(&mut TaskContext::from_waker(&send)) {
                // It goes over whatever connection comes; until then the others wait behind it.
                Poll::Pending => return,
                Poll::Ready(sent) => {
                    if sent.is_ok()
                        && let Some(call) = state.calls.get_mut(correlation)
                    {
                        call.sent_in = *session;
                    }
                    *sending = None;
                }
            }
        }
        if !state.connected || !state.unsent || state.retry_at.is_some() {
            return;
        }
        let session = state.session;
        for (correlation, call) in state.calls.iter_mut().filter(|(_, c)| c.sent_in != session) {
            match self.link.socket.try_send(call.message.clone()) {
                Ok(()) => call.sent_in = session,
                Err(SendError::Full(message)) => {
                    let mut future = self.link.socket.send_async(message);
                    let context = &mut TaskContext::from_waker(&send);
                    if Pin::new(&mut future).poll(context).is_ready() {
                        call.sent_in = session;
                        continue;
                    }
                    *sending = Some((future, *correlation, session));
                    return;
                }
                Err(_) => return,
            }
        }
        state.unsent = false;
    }

    fn received(self: &Arc<Self>, message: &Message) {
        let (correlation, outcome) = match protocol::decode_answer(message) {
            Ok((correlation, outcome)) => (correlation, Ok(outcome)),
            Err(unreadable) => match unreadable.correlation {
                Some(correlation) => (correlation, Err(unreadable.reason)),
                // Whoever waits for it is told by the deadline.
                None => return,
            },
        };
        let mut state = lock(&self.link.state);
        if matches!(&outcome, Ok(Err(error)) if error.code == RemoteCode::Busy) {
            if let Some(call) = state.calls.get_mut(&correlation) {
                call.sent_in = 0;
                state.retry_at = now().checked_add(BUSY_PAUSE);
            }
            return;
        }
        let Some(call) = state.calls.remove(&correlation) else { return };
        if matches!(call.sink, Sink::Slot(_)) {
            state.waited = state.waited.saturating_sub(1);
        }
        drop(state);
        self.link.room.notify_one();
        let asked = call.asked;
        let answered = match outcome {
            Ok(Ok(Reply { answer, body })) => Ok(Answered { answer, body, asked }),
            Ok(Err(error)) => Err(self.refused(&asked, error)),
            Err(reason) => Err(self.bad_answer(&asked, reason)),
        };
        match call.sink {
            Sink::Slot(slot) | Sink::Task(slot) => slot.set(answered),
            Sink::Beat(beat, kind) => self.beaten(&beat, kind, answered),
            Sink::Topic(topic) => self.topic_described(&topic, answered),
            Sink::Lane(lane) => self.append_done(&lane, answered),
            Sink::GiveBack(queue) => self.give_back(queue, answered),
            Sink::Nobody => {}
        }
    }

    fn give_back(&self, queue: String, answered: Result<Answered, PeerError>) {
        if let Ok(Answered { answer: Answer::Acquired(acquired), .. }) = answered
            && !acquired.deliveries.is_empty()
        {
            let deliveries = acquired.deliveries;
            self.submit_aside(&Settle { queue, verdict: Verdict::Release, deliveries }.into());
        }
    }
}
