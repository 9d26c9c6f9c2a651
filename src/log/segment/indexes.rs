//! The two sparse indexes of a segment in memory: grown as batches are appended, saved to their files, read back, and
//! built again from the segment when a file is missing or wrong.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Expected, Found, Home, Scanner, Segment};
use crate::log::disk;
use crate::log::error::LogError;
use crate::log::format::BatchHeader;
use crate::log::format::batch::HEADER_BYTES;
use crate::log::format::index::{ENTRY_BYTES, IndexEntry, OffsetIndex, SegmentBounds};
use crate::log::format::names::FileKind;
use crate::log::format::time_index::{self, TimeIndex, TimeIndexEntry};
use crate::log::gate::deleted_topic;
use crate::log::options::INDEX_INTERVAL_BYTES;
use crate::log::storage::{OpenMode, StorageError, StorageFile};
use crate::sync::lock;

/// The indexes of one segment. All that is here can be derived from the segment's file.
#[derive(Clone, Debug, Default)]
pub(in crate::log) struct Indexes {
    pub(super) offsets: Vec<IndexEntry>,
    pub(super) times: Vec<TimeIndexEntry>,
    /// Entries that are in the files already: (offsets, times).
    saved: (usize, usize),
    /// Bytes of batches since the last entry.
    since_entry: u64,
    /// The largest timestamp so far and the offset it came with, if any batch was noted.
    latest: Option<TimeIndexEntry>,
}

impl Indexes {
    /// Takes notice of the batch that starts at `position`; makes an entry when `interval` bytes went by without one.
    pub(in crate::log) fn note(
        &mut self,
        base_offset: i64,
        at: u64,
        header: &BatchHeader,
        interval: u32,
    ) {
        let Ok(relative_offset) = u32::try_from(header.last_offset() - base_offset) else { return };
        let Ok(position) = u32::try_from(at) else { return };
        let timestamp_ms = header.max_timestamp;
        if self.latest.is_none_or(|latest| latest.timestamp_ms < timestamp_ms) {
            self.latest = Some(TimeIndexEntry { timestamp_ms, relative_offset });
        }
        if self.since_entry > u64::from(interval) {
            self.offsets.push(IndexEntry { relative_offset, position });
            self.note_time();
            self.since_entry = 0;
        }
        self.since_entry += header.batch_bytes() as u64;
    }

    /// Makes a time entry of the latest time, unless there is one.
    pub(in crate::log) fn note_time(&mut self) {
        if let Some(latest) = self.latest
            && self.times.last().is_none_or(|last| last.timestamp_ms < latest.timestamp_ms)
        {
            self.times.push(latest);
        }
    }

    /// What is known of batches that are not noted one by one: none up to this offset is later.
    pub(super) fn not_later_than(&mut self, timestamp_ms: i64, relative_offset: u32) {
        if self.latest.is_none_or(|latest| latest.timestamp_ms < timestamp_ms) {
            self.latest = Some(TimeIndexEntry { timestamp_ms, relative_offset });
        }
    }

    /// Bytes of the larger of the two files, were they saved now.
    pub(super) fn bytes(&self) -> usize {
        (self.offsets.len() * ENTRY_BYTES).max(self.times.len() * time_index::ENTRY_BYTES)
    }

    /// Entries that are not saved yet.
    pub(super) fn unsaved(&self) -> usize {
        self.offsets.len() - self.saved.0
    }

    /// Reads the files back; `None` if one is missing or does not fit the segment.
    pub(super) fn load(
        home: &Home,
        base_offset: i64,
        bounds: SegmentBounds,
    ) -> Result<Option<Self>, StorageError> {
        let storage = &*home.storage;
        let bytes_max = bytes_max(bounds);
        let read = |kind| match disk::read_front(storage, &home.file(base_offset, kind), bytes_max)
        {
            // Of a deleted topic they are gone; who has the segment open reads on.
            Err(error) if deleted_topic(&error).is_some() => Ok(None),
            read => read,
        };
        let (Some(offsets), Some(times)) =
            (read(FileKind::OffsetIndex)?, read(FileKind::TimeIndex)?)
        else {
            return Ok(None);
        };
        let (offsets, times) = (OffsetIndex::new(&offsets), TimeIndex::new(&times));
        if offsets.check(bounds).is_err() || times.check(bounds).is_err() {
            return Ok(None);
        }
        let offsets: Vec<_> = offsets.iter().collect();
        let times: Vec<_> = times.iter().collect();
        let latest = times.last().copied();
        let saved = (offsets.len(), times.len());
        Ok(Some(Self { offsets, times, saved, since_entry: 0, latest }))
    }

    /// Reads the files back as far as they are believable and within the bounds: for a segment whose indexes were not
    /// saved to the end, or saved beyond what the segment still has.
    pub(super) fn load_within(
        home: &Home,
        base_offset: i64,
        bounds: SegmentBounds,
    ) -> Result<Self, StorageError> {
        let storage = &*home.storage;
        let bytes_max = bytes_max(bounds);
        let read = |kind| disk::read_front(storage, &home.file(base_offset, kind), bytes_max);
        let offsets = read(FileKind::OffsetIndex)?.unwrap_or_default();
        let times = read(FileKind::TimeIndex)?.unwrap_or_default();
        let (offsets, times) = (OffsetIndex::new(&offsets), TimeIndex::new(&times));
        let mut loaded = Self::default();
        for entry in offsets.iter() {
            let rises = loaded.offsets.last().is_none_or(|last| {
                last.relative_offset < entry.relative_offset && last.position < entry.position
            });
            let within = entry.relative_offset <= bounds.last_relative_offset
                && entry.position < bounds.bytes;
            if !rises || !within {
                break;
            }
            loaded.offsets.push(entry);
        }
        for entry in times.iter() {
            let rises = loaded.times.last().is_none_or(|last| {
                last.timestamp_ms < entry.timestamp_ms
                    && last.relative_offset <= entry.relative_offset
            });
            if !rises || entry.relative_offset > bounds.last_relative_offset {
                break;
            }
            loaded.times.push(entry);
        }
        loaded.latest = loaded.times.last().copied();
        Ok(loaded)
    }

    /// Forgets the entries of batches from `position` on, and of offsets from `relative_offset` on.
    pub(super) fn cut(&mut self, position: u64, relative_offset: i64) {
        self.offsets.retain(|entry| u64::from(entry.position) < position);
        self.times.retain(|entry| i64::from(entry.relative_offset) < relative_offset);
        self.latest = self.times.last().copied();
        // What the files hold beyond is overwritten or cut by the next save.
        self.saved = (0, 0);
        self.since_entry = 0;
    }

    /// Writes the new entries to the files, and all of them again if the files are not known to hold the others.
    pub(in crate::log) fn save(
        &mut self,
        home: &Home,
        base_offset: i64,
        sync: bool,
    ) -> Result<(), StorageError> {
        let offsets = self.offsets.get(self.saved.0..).unwrap_or_default();
        let offsets: Vec<u8> = offsets.iter().flat_map(|entry| entry.encode()).collect();
        let times = self.times.get(self.saved.1..).unwrap_or_default();
        let times: Vec<u8> = times.iter().flat_map(|entry| entry.encode()).collect();
        let at = (self.saved.0 * ENTRY_BYTES, self.saved.1 * time_index::ENTRY_BYTES);
        write(home, &home.file(base_offset, FileKind::OffsetIndex), at.0, &offsets, sync)?;
        write(home, &home.file(base_offset, FileKind::TimeIndex), at.1, &times, sync)?;
        self.saved = (self.offsets.len(), self.times.len());
        Ok(())
    }
}

/// What the larger index of a segment has bytes for at most: an entry for each batch, and one more, by which a file that
/// goes on is known.
fn bytes_max(bounds: SegmentBounds) -> u64 {
    (u64::from(bounds.bytes) / HEADER_BYTES as u64 + 2) * time_index::ENTRY_BYTES as u64
}

impl Segment {
    /// Whether the latest time is one of these entries, or of the batches between two places: so that each entry will name
    /// the batch that its time comes from. Entries that were lost with a power cut, or damaged, may lack it.
    pub(super) fn is_reached(
        &self,
        timestamp_ms: i64,
        indexes: &Indexes,
        from: Found,
        to: Found,
    ) -> Result<bool, LogError> {
        if indexes.latest.is_some_and(|latest| latest.timestamp_ms >= timestamp_ms) {
            return Ok(true);
        }
        let expected = Expected { offset: from.offset, epoch: i32::MIN };
        let file = self.file()?;
        let mut scanner = Scanner::new(&*file, from.position, to.position, expected);
        loop {
            let offset = scanner.expected().offset;
            match scanner.next() {
                Ok(Some((_, header))) if header.max_timestamp >= timestamp_ms => return Ok(true),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(error) => return Err(self.scan_failed(error, offset)),
            }
        }
    }

    /// The bounds that index entries must keep, as things are now.
    pub(super) fn bounds(&self) -> SegmentBounds {
        let last = self.next_offset().saturating_sub(1).saturating_sub(self.base_offset);
        let bytes = u32::try_from(self.end()).unwrap_or(u32::MAX);
        SegmentBounds { bytes, last_relative_offset: u32::try_from(last).unwrap_or(0) }
    }

    /// Works with the indexes, which are loaded if need be, and built if that fails.
    pub(super) fn with_indexes<T>(&self, work: impl FnOnce(&Indexes) -> T) -> Result<T, LogError> {
        if let Some(indexes) = &*lock(&self.kept.indexes) {
            return Ok(work(indexes));
        }
        if self.detached.load(Ordering::SeqCst) {
            return self.rebuild(work);
        }
        let bounds = self.bounds();
        let loaded = Indexes::load(&self.home, self.base_offset, bounds);
        // A sealed segment with batches has at least its last time.
        let usable = |indexes: &Indexes| self.end() == 0 || !indexes.times.is_empty();
        match loaded.map_err(|error| self.home.failed(error))?.filter(usable) {
            Some(loaded) => Ok(work(lock(&self.kept.indexes).get_or_insert(loaded))),
            None => self.rebuild(work),
        }
    }

    /// Makes ready to note batches: reads the indexes that were saved when the log was closed.
    pub(in crate::log) fn prepare(&self) -> Result<(), LogError> {
        self.with_indexes(|_| ())
    }

    /// Builds the indexes from the segment, works with them, and saves them if that is allowed and works. Those of a
    /// segment that is being appended to are in memory and stay: `note` adds to them meanwhile.
    pub(super) fn rebuild<T>(&self, work: impl FnOnce(&Indexes) -> T) -> Result<T, LogError> {
        let growing = self.home.writable && !self.sealed.load(Ordering::Acquire);
        if growing && let Some(indexes) = &*lock(&self.kept.indexes) {
            return Ok(work(indexes));
        }
        let mut built = Indexes::default();
        self.index_from(&mut built, self.start(), INDEX_INTERVAL_BYTES)?;
        built.note_time();
        let mut place = lock(&self.kept.indexes);
        if growing && let Some(indexes) = &*place {
            return Ok(work(indexes));
        }
        // Under the lock, as the names might be given away meanwhile.
        if self.home.writable && !self.detached.load(Ordering::SeqCst) {
            for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
                let path = self.home.file(self.base_offset, kind);
                let _ = disk::remove_if_there(&*self.home.storage, &path);
            }
            let _ = built.save(&self.home, self.base_offset, false);
        }
        Ok(work(place.insert(built)))
    }

    fn index_from(
        &self,
        indexes: &mut Indexes,
        from: Found,
        interval: u32,
    ) -> Result<(), LogError> {
        let file = self.file()?;
        let expected = Expected { offset: from.offset, epoch: i32::MIN };
        let mut scanner = Scanner::new(&*file, from.position, self.end(), expected);
        loop {
            let offset = scanner.expected().offset;
            match scanner.next() {
                Ok(Some((at, header))) => indexes.note(self.base_offset, at, &header, interval),
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.scan_failed(error, offset)),
            }
        }
    }
}

/// Writes the end of a file and cuts it there.
fn write(
    home: &Home,
    path: &Path,
    at: usize,
    bytes: &[u8],
    sync: bool,
) -> Result<(), StorageError> {
    let file: Arc<dyn StorageFile> = home.storage.open(path, OpenMode::Create)?;
    file.write_at(bytes, at as u64)?;
    let end = (at + bytes.len()) as u64;
    if file.len()? != end {
        file.set_len(end)?;
    }
    if sync { file.sync_data() } else { Ok(()) }
}
