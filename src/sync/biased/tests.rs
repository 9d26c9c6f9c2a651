//! The lock with a favourite, with threads that the system runs.

#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

use std::sync::Arc;
use std::thread;

use super::*;

/// Threads that add one at a time, each in spells of so many additions. Returns the sum and what it should be.
fn add_in_spells(patience: u32, spells: [usize; 3]) -> (u64, u64) {
    const ADDITIONS: usize = 20_000;
    let sum = Arc::new(Biased::with_patience(0_u64, patience));
    let adders = spells.map(|spell| {
        let sum = Arc::clone(&sum);
        thread::spawn(move || {
            for number in 0..ADDITIONS {
                let mut sum = sum.lock();
                // Two steps, so that a second thread inside would be noticed.
                let before = *sum;
                *sum = std::hint::black_box(before) + 1;
                drop(sum);
                if number % spell == 0 {
                    thread::yield_now();
                }
            }
        })
    });
    adders.into_iter().for_each(|adder| adder.join().unwrap());
    let sum = *sum.lock();
    (sum, 3 * ADDITIONS as u64)
}

#[test]
fn no_addition_is_lost_whoever_is_the_favourite() {
    for patience in [1, 2, 7, 64] {
        for spells in [[1, 1, 1], [3, 50, 1000], [100, 100, 100]] {
            let (sum, expected) = add_in_spells(patience, spells);
            assert_eq!(sum, expected, "patience {patience}, spells {spells:?}");
        }
    }
}

#[test]
fn a_thread_that_comes_back_alone_becomes_the_favourite_until_another_comes() {
    if !barrier::is_there() {
        return;
    }
    let lock = Arc::new(Biased::with_patience((), 3));
    let favourite = |lock: &Biased<()>| lock.favourite.load(Ordering::Relaxed);
    for _ in 0..2 {
        drop(lock.lock());
        assert_eq!(favourite(&lock), NOBODY, "not yet");
    }
    drop(lock.lock());
    assert_eq!(favourite(&lock) / PLACES as u64, thread_number());
    assert!(matches!(lock.lock().way, Way::Favour(_)), "it needs no door");
    let other = Arc::clone(&lock);
    thread::spawn(move || drop(other.lock())).join().unwrap();
    assert_eq!(favourite(&lock), NOBODY);
    drop(lock.lock());
    assert_eq!(favourite(&lock), NOBODY, "it did not pay: more patience than before");
}

#[test]
fn a_thread_waits_while_the_favourite_is_inside() {
    if !barrier::is_there() {
        return;
    }
    let lock = Arc::new(Biased::with_patience(Vec::new(), 1));
    drop(lock.lock());
    let mut inside = lock.lock();
    assert!(matches!(inside.way, Way::Favour(_)));
    let other = Arc::clone(&lock);
    let waits = thread::spawn(move || other.lock().push("other"));
    // The favour is gone before the other thread begins to wait for this one.
    while lock.favourite.load(Ordering::Relaxed) != NOBODY {
        thread::yield_now();
    }
    inside.push("favourite");
    drop(inside);
    waits.join().unwrap();
    assert_eq!(*lock.lock(), ["favourite", "other"]);
}

#[test]
#[should_panic = "a thread enters once at a time"]
fn a_favourite_that_enters_twice_is_refused() {
    if !barrier::is_there() {
        panic!("a thread enters once at a time (and here no thread is ever the favourite)");
    }
    let lock = Biased::with_patience((), 1);
    drop(lock.lock());
    let _inside = lock.lock();
    drop(lock.lock());
}

#[test]
fn a_thread_that_finds_no_place_goes_by_the_door() {
    if !barrier::is_there() {
        return;
    }
    let lock = Arc::new(Biased::with_patience(0, 1));
    for _ in 0..=PLACES {
        let other = Arc::clone(&lock);
        let twice = move || (0..2).for_each(|_| *other.lock() += 1);
        thread::spawn(twice).join().unwrap();
        // It does not pay, and the patience grows; what counts here is who has a place.
        lock.door.lock().unwrap().patience = 1;
    }
    assert_eq!(*lock.lock(), 2 * (PLACES + 1));
    let places = lock.door.lock().unwrap().places;
    assert!(places.iter().all(|&owner| owner != NOBODY && owner != thread_number()));
    drop(lock.lock());
    assert_eq!(lock.favourite.load(Ordering::Relaxed), NOBODY);
}

#[test]
fn a_thread_that_panics_inside_leaves() {
    let lock = Arc::new(Biased::with_patience(0, 1));
    let other = Arc::clone(&lock);
    let panics = thread::spawn(move || {
        drop(other.lock());
        let mut inside = other.lock();
        *inside = 1;
        panic!("on purpose");
    });
    assert!(panics.join().is_err());
    assert_eq!(*lock.lock(), 1);
}
