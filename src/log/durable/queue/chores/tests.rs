//! Who sees to what comes up while somebody is at it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::super::Acquiring;
use super::*;
use crate::log::options::TopicOptions;
use crate::log::storage::MemoryStorage;
use crate::log::{Log, ManualClock};

const PATIENCE: Duration = Duration::from_secs(60);
const LOCK: Duration = Duration::from_secs(1);

/// A worker of a server that waits.
#[derive(Debug, Default)]
struct Worker(AtomicBool);

impl Wake for Worker {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_one_server_was_asked_to_do_and_lets_go_undone_another_is_asked_to_do() {
    let clock = Arc::new(ManualClock::new(0));
    let options = Log::options().storage(Arc::new(MemoryStorage::new())).clock(clock.clone());
    let log = options.open("/log").unwrap();
    let jobs = log.create_topic("jobs", TopicOptions::default()).unwrap();
    let options = DurableQueue::options().attempts_max(1);
    let queue = options.open(&log, "q", "jobs").unwrap();
    jobs.append("dies").unwrap().wait().unwrap();
    assert_eq!(queue.acquire(1, LOCK, Duration::ZERO).unwrap().len(), 1);

    let worker = Arc::new(Worker::default());
    let mut waits = Acquiring::new(queue.clone(), 1, usize::MAX, LOCK);
    assert!(waits.poll(&Waker::from(worker.clone()), false).is_pending());
    clock.advance(1000);
    assert!(queue.has_chores());
    let order = queue.chores().unwrap();
    assert!(waits.chores().is_none(), "somebody has been asked");
    worker.0.store(false, Ordering::SeqCst);
    drop(order);
    assert!(worker.0.load(Ordering::SeqCst), "it would wait until its time is over");
    waits.chores().unwrap().run();
    assert_eq!(queue.stats().dead, 1);
}

#[test]
fn a_record_that_dies_after_the_last_look_of_who_is_at_it_is_buried_nevertheless() {
    let clock = Arc::new(ManualClock::new(0));
    let options = Log::options().storage(Arc::new(MemoryStorage::new())).clock(clock.clone());
    let log = options.open("/log").unwrap();
    let jobs = log.create_topic("jobs", TopicOptions::default()).unwrap();
    log.create_topic("dead", TopicOptions::default()).unwrap();
    let options = DurableQueue::options().attempts_max(1).dead_letters("dead");
    let queue = options.open(&log, "q", "jobs").unwrap();
    jobs.append("dies").unwrap().wait().unwrap();
    assert_eq!(queue.acquire(1, LOCK, Duration::ZERO).unwrap().len(), 1);

    let alone = Alone::new(&queue, hold(&queue.inner.chores));
    clock.advance(1000);
    let own = queue.clone();
    let worker = thread::spawn(move || own.acquire(1, LOCK, 2 * PATIENCE));
    while queue.stats().waiting == 0 {
        thread::yield_now();
    }
    drop(alone);
    let begun = Instant::now();
    while queue.stats().dead == 0 {
        assert!(begun.elapsed() < PATIENCE, "each counts on the other");
        thread::yield_now();
    }
    jobs.append("lives").unwrap().wait().unwrap();
    assert_eq!(worker.join().unwrap().unwrap().len(), 1);
}
