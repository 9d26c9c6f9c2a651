//! What a storage was asked to do, and how it says that it could not.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One kind of call to a storage: names the call in a [`StorageError`], and the calls that a planned fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// Opening or creating a file.
    Open,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Cutting or growing a file.
    SetLen,
    /// Making a file's data durable.
    SyncData,
    /// Asking for a file's length through its handle.
    Len,
    /// Reserving space.
    Preallocate,
    /// Creating a directory.
    CreateDir,
    /// Listing a directory.
    List,
    /// Renaming a file or a directory.
    Rename,
    /// Removing a file.
    RemoveFile,
    /// Removing an empty directory.
    RemoveDir,
    /// Making a directory's entries durable.
    SyncDir,
    /// Asking what a path is.
    Metadata,
    /// Taking a lock file.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::SetLen => "set the length of",
            Self::SyncData => "sync",
            Self::Len => "get the length of",
            Self::Preallocate => "reserve space for",
            Self::CreateDir => "create the directory",
            Self::List => "list",
            Self::Rename => "rename",
            Self::RemoveFile => "remove the file",
            Self::RemoveDir => "remove the directory",
            Self::SyncDir => "sync the directory",
            Self::Metadata => "inspect",
            Self::Lock => "lock",
        })
    }
}

/// A call to a storage that failed: which, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
#[non_exhaustive]
pub struct StorageError {
    /// What was tried.
    pub operation: Operation,
    /// The path given; for a file's own calls the one it was opened by. Of a rename the old one.
    pub path: PathBuf,
    /// What the operating system, or whoever stands in for it, said.
    pub source: io::Error,
}

impl StorageError {
    /// For those who write a storage of their own.
    pub fn new(operation: Operation, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { operation, path: path.into(), source }
    }

    /// The kind of the operating system's error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// For `map_err`: makes the path owned only when something went wrong.
    pub(super) fn at(operation: Operation, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(operation, path, source)
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody has it. The text is what the holder gave to [`Storage::lock`](super::Storage::lock).
    #[error("locked by {0}")]
    HeldBy(String),
    /// The lock file could not be opened, read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
