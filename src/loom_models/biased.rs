//! The lock with a favourite: one thread inside at a time, whoever it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loom::thread;

use super::explore;
use crate::sync::{Biased, Fault};

/// Enters, and fails if anybody else is inside. What it looks at is no part of what loom explores; that it yields is.
fn enter(lock: &Biased<u32>, occupied: &AtomicBool) {
    let mut guard = lock.lock();
    assert!(!occupied.swap(true, Ordering::Relaxed), "two threads are inside");
    thread::yield_now();
    *guard += 1;
    occupied.store(false, Ordering::Relaxed);
}

/// One thread becomes the favourite and enters as such, while another takes the favour away; what each did is seen by the next.
fn one_comes_between(fault: Option<Fault>) {
    explore(fault, || {
        let lock = Arc::new(Biased::with_patience(0, 1));
        let occupied = Arc::new(AtomicBool::new(false));
        enter(&lock, &occupied);
        let other = {
            let (lock, occupied) = (Arc::clone(&lock), Arc::clone(&occupied));
            thread::spawn(move || enter(&lock, &occupied))
        };
        enter(&lock, &occupied);
        enter(&lock, &occupied);
        other.join().unwrap();
        assert_eq!(*lock.lock(), 4);
    });
}

#[test]
fn loom_one_thread_is_inside_whoever_is_the_favourite() {
    one_comes_between(None);
}

#[test]
#[should_panic]
fn loom_control_two_are_inside_without_the_barrier() {
    one_comes_between(Some(Fault::BarrierForgotten));
}
