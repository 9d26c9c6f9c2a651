//! A lock for state that one thread uses all the time and others now and then: a queue and its one sender, received runs and
//! their one receiver.
//!
//! Taking and releasing a mutex are two atomic read-modify-write operations, each of which waits until all stores
//! before it have left the processor. For a message of 64 bytes that is a third of what it costs to send it. Here a thread
//! that keeps coming back alone becomes the *favourite*, and pays neither; a thread that comes between pays for both: it takes
//! the favour away with a barrier that all running threads of the process execute (`membarrier(2)`). Where there is no such
//! barrier nobody becomes a favourite, and this is a mutex.
//!
//! # Why two threads are never inside at once
//!
//! Everybody but the favourite holds the mutex `door` while inside, and only a thread that holds it writes `favourite`. So
//! the question is a favourite F against a thread R that holds the door. F has a place in `inside` that is its own for
//! ever: no other thread writes it, whoever is the favourite. F stores `true` there and then reads `favourite`; R stores
//! `favourite = NOBODY` and then reads F's place. The barrier of R lies between its two operations and, on the
//! processor that runs F, either before F's read or after F's store:
//!
//! - before F's read: F reads `NOBODY`, or a later favourite, and goes to the door (it becomes the favourite again only there);
//! - after F's store: R reads `true` and waits until F has left.
//!
//! What F did inside is seen by R, because R reads (acquire) the `false` that F stored (release) when it left.
//! What others did inside is seen by F, because F became the favourite while it held the door. A thread that enters twice
//! is refused by an assertion, as a mutex would never let it in again.
//!
//! The models `loom_one_thread_*` run this through all interleavings, with the barrier left out as their negative control; there both halves
//! of it are fences, which is what the barrier makes of the favourite's half.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::atomic::{AtomicBool, AtomicU64, Ordering};
use super::{Fault, Mutex, MutexGuard, barrier, lock, planted};

/// No thread has this number.
const NOBODY: u64 = 0;

/// So many threads can be the favourite of one lock, one after the other; further ones go by the door.
const PLACES: usize = 4;

/// So often in a row a thread must come through the door before it becomes the favourite.
const PATIENCE: u32 = 64;

/// A favour that was used less often did not pay for its end: the next one takes twice the patience. One that paid halves it.
const WORTHWHILE: u32 = 1024;

/// No favour takes more patience, so that what once came between is forgotten in the end.
const PATIENCE_MAX: u32 = 512;

/// A mutex with a favourite. See the head of this file.
#[derive(Debug)]
pub(crate) struct Biased<T> {
    /// The favourite's number times `PLACES`, plus its place.
    favourite: AtomicU64,
    /// Whether a thread is inside without the door, each in a place of its own: only that thread writes it.
    inside: [AtomicBool; PLACES],
    door: Mutex<Door>,
    room: UnsafeCell<Room<T>>,
}

/// What is touched only inside.
#[derive(Debug)]
struct Room<T> {
    value: T,
    /// Entries of this favourite.
    entries: u32,
}

/// Who came through the door.
#[derive(Debug)]
struct Door {
    last: u64,
    /// Whose place it is; never changed once it is somebody's.
    places: [u64; PLACES],
    in_a_row: u32,
    patience: u32,
    /// And never less than this.
    least: u32,
}

// SAFETY: the head of this file argues that one thread at a time is inside, and that each sees what the one before did. So
// sharing it hands the value from thread to thread, as a mutex does.
unsafe impl<T: Send> Sync for Biased<T> {}

impl<T> Biased<T> {
    pub(crate) fn new(value: T) -> Self {
        // A model that is not about this lock is spared its states.
        Self::with_patience(value, if cfg!(loom) { u32::MAX } else { PATIENCE })
    }

    pub(crate) fn with_patience(value: T, patience: u32) -> Self {
        Self {
            favourite: AtomicU64::new(NOBODY),
            inside: std::array::from_fn(|_| AtomicBool::new(false)),
            door: Mutex::new(Door {
                last: NOBODY,
                places: [NOBODY; PLACES],
                in_a_row: 0,
                patience,
                least: patience,
            }),
            room: UnsafeCell::new(Room { value, entries: 0 }),
        }
    }

    /// Waits until nobody else is inside, and enters.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let favourite = self.favourite.load(Ordering::Relaxed);
        if favourite != NOBODY && favourite / PLACES as u64 == thread_number() {
            let inside = self.place_of(favourite);
            assert!(!inside.load(Ordering::Relaxed), "a thread enters once at a time");
            inside.store(true, Ordering::Relaxed);
            barrier::light();
            if self.favourite.load(Ordering::Relaxed) == favourite {
                let mut guard = Guard { lock: self, way: Way::Favour(inside), value: PhantomData };
                let entries = &mut guard.room().entries;
                *entries = entries.saturating_add(1);
                return guard;
            }
            inside.store(false, Ordering::Release);
        }
        self.lock_at_door()
    }

    #[inline]
    fn place_of(&self, favourite: u64) -> &AtomicBool {
        &self.inside[(favourite % PLACES as u64) as usize]
    }

    #[cold]
    #[inline(never)]
    fn lock_at_door(&self) -> Guard<'_, T> {
        let mut door = lock(&self.door);
        let before = self.favourite.load(Ordering::Relaxed);
        let ended = before != NOBODY;
        if ended {
            self.favourite.store(NOBODY, Ordering::Relaxed);
            if !planted(Fault::BarrierForgotten) {
                barrier::heavy();
            }
            // The favourite is inside for moments; if it does not run, this thread must not keep its processor from it.
            let inside = self.place_of(before);
            for looks in 0.. {
                if !inside.load(Ordering::Acquire) {
                    break;
                }
                barrier::pause(looks);
            }
        }
        let me = thread_number();
        door.in_a_row = if door.last == me { door.in_a_row.saturating_add(1) } else { 1 };
        door.last = me;
        let mut guard = Guard { lock: self, way: Way::Door(door), value: PhantomData };
        if ended {
            let paid = std::mem::take(&mut guard.room().entries) >= WORTHWHILE;
            guard.learn(paid);
        }
        guard
    }
}

/// A thread is inside. Dropped, it leaves.
pub(crate) struct Guard<'a, T> {
    lock: &'a Biased<T>,
    way: Way<'a>,
    /// Sharing the guard shares the value.
    value: PhantomData<&'a mut T>,
}

/// How a thread came in.
enum Way<'a> {
    /// As the favourite; its place.
    Favour(&'a AtomicBool),
    Door(MutexGuard<'a, Door>),
}

impl<T> Guard<'_, T> {
    #[inline]
    fn room(&mut self) -> &mut Room<T> {
        // SAFETY: this thread is inside until the guard is dropped, and the guard is borrowed alone.
        unsafe { &mut *self.lock.room.get() }
    }

    fn learn(&mut self, paid: bool) {
        if let Way::Door(door) = &mut self.way {
            let next = if paid { door.patience / 2 } else { door.patience.saturating_mul(2) };
            door.patience = next.clamp(door.least, PATIENCE_MAX.max(door.least));
        }
    }

    #[cold]
    #[inline(never)]
    fn leave_by_door(lock: &Biased<T>, door: &mut Door) {
        if door.last == NOBODY || door.in_a_row < door.patience || !barrier::is_there() {
            return;
        }
        let own = door.places.iter().position(|&owner| owner == door.last);
        let Some(place) = own.or_else(|| door.places.iter().position(|&owner| owner == NOBODY))
        else {
            return;
        };
        door.places[place] = door.last;
        // From here on the value is not touched: the next entry may be the favourite's, with no door in its way.
        lock.favourite.store(door.last * PLACES as u64 + place as u64, Ordering::Relaxed);
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this thread is inside until the guard is dropped; whoever borrows the guard mutably excludes this.
        unsafe { &(*self.lock.room.get()).value }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.room().value
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        match &mut self.way {
            Way::Favour(inside) => inside.store(false, Ordering::Release),
            Way::Door(door) => Self::leave_by_door(self.lock, door),
        }
    }
}

super::thread_local! {
    static NUMBER: std::cell::Cell<u64> = const { std::cell::Cell::new(NOBODY) };
}

/// A number of this thread that no other thread ever has; `NOBODY` for a thread whose locals are gone.
#[inline]
fn thread_number() -> u64 {
    NUMBER
        .try_with(|number| if number.get() == NOBODY { number_anew(number) } else { number.get() })
        .unwrap_or(NOBODY)
}

#[cold]
fn number_anew(number: &std::cell::Cell<u64>) -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(NOBODY + 1);
    number.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    number.get()
}

#[cfg(all(test, not(loom)))]
mod tests;
