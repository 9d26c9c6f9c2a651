//! A work queue over a topic: each record is delivered to one worker, which settles it.
//!
//! The rules are in [`core`], what is remembered across restarts in [`journal`], waiting in [`acquire`].

mod acquire;
mod core;
mod dead;
mod journal;
mod options;
mod settling;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use self::core::{Core, Lease, Remembered, Spot};
pub(in crate::log) use acquire::Acquiring;
use journal::Journal;
pub use options::QueueOptions;
pub(in crate::log) use settling::Settling;

use crate::log::Log;
use crate::log::append::Ticket;
use crate::log::clock::Clock;
use crate::log::error::LogError;
use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::{RemoteCode, RemoteError, Verdict, WireDelivery};
use crate::log::read::{LogRecord, Position, Reader};
use crate::log::topic::Topic;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::transport::now;

/// A record, delivered to a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// By which it is settled.
    pub id: DeliveryId,
    /// The record.
    pub record: LogRecord,
}

/// Names a delivery: a record, and the attempt at it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub struct DeliveryId {
    /// The record's partition.
    pub partition: u32,
    /// The record's offset.
    pub offset: i64,
    /// Which attempt at the record this is, from 1 on.
    pub attempt: u32,
}

impl From<Lease> for DeliveryId {
    fn from(lease: Lease) -> Self {
        let ((partition, offset), attempt) = (lease.spot, lease.attempt);
        Self { partition, offset, attempt }
    }
}

impl From<DeliveryId> for WireDelivery {
    fn from(id: DeliveryId) -> Self {
        Self { partition: id.partition, offset: id.offset, attempt: id.attempt }
    }
}

impl From<&WireDelivery> for DeliveryId {
    fn from(delivery: &WireDelivery) -> Self {
        let WireDelivery { partition, offset, attempt } = *delivery;
        Self { partition, offset, attempt }
    }
}

impl DeliveryId {
    fn lease(self) -> Lease {
        Lease { spot: (self.partition, self.offset), attempt: self.attempt }
    }
}

/// Why a delivery was not settled.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Its lock is over: the time was up, or it was settled before. Somebody else may have the record now.
    #[error("the lock on offset {offset} of partition {partition} is over")]
    LockLost {
        /// The record's partition.
        partition: u32,
        /// The record's offset.
        offset: i64,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<&QueueError> for RemoteError {
    fn from(error: &QueueError) -> Self {
        match error {
            QueueError::LockLost { partition, offset } => {
                let mut remote = Self::new(RemoteCode::LockLost, error.to_string());
                (remote.partition, remote.offset) = (Some(*partition), Some(*offset));
                remote
            }
            QueueError::Log(error) => Self::from(error),
        }
    }
}

/// What a queue has done since it was opened, and what it has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct QueueStats {
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries that were not the first of their record.
    pub redelivered: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records that were rejected or given up.
    pub dead: u64,
    /// Records that retention took before they were delivered.
    pub missed: u64,
    /// Records that are available now, as far as the window goes.
    pub available: usize,
    /// Records that are locked now.
    pub locked: usize,
    /// Workers that wait now.
    pub waiting: usize,
}

/// A durable work queue over a topic of a log: every record goes to one worker at a time, under a lock that ends by
/// itself; what is acknowledged never comes again, what is not is delivered anew, also after a restart of the process.
/// Clones are the same queue. Only durable records are delivered.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use peermq::log::storage::MemoryStorage;
/// use peermq::log::{DurableQueue, Log, TopicOptions};
///
/// let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log")?;
/// let jobs = log.create_topic("jobs", TopicOptions::default())?;
/// let queue = DurableQueue::options().open(&log, "workers", "jobs")?;
/// jobs.append("resize picture 7")?.wait()?;
///
/// let lock = Duration::from_secs(30);
/// for job in queue.acquire(10, lock, Duration::from_secs(1))? {
///     assert_eq!(job.record.value.as_deref(), Some(&b"resize picture 7"[..]));
///     queue.ack(&[job.id])?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DurableQueue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    topic: Topic,
    dead_letters: Option<Topic>,
    options: QueueOptions,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// All that changes. Its lock is held while records are read and notes written, not while a sync is waited for - but for
/// dead letters, and when the journal is cut.
#[derive(Debug)]
struct State {
    /// With all partitions that the queue reads.
    topic: Topic,
    core: Core,
    journal: Journal,
    readers: Vec<Reader>,
    /// The records in the windows that are not done with.
    records: BTreeMap<Spot, LogRecord>,
    /// Workers that wait, the first one first.
    waiters: VecDeque<(u64, Waker)>,
    next_waiter: u64,
    stats: QueueStats,
}

impl DurableQueue {
    /// How a queue is to work.
    pub fn options() -> QueueOptions {
        QueueOptions::default()
    }

    fn start(options: QueueOptions, log: &Log, name: &str, topic: &str) -> Result<Self, LogError> {
        let topic = log.topic(topic)?;
        let dead_letters =
            options.dead_letters.as_deref().map(|dead| log.topic(dead)).transpose()?;
        let (mut journal, remembered) = Journal::open(log, name)?;
        let new = remembered.is_none();
        let mut remembered = remembered.unwrap_or_default();
        let mut core = Core::new(options.attempts_max, options.window);
        let (mut readers, mut missed) = (Vec::new(), 0);
        for partition in 0..topic.partitions() {
            let start = if new { options.start.clone() } else { Position::Earliest };
            let from = topic.offset_of(partition, start)?;
            let mut known = remembered.remove(&partition).unwrap_or_default();
            if new {
                known.floor = from;
            } else if known.floor < from {
                missed += u64::try_from(from - known.floor).unwrap_or_default();
                known.floor = from;
            }
            readers.push(topic.read(partition, Position::Offset(known.floor))?.durable_only());
            core.open(partition, known);
        }
        if new {
            journal.everything(core.remembered())?;
        }
        let state = State {
            topic: topic.clone(),
            core,
            journal,
            readers,
            records: BTreeMap::new(),
            waiters: VecDeque::new(),
            next_waiter: 0,
            stats: QueueStats { missed, ..QueueStats::default() },
        };
        let clock = log.inner.shared.clock.clone();
        let (name, state) = (name.to_owned(), Mutex::new(state));
        Ok(Self { inner: Arc::new(Inner { name, topic, dead_letters, options, clock, state }) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What it has done and has.
    pub fn stats(&self) -> QueueStats {
        let state = self.state();
        QueueStats {
            available: state.core.available(),
            locked: state.core.locked(),
            waiting: state.waiters.len(),
            ..state.stats
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }

    /// Acquires up to `count_max` records, waiting at most `timeout` for the first; none if there was none until then.
    /// Each is locked for `lock`: who does not settle it until then loses it to somebody else. Workers that wait get
    /// records in turn, and share what there is.
    ///
    /// # Errors
    /// Failures of the log.
    pub fn acquire(
        &self,
        count_max: usize,
        lock: Duration,
        timeout: Duration,
    ) -> Result<Vec<Delivery>, LogError> {
        let count_max = u32::try_from(count_max).unwrap_or(u32::MAX);
        let mut acquiring = self.acquiring(count_max, lock);
        let deadline = now().checked_add(timeout);
        let alarm = Arc::new(Alarm::default());
        let waker = alarm.waker(0);
        loop {
            let over = deadline.is_some_and(|deadline| deadline <= now());
            if let Poll::Ready(acquired) = acquiring.poll(&waker, over) {
                return acquired;
            }
            let wake_at = match (deadline, acquiring.look_again_at()) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            alarm.wait(wake_at);
        }
    }

    /// These are dealt with and never come again. When this returns that has the queue's level.
    ///
    /// # Errors
    /// The first failure; `LockLost` for a delivery whose lock is over. The others are settled nevertheless.
    pub fn ack(&self, ids: &[DeliveryId]) -> Result<(), QueueError> {
        self.settle(Verdict::Ack, ids)
    }

    /// These go to somebody else, at once. The attempt counts.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn release(&self, ids: &[DeliveryId]) -> Result<(), QueueError> {
        self.settle(Verdict::Release, ids)
    }

    /// These cannot be dealt with: they go to the dead letters.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(&self, ids: &[DeliveryId]) -> Result<(), QueueError> {
        self.settle(Verdict::Reject, ids)
    }

    /// The locks on these last so long from now.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn renew(&self, ids: &[DeliveryId], lock: Duration) -> Result<(), QueueError> {
        let lock_ms = u32::try_from(lock.as_millis()).unwrap_or(u32::MAX);
        self.settle(Verdict::Renew(lock_ms), ids)
    }

    fn settle(&self, verdict: Verdict, ids: &[DeliveryId]) -> Result<(), QueueError> {
        let ids: Vec<WireDelivery> = ids.iter().copied().map(WireDelivery::from).collect();
        let mut settling = self.settling(verdict, &ids);
        settling.wait()?;
        settling.refused.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// Begins to acquire.
    pub(in crate::log) fn acquiring(&self, count_max: u32, lock: Duration) -> Acquiring {
        Acquiring::new(self.clone(), count_max, lock)
    }

    /// Settles; what is left is to wait for its level.
    pub(in crate::log) fn settling(&self, verdict: Verdict, ids: &[WireDelivery]) -> Settling {
        let inner = &self.inner;
        let now_ms = inner.clock.now_ms();
        let mut state = self.state();
        let mut refused = Vec::with_capacity(ids.len());
        let mut leases = Vec::new();
        for id in ids.iter().map(DeliveryId::from) {
            let holds = state.core.holds(id.lease(), now_ms) && !leases.contains(&id.lease());
            let DeliveryId { partition, offset, .. } = id;
            refused.push((!holds).then_some(QueueError::LockLost { partition, offset }));
            leases.extend(holds.then(|| id.lease()));
        }
        let outcome = state.settle(inner, verdict, &leases, now_ms);
        let next = state.first_waiter().filter(|_| state.core.available() > 0);
        drop(state);
        next.into_iter().for_each(Waker::wake);
        match outcome {
            Ok(ticket) => Settling { ticket, failed: None, refused },
            Err(error) => Settling { ticket: None, failed: Some(error), refused },
        }
    }
}

impl State {
    fn first_waiter(&self) -> Option<Waker> {
        self.waiters.front().map(|(_, waker)| waker.clone())
    }

    /// Does with locked records what a worker says. First the note, then the deed: what could not be noted did not
    /// happen.
    fn settle(
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
                self.tidy_journal()?;
                return Ok(Some(ticket));
            }
            Verdict::Release => leases.iter().for_each(|lease| self.core.release(*lease)),
            Verdict::Reject => leases.iter().for_each(|lease| self.core.reject(*lease)),
            Verdict::Renew(lock_ms) => {
                let until_ms = now_ms.saturating_add(lock_ms.into());
                leases.iter().for_each(|lease| self.core.renew(*lease, until_ms));
            }
        }
        self.bury(inner)?;
        Ok(None)
    }

    /// Acquires what there is.
    fn acquire(
        &mut self,
        inner: &Inner,
        count_max: usize,
        lock_ms: i64,
    ) -> Result<Vec<Delivery>, LogError> {
        let now_ms = inner.clock.now_ms();
        self.core.expire(now_ms);
        self.fill()?;
        self.bury(inner)?;
        // Those who wait behind are to get their share.
        let share = self.core.available().div_ceil(self.waiters.len().max(1));
        let leases = self.core.next(count_max.min(share));
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        self.journal.delivered(&leases)?;
        let mut deliveries = Vec::with_capacity(leases.len());
        for lease in leases {
            self.core.lock(lease, now_ms.saturating_add(lock_ms));
            self.stats.delivered += 1;
            self.stats.redelivered += u64::from(lease.attempt > 1);
            if let Some(record) = self.records.get(&lease.spot) {
                deliveries.push(Delivery { id: lease.into(), record: record.clone() });
            }
        }
        self.tidy_journal()?;
        Ok(deliveries)
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
        for partition in self.topic.partitions()..topic.partitions() {
            let earliest = topic.offset_of(partition, Position::Earliest)?;
            let reader = topic.read(partition, Position::Offset(earliest))?.durable_only();
            self.stats.missed += u64::try_from(earliest).unwrap_or_default();
            self.core.open(partition, Remembered { floor: earliest, ..Remembered::default() });
            self.readers.push(reader);
        }
        self.topic = topic;
        Ok(())
    }

    /// Reads on as far as the windows go.
    fn fill(&mut self) -> Result<(), LogError> {
        self.take_up()?;
        for reader in &mut self.readers {
            let partition = reader.partition_number();
            while self.core.wants(partition).is_some() {
                match reader.next_record() {
                    Ok(Some(record)) => {
                        let spot = (partition, record.offset);
                        if self.core.offer(spot) {
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
                        self.stats.missed += u64::try_from(missed).unwrap_or_default();
                        reader.seek(Position::Offset(earliest))?;
                        self.core.skip_to(partition, earliest);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Brings the dead to their topic. They are durable there before they are done with here; a crash between the two
    /// leaves a second copy, which its headers show.
    fn bury(&mut self, inner: &Inner) -> Result<(), LogError> {
        let dying = self.core.dying();
        if dying.is_empty() {
            return Ok(());
        }
        if let Some(topic) = &inner.dead_letters {
            let mut tickets = Vec::new();
            for (lease, cause) in &dying {
                if let Some(record) = self.records.get(&lease.spot) {
                    tickets.push(dead::bury(topic, inner.topic.name(), record, *lease, *cause)?);
                }
            }
            tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?;
        }
        let spots: Vec<Spot> = dying.iter().map(|(lease, _)| lease.spot).collect();
        self.journal.finished(inner.options.level, &spots)?.wait()?;
        for spot in spots {
            self.core.finish(spot);
            self.records.remove(&spot);
            self.stats.dead += 1;
        }
        self.tidy_journal()
    }

    fn tidy_journal(&mut self) -> Result<(), LogError> {
        if self.journal.is_long() {
            self.journal.everything(self.core.remembered())
        } else {
            Ok(())
        }
    }
}
