//! Timers of a reactor: a heap of deadlines with lazy deletion. A source has one deadline at a time; setting an
//! earlier one leaves the older in the heap, where it is recognised as stale when it comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::slab::Slab;

#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Timers {
    /// Makes sure that `token` comes up no later than `deadline`.
    pub(crate) fn arm<T>(&mut self, slab: &mut Slab<T>, token: usize, deadline: Option<Instant>) {
        let (Some(deadline), Some(armed)) = (deadline, slab.armed(token)) else { return };
        if armed.is_none_or(|armed| deadline < armed) {
            *armed = Some(deadline);
            self.heap.push(Reverse((deadline, token)));
        }
    }

    /// The next token whose deadline has come. It is no longer armed.
    pub(crate) fn pop_due<T>(&mut self, slab: &mut Slab<T>, now: Instant) -> Option<usize> {
        while let Some(&Reverse((deadline, token))) = self.heap.peek() {
            if deadline > now {
                return None;
            }
            self.heap.pop();
            if let Some(armed) = slab.armed(token)
                && *armed == Some(deadline)
            {
                *armed = None;
                return Some(token);
            }
        }
        None
    }

    /// Time until the next deadline; `None` without one.
    pub(crate) fn next_in(&self, now: Instant) -> Option<Duration> {
        let Reverse((deadline, _)) = self.heap.peek()?;
        Some(deadline.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_up_in_order_and_stale_ones_never() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut slab = Slab::new();
        let (a, b) = (slab.insert(()), slab.insert(()));
        let mut timers = Timers::default();
        timers.arm(&mut slab, a, Some(at(30)));
        timers.arm(&mut slab, a, Some(at(10)));
        timers.arm(&mut slab, b, Some(at(20)));
        assert_eq!(timers.next_in(start), Some(Duration::from_millis(10)));
        assert_eq!(timers.pop_due(&mut slab, at(5)), None);
        assert_eq!(timers.pop_due(&mut slab, at(40)), Some(a));
        assert_eq!(timers.pop_due(&mut slab, at(40)), Some(b));
        assert_eq!(timers.pop_due(&mut slab, at(40)), None);
    }

    #[test]
    fn a_removed_source_has_no_deadline() {
        let start = Instant::now();
        let mut slab = Slab::new();
        let token = slab.insert(());
        let mut timers = Timers::default();
        timers.arm(&mut slab, token, Some(start));
        slab.remove(token);
        assert_eq!(timers.pop_due(&mut slab, start), None);
    }
}
