//! Requests that wait: small tasks which the log wakes.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::blocking::Place;
use super::commits::CommitWork;
use crate::log::append::Ticket;
use crate::log::durable::{Acquiring, Chores, Settling};
use crate::log::error::LogError;
use crate::log::format::Id;
use crate::log::format::checkpoint::EpochStart;
use crate::log::groups::{Group, GroupWatch};
use crate::log::options::Level;
use crate::log::partition::Partition;
use crate::log::peer::protocol::{
    Appended, Fetch, Fetched, GroupVersion, NO_EPOCH, OffsetAt, OffsetFound, Outcome, RemoteCode,
    RemoteError, Reply,
};
use crate::log::peer::watch::{Gathered, Watch};
use crate::log::read::{Position, Reader};
use crate::log::topic::Topic;
use crate::sync::{Mutex, lock};

/// Batches in one answer; each is a frame.
pub(super) const BATCHES_MAX: usize = 1024;
/// Bytes read from the medium at a time, at most.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// A request that waits for something.
#[derive(Debug)]
pub(super) enum Work {
    /// For its level.
    Append { ticket: Ticket, first_offset: i64, fingerprint: u64 },
    /// For records.
    Fetch(Box<FetchWork>),
    /// For deliveries.
    Acquire(Box<Acquiring>),
    /// For what becomes of deliveries to be durable.
    Settle(Box<Settling>),
    /// For what has gathered, to tell an offset.
    OffsetAt(Box<OffsetWork>),
    /// For another version of a group.
    AwaitGroup { watch: GroupWatch, version: u64 },
    /// For another thread to find a group, of which another version is waited for then. `over`: the time for that is up.
    FindGroup { place: Place, found: Arc<Mutex<Option<Group>>>, version: u64, over: bool },
    /// For a commit to be durable.
    Commit(Box<CommitWork>),
    /// For the other thread.
    Blocking(Place),
}

impl Work {
    /// Goes on. `over`: the time that the client gave is up, so there is an answer in any case, unless the work cannot
    /// be left half done.
    pub(super) fn poll(&mut self, waker: &Waker, over: bool) -> Poll<Outcome> {
        match self {
            Self::Append { ticket, first_offset, fingerprint } => {
                let (first_offset, fingerprint) = (*first_offset, *fingerprint);
                let polled = Pin::new(ticket).poll(&mut Context::from_waker(waker));
                polled.map(|done| match done {
                    Ok(last_offset) => {
                        Ok(Reply::from(Appended { first_offset, last_offset, fingerprint }))
                    }
                    Err(error) => Err(RemoteError::from(&error)),
                })
            }
            Self::Fetch(work) => work.poll(waker, over),
            Self::OffsetAt(work) => work.poll(waker),
            Self::Acquire(acquiring) => acquiring.poll_outcome(waker, over),
            Self::Settle(settling) => settling.poll_outcome(waker),
            Self::AwaitGroup { watch, version } => {
                let polled = watch.poll_version(*version, waker, over);
                polled.map(|version| Ok(GroupVersion { version }.into()))
            }
            Self::FindGroup { place, found, version, over: was_over } => {
                *was_over |= over;
                let Some(outcome) = place.take() else { return Poll::Pending };
                let (group, version, over) = (lock(found).take(), *version, *was_over);
                let Some(group) = group else { return Poll::Ready(outcome) };
                *self = Self::AwaitGroup { watch: GroupWatch::new(group), version };
                self.poll(waker, over)
            }
            Self::Commit(commit) => commit.poll(waker),
            Self::Blocking(place) => place.take().map_or(Poll::Pending, Poll::Ready),
        }
    }

    /// Whether its answer may be so large that it has to wait for a client that does not read.
    pub(super) fn is_bulky(&self) -> bool {
        match self {
            Self::Fetch(_) => true,
            // What it has taken already nobody else gets.
            Self::Acquire(acquiring) => acquiring.taken_bytes() == 0,
            _ => false,
        }
    }

    /// It is not polled for a while. Nobody else is to wait for it.
    pub(super) fn step_back(&mut self) {
        if let Self::Acquire(acquiring) = self {
            acquiring.step_back();
        }
    }

    /// Bytes of what it has taken for its client and cannot give yet.
    pub(super) fn taken_bytes(&self) -> usize {
        match self {
            Self::Acquire(acquiring) => acquiring.taken_bytes(),
            _ => 0,
        }
    }

    /// What it has found to be done by a thread that may block, beside it.
    pub(super) fn chores(&self) -> Option<Chores> {
        match self {
            Self::Acquire(acquiring) => acquiring.chores(),
            _ => None,
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
    topic_id: Id,
    watch: Watch,
    incarnation: i32,
    bytes_max: usize,
    /// What there is for it, as far as it has looked.
    seen: Seen,
    /// What has to be written first, as it had gathered where the fetch begins.
    gathered: Option<Gathered>,
    /// The time is up.
    over: bool,
}

/// What a fetch has found so far. It is not kept, only counted: many may wait for long.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// No further look before there is something from here on.
    end: i64,
    /// Behind the last batch.
    next_offset: i64,
    batches: usize,
    bytes: usize,
    /// No more goes into one answer.
    is_full: bool,
}

impl Seen {
    /// Nothing yet, from this offset on.
    fn nothing(offset: i64) -> Self {
        Self { end: i64::MIN, next_offset: offset, batches: 0, bytes: 0, is_full: false }
    }
}

impl FetchWork {
    /// For a partition of the topic with this id.
    ///
    /// # Errors
    /// `TopicReplaced` if another topic is meant.
    pub(super) fn new(
        request: Fetch,
        topic_id: Id,
        partition: Arc<Partition>,
        bytes_max: usize,
    ) -> Result<Self, RemoteError> {
        if request.topic_id.is_some_and(|meant| meant != topic_id) {
            let text = format!("topic {} was deleted, and another one has its name", request.topic);
            let mut error = RemoteError::new(RemoteCode::TopicReplaced, text);
            error.topic = Some(request.topic);
            return Err(error);
        }
        let level = if request.durable_only { Level::Durable } else { Level::Written };
        let bytes_max = bytes_max.min(request.bytes_max as usize);
        let incarnation = partition.shared.epoch;
        let seen = Seen::nothing(request.offset);
        let gathered = match request.offset >= partition.written_end() {
            true => Some(refused(Gathered::new(Arc::clone(&partition)))?),
            false => None,
        };
        let watch = Watch::new(partition, level);
        let over = false;
        Ok(Self { request, topic_id, watch, incarnation, bytes_max, seen, gathered, over })
    }

    fn poll(&mut self, waker: &Waker, over: bool) -> Poll<Outcome> {
        self.over |= over;
        if self.gathered.as_ref().is_some_and(|gathered| gathered.poll(waker).is_pending()) {
            return Poll::Pending;
        }
        self.gathered = None;
        let mut registered = false;
        loop {
            if self.is_hopeless() {
                return Poll::Ready(self.last());
            }
            if self.over {
                return Poll::Ready(self.fetch());
            }
            // Asked for first: what comes during the look needs another one.
            let end = self.watch.end();
            if end > self.seen.end {
                match self.look() {
                    Ok(None) => self.seen.end = end,
                    Ok(Some(reply)) => return Poll::Ready(Ok(reply)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if registered {
                return Poll::Pending;
            }
            self.watch.register(waker);
            registered = true;
        }
    }

    /// Whether nothing can come any more. While a log is being closed something can.
    fn is_hopeless(&self) -> bool {
        let partition = self.watch.partition();
        let stopped = partition.shared.poison.get().is_some();
        partition.home.writable && (stopped || partition.retired.load(Ordering::SeqCst))
    }

    /// The answer when nothing can come any more: who wants to wait, and there is nothing, hears why it is in vain.
    fn last(&self) -> Outcome {
        let (body, seen) = self.gather(Seen::nothing(self.request.offset))?;
        let partition = self.watch.partition();
        if seen.batches == 0
            && self.request.wait_ms > 0
            && let Err(error) = partition.check()
        {
            let mut error = RemoteError::from(&error);
            error.topic.get_or_insert_with(|| self.request.topic.clone());
            error.partition.get_or_insert(self.request.partition);
            error.offset.get_or_insert(self.request.offset);
            return Err(error);
        }
        Ok(self.reply(body, seen))
    }

    /// Counts what has come since the last look; the answer, if that is enough.
    fn look(&mut self) -> Result<Option<Reply>, RemoteError> {
        let is_first = self.seen.batches == 0;
        let (body, seen) = self.gather(self.seen)?;
        self.seen = seen;
        if !seen.is_full && seen.bytes < (self.request.bytes_min as usize).min(self.bytes_max) {
            return Ok(None);
        }
        if is_first { Ok(Some(self.reply(body, seen))) } else { self.fetch().map(Some) }
    }

    /// Reads what is there now.
    fn fetch(&self) -> Result<Reply, RemoteError> {
        let (body, seen) = self.gather(Seen::nothing(self.request.offset))?;
        Ok(self.reply(body, seen))
    }

    /// Reads on behind what was seen, as far as it goes into the same answer.
    fn gather(&self, mut seen: Seen) -> Result<(Vec<Bytes>, Seen), RemoteError> {
        let (request, partition) = (&self.request, self.watch.partition());
        self.check_epoch(partition)?;
        let reader = Reader::at(partition.clone(), seen.next_offset);
        let reader = reader.map_err(|error| RemoteError::from(&error))?;
        let mut reader = reader.chunk_bytes(self.bytes_max.clamp(1, CHUNK_BYTES_MAX));
        if request.durable_only {
            reader = reader.durable_only();
        }
        let mut body: Vec<Bytes> = Vec::new();
        loop {
            let goes_on = seen.batches < BATCHES_MAX && seen.bytes < self.bytes_max;
            if seen.batches > 0 && !goes_on {
                seen.is_full = true;
                break;
            }
            let batch = match reader.next_batch() {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                // What was read before it is sound; the next fetch meets the error again.
                Err(_) if seen.batches > 0 => {
                    seen.is_full = true;
                    break;
                }
                Err(error) => return Err(RemoteError::from(&error)),
            };
            let bytes = batch.batch().bytes().len();
            if seen.batches > 0 && seen.bytes + bytes > self.bytes_max {
                seen.is_full = true;
                break;
            }
            seen.batches += 1;
            seen.bytes += bytes;
            seen.next_offset = batch.next_offset();
            body.push(batch.batch().bytes().clone());
        }
        Ok((body, seen))
    }

    fn reply(&self, body: Vec<Bytes>, seen: Seen) -> Reply {
        let partition = self.watch.partition();
        let answer = Fetched {
            earliest: partition.log_start(),
            end: partition.written_end(),
            durable_end: partition.durable_end(),
            incarnation: self.incarnation,
            next_offset: seen.next_offset,
            last_epoch: last_epoch(partition),
            topic_id: self.topic_id,
        };
        Reply { answer: answer.into(), body }
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

/// The question where a position is, but for what a group has committed.
#[derive(Debug)]
pub(super) struct OffsetWork {
    position: Position,
    topic_id: Id,
    partition: Arc<Partition>,
    /// `None` if the answer does not depend on it.
    gathered: Option<Gathered>,
}

impl OffsetWork {
    /// # Errors
    /// `UnknownPartition`; failures to look what another process has written.
    pub(super) fn new(at: OffsetAt, topic: &Topic) -> Result<Self, LogError> {
        let partition = topic.inner.partition(at.partition)?.clone();
        let position = Position::from(at.position);
        let within = match position {
            Position::Earliest => true,
            Position::Offset(offset) => offset < partition.written_end(),
            _ => false,
        };
        let gathered = (!within).then(|| Gathered::new(Arc::clone(&partition))).transpose()?;
        Ok(Self { position, topic_id: topic.inner.id, partition, gathered })
    }

    fn poll(&self, waker: &Waker) -> Poll<Outcome> {
        if self.gathered.as_ref().is_some_and(|gathered| gathered.poll(waker).is_pending()) {
            return Poll::Pending;
        }
        let (position, partition) = (self.position.clone(), &self.partition);
        let offset = refused(partition.offset_within(position, partition.written_end()));
        let last_epoch = last_epoch(partition);
        let found =
            |offset| OffsetFound { offset, committed: false, last_epoch, topic_id: self.topic_id };
        Poll::Ready(offset.map(|offset| found(offset).into()))
    }
}

/// The newest writer of a partition, which need not have written anything yet.
pub(super) fn last_epoch(partition: &Partition) -> i32 {
    if partition.shared.epoch >= 0 {
        return partition.shared.epoch;
    }
    // Open for reading only.
    lock(&partition.writer).epochs.last().map_or(NO_EPOCH, |entry| entry.epoch)
}

/// The offset after the last record of this or an earlier writer.
fn epoch_end(partition: &Partition, epoch: i32) -> i64 {
    // There is no later writer than the one of this opening.
    if partition.shared.epoch >= 0 && epoch >= partition.shared.epoch {
        return partition.written_end();
    }
    // Who writes may have the lock for as long as a sync takes; where the earlier ones ended does not change.
    if let Some((starts, end)) = &partition.earlier {
        return end_of(starts, epoch).unwrap_or(*end);
    }
    let writer = lock(&partition.writer);
    end_of(&writer.epochs, epoch).unwrap_or_else(|| partition.written_end())
}

/// Where the writer after this one begins.
fn end_of(starts: &[EpochStart], epoch: i32) -> Option<i64> {
    starts.iter().find(|start| start.epoch > epoch).map(|next| next.start_offset)
}

/// The error of a log, as it travels.
pub(super) fn refused<T>(result: Result<T, LogError>) -> Result<T, RemoteError> {
    result.map_err(|error| RemoteError::from(&error))
}

/// A number that is another one when what a client keeps of a topic to append to it is not true any more.
pub(super) fn fingerprint(topic: &Topic) -> u64 {
    let (inner, options) = (&topic.inner, topic.options());
    let mut hasher = DefaultHasher::new();
    (inner.id, inner.partitions.len(), options.level, options.codec).hash(&mut hasher);
    (options.record_bytes_max, options.compact).hash(&mut hasher);
    hasher.finish()
}
