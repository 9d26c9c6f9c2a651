//! A storage that lets a test act in the moment before a call.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex};

use peermq::log::storage::{
    Entry, LockError, LockGuard, Metadata, OpenMode, Operation, Storage, StorageError, StorageFile,
};

type Hook = Box<dyn FnOnce() + Send>;

/// Delegates everything; what was planned for a call is done, once, before it.
#[derive(Clone)]
pub(crate) struct HookedStorage {
    inner: Arc<dyn Storage>,
    plan: Arc<Mutex<Option<(Operation, String, Hook)>>>,
}

impl std::fmt::Debug for HookedStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hooked {:?}", self.inner)
    }
}

impl HookedStorage {
    pub(crate) fn new(inner: impl Storage + 'static) -> Self {
        Self { inner: Arc::new(inner), plan: Arc::default() }
    }

    /// Plans what to do before the next call of a kind on a path that ends so.
    pub(crate) fn before(
        &self,
        operation: Operation,
        path: &str,
        hook: impl FnOnce() + Send + 'static,
    ) {
        *self.plan.lock().unwrap() = Some((operation, path.to_owned(), Box::new(hook)));
    }

    /// Whether what was planned was done.
    pub(crate) fn is_done(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }

    fn meet(&self, operation: Operation, path: &Path) {
        let mut plan = self.plan.lock().unwrap();
        let due = plan.as_ref().is_some_and(|(wanted, end, _)| {
            *wanted == operation && path.to_string_lossy().ends_with(end)
        });
        let met = if due { plan.take() } else { None };
        drop(plan);
        if let Some((.., hook)) = met {
            hook();
        }
    }
}

impl Storage for HookedStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn StorageFile>, StorageError> {
        self.meet(Operation::Open, path);
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(HookedFile { inner, storage: self.clone() }))
    }

    fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.meet(Operation::CreateDir, path);
        self.inner.create_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, StorageError> {
        self.meet(Operation::List, path);
        self.inner.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.meet(Operation::Rename, from);
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.meet(Operation::RemoveFile, path);
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.meet(Operation::RemoveDir, path);
        self.inner.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.meet(Operation::SyncDir, path);
        self.inner.sync_dir(path)
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        self.meet(Operation::Metadata, path);
        self.inner.metadata(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        self.inner.lock(path, holder)
    }
}

#[derive(Debug)]
struct HookedFile {
    inner: Arc<dyn StorageFile>,
    storage: HookedStorage,
}

impl StorageFile for HookedFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_some_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.storage.meet(Operation::Read, self.path());
        self.inner.read_some_at(buffer, position)
    }

    fn write_some_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.storage.meet(Operation::Write, self.path());
        self.inner.write_some_at(slices, position)
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.storage.meet(Operation::SetLen, self.path());
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        self.storage.meet(Operation::SyncData, self.path());
        self.inner.sync_data()
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.inner.len()
    }

    fn preallocate(&self, len: u64) -> Result<(), StorageError> {
        self.inner.preallocate(len)
    }
}
