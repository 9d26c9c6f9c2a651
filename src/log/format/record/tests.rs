//! Tests of single records.

use proptest::prelude::*;

use super::*;
use crate::log::format::tests::samples::{any_bytes, any_headers, long_bytes};

fn any_record() -> impl Strategy<Value = Record> {
    let body = || prop::option::of(prop_oneof![any_bytes(70), long_bytes(20_000)]);
    (any::<i64>(), any::<i32>(), body(), body(), any_headers()).prop_map(
        |(timestamp_delta, offset_delta, key, value, headers)| Record {
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers,
        },
    )
}

/// A record's bytes from the bytes after its length, which must be less than 64.
fn framed(body: &[u8]) -> Bytes {
    assert!(body.len() < 64);
    let mut bytes = vec![body.len() as u8 * 2];
    bytes.extend_from_slice(body);
    bytes.into()
}

fn refused(bytes: &Bytes) -> (Field, usize, Fault) {
    let error = Record::decode(bytes, 0).unwrap_err();
    (error.field, error.position, error.fault)
}

#[test]
fn a_record_has_the_bytes_that_kafka_writes() {
    let record = Record {
        timestamp_delta: 1,
        offset_delta: 2,
        key: Some("k".into()),
        value: None,
        headers: vec![Header { key: "h".to_owned(), value: Some("v".into()) }],
    };
    let mut out = Vec::new();
    assert_eq!(record.encode(&mut out), Ok(12));
    assert_eq!(out, [22, 0, 2, 4, 2, b'k', 1, 2, 2, b'h', 2, b'v']);
}

#[test]
fn keys_and_values_are_slices_of_the_batch() {
    let record = Record { key: Some("key".into()), value: Some("v".into()), ..Default::default() };
    let mut out = Vec::new();
    record.encode(&mut out).unwrap();
    let batch = Bytes::from(out);
    let (decoded, _) = Record::decode(&batch, 0).unwrap();
    let inside = batch.as_ptr_range();
    assert!(inside.contains(&decoded.key.unwrap().as_ptr()));
    assert!(inside.contains(&decoded.value.unwrap().as_ptr()));
}

#[test]
fn lengths_that_do_not_add_up_are_refused() {
    // attributes, timestamp delta, offset delta, null key, null value, no headers
    assert!(Record::decode(&framed(&[0, 0, 0, 1, 1, 0]), 0).is_ok());
    let trailing = Fault::Trailing { count: 1 };
    assert_eq!(refused(&framed(&[0, 0, 0, 1, 1, 0, 7])), (Field::RecordLength, 7, trailing));
    let header_then_more = [0, 0, 0, 1, 1, 2, 0, 1, 9];
    assert_eq!(refused(&framed(&header_then_more)), (Field::RecordLength, 9, trailing));
    let cut = Fault::Truncated { needed: 3, available: 2 };
    assert_eq!(refused(&framed(&[0, 0, 0, 6, 1, 0])), (Field::Key, 5, cut));
    assert_eq!(refused(&framed(&[0, 0, 0, 1, 6, 1, 0])), (Field::Value, 6, cut));
    let beyond = Bytes::from_static(&[14, 0, 0, 0, 1, 1, 0]);
    let cut = Fault::Truncated { needed: 7, available: 6 };
    assert_eq!(refused(&beyond), (Field::Records, 1, cut));
}

#[test]
fn fields_without_meaning_are_refused() {
    let found = |found| Fault::Invalid { found };
    assert_eq!(refused(&framed(&[1, 0, 0, 1, 1, 0])), (Field::RecordAttributes, 1, found(1)));
    assert_eq!(refused(&framed(&[0, 0, 0, 3, 1, 0])), (Field::KeyLength, 4, found(-2)));
    assert_eq!(refused(&framed(&[0, 0, 0, 1, 3, 0])), (Field::ValueLength, 5, found(-2)));
    assert_eq!(refused(&framed(&[0, 0, 0, 1, 1, 1])), (Field::HeaderCount, 6, found(-1)));
    assert_eq!(refused(&framed(&[0, 0, 0, 1, 1, 2, 1, 1])), (Field::HeaderKeyLength, 7, found(-1)));
    assert_eq!(
        refused(&framed(&[0, 0, 0, 1, 1, 2, 0, 3])),
        (Field::HeaderValueLength, 8, found(-2))
    );
    assert_eq!(refused(&Bytes::from_static(&[1])), (Field::RecordLength, 0, found(-1)));
    let not_text = [0, 0, 0, 1, 1, 2, 2, 0xff, 1];
    assert_eq!(refused(&framed(&not_text)), (Field::HeaderKey, 8, Fault::NotUtf8));
}

#[test]
fn more_headers_than_there_is_room_for_are_refused_before_any_is_read() {
    let claimed = [0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0xf, 0, 1];
    let limit = Fault::TooLarge { limit: 1 };
    assert_eq!(refused(&framed(&claimed)), (Field::HeaderCount, 6, limit));
    assert_eq!(refused(&framed(&[0, 0, 0, 1, 1, 4, 0, 1])), (Field::HeaderCount, 6, limit));
}

#[test]
fn headers_end_after_the_first_error() {
    let bytes = framed(&[0, 0, 0, 1, 1, 4, 2, 0xff, 1, 0, 1]);
    let (record, _) = RecordRef::decode(&bytes, 0).unwrap();
    assert_eq!(record.header_count(), 2);
    let mut headers = record.headers();
    assert!(headers.next().unwrap().is_err());
    assert!(headers.next().is_none());
}

proptest! {
    #[test]
    fn a_record_reads_back_wherever_it_stands(record in any_record(), before in 0..9usize, after in 0..9usize) {
        let mut out = vec![0xee; before];
        prop_assert_eq!(record.encode(&mut out), Ok(record.encoded_len()));
        let end = out.len();
        prop_assert_eq!(end, before + record.encoded_len());
        out.resize(end + after, 0xee);
        prop_assert_eq!(Record::decode(&out.into(), before), Ok((record, end)));
    }

    #[test]
    fn a_record_that_is_cut_is_truncated(record in any_record(), cut in any::<prop::sample::Index>()) {
        let mut out = Vec::new();
        record.encode(&mut out).unwrap();
        out.truncate(cut.index(out.len()));
        prop_assert!(Record::decode(&out.into(), 0).unwrap_err().is_truncation());
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_written_alike(
        bytes in prop::collection::vec(prop_oneof![0..8u8, any::<u8>()], 0..60), position in 0..70usize,
    ) {
        let bytes = framed(&bytes);
        let _ = Record::decode(&bytes, position);
        if let Ok((record, end)) = Record::decode(&bytes, 0) {
            let mut out = Vec::new();
            record.encode(&mut out).unwrap();
            // Integers may have been longer than they need be.
            prop_assert!(out.len() <= end);
            prop_assert_eq!(Record::decode(&out.into(), 0).unwrap().0, record);
        }
    }
}
