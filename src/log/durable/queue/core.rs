//! The rules of a queue, without clock, log or locks: which records are available, locked, dead or done with.
//!
//! Of each partition it knows a *window*: everything before it is done with, everything behind it has not been looked
//! at. A record in the window is in exactly one state:
//!
//! - available: the next worker may have it;
//! - locked, by one delivery, until a time;
//! - dying: rejected, or delivered too often without success; it is on its way to the dead letters;
//! - done with: it is never delivered again.

use std::collections::{BTreeMap, BTreeSet};

use super::QueueOptions;

/// A record, by partition and offset.
pub(super) type Spot = (u32, i64);

/// A delivery: the record, and which attempt at it this is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Lease {
    pub(super) spot: Spot,
    pub(super) attempt: u32,
}

/// Why a record dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// A worker rejected it.
    Rejected,
    /// It was delivered as often as may be.
    Attempts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Available,
    Locked { until_ms: i64 },
    Dying(Cause),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    /// Deliveries so far.
    attempts: u32,
    /// What the record takes in memory.
    bytes: usize,
}

/// The window of one partition.
#[derive(Debug, Default)]
struct Window {
    /// The first offset that has not been looked at.
    end: i64,
    /// Records that are not done with.
    entries: BTreeMap<i64, Entry>,
    /// Records that are done with, from the first one on that is not, as far as was looked.
    done: BTreeSet<i64>,
    /// Records behind that which were done with before the queue was opened.
    ahead: BTreeSet<i64>,
    /// Attempts at records that have not been looked at since the queue was opened.
    attempts: BTreeMap<i64, u32>,
    /// Bytes of the records that are available.
    available_bytes: usize,
}

impl Window {
    /// Everything before it is done with.
    fn floor(&self) -> i64 {
        self.entries.first_key_value().map_or(self.end, |(offset, _)| *offset)
    }

    fn finish(&mut self, offset: i64) {
        self.entries.remove(&offset);
        self.done.insert(offset);
        self.tidy();
    }

    fn tidy(&mut self) {
        // One by one: each goes once, and what stays is not gone through.
        let floor = self.floor();
        while self.done.first().is_some_and(|offset| *offset < floor) {
            self.done.pop_first();
        }
        while self.attempts.first_key_value().is_some_and(|(offset, _)| *offset < floor) {
            self.attempts.pop_first();
        }
        while self.ahead.first().is_some_and(|offset| *offset < self.end) {
            self.ahead.pop_first();
        }
    }
}

/// What is to be remembered of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Remembered {
    /// Everything before it is done with.
    pub(super) floor: i64,
    /// What is done with from there on.
    pub(super) done: BTreeSet<i64>,
    /// Attempts at what is not.
    pub(super) attempts: BTreeMap<i64, u32>,
}

impl Remembered {
    /// Passes over what is done with at the floor, so that it need not be remembered one by one.
    pub(super) fn tidy(&mut self) {
        while let Some(first) = self.done.first().copied().filter(|first| *first <= self.floor) {
            self.done.pop_first();
            self.floor = self.floor.max(first + 1);
        }
    }
}

/// All records of a queue.
#[derive(Debug)]
pub(super) struct Core {
    windows: BTreeMap<u32, Window>,
    available: BTreeSet<(i64, u32)>,
    /// Locks by the time of their end.
    locks: BTreeSet<(i64, Spot)>,
    /// Records that die, but for those that were postponed.
    dying: BTreeSet<Spot>,
    attempts_max: u32,
    window_max: usize,
    ahead_bytes_max: usize,
}

impl Core {
    /// A queue without partitions that works so.
    pub(super) fn of(options: &QueueOptions) -> Self {
        Self::new(options.attempts_max, options.window, options.ahead_bytes)
    }

    /// A queue that gives up a record after so many attempts, has at most so many records of a partition in its window, and
    /// reads on in one only while fewer bytes of it are available than these.
    pub(super) fn new(attempts_max: u32, window_max: usize, ahead_bytes_max: usize) -> Self {
        Self {
            windows: BTreeMap::new(),
            available: BTreeSet::new(),
            locks: BTreeSet::new(),
            dying: BTreeSet::new(),
            attempts_max: attempts_max.max(1),
            window_max: window_max.max(1),
            ahead_bytes_max: ahead_bytes_max.max(1),
        }
    }

    /// Takes a partition in, as it was remembered.
    pub(super) fn open(&mut self, partition: u32, remembered: Remembered) {
        let Remembered { floor, done, attempts } = remembered;
        let mut window = Window { end: floor, ahead: done, attempts, ..Window::default() };
        window.tidy();
        self.windows.insert(partition, window);
    }

    /// What is to be remembered of all partitions.
    pub(super) fn remembered(&self) -> BTreeMap<u32, Remembered> {
        let remembered = |window: &Window| {
            let counted = window.entries.iter().filter(|(_, entry)| entry.attempts > 0);
            let mut attempts = window.attempts.clone();
            attempts.extend(counted.map(|(offset, entry)| (*offset, entry.attempts)));
            let done = window.done.union(&window.ahead).copied().collect();
            Remembered { floor: window.floor(), done, attempts }
        };
        self.windows.iter().map(|(partition, window)| (*partition, remembered(window))).collect()
    }

    /// Where a partition is to be read on, if its window has room.
    pub(super) fn wants(&self, partition: u32) -> Option<i64> {
        let window = self.windows.get(&partition)?;
        let room = window.entries.len() + window.done.len() < self.window_max;
        (room && window.available_bytes < self.ahead_bytes_max).then_some(window.end)
    }

    /// How many partitions are not read on, for want of room.
    pub(super) fn full(&self) -> usize {
        self.windows.keys().filter(|partition| self.wants(**partition).is_none()).count()
    }

    /// The first record of a partition that is not done with.
    #[cfg(test)]
    pub(super) fn floor(&self, partition: u32) -> Option<i64> {
        self.windows.get(&partition).map(Window::floor)
    }

    /// A record was read, which takes so many bytes. Whether it is to be kept: it is not done with.
    pub(super) fn offer(&mut self, (partition, offset): Spot, bytes: usize) -> bool {
        let Some(window) = self.windows.get_mut(&partition) else { return false };
        if offset < window.end {
            return false;
        }
        window.end = offset + 1;
        let attempts = window.attempts.remove(&offset).unwrap_or(0);
        if window.ahead.remove(&offset) {
            window.done.insert(offset);
            window.tidy();
            return false;
        }
        let state = if attempts >= self.attempts_max {
            self.dying.insert((partition, offset));
            State::Dying(Cause::Attempts)
        } else {
            self.available.insert((offset, partition));
            window.available_bytes += bytes;
            State::Available
        };
        window.entries.insert(offset, Entry { state, attempts, bytes });
        true
    }

    /// There are no more records before an offset than were offered.
    pub(super) fn skip_to(&mut self, partition: u32, end: i64) {
        if let Some(window) = self.windows.get_mut(&partition) {
            window.end = window.end.max(end);
            window.tidy();
        }
    }

    /// How many records are available.
    pub(super) fn available(&self) -> usize {
        self.available.len()
    }

    /// How many records are locked.
    pub(super) fn locked(&self) -> usize {
        self.locks.len()
    }

    /// The records that would be locked next, with the attempt that would be.
    pub(super) fn next(&self, count_max: usize) -> Vec<Lease> {
        let attempt = |spot: Spot| self.entry(spot).map_or(0, |entry| entry.attempts) + 1;
        let first = self.available.iter().take(count_max).map(|(offset, partition)| {
            let spot = (*partition, *offset);
            Lease { spot, attempt: attempt(spot) }
        });
        first.collect()
    }

    /// Locks a record that is available.
    pub(super) fn lock(&mut self, lease: Lease, until_ms: i64) {
        let (partition, offset) = lease.spot;
        if self.available.remove(&(offset, partition))
            && let Some(window) = self.windows.get_mut(&partition)
            && let Some(entry) = window.entries.get_mut(&offset)
        {
            window.available_bytes -= entry.bytes;
            entry.attempts = lease.attempt;
            entry.state = State::Locked { until_ms };
            self.locks.insert((until_ms, lease.spot));
        }
    }

    fn entry(&self, (partition, offset): Spot) -> Option<&Entry> {
        self.windows.get(&partition)?.entries.get(&offset)
    }

    fn entry_mut(&mut self, (partition, offset): Spot) -> Option<&mut Entry> {
        self.windows.get_mut(&partition)?.entries.get_mut(&offset)
    }

    /// Whether a delivery has its lock at this time.
    pub(super) fn holds(&self, lease: Lease, now_ms: i64) -> bool {
        self.entry(lease.spot).is_some_and(|entry| {
            let locked = matches!(entry.state, State::Locked { until_ms } if until_ms > now_ms);
            locked && entry.attempts == lease.attempt
        })
    }

    /// Takes the lock off, if there is one; the caller gives the record its next state.
    fn unlock(&mut self, spot: Spot) -> Option<u32> {
        let entry = *self.entry(spot)?;
        let State::Locked { until_ms } = entry.state else { return None };
        self.locks.remove(&(until_ms, spot));
        Some(entry.attempts)
    }

    /// A delivery has not taken place: the record is available again, and the attempt does not count. Nothing happens if its
    /// lock is over.
    pub(super) fn undo(&mut self, lease: Lease) {
        let locked = self.entry(lease.spot).is_some_and(|entry| {
            entry.attempts == lease.attempt && matches!(entry.state, State::Locked { .. })
        });
        if locked && let Some(entry) = self.entry_mut(lease.spot) {
            entry.attempts = lease.attempt.saturating_sub(1);
            self.back(lease.spot);
        }
    }

    /// A locked record is done with.
    pub(super) fn ack(&mut self, lease: Lease) {
        if self.unlock(lease.spot).is_some() {
            self.finish(lease.spot);
        }
    }

    /// A locked record is available again, or dies if this was the last attempt.
    pub(super) fn release(&mut self, lease: Lease) {
        self.back(lease.spot);
    }

    fn back(&mut self, spot: Spot) {
        let Some(attempts) = self.unlock(spot) else { return };
        let last = attempts >= self.attempts_max;
        let Some(window) = self.windows.get_mut(&spot.0) else { return };
        let Some(entry) = window.entries.get_mut(&spot.1) else { return };
        if last {
            entry.state = State::Dying(Cause::Attempts);
            self.dying.insert(spot);
        } else {
            entry.state = State::Available;
            window.available_bytes += entry.bytes;
            self.available.insert((spot.1, spot.0));
        }
    }

    /// A locked record dies.
    pub(super) fn reject(&mut self, lease: Lease) {
        if self.unlock(lease.spot).is_some()
            && let Some(entry) = self.entry_mut(lease.spot)
        {
            entry.state = State::Dying(Cause::Rejected);
            self.dying.insert(lease.spot);
        }
    }

    /// A lock is to last until another time.
    pub(super) fn renew(&mut self, lease: Lease, until_ms: i64) {
        if self.unlock(lease.spot).is_some() {
            self.locks.insert((until_ms, lease.spot));
            if let Some(entry) = self.entry_mut(lease.spot) {
                entry.state = State::Locked { until_ms };
            }
        }
    }

    /// Ends the locks whose time is up.
    pub(super) fn expire(&mut self, now_ms: i64) {
        while let Some((until_ms, spot)) = self.locks.first().copied() {
            if until_ms > now_ms {
                return;
            }
            self.back(spot);
        }
    }

    /// When the next lock ends.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        self.locks.first().map(|(until_ms, _)| *until_ms)
    }

    /// Whether there are records that die and are not postponed.
    pub(super) fn has_dying(&self) -> bool {
        !self.dying.is_empty()
    }

    /// Whether this is one of them.
    pub(super) fn is_dying(&self, spot: Spot) -> bool {
        self.dying.contains(&spot)
    }

    /// The records that die and are not postponed, with their attempts and the cause.
    pub(super) fn dying(&self) -> Vec<(Lease, Cause)> {
        let dying = self.dying.iter().filter_map(|spot| {
            let Entry { state: State::Dying(cause), attempts, .. } = *self.entry(*spot)? else {
                return None;
            };
            Some((Lease { spot: *spot, attempt: attempts }, cause))
        });
        dying.collect()
    }

    /// A record that dies is to be left alone for a time.
    pub(super) fn postpone(&mut self, spot: Spot) {
        self.dying.remove(&spot);
    }

    /// That time is over.
    pub(super) fn dies_again(&mut self, spot: Spot) {
        if self.entry(spot).is_some_and(|entry| matches!(entry.state, State::Dying(_))) {
            self.dying.insert(spot);
        }
    }

    /// A record is done with.
    pub(super) fn finish(&mut self, (partition, offset): Spot) {
        self.dying.remove(&(partition, offset));
        if let Some(window) = self.windows.get_mut(&partition) {
            window.finish(offset);
        }
    }
}

#[cfg(test)]
mod tests;
