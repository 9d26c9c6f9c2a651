//! When tasks must be looked at though nobody woke them: when their time is over, and at one moment before that which a
//! task may name anew whenever it was looked at.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// The moments of all tasks. Nothing is left of a task that was removed, nor of a moment in whose place another was named.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// With the task, and whether its time is over then.
    moments: BTreeSet<(Instant, u64, bool)>,
    /// The moments before that.
    again: HashMap<u64, Instant>,
}

impl Deadlines {
    /// A task's time is over then.
    pub(super) fn insert(&mut self, task: u64, deadline: Instant) {
        self.moments.insert((deadline, task, true));
    }

    /// A task is to be looked at then, and not when it was to be before.
    pub(super) fn look_again(&mut self, task: u64, again_at: Option<Instant>) {
        let before = match again_at {
            Some(again_at) => self.again.insert(task, again_at),
            None => self.again.remove(&task),
        };
        before.map(|before| self.moments.remove(&(before, task, false)));
        self.moments.extend(again_at.map(|again_at| (again_at, task, false)));
    }

    /// A task is done.
    pub(super) fn remove(&mut self, task: u64, deadline: Instant) {
        self.look_again(task, None);
        self.moments.remove(&(deadline, task, true));
    }

    /// The first moment.
    pub(super) fn first(&self) -> Option<Instant> {
        self.moments.first().map(|(moment, ..)| *moment)
    }

    /// Takes a task whose moment has come, and whether its time is over.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(u64, bool)> {
        let (_, task, over) = *self.moments.first().filter(|(moment, ..)| *moment <= now)?;
        self.moments.pop_first();
        if !over {
            self.again.remove(&task);
        }
        Some((task, over))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::now;

    #[test]
    fn a_task_has_one_moment_before_its_time_is_over_and_nothing_is_left_of_it_afterwards() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::default();
        deadlines.insert(7, at(10));
        deadlines.insert(8, at(20));
        for ms in [30, 15, 10, 5] {
            deadlines.look_again(7, Some(at(ms)));
            assert_eq!(deadlines.moments.len(), 3, "those named before are gone");
        }
        assert_eq!((deadlines.first(), deadlines.take_due(at(4))), (Some(at(5)), None));
        assert_eq!(deadlines.take_due(at(5)), Some((7, false)));
        deadlines.look_again(7, Some(at(10)));
        deadlines.look_again(7, None);
        assert_eq!(deadlines.take_due(at(10)), Some((7, true)), "its end is no such moment");
        deadlines.look_again(8, Some(at(9)));
        deadlines.remove(8, at(20));
        assert!(deadlines.moments.is_empty() && deadlines.again.is_empty());
    }
}
