//! Showing one file of a log as text.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::DumpError;
use super::walk::{Piece, SoundBatch, Walk, Why};
use crate::log::catalog::{self, Catalogue};
use crate::log::compaction;
use crate::log::disk;
use crate::log::error::{Damage, LogError, Place};
use crate::log::format::batch::DECOMPRESSED_BYTES_MAX;
use crate::log::format::checkpoint::{decode_epochs, decode_offsets};
use crate::log::format::index::OffsetIndex;
use crate::log::format::names::{
    CLEAN_SHUTDOWN, CLEANER_OFFSETS, FileKind, FileName, FileState, LEADER_EPOCHS, LOCK,
    LOG_START_OFFSETS, META_PROPERTIES, PARTITION_METADATA, RECOVERY_POINTS,
};
use crate::log::format::properties::{MetaProperties, PartitionMetadata};
use crate::log::format::time_index::TimeIndex;
use crate::log::format::{BatchView, FormatError, RecordRef, producers};
use crate::log::partition::times::{self, Times};
use crate::log::partition::watermark;
use crate::log::starts;
use crate::log::storage::{EntryKind, OpenMode, Storage};

/// Writes what a file holds; tells whether it is sound.
pub(super) fn dump(
    storage: &dyn Storage,
    path: &Path,
    out: &mut dyn Write,
) -> Result<bool, DumpError> {
    if storage.metadata(path).map_err(LogError::from)?.kind == EntryKind::Directory {
        let reason = format!("{} is a directory", path.display());
        return Err(LogError::Invalid { what: "file", reason }.into());
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(name) = FileName::parse(name) {
        if name.kind == FileKind::Log {
            return dump_segment(storage, path, name, out);
        }
        let bytes = read(storage, path)?;
        return match name.kind {
            FileKind::OffsetIndex => dump_offset_index(&bytes, name, out),
            FileKind::TimeIndex => dump_time_index(&bytes, name, out),
            FileKind::ProducerSnapshot => dump_snapshot(&bytes, out),
            _ => Err(unknown(path)),
        };
    }
    let dump = match name {
        watermark::FILE => dump_watermark,
        times::FILE => dump_times,
        compaction::NOTE => dump_swap,
        starts::FILE => dump_starts_check,
        catalog::FILE => dump_catalogue,
        LEADER_EPOCHS => dump_epochs,
        LOG_START_OFFSETS | RECOVERY_POINTS | CLEANER_OFFSETS => dump_offsets,
        META_PROPERTIES => dump_meta,
        PARTITION_METADATA => dump_partition,
        LOCK | CLEAN_SHUTDOWN => dump_text,
        _ => return Err(unknown(path)),
    };
    dump(&read(storage, path)?, out)
}

fn unknown(path: &Path) -> DumpError {
    let reason = format!("{} is not named like a file of a log", path.display());
    LogError::Invalid { what: "file", reason }.into()
}

fn read(storage: &dyn Storage, path: &Path) -> Result<Vec<u8>, LogError> {
    let bytes = disk::read(storage, path)?;
    bytes.ok_or_else(|| LogError::corrupt(Place::path(path), Damage::Missing))
}

/// Says what is wrong; never sound.
fn damaged(error: &dyn std::fmt::Display, out: &mut dyn Write) -> Result<bool, DumpError> {
    writeln!(out, "damaged: {error}")?;
    Ok(false)
}

/// Whether a segment is the last one of those beside it, and so may end with zeros.
fn is_last(storage: &dyn Storage, path: &Path, name: FileName) -> Result<bool, LogError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = storage.list(directory.unwrap_or(Path::new(".")))?;
    let mut names = entries.iter().filter_map(|entry| FileName::parse(entry.name.to_str()?));
    let is_later = |other: FileName| {
        let is_segment = (other.state, other.kind) == (FileState::Live, FileKind::Log);
        is_segment && other.base_offset > name.base_offset
    };
    Ok(name.state == FileState::Live && !names.any(is_later))
}

fn dump_segment(
    storage: &dyn Storage,
    path: &Path,
    name: FileName,
    out: &mut dyn Write,
) -> Result<bool, DumpError> {
    let file = storage.open(path, OpenMode::Read).map_err(LogError::from)?;
    let len = file.len().map_err(LogError::from)?;
    let base_offset = i64::try_from(name.base_offset).unwrap_or(i64::MAX);
    writeln!(out, "segment of offset {base_offset}, {len} bytes")?;
    let mut walk = Walk::new(&*file, len, base_offset, None);
    if !is_last(storage, path, name)? {
        walk = walk.sealed();
    }
    let (mut sound, mut bytes, mut scratch) = (true, Vec::new(), Vec::new());
    while let Some(piece) = walk.next() {
        match piece {
            Piece::Batch(batch) => {
                bytes.clear();
                if let Err(why) = walk.copy(&batch, &mut bytes) {
                    sound = damaged(&why, out)?;
                    continue;
                }
                sound &= batch.trouble.is_none();
                dump_batch(&batch, out)?;
                if batch.decoded {
                    dump_records(&batch, &bytes, &mut scratch, out)?;
                }
            }
            Piece::Bad(bad) => {
                sound = false;
                let count = bad.to - bad.position;
                writeln!(out, "damaged: {count} bytes at byte {}: {}", bad.position, bad.why)?;
            }
            Piece::Ahead { position, bytes } => {
                writeln!(out, "zeros written ahead: {bytes} bytes at byte {position}")?;
            }
        }
    }
    Ok(sound)
}

fn dump_batch(batch: &SoundBatch, out: &mut dyn Write) -> io::Result<()> {
    let header = &batch.header;
    write!(
        out,
        "batch at byte {}: offsets {} to {}, {} records, {} bytes, epoch {}, times {} to {}, \
         codec {}, crc {:08x}",
        batch.position,
        header.base_offset,
        header.last_offset(),
        header.records_count,
        header.batch_bytes(),
        header.leader_epoch,
        header.base_timestamp,
        header.max_timestamp,
        header.attributes.codec(),
        header.crc,
    )?;
    if header.producer_id >= 0 {
        let (epoch, sequence) = (header.producer_epoch, header.base_sequence);
        write!(out, ", producer {} epoch {epoch} sequence {sequence}", header.producer_id)?;
    }
    for (set, text) in [
        (header.attributes.is_transactional(), ", transactional"),
        (header.attributes.is_control(), ", control"),
    ] {
        out.write_all(if set { text.as_bytes() } else { b"" })?;
    }
    if let Some(horizon) = header.delete_horizon() {
        write!(out, ", delete horizon {horizon}")?;
    }
    match &batch.trouble {
        Some(damage) => writeln!(out, "\ndamaged: {damage}"),
        None => writeln!(out),
    }
}

fn dump_records(
    batch: &SoundBatch,
    bytes: &[u8],
    scratch: &mut Vec<u8>,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let bad = |error: FormatError| DumpError::from(LogError::corrupt(Place::default(), error));
    let view = BatchView::parse(bytes).map_err(bad)?;
    for record in view.records(scratch, DECOMPRESSED_BYTES_MAX).map_err(bad)? {
        let record: RecordRef<'_> = record.map_err(bad)?;
        let offset = batch.header.offset_of(record.offset_delta);
        let time = batch.header.timestamp_of(record.timestamp_delta);
        write!(out, "  offset {offset} time {time} key ")?;
        show(record.key, out)?;
        write!(out, " value ")?;
        show(record.value, out)?;
        for header in record.headers() {
            let header = header.map_err(bad)?;
            write!(out, " header {:?} ", header.key)?;
            show(header.value, out)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Bytes as a text in quotes, null as `null`.
fn show(bytes: Option<&[u8]>, out: &mut dyn Write) -> io::Result<()> {
    match bytes {
        None => write!(out, "null"),
        Some(bytes) => {
            write!(out, "\"")?;
            for chunk in bytes.utf8_chunks() {
                write!(out, "{}", chunk.valid().escape_debug())?;
                chunk.invalid().iter().try_for_each(|byte| write!(out, "\\x{byte:02x}"))?;
            }
            write!(out, "\"")
        }
    }
}

fn dump_offset_index(bytes: &[u8], name: FileName, out: &mut dyn Write) -> Result<bool, DumpError> {
    let index = OffsetIndex::new(bytes);
    writeln!(out, "offset index, {} entries", index.len())?;
    for entry in (0..index.len()).filter_map(|n| index.get(n)) {
        let offset = name.base_offset.saturating_add(entry.relative_offset.into());
        writeln!(out, "  offset {offset} in the batch at byte {}", entry.position)?;
    }
    match index.check(super::checks::ANY_SEGMENT) {
        Ok(()) => Ok(true),
        Err(error) => damaged(&error, out),
    }
}

fn dump_time_index(bytes: &[u8], name: FileName, out: &mut dyn Write) -> Result<bool, DumpError> {
    let index = TimeIndex::new(bytes);
    writeln!(out, "time index, {} entries", index.len())?;
    for entry in (0..index.len()).filter_map(|n| index.get(n)) {
        let offset = name.base_offset.saturating_add(entry.relative_offset.into());
        writeln!(out, "  time {} up to offset {offset}", entry.timestamp_ms)?;
    }
    match index.check(super::checks::ANY_SEGMENT) {
        Ok(()) => Ok(true),
        Err(error) => damaged(&error, out),
    }
}

fn dump_snapshot(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    let entries = match producers::decode(bytes) {
        Ok(entries) => entries,
        Err(error) => return damaged(&error, out),
    };
    let producers: BTreeSet<i64> = entries.iter().map(|entry| entry.producer_id).collect();
    writeln!(out, "snapshot of {} producers, {} batches", producers.len(), entries.len())?;
    for entry in entries {
        writeln!(
            out,
            "  producer {} epoch {} last sequence {} last offset {} offset delta {} time {}",
            entry.producer_id,
            entry.epoch,
            entry.last_sequence,
            entry.last_offset,
            entry.offset_delta,
            entry.timestamp_ms,
        )?;
    }
    Ok(true)
}

fn dump_watermark(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    writeln!(out, "durable watermark")?;
    let mut sound = true;
    for slot in watermark::slots(bytes) {
        write!(out, "  slot at byte {}: ", slot.position)?;
        match slot.content {
            Some((sequence, watermark)) => writeln!(
                out,
                "sequence {sequence}{}, segment {}, byte {}, offset {}, largest time {}, epoch {}{}{}",
                slot.partition.map(|number| format!(", partition {number}")).unwrap_or_default(),
                watermark.segment,
                watermark.position,
                watermark.offset,
                watermark.max_timestamp,
                watermark.epoch,
                if watermark.producers { ", with producers" } else { "" },
                if watermark.sync_failed { ", a sync failed" } else { "" },
            )?,
            None if slot.is_blank => writeln!(out, "never written")?,
            None => {
                sound = false;
                writeln!(out, "damaged")?;
            }
        }
    }
    Ok(sound)
}

fn dump_times(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    writeln!(out, "times of segments")?;
    let mut sound = true;
    for entry in times::entries(bytes) {
        write!(out, "  entry at byte {}: ", entry.position)?;
        match entry.content {
            Some((base_offset, next_offset, Times { first, last, horizon })) => writeln!(
                out,
                "segment {base_offset} up to offset {next_offset}, first append {first}, last append \
                 {last}, first tombstone until {horizon}",
            )?,
            None => {
                sound = false;
                writeln!(out, "damaged")?;
            }
        }
    }
    Ok(sound)
}

fn dump_swap(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    let Some((base_offset, next_offset)) = compaction::read_note(bytes) else {
        return damaged(&Damage::Unreadable, out);
    };
    writeln!(out, "note: the new segment {base_offset} is in place of all before {next_offset}")?;
    Ok(true)
}

fn dump_starts_check(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    let Some((before, after)) = starts::decode(bytes) else {
        return damaged(&Damage::Unreadable, out);
    };
    writeln!(
        out,
        "{LOG_START_OFFSETS} has the CRC {after:08x}, or {before:08x} if it was not replaced"
    )?;
    Ok(true)
}

fn dump_catalogue(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    let Some(catalogue) = Catalogue::decode(bytes) else {
        return damaged(&Damage::Unreadable, out);
    };
    writeln!(
        out,
        "catalogue of {} topics, opened {} times",
        catalogue.topics.len(),
        catalogue.epoch
    )?;
    for (name, entry) in &catalogue.topics {
        let (state, options) = (entry.state, entry.options.words().join(" "));
        writeln!(out, "  topic {name} id {} {state:?} {options}", entry.id)?;
    }
    Ok(true)
}

fn dump_epochs(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    let epochs = match decode_epochs(bytes) {
        Ok(epochs) => epochs,
        Err(error) => return damaged(&error, out),
    };
    writeln!(out, "{} epochs", epochs.len())?;
    for epoch in epochs {
        writeln!(out, "  epoch {} from offset {}", epoch.epoch, epoch.start_offset)?;
    }
    Ok(true)
}

fn dump_offsets(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    let entries = match decode_offsets(bytes) {
        Ok(entries) => entries,
        Err(error) => return damaged(&error, out),
    };
    writeln!(out, "{} partitions", entries.len())?;
    for entry in entries {
        writeln!(out, "  {} {} offset {}", entry.topic, entry.partition, entry.offset)?;
    }
    Ok(true)
}

fn dump_meta(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    match MetaProperties::decode(bytes) {
        Ok(meta) => {
            write!(out, "log directory: cluster {}, node {}", meta.cluster_id, meta.node_id)?;
            match meta.directory_id {
                Some(id) => writeln!(out, ", directory {id}")?,
                None => writeln!(out)?,
            }
            Ok(true)
        }
        Err(error) => damaged(&error, out),
    }
}

fn dump_partition(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    match PartitionMetadata::decode(bytes) {
        Ok(metadata) => {
            writeln!(out, "partition of the topic with id {}", metadata.topic_id)?;
            Ok(true)
        }
        Err(error) => damaged(&error, out),
    }
}

/// A file whose content is for people.
fn dump_text(bytes: &[u8], out: &mut dyn Write) -> Result<bool, DumpError> {
    show(Some(bytes), out)?;
    writeln!(out)?;
    Ok(true)
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damage(damage) => damage.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}
