//! gzip (RFC 1952). One member is written; several, back to back, are read.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::Refused;

pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    let mut encoder = GzEncoder::new(out, Compression::default());
    encoder.write_all(plain).and_then(|()| encoder.finish()).map(drop).map_err(|_| Refused::Bad)
}

pub(super) fn decode(packed: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), Refused> {
    if packed.is_empty() {
        return Err(Refused::Bad);
    }
    let start = out.len();
    // One byte more than allowed tells a stream that fills the limit from one that exceeds it.
    let limit = (bytes_max as u64).saturating_add(1);
    MultiGzDecoder::new(packed).take(limit).read_to_end(out).map_err(|_| Refused::Bad)?;
    if out.len() - start > bytes_max { Err(Refused::TooLarge) } else { Ok(()) }
}
