//! What is open for reading only, while another process makes, changes and deletes topics, and appends to a partition, cuts
//! its front and compacts it.
//!
//! Segments grow, new ones come, and old ones go or are replaced. What a reader has open stays readable, but a segment that
//! is opened late may be another one by then. So when something is not as it was, all segments are looked for anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::catalog::{Catalogue, Entry, State as TopicState};
use super::directory::{load_catalogue, load_offsets, open_partition, open_topic};
use super::error::LogError;
use super::format::names::{FileKind, LOG_START_OFFSETS};
use super::partition::writer::Writer;
use super::partition::{Partition, Shared, View};
use super::recovery::{Files, is_missing};
use super::segment::{Expected, ScanError, Scanner, Segment};
use super::storage::Storage;
use super::topic::TopicInner;
use super::wakers::hold;
use super::{LogInner, State};
use crate::sync::lock;

impl LogInner {
    /// Looks which topics and partitions another process has made or deleted, if the log is open for reading only.
    pub(super) fn look_for_topics(&self) -> Result<(), LogError> {
        if self.shared.epoch >= 0 {
            return Ok(());
        }
        let mut state = hold(&self.state);
        looking_again(|| self.try_look_for_topics(&mut state))
    }

    fn try_look_for_topics(&self, state: &mut State) -> Result<(), LogError> {
        let (storage, directory) = (&*self.shared.storage, &*self.shared.directory);
        let mut catalogue = load_live(storage, directory)?;
        if catalogue.topics == state.catalogue.topics {
            return Ok(());
        }
        let log_starts = load_offsets(storage, directory, LOG_START_OFFSETS, &catalogue, false)?;
        let mut topics = BTreeMap::new();
        for (name, entry) in &catalogue.topics {
            let known = self.find_topic(name).filter(|known| known.id == entry.id);
            let topic = match known {
                Some(known) => self.with_partitions(known, entry, &log_starts),
                None => open_topic(&self.shared, name, entry, &log_starts, false).map(Arc::new),
            };
            match topic {
                Ok(topic) => _ = topics.insert(name.clone(), topic),
                // It was deleted since the catalogue was read.
                Err(_) if !is_live(&self.shared, name, entry)? => {}
                Err(error) => return Err(error),
            }
        }
        catalogue.topics.retain(|name, _| topics.contains_key(name));
        (state.catalogue, state.log_starts) = (catalogue, log_starts);
        *lock(&self.topics) = topics;
        Ok(())
    }

    /// A topic with the options and partitions that it has now. Who has it already knows the old partitions only.
    fn with_partitions(
        &self,
        known: Arc<TopicInner>,
        entry: &Entry,
        log_starts: &BTreeMap<(String, u32), i64>,
    ) -> Result<Arc<TopicInner>, LogError> {
        let (name, options) = (&known.name, &known.options);
        let before = u32::try_from(known.partitions.len()).unwrap_or(u32::MAX);
        let mut partitions = known.partitions.clone();
        for number in before..entry.options.partitions {
            let start = log_starts.get(&(name.clone(), number)).copied().unwrap_or(0);
            let opened = open_partition(&self.shared, name, entry, options, number, start, false);
            partitions.push(opened?);
        }
        options.set(entry.options.clone());
        if partitions.len() == known.partitions.len() {
            return Ok(known);
        }
        Ok(Arc::new(TopicInner::new(name.clone(), known.id, options.clone(), partitions)))
    }
}

/// Looks at a log that another process changes meanwhile are repeated, up to so many times.
const LOOKS_MAX: usize = 10;

/// Looks at a log that another process changes meanwhile. What looks damaged may be two states of it, seen half each: then
/// all is looked at anew. Damage is found in the same place again.
pub(super) fn looking_again<T>(
    mut look: impl FnMut() -> Result<T, LogError>,
) -> Result<T, LogError> {
    let mut found = String::new();
    for _ in 1..LOOKS_MAX {
        match look() {
            Err(error) if error.is_corruption() || is_missing(&error) => {
                let before = std::mem::replace(&mut found, error.to_string());
                if before == found {
                    return Err(error);
                }
            }
            looked => return looked,
        }
    }
    look()
}

/// The topics that another process has, and neither makes nor deletes now.
pub(super) fn load_live(storage: &dyn Storage, directory: &Path) -> Result<Catalogue, LogError> {
    let mut catalogue = load_catalogue(storage, directory)?;
    catalogue.topics.retain(|_, entry| entry.state == TopicState::Live);
    Ok(catalogue)
}

/// Whether the catalogue still has a topic.
pub(super) fn is_live(shared: &Shared, name: &str, entry: &Entry) -> Result<bool, LogError> {
    let catalogue = load_live(&*shared.storage, &shared.directory)?;
    Ok(catalogue.topics.get(name).is_some_and(|found| found.id == entry.id))
}

/// Looks what another process did: new segments, more in the last one, segments that are gone or replaced.
pub(super) fn refresh(partition: &Partition, writer: &mut Writer) -> Result<(), LogError> {
    let home = &partition.home;
    let files = Files::list(home)?;
    let first = files.logs.first().copied().unwrap_or_default();
    // Where exactly the log begins in its first segment only its checkpoint tells, which is read when it is opened.
    partition.log_start.fetch_max(first, Ordering::SeqCst);
    let mut segments = partition.view().segments.clone();
    segments.retain(|segment| segment.next_offset() > first || segment.end() == 0);
    if segments.iter().skip(1).any(|segment| !files.logs.contains(&segment.base_offset)) {
        return reload(partition, writer, None);
    }
    loop {
        match extend(&writer.active) {
            Err(error) if is_missing(&error) => return reload(partition, writer, None),
            extended => extended?,
        }
        let (active, next_offset) = (&writer.active, writer.active.next_offset());
        if next_offset == active.base_offset || !files.logs.contains(&next_offset) {
            if files.logs.range(active.base_offset + 1..).next().is_some() {
                // There are later ones, so it was replaced by one that reaches further.
                return reload(partition, writer, None);
            }
            break;
        }
        let next = Segment::known(home.clone(), next_offset, 0, next_offset, false);
        writer.active = Arc::new(next);
        segments.push(writer.active.clone());
    }
    if segments.is_empty() {
        segments.push(writer.active.clone());
    }
    *lock(&partition.view) = Arc::new(View { segments });
    partition.written_end.fetch_max(writer.active.next_offset(), Ordering::SeqCst);
    Ok(())
}

/// Looks for all segments anew. Of `suspect`, if that is sealed, nothing is believed that was known before: its file may be
/// open that had the name for a while only.
pub(super) fn reload(
    partition: &Partition,
    writer: &mut Writer,
    suspect: Option<i64>,
) -> Result<(), LogError> {
    let home = &partition.home;
    let files = Files::list(home)?;
    let first = files.logs.first().copied().unwrap_or_default();
    partition.log_start.fetch_max(first, Ordering::SeqCst);
    let old = partition.view();
    let mut segments = Vec::with_capacity(files.logs.len());
    let mut bases = files.logs.iter().copied().peekable();
    while let Some(base_offset) = bases.next() {
        let segment = match bases.peek() {
            Some(next) => {
                let path = home.file(base_offset, FileKind::Log);
                let len = match home.storage.metadata(&path) {
                    Ok(metadata) => metadata.len,
                    // Removed since it was listed: it is before the start, or replaced by the one before it.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(home.failed(error)),
                };
                let same = |segment: &&Arc<Segment>| {
                    let same = (segment.base_offset, segment.next_offset(), segment.end());
                    same == (base_offset, *next, len) && suspect != Some(base_offset)
                };
                old.segments.iter().find(same).cloned().unwrap_or_else(|| {
                    Arc::new(Segment::known(home.clone(), base_offset, len, *next, true))
                })
            }
            // The last one is appended to and never replaced.
            None if writer.active.base_offset == base_offset => writer.active.clone(),
            None => Arc::new(Segment::known(home.clone(), base_offset, 0, base_offset, false)),
        };
        if bases.peek().is_none() {
            extend(&segment)?;
        }
        segments.push(segment);
    }
    let Some(last) = segments.last() else { return Ok(()) };
    writer.active = last.clone();
    *lock(&partition.view) = Arc::new(View { segments });
    partition.written_end.fetch_max(writer.active.next_offset(), Ordering::SeqCst);
    Ok(())
}

/// Publishes the batches that were written behind a segment's end. What is not whole there yet is left alone.
fn extend(segment: &Segment) -> Result<(), LogError> {
    let file = segment.file()?;
    let len = file.len().map_err(|error| segment.home.failed(error))?;
    // Where zeros are written ahead there is always something, but seldom a batch.
    if len > segment.end() && !segment.is_continued(&*file)? {
        return Ok(());
    }
    let expected = Expected { offset: segment.next_offset(), epoch: i32::MIN };
    let mut scanner = Scanner::new(&*file, segment.end(), len, expected);
    loop {
        match scanner.next() {
            Ok(Some(_)) => {}
            Ok(None) | Err(ScanError::Bad { .. }) => break,
            Err(error) => return Err(segment.scan_failed(error, scanner.expected().offset)),
        }
    }
    segment.publish(scanner.position(), scanner.expected().offset);
    Ok(())
}
