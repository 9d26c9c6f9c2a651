//! Linger: how long a closing connection may still send. Measured from the last progress, so that a slow but
//! healthy receiver gets everything, and a dead one costs at most the linger time.

use std::time::{Duration, Instant};

use crate::completion::Guard;

/// A source that is closing. The guard keeps whoever waits for the close waiting.
#[derive(Debug)]
pub(crate) struct Lingering {
    linger: Duration,
    progress: u64,
    since: Instant,
    guard: Guard,
}

impl Lingering {
    pub(crate) fn new(linger: Duration, progress: u64, now: Instant, guard: Guard) -> Self {
        Self { linger, progress, since: now, guard }
    }

    /// Notes the bytes written so far; true when the time is over without any since the last call that saw some.
    pub(crate) fn is_over(&mut self, progress: u64, now: Instant) -> bool {
        if progress != self.progress {
            self.progress = progress;
            self.since = now;
        }
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// The linger time, and the guard for another source that closes with this one.
    pub(crate) fn terms(&self) -> (Duration, Guard) {
        (self.linger, self.guard.clone())
    }

    /// When the time will be over unless there is progress; `None` when it never will.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.checked_add(self.linger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::completion;

    #[test]
    fn progress_starts_the_linger_time_again() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut lingering = Lingering::new(Duration::from_millis(100), 0, start, completion().1);
        assert!(!lingering.is_over(0, at(90)));
        assert!(!lingering.is_over(5, at(110)));
        assert!(!lingering.is_over(5, at(209)));
        assert!(lingering.is_over(5, at(210)));
    }

    #[test]
    fn an_endless_linger_has_no_deadline() {
        let lingering = Lingering::new(Duration::MAX, 0, Instant::now(), completion().1);
        assert_eq!(lingering.deadline(), None);
    }
}
