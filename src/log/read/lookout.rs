//! Looking for tasks what another process does to a log that is open for reading only: nobody else wakes them.
//!
//! A thread looks now and then at the partitions that tasks are registered with. It starts with the first of them, and ends
//! when there has been none for a while.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::follow::{PAUSE_MAX, PAUSE_MIN};
use crate::log::partition::Partition;
use crate::log::threads;
use crate::sync::{Condvar, Mutex, lock};

/// How long the thread stays without anybody to look for: a task that reads what it was woken for comes back.
const IDLE: Duration = Duration::from_secs(1);

/// The lookout of one log.
#[derive(Debug, Default)]
pub(in crate::log) struct Lookout {
    state: Arc<State>,
}

/// What the thread has. Its lock is a leaf.
#[derive(Debug, Default)]
struct State {
    watched: Mutex<Watched>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Watched {
    partitions: Vec<Weak<Partition>>,
    running: bool,
}

impl Lookout {
    /// Has a partition looked at for the tasks that are registered with it, until there are none any more.
    pub(in crate::log) fn watch(&self, partition: &Arc<Partition>) {
        let mut watched = lock(&self.state.watched);
        let known = |other: &Weak<Partition>| std::ptr::eq(other.as_ptr(), &**partition);
        if !watched.partitions.iter().any(known) {
            watched.partitions.push(Arc::downgrade(partition));
        }
        if watched.running {
            self.state.called.notify_one();
            return;
        }
        let state = Arc::clone(&self.state);
        let builder = std::thread::Builder::new().name("peermq-log-lookout".to_owned());
        watched.running = builder.spawn(move || state.run()).is_ok();
        let alone = !watched.running;
        drop(watched);
        if alone {
            // Without a thread tasks look for themselves, again and again: that is slow, but nothing is missed.
            partition.wake_readers();
        }
    }
}

impl State {
    fn run(&self) {
        threads::begin_work();
        let mut pause = PAUSE_MIN;
        while let Some(partitions) = self.wait() {
            let mut progressed = false;
            for partition in partitions {
                progressed |= look(&partition);
            }
            pause = if progressed { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            std::thread::sleep(pause);
        }
    }

    /// The partitions that tasks wait for, once there are any; `None` if that takes too long.
    fn wait(&self) -> Option<Vec<Arc<Partition>>> {
        let (mut watched, mut idle) = (lock(&self.watched), false);
        loop {
            let mut wanted = Vec::new();
            watched.partitions.retain(|partition| match partition.upgrade() {
                // Who registers does so before it has the partition watched.
                Some(partition) if partition.has_readers_waiting() => {
                    wanted.push(partition);
                    true
                }
                _ => false,
            });
            if !wanted.is_empty() {
                return Some(wanted);
            }
            if idle {
                watched.running = false;
                return None;
            }
            let waited = self.called.wait_timeout(watched, IDLE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            (watched, idle) = (guard, timeout.timed_out());
        }
    }
}

/// Whether a partition has got further. Who reads it is woken then, or if that cannot be said.
fn look(partition: &Partition) -> bool {
    let ends = || (partition.written_end(), partition.durable_end());
    let before = ends();
    if partition.refresh().is_err() {
        // Whoever is woken looks for himself, and meets the failure.
        partition.wake_readers();
    }
    ends() != before
}
