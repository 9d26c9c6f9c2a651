//! The gate before a partition's directory: whatever has a name there is reached through it, and not any more when the
//! topic was deleted. The names may be those of a later topic by then, and what belongs to the old one - a reader that
//! opens a segment late, a pass that rolls one, a writer that notes something - must not meet the new one's files.
//!
//! Files that are open already stay good: they are the old topic's, whatever has become of their names.
//!
//! When the log is closed the files are those of whoever opens it next. Nothing is changed through the gate from then on:
//! readers that go on are guests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::disk;
use super::format::Id;
use super::format::properties::PartitionMetadata;
use super::segment::{OpenFiles, is_out_of_files};
use super::storage::{
    Entry, LockError, LockGuard, Metadata, OpenMode, Operation, Storage, StorageError, StorageFile,
};

/// What a gate says when the topic behind it was deleted.
#[derive(Debug, thiserror::Error)]
#[error("the topic was deleted")]
struct Deleted {
    topic: String,
}

/// The topic that was deleted, if that is why a storage refused something.
pub(super) fn deleted_topic(error: &StorageError) -> Option<&str> {
    let deleted = error.source.get_ref()?.downcast_ref::<Deleted>()?;
    Some(&deleted.topic)
}

/// What a gate says of changes when the log behind it was closed.
#[derive(Debug, thiserror::Error)]
#[error("the log is closed")]
struct Closed;

/// Whether a storage refused something because the log was closed.
pub(super) fn is_closed(error: &StorageError) -> bool {
    error.source.get_ref().is_some_and(|source| source.is::<Closed>())
}

/// Who is let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Passage {
    Everybody,
    /// The log was closed.
    Readers,
    /// The topic was deleted.
    Nobody,
}

/// By what a directory is known as that of a topic, where nobody says that the topic was deleted.
#[derive(Debug)]
pub(super) struct Sign {
    /// The file with the topic's id. It has its name last when a partition is made.
    pub(super) path: PathBuf,
    /// The id. No later topic has it.
    pub(super) id: Id,
}

/// The storage as a partition has it.
#[derive(Debug)]
pub(super) struct Gate {
    storage: Arc<dyn Storage>,
    topic: String,
    /// Held for reading during each call, so that none is under way any more when the gate is shut.
    passage: RwLock<Passage>,
    /// What may be closed when no more files can be opened.
    files: Arc<OpenFiles>,
    /// For a log that is open for reading only: another process deletes its topics.
    sign: Option<Sign>,
}

impl Gate {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        topic: &str,
        files: Arc<OpenFiles>,
        sign: Option<Sign>,
    ) -> Self {
        let passage = RwLock::new(Passage::Everybody);
        Self { storage, topic: topic.to_owned(), passage, files, sign }
    }

    /// Lets nobody through any more, and waits for those who are on their way.
    pub(super) fn shut(&self) {
        *self.passage.write().unwrap_or_else(PoisonError::into_inner) = Passage::Nobody;
    }

    /// Lets nobody change anything any more, and waits for those who are at it. They may have files open.
    pub(super) fn close(&self) {
        let mut passage = self.passage.write().unwrap_or_else(PoisonError::into_inner);
        if *passage == Passage::Everybody {
            *passage = Passage::Readers;
        }
    }

    fn through<T>(
        &self,
        operation: Operation,
        path: &Path,
        call: impl Fn(&dyn Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let changes = !matches!(operation, Operation::Open | Operation::List | Operation::Metadata);
        self.pass(operation, path, |storage, passage| {
            if changes && passage == Passage::Readers {
                return Err(StorageError::new(operation, path, std::io::Error::other(Closed)));
            }
            call(storage)
        })
    }

    fn pass<T>(
        &self,
        operation: Operation,
        path: &Path,
        call: impl Fn(&dyn Storage, Passage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let passage = self.passage.read().unwrap_or_else(PoisonError::into_inner);
        let deleted = || {
            let deleted = Deleted { topic: self.topic.clone() };
            StorageError::new(operation, path, std::io::Error::other(deleted))
        };
        if *passage == Passage::Nobody {
            return Err(deleted());
        }
        let done = match call(&*self.storage, *passage) {
            Err(error) if is_out_of_files(&error) && self.files.close_all() => {
                call(&*self.storage, *passage)
            }
            done => done,
        };
        // Afterwards: a directory that is the topic's now was it during the call too, for no id comes twice.
        match &self.sign {
            Some(sign) if !sign.is_there(&*self.storage)? => Err(deleted()),
            _ => done,
        }
    }
}

impl Sign {
    /// Whether the directory is still that of the topic.
    fn is_there(&self, storage: &dyn Storage) -> Result<bool, StorageError> {
        let Some(text) = disk::read(storage, &self.path)? else { return Ok(false) };
        match PartitionMetadata::decode(&text) {
            Ok(found) => Ok(found.topic_id == self.id),
            Err(error) => {
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                Err(StorageError::new(Operation::Read, &self.path, error))
            }
        }
    }
}

impl Storage for Gate {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn StorageFile>, StorageError> {
        self.pass(Operation::Open, path, |storage, passage| match (passage, mode) {
            // Who has the log open for writing opens so what it may only read by now.
            (Passage::Readers, OpenMode::Write) => storage.open(path, OpenMode::Read),
            (Passage::Readers, OpenMode::Create | OpenMode::CreateNew) => {
                Err(StorageError::new(Operation::Open, path, std::io::Error::other(Closed)))
            }
            _ => storage.open(path, mode),
        })
    }

    fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.through(Operation::CreateDir, path, |storage| storage.create_dir(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, StorageError> {
        self.through(Operation::List, path, |storage| storage.list(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.through(Operation::Rename, from, |storage| storage.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.through(Operation::RemoveFile, path, |storage| storage.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.through(Operation::RemoveDir, path, |storage| storage.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.through(Operation::SyncDir, path, |storage| storage.sync_dir(path))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        self.through(Operation::Metadata, path, |storage| storage.metadata(path))
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        self.through(Operation::Lock, path, |storage| match storage.lock(path, holder) {
            Ok(guard) => Ok(Ok(guard)),
            Err(LockError::Storage(error)) => Err(error),
            Err(held) => Ok(Err(held)),
        })?
    }
}
