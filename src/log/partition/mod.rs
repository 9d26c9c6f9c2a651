//! One partition: its segments in order, who appends to them and who reads them.
//!
//! A record passes four locks, never two of them against this order:
//!
//! 1. `writer`: held while batches are written; whoever has it writes all that has gathered.
//! 2. `syncing`: held while a segment is synced, which needs no other one.
//! 3. `gather`: held for moments; records get their offsets and are encoded under it, in memory.
//! 4. `watermark`, `view`: held for moments.
//!
//! Who waits is called under none of them (`wakers.rs`).
//!
//! Readers take a [`View`] (an `Arc`) and the published ends (atomics), and so never wait for a writer or keep one.
//! What is published only grows: `durable_end <= written_end`, except that the front may be cut.

mod ahead;
pub(super) mod producers;
pub(super) mod times;
mod waiters;
pub(super) mod watermark;
pub(super) mod writer;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::append::commit::Commit;
use super::append::gather::Gather;
use super::append::keeper::Keeper;
use super::append::spares::Spares;
use super::clock::Clock;
use super::error::LogError;
use super::format::FormatError;
use super::format::checkpoint::EpochStart;
use super::gate::Gate;
use super::maintenance::{Counters, Maintenance};
use super::options::{Level, LiveOptions};
use super::read::Lookout;
use super::recovery::repeated_if_missing;
use super::segment::{Home, OpenFiles, Segment};
use super::storage::{Operation, Storage, StorageError};
use super::wakers::{Held, hold};
use crate::sync::{Mutex, lock};
pub(super) use ahead::Holders;
pub(super) use waiters::Waiters;
use watermark::{Watermark, WatermarkFile};
use writer::Writer;

/// What all partitions of an open log share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) directory: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    /// The incarnation of this opening, in the leader epoch of every batch. -1 when open for reading only.
    pub(super) epoch: i32,
    /// The failure after which nothing is appended any more.
    pub(super) poison: OnceLock<LogError>,
    pub(super) closed: AtomicBool,
    pub(super) keeper: Keeper,
    /// Calls for retention and compaction.
    pub(super) maintenance: Maintenance,
    /// How long an idempotent producer may be silent and is remembered.
    pub(super) producer_expiry_ms: i64,
    /// Bytes of batches in a partition after which producers are written down again.
    pub(super) producer_snapshot_bytes: u64,
    /// Memory of batches that were written.
    pub(super) spares: Spares,
    /// Those partitions that have zeros written ahead.
    pub(super) holders: Holders,
    /// The files of sealed segments that are open.
    pub(super) files: Arc<OpenFiles>,
    /// All partitions of the log: a failure in one is the end of the others too, and who waits there is to know. Its
    /// lock is held for moments, and no other is taken under it.
    pub(super) partitions: Mutex<Vec<Weak<Partition>>>,
    /// Those who wait for something else than a partition, and have to know of such a failure, or that the log is closed.
    pub(super) bystanders: Waiters,
    /// Looks for tasks, where the log is open for reading only.
    pub(super) lookout: Lookout,
}

impl Shared {
    /// Whether appends are taken at all.
    pub(super) fn check(&self) -> Result<(), LogError> {
        if let Some(poison) = self.poison.get() {
            return Err(poison.clone());
        }
        if self.epoch < 0 {
            return Err(LogError::ReadOnly);
        }
        if self.closed.load(Ordering::Acquire) { Err(LogError::Closed) } else { Ok(()) }
    }

    /// Adds a partition to those that a failure concerns.
    pub(super) fn add(&self, partition: &Arc<Partition>) {
        let mut partitions = lock(&self.partitions);
        // Those that are gone, when there would be no room: so that opening many is not to look at all for each.
        if partitions.len() == partitions.capacity() {
            partitions.retain(|known| known.strong_count() > 0);
        }
        partitions.push(Arc::downgrade(partition));
    }

    /// Lets all who wait for anything look again: nothing will come any more.
    #[cold]
    pub(super) fn wake_all(&self) {
        let partitions: Vec<_> = lock(&self.partitions).iter().filter_map(Weak::upgrade).collect();
        for partition in partitions {
            partition.wake_readers();
            partition.durables.wake_all();
            partition.writes.wake_all();
            partition.commit.call_all();
        }
        self.bystanders.wake_all();
    }
}

/// The segments that readers may read, by rising base offset. Never empty.
#[derive(Debug)]
pub(super) struct View {
    pub(super) segments: Vec<Arc<Segment>>,
}

impl View {
    /// The segment that has, or would get, this offset; the first for lower ones.
    pub(super) fn segment_of(&self, offset: i64) -> Option<(usize, &Arc<Segment>)> {
        let above = self.segments.partition_point(|segment| segment.base_offset <= offset);
        let index = above.saturating_sub(1);
        self.segments.get(index).map(|segment| (index, segment))
    }
}

/// One partition of an open log.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) home: Arc<Home>,
    pub(super) options: Arc<LiveOptions>,
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Mutex<Writer>,
    /// Where the batches of earlier writers begin, and where this opening's do; `None` for a log that is open for reading
    /// only, whose writers come and go.
    pub(super) earlier: Option<(Vec<EpochStart>, i64)>,
    pub(super) gather: Mutex<Gather>,
    pub(super) view: Mutex<Arc<View>>,
    pub(super) watermark: Mutex<WatermarkFile>,
    /// Held while a segment is synced, until it is known what that means: after a sync that failed the system reports
    /// success for another one, though it has given up what the first did not write. After `writer` in the order of locks.
    syncing: Mutex<()>,
    /// The offset after the last one that readers see.
    pub(super) written_end: AtomicI64,
    /// The offset after the last one that survives a power cut.
    pub(super) durable_end: AtomicI64,
    /// The first offset that is there.
    pub(super) log_start: AtomicI64,
    /// The topic was deleted.
    pub(super) retired: AtomicBool,
    /// What `home` reaches its files through; shut when the topic was deleted.
    gate: Arc<Gate>,
    pub(super) commit: Commit,
    /// Those who wait for records to read.
    pub(super) followers: Waiters,
    /// Those who wait for durable records to read. Written ones wake them too: perhaps nobody else wants them synced.
    pub(super) durable_followers: Waiters,
    /// Tasks that wait for records to become durable.
    pub(super) durables: Waiters,
    /// Tasks that wait for records to be written.
    pub(super) writes: Waiters,
    /// Somebody found the writer busy and wants what has gathered written when it is done.
    pub(super) write_wanted: AtomicBool,
    /// Whether the keeper has been asked to write what gathers.
    pub(super) lingering: AtomicBool,
    /// Held by whoever removes or replaces segments. Before `writer` in the order of locks.
    pub(super) upkeep: Mutex<()>,
    /// Those who wait for `upkeep`, or will soon: whoever compacts gives up for them.
    pub(super) upkeep_wanted: AtomicUsize,
    /// Base offsets of segments that were let go of, but whose files may be there still. Its lock is held while they are
    /// removed; it comes after `upkeep` and before `writer`.
    dropped: Mutex<Vec<i64>>,
    /// What was removed since the log was opened.
    pub(super) counters: Counters,
}

/// What opening found out about a partition.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) home: Arc<Home>,
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) writer: Writer,
    pub(super) watermark: WatermarkFile,
    pub(super) durable_end: i64,
    pub(super) log_start: i64,
}

impl Partition {
    /// `gate` is the storage that the home has.
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Arc<LiveOptions>,
        gate: Arc<Gate>,
        opened: Opened,
    ) -> Self {
        let end = opened.writer.active.next_offset();
        let gather = Gather::new(end, opened.writer.producers.clone());
        let earlier = opened.home.writable.then(|| (opened.writer.epochs.clone(), end));
        Self {
            earlier,
            home: opened.home,
            options,
            shared,
            writer: Mutex::new(opened.writer),
            gather: Mutex::new(gather),
            view: Mutex::new(Arc::new(View { segments: opened.segments })),
            watermark: Mutex::new(opened.watermark),
            syncing: Mutex::new(()),
            written_end: AtomicI64::new(end),
            durable_end: AtomicI64::new(opened.durable_end),
            log_start: AtomicI64::new(opened.log_start),
            retired: AtomicBool::new(false),
            gate,
            commit: Commit::default(),
            followers: Waiters::default(),
            durable_followers: Waiters::default(),
            durables: Waiters::default(),
            writes: Waiters::default(),
            write_wanted: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
            upkeep: Mutex::new(()),
            upkeep_wanted: AtomicUsize::new(0),
            dropped: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Keeps others from removing or replacing segments; a compaction that is under way gives up.
    pub(super) fn claim_upkeep(&self) -> Held<'_, ()> {
        self.upkeep_wanted.fetch_add(1, Ordering::SeqCst);
        let claimed = hold(&self.upkeep);
        self.upkeep_wanted.fetch_sub(1, Ordering::SeqCst);
        claimed
    }

    /// Refuses appends to a log that takes none.
    #[inline]
    pub(super) fn check(&self) -> Result<(), LogError> {
        if self.retired.load(Ordering::Relaxed) {
            return Err(LogError::TopicDeleted { topic: self.home.topic.clone() });
        }
        self.shared.check()
    }

    /// Ends the partition, because its topic is being deleted: nothing is appended any more, who waits is told, and when
    /// this returns nothing of it reaches a file by its name any more, nor ever will.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        // Tickets get their answer; nobody will miss what fails.
        let _ = self.write_now();
        lock(&self.writer).forget_ahead();
        self.write_if_wanted();
        self.wake_readers();
        self.durables.wake_all();
        self.gate.shut();
    }

    /// Lets go of the files, which are another owner's when the log is closed: when this returns nothing is changed any
    /// more. The log is poisoned already, so that nobody writes or syncs who has not begun to.
    pub(super) fn let_go(&self) {
        drop(lock(&self.writer));
        drop(lock(&self.syncing));
        self.gate.close();
        // Whoever saves indexes has their files open, and holds this.
        self.view().segments.iter().for_each(|segment| segment.wait_for_indexes());
    }

    /// The segments now.
    pub(super) fn view(&self) -> Arc<View> {
        lock(&self.view).clone()
    }

    /// The offset after the last one that readers see.
    pub(super) fn written_end(&self) -> i64 {
        self.written_end.load(Ordering::SeqCst)
    }

    /// The offset after the last one that survives a power cut.
    pub(super) fn durable_end(&self) -> i64 {
        self.durable_end.load(Ordering::SeqCst)
    }

    /// The first offset that is there.
    pub(super) fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::SeqCst)
    }

    /// Syncs a segment; up to this watermark the partition is durable then.
    ///
    /// # Errors
    /// What poisons the log, whether this sync failed or something did before it.
    pub(super) fn sync_to(&self, segment: &Segment, watermark: Watermark) -> Result<(), LogError> {
        let syncing = hold(&self.syncing);
        self.shared.check_poison()?;
        let synced = self.unless_panic(Operation::SyncData, || {
            segment.sync().map(|()| lock(&self.watermark).store(watermark))
        });
        synced
            .unwrap_or_else(|(_, payload)| resume_unwind(payload))
            .map_err(|error| self.poison(&error))?;
        // Who is woken may want a segment synced too.
        drop(syncing);
        self.raise_durable_end(watermark.offset);
        Ok(())
    }

    /// Cuts off what lies beyond the published end of the active segment, durably.
    ///
    /// # Errors
    /// As [`sync_to`](Self::sync_to).
    #[cold]
    fn cut_to_end(&self, active: &Segment) -> Result<(), LogError> {
        let _syncing = hold(&self.syncing);
        self.shared.check_poison()?;
        self.unless_panic(Operation::SyncData, || active.cut_to_end())
            .unwrap_or_else(|(_, payload)| resume_unwind(payload))
            .map_err(|error| self.poison(&error))
    }

    /// A sync confirmed this watermark.
    pub(super) fn now_durable(&self, watermark: Watermark) {
        lock(&self.watermark).store(watermark);
        self.raise_durable_end(watermark.offset);
    }

    fn raise_durable_end(&self, offset: i64) {
        self.durable_end.fetch_max(offset, Ordering::SeqCst);
        self.durables.wake_all();
        self.durable_followers.wake_all();
    }

    /// Stops all appends until the log is opened anew; returns what callers get to hear.
    #[cold]
    pub(super) fn poison(&self, cause: &LogError) -> LogError {
        // That a deleted topic cannot be written to says nothing of the medium.
        if self.retired.load(Ordering::SeqCst) && matches!(cause, LogError::TopicDeleted { .. }) {
            return cause.clone();
        }
        // As well as it can be done: others hear of it though the storage panics.
        let mark = || lock(&self.watermark).sync_failed();
        let _ = catch_unwind(AssertUnwindSafe(mark));
        let poison = self.shared.poison.get_or_init(|| cause.poisoned()).clone();
        self.shared.wake_all();
        poison
    }

    /// Does what a storage or a clock of the user's has a part in, under a lock. After a panic nobody knows what was done, as
    /// after a failure: it stops all appends, and comes back beside what callers get to hear.
    pub(super) fn unless_panic<T>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> T,
    ) -> Result<T, (LogError, Box<dyn Any + Send>)> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
            let source = std::io::Error::other("it panicked");
            let cause = StorageError::new(operation, self.home.directory.clone(), source);
            (self.poison(&self.home.failed(cause)), payload)
        })
    }

    /// Those who wait for records of a level to read.
    pub(super) fn readers(&self, level: Level) -> &Waiters {
        if level == Level::Durable { &self.durable_followers } else { &self.followers }
    }

    /// Sees to it that records of a level come to be, if any are on their way. For tasks that are registered with
    /// [`readers`](Self::readers) and look again afterwards.
    pub(super) fn urge(self: &Arc<Self>, level: Level) {
        if !self.home.writable {
            return self.shared.lookout.watch(self);
        }
        self.write_without_waiting();
        if level == Level::Durable && self.is_unsynced() {
            self.shared.keeper.sync(self);
        }
    }

    /// Whether somebody waits for records to read.
    pub(super) fn has_readers_waiting(&self) -> bool {
        self.followers.any() || self.durable_followers.any()
    }

    /// Lets all who wait for records to read look again.
    pub(super) fn wake_readers(&self) {
        self.followers.wake_all();
        self.durable_followers.wake_all();
    }

    #[cold]
    pub(super) fn bad_batch(&self, source: FormatError) -> LogError {
        LogError::BadBatch { place: Box::new(self.home.place()), source }
    }

    #[cold]
    pub(super) fn too_large(&self, bytes: usize, limit: usize) -> LogError {
        let (topic, partition) = (self.home.topic.clone(), self.home.partition);
        LogError::TooLarge { topic, partition, bytes: bytes as u64, limit: limit as u64 }
    }

    /// Lets go of the segments that lie before `offset` as a whole and removes their files. The caller has made the new
    /// start durable before.
    pub(super) fn drop_front(&self, offset: i64) -> Result<(), LogError> {
        let before = self.log_start.fetch_max(offset, Ordering::SeqCst);
        let _upkeep = self.claim_upkeep();
        let writer = hold(&self.writer);
        let view = self.view();
        let keep_from = view.segments.iter().position(|segment| {
            segment.next_offset() > offset || segment.base_offset == writer.active.base_offset
        });
        let (gone, kept) = view.segments.split_at(keep_from.unwrap_or(0));
        *lock(&self.view) = Arc::new(View { segments: kept.to_vec() });
        drop(writer);
        self.write_if_wanted();
        let bytes = gone.iter().map(|segment| segment.end()).sum();
        self.counters.removed(offset.saturating_sub(before), bytes);
        lock(&self.dropped).extend(gone.iter().map(|segment| segment.base_offset));
        self.remove_dropped()
    }

    /// Removes the files of segments that were let go of. While that fails there is something left for the next call.
    pub(super) fn remove_dropped(&self) -> Result<(), LogError> {
        let mut dropped = lock(&self.dropped);
        if dropped.is_empty() {
            return Ok(());
        }
        // From the front on, and no further than that goes: who reads in another process must not find a gap.
        for base_offset in dropped.iter() {
            super::recovery::remove_segment(&self.home, *base_offset)?;
        }
        let synced = self.home.storage.sync_dir(&self.home.directory);
        synced.map_err(|error| self.home.failed(error))?;
        dropped.clear();
        Ok(())
    }
}

impl Partition {
    /// Makes everything durable that was appended, and what helps to open it fast. `all`: also if nothing was appended.
    pub(super) fn close(&self, all: bool) -> Result<(), LogError> {
        self.flush_durable()?;
        let mut writer = hold(&self.writer);
        let active = writer.active.clone();
        writer.times.note(&self.home, &active);
        if writer.cut_ahead(self)? {
            self.sync_to(&active, writer.watermark(self.shared.epoch))?;
        }
        if !writer.begun && !all {
            return Ok(());
        }
        writer.times.sync(&self.home).map_err(|error| self.home.failed(error))?;
        active.save_indexes(true)?;
        writer.save_snapshot(self);
        let watermark = lock(&self.watermark);
        watermark.sync()
    }

    /// Looks for all segments anew, if the log is open for reading only: `suspect`, the one that was read, may be another one
    /// now. Whether that may help.
    pub(super) fn reload(&self, suspect: Option<i64>) -> Result<bool, LogError> {
        if self.home.writable {
            return Ok(false);
        }
        let reload = |partition: &Self, writer: &mut Writer| {
            super::refresh::reload(partition, writer, suspect)
        };
        self.look_anew(reload).map(|()| true)
    }

    /// Looks what another process has written, and made durable, if the log is open for reading only.
    pub(super) fn refresh(&self) -> Result<(), LogError> {
        if self.home.writable { Ok(()) } else { self.look_anew(super::refresh::refresh) }
    }

    fn look_anew(
        &self,
        look: impl Fn(&Self, &mut Writer) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let ends = || (self.written_end(), self.durable_end());
        let mut writer = hold(&self.writer);
        let before = ends();
        // First how far it is durable: that much was written before, and so is found.
        let watermark = lock(&self.watermark).look_again()?;
        repeated_if_missing(|| look(self, &mut writer))?;
        let durable_end = watermark.offset.min(self.written_end());
        self.durable_end.fetch_max(durable_end, Ordering::SeqCst);
        let progressed = ends() != before;
        drop(writer);
        if progressed {
            self.wake_readers();
        }
        Ok(())
    }
}
