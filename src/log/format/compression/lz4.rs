//! LZ4 frames (format 1.6): independent blocks of at most 64 KiB, as Kafka's clients write them. As them, this refuses to
//! read blocks that depend on each other.
//!
//! The framing is done here, because a general decoder takes a frame that ends before its end mark for a whole one.

use lz4_flex::block::{DecompressError, compress_into, decompress_into, get_maximum_output_size};
use twox_hash::XxHash32;

use super::Refused;

const MAGIC: [u8; 4] = 0x184d_2204u32.to_le_bytes();
/// Magic; flags: version 1, independent blocks; blocks of 64 KiB; checksum of these two bytes.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK_BYTES: usize = 64 * 1024;
/// In a block's length: the block is stored plain.
const PLAIN: u32 = 1 << 31;
/// No block grows more: one byte more of a length copies at most 255.
const EXPANSION_MAX: usize = 256;

const VERSION_MASK: u8 = 0b1100_0000;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUMS: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;

pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    out.extend_from_slice(&HEADER);
    let mut packed = vec![0; get_maximum_output_size(plain.len().min(BLOCK_BYTES))];
    for block in plain.chunks(BLOCK_BYTES) {
        let bytes = compress_into(block, &mut packed).map_err(|_| Refused::Bad)?;
        let smaller = packed.get(..bytes).filter(|packed| packed.len() < block.len());
        let (length, body) = match smaller {
            Some(packed) => (packed.len() as u32, packed),
            None => (block.len() as u32 | PLAIN, block),
        };
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(body);
    }
    // The end mark is a block without length.
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

pub(super) fn decode(packed: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
    let start = out.len();
    let (frame, mut rest) = Frame::parse(packed)?;
    loop {
        let length = little_endian(&mut rest)?;
        if length == 0 {
            break;
        }
        let block = take(&mut rest, (length & !PLAIN) as usize)?;
        if frame.flags & BLOCK_CHECKSUMS != 0 {
            check(block, &mut rest)?;
        }
        let allowed = bytes_max - (out.len() - start);
        if length & PLAIN == 0 {
            unpack(block, out, frame.block_bytes_max, allowed)?;
        } else if block.len() > frame.block_bytes_max {
            return Err(Refused::Bad);
        } else if block.len() > allowed {
            return Err(Refused::TooLarge);
        } else {
            out.extend_from_slice(block);
        }
    }
    let content = out.get(start..).unwrap_or_default();
    if frame.content_bytes.is_some_and(|bytes| bytes != content.len() as u64) {
        return Err(Refused::Bad);
    }
    if frame.flags & CONTENT_CHECKSUM != 0 {
        check(content, &mut rest)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(Refused::Bad) }
}

/// What a frame's header says.
struct Frame {
    flags: u8,
    block_bytes_max: usize,
    content_bytes: Option<u64>,
}

impl Frame {
    /// The header at the front of `bytes`, and what follows it.
    fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Refused> {
        let described = bytes.strip_prefix(&MAGIC).ok_or(Refused::Bad)?;
        let (&[flags, block], mut rest) = described.split_first_chunk().ok_or(Refused::Bad)?;
        // The lowest flag announces a dictionary, the one above it is reserved.
        if flags & VERSION_MASK != VERSION || flags & INDEPENDENT == 0 || flags & 0b11 != 0 {
            return Err(Refused::Bad);
        }
        let block_bytes_max = match block {
            0x40 => 64 << 10,
            0x50 => 256 << 10,
            0x60 => 1 << 20,
            0x70 => 4 << 20,
            _ => return Err(Refused::Bad),
        };
        let mut content_bytes = None;
        if flags & CONTENT_SIZE != 0 {
            let (size, after) = rest.split_first_chunk().ok_or(Refused::Bad)?;
            content_bytes = Some(u64::from_le_bytes(*size));
            rest = after;
        }
        let descriptor = described.get(..described.len() - rest.len()).unwrap_or_default();
        let (&checksum, rest) = rest.split_first().ok_or(Refused::Bad)?;
        if checksum != (XxHash32::oneshot(0, descriptor) >> 8) as u8 {
            return Err(Refused::Bad);
        }
        Ok((Self { flags, block_bytes_max, content_bytes }, rest))
    }
}

/// Unpacks one block to the end of `out`.
fn unpack(
    block: &[u8],
    out: &mut Vec<u8>,
    block_bytes_max: usize,
    allowed: usize,
) -> Result<(), Refused> {
    let room = block_bytes_max.min(block.len().saturating_mul(EXPANSION_MAX));
    let start = out.len();
    out.resize(start + room.min(allowed), 0);
    let place = out.get_mut(start..).unwrap_or_default();
    match decompress_into(block, place) {
        Ok(bytes) => {
            out.truncate(start + bytes);
            Ok(())
        }
        Err(DecompressError::OutputTooSmall { .. }) if allowed < room => Err(Refused::TooLarge),
        Err(_) => Err(Refused::Bad),
    }
}

/// Compares the checksum at the front of `rest` with that of `bytes`.
fn check(bytes: &[u8], rest: &mut &[u8]) -> Result<(), Refused> {
    let checksum = little_endian(rest)?;
    if checksum == XxHash32::oneshot(0, bytes) { Ok(()) } else { Err(Refused::Bad) }
}

fn little_endian(rest: &mut &[u8]) -> Result<u32, Refused> {
    let (bytes, after) = rest.split_first_chunk().ok_or(Refused::Bad)?;
    *rest = after;
    Ok(u32::from_le_bytes(*bytes))
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], Refused> {
    let (taken, after) = rest.split_at_checked(bytes).ok_or(Refused::Bad)?;
    *rest = after;
    Ok(taken)
}
