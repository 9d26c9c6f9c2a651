//! Waiting: one list of wakers serves parked threads and async tasks alike.
//!
//! Rule (R1 of docs/design.md): a waiter is registered under the lock of what it waits for, after it looked for the
//! last time; whoever brings news takes waiters out of the list under the same lock and wakes them after. A waiter
//! that was taken out is *notified*: it must look again, or pass the notification on if it gives up.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::reactor::Slot;
use crate::reactor::parker::Lease;
use crate::transport::now;

/// A waiter's place in a list; `None` while it has none.
pub(crate) type Key = Option<u64>;

/// Registered waiters in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    waiters: VecDeque<(u64, Waker)>,
    next: u64,
}

impl WaitList {
    /// Registers a waiter, or renews the waker of one that is registered already.
    pub(crate) fn register(&mut self, key: &mut Key, waker: &Waker) {
        if let Some(known) = *key
            && let Some(place) = self.waiters.iter_mut().find(|(number, _)| *number == known)
        {
            place.1.clone_from(waker);
            return;
        }
        self.next += 1;
        *key = Some(self.next);
        self.waiters.push_back((self.next, waker.clone()));
    }

    /// Takes a waiter out. True when it had been notified: then it must look again or pass that on.
    pub(crate) fn leave(&mut self, key: &mut Key) -> bool {
        let Some(known) = key.take() else { return false };
        match self.waiters.iter().position(|(number, _)| *number == known) {
            Some(index) => {
                self.waiters.remove(index);
                false
            }
            None => true,
        }
    }

    /// The first waiter, to be woken once the lock is released.
    #[must_use]
    pub(crate) fn take_one(&mut self) -> Option<Waker> {
        self.waiters.pop_front().map(|(_, waker)| waker)
    }

    /// All waiters, to be woken once the lock is released.
    #[must_use]
    pub(crate) fn take_all(&mut self) -> Vec<Waker> {
        self.waiters.drain(..).map(|(_, waker)| waker).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }
}

/// Runs `future` on this thread, which waits while it is pending: on the reactor's token if there is a `slot`, else
/// parked. `None` when `deadline` came first; the future is dropped then, which takes it out of whatever list it waits in.
pub(crate) fn block_on<F: Future>(
    future: F,
    slot: Option<&Slot>,
    deadline: Option<Instant>,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let lease = Lease::take();
    let parker = lease.parker();
    let waker = Waker::from(Arc::clone(parker));
    let mut context = Context::from_waker(&waker);
    let mut seat = None;
    let mut woken = false;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        // News that brings nothing may come without end.
        if woken && deadline.is_some_and(|deadline| deadline <= now()) {
            return None;
        }
        let notified = match slot {
            Some(slot) => seat.get_or_insert_with(|| slot.sit()).wait(parker, deadline),
            None => parker.wait(deadline),
        };
        if !notified {
            return None;
        }
        woken = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::transport::now;

    #[test]
    fn a_waiter_that_leaves_after_it_was_notified_says_so() {
        let mut list = WaitList::default();
        let (mut first, mut second) = (None, None);
        list.register(&mut first, Waker::noop());
        list.register(&mut second, Waker::noop());
        list.register(&mut first, Waker::noop());
        assert!(list.take_one().is_some());
        assert!(list.leave(&mut first), "the first was notified");
        assert!(!list.leave(&mut second), "the second was not");
        assert!(!list.leave(&mut second), "it is not there any more");
        assert!(list.is_empty());
    }

    #[test]
    fn a_pending_future_ends_at_the_deadline() {
        let deadline = now() + Duration::from_millis(5);
        assert_eq!(block_on(std::future::pending::<()>(), None, Some(deadline)), None);
        assert_eq!(block_on(std::future::ready(7), None, Some(deadline)), Some(7));
    }

    #[test]
    fn a_future_that_is_woken_for_nothing_again_and_again_ends_at_the_deadline() {
        let mut polls = 0;
        let future = std::future::poll_fn(|context| {
            polls += 1;
            assert!(polls < 1000, "the deadline is over");
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!(block_on(future, None, Some(now())), None);
    }

    #[test]
    fn a_wake_up_from_another_thread_ends_the_wait() {
        let flag = Arc::new(AtomicBool::new(false));
        let mut started = false;
        let future = std::future::poll_fn(|context| {
            if flag.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if !started {
                started = true;
                let (flag, waker) = (Arc::clone(&flag), context.waker().clone());
                std::thread::spawn(move || {
                    flag.store(true, Ordering::Release);
                    waker.wake();
                });
            }
            Poll::Pending
        });
        assert_eq!(block_on(future, None, None), Some(()));
    }
}
