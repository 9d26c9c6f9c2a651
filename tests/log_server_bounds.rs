//! What a server lets its clients claim, what may be served, and what a log that ends leaves to the next server.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::{Transport, wait_until};
use peermq::log::storage::MemoryStorage;
use peermq::log::{
    DurableQueue, DurableSubscriber, Log, LogClient, LogServer, LogServerOptions, MemberOptions,
    PeerError, Position, RemoteCode, SubscribeError, TopicOptions,
};
use peermq::{Context, SetupError};

/// For what comes in any case.
const LONG: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

fn open() -> Log {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    log
}

/// A server of a log with a queue `q` over `t`, and a client of it.
fn served(log: &Log, options: LogServerOptions) -> (Context, DurableQueue, LogServer, LogClient) {
    let queue = DurableQueue::options().open(log, "q", "t").unwrap();
    let context = Context::new();
    let server = options.queue(&queue).bind(&context, log, "tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(LONG).connect(&context, server.endpoint()).unwrap();
    (context, queue, server, client)
}

/// It is refused because of a limit, and the text has these in it.
fn assert_over<T: std::fmt::Debug>(result: Result<T, PeerError>, named: [&str; 3]) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::OverLimit), "{error}");
    assert_eq!(error.remote().unwrap().topic.as_deref(), Some(named[0]));
    assert!(named.iter().all(|name| error.to_string().contains(name)), "{error}");
}

#[test]
fn a_lock_lasts_no_longer_than_the_server_allows() {
    let log = open();
    let (_context, local, _server, client) =
        served(&log, LogServer::options().lock_max(SECOND * 9));
    log.topic("t").unwrap().append("x").unwrap().wait().unwrap();
    let queue = client.queue("q");
    assert_over(queue.acquire(1, SECOND * 10, LONG), ["q", "10s", "9s"]);
    assert_eq!(local.stats().delivered, 0);
    let got = queue.acquire(1, SECOND * 9, LONG).unwrap();
    assert_over(queue.renew(&[got[0].id], SECOND * 10), ["q", "10s", "9s"]);
    queue.renew(&[got[0].id], SECOND * 9).unwrap();
    queue.ack(&[got[0].id]).unwrap();
}

#[test]
fn a_session_lasts_no_longer_than_the_server_allows() {
    let log = open();
    let options = LogServer::options().session_max(SECOND * 9);
    let (_context, _queue, _server, client) = served(&log, options);
    let join = |session| {
        let options = MemberOptions::new(["t"]).session_timeout(session);
        client.group("g").join(options)
    };
    assert_over(join(SECOND * 10).map(drop), ["g", "10s", "9s"]);
    assert!(client.group("g").describe().unwrap().members.is_empty());
    join(SECOND * 9).unwrap().leave().unwrap();
}

#[test]
fn what_nobody_means_is_not_allowed_by_default() {
    let log = open();
    let (_context, _queue, _server, client) = served(&log, LogServer::options());
    assert_over(client.queue("q").acquire(1, Duration::MAX, NOW), ["q", "4294967.295s", "43200s"]);
    let options = MemberOptions::new(["t"]).session_timeout(Duration::MAX);
    let refused = client.group("g").join(options).map(drop);
    assert_over(refused, ["g", "4294967.295s", "1800s"]);
}

#[test]
fn a_group_has_no_more_members_than_the_server_allows() {
    let log = open();
    let (_context, _queue, _server, client) = served(&log, LogServer::options().members_max(2));
    let group = client.group("g");
    let options = || MemberOptions::new(["t"]).session_timeout(LONG);
    let first = group.join(options()).unwrap();
    let named = group.join(options().instance("i")).unwrap();
    assert_over(group.join(options()).map(drop), ["g", "one more member", "2"]);
    // Who takes the place of another is no further one, and other groups are no concern of this one.
    let successor = group.join(options().instance("i")).unwrap();
    client.group("h").join(options()).unwrap().leave().unwrap();
    first.leave().unwrap();
    let third = group.join(options()).unwrap();
    assert_eq!(group.describe().unwrap().members.len(), 2);
    drop((third, successor, named));
}

#[test]
fn a_queue_of_another_log_is_not_offered() {
    let (log, other) = (open(), open());
    let queue = |log| DurableQueue::options().open(log, "q", "t").unwrap();
    let (own, foreign) = (queue(&log), queue(&other));
    let context = Context::new();
    let options = LogServer::options().queue(&own).queue(&foreign);
    let refused = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap_err();
    assert!(matches!(refused, SetupError::Option(ref error) if error.option == "queue"));
    assert!(refused.to_string().contains("queue = q"), "{refused}");
    let options = LogServer::options().queue(&own).queue(&own);
    options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
}

#[test]
fn a_subscriber_does_not_begin_in_a_partition_that_is_not_there() {
    let log = open();
    let (context, _queue, server, _client) = served(&log, LogServer::options());
    let live = Transport::Tcp.vacant();
    let connect = |partition| {
        let options = DurableSubscriber::options().start(partition, Position::Offset(3));
        options.connect(&context, &live[..], server.endpoint(), "t", Position::Earliest)
    };
    let Err(SubscribeError::Peer(refused)) = connect(9) else { panic!("there is no partition 9") };
    assert_eq!(refused.code(), Some(RemoteCode::UnknownPartition), "{refused}");
    assert_eq!(connect(0).unwrap().position(0), Some(3));
}

#[test]
fn what_a_closed_log_cannot_do_the_next_server_does() {
    let storage = Arc::new(MemoryStorage::new());
    let at = Transport::Tcp.vacant();
    let log = Log::open_in(storage.clone(), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, &at[..]).unwrap();
    let outer = Context::new();
    let client = LogClient::options().timeout(LONG).connect(&outer, &at[..]).unwrap();
    assert_eq!(client.append("t", "a").unwrap().wait().unwrap(), 0);

    log.close().unwrap();
    let before = server.stats().requests;
    let late = client.append("t", "b").unwrap();
    let making = client.clone();
    let makes = thread::spawn(move || making.create_topic("u", TopicOptions::default()).map(drop));
    wait_until("both have been asked for", || {
        let stats = server.stats();
        stats.requests >= before + 2 && stats.waiting == 0
    });
    assert_eq!(server.stats().refused, 0);
    drop((server, context));
    let log = Log::open_in(storage, "/log").unwrap();
    let context = Context::new();
    let _server = LogServer::bind(&context, &log, &at[..]).unwrap();
    assert_eq!(late.wait().unwrap(), 1);
    makes.join().unwrap().unwrap();
    assert_eq!(client.topics().unwrap(), ["t", "u"]);
}

#[test]
fn a_transaction_too_large_for_any_server_is_refused_and_not_sent() {
    let log = open();
    let (_context, _queue, _server, client) = served(&log, LogServer::options());
    let mut transaction = client.transaction();
    let value = vec![7; 1 << 20];
    for _ in 0..66 {
        let topic = "t";
        transaction.append(topic, &value[..value.len() - 1000]).unwrap();
    }
    let refused = transaction.commit().unwrap_err();
    assert_eq!(refused.code(), Some(RemoteCode::TooLarge), "{refused}");
    assert_eq!(client.describe("t").unwrap().partitions[0].end, 0);
}
