//! Every compatible pair of socket types, over each transport, each side binding and connecting in turn: all message
//! shapes and a burst in order, each way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{env, fs, process};

use peermq::{Builder, Context, Message, Pattern, RoutingId, Socket};

use crate::body::{LARGEST_BODY_BYTES, assert_same, sequence, shapes};
use crate::peer::Peer;
use crate::ports::reserve_port;
use crate::{PATIENCE, hex};

/// Messages of a burst, and of one where each waits for the reply to the one before.
const BURST: usize = 10_000;
const LOCKSTEP_BURST: usize = 1_000;
const BURST_BODY_BYTES: usize = 16;
/// What a PUB sends until its peer has heard it.
const PROBE: &[u8] = b"are you there?";

/// How a pair is connected.
#[derive(Clone, Copy)]
struct Route {
    transport: &'static str,
    we_bind: bool,
    /// Bodies up to this size, in bytes.
    largest: usize,
}

/// All routes. Abstract names differ from paths in the address only, so they go without the large bodies.
fn routes() -> Vec<Route> {
    let mut transports = vec![("tcp", LARGEST_BODY_BYTES), ("ipc-path", LARGEST_BODY_BYTES)];
    if cfg!(target_os = "linux") {
        transports.push(("ipc-abstract", 65_536));
    }
    let both_ways =
        transports.into_iter().flat_map(|transport| [(transport, true), (transport, false)]);
    both_ways.map(|((transport, largest), we_bind)| Route { transport, we_bind, largest }).collect()
}

/// An endpoint that nobody else uses.
pub(crate) fn fresh_endpoint(transport: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("peermq-interop-{}-{number}", process::id());
    match transport {
        "tcp" => "tcp://127.0.0.1:*".to_owned(),
        "ipc-path" => format!("ipc://{}", env::temp_dir().join(name).display()),
        _ => format!("ipc://@{name}"),
    }
}

/// A TCP endpoint with a port that stays free while nobody is there.
pub(crate) fn vacant_tcp() -> String {
    format!("tcp://{}", reserve_port())
}

/// Runs one pair over all routes and prints a line for each. `exercise` gets our socket, the peer whose socket is named
/// `s`, and the largest body; it starts when both are connected.
fn run_pair<P: Pattern>(
    pair: &str,
    ours: impl Fn(&Context) -> Builder<P>,
    theirs: &str,
    exercise: impl Fn(&Socket<P>, &mut Peer, usize),
) {
    let Some(mut peer) = Peer::start() else { return };
    for route in routes() {
        let start = Instant::now();
        let context = Context::new();
        let endpoint = fresh_endpoint(route.transport);
        peer.ask(&format!("socket s {theirs} sndhwm=0 rcvhwm=0"));
        let socket = if route.we_bind {
            let socket = ours(&context).recv_timeout(PATIENCE).bind(&endpoint).unwrap();
            peer.ask(&format!("connect s {}", socket.endpoint().unwrap()));
            socket
        } else {
            let real = peer.ask(&format!("bind s {endpoint}"));
            ours(&context).recv_timeout(PATIENCE).connect(&real).unwrap()
        };
        socket.wait_for_peers(1, PATIENCE).unwrap();
        exercise(&socket, &mut peer, route.largest);
        // Who connected goes first: it must not look for the other one where somebody else may be by then.
        if route.we_bind {
            peer.ask("close s 0");
            drop((socket, context));
        } else {
            drop((socket, context));
            peer.ask("close s 0");
        }
        if let Some(path) = endpoint.strip_prefix("ipc://").filter(|path| path.starts_with('/')) {
            // libzmq leaves its file behind.
            let _ = fs::remove_file(path);
        }
        println!(
            "interop {pair} {} {} ok {} shapes ({} ms)",
            route.transport,
            if route.we_bind { "bind" } else { "connect" },
            shapes(route.largest).len(),
            start.elapsed().as_millis(),
        );
    }
}

/// All shapes and a burst from us to them.
fn ours_to_theirs(peer: &mut Peer, largest: usize, send: impl Fn(Message)) {
    peer.tell(&format!("recv_shapes s {largest}"));
    shapes(largest).into_iter().for_each(&send);
    peer.answer();
    peer.tell(&format!("recv_sequence s {BURST} {BURST_BODY_BYTES}"));
    (0..BURST).for_each(|number| send(sequence(number, BURST_BODY_BYTES)));
    peer.answer();
}

/// All shapes and a burst from them to us.
fn theirs_to_ours(peer: &mut Peer, largest: usize, recv: impl Fn() -> Message) {
    peer.tell(&format!("send_shapes s {largest}"));
    for (number, expected) in shapes(largest).iter().enumerate() {
        assert_same(number, &recv(), expected);
    }
    peer.answer();
    peer.tell(&format!("send_sequence s {BURST} {BURST_BODY_BYTES}"));
    for number in 0..BURST {
        assert_same(number, &recv(), &sequence(number, BURST_BODY_BYTES));
    }
    peer.answer();
}

/// Receives from the peer that announced the id `theirs`.
fn recv_from_theirs(socket: &Socket<peermq::Router>) -> Message {
    let (sender, message) = socket.recv_from().unwrap();
    assert_eq!(sender.as_slice(), b"theirs");
    message
}

/// Lets their SUB or XSUB subscribe to everything. It must be receiving while we wait: libzmq announces a subscription to
/// a peer that it has accepted no earlier than in the next call on the socket.
fn subscribe_theirs(socket: &Socket<peermq::Pub>, peer: &mut Peer) {
    peer.ask("subscribe s x");
    peer.tell("recv s 120000");
    socket.wait_for_subscribers(1, PATIENCE).unwrap();
    socket.send(PROBE).unwrap();
    assert_eq!(peer.answer(), hex(PROBE));
}

#[test]
fn a_push_socket_reaches_a_libzmq_pull() {
    run_pair(
        "PUSH->PULL",
        |context| context.push(),
        "PULL",
        |socket, peer, largest| {
            ours_to_theirs(peer, largest, |message| socket.send(message).unwrap());
        },
    );
}

#[test]
fn a_pull_socket_hears_a_libzmq_push() {
    run_pair(
        "PULL<-PUSH",
        |context| context.pull(),
        "PUSH",
        |socket, peer, largest| {
            theirs_to_ours(peer, largest, || socket.recv().unwrap());
        },
    );
}

#[test]
fn a_dealer_socket_talks_to_a_libzmq_dealer() {
    run_pair(
        "DEALER<->DEALER",
        |context| context.dealer(),
        "DEALER",
        |socket, peer, largest| {
            ours_to_theirs(peer, largest, |message| socket.send(message).unwrap());
            theirs_to_ours(peer, largest, || socket.recv().unwrap());
        },
    );
}

#[test]
fn a_dealer_socket_talks_to_a_libzmq_router() {
    let ours = |context: &Context| context.dealer().routing_id("ours");
    let theirs = "ROUTER to=ours router_mandatory=1";
    run_pair("DEALER<->ROUTER", ours, theirs, |socket, peer, largest| {
        ours_to_theirs(peer, largest, |message| socket.send(message).unwrap());
        theirs_to_ours(peer, largest, || socket.recv().unwrap());
    });
}

#[test]
fn a_router_socket_talks_to_a_libzmq_dealer() {
    let ours = |context: &Context| context.router().mandatory(true);
    let theirs = "DEALER routing_id=theirs";
    run_pair("ROUTER<->DEALER", ours, theirs, |socket, peer, largest| {
        let id = RoutingId::from("theirs");
        ours_to_theirs(peer, largest, |message| socket.send_to(&id, message).unwrap());
        theirs_to_ours(peer, largest, || recv_from_theirs(socket));
    });
}

#[test]
fn a_router_socket_talks_to_a_libzmq_router() {
    let ours = |context: &Context| context.router().mandatory(true).routing_id("ours");
    let theirs = "ROUTER routing_id=theirs to=ours router_mandatory=1";
    run_pair("ROUTER<->ROUTER", ours, theirs, |socket, peer, largest| {
        let id = RoutingId::from("theirs");
        ours_to_theirs(peer, largest, |message| socket.send_to(&id, message).unwrap());
        theirs_to_ours(peer, largest, || recv_from_theirs(socket));
    });
}

#[test]
fn a_dealer_socket_gets_replies_from_a_libzmq_rep() {
    run_pair(
        "DEALER<->REP",
        |context| context.dealer(),
        "REP",
        |socket, peer, largest| {
            let request = |mut message: Message| {
                message.push_front("");
                socket.send(message).unwrap();
            };
            let expect_reply = |number, expected: &Message| {
                let mut reply = socket.recv().unwrap();
                assert_eq!(reply.pop_front().as_deref(), Some(&b""[..]));
                assert_same(number, &reply, expected);
            };
            let requests = shapes(largest);
            peer.tell(&format!("echo s {}", requests.len() + BURST));
            for (number, message) in requests.iter().enumerate() {
                request(message.clone());
                expect_reply(number, message);
            }
            (0..BURST).for_each(|number| request(sequence(number, BURST_BODY_BYTES)));
            for number in 0..BURST {
                expect_reply(number, &sequence(number, BURST_BODY_BYTES));
            }
            peer.answer();
        },
    );
}

#[test]
fn a_router_socket_serves_a_libzmq_req() {
    let ours = |context: &Context| context.router().mandatory(true);
    run_pair("ROUTER<->REQ", ours, "REQ", |socket, peer, largest| {
        let serve = |count: usize| {
            for _ in 0..count {
                let (client, request) = socket.recv_from().unwrap();
                assert!(request.body().is_empty(), "a request begins with an empty frame");
                socket.send_to(&client, request).unwrap();
            }
        };
        peer.tell(&format!("request_shapes s {largest}"));
        serve(shapes(largest).len());
        peer.answer();
        peer.tell(&format!("request_sequence s {LOCKSTEP_BURST} {BURST_BODY_BYTES}"));
        serve(LOCKSTEP_BURST);
        peer.answer();
    });
}

#[test]
fn a_pub_socket_reaches_a_libzmq_sub() {
    let ours = |context: &Context| context.publish().no_drop(true);
    run_pair("PUB->SUB", ours, "SUB", |socket, peer, largest| {
        subscribe_theirs(socket, peer);
        ours_to_theirs(peer, largest, |message| socket.send(message).unwrap());
    });
}

#[test]
fn a_pub_socket_reaches_a_libzmq_xsub() {
    let ours = |context: &Context| context.publish().no_drop(true);
    run_pair("PUB->XSUB", ours, "XSUB", |socket, peer, largest| {
        subscribe_theirs(socket, peer);
        ours_to_theirs(peer, largest, |message| socket.send(message).unwrap());
    });
}

#[test]
fn a_sub_socket_hears_a_libzmq_pub() {
    let ours = |context: &Context| context.subscribe().topic("");
    run_pair("SUB<-PUB", ours, "PUB", |socket, peer, largest| {
        peer.tell(&format!("publish_until_told s {}", hex(PROBE)));
        assert_eq!(socket.recv().unwrap().body(), PROBE);
        let recv = || socket.iter().find(|message| message.body() != PROBE).unwrap();
        peer.tell("send s x");
        assert_eq!(recv().body(), b"");
        peer.answer();
        peer.answer();
        theirs_to_ours(peer, largest, || socket.recv().unwrap());
    });
}

#[test]
fn a_sub_socket_hears_a_libzmq_xpub() {
    let ours = |context: &Context| context.subscribe().topic("");
    run_pair("SUB<-XPUB", ours, "XPUB", |socket, peer, largest| {
        assert_eq!(peer.ask("recv s 120000"), "x01");
        theirs_to_ours(peer, largest, || socket.recv().unwrap());
    });
}
