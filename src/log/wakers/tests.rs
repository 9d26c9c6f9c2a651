//! Who is called may do anything: nothing that the caller holds is in the way.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex as StdMutex};
use std::task::{Context, Poll, Wake};
use std::thread;

use super::*;
use crate::log::internal::{OFFSETS, TRANSACTIONS, keyed_options};
use crate::log::partition::Waiters;
use crate::log::storage::MemoryStorage;
use crate::log::{DurableQueue, Level, Log, LogError, OffsetCommit, Position, Topic, TopicOptions};

/// Ends what hangs.
const SOON: Duration = Duration::from_secs(60);

/// A waker that does something, once.
struct Acts(StdMutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Acts {
    fn wake(self: Arc<Self>) {
        let act = self.0.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
    }
}

fn acting(act: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(Acts(StdMutex::new(Some(Box::new(act))))))
}

fn telling<T: Send + 'static>(sender: &Sender<T>, what: T) -> Waker {
    let sender = sender.clone();
    acting(move || sender.send(what).unwrap())
}

/// What `work` returns; a panic if it hangs.
fn within_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = channel();
    thread::spawn(move || done.send(work()));
    wait.recv_timeout(SOON).expect("it hangs, or has panicked")
}

#[test]
fn nobody_is_called_before_the_last_lock_is_given_up() {
    let (sender, receiver) = channel();
    let (first, second) = (Mutex::new(()), Mutex::new(()));
    let one = hold(&first);
    let other = try_hold(&second).unwrap();
    call([telling(&sender, 1), telling(&sender, 2)]);
    drop(one);
    call([telling(&sender, 3)]);
    assert!(receiver.try_recv().is_err());
    drop(other);
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    call([telling(&sender, 4)]);
    assert_eq!(receiver.try_recv(), Ok(4));
}

#[test]
fn who_is_called_finds_the_lock_free_and_may_call_others() {
    within_time(|| {
        let (sender, receiver) = channel();
        let mutex = Arc::new(Mutex::new(0));
        let held = hold(&mutex);
        let own = mutex.clone();
        call([acting(move || {
            let mut held = hold(&own);
            *held += 1;
            call([telling(&sender, *held)]);
        })]);
        drop(held);
        assert_eq!((receiver.try_recv(), *lock(&mutex)), (Ok(1), 1));
    });
}

#[test]
fn a_waker_that_panics_keeps_nobody_from_being_called_and_hits_nobody() {
    let (sender, receiver) = channel();
    let panics = || acting(|| panic!("a planned one"));
    call([panics(), telling(&sender, 1)]);
    let mutex = Mutex::new(());
    let held = hold(&mutex);
    call([panics(), telling(&sender, 2)]);
    drop(held);
    let held = hold(&mutex);
    call([panics(), telling(&sender, 3)]);
    hand_over();
    assert_eq!(receiver.recv_timeout(SOON), Ok(1));
    assert_eq!(receiver.recv_timeout(SOON), Ok(2));
    assert_eq!(receiver.recv_timeout(SOON), Ok(3));
    drop(held);
}

#[test]
fn those_who_are_handed_over_wait_neither_for_the_lock_nor_for_each_other() {
    let (sender, receiver) = channel();
    let mutex = Mutex::new(());
    let _held = hold(&mutex);
    let mut stuck = Vec::new();
    for number in 0..5 {
        let (release, released): (Sender<()>, Receiver<()>) = channel();
        let sender = sender.clone();
        call([acting(move || {
            sender.send(number).unwrap();
            // Until the test lets it go on.
            let _ = released.recv();
        })]);
        hand_over();
        assert_eq!(receiver.recv_timeout(SOON), Ok(number));
        stuck.push(release);
    }
}

/// A log with a topic `t` of small segments, and one `own`.
fn log() -> Log {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default().segment_bytes(1 << 14)).unwrap();
    log.create_topic("own", TopicOptions::default()).unwrap();
    // The log's own topics are there from now on.
    let mut transaction = log.transaction();
    transaction.append("t", "first").unwrap();
    let _ = transaction.commit().unwrap();
    log
}

/// Whatever takes locks.
fn do_everything(log: &Log) {
    if let Ok(topic) = log.topic("t") {
        topic.append_at(Level::Durable, "more").unwrap().wait().unwrap();
    }
    let mut transaction = log.transaction();
    transaction.append("own", "x").unwrap();
    let _ = transaction.commit().unwrap();
    let _ = log.group("g").unwrap().describe().unwrap();
    log.create_topic("made", TopicOptions::default()).unwrap();
    log.topic("own").unwrap().truncate_front(0, 1).unwrap();
    log.delete_topic("made").unwrap();
    log.maintain().unwrap();
    log.sync().unwrap();
}

/// Has somebody who does everything called by `work`, who waits where `place` says.
fn all_can_be_done_by_who_is_called(
    place: impl Fn(&Log) -> Place + Send + 'static,
    work: impl FnOnce(&Log) + Send + 'static,
) {
    let (sender, receiver) = channel();
    let all = move || {
        let log = log();
        let place = place(&log);
        let other = log.clone();
        let waker = acting(move || {
            let held = HELD.get();
            do_everything(&other);
            sender.send(held).unwrap();
        });
        let waiters = place.0(&place.1);
        waiters.register(waiters.id(), &waker);
        drop(waker);
        work(&log);
    };
    within_time(all);
    assert_eq!(receiver.recv_timeout(SOON), Ok(0), "it was called under a lock");
}

/// Where somebody waits.
struct Place(fn(&Topic) -> &Waiters, Topic);

/// Who waits for written records of a topic, the log's own among them.
fn written(log: &Log, topic: &str) -> Place {
    let inner = log.inner.find_topic(topic).unwrap();
    Place(|topic| &topic.inner.partitions[0].followers, Topic { inner, log: log.inner.clone() })
}

fn durable(log: &Log, topic: &str) -> Place {
    Place(|topic| &topic.inner.partitions[0].durables, written(log, topic).1)
}

fn append(log: &Log, level: Level) {
    let value = vec![b'v'; 10_000];
    log.topic("t").unwrap().append_at(level, &value).unwrap().wait().unwrap();
}

#[test]
fn who_waits_for_written_records_may_do_anything_when_called() {
    all_can_be_done_by_who_is_called(|log| written(log, "t"), |log| append(log, Level::Written));
}

#[test]
fn who_waits_for_records_may_do_anything_when_called_by_who_syncs_them() {
    all_can_be_done_by_who_is_called(|log| written(log, "t"), |log| append(log, Level::Durable));
    all_can_be_done_by_who_is_called(|log| durable(log, "t"), |log| append(log, Level::Durable));
}

#[test]
fn who_waits_may_do_anything_when_called_because_a_segment_is_full() {
    // The second record needs another segment, so the first becomes durable.
    all_can_be_done_by_who_is_called(
        |log| {
            append(log, Level::Written);
            durable(log, "t")
        },
        |log| append(log, Level::Written),
    );
}

#[test]
fn who_waits_may_do_anything_when_called_by_a_transaction() {
    let commit = |log: &Log| {
        let mut transaction = log.transaction();
        transaction.append("t", "x").unwrap();
        let _ = transaction.commit().unwrap();
    };
    all_can_be_done_by_who_is_called(|log| written(log, "t"), commit);
    all_can_be_done_by_who_is_called(|log| written(log, TRANSACTIONS), commit);
}

#[test]
fn who_waits_may_do_anything_when_called_because_the_topic_is_deleted() {
    all_can_be_done_by_who_is_called(|log| written(log, "t"), |log| log.delete_topic("t").unwrap());
}

#[test]
fn who_waits_may_do_anything_when_called_by_what_a_group_notes() {
    all_can_be_done_by_who_is_called(
        |log| {
            log.inner.internal_topic(OFFSETS, keyed_options()).unwrap();
            written(log, OFFSETS)
        },
        |log| log.group("g").unwrap().set_offsets(&[OffsetCommit::new("t", 0, 1)]).unwrap(),
    );
}

#[test]
fn who_waits_may_do_anything_when_called_by_what_a_queue_notes() {
    let open = |log: &Log| DurableQueue::options().open(log, "q", "t").unwrap();
    all_can_be_done_by_who_is_called(
        move |log| {
            drop(open(log));
            written(log, "__queue.q")
        },
        move |log| {
            let delivered = open(log).acquire(1, SOON, SOON).unwrap();
            assert_eq!(delivered.len(), 1);
        },
    );
}

/// A follower that waits, and whose waker has the last handle of the log once everything else is dropped.
fn the_log_is_closed_by_the_waker_that_has_it(level: Level, last: impl FnOnce(Topic)) {
    let storage = Arc::new(MemoryStorage::new());
    let options = move || Log::options().storage(storage.clone()).maintenance_interval(None);
    let log = options().open("/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("first").unwrap().wait().unwrap();
    let reader = topic.read(0, Position::Latest).unwrap();
    let reader = if level == Level::Durable { reader.durable_only() } else { reader };
    let mut follow = reader.follow();
    let (sender, receiver) = channel();
    let waker = acting(move || {
        drop(log);
        sender.send(()).unwrap();
    });
    assert!(matches!(follow.poll_next(&mut Context::from_waker(&waker)), Poll::Pending));
    drop(waker);
    last(topic);
    receiver.recv_timeout(SOON).expect("the last handle is not dropped, or never was");
    // Closed by that, or by who had a part of the log just then.
    let log = within_time(move || {
        loop {
            match options().open("/log") {
                Ok(log) => return log,
                Err(LogError::Locked { .. }) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(log.topic("t").unwrap().describe().partitions[0].end, 2);
}

#[test]
fn the_keeper_closes_a_log_whose_last_handle_is_with_the_waker_that_it_calls() {
    for level in [Level::Written, Level::Durable] {
        the_log_is_closed_by_the_waker_that_has_it(level, |topic| {
            drop(topic.append_at(Level::Buffered, "second").unwrap());
        });
    }
}

#[test]
fn a_ticket_that_outlives_its_log_closes_it_by_the_waker_that_it_calls() {
    for level in [Level::Written, Level::Durable] {
        the_log_is_closed_by_the_waker_that_has_it(level, |topic| {
            let ticket = topic.append_at(level, "second").unwrap();
            drop(topic);
            within_time(|| ticket.wait()).unwrap();
        });
    }
}

#[test]
fn a_log_is_closed_while_the_keeper_calls_somebody_who_wants_its_locks() {
    let (in_waker, waits) = channel();
    let (done, is_done) = channel();
    let log = log();
    let own = log.clone();
    let waker = acting(move || {
        in_waker.send(thread::current().name().map(str::to_owned)).unwrap();
        while !own.inner.shared.closed.load(std::sync::atomic::Ordering::SeqCst) {
            thread::yield_now();
        }
        done.send(own.maintain()).unwrap();
    });
    let topic = log.create_topic("u", TopicOptions::default()).unwrap();
    let mut ticket = Box::pin(topic.append_at(Level::Durable, "v").unwrap());
    assert!(ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert_eq!(waits.recv_timeout(SOON).unwrap().as_deref(), Some("peermq-log"));
    within_time(move || log.close()).unwrap();
    assert!(matches!(is_done.recv_timeout(SOON).unwrap(), Err(LogError::Closed)));
}
