//! A storage that knows how many files are open, and opens no more than it may.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use peermq::log::storage::{
    Entry, LockError, LockGuard, MemoryStorage, Metadata, OpenMode, Operation, Storage,
    StorageError, StorageFile,
};

/// The system's error for a process that has as many files open as it may (`EMFILE`).
const TOO_MANY_OPEN_FILES: i32 = 24;

#[derive(Clone, Debug)]
pub(crate) struct CountedStorage {
    inner: MemoryStorage,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    open: AtomicUsize,
    /// The most since it was asked for.
    peak: AtomicUsize,
    limit: AtomicUsize,
}

impl CountedStorage {
    pub(crate) fn new() -> Self {
        let (open, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new(Counts { open, peak, limit: AtomicUsize::new(usize::MAX) });
        Self { inner: MemoryStorage::new(), counts }
    }

    /// Files that are open now.
    pub(crate) fn open_files(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// The most files that were open since this was asked last.
    pub(crate) fn peak(&self) -> usize {
        self.counts.peak.swap(0, Ordering::SeqCst)
    }

    /// Lets so many files be open at most.
    pub(crate) fn limit(&self, files: usize) {
        self.counts.limit.store(files, Ordering::SeqCst);
    }

    fn check(&self, operation: Operation, path: &Path) -> Result<usize, StorageError> {
        let open = self.open_files() + 1;
        if open <= self.counts.limit.load(Ordering::SeqCst) {
            return Ok(open);
        }
        let error = io::Error::from_raw_os_error(TOO_MANY_OPEN_FILES);
        Err(StorageError::new(operation, path, error))
    }
}

impl Storage for CountedStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn StorageFile>, StorageError> {
        let open = self.check(Operation::Open, path)?;
        let inner = self.inner.open(path, mode)?;
        self.counts.open.fetch_add(1, Ordering::SeqCst);
        self.counts.peak.fetch_max(open, Ordering::SeqCst);
        Ok(Arc::new(CountedFile { inner, counts: self.counts.clone() }))
    }

    fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.inner.create_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, StorageError> {
        self.check(Operation::List, path)?;
        self.inner.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.check(Operation::SyncDir, path)?;
        self.inner.sync_dir(path)
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        self.inner.metadata(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        self.inner.lock(path, holder)
    }
}

#[derive(Debug)]
struct CountedFile {
    inner: Arc<dyn StorageFile>,
    counts: Arc<Counts>,
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl StorageFile for CountedFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_some_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_some_at(buffer, position)
    }

    fn write_some_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.inner.write_some_at(slices, position)
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        self.inner.sync_data()
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.inner.len()
    }

    fn preallocate(&self, len: u64) -> Result<(), StorageError> {
        self.inner.preallocate(len)
    }
}
