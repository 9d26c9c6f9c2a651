//! Retention: which segments a partition may let go of, by its size and by the age of what was appended.
//!
//! Whole sealed segments only, from the front on. Age is that of the last append by the log's clock
//! (`partition/times.rs`), so that records dated in the future keep nothing, and records dated in the past stay as long
//! as others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::LogError;
use super::options::TopicOptions;
use super::partition::Partition;
use super::partition::times::UNKNOWN;
use super::segment::Segment;
use super::wakers::hold;

impl Partition {
    /// Ends the active segment when its time has come, so that a topic with few records ages too, and forgets producers
    /// that were silent for long.
    pub(super) fn age(&self) -> Result<(), LogError> {
        let now_ms = self.shared.clock.now_ms();
        if self.options.needs_maintenance() && self.is_active_old(now_ms) {
            self.write_now()?;
        }
        let mut writer = hold(&self.writer);
        self.check()?;
        writer.expire_producers(self);
        let active = writer.active.clone();
        writer.times.note(&self.home, &active);
        writer.times.shorten(&self.home, &self.view().segments);
        let old = self.options.needs_maintenance() && self.is_old(&active, now_ms);
        let rolled = if old { writer.begin(self).and_then(|()| writer.roll(self)) } else { Ok(()) };
        drop(writer);
        self.write_if_wanted();
        rolled
    }

    fn is_active_old(&self, now_ms: i64) -> bool {
        self.view().segments.last().is_some_and(|active| self.is_old(active, now_ms))
    }

    /// Whether a segment must not be continued, or all of it is as old as may be.
    fn is_old(&self, segment: &Segment, now_ms: i64) -> bool {
        let times = segment.times();
        let begun_ago = now_ms.saturating_sub(times.first);
        segment.end() > 0
            && (times.first != UNKNOWN && begun_ago > self.options.segment_ms
                || is_expired(times.last, &self.options, now_ms))
    }

    /// Where the partition is to begin, if that is not where it does.
    pub(super) fn retained_from(&self) -> Option<i64> {
        let view = self.view();
        let now_ms = self.shared.clock.now_ms();
        let start = retained_from(&view.segments, &self.options, now_ms)?;
        (start > self.log_start.load(Ordering::SeqCst)).then_some(start)
    }
}

/// Whether what was appended at a time may go.
fn is_expired(appended_ms: i64, options: &TopicOptions, now_ms: i64) -> bool {
    let Some(retention) = options.retention else { return false };
    let age = u128::try_from(now_ms.saturating_sub(appended_ms)).unwrap_or(0);
    appended_ms != UNKNOWN && age > retention.as_millis()
}

/// The base of the first segment that stays, if any before it goes. The last one is the active one.
fn retained_from(segments: &[Arc<Segment>], options: &TopicOptions, now_ms: i64) -> Option<i64> {
    let mut bytes: u64 = segments.iter().map(|segment| segment.end()).sum();
    let (_, sealed) = segments.split_last()?;
    let mut start = None;
    for segment in sealed {
        let rest = bytes.saturating_sub(segment.end());
        let too_much = options.retention_bytes.is_some_and(|limit| rest >= limit);
        if !too_much && !is_expired(segment.times().last, options, now_ms) {
            break;
        }
        bytes = rest;
        start = Some(segment.next_offset());
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::partition::times::Times;
    use crate::log::segment::Home;
    use std::time::Duration;

    /// Segments of 100 bytes and ten offsets, last appended to at these times.
    fn segments(last: &[i64]) -> Vec<Arc<Segment>> {
        let home = Arc::new(Home::in_memory());
        let segment = |(n, last): (usize, &i64)| {
            let base = n as i64 * 10;
            let segment = Segment::known(home.clone(), base, 100, base + 10, true);
            segment.set_times(Times { last: *last, ..Times::NONE });
            Arc::new(segment)
        };
        last.iter().enumerate().map(segment).collect()
    }

    #[test]
    fn by_size_at_least_the_limit_stays_and_never_the_active_segment_goes() {
        let segments = segments(&[0, 0, 0, 0]);
        let from = |limit| {
            let options = TopicOptions::default().retention_bytes(Some(limit));
            retained_from(&segments, &options, 0)
        };
        assert_eq!([from(400), from(301), from(300)], [None, None, Some(10)]);
        assert_eq!(
            [from(201), from(200), from(1), from(0)],
            [Some(10), Some(20), Some(30), Some(30)]
        );
    }

    #[test]
    fn by_age_what_is_older_goes_up_to_the_first_that_is_not() {
        let options = TopicOptions::default().retention(Some(Duration::from_millis(50)));
        let from = |last: &[i64]| retained_from(&segments(last), &options, 100);
        assert_eq!(from(&[49, 50, 0, 0]), Some(10));
        assert_eq!(from(&[50, 0, 0]), None);
        assert_eq!(from(&[0, 1, 2]), Some(20));
        assert_eq!(from(&[UNKNOWN, 0, 0]), None, "of what is not known nothing is assumed");
        assert_eq!(retained_from(&segments(&[0, 0]), &TopicOptions::default(), 1 << 60), None);
    }
}
