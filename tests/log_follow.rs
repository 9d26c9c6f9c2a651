//! Following records until they are durable: whoever waits for that has it done, once, and keeps no appender waiting.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::pin::pin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{Follow, Level, Log, LogError, MemberOptions, Position, Topic, TopicOptions};
use support::{DIRECTORY, open, small};

/// Longer than anything takes here, so that a test that would wait for ever fails.
const LONG: Duration = Duration::from_secs(60);

/// Wakes a thread.
struct Unparker(thread::Thread);

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unparker(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn follow(topic: &Topic) -> Follow {
    topic.read(0, Position::Earliest).unwrap().durable_only().follow()
}

/// Follows in a thread of its own; what it gets are offsets, until the follower ends.
fn offsets(mut follow: Follow, as_task: bool) -> Receiver<i64> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let next = if as_task { block_on(follow.next_async()) } else { follow.next() };
            let Some(record) = next else { return };
            if sender.send(record.unwrap().offset).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Logs with and without a thread of their own.
fn logs() -> [Log; 2] {
    let quiet = Log::options().maintenance_interval(None);
    let storage = || Arc::new(MemoryStorage::new());
    [
        quiet.clone().linger(None).storage(storage()).open(DIRECTORY).unwrap(),
        quiet.storage(storage()).open(DIRECTORY).unwrap(),
    ]
}

#[test]
fn who_follows_durable_records_gets_those_that_nobody_else_has_synced() {
    for (log, as_task) in logs().into_iter().flat_map(|log| [(log.clone(), false), (log, true)]) {
        for level in [Level::Written, Level::Buffered] {
            let name = format!("{}-{as_task}", level.name());
            let topic = log.create_topic(&name, TopicOptions::default().level(level)).unwrap();
            let _before = topic.append("before it follows").unwrap().wait().unwrap();
            let received = offsets(follow(&topic), as_task);
            assert_eq!(received.recv_timeout(LONG), Ok(0), "{name}");
            for n in 1..100 {
                let _offset = topic.append("x").unwrap().wait().unwrap();
                if n % 10 == 0 {
                    for expected in n - 9..=n {
                        assert_eq!(received.recv_timeout(LONG), Ok(expected), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_member_that_reads_durable_records_gets_those_that_nobody_else_has_synced() {
    for log in logs() {
        let topic = log.create_topic("t", TopicOptions::default().level(Level::Written)).unwrap();
        let options = MemberOptions::new(["t"]).durable_only(true);
        let mut member = log.group("g").unwrap().join(options).unwrap();
        for n in 0..20 {
            topic.append("x").unwrap().wait().unwrap();
            let polled = loop {
                let polled = member.poll(LONG).unwrap();
                // The first poll may tell of partitions only.
                if !polled.records.is_empty() || polled.events.is_empty() {
                    break polled;
                }
            };
            assert_eq!(polled.records.len(), 1);
            assert_eq!(polled.records[0].record.offset, n);
        }
    }
}

#[test]
fn each_record_is_synced_once_and_nothing_where_there_is_nothing_to_sync() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let syncs = || storage.calls(Some(Operation::SyncData));
    topic.append("first of this opening").unwrap().wait().unwrap();
    let mut waiting = follow(&topic);
    assert_eq!(waiting.next().unwrap().unwrap().offset, 0);
    let before = syncs();
    let waker = Waker::noop();
    for _ in 0..10 {
        assert!(waiting.next_timeout(Duration::from_millis(1)).unwrap().is_none());
        assert!(waiting.poll_next(&mut Context::from_waker(waker)).is_pending());
    }
    assert_eq!(syncs(), before, "all is durable");
    topic.append_at(Level::Written, "x").unwrap().wait().unwrap();
    assert_eq!(waiting.next().unwrap().unwrap().offset, 1);
    assert_eq!(syncs(), before + 1);
    let received = offsets(waiting, false);
    for n in 2..50 {
        // Whichever of the two syncs it, the other has no need to.
        assert_eq!(topic.append("x").unwrap().wait().unwrap(), n);
        assert_eq!(received.recv_timeout(LONG), Ok(n));
        assert_eq!(syncs(), before + n as u64, "record {n}");
    }
}

#[test]
fn appenders_of_all_levels_and_followers_of_both_kinds_all_come_to_their_end() {
    let [log, _] = logs();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let received = [false, true, false, true].map(|as_task| offsets(follow(&topic), as_task));
    let begin = Barrier::new(6);
    thread::scope(|scope| {
        for thread in 0..6 {
            let (topic, begin) = (&topic, &begin);
            scope.spawn(move || {
                let levels = [Level::Buffered, Level::Written, Level::Durable];
                begin.wait();
                for n in 0..100 {
                    let level = levels[(thread + n) % 3];
                    let _offset = topic.append_at(level, "x").unwrap().wait().unwrap();
                }
            });
        }
    });
    for received in received {
        for n in 0..600 {
            assert_eq!(received.recv_timeout(LONG), Ok(n));
        }
    }
}

/// A log with a topic of one record, and what a follower of it gets behind that.
fn followed(storage: &FaultyStorage, as_task: bool) -> (Log, Topic, Receiver<i64>) {
    let log = open(storage);
    let options = TopicOptions::default().level(Level::Written);
    let topic = log.create_topic("t", options).unwrap();
    topic.append("x").unwrap().wait().unwrap();
    let received = offsets(follow(&topic), as_task);
    assert_eq!(received.recv_timeout(LONG), Ok(0));
    (log, topic, received)
}

fn assert_ended(received: &Receiver<i64>) {
    assert_eq!(received.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn following_ends_with_the_log_or_the_topic_and_not_before_everything_was_read() {
    for as_task in [false, true] {
        let storage = FaultyStorage::new();
        let (log, topic, received) = followed(&storage, as_task);
        for _ in 0..100 {
            drop(topic.append_at(Level::Buffered, "x").unwrap());
        }
        drop(topic);
        log.close().unwrap();
        for n in 1..101 {
            assert_eq!(received.recv_timeout(LONG), Ok(n));
        }
        assert_ended(&received);

        let (log, _topic, received) = followed(&FaultyStorage::new(), as_task);
        log.delete_topic("t").unwrap();
        assert_ended(&received);
    }
}

#[test]
fn following_ends_when_what_is_written_can_not_be_synced() {
    for as_task in [false, true] {
        let storage = FaultyStorage::new();
        let (log, topic, received) = followed(&storage, as_task);
        storage.inject(Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::SyncData));
        drop(topic.append("never durable").unwrap());
        assert_ended(&received);
        assert!(matches!(topic.append("more"), Err(LogError::Poisoned { .. })));
        drop(topic);
        assert!(log.close().is_err());
    }
}

#[test]
fn who_reads_what_is_durable_in_another_process_gets_it_when_it_is() {
    follow_elsewhere(false);
    follow_elsewhere(true);
}

fn follow_elsewhere(as_task: bool) {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    let elsewhere = Log::options().storage(Arc::new(storage.clone()));
    let there = elsewhere.clone().open_read_only(DIRECTORY).unwrap().topic("t").unwrap();
    // Nobody reads in this one.
    let described = elsewhere.open_read_only(DIRECTORY).unwrap();
    let mut durable = there.read(0, Position::Earliest).unwrap().durable_only();
    let mut written = there.read(0, Position::Earliest).unwrap();
    let received = offsets(follow(&there), as_task);
    let (mut followed, mut only_written) = (0, 0);
    for round in 0..20 {
        // Segments end in some rounds, and what they have is durable then.
        for _ in 0..=round % 3 {
            drop(topic.append_at(Level::Buffered, &"x".repeat(90)).unwrap());
        }
        topic.flush().unwrap();
        let ends = topic.describe_partition(0).unwrap();
        only_written += ends.end - ends.durable_end;
        described.refresh().unwrap();
        let seen = described.topic("t").unwrap().describe_partition(0).unwrap();
        assert_eq!((seen.durable_end, seen.end), (ends.durable_end, ends.end));
        durable.by_ref().for_each(|record| drop(record.unwrap()));
        written.by_ref().for_each(|record| drop(record.unwrap()));
        assert_eq!((durable.next_offset(), written.next_offset()), (ends.durable_end, ends.end));
        topic.sync().unwrap();
        durable.by_ref().for_each(|record| drop(record.unwrap()));
        assert_eq!(durable.next_offset(), ends.end);
        for offset in followed..ends.end {
            assert_eq!(received.recv_timeout(LONG), Ok(offset));
        }
        followed = ends.end;
    }
    assert!(only_written > 0);
    assert!(topic.describe_partition(0).unwrap().segments > 3);
    // Whoever follows ends with that.
    drop(received);
    let _last = topic.append("last").unwrap().wait().unwrap();
}

#[test]
fn who_follows_in_another_process_hears_of_records_and_that_the_topic_was_deleted() {
    for as_task in [false, true] {
        let storage = MemoryStorage::new();
        let log = open(&storage);
        let topic = log.create_topic("t", small()).unwrap();
        topic.append("x").unwrap().wait().unwrap();
        let elsewhere = Log::options().storage(Arc::new(storage.clone()));
        let elsewhere = elsewhere.open_read_only(DIRECTORY).unwrap();
        let mut follow =
            elsewhere.topic("t").unwrap().read(0, Position::Earliest).unwrap().follow();
        let (sender, received) = mpsc::channel();
        thread::spawn(move || {
            loop {
                let next = if as_task { block_on(follow.next_async()) } else { follow.next() };
                let last = next.is_none();
                if sender.send(next).is_err() || last {
                    return;
                }
            }
        });
        assert_eq!(received.recv_timeout(LONG).unwrap().unwrap().unwrap().offset, 0);
        // Nobody else looks.
        topic.append("y").unwrap().wait().unwrap();
        assert_eq!(received.recv_timeout(LONG).unwrap().unwrap().unwrap().offset, 1);
        log.delete_topic("t").unwrap();
        let told = received.recv_timeout(LONG).unwrap().unwrap().unwrap_err();
        assert!(matches!(told, LogError::TopicDeleted { .. }), "{told}");
        assert!(received.recv_timeout(LONG).unwrap().is_none(), "and nothing more");
    }
}
