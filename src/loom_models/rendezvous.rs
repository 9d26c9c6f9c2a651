//! The rendezvous of `inproc://` names under its lock: who connects and who binds meet exactly once.

use std::sync::Arc;

use loom::thread;

use super::explore;
use crate::sync::{Mutex, lock};
use crate::transport::inproc::Rendezvous;

type Names = Mutex<Rendezvous<&'static str, u32>>;

/// Connects as `meet_now` does: looks and waits under one lock, or, for the control, under two. True if it met the binder.
fn connect(names: &Names, number: u32, two_locks: bool) -> bool {
    let mut locked = lock(names);
    if locked.bound("a").is_some() {
        return true;
    }
    if two_locks {
        drop(locked);
        locked = lock(names);
    }
    locked.wait("a", number);
    false
}

fn connectors_meet_a_binder(two_locks: bool) {
    explore(None, move || {
        let names = Arc::new(Names::default());
        let connectors = [1, 2].map(|number| {
            let names = Arc::clone(&names);
            thread::spawn(move || connect(&names, number, two_locks))
        });
        let waiting = lock(&names).bind("a", "binder").unwrap();
        let met = connectors.map(|connector| connector.join().unwrap());
        for (number, met) in [1, 2].into_iter().zip(met) {
            let meetings = usize::from(met) + waiting.iter().filter(|w| **w == number).count();
            assert_eq!(meetings, 1, "meetings of a connector");
        }
    });
}

#[test]
fn loom_each_connector_meets_the_binder_once() {
    connectors_meet_a_binder(false);
}

#[test]
#[should_panic]
fn loom_control_a_connector_that_looks_and_waits_under_two_locks_is_found() {
    connectors_meet_a_binder(true);
}

/// A binder comes and goes while one connector comes and another gives up.
#[test]
fn loom_a_connector_outlives_a_binder_and_one_that_gave_up_is_not_met() {
    explore(None, || {
        let names = Arc::new(Names::default());
        lock(&names).wait("a", 1);
        let binder = Arc::clone(&names);
        let binder = thread::spawn(move || {
            let waiting = lock(&binder).bind("a", "binder").unwrap();
            assert!(lock(&binder).unbind("a", |_| true));
            waiting
        });
        let second = Arc::clone(&names);
        let second = thread::spawn(move || connect(&second, 2, false));
        lock(&names).cancel("a", |number| *number == 1);
        let met = second.join().unwrap();
        let first = binder.join().unwrap();
        let again = lock(&names).bind("a", "another").unwrap();
        assert!(!again.contains(&1), "it gave up");
        let meetings = usize::from(met) + first.iter().chain(&again).filter(|w| **w == 2).count();
        assert_eq!(meetings, 1, "meetings of a connector");
    });
}
