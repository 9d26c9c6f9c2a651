//! Transactions on a log in another place: all or nothing, and once, however often the connection is lost.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::thread;

use harness::{SOON, Transport};
use peermq::log::storage::MemoryStorage;
use peermq::log::{
    Fencing, Level, Log, LogClient, LogServer, MemberOptions, NewRecord, OffsetCommit, Position,
    RemoteCode, TopicOptions, TopicPartition,
};
use peermq::{Context, Endpoint};

fn client(context: &Context, endpoint: &Endpoint) -> LogClient {
    LogClient::options().timeout(SOON).connect(context, endpoint.clone()).unwrap()
}

fn values(log: &Log, topic: &str, partition: u32) -> Vec<String> {
    let records = log.topic(topic).unwrap().read(partition, Position::Earliest).unwrap();
    let value = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    records.map(|record| value(&record.unwrap().value.unwrap())).collect()
}

#[test]
fn what_is_made_of_records_is_appended_with_their_offsets_or_not_at_all() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let orders = log.create_topic("orders", TopicOptions::default().partitions(2)).unwrap();
    log.create_topic("parcels", TopicOptions::default().partitions(2)).unwrap();
    log.create_topic("bills", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    for n in 0..2 {
        orders.append_to(n, Level::Durable, "order").unwrap().wait().unwrap();
    }
    let mut member = client.group("packers").join(MemberOptions::new(["orders"])).unwrap();
    let mut seen = 0;
    while seen < 2 {
        seen += member.poll(SOON).unwrap().records.len();
    }
    let mut transaction = client.transaction();
    transaction.append_to("parcels", 1, "p0").unwrap();
    transaction.append("bills", NewRecord::new("b0").key("k")).unwrap();
    transaction.append_to("parcels", 1, "p1").unwrap();
    transaction.append_to("parcels", 0, "p2").unwrap();
    transaction.commit_offsets(&member.membership(), &member.positions()).unwrap();
    let places = transaction.commit().unwrap();
    let at = |topic: &str, partition, offset| (TopicPartition::new(topic, partition), offset);
    let expected =
        [at("parcels", 1, 0), at("bills", 0, 0), at("parcels", 1, 1), at("parcels", 0, 0)];
    assert_eq!(places, expected);
    assert_eq!(transaction.commit().unwrap(), places, "it is done, and not done again");
    assert!(transaction.append("bills", "late").is_err());
    assert_eq!(values(&log, "parcels", 1), ["p0", "p1"]);
    let committed = client.group("packers").offsets().unwrap();
    assert_eq!(committed.len(), 2);
    assert!(committed.values().all(|one| one.offset == 1));

    // Of a member that is none any more nothing is there.
    let before = member.membership();
    member.leave().unwrap();
    let mut late = client.transaction();
    late.append_to("parcels", 0, "never").unwrap();
    late.commit_offsets(&before, &[OffsetCommit::new("orders", 0, 0)]).unwrap();
    let error = late.commit().unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownMember));
    assert_eq!(error.fencing(), Some(&Fencing::UnknownMember));
    assert_eq!(values(&log, "parcels", 0), ["p2"]);
    let mut bad = client.transaction();
    bad.append_to("bills", 0, "never").unwrap();
    bad.append_to("bills", 9, "nowhere").unwrap();
    assert_eq!(bad.commit().unwrap_err().code(), Some(RemoteCode::UnknownPartition));
    let mut next = client.transaction();
    next.append("bills", "b1").unwrap();
    assert_eq!(next.commit().unwrap(), [at("bills", 0, 1)]);
    assert_eq!(values(&log, "bills", 0), ["b0", "b1"]);
}

#[test]
fn a_transaction_larger_than_a_batch_is_one_and_tells_where_each_record_is() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let options = LogClient::options().timeout(SOON).batch_bytes(500);
    let client = options.connect(&context, server.endpoint().clone()).unwrap();
    topic.append("before").unwrap().wait().unwrap();
    let mut transaction = client.transaction();
    for n in 0..100 {
        transaction.append("t", &format!("{n:0100}")).unwrap();
    }
    let offsets: Vec<i64> =
        transaction.commit().unwrap().into_iter().map(|(_, offset)| offset).collect();
    assert_eq!(offsets, (1..101).collect::<Vec<i64>>());
}

#[test]
fn transactions_go_on_over_the_restart_of_a_server_and_each_is_there_once() {
    const TRANSACTIONS: usize = 60;
    let storage = MemoryStorage::new();
    let open = || Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    let log = open();
    log.create_topic("a", TopicOptions::default()).unwrap();
    log.create_topic("b", TopicOptions::default()).unwrap();
    let endpoint = Transport::Tcp.vacant();
    let (outer, first) = (Context::new(), Context::new());
    let server = LogServer::bind(&first, &log, &endpoint[..]).unwrap();
    let mut running = Some((server, first, log));
    let client = client(&outer, &endpoint.parse().unwrap());
    let (told, heard) = std::sync::mpsc::channel();
    let committer = thread::spawn(move || {
        for n in 0..TRANSACTIONS {
            let mut transaction = client.transaction();
            transaction.append("a", &n.to_string()).unwrap();
            transaction.append("b", &n.to_string()).unwrap();
            for (_, offset) in transaction.commit().unwrap() {
                assert_eq!(offset, n as i64);
            }
            told.send(n).unwrap();
        }
    });
    // Each end of a server comes while some transaction is on its way.
    for n in heard {
        if n % 10 == 9 {
            drop(running.take());
            let (log, context) = (open(), Context::new());
            let server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
            running = Some((server, context, log));
        }
    }
    committer.join().unwrap();
    let log = &running.as_ref().unwrap().2;
    let expected: Vec<String> = (0..TRANSACTIONS).map(|n| n.to_string()).collect();
    assert_eq!((values(log, "a", 0), values(log, "b", 0)), (expected.clone(), expected));
}

#[test]
fn a_topic_that_was_changed_refuses_one_transaction_and_not_the_next() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default().partitions(8)).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let value = "x".repeat(1000);
    let commit = || {
        let mut transaction = client.transaction();
        for n in 0..100 {
            let key = n.to_string();
            transaction.append("t", NewRecord::new(&value[..]).key(&key[..])).unwrap();
        }
        transaction.commit().map(|places| places.len())
    };
    assert_eq!(commit().unwrap(), 100);
    log.alter_topic("t", TopicOptions::default().partitions(8).record_bytes_max(4_000)).unwrap();
    assert_eq!(commit().unwrap_err().code(), Some(RemoteCode::TooLarge));
    assert_eq!(commit().unwrap(), 100);
    log.delete_topic("t").unwrap();
    log.create_topic("t", TopicOptions::default().partitions(2)).unwrap();
    assert_eq!(commit().unwrap_err().code(), Some(RemoteCode::UnknownPartition));
    assert_eq!(commit().unwrap(), 100);
}

#[test]
fn appends_are_made_smaller_once_one_was_too_large() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    client.append("t", "known").unwrap().wait().unwrap();
    log.alter_topic("t", TopicOptions::default().record_bytes_max(4_000)).unwrap();
    let large = "x".repeat(5_000);
    let error = client.append("t", &large[..]).unwrap().wait().unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::TooLarge));
    let value = "x".repeat(1_000);
    let tickets: Vec<_> = (0..500).map(|_| client.append("t", &value[..]).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

#[test]
fn records_with_times_far_apart_get_through_as_others_do() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let times_ms = [7, i64::MIN, i64::MAX, 7];
    let records = times_ms.map(|time| NewRecord::new("v").timestamp_ms(time));
    let tickets = records.map(|record| client.append_to("t", 0, Level::Durable, record).unwrap());
    let offsets = tickets.map(|ticket| ticket.wait().unwrap());
    assert_eq!(offsets, [0, 1, 2, 3]);
    let mut transaction = client.transaction();
    records.into_iter().for_each(|record| transaction.append("t", record).unwrap());
    assert_eq!(transaction.commit().unwrap().len(), 4);
    let found = log.topic("t").unwrap().read(0, Position::Earliest).unwrap();
    let found: Vec<_> = found.map(|record| record.unwrap().timestamp_ms).collect();
    assert_eq!(found, [times_ms, times_ms].concat());
}
