//! What an append gives back: its offset, and a way to learn when it has the level that was asked for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::log::error::LogError;
use crate::log::options::Level;
use crate::log::partition::{Partition, Waiters};
use crate::transport::now;

/// The common fate of records that are written together.
#[derive(Debug)]
pub(in crate::log) struct Group {
    partition: Arc<Partition>,
    /// What will happen has happened: all offsets below `failed_from` are written, no others.
    settled: AtomicBool,
    failed_from: AtomicI64,
    error: OnceLock<LogError>,
}

impl Group {
    pub(in crate::log) fn new(partition: Arc<Partition>) -> Self {
        let failed_from = AtomicI64::new(i64::MAX);
        Self { partition, settled: AtomicBool::new(false), failed_from, error: OnceLock::new() }
    }

    /// The fate of what was written before.
    pub(in crate::log) fn done(partition: Arc<Partition>) -> Arc<Self> {
        let group = Self::new(partition);
        group.settle();
        Arc::new(group)
    }

    /// Nothing from this offset on was written.
    pub(in crate::log) fn fail_from(&self, offset: i64, error: &LogError) {
        self.failed_from.store(offset, Ordering::Relaxed);
        let _ = self.error.set(error.clone());
    }

    /// Its fate is known from now on.
    pub(in crate::log) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Whether the record with this offset is written, if that is known.
    fn written(&self, offset: i64) -> Option<Result<(), LogError>> {
        if !self.settled.load(Ordering::Acquire) {
            return None;
        }
        match self.error.get() {
            Some(error) if offset >= self.failed_from.load(Ordering::Relaxed) => {
                Some(Err(error.clone()))
            }
            _ => Some(Ok(())),
        }
    }
}

/// Tells when an append is done. Dropping it takes nothing back.
///
/// It can be waited for in a thread ([`wait`](Self::wait)) or as a future; either way the waiting thread does the work
/// itself if nobody else does it just now.
#[derive(Debug)]
#[must_use = "an append is only known to be done when its ticket was waited for"]
pub struct Ticket {
    group: Arc<Group>,
    first_offset: i64,
    offset: i64,
    level: Level,
    /// By which a waiting task is registered.
    task: Option<u64>,
}

impl Ticket {
    #[inline]
    pub(in crate::log) fn new(
        group: Arc<Group>,
        first_offset: i64,
        offset: i64,
        level: Level,
    ) -> Self {
        Self { group, first_offset, offset, level, task: None }
    }

    /// A ticket for what is written, of whoever it is: done when the record with this offset is durable.
    pub(in crate::log) fn of_written(partition: &Arc<Partition>, offset: i64) -> Self {
        Self::new(Group::done(partition.clone()), offset, offset, Level::Durable)
    }

    /// A ticket for the same append.
    pub(in crate::log) fn twin(&self) -> Self {
        Self::new(self.group.clone(), self.first_offset, self.offset, self.level)
    }

    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.group.partition.home.partition
    }

    /// The offset of the record; of several records that of the last.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The offset of the first record.
    pub fn first_offset(&self) -> i64 {
        self.first_offset
    }

    /// The level that is waited for.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Waits for another level than the append asked for.
    pub fn at_level(mut self, level: Level) -> Self {
        if let Some(id) = self.task.take() {
            self.waiters(&self.group.partition).forget(id);
        }
        self.level = level;
        self
    }

    /// Whether it is done, or has failed: waiting would not block.
    pub fn is_done(&self) -> bool {
        self.outcome().is_some()
    }

    /// Waits until the append has its level; returns the offset.
    ///
    /// # Errors
    /// `Full`: it is not in the log; of several records the first ones may be. `Poisoned`: whether it is will be seen when the
    /// log is opened anew.
    pub fn wait(self) -> Result<i64, LogError> {
        self.wait_until(None).map(|_| self.offset)
    }

    /// As [`wait`](Self::wait), but gives up after a time: `None` then, and the ticket can be waited for again. Work that
    /// this thread does itself is not interrupted.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<i64>, LogError> {
        let done = self.wait_until(now().checked_add(timeout))?;
        Ok(done.then_some(self.offset))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<bool, LogError> {
        let partition = &self.group.partition;
        if let Some(outcome) = self.outcome() {
            return outcome.map(|()| true);
        }
        match self.level {
            Level::Buffered => Ok(true),
            Level::Written => {
                // Its outcome is that of the group, not that of the call: others may have written it.
                let _ = partition.write_now();
                self.group.written(self.offset).unwrap_or(Ok(())).map(|()| true)
            }
            Level::Durable => partition.commit(self.offset, deadline, || self.failure()),
        }
    }

    /// Where its task waits.
    fn waiters<'a>(&self, partition: &'a Partition) -> &'a Waiters {
        if self.level == Level::Durable { &partition.durables } else { &partition.writes }
    }

    fn failure(&self) -> Option<LogError> {
        self.group.written(self.offset)?.err()
    }

    /// What has become of it, if that is known.
    fn outcome(&self) -> Option<Result<(), LogError>> {
        if self.level == Level::Buffered {
            return Some(Ok(()));
        }
        let partition = &self.group.partition;
        match self.group.written(self.offset) {
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(())) if self.level == Level::Written => return Some(Ok(())),
            Some(Ok(())) if partition.durable_end() > self.offset => return Some(Ok(())),
            // Not written yet, or not durable. After a failure nobody might make it so.
            Some(Ok(())) | None => {}
        }
        partition.shared.check_poison().err().map(Err)
    }
}

impl Future for Ticket {
    type Output = Result<i64, LogError>;

    /// Writing is done in the poll, as it blocks no longer than a system call, unless a segment is full; a sync is left to
    /// the keeper's thread. A thread of a server leaves a segment that is full to that one, too.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let partition = self.group.partition.clone();
        if self.level == Level::Written && !self.is_done() {
            partition.write_for_task();
        }
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome.map(|()| self.offset));
        }
        let waiters = self.waiters(&partition);
        let id = *self.task.get_or_insert_with(|| waiters.id());
        waiters.register(id, context.waker());
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome.map(|()| self.offset));
        }
        // Who writes is at it already.
        if self.level == Level::Durable {
            partition.shared.keeper.sync(&partition);
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(id) = self.task {
            self.waiters(&self.group.partition).forget(id);
        }
    }
}
