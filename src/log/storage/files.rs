//! Real files: the storage that a log uses outside of tests. Every path is taken as the operating system takes it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Entry, EntryKind, LockError, LockGuard, Metadata, OpenMode, Operation, Storage, StorageError,
    StorageFile,
};

/// The file system of this machine.
///
/// Locks are `flock` locks: they work between processes of one host, and on NFS only as far as the server does.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileStorage;

impl FileStorage {
    /// Needs nothing; opens nothing.
    pub fn new() -> Self {
        Self
    }
}

fn open_file(path: &Path, mode: OpenMode) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(mode.is_writable());
    match mode {
        OpenMode::Read | OpenMode::Write => {}
        OpenMode::Create => _ = options.create(true).truncate(false),
        OpenMode::CreateNew => _ = options.create_new(true),
    }
    let file = options.open(path)?;
    // Only a handle for reading can be got of a directory.
    if mode == OpenMode::Read && file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

fn kind_of(file_type: fs::FileType) -> EntryKind {
    if file_type.is_file() {
        EntryKind::File
    } else if file_type.is_dir() {
        EntryKind::Directory
    } else {
        EntryKind::Other
    }
}

fn list(path: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let mut kind = kind_of(entry.file_type()?);
        if kind == EntryKind::Other {
            kind = fs::metadata(entry.path()).map_or(kind, |target| kind_of(target.file_type()));
        }
        entries.push(Entry { name: entry.file_name(), kind });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let directory = File::open(path)?;
    if !directory.metadata()?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    directory.sync_all()
}

impl Storage for FileStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn StorageFile>, StorageError> {
        let file = open_file(path, mode).map_err(StorageError::at(Operation::Open, path))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned(), writable: mode.is_writable() }))
    }

    fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        fs::create_dir(path).map_err(StorageError::at(Operation::CreateDir, path))
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, StorageError> {
        list(path).map_err(StorageError::at(Operation::List, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        fs::rename(from, to).map_err(StorageError::at(Operation::Rename, from))
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        fs::remove_file(path).map_err(StorageError::at(Operation::RemoveFile, path))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        fs::remove_dir(path).map_err(StorageError::at(Operation::RemoveDir, path))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        sync_dir(path).map_err(StorageError::at(Operation::SyncDir, path))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        let found = fs::metadata(path).map_err(StorageError::at(Operation::Metadata, path))?;
        let kind = kind_of(found.file_type());
        Ok(Metadata { kind, len: if kind == EntryKind::File { found.len() } else { 0 } })
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        let failed = |source| StorageError::new(Operation::Lock, path, source);
        let file = open_file(path, OpenMode::Create).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::HeldBy(holder_of(&file).map_err(failed)?));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error).into()),
        }
        file.set_len(0).and_then(|()| file.write_all_at(holder.as_bytes(), 0)).map_err(failed)?;
        Ok(Box::new(FileLock { _file: file }))
    }
}

/// The holder's text; a holder that has the lock but did not write yet has none.
fn holder_of(file: &File) -> io::Result<String> {
    const HOLDER_BYTES_MAX: usize = 1024;
    let mut text = vec![0; HOLDER_BYTES_MAX];
    let read = file.read_at(&mut text, 0)?;
    text.truncate(read);
    match String::from_utf8_lossy(&text).trim() {
        "" => Ok("a process that did not say its name yet".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// The lock lives as long as its open file.
#[derive(Debug)]
struct FileLock {
    _file: File,
}

impl LockGuard for FileLock {}

/// An open file of the operating system.
#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
    writable: bool,
}

impl RealFile {
    /// The operating system would say `EBADF` or `EINVAL`, which says less.
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl StorageFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_some_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_some_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.check_writable()?;
        // Leading empty buffers could fill one call's share, and 0 bytes written would look like a full medium.
        let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(slices.len());
        match slices.get(first..).unwrap_or_default() {
            [] => Ok(0),
            [only] => self.file.write_at(only, position),
            several => Ok(rustix::io::pwritev(&self.file, several, position)?),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        let done = self.check_writable().and_then(|()| self.file.set_len(len));
        done.map_err(StorageError::at(Operation::SetLen, &self.path))
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::at(Operation::SyncData, &self.path))
    }

    fn len(&self) -> Result<u64, StorageError> {
        let found = self.file.metadata().map_err(StorageError::at(Operation::Len, &self.path))?;
        Ok(found.len())
    }

    fn preallocate(&self, len: u64) -> Result<(), StorageError> {
        let done = self.check_writable().and_then(|()| preallocate(&self.file, len));
        done.map_err(StorageError::at(Operation::Preallocate, &self.path))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn preallocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};
    match len {
        0 => Ok(()),
        _ if len > super::FILE_BYTES_MAX => Err(Errno::INVAL.into()),
        _ => Ok(retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, len))?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn preallocate(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The text by which a lock names this process: its id, and on Linux the second (Unix time) it was started, because
/// ids are used again.
pub fn this_process() -> String {
    let id = std::process::id();
    match started() {
        Some(second) => format!("process {id}, started at {second}"),
        None => format!("process {id}"),
    }
}

/// When this process started, in seconds of Unix time.
fn started() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold spaces; the 22nd is the start in ticks.
    let ticks: u64 = own.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    let since_boot = ticks.checked_div(rustix::param::clock_ticks_per_second())?;
    boot.trim().parse::<u64>().ok()?.checked_add(since_boot)
}
