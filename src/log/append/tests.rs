//! What callers of the log do not see: who writes when nobody waits, and what a failed append is told.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::gather::{Due, Parcel};
use crate::log::format::BatchView;
use crate::log::storage::MemoryStorage;
use crate::log::{Level, Log, LogError, Topic, TopicOptions};
use crate::sync::lock;

fn topic(linger: Option<Duration>) -> Topic {
    let storage = Arc::new(MemoryStorage::new());
    let log = Log::options().storage(storage).linger(linger).open("/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap()
}

#[test]
fn an_append_that_failed_is_not_taken_for_done_by_the_record_that_got_its_offset() {
    let topic = topic(None);
    assert_eq!(topic.append("another").unwrap().wait().unwrap(), 0);
    let partition = topic.inner.partition(0).unwrap();
    assert!(partition.commit(0, None, || None).unwrap());
    assert!(partition.commit(0, None, || Some(LogError::Closed)).is_err());
}

#[test]
fn a_wait_without_time_syncs_if_nobody_else_does() {
    let topic = topic(None);
    let ticket = topic.append("record").unwrap();
    // Nobody syncs, so this caller does; it is known afterwards.
    ticket.wait_timeout(Duration::ZERO).unwrap();
    assert!(ticket.is_done());
}

#[test]
fn the_keeper_is_called_once_for_what_has_gathered_and_the_appender_writes_what_is_too_much() {
    let topic = topic(None);
    let partition = topic.inner.partition(0).unwrap();
    let batch = topic.options().batch_bytes;
    let mut gather = lock(&partition.gather);
    let mut said = Vec::new();
    for _ in 0..17 {
        let value = vec![0; batch as usize];
        gather.push(partition, &(&value).into()).unwrap();
        said.push(gather.due(&partition.options));
    }
    assert_eq!(said[..3], [Due::Later; 3]);
    assert_eq!(said[3], Due::Soon);
    assert_eq!(said[4..15], [Due::Called; 11]);
    assert_eq!(said[16], Due::Now);
}

#[test]
fn much_that_nobody_waits_for_is_written_beside_its_appender() {
    // Nothing is written for having gathered long enough.
    let topic = topic(Some(Duration::from_secs(3600)));
    let value = vec![0; 1000];
    for _ in 0..300 {
        let _ticket = topic.append_at(Level::Buffered, &value).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while topic.describe_partition(0).unwrap().end == 0 {
        assert!(Instant::now() < deadline, "nobody writes");
        std::thread::yield_now();
    }
}

#[test]
fn a_linger_beyond_all_time_keeps_no_task_waiting() {
    let topic = topic(Some(Duration::MAX));
    let deadline = Instant::now() + Duration::from_secs(60);
    for _ in 0..100 {
        // The keeper has something that lingers whenever it does not sync.
        let _lingering = topic.append_at(Level::Buffered, "record").unwrap();
        let mut ticket = pin!(topic.append("record").unwrap());
        while ticket.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            assert!(Instant::now() < deadline, "nobody syncs");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_full_batch_is_complete_before_anybody_writes_it_and_the_open_one_is_not() {
    let topic = topic(None);
    let partition = topic.inner.partition(0).unwrap();
    let value = vec![7; topic.options().batch_bytes as usize];
    let mut gather = lock(&partition.gather);
    for value in [&value[..], b"small"] {
        gather.group(partition);
        gather.push(partition, &value.into()).unwrap();
    }
    let load = gather.take().unwrap();
    let [Parcel::Encoded(full), Parcel::Records(open)] = &load.parcels[..] else {
        panic!("{:?}", load.parcels.len())
    };
    BatchView::parse(full).and_then(|view| view.check_crc()).unwrap();
    assert_eq!(open.records_count(), 1);
}

#[test]
fn partitions_that_nobody_appends_to_any_more_keep_no_buffers() {
    let storage = Arc::new(MemoryStorage::new());
    let log = Log::options().storage(storage).linger(None).open("/log").unwrap();
    let options = TopicOptions::default().partitions(100).batch_bytes(1 << 20);
    let topic = log.create_topic("t", options).unwrap();
    let value = vec![7; 100_000];
    for partition in 0..100 {
        for _ in 0..12 {
            let _ticket = topic.append_to(partition, Level::Written, &value).unwrap();
        }
        topic.flush().unwrap();
    }
    let spares = &topic.inner.partition(0).unwrap().shared.spares;
    // Those of the first went to all others.
    assert!(spares.count() <= 2, "{}", spares.count());
}
