//! Consumer groups as their users see them: members come, go, fail and come back; offsets stay.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use peermq::log::storage::faulty::{Errno, Fault, FaultAction, FaultyStorage};
use peermq::log::storage::{MemoryStorage, Operation, Storage};
use peermq::log::{
    Fencing, GroupEvent, GroupMember, HeartbeatRequest, Level, Log, LogError, ManualClock,
    MemberOptions, Membership, OffsetCommit, Position, Strategy, TopicOptions, TopicPartition,
};
use support::{DIRECTORY, Random, small};

/// How long a session is in these tests, on a clock that only they move.
const SESSION: Duration = Duration::from_secs(10);
const SESSION_MS: i64 = 10_000;

fn timed(storage: &(impl Storage + Clone + 'static)) -> (Log, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_000));
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    (options.clock(clock.clone()).open(DIRECTORY).unwrap(), clock)
}

/// On a clock that stands still: no session ends because the machine is busy.
fn open(storage: &(impl Storage + Clone + 'static)) -> Log {
    timed(storage).0
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
fn what_a_heartbeat_learns_is_told_before_anything_is_given_up() {
    let log = open(&MemoryStorage::new());
    log.create_topic("t", small().partitions(2)).unwrap();
    fill(&log, 2, 3);
    let group = log.group("g").unwrap();
    let mut first = group.join(options()).unwrap();
    assert_eq!(poll(&mut first).records.len(), 6);
    let mut second = group.join(options()).unwrap();
    first.heartbeat().unwrap();
    let events = poll(&mut first).events;
    assert!(matches!(&events[..], [GroupEvent::Revoked(_)]), "{events:?}");
    assert_eq!(first.assigned().len(), 2);
    assert!(poll(&mut second).events.is_empty());
    first.commit().unwrap();
    assert!(group.offsets().unwrap().values().all(|committed| committed.offset == 3));
    poll(&mut first);
    assert!(matches!(&poll(&mut second).events[..], [GroupEvent::Assigned(_)]));
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

#[test]
fn generations_go_on_after_a_restart_and_zombies_of_before_are_refused() {
    let storage = MemoryStorage::new();
    let (log, _) = timed(&storage);
    log.create_topic("t", small()).unwrap();
    fill(&log, 1, 2);
    let (member, generation) = {
        let group = log.group("g").unwrap();
        let mut member = group.join(options().instance("one")).unwrap();
        poll(&mut member);
        let Membership { member, generation, .. } = member.membership();
        (member, generation)
    };
    log.close().unwrap();

    let (log, _) = timed(&storage);
    let group = log.group("g").unwrap();
    assert_eq!(group.describe().unwrap().generation, generation);
    let late = group.commit(&member, generation, &[OffsetCommit::new("t", 0, 1)]).unwrap_err();
    assert!(matches!(late, LogError::MemberFenced { why: Fencing::UnknownMember, .. }), "{late}");
    let new = group.join(options()).unwrap();
    assert!(new.membership().generation > generation);
    assert_eq!(group.committed("t", 0).unwrap(), None);
}

#[test]
fn a_generation_that_cannot_be_made_durable_is_told_to_nobody() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    log.create_topic("t", small()).unwrap();
    let group = log.group("g").unwrap();
    let first = group.join(options()).unwrap();
    storage.inject(
        Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(Operation::Write).on("__offsets"),
    );
    assert!(group.join(options()).unwrap_err().is_full());
    let after = group.join(options()).unwrap();
    assert!(after.membership().generation > first.membership().generation);
    drop((first, after));
    let described = log.group("g").unwrap().describe().unwrap();
    let reopened = open(&storage.kill()).group("g").unwrap().describe().unwrap();
    assert_eq!(reopened.generation, described.generation);
}

#[test]
fn a_front_cut_beyond_what_was_committed_is_an_error_until_somebody_decides() {
    let log = open(&MemoryStorage::new());
    let topic = log.create_topic("t", small()).unwrap();
    fill(&log, 1, 8);
    let group = log.group("g").unwrap();
    group.set_offsets(&[OffsetCommit::new("t", 0, 2)]).unwrap();
    topic.truncate_front(0, 5).unwrap();
    let offset = &group.describe().unwrap().offsets[0];
    assert_eq!((offset.lag(), offset.lost()), (Some(6), 3));
    let read = topic.read(0, Position::Committed("g".to_owned()));
    assert!(matches!(read, Err(LogError::OffsetOutOfRange { earliest: 5, .. })));
    let mut member = group.join(options()).unwrap();
    for _ in 0..2 {
        let error = member.poll(Duration::ZERO).unwrap_err();
        assert!(matches!(error, LogError::OffsetOutOfRange { earliest: 5, .. }), "{error}");
    }
    member.seek(&TopicPartition::new("t", 0), Position::Earliest).unwrap();
    assert_eq!(poll(&mut member).records[0].record.offset, 5);
}

#[test]
fn offsets_go_with_their_topic_and_with_their_group_and_not_otherwise() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    for topic in ["t", "u"] {
        log.create_topic(topic, small()).unwrap().append("x").unwrap().wait().unwrap();
    }
    let both = [OffsetCommit::new("t", 0, 1), OffsetCommit::new("u", 0, 1).metadata("why")];
    for group in ["g", "h"] {
        log.group(group).unwrap().set_offsets(&both).unwrap();
    }
    log.delete_topic("t").unwrap();
    log.create_topic("t", small()).unwrap();
    assert_eq!(log.group("g").unwrap().committed("t", 0).unwrap(), None);
    let member = log.group("g").unwrap().join(options()).unwrap();
    let refused = log.group("g").unwrap().delete().unwrap_err();
    assert!(matches!(refused, LogError::GroupNotEmpty { members: 1, .. }), "{refused}");
    assert!(log.group("g").unwrap().set_offsets(&both).is_err());
    drop(member);
    log.group("g").unwrap().delete().unwrap();
    assert_eq!(log.groups().unwrap(), ["h"]);
    log.close().unwrap();

    let log = open(&storage);
    assert_eq!(log.groups().unwrap(), ["h"]);
    assert_eq!(log.group("g").unwrap().offsets().unwrap().len(), 0);
    let offsets = log.group("h").unwrap().offsets().unwrap();
    assert_eq!(offsets.len(), 1);
    assert_eq!(offsets[&TopicPartition::new("u", 0)].metadata, "why");
}

#[test]
fn topics_of_the_logs_own_are_not_for_users() {
    let log = open(&MemoryStorage::new());
    log.create_topic("t", small()).unwrap();
    log.group("g").unwrap().set_offsets(&[OffsetCommit::new("t", 0, 0)]).unwrap();
    assert_eq!(log.topics(), ["t"]);
    assert!(matches!(log.topic("__offsets"), Err(LogError::UnknownTopic { .. })));
    assert!(matches!(log.delete_topic("__offsets"), Err(LogError::Invalid { .. })));
    assert!(matches!(log.create_topic("__x", small()), Err(LogError::Invalid { .. })));
    let altered = log.alter_topic("__offsets", TopicOptions::default());
    assert!(matches!(altered, Err(LogError::Invalid { .. })));
}

#[test]
fn a_commit_makes_durable_what_it_says_was_read() {
    let storage = FaultyStorage::new();
    let log = open(&storage);
    log.create_topic("t", small().level(Level::Written)).unwrap();
    fill(&log, 1, 3);
    let group = log.group("g").unwrap();
    let beyond = group.set_offsets(&[OffsetCommit::new("t", 0, 4)]).unwrap_err();
    assert!(matches!(beyond, LogError::OffsetOutOfRange { end: 3, .. }), "{beyond}");
    group.set_offsets(&[OffsetCommit::new("t", 0, 2)]).unwrap();
    for seed in 0..50 {
        let log = open(&storage.power_cut(seed).storage());
        let end = log.topic("t").unwrap().describe_partition(0).unwrap().end;
        assert!(end >= 2, "only {end} records are left of what is committed as read");
    }
}

#[test]
fn a_start_at_the_end_stays_where_it_was_when_the_partition_changes_hands() {
    let log = open(&MemoryStorage::new());
    log.create_topic("t", small()).unwrap();
    fill(&log, 1, 2);
    let group = log.group("g").unwrap();
    let mut first = group.join(options().start(Position::Latest)).unwrap();
    assert!(poll(&mut first).records.is_empty());
    fill(&log, 1, 1);
    drop(first);
    let mut second = group.join(options().start(Position::Latest)).unwrap();
    let offsets: Vec<_> = poll(&mut second).records.iter().map(|one| one.record.offset).collect();
    assert_eq!(offsets, [2]);
}

#[test]
fn a_member_that_waits_is_woken_by_records_and_by_the_group() {
    let log = open(&MemoryStorage::new());
    log.create_topic("t", small().partitions(2)).unwrap();
    let group = log.group("g").unwrap();
    let mut member = group.join(options()).unwrap();
    poll(&mut member);
    let (told, heard) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        for _ in 0..2 {
            told.send(member.poll(Duration::from_secs(60)).unwrap()).unwrap();
        }
        member
    });
    log.topic("t").unwrap().append_to(1, Level::Buffered, "x").unwrap().wait().unwrap();
    let patience = Duration::from_secs(60);
    assert_eq!(heard.recv_timeout(patience).unwrap().records.len(), 1);
    let other = group.join(options()).unwrap();
    let events = heard.recv_timeout(patience).unwrap().events;
    assert!(matches!(&events[..], [GroupEvent::Revoked(_)]), "{events:?}");
    waiter.join().unwrap();
    drop(other);
}

/// A member of the great test, with what it has to commit.
struct Worker {
    member: GroupMember,
    name: usize,
}

/// Everything that happened in the great test.
#[derive(Default)]
struct Ledger {
    /// How often each record was processed.
    processed: BTreeMap<(u32, i64), u32>,
    /// Who owned a partition in a generation.
    owners: BTreeMap<(i32, u32), BTreeSet<String>>,
}

impl Ledger {
    /// Polls, processes, commits. Whether the member was fenced.
    fn work(&mut self, worker: &mut Worker, commit: bool) -> bool {
        let polled = poll(&mut worker.member);
        let Membership { member, generation, .. } = worker.member.membership();
        for partition in worker.member.assigned() {
            let owners = self.owners.entry((generation, partition.partition)).or_default();
            owners.insert(member.clone());
        }
        for record in &polled.records {
            let place = (record.record.partition, record.record.offset);
            *self.processed.entry(place).or_default() += 1;
        }
        if commit {
            worker.member.commit().unwrap();
        }
        polled.events.iter().any(|event| matches!(event, GroupEvent::Lost(_)))
    }
}

#[test]
fn three_members_one_killed_two_added_and_a_zombie() {
    const PARTITIONS: u32 = 7;
    const EACH: u32 = 40;
    for (strategy, seed) in Strategy::ALL.into_iter().flat_map(|s| (0..6).map(move |n| (s, n))) {
        let context = format!("{strategy:?}, seed {seed}");
        let mut random = Random(seed);
        let (log, clock) = timed(&MemoryStorage::new());
        log.create_topic("t", small().partitions(PARTITIONS)).unwrap();
        fill(&log, PARTITIONS, EACH);
        let group = log.group("g").unwrap();
        let join = |name| {
            let options = options().strategy(strategy).records_max(5);
            Worker { member: group.join(options).unwrap(), name }
        };
        let mut ledger = Ledger::default();
        let mut workers: Vec<Worker> = (0..3).map(join).collect();
        for _ in 0..20 {
            let who = random.below(3) as usize;
            let commit = random.below(2) == 0;
            ledger.work(&mut workers[who], commit);
        }
        // One stops, with records that it has not committed. The others go on, and two come.
        let mut zombie = workers.remove(random.below(3) as usize);
        ledger.work(&mut zombie, false);
        workers.extend((3..5).map(join));
        for _ in 0..30 {
            clock.advance(SESSION_MS / 5);
            for worker in &mut workers {
                assert!(!ledger.work(worker, true), "{context}: {} was expelled", worker.name);
            }
        }
        let committed = group.offsets().unwrap();
        let late = zombie.member.commit().unwrap_err();
        assert!(matches!(late, LogError::MemberFenced { .. }), "{context}: {late}");
        assert_eq!(group.offsets().unwrap(), committed, "{context}");
        assert!(ledger.work(&mut zombie, true), "{context}: it did not notice");
        let described = group.describe().unwrap();
        assert!(described.offsets.iter().all(|one| one.lag() == Some(0)), "{context}");
        for place in (0..PARTITIONS).flat_map(|p| (0..i64::from(EACH)).map(move |n| (p, n))) {
            assert!(ledger.processed.contains_key(&place), "{context}: {place:?} was skipped");
        }
        for ((generation, partition), owners) in &ledger.owners {
            // Each member's own view of the generation; it is the last one it was told.
            assert_eq!(owners.len(), 1, "{context}: {partition} in {generation}: {owners:?}");
        }
    }
}
