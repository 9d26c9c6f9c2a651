//! The keeper's watch: how long a turn may lie unused in the slot before the keeper takes it (T2).
//!
//! A keeper that looks whether callers still come takes the processor from them for a moment. In a request-reply loop of 10 us on one core
//! a look every millisecond is met by two of a hundred round trips; so as long as callers keep coming back, the keeper looks less often.

use std::time::{Duration, Instant};

/// Longer than a request-reply loop is away from the turn.
const STAND_BY: Duration = Duration::from_millis(1);

/// And for how long at most, where callers keep coming back.
const STAND_BY_MAX: Duration = Duration::from_millis(4);

/// Nothing may lie in the slot that is due sooner: a watch begins when the keeper sees that the turn has moved.
pub(super) const UNUSED_MAX: Duration = STAND_BY_MAX.saturating_mul(2);

/// What the keeper saw of the turn, and when.
pub(super) struct Watch {
    moves: u64,
    since: Instant,
    stand_by: Duration,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self { moves: 0, since: now, stand_by: Duration::ZERO }
    }

    /// How much longer the turn may lie unused, which has moved so often; `None` when its time is over. That is measured by
    /// the clock, whatever wakes the keeper meanwhile.
    pub(super) fn time_left(&mut self, moves: u64, now: Instant) -> Option<Duration> {
        if self.moves != moves {
            let stand_by = (2 * self.stand_by).clamp(STAND_BY, STAND_BY_MAX);
            *self = Self { moves, since: now, stand_by };
        }
        let unused = now.saturating_duration_since(self.since);
        self.stand_by.checked_sub(unused).filter(|left| !left.is_zero())
    }

    /// The keeper takes the turn: the callers have gone, or something cannot wait.
    pub(super) fn end(&mut self) {
        self.stand_by = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_nobody_uses_is_the_keepers_after_a_millisecond() {
        let begin = crate::transport::now();
        let mut watch = Watch::new(begin);
        assert_eq!(watch.time_left(1, begin), Some(STAND_BY));
        assert_eq!(watch.time_left(1, begin + STAND_BY / 2), Some(STAND_BY / 2));
        assert_eq!(watch.time_left(1, begin + STAND_BY), None);
    }

    #[test]
    fn where_callers_keep_coming_back_the_keeper_looks_less_often() {
        let mut now = crate::transport::now();
        let mut watch = Watch::new(now);
        let mut pauses = Vec::new();
        for moves in 1..6 {
            let pause = watch.time_left(moves, now).unwrap();
            now += pause;
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [1, 2, 4, 4, 4]);
        assert_eq!(watch.time_left(5, now), None, "not once more");
        watch.end();
        assert_eq!(watch.time_left(6, now), Some(STAND_BY), "the next ones begin anew");
    }
}
