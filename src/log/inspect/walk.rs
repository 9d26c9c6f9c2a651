//! Walks the batches of a segment's file past damage: what is sound is handed out with its true offset, what is not as
//! ranges of bytes. Recovery and readers stop at the first wrong byte (`segment/scan.rs`); this goes on behind it.
//!
//! The CRC of a batch leaves out its offset, length, epoch and magic byte. Where a batch lies tells what they must be:
//! a batch whose CRC is right under the length of which one bit was flipped, or under the one magic byte there is, is
//! that batch; and its offset is the one that most of its neighbours agree on.

use std::sync::Arc;

use super::window::Window;
use crate::log::error::Damage;
use crate::log::format::batch::{DECOMPRESSED_BYTES_MAX, HEADER_BYTES};
use crate::log::format::crc::crc32c;
use crate::log::format::{BatchHeader, BatchView, Codec, Fault, Field, FormatError};
use crate::log::options::BATCH_BYTES_MAX;
use crate::log::partition::watermark::Watermark;
use crate::log::storage::{StorageError, StorageFile};

/// Where the fields are that the CRC does not cover, and where the bytes begin that it covers.
const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_FROM: usize = 21;
const MAGIC: u8 = 2;
/// What the length field leaves out.
const LENGTH_OVERHEAD: u64 = 12;

/// Offsets that the smallest batch can span.
const OFFSETS_PER_BATCH_MAX: i64 = 1 << 31;

/// Records that codecs can be expected to pack into one byte, at most.
const PACKED_RECORDS_PER_BYTE_MAX: i64 = 64;

/// Headers behind a batch that are asked what its offset is.
const WITNESSES: usize = 8;

/// A batch whose records are whole.
#[derive(Clone, Debug)]
pub(super) struct SoundBatch {
    /// Where it starts in the file.
    pub(super) position: u64,
    /// Its header with what the CRC does not cover put right.
    pub(super) header: BatchHeader,
    /// What was wrong outside the CRC.
    pub(super) trouble: Option<Damage>,
    /// Whether the records could be looked at; not without the codec.
    pub(super) decoded: bool,
}

impl SoundBatch {
    /// The byte after it.
    pub(super) fn end(&self) -> u64 {
        self.position + self.header.batch_bytes() as u64
    }
}

/// A range of bytes without a sound batch.
#[derive(Clone, Debug)]
pub(super) struct BadRange {
    pub(super) position: u64,
    pub(super) to: u64,
    /// What is wrong at its start.
    pub(super) why: Why,
}

/// Why bytes are no batch.
#[derive(Clone, Debug)]
pub(super) enum Why {
    Damage(Damage),
    Unreadable(Arc<StorageError>),
}

impl From<FormatError> for Why {
    fn from(error: FormatError) -> Self {
        Self::Damage(error.into())
    }
}

/// A piece of a segment.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Batch(SoundBatch),
    Bad(BadRange),
    /// So many zeros from a byte on until the end: of the last segment of a log that was not closed that is no damage.
    Ahead {
        position: u64,
        bytes: u64,
    },
}

/// A walk through a segment's file.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    window: Window<'a>,
    /// The base offset of the segment behind this one, which nothing in here reaches.
    limit: Option<i64>,
    /// Whether the file ends where its batches do.
    sealed: bool,
    position: u64,
    /// The offset after all that was found so far.
    next: i64,
    /// Whether what comes follows directly on what `next` was taken from.
    joined: bool,
    /// The byte behind the last sound batch.
    sound_to: u64,
    /// A byte where a batch starts, or the last one ends, and the offset that is next there.
    landmark: Option<(u64, i64)>,
    scratch: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// A walk through the first `len` bytes of the file of the segment with this base offset.
    pub(super) fn new(
        file: &'a dyn StorageFile,
        len: u64,
        base_offset: i64,
        limit: Option<i64>,
    ) -> Self {
        let window = Window::new(file, len);
        let scratch = Vec::new();
        let next = base_offset;
        Self {
            window,
            limit,
            sealed: limit.is_some(),
            position: 0,
            next,
            joined: true,
            sound_to: 0,
            landmark: None,
            scratch,
        }
    }

    /// Tells the walk that there is another segment behind this one, wherever it begins.
    pub(super) fn sealed(self) -> Self {
        Self { sealed: true, ..self }
    }

    /// Tells the walk what the watermark of this segment says.
    pub(super) fn with_landmark(mut self, watermark: Option<Watermark>) -> Self {
        self.landmark = watermark.map(|watermark| (watermark.position, watermark.offset));
        self
    }

    /// The offset after all that was found so far.
    pub(super) fn next_offset(&self) -> i64 {
        self.next
    }

    /// The next piece; together they are the file.
    pub(super) fn next(&mut self) -> Option<Piece> {
        let at = self.position;
        if at >= self.window.len() {
            return None;
        }
        let why = match self.batch_at(at) {
            Ok((header, decoded)) => return Some(self.place(at, header, decoded, None)),
            Err(why) => why,
        };
        if let Why::Damage(damage) = &why
            && let Some((header, decoded)) = self.mend(at)
        {
            return Some(self.place(at, header, decoded, Some(damage.clone())));
        }
        let to = self.resume_after(at);
        (self.position, self.joined) = (to, false);
        if self.is_ahead(at, to) {
            return Some(Piece::Ahead { position: at, bytes: to - at });
        }
        Some(Piece::Bad(BadRange { position: at, to, why }))
    }

    /// Whether these bytes are what a log writes ahead of its last segment's end, until it is closed.
    fn is_ahead(&mut self, mut at: u64, to: u64) -> bool {
        let durable = self.landmark.is_some_and(|(position, _)| at < position);
        if durable || self.sealed || to < self.window.len() {
            return false;
        }
        while at < to {
            let bytes = self.window.have(at, 1);
            if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
                return false;
            }
            at += bytes.len() as u64;
        }
        true
    }

    /// The bytes of a sound batch, put right.
    pub(super) fn copy(&mut self, batch: &SoundBatch, out: &mut Vec<u8>) -> Result<(), Why> {
        let needed = batch.header.batch_bytes();
        let bytes = self.window.have(batch.position, needed);
        let Some(body) = bytes.get(HEADER_BYTES..needed) else {
            return Err(self.cut_off(batch.position, needed as u64));
        };
        out.extend_from_slice(&batch.header.encode());
        out.extend_from_slice(body);
        Ok(())
    }

    /// The batch at a position, whole and intact as far as its CRC goes, and whether its records were looked at.
    fn batch_at(&mut self, at: u64) -> Result<(BatchHeader, bool), Why> {
        let bytes = self.window.have(at, HEADER_BYTES);
        if bytes.len() < HEADER_BYTES {
            return Err(self.cut_off(at, HEADER_BYTES as u64));
        }
        let header = BatchHeader::decode(bytes)?;
        let needed = header.batch_bytes();
        if needed as u64 > self.window.len() - at || needed > BATCH_BYTES_MAX as usize {
            return Err(self.cut_off(at, needed as u64));
        }
        let bytes = self.window.have(at, needed);
        if bytes.len() < needed {
            return Err(self.cut_off(at, needed as u64));
        }
        let view = BatchView::parse(bytes)?;
        view.check_crc()?;
        if !header.attributes.codec().is_available() && header.records_count > 0 {
            return Ok((header, false));
        }
        view.validate(&mut self.scratch, DECOMPRESSED_BYTES_MAX)?;
        Ok((header, true))
    }

    /// Why fewer bytes were had than needed.
    fn cut_off(&mut self, at: u64, needed: u64) -> Why {
        if let Some(error) = self.window.take_error() {
            return Why::Unreadable(error);
        }
        let fault = Fault::Truncated { needed, available: self.window.len() - at };
        FormatError { field: Field::BatchLength, position: LENGTH_AT, fault }.into()
    }

    /// Gives a batch its offset, if it can have one here.
    fn place(
        &mut self,
        at: u64,
        mut header: BatchHeader,
        decoded: bool,
        mut trouble: Option<Damage>,
    ) -> Piece {
        let end = at + header.batch_bytes() as u64;
        let (expected, found) = (self.next, header.base_offset);
        let wrong = Damage::WrongOffset { expected, found };
        let offset = self.offset_of(&header, end);
        self.position = end;
        let Some(offset) = offset else {
            self.joined = false;
            return Piece::Bad(BadRange { position: at, to: end, why: Why::Damage(wrong) });
        };
        let follows = !self.joined || expected == offset;
        if offset != found || !follows {
            trouble.get_or_insert(wrong);
        }
        header.base_offset = offset;
        (self.next, self.joined, self.sound_to) = (header.last_offset() + 1, true, end);
        Piece::Batch(SoundBatch { position: at, header, trouble, decoded })
    }

    /// The offset of a batch that ends at a byte: the one it says, unless its neighbours know better. None if they agree that
    /// it lies in front of this place: then these bytes are from elsewhere, as in a copy of another segment.
    fn offset_of(&mut self, header: &BatchHeader, end: u64) -> Option<i64> {
        let (found, count) = (header.base_offset, i64::from(header.last_offset_delta) + 1);
        if self.joined && found == self.next {
            return Some(found);
        }
        let (next, limit) = (self.next, self.limit.unwrap_or_else(|| self.reach()));
        let fits = |offset: i64| {
            offset >= next && offset.checked_add(count).is_some_and(|after| after <= limit)
        };
        let witnesses = self.witnesses(end);
        if !self.joined && witnesses.is_empty() && !self.is_plausible(header) {
            return None;
        }
        // What each says of the first one's offset; the one that is due comes first, so that it wins a tie.
        let mut claims: Vec<i64> = self.joined.then_some(next).into_iter().collect();
        claims.push(found);
        claims.extend(witnesses.iter().map(|(offset, before)| offset - count - before));
        let votes = |claim: &i64| claims.iter().filter(|other| *other == claim).count();
        if claims.iter().any(|claim| *claim < next && votes(claim) > votes(&next).max(1)) {
            return None;
        }
        claims.retain(|claim| fits(*claim) || (self.joined && *claim == next));
        let votes = |claim: &i64| claims.iter().filter(|other| *other == claim).count();
        // The last of several is taken by `max_by_key`, hence the order.
        claims.iter().rev().max_by_key(|claim| votes(claim)).copied()
    }

    /// Whether so many offsets can have been where nothing sound was found in front of a batch. Nothing but the batch tells
    /// its offset then, and the damage may have reached into that.
    fn is_plausible(&self, header: &BatchHeader) -> bool {
        let packed = header.attributes.codec() != Codec::None;
        let bytes = i64::try_from(self.position - self.sound_to).unwrap_or(i64::MAX);
        let per_byte = if packed { PACKED_RECORDS_PER_BYTE_MAX } else { 1 };
        header.base_offset.saturating_sub(self.next) <= bytes.saturating_mul(per_byte)
    }

    /// The offset that nothing in the rest of the file can reach, however much was lost in between.
    fn reach(&self) -> i64 {
        let batches = (self.window.len() - self.sound_to) / HEADER_BYTES as u64 + 1;
        let offsets = i64::try_from(batches).unwrap_or(i64::MAX);
        self.next.saturating_add(offsets.saturating_mul(OFFSETS_PER_BATCH_MAX))
    }

    /// The base offsets of the batches that follow a byte directly, each with the number of offsets in between; at the
    /// end of the file that of the segment behind.
    fn witnesses(&mut self, from: u64) -> Vec<(i64, i64)> {
        let (mut at, mut before) = (from, 0i64);
        let mut found = Vec::new();
        while found.len() < WITNESSES {
            let landmark = self.landmark.filter(|(position, _)| *position == at);
            found.extend(landmark.map(|(_, offset)| (offset, before)));
            if at == self.window.len() {
                found.extend(self.limit.map(|limit| (limit, before)));
                break;
            }
            let Ok(header) = BatchHeader::decode(self.window.have(at, HEADER_BYTES)) else { break };
            found.push((header.base_offset, before));
            before = before.saturating_add(i64::from(header.last_offset_delta) + 1);
            at = at.saturating_add(header.batch_bytes() as u64);
        }
        found
    }

    /// The batch at a position whose magic byte is wrong, or one bit of whose length: its CRC tells when it is right.
    fn mend(&mut self, at: u64) -> Option<(BatchHeader, bool)> {
        let left = self.window.len() - at;
        let mut fields = *self.window.have(at, HEADER_BYTES).first_chunk::<HEADER_BYTES>()?;
        fields[MAGIC_AT] = MAGIC;
        if self.joined && i64::from_be_bytes(*fields.first_chunk()?) < 0 {
            fields.first_chunk_mut::<8>()?.copy_from_slice(&self.next.to_be_bytes());
        }
        let length = u32::from_be_bytes(*fields.get(LENGTH_AT..)?.first_chunk()?);
        for flip in std::iter::once(0).chain((0..u32::BITS).map(|bit| 1 << bit)) {
            let length: u32 = length ^ flip;
            fields.get_mut(LENGTH_AT..)?.first_chunk_mut()?.clone_from(&length.to_be_bytes());
            let Ok(header) = BatchHeader::decode(&fields) else { continue };
            let needed = header.batch_bytes();
            if needed as u64 > left || needed > BATCH_BYTES_MAX as usize {
                continue;
            }
            let covered = self.window.have(at, needed).get(CRC_FROM..needed);
            if covered.is_none_or(|covered| crc32c(covered) != header.crc) {
                continue;
            }
            let mut whole = fields.to_vec();
            whole.extend_from_slice(self.window.have(at, needed).get(HEADER_BYTES..needed)?);
            if !header.attributes.codec().is_available() && header.records_count > 0 {
                return Some((header, false));
            }
            let view = BatchView::parse(&whole).ok()?;
            let sound = view.validate(&mut self.scratch, DECOMPRESSED_BYTES_MAX);
            return sound.is_ok().then_some((header, true));
        }
        None
    }

    /// Where to go on behind bad bytes: behind the bad batch if its length leads to the next one, else at the next
    /// position where a batch begins that may come here.
    fn resume_after(&mut self, at: u64) -> u64 {
        let len = self.window.len();
        let length =
            self.window.have(at, HEADER_BYTES).get(LENGTH_AT..).and_then(<[u8]>::first_chunk);
        if let Some(length) = length {
            let end = at + LENGTH_OVERHEAD + u64::from(u32::from_be_bytes(*length));
            if end == len || (end < len && self.batch_at(end).is_ok()) {
                return end;
            }
        }
        let mut at = at + 1;
        while at + HEADER_BYTES as u64 <= len {
            let bytes = self.window.have(at, HEADER_BYTES);
            if bytes.len() < HEADER_BYTES {
                // On behind what cannot be read.
                at = self.window.next_block(at);
                continue;
            }
            if bytes.get(MAGIC_AT) == Some(&MAGIC)
                && BatchHeader::decode(bytes).is_ok_and(|header| self.may_come(&header))
                && self.batch_at(at).is_ok()
            {
                return at;
            }
            at += 1;
        }
        len
    }

    fn may_come(&self, header: &BatchHeader) -> bool {
        let limit = self.limit.unwrap_or_else(|| self.reach());
        header.base_offset >= self.next && header.last_offset() < limit
    }
}
