//! Readers and the memory of what they have read: it is shared with records, and used again when those are gone.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::VecDeque;
use std::path::Path;

use peermq::log::storage::{MemoryStorage, OpenMode, Storage};
use peermq::log::{HeaderRef, LogError, LogRecord, NewRecord, Position, Topic};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{open, small};

/// What a record of this number and length holds.
fn content(number: i64, len: usize) -> Vec<u8> {
    (0..len as i64).map(|at| (number * 31 + at * 7 + 1) as u8).collect()
}

/// Appends records of these lengths, each third with a key, each fifth with a header; each is one batch, or gathers with
/// the next ones.
fn append(topic: &Topic, records: &[(usize, bool)]) {
    for (number, (len, gathers)) in records.iter().enumerate() {
        let value = content(number as i64, *len);
        let key = format!("key {number}");
        let headers = [HeaderRef { key: &key, value: Some(&value) }];
        let mut record = NewRecord::new(&value);
        if number.is_multiple_of(3) {
            record = record.key(&key);
        }
        if number.is_multiple_of(5) {
            record = record.headers(&headers);
        }
        let ticket = topic.append(record).unwrap();
        if !gathers {
            ticket.wait().unwrap();
        }
    }
}

fn check(record: &LogRecord, records: &[(usize, bool)]) {
    let number = record.offset as usize;
    let value = content(record.offset, records[number].0);
    let key = (number.is_multiple_of(3)).then(|| format!("key {number}"));
    assert_eq!(record.value.as_deref(), Some(&value[..]), "record {number}");
    assert_eq!(record.key.as_deref(), key.as_deref().map(str::as_bytes), "record {number}");
    assert_eq!(record.headers.len(), usize::from(number.is_multiple_of(5)), "record {number}");
    for header in &record.headers {
        assert_eq!(header.key, format!("key {number}"));
        assert_eq!(header.value.as_deref(), Some(&value[..]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn records_that_are_kept_stay_what_they_were_while_the_reader_goes_on(
        records in vec((0..400usize, any::<bool>()), 1..120),
        chunk_bytes in 1..3000usize,
        kept_max in 0..40usize,
        switches in vec(any::<bool>(), 120),
    ) {
        let log = open(&MemoryStorage::new());
        let topic = log.create_topic("t", small().record_bytes_max(2000).batch_bytes(700).segment_bytes(4000)).unwrap();
        append(&topic, &records);
        log.sync().unwrap();
        let mut reader = topic.read(0, Position::Earliest).unwrap().chunk_bytes(chunk_bytes);
        let (mut kept, mut next) = (VecDeque::new(), 0);
        while let Some(record) = reader.next_record().unwrap() {
            prop_assert_eq!(record.offset, next);
            next += 1;
            check(&record, &records);
            // Some are let go at once, so that memory is used again between ones that are kept.
            if switches[next as usize - 1] {
                kept.push_back(record);
            }
            if kept.len() > kept_max {
                check(&kept.pop_front().unwrap(), &records);
            }
        }
        prop_assert_eq!(next, records.len() as i64);
        kept.iter().for_each(|record| check(record, &records));
    }
}

#[test]
fn a_file_that_ends_before_what_was_written_is_damage_and_no_endless_wait() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic =
        log.create_topic("t", small().record_bytes_max(8000).segment_bytes(80_000)).unwrap();
    append(&topic, &[(3, false), (3000, false)]);
    let segment = Path::new("/log/t-0/00000000000000000000.log");
    let file = storage.open(segment, OpenMode::Write).unwrap();
    let whole = file.len().unwrap();
    for cut in [1, 2999, 3060] {
        file.set_len(whole - cut).unwrap();
        for chunk_bytes in [1, 500, 100_000] {
            let mut reader = topic.read(0, Position::Earliest).unwrap().chunk_bytes(chunk_bytes);
            assert_eq!(reader.next_record().unwrap().unwrap().offset, 0);
            for _ in 0..2 {
                let error = reader.next_record().unwrap_err();
                assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
                assert_eq!(reader.next_offset(), 1);
            }
        }
    }
}
