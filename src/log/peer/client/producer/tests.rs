//! What a flush tells, against a server whose every answer the test gives.

use super::*;
use crate::context::Context;
use crate::log::LogClient;
use crate::log::format::Id;
use crate::log::peer::client::Connection;
use crate::log::peer::protocol::{
    self, Appended, Outcome, PartitionState, ProducerId, RemoteError, Reply, Request,
};
use crate::pattern::{Router, RoutingId};
use crate::socket::Socket;

/// More than enough for anything that is to happen at once.
const SOON: Duration = Duration::from_secs(60);

/// A pause between two looks at what another thread does.
const MOMENT: Duration = Duration::from_millis(10);

struct Server {
    socket: Socket<Router>,
    client: LogClient,
    _context: Context,
}

fn refusal() -> Outcome {
    Err(RemoteError::new(RemoteCode::Full, "no space"))
}

fn appended(first_offset: i64) -> Outcome {
    Ok(Appended { first_offset, last_offset: first_offset, fingerprint: 0 }.into())
}

impl Server {
    fn new() -> Self {
        let context = Context::new();
        let socket = context.router().mandatory(true).open().unwrap();
        let endpoint = socket.bind("tcp://127.0.0.1:0").unwrap();
        let client = LogClient::options().timeout(SOON).connect(&context, endpoint).unwrap();
        Self { socket, client, _context: context }
    }

    fn next(&self) -> (RoutingId, u64, Request) {
        let (from, message) = self.socket.recv_from_timeout(SOON).unwrap();
        let (correlation, request, _) = protocol::decode_request(&message).unwrap();
        (from, correlation, request)
    }

    /// The next append; what a client asks before its first one is answered.
    fn next_append(&self) -> (RoutingId, u64) {
        loop {
            let (from, correlation, request) = self.next();
            let reply: Reply = match request {
                Request::Append(_) => return (from, correlation),
                Request::NewProducer(_) => ProducerId { id: 5, epoch: 0 }.into(),
                Request::DescribeTopic(_) => {
                    let nothing = PartitionState {
                        earliest: 0,
                        end: 0,
                        durable_end: 0,
                        segments: 1,
                        bytes: 0,
                    };
                    let (id, partitions) = (Id::from_bits(7).to_string(), vec![nothing; 2]);
                    let (topic, options) = ("t".to_owned(), Vec::new());
                    TopicState { topic, id, options, partitions, fingerprint: 0 }.into()
                }
                other => panic!("{other:?}"),
            };
            self.answer(&(from, correlation), &Ok(reply));
        }
    }

    fn answer(&self, asked: &(RoutingId, u64), outcome: &Outcome) {
        self.socket.send_to(&asked.0, protocol::encode_answer(asked.1, outcome)).unwrap();
    }

    fn append(&self) -> AppendTicket {
        self.client.append_to("t", 0, Level::Written, "x").unwrap()
    }

    /// A record on its way, and the request that brings it.
    fn begin(&self) -> (AppendTicket, (RoutingId, u64)) {
        std::thread::scope(|scope| {
            let appending = scope.spawn(|| self.append());
            let asked = self.next_append();
            (appending.join().unwrap(), asked)
        })
    }

    fn flushing(&self) -> Flushing {
        Flushing::begin(self.client.core())
    }
}

#[test]
fn a_failure_is_told_to_all_who_flush_then_and_to_nobody_later() {
    let server = Server::new();
    let (ticket, asked) = server.begin();
    let mut both = [server.flushing(), server.flushing()];
    server.answer(&asked, &refusal());
    both.iter_mut().for_each(|flushing| flushing.wait_until(None));
    for flushing in both {
        let error = flushing.finish().unwrap_err();
        assert_eq!(
            (error.records, &error.first.topic[..], error.first.partition),
            (1, "t", 0),
            "{error}"
        );
        assert_eq!(error.first.error.code(), Some(RemoteCode::Full), "{error}");
        assert!(error.to_string().contains("topic t, partition 0"), "{error}");
    }
    assert!(ticket.wait().is_err());
    server.client.flush(Duration::ZERO).unwrap();
}

#[test]
fn a_failure_that_was_told_is_not_told_again_after_another_flush_is_dropped() {
    let server = Server::new();
    let (ticket, asked) = server.begin();
    let [mut told, dropped] = [server.flushing(), server.flushing()];
    server.answer(&asked, &refusal());
    told.wait_until(None);
    assert_eq!(told.finish().unwrap_err().records, 1);
    drop(dropped);
    assert!(ticket.wait().is_err());
    server.client.flush(Duration::ZERO).unwrap();
}

#[test]
fn what_failed_while_nobody_waited_to_the_end_is_told_to_the_next_one() {
    let server = Server::new();
    let (ticket, asked) = server.begin();
    let error = server.client.flush(Duration::ZERO).unwrap_err();
    assert_eq!(error.first.error.connection(), Some(&Connection::Up), "{error}");
    assert_eq!((error.records, error.partitions.len()), (1, 1));
    let mut given_up = server.flushing();
    server.answer(&asked, &refusal());
    given_up.wait_until(None);
    drop(given_up);
    let later: Vec<AppendTicket> = (0..2).map(|_| server.append()).collect();
    assert!(ticket.wait().is_err());
    for _ in &later {
        let asked = server.next_append();
        server.answer(&asked, &refusal());
    }
    later.into_iter().for_each(|ticket| assert!(ticket.wait().is_err()));
    let error = server.client.flush(SOON).unwrap_err();
    assert_eq!((error.records, error.partitions.len()), (3, 1), "{error}");
    assert_eq!(error.first.error.code(), Some(RemoteCode::Full), "{error}");
    server.client.flush(Duration::ZERO).unwrap();
}

#[test]
fn what_is_appended_after_a_flush_has_begun_is_not_waited_for() {
    let server = Server::new();
    let (_first, first) = server.begin();
    // Gathers behind the first one.
    let _second = server.append();
    let mut flushing = server.flushing();
    let third = server.append();
    server.answer(&first, &appended(0));
    let second = server.next_append();
    server.answer(&second, &appended(1));
    flushing.wait_until(None);
    flushing.finish().unwrap();
    let asked = server.next_append();
    assert!(!third.is_done());
    server.answer(&asked, &appended(2));
    server.client.flush(SOON).unwrap();
    assert_eq!(third.wait().unwrap(), 2);
}

#[test]
fn nothing_is_appended_any_more_while_a_close_waits_for_what_was() {
    let server = Server::new();
    let (ticket, asked) = server.begin();
    let closing = server.client.clone();
    let closing = std::thread::spawn(move || closing.close(SOON));
    let until = now() + SOON;
    let error = loop {
        match server.client.append_to("t", 1, Level::Written, "x") {
            // Appended before it was closed: that is waited for, too.
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
        assert!(now() < until, "it takes records on and on");
    };
    assert!(matches!(error, PeerError::Closed { .. }), "{error}");
    assert!(!ticket.is_done() && !closing.is_finished(), "it waits");
    server.answer(&asked, &appended(0));
    while !closing.is_finished() {
        let Ok((from, message)) = server.socket.recv_from_timeout(MOMENT) else { continue };
        let (correlation, ..) = protocol::decode_request(&message).unwrap();
        server.answer(&(from, correlation), &appended(0));
    }
    closing.join().unwrap().unwrap();
}
