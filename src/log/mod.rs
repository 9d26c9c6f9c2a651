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
//! # Reading together, and exactly once
//!
//! A [`Group`] divides the partitions of its topics among its members and remembers how far it has come; what is committed
//! never expires. A [`Transaction`] appends to several partitions, and commits what a member has read, all or nothing: so
//! what it makes of each record is there exactly once, whatever fails.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use peermq::log::{Log, MemberOptions, NewRecord, TopicOptions};
//! use peermq::log::storage::MemoryStorage;
//!
//! let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log")?;
//! let orders = log.create_topic("orders", TopicOptions::default().partitions(2))?;
//! log.create_topic("parcels", TopicOptions::default())?;
//! orders.append("two apples")?.wait()?;
//!
//! let mut member = log.group("packers")?.join(MemberOptions::new(["orders"]))?;
//! let orders = member.poll(Duration::from_secs(1))?.records;
//! let mut transaction = log.transaction();
//! for order in &orders {
//!     let content = order.record.value.as_deref().unwrap_or_default();
//!     transaction.append("parcels", NewRecord::new(content).key("shelf 7"))?;
//! }
//! transaction.commit_offsets(&member.membership(), &member.positions())?;
//! let places = transaction.commit()?;
//! assert_eq!((places.len(), places[0].1), (1, 0));
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
//!    (`partition/watermark.rs`). Where small pieces are synced all the time, zeros are written ahead (`partition/ahead.rs`).
//! 4. A [`Reader`] (`read/`) finds the segment and reads whole batches, checks them and cuts records out of them.
//! 5. Sealed segments go when they need not be kept (`retention.rs`), or are replaced by ones without the records that later
//!    ones supersede (`compaction/`), in passes that run beside all this (`maintenance.rs`).
//! 6. The next [`Log::open`] finds what is whole (`recovery.rs`).
//!
//! Groups (`groups/`) and transactions (`transaction/`) are built on that, with topics of the log's own (`internal.rs`).
//!
//! The bytes on the medium are those of [`mod@format`]; what is asked of the medium is said in [`storage`].

mod admin;
mod append;
mod catalog;
mod clock;
mod compaction;
mod directory;
mod disk;
mod durable;
mod error;
mod fields;
pub mod format;
mod gate;
mod groups;
pub mod inspect;
mod internal;
mod maintenance;
mod open;
mod options;
mod partition;
mod peer;
mod read;
mod recall;
mod recovery;
mod refresh;
mod retention;
mod room;
mod segment;
mod starts;
pub mod storage;
#[cfg(feature = "stream")]
mod stream;
mod threads;
mod topic;
mod transaction;
mod wakers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use append::{NewRecord, Ticket};
pub use clock::{Clock, ManualClock, SystemClock};
pub use durable::{
    BadBookmark, Bookmark, Delivery, DeliveryId, DurablePublisher, DurableQueue, DurableSubscriber,
    PublishError, PublisherOptions, PublisherStats, QueueError, QueueOptions, QueueStats,
    SubscribeError, SubscriberOptions, SubscriberStats,
};
pub use error::{Damage, LogError, Place};
pub use format::batch::TimestampType;
pub use format::{Codec, HeaderRef};
pub use groups::{
    CommitTicket, Committed, Fencing, Group, GroupDescription, GroupEvent, GroupMember,
    GroupOffset, GroupRecord, HeartbeatReply, HeartbeatRequest, MemberDescription, MemberOptions,
    Membership, OffsetCommit, Polled, Strategy, TopicPartition,
};
pub use maintenance::Maintained;
pub use options::{BATCH_BYTES_MAX, Level, TopicOptions};
pub use peer::{
    AppendTicket, Connection, FlushError, LogClient, LogClientOptions, LogServer, LogServerOptions,
    LogServerStats, Malformed, MemberFencing, PeerError, RemoteCode, RemoteError, RemoteGroup,
    RemoteMember, RemotePartition, RemoteQueue, RemoteReader, RemoteTopic, RemoteTransaction,
    Subject, Unacknowledged,
};
pub use read::{Follow, LogRecord, Position, ReadBatch, Reader};
pub use topic::{PartitionDescription, Topic, TopicDescription};
pub use transaction::{Transaction, TransactionTicket};

use crate::sync::{Mutex, lock};
use catalog::Catalogue;
use format::checkpoint::PartitionOffset;
use groups::Groups;
use open::Open;
use partition::Shared;
use storage::{FileStorage, LockGuard, Storage};
use topic::TopicInner;
use transaction::Transactions;

/// How long records may gather before they are written though nobody waits for them.
const LINGER: Duration = Duration::from_millis(5);

/// How often retention and compaction look for something to do.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(60);

/// A shorter interval leaves no time for anything else.
const MAINTENANCE_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Bytes of the table of keys of a compaction.
const COMPACTION_BYTES: usize = 16 << 20;

/// Bytes of batches in a partition after which producers are written down again: as much is read at most to recall them
/// after a crash.
const PRODUCER_SNAPSHOT_BYTES: u64 = 64 << 20;

/// How long an idempotent producer may be silent and is remembered.
const PRODUCER_EXPIRY: Duration = Duration::from_secs(24 * 3600);

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    linger: Option<Duration>,
    create: bool,
    maintenance_interval: Option<Duration>,
    compaction_bytes: usize,
    producer_expiry: Duration,
    producer_snapshot_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            storage: Arc::new(FileStorage::new()),
            clock: Arc::new(SystemClock),
            linger: Some(LINGER),
            create: true,
            maintenance_interval: Some(MAINTENANCE_INTERVAL),
            compaction_bytes: COMPACTION_BYTES,
            producer_expiry: PRODUCER_EXPIRY,
            producer_snapshot_bytes: PRODUCER_SNAPSHOT_BYTES,
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
    /// somebody does, or several batches are full, and then there is no thread for it.
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

    /// How often retention and compaction are looked after, besides whenever a segment was ended; 1 minute, at least 10 ms.
    /// `None`, or without [`linger`](Self::linger): only by [`Log::maintain`], and then there is no thread for it.
    #[must_use]
    pub fn maintenance_interval(mut self, interval: Option<Duration>) -> Self {
        self.maintenance_interval = interval.map(|time| time.max(MAINTENANCE_INTERVAL_MIN));
        self
    }

    /// Bytes of the table that compaction notes keys in, 24 for each and a third more; 16 MiB, and no more than the new records
    /// may need. When there are more new keys than fit, a part of them is compacted at a time, and all of what is older is
    /// read again for each.
    #[must_use]
    pub fn compaction_bytes(mut self, bytes: usize) -> Self {
        self.compaction_bytes = bytes;
        self
    }

    /// How long an idempotent producer may be silent and its repetitions are still known; 1 day.
    #[must_use]
    pub fn producer_expiry(mut self, expiry: Duration) -> Self {
        self.producer_expiry = expiry;
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

/// A log: a directory of topics. Clones are the same log. It is closed in order when the last clone is dropped, and the last
/// [`Topic`], [`Group`] and [`Transaction`] of it, and whatever has one of these: everything appended is durable then, and
/// the log can be opened again. What the log's own threads are at ends before.
#[derive(Clone, Debug)]
pub struct Log {
    inner: Arc<Open>,
}

/// What is behind a log's handles.
#[derive(Debug)]
struct LogInner {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// The topics that are open, by name. Changed under the lock of the state, but looked at without it, as that is held for as
    /// long as a topic is made; locked for a look or a change only, and nothing under it.
    topics: Mutex<BTreeMap<String, Arc<TopicInner>>>,
    /// Held during a pass of maintenance, and while the log is closed. The first in the order of locks.
    maintaining: Mutex<()>,
    /// The transaction in flight, if there is one; its lock comes before all others but the one above.
    transactions: Transactions,
    groups: Groups,
    queues: durable::Queues,
    /// Up to where partitions are compacted. The last in the order of locks.
    cleaned: Mutex<BTreeMap<(String, u32), i64>>,
    /// Whether the log was closed in order before it was opened, so that what is not touched is in order still.
    opened_clean: bool,
}

/// What changes with topics. Its lock is held during such changes.
#[derive(Debug)]
struct State {
    catalogue: Catalogue,
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

    /// The names of all topics, sorted; of a log that is open for reading only, as it was when it was opened, or looked at by
    /// [`refresh`](Self::refresh) or [`topic`](Self::topic).
    pub fn topics(&self) -> Vec<String> {
        let topics = lock(&self.inner.topics);
        topics.keys().filter(|name| !internal::is_internal(name)).cloned().collect()
    }

    /// A topic, with the partitions that it has now.
    ///
    /// # Errors
    /// `UnknownTopic`. Of a log that is open for reading only, as [`refresh`](Self::refresh).
    pub fn topic(&self, name: &str) -> Result<Topic, LogError> {
        self.inner.look_for_topics()?;
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

    /// Whether a topic can have this name and these options: what [`create_topic`](Self::create_topic) refuses of any log, also
    /// where there is none yet.
    ///
    /// # Errors
    /// `Invalid`, as there.
    pub fn check_topic(name: &str, options: &TopicOptions) -> Result<(), LogError> {
        internal::check_users_name(name)?;
        admin::check_topic(name, options)
    }

    /// Changes the options of a topic, at once. More partitions (never fewer) are there for the topic that is returned;
    /// topics that were asked for before know the old ones only. What has gathered is written as it was begun.
    ///
    /// # Errors
    /// `UnknownTopic`; `Invalid` for fewer partitions, or options that cannot work; failures of the storage.
    pub fn alter_topic(&self, name: &str, options: TopicOptions) -> Result<Topic, LogError> {
        let inner = self.inner.alter_users_topic(name, options)?;
        Ok(Topic { inner, log: self.inner.clone() })
    }

    /// Deletes a topic with all its records, and what groups have committed for it; durable when this returns. Readers may
    /// read on what they have open, but nothing else; those who follow it are told.
    ///
    /// # Errors
    /// `UnknownTopic`; failures of the storage. After one of those the topic is as it was, or gone: then this can be called
    /// again to do what is left to do, unless it is only that files could not be removed, which the next opening tries again.
    pub fn delete_topic(&self, name: &str) -> Result<(), LogError> {
        self.inner.delete_users_topic(name)
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// The first failure.
    pub fn sync(&self) -> Result<(), LogError> {
        let topics = self.inner.all_topics();
        let mut partitions = topics.iter().flat_map(|topic| &topic.partitions);
        partitions.try_for_each(|partition| unless_deleted(partition.flush_durable()))
    }

    /// Makes one pass of retention and compaction over all topics, on this thread: removes what the topics' options say need
    /// not be kept. Appending and reading go on meanwhile; what is appended then is not compacted by this pass, so that it
    /// comes to an end. Retention comes first, and again after each partition whose compaction took the time in which a
    /// segment was ended. Without [`LogOptions::linger`] this is the only way to it.
    ///
    /// # Errors
    /// `ReadOnly`, `Closed`, `Poisoned`; the first failure of the storage, or damage, which keeps a partition from its pass
    /// but no other one.
    pub fn maintain(&self) -> Result<Maintained, LogError> {
        self.inner.maintain()
    }

    /// How the last pass of maintenance failed, of those that nobody called; `None` if it did not.
    pub fn maintenance_failure(&self) -> Option<LogError> {
        self.inner.shared.maintenance.failure()
    }

    /// Looks what another process has done to a log that is open for reading only: which topics there are, with which
    /// partitions, and what these hold. Reading does so by itself at its end, [`topic`](Self::topic) and what asks for groups
    /// for topics; this is for [`topics`](Self::topics) and [`describe`](Topic::describe). A [`Topic`] that was asked for before
    /// knows the partitions of that time only.
    ///
    /// # Errors
    /// `Corrupt`, failures of the storage.
    pub fn refresh(&self) -> Result<(), LogError> {
        self.inner.look_for_topics()?;
        let topics = self.inner.all_topics();
        let mut partitions = topics.iter().flat_map(|topic| &topic.partitions);
        partitions.try_for_each(|partition| unless_deleted(partition.reload(None).map(drop)))
    }

    /// Closes the log: everything appended is made durable, and the next opening need not look for damage. All handles
    /// refuse appends from now on.
    ///
    /// # Errors
    /// The first failure; the log is closed anyway, and recovers when it is opened next.
    pub fn close(self) -> Result<(), LogError> {
        let closed = self.inner.close();
        // Members that own nothing wait for nothing else.
        self.inner.nudge_groups();
        closed
    }
}

/// The outcome of what is done to each topic: one that is deleted meanwhile needs nothing.
fn unless_deleted(outcome: Result<(), LogError>) -> Result<(), LogError> {
    match outcome {
        Err(LogError::TopicDeleted { .. }) => Ok(()),
        outcome => outcome,
    }
}

/// The entries of a checkpoint file.
fn offsets_of(offsets: &BTreeMap<(String, u32), i64>) -> Vec<PartitionOffset> {
    let entry = |((topic, partition), offset): (&(String, u32), &i64)| PartitionOffset {
        topic: topic.clone(),
        partition: *partition,
        offset: *offset,
    };
    offsets.iter().map(entry).collect()
}

impl Drop for LogInner {
    fn drop(&mut self) {
        // Closed already, unless the last handle went in a thread of the log's own.
        let _ = self.close();
    }
}

impl Shared {
    /// Refuses what a failure made impossible.
    fn check_poison(&self) -> Result<(), LogError> {
        self.poison.get().map_or(Ok(()), |poison| Err(poison.clone()))
    }
}

/// The code of the guide is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide.md")]
struct Guide;
