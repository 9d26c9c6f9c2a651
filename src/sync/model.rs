//! The locks of a model: loom's, and around them what loom lacks. A timed wait ends when the model says so, a park has its
//! own token, and a mistake can be planted.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

pub(crate) use loom::sync::{Mutex, MutexGuard};

use super::Fault;

/// `std::thread_local` in the one form that the crate uses.
macro_rules! local {
    ($(#[$attribute:meta])* static $name:ident: $kind:ty = const { $init:expr };) => {
        loom::thread_local! { $(#[$attribute])* static $name: $kind = $init; }
    };
}
pub(crate) use local as thread_local;

pub(crate) mod atomic {
    //! What the crate uses of `std::sync::atomic`.

    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

    /// Loom lets a plain store come between a swap and the value that the swap has read, which no machine does; a relaxed
    /// store is a swap here, so that what is stored and swapped has one order.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(crate) fn new(value: bool) -> Self {
            Self(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(crate) fn load(&self, ordering: Ordering) -> bool {
            self.0.load(ordering)
        }

        pub(crate) fn store(&self, value: bool, ordering: Ordering) {
            match ordering {
                Ordering::Relaxed => drop(self.0.swap(value, ordering)),
                _ => self.0.store(value, ordering),
            }
        }

        pub(crate) fn swap(&self, value: bool, ordering: Ordering) -> bool {
            self.0.swap(value, ordering)
        }
    }
}

// Loom runs all threads of a model on one thread of the system, so they share these.
std::thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    static TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Begins a run of a model: at time zero, with at most one mistake.
pub(crate) fn begin(fault: Option<Fault>) {
    PLANTED.set(fault);
    TIME.set(Duration::ZERO);
}

/// Whether the model planted this mistake.
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

/// Whether a model has failed and unwinds: loom stands no further operation then, so what acts when dropped does nothing.
pub(crate) fn model_failed() -> bool {
    std::thread::panicking()
}

/// Time since the run of the model began. It passes only in timed waits.
pub(crate) fn time_passed() -> Duration {
    TIME.get()
}

fn pass(time: Duration) {
    TIME.set(TIME.get().saturating_add(time));
}

/// A condition variable whose timed waits end by a notification or by [`Condvar::time_out`].
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    inner: loom::sync::Condvar,
    // No part of what loom explores: a thread is switched only at an operation of loom's.
    timed: AtomicBool,
    over: AtomicBool,
}

/// How a timed wait ended.
pub(crate) struct Timeout(bool);

impl Timeout {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.inner.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, Timeout)> {
        self.timed.store(true, Ordering::Relaxed);
        let guard = self.inner.wait(guard).unwrap_or_else(PoisonError::into_inner);
        self.timed.store(false, Ordering::Relaxed);
        Ok((guard, Timeout(self.over.swap(false, Ordering::Relaxed))))
    }

    /// Ends a timed wait after `time`, if one is under way.
    pub(crate) fn time_out(&self, time: Duration) {
        if self.timed.load(Ordering::Relaxed) {
            pass(time);
            self.over.store(true, Ordering::Relaxed);
            self.inner.notify_all();
        }
    }

    pub(crate) fn notify_one(&self) {
        self.inner.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.inner.notify_all();
    }
}

pub(crate) mod thread {
    //! Parking with a token that is a lock of loom's: loom's own `unpark` also tears a thread out of a wait for a lock.

    use std::sync::Arc;
    use std::time::Duration;

    use super::super::lock;
    use super::{Condvar, Mutex};

    #[derive(Clone, Debug)]
    pub(crate) struct Thread(Arc<Token>);

    #[derive(Debug, Default)]
    struct Token {
        given: Mutex<bool>,
        changed: Condvar,
    }

    loom::thread_local! {
        static CURRENT: Thread = Thread(Arc::new(Token::default()));
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    pub(crate) fn park() {
        let Thread(token) = current();
        let mut given = lock(&token.given);
        while !*given {
            given = token.changed.wait(given).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *given = false;
    }

    /// Parks for no time at all: what a deadline or a tick ends is looked at again.
    pub(crate) fn park_timeout(time: Duration) {
        super::pass(time);
        *lock(&current().0.given) = false;
        loom::thread::yield_now();
    }

    impl Thread {
        /// Tells threads apart, as `std::thread::Thread::id` does.
        pub(crate) fn id(&self) -> usize {
            Arc::as_ptr(&self.0).addr()
        }

        pub(crate) fn unpark(&self) {
            *lock(&self.0.given) = true;
            self.0.changed.notify_one();
        }
    }
}
