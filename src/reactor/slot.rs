//! The slot: where a reactor's turning state lies while nobody turns it, and the rules who takes it.
//!
//! The token is the `Turn` itself, moved by value. A thread that has to wait takes it and turns the reactor for all
//! sockets; no hand-off to another thread lies between the kernel and the caller. The I/O thread is the keeper:
//!
//! - T1: at any time exactly one of these holds the turn: the slot, one caller, the keeper.
//! - T2: whoever puts it back decides under the slot's lock who turns next: the keeper at once, if anything cannot stand
//!   by (another waiting thread, a waiting task, work at hand, a timer due soon); otherwise the keeper within `STAND_BY`, unless a
//!   caller returns before that.
//! - T3: a caller that finds the keeper turning asks for the turn (`wanted`) and pulls it out of its poll. With more than
//!   one thread waiting the keeper turns and nobody asks, for a while after the crowd too: handing the turn around would cost
//!   a wake-up a message.
//! - T4: streaming senders' outboxes are ticked over by the keeper, with or without the turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, mem};

use super::mailbox::{Job, Mailbox};
use super::parker::Parker;
use super::turn::Turn;
use crate::pipe::{Doorbell, Pipe, Ring};
use crate::sync::lock;
use crate::transport::now;

/// How long the turn may lie in the slot before the keeper takes it: longer than a request-reply loop is away from it.
const STAND_BY: Duration = Duration::from_millis(1);

/// How long after several threads waited at once the keeper still keeps the turn to itself.
const CROWD: Duration = Duration::from_millis(2);

/// Pause between two ticks over the outboxes of streaming senders.
const TICK: Duration = Duration::from_micros(50);

pub(crate) struct Slot {
    state: Mutex<State>,
    keeper: Condvar,
    mailbox: Arc<Mailbox>,
    /// Outboxes of streaming senders.
    gathering: Mutex<Vec<Arc<Pipe>>>,
    /// Tasks that wait for something a reactor brings; of all reactors of the context.
    tasks: Arc<AtomicUsize>,
}

struct State {
    turn: Option<Box<Turn>>,
    keeper_turns: bool,
    /// The keeper shall take the turn at once.
    called: bool,
    /// The keeper sleeps until it is called, because a caller has held the turn for long.
    deep: bool,
    /// Threads that wait, turning or parked.
    waiting: usize,
    wanted: Option<Arc<Parker>>,
    crowded_until: Option<Instant>,
    /// Counts takes and returns, so that the keeper notices that the turn is in use.
    moves: u64,
    stopping: bool,
    /// The turn is gone.
    over: bool,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl Doorbell for Slot {
    fn ring(&self, ring: Ring) {
        match ring {
            Ring::Flush(pipe) => {
                lock(&self.gathering).push(pipe);
                self.alert_keeper();
            }
            // Whoever reads slowly brings the turn back itself, or the keeper takes it soon.
            Ring::Resume(_) => self.mailbox.post(Job::Ring(ring)),
            Ring::Drained(_) | Ring::Broken(_) => self.post(Job::Ring(ring)),
        }
    }
}

impl Slot {
    pub(crate) fn new(mailbox: Arc<Mailbox>, tasks: Arc<AtomicUsize>) -> Self {
        let state = State {
            turn: None,
            keeper_turns: false,
            called: true,
            deep: false,
            waiting: 0,
            wanted: None,
            crowded_until: None,
            moves: 0,
            stopping: false,
            over: false,
        };
        Self {
            state: Mutex::new(state),
            keeper: Condvar::new(),
            mailbox,
            gathering: Mutex::new(Vec::new()),
            tasks,
        }
    }

    /// Puts the turn in for the first time.
    pub(crate) fn install(&self, turn: Turn) {
        lock(&self.state).turn = Some(Box::new(turn));
    }

    /// Posts a job and makes sure that somebody turns.
    pub(crate) fn post(&self, job: Job) {
        self.mailbox.post(job);
        self.ensure_turning();
    }

    /// Calls the keeper if nobody turns.
    pub(crate) fn ensure_turning(&self) {
        let mut state = lock(&self.state);
        if state.turn.is_some() {
            self.call_keeper(&mut state);
        }
    }

    fn call_keeper(&self, state: &mut State) {
        if !state.called {
            state.called = true;
            self.keeper.notify_one();
        }
    }

    /// Makes the keeper look at the gathering outboxes.
    fn alert_keeper(&self) {
        let state = lock(&self.state);
        if state.keeper_turns {
            drop(state);
            self.mailbox.nudge();
        } else {
            self.keeper.notify_one();
        }
    }

    /// A thread begins to wait.
    pub(crate) fn sit(&self) -> Seat<'_> {
        lock(&self.state).waiting += 1;
        Seat { slot: self, turn: None }
    }

    /// The turn, if this waiting thread may have it; asks for it if the keeper has it.
    fn take(&self, parker: &Arc<Parker>) -> Option<Box<Turn>> {
        let mut state = lock(&self.state);
        if state.stopping {
            return None;
        }
        if state.waiting > 1 {
            state.crowded_until = now().checked_add(CROWD);
        }
        if state.crowded_until.is_some_and(|until| now() < until) {
            if state.turn.is_some() {
                self.call_keeper(&mut state);
            }
            return None;
        }
        state.crowded_until = None;
        if let Some(turn) = state.turn.take() {
            state.moves += 1;
            state.called = false;
            return Some(turn);
        }
        if state.keeper_turns {
            state.wanted = Some(Arc::clone(parker));
            drop(state);
            self.mailbox.nudge();
        }
        None
    }

    /// Puts the turn back and decides who turns next (T2).
    fn put_back(&self, turn: Box<Turn>, leaving: bool) {
        let mut state = lock(&self.state);
        state.waiting -= usize::from(leaving);
        let cannot_stand_by = state.waiting > 0
            || state.stopping
            || self.tasks.load(Ordering::SeqCst) > 0
            || turn.has_work_within(STAND_BY);
        state.turn = Some(turn);
        state.moves += 1;
        if cannot_stand_by {
            self.call_keeper(&mut state);
        } else if state.deep {
            self.keeper.notify_one();
        }
    }

    /// A parked thread waits no more.
    fn leave(&self) {
        let mut state = lock(&self.state);
        state.waiting -= 1;
        state.wanted = None;
    }

    /// Whether further threads wait on this reactor.
    fn is_crowded(&self) -> bool {
        lock(&self.state).waiting > 1
    }

    /// Ends the keeper once the turn is back.
    pub(crate) fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopping = true;
        state.called = true;
        drop(state);
        self.keeper.notify_one();
        self.mailbox.nudge();
    }

    /// The I/O thread's life.
    pub(crate) fn keep(&self) {
        let mut held = None;
        while !lock(&self.state).over {
            let ticking = self.tick();
            held = match held {
                Some(turn) => self.keeper_turn(turn, ticking),
                None => self.keeper_wait(ticking),
            };
        }
        // Jobs hold sockets, which hold the mailbox: what came too late must not keep that circle alive.
        self.mailbox.take(&mut Vec::new());
    }

    /// One turn of the keeper, then the turn goes to the caller that asked for it, if it is the only one waiting.
    fn keeper_turn(&self, mut turn: Box<Turn>, ticking: bool) -> Option<Box<Turn>> {
        turn.turn(ticking.then(now));
        let mut state = lock(&self.state);
        if state.stopping {
            state.keeper_turns = false;
            state.over = true;
            return None;
        }
        if let Some(parker) = state.wanted.take()
            && state.waiting == 1
        {
            state.keeper_turns = false;
            state.called = false;
            state.turn = Some(turn);
            state.moves += 1;
            drop(state);
            parker.unpark();
            return None;
        }
        drop(state);
        if ticking {
            std::thread::park_timeout(TICK);
        }
        Some(turn)
    }

    /// Stands by: takes the turn when it is called, or when the turn lay unused for a whole `STAND_BY`.
    fn keeper_wait(&self, ticking: bool) -> Option<Box<Turn>> {
        let state = lock(&self.state);
        if state.called && state.turn.is_some() {
            return self.keeper_take(state);
        }
        if ticking {
            drop(self.rest(state, TICK));
            return None;
        }
        if !lock(&self.gathering).is_empty() {
            return None;
        }
        let seen = state.moves;
        let (mut state, timed_out) = self.rest(state, STAND_BY);
        let unused = timed_out && state.moves == seen;
        if (state.called || unused) && state.turn.is_some() {
            return self.keeper_take(state);
        }
        if unused && !state.called && lock(&self.gathering).is_empty() {
            state.deep = true;
            state = self.keeper.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.deep = false;
        }
        None
    }

    fn keeper_take(&self, mut state: MutexGuard<'_, State>) -> Option<Box<Turn>> {
        state.called = false;
        state.moves += 1;
        let turn = state.turn.take();
        if state.stopping {
            state.over = true;
            // Dropped without the lock: its sources own sockets.
            drop(state);
            drop(turn);
            return None;
        }
        state.keeper_turns = true;
        turn
    }

    fn rest<'a>(
        &self,
        state: MutexGuard<'a, State>,
        time: Duration,
    ) -> (MutexGuard<'a, State>, bool) {
        let (state, result) =
            self.keeper.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
        (state, result.timed_out())
    }

    /// Writes what streaming senders left behind. True while there are some.
    fn tick(&self) -> bool {
        let mut pipes = mem::take(&mut *lock(&self.gathering));
        pipes.retain(Pipe::tick);
        let mut gathering = lock(&self.gathering);
        gathering.append(&mut pipes);
        !gathering.is_empty()
    }
}

/// A thread's wait on a reactor.
pub(crate) struct Seat<'a> {
    slot: &'a Slot,
    turn: Option<Box<Turn>>,
}

impl Seat<'_> {
    /// Waits for the parker's notification, turning the reactor if this thread may. False when `deadline` came first.
    pub(crate) fn wait(&mut self, parker: &Arc<Parker>, deadline: Option<Instant>) -> bool {
        loop {
            if parker.take_notification() {
                return true;
            }
            if deadline.is_some_and(|deadline| deadline <= now()) {
                return false;
            }
            if self.turn.is_none() {
                self.turn = self.slot.take(parker);
            }
            match &mut self.turn {
                Some(turn) => {
                    parker.begin_turning(&self.slot.mailbox);
                    if !parker.is_notified() {
                        turn.turn(deadline);
                    }
                    parker.end_turning();
                    if !parker.is_notified() && self.slot.is_crowded() {
                        self.put_back(false);
                    }
                }
                None => parker.park(deadline),
            }
        }
    }

    fn put_back(&mut self, leaving: bool) {
        if let Some(turn) = self.turn.take() {
            self.slot.put_back(turn, leaving);
        } else if leaving {
            self.slot.leave();
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.put_back(true);
    }
}
