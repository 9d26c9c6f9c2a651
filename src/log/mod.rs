//! Durable topics: a log of partitions on a storage that outlives the process (feature `log`).
//!
//! A [`Log`] owns a directory of topics; a topic has partitions; a partition is a sequence of records, each with an
//! offset. Records are appended at a [`Level`]: what is [`Durable`](Level::Durable), the default, survives a power
//! cut; what is [`Written`](Level::Written) survives the end of the process, but a power cut may take all of it that
//! the system has not written back; what is [`Buffered`](Level::Buffered) survives nothing.
//!
//! ```
//! use std::sync::Arc;
//! use peermq::log::{Log, NewRecord, Position, TopicOptions};
//! use peermq::log::storage::MemoryStorage;
//!
//! let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log")?;
//! let orders = log.create_topic("orders", TopicOptions::default().partitions(3))?;
//! let ticket = orders.append(NewRecord::new("two apples").key("alice"))?;
//! let partition = ticket.partition();
//! let offset = ticket.wait()?;
//!
//! let record = orders.read(partition, Position::Offset(offset))?.next().unwrap()?;
//! assert_eq!(record.value.as_deref(), Some(&b"two apples"[..]));
//! # Ok::<(), peermq::log::LogError>(())
//! ```
//!
//! # The path of a record
//!
//! 1. [`Topic::append`] (`topic.rs`) chooses the partition and encodes the record into the batch that gathers there
//!    (`append/gather.rs`). It has its offset now.
//! 2. Whoever needs it written - the ticket's owner, a follower, a full buffer - writes all that has gathered
//!    (`append/commit.rs`) to the last segment (`partition/writer.rs`, `segment/`).
//! 3. Whoever needs it durable syncs that segment for everybody, and notes so in the durable watermark
//!    (`partition/watermark.rs`).
//! 4. A [`Reader`] (`read/`) finds the segment and reads whole batches, checks them and cuts records out of them.
//! 5. The next [`Log::open`] finds what is whole (`recovery.rs`).
//!
//! The bytes on the medium are those of [`mod@format`]; what is asked of the medium is said in [`storage`].

mod admin;
mod append;
mod catalog;
mod clock;
mod directory;
mod disk;
mod durable;
mod error;
mod fields;
pub mod format;
mod groups;
mod internal;
mod options;
mod partition;
mod peer;
mod read;
mod recovery;
mod segment;
pub mod storage;
mod topic;
mod transaction;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use append::{NewRecord, Ticket};
pub use clock::{Clock, ManualClock, SystemClock};
pub use durable::{
    Delivery, DeliveryId, DurablePublisher, DurableQueue, DurableSubscriber, PublishError,
    PublisherOptions, PublisherStats, QueueError, QueueOptions, QueueStats, SubscribeError,
    SubscriberOptions, SubscriberStats,
};
pub use error::{Damage, LogError, Place};
pub use format::batch::TimestampType;
pub use format::{Codec, HeaderRef};
pub use groups::{
    CommitTicket, Committed, Fencing, Group, GroupDescription, GroupEvent, GroupMember,
    GroupOffset, GroupRecord, HeartbeatReply, HeartbeatRequest, MemberDescription, MemberOptions,
    Membership, OffsetCommit, Polled, Strategy, TopicPartition,
};
pub use options::{BATCH_BYTES_MAX, Level, TopicOptions};
pub use peer::{
    AppendTicket, LogClient, LogClientOptions, LogServer, LogServerOptions, LogServerStats,
    Malformed, PeerError, RemoteCode, RemoteError, RemoteGroup, RemotePartition, RemoteQueue,
    RemoteReader, RemoteTopic,
};
pub use read::{Follow, LogRecord, Position, ReadBatch, Reader};
pub use topic::{PartitionDescription, Topic, TopicDescription};
pub use transaction::Transaction;

use crate::sync::{Mutex, lock};
use catalog::Catalogue;
use groups::Groups;
use partition::Shared;
use storage::{FileStorage, LockGuard, Storage};
use topic::TopicInner;
use transaction::Transactions;

/// How long records may gather before they are written though nobody waits for them.
const LINGER: Duration = Duration::from_millis(5);

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    linger: Option<Duration>,
    create: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            storage: Arc::new(FileStorage::new()),
            clock: Arc::new(SystemClock),
            linger: Some(LINGER),
            create: true,
        }
    }
}

impl LogOptions {
    /// Another storage than the files of this machine.
    #[must_use]
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = storage;
        self
    }

    /// Another clock than that of this machine.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How long records may gather before they are written though nobody waits for their tickets; 5 ms. `None`: until
    /// somebody does, or a batch is full, and then there is no thread for it.
    #[must_use]
    pub fn linger(mut self, linger: Option<Duration>) -> Self {
        self.linger = linger;
        self
    }

    /// Whether a log is created where there is none; it is.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Opens the log in a directory for appending and reading. Only one process can, at a time.
    ///
    /// # Errors
    /// `Locked`, which tells by whom; `NotALog` for a directory with other things in it; `Corrupt` if something that was
    /// durable is damaged; failures of the storage.
    pub fn open(self, directory: impl AsRef<Path>) -> Result<Log, LogError> {
        directory::open(self, directory.as_ref())
    }

    /// Opens the log in a directory for reading only, while another process may append to it. Nothing is changed.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for the lock.
    pub fn open_read_only(self, directory: impl AsRef<Path>) -> Result<Log, LogError> {
        directory::open_read_only(self, directory.as_ref())
    }
}

/// A log: a directory of topics. Clones are the same log. It is closed in order when the last clone, and the last
/// [`Topic`] of it, is dropped.
#[derive(Clone, Debug)]
pub struct Log {
    inner: Arc<LogInner>,
}

/// What is behind a log's handles.
#[derive(Debug)]
struct LogInner {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// The transaction in flight, if there is one; its lock comes before all others.
    transactions: Transactions,
    groups: Groups,
    /// Whether the log was closed in order before it was opened, so that what is not touched is in order still.
    opened_clean: bool,
}

/// What changes with topics. Its lock is held during such changes.
#[derive(Debug)]
struct State {
    catalogue: Catalogue,
    topics: BTreeMap<String, Arc<TopicInner>>,
    /// Where partitions begin that do not begin at 0.
    log_starts: BTreeMap<(String, u32), i64>,
    /// `None` for reading only, and after the log was closed.
    lock: Option<Box<dyn LockGuard>>,
}

impl Log {
    /// How a log is to be opened.
    pub fn options() -> LogOptions {
        LogOptions::default()
    }

    /// Opens or creates the log in a directory; see [`LogOptions::open`].
    ///
    /// # Errors
    /// As [`LogOptions::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::options().open(directory)
    }

    /// As [`open`](Self::open), on another storage.
    ///
    /// # Errors
    /// As [`LogOptions::open`].
    pub fn open_in(
        storage: Arc<dyn Storage>,
        directory: impl AsRef<Path>,
    ) -> Result<Self, LogError> {
        Self::options().storage(storage).open(directory)
    }

    /// Opens a log for reading only; see [`LogOptions::open_read_only`].
    ///
    /// # Errors
    /// As [`LogOptions::open_read_only`].
    pub fn read_only(directory: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::options().open_read_only(directory)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.inner.shared.directory
    }

    /// The names of all topics, sorted.
    pub fn topics(&self) -> Vec<String> {
        let state = lock(&self.inner.state);
        state.topics.keys().filter(|name| !internal::is_internal(name)).cloned().collect()
    }

    /// A topic.
    ///
    /// # Errors
    /// `UnknownTopic`.
    pub fn topic(&self, name: &str) -> Result<Topic, LogError> {
        match self.inner.find_topic(name).filter(|_| !internal::is_internal(name)) {
            Some(inner) => Ok(Topic { inner, log: self.inner.clone() }),
            None => Err(LogError::UnknownTopic { topic: name.to_owned() }),
        }
    }

    /// Creates a topic; durable when this returns.
    ///
    /// # Errors
    /// `TopicExists`; `Invalid` for a name other than 1 to 249 of `[a-zA-Z0-9._-]`, or one that begins with `__` as the
    /// log's own do, or options that cannot work; failures of the storage.
    pub fn create_topic(&self, name: &str, options: TopicOptions) -> Result<Topic, LogError> {
        let inner = self.inner.create_users_topic(name, options)?;
        Ok(Topic { inner, log: self.inner.clone() })
    }

    /// Changes the options of a topic: more partitions at once (never fewer), everything else when the log is opened next.
    ///
    /// # Errors
    /// `UnknownTopic`; `Invalid` for fewer partitions, or options that cannot work; failures of the storage.
    pub fn alter_topic(&self, name: &str, options: TopicOptions) -> Result<Topic, LogError> {
        let inner = self.inner.alter_users_topic(name, options)?;
        Ok(Topic { inner, log: self.inner.clone() })
    }

    /// Deletes a topic with all its records, and what groups have committed for it; durable when this returns. Readers may read on what they have open.
    ///
    /// # Errors
    /// `UnknownTopic`, failures of the storage.
    pub fn delete_topic(&self, name: &str) -> Result<(), LogError> {
        self.inner.delete_users_topic(name)
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// The first failure.
    pub fn sync(&self) -> Result<(), LogError> {
        let topics: Vec<_> = lock(&self.inner.state).topics.values().cloned().collect();
        let mut partitions = topics.iter().flat_map(|topic| &topic.partitions);
        partitions.try_for_each(|partition| partition.flush_durable())
    }

    /// Looks what another process has done to a log that is open for reading only. Reading does so by itself at its end;
    /// this is for [`describe`](Topic::describe).
    ///
    /// # Errors
    /// Failures of the storage.
    pub fn refresh(&self) -> Result<(), LogError> {
        let topics: Vec<_> = lock(&self.inner.state).topics.values().cloned().collect();
        let mut partitions = topics.iter().flat_map(|topic| &topic.partitions);
        partitions.try_for_each(|partition| partition.refresh().map(drop))
    }

    /// Closes the log: everything appended is made durable, and the next opening need not look for damage. All handles
    /// refuse appends from now on.
    ///
    /// # Errors
    /// The first failure; the log is closed anyway, and recovers when it is opened next.
    pub fn close(self) -> Result<(), LogError> {
        self.inner.close()
    }
}

impl Drop for LogInner {
    fn drop(&mut self) {
        // Whoever wants to hear of failures calls `close`.
        let _ = self.close();
    }
}

impl Shared {
    /// Refuses what a failure made impossible.
    fn check_poison(&self) -> Result<(), LogError> {
        self.poison.get().map_or(Ok(()), |poison| Err(poison.clone()))
    }
}
