//! Locks, atomics and the parking of threads: the one place that says whose they are. The standard library's, or with
//! `--cfg loom` those of loom, which runs the models of `src/loom_models` through all interleavings.

mod barrier;
mod biased;
#[cfg(loom)]
mod model;

use std::sync::PoisonError;
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::{thread, thread_local};

#[cfg(loom)]
pub(crate) use model::{
    Condvar, Mutex, MutexGuard, atomic, begin, model_failed, planted, thread, thread_local,
    time_passed,
};

pub(crate) use biased::{Biased, Guard as BiasedGuard};

/// Locks, also after a panic of another holder: every state behind our locks is valid between statements.
#[inline]
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mistakes that the models can plant, to show that they find them. None of them exists without `--cfg loom`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A caller that leaves does not call the keeper for those who wait on (T2).
    KeeperNotCalled,
    /// A caller turns without a last look at its notification (R1).
    TurnedWithoutLook,
    /// The turner goes to sleep without a last look at its mailbox (R4).
    SleptWithoutLook,
    /// A writable event during a write leaves no mark (O2).
    KickForgotten,
    /// A writer does not notice that its session ended (O3).
    SessionMistaken,
    /// A waiter gives up the lock between its last look and its registration (R1).
    RegisteredLate,
    /// A waiter that leaves keeps a notification to itself (R2).
    NotificationKept,
    /// Whoever takes one message of several wakes nobody (R2).
    BatonKept,
    /// A session in process ends before both ends are attached (J1).
    EndedWhileJoining,
    /// Both ends end their session (J1).
    EndedTwice,
    /// Whoever takes a favour away does not wait for the favourite's stores (`Biased`).
    BarrierForgotten,
}

/// Whether a model planted this mistake.
#[cfg(not(loom))]
#[inline]
pub(crate) const fn planted(_: Fault) -> bool {
    false
}

/// Whether a model failed: what acts when dropped does nothing then.
#[cfg(not(loom))]
#[inline]
pub(crate) const fn model_failed() -> bool {
    false
}
