//! A log as its users see it: topics, appending, tickets, reading, following, other processes.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions, Codec};
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, OpenMode, Operation, Storage};
use peermq::log::{
    HeaderRef, Level, Log, LogError, ManualClock, NewRecord, Position, TimestampType, TopicOptions,
};
use support::{open, read_all, small};

fn values(log: &Log, topic: &str, partition: u32) -> Vec<String> {
    read_all(log, topic, partition).unwrap().into_iter().map(|(_, value)| value).collect()
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn records_come_back_as_they_were_appended() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    let headers = [HeaderRef { key: "h", value: Some(b"x") }, HeaderRef { key: "n", value: None }];
    let record = NewRecord::new("value").key("key").headers(&headers).timestamp_ms(77);
    assert_eq!(topic.append(record).unwrap().wait().unwrap(), 0);
    assert_eq!(topic.append(NewRecord::tombstone("key")).unwrap().wait().unwrap(), 1);
    let mut reader = topic.read(0, Position::Earliest).unwrap();
    let first = reader.next().unwrap().unwrap();
    assert_eq!((first.offset, first.timestamp_ms, first.partition), (0, 77, 0));
    assert_eq!(first.key.as_deref(), Some(&b"key"[..]));
    assert_eq!(first.value.as_deref(), Some(&b"value"[..]));
    assert_eq!(first.headers.len(), 2);
    assert_eq!((first.headers[1].key.as_str(), &first.headers[1].value), ("n", &None));
    let second = reader.next().unwrap().unwrap();
    assert_eq!((second.offset, second.value), (1, None));
    assert!(reader.next().is_none());
    assert_eq!(reader.next_offset(), 2);
}

#[test]
fn a_closed_log_opens_with_everything_and_appends_behind_it() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    let mut expected = Vec::new();
    for n in 0..100 {
        // Tickets that nobody waits for are written at the latest when the log is closed.
        drop(topic.append_at(Level::Buffered, &format!("{n}")).unwrap());
        expected.push(format!("{n}"));
    }
    drop(topic);
    log.close().unwrap();
    let log = open(&storage);
    assert_eq!(log.topics(), ["t"]);
    assert_eq!(values(&log, "t", 0), expected);
    let topic = log.topic("t").unwrap();
    assert!(topic.describe().partitions[0].segments > 3, "it has rolled");
    assert_eq!(topic.append("more").unwrap().wait().unwrap(), 100);
    expected.push("more".to_owned());
    assert_eq!(values(&log, "t", 0), expected);
}

#[test]
fn every_offset_and_every_time_is_found_after_a_clean_stop_and_without_indexes() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    for n in 0..200i64 {
        // Times go up and down a little.
        let time = 1000 + 10 * (n ^ 3);
        let value = format!("{n}");
        let ticket = topic.append_at(Level::Written, NewRecord::new(&value).timestamp_ms(time));
        if n % 3 == 0 {
            ticket.unwrap().wait().unwrap();
        }
    }
    let check = |log: &Log| {
        let topic = log.topic("t").unwrap();
        for n in 0..200i64 {
            let record = topic.read(0, Position::Offset(n)).unwrap().next().unwrap().unwrap();
            assert_eq!((record.offset, record.value.unwrap()), (n, format!("{n}").into()));
        }
        for time in (900..3200).step_by(7) {
            let first = (0..200).find(|n| 1000 + 10 * (n ^ 3) >= time).unwrap_or(200);
            assert_eq!(topic.offset_of(0, Position::Time(time)).unwrap(), first, "at {time}");
        }
    };
    check(&log);
    drop(topic);
    log.close().unwrap();
    let log = open(&storage);
    check(&log);
    log.close().unwrap();
    for entry in storage.list(Path::new("/log/t-0")).unwrap() {
        let name = entry.name.to_str().unwrap();
        if name.ends_with("index") {
            storage.remove_file(&Path::new("/log/t-0").join(name)).unwrap();
        }
    }
    check(&open(&storage));
}

#[test]
fn keyed_records_go_where_kafka_sends_them_and_unkeyed_ones_take_turns() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small().partitions(7)).unwrap();
    let ticket = topic.append(NewRecord::new("v").key("abc")).unwrap();
    assert_eq!(ticket.partition(), 479_470_107 % 7);
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..100 {
        used.insert(topic.append_at(Level::Buffered, &[0u8; 50]).unwrap().partition());
    }
    assert_eq!(used.len(), 7);
}

#[test]
fn one_durable_append_is_one_sync_and_waiters_share_it() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("first of this opening").unwrap().wait().unwrap();
    let before = storage.calls(Some(Operation::SyncData));
    for _ in 0..10 {
        topic.append("x").unwrap().wait().unwrap();
    }
    assert_eq!(storage.calls(Some(Operation::SyncData)) - before, 10);
    let tickets: Vec<_> = (0..10).map(|_| topic.append("x").unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(storage.calls(Some(Operation::SyncData)) - before, 11);
}

#[test]
fn threads_that_append_at_once_each_get_an_offset_of_their_own() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    let mut offsets: Vec<(i64, String)> = thread::scope(|scope| {
        let append = |thread: usize| {
            let topic = topic.clone();
            scope.spawn(move || {
                let levels = [Level::Durable, Level::Written, Level::Buffered];
                let one = |n: usize| {
                    let value = format!("{thread}-{n}");
                    let ticket = topic.append_at(levels[n % 3], &value).unwrap();
                    (ticket.wait().unwrap(), value)
                };
                (0..200).map(one).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..8).map(append).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    topic.flush().unwrap();
    offsets.sort();
    assert_eq!(read_all(&log, "t", 0).unwrap(), offsets);
}

#[test]
fn a_full_medium_takes_nothing_back_and_lets_later_appends_in() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("a").unwrap().wait().unwrap();
    let short = FaultAction::ShortWrite(Errno::NoSpace);
    storage.inject(Fault::at(0, short).of(Operation::Write).on(".log"));
    let lost = topic.append("lost").unwrap();
    let also_lost = topic.append_at(Level::Written, "also lost").unwrap();
    assert_eq!((lost.offset(), also_lost.offset()), (1, 2));
    assert!(lost.wait().unwrap_err().is_full());
    assert!(also_lost.wait().unwrap_err().is_full());
    assert_eq!(values(&log, "t", 0), ["a"]);
    assert_eq!(topic.append("b").unwrap().wait().unwrap(), 1);
    assert_eq!(values(&log, "t", 0), ["a", "b"]);
    let after = open(&storage.kill());
    assert_eq!(values(&after, "t", 0), ["a", "b"]);
}

#[test]
fn nothing_of_a_write_that_did_not_fit_is_ever_taken_for_an_append() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default().batch_bytes(1)).unwrap();
    topic.append("a").unwrap().wait().unwrap();
    // Two batches of one size in one write, of which exactly the first fits.
    let short = FaultAction::ShortWrite(Errno::NoSpace);
    storage.inject(Fault::at(0, short).of(Operation::Write).on(".log"));
    let records = [NewRecord::new("fits"), NewRecord::new("lost")];
    let ticket = topic.append_all(0, Level::Durable, &records).unwrap().unwrap();
    assert!(ticket.wait().unwrap_err().is_full());
    assert_eq!(values(&open(&storage.kill()), "t", 0), ["a", "fits"]);
    for seed in 0..100 {
        let log = open(&storage.power_cut(seed).storage());
        assert_eq!(values(&log, "t", 0), ["a", "fits"], "{seed}");
    }
}

#[test]
fn a_failed_sync_stops_appends_but_not_reads_until_the_log_is_opened_anew() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("a").unwrap().wait().unwrap();
    storage.inject(Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::SyncData));
    let failed = topic.append("b").unwrap().wait();
    assert!(matches!(failed, Err(LogError::Poisoned { .. })), "{failed:?}");
    assert!(matches!(topic.append("c"), Err(LogError::Poisoned { .. })));
    assert_eq!(values(&log, "t", 0), ["a", "b"]);
    drop(topic);
    assert!(log.close().is_err());

    let log = open(&storage);
    assert_eq!(values(&log, "t", 0), ["a", "b"], "the system still shows what it never wrote");
    let topic = log.topic("t").unwrap();
    topic.append("c").unwrap().wait().unwrap();
    for seed in 0..200 {
        let after = open(&storage.power_cut(seed).storage());
        assert_eq!(values(&after, "t", 0), ["a", "b", "c"], "seed {seed}");
    }
}

#[test]
fn a_repeated_batch_of_a_producer_is_appended_once_even_after_a_restart() {
    let storage = MemoryStorage::new();
    let batch = |sequence: i32, value: &str| {
        let producer = Producer { id: 7, epoch: 0, base_sequence: sequence };
        let mut builder = BatchBuilder::new(BatchOptions { producer, ..Default::default() });
        builder.append(1, None, Some(value.as_bytes()), []).unwrap();
        builder.finish().unwrap()
    };
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    let append = |topic: &peermq::log::Topic, sequence, value: &str| {
        topic.append_batch(0, Level::Durable, &batch(sequence, value))
    };
    assert_eq!(append(&topic, 0, "a").unwrap().wait().unwrap(), 0);
    assert_eq!(append(&topic, 1, "b").unwrap().wait().unwrap(), 1);
    assert_eq!(append(&topic, 0, "a").unwrap().wait().unwrap(), 0);
    drop(topic);
    log.close().unwrap();
    for clean in [true, false] {
        let log = if clean {
            open(&storage)
        } else {
            storage.remove_file(Path::new("/log/.kafka_cleanshutdown")).unwrap();
            open(&storage)
        };
        let topic = log.topic("t").unwrap();
        assert_eq!(append(&topic, 1, "b").unwrap().wait().unwrap(), 1, "clean: {clean}");
        let gap = append(&topic, 9, "x").unwrap_err();
        assert!(matches!(gap, LogError::OutOfSequence { expected: 2, found: 9, .. }), "{gap}");
        assert_eq!(values(&log, "t", 0), ["a", "b"]);
        drop(topic);
        log.close().unwrap();
    }
}

#[test]
fn a_foreign_batch_that_breaks_the_format_is_refused() {
    let log = open(&MemoryStorage::new());
    let topic = log.create_topic("t", small()).unwrap();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(1, None, Some(b"v"), []).unwrap();
    let good = builder.finish().unwrap();
    for position in [17, 30, good.len() - 1] {
        let mut bad = good.clone();
        bad[position] ^= 1;
        let refused = topic.append_batch(0, Level::Durable, &bad);
        assert!(matches!(refused, Err(LogError::BadBatch { .. })), "byte {position}");
    }
    let refused = topic.append_batch(0, Level::Durable, &good[..good.len() - 1]);
    assert!(matches!(refused, Err(LogError::BadBatch { .. })));
    assert_eq!(topic.append_batch(0, Level::Durable, &good).unwrap().wait().unwrap(), 0);
}

#[test]
fn the_front_can_be_cut_and_stays_cut() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    for n in 0..100 {
        topic.append_at(Level::Written, &format!("{n}")).unwrap().wait().unwrap();
    }
    let segments = topic.describe().partitions[0].segments;
    let mut reader = topic.read(0, Position::Earliest).unwrap();
    topic.truncate_front(0, 50).unwrap();
    assert!(topic.describe().partitions[0].segments < segments);
    assert_eq!(values(&log, "t", 0).first().unwrap(), "50");
    let gone = topic.read(0, Position::Offset(49)).unwrap_err();
    assert!(matches!(gone, LogError::OffsetOutOfRange { earliest: 50, end: 100, .. }), "{gone}");
    assert!(matches!(reader.next_record(), Err(LogError::OffsetOutOfRange { .. })));
    assert!(topic.truncate_front(0, 101).is_err());
    topic.truncate_front(0, 100).unwrap();
    drop((topic, reader));
    log.close().unwrap();
    let log = open(&storage);
    assert!(values(&log, "t", 0).is_empty());
    assert_eq!(log.topic("t").unwrap().append("x").unwrap().wait().unwrap(), 100);
}

#[test]
fn a_directory_is_locked_by_its_opener_and_one_of_others_is_refused() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let second = Log::open_in(Arc::new(storage.clone()), "/log").unwrap_err();
    let holder = peermq::log::storage::this_process();
    assert!(matches!(&second, LogError::Locked { holder: found, .. } if *found == holder));
    log.close().unwrap();
    open(&storage);

    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/log")).unwrap();
    storage.open(Path::new("/log/diary.txt"), OpenMode::CreateNew).unwrap();
    let refused = Log::open_in(Arc::new(storage.clone()), "/log").unwrap_err();
    assert!(matches!(refused, LogError::NotALog { .. }), "{refused}");
    let meta = storage.open(Path::new("/log/meta.properties"), OpenMode::CreateNew).unwrap();
    meta.write_at(b"version=1\ncluster.id=Kafkas\nnode.id=1\n", 0).unwrap();
    let refused = Log::open_in(Arc::new(storage.clone()), "/log").unwrap_err();
    assert!(refused.to_string().contains("Kafkas"), "{refused}");
    assert_eq!(storage.list(Path::new("/log")).unwrap().len(), 2, "nothing was added");
}

#[test]
fn topics_are_made_changed_and_deleted_for_good() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    for name in ["", "..", "a b", "a/b"] {
        assert!(matches!(log.create_topic(name, small()), Err(LogError::Invalid { .. })));
    }
    assert!(log.create_topic("t", small().partitions(0)).is_err());
    let topic = log.create_topic("t", small().timestamps(TimestampType::Append)).unwrap();
    assert!(matches!(log.create_topic("t", small()), Err(LogError::TopicExists { .. })));
    topic.append("x").unwrap().wait().unwrap();
    let id = topic.describe().id;
    assert!(log.alter_topic("t", small().partitions(3)).unwrap().partitions() == 3);
    assert!(log.alter_topic("t", small().partitions(2)).is_err());
    assert!(matches!(
        topic.append_to(3, Level::Written, "x"),
        Err(LogError::UnknownPartition { .. })
    ));
    drop(topic);
    log.close().unwrap();
    let log = open(&storage);
    let topic = log.topic("t").unwrap();
    assert_eq!((topic.partitions(), topic.describe().id), (3, id));
    assert_eq!(values(&log, "t", 0), ["x"]);
    log.delete_topic("t").unwrap();
    assert!(matches!(topic.append("y"), Err(LogError::TopicDeleted { .. })));
    assert!(log.topics().is_empty());
    assert!(matches!(log.topic("t"), Err(LogError::UnknownTopic { .. })));
    log.create_topic("t", small()).unwrap();
    assert!(values(&log, "t", 0).is_empty());
    drop(topic);
    log.close().unwrap();
    assert_eq!(open(&storage).topics(), ["t"]);
}

#[test]
fn a_follower_gets_every_record_while_they_are_appended() {
    let log = open(&MemoryStorage::new());
    let topic = log.create_topic("t", small()).unwrap();
    let mut follow = topic.read(0, Position::Earliest).unwrap().follow();
    let (sender, receiver) = mpsc::channel();
    let follower = thread::spawn(move || {
        for record in follow.by_ref().take(300) {
            sender.send(record.unwrap().offset).unwrap();
        }
        follow
    });
    for n in 0..300 {
        // Nobody waits for the tickets: the follower's waiting is what gets them written.
        drop(topic.append_at(Level::Written, &format!("{n}")).unwrap());
        if n % 50 == 0 {
            assert!(receiver.recv().unwrap() <= n);
        }
    }
    let mut follow = follower.join().unwrap();
    assert_eq!(follow.reader().next_offset(), 300);
    drop(topic);
    log.close().unwrap();
    assert!(follow.next().is_none(), "a closed log ends the iteration");
}

#[test]
fn tasks_wait_for_tickets_and_for_records() {
    let log = open(&MemoryStorage::new());
    let topic = log.create_topic("t", small()).unwrap();
    let mut follow = topic.read(0, Position::Latest).unwrap().follow();
    let appender = {
        let topic = topic.clone();
        thread::spawn(move || {
            block_on(async {
                for n in 0..50i64 {
                    let level = if n % 2 == 0 { Level::Durable } else { Level::Written };
                    assert_eq!(topic.append_at(level, "x").unwrap().await.unwrap(), n);
                }
            });
        })
    };
    block_on(async {
        for n in 0..50 {
            assert_eq!(follow.next_async().await.unwrap().unwrap().offset, n);
        }
    });
    appender.join().unwrap();
}

#[test]
fn a_reader_in_another_process_sees_what_is_written_through_rolls_and_cuts() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    topic.append("0").unwrap().wait().unwrap();
    let options = || Log::options().storage(Arc::new(storage.clone()));
    let other = options().open_read_only("/log").unwrap();
    let other_topic = other.topic("t").unwrap();
    assert!(matches!(other_topic.append("x"), Err(LogError::ReadOnly)));
    assert!(other.create_topic("u", small()).is_err());
    let mut reader = other_topic.read(0, Position::Earliest).unwrap();
    let mut follow = other_topic.read(0, Position::Earliest).unwrap().follow();
    for n in 0..100 {
        if n > 0 {
            topic.append_at(Level::Written, &format!("{n}")).unwrap().wait().unwrap();
        }
        assert_eq!(reader.next().unwrap().unwrap().value.unwrap(), format!("{n}"));
        assert!(reader.next().is_none());
        assert_eq!(follow.next().unwrap().unwrap().offset, n);
    }
    topic.truncate_front(0, 90).unwrap();
    other.refresh().unwrap();
    let earliest = other_topic.describe().partitions[0].earliest;
    assert!((1..=90).contains(&earliest), "{earliest}");
    let fresh = options().open_read_only("/log").unwrap();
    assert_eq!(values(&fresh, "t", 0).first().unwrap(), "90");
    topic.append("on").unwrap().wait().unwrap();
    assert_eq!(reader.next().unwrap().unwrap().value.unwrap(), "on");
}

#[test]
fn times_are_the_records_own_or_those_of_the_append() {
    let storage = MemoryStorage::new();
    let clock = Arc::new(ManualClock::new(500));
    let options = Log::options().storage(Arc::new(storage)).clock(clock.clone()).linger(None);
    let log = options.open("/log").unwrap();
    let own = log.create_topic("own", small()).unwrap();
    let appended = log.create_topic("appended", small().timestamps(TimestampType::Append)).unwrap();
    let record = NewRecord::new("x").timestamp_ms(9);
    let time = |topic: &peermq::log::Topic, offset| {
        let mut reader = topic.read(0, Position::Offset(offset)).unwrap();
        reader.next().unwrap().unwrap().timestamp_ms
    };
    own.append(record).unwrap().wait().unwrap();
    own.append("x").unwrap().wait().unwrap();
    appended.append(record).unwrap().wait().unwrap();
    assert_eq!((time(&own, 0), time(&own, 1), time(&appended, 0)), (9, 500, 500));
    clock.set(700);
    own.append("x").unwrap().wait().unwrap();
    assert_eq!(time(&own, 2), 700);
}

#[test]
fn real_files_and_codecs_work_the_same() {
    let name = format!("peermq-log-use-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let _ = std::fs::remove_dir_all(&directory);
    let codecs = Codec::ALL.into_iter().filter(|codec| codec.is_available());
    for codec in codecs.clone() {
        let log = Log::open(&directory).unwrap();
        let topic = log.create_topic(codec.name(), small().codec(codec)).unwrap();
        for n in 0..100 {
            drop(topic.append(&format!("{n}")).unwrap());
        }
        drop(topic);
        log.close().unwrap();
    }
    let log = Log::open(&directory).unwrap();
    for codec in codecs {
        let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(values(&log, codec.name(), 0), expected, "{codec:?}");
    }
    log.close().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_reader_of_durable_records_stops_where_they_end() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("durable").unwrap().wait().unwrap();
    for value in ["written", "written too"] {
        topic.append_at(Level::Written, value).unwrap().wait().unwrap();
    }
    let mut reader = topic.read(0, Position::Earliest).unwrap().durable_only();
    assert_eq!(reader.next().unwrap().unwrap().offset, 0);
    assert!(reader.next().is_none(), "what is behind it may be lost yet");
    log.sync().unwrap();
    assert_eq!(reader.map(|record| record.unwrap().offset).collect::<Vec<_>>(), [1, 2]);
}
