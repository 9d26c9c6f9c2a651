//! The bell of a service thread: tasks that may go on ring it, and the thread sleeps until it rings or a time comes.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// Numbers of tasks that may go on. A leaf: nothing is locked and nothing called under its lock.
#[derive(Debug, Default)]
pub(in crate::log) struct Alarm {
    rung: Mutex<Rung>,
    called: Condvar,
}

/// For whom it rang, each once, in the order of the first rings.
#[derive(Debug, Default)]
struct Rung {
    order: Vec<u64>,
    /// The same. One record may wake very many.
    known: HashSet<u64>,
}

/// The waker of one task.
struct Bell {
    alarm: Arc<Alarm>,
    task: u64,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.alarm.ring(self.task);
    }
}

impl Alarm {
    /// A waker that rings for a task.
    pub(in crate::log) fn waker(self: &Arc<Self>, task: u64) -> Waker {
        Waker::from(Arc::new(Bell { alarm: Arc::clone(self), task }))
    }

    /// Lets a task go on.
    pub(in crate::log) fn ring(&self, task: u64) {
        let mut rung = lock(&self.rung);
        if rung.known.insert(task) {
            rung.order.push(task);
        }
        drop(rung);
        self.called.notify_one();
    }

    /// Waits until somebody rings or the time comes; returns for whom it rang.
    pub(in crate::log) fn wait(&self, deadline: Option<Instant>) -> Vec<u64> {
        let mut rung = lock(&self.rung);
        while rung.order.is_empty() {
            rung = match deadline.map(|deadline| deadline.saturating_duration_since(now())) {
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    let waited = self.called.wait_timeout(rung, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.called.wait(rung).unwrap_or_else(PoisonError::into_inner),
            };
        }
        std::mem::take(&mut *rung).order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many that one which is looked for among all others takes minutes for all of them.
    const TASKS: u64 = 300_000;

    #[test]
    fn very_many_tasks_are_rung_for_at_once_each_is_told_once_and_the_first_comes_first() {
        let alarm = Alarm::default();
        for task in (0..TASKS).chain(0..TASKS) {
            alarm.ring(task);
        }
        assert!(alarm.wait(None).into_iter().eq(0..TASKS));
        alarm.ring(7);
        assert_eq!(alarm.wait(None), [7], "it was told already, but rang anew");
        assert!(alarm.wait(Some(now())).is_empty());
    }
}
