//! The slot: where a reactor's turning state lies while nobody turns it, and the rules who takes it.
//!
//! The token is the `Turn` itself, moved by value. A thread that has to wait takes it and turns the reactor for all
//! sockets; no hand-off to another thread lies between the kernel and the caller. The I/O thread is the keeper:
//!
//! - T1: at any time exactly one of these holds the turn: the slot, one caller, the keeper.
//! - T2: whoever puts it back decides under the slot's lock who turns next: the keeper at once, if anything cannot stand
//!   by (another waiting thread, a waiting task, work at hand, a timer due soon); otherwise the keeper when its watch is over
//!   (`watch.rs`), unless a caller returns before that.
//! - T3: a caller that finds the keeper turning asks for the turn (`wanted`) and pulls it out of its poll. With more than
//!   one thread waiting the keeper turns and nobody asks, for a while after the crowd too: handing the turn around would cost
//!   a wake-up a message.
//! - T4: streaming senders' outboxes are ticked over by the keeper, with or without the turn.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, mem};

use super::mailbox::{Job, Mailbox};
use super::parker::Parker;
use super::turn::Turn;
use super::watch::{UNUSED_MAX, Watch};
use crate::pipe::{Doorbell, Owner, Pipe, Ring};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{
    Condvar, Fault, Mutex, MutexGuard, lock, model_failed, planted, thread, thread_local,
};
use crate::transport::now;

/// How long after several threads waited at once the keeper still keeps the turn to itself.
const CROWD: Duration = Duration::from_millis(2);

/// With less time than this left a caller does not turn: the poller counts in milliseconds.
const TURN_MIN: Duration = Duration::from_millis(1);

/// Pause between two ticks over the outboxes of streaming senders.
const TICK: Duration = Duration::from_micros(100);

/// What turns a reactor: `Turn`, or what stands for it in a model of the token.
pub(crate) trait Turning: Send {
    /// One turn. Blocks only when there is nothing to do, and not beyond `limit` (of which only whole milliseconds count).
    /// Ends early, between two events, when `stop` says so.
    fn turn(&mut self, limit: Option<Instant>, stop: &dyn Fn() -> bool);
    /// Whether there is something to do at once or within `time` that may not stand by.
    fn has_work_within(&self, time: Duration) -> bool;
}

/// What the keeper's tick looks at.
enum Gathering {
    /// The outbox of a streaming sender.
    Pipe(Arc<Pipe>),
    /// The answers of a socket that has more to answer.
    Socket(Arc<dyn Owner>),
}

pub(crate) struct Slot<T = Turn> {
    state: Mutex<State<T>>,
    keeper: Condvar,
    mailbox: Arc<Mailbox>,
    /// Outboxes of streaming senders.
    gathering: Mutex<Vec<Gathering>>,
    /// Tasks that wait for something a reactor brings; of all reactors of the context.
    tasks: Arc<AtomicUsize>,
}

struct State<T> {
    turn: Option<Box<T>>,
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
    /// It was lost to a panic.
    failed: bool,
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl<T: Turning> Doorbell for Slot<T> {
    fn ring(&self, ring: Ring) {
        match ring {
            Ring::Flush(pipe) => {
                self.gathers(Gathering::Pipe(pipe));
            }
            Ring::Answers(owner) => self.gathers(Gathering::Socket(owner)),
            // Whoever reads slowly brings the turn back itself, or the keeper takes it soon.
            Ring::Resume(token) => self.mailbox.post(Job::Resume(token)),
            Ring::Drained(token) => self.post(Job::Drained(token)),
            Ring::Broken(token) => self.post(Job::Broken(token)),
        }
    }
}

impl<T: Turning> Slot<T> {
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
            failed: false,
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
    pub(crate) fn install(&self, turn: T) {
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

    fn call_keeper(&self, state: &mut State<T>) {
        if !state.called || state.deep {
            state.called = true;
            self.keeper.notify_one();
        }
    }

    /// Whether the calling thread is in a turn of this slot.
    pub(crate) fn is_turned_by_this_thread(&self) -> bool {
        let address = std::ptr::from_ref(self).addr();
        IN_TURN.try_with(|slots| slots.borrow().contains(&address)).unwrap_or(false)
    }

    /// Makes the keeper look at what gathers. With a list that is not empty it does so already.
    fn gathers(&self, what: Gathering) {
        let first = {
            let mut gathering = lock(&self.gathering);
            gathering.push(what);
            gathering.len() == 1
        };
        if !first {
            return;
        }
        let state = lock(&self.state);
        if state.keeper_turns {
            drop(state);
            self.mailbox.nudge();
        } else {
            self.keeper.notify_one();
        }
    }

    /// A thread begins to wait.
    pub(crate) fn sit(&self) -> Seat<'_, T> {
        lock(&self.state).waiting += 1;
        Seat { slot: self, turn: None, in_turn: None }
    }

    /// The turn, if this waiting thread may have it; asks for it if the keeper has it.
    fn take(&self, parker: &Arc<Parker>) -> Option<Box<T>> {
        let mut state = lock(&self.state);
        if state.stopping || state.over {
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
    fn put_back(&self, turn: Box<T>, leaving: bool) {
        let mut state = lock(&self.state);
        state.waiting -= usize::from(leaving);
        if state.over {
            drop(state);
            drop(turn);
            return;
        }
        state.turn = Some(turn);
        state.moves += 1;
        self.decide(&mut state);
    }

    /// A parked thread waits no more.
    fn leave(&self) {
        let mut state = lock(&self.state);
        state.waiting -= 1;
        state.wanted = None;
        // The turn may have been handed to this thread just when it was notified.
        self.decide(&mut state);
    }

    /// Calls the keeper if the turn lies in the slot and cannot stand by (T2).
    fn decide(&self, state: &mut State<T>) {
        let Some(turn) = &state.turn else { return };
        let cannot_stand_by = state.waiting > 0
            || state.stopping
            || self.tasks.load(Ordering::SeqCst) > 0
            || turn.has_work_within(UNUSED_MAX);
        if cannot_stand_by && !planted(Fault::KeeperNotCalled) {
            self.call_keeper(state);
        } else if state.deep {
            self.keeper.notify_one();
        }
    }

    /// A thread panicked in its turn: the reactor is lost. The keeper ends, and its context closes all sockets.
    pub(super) fn fail(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        state.failed = true;
        state.keeper_turns = false;
        let turn = state.turn.take();
        drop(state);
        self.keeper.notify_one();
        drop(turn);
        self.mailbox.close();
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

    /// Models only: a timed wait of the keeper comes to its end.
    #[cfg(loom)]
    pub(crate) fn time_out(&self) {
        self.keeper.time_out(CROWD);
    }

    /// The I/O thread's life. False when the reactor was lost to a panic.
    pub(crate) fn keep(&self) -> bool {
        let mut held = None;
        let mut watch = Watch::new(now());
        while !lock(&self.state).over {
            let ticking = self.tick();
            held = match held {
                Some(turn) => self.keeper_turn(turn, ticking),
                None => self.keeper_wait(ticking, &mut watch),
            };
        }
        !lock(&self.state).failed
    }

    /// One turn of the keeper, then the turn goes to the caller that asked for it, if it is the only one waiting.
    fn keeper_turn(&self, mut turn: Box<T>, ticking: bool) -> Option<Box<T>> {
        let in_turn = InTurn::of(self);
        turn.turn(ticking.then(now), &|| false);
        drop(in_turn);
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
            thread::park_timeout(TICK);
        }
        Some(turn)
    }

    /// Stands by: takes the turn when it is called, or when the turn lay unused for the time of its watch.
    fn keeper_wait(&self, ticking: bool, watch: &mut Watch) -> Option<Box<T>> {
        let mut state = lock(&self.state);
        let time_left = watch.time_left(state.moves, now());
        if state.turn.is_some() && (state.called || time_left.is_none()) {
            watch.end();
            return self.keeper_take(state);
        }
        if state.over {
            return None;
        }
        if ticking {
            drop(self.rest(state, TICK));
        } else if lock(&self.gathering).is_empty() {
            if state.turn.is_none() && !state.called && time_left.is_none() {
                state.deep = true;
                state = self.keeper.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.deep = false;
            } else {
                drop(self.rest(state, time_left.unwrap_or_default().max(TICK)));
            }
        }
        None
    }

    fn keeper_take(&self, mut state: MutexGuard<'_, State<T>>) -> Option<Box<T>> {
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
        state: MutexGuard<'a, State<T>>,
        time: Duration,
    ) -> MutexGuard<'a, State<T>> {
        self.keeper.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Writes what streaming senders left behind. True while there are some.
    fn tick(&self) -> bool {
        let mut gathered = mem::take(&mut *lock(&self.gathering));
        if !gathered.is_empty() {
            let now = now();
            gathered.retain(|what| match what {
                Gathering::Pipe(pipe) => pipe.tick(now),
                Gathering::Socket(owner) => owner.tick(),
            });
        }
        let mut gathering = lock(&self.gathering);
        gathering.append(&mut gathered);
        !gathering.is_empty()
    }
}

/// A thread's wait on a reactor.
pub(crate) struct Seat<'a, T: Turning = Turn> {
    slot: &'a Slot<T>,
    turn: Option<Box<T>>,
    /// While the turn is this thread's, in use or not.
    in_turn: Option<InTurn>,
}

impl<T: Turning> Seat<'_, T> {
    /// Waits for the parker's notification, turning the reactor if this thread may. False when `deadline` came first.
    pub(crate) fn wait(&mut self, parker: &Arc<Parker>, deadline: Option<Instant>) -> bool {
        loop {
            if parker.take_notification() {
                return true;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            if left.is_some_and(|left| left < TURN_MIN) {
                // The poller cannot wait for less than a millisecond: the keeper turns for the rest.
                self.put_back(false);
                self.slot.ensure_turning();
            } else if self.turn.is_none() {
                self.turn = self.slot.take(parker);
                self.in_turn = self.turn.as_ref().map(|_| InTurn::of(self.slot));
            }
            match self.turn.take() {
                Some(turn) => self.turn_once(turn, parker, deadline),
                None => parker.park(deadline),
            }
        }
    }

    /// One turn on this thread. If it panics (in a foreign waker, say), the turn is dropped and the reactor given up.
    fn turn_once(&mut self, turn: Box<T>, parker: &Arc<Parker>, deadline: Option<Instant>) {
        let mut held = Held { slot: self.slot, turn: Some(turn) };
        let turning = parker.turning(&self.slot.mailbox);
        let notified = || parker.is_notified() && !planted(Fault::TurnedWithoutLook);
        if let Some(turn) = &mut held.turn
            && !notified()
        {
            let over = || deadline.is_some_and(|deadline| deadline <= now());
            turn.turn(deadline, &|| notified() || over());
        }
        drop(turning);
        self.turn = held.turn.take();
        if !parker.is_notified() && self.slot.is_crowded() {
            self.put_back(false);
        }
    }

    fn put_back(&mut self, leaving: bool) {
        if let Some(turn) = self.turn.take() {
            self.slot.put_back(turn, leaving);
            self.in_turn = None;
        } else if leaving {
            self.slot.leave();
        }
    }
}

/// The turn in use by a caller; lost if the use ends in a panic.
struct Held<'a, T: Turning> {
    slot: &'a Slot<T>,
    turn: Option<Box<T>>,
}

impl<T: Turning> Drop for Held<'_, T> {
    fn drop(&mut self) {
        if self.turn.take().is_some() && !model_failed() {
            self.slot.fail();
        }
    }
}

thread_local! {
    /// Addresses of the slots whose turn this thread is in.
    static IN_TURN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Notes that this thread has the turn of a slot, until dropped: it must not wait for what only the turn can bring.
struct InTurn(usize);

impl InTurn {
    fn of<T>(slot: &Slot<T>) -> Self {
        let address = std::ptr::from_ref(slot).addr();
        let _ = IN_TURN.try_with(|slots| slots.borrow_mut().push(address));
        Self(address)
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        if model_failed() {
            return;
        }
        let _ = IN_TURN.try_with(|slots| {
            let mut slots = slots.borrow_mut();
            let place = slots.iter().rposition(|address| *address == self.0);
            place.map(|place| slots.swap_remove(place))
        });
    }
}

impl<T: Turning> Drop for Seat<'_, T> {
    fn drop(&mut self) {
        if model_failed() {
            return;
        }
        self.put_back(true);
    }
}
