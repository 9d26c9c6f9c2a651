//! Verifying one partition: its small files, then its segments in order.

use super::checks::{Epochs, OffsetIndexCheck, Snapshots, TimeIndexCheck};
use super::survey::{PartitionFiles, WatermarkSurvey, malformed, missing_or_unreadable};
use super::verify::Meter;
use super::walk::{BadRange, Piece, SoundBatch, Walk};
use super::{Finding, Issue, VerifyReport};
use crate::log::disk;
use crate::log::error::{Damage, Place};
use crate::log::format::Id;
use crate::log::format::checkpoint::decode_epochs;
use crate::log::format::names::{FileKind, LEADER_EPOCHS, PARTITION_METADATA};
use crate::log::format::properties::PartitionMetadata;
use crate::log::partition::times;
use crate::log::partition::watermark::{self, Watermark};
use crate::log::segment::Home;
use crate::log::storage::{OpenMode, StorageError};

/// Verifies a partition.
pub(super) struct PartitionVerifier<'a, 'p> {
    pub(super) home: &'a Home,
    pub(super) log_start: i64,
    /// Where it ends, if the log was closed in order. It counts only if the watermark may have said more than it does: the
    /// file that tells has no checksum.
    pub(super) closed_at: Option<i64>,
    pub(super) report: &'a mut VerifyReport,
    pub(super) meter: &'a mut Meter<'p>,
}

/// What must be true of one segment.
#[derive(Clone, Copy, Debug)]
struct Expectation {
    base_offset: i64,
    /// The base offset of the segment behind it; `None` for the last one.
    limit: Option<i64>,
    /// Up to which byte it must be whole.
    whole_to: u64,
    /// The watermark, if it is in this segment.
    watermark: Option<Watermark>,
}

/// The end of the last segment from its first byte that is not as it must be, above what was durable.
#[derive(Clone, Copy, Debug)]
struct Tail {
    position: u64,
    offset: i64,
    batches: u64,
}

/// What goes along with a walk through all segments.
struct Along {
    epochs: Epochs,
    snapshots: Snapshots,
}

impl PartitionVerifier<'_, '_> {
    /// Fails only if the directory cannot be listed.
    pub(super) fn run(mut self, id: Option<Id>) -> Result<(), StorageError> {
        let found_before = self.report.findings.len();
        // The watermark first: a writer may start a segment meanwhile.
        let watermark = self.watermark();
        let mut files = PartitionFiles::list(self.home)?;
        if let Some(finding) = files.heed_swap(self.home) {
            self.report.find(finding);
        }
        self.metadata(id);
        self.times();
        let epochs = self.epochs();
        for name in &files.leftovers {
            let place = Place { path: Some(self.home.directory.join(name)), ..self.home.place() };
            self.report.find(Finding::harmless(place, Issue::Leftover));
        }
        let (live, dead) = files.split(self.log_start);
        for base in dead {
            let place = self.place_of(base, FileKind::Log);
            self.report.find(Finding::harmless(place, Issue::Leftover));
        }
        let first = live.first().copied();
        if first.is_none_or(|first| first > self.log_start) {
            let place = self.place_of(self.log_start, FileKind::Log).at_offset(self.log_start);
            self.report.find(Finding::unsound(place, Damage::Missing));
        }
        if let Some(watermark) = watermark {
            self.check_watermark_segment(&live, watermark);
        }
        let mut snapshots = self.snapshots(&files);
        snapshots.end = first.unwrap_or_default();
        let mut along = Along { epochs, snapshots };
        for (n, base_offset) in live.iter().copied().enumerate() {
            let limit = live.get(n + 1).copied();
            let watermark = watermark.filter(|watermark| watermark.segment == base_offset);
            // Without any watermark the log is refused; nothing is known to be torn then.
            let whole_to = match (limit, watermark) {
                (None, Some(watermark)) => watermark.position,
                (None, None) => 0,
                (Some(_), _) => u64::MAX,
            };
            let expectation = Expectation { base_offset, limit, whole_to, watermark };
            self.segment(expectation, &files, &mut along);
        }
        let (start, end) = (self.log_start, along.snapshots.end);
        if start > end {
            let place = self.home.place().at_offset(start);
            self.report.find(Finding::unsound(place, Issue::StartBehindEnd { start, end }));
        }
        let found = self.report.findings.iter().skip(found_before);
        let is_sound = found.into_iter().all(|one| one.severity == super::Severity::Harmless);
        if let Some(closed_at) = self.closed_at.filter(|closed_at| is_sound && end < *closed_at) {
            let place = self.home.place().at_offset(end);
            self.report.find(Finding::unsound(place, Issue::EndsEarly { end, closed_at }));
        }
        for finding in along.snapshots.finish(self.home) {
            self.report.find(finding);
        }
        Ok(())
    }

    fn place_of(&self, base_offset: i64, kind: FileKind) -> Place {
        let path = Some(self.home.file(base_offset, kind));
        Place { segment: Some(base_offset), path, ..self.home.place() }
    }

    fn file_place(&self, name: &str) -> Place {
        Place { path: Some(self.home.directory.join(name)), ..self.home.place() }
    }

    /// Reads the watermark; reports damaged slots.
    fn watermark(&mut self) -> Option<Watermark> {
        let place = self.file_place(watermark::FILE);
        match WatermarkSurvey::read(self.home) {
            Ok(Some(survey)) => {
                self.closed_at = self.closed_at.filter(|_| !survey.damaged.is_empty());
                for position in survey.damaged {
                    let place = place.clone().at_position(position);
                    self.report.find(match survey.newest {
                        Some(_) => Finding::harmless(place, Damage::Unreadable),
                        None => Finding::unsound(place, Damage::Unreadable),
                    });
                }
                if let Some((position, found)) = survey.foreign {
                    let place = place.at_position(position);
                    self.report.find(Finding::unsound(place, Damage::WrongPartition { found }));
                } else if survey.newest.is_none() {
                    self.report.find(Finding::unsound(place, Damage::Unreadable));
                }
                survey.newest
            }
            Ok(None) => {
                self.report.find(Finding::unsound(place, Damage::Missing));
                None
            }
            Err(error) => {
                self.report.find(Finding::unreadable(place, error));
                None
            }
        }
    }

    fn metadata(&mut self, id: Option<Id>) {
        let place = self.file_place(PARTITION_METADATA);
        let path = self.home.directory.join(PARTITION_METADATA);
        let finding = match disk::read(&*self.home.storage, &path) {
            Ok(None) => Finding::unsound(place, Damage::Missing),
            Ok(Some(text)) => match PartitionMetadata::decode(&text) {
                Ok(found) if id.is_none_or(|id| id == found.topic_id) => return,
                Ok(_) => Finding::unsound(place, Damage::Foreign),
                Err(error) => malformed(place, error),
            },
            Err(error) => Finding::unreadable(place, error),
        };
        self.report.find(finding);
    }

    fn epochs(&mut self) -> Epochs {
        let place = self.file_place(LEADER_EPOCHS);
        let path = self.home.directory.join(LEADER_EPOCHS);
        let finding = match disk::read(&*self.home.storage, &path) {
            Ok(None) => return Epochs::default(),
            Ok(Some(text)) => match decode_epochs(&text) {
                Ok(starts) => return Epochs::new(starts),
                Err(error) => malformed(place, error),
            },
            Err(error) => Finding::unreadable(place, error),
        };
        self.report.find(finding);
        Epochs::default()
    }

    /// What is wrong with the times of segments counts as not there.
    fn times(&mut self) {
        let place = self.file_place(times::FILE);
        match disk::read(&*self.home.storage, &self.home.directory.join(times::FILE)) {
            Ok(bytes) => {
                for entry in times::entries(&bytes.unwrap_or_default()) {
                    if entry.content.is_none() {
                        let place = place.clone().at_position(entry.position);
                        self.report.find(Finding::harmless(place, Damage::Unreadable));
                    }
                }
            }
            Err(error) => self.report.find(Finding::unreadable(place, error)),
        }
    }

    /// The segment that the watermark is about must be there, unless the front was cut behind it.
    fn check_watermark_segment(&mut self, live: &[i64], watermark: Watermark) {
        let there = live.contains(&watermark.segment);
        let cut = live
            .first()
            .is_some_and(|first| watermark.segment < *first && watermark.offset <= *first);
        if !there && !cut {
            let place = self.place_of(watermark.segment, FileKind::Log).at_offset(watermark.offset);
            self.report.find(Finding::unsound(place, Damage::Missing));
        }
    }

    fn snapshots(&mut self, files: &PartitionFiles) -> Snapshots {
        let mut snapshots = Snapshots::default();
        for offset in &files.snapshots {
            if let Some(finding) = snapshots.load(self.home, *offset) {
                self.report.find(finding);
            }
        }
        snapshots
    }

    /// One segment with its indexes.
    fn segment(&mut self, expected: Expectation, files: &PartitionFiles, along: &mut Along) {
        let base_offset = expected.base_offset;
        let mut offsets = OffsetIndexCheck::load(self.home, base_offset);
        let mut times = TimeIndexCheck::load(self.home, base_offset);
        let path = self.home.file(base_offset, FileKind::Log);
        let opened = self.home.storage.open(&path, OpenMode::Read);
        let opened = opened.and_then(|file| file.len().map(|len| (file, len)));
        let (file, len) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let place = self.place_of(base_offset, FileKind::Log);
                self.report.find(missing_or_unreadable(place, error));
                return;
            }
        };
        self.report.segments += 1;
        self.report.bytes = self.report.bytes.saturating_add(len);
        let walk = Walk::new(&*file, len, base_offset, expected.limit);
        let mut walk = walk.with_landmark(expected.watermark);
        let mut state = SegmentState::new(self.report.findings.len());
        while let Some(piece) = walk.next() {
            match piece {
                Piece::Batch(batch) => {
                    self.batch(&expected, &batch, &mut state, along);
                    offsets.observe(base_offset, &batch);
                    times.observe(base_offset, &batch);
                    let bytes = batch.header.batch_bytes() as u64;
                    self.meter.advance(&self.home.topic, self.home.partition, bytes);
                }
                Piece::Bad(bad) => self.bad(&expected, &bad, walk.next_offset(), &mut state, along),
                Piece::Ahead { bytes, .. } => {
                    self.meter.advance(&self.home.topic, self.home.partition, bytes);
                }
            }
        }
        self.end(&expected, len, walk.next_offset(), &state);
        if expected.limit.is_some() && len > 0 {
            // Those of the last segment may not be saved yet.
            let there = [
                (FileKind::OffsetIndex, files.offset_indexes.contains(&base_offset)),
                (FileKind::TimeIndex, files.time_indexes.contains(&base_offset)),
            ];
            for (kind, _) in there.iter().filter(|(_, there)| !there) {
                let place = self.place_of(base_offset, *kind);
                self.report.find(Finding::harmless(place, Damage::Missing));
            }
        }
        for finding in [offsets.finish(self.home), times.finish(self.home)] {
            self.report.findings.extend(finding);
        }
    }

    fn batch(
        &mut self,
        expected: &Expectation,
        batch: &SoundBatch,
        state: &mut SegmentState,
        along: &mut Along,
    ) {
        let header = &batch.header;
        let place = self.place_of(expected.base_offset, FileKind::Log);
        let place = place.at_offset(header.base_offset).at_position(batch.position);
        if state.tail.is_none() {
            state.note_watermark(expected, batch.position, header.base_offset);
        }
        let above = batch.position >= expected.whole_to;
        let known = expected.watermark.map_or(i32::MIN, |watermark| watermark.epoch);
        let falls = above && header.leader_epoch < state.epoch.max(known);
        if let Some(tail) = &mut state.tail {
            tail.batches += 1;
            return;
        }
        if above && (batch.trouble.is_some() || falls) {
            let (position, offset) = (batch.position, header.base_offset);
            state.tail = Some(Tail { position, offset, batches: 1 });
            return;
        }
        if let Some(damage) = &batch.trouble {
            self.report.find(Finding::unsound(place.clone(), damage.clone()));
            along.snapshots.give_up();
        }
        state.epoch = header.leader_epoch;
        if let Some(issue) = along.epochs.check(header) {
            self.report.find(Finding::unsound(place, issue));
        }
        along.snapshots.observe(header);
        self.report.batches += 1;
        self.report.records += u64::try_from(header.records_count).unwrap_or(0);
        self.report.undecoded_batches += u64::from(!batch.decoded);
        state.end = Some((batch.end(), header.last_offset() + 1));
    }

    fn bad(
        &mut self,
        expected: &Expectation,
        bad: &BadRange,
        offset: i64,
        state: &mut SegmentState,
        along: &mut Along,
    ) {
        self.meter.advance(&self.home.topic, self.home.partition, bad.to - bad.position);
        if state.tail.is_some() {
            return;
        }
        let readable = matches!(bad.why, super::walk::Why::Damage(_));
        if bad.position >= expected.whole_to && readable {
            state.tail = Some(Tail { position: bad.position, offset, batches: 0 });
            return;
        }
        along.snapshots.give_up();
        let place = self.place_of(expected.base_offset, FileKind::Log);
        let place = place.at_offset(offset).at_position(bad.position);
        self.report.find(Finding::unsound(place, bad.why.clone()));
    }

    /// What is to be said of a segment when all of it was seen.
    fn end(&mut self, expected: &Expectation, len: u64, next: i64, state: &SegmentState) {
        let place = self.place_of(expected.base_offset, FileKind::Log);
        if let Some(tail) = state.tail {
            let place = place.clone().at_offset(tail.offset).at_position(tail.position);
            let (bytes, batches) = (len - tail.position, tail.batches);
            self.report.find(Finding::harmless(place, Issue::TornTail { bytes, batches }));
        }
        let damaged = self.report.findings.get(state.found_before..).is_some_and(|findings| {
            findings.iter().any(|finding| finding.severity > super::Severity::Harmless)
        });
        if damaged {
            return;
        }
        if let Some(watermark) = expected.watermark {
            if len < watermark.position {
                let place = place.at_offset(next);
                let damage = Damage::Short { expected: watermark.position, found: len };
                return self.report.find(Finding::unsound(place, damage));
            }
            let (end, offset) = state.end.unwrap_or((0, expected.base_offset));
            let met = state.at_watermark.or((end == watermark.position).then_some(offset));
            if met != Some(watermark.offset) {
                let place = place.at_offset(offset).at_position(watermark.position);
                let (expected, found) = (watermark.offset, met.unwrap_or(offset));
                return self
                    .report
                    .find(Finding::unsound(place, Damage::WrongOffset { expected, found }));
            }
        }
        if let Some(limit) = expected.limit
            && next != limit
        {
            let damage = Damage::WrongOffset { expected: next, found: limit };
            let place = place.at_offset(next).at_position(len);
            self.report.find(Finding::unsound(place, damage));
        }
    }
}

/// What is remembered while a segment is gone through.
#[derive(Clone, Copy, Debug)]
struct SegmentState {
    tail: Option<Tail>,
    /// Epoch of the batch before.
    epoch: i32,
    /// Byte and offset behind the last batch.
    end: Option<(u64, i64)>,
    /// The offset of the batch that starts where the watermark is.
    at_watermark: Option<i64>,
    /// Findings there were before this segment.
    found_before: usize,
}

impl SegmentState {
    fn new(found_before: usize) -> Self {
        Self { tail: None, epoch: i32::MIN, end: None, at_watermark: None, found_before }
    }

    fn note_watermark(&mut self, expected: &Expectation, position: u64, offset: i64) {
        if expected.watermark.is_some_and(|watermark| watermark.position == position) {
            self.at_watermark = Some(offset);
        }
    }
}
