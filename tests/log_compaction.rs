//! Compaction as users of a log see it.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;
#[path = "log/upkeep.rs"]
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use peermq::log::format::batch::{BatchView, batches};
use peermq::log::format::{BatchBuilder, BatchOptions, Codec};
use peermq::log::{Level, Log, LogError, NewRecord, Position, Topic};
use support::{DIRECTORY, files, segments};
use upkeep::{Bench, append, compacted, contents, produced, put, records, seal, text};

#[test]
fn of_each_key_the_last_record_stays_with_its_offset() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    let mut last = BTreeMap::new();
    for n in 0..200 {
        let key = format!("k{}", n * n % 17);
        let value = format!("{n} {}", "v".repeat(n % 50));
        let offset = put(&topic, &key, &value);
        last.insert(key, (offset, value));
    }
    seal(&topic);
    let before = topic.describe().partitions[0];
    let maintained = bench.log.maintain().unwrap();
    let expected = |topic: &Topic| {
        let mut expected: Vec<_> = last
            .iter()
            .map(|(key, (offset, value))| (*offset, key.clone(), Some(value.clone())))
            .collect();
        expected.sort();
        assert_eq!(contents(topic), expected);
        for (offset, _, value) in &expected {
            let mut reader = topic.read(0, Position::Offset(*offset)).unwrap();
            assert_eq!(text(&reader.next().unwrap().unwrap().value), *value.as_ref().unwrap());
        }
        // Every offset that is gone leads to the next that is there.
        let there = records(topic);
        for offset in 0..212 {
            let next = there.iter().find(|record| record.offset >= offset).unwrap();
            let mut reader = topic.read(0, Position::Offset(offset)).unwrap();
            assert_eq!(reader.next_record().unwrap().unwrap().offset, next.offset);
            assert_eq!(reader.next_offset(), next.offset + 1);
        }
    };
    expected(&topic);
    let after = topic.describe().partitions[0];
    assert!(after.segments < before.segments / 2, "small segments were merged: {after:?}");
    assert!(after.bytes < before.bytes / 3);
    assert_eq!(after.compacted_records, maintained.compacted_records);
    assert_eq!(after.compacted_bytes, before.bytes - after.bytes);
    assert_eq!(segments(&bench.storage).len(), after.segments);
    let leftovers: Vec<_> = files(&bench.storage)
        .into_keys()
        .filter(|path| {
            let name = path.to_str().unwrap();
            [".cleaned", ".swap", "segment-swap", ".tmp"].iter().any(|end| name.ends_with(end))
        })
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    assert_eq!(bench.log.maintain().unwrap().compacted_records, 0, "nothing is left to do");
    drop(topic);
    let bench = bench.reopen();
    expected(&bench.topic());
    let checkpoint = &files(&bench.storage)
        [&std::path::PathBuf::from(format!("{DIRECTORY}/cleaner-offset-checkpoint"))];
    let checkpoint = String::from_utf8(checkpoint.clone()).unwrap();
    let until = records(&bench.topic()).last().unwrap().offset;
    assert!(checkpoint.starts_with("0\n1\nt 0 "), "{checkpoint}");
    let clean: i64 = checkpoint.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((200..=until).contains(&clean), "the active segment is not touched: {clean}");
}

#[test]
fn a_tombstone_stays_for_its_time_after_compaction_met_it_and_then_goes_with_its_key() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    put(&topic, "a", "1");
    put(&topic, "b", "2");
    let tombstone = NewRecord::tombstone("a");
    assert_eq!(topic.append(tombstone).unwrap().wait().unwrap(), 2);
    seal(&topic);
    bench.clock.advance(1_000_000);
    bench.log.maintain().unwrap();
    let b = (1, "b".to_owned(), Some("2".to_owned()));
    let waiting = [b.clone(), (2, "a".to_owned(), None)];
    assert_eq!(contents(&topic), waiting, "its time begins with the compaction");
    bench.clock.advance(500);
    bench.log.maintain().unwrap();
    assert_eq!(contents(&topic), waiting);
    drop(topic);
    let bench = bench.reopen();
    bench.clock.advance(1);
    bench.log.maintain().unwrap();
    assert_eq!(contents(&bench.topic()), [b]);
}

#[test]
fn a_compacted_topic_takes_no_record_without_key() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    let missing =
        |refused: LogError| matches!(refused, LogError::KeyMissing { topic, .. } if topic == "t");
    assert!(missing(topic.append("x").unwrap_err()));
    assert!(missing(topic.append_to(0, Level::Written, "x").unwrap_err()));
    let both = [NewRecord::new("x").key("k"), NewRecord::new("x")];
    assert!(missing(topic.append_all(0, Level::Written, &both).unwrap_err()));
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(0, Some(b"k"), None, []).unwrap();
    builder.append(0, None, Some(b"v"), []).unwrap();
    let batch = builder.finish().unwrap();
    assert!(missing(topic.append_batch(0, Level::Written, &batch).unwrap_err()));
    topic.sync().unwrap();
    assert!(records(&topic).is_empty());
}

#[test]
fn more_keys_than_fit_into_the_table_are_compacted_part_by_part() {
    // Room for sixteen keys.
    let bench = Bench::with(24 * 22);
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    for round in 0..3 {
        for n in 0..100 {
            put(&topic, &format!("key {n}"), &format!("round {round}"));
        }
    }
    seal(&topic);
    bench.log.maintain().unwrap();
    let left = contents(&topic);
    assert_eq!(left.len(), 100);
    assert!(
        left.iter().all(|(offset, _, value)| *offset >= 200 && value.as_deref() == Some("round 2"))
    );
}

#[test]
fn tombstones_of_one_batch_go_though_the_table_was_full_in_the_middle_of_it() {
    for before in 10..20 {
        // Room for sixteen keys.
        let bench = Bench::with(24 * 22);
        let topic = bench.log.create_topic("t", compacted()).unwrap();
        for n in 0..before {
            put(&topic, &format!("key {n}"), "value");
        }
        let tombstones = ["a", "b", "c"].map(NewRecord::tombstone);
        topic.append_all(0, Level::Written, &tombstones).unwrap().unwrap().wait().unwrap();
        seal(&topic);
        for _ in 0..2 {
            bench.log.maintain().unwrap();
            bench.clock.advance(501);
        }
        let left = contents(&topic);
        assert_eq!(left.len(), before, "{left:?}");
    }
}

#[test]
fn readers_that_are_under_way_survive_a_compaction_here_and_in_other_processes() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    for n in 0..100 {
        put(&topic, &format!("k{}", n % 10), &format!("{n}"));
    }
    seal(&topic);
    let elsewhere = || {
        let options = Log::options().storage(Arc::new(bench.storage.clone())).linger(None);
        options.open_read_only(DIRECTORY).unwrap()
    };
    let (early, late, other) = (elsewhere(), elsewhere(), elsewhere());
    let read_only = early.topic("t").unwrap();
    let mut readers: Vec<_> = [&topic, &read_only]
        .into_iter()
        .flat_map(|topic| {
            (0..60).step_by(7).map(|taken| {
                let mut reader = topic.read(0, Position::Earliest).unwrap().chunk_bytes(1);
                let read = (0..taken).map(|_| reader.next_record().unwrap().unwrap().offset).last();
                (read, reader)
            })
        })
        .collect();
    bench.log.maintain().unwrap();
    let there: Vec<_> = records(&topic).iter().map(|record| record.offset).collect();
    for (read, reader) in &mut readers {
        let mut last = read.unwrap_or(-1);
        let mut missed: Vec<_> = there.iter().filter(|offset| **offset > last).collect();
        while let Some(record) = reader.next_record().unwrap() {
            assert!(record.offset > last, "{} after {last}", record.offset);
            last = record.offset;
            missed.retain(|offset| **offset != last);
        }
        assert!(missed.is_empty(), "after {read:?}: {missed:?}");
    }
    // One that had opened no segment before finds the new ones.
    assert_eq!(contents(&late.topic("t").unwrap()), contents(&topic));
    for n in 0..100 {
        put(&topic, &format!("k{}", n % 10), &format!("again {n}"));
    }
    seal(&topic);
    bench.log.maintain().unwrap();
    for log in [&early, &late, &other] {
        log.refresh().unwrap();
        assert_eq!(contents(&log.topic("t").unwrap()), contents(&topic));
    }
}

#[test]
fn our_decoder_and_an_independent_one_agree_on_compacted_segments() {
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy] {
        if !codec.is_available() {
            continue;
        }
        let bench = Bench::new();
        let topic = bench.log.create_topic("t", compacted().codec(codec)).unwrap();
        for n in 0..60 {
            let keys: Vec<_> = (0..4).map(|i| format!("{}", (n * 5 + i * i) % 23)).collect();
            let value = format!("value {n}");
            let batch: Vec<_> = keys
                .iter()
                .map(|key| match n % 7 {
                    3 => NewRecord::tombstone(key),
                    _ => NewRecord::new(&value).key(key).timestamp_ms(1000 + n),
                })
                .collect();
            topic.append_all(0, Level::Written, &batch).unwrap().unwrap().wait().unwrap();
            if n % 9 == 0 {
                append(&topic, &produced(n, 0, &format!("{}", n % 23)));
            }
        }
        seal(&topic);
        bench.log.maintain().unwrap();
        let (mut ours, mut theirs, mut emptied) = (Vec::new(), Vec::new(), 0);
        for bytes in segments(&bench.storage).into_values() {
            let mut next = None;
            for batch in batches(&bytes) {
                let batch: BatchView<'_> = batch.unwrap();
                batch.validate(&mut Vec::new(), 1 << 20).unwrap();
                let header = batch.header();
                assert!(next.is_none_or(|next| next == header.base_offset), "no gap");
                next = Some(header.last_offset() + 1);
                if header.records_count == 0 {
                    emptied += 1;
                    continue;
                }
                let mut one = Bytes::copy_from_slice(batch.bytes());
                for record in RecordBatchDecoder::decode(&mut one).unwrap().records {
                    theirs.push((record.offset, record.timestamp, record.key, record.value));
                }
            }
        }
        for record in records(&topic) {
            ours.push((record.offset, record.timestamp_ms, record.key, record.value));
        }
        assert!(ours.len() > 20 && emptied > 0, "{} records, {emptied} emptied", ours.len());
        assert_eq!(ours, theirs, "{codec:?}");
    }
}

#[test]
fn appending_goes_on_while_a_log_is_compacted() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    let writer = topic.clone();
    let appended = std::thread::spawn(move || {
        let mut last = BTreeMap::new();
        for n in 0..3000 {
            let key = format!("k{}", n % 37);
            last.insert(key.clone(), (put(&writer, &key, &format!("{n}")), n));
        }
        last
    });
    while !appended.is_finished() {
        bench.log.maintain().unwrap();
    }
    let last = appended.join().unwrap();
    seal(&topic);
    bench.log.maintain().unwrap();
    let left = contents(&topic);
    assert_eq!(left.len(), 37);
    for (offset, key, value) in left {
        let (expected, n) = &last[&key];
        assert_eq!((offset, value.unwrap()), (*expected, n.to_string()));
    }
}

#[test]
fn a_topic_deleted_while_it_is_compacted_is_gone_and_one_of_its_name_begins_anew() {
    let bench = Bench::new();
    for _ in 0..20 {
        let topic = bench.log.create_topic("t", compacted()).unwrap();
        for n in 0..60 {
            put(&topic, &format!("k{}", n % 5), "v");
        }
        let log = bench.log.clone();
        let pass = std::thread::spawn(move || log.maintain().map(drop));
        bench.log.delete_topic("t").unwrap();
        // It may have met the deletion, but nothing worse.
        if let Err(error) = pass.join().unwrap() {
            assert!(matches!(error, LogError::TopicDeleted { .. }), "{error}");
        }
        assert!(
            files(&bench.storage).into_keys().all(|path| !path.to_str().unwrap().contains("t-0"))
        );
    }
}

#[test]
fn what_is_left_is_the_same_whatever_codec_packs_it() {
    let mut plain = None;
    for codec in Codec::ALL.into_iter().filter(|codec| codec.is_available()) {
        let bench = Bench::new();
        let options = compacted().codec(codec).segment_bytes(2_000).batch_bytes(1_000);
        let topic = bench.log.create_topic("t", options).unwrap();
        for n in 0..50 {
            let key = format!("k{}", n % 7);
            let values: Vec<_> = (0..5).map(|i| format!("{n} {i} {}", "x".repeat(60))).collect();
            let batch: Vec<_> =
                values.iter().map(|value| NewRecord::new(value).key(&key)).collect();
            topic.append_all(0, Level::Written, &batch).unwrap().unwrap().wait().unwrap();
        }
        seal(&topic);
        assert!(bench.log.maintain().unwrap().compacted_records > 0, "{codec}");
        drop(topic);
        let bench = bench.reopen();
        let latest: BTreeMap<_, _> = contents(&bench.topic())
            .into_iter()
            .map(|(offset, key, value)| (key, (offset, value)))
            .collect();
        assert_eq!(plain.get_or_insert_with(|| latest.clone()), &latest, "{codec}");
    }
}
