//! Tests of the codecs: what they write, what they read, what they refuse.

use proptest::prelude::*;

use super::*;

const ROOMY: usize = 64 << 20;

fn available() -> impl Iterator<Item = Codec> {
    Codec::ALL.into_iter().filter(|codec| codec.is_available())
}

fn packed(codec: Codec, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    codec.encode(plain, &mut out).unwrap();
    out
}

fn unpacked(codec: Codec, packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    match codec.decode(packed, &mut out, bytes_max) {
        Ok(()) => Ok(out),
        Err(error) => {
            assert_eq!((error.field, error.position, out.len()), (Field::Records, HEADER_BYTES, 0));
            Err(error.fault)
        }
    }
}

/// Text that repeats somewhat and is longer than the blocks of all codecs.
fn text(bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|n| b"the quick brown fox"[(n.wrapping_mul(n) / 7 % 19) as usize])
        .collect()
}

#[test]
fn ids_are_kafkas() {
    assert_eq!(Codec::ALL.map(Codec::id), [0, 1, 2, 3, 4]);
    for codec in Codec::ALL {
        assert_eq!(Codec::from_id(codec.id()), Some(codec));
    }
    assert_eq!(Codec::from_id(5), None);
}

#[test]
fn a_codec_that_is_not_built_in_says_which_feature_is_missing() {
    for codec in Codec::ALL.into_iter().filter(|codec| !codec.is_available()) {
        let off = Fault::CodecOff { codec, feature: codec.name() };
        assert_eq!(codec.encode(b"x", &mut Vec::new()).unwrap_err().fault, off);
        assert_eq!(unpacked(codec, b"x", ROOMY), Err(off));
    }
}

#[test]
fn text_of_any_length_reads_back_and_gets_smaller() {
    for codec in available() {
        for bytes in [0, 1, 100, 32_767, 32_768, 32_769, 65_536, 65_537, 1_000_000] {
            let plain = text(bytes);
            let packed = packed(codec, &plain);
            assert_eq!(unpacked(codec, &packed, bytes), Ok(plain), "{codec} {bytes}");
            assert!(bytes < 1000 || codec == Codec::None || packed.len() < bytes * 2 / 3);
        }
    }
}

#[test]
fn output_is_appended_and_cut_off_again_after_an_error() {
    for codec in available().filter(|codec| *codec != Codec::None) {
        let mut out = b"before".to_vec();
        codec.encode(b"plain", &mut out).unwrap();
        assert!(out.starts_with(b"before"));
        let packed = out.split_off(6);
        codec.decode(&packed, &mut out, 5).unwrap();
        assert_eq!(out, b"beforeplain", "{codec}");
        codec.decode(&packed, &mut out, 4).unwrap_err();
        assert_eq!(out, b"beforeplain", "{codec}");
    }
}

#[test]
fn a_bomb_is_refused_at_the_limit_without_the_memory_it_wants() {
    const LIMIT: usize = 100_000;
    for codec in available() {
        let bomb = packed(codec, &vec![0; 4 << 20]);
        let mut out = Vec::new();
        let error = codec.decode(&bomb, &mut out, LIMIT).unwrap_err();
        assert_eq!(error.fault, Fault::TooLarge { limit: LIMIT as u64 }, "{codec}");
        assert!(out.capacity() <= 2 * (LIMIT + 1), "{codec} took {}", out.capacity());
    }
}

#[test]
fn every_cut_of_a_stream_is_refused() {
    let plain = text(70_000);
    for codec in available().filter(|codec| *codec != Codec::None) {
        let packed = packed(codec, &plain);
        let cuts =
            (0..100).chain(100..packed.len()).step_by(if packed.len() > 9000 { 7 } else { 1 });
        for cut in cuts.chain([packed.len() - 4, packed.len() - 1]) {
            let outcome = unpacked(codec, packed.get(..cut).unwrap(), ROOMY);
            // Xerial's framing has no end mark: between blocks a cut cannot be told from the end.
            let between_blocks = codec == Codec::Snappy
                && outcome
                    .as_ref()
                    .is_ok_and(|cut| cut.len() % 32_768 == 0 && plain.starts_with(cut));
            assert!(outcome.is_err() || between_blocks, "{codec} cut to {cut} bytes");
        }
    }
}

#[cfg(feature = "lz4")]
mod lz4 {
    use super::*;

    /// A frame from its header (without checksum) and the rest.
    fn frame(descriptor: &[u8], rest: &[u8]) -> Vec<u8> {
        let checksum = (twox_hash::XxHash32::oneshot(0, descriptor) >> 8) as u8;
        [&[0x04, 0x22, 0x4d, 0x18], descriptor, &[checksum], rest].concat()
    }

    const PLAIN_BLOCK: [u8; 7] = [3, 0, 0, 0x80, b'a', b'b', b'c'];
    const END: [u8; 4] = [0; 4];

    #[test]
    fn the_header_is_the_one_kafka_requires() {
        let packed = packed(Codec::Lz4, b"abc");
        assert_eq!(packed, frame(&[0x60, 0x40], &[&PLAIN_BLOCK[..], &END].concat()));
    }

    #[test]
    fn optional_fields_are_read_and_checked() {
        let sum = twox_hash::XxHash32::oneshot(0, b"abc").to_le_bytes();
        let size = 3u64.to_le_bytes();
        let descriptor = [&[0x7c, 0x40][..], &size].concat();
        let rest = [&PLAIN_BLOCK[..], &sum, &END, &sum].concat();
        assert_eq!(unpacked(Codec::Lz4, &frame(&descriptor, &rest), 3).unwrap(), b"abc");
        let bad = Err(Fault::BadStream { codec: Codec::Lz4 });
        for wrong in [7, 15] {
            let mut rest = rest.clone();
            rest[wrong] ^= 1;
            assert_eq!(unpacked(Codec::Lz4, &frame(&descriptor, &rest), 3), bad, "{wrong}");
        }
        let claim = [&[0x7c, 0x40][..], &u64::MAX.to_le_bytes()].concat();
        assert_eq!(unpacked(Codec::Lz4, &frame(&claim, &rest), 3), bad);
    }

    #[test]
    fn frames_that_kafka_does_not_take_are_refused() {
        let rest = [&PLAIN_BLOCK[..], &END].concat();
        assert!(unpacked(Codec::Lz4, &frame(&[0x60, 0x70], &rest), ROOMY).is_ok());
        for (flags, blocks, what) in [
            (0x40, 0x40, "dependent blocks"),
            (0x61, 0x40, "a dictionary"),
            (0x62, 0x40, "a reserved bit"),
            (0xa0, 0x40, "another version"),
            (0x60, 0x30, "blocks of unknown size"),
            (0x60, 0xc0, "a reserved bit of the block size"),
        ] {
            assert!(
                unpacked(Codec::Lz4, &frame(&[flags, blocks], &rest), ROOMY).is_err(),
                "{what}"
            );
        }
        let mut checksum = frame(&[0x60, 0x40], &rest);
        checksum[6] ^= 1;
        assert!(unpacked(Codec::Lz4, &checksum, ROOMY).is_err());
        let after = [&rest[..], &[0]].concat();
        assert!(unpacked(Codec::Lz4, &frame(&[0x60, 0x40], &after), ROOMY).is_err());
    }

    #[test]
    fn what_does_not_shrink_is_stored_plain() {
        let noise: Vec<u8> = (0..70_000u64)
            .map(|n| {
                (n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_mul(n | 1) >> 56)
                    as u8
            })
            .collect();
        let packed = packed(Codec::Lz4, &noise);
        assert_eq!(packed.len(), 7 + 4 + 65_536 + 4 + (70_000 - 65_536) + 4);
        assert_eq!(unpacked(Codec::Lz4, &packed, 70_000), Ok(noise));
    }
}

#[cfg(feature = "snappy")]
mod snappy {
    use super::*;

    const HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

    fn block(plain: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(plain).unwrap()
    }

    #[test]
    fn blocks_of_32_kib_stand_behind_the_header_and_their_length() {
        let plain = text(40_000);
        let (first, second) = (block(&plain[..32_768]), block(&plain[32_768..]));
        let mut expected = HEADER.to_vec();
        for block in [first, second] {
            expected.extend((block.len() as u32).to_be_bytes());
            expected.extend(block);
        }
        assert_eq!(packed(Codec::Snappy, &plain), expected);
    }

    #[test]
    fn a_plain_block_and_streams_put_together_are_read() {
        let plain = text(50_000);
        assert_eq!(unpacked(Codec::Snappy, &block(&plain), 50_000), Ok(plain.clone()));
        let twice = packed(Codec::Snappy, &plain).repeat(2);
        assert_eq!(unpacked(Codec::Snappy, &twice, 100_000), Ok(plain.repeat(2)));
        let limit = Fault::TooLarge { limit: 99_999 };
        assert_eq!(unpacked(Codec::Snappy, &twice, 99_999), Err(limit));
    }

    #[test]
    fn a_claimed_size_that_the_bytes_cannot_yield_is_refused() {
        // A length of 2 GiB, then one literal.
        let claim = [0x80, 0x80, 0x80, 0x80, 0x08, 0x00, b'a'];
        let bad = Err(Fault::BadStream { codec: Codec::Snappy });
        assert_eq!(unpacked(Codec::Snappy, &claim, usize::MAX), bad);
        let mut out = Vec::new();
        assert!(Codec::Snappy.decode(&claim, &mut out, usize::MAX).is_err());
        assert!(out.capacity() < 1000, "{}", out.capacity());
        let framed = [&HEADER[..], &7u32.to_be_bytes(), &claim].concat();
        assert_eq!(unpacked(Codec::Snappy, &framed, usize::MAX), bad);
        let beyond = [&HEADER[..], &u32::MAX.to_be_bytes(), &claim].concat();
        assert_eq!(unpacked(Codec::Snappy, &beyond, usize::MAX), bad);
    }
}

#[cfg(feature = "gzip")]
#[test]
fn several_gzip_members_are_read_but_not_what_is_no_member() {
    let mut twice = packed(Codec::Gzip, b"ab");
    twice.extend(packed(Codec::Gzip, b"cd"));
    assert_eq!(unpacked(Codec::Gzip, &twice, 4).unwrap(), b"abcd");
    twice.push(7);
    assert!(unpacked(Codec::Gzip, &twice, 4).is_err());
    assert_eq!(twice[..3], [0x1f, 0x8b, 8]);
}

#[cfg(feature = "zstd")]
#[test]
fn a_zstd_frame_that_claims_much_yields_only_what_it_has() {
    // Magic; single segment with a content size of eight bytes; one raw block, the last, of one byte.
    let mut claim = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    claim.extend((1u64 << 40).to_le_bytes());
    claim.extend([9, 0, 0, b'a']);
    let mut out = Vec::new();
    assert!(Codec::Zstd.decode(&claim, &mut out, ROOMY).is_err());
    assert!(out.capacity() < 10_000);
    // Without the content size, a window of 128 MiB is claimed: it is never made.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 9, 0, 0, b'a'];
    let mut out = Vec::new();
    Codec::Zstd.decode(&window, &mut out, ROOMY).unwrap();
    assert_eq!(out, b"a");
    assert!(out.capacity() < 10_000);
}

proptest! {
    #[test]
    fn arbitrary_plain_bytes_read_back(plain: Vec<u8>, repeat in 1..100usize) {
        let plain = plain.repeat(repeat);
        for codec in available() {
            prop_assert_eq!(unpacked(codec, &packed(codec, &plain), plain.len()), Ok(plain.clone()));
        }
    }

    #[test]
    fn arbitrary_and_damaged_streams_stay_within_the_limit(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        bytes_max in 0..5000usize,
    ) {
        for codec in available() {
            let mut damaged = packed(codec, &text(3000));
            for (place, byte) in &flips {
                *place.get_mut(&mut damaged) = *byte;
            }
            for stream in [&noise, &damaged] {
                let mut out = Vec::new();
                let outcome = codec.decode(stream, &mut out, bytes_max);
                prop_assert!(out.len() <= bytes_max && out.capacity() <= 2 * (bytes_max + 32));
                prop_assert!(outcome.is_ok() || out.is_empty());
            }
        }
    }
}
