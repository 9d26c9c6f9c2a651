//! All that changes of a queue: what its rules say is done to the log and noted in the journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;

use super::core::{Cause, Core, Lease, Remembered, Spot};
use super::journal::{Journal, Memory};
use super::{Delivery, Inner, QueueOptions, QueueStats, dead};
use crate::log::Log;
use crate::log::append::Ticket;
use crate::log::error::LogError;
use crate::log::peer::protocol::Verdict;
use crate::log::read::{LogRecord, Position, Reader};
use crate::log::topic::Topic;

/// How long a dead letter that was refused, or a partition that could not be read, is left alone, in milliseconds.
const RETRY_MS: i64 = 1000;
/// Bytes that a record takes in an answer beside its own: the head of its batch, and lengths.
const DELIVERY_BYTES: usize = 128;

/// Its lock is held while records are read and notes written, not while a sync is waited for - but for dead letters, and
/// when the journal is cut.
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
    /// Records whose dead letters were refused, by when they are tried again.
    pub(super) unburied: BTreeSet<(i64, Spot)>,
    /// Why the last one was.
    pub(super) refusal: Option<LogError>,
    /// Whether a partition could not be read at the last look.
    pub(super) unread: bool,
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
    /// The failure of the first partition that could not be read.
    pub(super) failed: Option<LogError>,
    /// Whether no partition could be.
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
            core: Core::new(options.attempts_max, options.window, options.ahead_bytes),
            journal,
            readers: Vec::new(),
            records: BTreeMap::new(),
            dead_letters,
            unburied: BTreeSet::new(),
            refusal: None,
            unread: false,
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
        let letter = self.unburied.first().map(|(again_ms, _)| *again_ms);
        [self.core.next_expiry(), letter, retry].into_iter().flatten().min()
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
        self.tidy_journal()?;
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
        let refused = self.bury(inner, now_ms)?;
        let named: BTreeSet<Spot> = leases.iter().map(|lease| lease.spot).collect();
        let mut own = refused.into_iter().filter(|(spot, _)| named.contains(spot));
        own.next().map_or(Ok(None), |(_, error)| Err(error))
    }

    /// Acquires what there is.
    pub(super) fn acquire(&mut self, inner: &Inner, wish: Wish) -> Result<Found, LogError> {
        let now_ms = inner.clock.steady_ms();
        self.tidy_journal()?;
        self.core.expire(now_ms);
        let mut found = loop {
            let (found, full) = (self.fill(), self.core.full());
            // Letters that are refused are in the figures, and keep nobody from working.
            self.bury(inner, now_ms)?;
            // What was buried may have kept a window from going on.
            if self.core.full() >= full {
                break found;
            }
        };
        // Those who wait behind are to get their share.
        let share = self.core.available().div_ceil(self.waiters.len().max(1));
        let mut leases = self.core.next(wish.count_max.min(share));
        leases.truncate(self.fitting(&leases, wish.bytes_max));
        if leases.is_empty() {
            return Ok(found);
        }
        self.journal.delivered(&leases)?;
        for lease in leases {
            self.core.lock(lease, now_ms.saturating_add(wish.lock_ms));
            self.stats.delivered += 1;
            self.stats.redelivered += u64::from(lease.attempt > 1);
            if let Some(record) = self.records.get(&lease.spot) {
                found.deliveries.push(Delivery { id: lease.into(), record: record.clone() });
            }
        }
        Ok(found)
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
        // A topic that is deleted has no more of them.
        let Some(inner) = now else { return Ok(()) };
        let topic = Topic { inner, log: log.clone() };
        // After a failure some have been taken up already.
        for partition in (0..topic.partitions()).skip(self.readers.len()) {
            let earliest = topic.offset_of(partition, Position::Earliest)?;
            let reader = topic.read(partition, Position::Offset(earliest))?.durable_only();
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
        Found { hopeless: failed.is_some() && sound == 0, failed, deliveries: Vec::new() }
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
                    let missed = earliest - reader.next_offset();
                    reader.seek(Position::Offset(earliest))?;
                    self.stats.missed += u64::try_from(missed).unwrap_or_default();
                    self.core.skip_to(partition, earliest);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Brings the dead to their topic, each for itself: one that is refused keeps no other. They are durable there before
    /// they are done with here; a crash between the two leaves a second copy, which its headers show. Returns those that
    /// were refused.
    fn bury(&mut self, inner: &Inner, now_ms: i64) -> Result<Vec<(Spot, LogError)>, LogError> {
        while let Some((again_ms, spot)) = self.unburied.first().copied() {
            if again_ms > now_ms {
                break;
            }
            self.unburied.pop_first();
            self.core.dies_again(spot);
        }
        let dying = self.core.dying();
        if dying.is_empty() {
            return Ok(Vec::new());
        }
        let (mut buried, mut refused) = (Vec::new(), Vec::new());
        for (spot, outcome) in self.send_letters(inner, &dying) {
            match outcome {
                Ok(()) => buried.push(spot),
                Err(error) => refused.push((spot, error)),
            }
        }
        for (spot, error) in &refused {
            self.core.postpone(*spot);
            self.unburied.insert((now_ms.saturating_add(RETRY_MS), *spot));
            self.refusal = Some(error.clone());
        }
        if let Some(noted) = self.journal.finished(inner.options.level, &buried)? {
            noted.wait()?;
        }
        for spot in buried {
            self.core.finish(spot);
            self.records.remove(&spot);
            self.stats.dead += 1;
        }
        Ok(refused)
    }

    /// Appends dead letters; what became of each, when that is known.
    fn send_letters(
        &mut self,
        inner: &Inner,
        dying: &[(Lease, Cause)],
    ) -> Vec<(Spot, Result<(), LogError>)> {
        let Some(topic) = &mut self.dead_letters else {
            return dying.iter().map(|(lease, _)| (lease.spot, Ok(()))).collect();
        };
        // It may have been made anew.
        if let Some(now) = topic.log.find_topic(topic.name()) {
            topic.inner = now;
        }
        let mut tickets = Vec::with_capacity(dying.len());
        for (lease, cause) in dying {
            let record = self.records.get(&lease.spot);
            let ticket =
                record.map(|record| dead::bury(topic, inner.topic.name(), record, *lease, *cause));
            tickets.push((lease.spot, ticket.transpose()));
        }
        let wait = |ticket: Option<Ticket>| ticket.map_or(Ok(()), |ticket| ticket.wait().map(drop));
        tickets.into_iter().map(|(spot, ticket)| (spot, ticket.and_then(wait))).collect()
    }

    /// What a picture shows.
    pub(super) fn memory(&self) -> Memory {
        let topic = (self.topic.name().to_owned(), self.topic.inner.id);
        Memory { topic, partitions: self.core.remembered() }
    }

    /// Before anything is noted, so that what a worker asks for has not happened if this fails.
    fn tidy_journal(&mut self) -> Result<(), LogError> {
        if self.journal.is_long() { self.journal.everything(self.memory()) } else { Ok(()) }
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
fn bytes_of(record: &LogRecord) -> usize {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers = record.headers.iter();
    headers.fold(DELIVERY_BYTES + len(&record.key) + len(&record.value), |sum, header| {
        sum + header.key.len() + len(&header.value)
    })
}
