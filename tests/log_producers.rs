//! How long idempotent producers are remembered, and by what.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;
#[path = "log/upkeep.rs"]
mod upkeep;

use std::sync::Arc;

use peermq::log::inspect::Inspector;
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, OpenMode, Storage};
use peermq::log::{Level, LogError};
use support::{DIRECTORY, files, small};
use upkeep::{Bench, append, compacted, contents, open, produced, put, seal};

#[test]
fn a_producer_is_remembered_by_its_last_batch_though_nothing_of_it_is_left() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    assert_eq!(append(&topic, &produced(7, 0, "k")), 2);
    assert_eq!(append(&topic, &produced(7, 3, "k")), 5);
    put(&topic, "k", "newer");
    seal(&topic);
    bench.log.maintain().unwrap();
    assert_eq!(contents(&topic), [(6, "k".to_owned(), Some("newer".to_owned()))]);
    drop(topic);
    // Without snapshots all that is known of it is what the segments tell.
    for path in files(&bench.storage).into_keys() {
        if path.extension().is_some_and(|extension| extension == "snapshot") {
            bench.storage.remove_file(&path).unwrap();
        }
    }
    let copy = MemoryStorage::new();
    for (path, bytes) in files(&bench.storage) {
        copy.create_dir_all(path.parent().unwrap()).unwrap();
        copy.open(&path, OpenMode::Create).unwrap().write_at(&bytes, 0).unwrap();
    }
    let log = open(&copy, &bench.clock, 1 << 20);
    let topic = log.topic("t").unwrap();
    assert_eq!(append(&topic, &produced(7, 3, "k")), 5, "known");
    assert!(matches!(
        topic.append_batch(0, Level::Durable, &produced(7, 9, "k")),
        Err(LogError::OutOfSequence { expected: 6, .. })
    ));
}

#[test]
fn producers_that_were_silent_for_a_day_are_forgotten_and_old_snapshots_go() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", small()).unwrap();
    let append = |batch: &[u8]| {
        topic.append_batch(0, Level::Durable, batch).map(|ticket| ticket.wait().unwrap())
    };
    append(&produced(7, 0, "k")).unwrap();
    assert_eq!(append(&produced(7, 0, "k")).unwrap(), 2);
    for sequence in 0..30 {
        append(&produced(8, 3 * sequence, "k")).unwrap();
    }
    let snapshots = files(&bench.storage)
        .into_keys()
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"));
    assert_eq!(snapshots.count(), 2, "one for each that may be needed");
    bench.clock.advance(24 * 3600 * 1000);
    bench.log.maintain().unwrap();
    assert!(append(&produced(7, 9, "k")).is_err(), "it is remembered for a day");
    bench.clock.advance(1);
    bench.log.maintain().unwrap();
    assert_eq!(append(&produced(7, 9, "k")).unwrap(), 95, "who is not known may go on anywhere");
}

#[test]
fn the_last_five_batches_of_a_producer_are_known_however_the_log_ended() {
    for clean in [true, false] {
        let storage = FaultyStorage::new();
        let log = support::open(&storage);
        // Segments end in between, so that there are snapshots to begin from.
        let topic = log.create_topic("t", small()).unwrap();
        for n in 0..20 {
            assert_eq!(append(&topic, &produced(7, 3 * n, "k")), i64::from(3 * n + 2));
        }
        assert!(topic.describe().partitions[0].segments > 1);
        drop(topic);
        let storage = if clean {
            log.close().unwrap();
            storage
        } else {
            storage.kill()
        };
        let log = support::open(&storage);
        let topic = log.topic("t").unwrap();
        for n in (15..20).rev() {
            let again = topic.append_batch(0, Level::Durable, &produced(7, 3 * n, "k")).unwrap();
            assert_eq!(again.first_offset(), i64::from(3 * n), "closed: {clean}");
            assert_eq!(again.wait().unwrap(), i64::from(3 * n + 2), "closed: {clean}");
        }
        let older = topic.append_batch(0, Level::Durable, &produced(7, 3 * 14, "k"));
        assert!(matches!(older, Err(LogError::OutOfSequence { expected: 60, .. })));
        assert_eq!(append(&topic, &produced(7, 60, "k")), 62);
        drop(topic);
        log.close().unwrap();
        let report = Inspector::new().storage(Arc::new(storage)).verify(DIRECTORY).unwrap();
        assert!(report.is_sound() && report.findings.is_empty(), "{:?}", report.findings);
    }
}
