//! Chance, all of it from one seed: choices, short pauses, and a timer that any executor can wait for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Longest pause and longest timeout drawn, in microseconds: twice the time after which an I/O thread takes over.
const PAUSE_MICROSECONDS_MAX: u64 = 2_000;

/// A generator of numbers (splitmix64); good enough to choose, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The generator that belongs to a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, several: &[T]) -> T {
        several[self.below(several.len() as u64) as usize]
    }

    /// Brings several into a random order.
    pub(crate) fn shuffle<T>(&mut self, several: &mut [T]) {
        for last in (1..several.len()).rev() {
            several.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// A time between nothing and two milliseconds; about as often very short as long.
    pub(crate) fn moment(&mut self) -> Duration {
        let scale = self.pick(&[20, 200, PAUSE_MICROSECONDS_MAX]);
        Duration::from_micros(self.below(scale))
    }

    /// Keeps the calling thread busy, or parks it, for a moment.
    pub(crate) fn pause(&mut self) {
        let until = Instant::now() + self.moment();
        let parks = self.one_in(2);
        while Instant::now() < until {
            if parks {
                std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// A future that gives another one up after a time: its output is `None` then.
///
/// With no time at all the other one is polled once, if it is not ready, and dropped.
pub(crate) struct GiveUp<F> {
    future: Pin<Box<F>>,
    limit: Duration,
    deadline: Option<Instant>,
}

impl<F: Future> GiveUp<F> {
    /// Gives `future` up `limit` after it was first found waiting.
    pub(crate) fn new(future: F, limit: Duration) -> Self {
        Self { future: Box::pin(future), limit, deadline: None }
    }
}

impl<F: Future> Future for GiveUp<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let now = Instant::now();
        // Dropped without a last look: a wake-up that came meanwhile is for somebody else now.
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = self.future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if self.limit.is_zero() {
            return Poll::Ready(None);
        }
        if self.deadline.is_none() {
            let deadline = now + self.limit;
            self.deadline = Some(deadline);
            wake_at(deadline, context.waker().clone());
        }
        Poll::Pending
    }
}

/// Waits without keeping its thread.
pub(crate) async fn sleep(time: Duration) {
    let _never = GiveUp::new(std::future::pending::<()>(), time).await;
}

/// A wake-up that is due at a time; the number tells equal times apart.
struct Alarm(Reverse<(Instant, u64)>, Waker);

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// Wakes a task at a time, from a thread that does nothing else.
fn wake_at(time: Instant, waker: Waker) {
    static ALARMS: OnceLock<Sender<(Instant, Waker)>> = OnceLock::new();
    let alarms = ALARMS.get_or_init(|| {
        let (sender, receiver) = channel::<(Instant, Waker)>();
        std::thread::spawn(move || {
            let mut heap: BinaryHeap<Alarm> = BinaryHeap::new();
            for number in 0.. {
                let now = Instant::now();
                while heap.peek().is_some_and(|alarm| alarm.0.0.0 <= now) {
                    heap.pop().unwrap().1.wake();
                }
                let next = heap.peek().map(|alarm| alarm.0.0.0.saturating_duration_since(now));
                match receiver.recv_timeout(next.unwrap_or(Duration::from_secs(3600))) {
                    Ok((time, waker)) => heap.push(Alarm(Reverse((time, number)), waker)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        sender
    });
    alarms.send((time, waker)).unwrap();
}
