//! All that changes of a queue: what its rules say is done to the log and noted in the journal.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use super::chores::{Letter, Mail};
use super::core::{Cause, Core, Lease, Remembered, Spot};
use super::journal::{Journal, Memory};
use super::{Delivery, DeliveryId, Inner, QueueOptions, QueueStats};
use crate::log::Log;
use crate::log::append::Ticket;
use crate::log::error::LogError;
use crate::log::peer::protocol::Verdict;
use crate::log::read::{LogRecord, Position, Reader};
use crate::log::topic::Topic;

/// How long a dead letter that was refused, a partition that could not be read, or a topic over which the queue could not begin
/// anew, is left alone, in milliseconds.
pub(super) const RETRY_MS: i64 = 1000;
/// Bytes that a record takes in an answer beside its own: the head of its batch, and lengths.
const DELIVERY_BYTES: usize = 128;

/// Its lock is held while records are read and notes appended, not while it is waited until these are written or synced.
#[derive(Debug)]
pub(super) struct State {
    /// With all partitions that the queue reads.
    pub(super) topic: Topic,
    pub(super) core: Core,
    pub(super) journal: Journal,
    pub(super) readers: Vec<Reader>,
    /// The records in the windows that are not done with: those that are available up to `QueueOptions::ahead_bytes`, and those
    /// that somebody has.
    pub(super) records: BTreeMap<Spot, LogRecord>,
    /// Where dead letters go.
    pub(super) dead_letters: Option<Topic>,
    /// Records whose dead letters were refused, by when they are tried again, and why.
    pub(super) unburied: BTreeMap<(i64, Spot), LogError>,
    /// Why the last one was.
    pub(super) refusal: Option<LogError>,
    /// Whether a partition could not be read at the last look.
    pub(super) unread: bool,
    /// Why the queue could not begin anew over a topic that has the name now, and until when that is left alone.
    pub(super) not_anew: Option<(i64, LogError)>,
    /// Workers that wait, the first one first.
    pub(super) waiters: VecDeque<(u64, Waker)>,
    pub(super) next_waiter: u64,
    pub(super) stats: QueueStats,
}

/// What a worker wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) count_max: usize,
    /// Of records, as they travel; one is given in any case.
    pub(super) bytes_max: usize,
    pub(super) lock_ms: i64,
}

/// What a look for records brought.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) deliveries: Vec<Delivery>,
    /// When they are noted; `None` if there are none.
    pub(super) noted: Option<Ticket>,
    /// The failure of the first partition that could not be read.
    pub(super) failed: Option<LogError>,
    /// Whether no partition could be, and waiting is in vain.
    pub(super) hopeless: bool,
}

impl State {
    /// A queue as its journal tells, or a new one.
    pub(super) fn open(
        options: &QueueOptions,
        log: &Log,
        name: &str,
        topic: &Topic,
        dead_letters: Option<Topic>,
    ) -> Result<Self, LogError> {
        let (journal, memory) = Journal::open(log, name)?;
        let new = memory.is_none();
        let (mut known, anew) = known_of(memory, name, topic)?;
        let mut state = Self {
            topic: topic.clone(),
            core: Core::of(options),
            journal,
            readers: Vec::new(),
            records: BTreeMap::new(),
            dead_letters,
            unburied: BTreeMap::new(),
            refusal: None,
            unread: false,
            not_anew: None,
            waiters: VecDeque::new(),
            next_waiter: 0,
            stats: QueueStats::default(),
        };
        for partition in 0..topic.partitions() {
            let start = if new { options.start.clone() } else { Position::Earliest };
            let from = topic.offset_of(partition, start)?;
            let mut known = known.remove(&partition).unwrap_or_default();
            if known.floor < from {
                let missed = if new { 0 } else { from - known.floor };
                state.stats.missed += u64::try_from(missed).unwrap_or_default();
                known.floor = from;
                known.tidy();
            }
            let reader = topic.read(partition, Position::Offset(known.floor))?.durable_only();
            state.readers.push(reader);
            state.core.open(partition, known);
        }
        if new || anew || state.journal.is_long() {
            state.journal.everything(state.memory())?;
        }
        Ok(state)
    }

    pub(super) fn first_waiter(&self) -> Option<Waker> {
        self.waiters.front().map(|(_, waker)| waker.clone())
    }

    /// When there may be something to do though nothing happens, by the clock that measures locks.
    pub(super) fn look_again_ms(&self, now_ms: i64) -> Option<i64> {
        let retry = self.unread.then(|| now_ms.saturating_add(RETRY_MS));
        let letter = self.unburied.first_key_value().map(|((again_ms, _), _)| *again_ms);
        let anew = self.not_anew.as_ref().map(|(again_ms, _)| *again_ms);
        [self.core.next_expiry(), letter, retry, anew].into_iter().flatten().min()
    }

    /// Does with locked records what a worker says. First the note, then the deed: what could not be noted did not
    /// happen.
    pub(super) fn settle(
        &mut self,
        inner: &Inner,
        verdict: Verdict,
        leases: &[Lease],
        now_ms: i64,
    ) -> Result<Option<Ticket>, LogError> {
        if leases.is_empty() {
            return Ok(None);
        }
        match verdict {
            Verdict::Ack => {
                let spots: Vec<Spot> = leases.iter().map(|lease| lease.spot).collect();
                let ticket = self.journal.finished(inner.options.level, &spots)?;
                for lease in leases {
                    self.core.ack(*lease);
                    self.records.remove(&lease.spot);
                }
                self.stats.acknowledged += leases.len() as u64;
                return Ok(ticket);
            }
            Verdict::Release => leases.iter().for_each(|lease| self.core.release(*lease)),
            Verdict::Reject => leases.iter().for_each(|lease| self.core.reject(*lease)),
            Verdict::Renew(lock_ms) => {
                let until_ms = now_ms.saturating_add(lock_ms.into());
                leases.iter().for_each(|lease| self.core.renew(*lease, until_ms));
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Acquires what there is. It may be handed out once it is noted.
    pub(super) fn acquire(&mut self, inner: &Inner, wish: Wish) -> Result<Found, LogError> {
        let now_ms = inner.clock.steady_ms();
        self.revive(now_ms);
        if let Some(nothing) = self.gone() {
            return Ok(nothing);
        }
        let mut found = self.fill();
        // Those who wait behind are to get their share.
        let share = self.core.available().div_ceil(self.waiters.len().max(1));
        let mut leases = self.core.next(wish.count_max.min(share));
        leases.truncate(self.fitting(&leases, wish.bytes_max));
        found.noted = self.journal.delivered(&leases)?;
        for lease in leases {
            self.core.lock(lease, now_ms.saturating_add(wish.lock_ms));
            self.stats.delivered += 1;
            self.stats.redelivered += u64::from(lease.attempt > 1);
            if let Some(record) = self.records.get(&lease.spot) {
                let id = DeliveryId::new(self.topic.inner.id, lease);
                found.deliveries.push(Delivery { id, record: record.clone() });
            }
        }
        Ok(found)
    }

    /// What was acquired could not be noted, and so it was not acquired.
    pub(super) fn undo(&mut self, deliveries: &[Delivery]) {
        let own = deliveries.iter().filter(|delivery| delivery.id.topic == self.topic.inner.id);
        for lease in own.map(|delivery| delivery.id.lease()) {
            self.core.undo(lease);
            self.stats.delivered -= 1;
            self.stats.redelivered -= u64::from(lease.attempt > 1);
        }
    }

    /// Ends what lasts up to now: locks, and the rest that is given to what failed: dead letters, and to begin anew.
    pub(super) fn revive(&mut self, now_ms: i64) {
        self.core.expire(now_ms);
        while let Some(first) = self.unburied.first_entry()
            && first.key().0 <= now_ms
        {
            let ((_, spot), _) = first.remove_entry();
            self.core.dies_again(spot);
        }
        if self.not_anew.as_ref().is_some_and(|(again_ms, _)| *again_ms <= now_ms) {
            self.not_anew = None;
        }
    }

    /// Whether there is something to do that waits for the medium.
    pub(super) fn has_chores(&self) -> bool {
        self.core.has_dying() || self.journal.is_long() || self.wants_anew()
    }

    /// How many of these may travel together.
    fn fitting(&self, leases: &[Lease], bytes_max: usize) -> usize {
        let mut bytes = 0_usize;
        let fits = leases.iter().take_while(|lease| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(self.records.get(&lease.spot).map_or(0, bytes_of));
            first || bytes <= bytes_max
        });
        fits.count()
    }

    /// Takes up partitions that the topic got meanwhile, from their beginning, whatever the queue began with: they came
    /// after it.
    fn take_up(&mut self) -> Result<(), LogError> {
        // The options are those of all handles, however old.
        if self.topic.options().partitions as usize <= self.readers.len() {
            return Ok(());
        }
        let (log, name) = (&self.topic.log, self.topic.name());
        let now = log.find_topic(name).filter(|topic| topic.id == self.topic.inner.id);
        // One that has just been deleted has no more of them; that is seen at the next look.
        let Some(inner) = now else { return Ok(()) };
        let topic = Topic { inner, log: log.clone() };
        // After a failure some have been taken up already.
        for partition in (0..topic.partitions()).skip(self.readers.len()) {
            let earliest = topic.offset_of(partition, Position::Earliest)?;
            let reader = Reader::at(topic.inner.partition(partition)?.clone(), earliest)?;
            let reader = reader.durable_only();
            self.stats.missed += u64::try_from(earliest).unwrap_or_default();
            self.core.open(partition, Remembered { floor: earliest, ..Remembered::default() });
            self.readers.push(reader);
        }
        self.topic = topic;
        Ok(())
    }

    /// Reads on as far as the windows go. What cannot be read keeps nothing else from being read.
    fn fill(&mut self) -> Found {
        let mut failed = self.take_up().err();
        let mut sound = 0_usize;
        for n in 0..self.readers.len() {
            match self.fill_from(n) {
                Ok(()) => sound += 1,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.unread = failed.is_some();
        Found { hopeless: failed.is_some() && sound == 0, failed, ..Found::default() }
    }

    /// Reads on in one partition.
    fn fill_from(&mut self, reader: usize) -> Result<(), LogError> {
        let Some(reader) = self.readers.get_mut(reader) else { return Ok(()) };
        let partition = reader.partition_number();
        while self.core.wants(partition).is_some() {
            match reader.next_record() {
                Ok(Some(record)) => {
                    let spot = (partition, record.offset);
                    if self.core.offer(spot, bytes_of(&record)) {
                        self.records.insert(spot, record);
                    }
                }
                Ok(None) => {
                    self.core.skip_to(partition, reader.next_offset());
                    break;
                }
                Err(LogError::OffsetOutOfRange { earliest, .. })
                    if earliest > reader.next_offset() =>
                {
                    // Retention was faster.
                    let before = reader.next_offset();
                    reader.seek(Position::Earliest)?;
                    let missed = reader.next_offset() - before;
                    self.stats.missed += u64::try_from(missed).unwrap_or_default();
                    self.core.skip_to(partition, reader.next_offset());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The dead, as they go to their topic; `None` if there are none.
    pub(super) fn mail(&mut self) -> Option<Mail> {
        let dying = self.core.dying();
        if dying.is_empty() {
            return None;
        }
        // It may have been made anew.
        if let Some(topic) = &mut self.dead_letters
            && let Some(now) = topic.log.find_topic(topic.name())
        {
            topic.inner = now;
        }
        let letter = |(lease, cause): (Lease, Cause)| {
            let record = self.records.get(&lease.spot).cloned();
            Letter { lease, cause, record }
        };
        let letters = dying.into_iter().map(letter).collect();
        Some(Mail { origin: self.topic.inner.id, letters, to: self.dead_letters.clone() })
    }

    /// A dead record is in its topic, and that is noted.
    pub(super) fn buried(&mut self, spot: Spot) {
        self.core.finish(spot);
        self.records.remove(&spot);
        self.stats.dead += 1;
    }

    /// A dead record is not, or that is not noted: it is left alone for a time.
    pub(super) fn refused(&mut self, spot: Spot, error: LogError, now_ms: i64) {
        self.core.postpone(spot);
        self.refusal = Some(error.clone());
        self.unburied.insert((now_ms.saturating_add(RETRY_MS), spot), error);
    }

    /// What a picture shows.
    pub(super) fn memory(&self) -> Memory {
        let topic = (self.topic.name().to_owned(), self.topic.inner.id);
        Memory { topic, partitions: self.core.remembered() }
    }
}

/// What a journal tells of the partitions of a topic, and whether the topic was made anew since: then that is nothing, and
/// all its records came after the queue.
fn known_of(
    memory: Option<Memory>,
    queue: &str,
    topic: &Topic,
) -> Result<(BTreeMap<u32, Remembered>, bool), LogError> {
    let Some(Memory { topic: (name, id), partitions }) = memory else {
        return Ok((BTreeMap::new(), false));
    };
    if name != topic.name() {
        let reason = format!("{queue} is over topic {name}, not over {}", topic.name());
        return Err(LogError::Invalid { what: "queue", reason });
    }
    Ok(if id == topic.inner.id { (partitions, false) } else { (BTreeMap::new(), true) })
}

/// Bytes of a record in an answer or in memory, about.
pub(super) fn bytes_of(record: &LogRecord) -> usize {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers = record.headers.iter();
    headers.fold(DELIVERY_BYTES + len(&record.key) + len(&record.value), |sum, header| {
        sum + header.key.len() + len(&header.value)
    })
}
