//! PING and PONG: nobody who lives is taken for dead, and who is mute is disconnected, by the timeout or by its own TTL.

use std::any::Any;
use std::time::{Duration, Instant};

use peermq::{
    Builder, Context, DisconnectReason, Event, Monitor, Pattern, ProtocolError, RecvError, Socket,
};

use crate::body::{assert_same, sequence};
use crate::peer::Peer;
use crate::raw::{COMMAND, Raw};
use crate::{PATIENCE, wait_for};

const INTERVAL: Duration = Duration::from_millis(100);
/// Longer than a busy machine keeps one that lives waiting.
const TIMEOUT: Duration = Duration::from_secs(12);
/// Who would be taken for dead is, within that time.
const WATCHED: Duration = Duration::from_secs(15);
/// Where all who are taken for dead are.
const SHORT_TIMEOUT: Duration = Duration::from_secs(2);
const THEIR_HEARTBEAT: &str = "heartbeat_ivl=100 heartbeat_timeout=12000 heartbeat_ttl=12000";

fn beating<P: Pattern>(builder: Builder<P>) -> Builder<P> {
    beating_within(TIMEOUT, builder)
}

fn beating_within<P: Pattern>(timeout: Duration, builder: Builder<P>) -> Builder<P> {
    builder.heartbeat_interval(INTERVAL).heartbeat_timeout(timeout).heartbeat_ttl(timeout)
}

/// Binds a socket that is monitored from its first event.
fn bind<P: Pattern>(builder: Builder<P>) -> (Socket<P>, Monitor) {
    let socket = builder.recv_timeout(PATIENCE).open().unwrap();
    let monitor = socket.monitor();
    socket.bind("tcp://127.0.0.1:*").unwrap();
    (socket, monitor)
}

/// A connected pair that is being watched. The socket lives as long as this does.
struct Watched {
    name: String,
    monitor: Monitor,
    _socket: Box<dyn Any>,
}

/// Connects a pair of types with heartbeats of ours, theirs or both.
fn watch<P: Pattern>(
    peer: &mut Peer,
    builder: Builder<P>,
    theirs: &str,
    beats: (bool, bool),
) -> Watched {
    let builder = if beats.0 { beating(builder) } else { builder };
    let (socket, monitor) = bind(builder);
    let name = format!("{theirs}-{}-{}", beats.0, beats.1);
    let options = if beats.1 { THEIR_HEARTBEAT } else { "linger=0" };
    peer.ask(&format!("socket {name} {theirs} {options}"));
    peer.ask(&format!("monitor {name}"));
    peer.ask(&format!("connect {name} {}", socket.endpoint().unwrap()));
    peer.ask(&format!("event {name} HANDSHAKE_SUCCEEDED"));
    wait_for(&monitor, |event| matches!(event, Event::PeerReady { .. }));
    Watched { name, monitor, _socket: Box::new(socket) }
}

#[track_caller]
fn expect_death(monitor: &Monitor) {
    let event = wait_for(monitor, |event| matches!(event, Event::Disconnected { .. }));
    let Event::Disconnected { reason, .. } = event else { unreachable!() };
    assert_eq!(reason, DisconnectReason::Protocol(ProtocolError::HeartbeatTimeout));
}

#[test]
fn no_silent_pair_is_taken_for_dead() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let mut pairs = Vec::new();
    for beats in [(true, true), (true, false), (false, true)] {
        pairs.push(watch(&mut peer, context.push(), "PULL", beats));
        pairs.push(watch(&mut peer, context.pull(), "PUSH", beats));
        pairs.push(watch(&mut peer, context.dealer(), "ROUTER", beats));
        pairs.push(watch(&mut peer, context.dealer(), "REP", beats));
        pairs.push(watch(&mut peer, context.router(), "DEALER", beats));
        pairs.push(watch(&mut peer, context.router(), "REQ", beats));
        pairs.push(watch(&mut peer, context.publish(), "SUB", beats));
        pairs.push(watch(&mut peer, context.subscribe(), "PUB", beats));
    }
    assert_eq!(pairs[0].monitor.recv_timeout(WATCHED), Err(RecvError::Timeout));
    for pair in &pairs {
        assert_eq!(pair.monitor.try_recv(), Err(RecvError::Empty), "{}", pair.name);
        assert_eq!(peer.ask(&format!("events_within {} 1", pair.name)), "", "{}", pair.name);
    }
}

#[test]
fn no_busy_pair_is_taken_for_dead() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let (dealer, monitor) = bind(beating(context.dealer()));
    peer.ask(&format!("socket s DEALER {THEIR_HEARTBEAT}"));
    peer.ask(&format!("connect s {}", dealer.endpoint().unwrap()));
    wait_for(&monitor, |event| matches!(event, Event::PeerReady { .. }));
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        peer.tell("echo s 100");
        for number in 0..100 {
            dealer.send(sequence(number, 1_000)).unwrap();
            assert_same(number, &dealer.recv().unwrap(), &sequence(number, 1_000));
        }
        peer.answer();
    }
    assert_eq!(monitor.try_recv(), Err(RecvError::Empty));
}

#[test]
fn a_peer_that_is_not_read_is_not_taken_for_dead() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let (pull, monitor) = bind(beating(context.pull()).recv_hwm(10));
    peer.ask("socket s PUSH sndhwm=100");
    peer.ask(&format!("connect s {}", pull.endpoint().unwrap()));
    wait_for(&monitor, |event| matches!(event, Event::PeerReady { .. }));
    let accepted: usize = peer.ask("fill s 10000 100000").parse().unwrap();
    assert_eq!(monitor.recv_timeout(WATCHED), Err(RecvError::Timeout));
    for number in 0..accepted {
        assert_same(number, &pull.recv().unwrap(), &sequence(number, 10_000));
    }
    assert_eq!(monitor.try_recv(), Err(RecvError::Empty));
}

#[test]
fn a_frozen_libzmq_peer_is_disconnected_after_our_timeout() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    // Without a TTL, by which it might take us for dead first.
    let dealer = context.dealer().heartbeat_interval(INTERVAL).heartbeat_timeout(SHORT_TIMEOUT);
    let pair = watch(&mut peer, dealer, "DEALER", (false, false));
    peer.freeze();
    expect_death(&pair.monitor);
}

#[test]
fn a_frozen_libzmq_peer_is_disconnected_after_the_ttl_that_it_announced() {
    let Some(mut peer) = Peer::start() else { return };
    let context = Context::new();
    let pair = watch(&mut peer, context.dealer(), "DEALER", (false, true));
    assert_eq!(peer.ask(&format!("events_within {} 400", pair.name)), "");
    peer.freeze();
    expect_death(&pair.monitor);
}

#[test]
fn a_mute_peer_gets_pings_with_our_ttl_and_is_disconnected() {
    let context = Context::new();
    let pull = beating_within(SHORT_TIMEOUT, context.pull()).handshake_timeout(PATIENCE);
    let pull = pull.bind("tcp://127.0.0.1:*").unwrap();
    let monitor = pull.monitor();
    let mut mute = Raw::connect(&pull.endpoint().unwrap());
    mute.shake_hands(1, "PUSH");
    let (flags, ping) = mute.read_frame();
    assert_eq!((flags, &ping[..7]), (COMMAND, &b"\x04PING\0\x14"[..]));
    mute.read_to_end();
    expect_death(&monitor);
}

#[test]
fn a_peer_is_answered_with_its_context_and_disconnected_after_its_ttl() {
    let context = Context::new();
    let pull = context.pull().handshake_timeout(PATIENCE).bind("tcp://127.0.0.1:*").unwrap();
    let monitor = pull.monitor();
    let mut raw = Raw::connect(&pull.endpoint().unwrap());
    raw.shake_hands(1, "PUSH");
    let asked = Instant::now();
    raw.write_frame(COMMAND, b"\x04PING\0\x03sixteen bytes ok");
    assert_eq!(raw.read_frame(), (COMMAND, b"\x04PONGsixteen bytes ok".to_vec()));
    assert_eq!(raw.read_to_end(), b"");
    assert!(asked.elapsed() >= Duration::from_millis(290), "{:?}", asked.elapsed());
    expect_death(&monitor);
}
