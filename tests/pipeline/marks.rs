//! High-water marks and conflation: where a sender stops, where it goes on, and what is replaced.

use std::time::Duration;

use peermq::{Context, Pull, Push, SendError, Socket};

use crate::harness::{
    KERNEL, MOMENT, SOON, TRANSPORTS, WIRES, assert_silent, endpoint, send_at_least, texts, unique,
};
use crate::numbers;

/// A PUSH and a PULL in one process with these marks.
fn pair(context: &Context, send_hwm: usize, recv_hwm: usize) -> (Socket<Push>, Socket<Pull>) {
    let pull = context.pull().recv_hwm(recv_hwm).bind(unique("inproc://marks")).unwrap();
    let push = context.push().send_hwm(send_hwm).connect(endpoint(&pull)).unwrap();
    push.wait_for_peers(1, SOON).unwrap();
    (push, pull)
}

#[test]
fn in_process_the_marks_of_both_sides_add_up() {
    for (send_hwm, recv_hwm) in [(1, 1), (1, 5), (5, 1), (7, 3), (1_000, 1_000), (2_500, 1)] {
        let context = Context::new();
        let (push, pull) = pair(&context, send_hwm, recv_hwm);
        let both = send_hwm + recv_hwm;
        let sent = send_at_least(both, 0, |text, timeout| push.send_timeout(text, timeout));
        assert_eq!(sent, both, "{send_hwm} + {recv_hwm}");
        assert_eq!(push.stats().queued_messages, send_hwm as u64);
        assert_eq!(numbers(&pull, sent), (0..sent).collect::<Vec<_>>());
        assert_silent(pull.recv_timeout(Duration::ZERO));
        // Empty again, it takes as many again.
        let again = send_at_least(both, 0, |text, timeout| push.send_timeout(text, timeout));
        assert_eq!(again, sent);
    }
}

#[test]
fn in_process_the_marks_add_up_when_the_connect_comes_first() {
    for (send_hwm, recv_hwm) in [(1, 1), (1_000, 1_000)] {
        let context = Context::new();
        let name = unique("inproc://first");
        let push = context.push().send_hwm(send_hwm).connect(&name).unwrap();
        let before = send_at_least(send_hwm, 0, |text, timeout| push.send_timeout(text, timeout));
        assert_eq!(before, send_hwm);
        let pull = context.pull().recv_hwm(recv_hwm).bind(&name).unwrap();
        let after =
            send_at_least(recv_hwm, before, |text, timeout| push.send_timeout(text, timeout));
        assert_eq!(before + after, send_hwm + recv_hwm);
        assert_eq!(numbers(&pull, before + after), (0..before + after).collect::<Vec<_>>());
    }
}

#[test]
fn in_process_a_bound_push_honours_the_marks_too() {
    let context = Context::new();
    let push = context.push().send_hwm(3).bind(unique("inproc://bound")).unwrap();
    let pull = context.pull().recv_hwm(2).connect(endpoint(&push)).unwrap();
    let sent = send_at_least(5, 0, |text, timeout| push.send_timeout(text, timeout));
    assert_eq!(sent, 5);
    assert_eq!(numbers(&pull, 5), [0, 1, 2, 3, 4]);
}

#[test]
fn a_full_sender_goes_on_when_the_receiver_has_drained_to_half() {
    let context = Context::new();
    let (push, pull) = pair(&context, 4, 4);
    assert_eq!(send_at_least(8, 0, |text, timeout| push.send_timeout(text, timeout)), 8);
    assert_eq!(numbers(&pull, 1), [0]);
    assert!(matches!(push.try_send("8"), Err(SendError::Full(_))));
    assert_eq!(numbers(&pull, 1), [1]);
    assert_eq!(send_at_least(2, 8, |text, timeout| push.send_timeout(text, timeout)), 2);
    assert_eq!(numbers(&pull, 8), [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_full_peer_is_skipped_until_it_has_room() {
    let context = Context::new();
    let push = context.push().send_hwm(1).bind(unique("inproc://skip")).unwrap();
    let idle = context.pull().recv_hwm(1).connect(endpoint(&push)).unwrap();
    let busy = context.pull().recv_hwm(1).connect(endpoint(&push)).unwrap();
    push.wait_for_peers(2, SOON).unwrap();
    assert_eq!(send_at_least(4, 0, |text, timeout| push.send_timeout(text, timeout)), 4);
    let first = numbers(&busy, 2);
    for number in 4..20 {
        push.send_timeout(number.to_string(), SOON).unwrap();
        assert_eq!(numbers(&busy, 1), [number]);
    }
    let kept = numbers(&idle, 2);
    let mut all = [first, kept].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
}

#[test]
fn an_unread_socket_stops_its_sender_and_loses_nothing() {
    for transport in WIRES {
        let context = Context::new();
        let pull =
            context.pull().recv_hwm(3).kernel_recv_buffer(KERNEL).bind(transport.fresh()).unwrap();
        let push =
            context.push().send_hwm(3).kernel_send_buffer(KERNEL).connect(endpoint(&pull)).unwrap();
        push.wait_for_peers(1, SOON).unwrap();
        let body = vec![1; 50_000];
        let sent = send_at_least(6, 0, |text, timeout| {
            push.send_timeout([text.into_bytes(), body.clone()], timeout)
        });
        // Both marks and the kernel's buffers; a sender that was full goes on from half of its mark only.
        assert!((6..60).contains(&sent), "{transport:?}: {sent}");
        let last = std::thread::spawn(move || {
            push.send_timeout([sent.to_string().into_bytes(), body], SOON).unwrap();
            push
        });
        assert_eq!(numbers(&pull, sent + 1), (0..=sent).collect::<Vec<_>>());
        last.join().unwrap();
    }
}

#[test]
fn an_empty_queue_takes_one_message_above_the_byte_mark_and_no_second_one() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let vacant = transport.vacant();
        let push = context.push().send_hwm_bytes(1_000).connect(&vacant).unwrap();
        push.try_send(vec![1; 100_000]).unwrap();
        assert!(matches!(push.try_send(""), Err(SendError::Full(_))));
        let pull = context.pull().bind(&vacant).unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().body_bytes(), 100_000);
        push.send_timeout("", SOON).unwrap();
        assert_eq!(pull.recv_timeout(SOON).unwrap().body(), b"");
    }
}

#[test]
fn the_byte_mark_counts_the_bytes_on_the_wire() {
    let context = Context::new();
    let push = context.push().send_hwm_bytes(100).connect(unique("inproc://bytes")).unwrap();
    // Two bytes of header each.
    push.try_send(&[0; 48]).unwrap();
    push.try_send(&[0; 40]).unwrap();
    assert!(matches!(push.try_send(&[0; 7]), Err(SendError::Full(_))));
    assert_eq!(push.stats().queued_bytes, 92);
    // A full peer stays out of the turns until it has drained to half.
    assert!(matches!(push.try_send(&[0; 6]), Err(SendError::Full(_))));
}

#[test]
fn the_byte_mark_of_a_receiver_stops_its_sender() {
    let context = Context::new();
    let pull = context.pull().recv_hwm_bytes(1_000).bind(unique("inproc://bytes")).unwrap();
    let push = context.push().send_hwm(1).connect(endpoint(&pull)).unwrap();
    push.wait_for_peers(1, SOON).unwrap();
    let body = [0; 398];
    // 400 bytes each: the third one passes the mark, the fourth waits in the sender's queue.
    let sent = send_at_least(4, 0, |text, timeout| {
        push.send_timeout([text.into_bytes(), body.to_vec()], timeout)
    });
    assert_eq!(sent, 4);
    assert_eq!(numbers(&pull, 4), [0, 1, 2, 3]);
}

#[test]
fn a_conflating_sender_keeps_the_newest_message_whole() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let vacant = transport.vacant();
        let push = context.push().conflate(true).connect(&vacant).unwrap();
        for number in 0..10 {
            push.try_send([number.to_string(), "and".to_owned(), "more".to_owned()]).unwrap();
        }
        let stats = push.stats();
        assert_eq!((stats.sent_messages, stats.queued_messages), (10, 1));
        assert_eq!(stats.dropped_conflate, 9);
        let pull = context.pull().bind(&vacant).unwrap();
        assert_eq!(texts(&pull.recv_timeout(SOON).unwrap()), ["9", "and", "more"]);
        assert_silent(pull.recv_timeout(MOMENT));
    }
}

#[test]
fn a_conflating_receiver_keeps_the_newest_message_of_each_peer_whole() {
    for transport in TRANSPORTS {
        let context = Context::new();
        let pull = context.pull().conflate(true).bind(transport.fresh()).unwrap();
        for name in ["a", "b"] {
            let push = context.push().connect(endpoint(&pull)).unwrap();
            (0..1_500).for_each(|number| push.send([name, &number.to_string()]).unwrap());
            push.close(SOON).unwrap();
        }
        let mut kept = [0; 2].map(|_| texts(&pull.recv_timeout(SOON).unwrap()));
        kept.sort();
        assert_eq!(kept, [["a", "1499"], ["b", "1499"]], "{transport:?}");
        assert_silent(pull.recv_timeout(Duration::ZERO));
        assert_eq!(pull.stats().dropped_conflate, 2 * 1_499);
    }
}
