//! Records to test with: a fixed sequence, which the kept files hold too, and arbitrary ones.

use bytes::Bytes;
use proptest::prelude::*;

use crate::log::format::batch::{BatchBuilder, BatchOptions, Producer};
use crate::log::format::record::Header;

/// Timestamp that those of the samples begin at.
pub(crate) const SAMPLE_TIME_MS: i64 = 1_700_000_000_000;

/// A record with its timestamp, before it belongs to a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sample {
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
}

/// The `n`-th record of the fixed sequence. Nulls, headers, repetition and times out of order are all in it.
pub(crate) fn sample(n: usize) -> Sample {
    let header =
        |key: String, value: Option<&'static str>| Header { key, value: value.map(Bytes::from) };
    let mut headers = Vec::new();
    if n.is_multiple_of(3) {
        headers.push(Header { key: format!("h{n}"), value: Some(format!("hv{n}").into()) });
        headers.push(header("n\u{e4}me".to_owned(), None));
        headers.push(header("empty".to_owned(), Some("")));
    }
    Sample {
        timestamp_ms: SAMPLE_TIME_MS + (n * 37 % 1000) as i64,
        key: (n % 5 != 4).then(|| format!("key-{}", n % 7).into()),
        value: (n % 11 != 10).then(|| format!("value {n} {}", "abcdefghij".repeat(n % 9)).into()),
        headers,
    }
}

impl Sample {
    pub(crate) fn append_to(&self, builder: &mut BatchBuilder) -> i64 {
        let headers = self.headers.iter().map(Header::borrowed);
        builder
            .append(self.timestamp_ms, self.key.as_deref(), self.value.as_deref(), headers)
            .unwrap()
    }
}

/// One batch of these records.
pub(crate) fn batch_of(options: BatchOptions, samples: &[Sample]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    for sample in samples {
        sample.append_to(&mut builder);
    }
    builder.finish().unwrap()
}

pub(crate) fn any_bytes(bytes_max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..bytes_max).prop_map(Bytes::from)
}

/// Bytes of which only the number matters; much cheaper to make than arbitrary ones.
pub(crate) fn long_bytes(bytes_max: usize) -> impl Strategy<Value = Bytes> {
    (any::<u8>(), 0..bytes_max).prop_map(|(byte, count)| vec![byte; count].into())
}

pub(crate) fn any_headers() -> impl Strategy<Value = Vec<Header>> {
    let header =
        (".{0,6}", prop::option::of(any_bytes(20))).prop_map(|(key, value)| Header { key, value });
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(header, 0..5)]
}

pub(crate) fn any_sample() -> impl Strategy<Value = Sample> {
    let times = prop_oneof![
        4 => SAMPLE_TIME_MS..SAMPLE_TIME_MS + 100_000,
        1 => 0..i64::MAX,
    ];
    let body = || prop::option::of(prop_oneof![any_bytes(30), long_bytes(9000)]);
    (times, body(), body(), any_headers()).prop_map(|(timestamp_ms, key, value, headers)| Sample {
        timestamp_ms,
        key,
        value,
        headers,
    })
}

pub(crate) fn any_samples() -> impl Strategy<Value = Vec<Sample>> {
    prop::collection::vec(any_sample(), 1..8)
}

/// Options of every kind, without codec.
pub(crate) fn any_options() -> impl Strategy<Value = BatchOptions> {
    let producer =
        prop_oneof![
            Just(Producer::NONE),
            (0..i64::MAX, 0..i16::MAX, 0..i32::MAX)
                .prop_map(|(id, epoch, base_sequence)| Producer { id, epoch, base_sequence }),
        ];
    let base_offset = prop_oneof![0..1000i64, 0..i64::MAX / 2];
    let times = (prop::option::of(0..i64::MAX), prop::option::weighted(0.2, 0..i64::MAX));
    (base_offset, any::<i32>(), producer, times, any::<(bool, bool)>()).prop_map(
        |(base_offset, leader_epoch, producer, times, (transactional, control))| BatchOptions {
            base_offset,
            leader_epoch,
            producer,
            append_time_ms: times.0,
            delete_horizon_ms: times.1,
            transactional,
            control,
            ..Default::default()
        },
    )
}
