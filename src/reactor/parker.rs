//! A waiting thread: parked, or turning a reactor while it waits, or notified.
//!
//! Rule (R1): whoever brings news makes the waiter notified first and then gets it going: a parked thread is unparked, a
//! turning one is pulled out of its poll. The thread says that it is turning before it looks at the flag for the last
//! time, so one of the two sees the other.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use super::mailbox::Mailbox;
use crate::sync::lock;
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
        match &*lock(&self.turning) {
            Some(mailbox) => mailbox.nudge(),
            None => self.thread.unpark(),
        }
    }
}

thread_local! {
    static PARKER: RefCell<Option<(Arc<Parker>, Waker)>> = const { RefCell::new(None) };
}

/// This thread's parker and the waker that notifies it.
pub(crate) fn this_thread() -> (Arc<Parker>, Waker) {
    let kept = PARKER.try_with(|kept| kept.borrow().clone()).ok().flatten();
    kept.unwrap_or_else(|| {
        let thread = std::thread::current();
        let parker = Arc::new(Parker {
            thread,
            notified: AtomicBool::new(false),
            turning: Mutex::new(None),
        });
        let waker = Waker::from(Arc::clone(&parker));
        let made = (parker, waker);
        // Fails while the thread ends; then there is nothing to keep it for.
        let _ = PARKER.try_with(|kept| *kept.borrow_mut() = Some(made.clone()));
        made
    })
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
    pub(crate) fn begin_turning(&self, mailbox: &Arc<Mailbox>) {
        *lock(&self.turning) = Some(Arc::clone(mailbox));
    }

    pub(crate) fn end_turning(&self) {
        *lock(&self.turning) = None;
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
            None => std::thread::park(),
            Some(deadline) => {
                std::thread::park_timeout(deadline.saturating_duration_since(now()));
            }
        }
    }
}
