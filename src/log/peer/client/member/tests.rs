//! Members, against a server whose every answer the test gives.

use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::Wake;

use super::*;
use crate::context::Context as PeerContext;
use crate::log::GroupEvent;
use crate::log::peer::protocol::{
    self, AwaitGroup, GroupVersion, Heartbeat, ListTopics, Membership as Answered, Nothing,
    Outcome, RemoteError, Reply, Request, TopicNames,
};
use crate::pattern::{Router, RoutingId};
use crate::socket::Socket;

/// More than enough for anything that is to happen at once.
const SOON: Duration = Duration::from_secs(60);
/// So long that no heartbeat is due while a test runs.
const LONG_MS: u32 = 1_000_000;

/// Whom to answer.
type Asked = (RoutingId, u64);

struct Server {
    socket: Socket<Router>,
    client: LogClient,
    _context: PeerContext,
}

fn place() -> Server {
    let context = PeerContext::new();
    let socket = context.router().mandatory(true).open().unwrap();
    let endpoint = socket.bind("tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(SOON).connect(&context, endpoint).unwrap();
    Server { socket, client, _context: context }
}

impl Server {
    fn next(&self) -> (Asked, Request) {
        let (from, message) = self.socket.recv_from_timeout(SOON).unwrap();
        let (correlation, request, _) = protocol::decode_request(&message).unwrap();
        ((from, correlation), request)
    }

    fn beat(&self) -> (Asked, Heartbeat) {
        let (asked, request) = self.next();
        let Request::Heartbeat(beat) = request else { panic!("{request:?}") };
        (asked, beat)
    }

    fn watch(&self) -> (Asked, AwaitGroup) {
        let (asked, request) = self.next();
        let Request::AwaitGroup(watch) = request else { panic!("{request:?}") };
        (asked, watch)
    }

    fn answer(&self, asked: &Asked, outcome: &Outcome) {
        self.socket.send_to(&asked.0, protocol::encode_answer(asked.1, outcome)).unwrap();
    }

    /// A member without partitions, in version 1 of its group, and its request for another version.
    fn join(&self) -> (RemoteMember, Asked) {
        let group = self.client.group("g");
        let (waker, woken) = waker();
        let mut joining = Box::pin(group.join_async(MemberOptions::new(["t"])));
        assert!(poll(joining.as_mut(), &waker).is_pending());
        let (asked, beat) = self.beat();
        self.answer(&asked, &membership(&beat.member, 1, 1, LONG_MS, &[]));
        woken.recv_timeout(SOON).unwrap();
        let Poll::Ready(joined) = poll(joining.as_mut(), &waker) else { panic!("it waits on") };
        let (asked, watch) = self.watch();
        assert_eq!(watch.version, 1);
        (joined.unwrap(), asked)
    }
}

fn membership(
    member: &str,
    generation: i32,
    version: u64,
    interval_ms: u32,
    partitions: &[u32],
) -> Outcome {
    let assigned = partitions.iter().map(|number| ("t".to_owned(), *number)).collect();
    let (member, revoked) = (member.to_owned(), Vec::new());
    Ok(Answered { member, generation, assigned, revoked, awaited: 0, interval_ms, version }.into())
}

fn version(version: u64) -> Outcome {
    Ok(GroupVersion { version }.into())
}

struct Told(Sender<()>);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

/// A waker, and what tells that it was called.
fn waker() -> (Waker, Receiver<()>) {
    let (sender, woken) = mpsc::channel();
    (Waker::from(Arc::new(Told(sender))), woken)
}

fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

#[test]
fn a_member_without_partitions_that_is_expelled_while_it_waits_hears_what_it_gets_then() {
    let server = place();
    let (mut member, watch) = server.join();
    let (waker, woken) = waker();
    let mut polling = Box::pin(member.poll_async());
    assert!(poll(polling.as_mut(), &waker).is_pending());
    server.answer(&watch, &version(2));
    let expelled = RemoteError::new(RemoteCode::UnknownMember, "it is none");
    server.answer(&server.beat().0, &Err(expelled));
    woken.recv_timeout(SOON).unwrap();
    // It looks before it is a member again: it had nothing that it could have lost.
    let (asked, again) = server.beat();
    assert!(poll(polling.as_mut(), &waker).is_pending());
    server.answer(&asked, &membership(&again.member, 2, 3, LONG_MS, &[0]));
    woken.recv_timeout(SOON).expect("it is not woken");
    let Poll::Ready(polled) = poll(polling.as_mut(), &waker) else { panic!("it waits on") };
    let assigned = vec![TopicPartition::new("t", 0)];
    assert_eq!(polled.unwrap().events, [GroupEvent::Assigned(assigned)]);
}

#[test]
fn a_member_that_hears_of_a_version_by_its_heartbeat_first_waits_for_the_next_one() {
    let server = place();
    let (member, watch) = server.join();
    member.beat.hold(member.client.core(), Vec::new(), true);
    let (asked, beat) = server.beat();
    server.answer(&asked, &membership(&beat.member, 1, 2, LONG_MS, &[]));
    server.answer(&watch, &version(2));
    let (_, watch) = server.watch();
    assert_eq!(watch.version, 2);
}

#[test]
fn no_heartbeat_is_due_of_a_member_that_has_left_before_its_last_one_was_answered() {
    let server = place();
    let (member, _watch) = server.join();
    let (core, beat) = (member.client.core().clone(), member.beat.clone());
    beat.hold(&core, Vec::new(), true);
    let (asked, last) = server.beat();
    drop(member);
    let (_, request) = server.next();
    assert!(matches!(request, Request::Leave(_)), "{request:?}");
    // What is answered behind it is taken behind it.
    let behind = core.begin_task(&ListTopics(Nothing {}).into(), Vec::new()).unwrap();
    server.answer(&asked, &membership(&last.member, 1, 1, 0, &[]));
    server.answer(&server.next().0, &Ok(Reply::from(TopicNames { topics: Vec::new() })));
    behind.wait(core.deadline(Duration::ZERO)).unwrap();
    assert_eq!(core.beat_if_due(), None);
}
