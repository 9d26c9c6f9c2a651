//! The token: real slot, parkers and mailbox; the turn polls a model of the kernel.

use std::sync::Arc;
use std::task::Waker as TaskWaker;
use std::time::{Duration, Instant};

use loom::thread;

use super::explore;
use crate::reactor::parker::Lease;
use crate::reactor::{Job, Mailbox, Slot, Turning};
use crate::socket::wait::{Key, WaitList};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Fault, Mutex, lock};
use crate::transport::model::{Poller, Waker};

/// Messages that a turn brought, and who waits for them.
#[derive(Default)]
struct Inbound {
    messages: usize,
    waiters: WaitList,
}

struct World {
    slot: Slot<ModelTurn>,
    poller: Arc<Poller>,
    inbound: Arc<Mutex<Inbound>>,
    /// Where jobs lead to.
    done: Arc<Mutex<Inbound>>,
    tasks: Arc<AtomicUsize>,
}

/// A turn as the real one: takes jobs, announces its sleep, polls, delivers.
struct ModelTurn {
    mailbox: Arc<Mailbox>,
    poller: Arc<Poller>,
    inbound: Arc<Mutex<Inbound>>,
    done: Arc<Mutex<Inbound>>,
    turning: AtomicBool,
    /// Messages that were polled and not delivered yet.
    ready: usize,
    jobs: Vec<Job>,
}

/// A message, or the outcome of a job: one waiter is woken.
fn deliver(inbound: &Mutex<Inbound>) {
    let mut inbound = lock(inbound);
    inbound.messages += 1;
    let waker = inbound.waiters.take_one();
    drop(inbound);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Takes a message or registers.
fn take(from: &Mutex<Inbound>, key: &mut Key, waker: &TaskWaker) -> bool {
    let mut inbound = lock(from);
    if inbound.messages == 0 {
        inbound.waiters.register(key, waker);
        return false;
    }
    inbound.messages -= 1;
    inbound.waiters.leave(key);
    let next = if inbound.messages > 0 { inbound.waiters.take_one() } else { None };
    drop(inbound);
    if let Some(next) = next {
        next.wake();
    }
    true
}

impl Turning for ModelTurn {
    fn turn(&mut self, _: Option<Instant>, stop: &dyn Fn() -> bool) {
        assert!(!self.turning.swap(true, Ordering::Relaxed), "two threads turn");
        self.turn_until(stop);
        self.turning.store(false, Ordering::Relaxed);
    }

    fn has_work_within(&self, _: Duration) -> bool {
        self.ready > 0 || self.mailbox.has_jobs()
    }
}

impl ModelTurn {
    fn turn_until(&mut self, stop: &dyn Fn() -> bool) {
        self.mailbox.take(&mut self.jobs);
        self.jobs.drain(..).for_each(|_| deliver(&self.done));
        if stop() {
            return;
        }
        let block = self.ready == 0 && self.mailbox.may_sleep();
        self.ready += self.poller.poll(block);
        self.mailbox.awake();
        while self.ready > 0 {
            self.ready -= 1;
            deliver(&self.inbound);
            if stop() {
                return;
            }
        }
    }
}

impl World {
    fn new() -> Arc<Self> {
        let poller = Arc::new(Poller::default());
        let mailbox = Arc::new(Mailbox::new(Waker(Arc::clone(&poller))));
        let inbound = Arc::new(Mutex::new(Inbound::default()));
        let done = Arc::new(Mutex::new(Inbound::default()));
        let tasks = Arc::new(AtomicUsize::new(0));
        let slot = Slot::new(Arc::clone(&mailbox), Arc::clone(&tasks));
        slot.install(ModelTurn {
            mailbox,
            poller: Arc::clone(&poller),
            inbound: Arc::clone(&inbound),
            done: Arc::clone(&done),
            turning: AtomicBool::new(false),
            ready: 0,
            jobs: Vec::new(),
        });
        Arc::new(Self { slot, poller, inbound, done, tasks })
    }

    /// A keeper, as in the pool.
    fn keeper(self: &Arc<Self>) -> thread::JoinHandle<()> {
        let world = Arc::clone(self);
        thread::spawn(move || assert!(world.slot.keep(), "the reactor was lost"))
    }

    /// Takes one of `from`, waiting as a task does: without turning.
    fn receive_parked(from: &Mutex<Inbound>) {
        let lease = Lease::take();
        let parker = lease.parker();
        let waker = TaskWaker::from(Arc::clone(parker));
        let mut key = None;
        while !take(from, &mut key, &waker) {
            parker.wait(None);
        }
    }

    /// Takes one message, waiting as `block_on` does.
    fn receive(&self) {
        let lease = Lease::take();
        let parker = lease.parker();
        let waker = TaskWaker::from(Arc::clone(parker));
        let (mut key, mut seat) = (None, None);
        while !take(&self.inbound, &mut key, &waker) {
            let seat = seat.get_or_insert_with(|| self.slot.sit());
            assert!(seat.wait(parker, None), "there is no deadline");
        }
    }

    fn end(&self, keeper: thread::JoinHandle<()>) {
        self.slot.stop();
        keeper.join().unwrap();
    }
}

fn one_caller(fault: Option<Fault>) {
    explore(fault, || {
        let world = World::new();
        let keeper = world.keeper();
        let peer = Arc::clone(&world);
        let peer = thread::spawn(move || peer.poller.arrive());
        world.receive();
        peer.join().unwrap();
        world.end(keeper);
    });
}

/// Two callers at once: the one that turns leaves while the other waits on.
fn two_callers(fault: Option<Fault>) {
    explore(fault, || {
        let world = World::new();
        let keeper = world.keeper();
        let second = Arc::clone(&world);
        let second = thread::spawn(move || second.receive());
        world.poller.arrive();
        world.poller.arrive();
        world.receive();
        second.join().unwrap();
        world.end(keeper);
    });
}

/// News that no turn brings: another thread of the process delivers while the caller turns.
fn news_from_aside(fault: Option<Fault>) {
    explore(fault, || {
        let world = World::new();
        let keeper = world.keeper();
        let other = Arc::clone(&world);
        let other = thread::spawn(move || deliver(&other.inbound));
        world.receive();
        other.join().unwrap();
        world.end(keeper);
    });
}

#[test]
fn loom_a_caller_gets_its_message_whether_it_turns_or_the_keeper_does() {
    one_caller(None);
}

#[test]
fn loom_a_caller_that_leaves_does_not_strand_another() {
    two_callers(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_keeper_that_is_not_called_strands_a_caller() {
    two_callers(Some(Fault::KeeperNotCalled));
}

#[test]
fn loom_news_from_another_thread_pull_the_caller_out_of_its_turn() {
    news_from_aside(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_caller_that_turns_without_a_look_misses_news() {
    news_from_aside(Some(Fault::TurnedWithoutLook));
}

/// The keeper stands by, timed waits end at any moment, the caller comes back.
#[test]
fn loom_a_caller_comes_back_while_the_keeper_stands_by() {
    explore(None, || {
        let world = World::new();
        let keeper = world.keeper();
        let clock = Arc::clone(&world);
        let clock = thread::spawn(move || {
            clock.slot.time_out();
            clock.slot.time_out();
        });
        world.poller.arrive();
        world.receive();
        world.poller.arrive();
        world.receive();
        clock.join().unwrap();
        world.end(keeper);
    });
}

/// A task announces itself while a caller comes and leaves: one of the two sees to it that somebody turns.
fn task_and_caller(fault: Option<Fault>) {
    explore(fault, || {
        let world = World::new();
        let keeper = world.keeper();
        let caller = Arc::clone(&world);
        let caller = thread::spawn(move || caller.receive());
        world.poller.arrive();
        world.poller.arrive();
        // As `Pool::task_waits` and `Pool::task_leaves`.
        world.tasks.fetch_add(1, Ordering::SeqCst);
        world.slot.ensure_turning();
        World::receive_parked(&world.inbound);
        world.tasks.fetch_sub(1, Ordering::SeqCst);
        caller.join().unwrap();
        world.end(keeper);
    });
}

#[test]
fn loom_a_task_that_begins_to_wait_finds_somebody_turning() {
    task_and_caller(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_keeper_that_is_not_called_strands_a_task() {
    task_and_caller(Some(Fault::KeeperNotCalled));
}

/// A job is posted while a caller comes and leaves; nobody waits on the reactor for what the job brings.
fn job_and_caller(fault: Option<Fault>) {
    explore(fault, || {
        let world = World::new();
        let keeper = world.keeper();
        let caller = Arc::clone(&world);
        let caller = thread::spawn(move || caller.receive());
        world.poller.arrive();
        world.slot.post(Job::EndErrands);
        World::receive_parked(&world.done);
        caller.join().unwrap();
        world.end(keeper);
    });
}

#[test]
fn loom_a_job_is_done_though_the_caller_leaves() {
    job_and_caller(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_control_a_turner_that_sleeps_without_a_look_leaves_a_job_undone() {
    job_and_caller(Some(Fault::SleptWithoutLook));
}
