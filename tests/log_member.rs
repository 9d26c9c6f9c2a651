//! Members of groups that wait as tasks, without a runtime; in the process that has the log open.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::future::Future;
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use harness::SOON;
use harness::futures::{Task, block_on};
use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{
    Fencing, Group, GroupEvent, Level, Log, LogError, ManualClock, MemberOptions, Polled, Position,
    TopicOptions,
};

/// The segment of a topic that was just made.
const FIRST: &str = "t-0/00000000000000000000.log";
const SESSION: Duration = Duration::from_secs(10);
const SESSION_MS: i64 = 10_000;

/// A log with a topic `t` of two partitions, on a clock that only the test moves.
fn fresh() -> (Log, Group, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_000));
    let options = Log::options().storage(Arc::new(MemoryStorage::new())).linger(None);
    let log = options.clock(clock.clone()).open("/log").unwrap();
    log.create_topic("t", TopicOptions::default().partitions(2)).unwrap();
    let group = log.group("g").unwrap();
    (log, group, clock)
}

fn options() -> MemberOptions {
    MemberOptions::new(["t"]).session_timeout(SESSION)
}

/// Nobody waits for its ticket: whoever waits for the record has it written.
fn append(log: &Log, partition: u32, value: &str) {
    drop(log.topic("t").unwrap().append_to(partition, Level::Buffered, value).unwrap());
}

fn values(polled: &Polled) -> Vec<String> {
    let value = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    polled.records.iter().map(|one| value(one.record.value.as_deref().unwrap())).collect()
}

#[test]
fn a_task_that_waits_for_its_member_is_woken_by_records_and_by_the_group() {
    let (log, group, _clock) = fresh();
    let mut member = group.join(options()).unwrap();
    let first = block_on(member.poll_async()).unwrap();
    assert!(matches!(&first.events[..], [GroupEvent::Assigned(both)] if both.len() == 2));
    let task = Task::pending(member.poll_async());
    append(&log, 1, "x");
    assert_eq!(values(&task.finish().unwrap()), ["x"]);
    let task = Task::pending(member.poll_async());
    let other = group.join(options()).unwrap();
    let events = task.finish().unwrap().events;
    assert!(matches!(&events[..], [GroupEvent::Revoked(one)] if one.len() == 1), "{events:?}");
    drop(other);
}

#[test]
fn a_task_that_waits_for_durable_records_has_them_made_durable() {
    let (log, group, _clock) = fresh();
    let mut member = group.join(options().durable_only(true)).unwrap();
    block_on(member.poll_async()).unwrap();
    let task = Task::pending(member.poll_async());
    append(&log, 0, "nobody else waits for this");
    assert_eq!(task.finish().unwrap().records.len(), 1);
}

#[test]
fn a_poll_that_is_dropped_loses_neither_records_nor_what_it_gave_up() {
    let (log, group, _clock) = fresh();
    let mut member = group.join(options()).unwrap();
    block_on(member.poll_async()).unwrap();
    let task = Task::pending(member.poll_async());
    append(&log, 0, "a");
    task.wait_woken();
    drop(task);
    append(&log, 0, "b");
    log.sync().unwrap();
    assert_eq!(values(&block_on(member.poll_async()).unwrap()), ["a", "b"]);

    let mut other = group.join(options()).unwrap();
    let told = block_on(member.poll_async()).unwrap();
    assert!(matches!(&told.events[..], [GroupEvent::Revoked(_)]));
    block_on(member.commit_ticket(Level::Durable).unwrap()).unwrap();
    assert!(group.describe().unwrap().offsets.iter().any(|one| one.lag() == Some(0)));
    // This one gives it up, and says so, though it ends here.
    drop(Task::pending(member.poll_async()));
    let got = block_on(other.poll_async()).unwrap();
    assert!(matches!(&got.events[..], [GroupEvent::Assigned(one)] if one.len() == 1));
    assert_eq!(member.assigned().len(), 1);
}

#[test]
fn who_waits_is_not_silent_but_who_was_woken_and_does_nothing_is() {
    let (log, group, clock) = fresh();
    let mut member = group.join(options()).unwrap();
    block_on(member.poll_async()).unwrap();
    let members = || group.describe().unwrap().members.len();
    let task = Task::pending(member.poll_async());
    clock.advance(100 * SESSION_MS);
    assert_eq!(members(), 1, "there was nothing for it to do");
    clock.advance(SESSION_MS);
    append(&log, 0, "x");
    log.sync().unwrap();
    task.wait_woken();
    clock.advance(SESSION_MS);
    assert_eq!(members(), 1, "its session began when it was woken");
    clock.advance(1);
    assert_eq!(members(), 0);
    drop(task);
    assert!(matches!(member.commit(), Err(LogError::MemberFenced { .. })));
    let polled = block_on(member.poll_async()).unwrap();
    assert!(matches!(&polled.events[..], [GroupEvent::Lost(_), GroupEvent::Assigned(_)]));
    assert_eq!(values(&polled), ["x"]);
    let task = Task::pending(member.poll_async());
    clock.advance(SESSION_MS);
    drop(task);
    clock.advance(SESSION_MS);
    assert_eq!(members(), 1, "its session goes on when it waits no more");
    clock.advance(1);
    assert_eq!(members(), 0);
}

#[test]
fn a_task_that_waits_ends_with_the_log() {
    let (log, group, _clock) = fresh();
    let mut owner = group.join(options().start(Position::Latest)).unwrap();
    let mut idle = group.join(MemberOptions::new(["nothing"]).session_timeout(SESSION)).unwrap();
    block_on(owner.poll_async()).unwrap();
    let (owner, idle) = (Task::pending(owner.poll_async()), Task::pending(idle.poll_async()));
    log.close().unwrap();
    assert!(matches!(owner.finish(), Err(LogError::Closed)));
    assert!(matches!(idle.finish(), Err(LogError::Closed)));
}

#[test]
fn a_task_that_waits_for_nothing_hears_of_a_failure_that_ends_the_log() {
    let storage = FaultyStorage::new();
    let log = Log::options().storage(Arc::new(storage.clone())).linger(None).open("/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    let mut idle = log.group("g").unwrap().join(MemberOptions::new(["nothing"])).unwrap();
    let mut idle = Task::pending(idle.poll_async());
    storage.inject(Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::SyncData).on(FIRST));
    assert!(matches!(topic.append("x").unwrap().wait(), Err(LogError::Poisoned { .. })));
    assert!(idle.is_woken());
    assert!(matches!(idle.poll(), Some(Err(LogError::Poisoned { .. }))));
}

#[test]
fn who_gets_a_partition_goes_on_behind_a_commit_of_its_owner_before_that_is_not_done_yet() {
    for as_member in [true, false] {
        let (log, group, _clock) = fresh();
        append(&log, 0, "x");
        append(&log, 1, "x");
        log.sync().unwrap();
        let mut before = group.join(options()).unwrap();
        assert_eq!(values(&before.poll(Duration::ZERO).unwrap()).len(), 2);
        let mut next = group.join(options()).unwrap();
        let told = before.poll(Duration::ZERO).unwrap();
        let [GroupEvent::Revoked(revoked)] = &told.events[..] else { panic!("{:?}", told.events) };
        let commit = before.commit_ticket(Level::Durable).unwrap();
        // It gives the partition up, for which nothing has to be made durable.
        before.poll(Duration::ZERO).unwrap();
        assert!(!commit.is_done());
        if as_member {
            let got = next.poll(Duration::ZERO).unwrap();
            assert!(matches!(&got.events[..], [GroupEvent::Assigned(one)] if one == revoked));
            assert_eq!(values(&got), Vec::<String>::new());
        } else {
            let position = Position::Committed("g".to_owned());
            let topic = log.topic("t").unwrap();
            assert_eq!(topic.offset_of(revoked[0].partition, position).unwrap(), 1);
        }
        commit.wait().unwrap();
    }
}

#[test]
fn a_member_whose_name_another_one_took_is_told_so_and_does_not_take_it_back() {
    let (log, group, _clock) = fresh();
    log.topic("t").unwrap().append_to(0, Level::Written, "x").unwrap().wait().unwrap();
    let mut old = group.join(options().instance("pod")).unwrap();
    assert_eq!(values(&old.poll(Duration::ZERO).unwrap()), ["x"]);
    let mut new = group.join(options().instance("pod")).unwrap();
    assert_eq!(values(&new.poll(Duration::ZERO).unwrap()), ["x"]);
    let generation = group.describe().unwrap().generation;
    let is_replaced = |result: Result<(), LogError>| match result.unwrap_err() {
        LogError::MemberFenced { why, .. } => {
            assert_eq!(why, Fencing::Replaced { instance: "pod".to_owned() });
        }
        other => panic!("{other}"),
    };
    is_replaced(old.commit());
    for _ in 0..2 {
        is_replaced(old.poll(Duration::ZERO).map(drop));
        is_replaced(block_on(old.poll_async()).map(drop));
        assert!(old.assigned().is_empty());
        assert_eq!(values(&new.poll(Duration::ZERO).unwrap()), Vec::<String>::new());
        new.heartbeat().unwrap();
    }
    assert_eq!(group.describe().unwrap().generation, generation, "nobody has joined since");
    // Nor does it when there is room again, and going it takes nobody along.
    new.leave().unwrap();
    is_replaced(old.heartbeat());
    old.leave().unwrap();
    assert!(group.describe().unwrap().members.is_empty());
}

/// Looks at the log where it is woken.
struct Curious(Log, mpsc::Sender<usize>);

impl Wake for Curious {
    fn wake(self: Arc<Self>) {
        let members = self.0.group("g").unwrap().describe().unwrap().members.len();
        // The first time there is none of that name.
        let _ = self.0.create_topic("made", TopicOptions::default());
        self.1.send(members + self.0.groups().unwrap().len()).unwrap();
    }
}

#[test]
fn who_is_woken_by_the_group_or_a_topic_may_look_at_the_log_at_once() {
    let (told, hear) = mpsc::channel();
    // What has locked itself out does not end.
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let (log, group, _clock) = fresh();
        let mut member = group.join(options()).unwrap();
        block_on(member.poll_async()).unwrap();
        let waker = Waker::from(Arc::new(Curious(log.clone(), told)));
        let mut polling = Box::pin(member.poll_async());
        let mut poll = || polling.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
        assert!(poll());
        log.create_topic("other", TopicOptions::default()).unwrap();
        assert!(poll());
        log.delete_topic("other").unwrap();
        assert!(poll());
        let other = group.join(options()).unwrap();
        assert!(!poll());
        drop(polling);
        drop(other);
        ended.send(()).unwrap();
    });
    for expected in [2, 2, 3] {
        assert_eq!(hear.recv_timeout(SOON).expect("it is locked out"), expected);
    }
    end.recv_timeout(SOON).unwrap();
}

#[test]
fn who_is_woken_by_a_change_that_a_transaction_met_may_look_at_the_log_at_once() {
    let (told, hear) = mpsc::channel();
    // What has locked itself out does not end.
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let (log, group, clock) = fresh();
        log.create_topic("u", TopicOptions::default()).unwrap();
        let lasting = MemberOptions::new(["t"]).session_timeout(1_000 * SESSION);
        let mut committing = group.join(lasting).unwrap();
        let mut waiting = group.join(options()).unwrap();
        let silent = group.join(options()).unwrap();
        for _ in 0..3 {
            committing.poll(Duration::ZERO).unwrap();
            waiting.poll(Duration::ZERO).unwrap();
        }
        let waker = Waker::from(Arc::new(Curious(log.clone(), told)));
        let mut polling = Box::pin(waiting.poll_async());
        let mut poll = || polling.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
        assert!(poll());
        clock.advance(2 * SESSION_MS);
        let mut transaction = log.transaction();
        transaction.append("u", "x").unwrap();
        transaction.commit_offsets(&committing.membership(), &[]).unwrap();
        assert_eq!(transaction.commit().unwrap().len(), 1);
        drop(silent);
        ended.send(()).unwrap();
    });
    assert_eq!(hear.recv_timeout(SOON).expect("it is locked out"), 3);
    end.recv_timeout(SOON).unwrap();
}

#[test]
fn a_member_commits_what_is_left_when_one_of_its_topics_was_deleted() {
    for anew in [false, true] {
        let (log, group, _clock) = fresh();
        for topic in ["u", "v"] {
            log.create_topic(topic, TopicOptions::default()).unwrap();
            log.topic(topic).unwrap().append("x").unwrap().wait().unwrap();
        }
        let mut member = group.join(MemberOptions::new(["u", "v"])).unwrap();
        let mut got = 0;
        while got < 2 {
            got += member.poll(SOON).unwrap().records.len();
        }
        log.delete_topic("u").unwrap();
        if anew {
            // What the member is at is of no meaning in this one.
            let new = log.create_topic("u", TopicOptions::default()).unwrap();
            new.append("new").unwrap().wait().unwrap();
        }
        let positions = member.positions();
        let named: Vec<&str> = positions.iter().map(|one| one.topic.as_str()).collect();
        assert_eq!(named, ["v"]);
        member.commit().unwrap();
        assert_eq!(group.committed("v", 0).unwrap().unwrap().offset, 1, "made anew: {anew}");
        assert_eq!(group.committed("u", 0).unwrap(), None, "made anew: {anew}");
        let mut transaction = log.transaction();
        transaction.append("v", "y").unwrap();
        transaction.commit_offsets(&member.membership(), &member.positions()).unwrap();
        assert_eq!(transaction.commit().unwrap().len(), 1);
    }
}
