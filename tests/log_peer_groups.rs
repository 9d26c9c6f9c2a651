//! Groups of a log in another place: members in a thread or as tasks, what refuses them, and a look at groups from outside.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use harness::futures::{Task, block_on};
use harness::{SOON, Transport, wait_until};
use peermq::log::storage::MemoryStorage;
use peermq::log::{
    DurableQueue, Fencing, Group, GroupEvent, Level, Log, LogClient, LogServer, ManualClock,
    MemberOptions, OffsetCommit, Polled, Position, RemoteCode, RemoteMember, TopicOptions,
    TopicPartition,
};
use peermq::{Context, Endpoint};

/// So long that no heartbeat is due while a test runs.
const LONG: Duration = Duration::from_secs(1800);

/// A served log with the topic `t` of two partitions, on a clock that stands still; and a client of it.
struct Place {
    log: Log,
    clock: Arc<ManualClock>,
    client: LogClient,
    _server: LogServer,
    _context: Context,
}

fn place() -> Place {
    let clock = Arc::new(ManualClock::new(1_000));
    let options = Log::options().storage(Arc::new(MemoryStorage::new())).clock(clock.clone());
    let log = options.open("/log").unwrap();
    log.create_topic("t", TopicOptions::default().partitions(2)).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    Place { log, clock, client, _server: server, _context: context }
}

fn client(context: &Context, endpoint: &Endpoint) -> LogClient {
    LogClient::options().timeout(SOON).connect(context, endpoint.clone()).unwrap()
}

fn options() -> MemberOptions {
    MemberOptions::new(["t"]).session_timeout(LONG)
}

fn append(log: &Log, partition: u32, value: &str) {
    let topic = log.topic("t").unwrap();
    topic.append_to(partition, Level::Durable, value).unwrap().wait().unwrap();
}

fn values(polled: &Polled) -> Vec<String> {
    let value = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    polled.records.iter().map(|one| value(one.record.value.as_deref().unwrap())).collect()
}

/// Polls until so many records have come.
fn read(member: &mut RemoteMember, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let polled = member.poll(SOON).unwrap();
        assert!(!polled.records.is_empty() || !polled.events.is_empty(), "only {found:?} came");
        found.extend(values(&polled));
    }
    found.sort();
    found
}

/// How long each member was silent, by the clock of the log.
fn silent(group: &Group) -> Vec<(String, Duration)> {
    let members = group.describe().unwrap().members;
    members.into_iter().map(|member| (member.member, member.silent_for)).collect()
}

#[test]
fn a_member_elsewhere_reads_and_commits_and_gives_partitions_up_as_soon_as_others_come() {
    let place = place();
    for n in 0..4 {
        append(&place.log, n % 2, &format!("{n}"));
    }
    let mut member = place.client.group("g").join(options().records_max(3)).unwrap();
    assert_eq!(read(&mut member, 4), ["0", "1", "2", "3"]);
    member.commit().unwrap();
    let group = place.log.group("g").unwrap();
    assert!(group.describe().unwrap().offsets.iter().all(|one| one.lag() == Some(0)));

    // No heartbeat is due for long: it is woken.
    let task = Task::pending(member.poll_async());
    append(&place.log, 1, "now");
    assert_eq!(values(&task.finish().unwrap()), ["now"]);
    let task = Task::pending(member.poll_async());
    let mut other = group.join(options()).unwrap();
    let events = task.finish().unwrap().events;
    let [GroupEvent::Revoked(revoked)] = &events[..] else { panic!("{events:?}") };
    block_on(member.commit_async()).unwrap();
    assert_eq!(member.assigned().len(), 2, "it may still commit");
    let task = Task::pending(member.poll_async());
    let got = other.poll(SOON).unwrap().events;
    assert_eq!(got, [GroupEvent::Assigned(revoked.clone())]);
    drop(task);
    assert_eq!(member.assigned().len(), 1);
    drop(member);
    let all = other.poll(SOON).unwrap().events;
    assert!(matches!(&all[..], [GroupEvent::Assigned(one)] if one.len() == 1), "{all:?}");
}

#[test]
fn a_poll_of_a_member_elsewhere_that_is_dropped_loses_nothing() {
    let place = place();
    let mut member = block_on(place.client.group("g").join_async(options())).unwrap();
    block_on(member.poll_async()).unwrap();
    let task = Task::pending(member.poll_async());
    append(&place.log, 0, "a");
    task.wait_woken();
    drop(task);
    append(&place.log, 1, "b");
    assert_eq!(read(&mut member, 2), ["a", "b"]);
    assert!(member.poll(Duration::ZERO).unwrap().records.is_empty());
}

#[test]
fn a_start_elsewhere_is_fixed_at_once_and_a_seek_counts_with_the_next_commit() {
    let place = place();
    append(&place.log, 0, "before");
    append(&place.log, 1, "before");
    let group = place.client.group("g");
    let mut member = group.join(options().start(Position::Latest)).unwrap();
    let assigned = member.poll(SOON).unwrap();
    assert!(values(&assigned).is_empty());
    wait_until("both ends are committed", || {
        assert!(member.poll(Duration::ZERO).unwrap().records.is_empty());
        group.offsets().unwrap().len() == 2
    });
    let zero = TopicPartition::new("t", 0);
    assert_eq!(group.offsets().unwrap()[&zero].offset, 1);
    member.seek(&zero, Position::Earliest).unwrap();
    assert_eq!(group.offsets().unwrap()[&zero].offset, 1);
    member.commit().unwrap();
    assert_eq!(group.offsets().unwrap()[&zero].offset, 0);
    assert_eq!(read(&mut member, 1), ["before"]);
    let error = member.seek(&TopicPartition::new("t", 7), Position::Offset(0)).unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::NotOwner));
    member.leave().unwrap();
    assert!(group.describe().unwrap().members.is_empty());
}

#[test]
fn a_member_that_only_works_lives_and_one_that_is_stuck_does_not() {
    const SESSION: Duration = Duration::from_millis(300);
    let place = place();
    let remote = place.client.group("g");
    let mut busy = remote.join(options().session_timeout(SESSION)).unwrap();
    let stuck = options().session_timeout(SESSION).poll_interval_max(Duration::ZERO);
    let mut waiting = remote.join(stuck.clone()).unwrap();
    let mut stuck = remote.join(stuck).unwrap();
    let alive = [busy.id().to_owned(), waiting.id().to_owned()];
    let waiting = thread::spawn(move || waiting.poll(LONG).unwrap());
    let group = place.log.group("g").unwrap();
    // What the stuck one had on its way when it joined may count only now; after that it says nothing.
    wait_until("the stuck one is expelled", || {
        place.clock.advance(100);
        wait_until("the busy one and the one that waits send heartbeats", || {
            let silent = silent(&group);
            alive.iter().all(|id| silent.contains(&(id.clone(), Duration::ZERO)))
        });
        silent(&group).len() < 3
    });
    let members: BTreeSet<String> = silent(&group).into_iter().map(|(member, _)| member).collect();
    assert_eq!(members, BTreeSet::from(alive));
    busy.commit().unwrap();
    // It notices when it looks, and is a member again.
    let first = stuck.id().to_owned();
    wait_until("it has joined again", || {
        stuck.poll(Duration::ZERO).unwrap();
        stuck.id() != first
    });
    assert_eq!(group.describe().unwrap().members.len(), 3);
    drop(busy);
    let events = waiting.join().unwrap().events;
    assert!(matches!(&events[..], [GroupEvent::Assigned(_)]), "{events:?}");
}

#[test]
fn a_member_elsewhere_goes_on_after_the_restart_of_a_server_where_its_group_was() {
    let storage = MemoryStorage::new();
    let open = || Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    let endpoint = Transport::Tcp.vacant();
    let (outer, first, log) = (Context::new(), Context::new(), open());
    log.create_topic("t", TopicOptions::default().partitions(2)).unwrap();
    let server = LogServer::bind(&first, &log, &endpoint[..]).unwrap();
    let client = client(&outer, &endpoint.parse().unwrap());
    let mut member = client.group("g").join(options()).unwrap();
    append(&log, 0, "a");
    assert_eq!(read(&mut member, 1), ["a"]);
    member.commit().unwrap();
    append(&log, 1, "b");
    assert_eq!(read(&mut member, 1), ["b"]);
    let before = member.membership();
    drop((server, first, log));
    let log = open();
    let _server = LogServer::bind(&outer, &log, &endpoint[..]).unwrap();
    append(&log, 1, "c");
    // What it had not committed comes again: it might have been another member's meanwhile.
    let (mut found, mut lost) = (Vec::new(), false);
    while found != ["b", "c"] {
        let polled = member.poll(SOON).unwrap();
        let events = || polled.events.iter();
        if events().any(|event| matches!(event, GroupEvent::Lost(_))) {
            (found, lost) = (Vec::new(), true);
        }
        assert!(!polled.records.is_empty() || events().next().is_some(), "only {found:?} came");
        found.extend(values(&polled));
    }
    assert!(lost);
    assert_ne!(member.membership(), before);
    let late = client.group("g").commit(&before.member, before.generation, &[]).unwrap_err();
    assert_eq!(late.code(), Some(RemoteCode::UnknownMember));
}

#[test]
fn partitions_of_a_topic_that_is_deleted_are_lost_and_come_with_the_next_of_its_name() {
    let place = place();
    append(&place.log, 0, "old");
    let mut member = place.client.group("g").join(options()).unwrap();
    assert_eq!(read(&mut member, 1), ["old"]);
    place.log.delete_topic("t").unwrap();
    wait_until("they are lost", || {
        member.poll(SOON).unwrap();
        member.assigned().is_empty()
    });
    place.log.create_topic("t", TopicOptions::default()).unwrap();
    append(&place.log, 0, "new");
    assert_eq!(read(&mut member, 1), ["new"]);
}

#[test]
fn a_member_elsewhere_whose_name_another_one_took_is_told_so_and_stays_away() {
    let place = place();
    append(&place.log, 0, "x");
    let there = place.client.group("g");
    let mut old = there.join(options().instance("pod")).unwrap();
    assert_eq!(read(&mut old, 1), ["x"]);
    let mut new = there.join(options().instance("pod")).unwrap();
    assert_eq!(read(&mut new, 1), ["x"], "nothing was committed");
    let generation = there.describe().unwrap().generation;
    for _ in 0..2 {
        // The change of the group has it send a heartbeat, so it need not wait for the next that is due.
        let error = loop {
            match old.poll(SOON) {
                Ok(polled) => assert!(!polled.events.is_empty(), "it hears nothing"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Some(RemoteCode::MemberReplaced));
        let name = Fencing::Replaced { instance: "pod".to_owned() };
        assert_eq!(error.fencing(), Some(&name));
        assert!(old.assigned().is_empty());
    }
    assert_eq!(block_on(old.poll_async()).unwrap_err().code(), Some(RemoteCode::MemberReplaced));
    append(&place.log, 0, "y");
    assert_eq!(read(&mut new, 1), ["y"]);
    assert_eq!(there.describe().unwrap().generation, generation, "nobody has joined since");
}

#[test]
fn who_is_refused_hears_the_same_details_elsewhere_as_here() {
    let place = place();
    append(&place.log, 0, "a");
    let (here, there) = (place.log.group("g").unwrap(), place.client.group("g"));
    let mut first = here.join(options()).unwrap();
    first.poll(Duration::ZERO).unwrap();
    let generation = first.membership().generation;
    let mut second = here.join(options()).unwrap();
    let revoked = loop {
        let events = first.poll(SOON).unwrap().events;
        if let [GroupEvent::Revoked(one)] = &events[..] {
            break one[0].clone();
        }
    };
    first.poll(Duration::ZERO).unwrap();
    second.poll(SOON).unwrap();
    let done = [OffsetCommit::new("t", revoked.partition, 0)];
    let cases = [
        (first.id(), generation, RemoteCode::NotOwner),
        (second.id(), generation, RemoteCode::WrongGeneration),
        ("nobody", generation, RemoteCode::UnknownMember),
    ];
    for (member, generation, code) in cases {
        let error = there.commit(member, generation, &done).unwrap_err();
        assert_eq!(error.code(), Some(code));
        let remote = error.remote().unwrap();
        let named = remote.fencing.as_ref().unwrap();
        assert_eq!(
            (named.group.as_str(), named.member.as_str(), named.generation),
            ("g", member, generation)
        );
        let local = here.commit(member, generation, &done).unwrap_err();
        let peermq::log::LogError::MemberFenced { why, .. } = &local else { panic!("{local}") };
        assert_eq!(error.fencing(), Some(why));
        assert_eq!(remote.text, local.to_string());
        let place = (remote.topic.as_deref(), remote.partition);
        match why {
            Fencing::UnknownMember => assert_eq!(place, (None, None)),
            _ => assert_eq!(place, (Some("t"), Some(revoked.partition))),
        }
    }
}

#[test]
fn groups_and_queues_can_be_looked_at_from_elsewhere_and_groups_be_deleted() {
    let place = place();
    append(&place.log, 0, "a");
    append(&place.log, 0, "b");
    assert!(place.client.groups().unwrap().is_empty());
    let (here, there) = (place.log.group("g").unwrap(), place.client.group("g"));
    let mut member = here.join(options().instance("one")).unwrap();
    member.poll(Duration::ZERO).unwrap();
    here.commit(
        member.id(),
        member.membership().generation,
        &[OffsetCommit::new("t", 0, 1).metadata("half")],
    )
    .unwrap();
    place.clock.advance(1234);
    let described = there.describe().unwrap();
    assert_eq!(described, here.describe().unwrap());
    assert_eq!((described.members.len(), described.offsets[0].lag()), (1, Some(1)));
    assert_eq!(place.client.groups().unwrap(), ["g"]);
    assert_eq!(there.delete().unwrap_err().code(), Some(RemoteCode::Conflict));
    member.leave().unwrap();
    // Twice, as after a lost connection.
    there.delete().unwrap();
    there.delete().unwrap();
    assert!(place.client.groups().unwrap().is_empty() && here.offsets().unwrap().is_empty());

    let queue = DurableQueue::options().open(&place.log, "q", "t").unwrap();
    let context = Context::new();
    let server = LogServer::options().queue(&queue);
    let server = server.bind(&context, &place.log, "tcp://127.0.0.1:0").unwrap();
    let worker = client(&context, server.endpoint()).queue("q");
    let got = worker.acquire(1, LONG, SOON).unwrap();
    worker.ack(&[got[0].id]).unwrap();
    let stats = worker.stats().unwrap();
    assert_eq!(stats, queue.stats());
    assert_eq!((stats.delivered, stats.acknowledged, stats.available), (1, 1, 1));
    let error = place.client.queue("q").stats().unwrap_err();
    assert_eq!(error.code(), Some(RemoteCode::UnknownQueue));
}

#[test]
fn partitions_that_a_member_waits_for_keep_no_other_request_waiting() {
    const PARTITIONS: u32 = 40;
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default().partitions(PARTITIONS)).unwrap();
    let context = Context::new();
    let server = LogServer::options().requests_max(8);
    let server = server.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = client(&context, server.endpoint());
    let mut member = client.group("g").join(options()).unwrap();
    assert_eq!(member.poll(SOON).unwrap().events.len(), 1);
    let waiting = thread::spawn(move || member.poll(SOON).unwrap());
    // All that it reads, and the group.
    wait_until("it waits for all", || server.stats().waiting == u64::from(PARTITIONS) + 1);
    let refused = server.stats().refused;
    assert_eq!(client.topics().unwrap(), ["t"]);
    assert_eq!(server.stats().refused, refused);
    append(&log, 39, "x");
    assert_eq!(values(&waiting.join().unwrap()), ["x"]);
}
