//! The format against another implementation: it reads what is written here, and its batches are read here.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record as Theirs, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType as TheirTimes,
};
use proptest::prelude::*;

use super::samples::{Sample, any_options, any_samples, batch_of, sample};
use crate::log::format::batch::{Batch, BatchOptions, BatchView, DECOMPRESSED_BYTES_MAX, Producer};
use crate::log::format::compression::Codec;
use crate::log::format::record::Header;

/// The codecs that both have; theirs of LZ4 and Zstandard are in C.
const SHARED: [(Codec, Compression); 3] = [
    (Codec::None, Compression::None),
    (Codec::Gzip, Compression::Gzip),
    (Codec::Snappy, Compression::Snappy),
];

fn shared() -> impl Strategy<Value = (Codec, Compression)> {
    let available = SHARED.into_iter().filter(|(codec, _)| codec.is_available());
    prop::sample::select(available.collect::<Vec<_>>())
}

/// Samples as theirs can be: they keep the headers of a record in a map.
fn with_distinct_headers(mut samples: Vec<Sample>) -> Vec<Sample> {
    for sample in &mut samples {
        for (n, header) in sample.headers.iter_mut().enumerate() {
            header.key.push_str(&n.to_string());
        }
    }
    samples
}

fn theirs(options: &BatchOptions, n: usize, sample: &Sample) -> Theirs {
    let headers = sample.headers.iter();
    Theirs {
        transactional: options.transactional,
        control: options.control,
        delete_horizon: false,
        partition_leader_epoch: options.leader_epoch,
        producer_id: options.producer.id,
        producer_epoch: options.producer.epoch,
        timestamp_type: TheirTimes::Creation,
        offset: options.base_offset + n as i64,
        sequence: options.producer.base_sequence.wrapping_add(n as i32),
        timestamp: sample.timestamp_ms,
        key: sample.key.clone(),
        value: sample.value.clone(),
        headers: headers
            .map(|Header { key, value }| (StrBytes::from_string(key.clone()), value.clone()))
            .collect::<IndexMap<_, _>>(),
    }
}

/// One batch that they write.
pub(super) fn their_batch(
    options: &BatchOptions,
    compression: Compression,
    samples: &[Sample],
) -> Bytes {
    let records: Vec<_> =
        samples.iter().enumerate().map(|(n, sample)| theirs(options, n, sample)).collect();
    let mut out = BytesMut::new();
    let encoding = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode(&mut out, &records, &encoding).unwrap();
    out.freeze()
}

fn our_records(batch: &Bytes) -> Vec<Sample> {
    let batch = Batch::parse(batch).unwrap();
    let header = *batch.header();
    let records = batch.records(DECOMPRESSED_BYTES_MAX).unwrap().map(Result::unwrap);
    records
        .enumerate()
        .map(|(n, record)| {
            assert_eq!(record.offset_delta as usize, n);
            Sample {
                timestamp_ms: header.timestamp_of(record.timestamp_delta),
                key: record.key,
                value: record.value,
                headers: record.headers,
            }
        })
        .collect()
}

#[test]
fn a_batch_whose_first_record_is_the_earliest_is_theirs_byte_for_byte() {
    let samples: Vec<_> = (0..20).map(sample).collect();
    let producer = Producer { id: 4, epoch: 1, base_sequence: 30 };
    let options = BatchOptions { base_offset: 12, leader_epoch: 3, producer, ..Default::default() };
    let theirs = their_batch(&options, Compression::None, &samples);
    assert_eq!(batch_of(options, &samples), theirs);
}

proptest! {
    #[test]
    fn they_read_what_is_written_here(
        options in any_options(), (codec, compression) in shared(), samples in any_samples(),
    ) {
        let mut samples = with_distinct_headers(samples);
        // What a codec makes nothing of stays plain.
        let (timestamp_ms, value) = (samples[0].timestamp_ms, Some(vec![b'x'; 1 << 12].into()));
        samples.push(Sample { timestamp_ms, key: None, value, headers: Vec::new() });
        let options = BatchOptions { codec, append_time_ms: None, delete_horizon_ms: None, ..options };
        let mut batch = Bytes::from(batch_of(options, &samples));
        let decoded = RecordBatchDecoder::decode(&mut batch).unwrap();
        prop_assert_eq!((decoded.compression, decoded.version), (compression, 2));
        prop_assert!(batch.is_empty());
        let mut expected: Vec<_> =
            samples.iter().enumerate().map(|(n, sample)| theirs(&options, n, sample)).collect();
        for (record, theirs) in expected.iter_mut().zip(&decoded.records) {
            // Where there is no producer they make nothing of the sequence.
            if options.producer == Producer::NONE {
                record.sequence = theirs.sequence;
            }
        }
        prop_assert_eq!(decoded.records, expected);
    }

    #[test]
    fn what_they_write_is_read_here(
        options in any_options(), (_, compression) in shared(), samples in any_samples(),
    ) {
        let samples = with_distinct_headers(samples);
        let batch = their_batch(&options, compression, &samples);
        let view = BatchView::parse(&batch).unwrap();
        prop_assert_eq!(view.validate(&mut Vec::new(), DECOMPRESSED_BYTES_MAX), Ok(()));
        let header = view.header();
        prop_assert_eq!(header.base_offset, options.base_offset);
        prop_assert_eq!(header.attributes.is_transactional(), options.transactional);
        prop_assert_eq!(header.attributes.is_control(), options.control);
        prop_assert_eq!(header.producer_id, options.producer.id);
        prop_assert_eq!(header.base_sequence, options.producer.base_sequence);
        prop_assert_eq!(header.max_timestamp, samples.iter().map(|s| s.timestamp_ms).max().unwrap());
        prop_assert_eq!(our_records(&batch), samples);
    }
}
