//! The ends of things: sockets, endpoints, contexts. What was accepted still goes out, or is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use harness::futures::Task;
use harness::raw::Raw;
use harness::{
    KERNEL, MOMENT, SOON, TRANSPORTS, Transport, WIRES, alone, assert_silent, count_entries,
    disconnection, endpoint, texts, unique, wait_event, wait_until,
};
use peermq::{
    CloseError, Context, DisconnectReason, Event, Pull, Push, RecvError, SendError, SetupError,
    Socket,
};

/// A linger time, or a deadline, that nobody waits for who returns at once.
const LONG: Duration = Duration::from_secs(150);

/// The call returns without waiting for anything: whatever it might wait for takes `LONG`, or never comes.
#[track_caller]
fn at_once<T>(call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    assert!(took < LONG - SOON / 2, "{took:?}");
    result
}

/// The `count` numbers from 0 on arrive in order.
#[track_caller]
fn assert_numbers(pull: &Socket<Pull>, count: usize) {
    for number in 0..count {
        assert_eq!(pull.recv_timeout(SOON).unwrap().to_text(), number.to_string());
    }
}

#[test]
fn what_a_dropped_socket_had_accepted_still_arrives() {
    for transport in WIRES {
        let context = Context::new();
        let vacant = transport.vacant();
        let push = context.push().reconnect_interval(Duration::from_millis(5)).linger(LONG);
        let push = push.connect(&vacant).unwrap();
        (0..100).for_each(|number| push.send(number.to_string()).unwrap());
        at_once(|| drop(push));
        let pull = context.pull().bind(&vacant).unwrap();
        assert_numbers(&pull, 100);
    }
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().recv_hwm(10).bind(transport.fresh()).unwrap();
        let push = context.push().linger(LONG).connect(endpoint(&pull)).unwrap();
        (0..100).for_each(|number| push.send(number.to_string()).unwrap());
        at_once(|| drop(push));
        assert_numbers(&pull, 100);
    }
}

#[test]
fn what_a_dropped_context_had_accepted_still_arrives() {
    for transport in WIRES {
        let theirs = Context::new();
        let pull = theirs.pull().recv_hwm(10).bind(transport.fresh()).unwrap();
        let ours = Context::new();
        let push = ours.push().linger(LONG).connect(endpoint(&pull)).unwrap();
        (0..1_000).for_each(|number| push.send(number.to_string()).unwrap());
        let reader = std::thread::spawn(move || assert_numbers(&pull, 1_000));
        drop(push);
        drop(ours);
        reader.join().unwrap();
        drop(theirs);
    }
}

#[test]
fn dropping_a_socket_towards_nobody_never_blocks_and_its_context_waits_the_linger_time() {
    const LINGER: Duration = Duration::from_millis(100);
    for transport in WIRES {
        let context = Context::new();
        let push = context.push().linger(LINGER).connect(transport.vacant()).unwrap();
        push.send("to nobody").unwrap();
        let start = Instant::now();
        at_once(|| drop(push));
        at_once(|| drop(context));
        assert!(start.elapsed() >= LINGER - MOMENT, "it did not wait");
    }
    // In process nobody can come any more: there is nothing to wait for.
    let context = Context::new();
    let push = context.push().linger(LONG).connect(unique("inproc://nobody")).unwrap();
    push.send("to nobody").unwrap();
    at_once(|| drop(push));
    at_once(|| drop(context));
}

#[test]
fn a_context_without_anything_to_send_ends_at_once() {
    let context = Context::new();
    for transport in TRANSPORTS {
        let _connected = context.push().linger(LONG).connect(transport.vacant()).unwrap();
        let bound = context.pull().linger(LONG).bind(transport.fresh()).unwrap();
        let peer = context.push().linger(LONG).connect(endpoint(&bound)).unwrap();
        peer.send("x").unwrap();
        bound.recv_timeout(SOON).unwrap();
    }
    at_once(|| drop(context));
}

#[test]
fn with_linger_zero_what_is_queued_is_dropped_and_counted() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let vacant = transport.vacant();
        let push = context.push().linger(Duration::ZERO).connect(&vacant).unwrap();
        (0..10).for_each(|number| push.send(number.to_string()).unwrap());
        push.disconnect(&vacant).unwrap();
        wait_until("it is counted", || push.stats().dropped_linger == 10);
        let stats = push.stats();
        assert_eq!((stats.sent_messages, stats.queued_messages), (10, 0));
        push.connect(transport.vacant()).unwrap();
        (0..5).for_each(|number| push.send(number.to_string()).unwrap());
        at_once(|| drop(push));
        at_once(|| drop(context));
    }
}

#[test]
fn close_tells_how_many_messages_a_dead_endpoint_cost() {
    const DEADLINE: Duration = Duration::from_millis(50);
    for transport in TRANSPORTS {
        let context = Context::new();
        let push = context.push().connect(transport.vacant()).unwrap();
        (0..7).for_each(|number| push.send(number.to_string()).unwrap());
        let error = at_once(|| push.close(DEADLINE)).unwrap_err();
        assert_eq!(error.unsent, 7, "{transport:?}");
        assert_eq!(error.to_string(), "7 accepted messages were not sent before the deadline");
        let idle = context.push().connect(transport.vacant()).unwrap();
        assert_eq!(at_once(|| idle.close(LONG)), Ok::<(), CloseError>(()));
    }
}

#[test]
fn close_gives_up_a_peer_that_reads_nothing() {
    for transport in WIRES {
        let context = Context::new();
        // The kernel takes the first message, and never all of them.
        const COUNT: u64 = 900;
        let push = context.push().kernel_send_buffer(KERNEL).handshake_timeout(SOON);
        let push = push.bind(transport.fresh()).unwrap();
        let stuck = Raw::peer(&endpoint(&push), "PULL");
        push.wait_for_peers(1, SOON).unwrap();
        (0..COUNT).for_each(|_| push.send_timeout(vec![0; 10_000], SOON).unwrap());
        let error = at_once(|| push.close(Duration::from_millis(100))).unwrap_err();
        assert!((1..COUNT).contains(&error.unsent), "{error}");
        drop(stuck);
    }
}

#[test]
fn a_slow_receiver_gets_everything_however_long_it_takes_in_all() {
    const COUNT: usize = 20;
    // Twenty pauses are longer; one is so much shorter that a busy machine does not make the reader miss it.
    const DEADLINE: Duration = Duration::from_secs(12);
    const PAUSE: Duration = Duration::from_millis(650);
    let reads_slowly = |transport: Transport| {
        let context = Context::new();
        let pull =
            context.pull().recv_hwm(1).kernel_recv_buffer(KERNEL).bind(transport.fresh()).unwrap();
        let push = context.push().kernel_send_buffer(KERNEL).connect(endpoint(&pull)).unwrap();
        push.wait_for_peers(1, SOON).unwrap();
        for _ in 0..COUNT {
            push.send(vec![0; 200_000]).unwrap();
        }
        let pace = context.pull().open().unwrap();
        let start = Instant::now();
        let reader = thread::spawn(move || {
            for _ in 0..COUNT {
                // Nothing comes here: the time is the reader's own.
                assert_eq!(pace.recv_timeout(PAUSE), Err(RecvError::Timeout));
                assert_eq!(pull.recv_timeout(SOON).unwrap().body_bytes(), 200_000);
            }
        });
        assert_eq!(push.close(DEADLINE), Ok(()));
        assert!(start.elapsed() > DEADLINE, "{transport:?}: the reader was not slow enough");
        reader.join().unwrap();
    };
    let both = WIRES.map(|transport| thread::spawn(move || reads_slowly(transport)));
    both.into_iter().for_each(|one| one.join().unwrap());
}

#[test]
fn the_end_of_a_context_ends_all_that_waits() {
    for shut_down in [true, false] {
        let context = Context::new();
        let pull = context.pull().bind("tcp://127.0.0.1:0").unwrap();
        let push = context.push().bind("inproc://a").unwrap();
        let receiving = Task::pending(pull.recv_async());
        let sending = Task::pending(push.send_async("x"));
        let threads = [
            std::thread::spawn({
                let pull = pull.clone();
                move || assert_eq!(pull.recv(), Err(RecvError::Closed))
            }),
            std::thread::spawn({
                let push = push.clone();
                move || assert_eq!(push.send("x"), Err(SendError::Closed("x".into())))
            }),
            std::thread::spawn({
                let push = push.clone();
                move || {
                    let waited = push.wait_for_peers(1, Duration::MAX);
                    assert_eq!(waited, Err(peermq::WaitError::Closed));
                }
            }),
            std::thread::spawn({
                let pull = pull.clone();
                move || assert_eq!(pull.iter().count(), 0)
            }),
        ];
        if shut_down {
            context.shutdown();
        } else {
            at_once(|| drop(context.clone()));
            at_once(|| drop(context));
        }
        assert_eq!(receiving.finish(), Err(RecvError::Closed));
        assert_eq!(sending.finish(), Err(SendError::Closed("x".into())));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(matches!(pull.bind("tcp://127.0.0.1:0"), Err(SetupError::Closed)));
    }
}

#[test]
fn unbind_frees_the_address_at_once() {
    let context = Context::new();
    for transport in TRANSPORTS {
        let address = transport.vacant();
        let pull = context.pull().bind(&address).unwrap();
        let address = endpoint(&pull);
        for round in 0..20 {
            let push = context.push().connect(&address).unwrap();
            push.send(round.to_string()).unwrap();
            assert_eq!(pull.recv_timeout(SOON).unwrap().to_text(), round.to_string());
            pull.unbind(&address).unwrap();
            pull.bind(&address).unwrap();
        }
    }
}

#[test]
fn unbind_ends_the_connections_that_came_there_and_no_others() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().bind(transport.fresh()).unwrap();
        let (first, second) = (endpoint(&pull), pull.bind(transport.fresh()).unwrap());
        let goes = context.push().connect(&first).unwrap();
        let stays = context.push().connect(&second).unwrap();
        pull.wait_for_peers(2, SOON).unwrap();
        pull.unbind(&first).unwrap();
        wait_until("one is gone", || pull.stats().peers == 1 && goes.stats().peers == 0);
        stays.send("still here").unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"still here");
        match pull.unbind(&first) {
            Err(SetupError::UnknownEndpoint { endpoint, role: "bound" }) => {
                assert_eq!(endpoint, first);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn disconnect_sends_what_is_queued_and_does_not_come_back() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().bind(transport.fresh()).unwrap();
        let push = context.push().connect(endpoint(&pull)).unwrap();
        (0..100).for_each(|number| push.send(number.to_string()).unwrap());
        push.disconnect(endpoint(&pull)).unwrap();
        assert_eq!(push.try_send("x"), Err(SendError::Full("x".into())));
        assert_numbers(&pull, 100);
        wait_until("the peer is gone", || pull.stats().peers == 0);
        let again = push.disconnect(endpoint(&pull));
        assert!(
            matches!(again, Err(SetupError::UnknownEndpoint { role: "connected", .. })),
            "{again:?}"
        );
        assert_eq!(push.stats().dropped_linger, 0);
    }
}

#[test]
fn a_socket_lives_as_long_as_its_last_handle() {
    for transport in WIRES {
        let context = Context::new();
        let pull = context.pull().bind(transport.fresh()).unwrap();
        let monitor = pull.monitor();
        let first = context.push().connect(endpoint(&pull)).unwrap();
        let second = first.clone();
        drop(first);
        second.send("still open").unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"still open");
        drop(second);
        assert_eq!(disconnection(&monitor), (endpoint(&pull), DisconnectReason::PeerClosed));
    }
}

#[test]
fn close_ends_all_handles_of_a_socket() {
    let context = Context::new();
    let pull = context.pull().bind(unique("inproc://handles")).unwrap();
    let clone = pull.clone();
    pull.close(Duration::ZERO).unwrap();
    assert_eq!(clone.recv(), Err(RecvError::Closed));
    assert!(matches!(clone.bind("inproc://again"), Err(SetupError::Closed)));
    let other =
        context.pull().bind(clone.endpoint().map_or("inproc://x".into(), |e| e.to_string()));
    other.unwrap();
}

#[test]
fn a_future_keeps_its_socket_usable_but_not_its_context() {
    let context = Context::new();
    let pull = context.pull().bind(unique("inproc://future")).unwrap();
    let task = Task::pending(pull.recv_async());
    drop(pull);
    assert_eq!(task.finish(), Err(RecvError::Closed));
}

#[test]
fn monitors_tell_the_life_of_a_connection_in_order() {
    for transport in WIRES {
        let context = Context::new();
        let pull = context.pull().open().unwrap();
        let bound = pull.monitor();
        let address = pull.bind(transport.fresh()).unwrap();
        let push = context.push().open().unwrap();
        let connected = push.monitor();
        push.connect(&address).unwrap();
        push.send("x").unwrap();
        pull.recv_timeout(SOON).unwrap();
        push.disconnect(&address).unwrap();
        let next = |monitor: &peermq::Monitor| {
            let event = monitor.recv_timeout(SOON).unwrap();
            assert_eq!(event.endpoint(), &address);
            event
        };
        assert!(matches!(next(&bound), Event::Listening { .. }));
        assert!(matches!(next(&bound), Event::Accepted { .. }));
        assert!(matches!(next(&bound), Event::PeerReady { .. }));
        assert!(matches!(next(&bound), Event::Disconnected { peer: Some(_), .. }));
        assert!(matches!(next(&connected), Event::Connected { .. }));
        assert!(matches!(next(&connected), Event::PeerReady { .. }));
        assert!(matches!(
            next(&connected),
            Event::Disconnected { peer: Some(_), reason: DisconnectReason::Closed, .. }
        ));
        pull.unbind(&address).unwrap();
        assert!(matches!(next(&bound), Event::Unbound { .. }));
        drop(pull);
        wait_event_end(&bound);
    }
}

#[test]
fn a_monitor_that_is_made_once_a_peer_was_waited_for_does_not_hear_of_it() {
    for transport in TRANSPORTS {
        let address = transport.vacant();
        for _ in 0..100 {
            let context = Context::new();
            let pull = context.pull().bind(&address).unwrap();
            let (monitor, push) = thread::scope(|scope| {
                let connecting = scope.spawn(|| context.push().connect(&address).unwrap());
                // Without a pause, to be there as soon as the peer is.
                let since = Instant::now();
                while pull.wait_for_peers(1, Duration::ZERO).is_err() {
                    assert!(since.elapsed() < SOON, "it never came");
                }
                (pull.monitor(), connecting.join().unwrap())
            });
            push.send("x").unwrap();
            assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"x");
            let ready = std::iter::from_fn(|| monitor.try_recv().ok())
                .any(|event| matches!(event, Event::PeerReady { .. }));
            assert!(!ready, "{transport:?}");
        }
    }
}

/// The monitor of a socket that is gone ends.
fn wait_event_end(monitor: &peermq::Monitor) {
    let deadline = Instant::now() + SOON;
    while monitor.recv_timeout(MOMENT) != Err(RecvError::Closed) {
        assert!(Instant::now() < deadline, "the monitor never ended");
    }
}

#[test]
fn a_silent_peer_is_dead_after_the_heartbeat_timeout() {
    let context = Context::new();
    let pull = context
        .pull()
        .heartbeat_interval(Duration::from_millis(20))
        .heartbeat_timeout(Duration::from_millis(60))
        .handshake_timeout(SOON)
        .bind("tcp://127.0.0.1:0")
        .unwrap();
    let monitor = pull.monitor();
    let push = context.push().connect(endpoint(&pull)).unwrap();
    push.wait_for_peers(1, SOON).unwrap();
    let mut mute = Raw::peer(&endpoint(&pull), "PUSH");
    let reason = wait_event(&monitor, "a peer is dead", |event| match event {
        Event::Disconnected { reason, .. } => Some(reason.to_string()),
        _ => None,
    });
    assert!(reason.contains("heartbeat"), "{reason}");
    mute.expect_closed();
    // On a busy machine the good one may be late with a sign of life too. It comes back, but what was under way is lost.
    wait_until("the other one is served", || {
        push.send(["alive", "and well"]).unwrap();
        let received = pull.recv_timeout(MOMENT);
        received.is_ok_and(|message| texts(&message) == ["alive", "and well"])
    });
}

#[test]
fn a_hundred_contexts_leave_no_thread_and_no_file_behind() {
    if !alone("a_hundred_contexts_leave_no_thread_and_no_file_behind", None) {
        return;
    }
    let live = || {
        let context = Context::with_io_threads(2).unwrap();
        // No port is reserved for this: that would be a file that stays.
        for fresh in ["tcp://127.0.0.1:0".to_owned(), "ipc://*".to_owned(), unique("inproc://a")] {
            let pull = context.pull().bind(fresh).unwrap();
            let push = context.push().connect(endpoint(&pull)).unwrap();
            push.send("x").unwrap();
            pull.recv_timeout(SOON).unwrap();
        }
    };
    live();
    let count = || (count_entries("/proc/self/fd"), count_entries("/proc/self/task"));
    let before = count();
    (0..100).for_each(|_| live());
    // A thread that ended may still be listed for a moment, also in the count before.
    wait_until("all are gone", || {
        let (files, threads) = count();
        files <= before.0 && threads <= before.1
    });
}

/// Drops what it owns when woken: a task whose executor is gone does that.
struct LastHandle(Mutex<Option<Context>>);

impl Wake for LastHandle {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

/// A task and a thread that wait on one context, and the peer from elsewhere that can wake the task.
struct Waiters {
    context: Context,
    quiet: Socket<Pull>,
    task: Socket<Pull>,
    push: Socket<Push>,
    _other: Context,
}

fn waiters() -> Waiters {
    let other = Context::new();
    let push = other.push().bind("tcp://127.0.0.1:*").unwrap();
    let context = Context::new();
    let quiet = context.pull().bind("tcp://127.0.0.1:*").unwrap();
    let task = context.pull().connect(endpoint(&push)).unwrap();
    push.wait_for_peers(1, SOON).unwrap();
    Waiters { context, quiet, task, push, _other: other }
}

#[test]
fn a_waker_may_drop_the_last_handle_on_a_thread_that_waits() {
    let Waiters { _other, context, quiet, task, push } = waiters();
    let mut receive = task.recv_async();
    let waker = Waker::from(Arc::new(LastHandle(Mutex::new(Some(context)))));
    let mut polling = std::task::Context::from_waker(&waker);
    assert!(Pin::new(&mut receive).poll(&mut polling).is_pending());
    let waiting = thread::spawn(move || quiet.recv_timeout(SOON));
    push.send("wakes the task, which drops the last handle").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap_err(), RecvError::Closed);
}

/// A task whose executor panics when it is woken.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("planted: this waker panics");
    }
}

#[test]
fn a_waker_that_panics_closes_the_sockets_of_its_context_and_hangs_nobody() {
    let Waiters { _other, context, quiet, task, push } = waiters();
    let mut receive = task.recv_async();
    let waker = Waker::from(Arc::new(Panics));
    let mut polling = std::task::Context::from_waker(&waker);
    assert!(Pin::new(&mut receive).poll(&mut polling).is_pending());
    let waiting = thread::spawn(move || quiet.recv_timeout(SOON));
    push.send("wakes the task").unwrap();
    // The waiting thread turned, and panicked itself; or the I/O thread did, and it found its socket closed.
    let _ = waiting.join();
    wait_until("the context's sockets are closed", || task.try_recv() == Err(RecvError::Closed));
    at_once(move || drop((receive, task, context)));
}

#[test]
fn a_streaming_sender_keeps_no_socket_of_its_context_from_being_served() {
    let context = Context::new();
    let publisher = context.publish().bind("tcp://127.0.0.1:*").unwrap();
    let _subscriber = context.subscribe().topic("").connect(endpoint(&publisher)).unwrap();
    publisher.wait_for_subscribers(1, SOON).unwrap();
    let quiet = context.pull().bind("tcp://127.0.0.1:*").unwrap();
    // A wait takes the turn and puts it back, just before the stream begins.
    assert_silent(quiet.recv_timeout(MOMENT));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                publisher.send("tick").unwrap();
            }
        });
        let other = Context::new();
        let push = other.push().connect(endpoint(&quiet)).unwrap();
        let joined = push.wait_for_peers(1, SOON);
        over.store(true, Ordering::Relaxed);
        joined.unwrap();
    });
}
