//! Looking into the directory of a log without opening it: is it sound, what can be saved of it, what is in a file.
//!
//! An [`Inspector`] changes nothing in what it inspects and takes no lock there. It is meant for logs that no process
//! has open for writing; of one that is being written to, what is appended meanwhile may look like a torn tail, which
//! is [`Harmless`](Severity::Harmless).
//!
//! ```
//! # use std::sync::Arc;
//! # use peermq::log::{Log, storage::MemoryStorage};
//! use peermq::log::inspect::Inspector;
//!
//! # let storage = Arc::new(MemoryStorage::new());
//! # let log = Log::open_in(storage.clone(), "/log")?;
//! # log.create_topic("orders", Default::default())?.append("apple")?.wait()?;
//! # log.close()?;
//! let report = Inspector::new().storage(storage).verify("/log")?;
//! assert!(report.is_sound());
//! assert_eq!(report.records, 1);
//! # Ok::<(), peermq::log::LogError>(())
//! ```
//!
//! `survey.rs` finds out what should be there, `walk.rs` goes through segments past damage; on these `verify` compares,
//! `salvage` copies and `dump` shows.

mod checks;
mod dump;
mod partition;
mod salvage;
mod survey;
#[cfg(test)]
mod tests;
mod verify;
mod walk;
mod window;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use salvage::{LostRange, SalvageReport};

use super::error::{Damage, LogError, Place};
use super::storage::{FileStorage, Storage, StorageError};
use walk::Why;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// No record is lost or doubtful: the next opening, or the next reader, puts it right by itself.
    Harmless,
    /// Something that was durable is damaged.
    Unsound,
}

/// What a finding is.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Issue {
    /// Bytes, a file or a name are not what they should be.
    #[error(transparent)]
    Damaged(Damage),
    /// The storage refused.
    #[error(transparent)]
    Unreadable(Arc<StorageError>),
    /// A batch's epoch is not that of the writer that appended at its offset.
    #[error("a batch is from the writer of epoch {found}, but epoch {expected} wrote there")]
    WrongWriter {
        /// What the checkpoint of epochs says.
        expected: i32,
        /// What the batch says.
        found: i32,
    },
    /// The last segment ends with bytes that were not known to be durable and are not whole. The next opening cuts them
    /// off.
    #[error("{bytes} bytes of a torn tail, with {batches} whole batches in it, will be cut off")]
    TornTail {
        /// Bytes from the first batch that is not whole, or not the next one, to the end of the file.
        bytes: u64,
        /// Batches behind it that are whole.
        batches: u64,
    },
    /// An index is missing or has a wrong entry. It is built again when it is needed.
    #[error("entry {entry} does not fit the segment; the index will be built again")]
    IndexEntry {
        /// Number of the first wrong entry, from 0.
        entry: usize,
    },
    /// A snapshot tells of a producer otherwise than the log.
    #[error("tells of producer {producer} otherwise than the log")]
    SnapshotDiffers {
        /// The producer's id.
        producer: i64,
    },
    /// The front is cut behind the end.
    #[error("begins at offset {start}, but ends at {end}")]
    StartBehindEnd {
        /// Where the partition begins by its checkpoint.
        start: i64,
        /// The offset after its last record.
        end: i64,
    },
    /// The log was closed in order, but of the end there is less now.
    #[error("ends at offset {end}, but ended at {closed_at} when the log was closed")]
    EndsEarly {
        /// The offset after its last record.
        end: i64,
        /// What that was.
        closed_at: i64,
    },
    /// What the last transaction was to append is not known any more, or could not be appended in the new log.
    #[error("the last transaction may be there in part only")]
    TransactionInDoubt,
    /// An interrupted operation left it. The next opening completes the operation or removes it.
    #[error("is left over from an interrupted operation")]
    Leftover,
}

impl From<Damage> for Issue {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<Why> for Issue {
    fn from(why: Why) -> Self {
        match why {
            Why::Damage(damage) => Self::Damaged(damage),
            Why::Unreadable(error) => Self::Unreadable(error),
        }
    }
}

/// Something that is not as it should be, and where.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Topic, partition, segment, offset, file and byte, as far as there are any.
    pub place: Place,
    /// What it is.
    pub issue: Issue,
}

impl Finding {
    fn unsound(place: Place, issue: impl Into<Issue>) -> Self {
        Self { severity: Severity::Unsound, place, issue: issue.into() }
    }

    fn harmless(place: Place, issue: impl Into<Issue>) -> Self {
        Self { severity: Severity::Harmless, place, issue: issue.into() }
    }

    /// An error as a finding; `place` is where, if that does not say it.
    fn failed(place: Place, error: LogError) -> Self {
        match error {
            LogError::Corrupt { place, damage } => Self::unsound(*place, damage),
            LogError::Storage { place, source } => Self::unsound(*place, Issue::Unreadable(source)),
            _ => Self::unsound(place, Damage::Unreadable),
        }
    }

    fn unreadable(place: Place, error: StorageError) -> Self {
        Self::unsound(place, Issue::Unreadable(Arc::new(error)))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Harmless => "harmless",
            Severity::Unsound => "unsound",
        };
        write!(f, "{severity}: {}: {}", self.place, self.issue)
    }
}

/// How far an inspection has come.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The topic being looked at.
    pub topic: &'a str,
    /// The partition being looked at.
    pub partition: u32,
    /// Bytes of segments that were looked at so far, in all partitions.
    pub bytes: u64,
    /// Bytes of segments there are.
    pub bytes_total: u64,
}

/// What [`Inspector::verify`] found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// All that is not as it should be, partition by partition.
    pub findings: Vec<Finding>,
    /// Topics.
    pub topics: u64,
    /// Partitions.
    pub partitions: u64,
    /// Segments.
    pub segments: u64,
    /// Whole batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of segments.
    pub bytes: u64,
    /// Batches whose records could not be looked at, because their codec is not built in; their CRC was checked.
    pub undecoded_batches: u64,
}

impl VerifyReport {
    /// Whether nothing that was durable is damaged.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Unsound)
    }
}

/// Looks into a log's directory; see the [module](self).
pub struct Inspector<'p> {
    storage: Arc<dyn Storage>,
    progress: Box<dyn FnMut(Progress<'_>) + 'p>,
}

impl Default for Inspector<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inspector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector").field("storage", &self.storage).finish_non_exhaustive()
    }
}

impl<'p> Inspector<'p> {
    /// An inspector of the files of this machine.
    pub fn new() -> Self {
        Self { storage: Arc::new(FileStorage::new()), progress: Box::new(|_| {}) }
    }

    /// Another storage than the files of this machine.
    #[must_use]
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = storage;
        self
    }

    /// Tells now and then, every few MiB, how far it has come.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(Progress<'_>) + 'p) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Checks everything in the directory of a log: that every batch is intact, decodes and continues the one before;
    /// indexes and snapshots against the segments; watermark, checkpoints and catalogue. Where partitions begin is only
    /// known from a checkpoint without checksum, so that a wrong number there is found only if it is impossible.
    ///
    /// # Errors
    /// `NotALog`, or failures of the storage that leave nothing to look at. Everything else is in the report, files that
    /// cannot be read included.
    pub fn verify(&mut self, directory: impl AsRef<Path>) -> Result<VerifyReport, LogError> {
        verify::verify(&self.storage, directory.as_ref(), &mut *self.progress)
    }

    /// Copies every record that is sound into a new log in the directory `out`, which must be empty or not there: the same
    /// topics with their ids and options, and every record at its offset. Where offsets were lost, readers of the new log
    /// go on with the next record that there is. Its batches are those of a new writer of a later epoch.
    ///
    /// The last transaction is completed there. If its intent is lost, or that is not possible with what was saved, the
    /// finding [`Issue::TransactionInDoubt`] says so, and the new log takes it for complete.
    ///
    /// What was torn off by a crash and would be cut at the next opening is copied too where it is whole. Bytes in a
    /// value that imitate a batch are never taken for one, unless the batch around them has lost its length, and they
    /// bear an offset that is missing there. A batch behind damage that reached into its own offset is put where its
    /// neighbours say; the last batch of a log has none, and may get another offset than it had.
    ///
    /// # Errors
    /// `NotALog`; `Invalid` if there is something in `out`, or it lies within `directory`; failures of the storage where
    /// the new log is. What cannot be read of the old one is in the report.
    pub fn salvage(
        &mut self,
        directory: impl AsRef<Path>,
        out: impl AsRef<Path>,
    ) -> Result<SalvageReport, LogError> {
        salvage::salvage(&self.storage, directory.as_ref(), out.as_ref(), &mut *self.progress)
    }

    /// Shows what is in one file of a log, in lines of text: a segment with all records, an index, a snapshot, a
    /// checkpoint, the durable watermark, the catalogue. What the file is, is known by its name. Returns whether all of it
    /// is sound as far as the file alone tells.
    ///
    /// Keys and values are shown with the escapes of a Rust string; what is null is shown as `null`.
    ///
    /// # Errors
    /// `Invalid` for a file that is none of a log's; failures of the storage, or of `out`.
    pub fn dump(&self, file: impl AsRef<Path>, out: &mut dyn io::Write) -> Result<bool, DumpError> {
        dump::dump(&*self.storage, file.as_ref(), out)
    }
}

/// Why a file was not shown to the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The file could not be read, or is none of a log's.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The text could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}
