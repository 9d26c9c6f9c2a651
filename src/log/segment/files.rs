//! Which files of segments are open. Those that are appended to are, and those whose name is another segment's by now; of
//! the others, of which a log may have any number, only the ones used last, and only their indexes are in memory. Who
//! reads a segment has a handle of its own as long as that takes. The same holds for the files of watermarks, apart from
//! them, as there is one for each partition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::Indexes;
use crate::log::storage::{StorageError, StorageFile};
use crate::sync::{Mutex, lock};

/// Files of sealed segments that an open log keeps for whoever reads them next.
pub(in crate::log) const SEALED_FILES_MAX: usize = 64;

/// Files of watermarks that an open log keeps for whoever needs them next.
pub(in crate::log) const MARK_FILES_MAX: usize = 128;

/// What there is of a segment beside its place: its file, if that is open, and its indexes, if they are in memory.
#[derive(Debug)]
pub(super) struct Kept {
    slot: Mutex<Slot>,
    /// `None` until somebody needs them. Held for searches and additions in memory, and, in a sealed segment, while they
    /// are read or built.
    pub(super) indexes: Mutex<Option<Indexes>>,
    /// The higher, the later it was used.
    used: AtomicU64,
    /// It is not of a segment.
    is_mark: bool,
}

/// Held for moments.
#[derive(Debug)]
struct Slot {
    file: Option<Arc<dyn StorageFile>>,
    /// The file is never closed here: it cannot be opened again by its name, or is appended to.
    is_pinned: bool,
}

impl Kept {
    pub(super) fn new(file: Option<Arc<dyn StorageFile>>, is_pinned: bool) -> Arc<Self> {
        Self::with(file, is_pinned, false)
    }

    fn with(file: Option<Arc<dyn StorageFile>>, is_pinned: bool, is_mark: bool) -> Arc<Self> {
        let slot = Mutex::new(Slot { file, is_pinned });
        Arc::new(Self { slot, indexes: Mutex::new(None), used: AtomicU64::new(0), is_mark })
    }

    /// The file, if it is open.
    pub(super) fn file(&self) -> Option<Arc<dyn StorageFile>> {
        lock(&self.slot).file.clone()
    }

    /// Keeps this file open as long as this is there.
    pub(super) fn pin(&self, file: Arc<dyn StorageFile>) {
        *lock(&self.slot) = Slot { file: Some(file), is_pinned: true };
    }

    /// Lets go of the file and the indexes, unless the file must be kept. Indexes that somebody uses just now stay.
    fn close(&self) {
        let mut slot = lock(&self.slot);
        if slot.is_pinned {
            return;
        }
        slot.file = None;
        drop(slot);
        if let Ok(mut indexes) = self.indexes.try_lock() {
            *indexes = None;
        }
    }
}

/// The files of sealed segments, and those of watermarks, that a log has open.
#[derive(Debug, Default)]
pub(in crate::log) struct OpenFiles {
    uses: AtomicU64,
    /// At most [`SEALED_FILES_MAX`], none of them twice. Held for moments, and slots are locked under it.
    open: Mutex<Vec<Weak<Kept>>>,
    /// At most [`MARK_FILES_MAX`], otherwise the same.
    marks: Mutex<Vec<Weak<Kept>>>,
}

impl OpenFiles {
    /// Notes that a segment is used now.
    pub(super) fn used(&self, kept: &Kept) {
        kept.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Keeps a file that was opened just now; returns the one to use, as somebody else may have been faster.
    pub(super) fn keep(
        &self,
        kept: &Arc<Kept>,
        file: Arc<dyn StorageFile>,
    ) -> Arc<dyn StorageFile> {
        let mut slot = lock(&kept.slot);
        if let Some(file) = &slot.file {
            return file.clone();
        }
        slot.file = Some(file.clone());
        let is_pinned = slot.is_pinned;
        drop(slot);
        if !is_pinned {
            self.admit(kept);
        }
        file
    }

    /// The file needs not be kept any more.
    pub(super) fn unpin(&self, kept: &Arc<Kept>) {
        let mut slot = lock(&kept.slot);
        slot.is_pinned = false;
        let is_open = slot.file.is_some();
        drop(slot);
        if is_open {
            self.admit(kept);
        }
    }

    /// Makes room for one more.
    fn admit(&self, kept: &Arc<Kept>) {
        self.used(kept);
        let (open, max) = match kept.is_mark {
            false => (&self.open, SEALED_FILES_MAX),
            true => (&self.marks, MARK_FILES_MAX),
        };
        let mut open = lock(open);
        while open.len() >= max {
            let used = |(_, kept): &(usize, &Weak<Kept>)| {
                kept.upgrade().map_or(0, |kept| kept.used.load(Ordering::Relaxed))
            };
            let Some((oldest, _)) = open.iter().enumerate().min_by_key(used) else { break };
            if let Some(kept) = open.swap_remove(oldest).upgrade() {
                kept.close();
            }
        }
        open.push(Arc::downgrade(kept));
    }

    /// Closes all of them; false if there are none.
    pub(in crate::log) fn close_all(&self) -> bool {
        let mut open = std::mem::take(&mut *lock(&self.open));
        open.append(&mut lock(&self.marks));
        let open: Vec<_> = open.iter().filter_map(Weak::upgrade).collect();
        open.iter().for_each(|kept| kept.close());
        !open.is_empty()
    }
}

/// The file of a watermark, which is open as long as others are not used more.
#[derive(Debug)]
pub(in crate::log) struct MarkFile {
    files: Arc<OpenFiles>,
    kept: Arc<Kept>,
}

impl MarkFile {
    /// Of this log; not open yet.
    pub(in crate::log) fn new(files: Arc<OpenFiles>) -> Self {
        Self { files, kept: Kept::with(None, false, true) }
    }

    /// The file, opened by `open` if that is needed.
    pub(in crate::log) fn get(
        &self,
        open: impl FnOnce() -> Result<Arc<dyn StorageFile>, StorageError>,
    ) -> Result<Arc<dyn StorageFile>, StorageError> {
        if let Some(file) = self.kept.file() {
            self.files.used(&self.kept);
            return Ok(file);
        }
        Ok(self.files.keep(&self.kept, open()?))
    }
}

/// Whether the process, or the system, has as many files open as it may. Nothing was done then.
pub(in crate::log) fn is_out_of_files(error: &StorageError) -> bool {
    let limits = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    error
        .source
        .raw_os_error()
        .is_some_and(|errno| limits.iter().any(|limit| limit.raw_os_error() == errno))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::log::storage::{MemoryStorage, OpenMode, Storage};

    fn file(storage: &MemoryStorage, number: usize) -> Arc<dyn StorageFile> {
        storage.open(Path::new(&format!("/{number}")), OpenMode::Create).unwrap()
    }

    #[test]
    fn the_file_used_longest_ago_is_closed_and_its_indexes_go_with_it() {
        let (storage, files) = (MemoryStorage::new(), OpenFiles::default());
        let all: Vec<_> = (0..=SEALED_FILES_MAX).map(|_| Kept::new(None, false)).collect();
        for (number, kept) in all.iter().enumerate().take(SEALED_FILES_MAX) {
            files.keep(kept, file(&storage, number));
            *lock(&kept.indexes) = Some(Indexes::default());
        }
        assert!(all.iter().take(SEALED_FILES_MAX).all(|kept| kept.file().is_some()));
        files.used(&all[0]);
        files.keep(&all[SEALED_FILES_MAX], file(&storage, SEALED_FILES_MAX));
        let closed = |kept: &Arc<Kept>| kept.file().is_none();
        assert_eq!(all.iter().position(closed), Some(1));
        assert!(lock(&all[1].indexes).is_none());
        assert_eq!(all.iter().filter(|kept| closed(kept)).count(), 1);
        assert_eq!(all.iter().filter(|kept| lock(&kept.indexes).is_some()).count(), 63);
    }

    #[test]
    fn a_file_that_is_appended_to_or_has_lost_its_name_stays_open() {
        let (storage, files) = (MemoryStorage::new(), OpenFiles::default());
        let (active, detached) = (Kept::new(None, true), Kept::new(None, false));
        files.keep(&active, file(&storage, 0));
        detached.pin(files.keep(&detached, file(&storage, 1)));
        assert!(files.close_all());
        assert!(active.file().is_some() && detached.file().is_some());
        files.unpin(&active);
        assert!(files.close_all());
        assert!(active.file().is_none());
        assert!(!files.close_all(), "there are none left");
    }
}
