//! What those who wait at a server hear when its log ends, or is another process's.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::wait_until;
use peermq::Context;
use peermq::log::storage::MemoryStorage;
use peermq::log::storage::Operation;
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::{
    DurableQueue, Log, LogClient, LogServer, MemberOptions, PeerError, Position, RemoteCode,
    TopicOptions,
};

/// For what comes in any case.
const LONG: Duration = Duration::from_secs(60);

/// Four who wait for the next record of a log: what each has heard in the end.
fn outcomes(end: impl FnOnce(&FaultyStorage, &Log)) -> Vec<PeerError> {
    let storage = FaultyStorage::new();
    let log = Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("one").unwrap().wait().unwrap();
    let queue = DurableQueue::options().start(Position::Latest).open(&log, "q", "t").unwrap();
    let context = Context::new();
    let server = LogServer::options().queue(&queue);
    let server = server.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client =
        || LogClient::options().timeout(LONG).connect(&context, server.endpoint()).unwrap();

    let mut follower = client().read("t", 0, Position::Earliest).unwrap().follow();
    assert_eq!(follower.next().unwrap().unwrap().offset, 0);
    let mut reader = client().read("t", 0, Position::Latest).unwrap();
    let mut member = client().group("g").join(MemberOptions::new(["t"])).unwrap();
    while member.poll(LONG).unwrap().records.is_empty() {}
    let worker = client().queue("q");
    let mut plain = client().read("t", 0, Position::Earliest).unwrap();
    let waiting = [
        thread::spawn(move || follower.next().unwrap().map(drop)),
        thread::spawn(move || reader.next_timeout(LONG).map(drop)),
        thread::spawn(move || {
            loop {
                member.poll(LONG).map(drop)?;
            }
        }),
        thread::spawn(move || worker.acquire(1, LONG, LONG).map(drop)),
    ];
    wait_until("all of them wait", || queue.stats().waiting == 1 && server.stats().waiting >= 4);
    end(&storage, &log);
    let heard = waiting.into_iter().map(|one| one.join().unwrap().unwrap_err()).collect();
    // Who only reads what is there reads it still, and comes to its end.
    assert_eq!(plain.next().unwrap().unwrap().offset, 0);
    assert!(plain.next().is_none());
    heard
}

#[test]
fn whoever_waits_for_records_hears_that_the_log_was_closed() {
    for error in outcomes(|_, log| log.clone().close().unwrap()) {
        assert_eq!(error.code(), Some(RemoteCode::Closed), "{error}");
    }
}

#[test]
fn whoever_waits_for_records_hears_that_nothing_can_be_appended_any_more() {
    let heard = outcomes(|storage, log| {
        let fault = Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::SyncData);
        storage.inject(fault.on("u-0/00000000000000000000.log"));
        let other = log.create_topic("u", TopicOptions::default()).unwrap();
        other.append("x").unwrap().wait().unwrap_err();
    });
    for error in heard {
        assert_eq!(error.code(), Some(RemoteCode::Poisoned), "{error}");
    }
}

#[test]
fn a_long_poll_ends_with_the_record_that_another_process_has_written() {
    let storage = MemoryStorage::new();
    let log = Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let guest = Log::options().storage(Arc::new(storage)).open_read_only("/log").unwrap();
    let context = Context::new();
    let options = LogServer::options().wait_max(60 * LONG);
    let server = options.bind(&context, &guest, "tcp://127.0.0.1:0").unwrap();
    let raw = context.dealer().connect(server.endpoint().clone()).unwrap();
    for durable_only in [0, 1] {
        let mut fetch = vec![2, 3];
        fetch.extend(7u64.to_be_bytes());
        fetch.extend([0, 0, 0, 1, b't', 0, 0, 0, 0]);
        fetch.extend(i64::from(durable_only).to_be_bytes());
        fetch.extend((-1i32).to_be_bytes());
        fetch.extend([u32::MAX, 1, 3_600_000].iter().flat_map(|field| field.to_be_bytes()));
        fetch.extend([durable_only, 0]);
        raw.send(&fetch[..]).unwrap();
        wait_until("it waits at the server", || server.stats().waiting == 1);
        topic.append("x").unwrap().wait().unwrap();
        let answer = raw.recv_timeout(LONG).unwrap();
        assert_eq!((answer.frames()[0][1], answer.frames().len()), (128 + 3, 2));
    }
}
