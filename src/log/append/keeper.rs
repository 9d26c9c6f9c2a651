//! A thread for those who do not wait in one: it syncs for tasks, and writes what nobody waits for after a short time.
//! It starts when it is first needed and ends with the log. While it waits for the medium others do the same for other
//! partitions, a few of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::log::partition::Partition;
use crate::log::threads;
use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// Threads at most; so many partitions can keep others waiting.
const THREADS_MAX: usize = 4;

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
    /// When what lingers is written.
    until: Option<Instant>,
    /// What threads are doing. Another one could only wait to do the same.
    busy: Vec<(Job, Weak<Partition>)>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// How many threads have nothing to do.
    idle: usize,
    ended: bool,
}

/// What a thread does for a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Write,
    Sync,
}

impl Jobs {
    /// The next job that can be done now: first what appenders may have to wait for.
    fn next(&self) -> Option<(Job, usize)> {
        let first = |job: Job, jobs: &[Weak<Partition>]| {
            jobs.iter().position(|one| !self.is_busy(job, one)).map(|at| (job, at))
        };
        first(Job::Write, &self.writes).or_else(|| first(Job::Sync, &self.syncs))
    }

    fn is_busy(&self, job: Job, partition: &Weak<Partition>) -> bool {
        self.busy.iter().any(|(busy, with)| *busy == job && with.ptr_eq(partition))
    }

    fn take(&mut self) -> Option<(Job, Weak<Partition>)> {
        let (job, at) = self.next()?;
        let partition = match job {
            Job::Write => self.writes.remove(at),
            Job::Sync => self.syncs.remove(at),
        };
        self.busy.push((job, partition.clone()));
        Some((job, partition))
    }
}

/// Adds a partition to those of which something is to be done.
fn add(jobs: &mut Vec<Weak<Partition>>, partition: &Arc<Partition>) {
    let known = |other: &Weak<Partition>| std::ptr::eq(other.as_ptr(), &**partition);
    if !jobs.iter().any(known) {
        jobs.push(Arc::downgrade(partition));
    }
}

impl Keeper {
    pub(in crate::log) fn new(linger: Option<Duration>) -> Self {
        Self { state: Arc::default(), linger }
    }

    /// Syncs for the tasks that wait on a partition.
    pub(in crate::log) fn sync(&self, partition: &Arc<Partition>) {
        self.call(|jobs| {
            add(&mut jobs.syncs, partition);
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
            add(&mut jobs.writes, partition);
            true
        });
    }

    /// Writes what gathers in a partition, a little later.
    pub(in crate::log) fn linger(&self, partition: &Arc<Partition>) {
        let Some(linger) = self.linger else { return };
        self.call(|jobs| {
            jobs.lingering.push(Arc::downgrade(partition));
            let waited_for = jobs.until.is_some();
            // Beyond all time there is nothing to wait for.
            jobs.until = jobs.until.or_else(|| now().checked_add(linger));
            // Else somebody is waiting for the time to pass already, or will.
            !waited_for && jobs.until.is_some()
        });
    }

    fn call(&self, add: impl FnOnce(&mut Jobs) -> bool) {
        let mut jobs = lock(&self.state.jobs);
        if jobs.ended {
            return;
        }
        if !add(&mut jobs) {
            return;
        }
        hand_over(&self.state, &mut jobs);
    }

    /// Whether the calling thread is one of the keeper's.
    pub(in crate::log) fn is_own_thread(&self) -> bool {
        let own = std::thread::current().id();
        lock(&self.state.jobs).threads.iter().any(|thread| thread.thread().id() == own)
    }

    /// Nothing is begun any more.
    pub(in crate::log) fn end(&self) {
        lock(&self.state.jobs).ended = true;
        self.state.called.notify_all();
    }

    /// After the [end](Self::end), waits for what the threads are doing: with nothing locked, as one of them may be calling
    /// somebody who wants to have that.
    pub(in crate::log) fn join(&self) {
        let threads = std::mem::take(&mut lock(&self.state.jobs).threads);
        let current = std::thread::current().id();
        // None of them waits for the others, which may wait for it.
        if threads.iter().all(|thread| thread.thread().id() != current) {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

/// Sees to it that somebody does what there is to do, or waits until it is time.
fn hand_over(state: &Arc<State>, jobs: &mut Jobs) {
    if jobs.next().is_none() && jobs.until.is_none() {
        return;
    }
    if jobs.idle > 0 { state.called.notify_one() } else { start(state, jobs) }
}

/// Starts another thread, unless there are enough.
fn start(state: &Arc<State>, jobs: &mut Jobs) {
    jobs.threads.retain(|thread| !thread.is_finished());
    if jobs.threads.len() < THREADS_MAX {
        let state = Arc::clone(state);
        let builder = std::thread::Builder::new().name("peermq-log".to_owned());
        // Without a thread tasks wait until somebody else syncs; there is nobody to tell.
        jobs.threads.extend(builder.spawn(move || run(&state)));
    }
}

fn run(state: &Arc<State>) {
    threads::begin_work();
    let mut jobs = lock(&state.jobs);
    while !jobs.ended {
        if let Some((job, partition)) = jobs.take() {
            // This may take long.
            hand_over(state, &mut jobs);
            drop(jobs);
            // A panic was reported by its hook, and stops the log where that is needed. The thread goes on: it has more to do,
            // for this partition too.
            let _ = catch_unwind(AssertUnwindSafe(|| match (job, partition.upgrade()) {
                (Job::Write, Some(partition)) => partition.write_if_free(),
                (Job::Sync, Some(partition)) => partition.sync_for_tasks(),
                (_, None) => {}
            }));
            jobs = lock(&state.jobs);
            jobs.busy.retain(|(busy, with)| *busy != job || !with.ptr_eq(&partition));
            continue;
        }
        let left = jobs.until.map(|until| until.saturating_duration_since(now()));
        if left.is_some_and(|left| left.is_zero()) {
            jobs.until = None;
            let lingering = std::mem::take(&mut jobs.lingering);
            drop(jobs);
            let lingering: Vec<_> = lingering.iter().filter_map(Weak::upgrade).collect();
            // First the mark: what comes after it calls again.
            lingering.iter().for_each(|it| it.lingering.store(false, Ordering::SeqCst));
            jobs = lock(&state.jobs);
            lingering.iter().for_each(|partition| add(&mut jobs.writes, partition));
            continue;
        }
        jobs.idle += 1;
        jobs = match left {
            Some(left) => {
                let waited = state.called.wait_timeout(jobs, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => state.called.wait(jobs).unwrap_or_else(PoisonError::into_inner),
        };
        jobs.idle -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::log::storage::MemoryStorage;
    use crate::log::{Clock, Level, Log, TopicOptions};

    /// A clock that panics once when it is told to.
    #[derive(Debug, Default)]
    struct Fickle(AtomicBool);

    impl Clock for Fickle {
        fn now_ms(&self) -> i64 {
            assert!(!self.0.swap(false, Ordering::SeqCst), "a planned one");
            0
        }
    }

    #[test]
    fn a_job_that_panics_ends_neither_its_thread_nor_what_is_done_for_its_partition() {
        let clock = Arc::new(Fickle::default());
        let log = Log::options().storage(Arc::new(MemoryStorage::new())).clock(clock.clone());
        let log = log.linger(None).open("/log").unwrap();
        let topic = log.create_topic("t", TopicOptions::default()).unwrap();
        let partition = topic.inner.partition(0).unwrap();
        let keeper = &partition.shared.keeper;
        let _ticket = topic.append_at(Level::Buffered, "record").unwrap();
        clock.0.store(true, Ordering::SeqCst);
        keeper.write(partition);
        let deadline = now() + Duration::from_secs(60);
        loop {
            let jobs = lock(&keeper.state.jobs);
            if !clock.0.load(Ordering::SeqCst) && jobs.busy.is_empty() {
                assert!(jobs.threads.iter().all(|thread| !thread.is_finished()));
                break;
            }
            assert!(now() < deadline, "its partition is taken for busy");
            drop(jobs);
            std::thread::yield_now();
        }
    }
}
