//! Threads for requests that block: the service goes on meanwhile.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::Outcome;
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

/// Runs jobs one after another. The thread ends when this is dropped, after what it is doing.
#[derive(Debug)]
pub(super) struct Blocking {
    jobs: Sender<(u64, Place, Job)>,
}

impl Blocking {
    /// Starts the thread; `alarm` rings for the task whose job is done.
    pub(super) fn start(name: &str, alarm: Arc<Alarm>) -> std::io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<(u64, Place, Job)>();
        let builder = std::thread::Builder::new().name(name.to_owned());
        builder.spawn(move || {
            for (task, place, job) in jobs {
                let outcome = job();
                *lock(&place.0) = Some(outcome);
                alarm.ring(task);
            }
        })?;
        Ok(Self { jobs: sender })
    }

    /// Hands a job over. As many can wait as requests can be in flight.
    pub(super) fn run(&self, task: u64, job: Job) -> Place {
        let place = Place::default();
        // The thread ends only after this.
        let _ = self.jobs.send((task, place.clone(), job));
        place
    }
}
