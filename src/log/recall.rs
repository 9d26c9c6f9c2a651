//! Recalling idempotent producers when a partition is opened: the newest snapshot that is sound, and the batches appended
//! since. Snapshots are written when segments end and every so many bytes, so what is read again is bounded.

use std::sync::Arc;

use super::disk;
use super::error::LogError;
use super::format::names::FileKind;
use super::format::producers;
use super::partition::producers::Producers;
use super::partition::watermark::Watermark;
use super::recovery::{Files, bases_first};
use super::segment::{Expected, Home, Scanner, Segment};

/// The producers at the watermark: the newest usable snapshot before it, and what was appended since.
pub(super) fn recall_producers(
    home: &Arc<Home>,
    files: &Files,
    bases: &[i64],
    known: Watermark,
    clean: bool,
) -> Result<Producers, LogError> {
    if !known.producers {
        return Ok(Producers::default());
    }
    let mut recalled = Producers::default();
    let mut since = bases_first(bases);
    for snapshot in files.snapshots.range(..=known.offset).rev() {
        let path = home.file(*snapshot, FileKind::ProducerSnapshot);
        let bytes = disk::read(&*home.storage, &path).map_err(|error| home.failed(error))?;
        // A damaged one is passed over: an older one and the log say the same.
        if let Some(Ok(entries)) = bytes.map(|bytes| producers::decode(&bytes)) {
            recalled = Producers::from_entries(&entries);
            since = *snapshot;
            break;
        }
    }
    if clean && since == known.offset {
        return Ok(recalled);
    }
    for (n, base_offset) in bases.iter().enumerate() {
        let next = bases.get(n + 1).copied().unwrap_or(i64::MAX);
        if next <= since || *base_offset > known.segment {
            continue;
        }
        let (end, next) = if *base_offset == known.segment {
            (known.position, known.offset)
        } else {
            let path = home.file(*base_offset, FileKind::Log);
            (home.storage.metadata(&path).map_err(|error| home.failed(error))?.len, next)
        };
        let segment = Segment::known(home.clone(), *base_offset, end, next, true);
        replay(&segment, since, &mut recalled)?;
    }
    Ok(recalled)
}

/// Notes the producers of a segment's batches from an offset on. The indexes tell about where that is.
fn replay(segment: &Segment, since: i64, producers: &mut Producers) -> Result<(), LogError> {
    let file = segment.file()?;
    let from = segment.near(since)?;
    let expected = Expected { offset: from.offset, epoch: i32::MIN };
    let mut scanner = Scanner::new(&*file, from.position, segment.end(), expected);
    loop {
        let offset = scanner.expected().offset;
        match scanner.next() {
            Ok(Some((_, header))) if header.base_offset >= since => producers.note(&header),
            Ok(Some(_)) => {}
            Ok(None) => return scanner.check_end(segment),
            Err(error) => return Err(segment.scan_failed(error, offset)),
        }
    }
}

#[cfg(test)]
mod tests;
