//! Consumer groups as their users see them: members come, go, fail and come back; offsets stay.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{
    Fencing, GroupEvent, GroupMember, HeartbeatRequest, Level, Log, LogError, ManualClock,
    MemberOptions, Membership, NewRecord, OffsetCommit, Position, Strategy, TopicOptions,
    TopicPartition,
};
use support::{DIRECTORY, Random, open, small};

/// How long a session is in these tests, on a clock that only they move.
const SESSION: Duration = Duration::from_secs(10);
const SESSION_MS: i64 = 10_000;

fn timed(storage: &MemoryStorage) -> (Log, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_000));
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    (options.clock(clock.clone()).open(DIRECTORY).unwrap(), clock)
}

fn options() -> MemberOptions {
    MemberOptions::new(["t"]).session_timeout(SESSION)
}

/// What is there now; waits for nothing.
fn poll(member: &mut GroupMember) -> peermq::log::Polled {
    member.poll(Duration::ZERO).unwrap()
}

fn fill(log: &Log, partitions: u32, each: u32) {
    let topic = log.topic("t").unwrap();
    for n in 0..each {
        for partition in 0..partitions {
            let value = format!("{partition}/{n}");
            topic.append_to(partition, Level::Written, &value).unwrap().wait().unwrap();
        }
    }
}

fn numbers(partitions: &[TopicPartition]) -> Vec<u32> {
    partitions.iter().map(|partition| partition.partition).collect()
}

#[test]
fn a_member_reads_everything_and_commits_what_it_was_given() {
    let log = open(&MemoryStorage::new());
    log.create_topic("t", small().partitions(3)).unwrap();
    fill(&log, 3, 4);
    let group = log.group("g").unwrap();
    let mut member = group.join(options().records_max(5)).unwrap();
    let mut found = BTreeMap::<u32, Vec<i64>>::new();
    for _ in 0..3 {
        for record in poll(&mut member).records {
            assert_eq!(&*record.topic, "t");
            found.entry(record.record.partition).or_default().push(record.record.offset);
        }
        member.commit().unwrap();
        let committed = group.offsets().unwrap();
        for (partition, offsets) in &found {
            let committed = &committed[&TopicPartition::new("t", *partition)];
            assert_eq!(committed.offset, offsets.len() as i64);
        }
    }
    assert_eq!(found.len(), 3);
    assert!(found.values().all(|offsets| *offsets == [0, 1, 2, 3]), "{found:?}");
    let described = group.describe().unwrap();
    assert!(described.settled);
    assert!(described.offsets.iter().all(|one| one.lag() == Some(0) && one.lost() == 0));
    assert_eq!(described.members[0].assigned.len(), 3);
    fill(&log, 1, 2);
    assert_eq!(group.describe().unwrap().offsets[0].lag(), Some(2));
}

#[test]
fn what_was_not_committed_comes_again_and_what_was_does_not() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    log.create_topic("t", small()).unwrap();
    fill(&log, 1, 6);
    let group = log.group("g").unwrap();
    let mut member = group.join(options().records_max(2)).unwrap();
    poll(&mut member);
    member.commit().unwrap();
    assert_eq!(poll(&mut member).records[0].record.offset, 2);
    drop(member);
    let topic = log.topic("t").unwrap();
    let at = topic.offset_of(0, Position::Committed("g".to_owned())).unwrap();
    assert_eq!(at, 2, "the second poll was not committed");
    drop((topic, group));
    log.close().unwrap();

    let log = open(&storage);
    let mut member = log.group("g").unwrap().join(options()).unwrap();
    assert_eq!(poll(&mut member).records[0].record.offset, 2);
    assert_eq!(log.groups().unwrap(), ["g"]);
    let reader = log.topic("t").unwrap().read(0, Position::Committed("other".to_owned())).unwrap();
    assert_eq!(reader.next_offset(), 0, "nothing is committed, so it is the earliest");
}

#[test]
fn a_partition_is_given_up_between_two_polls_and_only_then_handed_on() {
    let log = open(&MemoryStorage::new());
    log.create_topic("t", small().partitions(2)).unwrap();
    fill(&log, 2, 3);
    let group = log.group("g").unwrap();
    let mut first = group.join(options()).unwrap();
    assert_eq!(poll(&mut first).records.len(), 6);
    let mut second = group.join(options()).unwrap();
    assert_eq!(poll(&mut second).records.len(), 0, "nobody gave anything up");

    let events = poll(&mut first).events;
    let [GroupEvent::Revoked(revoked)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(revoked.len(), 1);
    assert!(poll(&mut second).events.is_empty(), "the first one may still commit");
    first.commit().unwrap();
    poll(&mut first);
    let polled = poll(&mut second);
    assert_eq!(polled.events, [GroupEvent::Assigned(revoked.clone())]);
    assert!(polled.records.is_empty(), "all of it was committed");
    assert_eq!(first.assigned().len(), 1);
    let described = group.describe().unwrap();
    assert!(described.settled && described.members.len() == 2);
}

#[test]
fn a_silent_member_is_expelled_and_its_late_commit_refused() {
    let (log, clock) = timed(&MemoryStorage::new());
    log.create_topic("t", small()).unwrap();
    fill(&log, 1, 4);
    let group = log.group("g").unwrap();
    let mut zombie = group.join(options().records_max(3)).unwrap();
    assert_eq!(poll(&mut zombie).records.len(), 3);
    let mut heir = group.join(options()).unwrap();
    assert!(poll(&mut heir).events.is_empty());
    clock.advance(SESSION_MS / 2);
    heir.heartbeat().unwrap();
    clock.advance(SESSION_MS / 2 + 1);
    let polled = poll(&mut heir);
    assert_eq!(polled.records.len(), 4, "from the beginning, as nothing was committed");
    heir.commit().unwrap();

    let error = zombie.commit().unwrap_err();
    let LogError::MemberFenced { why: Fencing::UnknownMember, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(group.committed("t", 0).unwrap().unwrap().offset, 4);
    let old = zombie.id().to_owned();
    let events = poll(&mut zombie).events;
    assert_eq!(events, [GroupEvent::Lost(vec![TopicPartition::new("t", 0)])]);
    assert_ne!(zombie.id(), old, "it joined again as somebody else");
}

#[test]
fn an_owner_with_an_old_generation_may_commit_but_not_for_what_it_had_before() {
    let (log, _clock) = timed(&MemoryStorage::new());
    log.create_topic("t", small().partitions(2)).unwrap();
    fill(&log, 2, 3);
    let group = log.group("g").unwrap();
    let request = |member: &str, generation, sequence, owned: &[u32]| HeartbeatRequest {
        member: member.to_owned(),
        instance: None,
        generation,
        sequence,
        topics: vec!["t".to_owned()],
        strategy: Strategy::Sticky,
        session_timeout: SESSION,
        owned: owned.iter().map(|partition| TopicPartition::new("t", *partition)).collect(),
    };
    let alone = group.heartbeat(request("a", 0, 1, &[])).unwrap();
    assert_eq!((alone.generation, numbers(&alone.assigned)), (1, vec![0, 1]));
    let second = group.heartbeat(request("b", 0, 1, &[])).unwrap();
    assert_eq!((second.generation, second.awaited), (2, 1));
    // It has not heard of generation 2, and owns both still.
    let both = [OffsetCommit::new("t", 0, 1), OffsetCommit::new("t", 1, 1)];
    group.commit("a", 1, &both).unwrap();
    let told = group.heartbeat(request("a", 1, 2, &[0, 1])).unwrap();
    assert_eq!((numbers(&told.assigned), numbers(&told.revoked)), (vec![0], vec![1]));
    group.heartbeat(request("a", 2, 3, &[0])).unwrap();
    let got = group.heartbeat(request("b", 2, 2, &[])).unwrap();
    assert_eq!(numbers(&got.assigned), [1]);
    let refused = group.commit("a", 2, &both).unwrap_err();
    let LogError::MemberFenced { why: Fencing::NotOwner { partition }, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(partition, TopicPartition::new("t", 1));
    group.commit("b", 2, &[OffsetCommit::new("t", 1, 3)]).unwrap();
    group.leave("b").unwrap();
    let back = group.heartbeat(request("a", 2, 4, &[0])).unwrap();
    assert_eq!((back.generation, numbers(&back.assigned)), (3, vec![0, 1]));
    // A commit from its first time with the partition would take back what the other one did meanwhile.
    let late = group.commit("a", 2, &[OffsetCommit::new("t", 1, 1)]).unwrap_err();
    let LogError::MemberFenced { why: Fencing::WrongGeneration { since: 3, .. }, .. } = late else {
        panic!("{late}")
    };
    assert_eq!(group.committed("t", 1).unwrap().unwrap().offset, 3);
}
