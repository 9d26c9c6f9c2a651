//! CRC-32C (Castagnoli), the checksum of batches and producer snapshots.

use crc_fast::{CrcAlgorithm, checksum};

/// The CRC-32C of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // A 32-bit checksum comes in the low half.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, by the definition (reflected polynomial 0x82f63b78).
    fn naive(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            }
        }
        !crc
    }

    #[test]
    fn the_check_value_of_the_catalogue_and_of_rfc_3720_come_out() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn every_length_agrees_with_the_definition() {
        let bytes: Vec<u8> = (0..1500u32).map(|n| (n * 31 + n / 7) as u8).collect();
        for length in (0..300).chain([511, 512, 1024, 1499]) {
            assert_eq!(crc32c(&bytes[..length]), naive(&bytes[..length]), "{length} bytes");
        }
    }
}
