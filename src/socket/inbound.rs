//! The receiving side of a socket: runs arrive from reactors, callers cut messages out of them.
//!
//! Two locks, so that a receiver that takes messages from a run never meets the reactor: `arrivals` is taken
//! by the reactor once per run and by a caller once it needs a further run; `consumer` is for callers alone. The
//! consumer comes first when both are held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::answers::Heard;
use super::wait::{Key, WaitList};
use crate::error::RecvError;
use crate::message::{Frame, INLINE_BYTES_MAX, Message};
use crate::pattern::{FairQueue, Lane};
use crate::peer::PeerInfo;
use crate::pipe::{Loss, Pipe, Resume, Run};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Biased, BiasedGuard, Fault, Mutex, lock, planted};

/// Messages that one look at a flood of rejected ones takes, and those that had arrived before it in any case.
const REJECTED_MAX: usize = 1024;

/// Messages and bytes received, and messages that a filter refused.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ReceivedCounts {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) filtered: u64,
}

pub(crate) struct Inbound {
    consumer: Biased<Consumer>,
    arrivals: Mutex<Arrivals>,
    /// `arrivals` holds runs. Set under its lock; read without, as a hint that costs nothing.
    arrived: AtomicBool,
    /// Registered waiters. Changed under the lock of `arrivals`.
    waiting: AtomicUsize,
    heard: Heard,
}

struct Consumer {
    lanes: FairQueue<PeerLane>,
    counts: ReceivedCounts,
}

impl Default for Inbound {
    fn default() -> Self {
        let consumer = Consumer { lanes: FairQueue::new(), counts: ReceivedCounts::default() };
        Self {
            consumer: Biased::new(consumer),
            arrivals: Mutex::default(),
            arrived: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            heard: Heard::default(),
        }
    }
}

#[derive(Default)]
struct Arrivals {
    runs: VecDeque<(Arc<Pipe>, Delivery)>,
    waiters: WaitList,
    closed: bool,
}

/// A run and the peer that sent it.
struct Delivery {
    info: Arc<PeerInfo>,
    run: Run,
}

/// One peer's runs, in order.
struct PeerLane {
    pipe: Arc<Pipe>,
    /// The run that is being cut. Mostly it is the only one, and then the lane takes no memory of its own.
    first: Option<Delivery>,
    /// Those behind it; empty without a first.
    more: VecDeque<Delivery>,
    /// Messages cut since credit was last returned to the inbox.
    taken: usize,
    /// Credit is returned after so many, or at the end of a run.
    taken_max: usize,
}

impl Lane for PeerLane {
    type Chunk = Delivery;

    fn push(&mut self, delivery: Delivery) {
        match self.first {
            None => self.first = Some(delivery),
            Some(_) => self.more.push_back(delivery),
        }
    }

    fn replace(&mut self, delivery: Delivery) {
        let old = self.first.replace(delivery).into_iter().chain(self.more.drain(..));
        let dropped: usize = old.map(|old| old.run.messages_left()).sum();
        self.pipe.count_loss(Loss::Conflate, dropped as u64);
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl PeerLane {
    /// Steps over a short message in the middle of a run, between two returns of credit.
    #[inline]
    fn next_short(&mut self) -> Option<(&[u8; INLINE_BYTES_MAX], usize, &Arc<PeerInfo>)> {
        if self.taken + 1 >= self.taken_max {
            return None;
        }
        let Delivery { info, run } = self.first.as_mut()?;
        let (block, len) = run.next_short()?;
        self.taken += 1;
        Some((block, len, info))
    }

    /// `next_short` for a longer one.
    #[inline]
    fn next_long(&mut self) -> Option<(Bytes, &Arc<PeerInfo>)> {
        if self.taken + 1 >= self.taken_max {
            return None;
        }
        let Delivery { info, run } = self.first.as_mut()?;
        let body = run.next_long()?;
        self.taken += 1;
        Some((body, info))
    }

    /// Cuts one message, and returns the credit of what was cut at the end of a run or when it has added up.
    #[inline]
    fn cut(&mut self, resumes: &mut Resumes) -> Option<Message> {
        let Delivery { info, run } = self.first.as_mut()?;
        let message = run.cut(Some(info));
        self.taken += usize::from(message.is_some());
        if run.messages_left() == 0 || message.is_none() {
            let bytes = run.wire_bytes();
            // A run that cannot be cut further would be our own fault; its credit is returned all the same.
            self.taken += run.messages_left();
            self.first = self.more.pop_front();
            resumes.push(self.pipe.inbox().released(std::mem::take(&mut self.taken), bytes));
        } else if self.taken >= self.taken_max {
            resumes.push(self.pipe.inbox().released(std::mem::take(&mut self.taken), 0));
        }
        message
    }
}

impl Inbound {
    /// Queues a run and wakes one waiter. The run comes back when the socket is closed.
    pub(crate) fn deliver(
        &self,
        pipe: &Arc<Pipe>,
        info: &Arc<PeerInfo>,
        run: Run,
    ) -> Result<(), Run> {
        let mut arrivals = lock(&self.arrivals);
        if arrivals.closed {
            return Err(run);
        }
        let delivery = Delivery { info: Arc::clone(info), run };
        if pipe.inbox().conflates()
            && let Some((_, older)) =
                arrivals.runs.iter_mut().find(|(other, _)| other.id() == pipe.id())
        {
            let dropped = std::mem::replace(older, delivery).run.messages_left();
            drop(arrivals);
            pipe.count_loss(Loss::Conflate, dropped as u64);
            return Ok(());
        }
        arrivals.runs.push_back((Arc::clone(pipe), delivery));
        self.arrived.store(true, Ordering::Release);
        let waker = self.take_waiter(&mut arrivals);
        drop(arrivals);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// The short way of `take` for what most traffic consists of; `Empty` says nothing but that `take` must be asked. The message
    /// is built last, in its final type, where the caller wants it: every further move of it costs more than the cut.
    #[inline(never)]
    pub(crate) fn take_short(&self) -> Result<Message, RecvError> {
        let mut consumer = self.consumer.lock();
        // To wake the next waiter is left to `take`.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Err(RecvError::Empty);
        }
        let Consumer { lanes, counts } = &mut *consumer;
        let Some((block, len, info)) = lanes.pass_front().and_then(PeerLane::next_short) else {
            lanes.take_turn_back();
            return self.take_long(consumer);
        };
        counts.messages += 1;
        counts.bytes += len as u64;
        self.heard.message(true);
        Ok(Message::received_short(block, len, info))
    }

    /// `take_short` for a longer message.
    #[inline(never)]
    fn take_long(&self, mut consumer: BiasedGuard<'_, Consumer>) -> Result<Message, RecvError> {
        let Consumer { lanes, counts } = &mut *consumer;
        let Some((body, info)) = lanes.pass_front().and_then(PeerLane::next_long) else {
            lanes.take_turn_back();
            return Err(RecvError::Empty);
        };
        counts.messages += 1;
        counts.bytes += body.len() as u64;
        self.heard.message(true);
        Ok(Message::received(Frame::from(body), Some(info)))
    }

    /// Takes the next message that `admits` lets through. Without one, registers `waiting` in the same breath.
    ///
    /// All that has arrived before is looked at, but what arrives meanwhile only up to a number of messages: whoever waits is
    /// woken then instead, looks at his deadline, and comes again.
    #[inline]
    pub(crate) fn take(
        &self,
        mut waiting: Option<(&mut Key, &Waker)>,
        admits: impl Fn(&Message) -> bool,
    ) -> Result<Message, RecvError> {
        let mut resumes = Resumes::default();
        let mut consumer = self.consumer.lock();
        let mut rejected = 0_usize;
        loop {
            if rejected < REJECTED_MAX && self.arrived.load(Ordering::Acquire) {
                self.take_arrivals(&mut consumer);
            }
            if let Some(message) = consumer.lanes.next(|lane| lane.cut(&mut resumes)) {
                if !admits(&message) {
                    consumer.counts.filtered += 1;
                    rejected += 1;
                    continue;
                }
                consumer.counts.messages += 1;
                consumer.counts.bytes += message.body_bytes() as u64;
                // More is there than one waiter takes: the next one is woken by whoever took this.
                let more = !consumer.lanes.is_empty();
                let baton = more && self.waiting.load(Ordering::Relaxed) > 0;
                self.heard.message(more || self.arrived.load(Ordering::Relaxed));
                drop(consumer);
                resumes.run();
                if baton && !planted(Fault::BatonKept) {
                    self.pass_on();
                }
                return Ok(message);
            }
            if !consumer.lanes.is_empty() {
                continue;
            }
            let mut arrivals = lock(&self.arrivals);
            if arrivals.closed {
                return Err(RecvError::Closed);
            }
            if rejected >= REJECTED_MAX {
                drop(arrivals);
                drop(consumer);
                resumes.run();
                waiting.into_iter().for_each(|(_, waker)| waker.wake_by_ref());
                return Err(RecvError::Empty);
            }
            if !arrivals.runs.is_empty() {
                continue;
            }
            // Before this thread may wait, the readers that it held up go on; they may bring the message.
            if !resumes.is_empty() {
                drop(arrivals);
                drop(consumer);
                std::mem::take(&mut resumes).run();
                consumer = self.consumer.lock();
                continue;
            }
            if planted(Fault::RegisteredLate) {
                drop(arrivals);
                arrivals = lock(&self.arrivals);
            }
            if let Some((key, waker)) = &mut waiting {
                arrivals.waiters.register(key, waker);
                self.waiting.store(arrivals.waiters.len(), Ordering::Relaxed);
            }
            return Err(RecvError::Empty);
        }
    }

    /// What was received since the last send.
    #[inline]
    pub(super) fn heard(&self) -> &Heard {
        &self.heard
    }

    fn take_arrivals(&self, consumer: &mut Consumer) {
        let mut arrivals = lock(&self.arrivals);
        self.arrived.store(false, Ordering::Relaxed);
        for (pipe, delivery) in arrivals.runs.drain(..) {
            let (id, newest) = (pipe.id(), pipe.inbox().conflates());
            let taken_max = pipe.inbox().return_credit_after();
            let more = VecDeque::new();
            let make = || PeerLane { pipe, first: None, more, taken: 0, taken_max };
            if newest {
                consumer.lanes.enter_newest(id, make, delivery);
            } else {
                consumer.lanes.enter(id, make, delivery);
            }
        }
    }

    fn take_waiter(&self, arrivals: &mut Arrivals) -> Option<Waker> {
        let waker = arrivals.waiters.take_one();
        self.waiting.store(arrivals.waiters.len(), Ordering::Relaxed);
        waker
    }

    #[cold]
    fn pass_on(&self) {
        let waker = self.take_waiter(&mut lock(&self.arrivals));
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A waiter leaves its place. One that was notified and took nothing passes the notification on.
    pub(crate) fn leave_after(&self, key: &mut Key, satisfied: bool) {
        if key.is_none() {
            return;
        }
        let mut arrivals = lock(&self.arrivals);
        let notified = arrivals.waiters.leave(key);
        self.waiting.store(arrivals.waiters.len(), Ordering::Relaxed);
        drop(arrivals);
        if notified && !satisfied && !planted(Fault::NotificationKept) {
            self.pass_on();
        }
    }

    /// Ends all waits. What was not read is dropped, and its readers go on (to find the socket closed).
    pub(crate) fn close(&self) {
        let mut consumer = self.consumer.lock();
        let mut arrivals = lock(&self.arrivals);
        arrivals.closed = true;
        let runs = std::mem::take(&mut arrivals.runs);
        let wakers = arrivals.waiters.take_all();
        self.waiting.store(0, Ordering::Relaxed);
        drop(arrivals);
        let mut resumes = Resumes::default();
        for (pipe, delivery) in runs {
            resumes.push(release(&pipe, &delivery.run));
        }
        while !consumer.lanes.is_empty() {
            drop(consumer.lanes.next(|lane| lane.cut(&mut resumes)));
        }
        drop(consumer);
        resumes.run();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn counts(&self) -> ReceivedCounts {
        self.consumer.lock().counts
    }
}

/// Returns the credit of a run that nobody will read.
#[must_use]
pub(crate) fn release(pipe: &Pipe, run: &Run) -> Option<Resume> {
    pipe.inbox().released(run.messages_left(), run.wire_bytes())
}

/// Readers to resume once no lock is held; mostly none or one.
#[derive(Default)]
struct Resumes {
    first: Option<Resume>,
    more: Vec<Resume>,
}

impl Resumes {
    #[inline]
    fn push(&mut self, resume: Option<Resume>) {
        if let Some(resume) = resume {
            match self.first {
                None => self.first = Some(resume),
                Some(_) => self.more.push(resume),
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline]
    fn run(self) {
        if let Some(resume) = self.first {
            resume.run();
            self.more.into_iter().for_each(Resume::run);
        }
    }
}

#[cfg(test)]
mod tests;
