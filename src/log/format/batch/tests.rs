//! Tests of batches: build, read, patch, damage.

use bytes::Bytes;
use proptest::prelude::*;

use super::header::{CRC_FROM, LENGTH_AT};
use super::*;
use crate::log::format::compression::Codec;
use crate::log::format::crc::crc32c;
use crate::log::format::error::{Fault, Field, FormatError};
use crate::log::format::record::{Header, Record};
use crate::log::format::tests::samples::{Sample, any_options, any_samples, batch_of, sample};

const ROOMY: usize = DECOMPRESSED_BYTES_MAX;

fn any_codec() -> impl Strategy<Value = Codec> {
    let available = Codec::ALL.into_iter().filter(|codec| codec.is_available());
    prop::sample::select(available.collect::<Vec<_>>())
}

fn small(codec: Codec) -> Vec<u8> {
    let samples: Vec<_> = (0..5).map(sample).collect();
    batch_of(BatchOptions { codec, ..Default::default() }, &samples)
}

fn owned(bytes: &[u8]) -> Result<Vec<Record>, FormatError> {
    Batch::parse(&Bytes::copy_from_slice(bytes))?.records(ROOMY)?.collect()
}

fn validate(bytes: &[u8]) -> Result<(), FormatError> {
    BatchView::parse(bytes)?.validate(&mut Vec::new(), ROOMY)
}

/// Sets the CRC right again after a change.
fn resealed(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&batch[CRC_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch whose header says these numbers and whose records have these deltas.
fn with_deltas(deltas: &[i32], records_count: i32, last_offset_delta: i32) -> Vec<u8> {
    let mut batch = vec![0; HEADER_BYTES];
    for delta in deltas {
        Record { offset_delta: *delta, ..Default::default() }.encode(&mut batch).unwrap();
    }
    let header = BatchHeader {
        length: (batch.len() - 12) as i32,
        records_count,
        last_offset_delta,
        ..BatchHeader::decode(&small(Codec::None)).unwrap()
    };
    batch[..HEADER_BYTES].copy_from_slice(&header.encode());
    resealed(batch)
}

fn found(error: FormatError) -> (Field, Fault) {
    (error.field, error.fault)
}

#[test]
fn an_empty_or_partial_header_is_truncated_and_a_partial_batch_too() {
    let batch = small(Codec::None);
    for cut in 0..batch.len() {
        assert!(BatchView::parse(&batch[..cut]).unwrap_err().is_truncation(), "{cut}");
    }
    assert_eq!(BatchView::parse(&batch).unwrap().bytes(), batch);
}

#[test]
fn the_header_stands_where_kafka_puts_it() {
    let header = BatchHeader {
        base_offset: 0x0101_0101_0101_0101,
        length: 0x0202_0202,
        leader_epoch: 0x0303_0303,
        crc: 0x0404_0404,
        attributes: Attributes::new(Codec::Lz4, TimestampType::Append).with_control(true),
        last_offset_delta: 0x0606_0606,
        base_timestamp: 0x0707_0707_0707_0707,
        max_timestamp: 0x0808_0808_0808_0808,
        producer_id: 0x0909_0909_0909_0909,
        producer_epoch: 0x0a0a,
        base_sequence: 0x0b0b_0b0b,
        records_count: 0x0506_0606,
    };
    let mut expected = vec![1; 8];
    for (byte, count) in [(2, 4), (3, 4), (2, 1), (4, 4)] {
        expected.extend(vec![byte; count]);
    }
    expected.extend([0, 0b10_1011]);
    for (byte, count) in [(6, 4), (7, 8), (8, 8), (9, 8), (10, 2), (11, 4)] {
        expected.extend(vec![byte; count]);
    }
    expected.extend([5, 6, 6, 6]);
    assert_eq!(header.encode()[..], expected);
    assert_eq!(BatchHeader::decode(&expected), Ok(header));
}

#[test]
fn headers_whose_numbers_contradict_each_other_are_refused() {
    let batch = small(Codec::None);
    let good = BatchHeader::decode(&batch).unwrap();
    let refused = |header: BatchHeader| BatchHeader::decode(&header.encode()).unwrap_err().field;
    assert_eq!(refused(BatchHeader { length: 48, ..good }), Field::BatchLength);
    assert_eq!(refused(BatchHeader { length: -1, ..good }), Field::BatchLength);
    assert_eq!(refused(BatchHeader { length: 49, ..good }), Field::RecordsCount);
    assert_eq!(refused(BatchHeader { records_count: 0, ..good }), Field::RecordsCount);
    assert_eq!(refused(BatchHeader { records_count: -1, ..good }), Field::RecordsCount);
    assert_eq!(refused(BatchHeader { records_count: 6, ..good }), Field::RecordsCount);
    assert_eq!(refused(BatchHeader { last_offset_delta: -1, ..good }), Field::LastOffsetDelta);
    assert_eq!(refused(BatchHeader { base_offset: -1, ..good }), Field::BaseOffset);
    assert_eq!(refused(BatchHeader { base_offset: i64::MAX - 4, ..good }), Field::BaseOffset);
    assert!(
        BatchHeader::decode(&BatchHeader { base_offset: i64::MAX - 5, ..good }.encode()).is_ok()
    );
    let mut magic = batch.clone();
    magic[16] = 1;
    assert_eq!(found(validate(&magic).unwrap_err()), (Field::Magic, Fault::Invalid { found: 1 }));
    for (byte, bit) in [(22, 5), (21, 1), (22, 0x80)] {
        let mut attributes = batch.clone();
        attributes[byte] |= bit;
        assert_eq!(validate(&attributes).unwrap_err().field, Field::Attributes, "{byte} {bit}");
    }
}

#[test]
fn records_that_contradict_the_header_are_refused() {
    assert_eq!(validate(&with_deltas(&[0, 1, 2], 3, 2)), Ok(()));
    assert_eq!(validate(&with_deltas(&[0, 2, 7], 3, 9)), Ok(()), "as compaction leaves it");
    for (deltas, count, last, field) in [
        (&[0, 1, 2][..], 2, 2, Field::Records),
        (&[0, 1, 2], 4, 9, Field::RecordsCount),
        (&[0, 2, 1], 3, 2, Field::OffsetDelta),
        (&[0, 1, 1], 3, 2, Field::OffsetDelta),
        (&[0, 1, 3], 3, 2, Field::OffsetDelta),
        (&[-1, 0, 1], 3, 2, Field::OffsetDelta),
    ] {
        let batch = with_deltas(deltas, count, last);
        assert_eq!(validate(&batch).unwrap_err().field, field, "{deltas:?} {count} {last}");
        assert_eq!(owned(&batch).unwrap_err().field, field, "{deltas:?} {count} {last}");
    }
}

#[test]
fn a_walk_ends_after_its_first_error() {
    let batch = with_deltas(&[0, 0, 1], 3, 2);
    let mut scratch = Vec::new();
    let outcomes: Vec<_> = BatchView::parse(&batch)
        .unwrap()
        .records(&mut scratch, 0)
        .unwrap()
        .map(|r| r.is_ok())
        .collect();
    assert_eq!(outcomes, [true, false]);
    let records = Batch::parse(&batch.into()).unwrap().records(0).unwrap();
    assert_eq!(records.map(|r| r.is_ok()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn damaged_header_of_a_record_is_found_by_validation_and_by_owned_records() {
    let header = Header { key: "key".to_owned(), value: None };
    let sample = Sample { headers: vec![header], ..sample(1) };
    let batch = batch_of(BatchOptions::default(), &[sample]);
    let at = batch.windows(3).rposition(|window| window == b"key").unwrap();
    let mut damaged = batch;
    damaged[at] = 0xff;
    let damaged = resealed(damaged);
    let error = validate(&damaged).unwrap_err();
    assert_eq!((error.field, error.position), (Field::HeaderKey, at));
    assert_eq!(owned(&damaged), Err(error));
}

#[test]
fn decompressed_records_are_limited() {
    for codec in Codec::ALL.into_iter().filter(|c| c.is_available() && *c != Codec::None) {
        let zeros = Sample { value: Some(vec![0; 1 << 20].into()), ..sample(1) };
        let batch = batch_of(BatchOptions { codec, ..Default::default() }, &[zeros]);
        let view = BatchView::parse(&batch).unwrap();
        let mut scratch = Vec::new();
        let error = view.records(&mut scratch, 1 << 20).unwrap_err();
        assert_eq!(found(error), (Field::Records, Fault::TooLarge { limit: 1 << 20 }), "{codec}");
        assert!(view.validate(&mut scratch, (1 << 20) + 100).is_ok(), "{codec}");
    }
}

#[test]
fn the_builder_refuses_what_it_could_not_store_and_stays_as_it_was() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append_at(5, 1000, None, Some(b"a"), []).unwrap();
    let bytes = builder.bytes();
    let error = builder.append_at(5, 1000, None, None, []).unwrap_err();
    assert_eq!(found(error), (Field::OffsetDelta, Fault::Invalid { found: 5 }));
    let error = builder.append(i64::MIN, None, None, []).unwrap_err();
    assert_eq!(error.field, Field::TimestampDelta);
    assert_eq!((builder.bytes(), builder.records_count()), (bytes, 1));
    builder.append_at(i32::MAX, 1000, None, None, []).unwrap();
    let error = builder.append(1000, None, None, []).unwrap_err();
    assert_eq!(error.field, Field::OffsetDelta);
    assert_eq!(builder.records_count(), 2);
    let error = builder.finish_with_last_offset_delta(6).unwrap_err();
    assert_eq!(error.field, Field::LastOffsetDelta);
    let error = BatchBuilder::new(BatchOptions::default()).finish().unwrap_err();
    assert_eq!(error.field, Field::RecordsCount);
    for base_offset in [-1, i64::MAX] {
        let mut builder = BatchBuilder::new(BatchOptions { base_offset, ..Default::default() });
        builder.append(0, None, None, []).unwrap();
        assert_eq!(builder.finish().unwrap_err().field, Field::BaseOffset);
    }
}

#[test]
fn a_record_beyond_two_gib_is_refused_before_it_is_copied() {
    let value = vec![0; 64 << 20];
    let header = crate::log::format::record::HeaderRef { key: "", value: Some(&value) };
    let headers = std::iter::repeat_n(header, 33);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    assert!(builder.bytes_of(0, None, None, headers.clone()) > i32::MAX as usize);
    let error = builder.append(0, None, None, headers).unwrap_err();
    assert_eq!(found(error), (Field::Records, Fault::TooLarge { limit: i32::MAX as u64 }));
    assert_eq!(builder.bytes(), HEADER_BYTES);
}

#[test]
fn timestamps_count_from_the_first_record_or_the_horizon_or_are_the_appends() {
    let times = |options: BatchOptions| {
        let mut builder = BatchBuilder::new(options);
        for time in [1000, 400, 3000] {
            builder.append(time, None, None, []).unwrap();
        }
        let batch = builder.finish().unwrap();
        let header = BatchHeader::decode(&batch).unwrap();
        let records = owned(&batch).unwrap();
        let times: Vec<_> =
            records.iter().map(|r| header.timestamp_of(r.timestamp_delta)).collect();
        (header.base_timestamp, header.max_timestamp, header.delete_horizon(), times)
    };
    let plain = BatchOptions::default();
    assert_eq!(times(plain), (1000, 3000, None, vec![1000, 400, 3000]));
    let horizon = BatchOptions { delete_horizon_ms: Some(9000), ..plain };
    assert_eq!(times(horizon), (9000, 3000, Some(9000), vec![1000, 400, 3000]));
    let append = BatchOptions { append_time_ms: Some(7000), ..plain };
    assert_eq!(times(append), (1000, 7000, None, vec![7000; 3]));
}

#[test]
fn sequence_numbers_wrap_to_zero() {
    let header = |base_sequence, last_offset_delta| {
        BatchHeader {
            base_sequence,
            last_offset_delta,
            ..BatchHeader::decode(&small(Codec::None)).unwrap()
        }
        .last_sequence()
    };
    assert_eq!(header(5, 4), 9);
    assert_eq!(header(i32::MAX, 0), i32::MAX);
    assert_eq!(header(i32::MAX, 1), 0);
    assert_eq!(header(i32::MAX - 1, 4), 2);
    assert_eq!(header(-1, 4), -1);
}

#[test]
fn an_emptied_batch_keeps_producer_and_offsets() {
    let producer = Producer { id: 9, epoch: 2, base_sequence: 7 };
    for codec in Codec::ALL.into_iter().filter(|codec| codec.is_available()) {
        let options = BatchOptions { base_offset: 50, producer, codec, ..Default::default() };
        let full = BatchHeader::decode(&batch_of(options, &[sample(0), sample(1)])).unwrap();
        let emptied = full.encode_emptied();
        assert_eq!(validate(&emptied), Ok(()));
        assert_eq!(owned(&emptied), Ok(Vec::new()));
        let header = BatchHeader::decode(&emptied).unwrap();
        assert_eq!((header.last_offset(), header.last_sequence(), header.producer_id), (51, 8, 9));
        assert_eq!((header.records_count, header.batch_bytes()), (0, 61));
        assert_eq!(
            (header.base_timestamp, header.max_timestamp),
            (full.max_timestamp, full.max_timestamp)
        );
        // Another writer may leave the codec in: there is no stream to unpack all the same.
        let attributes = header.attributes.with_codec(codec);
        let with_codec = resealed(BatchHeader { attributes, ..header }.encode().to_vec());
        assert_eq!((validate(&with_codec), owned(&with_codec)), (Ok(()), Ok(Vec::new())));
    }
}

#[test]
fn batches_follow_each_other_until_one_is_bad() {
    let mut segment = Vec::new();
    for base_offset in [0, 5, 10] {
        let options = BatchOptions { base_offset, ..Default::default() };
        let mut builder = BatchBuilder::with_buffer(options, segment);
        for n in 0..5 {
            sample(n).append_to(&mut builder);
        }
        segment = builder.finish().unwrap();
    }
    let bases = |bytes: &[u8]| -> Vec<_> {
        batches(bytes).map(|b| b.map(|b| b.header().base_offset).map_err(|e| e.position)).collect()
    };
    assert_eq!(bases(&segment), [Ok(0), Ok(5), Ok(10)]);
    let third = segment.len() / 3 * 2;
    segment[third + LENGTH_AT] = 0x80;
    assert_eq!(bases(&segment), [Ok(0), Ok(5), Err(third + LENGTH_AT)]);
    let mut walk = batches(&segment);
    assert_eq!((&mut walk).count(), 3);
    assert_eq!(walk.position(), third);
}

#[test]
fn every_flipped_bit_under_the_crc_is_found_and_no_other_changes_a_record() {
    for codec in Codec::ALL.into_iter().filter(|codec| codec.is_available()) {
        let batch = small(codec);
        let expected = owned(&batch).unwrap();
        for bit in 0..batch.len() * 8 {
            let mut damaged = batch.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let checked = BatchView::parse(&damaged).and_then(|view| view.check_crc());
            match bit / 8 {
                // Base offset (but for its sign) and leader epoch are for the reader of the segment to check.
                0..8 | 12..16 => {
                    assert!(owned(&damaged).is_ok_and(|records| records == expected) || bit == 7)
                }
                _ => assert!(checked.is_err(), "{codec} bit {bit}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn a_batch_reads_back(options in any_options(), codec in any_codec(), samples in any_samples(), before in 0..3usize) {
        let options = BatchOptions { codec, ..options };
        let mut builder = BatchBuilder::with_buffer(options, vec![0xee; before]);
        for (n, sample) in samples.iter().enumerate() {
            let headers = || sample.headers.iter().map(Header::borrowed);
            let (key, value) = (sample.key.as_deref(), sample.value.as_deref());
            let expected = builder.bytes() + builder.bytes_of(sample.timestamp_ms, key, value, headers());
            prop_assert_eq!(sample.append_to(&mut builder), options.base_offset + n as i64);
            prop_assert_eq!((builder.bytes(), builder.records_count()), (expected, n + 1));
        }
        let announced = builder.bytes();
        let buffer = builder.finish().unwrap();
        let batch = Bytes::from(buffer).slice(before..);
        // What a codec would enlarge stays plain.
        prop_assert!(batch.len() == announced || codec != Codec::None && batch.len() < announced);
        prop_assert_eq!(validate(&batch), Ok(()));

        let batch = Batch::parse(&batch).unwrap();
        let header = *batch.header();
        prop_assert_eq!(header.last_offset(), options.base_offset + samples.len() as i64 - 1);
        prop_assert_eq!(header.batch_bytes(), batch.bytes().len());
        prop_assert_eq!(header.attributes.is_transactional(), options.transactional);
        prop_assert_eq!(header.attributes.is_control(), options.control);
        prop_assert_eq!(header.delete_horizon(), options.delete_horizon_ms);
        prop_assert_eq!(header.leader_epoch, options.leader_epoch);
        let producer = Producer { id: header.producer_id, epoch: header.producer_epoch, base_sequence: header.base_sequence };
        prop_assert_eq!(producer, options.producer);
        let records: Vec<_> = batch.records(ROOMY).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(records.len(), samples.len());
        let mut scratch = Vec::new();
        let borrowed = batch.view().records(&mut scratch, ROOMY).unwrap().map(Result::unwrap);
        for ((n, (record, sample)), borrowed) in records.iter().zip(&samples).enumerate().zip(borrowed) {
            prop_assert_eq!(record.offset_delta as usize, n);
            let time = options.append_time_ms.unwrap_or(sample.timestamp_ms);
            prop_assert_eq!(header.timestamp_of(record.timestamp_delta), time);
            prop_assert_eq!((&record.key, &record.value, &record.headers), (&sample.key, &sample.value, &sample.headers));
            prop_assert_eq!((borrowed.key, borrowed.value), (record.key.as_deref(), record.value.as_deref()));
            let headers: Vec<_> = borrowed.headers().map(Result::unwrap).collect();
            let expected: Vec<_> = record.headers.iter().map(Header::borrowed).collect();
            prop_assert_eq!(headers, expected);
        }
    }

    #[test]
    fn patches_change_what_they_name_and_nothing_else(
        options in any_options(), samples in any_samples(),
        base_offset in 0..i64::MAX / 2, epoch: i32, append_time in 0..i64::MAX,
        producer in (0..i64::MAX, 0..i16::MAX, 0..i32::MAX),
    ) {
        let before = batch_of(options, &samples);
        let was = BatchHeader::decode(&before).unwrap();
        let mut batch = before.clone();
        set_base_offset(&mut batch, base_offset).unwrap();
        set_leader_epoch(&mut batch, epoch).unwrap();
        prop_assert_eq!(validate(&batch), Ok(()));
        let moved = BatchHeader::decode(&batch).unwrap();
        prop_assert_eq!(moved, BatchHeader { base_offset, leader_epoch: epoch, ..was });
        prop_assert_eq!(&batch[16..], &before[16..]);

        let producer = Producer { id: producer.0, epoch: producer.1, base_sequence: producer.2 };
        set_producer(&mut batch, producer).unwrap();
        set_append_time(&mut batch, append_time).unwrap();
        prop_assert_eq!(validate(&batch), Ok(()));
        let stamped = BatchHeader::decode(&batch).unwrap();
        prop_assert_eq!(stamped, BatchHeader {
            crc: stamped.crc,
            attributes: was.attributes.with_timestamp_type(TimestampType::Append),
            max_timestamp: append_time,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            ..moved
        });
        prop_assert_eq!(owned(&batch), owned(&before));
        prop_assert!(set_base_offset(&mut batch, -1).is_err());
        prop_assert!(set_producer(&mut batch[..before.len() - 1], producer).is_err());
    }

    #[test]
    fn any_byte_changed_under_the_crc_is_found(
        options in any_options(), codec in any_codec(), samples in any_samples(),
        place: prop::sample::Index, byte: u8,
    ) {
        let mut batch = batch_of(BatchOptions { codec, ..options }, &samples);
        let place = 17 + place.index(batch.len() - 17);
        prop_assume!(batch[place] != byte);
        batch[place] = byte;
        prop_assert!(validate(&batch).is_err());
    }

    #[test]
    fn damage_behind_a_right_crc_never_panics_nor_takes_memory(
        codec in any_codec(), samples in any_samples(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut batch = batch_of(BatchOptions { codec, ..Default::default() }, &samples);
        for (place, byte) in damage {
            let place = CRC_FROM + place.index(batch.len() - CRC_FROM);
            batch[place] = byte;
        }
        let batch = resealed(batch);
        let mut scratch = Vec::new();
        if let Ok(view) = BatchView::parse(&batch) {
            let _ = view.validate(&mut scratch, 1 << 20);
            prop_assert!(scratch.capacity() <= 2 << 20);
        }
        let _ = owned(&batch);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() >= HEADER_BYTES {
            bytes[0] = 0;
            bytes[8..12].copy_from_slice(&[0, 0, 0, 70]);
            bytes[16] = 2;
            bytes[21..27].fill(0);
            bytes[26] = 100;
        }
        let _ = validate(&bytes);
        let _ = owned(&bytes);
        prop_assert!(batches(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
    }
}
