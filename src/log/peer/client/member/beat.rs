//! The heartbeats of a member: sent by the client's thread, so that the member lives while its own thread is busy, and
//! learns of what others do at once.
//!
//! One heartbeat is under way at a time. Behind its answer goes a request that the server answers when the group has
//! changed: then the next heartbeat follows at once, else when it is due. What answers say is kept until the member looks,
//! the last one only, as each says everything.

use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::log::directory::random_id;
use crate::log::groups::{HeartbeatReply, HeartbeatRequest, MemberOptions, TopicPartition};
use crate::log::peer::client::group::{heartbeat_reply, heartbeat_request};
use crate::log::peer::client::link::Answered;
use crate::log::peer::client::{Core, PeerError};
use crate::log::peer::protocol::{Answer, AwaitGroup, RemoteCode};
use crate::log::wakers;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::transport::now;

/// Pause before the next heartbeat after one was refused for a reason that may pass.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Which of a member's requests was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log::peer::client) enum Beaten {
    Heartbeat,
    Await,
}

/// A member, as the client's thread knows it.
#[derive(Debug)]
pub(in crate::log::peer::client) struct Beat {
    pub(super) group: String,
    pub(super) options: MemberOptions,
    state: Mutex<State>,
}

/// Its lock comes before that of the connection.
#[derive(Debug)]
struct State {
    id: String,
    /// That of the last answer, as the next heartbeat says it; 0 to join.
    generation: i32,
    sequence: u64,
    /// The partitions that the member has.
    held: Vec<TopicPartition>,
    /// What the member has not looked at yet.
    news: News,
    /// A heartbeat is under way; another one is to follow it.
    beating: bool,
    again: bool,
    /// Since when the server is asked for another version than this.
    awaiting: Option<(Instant, u64)>,
    version: u64,
    interval: Duration,
    due: Option<Instant>,
    /// When the member looked last, or was woken.
    looked_at: Instant,
    /// By which it is woken, while it waits.
    waker: Option<Waker>,
    left: bool,
    /// Another member has its place, for good.
    replaced: Option<PeerError>,
}

/// What heartbeats have learnt.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The member was expelled, and has lost everything that it had then.
    pub(super) lost: bool,
    pub(super) reply: Option<HeartbeatReply>,
    pub(super) failed: Option<PeerError>,
}

impl Beat {
    /// A member that has not joined.
    pub(super) fn new(group: &str, options: MemberOptions) -> Arc<Self> {
        let state = Mutex::new(State {
            id: random_id().to_string(),
            generation: 0,
            sequence: 0,
            held: Vec::new(),
            news: News::default(),
            beating: false,
            again: false,
            awaiting: None,
            version: 0,
            interval: options.session_timeout,
            due: None,
            looked_at: now(),
            waker: None,
            left: false,
            replaced: None,
        });
        Arc::new(Self { group: group.to_owned(), options, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What is new; the waker is called when something else is. A member that looks is not stuck.
    pub(super) fn look(self: &Arc<Self>, core: &Core, waker: &Waker) -> News {
        let mut state = self.state();
        state.looked_at = now();
        if let Some(error) = &state.replaced {
            return News { lost: true, reply: None, failed: Some(error.clone()) };
        }
        if state.due.is_none() && !state.beating {
            self.send(core, &mut state);
        }
        // Also if there is some: it may be nothing that the member's task ends with.
        state.waker = Some(waker.clone());
        let news = std::mem::take(&mut state.news);
        // A heartbeat may go out before the member has said that it has these now.
        for given in news.reply.iter().flat_map(|reply| &reply.assigned) {
            if !state.held.contains(given) {
                state.held.push(given.clone());
            }
        }
        news
    }

    /// The member waits no longer.
    pub(super) fn turn_away(&self) {
        let mut state = self.state();
        (state.waker, state.looked_at) = (None, now());
    }

    /// The member has these partitions from now on; `tell`: the coordinator should hear of it at once.
    pub(super) fn hold(self: &Arc<Self>, core: &Core, held: Vec<TopicPartition>, tell: bool) {
        let mut state = self.state();
        state.held = held;
        if tell {
            self.send(core, &mut state);
        }
    }

    /// No heartbeats any more. The id to leave with, the first time.
    pub(super) fn leave(&self) -> Option<String> {
        let mut state = self.state();
        (state.due, state.waker) = (None, None);
        (!std::mem::replace(&mut state.left, true)).then(|| state.id.clone())
    }

    /// Whether the member has been busy for longer than it may.
    fn is_stuck(&self, state: &State) -> bool {
        state.waker.is_none() && state.looked_at.elapsed() > self.options.poll_interval_max
    }

    /// Sends the next heartbeat, now or behind the one that is under way.
    fn send(self: &Arc<Self>, core: &Core, state: &mut State) {
        if state.left || state.replaced.is_some() {
            return;
        }
        if std::mem::replace(&mut state.beating, true) {
            state.again = true;
            return;
        }
        (state.again, state.due) = (false, None);
        state.sequence += 1;
        // What the last answer gave counts as had, though the member has not looked yet.
        let mut owned = state.held.clone();
        let given = state.news.reply.iter().flat_map(|reply| &reply.assigned);
        owned.extend(given.filter(|one| !state.held.contains(one)).cloned());
        let request = HeartbeatRequest {
            member: state.id.clone(),
            instance: self.options.instance.clone(),
            generation: state.generation,
            sequence: state.sequence,
            topics: self.options.topics.clone(),
            strategy: self.options.strategy,
            session_timeout: self.options.session_timeout,
            owned,
        };
        let request = heartbeat_request(&self.group, request).into();
        if !core.submit_beat(&request, self, Beaten::Heartbeat) {
            state.beating = false;
            state.news.failed = Some(core.closed());
        }
    }

    /// Asks to be told of changes.
    fn send_await(self: &Arc<Self>, core: &Core, state: &mut State) {
        if state.awaiting.is_some() || state.left || state.replaced.is_some() {
            return;
        }
        let wait_ms = state.interval.as_millis().saturating_mul(2);
        let wait_ms = u32::try_from(wait_ms).unwrap_or(u32::MAX);
        let request = AwaitGroup { group: self.group.clone(), version: state.version, wait_ms };
        if core.submit_beat(&request.into(), self, Beaten::Await) {
            state.awaiting = Some((now(), state.version));
        }
    }

    fn beaten(self: &Arc<Self>, core: &Core, outcome: Result<Answered, PeerError>) {
        let mut state = self.state();
        state.beating = false;
        if state.left {
            return;
        }
        let joined = outcome.and_then(|reply| match reply.answer {
            Answer::Membership(membership) => Ok(membership),
            other => Err(core.bad_answer(&reply.asked, format!("it is {}", other.name()))),
        });
        match joined {
            Ok(membership) => {
                state.version = membership.version;
                let reply = heartbeat_reply(membership);
                (state.generation, state.interval) = (reply.generation, reply.heartbeat_interval);
                state.id.clone_from(&reply.member);
                state.news.reply = Some(reply);
                state.news.failed = None;
                state.due = now().checked_add(state.interval);
                self.send_await(core, &mut state);
            }
            Err(error) if error.code() == Some(RemoteCode::UnknownMember) => {
                (state.id, state.generation) = (random_id().to_string(), 0);
                state.held.clear();
                state.news = News { lost: true, ..News::default() };
                state.again = true;
            }
            Err(error) if error.code() == Some(RemoteCode::MemberReplaced) => {
                (state.due, state.again) = (None, false);
                state.held.clear();
                state.replaced = Some(error);
            }
            Err(error) => {
                let closed = matches!(error, PeerError::Closed { .. });
                state.due = now().checked_add(REFUSED_PAUSE).filter(|_| !closed);
                state.news.failed = Some(error);
            }
        }
        if state.again {
            self.send(core, &mut state);
        }
        let waker = state.waker.take();
        if waker.is_some() {
            state.looked_at = now();
        }
        drop(state);
        wakers::call(waker);
    }

    fn awaited(self: &Arc<Self>, core: &Core, outcome: Result<Answered, PeerError>) {
        let mut state = self.state();
        let Some((since, asked)) = state.awaiting.take() else { return };
        // If it cannot be had, members hear of changes by the heartbeats that are due.
        let Ok(Answered { answer: Answer::GroupVersion(now_is), .. }) = outcome else { return };
        let is_known = now_is.version == state.version;
        // One that came back sooner, and not because a heartbeat has told of that version before, is not let wait by the
        // server.
        let waited = asked != state.version || since.elapsed() >= state.interval / 2;
        if !is_known && !self.is_stuck(&state) {
            self.send(core, &mut state);
        } else if is_known && !state.beating && waited {
            self.send_await(core, &mut state);
        }
    }
}

impl Core {
    /// Sends heartbeats that are due; when the next one is.
    pub(in crate::log::peer::client) fn beat_if_due(&self) -> Option<Instant> {
        let mut beats = lock(&self.beats);
        beats.retain(|beat| beat.strong_count() > 0);
        let all: Vec<Arc<Beat>> = beats.iter().filter_map(Weak::upgrade).collect();
        drop(beats);
        let mut next: Option<Instant> = None;
        for beat in all {
            let mut state = beat.state();
            if state.due.is_some_and(|due| due <= now()) {
                if beat.is_stuck(&state) {
                    // Until it looks.
                    state.due = None;
                } else {
                    beat.send(self, &mut state);
                }
            }
            next = [next, state.due].into_iter().flatten().min();
        }
        next
    }

    /// A request of a member was answered.
    pub(in crate::log::peer::client) fn beaten(
        &self,
        beat: &Arc<Beat>,
        kind: Beaten,
        outcome: Result<Answered, PeerError>,
    ) {
        match kind {
            Beaten::Heartbeat => beat.beaten(self, outcome),
            Beaten::Await => beat.awaited(self, outcome),
        }
    }
}
