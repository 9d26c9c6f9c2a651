//! Registration of waiters against delivery and leaving (R1, R2), and the mailbox against sleep (R4): the real receiving
//! side of a socket, its wait list, parkers and mailbox.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use loom::thread;

use super::explore;
use super::owner::{info, pipe};
use crate::pipe::{Chunk, Pipe, Run};
use crate::reactor::{Job, Mailbox};
use crate::socket::inbound::Inbound;
use crate::socket::wait::block_on;
use crate::sync::Fault;
use crate::transport::model::{Poller, Waker as PollWaker};

/// A receive that waits, as the socket's future does; it leaves its place when it has its message.
fn receive(inbound: &Inbound) {
    let mut key = None;
    let received = block_on(
        poll_fn(|context| match inbound.take(Some((&mut key, context.waker())), |_| true) {
            Ok(message) => Poll::Ready(message),
            Err(_) => Poll::Pending,
        }),
        None,
        None,
    );
    assert!(received.is_some(), "there is no deadline");
    inbound.leave_after(&mut key, true);
}

/// As a reactor delivers: credit first, then the run.
fn deliver(inbound: &Inbound, pipe: &Arc<Pipe>, messages: usize) {
    let mut chunk = Chunk::default();
    (0..messages).for_each(|_| chunk.push(&"a".into()));
    let run = Run::from(chunk);
    pipe.inbox().admitted(messages, run.wire_bytes());
    assert!(inbound.deliver(pipe, &info(pipe), run).is_ok(), "nobody closes");
}

fn receiver(inbound: &Arc<Inbound>) -> thread::JoinHandle<()> {
    let inbound = Arc::clone(inbound);
    thread::spawn(move || receive(&inbound))
}

/// One waiter registers while a run is delivered.
fn one_waiter(fault: Option<Fault>) {
    explore(fault, || {
        let (inbound, (pipe, _owner)) = (Arc::new(Inbound::default()), pipe(1, 10));
        let receiver = receiver(&inbound);
        deliver(&inbound, &pipe, 1);
        receiver.join().unwrap();
    });
}

/// Two waiters and one run of two messages: one wake-up, passed on.
fn two_waiters_one_run(fault: Option<Fault>) {
    explore(fault, || {
        let (inbound, (pipe, _owner)) = (Arc::new(Inbound::default()), pipe(1, 10));
        let receivers = [receiver(&inbound), receiver(&inbound)];
        deliver(&inbound, &pipe, 2);
        receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
    });
}

/// A waiter leaves while a run is delivered, perhaps to it: the other gets the message.
fn one_leaves(fault: Option<Fault>) {
    explore(fault, || {
        let (inbound, (pipe, _owner)) = (Arc::new(Inbound::default()), pipe(1, 10));
        let mut key = None;
        assert!(inbound.take(Some((&mut key, Waker::noop())), |_| true).is_err());
        let stays = receiver(&inbound);
        let reactor = Arc::clone(&inbound);
        let reactor = thread::spawn(move || deliver(&reactor, &pipe, 1));
        inbound.leave_after(&mut key, false);
        stays.join().unwrap();
        reactor.join().unwrap();
    });
}

#[test]
fn loom_a_waiter_that_registers_meanwhile_gets_the_message() {
    one_waiter(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_waiter_that_registers_late_is_found() {
    one_waiter(Some(Fault::RegisteredLate));
}

#[test]
fn loom_two_waiters_share_one_run() {
    two_waiters_one_run(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_baton_that_is_kept_is_found() {
    two_waiters_one_run(Some(Fault::BatonKept));
}

#[test]
fn loom_a_waiter_that_leaves_passes_its_notification_on() {
    one_leaves(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_notification_that_is_kept_is_found() {
    one_leaves(Some(Fault::NotificationKept));
}

/// Waiting ends with the socket.
#[test]
fn loom_a_close_ends_every_wait() {
    explore(None, || {
        let inbound = Arc::new(Inbound::default());
        let closing = Arc::clone(&inbound);
        let closing = thread::spawn(move || closing.close());
        let mut key = None;
        let ended = block_on(
            poll_fn(|context| match inbound.take(Some((&mut key, context.waker())), |_| true) {
                Err(crate::error::RecvError::Closed) => Poll::Ready(()),
                _ => Poll::Pending,
            }),
            None,
            None,
        );
        assert!(ended.is_some(), "there is no deadline");
        closing.join().unwrap();
    });
}

/// A turner that sleeps and wakes until it has seen a job and a nudge.
fn job_and_nudge(fault: Option<Fault>) {
    explore(fault, || {
        let poller = Arc::new(Poller::default());
        let mailbox = Arc::new(Mailbox::new(PollWaker(Arc::clone(&poller))));
        let poster = Arc::clone(&mailbox);
        let poster = thread::spawn(move || poster.post(Job::EndErrands));
        let nudger = Arc::clone(&mailbox);
        let nudger = thread::spawn(move || nudger.nudge());
        let mut jobs = Vec::new();
        // The nudge lets the turner come back once: at the latest after the job and the nudge it has the job.
        while jobs.is_empty() {
            mailbox.take(&mut jobs);
            if jobs.is_empty() {
                poller.poll(mailbox.may_sleep());
                mailbox.awake();
            }
        }
        poster.join().unwrap();
        nudger.join().unwrap();
    });
}

/// A turner that must come back for a nudge alone.
fn nudge_alone(fault: Option<Fault>) {
    explore(fault, || {
        let poller = Arc::new(Poller::default());
        let mailbox = Arc::new(Mailbox::new(PollWaker(Arc::clone(&poller))));
        let nudger = Arc::clone(&mailbox);
        let nudger = thread::spawn(move || nudger.nudge());
        poller.poll(mailbox.may_sleep());
        mailbox.awake();
        nudger.join().unwrap();
    });
}

#[test]
fn loom_a_turner_sees_the_job_or_is_woken() {
    job_and_nudge(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_turner_that_sleeps_without_a_look_is_found() {
    job_and_nudge(Some(Fault::SleptWithoutLook));
}

#[test]
fn loom_a_turner_comes_back_for_a_nudge() {
    nudge_alone(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_nudge_that_is_not_looked_for_is_found() {
    nudge_alone(Some(Fault::SleptWithoutLook));
}
