//! The core of a socket: one lock around the pattern's decisions, the waiting senders and the peers.
//!
//! The one send path (`send_attempt`) and the one receive path (`Inbound::take`) serve blocking, trying and async
//! calls alike; only what happens without room or message differs. `peers.rs` is the side that reactors see.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::answers::{Answer, Answers};
use super::inbound::Inbound;
use super::only_peer::OnlyPeer;
use super::shared::{Shared, SocketControl, WaitingTask};
use super::stats::{LossCounters, Stats};
use super::wait::{Key, WaitList};
use crate::completion::{Completion, Guard, completion};
use crate::error::{SetupError, WaitError};
use crate::message::Message;
use crate::monitor::{DisconnectReason, Event, Reporter};
use crate::options::Options;
use crate::pattern::{Behaviour, Sending, To, Unsent};
use crate::peer::PeerId;
use crate::pipe::{Content, Loss, Manner, Offer, Pipe};
use crate::reactor::{EndpointId, Job, Scope, Slot, SocketId, random_seed};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, lock};
use crate::transport::{self, Endpoint};
use crate::wire::HandshakeConfig;

/// Why a message was not accepted now.
pub(crate) enum NotSent {
    Unsent(Unsent),
    Closed,
}

pub(crate) struct Core<P: Behaviour> {
    pub(super) this: Weak<Self>,
    pub(super) id: SocketId,
    pub(super) context: Arc<Shared>,
    pub(super) options: Arc<Options>,
    pub(super) handshake: Arc<HandshakeConfig>,
    /// Locked by `locked` where anything changes that a sender's choice depends on.
    state: Mutex<State<P>>,
    only: OnlyPeer,
    /// Whether `P::admits_all`; goes with `state`, and is read without.
    admits_all: AtomicBool,
    /// Something about the peers changed; goes with `state`.
    pub(super) changed: Condvar,
    pub(super) inbound: Inbound,
    pub(super) losses: LossCounters,
    pub(super) answers: Answers,
    next_peer: AtomicU64,
    monitors: Mutex<Vec<Reporter>>,
}

/// What the socket's lock protects.
pub(super) struct State<P> {
    pub(super) pattern: P,
    pub(super) senders: WaitList,
    pub(super) peers: HashMap<PeerId, Peer>,
    pub(super) endpoints: Vec<Attachment>,
    pub(super) closed: bool,
    /// Accepted peers that are gone and left unread messages; they count as peers until those are read.
    pub(super) orphans: Arc<AtomicUsize>,
    /// The close under way, and its linger time.
    closing: Option<(Completion, Duration)>,
    sent_messages: u64,
    sent_bytes: u64,
}

/// A pipe that belongs to the socket.
pub(super) struct Peer {
    pub(super) pipe: Arc<Pipe>,
    /// It was made by a connect, and stays when its session ends.
    pub(super) kept: bool,
    /// Its peer is there.
    pub(super) ready: bool,
}

/// An endpoint that the socket is bound or connected to.
pub(super) struct Attachment {
    pub(super) id: EndpointId,
    pub(super) endpoint: Endpoint,
    pub(super) bound: bool,
    pub(super) pipe: Option<Arc<Pipe>>,
}

impl<P: Behaviour> Core<P> {
    pub(crate) fn new(context: Arc<Shared>, id: SocketId, options: Options) -> Arc<Self> {
        let handshake = HandshakeConfig {
            kind: P::KIND,
            identity: options.routing_id.clone().into(),
            properties: Vec::new(),
            limits: options.limits,
        };
        let state = State {
            pattern: P::new(&options, random_seed()),
            senders: WaitList::default(),
            peers: HashMap::new(),
            endpoints: Vec::new(),
            closed: false,
            orphans: Arc::new(AtomicUsize::new(0)),
            closing: None,
            sent_messages: 0,
            sent_bytes: 0,
        };
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            id,
            context,
            options: Arc::new(options),
            handshake: Arc::new(handshake),
            state: Mutex::new(state),
            only: OnlyPeer::default(),
            admits_all: AtomicBool::new(false),
            changed: Condvar::new(),
            inbound: Inbound::default(),
            losses: LossCounters::default(),
            answers: Answers::new(transport::now()),
            next_peer: AtomicU64::new(1),
            monitors: Mutex::new(Vec::new()),
        })
    }

    /// The reactor that a thread waiting for this socket may turn.
    pub(crate) fn slot(&self) -> Option<&Slot> {
        self.context.only_slot()
    }

    /// A task begins to wait for this socket.
    pub(crate) fn task_waits(&self) -> WaitingTask {
        self.context.task_waits()
    }

    pub(crate) fn options(&self) -> &Arc<Options> {
        &self.options
    }

    pub(crate) fn inbound(&self) -> &Inbound {
        &self.inbound
    }

    pub(super) fn next_peer_id(&self) -> PeerId {
        PeerId(self.next_peer.fetch_add(1, Ordering::Relaxed))
    }

    /// The socket's lock.
    pub(super) fn locked(&self) -> Locked<'_, P> {
        Locked { state: lock(&self.state), only: &self.only, admits_all: &self.admits_all }
    }

    #[cfg(feature = "log")]
    pub(super) fn has_peer(&self, peer: PeerId) -> bool {
        self.locked().peers.get(&peer).is_some_and(|peer| peer.ready)
    }

    /// Hands a message to the only peer, if there is just one and it has room. False says nothing but that `send_attempt` must be
    /// asked.
    #[inline]
    pub(crate) fn send_short(&self, message: &Message) -> bool {
        let Some(pipe) = self.only.get() else { return false };
        if message.frames().is_empty() {
            return false;
        }
        let answer = if P::FANS_OUT { Answer::No } else { self.next_answer() };
        let together = answer == Answer::Together;
        let manner = Manner {
            answering: answer != Answer::No,
            together,
            inline: !together,
            told: P::RECEIVES,
            sole: true,
        };
        match pipe.offer(Content::Message(message), manner) {
            Offer::Full => {
                self.inbound.heard().not_answered(answer);
                return false;
            }
            Offer::Accepted => {}
            Offer::AcceptedToWrite(role) => {
                role.run();
                if P::RECEIVES {
                    self.answers.wrote();
                }
            }
            Offer::AcceptedToGather => self.note_gathering([Arc::clone(pipe)], 0, answer),
        }
        true
    }

    /// Routes a message, or registers `waiting` under the same lock that found no room. A message that is not accepted
    /// stays as it was.
    #[inline]
    pub(crate) fn send_attempt(
        &self,
        message: &mut Message,
        to: Option<To<'_>>,
        waiting: Option<(&mut Key, &Waker)>,
    ) -> Result<(), NotSent> {
        let answer = self.next_answer();
        let bytes = message.body_bytes() as u64;
        let answering = P::RECEIVES && answer != Answer::No;
        let mut sending = Sending::new(answering, answer == Answer::Together, P::RECEIVES);
        let mut locked = self.locked();
        let state = &mut *locked;
        if state.closed {
            return Err(NotSent::Closed);
        }
        if message.frames().is_empty() {
            let reason = "a message has at least one frame";
            return Err(NotSent::Unsent(Unsent::Invalid { reason }));
        }
        let routed = state.pattern.route(message, to, &mut sending);
        let mut next = None;
        match &routed {
            Ok(()) => {
                state.sent_messages += 1;
                state.sent_bytes += bytes;
                // Room for this one may be room for the next waiter too.
                next = state.senders.take_one();
            }
            Err(Unsent::NoRoom) => {
                self.inbound.heard().not_answered(answer);
                if let Some((key, waker)) = waiting {
                    state.senders.register(key, waker);
                }
            }
            Err(_) => {}
        }
        drop(locked);
        self.count_drops(&sending);
        if let Some(first) = sending.gathering_first.take() {
            let more = std::mem::take(&mut sending.gathering_more);
            self.note_gathering(std::iter::once(first).chain(more), 0, answer);
        }
        if sending.gathering_for > 0 {
            self.note_gathering([], sending.gathering_for, answer);
        }
        if sending.run() && Self::GATHERS {
            self.answers.wrote();
        }
        if let Some(waker) = next {
            waker.wake();
        }
        routed.map_err(NotSent::Unsent)
    }

    #[inline]
    pub(super) fn count_drops(&self, sending: &Sending) {
        if sending.dropped_hwm > 0 {
            self.losses.hwm.fetch_add(sending.dropped_hwm, Ordering::Relaxed);
        }
        if sending.dropped_unroutable > 0 {
            self.losses.unroutable.fetch_add(sending.dropped_unroutable, Ordering::Relaxed);
        }
    }

    /// A waiting sender gives up, or needs its place no more.
    pub(crate) fn leave_senders(&self, key: &mut Key, satisfied: bool) {
        if key.is_none() {
            return;
        }
        let mut state = self.locked();
        let notified = state.senders.leave(key);
        let next = if notified && !satisfied { state.senders.take_one() } else { None };
        drop(state);
        if let Some(waker) = next {
            waker.wake();
        }
    }

    /// Whether this socket, and not only the reactor, sees to what its sends leave gathering.
    pub(super) const GATHERS: bool = P::RECEIVES || P::FANS_OUT;

    #[inline]
    fn next_answer(&self) -> Answer {
        match (P::RECEIVES, P::FANS_OUT) {
            (true, _) => self.answers.next(self.inbound.heard()),
            (_, true) => self.answers.next_of_many(),
            _ => Answer::No,
        }
    }

    /// Whether every received message is wanted.
    #[inline]
    pub(crate) fn admits_everything(&self) -> bool {
        !P::FILTERS || self.admits_all.load(Ordering::Acquire)
    }

    /// Whether a received message is wanted.
    #[inline]
    pub(crate) fn admits(&self, message: &Message) -> bool {
        self.admits_everything() || lock(&self.state).pattern.admits(message)
    }

    /// Changes the pattern under the socket's lock.
    pub(crate) fn with_pattern<R>(
        &self,
        change: impl FnOnce(&mut P) -> R,
    ) -> Result<R, SetupError> {
        let mut state = self.locked();
        if state.closed { Err(SetupError::Closed) } else { Ok(change(&mut state.pattern)) }
    }

    /// Waits until `count` of the state is at least `wanted`.
    pub(super) fn wait_until(
        &self,
        wanted: usize,
        timeout: Duration,
        count: impl Fn(&State<P>) -> usize,
    ) -> Result<(), WaitError> {
        let deadline = transport::now().checked_add(timeout);
        let mut state = lock(&self.state);
        loop {
            let present = count(&state);
            if state.closed {
                return Err(WaitError::Closed);
            }
            if present >= wanted {
                return Ok(());
            }
            state = match self.wait_for_change(state, deadline) {
                Some(state) => state,
                None => return Err(WaitError::Timeout { present, wanted }),
            };
        }
    }

    fn wait_for_change<'a>(
        &self,
        state: MutexGuard<'a, State<P>>,
        deadline: Option<Instant>,
    ) -> Option<MutexGuard<'a, State<P>>> {
        let Some(deadline) = deadline else {
            return Some(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
        };
        let left = deadline.saturating_duration_since(transport::now());
        if left.is_zero() {
            return None;
        }
        let waited = self.changed.wait_timeout(state, left);
        Some(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        {
            let state = lock(&self.state);
            stats.sent_messages = state.sent_messages;
            stats.sent_bytes = state.sent_bytes;
            stats.peers = state.ready_peers();
            if let Some(only) = self.only.first() {
                let report = only.outbox_report();
                stats.sent_messages += report.sole_messages;
                stats.sent_bytes += report.sole_bytes;
            }
            let (messages, bytes) = state.pattern.gathered();
            stats.queued_messages += messages as u64;
            stats.queued_bytes += bytes as u64;
            for peer in state.peers.values() {
                let report = peer.pipe.outbox_report();
                stats.queued_messages += report.messages as u64;
                stats.queued_bytes += report.bytes as u64;
            }
        }
        let received = self.inbound.counts();
        stats.received_messages = received.messages;
        stats.received_bytes = received.bytes;
        stats.filtered = received.filtered;
        self.losses.read_into(&mut stats);
        stats
    }

    pub(crate) fn add_monitor(&self, reporter: Reporter) {
        lock(&self.monitors).push(reporter);
    }

    pub(super) fn report_event(&self, event: &Event) {
        lock(&self.monitors).retain(|monitor| monitor.report(event.clone()));
    }

    /// Closes the socket: later calls fail, waiting ones end, what is queued goes out within the linger time.
    /// Returns at once; the completion tells when everything has ended.
    pub(crate) fn begin_close(&self, linger: Duration) -> Completion {
        let (completion, guard) = completion();
        let mut state = self.locked();
        state.closed = true;
        match &state.closing {
            // A shorter time than before takes its place.
            Some((closing, before)) if linger >= *before => return closing.clone(),
            _ => state.closing = Some((completion.clone(), linger)),
        }
        // Under the lock, so that the end of the context waits for this close or comes before it.
        self.context.remember_close(completion.clone());
        let senders = state.senders.take_all();
        let endpoints = std::mem::take(&mut state.endpoints);
        drop(state);
        self.flush();
        self.changed.notify_all();
        senders.into_iter().for_each(Waker::wake);
        self.inproc_pipes().iter().for_each(|pipe| pipe.inbox().shut());
        self.inbound.close();
        self.close_inproc(&endpoints, linger, &guard);
        for slot in self.context.slots() {
            let scope = Scope::Socket(self.id);
            slot.post(Job::Close { scope, linger, guard: guard.clone() });
        }
        completion
    }

    fn inproc_pipes(&self) -> Vec<Arc<Pipe>> {
        let state = lock(&self.state);
        let pipes = state.peers.values().map(|peer| &peer.pipe);
        pipes.filter(|pipe| matches!(pipe.endpoint(), Endpoint::Inproc(_))).cloned().collect()
    }

    /// The last handle is gone: nobody can ask anything of this socket any more.
    pub(crate) fn leave_context(&self) {
        self.context.remove_socket(self.id);
    }

    /// Names are freed; pipes part when they are drained, or when their linger time is over.
    fn close_inproc(&self, endpoints: &[Attachment], linger: Duration, guard: &Guard) {
        for attachment in endpoints {
            if attachment.bound {
                self.context.unbind_inproc(&attachment.endpoint, self.id);
            } else if attachment.pipe.is_none() {
                self.context.forget_connector(&attachment.endpoint, self.id, None);
            }
        }
        for pipe in self.inproc_pipes() {
            self.close_inproc_pipe(&pipe, linger, guard.clone());
        }
    }
}

/// The socket's lock, held. Given back, it says whether there is a short way (R5).
pub(super) struct Locked<'a, P: Behaviour> {
    state: MutexGuard<'a, State<P>>,
    only: &'a OnlyPeer,
    admits_all: &'a AtomicBool,
}

impl<P: Behaviour> Deref for Locked<'_, P> {
    type Target = State<P>;

    fn deref(&self) -> &State<P> {
        &self.state
    }
}

impl<P: Behaviour> DerefMut for Locked<'_, P> {
    fn deref_mut(&mut self) -> &mut State<P> {
        &mut self.state
    }
}

impl<P: Behaviour> Drop for Locked<'_, P> {
    fn drop(&mut self) {
        let chooses = !self.state.closed && self.state.senders.is_empty();
        self.only.set(self.state.pattern.only_peer().filter(|_| chooses));
        if P::FILTERS {
            self.admits_all.store(self.state.pattern.admits_all(), Ordering::Release);
        }
    }
}

impl<P: Behaviour> State<P> {
    pub(super) fn ready_peers(&self) -> usize {
        self.peers.values().filter(|peer| peer.ready).count()
    }
}

impl<P: Behaviour> SocketControl for Core<P> {
    fn shut_down(&self) {
        self.begin_close(self.options.linger);
    }

    fn give_up_inproc(&self) {
        for pipe in self.inproc_pipes() {
            pipe.abandon(Loss::Linger);
            pipe.part(DisconnectReason::Closed);
        }
    }
}
