//! Files in memory: for tests that need neither a disk nor faults, and for logs that need not outlive the process.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Content, check_end};
use super::tree::{Change, NodeId, Tree};
use super::{
    Entry, EntryKind, LockError, LockGuard, Metadata, OpenMode, Operation, Storage, StorageError,
    StorageFile,
};
use crate::sync::{Mutex, lock};

/// A file system in memory, starting with an empty root directory. Clones are the same file system.
///
/// Syncs do nothing. Relative paths start at the root as absolute ones do; `..` is refused (`InvalidInput`). Memory
/// grows with what is stored, a page of 4 KiB at a time; holes take none.
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    /// Held only for moments, never while a file's own lock is waited for.
    state: Arc<Mutex<State>>,
}

type SharedContent = Arc<Mutex<Content>>;

#[derive(Debug)]
struct State {
    tree: Tree,
    contents: BTreeMap<NodeId, SharedContent>,
    /// The holders of those lock files that are locked.
    holders: BTreeMap<NodeId, String>,
}

impl State {
    fn create(&mut self, path: &Path, kind: EntryKind) -> io::Result<NodeId> {
        let change = self.tree.plan_create(path, kind)?;
        self.tree.apply(&change);
        if kind == EntryKind::File {
            self.contents.insert(change.node, SharedContent::default());
        }
        Ok(change.node)
    }

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<NodeId> {
        if mode == OpenMode::CreateNew {
            return self.create(path, EntryKind::File);
        }
        match self.tree.find_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && mode == OpenMode::Create => {
                self.create(path, EntryKind::File)
            }
            found => found,
        }
    }

    fn apply(&mut self, change: &Change) {
        self.tree.apply(change);
        let removed = change.to.is_none().then_some(change.node);
        for node in removed.into_iter().chain(change.replaced) {
            self.tree.forget(node);
            self.contents.remove(&node);
        }
    }

    fn content(&self, node: NodeId) -> io::Result<SharedContent> {
        self.contents.get(&node).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// An empty file system.
    pub fn new() -> Self {
        let (contents, holders) = (BTreeMap::new(), BTreeMap::new());
        Self { state: Arc::new(Mutex::new(State { tree: Tree::new(), contents, holders })) }
    }

    fn with<T>(
        &self,
        operation: Operation,
        path: &Path,
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        work(&mut lock(&self.state)).map_err(StorageError::at(operation, path))
    }
}

impl Storage for MemoryStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn StorageFile>, StorageError> {
        self.with(Operation::Open, path, |state| {
            let node = state.open(path, mode)?;
            let (content, writable) = (state.content(node)?, mode.is_writable());
            let file = MemoryFile { path: path.to_owned(), content, writable };
            Ok(Arc::new(file) as Arc<dyn StorageFile>)
        })
    }

    fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::CreateDir, path, |state| {
            state.create(path, EntryKind::Directory).map(drop)
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, StorageError> {
        self.with(Operation::List, path, |state| state.tree.list(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.with(Operation::Rename, from, |state| {
            if let Some(change) = state.tree.plan_rename(from, to)? {
                state.apply(&change);
            }
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::RemoveFile, path, |state| {
            let change = state.tree.plan_remove(path, EntryKind::File)?;
            state.apply(&change);
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::RemoveDir, path, |state| {
            let change = state.tree.plan_remove(path, EntryKind::Directory)?;
            state.apply(&change);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::SyncDir, path, |state| state.tree.find_directory(path).map(drop))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        let (kind, content) = self.with(Operation::Metadata, path, |state| {
            let node = state.tree.find(path)?;
            Ok((state.tree.kind(node), state.contents.get(&node).cloned()))
        })?;
        Ok(Metadata { kind, len: content.map_or(0, |content| lock(&content).len()) })
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        let mut state = lock(&self.state);
        let opened = state.open(path, OpenMode::Create);
        let node = opened.map_err(StorageError::at(Operation::Lock, path))?;
        if let Some(holder) = state.holders.get(&node) {
            return Err(LockError::HeldBy(holder.clone()));
        }
        state.holders.insert(node, holder.to_owned());
        Ok(Box::new(MemoryLock { storage: self.clone(), node }))
    }
}

#[derive(Debug)]
struct MemoryLock {
    storage: MemoryStorage,
    node: NodeId,
}

impl LockGuard for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        lock(&self.storage.state).holders.remove(&self.node);
    }
}

/// An open file; keeps the bytes of a removed one.
#[derive(Debug)]
struct MemoryFile {
    path: PathBuf,
    content: SharedContent,
    writable: bool,
}

impl MemoryFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl StorageFile for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_some_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        Ok(lock(&self.content).read(buffer, position))
    }

    fn write_some_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.check_writable()?;
        let mut content = lock(&self.content);
        let mut written = 0;
        for slice in slices {
            let at = position.saturating_add(written as u64);
            check_end(at.saturating_add(slice.len() as u64))?;
            content.write(at, slice);
            written += slice.len();
        }
        Ok(written)
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        let allowed = self.check_writable().and_then(|()| check_end(len));
        allowed.map_err(StorageError::at(Operation::SetLen, &self.path))?;
        lock(&self.content).set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn len(&self) -> Result<u64, StorageError> {
        Ok(lock(&self.content).len())
    }

    fn preallocate(&self, len: u64) -> Result<(), StorageError> {
        let allowed = self.check_writable().and_then(|()| check_end(len));
        allowed.map_err(StorageError::at(Operation::Preallocate, &self.path))
    }
}
