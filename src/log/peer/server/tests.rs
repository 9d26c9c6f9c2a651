//! A server that ends on its own threads, servers and clients of other versions, and what clients may be owed and may send.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::mpsc::{self, Sender};
use std::task::{Context as TaskContext, Wake, Waker};

use super::*;
use crate::log::groups::MemberOptions;
use crate::log::options::{BATCH_BYTES_MAX, TopicOptions};
use crate::log::peer::protocol::{
    self, Acquire, AwaitGroup, CreateTopic, DescribeGroup, DescribeTopic, Fetch, GroupName,
    ListTopics, NO_EPOCH, Nothing, Request, TopicName, TopicSetup,
};
use crate::log::storage::MemoryStorage;
use crate::log::{LogClient, RemoteCode};
use crate::message::Message;
use crate::pattern::Dealer;
use crate::socket::Socket;

const PATIENCE: Duration = Duration::from_secs(60);

/// Drops a server when it is called, and tells on which thread that was.
struct Ends {
    server: Mutex<Option<LogServer>>,
    told: Sender<Option<String>>,
}

impl Wake for Ends {
    fn wake(self: Arc<Self>) {
        if let Some(server) = lock(&self.server).take() {
            drop(server);
            let thread = std::thread::current();
            self.told.send(thread.name().map(str::to_owned)).unwrap();
        }
    }
}

#[test]
fn a_waker_may_drop_the_server_on_a_thread_for_which_the_server_would_wait() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = context.dealer().open().unwrap();
    client.connect(server.endpoint().clone()).unwrap();
    client.wait_for_peers(1, PATIENCE).unwrap();
    let events = client.monitor();
    let mut member = log.group("g").unwrap().join(MemberOptions::new(["t"])).unwrap();
    let (told, tell) = mpsc::channel();
    let waker = Waker::from(Arc::new(Ends { server: Mutex::new(Some(server)), told }));
    let mut polling = pin!(member.poll_async());
    assert!(polling.as_mut().poll(&mut TaskContext::from_waker(&waker)).is_pending());
    // Members of groups hear of new topics on the thread that makes them.
    let setup = TopicSetup { topic: "t".to_owned(), options: TopicOptions::default().words() };
    client.send(protocol::encode_request(1, &CreateTopic(setup).into(), Vec::new())).unwrap();
    let thread = tell.recv_timeout(PATIENCE).expect("the server waits for itself");
    assert_eq!(thread.as_deref(), Some("peermq-log-admin"));
    // It ends nevertheless.
    while !matches!(events.recv_timeout(PATIENCE).unwrap(), Event::Disconnected { .. }) {}
}

#[test]
fn a_client_of_another_version_is_refused_in_its_own() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = context.dealer().open().unwrap();
    client.connect(server.endpoint().clone()).unwrap();
    for version in [1, protocol::VERSION + 1] {
        let head = [version, 4, 0, 0, 0, 0, 0, 0, 0, 7];
        client.send(&head[..]).unwrap();
        let answer = client.recv_timeout(PATIENCE).unwrap();
        assert_eq!(&answer.body()[..12], [version, 255, 0, 0, 0, 0, 0, 0, 0, 7, 0, 18]);
    }
}

#[test]
fn a_client_hears_that_its_server_speaks_another_version() {
    let context = Context::new();
    let server = context.router().mandatory(true).open().unwrap();
    let endpoint = server.bind("tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(PATIENCE).connect(&context, endpoint).unwrap();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.topics().unwrap_err());
        let (from, message) = server.recv_from_timeout(PATIENCE).unwrap();
        let (correlation, request, _) = protocol::decode_request(&message).unwrap();
        assert!(matches!(request, Request::ListTopics(_)));
        let mut answer = vec![protocol::VERSION + 1, 132];
        answer.extend(correlation.to_be_bytes());
        server.send_to(&from, Message::from(answer)).unwrap();
        let error = asking.join().unwrap();
        assert_eq!(error.code(), Some(RemoteCode::Version), "{error}");
    });
}

#[test]
fn the_longest_wait_has_an_end_that_can_be_told() {
    let options = LogServerOptions::default().wait_max(Duration::MAX);
    assert!(crate::transport::now().checked_add(options.limits.wait_max).is_some());
}

/// Jobs of 64 KiB.
const JOB_BYTES: usize = 64 << 10;

fn send(client: &Socket<Dealer>, correlation: u64, request: impl Into<Request>) {
    client.send(protocol::encode_request(correlation, &request.into(), Vec::new())).unwrap();
}

/// The number of the next answer, which is no refusal.
fn answered(client: &Socket<Dealer>) -> u64 {
    let answer = client.recv_timeout(PATIENCE).expect("there is an answer");
    let (correlation, outcome) = protocol::decode_answer(&answer).unwrap();
    outcome.unwrap();
    correlation
}

#[test]
fn who_does_not_read_gets_no_more_jobs_and_leaves_them_to_others_until_it_has() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let topic = log.create_topic("jobs", TopicOptions::default()).unwrap();
    let append = |jobs| {
        let job = vec![7; JOB_BYTES];
        for _ in 0..jobs {
            topic.append(&job).unwrap().wait().unwrap();
        }
    };
    let queue = DurableQueue::options().window(1 << 10).open(&log, "q", "jobs").unwrap();
    let context = Context::new();
    let options = LogServer::options().queue(&queue).wait_max(60 * PATIENCE);
    let options = options.answer_bytes_max(JOB_BYTES);
    let server = options.bind(&context, &log, "inproc://jobs").unwrap();
    let greedy = context.dealer().recv_hwm(1).open().unwrap();
    greedy.connect(server.endpoint().clone()).unwrap();
    for n in 0..40 {
        let queue = "q".to_owned();
        send(&greedy, n, Acquire { queue, count_max: 1, lock_ms: 3_600_000, wait_ms: 3_600_000 });
    }
    while queue.stats().waiting < 40 {
        std::thread::yield_now();
    }
    append(30);
    let mut others = 0;
    while others < 15 {
        let got = queue.acquire(30, 60 * PATIENCE, PATIENCE).unwrap();
        assert!(!got.is_empty(), "who does not read has the other jobs: {others}");
        others += got.len();
    }
    append(40);
    let answers: BTreeSet<u64> = (0..40).map(|_| answered(&greedy)).collect();
    assert_eq!(answers.len(), 40, "once it reads it gets as many as it has asked for");
}

#[test]
fn a_request_that_was_left_alone_does_not_wait_for_one_that_waits() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    let context = Context::new();
    let options = LogServer::options().answer_bytes_max(1).wait_max(60 * PATIENCE);
    let server = options.bind(&context, &log, "inproc://left-alone").unwrap();
    let client = context.dealer().recv_hwm(1).open().unwrap();
    client.connect(server.endpoint().clone()).unwrap();
    let list = |n| send(&client, n, ListTopics(Nothing {}));
    (0..10).for_each(list);
    let poll = Fetch {
        topic: "t".to_owned(),
        partition: 0,
        offset: 0,
        last_epoch: NO_EPOCH,
        bytes_max: 1,
        bytes_min: 1,
        wait_ms: 3_600_000,
        durable_only: false,
        topic_id: None,
    };
    send(&client, 10, poll);
    list(11);
    while server.stats().requests < 12 {
        std::thread::yield_now();
    }
    let answers: BTreeSet<u64> = (0..11).map(|_| answered(&client)).collect();
    assert!(answers.contains(&11) && !answers.contains(&10), "{answers:?}");
}

#[test]
fn the_bytes_of_requests_that_wait_are_bounded_too_and_keep_no_others_out() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let context = Context::new();
    let options = LogServer::options().request_bytes_max(300);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = context.dealer().open().unwrap();
    client.connect(server.endpoint().clone()).unwrap();
    let wait = |n, name: &str| {
        let group = name.repeat(200);
        send(&client, n, AwaitGroup { group, version: 0, wait_ms: 3_600_000 });
    };
    wait(1, "g");
    wait(2, "h");
    let answer = client.recv_timeout(PATIENCE).unwrap();
    let (correlation, refused) = protocol::decode_answer(&answer).unwrap();
    assert_eq!((correlation, refused.unwrap_err().code), (2, RemoteCode::Busy));
    send(&client, 3, DescribeGroup(GroupName { group: "g".repeat(200) }));
    assert_eq!(answered(&client), 3);
}

#[test]
fn the_connection_of_a_request_larger_than_any_may_be_ends() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = context.dealer().send_hwm_bytes(usize::MAX).open().unwrap();
    let events = client.monitor();
    client.connect(server.endpoint().clone()).unwrap();
    let text = "t".repeat(BATCH_BYTES_MAX as usize);
    send(&client, 1, DescribeTopic(TopicName { topic: text }));
    let answer = client.recv_timeout(PATIENCE).unwrap();
    let (_, refused) = protocol::decode_answer(&answer).unwrap();
    assert_eq!(
        refused.unwrap_err().code,
        RemoteCode::UnknownTopic,
        "as large as a batch it may be"
    );
    client.send(Message::from(vec![0; REQUEST_BYTES_MAX + 1])).unwrap();
    while !matches!(events.recv_timeout(PATIENCE).unwrap(), Event::Disconnected { .. }) {}
    assert_eq!(server.stats().unreadable, 0, "it was not even looked at");
}
