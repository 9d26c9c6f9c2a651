//! Those who wait for a partition to get further: threads and tasks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use crate::log::wakers;
use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// Waiting threads and tasks. Whoever makes progress publishes it and then calls [`wake_all`](Self::wake_all), which is
/// one load when nobody waits.
#[derive(Debug, Default)]
pub(in crate::log) struct Waiters {
    /// Threads that wait and tasks that are registered. Raised before the waiter's last look at the progress, read after
    /// the progress is published, both sequentially consistent: one of the two sees the other.
    count: AtomicUsize,
    /// By number: there may be very many, which come and go one by one.
    tasks: Mutex<BTreeMap<u64, Waker>>,
    progressed: Condvar,
    next_id: AtomicU64,
}

impl Waiters {
    /// Whether somebody waits.
    pub(in crate::log) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Wakes everybody, to look again.
    pub(in crate::log) fn wake_all(&self) {
        if !self.any() {
            return;
        }
        let tasks = {
            let mut tasks = lock(&self.tasks);
            self.count.fetch_sub(tasks.len(), Ordering::SeqCst);
            std::mem::take(&mut *tasks)
        };
        self.progressed.notify_all();
        wakers::call(tasks.into_values());
    }

    /// Blocks until `ready` says so; false if `timeout` passed first. `before` runs once the waiter is counted.
    pub(in crate::log) fn wait(
        &self,
        timeout: Option<Duration>,
        before: impl FnOnce(),
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst);
        before();
        let deadline = timeout.and_then(|timeout| now().checked_add(timeout));
        let mut guard = lock(&self.tasks);
        let done = loop {
            if ready() {
                break true;
            }
            guard = match (timeout, deadline) {
                (Some(_), Some(deadline)) => {
                    let left = deadline.saturating_duration_since(now());
                    if left.is_zero() {
                        break false;
                    }
                    let waited = self.progressed.wait_timeout(guard, left);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
                _ => {
                    let waited = self.progressed.wait(guard);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner)
                }
            };
        };
        drop(guard);
        self.count.fetch_sub(1, Ordering::SeqCst);
        done
    }

    /// A number for a task, by which it registers.
    pub(in crate::log) fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Registers a task for the next progress. It must look again afterwards, before it gives its thread up.
    pub(in crate::log) fn register(&self, id: u64, waker: &Waker) {
        let mut tasks = lock(&self.tasks);
        // What was registered before is dropped without the lock: that may drop a task, which forgets others.
        let _before = match tasks.get_mut(&id) {
            Some(known) if known.will_wake(waker) => None,
            Some(known) => Some(std::mem::replace(known, waker.clone())),
            None => {
                tasks.insert(id, waker.clone());
                self.count.fetch_add(1, Ordering::SeqCst);
                None
            }
        };
        drop(tasks);
    }

    /// Forgets a task.
    pub(in crate::log) fn forget(&self, id: u64) {
        let mut tasks = lock(&self.tasks);
        let known = tasks.remove(&id);
        if known.is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
        drop(tasks);
        drop(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many that one which is looked for among all others takes minutes for all of them.
    const TASKS: u64 = 300_000;

    #[test]
    fn very_many_tasks_come_and_go_one_by_one() {
        let waiters = Waiters::default();
        for id in (0..TASKS).chain(0..TASKS) {
            waiters.register(id, Waker::noop());
        }
        assert_eq!(waiters.count.load(Ordering::SeqCst) as u64, TASKS);
        (0..TASKS).rev().for_each(|id| waiters.forget(id));
        assert!(!waiters.any());
    }
}
