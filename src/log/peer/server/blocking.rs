//! Threads for requests that block: the service goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::Outcome;
use crate::log::threads;
use crate::sync::{Mutex, lock};

/// What a blocking request does.
type Job = Box<dyn FnOnce() -> Outcome + Send>;

/// Where the outcome of a job is put.
#[derive(Debug, Clone, Default)]
pub(super) struct Place(Arc<Mutex<Option<Outcome>>>);

impl Place {
    /// Takes the outcome, once it is there.
    pub(super) fn take(&self) -> Option<Outcome> {
        lock(&self.0).take()
    }
}

/// Runs jobs one after another. Dropping it waits for the one that is under way, and does no other.
#[derive(Debug)]
pub(super) struct Blocking {
    /// `None` when it is dropped.
    jobs: Option<Sender<(u64, Place, Job)>>,
    thread: Option<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
}

impl Blocking {
    /// Starts the thread; `alarm` rings for the task whose job is done.
    pub(super) fn start(name: &str, alarm: Arc<Alarm>) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<(u64, Place, Job)>();
        let builder = std::thread::Builder::new().name(name.to_owned());
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let thread = builder.spawn(move || {
            threads::begin_work();
            for (task, place, job) in jobs {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let outcome = job();
                *lock(&place.0) = Some(outcome);
                alarm.ring(task);
            }
        })?;
        Ok(Self { jobs: Some(sender), thread: Some(thread), stopped })
    }

    /// Has it do nothing any more but what is under way.
    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Hands a job over. As many can wait as requests can be in flight.
    pub(super) fn run(&self, task: u64, job: Job) -> Place {
        let place = Place::default();
        // The thread ends only after this.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((task, place.clone(), job));
        }
        place
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        self.stop();
        self.jobs = None;
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
}
