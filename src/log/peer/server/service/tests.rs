//! Clients that are gone when their requests are looked at, or do not read what they are answered.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::Context as Sockets;
use crate::log::LogServer;
use crate::log::durable::DurableQueue;
use crate::log::options::TopicOptions;
use crate::log::peer::protocol::{Acquire, CreateTopic, Fetch, NO_EPOCH, TopicSetup};
use crate::log::storage::MemoryStorage;
use crate::monitor::{Event, Monitor};
use crate::pattern::Dealer;

const PATIENCE: Duration = Duration::from_secs(60);
const WAIT_MS: u32 = 3_600_000;

fn log() -> Log {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    log
}

/// A service that does what it is told to, and a client of it.
fn service(options: LogServerOptions) -> (Sockets, Service, Monitor, Socket<Dealer>) {
    let context = Sockets::new();
    let socket = context.router().mandatory(true).open().unwrap();
    let monitor = socket.monitor();
    let endpoint = socket.bind("tcp://127.0.0.1:0").unwrap();
    let (alarm, control) = (Arc::new(Alarm::default()), Arc::new(Control::default()));
    let service = Service::new(socket, &log(), options, alarm, control).unwrap();
    let client = context.dealer().open().unwrap();
    client.connect(endpoint).unwrap();
    (context, service, monitor, client)
}

/// The client, as the service knows it.
fn peer(monitor: &Monitor) -> PeerId {
    loop {
        if let Event::PeerReady { peer, .. } = monitor.recv_timeout(PATIENCE).unwrap() {
            return peer.id();
        }
    }
}

/// Takes so many requests, or what is passed over.
fn take(service: &mut Service, count: u64) {
    let begun = now();
    let seen = |service: &Service| {
        let control = &service.control;
        let counters = [&control.requests, &control.dropped, &control.refused];
        counters.map(|counter| counter.load(Ordering::Relaxed)).iter().sum::<u64>()
    };
    while seen(service) < count {
        assert!(begun.elapsed() < PATIENCE, "{} of {count} came", seen(service));
        service.receive().unwrap();
        thread::yield_now();
    }
}

fn send(client: &Socket<Dealer>, correlation: u64, request: impl Into<Request>) {
    let request = request.into();
    client.send(protocol::encode_request(correlation, &request, Vec::new())).unwrap();
}

fn poll() -> Fetch {
    Fetch {
        topic: "t".to_owned(),
        partition: 0,
        offset: 0,
        last_epoch: NO_EPOCH,
        bytes_max: 1 << 20,
        bytes_min: 1,
        wait_ms: WAIT_MS,
        durable_only: false,
        topic_id: None,
    }
}

fn create(topic: &str) -> CreateTopic {
    CreateTopic(TopicSetup { topic: topic.to_owned(), options: Vec::new() })
}

#[test]
fn nothing_waits_for_a_client_that_was_gone_before_its_requests_were_looked_at() {
    let (_context, mut service, monitor, client) = service(LogServerOptions::default());
    let queue = DurableQueue::options().open(&service.log, "q", "t").unwrap();
    service.queues.insert("q".to_owned(), queue.clone());
    let peer = peer(&monitor);
    send(&client, 1, poll());
    let acquire = |wait_ms| Acquire { queue: "q".to_owned(), count_max: 1, lock_ms: 9, wait_ms };
    send(&client, 2, acquire(WAIT_MS));
    send(&client, 3, acquire(0));
    send(&client, 4, AwaitGroup { group: "g".to_owned(), version: 0, wait_ms: WAIT_MS });
    send(&client, 5, create("made"));
    client.close(PATIENCE).unwrap();
    let begun = now();
    while service.socket.has_peer(peer) {
        assert!(begun.elapsed() < PATIENCE, "it is not gone");
        thread::yield_now();
    }
    take(&mut service, 5);
    assert_eq!(service.control.dropped.load(Ordering::Relaxed), 4);
    assert_eq!(queue.stats().waiting, 0);
    assert!(service.tasks.len() <= 1, "a poll waits");
    // What does not only ask is carried out.
    while service.log.topic("made").is_err() {
        assert!(begun.elapsed() < PATIENCE, "the topic is not made");
        thread::yield_now();
    }
}

#[test]
fn nothing_waits_for_a_client_that_is_told_gone_before_the_socket_lets_go_of_it() {
    let (_context, mut service, monitor, client) = service(LogServerOptions::default());
    let peer = peer(&monitor);
    service.resumed.push((peer, (7, poll().into(), Vec::new(), None)));
    lock(&service.control.gone).push(peer);
    service.forget_gone();
    assert!(service.resumed.is_empty(), "nor is what was to be looked at again");
    send(&client, 8, poll());
    take(&mut service, 1);
    assert!(service.clients.is_empty() && service.tasks.is_empty());
    client.close(PATIENCE).unwrap();
    let begun = now();
    while service.socket.has_peer(peer) {
        assert!(begun.elapsed() < PATIENCE, "it is not gone");
        thread::yield_now();
    }
    service.forget_gone();
    assert!(service.ended.is_empty(), "it is not remembered for ever");
}

#[test]
fn requests_without_batches_have_bytes_too() {
    let options = LogServer::options().request_bytes_max(1000);
    let (_context, mut service, _monitor, client) = service(options);
    let (go_on, goes_on) = mpsc::channel();
    service.blocking.run_aside(move || goes_on.recv().unwrap());
    let name = "n".repeat(600);
    send(&client, 1, create(&name));
    send(&client, 2, create(&name));
    take(&mut service, 2);
    let answer = client.recv_timeout(PATIENCE).unwrap();
    let (correlation, refused) = protocol::decode_answer(&answer).unwrap();
    assert_eq!((correlation, refused.unwrap_err().code), (2, RemoteCode::Busy));
    go_on.send(()).unwrap();
}

#[test]
fn what_a_client_asks_behind_polls_of_its_own_does_not_wait_for_them() {
    let log = log();
    let context = Sockets::new();
    // Whatever is not sent is too much.
    let options = LogServer::options().answer_bytes_max(1).wait_max(Duration::from_secs(3600));
    let server = options.bind(&context, &log, "inproc://log").unwrap();
    let client = context.dealer().recv_hwm(1).open().unwrap();
    client.connect(server.endpoint().clone()).unwrap();
    let ask = |correlation| send(&client, correlation, protocol::ListTopics(Nothing {}));
    let taken = |count| {
        let begun = now();
        while server.stats().requests < count {
            assert!(begun.elapsed() < PATIENCE, "not all were taken");
            thread::yield_now();
        }
    };
    (0..20).for_each(ask);
    taken(20);
    (20..24).for_each(|correlation| send(&client, correlation, poll()));
    ask(24);
    taken(25);
    let answers = (0..21).map(|_| {
        let answer = client.recv_timeout(PATIENCE).expect("it waits for polls");
        protocol::decode_answer(&answer).unwrap().0
    });
    let answers: BTreeSet<u64> = answers.collect();
    assert!(answers.into_iter().eq((0..20).chain([24])));
}
