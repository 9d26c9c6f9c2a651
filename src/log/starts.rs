//! Where partitions begin: Kafka's checkpoint, and beside it a file of our own that vouches for it. The checkpoint has no
//! checksum, and the next opening removes the segments before a start; so a digit that rots must not be obeyed.
//!
//! The file has the checksums of two texts, that of the checkpoint as it was and as it will be, and is durable before the
//! checkpoint is replaced: whatever a crash leaves, it vouches for that.

use std::path::Path;

use super::disk;
use super::error::{Damage, LogError, Place};
use super::format::checkpoint::{PartitionOffset, encode_offsets};
use super::format::crc::crc32c;
use super::format::names::LOG_START_OFFSETS;
use super::storage::{Storage, StorageError};

/// The file's name in the log's directory.
pub(super) const FILE: &str = "log-start-offset-check";

const MAGIC: [u8; 8] = *b"pmqst\0\0\x01";
const BYTES: usize = 20;

/// The two checksums, of which the second counts when nothing was interrupted; `None` if the file is damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<(u32, u32)> {
    let bytes = bytes.first_chunk::<BYTES>().filter(|_| bytes.len() == BYTES)?;
    let (magic, rest) = bytes.split_at(MAGIC.len());
    let (words, _) = rest.as_chunks::<4>();
    let [before, after, crc] = words else { return None };
    let sound = magic == MAGIC && crc32c(bytes.get(..BYTES - 4)?).to_be_bytes() == *crc;
    sound.then(|| (u32::from_be_bytes(*before), u32::from_be_bytes(*after)))
}

fn encode(before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c(before).to_be_bytes());
    bytes.extend_from_slice(&crc32c(after).to_be_bytes());
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// Replaces the checkpoint, durably.
pub(super) fn save(
    storage: &dyn Storage,
    directory: &Path,
    starts: &[PartitionOffset],
) -> Result<(), LogError> {
    let path = directory.join(LOG_START_OFFSETS);
    let text = encode_offsets(starts)
        .map_err(|error| LogError::corrupt(Place::path(path.clone()), error))?;
    // What is there, which after a failure may not be what was meant to be.
    let before = disk::read(storage, &path)?.unwrap_or_default();
    disk::replace(storage, directory, FILE, &encode(&before, text.as_bytes()))?;
    Ok(disk::replace(storage, directory, LOG_START_OFFSETS, text.as_bytes())?)
}

/// Whether the checkpoint with this text, empty if there is none, is as it was written, as far as that is known: a file
/// that is missing, or damaged itself, says nothing.
pub(super) fn is_as_written(
    storage: &dyn Storage,
    directory: &Path,
    text: &[u8],
) -> Result<bool, StorageError> {
    let check = disk::read(storage, &directory.join(FILE))?;
    let Some((before, after)) = check.as_deref().and_then(decode) else { return Ok(true) };
    Ok([before, after].contains(&crc32c(text)))
}

/// Refuses a checkpoint that is not as it was written.
pub(super) fn check(storage: &dyn Storage, directory: &Path, text: &[u8]) -> Result<(), LogError> {
    if is_as_written(storage, directory, text)? {
        return Ok(());
    }
    Err(LogError::corrupt(Place::path(directory.join(LOG_START_OFFSETS)), Damage::Unreadable))
}
