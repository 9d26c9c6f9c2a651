//! Opening a partition: what is there, what of it is whole, what must be cut.
//!
//! The durable watermark separates two kinds of damage. What lies below it was durable, so whatever is wrong there is
//! corruption, and the partition is refused with the place named. What lies above may have been torn by a crash: the
//! last segment is cut before the first batch that is not whole or not the next one. A segment only exists when all
//! before it are durable, so nothing else can be torn. No file with records is ever removed here, unless the log's
//! start was moved behind it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::disk;
use super::error::{Damage, LogError, Place};
use super::format::BatchHeader;
use super::format::checkpoint::{EpochStart, decode_epochs};
use super::format::names::{FileKind, FileName, FileState, LEADER_EPOCHS};
use super::partition::Opened;
use super::partition::producers::Producers;
use super::partition::watermark::{Watermark, WatermarkFile};
use super::partition::writer::Writer;
use super::recall::recall_producers;
use super::segment::{Expected, Found, Home, ScanError, Scanner, Segment};
use super::storage::StorageFile;

/// A tail up to this long is always written again, so that it becomes durable whatever happened to it.
const REWRITTEN_BYTES_MAX: u64 = 8 << 20;
/// Bytes written again at a time.
const REWRITE_CHUNK_BYTES: u64 = 1 << 20;

/// What a partition's directory holds.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Base offsets of the segments.
    pub(super) logs: BTreeSet<i64>,
    /// Offsets of the producer snapshots.
    pub(super) snapshots: BTreeSet<i64>,
    /// Names of files that an interrupted operation left.
    leftovers: Vec<String>,
    /// Base offsets of indexes.
    indexes: BTreeSet<i64>,
}

impl Files {
    pub(super) fn list(home: &Home) -> Result<Self, LogError> {
        let entries = home.storage.list(&home.directory).map_err(|error| home.failed(error))?;
        let mut files = Self::default();
        for entry in entries {
            let Some(text) = entry.name.to_str() else { continue };
            let Some(name) = FileName::parse(text) else {
                if disk::is_temporary(text) {
                    files.leftovers.push(text.to_owned());
                }
                continue;
            };
            let offset = i64::try_from(name.base_offset).unwrap_or(i64::MAX);
            match (name.state, name.kind) {
                (FileState::Live, FileKind::Log) => _ = files.logs.insert(offset),
                (FileState::Live, FileKind::ProducerSnapshot) => {
                    files.snapshots.insert(offset);
                }
                (FileState::Live, _) => _ = files.indexes.insert(offset),
                (FileState::Cleaned | FileState::Swap | FileState::Deleted, _) => {
                    files.leftovers.push(text.to_owned());
                }
            }
        }
        Ok(files)
    }
}

/// Removes the files of a segment that is not needed any more.
pub(super) fn remove_segment(home: &Home, base_offset: i64) -> Result<(), LogError> {
    let kinds =
        [FileKind::Log, FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex];
    for kind in kinds {
        let removed = disk::remove_if_there(&*home.storage, &home.file(base_offset, kind));
        removed.map_err(|error| home.failed(error))?;
    }
    Ok(())
}

/// Looks at a partition that is open for reading only may fail when its writer removes or replaces segments meanwhile:
/// then they are repeated, up to so many times.
const LOOKS_MAX: usize = 10;

/// Opens a partition. `clean`: the log was closed in order, and nothing happened to it since.
pub(super) fn open(home: Arc<Home>, log_start: i64, clean: bool) -> Result<Opened, LogError> {
    if home.writable {
        super::compaction::finish(&home)?;
        return open_once(home, log_start, clean);
    }
    repeated_if_missing(|| open_once(home.clone(), log_start, clean))
}

/// Repeats a look that failed because a file was not there that should be.
pub(super) fn repeated_if_missing<T>(
    mut look: impl FnMut() -> Result<T, LogError>,
) -> Result<T, LogError> {
    let mut looks = 1;
    loop {
        match look() {
            Err(error) if looks < LOOKS_MAX && is_missing(&error) => looks += 1,
            looked => return looked,
        }
    }
}

/// Whether a file was not there that should be.
pub(super) fn is_missing(error: &LogError) -> bool {
    match error {
        LogError::Storage { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        LogError::Corrupt { damage, .. } => *damage == Damage::Missing,
        _ => false,
    }
}

fn open_once(home: Arc<Home>, log_start: i64, clean: bool) -> Result<Opened, LogError> {
    // The watermark first: a writer elsewhere may start a segment meanwhile.
    let mut watermark = WatermarkFile::open(&home)?;
    let files = Files::list(&home)?;
    // And it may cut the front; then nothing is found where the log began, as if that were missing.
    let bases = live_segments(&home, &files, log_start)?;
    let known = known_durable(&home, &bases, watermark.last())?;
    if home.writable {
        remove_leftovers(&home, &files, &bases)?;
    }
    let mut producers = recall_producers(&home, &files, &bases, known, clean)?;
    let mut segments = Vec::new();
    for (base_offset, next) in bases.iter().zip(bases.iter().skip(1)) {
        let from = match *base_offset {
            base if base < known.segment => None,
            base if base == known.segment => Some(known.found()),
            base => Some(Found { position: 0, offset: base }),
        };
        segments.push(whole_segment(&home, *base_offset, *next, from, &mut producers)?);
    }
    let Some(last) = bases.last().copied() else {
        let place = Place { path: Some(home.directory.clone()), ..home.place() };
        return Err(LogError::corrupt(place, Damage::Missing));
    };
    let known = if known.segment == last {
        known
    } else {
        let Watermark { epoch, sync_failed, .. } = known;
        Watermark { epoch, sync_failed, ..Watermark::empty(last) }
    };
    let recovered = recover_last(&home, known, clean, &mut producers)?;
    let active = Arc::new(recovered.segment);
    segments.push(active.clone());
    let end = active.next_offset();
    if home.writable {
        for snapshot in files.snapshots.range(end.saturating_add(1)..) {
            let path = home.file(*snapshot, FileKind::ProducerSnapshot);
            disk::remove_if_there(&*home.storage, &path).map_err(|error| home.failed(error))?;
        }
    }
    let epochs = load_epochs(&home, end)?;
    let max_timestamp = recovered.max_timestamp;
    let mut writer = Writer::new(active, epochs, producers, max_timestamp);
    writer.snapshots = files.snapshots.range(..=end).copied().collect();
    if home.writable && recovered.durable == end {
        watermark.store(writer.watermark(known.epoch));
    }
    let durable_end = recovered.durable;
    Ok(Opened {
        home,
        segments,
        writer,
        watermark,
        durable_end,
        log_start: log_start.max(bases_first(&bases)),
    })
}

pub(super) fn bases_first(bases: &[i64]) -> i64 {
    bases.first().copied().unwrap_or_default()
}

/// The segments that reach beyond the log's start.
fn live_segments(home: &Home, files: &Files, log_start: i64) -> Result<Vec<i64>, LogError> {
    let bases: Vec<i64> = files.logs.iter().copied().collect();
    let first = bases.partition_point(|base| *base <= log_start).saturating_sub(1);
    match bases.get(first) {
        Some(base) if *base <= log_start => Ok(bases.split_off_at(first)),
        _ => {
            let path = Some(home.file(log_start, FileKind::Log));
            let place = Place { path, offset: Some(log_start), ..home.place() };
            Err(LogError::corrupt(place, Damage::Missing))
        }
    }
}

/// `split_off` that leaves nothing behind to look at.
trait SplitOffAt {
    fn split_off_at(self, at: usize) -> Self;
}

impl SplitOffAt for Vec<i64> {
    fn split_off_at(mut self, at: usize) -> Self {
        self.split_off(at)
    }
}

/// The watermark in terms of the segments that are there.
fn known_durable(home: &Home, bases: &[i64], watermark: Watermark) -> Result<Watermark, LogError> {
    if bases.contains(&watermark.segment) {
        return Ok(watermark);
    }
    match bases.first() {
        // Its segment was before the log's start; that there is a later one says that it was durable as a whole.
        Some(first) if watermark.segment < *first && watermark.offset <= *first => {
            let Watermark { producers, sync_failed, .. } = watermark;
            Ok(Watermark { producers, sync_failed, ..Watermark::empty(*first) })
        }
        _ => {
            let path = Some(home.file(watermark.segment, FileKind::Log));
            let segment = Some(watermark.segment);
            let place = Place { path, segment, offset: Some(watermark.offset), ..home.place() };
            Err(LogError::corrupt(place, Damage::Missing))
        }
    }
}

impl Watermark {
    /// Where the first batch that may be torn would start.
    fn found(&self) -> Found {
        Found { position: self.position, offset: self.offset }
    }
}

/// Removes what interrupted operations left: unfinished files, segments before the log's start, indexes of no segment.
fn remove_leftovers(home: &Home, files: &Files, bases: &[i64]) -> Result<(), LogError> {
    for name in &files.leftovers {
        let removed = disk::remove_if_there(&*home.storage, &home.directory.join(name));
        removed.map_err(|error| home.failed(error))?;
    }
    let dead = files.logs.union(&files.indexes).filter(|base| !bases.contains(base));
    for base_offset in dead {
        remove_segment(home, *base_offset)?;
    }
    Ok(())
}

/// A segment behind which there is another: whole from `from` on to the next one's base.
fn whole_segment(
    home: &Arc<Home>,
    base_offset: i64,
    next: i64,
    from: Option<Found>,
    producers: &mut Producers,
) -> Result<Arc<Segment>, LogError> {
    let path = home.file(base_offset, FileKind::Log);
    let len = home.storage.metadata(&path).map_err(|error| home.failed(error))?.len;
    let segment = Segment::known(home.clone(), base_offset, len, next, true);
    let Some(from) = from else { return Ok(Arc::new(segment)) };
    check_len(&segment, from, len)?;
    let file = segment.file()?;
    let expected = Expected { offset: from.offset, epoch: i32::MIN };
    let mut scanner = Scanner::new(&*file, from.position, len, expected);
    loop {
        let offset = scanner.expected().offset;
        match scanner.next() {
            Ok(Some((_, header))) => producers.note(&header),
            Ok(None) if offset == next => return Ok(Arc::new(segment)),
            Ok(None) => {
                let place = segment.place().at_offset(offset).at_position(scanner.position());
                let damage = Damage::WrongOffset { expected: offset, found: next };
                return Err(LogError::corrupt(place, damage));
            }
            Err(error) => return Err(segment.scan_failed(error, offset)),
        }
    }
}

/// What was durable must be there.
fn check_len(segment: &Segment, from: Found, len: u64) -> Result<(), LogError> {
    if len >= from.position {
        return Ok(());
    }
    let place = segment.place().at_offset(from.offset);
    Err(LogError::corrupt(place, Damage::Short { expected: from.position, found: len }))
}

/// The last segment, made whole.
#[derive(Debug)]
struct Recovered {
    segment: Segment,
    max_timestamp: i64,
    /// The offset after the last durable one.
    durable: i64,
}

fn recover_last(
    home: &Arc<Home>,
    known: Watermark,
    clean: bool,
    producers: &mut Producers,
) -> Result<Recovered, LogError> {
    let path = home.file(known.segment, FileKind::Log);
    let len = home.storage.metadata(&path).map_err(|error| home.failed(error))?.len;
    let segment = Segment::known(home.clone(), known.segment, known.position, known.offset, false);
    check_len(&segment, known.found(), len)?;
    if clean && len == known.position {
        let (max_timestamp, durable) = (known.max_timestamp, known.offset);
        return Ok(Recovered { segment, max_timestamp, durable });
    }
    let file = segment.file()?;
    let from = if known.position == 0 {
        Found { position: 0, offset: known.segment }
    } else {
        segment.resume_indexes(known.found(), known.max_timestamp)?
    };
    let walked = walk_last(&segment, &*file, known, from, len, producers)?;
    segment.publish(walked.end.position, walked.end.offset);
    let tail = walked.end.position.saturating_sub(known.position);
    let torn = walked.end.position < len;
    let mut durable = known.offset;
    if home.writable && (torn || tail > 0 || known.sync_failed) {
        if torn {
            let cut = file.set_len(walked.end.position);
            cut.map_err(|error| home.failed(error))?;
        }
        let rewritten = known.sync_failed || tail <= REWRITTEN_BYTES_MAX;
        if rewritten {
            rewrite(home, &*file, known.position, walked.end.position)?;
        }
        if rewritten || torn {
            file.sync_data().map_err(|error| home.failed(error))?;
        }
        if rewritten {
            durable = walked.end.offset;
        }
    }
    Ok(Recovered { segment, max_timestamp: walked.max_timestamp, durable })
}

/// How far the last segment is whole.
#[derive(Debug)]
struct Walked {
    end: Found,
    max_timestamp: i64,
}

/// Walks through the last segment, noting what is found, until its end or the first batch that is not whole. Before the
/// watermark that is an error.
fn walk_last(
    segment: &Segment,
    file: &dyn StorageFile,
    known: Watermark,
    from: Found,
    len: u64,
    producers: &mut Producers,
) -> Result<Walked, LogError> {
    let interval = super::options::INDEX_INTERVAL_BYTES;
    let mut max_timestamp = if known.position == 0 { -1 } else { known.max_timestamp };
    let mut note = |at: u64, header: &BatchHeader| {
        segment.note(at, header, interval);
        max_timestamp = max_timestamp.max(header.max_timestamp);
        if at >= known.position {
            producers.note(header);
        }
    };
    let mut here = from;
    if from.position < known.position {
        // Up to the watermark everything must be whole, and end exactly there.
        let expected = Expected { offset: from.offset, epoch: i32::MIN };
        let mut scanner = Scanner::new(file, from.position, known.position, expected);
        loop {
            let offset = scanner.expected().offset;
            match scanner.next() {
                Ok(Some((at, header))) => note(at, &header),
                Ok(None) => break,
                Err(error) => return Err(segment.scan_failed(error, offset)),
            }
        }
        here = Found { position: scanner.position(), offset: scanner.expected().offset };
    }
    if here != known.found() {
        let place = segment.place().at_offset(here.offset).at_position(here.position);
        let damage = Damage::WrongOffset { expected: known.offset, found: here.offset };
        return Err(LogError::corrupt(place, damage));
    }
    let expected = Expected { offset: here.offset, epoch: known.epoch };
    let mut scanner = Scanner::new(file, here.position, len, expected);
    loop {
        match scanner.next() {
            Ok(Some((at, header))) => note(at, &header),
            Err(error @ ScanError::Storage(_)) => {
                return Err(segment.scan_failed(error, scanner.expected().offset));
            }
            Ok(None) | Err(ScanError::Bad { .. }) => break,
        }
    }
    let end = Found { position: scanner.position(), offset: scanner.expected().offset };
    Ok(Walked { end, max_timestamp })
}

/// Writes a range of a file again as it is read. After a failed sync the system may take these pages for clean; this
/// makes them dirty, so that the next sync means something.
fn rewrite(home: &Home, file: &dyn StorageFile, from: u64, to: u64) -> Result<(), LogError> {
    let mut position = from;
    while position < to {
        let bytes = (to - position).min(REWRITE_CHUNK_BYTES);
        let mut chunk = vec![0; usize::try_from(bytes).unwrap_or_default()];
        let read = file.read_at(&mut chunk, position).map_err(|error| home.failed(error))?;
        chunk.truncate(read);
        if read == 0 {
            return Ok(());
        }
        file.write_at(&chunk, position).map_err(|error| home.failed(error))?;
        position += read as u64;
    }
    Ok(())
}

/// Where each writer's batches begin, as far as there are any.
fn load_epochs(home: &Home, end: i64) -> Result<Vec<EpochStart>, LogError> {
    let path = home.directory.join(LEADER_EPOCHS);
    let text = disk::read(&*home.storage, &path).map_err(|error| home.failed(error))?;
    let Some(text) = text else { return Ok(Vec::new()) };
    let mut epochs = decode_epochs(&text)
        .map_err(|error| LogError::corrupt(Place { path: Some(path), ..home.place() }, error))?;
    epochs.retain(|entry| entry.start_offset <= end);
    Ok(epochs)
}
