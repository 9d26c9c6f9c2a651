//! Requests that wait: small tasks which the log wakes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::blocking::Place;
use crate::log::append::Ticket;
use crate::log::durable::{Acquiring, Settling};
use crate::log::error::LogError;
use crate::log::groups::GroupWatch;
use crate::log::options::Level;
use crate::log::partition::Partition;
use crate::log::peer::protocol::{
    Appended, Fetch, Fetched, GroupVersion, NO_EPOCH, Outcome, RemoteCode, RemoteError, Reply,
};
use crate::log::peer::watch::Watch;
use crate::log::read::{Position, Reader};
use crate::sync::lock;

/// Batches in one answer; each is a frame.
pub(super) const BATCHES_MAX: usize = 1024;
/// Bytes read from the medium at a time, at most.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// A request that waits for something.
#[derive(Debug)]
pub(super) enum Work {
    /// For its level.
    Append { ticket: Ticket, first_offset: i64 },
    /// For records.
    Fetch(FetchWork),
    /// For deliveries.
    Acquire(Acquiring),
    /// For what becomes of deliveries to be durable.
    Settle(Settling),
    /// For another version of a group.
    AwaitGroup { watch: GroupWatch, version: u64 },
    /// For the other thread.
    Blocking(Place),
}

impl Work {
    /// Goes on. `over`: the time that the client gave is up, so there is an answer in any case, unless the work cannot
    /// be left half done.
    pub(super) fn poll(&mut self, waker: &Waker, over: bool) -> Poll<Outcome> {
        match self {
            Self::Append { ticket, first_offset } => {
                let first_offset = *first_offset;
                let polled = Pin::new(ticket).poll(&mut Context::from_waker(waker));
                polled.map(|done| match done {
                    Ok(last_offset) => Ok(Reply::from(Appended { first_offset, last_offset })),
                    Err(error) => Err(RemoteError::from(&error)),
                })
            }
            Self::Fetch(work) => work.poll(waker, over),
            Self::Acquire(acquiring) => acquiring.poll_outcome(waker, over),
            Self::Settle(settling) => settling.poll_outcome(waker),
            Self::AwaitGroup { watch, version } => {
                let polled = watch.poll_version(*version, waker, over);
                polled.map(|version| Ok(GroupVersion { version }.into()))
            }
            Self::Blocking(place) => place.take().map_or(Poll::Pending, Poll::Ready),
        }
    }

    /// When it wants to be polled though nothing wakes it.
    pub(super) fn look_again_at(&self) -> Option<Instant> {
        match self {
            Self::Acquire(acquiring) => acquiring.look_again_at(),
            _ => None,
        }
    }
}

/// A fetch that may wait for records.
#[derive(Debug)]
pub(super) struct FetchWork {
    request: Fetch,
    watch: Watch,
    incarnation: i32,
    bytes_max: usize,
    /// No look before there is something from here on.
    look_at: i64,
}

impl FetchWork {
    pub(super) fn new(request: Fetch, partition: Arc<Partition>, bytes_max: usize) -> Self {
        let level = if request.durable_only { Level::Durable } else { Level::Written };
        let bytes_max = bytes_max.min(request.bytes_max as usize);
        let incarnation = partition.shared.epoch;
        let look_at = i64::MIN;
        Self { request, watch: Watch::new(partition, level), incarnation, bytes_max, look_at }
    }

    fn poll(&mut self, waker: &Waker, over: bool) -> Poll<Outcome> {
        let mut registered = false;
        loop {
            if over || self.watch.end() > self.look_at || self.is_hopeless() {
                match self.fetch() {
                    Ok((reply, bytes)) => {
                        let enough = bytes >= (self.request.bytes_min as usize).min(self.bytes_max);
                        if over || enough || self.is_hopeless() {
                            return Poll::Ready(Ok(reply));
                        }
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
                self.look_at = self.watch.end();
            }
            if registered {
                return Poll::Pending;
            }
            self.watch.register(waker);
            registered = true;
        }
    }

    /// Whether nothing can come any more.
    fn is_hopeless(&self) -> bool {
        let partition = self.watch.partition();
        partition.home.writable && partition.check().is_err()
    }

    /// Reads what is there now; also says how many bytes of batches that is.
    fn fetch(&self) -> Result<(Reply, usize), RemoteError> {
        let (request, partition) = (&self.request, self.watch.partition());
        self.check_epoch(partition)?;
        let position = Position::Offset(request.offset);
        let reader = Reader::new(partition.clone(), position);
        let reader = reader.map_err(|error| RemoteError::from(&error))?;
        let mut reader = reader.chunk_bytes(self.bytes_max.clamp(1, CHUNK_BYTES_MAX));
        if request.durable_only {
            reader = reader.durable_only();
        }
        let mut body: Vec<Bytes> = Vec::new();
        let (mut bytes, mut next_offset) = (0, request.offset);
        while body.len() < BATCHES_MAX && (body.is_empty() || bytes < self.bytes_max) {
            let batch = match reader.next_batch() {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                // What was read before it is sound; the next fetch meets the error again.
                Err(_) if !body.is_empty() => break,
                Err(error) => return Err(RemoteError::from(&error)),
            };
            let batch_bytes = batch.batch().bytes().len();
            if !body.is_empty() && bytes + batch_bytes > self.bytes_max {
                break;
            }
            bytes += batch_bytes;
            next_offset = batch.next_offset();
            body.push(batch.batch().bytes().clone());
        }
        let answer = Fetched {
            earliest: partition.log_start(),
            end: partition.written_end(),
            durable_end: partition.durable_end(),
            incarnation: self.incarnation,
            next_offset,
        };
        Ok((Reply { answer: answer.into(), body }, bytes))
    }

    /// Refuses a reader whose last record is not in this log any more.
    fn check_epoch(&self, partition: &Partition) -> Result<(), RemoteError> {
        if self.request.last_epoch == NO_EPOCH {
            return Ok(());
        }
        let end = epoch_end(partition, self.request.last_epoch);
        if end >= self.request.offset {
            return Ok(());
        }
        let text = format!(
            "records {end} to {} of {}, the last one excluded, are gone since they were read",
            self.request.offset,
            partition.home.place()
        );
        let mut error = RemoteError::new(RemoteCode::Diverged, text);
        error.topic = Some(self.request.topic.clone());
        error.partition = Some(self.request.partition);
        error.offset = Some(end);
        (error.earliest, error.end) = (Some(partition.log_start()), Some(partition.written_end()));
        Err(error)
    }
}

/// The offset after the last record of this or an earlier writer.
fn epoch_end(partition: &Partition, epoch: i32) -> i64 {
    let writer = lock(&partition.writer);
    let next = writer.epochs.iter().find(|entry| entry.epoch > epoch);
    next.map_or(partition.written_end(), |next| next.start_offset)
}

/// The error of a log, as it travels.
pub(super) fn refused<T>(result: Result<T, LogError>) -> Result<T, RemoteError> {
    result.map_err(|error| RemoteError::from(&error))
}
