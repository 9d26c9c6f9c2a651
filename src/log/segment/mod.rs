//! One segment of a partition: a file of batches and its two sparse indexes.
//!
//! The writer appends and then publishes the new end; readers read up to the published end at any time. Whole batches
//! only lie below it, so that a reader never meets half of one.

mod files;
mod indexes;
mod scan;

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use super::error::{LogError, Place};
use super::format::BatchHeader;
use super::format::index::{IndexEntry, SegmentBounds};
use super::format::names::{FileKind, FileName};
use super::partition::times::{Times, UNKNOWN};
use super::storage::{OpenMode, Storage, StorageError, StorageFile};
use crate::sync::lock;
use files::Kept;
pub(super) use files::{MarkFile, OpenFiles, is_out_of_files};
pub(super) use indexes::Indexes;
pub(super) use scan::{Expected, ScanError, Scanner};

/// Unsaved index entries that make it worth a write.
const UNSAVED_ENTRIES_MAX: usize = 512;
/// Buffers handed to one gathered write; systems refuse more than 1024.
const SLICES_MAX: usize = 512;

/// Where a partition lives.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) directory: PathBuf,
    pub(super) topic: String,
    pub(super) partition: u32,
    /// Whether files may be changed.
    pub(super) writable: bool,
    /// Those of its segments that are open, and of all the log's others.
    pub(super) files: Arc<OpenFiles>,
}

impl Home {
    /// That of a test: in memory, and alone there.
    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        Self {
            storage: Arc::new(crate::log::storage::MemoryStorage::new()),
            directory: "/".into(),
            topic: "t".to_owned(),
            partition: 0,
            writable: true,
            files: Arc::default(),
        }
    }

    /// The path of a live file.
    pub(super) fn file(&self, base_offset: i64, kind: FileKind) -> PathBuf {
        let name = FileName::live(u64::try_from(base_offset).unwrap_or_default(), kind);
        self.directory.join(name.to_string())
    }

    /// The partition, for errors.
    pub(super) fn place(&self) -> Place {
        let (topic, partition) = (Some(self.topic.clone()), Some(self.partition));
        Place { topic, partition, ..Place::default() }
    }

    /// A failure of the storage under this partition.
    #[cold]
    pub(super) fn failed(&self, source: StorageError) -> LogError {
        let path = Some(source.path.clone());
        LogError::storage(Place { path, ..self.place() }, source)
    }
}

/// What a search in a segment found: the batch that starts at a position, if anything is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Byte of the file where the batch starts; the end of the segment if nothing was found.
    pub(super) position: u64,
    /// The offset the batch starts with.
    pub(super) offset: i64,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) home: Arc<Home>,
    pub(super) base_offset: i64,
    kept: Arc<Kept>,
    /// Bytes that may be read: whole batches.
    end: AtomicU64,
    /// The offset after the last one below `end`.
    next_offset: AtomicI64,
    /// Nothing is appended any more.
    sealed: AtomicBool,
    /// Its names are those of another segment now: nothing is read or written by them any more.
    detached: AtomicBool,
    /// See [`Times`]: first append, last append, horizon.
    times: [AtomicI64; 3],
}

impl Segment {
    /// A new, empty segment. What a failed attempt may have left is cut off. Not durable before the directory is synced.
    pub(super) fn create(home: Arc<Home>, base_offset: i64) -> Result<Self, LogError> {
        let path = home.file(base_offset, FileKind::Log);
        let created = home.storage.open(&path, OpenMode::Create).and_then(|file| {
            if file.is_empty()? { Ok(file) } else { file.set_len(0).map(|()| file) }
        });
        let file = created.map_err(|error| home.failed(error))?;
        let segment = Self::with_file(home, base_offset, file, (0, base_offset), false);
        *lock(&segment.kept.indexes) = Some(Indexes::default());
        Ok(segment)
    }

    /// A segment that is there, with what is known of it. Nothing is opened yet.
    pub(super) fn known(
        home: Arc<Home>,
        base_offset: i64,
        end: u64,
        next_offset: i64,
        sealed: bool,
    ) -> Self {
        let kept = Kept::new(None, home.writable && !sealed);
        Self {
            home,
            base_offset,
            kept,
            end: AtomicU64::new(end),
            next_offset: AtomicI64::new(next_offset),
            sealed: AtomicBool::new(sealed),
            detached: AtomicBool::new(false),
            times: [Times::NONE.first, Times::NONE.last, Times::NONE.horizon].map(AtomicI64::new),
        }
    }

    /// A segment in a file that is open, and stays so for now.
    fn with_file(
        home: Arc<Home>,
        base_offset: i64,
        file: Arc<dyn StorageFile>,
        (end, next_offset): (u64, i64),
        sealed: bool,
    ) -> Self {
        let segment = Self::known(home, base_offset, end, next_offset, sealed);
        segment.kept.pin(file);
        segment
    }

    /// A sealed segment in a file that is open already, which will get its name, with its indexes. When it has its name it
    /// is to be sealed once more.
    pub(super) fn cleaned(
        home: Arc<Home>,
        base_offset: i64,
        file: Arc<dyn StorageFile>,
        end: (u64, i64),
        indexes: Indexes,
    ) -> Self {
        let segment = Self::with_file(home, base_offset, file, end, true);
        *lock(&segment.kept.indexes) = Some(indexes);
        segment
    }

    /// Lets go of the segment's names, because they become those of another one. Who has the segment open may read on.
    pub(super) fn detach(&self) -> Result<(), LogError> {
        self.kept.pin(self.file()?);
        let _indexes = lock(&self.kept.indexes);
        self.detached.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Returns when nobody who had begun to is reading, building or saving the indexes any more.
    pub(super) fn wait_for_indexes(&self) {
        drop(lock(&self.kept.indexes));
    }

    /// When it was appended to.
    pub(super) fn times(&self) -> Times {
        let [first, last, horizon] = &self.times;
        let load = |time: &AtomicI64| time.load(Ordering::Relaxed);
        Times { first: load(first), last: load(last), horizon: load(horizon) }
    }

    /// Corrects when it was appended to.
    pub(super) fn set_times(&self, times: Times) {
        let values = [times.first, times.last, times.horizon];
        for (time, value) in self.times.iter().zip(values) {
            time.store(value, Ordering::Relaxed);
        }
    }

    /// Notes an append; whether it was the first.
    pub(super) fn appended(&self, now_ms: i64) -> bool {
        let times = self.times();
        let first = times.first == UNKNOWN;
        let started = if first { now_ms } else { times.first };
        self.set_times(Times { first: started, last: times.last.max(now_ms), ..times });
        first
    }

    /// The segment, for errors.
    pub(super) fn place(&self) -> Place {
        let path = Some(self.home.file(self.base_offset, FileKind::Log));
        Place { segment: Some(self.base_offset), path, ..self.home.place() }
    }

    #[cold]
    fn failed(&self, source: StorageError) -> LogError {
        LogError::storage(self.place(), source)
    }

    /// The file of batches, opened when needed. It may be closed when nobody has it, unless it is appended to.
    pub(super) fn file(&self) -> Result<Arc<dyn StorageFile>, LogError> {
        if let Some(file) = self.kept.file() {
            self.home.files.used(&self.kept);
            return Ok(file);
        }
        let grows = self.home.writable && !self.sealed.load(Ordering::Acquire);
        let mode = if grows { OpenMode::Write } else { OpenMode::Read };
        let path = self.home.file(self.base_offset, FileKind::Log);
        let file = self.home.storage.open(&path, mode).map_err(|error| self.failed(error))?;
        Ok(self.home.files.keep(&self.kept, file))
    }

    /// Bytes that may be read.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The offset after the last one.
    pub(super) fn next_offset(&self) -> i64 {
        self.next_offset.load(Ordering::Acquire)
    }

    /// Lets readers see what was written: up to this byte, up to this offset (excluded).
    pub(super) fn publish(&self, end: u64, next_offset: i64) {
        self.next_offset.store(next_offset, Ordering::Release);
        self.end.store(end, Ordering::Release);
    }

    /// Writes encoded batches at the end. They are not published, and after an error any part may be in the file.
    pub(super) fn write(&self, batches: &[impl AsRef<[u8]>]) -> Result<(), LogError> {
        let file = self.file()?;
        let mut position = self.end();
        for batches in batches.chunks(SLICES_MAX) {
            let slices: Vec<_> = batches.iter().map(|batch| IoSlice::new(batch.as_ref())).collect();
            let written = file.write_vectored_at(&slices, position);
            written
                .map_err(|error| LogError::storage(self.place().at_position(position), error))?;
            position += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        }
        Ok(())
    }

    /// How many of these batches, written at the end one after another, are in the file as a whole, after a write that
    /// failed.
    pub(super) fn count_written(&self, batches: &[impl AsRef<[u8]>]) -> Result<usize, LogError> {
        let file = self.file()?;
        let (mut position, mut found) = (self.end(), Vec::new());
        for (count, batch) in batches.iter().enumerate() {
            let batch = batch.as_ref();
            found.resize(batch.len(), 0);
            let read = file.read_at(&mut found, position).map_err(|error| self.failed(error))?;
            if read < batch.len() || found != batch {
                return Ok(count);
            }
            position += batch.len() as u64;
        }
        Ok(batches.len())
    }

    /// Cuts off what lies beyond the published end, durably.
    pub(super) fn cut_to_end(&self) -> Result<(), LogError> {
        let file = self.file()?;
        let cut = file.set_len(self.end()).and_then(|()| file.sync_data());
        cut.map_err(|error| self.failed(error))
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        // It was synced before, and its file may be closed.
        if self.sealed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.file()?.sync_data().map_err(|error| self.failed(error))
    }

    /// Notes an appended batch in the indexes of an unsealed segment; returns the bytes of the larger one. A failure to
    /// save them is no failure of the append: they can be built again.
    pub(super) fn note(&self, at: u64, header: &BatchHeader, interval: u32) -> usize {
        let mut indexes = lock(&self.kept.indexes);
        let indexes = indexes.get_or_insert_default();
        indexes.note(self.base_offset, at, header, interval);
        if indexes.unsaved() >= UNSAVED_ENTRIES_MAX {
            let _ = indexes.save(&self.home, self.base_offset, false);
        }
        indexes.bytes()
    }

    /// Saves the indexes durably. With `last_time` the time index ends with the segment's largest timestamp.
    pub(super) fn save_indexes(&self, last_time: bool) -> Result<(), LogError> {
        let mut indexes = lock(&self.kept.indexes);
        let Some(indexes) = &mut *indexes else { return Ok(()) };
        if last_time {
            indexes.note_time();
        }
        indexes.save(&self.home, self.base_offset, true).map_err(|error| self.home.failed(error))
    }

    /// Ends the segment, which is durable: saves its indexes and lets go of them, and of the file too when others are used
    /// more.
    pub(super) fn seal(&self) -> Result<(), LogError> {
        self.sealed.store(true, Ordering::Release);
        // Without their lock, as readers are not to wait for the medium. Nothing is noted in them any more, and nobody takes
        // the files away meanwhile: the caller has the lock of the writer, or that of upkeep.
        let indexes = lock(&self.kept.indexes).as_mut().map(|indexes| {
            indexes.note_time();
            indexes.clone()
        });
        let saved = indexes.map_or(Ok(()), |mut indexes| {
            let saved = indexes.save(&self.home, self.base_offset, true);
            saved.map_err(|error| self.home.failed(error))
        });
        if saved.is_ok() {
            *lock(&self.kept.indexes) = None;
        }
        self.home.files.unpin(&self.kept);
        saved
    }

    /// The batch with this offset. Wrong indexes cost time, not truth: what they say is checked against the segment.
    pub(super) fn find(&self, offset: i64) -> Result<Found, LogError> {
        let relative = u32::try_from(offset.saturating_sub(self.base_offset)).unwrap_or(u32::MAX);
        let entry = self.with_indexes(|indexes| {
            let above = indexes.offsets.partition_point(|entry| entry.relative_offset <= relative);
            above.checked_sub(1).and_then(|n| indexes.offsets.get(n).copied())
        })?;
        if let Some(entry) = entry {
            let position = u64::from(entry.position);
            let last = self.base_offset + i64::from(entry.relative_offset);
            let header = self.header_at(position)?;
            if let Some(header) = header
                && header.last_offset() == last
                && header.base_offset >= self.base_offset
                && last <= offset
            {
                let from = Found { position, offset: header.base_offset };
                if let Ok(found) = self.walk(from, |header| header.last_offset() >= offset) {
                    return Ok(found);
                }
            }
            self.rebuild(|_| ())?;
        }
        self.walk(self.start(), |header| header.last_offset() >= offset)
    }

    /// The first batch with a timestamp not below this one.
    pub(super) fn find_time(&self, timestamp_ms: i64) -> Result<Found, LogError> {
        let start = self.with_indexes(|indexes| {
            let above = indexes.times.partition_point(|entry| entry.timestamp_ms < timestamp_ms);
            // The entry before the best one: should the best one point too far, to another batch of the same time, then
            // nothing is skipped, for this one cannot point further.
            above.checked_sub(2).and_then(|n| indexes.times.get(n).copied())
        })?;
        let mut from = self.start();
        if let Some(entry) = start {
            let offset = self.base_offset + i64::from(entry.relative_offset);
            let found = self.find(offset)?;
            match self.header_at(found.position)? {
                // An entry is wrong unless its batch has the time that it claims.
                Some(header) if header.max_timestamp == entry.timestamp_ms => from = found,
                _ => self.rebuild(|_| ())?,
            }
        }
        self.walk(from, |header| header.max_timestamp >= timestamp_ms)
    }

    fn start(&self) -> Found {
        Found { position: 0, offset: self.base_offset }
    }

    /// From batch to batch until one is wanted; the end if none is.
    fn walk(&self, from: Found, wanted: impl Fn(&BatchHeader) -> bool) -> Result<Found, LogError> {
        // The end first: what is published later may be missed, what lies below it is whole.
        let end = self.end();
        let file = self.file()?;
        let expected = Expected { offset: from.offset, epoch: i32::MIN };
        let mut scanner = Scanner::new(&*file, from.position, end, expected);
        loop {
            let offset = scanner.expected().offset;
            match scanner.next() {
                Ok(Some((position, header))) if wanted(&header) => {
                    return Ok(Found { position, offset: header.base_offset });
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Found { position: end, offset }),
                Err(error) => return Err(self.scan_failed(error, offset)),
            }
        }
    }

    /// The error of a walk that should have met whole batches only.
    #[cold]
    pub(super) fn scan_failed(&self, error: ScanError, offset: i64) -> LogError {
        match error {
            ScanError::Storage(error) => self.failed(error),
            ScanError::Bad { position, damage } => {
                LogError::corrupt(self.place().at_offset(offset).at_position(position), damage)
            }
        }
    }

    /// The header at a position, if one is there.
    fn header_at(&self, position: u64) -> Result<Option<BatchHeader>, LogError> {
        let mut bytes = [0; super::format::batch::HEADER_BYTES];
        if position >= self.end() {
            return Ok(None);
        }
        let read = self.file()?.read_at(&mut bytes, position);
        read.map_err(|error| self.failed(error))?;
        Ok(BatchHeader::decode(&bytes).ok())
    }

    /// Whether something like a batch was written behind the end.
    pub(super) fn is_continued(&self, file: &dyn StorageFile) -> Result<bool, LogError> {
        let mut bytes = [0; super::format::batch::HEADER_BYTES];
        let read = file.read_at(&mut bytes, self.end()).map_err(|error| self.failed(error))?;
        Ok(bytes.get(..read).is_some_and(|bytes| BatchHeader::decode(bytes).is_ok()))
    }

    /// A batch that begins at an offset or not long before it, as far as the index files know. They are neither believed
    /// without the segment nor built again.
    pub(super) fn near(&self, offset: i64) -> Result<Found, LogError> {
        let loaded = Indexes::load_within(&self.home, self.base_offset, self.bounds());
        let indexes = loaded.map_err(|error| self.home.failed(error))?;
        let last = |entry: &IndexEntry| self.base_offset + i64::from(entry.relative_offset);
        let above = indexes.offsets.partition_point(|entry| last(entry) < offset);
        let Some(entry) = above.checked_sub(1).and_then(|n| indexes.offsets.get(n)) else {
            return Ok(self.start());
        };
        let position = u64::from(entry.position);
        let header = self.header_at(position)?;
        match header.filter(|header| header.last_offset() == last(entry)) {
            Some(header) => Ok(Found { position, offset: header.base_offset }),
            None => Ok(self.start()),
        }
    }

    /// Takes over what the index files say of the batches before `watermark`, for a segment that will be appended to;
    /// returns the batch from which on the rest must be noted. Nothing is believed that the segment does not confirm.
    pub(super) fn resume_indexes(
        &self,
        watermark: Found,
        max_timestamp: i64,
    ) -> Result<Found, LogError> {
        let last = watermark.offset.saturating_sub(1).saturating_sub(self.base_offset);
        let bounds = SegmentBounds {
            bytes: u32::try_from(watermark.position).unwrap_or(u32::MAX),
            last_relative_offset: u32::try_from(last).unwrap_or(0),
        };
        let loaded = Indexes::load_within(&self.home, self.base_offset, bounds);
        let mut indexes = loaded.map_err(|error| self.home.failed(error))?;
        let mut from = self.start();
        if let Some(entry) = indexes.offsets.last().copied() {
            let position = u64::from(entry.position);
            let offset = self.base_offset + i64::from(entry.relative_offset);
            match self.header_at(position)? {
                Some(header) if header.last_offset() == offset => {
                    indexes.cut(position, header.base_offset - self.base_offset);
                    from = Found { position, offset: header.base_offset };
                }
                _ => indexes = Indexes::default(),
            }
        } else {
            indexes = Indexes::default();
        }
        if from.position > 0 && !self.is_reached(max_timestamp, &indexes, from, watermark)? {
            indexes.not_later_than(max_timestamp, bounds.last_relative_offset);
        }
        *lock(&self.kept.indexes) = Some(indexes);
        Ok(from)
    }

    /// Timestamp of the first batch; `None` in an empty segment.
    pub(super) fn first_timestamp(&self) -> Result<Option<i64>, LogError> {
        Ok(self.header_at(0)?.map(|header| header.base_timestamp))
    }
}
