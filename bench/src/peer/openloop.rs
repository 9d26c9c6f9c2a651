//! The open loop: messages are sent by a schedule that does not wait, and each is compared with the time at which it was
//! due. That corrects for coordinated omission: time that a sender spent blocked, or a message spent in a queue, counts
//! for every message that was due meanwhile, and messages that did not come at all count with the time they had waited.

use std::time::Duration;

use super::latency::quantiles;
use super::{Job, finish, tell, tell_bound};
use crate::library::{Body, Library, Receiver, Sender, Spread};
use crate::outcome::Outcome;
use crate::system;

/// Most samples of one measurement; what comes after is not kept.
const SAMPLES_MAX: usize = 16 << 20;
/// How long after its window a schedule may be late before the measurement ends anyway. With it, times fit 32 bits.
const GRACE: Duration = Duration::from_secs(2);

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// When messages are due: number `n` at `n / rate`, however late the one before it was.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    begin_ns: u64,
    interval_ns: f64,
}

impl Schedule {
    fn due_ns(self, number: u64) -> u64 {
        self.begin_ns + (number as f64 * self.interval_ns) as u64
    }
}

/// PUSH by the schedule. Each message carries the time at which it was due.
pub(super) fn paced_push<L: Library>(job: &Job) -> Outcome {
    L::run(Spread::Streams, async {
        let mut sender = L::push(&job.address).await?;
        let mut body = Body::of_size(job.size);
        let begin_ns = system::now_ns() + 1_000_000;
        let schedule = Schedule { begin_ns, interval_ns: 1e9 / job.rate };
        let mut now_ns = 0;
        for number in 0_u64.. {
            let due_ns = schedule.due_ns(number);
            if due_ns > now_ns {
                now_ns = system::now_ns();
            }
            if due_ns > now_ns {
                sender.flush().await?;
                system::sleep_until(due_ns);
                now_ns = system::now_ns();
            }
            body.stamp(due_ns);
            sender.send(&body).await?;
        }
        Ok(())
    })
}

/// What the receiver gathers. All times are nanoseconds of the monotonic clock.
#[derive(Debug)]
struct Tally {
    /// Messages due from here on count,
    warm_ns: u64,
    /// up to here.
    end_ns: u64,
    /// When the measurement ends, whatever is still due.
    give_up_ns: u64,
    interval_ns: f64,
    /// When the latest message was due.
    last_due_ns: u64,
    /// From due to received.
    times_ns: Vec<u32>,
}

impl Tally {
    /// Begins with the first message, which is not counted.
    fn new(first_due_ns: u64, rate: f64, warm_up: Duration, window: Duration) -> Self {
        let warm_ns = first_due_ns + nanoseconds(warm_up);
        let end_ns = warm_ns + nanoseconds(window);
        let expected = (rate * window.as_secs_f64() * 1.1) as usize;
        Self {
            warm_ns,
            end_ns,
            give_up_ns: end_ns + nanoseconds(GRACE),
            interval_ns: 1e9 / rate,
            last_due_ns: first_due_ns,
            times_ns: Vec::with_capacity(expected.min(SAMPLES_MAX)),
        }
    }

    /// Counts a message. Returns whether the measurement goes on.
    fn take(&mut self, due_ns: u64, now_ns: u64) -> bool {
        if due_ns >= self.end_ns {
            self.last_due_ns = due_ns;
            return false;
        }
        if now_ns >= self.give_up_ns {
            return false;
        }
        self.last_due_ns = due_ns;
        if due_ns >= self.warm_ns {
            self.keep(due_ns, now_ns);
        }
        true
    }

    fn keep(&mut self, due_ns: u64, now_ns: u64) {
        if self.times_ns.len() < SAMPLES_MAX {
            let waited = u32::try_from(now_ns.saturating_sub(due_ns)).unwrap_or(u32::MAX);
            self.times_ns.push(waited);
        }
    }

    /// Counts the messages that were due in the window and have not come with the time they have waited. Returns the
    /// number of those that had come.
    fn close(&mut self, now_ns: u64) -> usize {
        let came = self.times_ns.len();
        let next = Schedule { begin_ns: self.last_due_ns, interval_ns: self.interval_ns };
        for number in 1.. {
            let due_ns = next.due_ns(number);
            if due_ns >= self.end_ns || self.times_ns.len() >= SAMPLES_MAX {
                break;
            }
            if due_ns >= self.warm_ns {
                self.keep(due_ns, now_ns);
            }
        }
        came
    }
}

/// PULL that compares each message with the time at which it was due.
pub(super) fn timed_pull<L: Library>(job: &Job) -> Outcome {
    L::run(Spread::Streams, async {
        let mut receiver = L::pull(&job.address, &tell_bound).await?;
        let first_due_ns = receiver.receive(Body::read_stamp).await?;
        let mut tally = Tally::new(first_due_ns, job.rate, job.warm_up, job.window);
        let mut started = false;
        loop {
            let due_ns = receiver.receive(Body::read_stamp).await?;
            let now_ns = system::now_ns();
            // By the clock, not by the messages: those may be late by more than the window.
            if !started && now_ns >= tally.warm_ns {
                started = true;
                tell("start");
            }
            if !tally.take(due_ns, now_ns) {
                break;
            }
        }
        tell("end");
        let came = tally.close(system::now_ns()) as f64;
        let due = tally.times_ns.len() as f64;
        let mut figures = quantiles(&mut tally.times_ns);
        figures.extend([
            ("messages", came),
            ("offered_per_s", job.rate),
            ("delivered_of_due", came / due.max(1.0)),
        ]);
        finish(&figures)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    /// A thousand messages a second, one second long, after a warm-up of 100 ms.
    const RATE: f64 = 1000.0;
    const WARM_UP: Duration = Duration::from_millis(100);
    const WINDOW: Duration = Duration::from_secs(1);

    /// Sends every message of the schedule; `received` says when the one that is due at a time arrives.
    fn play(received: impl Fn(u64) -> u64) -> (Tally, usize) {
        let schedule = Schedule { begin_ns: 5 * MS, interval_ns: 1e9 / RATE };
        let mut tally = Tally::new(schedule.due_ns(0), RATE, WARM_UP, WINDOW);
        for number in 1.. {
            let due_ns = schedule.due_ns(number);
            if !tally.take(due_ns, received(due_ns)) {
                break;
            }
        }
        let came = tally.close(tally.give_up_ns);
        (tally, came)
    }

    fn quantile(tally: &mut Tally, name: &str) -> f64 {
        let found = quantiles(&mut tally.times_ns).into_iter().find(|(known, _)| *known == name);
        found.map_or(f64::NAN, |(_, value)| value)
    }

    #[test]
    fn a_message_is_due_by_its_number_alone() {
        let schedule = Schedule { begin_ns: 7, interval_ns: 2.5 };
        assert_eq!([0, 1, 2, 4].map(|number| schedule.due_ns(number)), [7, 9, 12, 17]);
    }

    #[test]
    fn without_a_stall_every_quantile_is_the_way_of_one_message() {
        let (mut tally, came) = play(|due_ns| due_ns + MS / 10);
        assert_eq!((came, tally.times_ns.len()), (1000, 1000));
        assert_eq!(quantile(&mut tally, "p50_us"), 100.0);
        assert_eq!(quantile(&mut tally, "max_us"), 100.0);
    }

    #[test]
    fn a_stall_of_the_sender_counts_for_every_message_that_was_due_in_it() {
        // For half a second nothing is sent; then all that were due go out at once and take 0.1 ms each. Measured from
        // the moment of sending every message would seem to take 0.1 ms.
        let (stall, end) = (400 * MS, 900 * MS);
        let (mut tally, _) = play(|due_ns| {
            let sent_ns = if (stall..end).contains(&due_ns) { end } else { due_ns };
            sent_ns + MS / 10
        });
        assert_eq!(quantile(&mut tally, "max_us"), 500_100.0);
        // Half of the messages waited, evenly from 1 to 500 ms: the upper tenth of all waited for 400 ms or more.
        assert_eq!(quantile(&mut tally, "p90_us"), 400_100.0);
        assert!(quantile(&mut tally, "p50_us") <= 1100.0);
    }

    #[test]
    fn messages_that_have_not_come_by_the_end_count_with_the_time_they_waited() {
        // From 500 ms on nothing arrives before the receiver gives up.
        let (mut tally, came) =
            play(|due_ns| if due_ns < 605 * MS { due_ns + MS / 10 } else { u64::MAX });
        assert_eq!((came, tally.times_ns.len()), (500, 1000));
        assert!(quantile(&mut tally, "p90_us") > 2_000_000.0);
    }

    #[test]
    fn a_schedule_that_is_late_by_more_than_the_window_has_figures_all_the_same() {
        let (mut tally, came) = play(|due_ns| due_ns * 100);
        assert_eq!(came, 0, "those of the warm-up took all the time");
        assert_eq!(tally.times_ns.len(), 1000);
        assert!(quantile(&mut tally, "p50_us") > 2_000_000.0);
    }
}
