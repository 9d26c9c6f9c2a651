//! Snappy in the stream framing of the xerial library, which is what Kafka means by snappy: a header of 16 bytes, then
//! blocks behind their length. A stream without that header is one plain snappy block, which some clients write.

use super::Refused;

/// Magic, version 1, compatible with version 1.
const HEADER: [u8; 16] = *b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";
const MAGIC_BYTES: usize = 8;
/// Plain bytes of one block, as the xerial library cuts them.
const BLOCK_BYTES: usize = 32 * 1024;
/// No snappy block grows more: three bytes copy at most 64.
const EXPANSION_MAX: usize = 22;

pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    let mut encoder = snap::raw::Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(plain.len().min(BLOCK_BYTES))];
    out.extend_from_slice(&HEADER);
    for chunk in plain.chunks(BLOCK_BYTES) {
        let bytes = encoder.compress(chunk, &mut block).map_err(|_| Refused::Bad)?;
        // A block is little longer than its 32 KiB at most.
        out.extend_from_slice(&(bytes as u32).to_be_bytes());
        out.extend_from_slice(block.get(..bytes).unwrap_or_default());
    }
    Ok(())
}

pub(super) fn decode(packed: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
    let Some(mut rest) = after_header(packed) else {
        return decode_block(packed, out, bytes_max);
    };
    let start = out.len();
    while !rest.is_empty() {
        // Streams may have been put one after another.
        if let Some(after) = after_header(rest) {
            rest = after;
            continue;
        }
        let (length, after) = rest.split_first_chunk::<4>().ok_or(Refused::Bad)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Refused::Bad)?;
        let (block, after) = after.split_at_checked(length).ok_or(Refused::Bad)?;
        decode_block(block, out, bytes_max - (out.len() - start))?;
        rest = after;
    }
    Ok(())
}

/// What follows a stream header, if there is one.
fn after_header(bytes: &[u8]) -> Option<&[u8]> {
    let (header, rest) = bytes.split_first_chunk::<{ HEADER.len() }>()?;
    (header[..MAGIC_BYTES] == HEADER[..MAGIC_BYTES]).then_some(rest)
}

fn decode_block(block: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
    let claimed = snap::raw::decompress_len(block).map_err(|_| Refused::Bad)?;
    if claimed > block.len().saturating_mul(EXPANSION_MAX) {
        return Err(Refused::Bad);
    }
    if claimed > bytes_max {
        return Err(Refused::TooLarge);
    }
    let start = out.len();
    out.resize(start + claimed, 0);
    let place = out.get_mut(start..).unwrap_or_default();
    match snap::raw::Decoder::new().decompress(block, place) {
        Ok(bytes) if bytes == claimed => Ok(()),
        _ => Err(Refused::Bad),
    }
}
