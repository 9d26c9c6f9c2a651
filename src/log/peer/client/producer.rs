//! Appending: records gather into a batch for each partition while the one before is under way.
//!
//! Of each partition one batch is in flight, numbered by producer, epoch and sequence. Sent again it is the same batch,
//! and the server knows it. Its number is used up only when the server has it; after a refusal a new epoch begins, so
//! that nobody has to know whether a batch that failed is there after all.

mod flush;
mod lane;
mod target;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::error::Asked;
use super::link::Answered;
use super::{Core, PeerError, RemoteTopic};
use crate::log::append::NewRecord;
use crate::log::options::Level;
use crate::log::peer::protocol::{Answer, DescribeTopic, RemoteCode, TopicName, TopicState};
use crate::log::wakers;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};
use crate::transport::now;
use flush::Failures;
pub(super) use flush::Flushing;
pub use flush::{FlushError, Unacknowledged};
pub(super) use lane::after;
use lane::{Broken, Lane};
pub(super) use target::Target;
pub use ticket::AppendTicket;
use ticket::Fate;

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
    /// Who is to be woken when nothing is locked any more: they may append again at once.
    woken: Vec<Waker>,
    /// What failed and no flush has told.
    failures: Failures,
    closed: bool,
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
    let asked = || Asked::append(topic, partition);
    let mut lanes = lock(&core.producer.lanes);
    loop {
        if lanes.closed {
            return Err(core.closed());
        }
        let Some(producer) = lanes.producer else {
            drop(lanes);
            let producer = core.new_producer(deadline);
            let producer = producer.map_err(|error| error.about(|| asked().subject))?;
            lanes = lock(&core.producer.lanes);
            lanes.producer.get_or_insert(producer);
            continue;
        };
        let lane = lanes.lanes.entry(key.clone()).or_insert_with(|| Lane::new(producer));
        if lane.closed_bytes < core.options.buffer_bytes {
            let (fate, delta) = lane.push(&target, level, record).unwrap_or_else(|error| {
                let fate = Arc::new(Fate::default());
                lane.broken.push(Broken { fate: Arc::clone(&fate), records: 1, error });
                (fate, 0)
            });
            lanes.send_next(core, &key);
            tell(lanes);
            return Ok(AppendTicket { core: Arc::clone(core), fate, key, delta });
        }
        let bytes = lane.closed_bytes;
        lanes = match deadline.map(|end| end.saturating_duration_since(now())) {
            Some(left) if left.is_zero() => {
                drop(lanes);
                let crowd = format!("{bytes} bytes wait for the same partition already");
                return Err(core.not_sent(&asked(), core.link.connection(), &crowd));
            }
            Some(left) => {
                let waited = core.producer.room.wait_timeout(lanes, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => core.producer.room.wait(lanes).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Wakes those who wait for appends of which it is known by now what became of them.
fn tell(mut lanes: MutexGuard<'_, Lanes>) {
    let woken = std::mem::take(&mut lanes.woken);
    drop(lanes);
    wakers::call(woken);
}

impl Lanes {
    /// What has become of so many records of a partition.
    fn settle(
        &mut self,
        key: &LaneKey,
        fate: &Fate,
        records: i32,
        outcome: Result<i64, PeerError>,
    ) {
        let failed = outcome.as_ref().err().cloned();
        let (woken, is_flushed) = fate.set(outcome);
        self.woken.extend(woken);
        if let Some(error) = failed.filter(|_| !is_flushed) {
            self.failures.add(key, records, error);
        }
    }

    /// Tells of batches of a partition that could not be encoded.
    fn settle_broken(&mut self, core: &Core, key: &LaneKey, broken: Vec<Broken>) {
        for Broken { fate, records, error } in broken {
            let error = core.unencodable(&Asked::append(&key.0, key.1), &error);
            self.settle(key, &fate, records, Err(error));
        }
    }

    /// Ends all batches of a lane that was taken away.
    fn fail(&mut self, core: &Core, key: &LaneKey, mut lane: Lane, error: &PeerError) {
        lane.close_open();
        self.settle_broken(core, key, std::mem::take(&mut lane.broken));
        for batch in lane.batches() {
            self.settle(key, &batch.fate, batch.records, Err(error.clone()));
        }
    }

    /// Sends the next batch of a partition, if none is in flight.
    fn send_next(&mut self, core: &Core, key: &LaneKey) {
        let busy = self.in_flight >= super::link::APPENDS_MAX;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let is_idle = lane.in_flight.is_none();
        let waits = is_idle && (!lane.closed.is_empty() || lane.open.is_some());
        if waits && busy && !self.waiting.contains(key) {
            self.waiting.push_back(key.clone());
        }
        let next = if waits && !busy { lane.next() } else { None };
        let broken = std::mem::take(&mut lane.broken);
        if next.is_some() {
            self.in_flight += 1;
            self.send(core, key);
        }
        self.settle_broken(core, key, broken);
    }

    /// Gives the places of batches that are done away: first to partitions that wait, so that none is kept waiting by
    /// others that always have more.
    fn send_more(&mut self, core: &Core, done: &LaneKey) {
        while self.in_flight < super::link::APPENDS_MAX
            && let Some(waiting) = self.waiting.pop_front()
        {
            self.send_next(core, &waiting);
        }
        self.send_next(core, done);
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
                    let error = core.unencodable(&Asked::append(&key.0, key.1), &error);
                    self.settle(key, &batch.fate, batch.records, Err(error));
                    self.in_flight = self.in_flight.saturating_sub(1);
                }
            }
        }
    }
}

impl Core {
    /// What is known of a topic; asked for the first time.
    pub(super) fn target(
        self: &Arc<Self>,
        topic: &str,
        deadline: Option<Instant>,
    ) -> Result<Arc<Target>, PeerError> {
        if let Some(target) = lock(&self.producer.topics).get(topic) {
            return Ok(Arc::clone(target));
        }
        let request = DescribeTopic(TopicName { topic: topic.to_owned() });
        let reply = self.begin(request.into(), Vec::new(), deadline)?.wait(deadline)?;
        let state = super::answer_of!(self, reply, TopicState)?;
        let target = self.new_target(state);
        let mut topics = lock(&self.producer.topics);
        Ok(Arc::clone(topics.entry(topic.to_owned()).or_insert(target)))
    }

    /// What the server says of a topic with an answer. If it is not what is known here it is asked, while appends go on with
    /// what is known: the thread that receives must not wait for it.
    pub(super) fn check_topic(&self, topic: &Arc<str>, fingerprint: u64) {
        let known = lock(&self.producer.topics).get(&**topic).cloned();
        let Some(target) = known.filter(|target| target.fingerprint != fingerprint) else { return };
        if !target.asked_again.swap(true, Ordering::Relaxed) {
            self.submit_describe(topic);
        }
    }

    /// The server said what a topic is now.
    pub(super) fn topic_described(&self, topic: &str, outcome: Result<Answered, PeerError>) {
        let state = outcome.and_then(|reply| super::answer_of!(self, reply, TopicState));
        let target = state.map(|state| self.new_target(state));
        let mut topics = lock(&self.producer.topics);
        match target {
            Ok(target) => _ = topics.insert(topic.to_owned(), target),
            // Who appends next asks too, and is told.
            Err(_) => _ = topics.remove(topic),
        }
    }

    fn new_target(&self, state: TopicState) -> Arc<Target> {
        let (fingerprint, batch_bytes) = (state.fingerprint, self.options.batch_bytes);
        Arc::new(Target::new(&RemoteTopic::from(state), fingerprint, batch_bytes))
    }

    /// The server answered the append of a partition.
    pub(super) fn append_done(&self, key: &LaneKey, outcome: Result<Answered, PeerError>) {
        use RemoteCode::{KeyMissing, OutOfSequence, TooLarge, UnknownPartition, UnknownTopic};
        let mut lanes = lock(&self.producer.lanes);
        let Some(lane) = lanes.lanes.get_mut(key) else { return };
        let result = match outcome.and_then(|reply| super::answer_of!(self, reply, Appended)) {
            Ok(appended) => {
                self.check_topic(&key.0, appended.fingerprint);
                let records = lane.in_flight.as_ref().map_or(0, |batch| batch.records);
                self.first_of(|| Asked::append(&key.0, key.1), appended.first_offset, records)
            }
            Err(error) => {
                let lost = error.code() == Some(OutOfSequence) && !lane.renumbered;
                if lost && lane.new_epoch() {
                    // The server lost earlier batches of a level that allows that; this one is not there.
                    lane.renumbered = true;
                    lanes.send(self, key);
                    return tell(lanes);
                }
                // It is not the topic any more that is known here.
                let changed = [UnknownTopic, UnknownPartition, KeyMissing, TooLarge];
                if error.code().is_some_and(|code| changed.contains(&code)) {
                    self.producer.forget_topic(&key.0);
                }
                Err(error)
            }
        };
        let mut exhausted = None;
        if let Some(batch) = lane.in_flight.take() {
            match &result {
                Ok(_) => lane.sequence = after(lane.sequence, batch.records),
                Err(error) if !lane.new_epoch() => exhausted = Some(error.clone()),
                Err(_) => {}
            }
            lanes.settle(key, &batch.fate, batch.records, result);
        }
        lanes.in_flight = lanes.in_flight.saturating_sub(1);
        if let Some(error) = exhausted {
            // The next append gets another id.
            lanes.producer = None;
            if let Some(lane) = lanes.lanes.remove(key) {
                lanes.fail(self, key, lane, &error);
            }
        }
        lanes.send_more(self, key);
        tell(lanes);
        self.producer.room.notify_all();
    }

    /// The first offset of so many records, if there can be so many there.
    pub(super) fn first_of(
        &self,
        asked: impl FnOnce() -> Asked,
        first: i64,
        records: i32,
    ) -> Result<i64, PeerError> {
        match first.checked_add(i64::from(records)) {
            Some(_) => Ok(first),
            None => {
                let reason = format!("{records} records from offset {first} on");
                Err(self.bad_answer(&asked(), reason))
            }
        }
    }

    /// Nothing is appended any more; what was is still pursued.
    pub(super) fn refuse_appends(&self) {
        lock(&self.producer.lanes).closed = true;
        self.producer.room.notify_all();
    }

    /// Nothing is appended any more, and nothing pursued.
    pub(super) fn fail_lanes(&self) {
        let mut lanes = lock(&self.producer.lanes);
        lanes.closed = true;
        for (key, lane) in std::mem::take(&mut lanes.lanes) {
            lanes.fail(self, &key, lane, &self.closed());
        }
        tell(lanes);
        self.producer.room.notify_all();
    }
}
