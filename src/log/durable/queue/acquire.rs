//! Waiting for deliveries, in turn: the worker that waits longest is the only one who looks, and passes on what it
//! leaves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::chores::Chores;
use super::state::{State, Wish, bytes_of};
use super::{Delivery, DurableQueue};
use crate::log::append::Ticket;
use crate::log::error::LogError;
use crate::log::format::{BatchBuilder, BatchOptions, FormatError, Header};
use crate::log::options::Level;
use crate::log::peer::protocol::{Acquired, Outcome, RemoteCode, RemoteError, Reply};
use crate::log::peer::watch::Watch;
use crate::log::wakers;
use crate::transport::now;

/// Deliveries, and when they are noted.
type Got = (Option<Ticket>, Vec<Delivery>);

/// Somebody who wants deliveries.
#[derive(Debug)]
pub(in crate::log) struct Acquiring {
    queue: DurableQueue,
    wish: Wish,
    /// Its number among those who wait.
    waiter: Option<u64>,
    watches: Vec<Watch>,
    /// What it has got, and until it is noted does not give.
    got: Option<(Ticket, Vec<Delivery>)>,
    /// When the next lock ends, or something that failed is to be tried again, at the last look.
    look_again_at: Option<Instant>,
}

impl Acquiring {
    pub(super) fn new(
        queue: DurableQueue,
        count_max: u32,
        bytes_max: usize,
        lock: Duration,
    ) -> Self {
        let lock_ms = i64::try_from(lock.as_millis()).unwrap_or(i64::MAX);
        Self {
            queue,
            wish: Wish { count_max: count_max as usize, bytes_max, lock_ms },
            waiter: None,
            watches: Vec::new(),
            got: None,
            look_again_at: None,
        }
    }

    /// When it wants to look though nothing wakes it: a lock may be over then.
    pub(in crate::log) fn look_again_at(&self) -> Option<Instant> {
        self.look_again_at
    }

    /// Bytes of what it has got and does not give yet.
    pub(in crate::log) fn taken_bytes(&self) -> usize {
        let got = self.got.iter().flat_map(|(_, deliveries)| deliveries);
        got.map(|delivery| bytes_of(&delivery.record)).sum()
    }

    /// Does not wait for a while: those behind it get what there is. Polled again, it is the last one.
    pub(in crate::log) fn step_back(&mut self) {
        self.leave();
    }

    /// What is to be done in a thread that may block.
    pub(in crate::log) fn chores(&self) -> Option<Chores> {
        self.queue.chores()
    }

    /// Deliveries, once there are some; none if the time is over.
    pub(super) fn poll(
        &mut self,
        waker: &Waker,
        over: bool,
    ) -> Poll<Result<Vec<Delivery>, LogError>> {
        if self.got.is_some() {
            return self.give(waker);
        }
        let queue = self.queue.clone();
        let mut registered = false;
        loop {
            let mut state = queue.state();
            self.look_again_at = None;
            let first = match (self.waiter, state.waiters.front()) {
                (Some(own), Some((first, _))) => own == *first,
                (_, None) => true,
                (None, Some(_)) => false,
            };
            if first {
                if let Some(acquired) = self.look(&mut state, over) {
                    drop(state);
                    self.leave();
                    let (noted, deliveries) = acquired?;
                    let Some(noted) = noted else { return Poll::Ready(Ok(deliveries)) };
                    self.got = Some((noted, deliveries));
                    return self.give(waker);
                }
                if registered {
                    let now_ms = queue.inner.clock.steady_ms();
                    self.look_again_at = state.look_again_ms(now_ms).and_then(|next| {
                        let left = u64::try_from(next.saturating_sub(now_ms)).unwrap_or_default();
                        now().checked_add(Duration::from_millis(left))
                    });
                    return Poll::Pending;
                }
            }
            if over {
                drop(state);
                self.leave();
                return Poll::Ready(Ok(Vec::new()));
            }
            let number = match self.waiter {
                Some(number) => number,
                None => {
                    state.next_waiter += 1;
                    self.waiter = Some(state.next_waiter);
                    state.next_waiter
                }
            };
            // To drop a waker may be to drop its task, which takes the lock.
            let before = match state.waiters.iter_mut().find(|(other, _)| *other == number) {
                Some((_, known)) if known.will_wake(waker) => None,
                Some((_, known)) => Some(std::mem::replace(known, waker.clone())),
                None => {
                    state.waiters.push_back((number, waker.clone()));
                    None
                }
            };
            drop(state);
            drop(before);
            if !first && self.is_behind() {
                return Poll::Pending;
            }
            self.watch(waker);
            registered = true;
        }
    }

    /// Looks for records; `None` if it is to be waited for some. What cannot be read is told when nothing else can be
    /// given.
    fn look(&self, state: &mut State, over: bool) -> Option<Result<Got, LogError>> {
        let found = match state.acquire(&self.queue.inner, self.wish) {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        if !found.deliveries.is_empty() || self.wish.count_max == 0 {
            return Some(Ok((found.noted, found.deliveries)));
        }
        // Nobody would get anything any more.
        if let Err(error) = state.journal.check() {
            return Some(Err(error));
        }
        (over || found.hopeless).then(|| found.failed.map_or(Ok((None, Vec::new())), Err))
    }

    /// Gives what it has got when that is noted.
    fn give(&mut self, waker: &Waker) -> Poll<Result<Vec<Delivery>, LogError>> {
        let Some((noted, _)) = &mut self.got else { return Poll::Ready(Ok(Vec::new())) };
        let Poll::Ready(noted) = Pin::new(noted).poll(&mut Context::from_waker(waker)) else {
            return Poll::Pending;
        };
        let deliveries = self.got.take().map(|(_, deliveries)| deliveries).unwrap_or_default();
        let noted = noted.inspect_err(|_| {
            let mut state = self.queue.state();
            state.undo(&deliveries);
            let next = state.first_waiter();
            drop(state);
            wakers::call(next);
        });
        Poll::Ready(noted.map(|_| deliveries))
    }

    /// Whether somebody else is to look first.
    fn is_behind(&self) -> bool {
        let state = self.queue.state();
        state.waiters.front().map(|(first, _)| *first) != self.waiter
    }

    /// Registers for whatever a partition gets.
    fn watch(&mut self, waker: &Waker) {
        let topic = self.queue.state().topic.inner.clone();
        let mut known = self.watches.iter().zip(&topic.partitions);
        // Those of a topic that was made anew are others.
        if !known.all(|(watch, partition)| Arc::ptr_eq(watch.partition(), partition)) {
            self.watches.clear();
        }
        for partition in topic.partitions.iter().skip(self.watches.len()) {
            self.watches.push(Watch::new(partition.clone(), Level::Durable));
        }
        self.watches.iter().for_each(|watch| watch.register(waker));
    }

    /// Waits no longer; the next one looks.
    fn leave(&mut self) {
        self.watches.clear();
        let Some(own) = self.waiter.take() else { return };
        let mut state = self.queue.state();
        let place = state.waiters.iter().position(|(number, _)| *number == own);
        let left = place.and_then(|place| state.waiters.remove(place));
        let next = state.first_waiter();
        drop(state);
        drop(left);
        wakers::call(next);
    }

    /// How the request of a worker ends, once that is known.
    pub(in crate::log) fn poll_outcome(&mut self, waker: &Waker, over: bool) -> Poll<Outcome> {
        self.poll(waker, over).map(|acquired| {
            let deliveries = acquired.map_err(|error| RemoteError::from(&error))?;
            reply(&deliveries).map_err(|error| {
                let text =
                    format!("cannot encode a record of queue {}: {error}", self.queue.name());
                RemoteError::new(RemoteCode::Storage, text)
            })
        })
    }
}

impl Drop for Acquiring {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Deliveries as they travel: each record in a batch of its own, with a CRC.
fn reply(deliveries: &[Delivery]) -> Result<Reply, FormatError> {
    let mut body = Vec::with_capacity(deliveries.len());
    for Delivery { record, .. } in deliveries {
        let options = BatchOptions { base_offset: record.offset, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let headers = record.headers.iter().map(Header::borrowed);
        builder.append(record.timestamp_ms, key, value, headers)?;
        body.push(Bytes::from(builder.finish()?));
    }
    let deliveries = deliveries.iter().map(|delivery| delivery.id.into()).collect();
    Ok(Reply { answer: Acquired { deliveries }.into(), body })
}
