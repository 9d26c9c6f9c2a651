//! Endpoints: every way to write one, who may have it, and what happens while nobody is there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::io::ErrorKind;
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use harness::{
    MOMENT, SOON, TRANSPORTS, Transport, assert_silent, endpoint, handshake_failure, unique,
    wait_event,
};
use peermq::{Context, Endpoint, Event, Pull, SetupError, Socket, SocketKind};

/// A message travels to the socket over this endpoint.
#[track_caller]
fn assert_reaches(context: &Context, pull: &Socket<Pull>, endpoint: &str) {
    let push = context.push().connect(endpoint).unwrap();
    push.send(endpoint).unwrap();
    assert_eq!(pull.recv_timeout(SOON).unwrap().to_text(), endpoint);
}

/// The port at the end of a tcp endpoint.
fn port(endpoint: &Endpoint) -> u16 {
    endpoint.to_string().rsplit(':').next().unwrap().parse().unwrap()
}

#[track_caller]
fn assert_in_use<T: std::fmt::Debug>(result: Result<T, SetupError>, at: &Endpoint) {
    match result {
        Err(SetupError::Bind { endpoint, source }) => {
            assert_eq!((&endpoint, source.kind()), (at, ErrorKind::AddrInUse));
        }
        other => panic!("{other:?}"),
    }
}

/// A path in the temporary directory that nothing else uses.
fn fresh_path() -> PathBuf {
    let path = std::env::temp_dir().join(unique("peermq-endpoints"));
    // Left by an earlier process of this number.
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn a_wildcard_port_is_answered_with_the_real_one() {
    let context = Context::new();
    for wildcard in ["tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://localhost:*"] {
        let pull = context.pull().open().unwrap();
        let real = pull.bind(wildcard).unwrap();
        assert_ne!(port(&real), 0);
        assert_eq!(pull.endpoint(), Some(real.clone()));
        assert_reaches(&context, &pull, &real.to_string());
    }
}

#[test]
fn a_wildcard_host_listens_on_both_families() {
    let context = Context::new();
    let pull = context.pull().bind("tcp://*:0").unwrap();
    let port = port(&endpoint(&pull));
    assert_reaches(&context, &pull, &format!("tcp://127.0.0.1:{port}"));
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        assert_eq!(endpoint(&pull).to_string(), format!("tcp://[::]:{port}"));
        assert_reaches(&context, &pull, &format!("tcp://[::1]:{port}"));
    } else {
        eprintln!("skipped: this machine has no IPv6");
    }
}

#[test]
fn without_ipv6_a_wildcard_host_listens_on_ipv4_alone() {
    let context = Context::new();
    let pull = context.pull().ipv6(false).bind("tcp://*:0").unwrap();
    assert!(endpoint(&pull).to_string().starts_with("tcp://0.0.0.0:"));
    assert_reaches(&context, &pull, &format!("tcp://127.0.0.1:{}", port(&endpoint(&pull))));
}

#[test]
fn host_and_interface_names_are_looked_up() {
    let context = Context::new();
    let pull = context.pull().bind("tcp://127.0.0.1:0").unwrap();
    assert_reaches(&context, &pull, &format!("tcp://localhost:{}", port(&endpoint(&pull))));
    let by_interface = context.pull().bind("tcp://lo:0").unwrap();
    assert!(endpoint(&by_interface).to_string().starts_with("tcp://127.0.0.1:"));
    assert_reaches(&context, &by_interface, &endpoint(&by_interface).to_string());
}

#[test]
fn a_connect_may_name_the_address_it_starts_from() {
    let context = Context::new();
    let pull = context.pull().bind("tcp://127.0.0.1:0").unwrap();
    let push = context
        .push()
        .connect(format!("tcp://127.0.0.2:0;127.0.0.1:{}", port(&endpoint(&pull))))
        .unwrap();
    push.send("hello").unwrap();
    let message = pull.recv_timeout(SOON).unwrap();
    let address = message.peer().unwrap().address();
    assert!(address.starts_with("127.0.0.2:"), "{address}");
}

#[test]
fn a_name_that_does_not_exist_is_reported_and_tried_again() {
    let context = Context::new();
    let push = context
        .push()
        .linger(Duration::ZERO)
        .reconnect_interval(Duration::from_millis(5))
        .open()
        .unwrap();
    let monitor = push.monitor();
    // A label of more than 63 characters is no name anywhere; no server has to be asked, which may take its time.
    let name: Endpoint = format!("tcp://{}.invalid:5555", "x".repeat(64)).parse().unwrap();
    push.connect(&name).unwrap();
    for _ in 0..2 {
        wait_event(&monitor, "the name was not found", |event| match event {
            Event::ConnectFailed { endpoint, retry_in: Some(_), .. } => {
                assert_eq!(endpoint, &name);
                Some(())
            }
            _ => None,
        });
    }
}

#[test]
fn a_connect_waits_for_its_listener_and_says_why() {
    for transport in [Transport::Tcp, Transport::Ipc] {
        let context = Context::new();
        let vacant: Endpoint = transport.vacant().parse().unwrap();
        let push = context.push().reconnect_interval(Duration::from_millis(5)).open().unwrap();
        let monitor = push.monitor();
        push.connect(&vacant).unwrap();
        push.send("hello").unwrap();
        let retry_in = wait_event(&monitor, "a connect was refused", |event| match event {
            Event::ConnectFailed { endpoint, reason, retry_in } => {
                assert_eq!((endpoint, reason.kind), (&vacant, ErrorKind::ConnectionRefused));
                Some(*retry_in)
            }
            _ => None,
        });
        assert!(retry_in.is_some_and(|pause| pause <= Duration::from_millis(5)));
        let pull = context.pull().bind(&vacant).unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"hello");
    }
}

#[test]
fn without_reconnect_one_attempt_is_made() {
    let context = Context::new();
    let push = context.push().reconnect(false).linger(Duration::ZERO).open().unwrap();
    let monitor = push.monitor();
    push.connect(Transport::Tcp.vacant()).unwrap();
    let retry = wait_event(&monitor, "a connect was refused", |event| match event {
        Event::ConnectFailed { retry_in, .. } => Some(*retry_in),
        _ => None,
    });
    assert_eq!(retry, None);
    assert!(monitor.recv_timeout(MOMENT).is_err());
}

#[test]
fn an_address_is_bound_once() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().bind(transport.vacant()).unwrap();
        let real = endpoint(&pull);
        assert_in_use(pull.bind(&real), &real);
        assert_in_use(context.pull().bind(&real), &real);
        // The one that was there is not harmed.
        assert_reaches(&context, &pull, &real.to_string());
        drop(pull);
        harness::wait_until("it is free again", || context.pull().bind(&real).is_ok());
    }
}

#[test]
fn an_address_that_is_not_ours_is_refused() {
    let context = Context::new();
    match context.pull().bind("tcp://192.0.2.1:5555") {
        Err(SetupError::Bind { endpoint, source }) => {
            assert_eq!(endpoint.to_string(), "tcp://192.0.2.1:5555");
            assert_eq!(source.kind(), ErrorKind::AddrNotAvailable);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_ipc_file_is_there_while_its_socket_is_bound() {
    let path = fresh_path();
    let address = format!("ipc://{}", path.display());
    let context = Context::new();
    let pull = context.pull().bind(&address).unwrap();
    assert_eq!(endpoint(&pull).to_string(), address);
    assert!(path.metadata().unwrap().file_type().is_socket());
    assert_reaches(&context, &pull, &address);
    pull.unbind(&address).unwrap();
    assert!(!path.exists(), "unbind leaves the file");
    pull.bind(&address).unwrap();
    drop(pull);
    drop(context);
    assert!(!path.exists(), "the end leaves the file");
}

#[test]
fn an_ipc_wildcard_makes_a_private_place_and_removes_it() {
    let context = Context::new();
    let pull = context.pull().bind("ipc://*").unwrap();
    let address = endpoint(&pull).to_string();
    let path = PathBuf::from(address.strip_prefix("ipc://").unwrap());
    assert!(path.exists());
    assert_reaches(&context, &pull, &address);
    pull.unbind(&address).unwrap();
    assert!(!path.exists() && !path.parent().unwrap().exists());
}

#[test]
fn an_abstract_ipc_name_leaves_no_file() {
    let context = Context::new();
    let address = unique("ipc://@peermq-abstract");
    let pull = context.pull().bind(&address).unwrap();
    assert_eq!(endpoint(&pull).to_string(), address);
    assert_reaches(&context, &pull, &address);
    assert_in_use(context.pull().bind(&address), &endpoint(&pull));
}

#[test]
fn a_stale_ipc_file_is_replaced_and_a_live_one_is_not() {
    let path = fresh_path();
    let address = format!("ipc://{}", path.display());
    // Dropping a listener of the standard library leaves its file, as a crash does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let context = Context::new();
    let pull = context.pull().bind(&address).unwrap();
    assert_reaches(&context, &pull, &address);
    let other = Context::new();
    assert_in_use(other.pull().bind(&address), &endpoint(&pull));
    assert_reaches(&other, &pull, &address);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let path = fresh_path();
    std::fs::write(&path, "precious").unwrap();
    let context = Context::new();
    match context.pull().bind(format!("ipc://{}", path.display())) {
        Err(SetupError::Bind { source, .. }) => {
            assert_eq!(source.kind(), ErrorKind::AlreadyExists);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn in_process_connect_and_bind_come_in_either_order() {
    let context = Context::new();
    let name = unique("inproc://order");
    let early = context.push().connect(&name).unwrap();
    early.send("early").unwrap();
    let pull = context.pull().bind(&name).unwrap();
    assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"early");
    assert_reaches(&context, &pull, &name);
}

#[test]
fn in_process_a_wrong_type_is_refused_by_name() {
    let context = Context::new();
    let name = unique("inproc://types");
    let early = context.subscribe().open().unwrap();
    let monitor = early.monitor();
    early.connect(&name).unwrap();
    let pull = context.pull().bind(&name).unwrap();
    match context.publish().connect(&name) {
        Err(SetupError::IncompatibleSocketType { endpoint, ours, theirs }) => {
            assert_eq!(endpoint.to_string(), name);
            assert_eq!((ours, theirs), (SocketKind::Pub, SocketKind::Pull));
        }
        other => panic!("{other:?}"),
    }
    // Who came first learns of it by an event.
    let (at, reason) = handshake_failure(&monitor);
    assert_eq!(at.to_string(), name);
    let text = reason.to_string();
    assert!(text.contains("SUB") && text.contains("PULL"), "{text}");
    assert_reaches(&context, &pull, &name);
}

#[test]
fn in_process_names_belong_to_their_context() {
    let name = unique("inproc://mine");
    let (ours, theirs) = (Context::new(), Context::new());
    let pull = ours.pull().bind(&name).unwrap();
    let other = theirs.pull().bind(&name).unwrap();
    assert_reaches(&ours, &pull, &name);
    assert_reaches(&theirs, &other, &name);
    assert_silent(pull.recv_timeout(MOMENT));
}

#[test]
fn in_process_a_connect_finds_the_next_binder_of_its_name() {
    let context = Context::new();
    let name = unique("inproc://next");
    let push = context.push().connect(&name).unwrap();
    for round in 0..5 {
        let pull = context.pull().bind(&name).unwrap();
        push.send(round.to_string()).unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().to_text(), round.to_string());
        pull.close(Duration::ZERO).unwrap();
    }
    assert_eq!(push.stats().dropped_disconnect, 0);
}

#[test]
fn a_second_connect_to_the_same_endpoint_counts_only_where_it_should() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let publisher = context.publish().bind(transport.fresh()).unwrap();
        let subscriber = context.subscribe().topic("").connect(endpoint(&publisher)).unwrap();
        subscriber.connect(endpoint(&publisher)).unwrap();
        publisher.wait_for_subscribers(1, SOON).unwrap();
        publisher.send("once").unwrap();
        assert_eq!(subscriber.recv_timeout(SOON).unwrap().body(), b"once");
        assert_silent(subscriber.recv_timeout(MOMENT));

        let pull = context.pull().bind(transport.fresh()).unwrap();
        let push = context.push().connect(endpoint(&pull)).unwrap();
        push.connect(endpoint(&pull)).unwrap();
        pull.wait_for_peers(2, SOON).unwrap();
    }
}

#[test]
fn one_socket_binds_and_connects_in_many_places() {
    let context = Context::new();
    let pull = context.pull().open().unwrap();
    assert_eq!(pull.endpoint(), None);
    let bound: Vec<_> =
        TRANSPORTS.iter().map(|transport| pull.bind(transport.fresh()).unwrap()).collect();
    let push = context.push().open().unwrap();
    for endpoint in &bound {
        push.connect(endpoint).unwrap();
    }
    for _ in 0..30 {
        push.send("x").unwrap();
    }
    let mut came = bound.iter().map(|_| 0).collect::<Vec<_>>();
    for _ in 0..30 {
        let message = pull.recv_timeout(SOON).unwrap();
        let from = message.peer().unwrap().endpoint();
        came[bound.iter().position(|endpoint| endpoint == from).unwrap()] += 1;
    }
    assert_eq!(came, [10, 10, 10]);
}
