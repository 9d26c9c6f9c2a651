//! Reading a partition in another process, with the next request under way while the last answer is dealt with.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::Asked;
use super::link::{Answered, Pending};
use super::records::records_of;
use super::{Core, LogClient, PeerError, Subject};
use crate::log::format::{BatchHeader, Id};
use crate::log::peer::protocol::{Answer, Fetch, Fetched, NO_EPOCH, OffsetFound};
use crate::log::read::LogRecord;
use crate::transport::now;

/// How long the server holds a request for records at the end.
const POLL: Duration = Duration::from_secs(5);

/// The answer to a fetch.
#[derive(Debug)]
pub(in crate::log) struct Chunk {
    pub(in crate::log) ends: Fetched,
    pub(in crate::log) batches: VecDeque<Bytes>,
    partition: u32,
    asked: Arc<Asked>,
}

impl Chunk {
    pub(super) fn new(core: &Core, partition: u32, reply: Answered) -> Result<Self, PeerError> {
        let (batches, asked) = (reply.body.into(), reply.asked);
        let ends = match reply.answer {
            Answer::Fetched(ends) => ends,
            other => return Err(core.bad_answer(&asked, format!("it is {}", other.name()))),
        };
        Ok(Self { ends, batches, partition, asked })
    }

    /// The next batch's header and records, from an offset on.
    pub(in crate::log) fn next(
        &mut self,
        client: &LogClient,
        from: i64,
    ) -> Result<Option<(BatchHeader, Vec<LogRecord>)>, PeerError> {
        let Some(bytes) = self.batches.pop_front() else { return Ok(None) };
        let records = records_of(&bytes, self.partition, from);
        records.map(Some).map_err(|error| {
            let damaged = client.core().bad_answer(&self.asked, error);
            damaged.about(|| self.asked.subject.clone().at(from))
        })
    }
}

/// A fetch that is under way. Dropped, it is given up.
#[derive(Debug)]
pub(in crate::log) struct Fetching {
    client: LogClient,
    partition: u32,
    pending: Pending,
    /// Whoever waits then is told that the server does not answer.
    ends_at: Option<Instant>,
}

impl Fetching {
    /// Puts a fetch under way, at once.
    pub(in crate::log) fn begin(client: &LogClient, fetch: Fetch) -> Result<Self, PeerError> {
        let (core, partition) = (client.core(), fetch.partition);
        let ends_at = core.deadline(Duration::from_millis(fetch.wait_ms.into()));
        let pending = core.begin_task(&fetch.into(), Vec::new())?;
        Ok(Self { client: client.clone(), partition, pending, ends_at })
    }

    pub(in crate::log) fn partition(&self) -> u32 {
        self.partition
    }

    /// Whether there is an answer, or none can be expected any more, after waiting for that until `deadline`.
    pub(in crate::log) fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let until = match (deadline, self.ends_at) {
            (Some(deadline), Some(ends_at)) => Some(deadline.min(ends_at)),
            (deadline, ends_at) => deadline.or(ends_at),
        };
        self.pending.wait_until(until) || self.ends_at.is_some_and(|at| at <= now())
    }

    /// The answer.
    pub(in crate::log) fn answer(self) -> Result<Chunk, PeerError> {
        let core = self.client.core();
        let reply = self.pending.wait(Some(now()))?;
        Chunk::new(core, self.partition, reply)
    }
}

impl LogClient {
    /// Which topic has a name now, and its number of partitions.
    pub(in crate::log) fn topic_now(&self, topic: &str) -> Result<(Id, u32), PeerError> {
        let described = self.describe(topic)?;
        let id = described.id.parse();
        let asked = || Asked::new("DescribeTopic", Subject::topic(topic));
        let id = id.map_err(|error| self.core().bad_answer(&asked(), error))?;
        Ok((id, u32::try_from(described.partitions.len()).unwrap_or(u32::MAX)))
    }
}

/// Reads a partition in another process. As an iterator it ends at the end for now, and after an error, and goes on, or
/// fails again, when it is asked later; after [`follow`](Self::follow) it waits at the end instead. After an error it stays
/// where it is. Who waits is refused with `Closed` or `Poisoned` when the log was closed or failed and everything is read.
#[derive(Debug)]
pub struct RemoteReader {
    client: LogClient,
    topic: String,
    partition: u32,
    /// The offset of the next record.
    next_offset: i64,
    /// Where the next request begins.
    fetch_offset: i64,
    /// A writer in whose log everything before `next_offset` was.
    last_epoch: i32,
    /// The topic, once an answer has said which one it is.
    topic_id: Option<Id>,
    durable_only: bool,
    follow: bool,
    records: VecDeque<LogRecord>,
    chunk: Option<Chunk>,
    /// The request that is under way, and how long the server may hold it.
    pending: Option<(Pending, Duration)>,
    /// The log's ends, as the last answer said.
    ends: Option<Fetched>,
    /// Most bytes asked for at a time.
    bytes_max: u32,
    /// It is polled by a task, which must not block.
    task: bool,
    /// The last that the iterator, or the stream, gave was an error: there it ends.
    pub(in crate::log) failed: bool,
}

impl RemoteReader {
    pub(super) fn new(client: LogClient, topic: &str, partition: u32, offset: i64) -> Self {
        let bytes_max = client.fetch_bytes();
        Self {
            client,
            topic: topic.to_owned(),
            partition,
            next_offset: offset,
            fetch_offset: offset,
            last_epoch: NO_EPOCH,
            topic_id: None,
            durable_only: false,
            follow: false,
            records: VecDeque::new(),
            chunk: None,
            pending: None,
            ends: None,
            bytes_max,
            task: false,
            failed: false,
        }
    }

    /// Begins where the server has found that a position is.
    pub(super) fn found(mut self, found: &OffsetFound) -> Self {
        (self.last_epoch, self.topic_id) = (found.last_epoch, Some(found.topic_id));
        self
    }

    /// Asks for at most so many bytes at a time.
    pub(super) fn bytes_max(mut self, bytes: u32) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Reads only what survives a power cut.
    #[must_use]
    pub fn durable_only(mut self) -> Self {
        self.durable_only = true;
        self
    }

    /// Waits at the end for more.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// The offset of the next record: what to commit when all records so far are dealt with.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The offset after the last record that was written when the server answered last; `None` before it did.
    pub fn end(&self) -> Option<i64> {
        self.ends.as_ref().map(|ends| ends.end)
    }

    /// The next record, after waiting for it at most this long; `None` if there was none until then.
    ///
    /// # Errors
    /// `Timeout` or `NotSent` only if the timeout is zero and the server does not answer; `Refused` with `OffsetOutOfRange` if the front was cut,
    /// `Diverged` if records before the next one are gone since the reader began; `TopicReplaced` if another topic has the
    /// name; any other [`PeerError`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<LogRecord>, PeerError> {
        let deadline = now().checked_add(timeout);
        loop {
            if let Some(record) = self.take()? {
                return Ok(Some(record));
            }
            let left = deadline.map_or(POLL, |end| end.saturating_duration_since(now()));
            // At the end for sure: only an answer says so.
            let asked_at_end = self.ends.is_some() && left.is_zero();
            if asked_at_end && self.pending.is_none() {
                return Ok(None);
            }
            self.ask(left.min(POLL))?;
            // The answer comes after the time that it waits for; the next call has it then. Who has no time at all asks whether
            // there is something, and waits for the answer to that.
            let patient = match &self.pending {
                Some((pending, _)) if !timeout.is_zero() => pending.wait_until(deadline),
                _ => true,
            };
            if !patient {
                return Ok(None);
            }
            self.answer()?;
        }
    }

    /// The next record, for a task: registers it for when there is one, however long that takes.
    ///
    /// # Errors
    /// As [`next_timeout`](Self::next_timeout), without `Timeout`.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<LogRecord, PeerError>> {
        self.task = true;
        loop {
            if let Some(record) = self.take()? {
                return Poll::Ready(Ok(record));
            }
            self.ask(POLL)?;
            let Some((pending, _)) = &self.pending else { continue };
            match pending.poll(context.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(reply) => {
                    self.pending = None;
                    self.take_in(reply?)?;
                }
            }
        }
    }

    /// The next record, for a task. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`poll_next`](Self::poll_next).
    pub async fn next_async(&mut self) -> Result<LogRecord, PeerError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next record, or `None` at the end for now.
    fn next_record(&mut self) -> Result<Option<LogRecord>, PeerError> {
        loop {
            if let Some(record) = self.take()? {
                return Ok(Some(record));
            }
            self.ask(if self.follow { POLL } else { Duration::ZERO })?;
            self.answer()?;
            let empty = self.chunk.as_ref().is_none_or(|chunk| chunk.batches.is_empty());
            if empty && !self.follow && self.pending.is_none() {
                return Ok(None);
            }
        }
    }

    /// A record that is there already.
    fn take(&mut self) -> Result<Option<LogRecord>, PeerError> {
        loop {
            if let Some(record) = self.records.pop_front() {
                self.next_offset = record.offset + 1;
                return Ok(Some(record));
            }
            let Some(chunk) = &mut self.chunk else { return Ok(None) };
            match chunk.next(&self.client, self.next_offset) {
                Ok(Some((header, records))) => {
                    self.last_epoch = self.last_epoch.max(header.leader_epoch);
                    self.records = records.into();
                    if self.records.is_empty() {
                        self.next_offset = self.next_offset.max(header.last_offset() + 1);
                    }
                }
                Ok(None) => {
                    self.last_epoch = self.last_epoch.max(chunk.ends.last_epoch);
                    self.chunk = None;
                }
                Err(error) => {
                    // Asked for again, it may come whole.
                    (self.chunk, self.pending) = (None, None);
                    self.fetch_offset = self.next_offset;
                    return Err(error);
                }
            }
        }
    }

    /// Puts the next request under way, unless one is.
    fn ask(&mut self, wait: Duration) -> Result<(), PeerError> {
        if self.pending.is_some() {
            return Ok(());
        }
        // Of a chunk that is not dealt with yet, what follows is asked for.
        let epoch = self.chunk.as_ref().map_or(NO_EPOCH, |chunk| chunk.ends.last_epoch);
        let fetch = Fetch {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.fetch_offset,
            last_epoch: self.last_epoch.max(epoch),
            bytes_max: self.bytes_max,
            bytes_min: 1,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            durable_only: self.durable_only,
            topic_id: self.topic_id,
        };
        let core = self.client.core();
        let pending = match self.task {
            true => core.begin_task(&fetch.into(), Vec::new())?,
            false => core.begin(fetch.into(), Vec::new(), core.deadline(Duration::ZERO))?,
        };
        self.pending = Some((pending, wait));
        Ok(())
    }

    /// Waits for the answer to the request that is under way.
    fn answer(&mut self) -> Result<(), PeerError> {
        let Some((pending, wait)) = self.pending.take() else { return Ok(()) };
        let core = self.client.core();
        let reply = pending.wait(core.deadline(wait))?;
        self.take_in(reply)
    }

    /// Takes an answer in, and asks for what follows.
    fn take_in(&mut self, reply: Answered) -> Result<(), PeerError> {
        let chunk = Chunk::new(self.client.core(), self.partition, reply)?;
        self.fetch_offset = self.fetch_offset.max(chunk.ends.next_offset);
        let more = !chunk.batches.is_empty() && self.fetch_offset < chunk.ends.end;
        self.topic_id = Some(chunk.ends.topic_id);
        self.ends = Some(chunk.ends.clone());
        self.chunk = Some(chunk);
        if more { self.ask(Duration::ZERO) } else { Ok(()) }
    }
}

impl Iterator for RemoteReader {
    type Item = Result<LogRecord, PeerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if mem::take(&mut self.failed) {
            return None;
        }
        let next = self.next_record();
        self.failed = next.is_err();
        next.transpose()
    }
}
