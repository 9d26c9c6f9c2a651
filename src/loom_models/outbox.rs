//! The outbox: its writer against the writable event (O2), against the end of the session and the next one (O1, O3), and in
//! process against the credit of the other end's inbox (I1).

use std::sync::Arc;

use loom::thread;

use super::explore;
use super::owner::{ModelOwner, NoBell, info, pipe, send};
use crate::pipe::{Joint, Link, Pipe, Source};
use crate::sync::Fault;
use crate::transport::model::Kernel;
use crate::wire::Established;

/// Bytes of a message of one letter on the wire: flags, length, body.
const WIRE_BYTES: usize = 3;

fn link(pipe: &Arc<Pipe>, kernel: &Arc<Kernel>) {
    let link = Link::Modelled { kernel: Arc::clone(kernel), doorbell: Arc::new(NoBell) };
    if let Some(role) = pipe.link(link, &[], Established::in_process()) {
        role.run();
    }
}

fn sender(pipe: &Arc<Pipe>, texts: &'static [&'static str]) -> thread::JoinHandle<()> {
    let pipe = Arc::clone(pipe);
    thread::spawn(move || texts.iter().for_each(|text| send(&pipe, text)))
}

/// The letters of whole messages on a wire, and whether it ends in the middle of one.
fn letters(bytes: &[u8]) -> (String, bool) {
    let messages = bytes.chunks_exact(WIRE_BYTES);
    let torn = !messages.remainder().is_empty();
    let letters = messages.map(|message| {
        assert_eq!(&message[..2], &[0, 1], "a frame of one byte");
        char::from(message[2])
    });
    (letters.collect(), torn)
}

/// The kernel fills up in the middle of a write; room comes while the writer is still out.
fn writable_during_a_write(fault: Option<Fault>) {
    explore(fault, || {
        let (pipe, _owner) = pipe(1, 10);
        let kernel = Arc::new(Kernel::new(WIRE_BYTES + 1));
        link(&pipe, &kernel);
        let sender = sender(&pipe, &["a", "b"]);
        kernel.drain(WIRE_BYTES);
        pipe.writable();
        assert_eq!(letters(&kernel.received(2 * WIRE_BYTES)), ("ab".into(), false));
        sender.join().unwrap();
        assert!(pipe.outbox_report().drained);
    });
}

#[test]
fn loom_a_writable_event_during_a_write_is_not_lost() {
    writable_during_a_write(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_forgotten_writable_event_is_found() {
    writable_during_a_write(Some(Fault::KickForgotten));
}

/// Two senders, one writer at a time: each one's messages arrive in order, and none twice.
#[test]
fn loom_two_senders_have_one_writer() {
    explore(None, || {
        let (pipe, _owner) = pipe(1, 10);
        let kernel = Arc::new(Kernel::new(100));
        link(&pipe, &kernel);
        let other = sender(&pipe, &["x", "y"]);
        send(&pipe, "a");
        send(&pipe, "b");
        other.join().unwrap();
        let (letters, torn) = letters(&kernel.received(4 * WIRE_BYTES));
        let of = |own: &str| letters.chars().filter(|c| own.contains(*c)).collect::<String>();
        assert_eq!((of("ab").as_str(), of("xy").as_str(), torn), ("ab", "xy", false));
        assert!(pipe.outbox_report().drained);
    });
}

/// The session ends and the next begins while a writer is out: what was sent is not sent again, the message that was cut
/// in two is counted, the others follow in order.
fn next_session_during_a_write(fault: Option<Fault>) {
    explore(fault, || {
        let (pipe, owner) = pipe(1, 10);
        let first = Arc::new(Kernel::new(WIRE_BYTES + 1));
        let second = Arc::new(Kernel::new(100));
        link(&pipe, &first);
        let sender = sender(&pipe, &["a", "b", "c"]);
        pipe.unlink();
        link(&pipe, &second);
        sender.join().unwrap();
        let report = pipe.outbox_report();
        assert!(report.drained && report.messages == 0 && report.bytes == 0, "{report:?}");
        let (sent, torn) = letters(&first.received(0));
        let (then, torn_again) = letters(&second.received(0));
        let lost = owner.seen(|seen| seen.lost);
        assert!(!torn_again && lost == u64::from(torn), "{sent} {then} lost {lost}");
        let mut expected: Vec<char> = "abc".chars().collect();
        if torn {
            expected.remove(sent.len());
        }
        assert_eq!(sent + &then, expected.into_iter().collect::<String>(), "what arrived");
    });
}

#[test]
fn loom_a_new_session_during_a_write_continues_where_the_old_one_ended() {
    next_session_during_a_write(None);
}

#[test]
#[should_panic]
fn loom_control_a_writer_that_mistakes_its_session_is_found() {
    next_session_during_a_write(Some(Fault::SessionMistaken));
}

/// Two pipes of one process that are joined and attached.
fn joined(recv_messages: usize) -> [(Arc<Pipe>, Arc<ModelOwner>); 2] {
    let ends = [pipe(1, 10), pipe(2, recv_messages)];
    let [(here, _), (there, _)] = &ends;
    let joint = Joint::join(here, there);
    for (own, other) in [(here, there), (there, here)] {
        own.set_info(info(own));
        own.inbox().set_source(Source::Inproc(Arc::clone(other)));
        let link = Link::Inproc { doorbell: Arc::new(NoBell) };
        assert!(own.link(link, &[], Established::in_process()).is_none(), "nothing is queued");
    }
    joint.settle(true);
    ends
}

/// In process: the other end's inbox is full, and is drained while the writer is out.
fn inbox_drained_during_a_write(fault: Option<Fault>) {
    explore(fault, || {
        let [(here, _), (there, their)] = joined(1);
        let sender = sender(&here, &["a", "b"]);
        for _ in 0..2 {
            let run = their.next_run();
            let (messages, bytes) = (run.messages_left(), run.wire_bytes());
            if let Some(resume) = there.inbox().released(messages, bytes) {
                resume.run();
            }
        }
        sender.join().unwrap();
        assert!(here.outbox_report().drained);
        here.part(crate::monitor::DisconnectReason::Closed);
    });
}

#[test]
fn loom_an_inbox_that_is_drained_during_a_write_resumes_the_writer() {
    inbox_drained_during_a_write(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_forgotten_release_is_found() {
    inbox_drained_during_a_write(Some(Fault::KickForgotten));
}
