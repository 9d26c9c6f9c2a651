//! What clients of one server have to suffer from each other: nothing.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;
#[path = "log/hooked.rs"]
mod hooked;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use harness::{SOON, wait_until};
use hooked::HookedStorage;
use peermq::Context;
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, Operation, Storage};
use peermq::log::{
    DurableQueue, Level, Log, LogClient, LogServer, ManualClock, MemberOptions, OffsetCommit,
    Position, QueueOptions, RemoteCode, TopicOptions,
};

/// For what comes in any case.
const LONG: Duration = Duration::from_secs(60);
/// Ends when the clock is set, and not before.
const LOCK: Duration = Duration::from_secs(3600);

#[test]
fn nobody_waits_for_a_topic_that_somebody_else_has_made() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let log = Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    log.group("g").unwrap().set_offsets(&[OffsetCommit::new("t", 0, 0)]).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = || LogClient::options().timeout(SOON).connect(&context, server.endpoint());
    let (slow, other) = (client().unwrap(), client().unwrap());
    let (reached, is_reached) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    storage.before(Operation::CreateDir, "many-1", move || {
        reached.send(()).unwrap();
        // An error if the test has failed.
        let _ = may_go_on.recv();
    });
    let maker = thread::spawn(move || {
        slow.create_topic("many", TopicOptions::default().partitions(2)).map(drop)
    });
    is_reached.recv_timeout(SOON).unwrap();

    assert_eq!(other.append("t", "x").unwrap().wait().unwrap(), 0);
    let record = other.read("t", 0, Position::Earliest).unwrap().next().unwrap().unwrap();
    assert_eq!(record.value.as_deref(), Some(&b"x"[..]));
    assert_eq!(other.topics().unwrap(), ["t"]);
    assert_eq!(other.describe("t").unwrap().partitions[0].end, 1);
    let mut member = other.group("g").join(MemberOptions::new(["t"])).unwrap();
    assert!(!member.poll(SOON).unwrap().events.is_empty());
    assert!(!maker.is_finished(), "it is made all the while");
    member.leave().unwrap();

    drop(go_on);
    maker.join().unwrap().unwrap();
    assert_eq!(other.topics().unwrap(), ["many", "t"]);
}

/// A storage whose next call of a kind on a path that ends so waits until it may go on.
struct Held {
    reached: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

impl Held {
    fn new(storage: &HookedStorage, operation: Operation, path: &str) -> Self {
        let (reaching, reached) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        storage.before(operation, path, move || {
            reaching.send(()).unwrap();
            // An error if the test has failed.
            let _ = may_go_on.recv();
        });
        Self { reached, go_on }
    }

    fn wait(&self) {
        self.reached.recv_timeout(LONG).unwrap();
    }

    fn let_go(self) {
        drop(self.go_on);
    }
}

/// A log with a topic `jobs`, a queue `q` over it with the dead letters `dead`, a server of it, and a storage for all that.
struct Place {
    storage: HookedStorage,
    clock: Arc<ManualClock>,
    log: Log,
    queue: DurableQueue,
    context: Context,
    server: LogServer,
}

fn place(jobs: TopicOptions, queue: QueueOptions) -> Place {
    place_on(MemoryStorage::new(), jobs, queue)
}

fn place_on(medium: impl Storage + 'static, jobs: TopicOptions, queue: QueueOptions) -> Place {
    let storage = HookedStorage::new(medium);
    let clock = Arc::new(ManualClock::new(1_000));
    let options = Log::options().storage(Arc::new(storage.clone())).clock(clock.clone());
    let log = options.maintenance_interval(None).open("/log").unwrap();
    log.create_topic("jobs", jobs).unwrap();
    log.create_topic("other", TopicOptions::default().level(Level::Written)).unwrap();
    log.create_topic("dead", TopicOptions::default()).unwrap();
    let queue = queue.dead_letters("dead").open(&log, "q", "jobs").unwrap();
    let context = Context::new();
    let options = LogServer::options().queue(&queue);
    let server = options.bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    Place { storage, clock, log, queue, context, server }
}

impl Place {
    fn client(&self) -> LogClient {
        let options = LogClient::options().timeout(LONG);
        options.connect(&self.context, self.server.endpoint()).unwrap()
    }

    fn append(&self, jobs: usize) {
        for n in 0..jobs {
            self.log.topic("jobs").unwrap().append(&n.to_string()).unwrap().wait().unwrap();
        }
    }

    /// Asks for something of each kind that has nothing to do with `jobs`; nothing of it may have to wait.
    fn assert_others_are_served(&self) {
        let other = self.client();
        let end = other.append("other", "x").unwrap().wait().unwrap();
        let mut reader = other.read("other", 0, Position::Offset(end)).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().offset, end);
        assert!(reader.next().is_none());
        assert_eq!(other.topics().unwrap(), ["dead", "jobs", "other"]);
        assert_eq!(other.offset_of("other", 0, Position::Latest).unwrap(), end + 1);
    }
}

#[test]
fn nobody_waits_while_a_segment_ends_that_somebody_else_has_filled() {
    let jobs = TopicOptions::default().level(Level::Written).segment_bytes(64 << 10);
    let place = place(jobs, DurableQueue::options());
    let held = Held::new(&place.storage, Operation::SyncData, "jobs-0/00000000000000000000.log");
    let slow = place.client();
    let filler = thread::spawn(move || {
        let value = [7; 10 << 10];
        (0..20).try_for_each(|_| slow.append("jobs", &value[..])?.wait().map(drop))
    });
    held.wait();

    place.assert_others_are_served();
    // Of the same partition, what was written before.
    let other = place.client();
    let record = other.read("jobs", 0, Position::Earliest).unwrap().next().unwrap().unwrap();
    assert_eq!(record.offset, 0);
    assert!(other.describe("jobs").unwrap().partitions[0].end > 0);
    // What has gathered meanwhile, who asks for it waits for alone.
    let ticket = other.append_to("jobs", 0, Level::Buffered, "later").unwrap();
    let later = ticket.wait().unwrap();
    let asks = thread::spawn(move || {
        let latest = other.offset_of("jobs", 0, Position::Latest)?;
        let mut reader = other.read("jobs", 0, Position::Offset(later))?;
        reader.next().transpose().map(|record| (latest, record.map(|record| record.offset)))
    });
    place.assert_others_are_served();
    assert!(!filler.is_finished() && !asks.is_finished(), "it is synced all the while");

    held.let_go();
    filler.join().unwrap().unwrap();
    let (latest, read) = asks.join().unwrap().unwrap();
    assert!(latest > later && read == Some(later), "{latest}, {read:?}");
    assert!(place.log.topic("jobs").unwrap().describe().partitions[0].segments > 1);
}

#[test]
fn nobody_waits_for_dead_letters_of_somebody_else() {
    for reject in [true, false] {
        let place = place(TopicOptions::default(), DurableQueue::options().attempts_max(1));
        place.append(4);
        let (slow, other) = (place.client().queue("q"), place.client().queue("q"));
        let got = slow.acquire(2, LONG, LONG).unwrap();
        let held =
            Held::new(&place.storage, Operation::SyncData, "dead-0/00000000000000000000.log");
        let id = got[0].id;
        let gives_up =
            thread::spawn(move || if reject { slow.reject(&[id]) } else { slow.release(&[id]) });
        held.wait();

        place.assert_others_are_served();
        assert_eq!(other.stats().unwrap().locked, 1);
        other.renew(&[got[1].id], LONG).unwrap();
        other.ack(&[got[1].id]).unwrap();
        let next = other.acquire(2, LONG, LONG).unwrap();
        assert_eq!(next.iter().map(|one| one.record.offset).collect::<Vec<_>>(), [2, 3]);
        // Nor who works in this process.
        place.queue.ack(&[next[0].id]).unwrap();
        assert!(!gives_up.is_finished(), "the letter is synced all the while");

        held.let_go();
        gives_up.join().unwrap().unwrap();
        let stats = other.stats().unwrap();
        assert_eq!((stats.dead, stats.acknowledged, stats.locked), (1, 2, 1));
        assert_eq!(place.log.topic("dead").unwrap().describe().partitions[0].end, 1);
    }
}

#[test]
fn nobody_waits_for_the_letter_of_a_record_whose_last_lock_has_ended() {
    let place = place(TopicOptions::default(), DurableQueue::options().attempts_max(1));
    place.append(2);
    let other = place.client().queue("q");
    let got = other.acquire(1, LOCK, LONG).unwrap();
    assert_eq!(got.len(), 1);
    let held = Held::new(&place.storage, Operation::SyncData, "dead-0/00000000000000000000.log");
    place.clock.advance(2 * LOCK.as_millis() as i64);
    assert_eq!(other.acquire(1, LONG, LONG).unwrap().len(), 1);
    held.wait();
    place.assert_others_are_served();
    assert_eq!(other.stats().unwrap().dead, 0);
    held.let_go();
    wait_until("the letter is there", || other.stats().unwrap().dead == 1);
}

#[test]
fn nobody_waits_while_the_journal_of_a_queue_is_shortened() {
    let queue = DurableQueue::options().level(Level::Written).window(4096);
    let place = place(TopicOptions::default().level(Level::Written), queue);
    place.append(650);
    place.log.topic("jobs").unwrap().sync().unwrap();
    let worker = place.client().queue("q");
    // Only pictures are made durable.
    let held =
        Held::new(&place.storage, Operation::SyncData, "__queue.q-0/00000000000000000000.log");
    let work = |jobs: usize| {
        for _ in 0..jobs {
            let job = worker.acquire(1, LONG, LONG).unwrap();
            worker.ack(&[job[0].id]).unwrap();
        }
    };
    // Two notes for each job, and a picture after 1024 of them; another thread begins it, sooner or later.
    work(511);
    assert!(held.reached.try_recv().is_err(), "a picture too soon");
    work(89);
    held.wait();
    place.assert_others_are_served();
    work(1);
    assert_eq!(worker.stats().unwrap().acknowledged, 601);
    held.let_go();
    // And nothing is forgotten.
    let Place { storage, log, queue, server, context, .. } = place;
    drop((worker, server, context, queue));
    log.close().unwrap();
    let log = Log::options().storage(Arc::new(storage)).open("/log").unwrap();
    let again = DurableQueue::options().level(Level::Written).window(4096).dead_letters("dead");
    let next = again.open(&log, "q", "jobs").unwrap().acquire(1, LONG, LONG).unwrap();
    assert_eq!(next[0].record.offset, 601);
}

#[test]
fn a_lock_is_judged_when_the_request_comes_and_not_when_others_are_done() {
    let place = place(TopicOptions::default(), DurableQueue::options());
    place.append(2);
    let (first, second) = (place.client().queue("q"), place.client().queue("q"));
    let got = first.acquire(2, LOCK, LONG).unwrap();
    let (one, two) = (got[0].id, got[1].id);
    // Neither a topic that is made keeps them, nor the letter of the first the second.
    let making = Held::new(&place.storage, Operation::CreateDir, "many-1");
    let maker = place.client();
    let makes = thread::spawn(move || {
        maker.create_topic("many", TopicOptions::default().partitions(2)).map(drop)
    });
    making.wait();
    let held = Held::new(&place.storage, Operation::SyncData, "dead-0/00000000000000000000.log");
    let first = thread::spawn(move || first.reject(&[one]));
    held.wait();
    let second = thread::spawn(move || second.reject(&[two]));
    wait_until("both requests have come", || place.queue.stats().locked == 0);
    place.clock.advance(2 * LOCK.as_millis() as i64);
    held.let_go();
    first.join().unwrap().unwrap();
    second.join().unwrap().unwrap();
    assert!(!makes.is_finished(), "the topic is made all the while");
    making.let_go();
    makes.join().unwrap().unwrap();
    assert_eq!(place.queue.stats().dead, 2);
}

#[test]
fn other_groups_are_served_while_a_commit_is_synced() {
    let place = place(TopicOptions::default(), DurableQueue::options());
    let (slow, other) = (place.client(), place.client());
    let nothing = [OffsetCommit::new("other", 0, 0)];
    slow.group("g").set_offsets(&nothing).unwrap();
    let held =
        Held::new(&place.storage, Operation::SyncData, "__offsets-0/00000000000000000000.log");
    let committing = slow.clone();
    let commits = thread::spawn(move || committing.group("g").set_offsets(&nothing));
    held.wait();
    assert_eq!(other.groups().unwrap(), ["g"]);
    assert!(other.group("h").describe().unwrap().members.is_empty());
    assert!(!commits.is_finished(), "it is synced all the while");
    held.let_go();
    commits.join().unwrap().unwrap();
}

#[test]
fn groups_are_served_while_records_that_a_commit_names_are_synced() {
    let place = place(TopicOptions::default().level(Level::Written), DurableQueue::options());
    let (slow, other) = (place.client(), place.client());
    slow.group("g").set_offsets(&[OffsetCommit::new("other", 0, 0)]).unwrap();
    let held = Held::new(&place.storage, Operation::SyncData, "jobs-0/00000000000000000000.log");
    place.log.topic("jobs").unwrap().append("x").unwrap().wait().unwrap();
    let commit = |offset| {
        let (client, before) = (slow.clone(), place.server.stats().requests);
        let offsets = [OffsetCommit::new("jobs", 0, offset)];
        let commits = thread::spawn(move || client.group("g").set_offsets(&offsets));
        wait_until("it has come", || place.server.stats().requests > before);
        commits
    };
    let first = commit(1);
    held.wait();
    // Nothing that it names has to become durable, but it was asked for later.
    let second = commit(0);
    place.assert_others_are_served();
    assert!(other.group("h").describe().unwrap().members.is_empty());
    let nothing = [OffsetCommit::new("jobs", 0, 0)];
    other.group("h").set_offsets(&nothing).unwrap();
    assert!(!first.is_finished() && !second.is_finished(), "they wait all the while");
    held.let_go();
    first.join().unwrap().unwrap();
    second.join().unwrap().unwrap();
    let offsets = other.group("g").offsets().unwrap();
    let committed = offsets.iter().find(|(place, _)| place.topic == "jobs").unwrap().1;
    assert_eq!(committed.offset, 0, "the one that came last counts");
}

#[test]
fn nobody_waits_while_what_a_full_medium_has_taken_of_a_record_is_cut_off() {
    let medium = FaultyStorage::new();
    let jobs = TopicOptions::default().level(Level::Written);
    let place = place_on(medium.clone(), jobs, DurableQueue::options());
    let slow = place.client();
    assert_eq!(slow.append("jobs", "x").unwrap().wait().unwrap(), 0);
    let held = Held::new(&place.storage, Operation::SyncData, "jobs-0/00000000000000000000.log");
    medium.limit_room(Some(100));
    let refused = slow.append("jobs", &[7; 1000][..]).unwrap().wait().unwrap_err();
    assert_eq!(refused.code(), Some(RemoteCode::Full), "{refused}");
    medium.limit_room(None);
    held.wait();
    place.assert_others_are_served();
    let ticket = slow.append("jobs", "z").unwrap();
    place.assert_others_are_served();
    held.let_go();
    assert_eq!(ticket.wait().unwrap(), 1);
    let reader = place.client().read("jobs", 0, Position::Earliest).unwrap();
    assert_eq!(reader.map(|record| record.unwrap().offset).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_worker_that_found_a_record_dead_while_another_shortened_the_journal_does_not_wait_in_vain() {
    let lock = Duration::from_secs(1);
    let queue = DurableQueue::options().level(Level::Written).window(1).attempts_max(2);
    let Place { storage, clock, log, queue, .. } =
        place(TopicOptions::default().level(Level::Written), queue);
    let topic = log.topic("jobs").unwrap();
    for n in 0..400 {
        topic.append(&n.to_string()).unwrap().wait().unwrap();
    }
    topic.sync().unwrap();
    let acquire = || queue.acquire(1, lock, LONG).unwrap()[0].id;
    // Two notes, and then as many times three that the next call but one would shorten the journal, which has 1,024.
    queue.ack(&[acquire()]).unwrap();
    for n in 0.. {
        queue.release(&[acquire()]).unwrap();
        let last = acquire();
        assert_eq!(last.attempt, 2);
        if n == 340 {
            break;
        }
        queue.ack(&[last]).unwrap();
    }
    let held = Held::new(&storage, Operation::SyncData, "__queue.q-0/00000000000000000000.log");
    let other = queue.clone();
    let shortens = thread::spawn(move || other.ack(&[]));
    held.wait();
    let worker = queue.clone();
    // At the end of its time it would look again in any case.
    let works = thread::spawn(move || worker.acquire(1, LOCK, LOCK));
    wait_until("the worker waits", || queue.stats().waiting == 1);
    clock.advance(lock.as_millis() as i64);
    wait_until("it has found the record dead", || queue.stats().locked == 0);
    held.let_go();
    shortens.join().unwrap().unwrap();
    wait_until("the worker has the next one", || works.is_finished());
    let got = works.join().unwrap().unwrap();
    assert_eq!(got.len(), 1, "there is room for it once the dead one is brought away");
    assert_eq!(queue.stats().dead, 1);
}
