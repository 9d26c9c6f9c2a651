//! The joint of an in-process session (J1): both ends part, while they are joined or later.

use std::sync::Arc;

use loom::thread;

use super::explore;
use super::owner::{ModelOwner, NoBell, info, pipe, send};
use crate::monitor::DisconnectReason;
use crate::pipe::{Joint, Link, Pipe, Source};
use crate::sync::Fault;
use crate::wire::Established;

/// As a socket attaches an end: known, linked, fed by the other end.
fn attach(own: &Arc<Pipe>, other: &Arc<Pipe>) {
    own.set_info(info(own));
    own.inbox().set_source(Source::Inproc(Arc::clone(other)));
    let link = Link::Inproc { doorbell: Arc::new(NoBell) };
    if let Some(role) = own.link(link, &[], Established::in_process()) {
        role.run();
    }
}

fn part(pipe: &Arc<Pipe>) -> thread::JoinHandle<()> {
    let pipe = Arc::clone(pipe);
    thread::spawn(move || pipe.part(DisconnectReason::Closed))
}

/// The session ended once for each end, and nothing of it is left.
fn check_ended(ends: [(&Arc<Pipe>, &ModelOwner); 2]) {
    for (pipe, owner) in ends {
        assert_eq!(owner.seen(|seen| seen.sessions_lost), 1, "sessions that ended");
        assert!(pipe.other().is_none(), "an end is joined still");
        assert!(pipe.info().is_none(), "an end was attached after its session ended");
        assert!(pipe.send_control(b"x").is_none(), "an end is linked still");
    }
}

/// Both ends part while the two sockets attach them.
fn parting_while_joining(fault: Option<Fault>) {
    explore(fault, || {
        let ((here, our), (there, their)) = (pipe(1, 10), pipe(2, 10));
        let joint = Joint::join(&here, &there);
        let parting = [part(&there), part(&here)];
        attach(&there, &here);
        attach(&here, &there);
        joint.settle(true);
        parting.into_iter().for_each(|end| end.join().unwrap());
        check_ended([(&here, &our), (&there, &their)]);
    });
}

/// Both ends part at once from a session that stands, or that stands soon.
fn parting_at_once(fault: Option<Fault>) {
    explore(fault, || {
        let ((here, our), (there, their)) = (pipe(1, 10), pipe(2, 10));
        let joint = Joint::join(&here, &there);
        attach(&there, &here);
        attach(&here, &there);
        let first = part(&here);
        let second = part(&there);
        joint.settle(true);
        first.join().unwrap();
        second.join().unwrap();
        check_ended([(&here, &our), (&there, &their)]);
    });
}

#[test]
fn loom_a_session_that_is_parted_from_while_it_is_joined_ends_after_that() {
    parting_while_joining(None);
}

#[test]
#[should_panic(expected = "ended")]
fn loom_control_a_session_that_ends_while_it_is_joined_is_found() {
    parting_while_joining(Some(Fault::EndedWhileJoining));
}

#[test]
fn loom_a_session_that_both_ends_part_from_ends_once() {
    parting_at_once(None);
}

#[test]
#[should_panic(expected = "sessions that ended")]
fn loom_control_a_session_that_ends_twice_is_found() {
    parting_at_once(Some(Fault::EndedTwice));
}

/// A connector's message is on its way while the session is joined: it arrives, or stays queued at its sender.
#[test]
fn loom_a_message_sent_while_the_session_is_joined_arrives() {
    explore(None, || {
        let ((here, our), (there, their)) = (pipe(1, 10), pipe(2, 10));
        let joint = Joint::join(&here, &there);
        let sender = Arc::clone(&here);
        let sender = thread::spawn(move || send(&sender, "a"));
        attach(&there, &here);
        attach(&here, &there);
        joint.settle(true);
        there.writable();
        here.writable();
        assert_eq!(their.next_run().messages_left(), 1);
        sender.join().unwrap();
        here.part(DisconnectReason::Closed);
        check_ended([(&here, &our), (&there, &their)]);
    });
}

/// A message and the end of the session cross: the message arrives whole or is queued still, and is never counted twice.
#[test]
fn loom_a_message_that_meets_the_end_arrives_or_stays() {
    explore(None, || {
        let ((here, our), (there, their)) = (pipe(1, 10), pipe(2, 10));
        let joint = Joint::join(&here, &there);
        attach(&there, &here);
        attach(&here, &there);
        joint.settle(true);
        let parting = part(&there);
        send(&here, "a");
        parting.join().unwrap();
        check_ended([(&here, &our), (&there, &their)]);
        let arrived = their.seen(|seen| seen.runs.iter().map(|r| r.messages_left()).sum::<usize>());
        let lost = our.seen(|seen| seen.lost);
        assert_eq!(arrived + here.outbox_report().messages + lost as usize, 1);
    });
}
