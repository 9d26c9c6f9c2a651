//! Appending: records gather into a batch for each partition while the one before is under way.
//!
//! Of each partition one batch is in flight, numbered by producer, epoch and sequence. Sent again it is the same batch,
//! and the server knows it. Its number is used up only when the server has it; after a refusal a new epoch begins, so
//! that nobody has to know whether a batch that failed is there after all.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::records::unencodable;
use super::{Core, PeerError, RemoteTopic};
use crate::log::append::NewRecord;
use crate::log::format::batch::set_producer;
use crate::log::format::murmur2::partition_for_key;
use crate::log::format::{self, BatchBuilder, BatchOptions, Codec};
use crate::log::options::Level;
use crate::log::peer::protocol::{
    Answer, Append, DescribeTopic, Outcome, RemoteCode, Reply, TopicName,
};
use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// A partition, by topic and number.
pub(super) type LaneKey = (Arc<str>, u32);

/// What a client knows of the topics it appends to.
#[derive(Debug, Default)]
pub(super) struct Producer {
    lanes: Mutex<Lanes>,
    /// Rung when a batch is done: there is room for more.
    room: Condvar,
    topics: Mutex<HashMap<String, Arc<Target>>>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// The id under which all partitions are appended to, once the server gave one.
    producer: Option<i64>,
    lanes: HashMap<LaneKey, Lane>,
    in_flight: usize,
    /// Partitions with batches that could not be sent because too many others are in flight.
    waiting: VecDeque<LaneKey>,
    closed: bool,
}

/// A topic to append to.
#[derive(Debug)]
struct Target {
    topic: Arc<str>,
    partitions: u32,
    level: Level,
    codec: Codec,
    batch_bytes: usize,
    compact: bool,
    /// Bytes of records without key: they go to one partition until a batch's worth has gone there.
    unkeyed_bytes: AtomicU64,
}

/// The batches of one partition.
#[derive(Debug)]
struct Lane {
    producer: i64,
    epoch: i16,
    sequence: i32,
    open: Option<Open>,
    closed: VecDeque<Batch>,
    /// Bytes in `closed`.
    closed_bytes: usize,
    in_flight: Option<Batch>,
    /// Whether the batch in flight has been numbered anew already.
    renumbered: bool,
}

#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    level: Level,
    fate: Arc<Fate>,
}

/// A batch that is complete, but for its number.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    records: i32,
    level: Level,
    fate: Arc<Fate>,
}

/// What becomes of the records of a batch: the first offset, or an error.
#[derive(Debug, Default)]
struct Fate {
    state: Mutex<FateState>,
    set: Condvar,
}

#[derive(Debug, Default)]
struct FateState {
    outcome: Option<Result<i64, PeerError>>,
    wakers: Vec<Waker>,
}

impl Fate {
    fn set(&self, outcome: Result<i64, PeerError>) {
        let mut state = lock(&self.state);
        state.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.set.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Tells when an append to a log in another process is done. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "an append is only known to be done when its ticket was waited for"]
pub struct AppendTicket {
    core: Arc<Core>,
    fate: Arc<Fate>,
    partition: u32,
    /// Offsets after the first one of the batch.
    delta: i64,
}

impl AppendTicket {
    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Whether waiting would not block.
    pub fn is_done(&self) -> bool {
        lock(&self.fate.state).outcome.is_some()
    }

    /// Waits until the append has its level, at most for the client's timeout; returns the offset.
    ///
    /// # Errors
    /// `Timeout`: the append is still pursued, and its ticket lost; use [`wait_timeout`](Self::wait_timeout) to go on
    /// waiting. `Refused`. After `Refused` with `Poisoned` or `Storage`, whether the record is there will be seen when
    /// the log is opened anew.
    pub fn wait(self) -> Result<i64, PeerError> {
        match self.wait_until(self.core.deadline(Duration::ZERO))? {
            Some(offset) => Ok(offset),
            None => Err(self.core.timed_out("Append")),
        }
    }

    /// Waits, but no longer than this: `None` then, and the ticket can be waited for again.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), without `Timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<i64>, PeerError> {
        self.wait_until(now().checked_add(timeout))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<i64>, PeerError> {
        let mut state = lock(&self.fate.state);
        loop {
            if let Some(outcome) = &state.outcome {
                return outcome.clone().map(|first| Some(first + self.delta));
            }
            state = match deadline.map(|end| end.saturating_duration_since(now())) {
                Some(left) if left.is_zero() => return Ok(None),
                Some(left) => {
                    let waited = self.fate.set.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.fate.set.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Future for AppendTicket {
    type Output = Result<i64, PeerError>;

    /// Has no deadline of its own.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.fate.state);
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone().map(|first| first + self.delta));
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Producer {
    /// Asks the server again when the topic is appended to next.
    pub(super) fn forget_topic(&self, topic: &str) {
        lock(&self.topics).remove(topic);
    }
}

/// Encodes a record into the batch that gathers for its partition.
pub(super) fn append(
    core: &Arc<Core>,
    topic: &str,
    partition: Option<u32>,
    level: Option<Level>,
    record: &NewRecord<'_>,
) -> Result<AppendTicket, PeerError> {
    let deadline = core.deadline(Duration::ZERO);
    let target = core.target(topic, deadline)?;
    let partition = match partition {
        Some(partition) => partition,
        None => target.choose(record),
    };
    let level = level.or(core.options.level).unwrap_or(target.level);
    let key: LaneKey = (Arc::clone(&target.topic), partition);
    let mut lanes = lock(&core.producer.lanes);
    loop {
        if lanes.closed {
            return Err(core.closed());
        }
        let Some(producer) = lanes.producer else {
            drop(lanes);
            let producer = core.new_producer(deadline)?;
            lanes = lock(&core.producer.lanes);
            lanes.producer.get_or_insert(producer);
            continue;
        };
        let lane = lanes.lanes.entry(key.clone()).or_insert_with(|| Lane::new(producer));
        if lane.closed_bytes < core.options.buffer_bytes {
            let (fate, delta) = lane.push(&target, level, record);
            let ticket = AppendTicket { core: Arc::clone(core), fate, partition, delta };
            lanes.send_next(core, &key);
            return Ok(ticket);
        }
        lanes = match deadline.map(|end| end.saturating_duration_since(now())) {
            Some(left) if left.is_zero() => return Err(core.timed_out("Append")),
            Some(left) => {
                let waited = core.producer.room.wait_timeout(lanes, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => core.producer.room.wait(lanes).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

impl Target {
    fn new(topic: &RemoteTopic, batch_bytes: usize) -> Self {
        let options = &topic.options;
        // A batch of several records must not exceed what the topic allows for one.
        let limit = options.record_bytes_max as usize;
        let available = options.codec.is_available();
        Self {
            topic: topic.name.as_str().into(),
            partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX).max(1),
            level: options.level,
            codec: if available { options.codec } else { Codec::None },
            batch_bytes: batch_bytes.min(limit),
            compact: options.compact,
            unkeyed_bytes: AtomicU64::new(0),
        }
    }

    fn choose(&self, record: &NewRecord<'_>) -> u32 {
        match (record.key, NonZeroU32::new(self.partitions)) {
            (Some(key), Some(count)) => partition_for_key(key, count),
            _ => {
                let bytes = record.bytes() as u64;
                let gone = self.unkeyed_bytes.fetch_add(bytes, Ordering::Relaxed);
                let batch = gone / (self.batch_bytes.max(1) as u64);
                (batch % u64::from(self.partitions)) as u32
            }
        }
    }
}

impl Lane {
    fn new(producer: i64) -> Self {
        Self {
            producer,
            epoch: 0,
            sequence: 0,
            open: None,
            closed: VecDeque::new(),
            closed_bytes: 0,
            in_flight: None,
            renumbered: false,
        }
    }

    /// Encodes a record; returns its fate and its place in the batch.
    fn push(&mut self, target: &Target, level: Level, record: &NewRecord<'_>) -> (Arc<Fate>, i64) {
        let timestamp = record.timestamp_ms.unwrap_or_else(|| {
            use crate::log::clock::{Clock, SystemClock};
            SystemClock.now_ms()
        });
        let headers = || record.headers.iter().copied();
        let fits = |open: &Open| {
            let more = open.builder.bytes_of(timestamp, record.key, record.value, headers());
            open.builder.bytes().saturating_add(more) <= target.batch_bytes
        };
        // The server will refuse it, and should nothing else with it.
        let alone = target.compact && record.key.is_none();
        if alone || self.open.as_ref().is_some_and(|open| !fits(open)) {
            self.close_open();
        }
        let open = self.open.get_or_insert_with(|| {
            let options = BatchOptions { codec: target.codec, ..BatchOptions::default() };
            Open { builder: BatchBuilder::new(options), level, fate: Arc::default() }
        });
        open.level = open.level.max(level);
        let fate = Arc::clone(&open.fate);
        let appended = open.builder.append(timestamp, record.key, record.value, headers());
        if alone {
            self.close_open();
        }
        appended.map_or_else(
            |error| {
                let fate = Arc::new(Fate::default());
                fate.set(Err(unencodable(&target.topic, &error)));
                (fate, 0)
            },
            |delta| (fate, delta),
        )
    }

    fn close_open(&mut self) {
        let Some(open) = self.open.take().filter(|open| !open.builder.is_empty()) else { return };
        let records = i32::try_from(open.builder.records_count()).unwrap_or(i32::MAX);
        match open.builder.finish() {
            Ok(bytes) => {
                self.closed_bytes += bytes.len();
                let (level, fate) = (open.level, open.fate);
                self.closed.push_back(Batch { bytes, records, level, fate });
            }
            Err(error) => open.fate.set(Err(unencodable("", &error))),
        }
    }

    /// The next batch to send, numbered.
    fn next(&mut self) -> Option<()> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.closed.is_empty() {
            self.close_open();
        }
        let batch = self.closed.pop_front()?;
        self.closed_bytes -= batch.bytes.len();
        self.in_flight = Some(batch);
        self.renumbered = false;
        Some(())
    }

    /// Numbers the batch in flight; the request that appends it.
    fn stamp(&mut self, key: &LaneKey) -> Result<Option<(Append, Bytes)>, format::FormatError> {
        let Some(batch) = &mut self.in_flight else { return Ok(None) };
        let (id, epoch, base_sequence) = (self.producer, self.epoch, self.sequence);
        set_producer(&mut batch.bytes, format::Producer { id, epoch, base_sequence })?;
        let request = Append { topic: key.0.to_string(), partition: key.1, level: batch.level };
        Ok(Some((request, Bytes::copy_from_slice(&batch.bytes))))
    }

    /// Begins a new epoch; false when there is none left.
    fn new_epoch(&mut self) -> bool {
        self.sequence = 0;
        match self.epoch.checked_add(1) {
            Some(epoch) => {
                self.epoch = epoch;
                true
            }
            None => false,
        }
    }

    fn fail_all(mut self, error: &PeerError) {
        self.close_open();
        for batch in self.in_flight.into_iter().chain(self.closed) {
            batch.fate.set(Err(error.clone()));
        }
    }
}

impl Lanes {
    /// Sends the next batch of a partition, if none is in flight.
    fn send_next(&mut self, core: &Core, key: &LaneKey) {
        let busy = self.in_flight >= super::link::APPENDS_MAX;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.in_flight.is_some() || (lane.closed.is_empty() && lane.open.is_none()) {
            return;
        }
        if busy {
            if !self.waiting.contains(key) {
                self.waiting.push_back(key.clone());
            }
            return;
        }
        if lane.next().is_some() {
            self.in_flight += 1;
            self.send(core, key);
        }
    }

    /// Sends the batch in flight of a partition.
    fn send(&mut self, core: &Core, key: &LaneKey) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        match lane.stamp(key) {
            Ok(Some((request, batch))) => {
                // If the client is closed all fates are settled there.
                core.submit_append(&request.into(), batch, key.clone());
            }
            Ok(None) => {}
            Err(error) => {
                if let Some(batch) = lane.in_flight.take() {
                    batch.fate.set(Err(unencodable(&key.0, &error)));
                    self.in_flight = self.in_flight.saturating_sub(1);
                }
            }
        }
    }
}

impl Core {
    /// What is known of a topic; asked for the first time.
    fn target(&self, topic: &str, deadline: Option<Instant>) -> Result<Arc<Target>, PeerError> {
        if let Some(target) = lock(&self.producer.topics).get(topic) {
            return Ok(Arc::clone(target));
        }
        let request = DescribeTopic(TopicName { topic: topic.to_owned() });
        let reply = self.begin(request.into(), Vec::new(), deadline)?.wait(self, deadline)?;
        let state = super::answer_of!(self, "DescribeTopic", reply, TopicState)?;
        let target = Arc::new(Target::new(&RemoteTopic::from(state), self.options.batch_bytes));
        let mut topics = lock(&self.producer.topics);
        Ok(Arc::clone(topics.entry(topic.to_owned()).or_insert(target)))
    }

    /// The server answered the append of a partition.
    pub(super) fn append_done(&self, key: &LaneKey, outcome: Result<Outcome, PeerError>) {
        use RemoteCode::{KeyMissing, UnknownPartition, UnknownTopic};
        let mut lanes = lock(&self.producer.lanes);
        let Some(lane) = lanes.lanes.get_mut(key) else { return };
        let mut exhausted = None;
        let result = match outcome {
            Ok(Ok(Reply { answer: Answer::Appended(appended), .. })) => Ok(appended.first_offset),
            Ok(Ok(Reply { answer, .. })) => {
                Err(self.bad_answer("Append", format!("it is {}", answer.name())))
            }
            Ok(Err(error)) => {
                let lost = error.code == RemoteCode::OutOfSequence && !lane.renumbered;
                if lost && lane.new_epoch() {
                    // The server lost earlier batches of a level that allows that; this one is not there.
                    lane.renumbered = true;
                    return lanes.send(self, key);
                }
                // It is not the topic any more that is known here.
                let changed = [UnknownTopic, UnknownPartition, KeyMissing].contains(&error.code);
                if changed {
                    self.producer.forget_topic(&key.0);
                }
                Err(self.refused("Append", error))
            }
            Err(error) => Err(error),
        };
        if let Some(batch) = lane.in_flight.take() {
            match &result {
                Ok(_) => lane.sequence = after(lane.sequence, batch.records),
                Err(error) if !lane.new_epoch() => exhausted = Some(error.clone()),
                Err(_) => {}
            }
            batch.fate.set(result);
        }
        lanes.in_flight = lanes.in_flight.saturating_sub(1);
        if let Some(error) = exhausted {
            // The next append gets another id.
            lanes.producer = None;
            lanes.lanes.remove(key).into_iter().for_each(|lane| lane.fail_all(&error));
        }
        lanes.send_next(self, key);
        if let Some(waiting) = lanes.waiting.pop_front() {
            lanes.send_next(self, &waiting);
        }
        drop(lanes);
        self.producer.room.notify_all();
    }

    /// Nothing is appended any more.
    pub(super) fn fail_lanes(&self) {
        let mut lanes = lock(&self.producer.lanes);
        lanes.closed = true;
        let all = std::mem::take(&mut lanes.lanes);
        drop(lanes);
        all.into_values().for_each(|lane| lane.fail_all(&self.closed()));
        self.producer.room.notify_all();
    }
}

/// The sequence number this many records after another; they wrap from the largest to 0.
fn after(sequence: i32, records: i32) -> i32 {
    sequence.wrapping_add(records) & i32::MAX
}
