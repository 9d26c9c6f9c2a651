//! A log in another place: what clients see of a server, its limits, and what happens when either dies.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::{SOON, TRANSPORTS, Transport, wait_until};
use peermq::log::format::batch::Producer;
use peermq::log::format::{BatchBuilder, BatchOptions};
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{
    DurableQueue, HeaderRef, HeartbeatRequest, Level, Log, LogClient, LogServer, NewRecord,
    OffsetCommit, Position, RemoteCode, Strategy, TopicOptions, TopicPartition,
};
use peermq::{Context, Dealer, Endpoint, Frame, Message, Socket};

fn memory() -> (MemoryStorage, Log) {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    (storage, log)
}

fn open(storage: &MemoryStorage) -> Log {
    Log::open_in(Arc::new(storage.clone()), "/log").unwrap()
}

fn client(context: &Context, endpoint: &Endpoint) -> LogClient {
    LogClient::options().timeout(SOON).connect(context, endpoint.clone()).unwrap()
}

fn values(client: &LogClient, topic: &str, partition: u32) -> Vec<String> {
    let reader = client.read(topic, partition, Position::Earliest).unwrap();
    reader.map(|record| text(&record.unwrap())).collect()
}

fn text(record: &peermq::log::LogRecord) -> String {
    String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec()).unwrap()
}

/// A batch as an idempotent producer encodes it.
fn batch(id: i64, base_sequence: i32, values: &[&str]) -> Vec<u8> {
    let producer = Producer { id, epoch: 0, base_sequence };
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    for value in values {
        builder.append(5, None, Some(value.as_bytes()), []).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn a_client_does_over_every_transport_what_a_handle_of_the_log_does() {
    for transport in TRANSPORTS {
        let (_storage, log) = memory();
        let context = Context::new();
        let server = LogServer::bind(&context, &log, transport.fresh()).unwrap();
        let client = client(&context, server.endpoint());
        let options = TopicOptions::default().partitions(3).record_bytes_max(5000);
        let created = client.create_topic("t", options.clone()).unwrap();
        assert_eq!((created.options, created.partitions.len()), (options.clone(), 3));
        assert_eq!(client.topics().unwrap(), ["t"]);

        let headers = [HeaderRef { key: "h", value: Some(b"x") }];
        let record = NewRecord::new("v").key("alice").headers(&headers).timestamp_ms(77);
        let ticket = client.append("t", record).unwrap();
        let partition = ticket.partition();
        assert_eq!(ticket.wait().unwrap(), 0);
        let local = log.topic("t").unwrap().append(NewRecord::new("w").key("alice")).unwrap();
        assert_eq!(local.partition(), partition, "both sides choose the same partition");
        assert_eq!(local.wait().unwrap(), 1);
        assert_eq!(values(&client, "t", partition), ["v", "w"]);
        let mut reader = client.read("t", partition, Position::Time(77)).unwrap();
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.offset, first.timestamp_ms, first.partition), (0, 77, partition));
        assert_eq!((first.key.as_deref(), first.headers.len()), (Some(&b"alice"[..]), 1));
        assert_eq!(reader.next_offset(), 1);

        assert_eq!(client.offset_of("t", partition, Position::Latest).unwrap(), 2);
        client.truncate_front("t", partition, 1).unwrap();
        assert_eq!(values(&client, "t", partition), ["w"]);
        let described = client.describe("t").unwrap();
        let found = described.partitions[partition as usize];
        assert_eq!((found.earliest, found.end, found.durable_end), (1, 2, 2));
        let altered = client.alter_topic("t", options.partitions(4)).unwrap();
        assert_eq!(altered.partitions.len(), 4);
        for key in (0..8).map(|key| key.to_string()) {
            let there = client.append("t", NewRecord::new("v").key(&key)).unwrap().partition();
            let here = log.topic("t").unwrap().append(NewRecord::new("v").key(&key)).unwrap();
            assert_eq!(there, here.partition(), "key {key}");
        }
        client.delete_topic("t").unwrap();
        assert!(client.topics().unwrap().is_empty());
        assert!(log.topics().is_empty());
    }
}

#[test]
fn a_record_without_the_key_that_its_topic_needs_is_refused_and_no_other_is() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default().compact(true)).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let mut keyed = Vec::new();
    let mut keyless = Vec::new();
    for n in 0..20 {
        let value = n.to_string();
        match n % 4 {
            2 => keyless.push(client.append("t", &value).unwrap()),
            _ => keyed.push(client.append("t", NewRecord::new(&value).key("k")).unwrap()),
        }
    }
    for ticket in keyless {
        let error = ticket.wait().unwrap_err();
        assert_eq!(error.code(), Some(RemoteCode::KeyMissing));
        assert_eq!(error.remote().unwrap().topic.as_deref(), Some("t"));
    }
    for (offset, ticket) in (0..).zip(keyed) {
        assert_eq!(ticket.wait().unwrap(), offset);
    }
}

#[test]
fn readers_and_workers_pass_over_what_compaction_left_out() {
    let (_storage, log) = memory();
    let options = TopicOptions::default().compact(true).min_dirty_percent(0).segment_bytes(600);
    let topic = log.create_topic("t", options).unwrap();
    for n in 0..40 {
        let (key, value) = (format!("k{}", n % 4), format!("{n:090}"));
        topic.append(NewRecord::new(&value).key(&key)).unwrap().wait().unwrap();
    }
    // A pass of the log's own thread may have come first.
    log.maintain().unwrap();
    assert!(topic.describe_partition(0).unwrap().compacted_records > 20);
    let there: Vec<i64> =
        topic.read(0, Position::Earliest).unwrap().map(|record| record.unwrap().offset).collect();
    assert!(there.len() < 20 && there.last() == Some(&39), "{there:?}");
    let context = Context::new();
    let queue = DurableQueue::options().open(&log, "q", "t").unwrap();
    let options = LogServer::options().queue(&queue);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(SOON).fetch_bytes(300);
    let client = client.connect(&context, server.endpoint().clone()).unwrap();
    let reader = client.read("t", 0, Position::Earliest).unwrap();
    let read: Vec<i64> = reader.map(|record| record.unwrap().offset).collect();
    assert_eq!(read, there);
    // Offsets that are not there are not out of range.
    let hole = (0..40).find(|offset| !there.contains(offset)).unwrap();
    let next = client.read("t", 0, Position::Offset(hole)).unwrap().next().unwrap().unwrap();
    assert_eq!(Some(&next.offset), there.iter().find(|offset| **offset > hole));
    let worker = client.queue("q");
    let mut worked = Vec::new();
    while worked.len() < there.len() {
        let deliveries = worker.acquire(3, SOON, SOON).unwrap();
        assert!(!deliveries.is_empty(), "nothing comes after {worked:?}");
        for delivery in deliveries {
            worked.push(delivery.record.offset);
            worker.ack(&[delivery.id]).unwrap();
        }
    }
    assert_eq!(worked, there);
    assert_eq!(queue.stats().missed, 0);
}

#[test]
fn a_refusal_says_what_is_wrong_and_where() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default().record_bytes_max(500)).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());

    let error = client.describe("nothing").unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownTopic));
    assert_eq!(error.remote().unwrap().topic.as_deref(), Some("nothing"));
    let said = error.to_string();
    assert!(said.contains(client.endpoint()) && said.contains("DescribeTopic"), "{said}");

    let error = client.read("t", 0, Position::Offset(7)).unwrap().next().unwrap().unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!(remote.code, RemoteCode::OffsetOutOfRange);
    assert_eq!((remote.offset, remote.earliest, remote.end), (Some(7), Some(0), Some(0)));

    let error = client.append_to("t", 9, Level::Durable, "x").unwrap().wait().unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownPartition));
    let large = client.append("t", &[b'x'; 1000]).unwrap();
    let small = client.append("t", "small").unwrap();
    assert_eq!(large.wait().unwrap_err().code(), Some(RemoteCode::TooLarge));
    assert_eq!(small.wait().unwrap(), 0, "what comes after a refused record is appended");
    let error = client.create_topic("t", TopicOptions::default()).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::TopicExists));
    assert_eq!(values(&client, "t", 0), ["small"]);
}

#[test]
fn a_batch_that_is_sent_twice_is_there_once() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let id = client.new_producer().unwrap();
    assert_ne!(client.new_producer().unwrap(), id);
    for _ in 0..2 {
        let done = client.append_batch("t", 0, Level::Durable, batch(id, 0, &["a", "b"])).unwrap();
        assert_eq!(done, (0, 1));
    }
    let error = client.append_batch("t", 0, Level::Durable, batch(id, 9, &["c"])).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::OutOfSequence));
    assert_eq!(values(&client, "t", 0), ["a", "b"]);
}

#[test]
fn a_long_poll_ends_with_the_first_record_and_not_before() {
    let (_storage, log) = memory();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    for durable_only in [false, true] {
        let client = client(&context, server.endpoint());
        let reader = client.read("t", 0, Position::Latest).unwrap().follow();
        let mut reader = if durable_only { reader.durable_only() } else { reader };
        let follower = thread::spawn(move || text(&reader.next().unwrap().unwrap()));
        wait_until("the request waits at the server", || server.stats().waiting == 1);
        let requests = server.stats().requests;
        // Nobody waits for this ticket: that the follower does is enough for it to be written, or made durable.
        drop(topic.append_at(Level::Buffered, "now").unwrap());
        assert_eq!(follower.join().unwrap(), "now");
        assert_eq!(server.stats().requests, requests, "it came with the request that waited");
    }
}

#[test]
fn appends_that_are_pipelined_keep_their_order_and_gather_in_batches() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let (context, first, endpoint) = (Context::new(), Context::new(), Transport::Tcp.vacant());
    let server = LogServer::bind(&first, &log, &endpoint[..]).unwrap();
    let client = client(&context, &endpoint.parse().unwrap());
    client.append("t", "0").unwrap().wait().unwrap();
    // Nothing is answered until all are appended, however slowly that goes.
    drop((server, first));
    let tickets: Vec<_> = (1..5000).map(|n| client.append("t", &format!("{n}")).unwrap()).collect();
    let server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
    for (n, ticket) in (1..).zip(tickets) {
        assert_eq!(ticket.wait().unwrap(), n);
    }
    let requests = server.stats().requests;
    assert!(requests < 100, "{requests} requests for 5000 records");
    let expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    assert_eq!(values(&client, "t", 0), expected);
}

#[test]
fn many_threads_share_a_client() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default().partitions(4)).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    thread::scope(|scope| {
        for thread in 0..8 {
            let client = client.clone();
            scope.spawn(move || {
                for n in 0..50 {
                    let value = format!("{thread}-{n}");
                    client.append_to("t", n % 4, Level::Written, &value).unwrap().wait().unwrap();
                }
            });
        }
    });
    let mut all: Vec<String> =
        (0..4).flat_map(|partition| values(&client, "t", partition)).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 400);
}

#[test]
fn appends_go_on_over_the_restart_of_a_server_and_none_is_lost_or_doubled() {
    for transport in TRANSPORTS {
        let (storage, log) = memory();
        log.create_topic("t", TopicOptions::default()).unwrap();
        let endpoint = transport.vacant();
        let inproc = transport == Transport::Inproc;
        let outer = Context::new();
        // A context for the server alone, so that it can go without a goodbye.
        let context = || if inproc { outer.clone() } else { Context::new() };
        let first = context();
        let mut running = Some((LogServer::bind(&first, &log, &endpoint[..]).unwrap(), first, log));
        let client = client(&outer, &endpoint.parse().unwrap());
        let mut tickets = Vec::new();
        for round in 0..6 {
            for n in 0..200 {
                tickets.push(client.append("t", &format!("{round}-{n}")).unwrap());
            }
            // Some of them have been answered by now, some are under way.
            tickets[round * 200].wait_timeout(SOON).unwrap().unwrap();
            drop(running.take());
            let (log, context) = (open(&storage), context());
            let server = LogServer::bind(&context, &log, &endpoint[..]).unwrap();
            running = Some((server, context, log));
        }
        for (n, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(ticket.wait().unwrap(), n as i64, "over {transport:?}");
        }
        let expected: Vec<String> =
            (0..6).flat_map(|round| (0..200).map(move |n| format!("{round}-{n}"))).collect();
        assert_eq!(values(&client, "t", 0), expected);
    }
}

#[test]
fn a_reader_follows_over_the_restart_of_a_server() {
    let (storage, log) = memory();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let endpoint = Transport::Tcp.vacant();
    let (outer, first) = (Context::new(), Context::new());
    let server = LogServer::bind(&first, &log, &endpoint[..]).unwrap();
    let client = client(&outer, &endpoint.parse().unwrap());
    let mut reader = client.read("t", 0, Position::Earliest).unwrap().follow();
    topic.append("before").unwrap().wait().unwrap();
    assert_eq!(text(&reader.next().unwrap().unwrap()), "before");
    let follower = thread::spawn(move || text(&reader.next().unwrap().unwrap()));
    wait_until("the request waits at the server", || server.stats().waiting == 1);
    drop((topic, server, first, log));
    let log = open(&storage);
    let _server = LogServer::bind(&outer, &log, &endpoint[..]).unwrap();
    log.topic("t").unwrap().append("after").unwrap().wait().unwrap();
    assert_eq!(follower.join().unwrap(), "after");
}

#[test]
fn a_client_without_a_server_fails_in_time_and_names_endpoint_and_request() {
    let context = Context::new();
    let endpoint = Transport::Tcp.vacant();
    let options = LogClient::options().timeout(Duration::from_millis(20));
    let client = options.connect(&context, &endpoint[..]).unwrap();
    let error = client.topics().unwrap_err();
    assert!(error.is_timeout());
    let said = error.to_string();
    assert!(said.contains(&endpoint) && said.contains("ListTopics"), "{said}");
    assert!(client.append("t", "x").unwrap_err().is_timeout());
}

#[test]
fn a_context_that_ends_ends_the_calls_of_its_clients() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let (context, other) = (Context::new(), Context::new());
    let server = LogServer::bind(&other, &log, "tcp://127.0.0.1:0").unwrap();
    let client =
        LogClient::options().timeout(SOON).connect(&context, server.endpoint().clone()).unwrap();
    let mut reader = client.read("t", 0, Position::Earliest).unwrap().follow();
    let caller = thread::spawn(move || reader.next().unwrap().unwrap_err().to_string());
    wait_until("the call waits at the server", || server.stats().waiting == 1);
    context.shutdown();
    assert!(caller.join().unwrap().contains("closed"));
    assert!(client.topics().unwrap_err().to_string().contains("closed"));
}

#[test]
fn the_long_poll_of_a_client_that_is_gone_is_dropped() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let (context, other) = (Context::new(), Context::new());
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let raw = raw(&other, server.endpoint());
    raw.send(Message::from(fetch(1, "t", 60_000))).unwrap();
    wait_until("the request waits at the server", || server.stats().waiting == 1);
    drop((raw, other));
    wait_until("the request is dropped", || {
        let stats = server.stats();
        (stats.waiting, stats.clients) == (0, 0)
    });
}

/// A client that speaks the protocol by hand.
fn raw(context: &Context, endpoint: &Endpoint) -> Socket<Dealer> {
    context.dealer().linger(Duration::ZERO).connect(endpoint.clone()).unwrap()
}

/// The head of a fetch from the beginning of partition 0.
fn fetch(correlation: u64, topic: &str, wait_ms: u32) -> Vec<u8> {
    let mut head = vec![2, 3];
    head.extend(correlation.to_be_bytes());
    head.extend((topic.len() as u32).to_be_bytes());
    head.extend(topic.as_bytes());
    head.extend(0u32.to_be_bytes());
    head.extend(0i64.to_be_bytes());
    head.extend((-1i32).to_be_bytes());
    head.extend(u32::MAX.to_be_bytes());
    head.extend(1u32.to_be_bytes());
    head.extend(wait_ms.to_be_bytes());
    head.push(0);
    // Whichever topic has the name.
    head.push(0);
    head
}

#[test]
fn a_client_that_reads_no_answers_is_held_to_its_limits_and_harms_nobody() {
    let (_storage, log) = memory();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    for _ in 0..64 {
        topic.append_at(Level::Written, &[b'x'; 16 << 10]).unwrap().wait().unwrap();
    }
    let context = Context::new();
    let server = LogServer::options()
        .requests_max(8)
        .answer_bytes_max(1 << 20)
        .bind(&context, &log, "tcp://127.0.0.1:0")
        .unwrap();
    let slow = context
        .dealer()
        .linger(Duration::ZERO)
        .recv_hwm(1)
        .kernel_recv_buffer(4096)
        .connect(server.endpoint().clone())
        .unwrap();
    const SENT: u64 = 200;
    for correlation in 0..SENT {
        slow.send(Message::from(fetch(correlation, "t", 0))).unwrap();
    }
    wait_until("all requests were taken, refused or dropped", || {
        let stats = server.stats();
        stats.requests + stats.refused + stats.dropped >= SENT
    });
    let stats = server.stats();
    assert!(stats.dropped > 0, "{stats:?}");
    assert!(stats.requests < SENT / 2, "{stats:?}");
    let other = client(&context, server.endpoint());
    assert_eq!(values(&other, "t", 0).len(), 64, "others are served meanwhile");
    // It reads at last, and is answered as far as it was listened to.
    let mut answers = 0;
    while answers < stats.requests {
        let answer = slow.recv_timeout(SOON).unwrap();
        answers += u64::from(answer.body()[1] == 0x83);
    }
}

#[test]
fn long_polls_that_one_record_wakes_are_answered_as_far_as_their_client_reads() {
    const POLLS: u64 = 60;
    let (_storage, log) = memory();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::options().answer_bytes_max(1 << 20);
    let server = server.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let slow = context.dealer().linger(Duration::ZERO).recv_hwm(1).kernel_recv_buffer(64 << 10);
    let slow = slow.connect(server.endpoint().clone()).unwrap();
    for correlation in 0..POLLS {
        slow.send(Message::from(fetch(correlation, "t", 60_000))).unwrap();
    }
    wait_until("all wait", || server.stats().waiting == POLLS);
    topic.append_at(Level::Written, &[b'x'; 900 << 10]).unwrap().wait().unwrap();
    let other = client(&context, server.endpoint());
    // The answers that there is room for, in the kernel too, are the last before others are served.
    wait_until("some are answered", || server.stats().waiting < POLLS);
    for _ in 0..3 {
        assert_eq!(values(&other, "t", 0).len(), 1);
    }
    let waiting = server.stats().waiting;
    assert!(waiting > POLLS / 2, "{waiting} wait, the others were answered unheard");
    for _ in 0..POLLS {
        let answer = slow.recv_timeout(SOON).unwrap();
        assert_eq!(answer.body()[1], 0x83, "it gets everything at last");
    }
}

#[test]
fn a_long_poll_for_more_than_is_there_reads_each_record_once_and_not_at_every_append() {
    let storage = FaultyStorage::new();
    let log = Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let append =
        |bytes| topic.append_at(Level::Written, &vec![b'x'; bytes]).unwrap().wait().unwrap();
    (0..30).for_each(|_| assert!(append(100 << 10) >= 0));
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let raw = raw(&context, server.endpoint());
    let mut head = fetch(1, "t", 60_000);
    let bytes_min = 2 + 8 + 4 + 1 + 4 + 8 + 4 + 4;
    head[bytes_min..bytes_min + 4].copy_from_slice(&(3200u32 << 10).to_be_bytes());
    raw.send(Message::from(head)).unwrap();
    wait_until("it waits", || server.stats().waiting == 1);
    let other = client(&context, server.endpoint());
    let before = storage.calls(Some(Operation::Read));
    const APPENDS: u64 = 30;
    for _ in 0..APPENDS {
        append(1);
        // Answered behind what the append has woken.
        assert_eq!(other.topics().unwrap(), ["t"]);
    }
    let reads = storage.calls(Some(Operation::Read)) - before;
    assert!(reads <= 4 * APPENDS, "{reads} reads for {APPENDS} small records");
    (0..2).for_each(|_| assert!(append(100 << 10) >= 0));
    let answer = raw.recv_timeout(SOON).unwrap();
    assert!(answer.body_bytes() > 3200 << 10, "all of it in one answer");
}

#[test]
fn messages_that_are_no_requests_are_refused_and_the_server_goes_on() {
    let (_storage, log) = memory();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let raw = raw(&context, server.endpoint());
    raw.send(Message::from("")).unwrap();
    raw.send(Message::from("nonsense")).unwrap();
    let mut foreign = fetch(5, "t", 0);
    foreign[0] = 1;
    let mut cut = fetch(6, "t", 0);
    cut.pop();
    let code = |message: Message| {
        let body = message.body().to_vec();
        (body[1], body[9], u16::from_be_bytes([body[10], body[11]]))
    };
    raw.send(Message::from(foreign)).unwrap();
    assert_eq!(code(raw.recv_timeout(SOON).unwrap()), (255, 5, 18));
    raw.send(Message::from(cut)).unwrap();
    assert_eq!(code(raw.recv_timeout(SOON).unwrap()), (255, 6, 17));
    raw.send(Message::from([Frame::from(fetch(7, "t", 0)), Frame::from("too much")])).unwrap();
    assert_eq!(code(raw.recv_timeout(SOON).unwrap()), (255, 7, 17));
    raw.send(Message::from(fetch(8, "t", 0))).unwrap();
    assert_eq!(raw.recv_timeout(SOON).unwrap().body()[1], 0x83);
    assert_eq!(server.stats().unreadable, 5);
}

#[test]
fn members_of_a_group_in_other_processes_share_partitions_and_a_zombie_commits_nothing() {
    let (_storage, log) = memory();
    let topic = log.create_topic("t", TopicOptions::default().partitions(2)).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let group = client.group("g");
    let beat = |member: &str, generation, sequence, owned: Vec<TopicPartition>| HeartbeatRequest {
        member: member.to_owned(),
        instance: None,
        generation,
        sequence,
        topics: vec!["t".to_owned()],
        strategy: Strategy::default(),
        session_timeout: Duration::from_secs(1800),
        owned,
    };
    topic.append_to(0, Level::Durable, "a").unwrap().wait().unwrap();
    let first = group.heartbeat(beat("one", 0, 1, Vec::new())).unwrap();
    assert_eq!((first.member.as_str(), first.assigned.len()), ("one", 2));
    let done = [OffsetCommit::new("t", 0, 1)];
    group.commit("one", first.generation, &done).unwrap();
    assert_eq!(group.offsets().unwrap()[&TopicPartition::new("t", 0)].offset, 1);
    assert_eq!(client.offset_of("t", 0, Position::Committed("g".to_owned())).unwrap(), 1);
    let error = group.set_offsets(&done).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::Conflict));
    group.leave("one").unwrap();
    let error = group.commit("one", first.generation, &done).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownMember));
    group.set_offsets(&[OffsetCommit::new("t", 0, 0)]).unwrap();
    assert_eq!(client.offset_of("t", 0, Position::Committed("g".to_owned())).unwrap(), 0);
}
