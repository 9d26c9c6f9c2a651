//! Kafka's default partitioner for keyed records: MurmurHash2, 32 bits, with Kafka's seed.

use std::num::NonZeroU32;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// Kafka's hash of a key, as the signed integer that Java has.
pub fn murmur2(key: &[u8]) -> i32 {
    // Kafka mixes in the length as a 32-bit integer; no key is longer than one can say.
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    if !tail.is_empty() {
        for (index, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    (hash ^ (hash >> 15)) as i32
}

/// The partition, counted from 0, that Kafka's clients choose for a key among `partitions`.
pub fn partition_for_key(key: &[u8], partitions: NonZeroU32) -> u32 {
    // The sign is masked off, as Kafka does; negating would give another partition.
    (murmur2(key) & i32::MAX) as u32 % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_published_vectors_come_out() {
        let published: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in published {
            assert_eq!(murmur2(key), hash, "{key:?}");
        }
    }

    #[test]
    fn bytes_above_127_and_every_tail_length_hash_as_in_java() {
        // Computed by Kafka's own class.
        let expected = [
            275_646_681,
            425_050_138,
            2_027_238_690,
            -354_048_075,
            589_651_644,
            -1_889_063_405,
            4_015_266,
            -429_995_424,
        ];
        for (length, hash) in expected.into_iter().enumerate() {
            let key: Vec<u8> = (200..).take(length).collect();
            assert_eq!(murmur2(&key), hash, "{length} bytes");
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(murmur2(&all), -1_948_347_274);
    }

    #[test]
    fn the_partition_of_a_negative_hash_masks_the_sign() {
        let partitions = NonZeroU32::new(7).unwrap();
        assert_eq!(
            partition_for_key(b"21", partitions),
            ((-973_932_308i64 & 0x7fff_ffff) % 7) as u32
        );
        assert_eq!(partition_for_key(b"abc", partitions), 479_470_107 % 7);
        assert_eq!(partition_for_key(b"21", NonZeroU32::MIN), 0);
    }
}
