//! Those who wait for a sync of one partition: who syncs next, and when.
//!
//! One sync is in flight at most. Whoever comes meanwhile takes a seat; when the sync ends, exactly those whose records
//! it made durable are woken. They are likely to come back with their next records soon, and a sync that starts before
//! they have makes them wait for two. So the next one starts when as many have come as there were before, and is led by
//! the last of them, who need not be woken for that. One of those who wait, the lookout, sees to it that this takes no
//! longer than it is worth, and leads then. A caller that is alone is all there is to wait for, and syncs at once.
//!
//! While somebody has a seat, there is one who leads, or a lookout with an alarm, or one who was called and is on the
//! way to look again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// Where those sleep who are likely to be woken together: one system call wakes all, and what it wakes keeps all cores
/// busy. To wake them one by one costs several times as much, as cores fall asleep in between.
#[derive(Debug, Default)]
struct Berth {
    lock: Mutex<()>,
    called: Condvar,
}

/// One who waits.
#[derive(Debug)]
struct Waiter {
    berth: Arc<Berth>,
    /// Of the first in a berth, who sleeps apart, because it may be called alone.
    thread: Option<Thread>,
    /// The record that is to become durable.
    offset: i64,
    /// The seat was taken from it: it must look again.
    called: AtomicBool,
}

/// The queue of a partition.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// A sync is in flight, or about to be.
    leading: bool,
    /// In the order in which they came.
    waiting: VecDeque<Arc<Waiter>>,
    /// Of those who come now; `None` as long as nobody has.
    berth: Option<Arc<Berth>>,
    /// Whether one of those who wait has an alarm.
    lookout: bool,
    /// How many callers there were when the last sync ended.
    expected: usize,
    /// How long the lookout waits for them.
    patience: Duration,
    /// How long a sync takes, on a moving average.
    sync_time: Duration,
}

/// What a caller does next.
pub(super) enum Next {
    /// It syncs, and ends its turn with [`Queue::end_turn`].
    Lead,
    /// It waits.
    Wait(Seat),
}

/// A place in the queue.
pub(super) struct Seat {
    waiter: Arc<Waiter>,
    /// When it leads though not all have come; for the lookout.
    alarm: Option<Instant>,
}

/// Those who lost their seats and have to be woken, once the queue's lock was given up.
#[must_use]
#[derive(Default)]
pub(super) struct Called(Vec<Arc<Waiter>>);

impl Called {
    pub(super) fn wake(self) {
        let mut berths: Vec<&Arc<Berth>> = Vec::new();
        for waiter in &self.0 {
            waiter.called.store(true, Ordering::Release);
            match &waiter.thread {
                Some(thread) => thread.unpark(),
                None if berths.iter().any(|berth| Arc::ptr_eq(berth, &waiter.berth)) => {}
                None => berths.push(&waiter.berth),
            }
        }
        for berth in berths {
            // Whoever has seen that it was not called is asleep when this lock is had.
            drop(lock(&berth.lock));
            berth.called.notify_all();
        }
    }
}

impl Queue {
    /// What a caller does whose record is not durable. One that is not patient leads unless somebody does.
    pub(super) fn next(&mut self, offset: i64, patient: bool) -> Next {
        let complete = self.waiting.len() + 1 >= self.expected;
        if !self.leading && (complete || !patient) {
            self.leading = true;
            self.lookout = false;
            self.berth = None;
            return Next::Lead;
        }
        let called = AtomicBool::new(false);
        let first = self.berth.is_none();
        let berth = self.berth.get_or_insert_default().clone();
        let looks_out = !self.leading && !self.lookout;
        self.lookout |= looks_out;
        let thread = (first || looks_out).then(thread::current);
        let waiter = Arc::new(Waiter { berth, thread, offset, called });
        self.waiting.push_back(waiter.clone());
        Next::Wait(Seat { waiter, alarm: looks_out.then(|| now() + self.patience) })
    }

    /// Whether nobody syncs, and nobody waits who will.
    pub(super) fn is_idle(&self) -> bool {
        !self.leading && self.waiting.is_empty()
    }

    /// Leads, for one who does not wait, if nobody else would. It ends its turn as the others.
    pub(super) fn lead_if_idle(&mut self) -> bool {
        let idle = self.is_idle();
        self.leading |= idle;
        idle
    }

    /// Whether somebody syncs.
    pub(super) fn is_led(&self) -> bool {
        self.leading
    }

    /// Ends the turn of the one who led. Everything below `durable_end` is durable; `took` is the time of the sync, zero if
    /// there was none.
    pub(super) fn end_turn(&mut self, durable_end: i64, took: Duration) -> Called {
        self.end_turn_of(1, durable_end, took)
    }

    /// As [`end_turn`](Self::end_turn), for one who led with [`lead_if_idle`](Self::lead_if_idle), and does not come back with
    /// another record.
    pub(super) fn end_readers_turn(&mut self, durable_end: i64, took: Duration) -> Called {
        self.end_turn_of(0, durable_end, took)
    }

    fn end_turn_of(&mut self, leaders: usize, durable_end: i64, took: Duration) -> Called {
        self.leading = false;
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (mut done, rest): (Vec<_>, Vec<_>) =
            all.partition(|waiter| waiter.offset < durable_end);
        self.waiting = rest.into();
        // The leader is one of them.
        let (released, left) = (done.len() + leaders, self.waiting.len());
        self.expected = released + left;
        if !took.is_zero() {
            self.sync_time = (self.sync_time * 3 + took) / 4;
        }
        // Each of all loses what is waited for; each of those who would come too late loses a whole sync.
        let gain = self.sync_time * u32::try_from(released).unwrap_or(u32::MAX);
        self.patience = gain / u32::try_from(self.expected.max(1)).unwrap_or(u32::MAX);
        // Whoever leads next has the longest way.
        let mut called: Vec<_> = self.call_one().into_iter().collect();
        called.append(&mut done);
        Called(called)
    }

    /// A caller goes that may have been called, or may have been the lookout.
    pub(super) fn leave(&mut self) -> Called {
        Called(self.call_one().into_iter().collect())
    }

    /// Lets one of those who wait look again if nobody else would.
    fn call_one(&mut self) -> Option<Arc<Waiter>> {
        if self.leading || self.lookout { None } else { self.waiting.pop_front() }
    }

    /// Lets all look again.
    pub(super) fn take_all(&mut self) -> Called {
        self.lookout = false;
        Called(std::mem::take(&mut self.waiting).into())
    }
}

impl Seat {
    /// Waits until it is called or the time is up; without a seat in any case when this returns. False if the alarm went
    /// off: this caller is not patient any more.
    pub(super) fn wait(mut self, queue: &Mutex<Queue>, deadline: Option<Instant>) -> bool {
        loop {
            if self.waiter.called.load(Ordering::Acquire) {
                return true;
            }
            let until = [self.alarm, deadline].into_iter().flatten().min();
            match until.map(|until| until.saturating_duration_since(now())) {
                None => self.sleep(None),
                Some(Duration::ZERO) => {
                    let mut queue = lock(queue);
                    if deadline.is_none_or(|deadline| deadline > now()) && queue.is_led() {
                        // There is nothing to look out for any more.
                        self.alarm = None;
                        continue;
                    }
                    return !self.give_up(&mut queue);
                }
                left => self.sleep(left),
            }
        }
    }

    /// Sleeps until something happens, perhaps nothing.
    fn sleep(&self, left: Option<Duration>) {
        match (&self.waiter.thread, left) {
            (Some(_), None) => thread::park(),
            (Some(_), Some(left)) => thread::park_timeout(left),
            (None, left) => {
                let guard = lock(&self.waiter.berth.lock);
                if self.waiter.called.load(Ordering::Acquire) {
                    return;
                }
                let called = &self.waiter.berth.called;
                match left {
                    None => drop(called.wait(guard)),
                    Some(left) => drop(called.wait_timeout(guard, left)),
                }
            }
        }
    }

    /// Whether it was the alarm. It is none if the seat was taken just now.
    fn give_up(&self, queue: &mut Queue) -> bool {
        let known = queue.waiting.iter().position(|waiter| Arc::ptr_eq(waiter, &self.waiter));
        let Some(index) = known else { return false };
        queue.waiting.remove(index);
        if self.alarm.is_some() {
            queue.lookout = false;
        }
        self.alarm.is_some_and(|alarm| alarm <= now())
    }
}

#[cfg(test)]
mod tests;
