//! Who writes, and who syncs: the first who needs it does it for all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::gather::{Load, Parcel};
use crate::log::error::LogError;
use crate::log::partition::Partition;
use crate::log::partition::writer::Writer;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};

/// Whether a sync is in flight, and those who wait for its end.
#[derive(Debug, Default)]
pub(in crate::log) struct Commit {
    syncing: Mutex<bool>,
    done: Condvar,
}

/// Says that no sync is in flight any more, however it ended.
struct Syncing<'a>(&'a Commit);

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        *lock(&self.0.syncing) = false;
        self.0.done.notify_all();
    }
}

impl Partition {
    /// Writes all that has gathered. `Ok` if everything gathered before the call is written.
    pub(in crate::log) fn write_now(&self) -> Result<(), LogError> {
        let mut writer = lock(&self.writer);
        let written = self.write_gathered(&mut writer);
        drop(writer);
        self.write_if_wanted();
        written
    }

    /// Writes all that has gathered, unless somebody writes just now: who that is writes this too, then.
    pub(in crate::log) fn write_if_free(&self) {
        self.write_wanted.store(true, Ordering::SeqCst);
        self.write_if_wanted();
    }

    /// The wish is looked at after the lock was given up: either its holder sees the wish, or who wishes gets the lock.
    pub(in crate::log) fn write_if_wanted(&self) {
        while self.write_wanted.load(Ordering::SeqCst) {
            let Some(mut writer) = self.try_writer() else { return };
            self.write_wanted.store(false, Ordering::SeqCst);
            // Whoever has a part in it hears of a failure by its ticket.
            let _ = self.write_gathered(&mut writer);
        }
    }

    fn try_writer(&self) -> Option<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Writes what has gathered, under the writer's lock, and settles its fate.
    pub(in crate::log) fn write_gathered(&self, writer: &mut Writer) -> Result<(), LogError> {
        let Some(Load { parcels, group }) = lock(&self.gather).take() else { return Ok(()) };
        let mut buffers = Vec::with_capacity(parcels.len());
        let mut written = self.shared.check_poison();
        for parcel in parcels {
            match parcel {
                Parcel::Encoded(batch) => buffers.push(batch),
                Parcel::Records(builder) => match builder.finish() {
                    Ok(batch) => buffers.push(batch),
                    Err(error) => written = written.and(Err(self.bad_batch(error))),
                },
            }
        }
        if written.is_ok() {
            written = writer.append(self, &buffers);
        }
        match &written {
            Ok(()) => lock(&self.gather).written(self, buffers),
            Err(error) => self.fail_gathered(writer, &group, error),
        }
        group.settle();
        written
    }

    /// What was being written failed from the published end on; what gathered behind it must not be written, for its
    /// offsets are wrong now.
    #[cold]
    fn fail_gathered(&self, writer: &Writer, group: &super::Group, error: &LogError) {
        let end = writer.active.next_offset();
        let mut gather = lock(&self.gather);
        group.fail_from(end, error);
        if let Some(behind) = gather.failed(end, &writer.producers) {
            behind.fail_from(end, error);
            behind.settle();
        }
        drop(gather);
        self.durables.wake_all();
    }

    /// Makes everything up to `offset` durable, or waits for whoever does. False if the time is up.
    pub(in crate::log) fn commit(
        &self,
        offset: i64,
        deadline: Option<std::time::Instant>,
        mut hopeless: impl FnMut() -> Option<LogError>,
    ) -> Result<bool, LogError> {
        loop {
            let mut syncing = lock(&self.commit.syncing);
            if self.durable_end() > offset {
                return Ok(true);
            }
            if let Some(error) = hopeless() {
                return Err(error);
            }
            self.shared.check_poison()?;
            if *syncing {
                let left =
                    deadline.map(|end| end.saturating_duration_since(crate::transport::now()));
                match left {
                    Some(Duration::ZERO) => return Ok(false),
                    Some(left) => {
                        let waited = self.commit.done.wait_timeout(syncing, left);
                        drop(waited.unwrap_or_else(PoisonError::into_inner));
                    }
                    None => {
                        let waited = self.commit.done.wait(syncing);
                        drop(waited.unwrap_or_else(PoisonError::into_inner));
                    }
                }
                continue;
            }
            *syncing = true;
            drop(syncing);
            let turn = Syncing(&self.commit);
            let synced = self.sync_now();
            drop(turn);
            synced?;
        }
    }

    /// Writes what has gathered and syncs it. The sync runs without a lock: others go on appending. What fails to be
    /// written is told by tickets; an error here is one of the sync, or stops everything.
    pub(in crate::log) fn sync_now(&self) -> Result<(), LogError> {
        let mut writer = lock(&self.writer);
        let _ = self.write_gathered(&mut writer);
        self.shared.check_poison()?;
        let active = writer.active.clone();
        let watermark = writer.watermark(self.shared.epoch);
        drop(writer);
        // Before the sync: who wishes something written does not wait for the medium.
        self.write_if_wanted();
        if watermark.offset > self.durable_end() {
            active.sync().map_err(|error| self.poison(&error))?;
            self.now_durable(watermark);
        }
        Ok(())
    }

    /// Makes all that was appended so far durable.
    pub(in crate::log) fn flush_durable(&self) -> Result<(), LogError> {
        self.write_now()?;
        let end = self.written_end();
        if end == 0 || self.durable_end() >= end {
            return Ok(());
        }
        self.commit(end - 1, None, || None).map(drop)
    }

    /// For the keeper: syncs as long as tasks wait for it.
    pub(in crate::log) fn sync_for_tasks(self: &Arc<Self>) {
        // One sync in flight may not have all of it; the next one has, or never will.
        let mut tries = 0;
        let hopeless = || {
            tries += 1;
            (tries > 2).then_some(LogError::Closed)
        };
        if self.durables.any() {
            let _ = self.commit(self.appended_end() - 1, None, hopeless);
        }
    }

    /// The offset after the last one appended.
    fn appended_end(&self) -> i64 {
        lock(&self.gather).next_offset
    }
}
