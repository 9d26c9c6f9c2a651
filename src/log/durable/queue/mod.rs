//! A work queue over a topic: each record is delivered to one worker, which settles it.
//!
//! The rules are in [`core`], what is done by them in [`state`], what is remembered across restarts in [`journal`], waiting in
//! [`acquire`], what is to be done beside in [`chores`], what becomes of it when its topic is deleted in [`anew`].

mod acquire;
mod anew;
mod chores;
mod core;
mod dead;
mod journal;
mod options;
mod settling;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use self::core::{Lease, Spot};
pub(in crate::log) use acquire::Acquiring;
pub(in crate::log) use chores::Chores;
pub use options::QueueOptions;
pub(in crate::log) use settling::Settling;
use state::State;

use crate::log::Log;
use crate::log::clock::Clock;
use crate::log::error::LogError;
use crate::log::format::Id;
use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::{RemoteCode, RemoteError, Verdict, WireDelivery};
use crate::log::read::LogRecord;
use crate::log::wakers::{self, Held, hold};
use crate::sync::Mutex;
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
    /// The topic: one that is made anew under its name has such records too.
    topic: Id,
}

impl From<DeliveryId> for WireDelivery {
    fn from(id: DeliveryId) -> Self {
        let DeliveryId { partition, offset, attempt, topic } = id;
        Self { partition, offset, attempt, topic }
    }
}

impl From<&WireDelivery> for DeliveryId {
    fn from(delivery: &WireDelivery) -> Self {
        let WireDelivery { partition, offset, attempt, topic } = *delivery;
        Self { partition, offset, attempt, topic }
    }
}

impl DeliveryId {
    fn new(topic: Id, lease: Lease) -> Self {
        let ((partition, offset), attempt) = (lease.spot, lease.attempt);
        Self { partition, offset, attempt, topic }
    }

    fn lease(self) -> Lease {
        Lease { spot: (self.partition, self.offset), attempt: self.attempt }
    }
}

/// Why a delivery was not settled.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Its lock is over: the time was up, or it was settled before. Somebody else may have the record now.
    #[error(
        "the lock of queue {queue} on topic {topic}, partition {partition}, offset {offset} is over"
    )]
    LockLost {
        /// The queue's name.
        queue: Arc<str>,
        /// The name of its topic.
        topic: Arc<str>,
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
            QueueError::LockLost { topic, partition, offset, .. } => {
                let mut remote = Self::new(RemoteCode::LockLost, error.to_string());
                remote.topic = Some(topic.to_string());
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
    /// Records that were given up, but whose dead letters were refused; see
    /// [`dead_letter_error`](DurableQueue::dead_letter_error).
    pub unburied: usize,
    /// Workers that wait now.
    pub waiting: usize,
}

/// A durable work queue over a topic of a log: every record goes to one worker at a time, under a lock that ends by
/// itself; what is acknowledged never comes again, what is not is delivered anew, also after a restart of the process.
/// Clones are the same queue, and so is one that is opened by its name while another is. Only durable records are delivered.
///
/// ```
/// use std::sync::{Arc, Weak};
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
    /// The name of the topic.
    topic: String,
    options: QueueOptions,
    clock: Arc<dyn Clock>,
    /// Held by the thread that does what waits for the medium. Before `state` in the order of locks.
    chores: Mutex<()>,
    /// Somebody has been asked to do that.
    asked: AtomicBool,
    state: Mutex<State>,
}

impl Inner {
    /// Refuses to open as another one what is open.
    fn check_same(&self, topic: &str, options: &QueueOptions) -> Result<(), LogError> {
        // A topic that was made anew is the one that it goes on with.
        if self.topic == topic && self.options.are_those_of(options) {
            return Ok(());
        }
        let reason =
            format!("{} is open already, over another topic or with other options", self.name);
        Err(LogError::Invalid { what: "queue", reason })
    }
}

/// The queues of a log that are open, by name: whoever opens one again gets the same, as two would deliver every record
/// twice. Its lock is held while a queue is opened, and comes before all others.
#[derive(Debug, Default)]
pub(in crate::log) struct Queues(Mutex<BTreeMap<String, Weak<Inner>>>);

impl DurableQueue {
    /// How a queue is to work.
    pub fn options() -> QueueOptions {
        QueueOptions::default()
    }

    fn start(options: QueueOptions, log: &Log, name: &str, topic: &str) -> Result<Self, LogError> {
        let mut queues = hold(&log.inner.queues.0);
        let topic = log.topic(topic)?;
        if options.dead_letters.as_deref() == Some(topic.name()) {
            let reason = format!("{} is the topic that {name} itself is over", topic.name());
            return Err(LogError::Invalid { what: "dead_letters", reason });
        }
        if let Some(inner) = queues.get(name).and_then(Weak::upgrade) {
            inner.check_same(topic.name(), &options)?;
            return Ok(Self { inner });
        }
        let dead_letters =
            options.dead_letters.as_deref().map(|dead| log.topic(dead)).transpose()?;
        let state = State::open(&options, log, name, &topic, dead_letters)?;
        let clock = log.inner.shared.clock.clone();
        let (chores, asked) = (Mutex::new(()), AtomicBool::new(false));
        let (own, topic) = (name.to_owned(), topic.name().to_owned());
        let state = Mutex::new(state);
        let inner = Arc::new(Inner { name: own, topic, options, clock, chores, asked, state });
        queues.retain(|_, queue| queue.strong_count() > 0);
        queues.insert(name.to_owned(), Arc::downgrade(&inner));
        Ok(Self { inner })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether it is a queue of this log.
    pub(in crate::log) fn is_of(&self, log: &Log) -> bool {
        Arc::ptr_eq(&self.state().topic.log, &log.inner)
    }

    /// What it has done and has.
    pub fn stats(&self) -> QueueStats {
        let state = self.state();
        QueueStats {
            available: state.core.available(),
            locked: state.core.locked(),
            unburied: state.unburied.len(),
            waiting: state.waiters.len(),
            ..state.stats
        }
    }

    /// Why dead letters are waiting, if some are: what their topic said to the last one. They are tried again every second
    /// at which somebody asks for work; their records stay in the window until then.
    pub fn dead_letter_error(&self) -> Option<LogError> {
        let state = self.state();
        state.refusal.clone().filter(|_| !state.unburied.is_empty())
    }

    fn state(&self) -> Held<'_, State> {
        hold(&self.inner.state)
    }

    /// Acquires up to `count_max` records, waiting at most `timeout` for the first; none if there was none until then.
    /// Each is locked for `lock`: who does not settle it until then loses it to somebody else. Workers that wait get
    /// records in turn, and share what there is.
    ///
    /// # Errors
    /// Failures of the log. A partition that cannot be read keeps nobody from the records of the others: its failure is
    /// told at once if there are no others, else to who has waited for nothing. `TopicDeleted` while no topic has the name of
    /// the queue's; over one that is made anew the queue begins at the earliest record.
    pub fn acquire(
        &self,
        count_max: usize,
        lock: Duration,
        timeout: Duration,
    ) -> Result<Vec<Delivery>, LogError> {
        let count_max = u32::try_from(count_max).unwrap_or(u32::MAX);
        let mut acquiring = self.acquiring(count_max, usize::MAX, lock);
        let deadline = now().checked_add(timeout);
        let alarm = Arc::new(Alarm::default());
        let waker = alarm.waker(0);
        loop {
            self.tend()?;
            let over = deadline.is_some_and(|deadline| deadline <= now());
            if let Poll::Ready(acquired) = acquiring.poll(&waker, over) {
                return acquired;
            }
            let wake_at = match (deadline, acquiring.look_again_at()) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            // A lock that ended just now may have been the last one of its record.
            if !self.has_chores() {
                alarm.wait(wake_at);
            }
        }
    }

    /// These are dealt with and never come again. When this returns that has the queue's level.
    ///
    /// # Errors
    /// The first failure; `LockLost` for a delivery whose lock is over. The others are settled nevertheless.
    pub fn ack(&self, ids: &[DeliveryId]) -> Result<(), QueueError> {
        self.settle(Verdict::Ack, ids)
    }

    /// These go to somebody else, at once. The attempt counts; who makes the last one waits for the dead letter.
    ///
    /// # Errors
    /// As [`ack`](Self::ack), and for the last attempt as [`reject`](Self::reject).
    pub fn release(&self, ids: &[DeliveryId]) -> Result<(), QueueError> {
        self.settle(Verdict::Release, ids)
    }

    /// These cannot be dealt with: they go to the dead letters.
    ///
    /// # Errors
    /// As [`ack`](Self::ack), and what the topic of dead letters says if it refuses one: that record is given up
    /// nevertheless, and its letter tried again.
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
        // Judged by when it was asked for.
        let now_ms = self.inner.clock.steady_ms();
        self.tidy()?;
        let mut settling = self.settling_at(now_ms, verdict, &ids);
        settling.wait()?;
        settling.refused.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// Begins to acquire: so many records at most, and no more than so many bytes of them but for the first.
    pub(in crate::log) fn acquiring(
        &self,
        count_max: u32,
        bytes_max: usize,
        lock: Duration,
    ) -> Acquiring {
        Acquiring::new(self.clone(), count_max, bytes_max, lock)
    }

    /// Settles; what is left is to wait for its level, and for dead letters.
    pub(in crate::log) fn settling(&self, verdict: Verdict, ids: &[WireDelivery]) -> Settling {
        self.settling_at(self.inner.clock.steady_ms(), verdict, ids)
    }

    fn settling_at(&self, now_ms: i64, verdict: Verdict, ids: &[WireDelivery]) -> Settling {
        let inner = &self.inner;
        let mut state = self.state();
        let mut refused = Vec::with_capacity(ids.len());
        let mut names: Option<(Arc<str>, Arc<str>)> = None;
        let (mut leases, mut named) = (Vec::new(), BTreeSet::new());
        for id in ids.iter().map(DeliveryId::from) {
            let is_own = id.topic == state.topic.inner.id;
            let held = is_own && state.core.holds(id.lease(), now_ms);
            let holds = held && named.insert(id.lease());
            let DeliveryId { partition, offset, .. } = id;
            refused.push((!holds).then(|| {
                let named = || (inner.name.as_str().into(), state.topic.name().into());
                let (queue, topic) = names.get_or_insert_with(named).clone();
                QueueError::LockLost { queue, topic, partition, offset }
            }));
            leases.extend(holds.then(|| id.lease()));
        }
        let (before, full) = (state.core.next_expiry(), state.core.full());
        let outcome = state.settle(inner, verdict, &leases, now_ms);
        // Who waits has counted on the lock that ended first.
        let sooner =
            state.core.next_expiry().is_some_and(|next| before.is_none_or(|was| next < was));
        // Or has found that there was no room for what the log has.
        let readable = state.core.full() < full;
        let news = sooner || readable || state.core.available() > 0;
        let next = state.first_waiter().filter(|_| news);
        let dying = leases.iter().map(|lease| lease.spot);
        let dying: BTreeSet<Spot> = dying.filter(|spot| state.core.is_dying(*spot)).collect();
        drop(state);
        wakers::call(next);
        let dying = (!dying.is_empty()).then(|| (self.clone(), dying));
        match outcome {
            Ok(ticket) => Settling { ticket, failed: None, refused, dying },
            Err(error) => Settling { ticket: None, failed: Some(error), refused, dying: None },
        }
    }
}
