//! Threads for requests that block: the service goes on meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::{fmt, mem};

use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::{Outcome, RemoteCode, RemoteError};
use crate::log::threads;
use crate::sync::{Mutex, lock};

/// What a blocking request does.
type Job = Box<dyn FnOnce() -> Outcome + Send>;

/// Where the outcome of a job is put. Once nobody has it, the job is not begun any more, and what it holds is let go.
#[derive(Debug, Clone)]
pub(super) struct Place(Arc<Mutex<State>>);

enum State {
    Waits(Job),
    Begun,
    Done(Outcome),
    Taken,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waits(_) => "Waits",
            Self::Begun => "Begun",
            Self::Done(_) => "Done",
            Self::Taken => "Taken",
        })
    }
}

impl Place {
    /// Takes the outcome, once it is there.
    pub(super) fn take(&self) -> Option<Outcome> {
        let mut state = lock(&self.0);
        match mem::replace(&mut *state, State::Taken) {
            State::Done(outcome) => Some(outcome),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Does the job, unless that was done. A panic was reported by its hook; who asked hears of it, and nobody else.
    fn work(&self) {
        let waits = mem::replace(&mut *lock(&self.0), State::Begun);
        if let State::Waits(job) = waits {
            let outcome = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| {
                Err(RemoteError::new(RemoteCode::Storage, "the server panicked at it"))
            });
            *lock(&self.0) = State::Done(outcome);
        }
    }
}

/// What the thread is handed.
enum Order {
    /// A job for a task that waits for its outcome.
    Awaited(u64, Weak<Mutex<State>>),
    /// A job that nobody waits for.
    Aside(Box<dyn FnOnce() + Send>),
}

/// Runs jobs one after another. Dropping it waits for the one that is under way, and does no other.
#[derive(Debug)]
pub(super) struct Blocking {
    /// `None` when it is dropped.
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
}

impl Blocking {
    /// Starts the thread; `alarm` rings for the task whose job is done.
    pub(super) fn start(name: &str, alarm: Arc<Alarm>) -> std::io::Result<Self> {
        let (sender, orders) = mpsc::channel::<Order>();
        let builder = std::thread::Builder::new().name(name.to_owned());
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let thread = builder.spawn(move || {
            threads::begin_work();
            for order in orders {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                match order {
                    Order::Awaited(task, place) => {
                        // Its client may be gone.
                        let Some(place) = place.upgrade().map(Place) else { continue };
                        place.work();
                        alarm.ring(task);
                    }
                    // As above, and nobody asked.
                    Order::Aside(job) => drop(catch_unwind(AssertUnwindSafe(job))),
                }
            }
        })?;
        Ok(Self { orders: Some(sender), thread: Some(thread), stopped })
    }

    /// Has it do nothing any more but what is under way.
    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Hands a job over. As many can wait as requests can be in flight.
    pub(super) fn run(&self, task: u64, job: Job) -> Place {
        let place = Place(Arc::new(Mutex::new(State::Waits(job))));
        self.order(Order::Awaited(task, Arc::downgrade(&place.0)));
        place
    }

    /// Hands over a job that nobody waits for.
    pub(super) fn run_aside(&self, job: impl FnOnce() + Send + 'static) {
        self.order(Order::Aside(Box::new(job)));
    }

    fn order(&self, order: Order) {
        // The thread ends only after this.
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        self.stop();
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // The service waits for it, and nothing that runs here waits for the service (`threads`). A panic there has
            // been reported by its own hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::peer::protocol::TopicNames;

    #[test]
    fn what_is_under_way_ends_before_its_thread_and_what_waits_is_not_done() {
        let alarm = Arc::new(Alarm::default());
        let blocking = Blocking::start("test", Arc::clone(&alarm)).unwrap();
        let (begun, begin) = mpsc::channel();
        let (told, tell) = mpsc::channel::<()>();
        let nothing = || Ok(TopicNames { topics: Vec::new() }.into());
        let first = blocking.run(
            2,
            Box::new(move || {
                begun.send(()).unwrap();
                let _ = tell.recv();
                nothing()
            }),
        );
        let second = blocking.run(3, Box::new(nothing));
        begin.recv().unwrap();
        blocking.stop();
        drop(told);
        drop(blocking);
        assert!(first.take().is_some() && second.take().is_none());
        assert_eq!(Arc::strong_count(&alarm), 1, "its thread is there");
    }

    #[test]
    fn a_job_that_panics_is_answered_and_those_behind_it_are_done() {
        let blocking = Blocking::start("test", Arc::new(Alarm::default())).unwrap();
        let panics = blocking.run(2, Box::new(|| panic!("a planned one")));
        blocking.run_aside(|| panic!("another planned one"));
        let (done, wait) = mpsc::channel();
        blocking.run_aside(move || done.send(()).unwrap());
        wait.recv().expect("the thread has ended");
        let refused = panics.take().expect("it was not answered").unwrap_err();
        assert_eq!(refused.code, RemoteCode::Storage);
    }

    #[test]
    fn a_job_that_nobody_waits_for_any_more_is_let_go_at_once_and_not_done() {
        let blocking = Blocking::start("test", Arc::new(Alarm::default())).unwrap();
        let nothing = || Ok(TopicNames { topics: Vec::new() }.into());
        let (told, tell) = mpsc::channel::<()>();
        blocking.run_aside(move || {
            let _ = tell.recv();
        });
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let given_up = blocking.run(
            2,
            Box::new(move || {
                drop(inside);
                panic!("nobody waits for it");
            }),
        );
        drop(given_up);
        assert_eq!(Arc::strong_count(&held), 1, "what it holds is there");
        let (done, wait) = mpsc::channel();
        let wanted = blocking.run(3, Box::new(nothing));
        blocking.run_aside(move || done.send(()).unwrap());
        drop(told);
        wait.recv().unwrap();
        assert!(wanted.take().is_some() && wanted.take().is_none());
    }
}
