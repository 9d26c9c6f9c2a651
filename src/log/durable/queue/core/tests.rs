//! The rules against a plain model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What the model knows of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plain {
    Available(u32),
    Locked(u32, i64),
    Dying(u32, Cause),
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append,
    Fill,
    Acquire(usize, i64),
    Ack(usize),
    Release(usize),
    Reject(usize),
    Renew(usize, i64),
    Bury,
    Pass(i64),
    /// From everything, or from the beginning of the notes.
    Restart(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Append),
        4 => Just(Step::Fill),
        4 => (1..4usize, 1..50i64).prop_map(|(count, lock)| Step::Acquire(count, lock)),
        3 => (0..20usize).prop_map(Step::Ack),
        2 => (0..20usize).prop_map(Step::Release),
        1 => (0..20usize).prop_map(Step::Reject),
        2 => (0..20usize, 1..50i64).prop_map(|(which, lock)| Step::Renew(which, lock)),
        1 => Just(Step::Bury),
        3 => (1..40i64).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 0..120)
}

const ATTEMPTS_MAX: u32 = 3;
const WINDOW_MAX: usize = 6;
const RECORD_BYTES: usize = 10;
const AHEAD_BYTES_MAX: usize = 25;

struct Model {
    core: Core,
    now_ms: i64,
    appended: i64,
    /// Records that were offered, by offset; partition 0.
    known: BTreeMap<i64, Plain>,
    /// Every delivery that ever was.
    leases: Vec<Lease>,
}

impl Model {
    fn back(plain: Plain) -> Plain {
        match plain {
            Plain::Locked(attempts, _) if attempts >= ATTEMPTS_MAX => {
                Plain::Dying(attempts, Cause::Attempts)
            }
            Plain::Locked(attempts, _) => Plain::Available(attempts),
            other => other,
        }
    }

    fn expire(&mut self) {
        self.core.expire(self.now_ms);
        for plain in self.known.values_mut() {
            if matches!(plain, Plain::Locked(_, until) if *until <= self.now_ms) {
                *plain = Self::back(*plain);
            }
        }
    }

    /// Does something with a delivery, if it has its lock still; the core and the model must agree whether it has.
    fn settle(
        &mut self,
        which: usize,
        act: impl FnOnce(&mut Core, Lease),
        next: impl FnOnce(Plain) -> Plain,
    ) {
        let Some(lease) = self.leases.get(which % self.leases.len().max(1)).copied() else {
            return;
        };
        let plain = self.known.get_mut(&lease.spot.1).unwrap();
        let holds = matches!(plain, Plain::Locked(attempts, until)
            if *attempts == lease.attempt && *until > self.now_ms);
        assert_eq!(self.core.holds(lease, self.now_ms), holds, "{lease:?} {plain:?}");
        if holds {
            act(&mut self.core, lease);
            *plain = next(*plain);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append => self.appended += 1,
            Step::Fill => {
                while let Some(offset) = self.core.wants(0).filter(|offset| *offset < self.appended)
                {
                    let kept = self.core.offer((0, offset), RECORD_BYTES);
                    let known = *self.known.entry(offset).or_insert(Plain::Available(0));
                    assert_eq!(kept, known != Plain::Done);
                }
            }
            Step::Acquire(count, lock_ms) => {
                self.expire();
                for lease in self.core.next(count) {
                    let plain = self.known.get_mut(&lease.spot.1).unwrap();
                    assert_eq!(*plain, Plain::Available(lease.attempt - 1), "two owners, or lost");
                    *plain = Plain::Locked(lease.attempt, self.now_ms + lock_ms);
                    self.core.lock(lease, self.now_ms + lock_ms);
                    self.leases.push(lease);
                }
            }
            Step::Ack(which) => self.settle(which, Core::ack, |_| Plain::Done),
            Step::Release(which) => self.settle(which, Core::release, Self::back),
            Step::Reject(which) => self.settle(which, Core::reject, |plain| match plain {
                Plain::Locked(attempts, _) => Plain::Dying(attempts, Cause::Rejected),
                other => other,
            }),
            Step::Renew(which, lock_ms) => {
                let until = self.now_ms + lock_ms;
                self.settle(
                    which,
                    |core, lease| core.renew(lease, until),
                    |plain| match plain {
                        Plain::Locked(attempts, _) => Plain::Locked(attempts, until),
                        other => other,
                    },
                );
            }
            Step::Bury => {
                for (lease, cause) in self.core.dying() {
                    let plain = self.known.insert(lease.spot.1, Plain::Done);
                    assert_eq!(plain, Some(Plain::Dying(lease.attempt, cause)));
                    self.core.finish(lease.spot);
                }
            }
            Step::Pass(ms) => self.now_ms += ms,
            Step::Restart(all) => self.restart(all),
        }
    }

    /// A new process: locks are gone, attempts and what is done with are remembered.
    fn restart(&mut self, all: bool) {
        let remembered = self.core.remembered();
        self.core = Core::new(ATTEMPTS_MAX, WINDOW_MAX, AHEAD_BYTES_MAX);
        for (partition, mut remembered) in remembered {
            if !all {
                let done = self.known.iter().filter(|(_, plain)| **plain == Plain::Done);
                remembered.floor = 0;
                remembered.done = done.map(|(offset, _)| *offset).collect();
            }
            self.core.open(partition, remembered);
        }
        for plain in self.known.values_mut() {
            *plain = match *plain {
                Plain::Available(attempts)
                | Plain::Locked(attempts, _)
                | Plain::Dying(attempts, _)
                    if attempts >= ATTEMPTS_MAX =>
                {
                    Plain::Dying(attempts, Cause::Attempts)
                }
                Plain::Locked(attempts, _) | Plain::Dying(attempts, _) => {
                    Plain::Available(attempts)
                }
                other => other,
            };
        }
    }

    /// Everything that is known is in the state the model says, and nothing else is.
    fn check(&self) {
        let available = self.known.iter().filter(|(_, plain)| matches!(plain, Plain::Available(_)));
        let offered = |offset: &i64| self.core.entry((0, *offset)).is_some();
        let expected: Vec<i64> = available.map(|(offset, _)| *offset).filter(offered).collect();
        let found: Vec<i64> = self.core.available.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(found, expected);
        for (offset, plain) in &self.known {
            let entry = self.core.entry((0, *offset));
            let window = &self.core.windows[&0];
            match (plain, entry) {
                (Plain::Done, None) => {
                    let known = window.done.contains(offset) || window.ahead.contains(offset);
                    assert!(*offset < window.floor() || known);
                }
                // Not looked at again since the restart.
                (_, None) => assert!(*offset >= window.end, "{offset} {plain:?} is lost"),
                (Plain::Available(attempts), Some(entry)) => {
                    assert_eq!((entry.state, entry.attempts), (State::Available, *attempts));
                }
                (Plain::Locked(attempts, until_ms), Some(entry)) => {
                    let state = State::Locked { until_ms: *until_ms };
                    assert_eq!((entry.state, entry.attempts), (state, *attempts));
                }
                (Plain::Dying(attempts, cause), Some(entry)) => {
                    assert_eq!((entry.state, entry.attempts), (State::Dying(*cause), *attempts));
                }
                (Plain::Done, Some(_)) => panic!("{offset} is done with, and there"),
            }
        }
        let window = &self.core.windows[&0];
        assert!(window.entries.len() + window.done.len() <= WINDOW_MAX);
        assert_eq!(window.available_bytes, found.len() * RECORD_BYTES);
        let ahead_max = AHEAD_BYTES_MAX.div_ceil(RECORD_BYTES);
        assert!(found.len() < ahead_max || self.core.wants(0).is_none());
    }
}

proptest! {
    #[test]
    fn each_record_is_available_or_locked_once_or_dying_or_done_and_none_is_lost(steps in steps()) {
        let core = Core::new(ATTEMPTS_MAX, WINDOW_MAX, AHEAD_BYTES_MAX);
        let (known, leases) = (BTreeMap::new(), Vec::new());
        let mut model = Model { core, now_ms: 0, appended: 0, known, leases };
        model.core.open(0, Remembered::default());
        for step in steps {
            model.step(step);
            model.check();
        }
    }
}

#[test]
fn a_record_that_was_offered_before_is_not_offered_twice() {
    let mut core = Core::new(1, 10, usize::MAX);
    core.open(3, Remembered::default());
    assert!(core.offer((3, 0), 1));
    assert!(!core.offer((3, 0), 1));
    assert_eq!(core.available(), 1);
}

#[test]
fn holes_in_the_offsets_are_done_with() {
    let mut core = Core::new(1, 10, usize::MAX);
    core.open(0, Remembered::default());
    assert!(core.offer((0, 7), 1));
    assert_eq!(core.floor(0), Some(7));
    let lease = core.next(1)[0];
    core.lock(lease, 10);
    core.ack(lease);
    core.skip_to(0, 12);
    assert_eq!((core.floor(0), core.wants(0)), (Some(12), Some(12)));
}

#[test]
fn a_delivery_that_is_undone_does_not_count_and_one_whose_lock_is_over_is_not_undone() {
    let mut core = Core::new(2, 10, 1000);
    core.open(0, Remembered::default());
    assert!(core.offer((0, 0), 1));
    let first = core.next(1)[0];
    core.lock(first, 10);
    core.undo(first);
    assert_eq!((core.available(), core.locked()), (1, 0));
    let again = core.next(1)[0];
    assert_eq!(again, first);
    core.lock(again, 10);
    core.expire(10);
    core.undo(again);
    assert_eq!(core.next(1)[0].attempt, 2);
    core.lock(core.next(1)[0], 30);
    core.undo(again);
    assert_eq!((core.available(), core.locked()), (0, 1), "it is another delivery");
}
