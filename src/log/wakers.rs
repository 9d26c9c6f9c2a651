//! Calling the wakers of others, which is never done under a lock of the log.
//!
//! Who is called may do anything at once: run the task that waited, or drop it with all that it has - a member of a group, a
//! worker of a queue, the last handle of the log, which closes it. All of that takes locks. So the locks under which it may turn
//! out that somebody is to be called are taken with [`hold`]. What is called then is kept by the thread, and called when it has
//! given up the last of these locks; or, where they are held for longer, by a thread that has none ([`hand_over`]).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, TryLockError};
use std::task::Waker;
use std::time::Duration;

use super::threads;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};

thread_local! {
    /// How many locks the thread holds under which it calls nobody.
    static HELD: Cell<usize> = const { Cell::new(0) };
    /// Whom it calls afterwards: empty while it holds none. There is nothing to drop, so that it is there until the thread ends,
    /// for whatever is dropped then.
    static CALLED: RefCell<ManuallyDrop<Vec<Waker>>> =
        const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// Calls wakers, as soon as the calling thread holds no lock.
pub(in crate::log) fn call(wakers: impl IntoIterator<Item = Waker>) {
    if HELD.get() > 0 {
        CALLED.with_borrow_mut(|called| called.extend(wakers));
    } else {
        wakers.into_iter().for_each(call_now);
    }
}

fn call_now(waker: Waker) {
    // A panic was reported by its hook. Neither who brings the news nor those who are called next have to do with it.
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
}

fn take_called() -> Vec<Waker> {
    CALLED.with_borrow_mut(|called| std::mem::take(&mut **called))
}

/// While it is there, its thread calls nobody. For what is to others like a lock: they wait for its end.
#[derive(Debug)]
pub(in crate::log) struct Hush {
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl Hush {
    pub(in crate::log) fn new() -> Self {
        HELD.set(HELD.get() + 1);
        Self { _thread: PhantomData }
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            take_called().into_iter().for_each(call_now);
        }
    }
}

/// A lock under which nobody is called.
#[derive(Debug)]
pub(in crate::log) struct Held<'a, T: ?Sized> {
    // The order matters: it is unlocked first.
    guard: MutexGuard<'a, T>,
    _hush: Hush,
}

/// Locks, and calls nobody before it is unlocked.
#[inline]
pub(in crate::log) fn hold<T: ?Sized>(mutex: &Mutex<T>) -> Held<'_, T> {
    Held { guard: lock(mutex), _hush: Hush::new() }
}

/// As [`hold`], unless somebody else has it.
#[inline]
pub(in crate::log) fn try_hold<T: ?Sized>(mutex: &Mutex<T>) -> Option<Held<'_, T>> {
    let guard = match mutex.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    Some(Held { guard, _hush: Hush::new() })
}

impl<T: ?Sized> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Has those called by another thread whom this one would call only after it has given up its locks. For where that may take
/// long: a sync, a pass of maintenance.
pub(in crate::log) fn hand_over() {
    let called = take_called();
    if !called.is_empty()
        && let Err(called) = CALLERS.take_over(called)
    {
        // There can be no thread. It is done later, then.
        call(called);
    }
}

/// How long a thread that calls others stays though there is nobody to call.
const IDLE: Duration = Duration::from_secs(1);

/// The threads that call whom others cannot call at once; of all logs, and none for most of the time. Who is called may keep
/// its thread for long, and then nobody waits for that: the next ones get another one.
static CALLERS: Callers = Callers { state: Mutex::new(State::new()), called: Condvar::new() };

#[derive(Debug)]
struct Callers {
    state: Mutex<State>,
    called: Condvar,
}

/// Its lock is a leaf.
#[derive(Debug)]
struct State {
    waiting: VecDeque<Vec<Waker>>,
    /// How many threads have nothing to do, or will not have once they have taken what waits.
    idle: usize,
}

impl State {
    const fn new() -> Self {
        Self { waiting: VecDeque::new(), idle: 0 }
    }
}

impl Callers {
    /// Gives them back if there is nobody to call them.
    fn take_over(&'static self, wakers: Vec<Waker>) -> Result<(), Vec<Waker>> {
        let mut state = lock(&self.state);
        state.waiting.push_back(wakers);
        if state.idle >= state.waiting.len() {
            drop(state);
            self.called.notify_one();
            return Ok(());
        }
        let builder = std::thread::Builder::new().name("peermq-log-calls".to_owned());
        match builder.spawn(move || self.run()) {
            Ok(_) => {
                state.idle += 1;
                Ok(())
            }
            // One that is busy may see to it, but nobody knows when.
            Err(_) => Err(state.waiting.pop_back().unwrap_or_default()),
        }
    }

    fn run(&self) {
        threads::begin_work();
        let mut state = lock(&self.state);
        loop {
            if let Some(wakers) = state.waiting.pop_front() {
                state.idle -= 1;
                drop(state);
                call(wakers);
                state = lock(&self.state);
                state.idle += 1;
                continue;
            }
            let waited = self.called.wait_timeout(state, IDLE);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() && state.waiting.is_empty() {
                state.idle -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
