//! A waiting thread: parked, or turning a reactor while it waits, or notified.
//!
//! Rule (R1): whoever brings news makes the waiter notified first and then gets it going: a parked thread is unparked, a
//! turning one is pulled out of its poll. The thread says that it is turning before it looks at the flag for the last
//! time, so one of the two sees the other.

use std::cell::Cell;
use std::sync::Arc;
use std::task::Wake;
use std::time::Instant;

use super::mailbox::Mailbox;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, Thread};
use crate::sync::{Mutex, lock, model_failed, thread_local};
use crate::transport::now;

/// The waiting side of one thread.
pub(crate) struct Parker {
    thread: Thread,
    notified: AtomicBool,
    /// The mailbox of the reactor that the thread turns.
    turning: Mutex<Option<Arc<Mailbox>>>,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.notified.swap(true, Ordering::AcqRel) {
            return;
        }
        if thread::current().id() == self.thread.id() {
            // This thread brings the news to itself, in its own turn, and looks at the flag after it.
            return;
        }
        match &*lock(&self.turning) {
            Some(mailbox) => mailbox.nudge(),
            None => self.thread.unpark(),
        }
    }
}

thread_local! {
    static PARKER: Cell<Option<Arc<Parker>>> = const { Cell::new(None) };
}

/// This thread's parker, taken for one wait. A wait inside a wait (a waker that waits, against all advice) gets a parker of
/// its own and cannot swallow the outer one's news.
pub(crate) struct Lease(Arc<Parker>);

impl Lease {
    pub(crate) fn take() -> Self {
        // Without the thread-local, at the end of a thread, each wait makes its own.
        let kept = PARKER.try_with(Cell::take).ok().flatten();
        Self(kept.unwrap_or_else(|| {
            Arc::new(Parker {
                thread: thread::current(),
                notified: AtomicBool::new(false),
                turning: Mutex::new(None),
            })
        }))
    }

    pub(crate) fn parker(&self) -> &Arc<Parker> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if model_failed() {
            return;
        }
        self.0.take_notification();
        let _ = PARKER.try_with(|kept| kept.set(Some(Arc::clone(&self.0))));
    }
}

/// Says that a thread turns a reactor, until dropped, also by a panic: from then on news reaches it by `unpark` again.
pub(crate) struct Turning<'a>(&'a Parker);

impl Drop for Turning<'_> {
    fn drop(&mut self) {
        if model_failed() {
            return;
        }
        *lock(&self.0.turning) = None;
    }
}

impl Parker {
    /// Takes the notification, if there is one.
    pub(crate) fn take_notification(&self) -> bool {
        self.notified.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }

    /// From now on news reaches this thread through the reactor that it turns.
    pub(crate) fn turning(&self, mailbox: &Arc<Mailbox>) -> Turning<'_> {
        *lock(&self.turning) = Some(Arc::clone(mailbox));
        Turning(self)
    }

    /// Parks until notified. False when `deadline` came first.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        loop {
            if self.take_notification() {
                return true;
            }
            if deadline.is_some_and(|deadline| deadline <= now()) {
                return false;
            }
            self.park(deadline);
        }
    }

    /// Lets whoever parks here look again, without news.
    pub(crate) fn unpark(&self) {
        self.thread.unpark();
    }

    /// Parks until something unparks this thread, for whatever reason, or `deadline` has come.
    pub(crate) fn park(&self, deadline: Option<Instant>) {
        match deadline {
            None => thread::park(),
            Some(deadline) => {
                thread::park_timeout(deadline.saturating_duration_since(now()));
            }
        }
    }
}
