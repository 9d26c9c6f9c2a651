//! The seam between a log and the medium under it: what a log may ask of files and directories, and what it may assume.
//!
//! [`FileStorage`] is the real one; [`MemoryStorage`] is for tests that need no disk; [`faulty::FaultyStorage`] fails
//! on plan and knows what a power cut would have left behind.
//!
//! # What is assumed of the medium
//!
//! These rules are the whole of what the log relies on, and what [`faulty`] tests it against.
//!
//! 1. What was written is read back at once, by every handle and every process, until a power cut.
//! 2. After [`StorageFile::sync_data`] returned `Ok`, the bytes and the length that the file had when it was called
//!    survive a power cut.
//! 3. Of what was written since, any part may survive, in any order: each write is cut at multiples of 512 bytes of the
//!    file, and each piece is there whole or not at all. All else in a sector of 512 bytes that holds synced bytes
//!    stays as it was synced.
//! 4. The length after a power cut is one that the file had since its last sync. It may be ahead of the bytes: what
//!    did not arrive then reads as zeros or as anything else that once lay on the medium.
//! 5. If `sync_data` fails, what was written since the last success may be lost for good, even if a later `sync_data`
//!    succeeds, while reads go on to show it.
//! 6. Creating, renaming and removing survive a power cut after [`Storage::sync_dir`] of the directory; until then each
//!    may have happened or not. Changes of one name or of one file happen in the order made; others in any order.
//! 7. A rename is atomic, also when it replaces a file or moves between directories: after a power cut the file is
//!    under exactly one of both names. Syncing either directory makes it durable.
//! 8. Syncing a file says nothing about its name, and syncing a directory nothing about its own name in its parent.

mod content;
mod error;
pub mod faulty;
mod files;
mod memory;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use error::{LockError, Operation, StorageError};
pub use files::{FileStorage, this_process};
pub use memory::MemoryStorage;

/// What a storage cannot hold: positions and lengths are at most this many bytes.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file for reading and writing, created empty if there is none. Never cut.
    Create,
    /// A file for reading and writing that must not exist yet (`AlreadyExists`).
    CreateNew,
}

impl OpenMode {
    /// Whether the file may be written to.
    pub fn is_writable(self) -> bool {
        self != Self::Read
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A socket, a device, a link to nothing: no business of a log.
    Other,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the directory's path.
    pub name: OsString,
    /// What it stands for; links are followed.
    pub kind: EntryKind,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What the path stands for; links are followed.
    pub kind: EntryKind,
    /// Bytes of a file; 0 for anything else.
    pub len: u64,
}

/// A place for files and directories, with the semantics of a POSIX file system (see the rules of the [module](self)).
///
/// Every call may block on the medium, takes effect in one step as far as others can see (except a write, which may be
/// seen in parts), and may be made from any thread. A call that failed changed nothing, except a write (any part of
/// it may have been written) and a sync (rule 5). Calls interrupted by a signal are repeated by the storage, never
/// reported (but single attempts to read or write are not).
///
/// Error kinds are those of Linux: `NotFound`, `AlreadyExists`, `NotADirectory`, `IsADirectory`,
/// `DirectoryNotEmpty`, `InvalidInput` (a directory moved into itself), `StorageFull` and so on, in
/// [`StorageError::kind`].
pub trait Storage: Send + Sync + Debug {
    /// Opens or creates a file. A created file's name is not durable before [`sync_dir`](Self::sync_dir).
    ///
    /// The handle stays good when the file is renamed or removed. A directory is refused (`IsADirectory`).
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn StorageFile>, StorageError>;

    /// Creates one directory; its parent must exist. Not durable before the parent is synced.
    fn create_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// The names in a directory, sorted, without `.` and `..`.
    fn list(&self, path: &Path) -> Result<Vec<Entry>, StorageError>;

    /// Gives a file or directory another name, replacing a file by a file or an empty directory by a directory.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError>;

    /// Removes a file's name. Handles to it stay good.
    fn remove_file(&self, path: &Path) -> Result<(), StorageError>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// Makes all that was created, renamed and removed in this directory so far durable (rules 6 to 8).
    fn sync_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// What a path is, and how long.
    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError>;

    /// Takes the lock that the file at `path` stands for, without waiting; creates the file if there is none.
    ///
    /// `holder` is shown to those who come too late ([`LockError::HeldBy`]); [`this_process`] makes a good one. The
    /// lock is given up when the guard is dropped or the process ends in whatever way; the file stays. Two locks
    /// exclude each other also within one process. The content of the file is the storage's own affair.
    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockError>;

    /// Creates a directory and those above it that are missing, all of them durable: syncs the parent of each.
    /// A directory that is there already is left as it is, and not synced.
    fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        let mut missing = Vec::new();
        for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            match self.metadata(ancestor) {
                Ok(Metadata { kind: EntryKind::Directory, .. }) => break,
                Ok(_) => {
                    let kind = io::ErrorKind::NotADirectory.into();
                    return Err(StorageError::new(Operation::CreateDir, ancestor, kind));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
                Err(error) => return Err(error),
            }
        }
        for directory in missing.into_iter().rev() {
            match self.create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }
}

/// Holds a lock until it is dropped.
pub trait LockGuard: Send + Sync + Debug {}

/// An open file: reads and writes at positions in bytes, shared by any number of threads without a lock of its own.
///
/// Implementors give single attempts (`read_some_at`, `write_some_at`); callers use the calls built on them.
pub trait StorageFile: Send + Sync + Debug {
    /// The path it was opened by, for errors; a rename does not change it.
    fn path(&self) -> &Path;

    /// One attempt to read at a position: how many bytes were read, 0 only at the end of the file or for an empty
    /// buffer. May end with `Interrupted`.
    fn read_some_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// One attempt to write buffers one after another from a position on: how many bytes were written. May end with
    /// `Interrupted`. A gap between the end of the file and the position reads as zeros.
    fn write_some_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize>;

    /// Cuts the file, or lets it grow by zeros. Not durable before a sync.
    fn set_len(&self, len: u64) -> Result<(), StorageError>;

    /// Makes the bytes and the length durable (rule 2). Not to be repeated after a failure (rule 5). Allowed on a file
    /// opened for reading. Other threads may write meanwhile; their bytes are durable with the next sync.
    fn sync_data(&self) -> Result<(), StorageError>;

    /// The length now, in bytes.
    fn len(&self) -> Result<u64, StorageError>;

    /// Whether the file has no bytes now.
    fn is_empty(&self) -> Result<bool, StorageError> {
        Ok(self.len()? == 0)
    }

    /// Reserves space so that the file can grow to `len` bytes in one piece. A hint: it does not change
    /// [`len`](Self::len), and callers go on after a failure.
    fn preallocate(&self, len: u64) -> Result<(), StorageError>;

    /// Reads until the buffer is full or the file ends: fewer bytes than asked for mean the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, StorageError> {
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.read_some_at(rest, position.saturating_add(read as u64)) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StorageError::new(Operation::Read, self.path(), error)),
            }
        }
        Ok(read)
    }

    /// Writes all of it or fails; see [`write_vectored_at`](Self::write_vectored_at).
    fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), StorageError> {
        self.write_vectored_at(&[IoSlice::new(bytes)], position)
    }

    /// Writes all buffers one after another from a position on, or fails; after a failure any part may have been
    /// written. Short and interrupted attempts are continued.
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> Result<(), StorageError> {
        let failed = |source| StorageError::new(Operation::Write, self.path(), source);
        let total = slices.iter().fold(0u64, |sum, slice| sum.saturating_add(slice.len() as u64));
        if position.saturating_add(total) > FILE_BYTES_MAX {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let mut written = 0;
        while written < total {
            let attempt = if written == 0 {
                self.write_some_at(slices, position)
            } else {
                self.write_some_at(&after(slices, written), position + written)
            };
            match attempt {
                Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Ok(more) => written += more as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

/// The buffers without their first `skipped` bytes, and without empty ones.
fn after<'a>(slices: &'a [IoSlice<'_>], skipped: u64) -> Vec<IoSlice<'a>> {
    let mut skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
    let mut rest = Vec::with_capacity(slices.len());
    for slice in slices {
        let bytes = slice.get(skipped..).unwrap_or_default();
        skipped = skipped.saturating_sub(slice.len());
        if !bytes.is_empty() {
            rest.push(IoSlice::new(bytes));
        }
    }
    rest
}
