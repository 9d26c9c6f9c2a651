//! A thread for those who do not wait in one: it syncs for tasks, and writes what nobody waits for after a short time.
//! It starts when it is first needed and ends with the log.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::log::partition::Partition;
use crate::log::threads;
use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// The keeper of one open log.
#[derive(Debug)]
pub(in crate::log) struct Keeper {
    state: Arc<State>,
    /// How long records may gather before they are written though nobody waits; `None`: for ever.
    linger: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    jobs: Mutex<Jobs>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Jobs {
    syncs: Vec<Weak<Partition>>,
    writes: Vec<Weak<Partition>>,
    lingering: Vec<Weak<Partition>>,
    thread: Option<std::thread::JoinHandle<()>>,
    ended: bool,
}

impl Keeper {
    pub(in crate::log) fn new(linger: Option<Duration>) -> Self {
        Self { state: Arc::default(), linger }
    }

    /// Syncs for the tasks that wait on a partition.
    pub(in crate::log) fn sync(&self, partition: &Arc<Partition>) {
        self.call(|jobs| {
            let known = |other: &Weak<Partition>| std::ptr::eq(other.as_ptr(), &**partition);
            if !jobs.syncs.iter().any(known) {
                jobs.syncs.push(Arc::downgrade(partition));
            }
            true
        });
    }

    /// Whether there may be a thread for those who do not wait.
    pub(in crate::log) fn has_thread(&self) -> bool {
        self.linger.is_some()
    }

    /// Writes what has gathered in a partition.
    pub(in crate::log) fn write(&self, partition: &Arc<Partition>) {
        self.call(|jobs| {
            jobs.writes.push(Arc::downgrade(partition));
            true
        });
    }

    /// Writes what gathers in a partition, a little later.
    pub(in crate::log) fn linger(&self, partition: &Arc<Partition>) {
        if self.linger.is_some() {
            self.call(|jobs| {
                jobs.lingering.push(Arc::downgrade(partition));
                // Else it is waiting for the time to pass already.
                jobs.lingering.len() == 1
            });
        }
    }

    fn call(&self, add: impl FnOnce(&mut Jobs) -> bool) {
        let mut jobs = lock(&self.state.jobs);
        if jobs.ended {
            return;
        }
        let wake = add(&mut jobs);
        if jobs.thread.is_none() {
            let (state, linger) = (self.state.clone(), self.linger.unwrap_or_default());
            let builder = std::thread::Builder::new().name("peermq-log".to_owned());
            // Without a thread tasks wait until somebody else syncs; there is nobody to tell.
            jobs.thread = builder.spawn(move || run(&state, linger)).ok();
        } else if wake {
            self.state.called.notify_one();
        }
    }

    /// Ends the thread, after what it is doing.
    pub(in crate::log) fn end(&self) {
        let mut jobs = lock(&self.state.jobs);
        jobs.ended = true;
        let thread = jobs.thread.take();
        drop(jobs);
        self.state.called.notify_all();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(state: &State, linger: Duration) {
    threads::begin_work();
    let mut jobs = lock(&state.jobs);
    // When what lingers is written.
    let mut until: Option<Instant> = None;
    while !jobs.ended {
        // First what appenders may have to wait for.
        let writes = std::mem::take(&mut jobs.writes);
        if !writes.is_empty() {
            drop(jobs);
            for partition in writes.iter().filter_map(Weak::upgrade) {
                partition.write_if_free();
            }
            jobs = lock(&state.jobs);
            continue;
        }
        let syncs = std::mem::take(&mut jobs.syncs);
        if !syncs.is_empty() {
            drop(jobs);
            for partition in syncs.iter().filter_map(Weak::upgrade) {
                partition.sync_for_tasks();
            }
            jobs = lock(&state.jobs);
            continue;
        }
        if jobs.lingering.is_empty() {
            jobs = state.called.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let left = until.get_or_insert_with(|| now() + linger).saturating_duration_since(now());
        if !left.is_zero() {
            let waited = state.called.wait_timeout(jobs, left);
            jobs = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        until = None;
        let lingering = std::mem::take(&mut jobs.lingering);
        drop(jobs);
        for partition in lingering.iter().filter_map(Weak::upgrade) {
            // First the mark: what comes after it calls again.
            partition.lingering.store(false, Ordering::SeqCst);
            partition.write_if_free();
        }
        jobs = lock(&state.jobs);
    }
}
