//! What the caller does wrong: options, endpoints, closed contexts. Each error names the culprit.

use std::time::Duration;

use peermq::{Builder, Context, Pattern, SendError, SetupError, Socket};

/// The option that the error of `open` names.
#[track_caller]
fn refused<P: Pattern>(builder: Builder<P>) -> &'static str {
    match builder.open() {
        Err(SetupError::Option(error)) => {
            assert!(error.to_string().contains(error.option), "{error}");
            error.option
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_option_out_of_range_is_refused_by_the_name_of_its_method() {
    const ZERO: Duration = Duration::ZERO;
    let context = Context::new();
    let pull = || context.pull();
    assert_eq!(refused(pull().send_hwm(0)), "send_hwm");
    assert_eq!(refused(pull().send_hwm_bytes(0)), "send_hwm_bytes");
    assert_eq!(refused(pull().recv_hwm(0)), "recv_hwm");
    assert_eq!(refused(pull().recv_hwm_bytes(0)), "recv_hwm_bytes");
    assert_eq!(refused(pull().max_message_bytes(0)), "max_message_bytes");
    assert_eq!(refused(pull().max_frames(0)), "max_frames");
    assert_eq!(refused(pull().max_peers(0)), "max_peers");
    assert_eq!(refused(pull().max_half_open(0)), "max_half_open");
    assert_eq!(refused(pull().handshake_timeout(ZERO)), "handshake_timeout");
    assert_eq!(refused(pull().connect_timeout(ZERO)), "connect_timeout");
    assert_eq!(refused(pull().heartbeat_interval(ZERO)), "heartbeat_interval");
    assert_eq!(refused(pull().heartbeat_timeout(ZERO)), "heartbeat_timeout");
    let too_long = Duration::from_millis(6_553_501);
    assert_eq!(refused(pull().heartbeat_ttl(too_long)), "heartbeat_ttl");
    assert_eq!(refused(pull().reconnect_interval_max(ZERO)), "reconnect_interval_max");
    assert_eq!(refused(pull().kernel_send_buffer(0)), "kernel_send_buffer");
    assert_eq!(refused(pull().kernel_recv_buffer(usize::MAX)), "kernel_recv_buffer");
    assert_eq!(refused(pull().backlog(0)), "backlog");
    assert_eq!(refused(context.dealer().routing_id(vec![b'x'; 256])), "routing_id");
    assert_eq!(refused(context.router().routing_id("\0x")), "routing_id");
    assert_eq!(refused(context.subscribe().topic(vec![0; 65_537])), "topic");
}

#[test]
fn the_ends_of_each_range_are_accepted() {
    let context = Context::new();
    context
        .dealer()
        .send_hwm(usize::MAX)
        .send_hwm_bytes(usize::MAX)
        .recv_hwm(1)
        .recv_hwm_bytes(1)
        .linger(Duration::MAX)
        .send_timeout(Duration::MAX)
        .recv_timeout(Duration::ZERO)
        .handshake_timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .heartbeat_interval(Duration::MAX)
        .heartbeat_timeout(Duration::MAX)
        .heartbeat_ttl(Duration::from_millis(6_553_500))
        .reconnect_interval(Duration::MAX)
        .max_message_bytes(usize::MAX)
        .max_frames(usize::MAX)
        .max_peers(usize::MAX)
        .max_half_open(usize::MAX)
        .backlog(1)
        .routing_id(vec![b'x'; 255])
        .connect("inproc://nobody")
        .unwrap();
    context.subscribe().topic(vec![0; 65_536]).open().unwrap();
}

#[test]
fn a_context_takes_1_to_64_io_threads() {
    for count in [0, 65] {
        let error = Context::with_io_threads(count).unwrap_err();
        assert_eq!((error.option, error.value), ("io_threads", count.to_string()));
    }
    Context::with_io_threads(64).unwrap();
}

#[test]
fn a_topic_that_is_too_long_is_refused_when_it_is_subscribed() {
    let context = Context::new();
    let sub = context.subscribe().open().unwrap();
    match sub.subscribe(vec![0; 65_537]) {
        Err(SetupError::Option(error)) => assert_eq!(error.option, "topic"),
        other => panic!("{other:?}"),
    }
    assert!(!sub.unsubscribe(vec![0; 65_537]).unwrap());
}

#[test]
fn a_bad_endpoint_is_refused_with_its_text() {
    let context = Context::new();
    let long_path = format!("ipc:///{}", "x".repeat(200));
    let long_name = format!("inproc://{}", "x".repeat(1_000));
    for bad in [
        "",
        "tcp",
        "tcp:/127.0.0.1:1",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://:5555",
        "tcp://[::1:5555",
        "udp://127.0.0.1:5555",
        "http://localhost:80",
        "ipc://",
        "ipc://@",
        "ipc:///tmp/a\0b",
        "inproc://",
        &long_path,
        &long_name,
    ] {
        for result in [context.pull().bind(bad), context.pull().connect(bad)] {
            match result {
                Err(SetupError::Endpoint(error)) => {
                    let shown: String = error.to_string();
                    let text: String = bad.chars().take_while(|c| *c != '\0').take(40).collect();
                    assert!(shown.contains(&text), "{shown}");
                }
                other => panic!("{bad}: {other:?}"),
            }
        }
    }
}

#[test]
fn an_endpoint_that_does_not_suit_its_role_is_refused() {
    let context = Context::new();
    for unconnectable in ["tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://*:5555", "ipc://*"] {
        let result = context.pull().connect(unconnectable);
        assert!(matches!(result, Err(SetupError::Endpoint(_))), "{unconnectable}: {result:?}");
    }
    let source = context.pull().bind("tcp://127.0.0.1:0;127.0.0.1:5555");
    assert!(matches!(source, Err(SetupError::Endpoint(_))), "{source:?}");
}

#[test]
fn a_closed_context_makes_no_sockets_and_its_sockets_do_nothing() {
    fn closed<T: std::fmt::Debug>(result: Result<T, SetupError>) {
        assert!(matches!(result, Err(SetupError::Closed)), "{result:?}");
    }
    let context = Context::new();
    let push: Socket<_> = context.push().bind("inproc://a").unwrap();
    let sub = context.subscribe().open().unwrap();
    let monitor = push.monitor();
    context.shutdown();
    closed(context.push().open());
    closed(context.push().bind("tcp://127.0.0.1:0"));
    closed(push.bind("tcp://127.0.0.1:0"));
    closed(push.connect("inproc://b"));
    closed(push.unbind("inproc://a"));
    closed(push.disconnect("inproc://b"));
    closed(sub.subscribe("x"));
    closed(sub.unsubscribe("x"));
    assert_eq!(push.try_send("x"), Err(SendError::Closed("x".into())));
    assert_eq!(push.send("x"), Err(SendError::Closed("x".into())));
    assert_eq!(sub.try_recv(), Err(peermq::RecvError::Closed));
    assert_eq!(sub.recv(), Err(peermq::RecvError::Closed));
    let wait = push.wait_for_peers(1, Duration::MAX);
    assert_eq!(wait, Err(peermq::WaitError::Closed));
    drop(push);
    while let Ok(event) = monitor.recv() {
        assert_eq!(event.endpoint().to_string(), "inproc://a");
    }
}
