//! Failures of the medium, seen by those who wait: who hears of them, and what is believed afterwards.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/hooked.rs"]
mod hooked;
#[path = "log/support.rs"]
mod support;

use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use hooked::HookedStorage;
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{Level, Log, LogError, NewRecord, Position, Ticket, TopicOptions};
use support::{DIRECTORY, open, read_all, segments, small, try_open};

/// Longer than anything takes that comes at all.
const HANG: Duration = Duration::from_secs(60);

const FIRST: &str = "z-0/00000000000000000000.log";

fn fails(operation: Operation, path: &str, errno: Errno) -> Fault {
    Fault::at(0, FaultAction::Fail(errno)).of(operation).on(path)
}

/// Tells when it is woken.
struct Told(Mutex<Sender<()>>);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        let _ = self.0.lock().unwrap().send(());
    }
}

fn poll(ticket: &mut Ticket, waker: &Waker) -> Poll<Result<i64, LogError>> {
    Pin::new(ticket).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_the_next_one_of_the_same_file() {
    let faulty = FaultyStorage::new();
    let storage = HookedStorage::new(faulty.clone());
    let log = open(&storage);
    let topic = log.create_topic("z", small()).unwrap();
    let (one, two) = (topic.append("one").unwrap(), topic.append("two").unwrap());
    topic.flush().unwrap();

    faulty.inject(fails(Operation::SyncData, FIRST, Errno::Io));
    let (in_flight, wait_in_flight) = channel();
    let (writing, wait_writing) = channel();
    let (failed, wait_failed) = channel();
    let hooks = storage.clone();
    storage.before(Operation::SyncData, FIRST, move || {
        // Somebody begins to write meanwhile, and is not through before the sync has failed. Then it ends the segment.
        hooks.before(Operation::Write, FIRST, move || {
            writing.send(()).unwrap();
            wait_failed.recv().unwrap();
        });
        in_flight.send(()).unwrap();
        wait_writing.recv().unwrap();
    });
    let leader = thread::spawn(move || {
        let outcome = one.wait();
        failed.send(()).unwrap();
        outcome
    });
    wait_in_flight.recv().unwrap();
    let text = "x".repeat(60);
    let records: Vec<_> = (0..20).map(|_| NewRecord::new(&text)).collect();
    let more = topic.append_all(0, Level::Written, &records).unwrap().unwrap();

    assert!(matches!(leader.join().unwrap(), Err(LogError::Poisoned { .. })));
    assert!(more.wait().is_err(), "it needs that sync too");
    assert!(
        matches!(two.wait(), Err(LogError::Poisoned { .. })),
        "its sync was the one that failed"
    );
    assert_eq!(topic.describe_partition(0).unwrap().durable_end, 0);
}

#[test]
fn after_a_failed_sync_the_tail_is_written_anew_whichever_segment_the_watermark_is_in() {
    let faulty = FaultyStorage::new();
    let log = open(&faulty);
    let topic = log.create_topic("z", TopicOptions::default().segment_bytes(16 << 20)).unwrap();
    let text = vec![b'x'; 1 << 20];
    let append = |level| topic.append_to(0, level, &text).unwrap().wait();
    append(Level::Durable).unwrap();
    // From here on the watermark stays in the first segment.
    faulty.inject(fails(Operation::Write, "durable-watermark", Errno::Io).from_then_on());
    while topic.describe_partition(0).unwrap().segments < 2 {
        append(Level::Written).unwrap();
    }
    for _ in 0..9 {
        append(Level::Written).unwrap();
    }
    faulty.clear_faults();
    faulty.inject(fails(Operation::SyncData, ".log", Errno::Io));
    assert!(append(Level::Durable).is_err());
    let end = topic.describe_partition(0).unwrap().end;

    let opened = open(&faulty.kill());
    let found = opened.topic("z").unwrap().describe_partition(0).unwrap();
    assert_eq!((found.end, found.durable_end), (end, end), "more than is written anew otherwise");
}

#[test]
fn tasks_of_all_partitions_hear_of_a_failure_in_one() {
    let faulty = FaultyStorage::new();
    let storage = HookedStorage::new(faulty.clone());
    let log = open(&storage);
    let topic = log.create_topic("z", small().partitions(2)).unwrap();
    let mut failing = topic.append_to(0, Level::Durable, "zero").unwrap();
    let mut other = topic.append_to(1, Level::Durable, "one").unwrap();
    let mut follow = topic.read(1, Position::Latest).unwrap().follow();

    faulty.inject(fails(Operation::SyncData, FIRST, Errno::Io));
    let (registered, wait_registered) = channel();
    let (reached, wait_reached) = channel();
    let (failed, wait_failed) = channel::<()>();
    let (again, of_other) = (storage.clone(), FIRST.replace("z-0", "z-1"));
    storage.before(Operation::SyncData, FIRST, move || {
        // The other partition may be synced meanwhile, and is not done with that before the failure.
        again.before(Operation::SyncData, &of_other, move || wait_failed.recv().unwrap());
        reached.send(()).unwrap();
        wait_registered.recv().unwrap();
    });
    let wakers = [0, 1, 2]
        .map(|_| channel())
        .map(|(told, wait)| (Waker::from(Arc::new(Told(Mutex::new(told)))), wait));
    let [(first, _), (second, told), (third, follower_told)] = &wakers;
    assert!(poll(&mut failing, first).is_pending());
    wait_reached.recv_timeout(HANG).unwrap();
    assert!(poll(&mut other, second).is_pending());
    assert!(follow.poll_next(&mut Context::from_waker(third)).is_pending());
    registered.send(()).unwrap();

    told.recv_timeout(HANG).unwrap();
    assert!(matches!(poll(&mut other, second), Poll::Ready(Err(LogError::Poisoned { .. }))));
    follower_told.recv_timeout(HANG).unwrap();
    // Nobody is there to take it if that sync was not begun.
    let _ = failed.send(());
}

/// A task that runs at once when it is woken.
struct AtOnce {
    ticket: Mutex<Ticket>,
    outcome: Mutex<Sender<Poll<Result<i64, LogError>>>>,
}

impl Wake for AtOnce {
    fn wake(self: Arc<Self>) {
        let outcome = poll(&mut self.ticket.lock().unwrap(), Waker::noop());
        self.outcome.lock().unwrap().send(outcome).unwrap();
    }
}

#[test]
fn a_task_that_runs_as_soon_as_it_is_woken_finds_that_the_medium_is_full() {
    let faulty = FaultyStorage::new();
    let log = open(&faulty);
    let topic = log.create_topic("z", small()).unwrap();
    topic.append("first").unwrap().wait().unwrap();
    faulty.inject(fails(Operation::Write, FIRST, Errno::NoSpace));
    let ticket = Mutex::new(topic.append("second").unwrap());
    let (outcome, wait_outcome) = channel();
    let task = Arc::new(AtOnce { ticket, outcome: Mutex::new(outcome) });
    let waker = Waker::from(task.clone());
    let first = poll(&mut task.ticket.lock().unwrap(), &waker);
    assert!(first.is_pending());
    let Poll::Ready(Err(error)) = wait_outcome.recv_timeout(HANG).unwrap() else {
        panic!("it is told nothing, and will not be woken again")
    };
    assert!(error.is_full(), "{error}");
}

#[test]
fn what_another_process_may_have_read_stays_when_the_medium_is_full() {
    let faulty = FaultyStorage::new();
    let storage = HookedStorage::new(faulty.clone());
    let log = open(&storage);
    let topic = log.create_topic("z", TopicOptions::default().batch_bytes(64)).unwrap();
    topic.append("first").unwrap().wait().unwrap();
    let other = Log::options().storage(Arc::new(faulty.clone())).open_read_only(DIRECTORY).unwrap();
    let mut reader = other.topic("z").unwrap().read(0, Position::Earliest).unwrap();
    let mut next = move || reader.next().map(|record| record.unwrap().value.unwrap());
    assert_eq!(next().unwrap(), "first");

    // Half of what is written in one call: the shorter batch, and a part of the longer one.
    let action = FaultAction::ShortWrite(Errno::NoSpace);
    faulty.inject(Fault::at(0, action).of(Operation::Write).on(FIRST));
    let (seen, wait_seen) = channel();
    storage.before(Operation::SetLen, FIRST, move || {
        seen.send((next(), next)).unwrap();
    });
    let short = topic.append("short").unwrap();
    let long = topic.append("long ".repeat(100).as_str()).unwrap();
    let _ = topic.flush();
    assert_eq!(short.wait().unwrap(), 1);
    assert!(long.wait().unwrap_err().is_full());
    let (meanwhile, mut next) = wait_seen.recv().unwrap();
    assert_eq!(meanwhile.unwrap(), "short");
    assert_eq!(topic.append("after").unwrap().wait().unwrap(), 2);
    assert_eq!((next().unwrap(), next()), ("after".into(), None));
}

#[test]
fn a_segment_for_which_there_was_no_space_is_not_there_after_a_power_cut() {
    let faulty = FaultyStorage::new();
    let log = open(&faulty);
    let topic = log.create_topic("z", TopicOptions::default().segment_bytes(400)).unwrap();
    let long = "x".repeat(200);
    topic.append(long.as_str()).unwrap().wait().unwrap();
    faulty.inject(fails(Operation::SyncDir, "z-0", Errno::NoSpace));
    assert!(topic.append(long.as_str()).unwrap().wait().unwrap_err().is_full());
    assert_eq!(segments(&faulty).len(), 1);
    topic.append("short").unwrap().wait().unwrap();
    for seed in 0..200 {
        let log = try_open(&faulty.power_cut(seed).storage()).unwrap();
        assert_eq!(read_all(&log, "z", 0).unwrap().len(), 2, "seed {seed}");
    }
}

#[test]
fn closing_makes_all_partitions_durable_though_one_meets_a_full_medium() {
    let faulty = FaultyStorage::new();
    let log = open(&faulty);
    let topic = log.create_topic("z", small().partitions(3)).unwrap();
    for partition in 0..3 {
        drop(topic.append_to(partition, Level::Written, "x").unwrap());
    }
    let mut ticket = topic.append_to(2, Level::Durable, "y").unwrap();
    faulty.inject(fails(Operation::Write, FIRST, Errno::NoSpace));
    assert!(log.close().unwrap_err().is_full());
    assert!(matches!(poll(&mut ticket, Waker::noop()), Poll::Ready(Ok(1))));
    drop(topic);
    faulty.clear_faults();
    let log = open(&faulty.power_cut(1).storage());
    let counts = [0, 1, 2].map(|partition| read_all(&log, "z", partition).unwrap().len());
    assert_eq!(counts, [0, 1, 2]);
}

#[test]
fn what_could_not_be_removed_of_a_front_is_removed_when_that_is_tried_again() {
    let failures = [(Operation::RemoveFile, FIRST), (Operation::SyncDir, "z-0")];
    for (failure, by_hand) in failures.into_iter().flat_map(|one| [(one, true), (one, false)]) {
        let storage = FaultyStorage::new();
        let log = open(&storage);
        let topic = log.create_topic("z", small()).unwrap();
        for _ in 0..30 {
            topic.append_at(Level::Durable, &"x".repeat(90)).unwrap().wait().unwrap();
        }
        let files = segments(&storage).len();
        storage.inject(fails(failure.0, failure.1, Errno::Io).from_then_on());
        for _ in 0..2 {
            topic.truncate_front(0, 20).unwrap_err();
            assert_eq!(topic.describe_partition(0).unwrap().earliest, 20);
        }
        if failure.0 == Operation::RemoveFile {
            assert_eq!(segments(&storage).len(), files, "there would be a gap");
        }
        storage.clear_faults();
        match by_hand {
            true => topic.truncate_front(0, 20).unwrap(),
            false => drop(log.maintain().unwrap()),
        }
        let rest = topic.describe_partition(0).unwrap().segments;
        for seed in 0..8 {
            assert_eq!(segments(&storage.power_cut(seed).storage()).len(), rest);
        }
        // There is nothing left for another time.
        let done = storage.recorded();
        topic.truncate_front(0, 20).unwrap();
        assert_eq!((segments(&storage).len(), storage.recorded()), (rest, done));
    }
}

#[test]
fn a_storage_that_panics_under_the_logs_own_thread_keeps_nobody_waiting_and_nothing_of_it_is_believed()
 {
    let calls =
        [(Operation::Write, FIRST), (Operation::SyncData, FIRST), (Operation::Write, "watermark")];
    for (operation, path) in calls {
        let memory = MemoryStorage::new();
        let storage = HookedStorage::new(memory.clone());
        let log = open(&storage);
        let topic = log.create_topic("z", TopicOptions::default()).unwrap();
        topic.append("first").unwrap().wait().unwrap();
        storage.before(operation, path, || {
            assert_eq!(thread::current().name(), Some("peermq-log"));
            panic!("a planned one");
        });
        let (told, wait) = channel();
        let waker = Waker::from(Arc::new(Told(Mutex::new(told))));
        let mut second = topic.append("second").unwrap();
        let outcome = loop {
            match poll(&mut second, &waker) {
                Poll::Ready(outcome) => break outcome,
                Poll::Pending => wait.recv_timeout(HANG).expect("nobody tells"),
            }
        };
        assert!(storage.is_done());
        let said = format!("{operation} {path}: {outcome:?}");
        assert!(matches!(outcome, Err(LogError::Poisoned { .. })), "{said}");
        let third = topic.append("third").and_then(Ticket::wait);
        assert!(matches!(third, Err(LogError::Poisoned { .. })), "{said}: {third:?}");
        drop((second, topic));
        assert!(log.close().is_err(), "{said}");

        let log = open(&memory);
        let before = read_all(&log, "z", 0).unwrap().len();
        assert!((1..=2).contains(&before), "{said}: {before}");
        let offset = log.topic("z").unwrap().append("fourth").unwrap().wait().unwrap();
        assert_eq!(
            (usize::try_from(offset), read_all(&log, "z", 0).unwrap().len()),
            (Ok(before), before + 1),
            "{said}"
        );
    }
}
