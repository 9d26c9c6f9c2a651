//! A server that ends on its own threads, and servers and clients of other versions.

use std::pin::pin;
use std::sync::mpsc::{self, Sender};
use std::task::{Context as TaskContext, Wake, Waker};

use super::*;
use crate::log::groups::MemberOptions;
use crate::log::options::TopicOptions;
use crate::log::peer::protocol::{self, CreateTopic, Request, TopicSetup};
use crate::log::storage::MemoryStorage;
use crate::log::{LogClient, RemoteCode};
use crate::message::Message;

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
