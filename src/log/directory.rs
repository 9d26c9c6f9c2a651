//! The directory of a log: opening and closing it, and the topics in it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use super::append::keeper::Keeper;
use super::append::spares::Spares;
use super::catalog::{self, Catalogue, Entry, State as TopicState};
use super::disk;
use super::durable::Queues;
use super::error::{Damage, LogError, Place};
use super::format::Id;
use super::format::checkpoint::{PartitionOffset, decode_offsets, encode_offsets};
use super::format::names::{
    CLEAN_SHUTDOWN, CLEANER_OFFSETS, DirectoryName, LOCK, LOG_START_OFFSETS, META_PROPERTIES,
    PARTITION_METADATA,
};
use super::format::properties::{MetaProperties, PartitionMetadata};
use super::gate::{Gate, Sign};
use super::groups::Groups;
use super::maintenance::Maintenance;
use super::options::LiveOptions;
use super::partition::times::TimesFile;
use super::partition::watermark::{Watermark, WatermarkFile};
use super::partition::{Holders, Partition, Shared, Waiters};
use super::read::Lookout;
use super::refresh::{is_live, load_live, looking_again};
use super::segment::{Home, OpenFiles, Segment};
use super::storage::{EntryKind, LockError, LockGuard, Storage, this_process};
use super::topic::TopicInner;
use super::transaction::Transactions;
use super::{Log, LogInner, LogOptions, Open, State, recovery, starts};
use crate::sync::Mutex;

/// What `meta.properties` names as the cluster: by this a directory is known as ours.
pub(super) const CLUSTER_ID: &str = "peermq-log";

/// Opens a log for writing.
pub(super) fn open(options: LogOptions, directory: &Path) -> Result<Log, LogError> {
    let storage = &*options.storage;
    if options.create {
        storage.create_dir_all(directory)?;
    }
    let known = recognise(storage, directory)?;
    if !known && !options.create {
        let reason = "there is none".to_owned();
        return Err(LogError::NotALog { place: Box::new(Place::path(directory)), reason });
    }
    let guard = take_lock(storage, directory)?;
    let mut catalogue = if recognise(storage, directory)? {
        load_catalogue(storage, directory)?
    } else {
        make_ours(storage, directory)?;
        Catalogue::default()
    };
    let clean = take_clean_marker(storage, directory)?;
    tidy_up(storage, directory, &mut catalogue)?;
    let Some(epoch) = catalogue.epoch.checked_add(1) else {
        let place = Place::path(directory.join(catalog::FILE));
        return Err(LogError::corrupt(place, Damage::Unreadable));
    };
    catalogue.epoch = epoch;
    catalogue.save_to(storage, directory)?;
    open_topics(options, directory, catalogue, Some(guard), clean)
}

/// Opens a log for reading.
pub(super) fn open_read_only(options: LogOptions, directory: &Path) -> Result<Log, LogError> {
    looking_again(|| look(options.clone(), directory))
}

/// Opens a log for reading, as far as it stays the same meanwhile.
fn look(options: LogOptions, directory: &Path) -> Result<Log, LogError> {
    let storage = &*options.storage;
    if !recognise(storage, directory)? {
        let reason = "there is none".to_owned();
        return Err(LogError::NotALog { place: Box::new(Place::path(directory)), reason });
    }
    let catalogue = load_live(storage, directory)?;
    open_topics(options, directory, catalogue, None, false)
}

fn open_topics(
    options: LogOptions,
    directory: &Path,
    catalogue: Catalogue,
    guard: Option<Box<dyn LockGuard>>,
    clean: bool,
) -> Result<Log, LogError> {
    let (storage, writable) = (&*options.storage, guard.is_some());
    let load = |name| load_offsets(storage, directory, name, &catalogue, writable);
    let (log_starts, cleaned) = (load(LOG_START_OFFSETS)?, load(CLEANER_OFFSETS)?);
    let interval = options.maintenance_interval.filter(|_| options.linger.is_some());
    let expiry_ms = i64::try_from(options.producer_expiry.as_millis()).unwrap_or(i64::MAX);
    let shared = Arc::new(Shared {
        storage: options.storage,
        directory: directory.to_owned(),
        clock: options.clock,
        epoch: if guard.is_some() { catalogue.epoch } else { -1 },
        poison: OnceLock::new(),
        closed: AtomicBool::new(false),
        keeper: Keeper::new(options.linger),
        maintenance: Maintenance::new(interval, options.compaction_bytes),
        producer_expiry_ms: expiry_ms,
        producer_snapshot_bytes: options.producer_snapshot_bytes,
        spares: Spares::default(),
        holders: Holders::default(),
        files: Arc::new(OpenFiles::default()),
        partitions: Mutex::default(),
        bystanders: Waiters::default(),
        lookout: Lookout::default(),
    });
    let mut topics = BTreeMap::new();
    for (name, entry) in &catalogue.topics {
        match open_topic(&shared, name, entry, &log_starts, clean) {
            Ok(topic) => _ = topics.insert(name.clone(), Arc::new(topic)),
            // Another process deleted it since the catalogue was read.
            Err(_) if guard.is_none() && !is_live(&shared, name, entry)? => {}
            Err(error) => return Err(error),
        }
    }
    let state = State { catalogue, log_starts, lock: guard };
    let (state, cleaned) = (Mutex::new(state), Mutex::new(cleaned));
    let inner = Arc::new(Open::new(LogInner {
        shared,
        state,
        topics: Mutex::new(topics),
        maintaining: Mutex::new(()),
        transactions: Transactions::default(),
        groups: Groups::default(),
        queues: Queues::default(),
        cleaned,
        opened_clean: clean,
    }));
    // Before anything can be removed that its parts are looked for in.
    inner.complete_transaction()?;
    if inner.shared.epoch >= 0 {
        inner.shared.maintenance.attach(inner.weak());
        for topic in inner.all_topics() {
            inner.shared.maintenance.wanted(&topic.options);
        }
    }
    Ok(Log { inner })
}

/// Makes a directory a log of ours.
pub(super) fn make_ours(storage: &dyn Storage, directory: &Path) -> Result<(), LogError> {
    let directory_id = Some(random_id());
    let meta = MetaProperties { cluster_id: CLUSTER_ID.to_owned(), node_id: 0, directory_id };
    let text = meta.encode().map_err(|error| not_a_log(directory, &error))?;
    Ok(disk::replace(storage, directory, META_PROPERTIES, text.as_bytes())?)
}

fn not_a_log(path: &Path, reason: &dyn std::fmt::Display) -> LogError {
    LogError::NotALog { place: Box::new(Place::path(path)), reason: reason.to_string() }
}

/// Whether the directory is a log of ours; false if it is empty, so that it may become one.
fn recognise(storage: &dyn Storage, directory: &Path) -> Result<bool, LogError> {
    if is_marked(storage, directory)? {
        return Ok(true);
    }
    match check_empty(storage, directory) {
        Ok(()) => Ok(false),
        // Another process may have made it one between the two looks.
        Err(error) => {
            if is_marked(storage, directory)? {
                Ok(true)
            } else {
                Err(error)
            }
        }
    }
}

/// Whether the directory has what says that it is a log of ours.
fn is_marked(storage: &dyn Storage, directory: &Path) -> Result<bool, LogError> {
    let path = directory.join(META_PROPERTIES);
    let Some(text) = disk::read(storage, &path)? else { return Ok(false) };
    let meta = MetaProperties::decode(&text).map_err(|error| not_a_log(&path, &error))?;
    if meta.cluster_id != CLUSTER_ID {
        let reason = format!("it belongs to the cluster {}", meta.cluster_id);
        return Err(not_a_log(&path, &reason));
    }
    Ok(true)
}

/// Refuses a directory that has something in it.
fn check_empty(storage: &dyn Storage, directory: &Path) -> Result<(), LogError> {
    let entries = match storage.list(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let foreign = entries.iter().find(|entry| {
        let name = entry.name.to_string_lossy();
        name != LOCK && !disk::is_temporary(&name)
    });
    let Some(entry) = foreign else { return Ok(()) };
    let reason = format!("it has no {META_PROPERTIES}, but {}", entry.name.display());
    Err(not_a_log(directory, &reason))
}

/// The catalogue of a directory that is ours.
pub(super) fn load_catalogue(
    storage: &dyn Storage,
    directory: &Path,
) -> Result<Catalogue, LogError> {
    if let Some(catalogue) = Catalogue::load(storage, directory)? {
        return Ok(catalogue);
    }
    // It follows `meta.properties`, and comes before everything else.
    let entries = storage.list(directory)?;
    if entries.iter().any(|entry| entry.kind == EntryKind::Directory) {
        let place = Place::path(directory.join(catalog::FILE));
        return Err(LogError::corrupt(place, Damage::Missing));
    }
    Ok(Catalogue::default())
}

fn take_lock(storage: &dyn Storage, directory: &Path) -> Result<Box<dyn LockGuard>, LogError> {
    match storage.lock(&directory.join(LOCK), &this_process()) {
        Ok(guard) => Ok(guard),
        Err(LockError::HeldBy(holder)) => {
            Err(LogError::Locked { directory: directory.to_owned(), holder })
        }
        Err(LockError::Storage(error)) => Err(error.into()),
    }
}

/// Whether the log was closed in order. The marker is gone durably before anything is changed.
fn take_clean_marker(storage: &dyn Storage, directory: &Path) -> Result<bool, LogError> {
    match storage.remove_file(&directory.join(CLEAN_SHUTDOWN)) {
        Ok(()) => {
            storage.sync_dir(directory)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes away what an interrupted creation, change or deletion of a topic left, and refuses what looks like a partition
/// but is unknown to the catalogue: that is somebody's records. The caller saves the catalogue.
fn tidy_up(
    storage: &dyn Storage,
    directory: &Path,
    catalogue: &mut Catalogue,
) -> Result<(), LogError> {
    let (mut aside, mut renamed) = (Vec::new(), false);
    for entry in storage.list(directory)? {
        let Some(name) = entry.name.to_str().and_then(DirectoryName::parse) else { continue };
        if entry.kind != EntryKind::Directory {
            continue;
        }
        let path = directory.join(&entry.name);
        if name.deleted_mark.is_some() {
            aside.push(path);
            continue;
        }
        let Some(topic) = catalogue.topics.get(name.topic) else {
            return Err(LogError::corrupt(Place::path(path), Damage::Foreign));
        };
        if topic.state != TopicState::Live || name.partition >= topic.options.partitions {
            aside.push(rename_aside(storage, directory, name)?);
            renamed = true;
        }
    }
    if renamed {
        storage.sync_dir(directory)?;
    }
    catalogue.topics.retain(|_, entry| entry.state == TopicState::Live);
    // What cannot be removed is in nobody's way; the next opening tries again, and meanwhile it is found by who looks for
    // leftovers.
    let _ = remove_aside(storage, directory, &aside);
    Ok(())
}

/// Gives the directory of a partition a name that no other ever has; returns its path then.
fn rename_aside(
    storage: &dyn Storage,
    directory: &Path,
    name: DirectoryName<'_>,
) -> Result<PathBuf, LogError> {
    let aside = directory.join(name.deleted(random_id().bits()).to_string());
    storage.rename(&directory.join(name.to_string()), &aside)?;
    Ok(aside)
}

/// Sets the directories of a topic's partitions aside, from a number on: under their names others can be made when this
/// returns, after a power cut too. Returns what is to be removed, which needs no haste.
pub(super) fn set_aside(
    storage: &dyn Storage,
    directory: &Path,
    topic: &str,
    from: u32,
) -> Result<Vec<PathBuf>, LogError> {
    let mut aside = Vec::new();
    for entry in storage.list(directory)? {
        let Some(name) = entry.name.to_str().and_then(DirectoryName::parse) else { continue };
        if name.topic != topic || name.partition < from || entry.kind != EntryKind::Directory {
            continue;
        }
        aside.push(match name.deleted_mark {
            Some(_) => directory.join(&entry.name),
            None => rename_aside(storage, directory, name)?,
        });
    }
    if !aside.is_empty() {
        storage.sync_dir(directory)?;
    }
    Ok(aside)
}

/// Refuses to make a topic where somebody has put directories that its partitions would have.
pub(super) fn check_unused(
    storage: &dyn Storage,
    directory: &Path,
    topic: &str,
) -> Result<(), LogError> {
    for entry in storage.list(directory)? {
        let name = entry.name.to_str().and_then(DirectoryName::parse);
        if name.is_some_and(|name| name.topic == topic && name.deleted_mark.is_none()) {
            let place = Place::path(directory.join(&entry.name));
            return Err(LogError::corrupt(place, Damage::Foreign));
        }
    }
    Ok(())
}

/// Removes directories that were set aside, with all files in them, as far as that is possible. A directory within one was
/// put there by somebody else, and keeps it.
///
/// # Errors
/// The first failure.
pub(super) fn remove_aside(
    storage: &dyn Storage,
    directory: &Path,
    aside: &[PathBuf],
) -> Result<(), LogError> {
    let mut outcome = Ok(());
    for path in aside {
        outcome = outcome.and(remove_partition(storage, path));
    }
    if aside.is_empty() { outcome } else { outcome.and(Ok(storage.sync_dir(directory)?)) }
}

/// Removes a directory with its files. All of them are tried, whichever fails.
fn remove_partition(storage: &dyn Storage, path: &Path) -> Result<(), LogError> {
    let mut outcome = Ok(());
    let entries = match storage.list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    for entry in entries {
        if entry.kind != EntryKind::Directory {
            let removed = disk::remove_if_there(storage, &path.join(&entry.name));
            outcome = outcome.and(removed);
        }
    }
    outcome?;
    match storage.remove_dir(path) {
        // A link to a directory elsewhere.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Ok(storage.remove_file(path)?)
        }
        removed => Ok(removed?),
    }
}

/// The offsets of a checkpoint file for the partitions that there are. Those of others are taken out of the file, if the
/// log may be changed: a deletion that was interrupted left them, and they must not be taken for those of a new topic.
pub(super) fn load_offsets(
    storage: &dyn Storage,
    directory: &Path,
    name: &str,
    catalogue: &Catalogue,
    writable: bool,
) -> Result<BTreeMap<(String, u32), i64>, LogError> {
    let path = directory.join(name);
    let text = disk::read(storage, &path)?;
    if name == LOG_START_OFFSETS {
        starts::check(storage, directory, text.as_deref().unwrap_or_default())?;
    }
    let Some(text) = text else { return Ok(BTreeMap::new()) };
    let entries = match decode_offsets(&text) {
        Ok(entries) => entries,
        // Without it everything is compacted again, which takes time and changes nothing.
        Err(_) if name == CLEANER_OFFSETS => Vec::new(),
        Err(error) => return Err(LogError::corrupt(Place::path(path), error)),
    };
    let known = entries.len();
    let there = |entry: &PartitionOffset| {
        let topic = catalogue.topics.get(&entry.topic);
        topic.is_some_and(|topic| entry.partition < topic.options.partitions)
    };
    let entries: Vec<_> = entries.into_iter().filter(there).collect();
    if entries.len() < known && writable && name == LOG_START_OFFSETS {
        starts::save(storage, directory, &entries)?;
    } else if entries.len() < known && writable {
        let text = encode_offsets(&entries)
            .map_err(|error| LogError::corrupt(Place::path(directory.join(name)), error))?;
        disk::replace(storage, directory, name, text.as_bytes())?;
    }
    let entry = |entry: PartitionOffset| ((entry.topic, entry.partition), entry.offset);
    Ok(entries.into_iter().map(entry).collect())
}

/// An id from the randomness that the standard library's maps have.
pub(super) fn random_id() -> Id {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    // The bits that make it a version 4 UUID.
    let bits = half() << 64 | half();
    let bits = bits & !(0xf << 76) & !(0b11 << 62);
    Id::from_bits(bits | 4 << 76 | 0b10 << 62)
}

/// The directory of a partition, and the gate before it.
fn home(shared: &Shared, topic: &str, id: Id, partition: u32) -> (Arc<Home>, Arc<Gate>) {
    let directory = shared.directory.join(format!("{topic}-{partition}"));
    let writable = shared.epoch >= 0;
    let sign = (!writable).then(|| Sign { path: directory.join(PARTITION_METADATA), id });
    let files = shared.files.clone();
    let gate = Arc::new(Gate::new(shared.storage.clone(), topic, files.clone(), sign));
    let (storage, topic) = (gate.clone(), topic.to_owned());
    (Arc::new(Home { storage, directory, topic, partition, writable, files }), gate)
}

pub(super) fn open_topic(
    shared: &Arc<Shared>,
    name: &str,
    entry: &Entry,
    log_starts: &BTreeMap<(String, u32), i64>,
    clean: bool,
) -> Result<TopicInner, LogError> {
    let mut partitions = Vec::new();
    let options = Arc::new(LiveOptions::new(entry.options.clone()));
    for number in 0..entry.options.partitions {
        let log_start = log_starts.get(&(name.to_owned(), number)).copied().unwrap_or(0);
        partitions.push(open_partition(shared, name, entry, &options, number, log_start, clean)?);
    }
    Ok(TopicInner::new(name.to_owned(), entry.id, options, partitions))
}

pub(super) fn open_partition(
    shared: &Arc<Shared>,
    name: &str,
    entry: &Entry,
    options: &Arc<LiveOptions>,
    number: u32,
    log_start: i64,
    clean: bool,
) -> Result<Arc<Partition>, LogError> {
    let (home, gate) = home(shared, name, entry.id, number);
    let path = home.directory.join(PARTITION_METADATA);
    let text = disk::read(&*shared.storage, &path).map_err(|error| home.failed(error))?;
    let place = || Place { path: Some(path.clone()), ..home.place() };
    let Some(text) = text else { return Err(LogError::corrupt(place(), Damage::Missing)) };
    match PartitionMetadata::decode(&text) {
        Ok(metadata) if metadata.topic_id == entry.id => {}
        Ok(_) => return Err(LogError::corrupt(place(), Damage::Foreign)),
        Err(error) => return Err(LogError::corrupt(place(), error)),
    }
    let mut opened = recovery::open(home.clone(), log_start, clean)?;
    if home.writable {
        let now_ms = shared.clock.now_ms();
        let times = TimesFile::load(&home, &opened.segments, now_ms);
        opened.writer.times = times.map_err(|error| home.failed(error))?;
        opened.writer.producers.known_since(now_ms);
    }
    let partition = Arc::new(Partition::new(shared.clone(), options.clone(), gate, opened));
    shared.add(&partition);
    Ok(partition)
}

/// Makes the directory of a partition with all a partition must have. Durable but for the directory's own name.
pub(super) fn make_partition(
    shared: &Shared,
    topic: &str,
    id: Id,
    number: u32,
) -> Result<(), LogError> {
    let (home, _) = home(shared, topic, id, number);
    let failed = |error| home.failed(error);
    home.storage.create_dir(&home.directory).map_err(failed)?;
    let metadata = PartitionMetadata { topic_id: id }.encode();
    WatermarkFile::create(&home, Watermark::empty(0))?;
    Segment::create(home.clone(), 0)?;
    // Syncs the directory, and so the names made before.
    disk::replace(&*home.storage, &home.directory, PARTITION_METADATA, metadata.as_bytes())
        .map_err(failed)
}
