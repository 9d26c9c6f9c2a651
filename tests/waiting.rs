//! Waiting for messages and for room: many threads, any executor, deadlines, and futures that are dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use harness::futures::{Task, block_on};
use harness::{SOON, TRANSPORTS, Transport, endpoint, unique, wait_until};
use peermq::{
    Context, Dealer, Message, Pub, Pull, Push, RecvError, Router, SendError, Socket, Sub,
};

/// A PUSH and a PULL that are connected.
fn pair(context: &Context, transport: Transport) -> (Socket<Push>, Socket<Pull>) {
    let pull = context.pull().bind(transport.fresh()).unwrap();
    let push = context.push().connect(endpoint(&pull)).unwrap();
    push.wait_for_peers(1, SOON).unwrap();
    pull.wait_for_peers(1, SOON).unwrap();
    (push, pull)
}

/// Sends `count` numbers so that they arrive together: they are queued before there is a connection.
fn send_as_one_run(context: &Context, pull: &Socket<Pull>, transport: Transport, count: usize) {
    let vacant = transport.vacant();
    let push = context.push().connect(&vacant).unwrap();
    (0..count).for_each(|number| push.send(number.to_string()).unwrap());
    pull.bind(&vacant).unwrap();
}

#[test]
fn sockets_are_shared_freely_between_threads() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    fn sent<T: Send + 'static>(_: &T) {}
    shared::<Socket<Push>>();
    shared::<Socket<Pull>>();
    shared::<Socket<Pub>>();
    shared::<Socket<Sub>>();
    shared::<Socket<Dealer>>();
    shared::<Socket<Router>>();
    shared::<Context>();
    let context = Context::new();
    let router = context.router().open().unwrap();
    sent(&router.recv_async());
    sent(&router.recv_from_async());
    sent(&router.send_async("x"));
    sent(&router.monitor());
}

#[test]
fn one_run_of_n_messages_serves_n_waiting_tasks() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().open().unwrap();
        let tasks: Vec<_> = (0..8).map(|_| Task::pending(pull.recv_async())).collect();
        send_as_one_run(&context, &pull, transport, 8);
        // Each is polled only when it was woken, so a wake-up that is not passed on ends the test.
        let got: HashSet<_> =
            tasks.into_iter().map(|task| task.finish().unwrap().to_text().into_owned()).collect();
        assert_eq!(got.len(), 8, "{transport:?}");
    }
}

#[test]
fn one_run_of_n_messages_serves_n_blocked_threads() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().open().unwrap();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let pull = pull.clone();
                std::thread::spawn(move || {
                    pull.recv_timeout(SOON).map(|m| m.to_text().into_owned())
                })
            })
            .collect();
        send_as_one_run(&context, &pull, transport, 8);
        let got: HashSet<_> =
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
        assert_eq!(got.len(), 8, "{transport:?}");
    }
}

#[test]
fn receivers_in_many_threads_share_all_messages_between_them() {
    const COUNT: usize = 4_000;
    for transport in TRANSPORTS {
        let context = Context::new();
        let (push, pull) = pair(&context, transport);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let pull = pull.clone();
                std::thread::spawn(move || {
                    let texts = pull.iter().map(|message| message.to_text().into_owned());
                    texts.take_while(|text| text != "end").collect::<Vec<_>>()
                })
            })
            .collect();
        (0..COUNT).for_each(|number| push.send(number.to_string()).unwrap());
        (0..4).for_each(|_| push.send("end").unwrap());
        let got: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let all: HashSet<_> = got.iter().flatten().collect();
        assert_eq!((got.iter().map(Vec::len).sum::<usize>(), all.len()), (COUNT, COUNT));
    }
}

#[test]
fn senders_blocked_in_many_threads_all_go_on() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().recv_hwm(2).bind(transport.fresh()).unwrap();
        let push = context.push().send_hwm(2).connect(endpoint(&pull)).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let push = push.clone();
                std::thread::spawn(move || {
                    (0..50).for_each(|_| push.send_timeout(thread.to_string(), SOON).unwrap());
                })
            })
            .collect();
        for _ in 0..8 * 50 {
            pull.recv_timeout(SOON).unwrap();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn waiting_send_futures_are_all_served() {
    let context = Context::new();
    let pull = context.pull().recv_hwm(1).bind(unique("inproc://served")).unwrap();
    let push = context.push().send_hwm(1).connect(endpoint(&pull)).unwrap();
    push.send("0").unwrap();
    push.send("0").unwrap();
    let mut waiting: Vec<_> = (0..5).map(|_| Task::pending(push.send_async("1"))).collect();
    let deadline = Instant::now() + SOON;
    let mut received = 0;
    while received < 7 {
        assert!(Instant::now() < deadline, "{} were never woken", waiting.len());
        received += usize::from(pull.recv_timeout(Duration::from_millis(1)).is_ok());
        waiting.retain_mut(|task| !task.is_woken() || task.poll().is_none());
    }
    assert!(waiting.is_empty());
    assert_eq!(push.stats().sent_messages, 7);
}

#[test]
fn deadlines_are_kept() {
    const LIMIT: Duration = Duration::from_millis(50);
    let context = Context::new();
    let pull = context.pull().recv_timeout(LIMIT).bind("tcp://127.0.0.1:0").unwrap();
    let push = context.push().send_timeout(LIMIT).bind("tcp://127.0.0.1:0").unwrap();
    let timed = |call: &dyn Fn()| {
        let start = Instant::now();
        call();
        let took = start.elapsed();
        assert!((LIMIT..SOON).contains(&took), "{took:?}");
    };
    timed(&|| assert_eq!(pull.recv(), Err(RecvError::Timeout)));
    timed(&|| assert_eq!(pull.recv_timeout(LIMIT), Err(RecvError::Timeout)));
    timed(&|| assert_eq!(push.send("x"), Err(SendError::Timeout("x".into()))));
    timed(&|| assert_eq!(push.send_timeout("x", LIMIT), Err(SendError::Timeout("x".into()))));
    timed(&|| assert!(push.wait_for_peers(1, LIMIT).is_err()));
    timed(&|| assert_eq!(pull.monitor().recv_timeout(LIMIT), Err(RecvError::Timeout)));
    assert_eq!(pull.recv_timeout(Duration::ZERO), Err(RecvError::Timeout));
    assert_eq!(pull.try_recv(), Err(RecvError::Empty));
    assert_eq!(
        push.wait_for_peers(3, Duration::ZERO),
        Err(peermq::WaitError::Timeout { present: 0, wanted: 3 })
    );
}

#[test]
fn a_receive_future_that_is_dropped_after_its_wake_up_passes_it_on() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let (push, pull) = pair(&context, transport);
        let first = Task::pending(pull.recv_async());
        let second = Task::pending(pull.recv_async());
        push.send("for one of them").unwrap();
        first.wait_woken();
        assert!(!second.is_woken());
        drop(first);
        assert_eq!(second.finish().unwrap().body(), b"for one of them");
    }
}

#[test]
fn a_receive_future_that_is_dropped_while_it_waits_takes_no_message() {
    let context = Context::new();
    let (push, pull) = pair(&context, Transport::Inproc);
    let dropped = Task::pending(pull.recv_async());
    let waiting = Task::pending(pull.recv_async());
    drop(dropped);
    push.send("a").unwrap();
    assert_eq!(waiting.finish().unwrap().body(), b"a");
    drop(pull.recv_async());
    push.send("b").unwrap();
    assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"b");
}

#[test]
fn a_send_future_that_is_dropped_after_its_wake_up_passes_it_on() {
    let context = Context::new();
    let pull = context.pull().recv_hwm(1).bind(unique("inproc://dropped")).unwrap();
    let push = context.push().send_hwm(1).connect(endpoint(&pull)).unwrap();
    push.send("0").unwrap();
    push.send("1").unwrap();
    let first = Task::pending(push.send_async("dropped"));
    let second = Task::pending(push.send_async("2"));
    assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"0");
    first.wait_woken();
    drop(first);
    second.finish().unwrap();
    assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"1");
    assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"2");
    assert_eq!(push.stats().sent_messages, 3);
}

#[test]
fn a_receive_that_times_out_leaves_its_message_to_others() {
    let context = Context::new();
    let (push, pull) = pair(&context, Transport::Tcp);
    let waiting = Task::pending(pull.recv_async());
    assert_eq!(pull.recv_timeout(Duration::from_millis(5)), Err(RecvError::Timeout));
    push.send("a").unwrap();
    assert_eq!(waiting.finish().unwrap().body(), b"a");
}

#[test]
fn the_futures_run_without_any_runtime() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let router = context.router().bind(transport.fresh()).unwrap();
        let dealer = context.dealer().connect(endpoint(&router)).unwrap();
        let server = std::thread::spawn(move || {
            block_on(async move {
                for _ in 0..100 {
                    let (id, request) = router.recv_from_async().await.unwrap();
                    router.send_to_async(id, request).await.unwrap();
                }
            });
        });
        block_on(async {
            for number in 0..100 {
                dealer.send_async(number.to_string()).await.unwrap();
                let answer = dealer.recv_async().await.unwrap();
                assert_eq!(answer.to_text(), number.to_string());
            }
        });
        server.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_futures_run_on_tokio() {
    const COUNT: usize = 500;
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().recv_hwm(10).bind(transport.fresh()).unwrap();
        let push = context.push().send_hwm(10).connect(endpoint(&pull)).unwrap();
        let senders = (0..4).map(|_| {
            let push = push.clone();
            tokio::spawn(async move {
                for number in 0..COUNT {
                    push.send_async(number.to_string()).await.unwrap();
                }
            })
        });
        let receivers = (0..4).map(|_| {
            let pull = pull.clone();
            tokio::spawn(async move {
                for _ in 0..COUNT {
                    pull.recv_async().await.unwrap();
                }
            })
        });
        for task in senders.chain(receivers).collect::<Vec<_>>() {
            tokio::time::timeout(SOON, task).await.unwrap().unwrap();
        }
        assert_eq!(pull.stats().received_messages, 4 * COUNT as u64);
        tokio::task::spawn_blocking(move || drop(context)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_lost_in_a_race_loses_no_message() {
    let context = Context::new();
    let (push, pull) = pair(&context, Transport::Tcp);
    let sender = std::thread::spawn(move || {
        (0..500).for_each(|number| push.send(number.to_string()).unwrap());
        push
    });
    let mut got = Vec::new();
    while got.len() < 500 {
        // The timer wins often; the message stays where it is.
        if let Ok(message) =
            tokio::time::timeout(Duration::from_micros(50), pull.recv_async()).await
        {
            got.push(message.unwrap().to_text().parse::<usize>().unwrap());
        }
    }
    assert!(got.into_iter().eq(0..500));
    sender.join().unwrap();
}

#[test]
fn one_handle_serves_blocking_and_async_receivers_at_once() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let (push, pull) = pair(&context, transport);
        let task = Task::pending(pull.recv_async());
        let thread = {
            let pull = pull.clone();
            std::thread::spawn(move || pull.recv_timeout(SOON).unwrap().to_text().into_owned())
        };
        push.send("one").unwrap();
        push.send("two").unwrap();
        let mut got = [task.finish().unwrap().to_text().into_owned(), thread.join().unwrap()];
        got.sort();
        assert_eq!(got, ["one", "two"]);
    }
}

#[test]
fn recv_many_takes_what_is_there_up_to_the_capacity() {
    let context = Context::new();
    let pull = context.pull().recv_timeout(SOON).bind("tcp://127.0.0.1:0").unwrap();
    let push = context.push().connect(endpoint(&pull)).unwrap();
    (0..10).for_each(|number| push.send(number.to_string()).unwrap());
    push.close(SOON).unwrap();
    let mut messages: Vec<Message> = Vec::with_capacity(4);
    let room = messages.capacity();
    assert_eq!(pull.recv_many(&mut messages), Ok(room));
    // Without free capacity it takes one.
    messages.shrink_to_fit();
    assert_eq!(messages.capacity(), messages.len());
    assert_eq!(pull.recv_many(&mut messages), Ok(1));
    messages.reserve(100);
    assert_eq!(pull.recv_many(&mut messages), Ok(10 - room - 1));
    let all: Vec<_> = messages.iter().map(|message| message.to_text().into_owned()).collect();
    assert_eq!(all, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_iterator_ends_when_the_socket_is_closed() {
    let context = Context::new();
    let (push, pull) = pair(&context, Transport::Tcp);
    let reader = {
        let pull = pull.clone();
        std::thread::spawn(move || pull.iter().count())
    };
    (0..5).for_each(|_| push.send("x").unwrap());
    wait_until("all is read", || pull.stats().received_messages == 5);
    pull.close(Duration::ZERO).unwrap();
    assert_eq!(reader.join().unwrap(), 5);
}
