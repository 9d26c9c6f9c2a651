//! Puts a compacted segment in the place of those it was made of, so that a crash leaves the one or the others.
//!
//! 1. The new segment is written and synced as `.cleaned`. After a crash it goes.
//! 2. It is renamed to `.swap`, and that is synced. After a crash it still goes.
//! 3. A note of what it replaces is made durable: [`FILE`]. From now on, whatever happens, the swap will be done.
//! 4. The new segment is renamed to its name, which is that of the first it replaces, and that is synced. A log that is
//!    open for reading only finds either there, and both hold all records that count; the ones behind it that are left
//!    for a moment are as good.
//! 5. The others that it replaces are removed, and that is synced. Then the note is removed.
//!
//! Before 2 the removal of the note before is made durable: beside the new segment it would say something else. Before 3
//! the durable watermark is moved beyond all that is replaced, in both its slots. What readers are shown is what the note
//! says: if it may be there although writing it failed, it is taken back, durably, or nothing is done any more.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use crate::log::disk;
use crate::log::error::{Damage, LogError, Place};
use crate::log::format::crc::crc32c;
use crate::log::format::names::{FileKind, FileName, FileState};
use crate::log::partition::{Partition, View};
use crate::log::recovery::remove_segment;
use crate::log::segment::{Home, Segment};
use crate::log::storage::{Operation, StorageError};
use crate::log::wakers::hold;
use crate::sync::lock;

/// The note's name in the partition's directory.
pub(in crate::log) const FILE: &str = "segment-swap";

const MAGIC: [u8; 8] = *b"pmqsw\0\0\x01";
const NOTE_BYTES: usize = 28;

/// A swap that will be done: a new segment in place of all between two offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Note {
    base_offset: i64,
    next_offset: i64,
}

impl Note {
    fn encode(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.base_offset.to_be_bytes());
        bytes.extend_from_slice(&self.next_offset.to_be_bytes());
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<NOTE_BYTES>().filter(|_| bytes.len() == NOTE_BYTES)?;
        let (rest, crc) = bytes.split_at(NOTE_BYTES - 4);
        if crc != crc32c(rest).to_be_bytes() {
            return None;
        }
        let (words, _) = rest.as_chunks::<8>();
        let [magic, base_offset, next_offset] = words else { return None };
        let (base_offset, next_offset) =
            (i64::from_be_bytes(*base_offset), i64::from_be_bytes(*next_offset));
        (*magic == MAGIC).then_some(Self { base_offset, next_offset })
    }
}

/// The path of a file on its way to be a segment.
pub(super) fn path(home: &Home, base_offset: i64, state: FileState) -> PathBuf {
    let offset = u64::try_from(base_offset).unwrap_or_default();
    let name = FileName { state, ..FileName::live(offset, FileKind::Log) };
    home.directory.join(name.to_string())
}

/// Replaces segments, which follow one another, by one that was made of them and is durable as `.cleaned`. False if it
/// cannot be done now. Who has the old ones open reads on in them. The caller holds `upkeep`.
pub(super) fn swap(
    partition: &Partition,
    sources: &[Arc<Segment>],
    new: &Arc<Segment>,
) -> Result<bool, LogError> {
    let home = &partition.home;
    let failed = |error| home.failed(error);
    let Some(last) = sources.last() else { return Ok(false) };
    {
        let mut watermark = lock(&partition.watermark);
        if watermark.last().segment <= last.base_offset {
            return Ok(false);
        }
        watermark.settle()?;
    }
    let swap = path(home, new.base_offset, FileState::Swap);
    let cleaned = path(home, new.base_offset, FileState::Cleaned);
    sync_names(partition)?;
    home.storage.rename(&cleaned, &swap).map_err(failed)?;
    sync_names(partition)?;
    for source in sources {
        source.detach()?;
    }
    let note = Note { base_offset: new.base_offset, next_offset: new.next_offset() };
    put_note(partition, note)?;
    show(partition, sources, new);
    finish_noted(partition)?;
    // Indexes can be built again.
    let _ = new.seal();
    Ok(true)
}

/// Makes the names in the partition's directory durable.
fn sync_names(partition: &Partition) -> Result<(), LogError> {
    let home = &partition.home;
    let synced = home.storage.sync_dir(&home.directory);
    synced.map_err(|error| doubted(partition, home.failed(error)))
}

/// What a failure means. After a sync of names that failed, and not for want of space, no later one can be believed,
/// and each step of a swap relies on the names before it: as with the sync of a segment, that is the end.
fn doubted(partition: &Partition, error: LogError) -> LogError {
    match &error {
        LogError::Storage { source, .. }
            if source.operation == Operation::SyncDir && !is_out_of_files(source) =>
        {
            partition.poison(&error)
        }
        _ => error,
    }
}

/// Whether a call failed before it did anything, because too many files are open. The next one may work.
fn is_out_of_files(error: &StorageError) -> bool {
    let code = error.source.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// Makes the note durable. After an error there is none, or the log is poisoned.
fn put_note(partition: &Partition, note: Note) -> Result<(), LogError> {
    let home = &partition.home;
    let storage = &*home.storage;
    let Err(error) = disk::replace(storage, &home.directory, FILE, &note.encode()) else {
        return Ok(());
    };
    let perhaps_there = matches!(error.operation, Operation::Rename | Operation::SyncDir);
    let error = doubted(partition, home.failed(error));
    if !perhaps_there || partition.shared.check_poison().is_err() {
        return Err(error);
    }
    let taken_back = disk::remove_if_there(storage, &home.directory.join(FILE))
        .and_then(|()| storage.sync_dir(&home.directory));
    match taken_back {
        Ok(()) => Err(error),
        Err(_) => Err(partition.poison(&error)),
    }
}

/// Lets readers see the new segment.
fn show(partition: &Partition, sources: &[Arc<Segment>], new: &Arc<Segment>) {
    let mut writer = hold(&partition.writer);
    writer.times.note(&partition.home, new);
    let mut view = lock(&partition.view);
    let replaced = |segment: &Arc<Segment>| sources.iter().any(|other| Arc::ptr_eq(segment, other));
    let mut segments = Vec::with_capacity(view.segments.len());
    for segment in &view.segments {
        if !replaced(segment) {
            segments.push(segment.clone());
        } else if segment.base_offset == new.base_offset {
            segments.push(new.clone());
        }
    }
    *view = Arc::new(View { segments });
    drop(view);
    drop(writer);
    partition.write_if_wanted();
}

/// A swap that was noted and is not done.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Pending {
    /// Where the new segment begins.
    pub(in crate::log) base_offset: i64,
    /// The offset after it.
    pub(in crate::log) next_offset: i64,
    /// Whether the new segment has its name already.
    pub(in crate::log) is_named: bool,
}

/// What a note says.
pub(in crate::log) fn read_note(bytes: &[u8]) -> Option<(i64, i64)> {
    Note::decode(bytes).map(|note| (note.base_offset, note.next_offset))
}

/// The swap that is to be done, if there is one.
pub(in crate::log) fn pending(home: &Home) -> Result<Option<Pending>, LogError> {
    let failed = |error| home.failed(error);
    let note_path = home.directory.join(FILE);
    let Some(bytes) = disk::read(&*home.storage, &note_path).map_err(failed)? else {
        return Ok(None);
    };
    let Some(Note { base_offset, next_offset }) = Note::decode(&bytes) else {
        let place = Place { path: Some(note_path), ..home.place() };
        return Err(LogError::corrupt(place, Damage::Unreadable));
    };
    let is_named = match home.storage.metadata(&path(home, base_offset, FileState::Swap)) {
        Ok(_) => false,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    Ok(Some(Pending { base_offset, next_offset, is_named }))
}

/// As [`finish`], in a partition that is open.
pub(super) fn finish_noted(partition: &Partition) -> Result<(), LogError> {
    finish(&partition.home).map_err(|error| doubted(partition, error))
}

/// Does what is left to do of a swap that was noted, if there is one. That the note is gone is not durable then.
pub(in crate::log) fn finish(home: &Home) -> Result<(), LogError> {
    let storage = &*home.storage;
    let failed = |error| home.failed(error);
    let Some(note) = pending(home)? else { return Ok(()) };
    if !note.is_named {
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            let index = home.file(note.base_offset, kind);
            disk::remove_if_there(storage, &index).map_err(failed)?;
        }
        let swap = path(home, note.base_offset, FileState::Swap);
        let live = home.file(note.base_offset, FileKind::Log);
        storage.rename(&swap, &live).map_err(failed)?;
    }
    storage.sync_dir(&home.directory).map_err(failed)?;
    for entry in storage.list(&home.directory).map_err(failed)? {
        let name = entry.name.to_str().and_then(FileName::parse);
        let Some(name) = name.filter(|name| name.state == FileState::Live) else { continue };
        let offset = i64::try_from(name.base_offset).unwrap_or(i64::MAX);
        if name.kind == FileKind::Log && note.base_offset < offset && offset < note.next_offset {
            remove_segment(home, offset)?;
        }
    }
    storage.sync_dir(&home.directory).map_err(failed)?;
    disk::remove_if_there(storage, &home.directory.join(FILE)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::storage::MemoryStorage;
    use crate::log::{Log, TopicOptions};

    #[test]
    fn a_sync_of_names_that_was_not_tried_for_want_of_descriptors_stops_nothing() {
        let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
        let topic = log.create_topic("t", TopicOptions::default()).unwrap();
        let partition = topic.inner.partition(0).unwrap();
        let doubted = |errno: Errno| {
            let error = StorageError::new(Operation::SyncDir, "/log/t-0", errno.into());
            doubted(partition, partition.home.failed(error))
        };
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOSPC] {
            assert!(!matches!(doubted(errno), LogError::Poisoned { .. }), "{errno}");
            partition.check().unwrap();
        }
        assert!(matches!(doubted(Errno::IO), LogError::Poisoned { .. }));
        assert!(partition.check().is_err());
    }

    #[test]
    fn a_note_reads_back_and_every_flipped_bit_of_it_is_noticed() {
        let note = Note { base_offset: 5, next_offset: 99 };
        let bytes = note.encode();
        assert_eq!(Note::decode(&bytes), Some(note));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Note::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Note::decode(&bytes[1..]), None);
    }
}
