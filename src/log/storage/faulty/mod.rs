//! A storage that fails on plan and remembers everything, for tests of what is built on a storage.
//!
//! - **Faults**: [`FaultyStorage::inject`] takes a [`Fault`]: the n-th call (of a kind, on a path) fails with `EIO` or
//!   `ENOSPC`, writes half, is interrupted, reads a wrong bit, or writes to the wrong place.
//!   [`FaultyStorage::flip_bit`] lets the medium rot.
//! - **Power cuts**: every change is recorded. [`FaultyStorage::history`] gives the record, and the record gives the
//!   storage as a power cut at any moment could have left it: [all ways](History::every_image) for short scripts,
//!   [random ones](History::sample) for long. What can happen is what the rules of the [storage
//!   module](super#what-is-assumed-of-the-medium) do not exclude.
//! - **Kills**: [`FaultyStorage::kill`] and [`History::killed_at`] give the storage as another process would find it.
//!
//! Everything is deterministic: what looks random comes from a seed.
//!
//! ```
//! use std::path::Path;
//! use peermq::log::storage::faulty::FaultyStorage;
//! use peermq::log::storage::{OpenMode, Storage, StorageFile};
//!
//! let storage = FaultyStorage::new();
//! let file = storage.open(Path::new("data"), OpenMode::CreateNew)?;
//! storage.sync_dir(Path::new("/"))?;
//! file.write_at(b"kept", 0)?;
//! file.sync_data()?;
//! let acknowledged = storage.recorded();
//! file.write_at(b"perhaps", 4)?;
//!
//! for image in storage.history().every_image(10_000)? {
//!     if image.crash_point() >= acknowledged {
//!         let found = image.storage().open(Path::new("data"), OpenMode::Read)?;
//!         let mut bytes = [0; 4];
//!         found.read_at(&mut bytes, 0)?;
//!         assert_eq!(&bytes, b"kept");
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod faults;
mod history;
mod image;
mod medium;
mod sample;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::check_end;
use super::tree::{Change, NodeId};
use super::{
    Entry, EntryKind, LockError, LockGuard, Metadata, OpenMode, Operation, Storage, StorageError,
    StorageFile,
};
use crate::sync::{Mutex, lock};
use faults::Plan;
use history::Recorded;
use image::Random;
use medium::{Medium, Op};

pub use faults::{Errno, Fault, FaultAction};
pub use history::{CrashImages, History, TooManyImages};
pub use image::{CrashImage, SECTOR_BYTES};

/// A file system in memory that fails on plan and remembers what was done to it; see the [module](self).
///
/// Clones are the same file system. Without faults it behaves as [`MemoryStorage`](super::MemoryStorage) does. Memory
/// grows with all that was ever written; [`forget_history`](Self::forget_history) frees the record.
#[derive(Clone)]
pub struct FaultyStorage {
    machine: Arc<Mutex<Machine>>,
}

impl std::fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let machine = lock(&self.machine);
        f.debug_struct("FaultyStorage")
            .field("recorded", &machine.log.len())
            .field("calls", &machine.plan.calls(None))
            .finish_non_exhaustive()
    }
}

/// All of a storage, under one lock, so that the record has one order.
struct Machine {
    medium: Medium,
    /// The state that the record starts from.
    start: Medium,
    log: Vec<Recorded>,
    plan: Plan,
    /// The next attempt to write to this file fails: the second half of a short write.
    rest_fails: Option<(NodeId, Errno)>,
    /// How many bytes all files together may have.
    capacity: u64,
    /// The holders of those lock files that are locked.
    holders: BTreeMap<NodeId, String>,
}

impl Machine {
    /// Counts the call. An error if it is to fail and has nothing more to do about it; else what it must do itself.
    fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<Option<FaultAction>> {
        match self.plan.meet(operation, path) {
            Some(FaultAction::Fail(errno)) => Err(errno.into()),
            Some(FaultAction::ShortWrite(errno)) if operation != Operation::Write => {
                Err(errno.into())
            }
            Some(FaultAction::Interrupt)
                if matches!(operation, Operation::Read | Operation::Write) =>
            {
                Err(io::ErrorKind::Interrupted.into())
            }
            action => Ok(action),
        }
    }

    fn record(&mut self, path: &Path, op: Op) {
        self.medium.apply(&op);
        self.log.push(Recorded { path: path.into(), op });
    }

    fn change(&mut self, path: &Path, change: Change) -> NodeId {
        let node = change.node;
        self.record(path, Op::Names(change));
        node
    }

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<NodeId> {
        let found = match mode {
            OpenMode::CreateNew => Err(io::ErrorKind::NotFound.into()),
            _ => self.medium.live.find_file(path),
        };
        match (found, mode) {
            (Err(error), OpenMode::Create | OpenMode::CreateNew)
                if error.kind() == io::ErrorKind::NotFound =>
            {
                let change = self.medium.live.plan_create(path, EntryKind::File)?;
                Ok(self.change(path, change))
            }
            (found, _) => found,
        }
    }

    fn read(
        &mut self,
        (node, path): (NodeId, &Path),
        buffer: &mut [u8],
        position: u64,
    ) -> io::Result<usize> {
        let action = self.begin(Operation::Read, path)?;
        let read = self.medium.file(node)?.live.read(buffer, position);
        if let (Some(FaultAction::FlipBit { bit }), true) = (action, read > 0) {
            let bit = bit % (read as u64 * 8);
            if let Some(byte) = buffer.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(read)
    }

    fn write(
        &mut self,
        (node, path): (NodeId, &Path),
        slices: &[IoSlice<'_>],
        position: u64,
    ) -> io::Result<usize> {
        let action = self.begin(Operation::Write, path)?;
        if let Some((_, errno)) = self.rest_fails.take_if(|(short, _)| *short == node) {
            return Err(errno.into());
        }
        let mut data: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut target = position;
        match action {
            Some(FaultAction::ShortWrite(errno)) => {
                data.truncate(data.len() / 2);
                if data.is_empty() {
                    return Err(errno.into());
                }
                self.rest_fails = Some((node, errno));
            }
            Some(FaultAction::Misdirect { by }) => {
                target = position.saturating_add_signed(by);
            }
            _ => {}
        }
        check_end(target.saturating_add(data.len() as u64))?;
        let room = self.room_behind(node)?.saturating_sub(target);
        if room == 0 && !data.is_empty() {
            return Err(Errno::NoSpace.into());
        }
        data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let written = data.len();
        if written > 0 {
            self.record(path, Op::Write { node, position: target, data: data.into() });
        }
        Ok(written)
    }

    /// How long a file may be: as long as it is, and by as much longer as there is room.
    fn room_behind(&self, node: NodeId) -> io::Result<u64> {
        if self.capacity == u64::MAX {
            return Ok(u64::MAX);
        }
        let room = self.capacity.saturating_sub(self.used());
        Ok(self.medium.file(node)?.live.len().saturating_add(room))
    }

    /// Bytes of all files that have a name.
    fn used(&self) -> u64 {
        let files = self.medium.live.files().into_iter();
        files.filter_map(|node| self.medium.files.get(&node)).map(|file| file.live.len()).sum()
    }

    fn sync_data(&mut self, node: NodeId, path: &Path) -> io::Result<()> {
        let done = self.begin(Operation::SyncData, path).map(drop);
        self.record(path, Op::SyncData { node, lost: done.is_err() });
        done
    }
}

impl Default for FaultyStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultyStorage {
    /// An empty file system without faults.
    pub fn new() -> Self {
        Self::starting_with(Medium::new())
    }

    fn starting_with(medium: Medium) -> Self {
        let machine = Machine {
            start: medium.clone(),
            medium,
            log: Vec::new(),
            plan: Plan::default(),
            rest_fails: None,
            capacity: u64::MAX,
            holders: BTreeMap::new(),
        };
        Self { machine: Arc::new(Mutex::new(machine)) }
    }

    fn with<T>(
        &self,
        operation: Operation,
        path: &Path,
        work: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let mut machine = lock(&self.machine);
        let begun = machine.begin(operation, path);
        begun.and_then(|_| work(&mut machine)).map_err(StorageError::at(operation, path))
    }

    /// Plans a fault, in addition to those planned before.
    pub fn inject(&self, fault: Fault) {
        lock(&self.machine).plan.add(fault);
    }

    /// Forgets all planned faults: the medium is well again.
    pub fn clear_faults(&self) {
        lock(&self.machine).plan.clear();
    }

    /// Limits the medium to the bytes that all files have now and so many more, `None`: not at all. What makes a file longer
    /// than there is room for stops where the room ends, and fails with [`Errno::NoSpace`] then.
    pub fn limit_room(&self, more: Option<u64>) {
        let mut machine = lock(&self.machine);
        let used = machine.used();
        machine.capacity = more.map_or(u64::MAX, |more| used.saturating_add(more));
    }

    /// How many calls of this kind (`None`: of any kind) were made so far. Attempts to read or write count one by one.
    pub fn calls(&self, operation: Option<Operation>) -> u64 {
        lock(&self.machine).plan.calls(operation)
    }

    /// How many calls met a fault so far.
    pub fn faults_met(&self) -> u64 {
        lock(&self.machine).plan.hits()
    }

    /// How many operations are recorded: the crash point of this moment. What is durable now is there in every image
    /// whose crash point is this or later.
    pub fn recorded(&self) -> usize {
        lock(&self.machine).log.len()
    }

    /// Lets the record start anew from this moment. What is not durable yet stays so.
    pub fn forget_history(&self) {
        let mut machine = lock(&self.machine);
        machine.start = machine.medium.clone();
        machine.log.clear();
    }

    /// The record so far, with the state after each operation.
    pub fn history(&self) -> History {
        let machine = lock(&self.machine);
        History::new(&machine.start, &machine.log)
    }

    /// One power cut at this moment, leaving what the seed says.
    pub fn power_cut(&self, seed: u64) -> CrashImage {
        let machine = lock(&self.machine);
        sample::sample(&machine.medium, machine.log.len(), &mut Random::new(seed))
    }

    /// What another process finds if this one is killed now: see [`History::killed_at`]. What old handles still do does
    /// not reach it.
    pub fn kill(&self) -> FaultyStorage {
        Self::starting_with(lock(&self.machine).medium.clone())
    }

    /// Turns one bit of a file over, on the medium and for readers; beyond the end nothing happens. Bytes that were not
    /// synced yet may reach the medium as they were written.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> Result<(), StorageError> {
        let mut machine = lock(&self.machine);
        let node = machine.medium.live.find_file(path);
        let node = node.map_err(StorageError::at(Operation::Write, path))?;
        machine.record(path, Op::Rot { node, bit });
        Ok(())
    }
}

impl Storage for FaultyStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn StorageFile>, StorageError> {
        let node = self.with(Operation::Open, path, |machine| machine.open(path, mode))?;
        let (path, writable) = (path.to_owned(), mode.is_writable());
        Ok(Arc::new(FaultyFile { storage: self.clone(), node, path, writable }))
    }

    fn create_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::CreateDir, path, |machine| {
            let change = machine.medium.live.plan_create(path, EntryKind::Directory)?;
            machine.change(path, change);
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, StorageError> {
        self.with(Operation::List, path, |machine| machine.medium.live.list(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.with(Operation::Rename, from, |machine| {
            if let Some(change) = machine.medium.live.plan_rename(from, to)? {
                machine.change(from, change);
            }
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::RemoveFile, path, |machine| {
            let change = machine.medium.live.plan_remove(path, EntryKind::File)?;
            machine.change(path, change);
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::RemoveDir, path, |machine| {
            let change = machine.medium.live.plan_remove(path, EntryKind::Directory)?;
            machine.change(path, change);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.with(Operation::SyncDir, path, |machine| {
            let directory = machine.medium.live.find_directory(path)?;
            machine.record(path, Op::SyncDir { directory });
            Ok(())
        })
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        self.with(Operation::Metadata, path, |machine| {
            let (kind, len) = machine.medium.len_at(path)?;
            Ok(Metadata { kind, len })
        })
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        let mut held_by = None;
        let node = self.with(Operation::Lock, path, |machine| {
            let node = machine.open(path, OpenMode::Create)?;
            held_by = machine.holders.get(&node).cloned();
            machine.holders.entry(node).or_insert_with(|| holder.to_owned());
            Ok(node)
        })?;
        match held_by {
            Some(holder) => Err(LockError::HeldBy(holder)),
            None => Ok(Box::new(FaultyLock { storage: self.clone(), node })),
        }
    }
}

#[derive(Debug)]
struct FaultyLock {
    storage: FaultyStorage,
    node: NodeId,
}

impl LockGuard for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        lock(&self.storage.machine).holders.remove(&self.node);
    }
}

/// An open file.
#[derive(Debug)]
struct FaultyFile {
    storage: FaultyStorage,
    node: NodeId,
    path: PathBuf,
    writable: bool,
}

impl FaultyFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl StorageFile for FaultyFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_some_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        lock(&self.storage.machine).read((self.node, &self.path), buffer, position)
    }

    fn write_some_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.check_writable()?;
        lock(&self.storage.machine).write((self.node, &self.path), slices, position)
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.storage.with(Operation::SetLen, &self.path, |machine| {
            self.check_writable()?;
            check_end(len)?;
            machine.record(&self.path, Op::SetLen { node: self.node, len });
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        lock(&self.storage.machine)
            .sync_data(self.node, &self.path)
            .map_err(StorageError::at(Operation::SyncData, &self.path))
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.storage.with(Operation::Len, &self.path, |machine| {
            Ok(machine.medium.file(self.node)?.live.len())
        })
    }

    fn preallocate(&self, len: u64) -> Result<(), StorageError> {
        self.storage.with(Operation::Preallocate, &self.path, |_| {
            self.check_writable()?;
            check_end(len)
        })
    }
}
