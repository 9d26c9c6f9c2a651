//! Durable work queues: each record goes to one worker at a time, and what is acknowledged never comes again.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use harness::{SOON, TRANSPORTS, wait_until};
use peermq::Context;
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, Storage};
use peermq::log::{
    Delivery, DeliveryId, DurableQueue, Level, Log, LogClient, LogServer, ManualClock, NewRecord,
    Position, QueueError, QueueOptions, RemoteCode, TopicOptions,
};

const LOCK: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

fn open(storage: &(impl Storage + Clone + 'static), clock: &Arc<ManualClock>) -> Log {
    Log::options().storage(Arc::new(storage.clone())).clock(clock.clone()).open("/log").unwrap()
}

/// A log with the topic `jobs` on a clock that stands still.
fn fresh(partitions: u32) -> (MemoryStorage, Arc<ManualClock>, Log) {
    let (storage, clock) = (MemoryStorage::new(), Arc::new(ManualClock::new(1_000)));
    let log = open(&storage, &clock);
    log.create_topic("jobs", TopicOptions::default().partitions(partitions)).unwrap();
    log.create_topic("dead", TopicOptions::default()).unwrap();
    (storage, clock, log)
}

fn append(log: &Log, jobs: std::ops::Range<usize>) {
    let topic = log.topic("jobs").unwrap();
    for job in jobs {
        topic.append(&job.to_string()).unwrap().wait().unwrap();
    }
}

fn queue(log: &Log, options: QueueOptions) -> DurableQueue {
    options.open(log, "q", "jobs").unwrap()
}

fn job(delivery: &Delivery) -> usize {
    std::str::from_utf8(delivery.record.value.as_deref().unwrap()).unwrap().parse().unwrap()
}

fn jobs(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries.iter().map(job).collect()
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[test]
fn a_record_is_delivered_once_until_its_lock_is_over_and_never_after_its_acknowledgement() {
    let (_storage, clock, log) = fresh(1);
    append(&log, 0..3);
    let queue = queue(&log, DurableQueue::options());
    let first = queue.acquire(2, LOCK, NOW).unwrap();
    assert_eq!(jobs(&first), [0, 1]);
    assert_eq!(jobs(&queue.acquire(9, LOCK, NOW).unwrap()), [2]);
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty());
    queue.ack(&[first[0].id]).unwrap();
    clock.advance(29_999);
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty());
    clock.advance(1);
    let again = queue.acquire(9, LOCK, NOW).unwrap();
    assert_eq!(jobs(&again), [1, 2]);
    assert_eq!(again[0].id.attempt, 2);
    let late = queue.ack(&[first[1].id]).unwrap_err();
    assert!(matches!(late, QueueError::LockLost { partition: 0, offset: 1, .. }), "{late}");
    queue.ack(&ids(&again)).unwrap();
    clock.advance(1_000_000);
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty());
    let stats = queue.stats();
    assert_eq!((stats.delivered, stats.redelivered, stats.acknowledged), (5, 2, 3));
}

#[test]
fn a_renewed_lock_lasts_and_a_released_record_goes_to_the_next_worker_at_once() {
    let (_storage, clock, log) = fresh(1);
    append(&log, 0..2);
    let queue = queue(&log, DurableQueue::options());
    let got = queue.acquire(2, LOCK, NOW).unwrap();
    clock.advance(20_000);
    queue.renew(&[got[0].id], LOCK).unwrap();
    queue.release(&[got[1].id]).unwrap();
    assert_eq!(jobs(&queue.acquire(9, LOCK, NOW).unwrap()), [1]);
    clock.advance(20_000);
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty(), "the renewed lock holds");
    queue.ack(&[got[0].id]).unwrap();
    assert!(queue.release(&[got[1].id]).is_err(), "somebody else has it");
}

#[test]
fn what_fails_too_often_or_is_rejected_goes_to_the_dead_letters_with_its_origin() {
    let (_storage, clock, log) = fresh(1);
    append(&log, 0..2);
    let queue = queue(&log, DurableQueue::options().attempts_max(2).dead_letters("dead"));
    let got = queue.acquire(1, LOCK, NOW).unwrap();
    queue.reject(&ids(&got)).unwrap();
    for attempt in 1..=2 {
        let got = queue.acquire(9, LOCK, NOW).unwrap();
        assert_eq!((jobs(&got), got[0].id.attempt), (vec![1], attempt));
        clock.advance(30_000);
    }
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty());
    assert_eq!(queue.stats().dead, 2);
    let dead = log.topic("dead").unwrap().read(0, Position::Earliest).unwrap();
    let found: Vec<(Vec<u8>, BTreeMap<String, String>)> = dead
        .map(|record| {
            let record = record.unwrap();
            let header = |header: &peermq::log::format::Header| {
                let value = header.value.as_deref().unwrap_or_default();
                (header.key.clone(), String::from_utf8(value.to_vec()).unwrap())
            };
            (record.value.unwrap().to_vec(), record.headers.iter().map(header).collect())
        })
        .collect();
    assert_eq!(found.len(), 2);
    for (n, (value, headers)) in found.iter().enumerate() {
        assert_eq!(value, n.to_string().as_bytes());
        assert_eq!(headers["peermq.origin.topic"], "jobs");
        assert_eq!(headers["peermq.origin.offset"], n.to_string());
        assert_eq!(headers["peermq.reason"], ["rejected", "attempts"][n]);
        assert_eq!(headers["peermq.attempts"], ["1", "2"][n]);
    }
}

#[test]
fn only_durable_records_are_delivered() {
    let storage = FaultyStorage::new();
    let clock = Arc::new(ManualClock::new(1_000));
    let log = Log::options()
        .storage(Arc::new(storage.clone()))
        .clock(clock.clone())
        .linger(None)
        .open("/log")
        .unwrap();
    let topic = log.create_topic("jobs", TopicOptions::default()).unwrap();
    let queue = queue(&log, DurableQueue::options());
    topic.append_at(Level::Written, "0").unwrap().wait().unwrap();
    let partition = || topic.describe_partition(0).unwrap();
    assert_eq!((partition().end, partition().durable_end), (1, 0));
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty(), "it may be lost, and its offset used");
    // Who waits sees to it that it becomes durable.
    assert_eq!(jobs(&queue.acquire(9, LOCK, SOON).unwrap()), [0]);
    assert_eq!(partition().durable_end, 1);
}

#[test]
fn after_a_kill_what_was_acknowledged_is_gone_and_what_was_locked_comes_with_its_attempts() {
    let storage = FaultyStorage::new();
    let clock = Arc::new(ManualClock::new(1_000));
    let log = open(&storage, &clock);
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    append(&log, 0..10);
    let queue = queue(&log, DurableQueue::options());
    let got = queue.acquire(6, LOCK, NOW).unwrap();
    queue.ack(&[got[0].id, got[3].id]).unwrap();
    queue.release(&[got[5].id]).unwrap();
    for survivor in [storage.kill(), storage.power_cut(7).storage()] {
        let log = open(&survivor, &clock);
        let queue = DurableQueue::options().open(&log, "q", "jobs").unwrap();
        let again = queue.acquire(99, LOCK, NOW).unwrap();
        assert_eq!(jobs(&again), [1, 2, 4, 5, 6, 7, 8, 9], "acknowledged ones are gone for good");
        for delivery in again {
            let before = if job(&delivery) <= 5 { 1 } else { 0 };
            assert!(delivery.id.attempt <= before + 1);
        }
    }
    let log = open(&storage.kill(), &clock);
    let queue = DurableQueue::options().open(&log, "q", "jobs").unwrap();
    let attempts: Vec<u32> =
        queue.acquire(99, LOCK, NOW).unwrap().iter().map(|delivery| delivery.id.attempt).collect();
    assert_eq!(attempts, [2, 2, 2, 2, 1, 1, 1, 1], "a kill forgets no attempt");
}

#[test]
fn every_power_cut_leaves_what_was_acknowledged_acknowledged() {
    let storage = FaultyStorage::new();
    let clock = Arc::new(ManualClock::new(1_000));
    let log = open(&storage, &clock);
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    append(&log, 0..12);
    let queue = queue(&log, DurableQueue::options());
    // How many operations had been done when so many records were acknowledged.
    let mut acknowledged = vec![(storage.recorded(), Vec::new())];
    for _ in 0..4 {
        let got = queue.acquire(3, LOCK, NOW).unwrap();
        queue.ack(&[got[2].id, got[0].id]).unwrap();
        let mut all = acknowledged.last().unwrap().1.clone();
        all.extend([job(&got[2]), job(&got[0])]);
        acknowledged.push((storage.recorded(), all));
    }
    for seed in 0..200 {
        let image = storage.power_cut(seed);
        let before = acknowledged.iter().rev().find(|(at, _)| *at <= image.crash_point());
        let Some((_, gone)) = before else { continue };
        let log = open(&image.storage(), &clock);
        let queue = DurableQueue::options().open(&log, "q", "jobs").unwrap();
        let left = jobs(&queue.acquire(99, LOCK, NOW).unwrap());
        assert!(gone.iter().all(|job| !left.contains(job)), "{gone:?} {left:?} seed {seed}");
        let at_most_gone = &acknowledged.last().unwrap().1;
        let kept = (0..12).filter(|job| !at_most_gone.contains(job));
        assert!(kept.into_iter().all(|job| left.contains(&job)), "lost one: {left:?} seed {seed}");
    }
}

#[test]
fn the_journal_stays_short_and_forgets_nothing() {
    let (storage, clock, mut log) = fresh(2);
    append(&log, 0..3000);
    let mut seen = BTreeMap::new();
    while seen.len() < 3000 {
        let queue = queue(&log, DurableQueue::options().window(64));
        for _ in 0..200 {
            let got = queue.acquire(3, LOCK, NOW).unwrap();
            // Out of order, one by one.
            for delivery in got.iter().rev() {
                *seen.entry(job(delivery)).or_insert(0) += 1;
                queue.ack(&[delivery.id]).unwrap();
            }
        }
        drop(queue);
        log.close().unwrap();
        log = open(&storage, &clock);
    }
    assert!(seen.values().all(|times| *times == 1), "each was delivered once");
}

#[test]
fn workers_that_wait_get_records_in_turn() {
    let (_storage, _clock, log) = fresh(1);
    let queue = queue(&log, DurableQueue::options());
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut workers = Vec::new();
    for worker in 0..4 {
        let (queue, order) = (queue.clone(), Arc::clone(&order));
        let before = queue.stats().waiting;
        let waiting = queue.clone();
        workers.push(thread::spawn(move || {
            let got = queue.acquire(100, LOCK, SOON).unwrap();
            order.lock().unwrap().push((job(&got[0]), worker));
            got.len()
        }));
        wait_until("the worker waits", || waiting.stats().waiting > before);
    }
    append(&log, 0..4);
    for worker in workers {
        assert_eq!(worker.join().unwrap(), 1, "nobody takes all that is there");
    }
    let mut order = order.lock().unwrap().clone();
    order.sort_unstable();
    assert_eq!(order, [(0, 0), (1, 1), (2, 2), (3, 3)]);
    assert!(queue.acquire(1, LOCK, Duration::from_millis(1)).unwrap().is_empty());
    assert_eq!(queue.stats().waiting, 0);
}

#[test]
fn a_worker_that_waits_gets_what_the_window_has_room_for_when_another_one_is_done() {
    let (_storage, _clock, log) = fresh(1);
    append(&log, 0..2);
    let queue = queue(&log, DurableQueue::options().window(1));
    let first = queue.acquire(9, LOCK, NOW).unwrap();
    assert_eq!(jobs(&first), [0]);
    let waiting = queue.clone();
    let long = Duration::from_secs(3600);
    let worker = thread::spawn(move || waiting.acquire(9, LOCK, long).unwrap());
    wait_until("the worker waits", || queue.stats().waiting == 1);
    queue.ack(&ids(&first)).unwrap();
    wait_until("the worker has it", || worker.is_finished());
    assert_eq!(jobs(&worker.join().unwrap()), [1]);
}

#[test]
fn a_record_that_dies_makes_room_in_the_window_for_whoever_looks_then() {
    let (_storage, clock, log) = fresh(1);
    append(&log, 0..3);
    let queue = queue(&log, DurableQueue::options().window(1).attempts_max(1));
    assert_eq!(jobs(&queue.acquire(9, LOCK, NOW).unwrap()), [0]);
    clock.advance(30_000);
    assert_eq!(jobs(&queue.acquire(9, LOCK, NOW).unwrap()), [1]);
}

#[test]
fn of_large_records_only_so_many_bytes_are_read_ahead_and_all_are_delivered() {
    let (_storage, _clock, log) = fresh(2);
    let topic = log.topic("jobs").unwrap();
    for partition in [0, 0, 0, 0, 0, 0, 1, 1] {
        let record = NewRecord::new(&[7; 1000]);
        topic.append_to(partition, Level::Durable, record).unwrap().wait().unwrap();
    }
    let queue = queue(&log, DurableQueue::options().ahead_bytes(3000));
    let mut delivered = queue.acquire(1, LOCK, NOW).unwrap();
    assert_eq!(queue.stats().available, 4, "three of the first partition, two of the second");
    while delivered.len() < 8 {
        let more = queue.acquire(9, LOCK, NOW).unwrap();
        assert!((1..=5).contains(&more.len()), "{}", more.len());
        delivered.extend(more);
    }
    assert!(queue.acquire(9, LOCK, NOW).unwrap().is_empty());
    queue.release(&ids(&delivered)).unwrap();
    let again = queue.acquire(9, LOCK, NOW).unwrap();
    assert_eq!(again.len(), 8, "what was read before is not read again");
}

#[test]
fn a_worker_that_waits_gets_a_record_whose_lock_ends() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    append(&log, 0..1);
    let queue = queue(&log, DurableQueue::options());
    assert_eq!(queue.acquire(1, Duration::from_millis(30), NOW).unwrap().len(), 1);
    let long = Duration::from_secs(3600);
    let worker = thread::spawn(move || queue.acquire(1, LOCK, long).unwrap());
    wait_until("the worker has it", || worker.is_finished());
    assert_eq!(worker.join().unwrap()[0].id.attempt, 2);
}

#[test]
fn workers_over_sockets_share_the_work_and_do_all_of_it() {
    for transport in TRANSPORTS {
        let (_storage, _clock, log) = fresh(2);
        let queue = queue(&log, DurableQueue::options());
        let context = Context::new();
        let options = LogServer::options().queue(&queue);
        let server = options.bind(&context, &log, transport.fresh()).unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let client = LogClient::options()
                    .timeout(SOON)
                    .connect(&context, server.endpoint().clone())
                    .unwrap();
                let done = Arc::clone(&done);
                thread::spawn(move || {
                    let queue = client.queue("q");
                    while done.lock().unwrap().len() < 200 {
                        let wait = Duration::from_millis(100);
                        for delivery in queue.acquire(7, LOCK, wait).unwrap() {
                            queue.ack(&[delivery.id]).unwrap();
                            done.lock().unwrap().push(job(&delivery));
                        }
                    }
                })
            })
            .collect();
        append(&log, 0..200);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let mut done = done.lock().unwrap().clone();
        done.sort_unstable();
        assert_eq!(done, (0..200).collect::<Vec<_>>());
        assert_eq!(queue.stats().redelivered, 0);
    }
}

#[test]
fn a_remote_worker_releases_rejects_renews_and_is_told_when_its_lock_is_lost() {
    let (_storage, clock, log) = fresh(1);
    append(&log, 0..3);
    let local = queue(&log, DurableQueue::options().dead_letters("dead"));
    let context = Context::new();
    let options = LogServer::options().queue(&local);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(SOON);
    let client = client.connect(&context, server.endpoint().clone()).unwrap();
    let error = client.queue("nothing").acquire(1, LOCK, NOW).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownQueue));
    let queue = client.queue("q");
    let got = queue.acquire(3, LOCK, SOON).unwrap();
    assert_eq!(jobs(&got), [0, 1, 2]);
    queue.reject(&[got[0].id]).unwrap();
    queue.release(&[got[1].id]).unwrap();
    clock.advance(20_000);
    queue.renew(&[got[2].id], LOCK).unwrap();
    clock.advance(20_000);
    queue.ack(&[got[2].id]).unwrap();
    let error = queue.ack(&[got[1].id]).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::LockLost));
    assert_eq!(error.remote().unwrap().offset, Some(1));
    assert_eq!(log.topic("dead").unwrap().describe().partitions[0].end, 1);
    assert_eq!(jobs(&queue.acquire(3, LOCK, NOW).unwrap()), [1]);
}

#[test]
fn the_records_of_a_worker_that_died_go_to_another_and_its_wait_is_dropped() {
    let (_storage, clock, log) = fresh(1);
    let local = queue(&log, DurableQueue::options());
    let context = Context::new();
    let options = LogServer::options().queue(&local);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let at = server.endpoint().clone();
    let dying = Context::new();
    let client = LogClient::options().timeout(SOON).connect(&dying, at.clone()).unwrap();
    let waiter = client.clone();
    let waiter = thread::spawn(move || waiter.queue("q").acquire(1, LOCK, SOON));
    wait_until("the worker waits", || local.stats().waiting == 1);
    dying.shutdown();
    assert!(waiter.join().unwrap().is_err());
    drop((client, dying));
    wait_until("the wait is dropped", || local.stats().waiting == 0);
    append(&log, 0..1);
    let context = Context::new();
    let first =
        LogClient::options().timeout(SOON).connect(&context, at.clone()).unwrap().queue("q");
    assert_eq!(first.acquire(1, LOCK, SOON).unwrap()[0].id.attempt, 1);
    drop((first, context));
    clock.advance(30_000);
    let context = Context::new();
    let second = LogClient::options().timeout(SOON).connect(&context, at).unwrap().queue("q");
    let got = second.acquire(1, LOCK, SOON).unwrap();
    assert_eq!(got[0].id.attempt, 2);
    second.ack(&ids(&got)).unwrap();
}

#[test]
fn work_goes_on_over_the_restart_of_the_server() {
    let storage = FaultyStorage::new();
    let clock = Arc::new(ManualClock::new(1_000));
    let at = harness::Transport::Tcp.vacant();
    let log = open(&storage, &clock);
    log.create_topic("jobs", TopicOptions::default()).unwrap();
    append(&log, 0..20);
    let serve = |log: &Log| {
        let context = Context::new();
        let queue = DurableQueue::options().open(log, "q", "jobs").unwrap();
        let server = LogServer::options().queue(&queue).bind(&context, log, &at[..]).unwrap();
        (server, context)
    };
    let first = serve(&log);
    let outer = Context::new();
    let worker = LogClient::options().timeout(SOON).connect(&outer, &at[..]).unwrap().queue("q");
    let got = worker.acquire(8, LOCK, SOON).unwrap();
    worker.ack(&ids(&got[..5])).unwrap();
    // Killed: what it had not written is lost, and nobody says goodbye.
    let survivor = storage.kill();
    drop((first, log));
    let log = open(&survivor, &clock);
    let _second = serve(&log);
    let error = worker.ack(&[got[5].id]).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::LockLost), "locks do not outlive the server");
    let mut rest = worker.acquire(99, LOCK, SOON).unwrap();
    assert_eq!(jobs(&rest), (5..20).collect::<Vec<_>>());
    assert_eq!(rest[0].id.attempt, 2);
    rest.truncate(3);
    worker.ack(&ids(&rest)).unwrap();
}

#[test]
fn partitions_that_are_added_are_worked_on_without_opening_the_queue_anew() {
    let (storage, clock, log) = fresh(1);
    let opened = queue(&log, DurableQueue::options().start(Position::Latest));
    append(&log, 0..1);
    let got = opened.acquire(1, LOCK, SOON).unwrap();
    opened.ack(&ids(&got)).unwrap();
    let waiter = opened.clone();
    let long = Duration::from_secs(3000);
    let waiting = thread::spawn(move || waiter.acquire(1, LOCK, long).unwrap());
    wait_until("the worker waits", || opened.stats().waiting == 1);
    let topic = log.alter_topic("jobs", TopicOptions::default().partitions(3)).unwrap();
    topic.append_to(2, Level::Durable, "7").unwrap().wait().unwrap();
    wait_until("the worker is woken", || waiting.is_finished());
    let got = waiting.join().unwrap();
    assert_eq!((jobs(&got), got[0].id.partition), (vec![7], 2));
    opened.ack(&ids(&got)).unwrap();
    topic.append_to(1, Level::Durable, "8").unwrap().wait().unwrap();
    assert_eq!(jobs(&opened.acquire(9, LOCK, NOW).unwrap()), [8]);
    drop((opened, topic, log));
    // It remembers what was done in them, and what was not.
    let log = open(&storage, &clock);
    let again = queue(&log, DurableQueue::options()).acquire(9, LOCK, NOW).unwrap();
    assert_eq!((jobs(&again), again[0].id.attempt), (vec![8], 2));
}

#[test]
fn a_remote_worker_waits_as_long_as_it_says_though_the_server_lets_nobody_wait_that_long() {
    let (_storage, _clock, log) = fresh(1);
    let queue = queue(&log, DurableQueue::options());
    let context = Context::new();
    let options = LogServer::options().queue(&queue).wait_max(Duration::from_millis(1));
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client =
        LogClient::options().timeout(SOON).connect(&context, server.endpoint().clone()).unwrap();
    let (begun, wait) = (std::time::Instant::now(), Duration::from_millis(100));
    assert!(client.queue("q").acquire(1, LOCK, wait).unwrap().is_empty());
    assert!(begun.elapsed() >= wait);
}
