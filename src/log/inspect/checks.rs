//! What is compared with the batches of a partition while they go by: epochs, indexes, snapshots of producers.

use std::collections::BTreeMap;

use super::walk::SoundBatch;
use super::{Finding, Issue};
use crate::log::disk;
use crate::log::error::{Damage, Place};
use crate::log::format::checkpoint::EpochStart;
use crate::log::format::index::{IndexEntry, OffsetIndex, SegmentBounds};
use crate::log::format::names::FileKind;
use crate::log::format::producers::{self, ProducerEntry};
use crate::log::format::time_index::{TimeIndex, TimeIndexEntry};
use crate::log::format::{BatchHeader, FormatError};
use crate::log::partition::producers::Producers;
use crate::log::segment::Home;

/// Bounds that leave only the order of an index to be checked.
pub(super) const ANY_SEGMENT: SegmentBounds =
    SegmentBounds { bytes: u32::MAX, last_relative_offset: u32::MAX };

/// Which writer appended where.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    starts: Vec<EpochStart>,
    /// The last entry that begins at or before the batch before.
    here: usize,
}

impl Epochs {
    pub(super) fn new(starts: Vec<EpochStart>) -> Self {
        Self { starts, here: 0 }
    }

    /// Whether a batch is from another writer than the one that appended there; offsets must rise from call to call. One
    /// without records, as compaction leaves, may take the place of several and be said to be from any of their writers.
    pub(super) fn check(&mut self, header: &BatchHeader) -> Option<Issue> {
        let begun = |start: Option<&EpochStart>| {
            start.is_some_and(|start| start.start_offset <= header.base_offset)
        };
        while begun(self.starts.get(self.here + 1)) {
            self.here += 1;
        }
        let start = self.starts.get(self.here)?;
        let (expected, found) = (start.epoch, header.leader_epoch);
        let rest = self.starts.get(self.here + 1..).unwrap_or_default();
        // The writer of the batch behind it counts too.
        let inside = |start: &&EpochStart| start.start_offset - 1 <= header.last_offset();
        let within = header.records_count == 0
            && rest.iter().take_while(inside).any(|start| start.epoch == found);
        let wrong = begun(Some(start)) && expected != found && !within;
        wrong.then_some(Issue::WrongWriter { expected, found })
    }
}

/// The entries of an index that were read, and the first thing that is wrong.
#[derive(Debug)]
struct Entries<T> {
    kind: FileKind,
    base_offset: i64,
    entries: Vec<T>,
    /// The first entry not compared yet.
    here: usize,
    wrong: Option<Issue>,
}

impl<T> Entries<T> {
    /// Reads an index; one that is not there has no entries.
    fn load(
        home: &Home,
        base_offset: i64,
        kind: FileKind,
        decode: impl FnOnce(&[u8]) -> Result<Vec<T>, FormatError>,
    ) -> Self {
        let mut loaded = Self { kind, base_offset, entries: Vec::new(), here: 0, wrong: None };
        match disk::read(&*home.storage, &home.file(base_offset, kind)) {
            Ok(Some(bytes)) => match decode(&bytes) {
                Ok(entries) => loaded.entries = entries,
                Err(error) => loaded.wrong = Some(Issue::Damaged(error.into())),
            },
            Ok(None) => {}
            Err(error) => loaded.wrong = Some(Issue::Unreadable(std::sync::Arc::new(error))),
        }
        loaded
    }

    fn entry(&self) -> Option<&T> {
        self.entries.get(self.here)
    }

    /// The entry at hand is dealt with.
    fn pass(&mut self, right: bool) {
        if !right {
            self.wrong.get_or_insert(Issue::IndexEntry { entry: self.here });
        }
        self.here += 1;
    }

    fn finish(mut self, home: &Home) -> Option<Finding> {
        if self.here < self.entries.len() {
            self.pass(false);
        }
        let path = Some(home.file(self.base_offset, self.kind));
        let place = Place { segment: Some(self.base_offset), path, ..home.place() };
        self.wrong.map(|issue| Finding::harmless(place, issue))
    }
}

/// An offset index against its segment.
#[derive(Debug)]
pub(super) struct OffsetIndexCheck(Entries<IndexEntry>);

impl OffsetIndexCheck {
    pub(super) fn load(home: &Home, base_offset: i64) -> Self {
        Self(Entries::load(home, base_offset, FileKind::OffsetIndex, |bytes| {
            let index = OffsetIndex::new(bytes);
            index.check(ANY_SEGMENT)?;
            Ok((0..index.len()).filter_map(|n| index.get(n)).collect())
        }))
    }

    /// Compares the entries up to the end of a batch.
    pub(super) fn observe(&mut self, base_offset: i64, batch: &SoundBatch) {
        while let Some(entry) = self.0.entry()
            && u64::from(entry.position) < batch.end()
        {
            let last = base_offset.saturating_add(entry.relative_offset.into());
            let right =
                u64::from(entry.position) == batch.position && last == batch.header.last_offset();
            self.0.pass(right);
        }
    }

    pub(super) fn finish(self, home: &Home) -> Option<Finding> {
        self.0.finish(home)
    }
}

/// A time index against its segment.
#[derive(Debug)]
pub(super) struct TimeIndexCheck {
    entries: Entries<TimeIndexEntry>,
    /// Largest timestamp so far.
    latest_ms: i64,
}

impl TimeIndexCheck {
    pub(super) fn load(home: &Home, base_offset: i64) -> Self {
        let entries = Entries::load(home, base_offset, FileKind::TimeIndex, |bytes| {
            let index = TimeIndex::new(bytes);
            index.check(ANY_SEGMENT)?;
            Ok((0..index.len()).filter_map(|n| index.get(n)).collect())
        });
        Self { entries, latest_ms: i64::MIN }
    }

    /// Compares the entries up to the end of a batch.
    pub(super) fn observe(&mut self, base_offset: i64, batch: &SoundBatch) {
        self.latest_ms = self.latest_ms.max(batch.header.max_timestamp);
        while let Some(entry) = self.entries.entry()
            && base_offset.saturating_add(entry.relative_offset.into())
                <= batch.header.last_offset()
        {
            let right = entry.timestamp_ms == self.latest_ms;
            self.entries.pass(right);
        }
    }

    pub(super) fn finish(self, home: &Home) -> Option<Finding> {
        self.entries.finish(home)
    }
}

/// The snapshots of a partition's producers against what its batches say.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// By offset, those not compared yet.
    waiting: BTreeMap<i64, Vec<ProducerEntry>>,
    producers: Producers,
    /// Offsets of records that snapshots tell of, and whether a batch that lost some of its records, or takes the place of
    /// others, reaches over them: then what the snapshot tells of may have been compacted since.
    told: BTreeMap<i64, bool>,
    /// The offset after the last batch; at first that of the first segment.
    pub(super) end: i64,
    differs: Vec<(i64, i64)>,
    /// Batches are missing, so that there is nothing to compare with.
    given_up: bool,
}

fn place_of(home: &Home, offset: i64) -> Place {
    let path = Some(home.file(offset, FileKind::ProducerSnapshot));
    Place { path, ..home.place() }
}

impl Snapshots {
    /// Reads the snapshot of this offset. A damaged one is passed over when a log is opened.
    pub(super) fn load(&mut self, home: &Home, offset: i64) -> Option<Finding> {
        let path = home.file(offset, FileKind::ProducerSnapshot);
        match disk::read(&*home.storage, &path) {
            Ok(Some(bytes)) => match producers::decode(&bytes) {
                Ok(entries) => {
                    self.told.extend(entries.iter().map(|entry| (entry.last_offset, false)));
                    self.waiting.insert(offset, entries);
                    None
                }
                Err(error) => Some(Finding::harmless(place_of(home, offset), Damage::from(error))),
            },
            // Removed meanwhile.
            Ok(None) => None,
            Err(error) => Some(Finding::unreadable(place_of(home, offset), error)),
        }
    }

    /// Batches are missing or wrong from here on.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// The next batch.
    pub(super) fn observe(&mut self, header: &BatchHeader) {
        self.compare_up_to(header.base_offset);
        self.producers.note(header);
        self.end = header.last_offset() + 1;
        if header.records_count <= header.last_offset_delta {
            let over = self.told.range_mut(header.base_offset..self.end);
            over.for_each(|(_, compacted)| *compacted = true);
        }
    }

    fn compare_up_to(&mut self, offset: i64) {
        while let Some(first) = self.waiting.first_entry()
            && *first.key() <= offset
        {
            let (at, entries) = first.remove_entry();
            if self.given_up {
                continue;
            }
            let known = self.producers.entries();
            let differing = entries.iter().enumerate().filter(|(n, entry)| {
                // Those of one producer follow each other, and the last one counts; of those before it some may be gone.
                let of_producer = |other: &&ProducerEntry| other.producer_id == entry.producer_id;
                let is_last = entries.get(n + 1).filter(of_producer).is_none();
                let last_offset = Some(entry.last_offset).filter(|_| !is_last);
                let same = known.iter().rfind(|other| {
                    of_producer(other)
                        && last_offset.is_none_or(|offset| offset == other.last_offset)
                });
                same.is_some_and(|other| {
                    let compacted = other.last_offset < entry.last_offset
                        && self.told.get(&entry.last_offset) == Some(&true);
                    !compacted
                        && (other.epoch, other.last_sequence, other.last_offset)
                            != (entry.epoch, entry.last_sequence, entry.last_offset)
                })
            });
            self.differs.extend(differing.map(|(_, entry)| (at, entry.producer_id)));
        }
    }

    /// What is to be said of the snapshots.
    pub(super) fn finish(mut self, home: &Home) -> Vec<Finding> {
        self.compare_up_to(self.end);
        let differs = self.differs.iter().map(|(at, producer)| {
            Finding::unsound(place_of(home, *at), Issue::SnapshotDiffers { producer: *producer })
        });
        // Snapshots of what is not there any more are removed by the next opening.
        let beyond = self.waiting.keys().filter(|_| !self.given_up);
        let beyond = beyond.map(|at| Finding::harmless(place_of(home, *at), Issue::Leftover));
        differs.chain(beyond).collect()
    }
}
