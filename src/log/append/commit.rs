//! Who writes, and who syncs: the first who needs it does it for all. Who waits for a sync, `queue.rs` keeps.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::gather::{Load, Parcel};
use super::queue::{Next, Queue};
use crate::log::error::LogError;
use crate::log::partition::Partition;
use crate::log::partition::writer::Writer;
use crate::log::storage::Operation;
use crate::log::threads;
use crate::log::wakers::{self, Hush, hold, try_hold};
use crate::sync::{Mutex, lock};
use crate::transport::now;

/// Those who wait for a sync, and whether one is in flight. Its lock is held for moments, and no other is taken under it.
#[derive(Debug, Default)]
pub(in crate::log) struct Commit {
    queue: Mutex<Queue>,
}

impl Commit {
    /// Lets everybody look again whether there is still something to wait for.
    #[cold]
    pub(in crate::log) fn call_all(&self) {
        let called = lock(&self.queue).take_all();
        called.wake();
    }
}

/// The turn of the caller that syncs. However it ends, those whose records are durable then are woken, and one of the
/// others if there are any.
struct Turn<'a> {
    partition: &'a Partition,
    /// How long the sync took; nothing if there was none.
    took: Duration,
    /// Whether it syncs for an append of its own, and may come back with the next one.
    is_caller: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.partition.commit.queue);
        let durable_end = self.partition.durable_end();
        let called = match self.is_caller {
            true => queue.end_turn(durable_end, self.took),
            false => queue.end_readers_turn(durable_end, self.took),
        };
        drop(queue);
        called.wake();
        self.partition.call_readers();
    }
}

impl Partition {
    /// Writes all that has gathered. `Ok` if everything gathered before the call is written.
    pub(in crate::log) fn write_now(&self) -> Result<(), LogError> {
        let mut writer = hold(&self.writer);
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

    /// The wish is looked at after the lock was given up: either its holder sees the wish, or who wishes gets the lock. Who
    /// waits for what was written does not wait for what else this thread holds.
    pub(in crate::log) fn write_if_wanted(&self) {
        while self.write_wanted.load(Ordering::SeqCst) {
            let Some(mut writer) = try_hold(&self.writer) else { break };
            self.write_wanted.store(false, Ordering::SeqCst);
            // Whoever has a part in it hears of a failure by its ticket.
            let _ = self.write_gathered(&mut writer);
        }
        wakers::hand_over();
    }

    /// As [`write_if_free`](Self::write_if_free), but if this thread must not block, and writing might, the keeper writes.
    pub(in crate::log) fn write_without_waiting(self: &Arc<Self>) {
        if !threads::must_not_block() {
            return self.write_if_free();
        }
        self.write_wanted.store(true, Ordering::SeqCst);
        while self.write_wanted.load(Ordering::SeqCst) {
            let Some(mut writer) = try_hold(&self.writer) else { break };
            self.write_wanted.store(false, Ordering::SeqCst);
            let Some(load) = self.take_at_once(&writer) else {
                drop(writer);
                return self.shared.keeper.write(self);
            };
            let _ = self.write_load(&mut writer, load);
            if writer.uncut {
                drop(writer);
                return self.shared.keeper.write(self);
            }
        }
    }

    /// As [`write_now`](Self::write_now), but if this thread must not block, and writing might, it is not done when this
    /// returns. Tickets tell what becomes of it.
    pub(in crate::log) fn write_for_task(self: &Arc<Self>) {
        if threads::must_not_block() {
            self.write_without_waiting();
        } else {
            let _ = self.write_now();
        }
    }

    /// Takes out what has gathered; `None` if to write it might block for longer than a system call.
    fn take_at_once(&self, writer: &Writer) -> Option<Option<Load>> {
        let mut gather = lock(&self.gather);
        let Some(outlook) = gather.outlook() else { return Some(None) };
        writer.writes_at_once(self, outlook).then(|| gather.take())
    }

    /// Writes what has gathered, under the writer's lock, and settles its fate.
    pub(in crate::log) fn write_gathered(&self, writer: &mut Writer) -> Result<(), LogError> {
        // A failure stops everything, which is where it is told.
        let _ = writer.cut(self);
        let load = lock(&self.gather).take();
        self.write_load(writer, load)
    }

    fn write_load(&self, writer: &mut Writer, load: Option<Load>) -> Result<(), LogError> {
        let Some(Load { parcels, group }) = load else { return Ok(()) };
        let mut buffers = Vec::with_capacity(parcels.len());
        let mut written = self.shared.check_poison();
        for parcel in parcels {
            match parcel {
                Parcel::Encoded(batch) => buffers.push(batch),
                Parcel::Bad(error) => written = written.and(Err(self.bad_batch(error))),
                Parcel::Records(builder) => match builder.finish() {
                    Ok(batch) => buffers.push(batch),
                    Err(error) => written = written.and(Err(self.bad_batch(error))),
                },
            }
        }
        let mut panic = None;
        if written.is_ok() {
            let appended = self.unless_panic(Operation::Write, || writer.append(self, &buffers));
            written = appended.unwrap_or_else(|(error, payload)| {
                panic = Some(payload);
                Err(error)
            });
        }
        match &written {
            Ok(()) => {
                lock(&self.gather).written(self, buffers);
                group.settle();
            }
            Err(error) => self.fail_gathered(writer, &group, error),
        }
        self.writes.wake_all();
        // Everybody who waits knows of it by now.
        panic.map_or(written, |payload| resume_unwind(payload))
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
        // Before anybody is woken: who looks again must find out.
        group.settle();
        self.durables.wake_all();
        self.commit.call_all();
    }

    /// Makes everything up to `offset` durable, or waits for whoever does. False if the time is up. `hopeless` tells why
    /// that will never be, or never for this caller.
    pub(in crate::log) fn commit(
        &self,
        offset: i64,
        deadline: Option<Instant>,
        mut hopeless: impl FnMut() -> Option<LogError>,
    ) -> Result<bool, LogError> {
        let mut patient = true;
        loop {
            // First how far it is, then whether there is hope: the offset of an append that failed goes to another, whose
            // record only becomes durable after the failure is known.
            let durable = self.durable_end() > offset;
            let fate = match hopeless() {
                Some(error) => Some(Err(error)),
                None if durable => Some(Ok(true)),
                None => self.shared.check_poison().map_or_else(|error| Some(Err(error)), |()| None),
            };
            let late = deadline.is_some_and(|deadline| deadline <= now());
            let mut queue = lock(&self.commit.queue);
            // Whoever finds nobody syncing does it, however late it is: else nobody might.
            let fate = fate.or_else(|| (late && queue.is_led()).then_some(Ok(false)));
            if let Some(fate) = fate {
                let called = queue.leave();
                drop(queue);
                called.wake();
                if fate.is_err() {
                    self.call_readers();
                }
                return fate;
            }
            // What became durable since then was told to those in the queue only.
            if self.durable_end() > offset {
                continue;
            }
            match queue.next(offset, patient && !late) {
                Next::Lead => {
                    drop(queue);
                    self.take_turn(true)?;
                    patient = true;
                }
                Next::Wait(seat) => {
                    drop(queue);
                    patient = seat.wait(&self.commit.queue, deadline);
                }
            }
        }
    }

    /// Syncs for all, as the only one. Others wait for the end of the turn, so nobody is called before.
    fn take_turn(&self, is_caller: bool) -> Result<(), LogError> {
        let hush = Hush::new();
        let mut turn = Turn { partition: self, took: Duration::ZERO, is_caller };
        let synced = self.sync_now().map(|took| turn.took = took);
        drop(turn);
        drop(hush);
        // The caller may hold more, and for longer.
        wakers::hand_over();
        synced
    }

    /// Writes what has gathered and syncs it; returns how long the sync took. The sync runs without a lock: others go on
    /// appending. What fails to be written is told by tickets; an error here is one of the sync, or stops everything.
    fn sync_now(&self) -> Result<Duration, LogError> {
        let mut writer = hold(&self.writer);
        let _ = self.write_gathered(&mut writer);
        self.shared.check_poison()?;
        let active = writer.active.clone();
        let watermark = writer.watermark(self.shared.epoch);
        let is_news = watermark.offset > self.durable_end();
        let is_refused = is_news && writer.write_ahead(self)?;
        drop(writer);
        // Before the sync: who wishes something written does not wait for the medium.
        self.write_if_wanted();
        if is_refused {
            self.shared.take_idle_ahead();
        }
        if !is_news {
            return Ok(Duration::ZERO);
        }
        let begun = now();
        self.sync_to(&active, watermark)?;
        Ok(begun.elapsed())
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

    /// Whether there is something written that a power cut may take.
    pub(in crate::log) fn is_unsynced(&self) -> bool {
        self.written_end() > self.durable_end()
    }

    /// Syncs what is written, for those who read what is durable, unless somebody does, or waits and so will: that they do not
    /// wait for this one. When they are done, or give up, those who read are called to look again.
    pub(in crate::log) fn sync_for_readers(&self) {
        if self.is_waiting_for_readers() && lock(&self.commit.queue).lead_if_idle() {
            // It stops all appends, which is where it is told.
            let _ = self.take_turn(false);
        }
    }

    /// Whether nobody but those who read would have what is written synced.
    pub(in crate::log) fn is_left_to_readers(&self) -> bool {
        self.is_waiting_for_readers() && lock(&self.commit.queue).is_idle()
    }

    fn is_waiting_for_readers(&self) -> bool {
        self.is_unsynced() && self.shared.check_poison().is_ok()
    }

    /// Nobody may sync any more: those who read what is durable look whether they have to.
    fn call_readers(&self) {
        if self.is_waiting_for_readers() {
            self.durable_followers.wake_all();
        }
    }

    /// For the keeper: syncs as long as tasks wait for it.
    pub(in crate::log) fn sync_for_tasks(self: &Arc<Self>) {
        if !self.durables.any() {
            self.sync_for_readers();
        } else {
            let last = self.appended_end() - 1;
            // An offset that was taken back belongs to an append that failed; its task was told.
            let hopeless = || (self.appended_end() <= last).then_some(LogError::Closed);
            let _ = self.commit(last, None, hopeless);
        }
    }

    /// Whether so much has gathered that appenders wait for the writer.
    pub(in crate::log) fn is_crowded(&self) -> bool {
        lock(&self.gather).is_full(&self.options)
    }

    /// The offset after the last one appended.
    pub(in crate::log) fn appended_end(&self) -> i64 {
        lock(&self.gather).next_offset
    }
}

#[cfg(test)]
mod tests;
