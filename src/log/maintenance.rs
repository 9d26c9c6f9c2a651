//! When retention and compaction run: in a thread of their own, now and then and when a segment was ended, or when the
//! owner of the log says so.
//!
//! Not in the keeper's thread: compaction may take long, and tasks would wait for their syncs meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::error::LogError;
use super::format::names::CLEANER_OFFSETS;
use super::options::TopicOptions;
use super::partition::Partition;
use super::topic::TopicInner;
use super::wakers::hold;
use super::{LogInner, offsets_of};
use crate::sync::{Condvar, Mutex, lock};

/// What one pass of [`Log::maintain`](super::Log::maintain) removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Maintained {
    /// Offsets that partitions do not have any more, because of retention.
    pub removed_records: u64,
    /// Partitions that were compacted.
    pub compacted_partitions: u64,
    /// Records that compaction removed.
    pub compacted_records: u64,
    /// Bytes that compaction gave back.
    pub compacted_bytes: u64,
}

/// What was removed from a partition since the log was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) removed_records: AtomicU64,
    pub(super) removed_bytes: AtomicU64,
    pub(super) compacted_records: AtomicU64,
    pub(super) compacted_bytes: AtomicU64,
}

impl Counters {
    /// The front was cut by so many offsets; segments with so many bytes are gone.
    pub(super) fn removed(&self, records: i64, bytes: u64) {
        let records = u64::try_from(records).unwrap_or(0);
        self.removed_records.fetch_add(records, Ordering::Relaxed);
        self.removed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Compaction has removed so many records, and so many bytes.
    pub(super) fn compacted(&self, records: u64, bytes: u64) {
        self.compacted_records.fetch_add(records, Ordering::Relaxed);
        self.compacted_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Calls for passes, and the thread that makes them. It starts when a topic first needs it, and ends with the log.
#[derive(Debug)]
pub(super) struct Maintenance {
    /// How often; `None`: only when the owner says so.
    interval: Option<Duration>,
    /// Bytes of the table of keys.
    pub(super) table_bytes: usize,
    ending: AtomicBool,
    /// Since this was looked at a segment was ended, or something else happened that there may be something to do for.
    news: AtomicBool,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Mutex<Calls>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Calls {
    log: Weak<LogInner>,
    wanted: bool,
    ended: bool,
    thread: Option<std::thread::JoinHandle<()>>,
    /// How the last pass of the thread failed.
    failure: Option<LogError>,
}

impl Maintenance {
    pub(super) fn new(interval: Option<Duration>, table_bytes: usize) -> Self {
        let (ending, news) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { interval, table_bytes, ending, news, state: Arc::default() }
    }

    /// Tells whose passes these are. Before, nobody calls for any.
    pub(super) fn attach(&self, log: Weak<LogInner>) {
        lock(&self.state.calls).log = log;
    }

    /// A topic with these options may have something to do.
    pub(super) fn wanted(&self, options: &TopicOptions) {
        if !options.needs_maintenance() {
            return;
        }
        self.news.store(true, Ordering::SeqCst);
        let Some(interval) = self.interval else { return };
        let mut calls = lock(&self.state.calls);
        if calls.ended || calls.log.strong_count() == 0 {
            return;
        }
        calls.wanted = true;
        if calls.thread.is_none() {
            let state = self.state.clone();
            let builder = std::thread::Builder::new().name("peermq-log-upkeep".to_owned());
            // Without a thread the next call tries again.
            calls.thread = builder.spawn(move || run(&state, interval)).ok();
        } else {
            self.state.called.notify_one();
        }
    }

    /// Whether passes are to end soon.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Whether there was something new since this was asked last.
    fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::SeqCst)
    }

    /// How the last pass of the thread failed, if it did.
    pub(super) fn failure(&self) -> Option<LogError> {
        lock(&self.state.calls).failure.clone()
    }

    /// Whether the calling thread is that of these passes.
    pub(super) fn is_own_thread(&self) -> bool {
        let calls = lock(&self.state.calls);
        let own = std::thread::current().id();
        calls.thread.as_ref().is_some_and(|thread| thread.thread().id() == own)
    }

    /// Lets the pass that is under way end soon.
    pub(super) fn hurry(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Ends the thread, and the pass that is under way.
    pub(super) fn end(&self) {
        self.hurry();
        let mut calls = lock(&self.state.calls);
        calls.ended = true;
        let thread = calls.thread.take();
        drop(calls);
        self.state.called.notify_all();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(state: &State, interval: Duration) {
    super::threads::begin_work();
    let mut calls = lock(&state.calls);
    while !calls.ended {
        if !calls.wanted {
            let waited = state.called.wait_timeout(calls, interval);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            calls = woken;
            if !timeout.timed_out() {
                continue;
            }
        }
        calls.wanted = false;
        let log = calls.log.clone();
        drop(calls);
        let Some(log) = log.upgrade() else { return };
        let failure = log.maintain().err();
        // The last handle may have gone meanwhile without closing the log, which is left to this then.
        drop(log);
        calls = lock(&state.calls);
        calls.failure = failure;
    }
}

impl LogInner {
    /// One pass over all topics. A partition that fails does not keep the others from theirs.
    pub(super) fn maintain(&self) -> Result<Maintained, LogError> {
        let _turn = hold(&self.maintaining);
        self.shared.check()?;
        let topics = self.all_topics();
        let mut maintained = Maintained::default();
        // First what is quick, of all partitions: compaction may take long.
        let kept = self.retain_all(&topics, &mut maintained);
        let mut outcome: Result<(), _> = kept.iter().cloned().collect();
        for ((topic, partition), kept) in partitions(&topics).zip(kept) {
            if self.shared.maintenance.is_ending() {
                break;
            }
            if kept.is_err() {
                continue;
            }
            let before = maintained.compacted_partitions;
            let compacted = self.compact(topic, partition, &mut maintained);
            outcome = outcome.and(self.unless_retired(partition, compacted));
            // The rest may take as long again, and meanwhile nobody else looks after what was ended since.
            if maintained.compacted_partitions > before && self.shared.maintenance.take_news() {
                let kept = self.retain_all(&topics, &mut maintained);
                outcome = outcome.and(kept.into_iter().collect());
            }
        }
        outcome.map(|()| maintained)
    }

    /// Lets all partitions age, and go of what they need not keep; what came of it for each. None more is looked at when the
    /// pass is to end.
    fn retain_all(
        &self,
        topics: &[Arc<TopicInner>],
        maintained: &mut Maintained,
    ) -> Vec<Result<(), LogError>> {
        // What is ended from now on is news again.
        self.shared.maintenance.take_news();
        let goes_on = |_: &_| !self.shared.maintenance.is_ending();
        let keep = |(topic, partition): (&TopicInner, &Partition)| {
            let aged = partition.age();
            // A medium that is full has all the more to let go of what it need not keep.
            let full = aged.as_ref().is_err_and(LogError::is_full);
            let goes_on = if full { Ok(()) } else { aged.clone() };
            let kept = goes_on.and_then(|()| self.retain(topic, partition, maintained));
            self.unless_retired(partition, kept.and(aged))
        };
        partitions(topics).take_while(goes_on).map(keep).collect()
    }

    /// What came of a partition's turn: a topic that was deleted meanwhile has nothing left to do.
    fn unless_retired(
        &self,
        partition: &Partition,
        outcome: Result<(), LogError>,
    ) -> Result<(), LogError> {
        let retired = partition.retired.load(Ordering::SeqCst) && self.shared.check().is_ok();
        if retired { Ok(()) } else { outcome }
    }

    /// Lets go of what need not be kept.
    fn retain(
        &self,
        topic: &TopicInner,
        partition: &Partition,
        maintained: &mut Maintained,
    ) -> Result<(), LogError> {
        // What could not be removed before may be by now.
        let Some(start) = partition.retained_from() else { return partition.remove_dropped() };
        let before = partition.log_start();
        let indexes = || partition.drop_indexes(start);
        self.making_room(indexes, || {
            // It is decided what goes; a transaction must not need it any more.
            drop(self.settle_transactions()?);
            self.cut_front(topic, partition, start)
        })?;
        let records = partition.log_start().saturating_sub(before);
        maintained.removed_records += u64::try_from(records).unwrap_or(0);
        Ok(())
    }

    /// Compacts a partition as far as it is worth it, but for what is ended meanwhile: somebody who appends as fast as this
    /// compacts would keep the pass from its end.
    fn compact(
        &self,
        topic: &TopicInner,
        partition: &Partition,
        maintained: &mut Maintained,
    ) -> Result<(), LogError> {
        if !partition.options.compact {
            return Ok(());
        }
        let key = (topic.name.clone(), partition.home.partition);
        let mut until = lock(&self.cleaned).get(&key).copied().unwrap_or(0);
        let (mut passes, mut first_end) = (0, None);
        while let Some(end) = partition.compactable(until)? {
            let end = *first_end.get_or_insert(end);
            // What transactions appended before `end` is settled; what they append from now on comes behind it.
            drop(self.settle_transactions()?);
            let table_bytes = self.shared.maintenance.table_bytes;
            let compacted = partition.compact(until, end, table_bytes)?;
            let Some(compacted) = compacted else { break };
            maintained.compacted_partitions += u64::from(passes == 0);
            maintained.compacted_records += compacted.records;
            maintained.compacted_bytes += compacted.bytes;
            passes += 1;
            if compacted.until == until {
                break;
            }
            until = compacted.until;
            let mut cleaned = lock(&self.cleaned);
            // A topic that was deleted meanwhile has no checkpoint, whatever comes after it.
            if partition.check().is_ok() {
                cleaned.insert(key.clone(), until);
                self.save_offsets(CLEANER_OFFSETS, offsets_of(&cleaned))?;
            }
            drop(cleaned);
            if until >= end {
                break;
            }
        }
        Ok(())
    }

    /// Forgets how far a topic was compacted.
    pub(super) fn forget_cleaned(&self, topic: &str) -> Result<(), LogError> {
        let mut cleaned = lock(&self.cleaned);
        let mut rest = cleaned.clone();
        rest.retain(|(name, _), _| name != topic);
        if rest.len() < cleaned.len() {
            self.save_offsets(CLEANER_OFFSETS, offsets_of(&rest))?;
            *cleaned = rest;
        }
        Ok(())
    }
}

fn partitions(topics: &[Arc<TopicInner>]) -> impl Iterator<Item = (&TopicInner, &Partition)> {
    topics.iter().flat_map(|topic| topic.partitions.iter().map(move |one| (&**topic, &**one)))
}

#[cfg(test)]
mod tests;
