//! A partition that is open for reading only, while another process appends to it, cuts its front and compacts it.
//!
//! Segments grow, new ones come, and old ones go or are replaced. What a reader has open stays readable, but a segment that
//! is opened late may be another one by then. So when something is not as it was, all segments are looked for anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::LogError;
use super::format::names::FileKind;
use super::partition::writer::Writer;
use super::partition::{Partition, View};
use super::recovery::{Files, is_missing};
use super::segment::{Expected, ScanError, Scanner, Segment};
use crate::sync::lock;

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
