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

/// A favourite is held up between its first look and its entry, while another thread becomes the favourite and, perhaps, a
/// third comes by the door.
fn the_favour_changes_hands(thirds: usize) {
    explore(None, move || {
        let lock = Arc::new(Biased::with_patience(0, 1));
        let occupied = Arc::new(AtomicBool::new(false));
        let entering = |times| {
            let (lock, occupied) = (Arc::clone(&lock), Arc::clone(&occupied));
            thread::spawn(move || (0..times).for_each(|_| enter(&lock, &occupied)))
        };
        enter(&lock, &occupied);
        let other = entering(3);
        let thirds: Vec<_> = (0..thirds).map(|_| entering(1)).collect();
        enter(&lock, &occupied);
        let entries = 5 + thirds.len() as u32;
        thirds.into_iter().chain([other]).for_each(|thread| thread.join().unwrap());
        assert_eq!(*lock.lock(), entries);
    });
}

#[test]
fn loom_one_thread_is_inside_when_the_favour_changes_hands() {
    the_favour_changes_hands(0);
}

#[test]
fn loom_one_thread_is_inside_when_the_favour_changes_hands_and_another_comes_by_the_door() {
    the_favour_changes_hands(1);
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
