//! Commits for tasks, which must not block: a thread of the log's own makes them, one after another, as only one has the
//! turn anyway. It starts when it is first needed, and ends with the log.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

use super::Transaction;
use crate::log::error::LogError;
use crate::log::groups::TopicPartition;
use crate::log::wakers;
use crate::sync::{Condvar, Mutex, lock};

/// Where the records of a transaction are, or why it was not committed.
type Outcome = Result<Vec<(TopicPartition, i64)>, LogError>;

type Job = Box<dyn FnOnce() + Send>;

/// The thread of one open log.
#[derive(Debug, Default)]
pub(super) struct Aside {
    pub(super) queue: Arc<Queue>,
}

/// What waits for the thread. Its lock is a leaf.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    called: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.len();
        f.debug_struct("Jobs").field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl Queue {
    /// Has a job done behind those that wait. It is done here if there can be no thread for it.
    fn run(self: &Arc<Self>, job: Job) {
        let mut jobs = lock(&self.jobs);
        if jobs.thread.is_none() && !jobs.ended {
            let queue = Arc::clone(self);
            let builder = std::thread::Builder::new().name("peermq-log-commits".to_owned());
            jobs.thread = builder.spawn(move || queue.work()).ok();
        }
        if jobs.thread.is_none() || jobs.ended {
            drop(jobs);
            return job();
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.called.notify_one();
    }

    fn work(&self) {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                drop(jobs);
                // A panic was reported by its hook. Those behind it have nothing to do with it.
                let _ = catch_unwind(AssertUnwindSafe(job));
                jobs = lock(&self.jobs);
            } else if jobs.ended {
                return;
            } else {
                jobs = self.called.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Aside {
    /// Lets the thread end when it has done what waits.
    pub(super) fn end(&self) {
        lock(&self.queue.jobs).ended = true;
        self.queue.called.notify_all();
    }
}

impl Drop for Aside {
    /// Whoever waits has the log, so that nothing waits any more.
    fn drop(&mut self) {
        self.end();
        let thread = lock(&self.queue.jobs).thread.take();
        // It may be the thread itself that had the log last.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// Tells a task what became of a transaction. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "a transaction is only known to be committed when its ticket was waited for"]
pub struct TransactionTicket {
    place: Arc<Mutex<Place>>,
}

/// Where the outcome is put, and who waits for it.
#[derive(Debug, Default)]
struct Place {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

/// Puts an outcome there, in any case.
struct Promise(Arc<Mutex<Place>>);

impl Promise {
    fn keep(&self, outcome: Outcome) {
        let mut place = lock(&self.0);
        place.outcome.get_or_insert(outcome);
        let waker = place.waker.take();
        drop(place);
        wakers::call(waker);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        // Kept already, or nobody can keep it any more.
        self.keep(Err(LogError::Closed));
    }
}

impl Future for TransactionTicket {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut place = lock(&self.place);
        match &place.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                let before = place.waker.replace(context.waker().clone());
                // To drop it may be to drop its task.
                drop(place);
                drop(before);
                Poll::Pending
            }
        }
    }
}

impl Transaction {
    /// As [`commit`](Self::commit), without blocking: the outcome is that of the ticket, a future that any executor can run.
    /// Transactions that are handed over so are committed by a thread of the log's own, in the order of these calls, whether
    /// anybody waits for their tickets or not. Only if the system has no thread for that, it is done before this returns.
    pub fn commit_async(self) -> TransactionTicket {
        let place = Arc::default();
        let (promise, ticket) = (Promise(Arc::clone(&place)), TransactionTicket { place });
        // Not the log itself: who commits last may be the last who has it, and closes it then.
        let queue = Arc::clone(&self.log.transactions.aside.queue);
        queue.run(Box::new(move || promise.keep(self.commit())));
        ticket
    }
}
