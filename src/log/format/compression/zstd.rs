//! Zstandard frames (RFC 8878), level 3 as in Kafka's clients.
//!
//! Decoding goes straight into the output: a streaming decoder would first allocate the window that the frame claims.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, DCtx, compress_bound, get_frame_content_size};

use super::Refused;

const LEVEL: i32 = 3;
/// First size of the output to try: what the frame claims, but within these multiples of the packed size.
const EXPANSION_GUESS: usize = 8;
const EXPANSION_CREDIT: usize = 64;
const GUESS_BYTES_MIN: usize = 4 * 1024;
/// What the library returns if the output has no room: minus `ZSTD_error_dstSize_tooSmall`, a number that is kept stable.
const NO_ROOM: usize = 70usize.wrapping_neg();

thread_local! {
    // Making a context costs more than packing a small batch does.
    static PACKER: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static UNPACKER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    let start = out.len();
    out.resize(start + compress_bound(plain.len()), 0);
    let place = out.get_mut(start..).unwrap_or_default();
    let packed = PACKER.with_borrow_mut(|packer| packer.compress(place, plain, LEVEL));
    out.truncate(start + packed.unwrap_or_default());
    packed.map(drop).map_err(|_| Refused::Bad)
}

pub(super) fn decode(packed: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
    if packed.is_empty() {
        return Err(Refused::Bad);
    }
    let start = out.len();
    let mut room = first_room(packed).min(bytes_max);
    loop {
        out.resize(start + room, 0);
        let place = out.get_mut(start..).unwrap_or_default();
        match UNPACKER.with_borrow_mut(|unpacker| unpacker.decompress(place, packed)) {
            Ok(bytes) => {
                out.truncate(start + bytes);
                return Ok(());
            }
            Err(NO_ROOM) if room == bytes_max => return Err(Refused::TooLarge),
            // Doubling decodes everything at most twice over all.
            Err(NO_ROOM) => room = room.saturating_mul(2).min(bytes_max),
            Err(_) => return Err(Refused::Bad),
        }
    }
}

/// How much room the output probably needs. A claim counts only as far as the bytes make it credible.
fn first_room(packed: &[u8]) -> usize {
    let claimed = get_frame_content_size(packed).ok().flatten();
    let claimed = claimed.and_then(|bytes| usize::try_from(bytes).ok());
    let credible = packed.len().saturating_mul(EXPANSION_CREDIT).max(GUESS_BYTES_MIN);
    claimed.unwrap_or(packed.len().saturating_mul(EXPANSION_GUESS)).clamp(GUESS_BYTES_MIN, credible)
}
