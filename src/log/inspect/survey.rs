//! What a log's directory should hold, as far as that can be found out: from the catalogue, or, when that is lost, from
//! the directories of the partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Finding, Severity};
use crate::log::catalog::{self, Catalogue, State};
use crate::log::compaction;
use crate::log::directory::CLUSTER_ID;
use crate::log::disk;
use crate::log::error::{Damage, LogError, Place};
use crate::log::format::checkpoint::{decode_epochs, decode_offsets};
use crate::log::format::names::{
    CLEAN_SHUTDOWN, CLEANER_OFFSETS, DirectoryName, FileKind, FileName, FileState, LEADER_EPOCHS,
    LOG_START_OFFSETS, META_PROPERTIES, PARTITION_METADATA, RECOVERY_POINTS,
};
use crate::log::format::properties::{MetaProperties, PartitionMetadata};
use crate::log::format::{FormatError, Id};
use crate::log::options::TopicOptions;
use crate::log::partition::watermark::{self, Watermark};
use crate::log::segment::Home;
use crate::log::starts;
use crate::log::storage::{EntryKind, Storage, StorageError};

/// Epochs left out when the number of the last opening is lost: there may have been openings of which no partition tells,
/// and yet readers and producers that know them.
pub(super) const EPOCHS_SKIPPED: i32 = 1 << 16;
/// No log is opened so often: a larger epoch, in a place without checksum, is damage.
const EPOCHS_MAX: i32 = 1 << 29;

/// An epoch, if it can be one.
pub(super) fn plausible_epoch(epoch: i32) -> Option<i32> {
    (0..EPOCHS_MAX).contains(&epoch).then_some(epoch)
}

/// A topic of the log.
#[derive(Clone, Debug)]
pub(super) struct TopicSurvey {
    pub(super) name: String,
    /// `None` if only its directories tell of it.
    pub(super) id: Option<Id>,
    pub(super) options: TopicOptions,
}

/// What should be in the directory.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) directory: PathBuf,
    /// The number of the last opening for writing, or one that is not below it.
    pub(super) epoch: i32,
    /// Whether the catalogue is lost, so that the batches may tell of a later one.
    pub(super) is_epoch_guessed: bool,
    pub(super) topics: Vec<TopicSurvey>,
    log_starts: BTreeMap<(String, u32), i64>,
    /// How far partitions reached when the log was closed last.
    recovery_points: BTreeMap<(String, u32), i64>,
    /// Whether it was closed in order, and nothing was changed since.
    is_closed: bool,
    /// What is wrong with the files of the log itself.
    pub(super) findings: Vec<Finding>,
}

impl Survey {
    pub(super) fn new(storage: &Arc<dyn Storage>, directory: &Path) -> Result<Self, LogError> {
        let mut survey = Self {
            storage: storage.clone(),
            directory: directory.to_owned(),
            epoch: 0,
            is_epoch_guessed: true,
            topics: Vec::new(),
            log_starts: BTreeMap::new(),
            recovery_points: BTreeMap::new(),
            is_closed: false,
            findings: Vec::new(),
        };
        let entries = storage
            .list(directory)
            .map_err(|error| LogError::storage(Place::path(directory), error))?;
        let ours = survey.read_meta();
        let catalogue = survey.read_catalogue();
        if !ours && !entries.iter().any(|entry| entry.name == catalog::FILE) {
            let reason = format!("it has no {META_PROPERTIES} of this library");
            return Err(LogError::NotALog { place: Box::new(Place::path(directory)), reason });
        }
        let mut partitions = BTreeMap::<String, u32>::new();
        for entry in &entries {
            let path = directory.join(&entry.name);
            let Some(name) = entry.name.to_str() else { continue };
            if disk::is_temporary(name) {
                survey.findings.push(Finding::harmless(Place::path(path), super::Issue::Leftover));
                continue;
            }
            let Some(name) = DirectoryName::parse(name) else { continue };
            if entry.kind != EntryKind::Directory {
                continue;
            }
            if let Some(catalogue) = &catalogue {
                survey.check_directory(catalogue, name, path);
            } else if name.deleted_mark.is_none() {
                let count = partitions.entry(name.topic.to_owned()).or_default();
                *count = (*count).max(name.partition.saturating_add(1));
                let told = survey.told_epoch(&survey.home(name.topic, name.partition));
                survey.epoch = survey.epoch.max(told);
            }
        }
        match catalogue {
            Some(catalogue) => survey.take_catalogue(catalogue),
            None => {
                survey.epoch += EPOCHS_SKIPPED;
                survey.guess_topics(partitions);
            }
        }
        survey.log_starts = survey.read_offsets(LOG_START_OFFSETS, true);
        // Nothing but damage to it is of interest: what was compacted, batches tell.
        let _ = survey.read_offsets(CLEANER_OFFSETS, false);
        survey.recovery_points = survey.read_offsets(RECOVERY_POINTS, false);
        survey.is_closed = entries.iter().any(|entry| entry.name == CLEAN_SHUTDOWN);
        survey.check_log_starts();
        Ok(survey)
    }

    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The bytes of a small file; a failure is a finding.
    fn read(&mut self, name: &str) -> Option<Vec<u8>> {
        let path = self.directory.join(name);
        match disk::read(&*self.storage, &path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.find(Finding::unreadable(Place::path(path), error));
                None
            }
        }
    }

    /// Whether `meta.properties` says that the log is ours.
    fn read_meta(&mut self) -> bool {
        let place = Place::path(self.directory.join(META_PROPERTIES));
        let before = self.findings.len();
        let finding = match self.read(META_PROPERTIES).map(|text| MetaProperties::decode(&text)) {
            Some(Ok(meta)) if meta.cluster_id == CLUSTER_ID => return true,
            Some(Ok(_)) => Finding::unsound(place, Damage::Foreign),
            Some(Err(error)) => Finding::unsound(place, Damage::from(error)),
            None if self.findings.len() > before => return false,
            None => Finding::unsound(place, Damage::Missing),
        };
        self.find(finding);
        false
    }

    fn read_catalogue(&mut self) -> Option<Catalogue> {
        let place = Place::path(self.directory.join(catalog::FILE));
        let bytes = self.read(catalog::FILE)?;
        let catalogue = Catalogue::decode(&bytes);
        if catalogue.is_none() {
            self.find(Finding::unsound(place, Damage::Unreadable));
        }
        catalogue
    }

    /// A directory that looks like a partition, against the catalogue.
    fn check_directory(&mut self, catalogue: &Catalogue, name: DirectoryName<'_>, path: PathBuf) {
        let place = Place::path(path);
        match catalogue.topics.get(name.topic) {
            // A deletion that was interrupted left it, or could not remove all of it.
            _ if name.deleted_mark.is_some() => {
                self.find(Finding::harmless(place, super::Issue::Leftover));
            }
            Some(topic) => {
                let live = topic.state == State::Live;
                if !live || name.partition >= topic.options.partitions {
                    self.find(Finding::harmless(place, super::Issue::Leftover));
                }
            }
            None => self.find(Finding::unsound(place, Damage::Foreign)),
        }
    }

    fn take_catalogue(&mut self, catalogue: Catalogue) {
        (self.epoch, self.is_epoch_guessed) = (catalogue.epoch, false);
        let live = catalogue.topics.into_iter().filter(|(_, entry)| entry.state == State::Live);
        self.topics = live
            .map(|(name, entry)| TopicSurvey { name, id: Some(entry.id), options: entry.options })
            .collect();
    }

    /// The epoch of the last writer that a partition's checkpoint and watermark tell of; 0 if they tell of none.
    fn told_epoch(&self, home: &Home) -> i32 {
        let path = home.directory.join(LEADER_EPOCHS);
        let text = disk::read(&*self.storage, &path).ok().flatten();
        let epochs = text.and_then(|text| decode_epochs(&text).ok()).unwrap_or_default();
        let newest = WatermarkSurvey::read(home).ok().flatten().and_then(|survey| survey.newest);
        let told = epochs.iter().map(|start| start.epoch).chain(newest.map(|one| one.epoch));
        told.filter_map(plausible_epoch).max().unwrap_or(0)
    }

    /// The topics as their directories tell of them.
    fn guess_topics(&mut self, partitions: BTreeMap<String, u32>) {
        if partitions.is_empty() {
            return;
        }
        let place = Place::path(self.directory.join(catalog::FILE));
        let known = self.findings.iter().any(|finding| finding.place.path == place.path);
        if !known {
            self.find(Finding::unsound(place, Damage::Missing));
        }
        for (name, count) in partitions {
            let path = self.directory.join(format!("{name}-0")).join(PARTITION_METADATA);
            let text = disk::read(&*self.storage, &path).ok().flatten();
            let id = text.and_then(|text| PartitionMetadata::decode(&text).ok());
            let (id, options) = (id.map(|id| id.topic_id), TopicOptions::default());
            self.topics.push(TopicSurvey { name, id, options: options.partitions(count) });
        }
    }

    /// A checkpoint of offsets. `needed`: a log is not opened with a damaged one.
    fn read_offsets(&mut self, name: &str, needed: bool) -> BTreeMap<(String, u32), i64> {
        let read = self.read(name);
        if name == LOG_START_OFFSETS && !self.are_starts_as_written(read.as_deref()) {
            return BTreeMap::new();
        }
        let Some(text) = read else { return BTreeMap::new() };
        match decode_offsets(&text) {
            Ok(entries) => entries
                .into_iter()
                .map(|entry| ((entry.topic, entry.partition), entry.offset))
                .collect(),
            Err(error) => {
                let (place, damage) = (Place::path(self.directory.join(name)), Damage::from(error));
                self.find(match needed {
                    true => Finding::unsound(place, damage),
                    false => Finding::harmless(place, damage),
                });
                BTreeMap::new()
            }
        }
    }

    /// Whether the checkpoint of starts is what was written; else that is a finding, as what cannot be known is.
    fn are_starts_as_written(&mut self, text: Option<&[u8]>) -> bool {
        let text = text.unwrap_or_default();
        let place = |name| Place::path(self.directory.join(name));
        let found = match disk::read(&*self.storage, &self.directory.join(starts::FILE)) {
            Ok(Some(check)) if starts::decode(&check).is_none() => {
                Finding::harmless(place(starts::FILE), Damage::Unreadable)
            }
            Ok(_) => match starts::is_as_written(&*self.storage, &self.directory, text) {
                Ok(true) => return true,
                Ok(false) => Finding::unsound(place(LOG_START_OFFSETS), Damage::Unreadable),
                Err(error) => Finding::unreadable(place(starts::FILE), error),
            },
            Err(error) => Finding::unreadable(place(starts::FILE), error),
        };
        let as_written = found.severity < Severity::Unsound;
        self.find(found);
        as_written
    }

    /// A topic that is deleted leaves the checkpoint after it has left the catalogue.
    fn check_log_starts(&mut self) {
        let known = |(name, partition): &(String, u32)| {
            let topic = self.topics.iter().find(|topic| topic.name == *name);
            topic.is_some_and(|topic| *partition < topic.options.partitions)
        };
        let unknown: Vec<_> = self.log_starts.keys().filter(|key| !known(key)).cloned().collect();
        for (topic, partition) in unknown {
            let path = Some(self.directory.join(LOG_START_OFFSETS));
            let (topic, partition) = (Some(topic), Some(partition));
            let place = Place { topic, partition, path, ..Place::default() };
            self.find(Finding::harmless(place, super::Issue::Leftover));
        }
    }

    /// Where a partition begins by its checkpoint.
    pub(super) fn log_start(&self, topic: &str, partition: u32) -> i64 {
        self.log_starts.get(&(topic.to_owned(), partition)).copied().unwrap_or(0)
    }

    /// How far a partition reached when the log was closed last.
    pub(super) fn recovery_point(&self, topic: &str, partition: u32) -> Option<i64> {
        self.recovery_points.get(&(topic.to_owned(), partition)).copied()
    }

    /// Where a partition ends, if the log was closed in order and nothing was changed since.
    pub(super) fn closed_at(&self, topic: &str, partition: u32) -> Option<i64> {
        self.recovery_point(topic, partition).filter(|_| self.is_closed)
    }

    /// A partition's place.
    pub(super) fn home(&self, topic: &str, partition: u32) -> Home {
        Home {
            storage: self.storage.clone(),
            directory: self.directory.join(format!("{topic}-{partition}")),
            topic: topic.to_owned(),
            partition,
            writable: false,
            files: Arc::default(),
        }
    }

    /// Bytes of all segments, as far as they can be asked for.
    pub(super) fn bytes_total(&self) -> u64 {
        let mut total = 0u64;
        for topic in &self.topics {
            for partition in 0..topic.options.partitions {
                let home = self.home(&topic.name, partition);
                let Ok(files) = PartitionFiles::list(&home) else { continue };
                for base in files.logs {
                    let found = self.storage.metadata(&home.file(base, FileKind::Log));
                    total = total.saturating_add(found.map_or(0, |found| found.len));
                }
            }
        }
        total
    }
}

/// The files of a partition, by what they are.
#[derive(Debug, Default)]
pub(super) struct PartitionFiles {
    /// Base offsets of segments.
    pub(super) logs: BTreeSet<i64>,
    pub(super) offset_indexes: BTreeSet<i64>,
    pub(super) time_indexes: BTreeSet<i64>,
    pub(super) snapshots: BTreeSet<i64>,
    /// What interrupted operations left.
    pub(super) leftovers: Vec<String>,
}

impl PartitionFiles {
    pub(super) fn list(home: &Home) -> Result<Self, StorageError> {
        let mut files = Self::default();
        for entry in home.storage.list(&home.directory)? {
            let Some(text) = entry.name.to_str() else { continue };
            let Some(name) = FileName::parse(text) else {
                if disk::is_temporary(text) || text == compaction::NOTE {
                    files.leftovers.push(text.to_owned());
                }
                continue;
            };
            let offset = i64::try_from(name.base_offset).unwrap_or(i64::MAX);
            match (name.state, name.kind) {
                (FileState::Live, FileKind::Log) => _ = files.logs.insert(offset),
                (FileState::Live, FileKind::OffsetIndex) => {
                    files.offset_indexes.insert(offset);
                }
                (FileState::Live, FileKind::TimeIndex) => _ = files.time_indexes.insert(offset),
                (FileState::Live, FileKind::ProducerSnapshot) => {
                    files.snapshots.insert(offset);
                }
                (FileState::Live, FileKind::TransactionIndex) => {}
                _ => files.leftovers.push(text.to_owned()),
            }
        }
        Ok(files)
    }

    /// Counts segments as leftovers that a compacted one has replaced, when a crash came before they were removed.
    pub(super) fn heed_swap(&mut self, home: &Home) -> Option<Finding> {
        let pending = match compaction::pending(home) {
            Ok(pending) => pending?,
            Err(error) => return Some(Finding::failed(home.place(), error)),
        };
        if !pending.is_named {
            // What it replaces is whole as long as it has another name.
            return None;
        }
        let replaced = pending.base_offset.saturating_add(1)..pending.next_offset;
        let gone: Vec<i64> = self.logs.range(replaced).copied().collect();
        for offset in gone {
            self.logs.remove(&offset);
            let name = FileName::live(u64::try_from(offset).unwrap_or(0), FileKind::Log);
            self.leftovers.push(name.to_string());
        }
        None
    }

    /// The segments that reach to the log's start or beyond, and the others.
    pub(super) fn split(&self, log_start: i64) -> (Vec<i64>, Vec<i64>) {
        let bases: Vec<i64> = self.logs.iter().copied().collect();
        let first = bases.partition_point(|base| *base <= log_start).saturating_sub(1);
        let (dead, live) = bases.split_at(first);
        (live.to_vec(), dead.to_vec())
    }
}

/// What the watermark's file says: the newest sound slot, at which bytes there are damaged ones, and the first that is of
/// another partition, with its number.
#[derive(Debug, Default)]
pub(super) struct WatermarkSurvey {
    pub(super) newest: Option<Watermark>,
    pub(super) damaged: Vec<u64>,
    pub(super) foreign: Option<(u64, u32)>,
}

impl WatermarkSurvey {
    /// Reads the file; `None` if there is none.
    pub(super) fn read(home: &Home) -> Result<Option<Self>, StorageError> {
        let path = home.directory.join(watermark::FILE);
        let Some(bytes) = disk::read(&*home.storage, &path)? else { return Ok(None) };
        let mut survey = Self::default();
        let mut sequence = 0;
        for slot in watermark::slots(&bytes) {
            if let Some(found) = slot.partition.filter(|found| *found != home.partition) {
                survey.foreign.get_or_insert((slot.position, found));
                continue;
            }
            match slot.content {
                Some((number, watermark)) => {
                    if survey.newest.is_none() || number > sequence {
                        (survey.newest, sequence) = (Some(watermark), number);
                    }
                }
                None if slot.is_blank => {}
                None => survey.damaged.push(slot.position),
            }
        }
        Ok(Some(survey))
    }
}

/// A missing file among those that must be there is damage, not a failure.
pub(super) fn missing_or_unreadable(place: Place, error: StorageError) -> Finding {
    if error.kind() == io::ErrorKind::NotFound {
        Finding::unsound(place, Damage::Missing)
    } else {
        Finding::unreadable(place, error)
    }
}

/// A damaged text file.
pub(super) fn malformed(place: Place, error: FormatError) -> Finding {
    Finding::unsound(place, Damage::from(error))
}
