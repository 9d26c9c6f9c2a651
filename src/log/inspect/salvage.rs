//! Saving what is sound of a damaged log into a new one.
//!
//! Every record keeps its offset. Where offsets were lost the new log gets a batch without records that spans them, as
//! compaction leaves them: so batches continue each other, no offset is given out twice, and readers pass over.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::survey::{
    EPOCHS_SKIPPED, PartitionFiles, Survey, TopicSurvey, WatermarkSurvey, missing_or_unreadable,
    plausible_epoch,
};
use super::verify::Meter;
use super::walk::{BadRange, Piece, SoundBatch, Walk, Why};
use super::{Finding, Issue, Progress};
use crate::log::catalog::Catalogue;
use crate::log::directory::{make_ours, random_id};
use crate::log::error::{Damage, LogError, Place};
use crate::log::format::batch::{Attributes, set_leader_epoch};
use crate::log::format::names::FileKind;
use crate::log::format::{BatchHeader, Codec};
use crate::log::internal::TRANSACTIONS;
use crate::log::partition::Partition;
use crate::log::partition::watermark::Watermark;
use crate::log::segment::Home;
use crate::log::storage::{OpenMode, Storage};
use crate::log::topic::Topic;
use crate::log::wakers::hold;
use crate::log::{Log, TimestampType};
use crate::sync::lock;

/// Offsets that are left out at most in one place. More are no damage to a log, but a number that is wrong.
const OFFSETS_LOST_MAX: i64 = 1 << 48;

/// Bytes of batches handed over at a time.
const LOAD_BYTES: usize = 1 << 20;

/// Offsets of a partition that the new log does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LostRange {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: u32,
    /// The first lost offset.
    pub from: i64,
    /// The offset after the last lost one. `None`: at the end, nobody knows how many there were.
    pub to: Option<i64>,
}

/// What [`Inspector::salvage`](super::Inspector::salvage) did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SalvageReport {
    /// What was not as it should be in the old log, as far as it mattered.
    pub findings: Vec<Finding>,
    /// Offsets that are not in the new log though they were, or may have been, in the old one.
    pub lost: Vec<LostRange>,
    /// Topics.
    pub topics: u64,
    /// Batches copied.
    pub batches: u64,
    /// Records copied.
    pub records: u64,
    /// Of the batches copied, those that needed their offset or length put right.
    pub mended_batches: u64,
}

impl SalvageReport {
    /// Whether every record is in the new log.
    pub fn is_complete(&self) -> bool {
        let in_doubt = |one: &Finding| matches!(one.issue, Issue::TransactionInDoubt);
        self.lost.is_empty() && !self.findings.iter().any(in_doubt)
    }
}

pub(super) fn salvage(
    storage: &Arc<dyn Storage>,
    directory: &Path,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<SalvageReport, LogError> {
    let mut survey = Survey::new(storage, directory)?;
    check_out(&**storage, directory, out)?;
    let mut report = SalvageReport::default();
    report.findings.append(&mut survey.findings);
    storage.create_dir_all(out)?;
    make_ours(&**storage, out)?;
    // Readers of the old log that go on with the new one see that it has another writer.
    let catalogue = Catalogue { epoch: survey.epoch, ..Catalogue::default() };
    catalogue.save_to(&**storage, out)?;
    let log = Log::options().storage(storage.clone()).linger(None).open(out)?;
    let mut meter = Meter::new(survey.bytes_total(), progress);
    let mut newest = 0;
    for topic in &survey.topics {
        report.topics += 1;
        let id = topic.id.unwrap_or_else(random_id);
        let inner = log.inner.create_topic_with_id(&topic.name, id, topic.options.clone())?;
        let copy = Topic { inner, log: log.inner.clone() };
        for number in 0..topic.options.partitions {
            let told = salvage_partition(&survey, topic, number, &copy, &mut report, &mut meter)?;
            newest = newest.max(told);
        }
    }
    settle_transactions(&log, &mut report)?;
    log.close()?;
    if survey.is_epoch_guessed {
        skip_epochs(&**storage, out, newest)?;
    }
    Ok(report)
}

/// Ends the new log's topic of intents so that the log can be opened, and nothing is done again that was complete.
fn settle_transactions(log: &Log, report: &mut SalvageReport) -> Result<(), LogError> {
    let Some(topic) = log.inner.find_topic(TRANSACTIONS) else { return Ok(()) };
    let intents = topic.partition(0)?;
    let end = intents.written_end();
    let is_empty = end <= intents.log_start();
    let is_last = |lost: &LostRange| {
        lost.topic == TRANSACTIONS && lost.to.is_none_or(|to| to >= end && !is_empty)
    };
    if !log.inner.complete_or_give_up(report.lost.iter().any(is_last))? {
        let place = intents.home.place().at_offset(end);
        report.findings.push(Finding::unsound(place, Issue::TransactionInDoubt));
    }
    Ok(())
}

/// Has the next opening be a later one than any of which the batches tell: the ids of producers have its number, and one
/// that comes twice would have new records taken for repetitions of old ones.
fn skip_epochs(storage: &dyn Storage, out: &Path, newest: i32) -> Result<(), LogError> {
    match Catalogue::load(storage, out)? {
        Some(mut catalogue) if catalogue.epoch < newest => {
            catalogue.epoch = newest + EPOCHS_SKIPPED;
            catalogue.save_to(storage, out)
        }
        _ => Ok(()),
    }
}

/// Refuses to write to where something is, or to the old log.
fn check_out(storage: &dyn Storage, directory: &Path, out: &Path) -> Result<(), LogError> {
    let refuse =
        |reason: String| Err(LogError::Invalid { what: "directory of the new log", reason });
    if resolve(out).starts_with(resolve(directory)) {
        return refuse(format!("{} lies within {}", out.display(), directory.display()));
    }
    match storage.list(out) {
        Ok(entries) if entries.is_empty() => Ok(()),
        Ok(_) => refuse(format!("{} is not empty", out.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the latest opening of which the batches of the partition tell.
fn salvage_partition(
    survey: &Survey,
    topic: &TopicSurvey,
    number: u32,
    copy: &Topic,
    report: &mut SalvageReport,
    meter: &mut Meter<'_>,
) -> Result<i32, LogError> {
    let home = survey.home(&topic.name, number);
    let start = survey.log_start(&topic.name, number);
    let files = match PartitionFiles::list(&home) {
        Ok(mut files) => {
            report.findings.extend(files.heed_swap(&home));
            files
        }
        Err(error) => {
            let place = Place { path: Some(home.directory.clone()), ..home.place() };
            report.findings.push(missing_or_unreadable(place, error));
            PartitionFiles::default()
        }
    };
    let target = copy.inner.partition(number)?.clone();
    let WatermarkSurvey { newest: watermark, damaged, .. } =
        WatermarkSurvey::read(&home).ok().flatten().unwrap_or_default();
    let mut durable = watermark.map(|watermark| watermark.offset);
    if watermark.is_none() || !damaged.is_empty() {
        // It may have said more.
        let closed = survey.recovery_point(&topic.name, number);
        let last = files.logs.last().copied().unwrap_or_default();
        durable = durable.max(closed.filter(|closed| closed - last < OFFSETS_LOST_MAX));
    }
    // A start beyond what was durable is doubtful: nothing is left out for its sake before the end is known.
    let doubtful = watermark.is_none_or(|watermark| watermark.offset < start);
    let (bases, _) = files.split(if doubtful { 0 } else { start });
    let first = bases.first().copied().unwrap_or(start);
    let writer = Loader { partition: target, load: Vec::new(), bytes: 0, next: 0, latest_ms: -1 };
    let mut copier = Copier { home: &home, watermark, writer, newest: 0, report, meter };
    copier.writer.skip_to(first)?;
    if first > start {
        copier.lose(start, Some(first));
    }
    for (n, base) in bases.iter().enumerate() {
        copier.segment(*base, bases.get(n + 1).copied())?;
    }
    let newest = copier.newest;
    let end = copier.finish(durable)?;
    if start > end {
        let place = home.place().at_offset(start);
        report.findings.push(Finding::unsound(place, Issue::StartBehindEnd { start, end }));
    }
    copy.truncate_front(number, if start > end { first } else { start.max(first) })?;
    Ok(newest)
}

/// Where a path leads, past `..` and symbolic links. What is not there is taken by its name; so is everything in a storage
/// that is not the file system.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut real = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => _ = real.pop(),
            other => real.push(other),
        }
        real = real.canonicalize().unwrap_or(real);
    }
    real
}

/// Copies one partition.
struct Copier<'a, 'p> {
    home: &'a Home,
    watermark: Option<Watermark>,
    writer: Loader,
    /// The latest opening of which the batches tell.
    newest: i32,
    report: &'a mut SalvageReport,
    meter: &'a mut Meter<'p>,
}

impl Copier<'_, '_> {
    fn lose(&mut self, from: i64, to: Option<i64>) {
        let (topic, partition) = (self.home.topic.clone(), self.home.partition);
        self.report.lost.push(LostRange { topic, partition, from, to });
    }

    fn find(&mut self, base_offset: i64, offset: i64, position: u64, issue: impl Into<Issue>) {
        let path = Some(self.home.file(base_offset, FileKind::Log));
        let place = Place { segment: Some(base_offset), path, ..self.home.place() };
        let place = place.at_offset(offset).at_position(position);
        self.report.findings.push(Finding::unsound(place, issue));
    }

    /// What is sound of one segment.
    fn segment(&mut self, base_offset: i64, limit: Option<i64>) -> Result<(), LogError> {
        let path = self.home.file(base_offset, FileKind::Log);
        let opened = self.home.storage.open(&path, OpenMode::Read);
        let (file, len) = match opened.and_then(|file| file.len().map(|len| (file, len))) {
            Ok(opened) => opened,
            Err(error) => {
                self.find(base_offset, base_offset, 0, Issue::Unreadable(Arc::new(error)));
                self.lose(self.writer.next.max(base_offset), limit);
                return limit.map_or(Ok(()), |limit| self.writer.skip_to(limit));
            }
        };
        let watermark = self.watermark.filter(|watermark| watermark.segment == base_offset);
        let walk = Walk::new(&*file, len, base_offset, limit);
        let mut walk = walk.with_landmark(watermark);
        let mut damaged = false;
        while let Some(piece) = walk.next() {
            match piece {
                Piece::Batch(batch) => {
                    let bytes = batch.header.batch_bytes() as u64;
                    self.meter.advance(&self.home.topic, self.home.partition, bytes);
                    damaged = !self.batch(base_offset, &batch, &mut walk)?;
                }
                Piece::Bad(bad) => {
                    let bytes = bad.to - bad.position;
                    self.meter.advance(&self.home.topic, self.home.partition, bytes);
                    damaged |= !self.torn(base_offset, limit, walk.next_offset(), &bad);
                }
                Piece::Ahead { bytes, .. } => {
                    self.meter.advance(&self.home.topic, self.home.partition, bytes);
                }
            }
        }
        match limit {
            Some(limit) if limit > self.writer.next => {
                self.lose(self.writer.next, Some(limit));
                self.writer.skip_to(limit)
            }
            None if damaged => {
                self.lose(self.writer.next, None);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Copies a batch; false if that could not be done.
    fn batch(
        &mut self,
        base_offset: i64,
        batch: &SoundBatch,
        walk: &mut Walk<'_>,
    ) -> Result<bool, LogError> {
        let (expected, offset) = (self.writer.next, batch.header.base_offset);
        if offset < expected {
            // A segment in front of this one reached too far.
            let damage = Damage::WrongOffset { expected, found: offset };
            self.find(base_offset, offset, batch.position, damage);
            return Ok(true);
        }
        let mut bytes = Vec::new();
        if let Err(why) = walk.copy(batch, &mut bytes) {
            self.find(base_offset, offset, batch.position, why);
            return Ok(false);
        }
        if offset > expected {
            self.lose(expected, Some(offset));
        }
        if let Some(damage) = &batch.trouble {
            self.find(base_offset, offset, batch.position, damage.clone());
            self.report.mended_batches += 1;
        }
        // Nor is its producer's id from a later opening.
        self.newest = self.newest.max(plausible_epoch(batch.header.leader_epoch).unwrap_or(0));
        self.report.batches += 1;
        self.report.records += u64::try_from(batch.header.records_count).unwrap_or(0);
        self.writer.skip_to(offset)?;
        self.writer.push(bytes, &batch.header)?;
        Ok(true)
    }

    /// Notes bytes without a batch; tells whether they may be what a crash tore off, as nothing there was known to be
    /// durable.
    fn torn(&mut self, base_offset: i64, limit: Option<i64>, next: i64, bad: &BadRange) -> bool {
        let durable = self.watermark.is_none_or(|watermark| {
            watermark.segment == base_offset && bad.position < watermark.position
        });
        if durable || limit.is_some() || matches!(bad.why, Why::Unreadable(_)) {
            self.find(base_offset, next, bad.position, bad.why.clone());
            return false;
        }
        let path = Some(self.home.file(base_offset, FileKind::Log));
        let place = Place { segment: Some(base_offset), path, ..self.home.place() };
        let place = place.at_offset(next).at_position(bad.position);
        let issue = Issue::TornTail { bytes: bad.to - bad.position, batches: 0 };
        self.report.findings.push(Finding::harmless(place, issue));
        true
    }

    /// `durable`: the offset after the last one that is known to have been durable; `None` if nothing is known of that.
    /// Leaves out what was durable and is not there, so that its offsets are not given out again; returns the offset
    /// after the last one.
    fn finish(mut self, durable: Option<i64>) -> Result<i64, LogError> {
        let end = self.writer.next;
        let durable = durable.unwrap_or(end);
        let unknown = self.report.lost.last_mut().filter(|lost| {
            (lost.from, lost.to) == (end, None)
                && (&lost.topic, lost.partition) == (&self.home.topic, self.home.partition)
        });
        match (unknown, self.watermark) {
            (Some(lost), Some(_)) if durable > end => lost.to = Some(durable),
            (None, Some(_)) if durable > end => self.lose(end, Some(durable)),
            (None, None) => self.lose(end, None),
            _ => {}
        }
        self.writer.skip_to(durable)?;
        self.writer.flush()?;
        Ok(self.writer.next)
    }
}

/// Appends encoded batches to a partition of the new log.
struct Loader {
    partition: Arc<Partition>,
    load: Vec<Vec<u8>>,
    bytes: usize,
    /// The offset of the next batch.
    next: i64,
    /// Largest timestamp so far, for batches that have none.
    latest_ms: i64,
}

impl Loader {
    /// Spans the offsets up to this one by batches without records.
    fn skip_to(&mut self, offset: i64) -> Result<(), LogError> {
        if offset - self.next > OFFSETS_LOST_MAX {
            let damage = Damage::WrongOffset { expected: self.next, found: offset };
            let place = self.partition.home.place().at_offset(self.next);
            return Err(LogError::corrupt(place, damage));
        }
        while self.next < offset {
            let count = (offset - self.next).min(i64::from(i32::MAX));
            let header = BatchHeader {
                base_offset: self.next,
                length: 0,
                leader_epoch: -1,
                crc: 0,
                attributes: Attributes::new(Codec::None, TimestampType::Create),
                last_offset_delta: i32::try_from(count - 1).unwrap_or(i32::MAX),
                base_timestamp: self.latest_ms,
                max_timestamp: self.latest_ms,
                producer_id: -1,
                producer_epoch: -1,
                base_sequence: -1,
                records_count: 0,
            };
            self.push(header.encode_emptied().to_vec(), &header)?;
        }
        Ok(())
    }

    fn push(&mut self, mut batch: Vec<u8>, header: &BatchHeader) -> Result<(), LogError> {
        let epoch = self.partition.shared.epoch;
        set_leader_epoch(&mut batch, epoch).map_err(|error| self.partition.bad_batch(error))?;
        self.latest_ms = self.latest_ms.max(header.max_timestamp);
        self.next = header.last_offset() + 1;
        self.bytes += batch.len();
        self.load.push(batch);
        if self.bytes >= LOAD_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.bytes = 0;
        let load = std::mem::take(&mut self.load);
        if load.is_empty() { Ok(()) } else { self.partition.take_over(&load) }
    }
}

impl Partition {
    /// Appends encoded batches as they are: with the offsets, epochs and times they have, of whatever producer. They
    /// continue what is written, nothing gathers meanwhile, and nobody else appends.
    fn take_over(&self, batches: &[Vec<u8>]) -> Result<(), LogError> {
        let mut writer = hold(&self.writer);
        writer.append(self, batches)?;
        let mut gather = lock(&self.gather);
        gather.next_offset = writer.active.next_offset();
        gather.producers = writer.producers.clone();
        Ok(())
    }
}
