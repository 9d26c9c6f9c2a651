//! Topics that are deleted while others have them, and made again under their names: who had the old one is told so, and
//! nothing of it reaches the new one.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/hooked.rs"]
mod hooked;
#[path = "log/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use hooked::HookedStorage;
use peermq::log::inspect::Inspector;
use peermq::log::storage::{MemoryStorage, Operation, Storage};
use peermq::log::{
    Damage, Level, Log, LogError, ManualClock, OffsetCommit, Position, Topic, TopicOptions,
};
use support::{DIRECTORY, open, read_all, segments, small};

/// Appends records, each durable when this returns.
fn fill(topic: &Topic, what: &str, count: usize) {
    for n in 0..count {
        topic.append(&format!("{what} {n}")).unwrap().wait().unwrap();
    }
}

/// The values of a topic that was filled so.
fn filled(what: &str, count: usize) -> Vec<(i64, String)> {
    (0..count).map(|n| (n as i64, format!("{what} {n}"))).collect()
}

fn read_only(storage: &(impl Storage + Clone + 'static)) -> Log {
    Log::options().storage(Arc::new(storage.clone())).open_read_only(DIRECTORY).unwrap()
}

fn is_deleted<T>(outcome: Result<T, LogError>, name: &str) -> bool {
    matches!(outcome, Err(LogError::TopicDeleted { topic }) if topic == name)
}

/// The names in the log's directory that are those of partitions, or were.
fn directories(storage: &impl Storage) -> Vec<String> {
    let entries = storage.list(Path::new(DIRECTORY)).unwrap().into_iter();
    let names = entries.map(|entry| entry.name.into_string().unwrap());
    names.filter(|name| name.starts_with("t-") || name.ends_with("-delete")).collect()
}

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_thread_that_follows_a_topic_is_told_when_it_is_deleted() {
    for level in [Level::Written, Level::Durable] {
        let log = open(&MemoryStorage::new());
        let topic = log.create_topic("t", small()).unwrap();
        fill(&topic, "record", 1);
        let reader = topic.read(0, Position::Earliest).unwrap();
        let reader = if level == Level::Durable { reader.durable_only() } else { reader };
        let (sender, receiver) = mpsc::channel();
        let follower = thread::spawn(move || {
            for record in reader.follow() {
                sender.send(record.map(|record| record.offset)).unwrap();
            }
        });
        assert_eq!(receiver.recv().unwrap().unwrap(), 0);
        log.delete_topic("t").unwrap();
        // Were it not told, this would wait for ever: closing the log does not end it either.
        assert!(is_deleted(receiver.recv_timeout(Duration::from_secs(60)).unwrap(), "t"));
        follower.join().unwrap();
        assert!(receiver.recv().is_err(), "nothing comes after that");
    }
}

#[test]
fn a_task_that_follows_a_topic_is_woken_and_told_when_it_is_deleted() {
    for level in [Level::Written, Level::Durable] {
        let log = open(&MemoryStorage::new());
        let topic = log.create_topic("t", small()).unwrap();
        let reader = topic.read(0, Position::Earliest).unwrap();
        let reader = if level == Level::Durable { reader.durable_only() } else { reader };
        let mut follow = reader.follow();
        let woken = Arc::new(Count::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        assert!(follow.poll_next(&mut context).is_pending());
        log.delete_topic("t").unwrap();
        assert!(woken.0.load(Ordering::SeqCst) > 0, "{level:?}");
        match follow.poll_next(&mut context) {
            Poll::Ready(Some(told)) => assert!(is_deleted(told, "t")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(follow.poll_next(&mut context), Poll::Ready(None)));
    }
}

#[test]
fn a_follower_gets_what_was_appended_before_the_deletion_and_then_is_told() {
    let log = open(&MemoryStorage::new());
    let topic = log.create_topic("t", small()).unwrap();
    let mut follow = topic.read(0, Position::Earliest).unwrap().follow();
    let tickets: Vec<_> = (0..30).map(|n| topic.append(&format!("{n:040}")).unwrap()).collect();
    log.delete_topic("t").unwrap();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    for offset in 0..30 {
        assert_eq!(follow.next_timeout(Duration::ZERO).unwrap().unwrap().offset, offset);
    }
    assert!(is_deleted(follow.next_timeout(Duration::ZERO), "t"));
    assert!(follow.next().is_none());
    assert!(is_deleted(topic.append("late"), "t"));
    log.sync().unwrap();
}

#[test]
fn a_follower_in_another_process_is_told_when_the_topic_is_deleted() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    fill(&log.create_topic("t", small()).unwrap(), "old", 3);
    log.create_topic("other", small()).unwrap();
    let elsewhere = read_only(&storage);
    let mut follow = elsewhere.topic("t").unwrap().read(0, Position::Earliest).unwrap().follow();
    let mut other = elsewhere.topic("other").unwrap().read(0, Position::Earliest).unwrap();
    for _ in 0..3 {
        follow.next().unwrap().unwrap();
    }
    log.delete_topic("t").unwrap();
    assert!(is_deleted(follow.next_timeout(Duration::ZERO), "t"));
    assert!(follow.next().is_none());
    fill(&log.topic("other").unwrap(), "record", 1);
    elsewhere.refresh().unwrap();
    assert_eq!(other.next().unwrap().unwrap().offset, 0);
}

#[test]
fn who_reads_a_deleted_topic_never_meets_the_records_of_a_later_one_of_its_name() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    fill(&log.create_topic("t", small()).unwrap(), "old", 10);
    log.close().unwrap();
    for elsewhere in [false, true] {
        let other = if elsewhere { read_only(&storage) } else { open(&storage) };
        let log = if elsewhere { open(&storage) } else { other.clone() };
        let topic = other.topic("t").unwrap();
        let (mut early, mut begun) = {
            let reader = || topic.read(0, Position::Earliest).unwrap().chunk_bytes(1);
            (reader(), reader())
        };
        assert_eq!(begun.next().unwrap().unwrap().offset, 0);
        let segments = topic.describe().partitions[0].segments;
        assert!(segments > 1, "the reader has not opened all of them");
        log.delete_topic("t").unwrap();
        let new = log.create_topic("t", small()).unwrap();
        fill(&new, "new", 30);
        for reader in [&mut early, &mut begun] {
            for record in reader.take(20) {
                match record {
                    Ok(record) => assert!(record.value.unwrap().starts_with(b"old")),
                    Err(error) => {
                        assert!(is_deleted(Err::<(), _>(error), "t"));
                        break;
                    }
                }
            }
            assert!(is_deleted(reader.next_batch(), "t"));
        }
        for position in [Position::Offset(3), Position::Time(0), Position::Latest] {
            let found = topic.read(0, position).map(|mut reader| reader.next());
            if let Ok(Some(Ok(record))) = found {
                assert!(record.value.unwrap().starts_with(b"old"));
            }
        }
        assert_eq!(read_all(&log, "t", 0).unwrap(), filled("new", 30));
        // The next one to look begins with this, and with no segment open.
        log.delete_topic("t").unwrap();
        fill(&log.create_topic("t", small()).unwrap(), "old", 10);
        drop((topic, early, begun, new, other));
        log.close().unwrap();
    }
}

/// A pass of retention and compaction is at the topic `a` when `z`, which comes after it, is deleted and made anew.
#[test]
fn what_runs_on_for_a_deleted_topic_never_writes_into_a_later_one_of_its_name() {
    let storage = MemoryStorage::new();
    let hooked = HookedStorage::new(storage.clone());
    let clock = Arc::new(ManualClock::new(1_000_000));
    let log = Log::options().storage(Arc::new(hooked.clone())).clock(clock.clone());
    let log = log.linger(None).open(DIRECTORY).unwrap();
    let options = || small().retention(Some(Duration::from_secs(1)));
    let early = log.create_topic("a", options()).unwrap();
    let old = log.create_topic("z", options()).unwrap();
    fill(&early, "record", 1);
    fill(&old, "old", 3);
    clock.advance(10_000);
    let others = log.clone();
    hooked.before(Operation::SyncData, "a-0/00000000000000000000.log", move || {
        let other = thread::spawn(move || {
            others.delete_topic("z").unwrap();
            fill(&others.create_topic("z", options()).unwrap(), "new", 8);
        });
        other.join().unwrap();
    });
    let before = log.maintain().map(drop);
    assert!(before.is_ok(), "{before:?}");
    assert!(hooked.is_done());
    let mut bases: Vec<_> = segments(&storage).into_keys().collect();
    bases.retain(|path| path.starts_with("/log/z-0"));
    assert_eq!(bases, [PathBuf::from("/log/z-0/00000000000000000000.log")]);
    // Nor has it stopped the others.
    fill(&early, "record", 3);
    drop((early, old));
    log.close().unwrap();
    assert_eq!(read_all(&open(&storage), "z", 0).unwrap(), filled("new", 8));
}

#[test]
fn opening_for_reading_only_leaves_out_a_topic_that_is_deleted_meanwhile() {
    for anew in [false, true] {
        let storage = MemoryStorage::new();
        let log = open(&storage);
        fill(&log.create_topic("t", small()).unwrap(), "old", 3);
        fill(&log.create_topic("u", small()).unwrap(), "record", 3);
        let hooked = HookedStorage::new(storage.clone());
        let writer = log.clone();
        hooked.before(Operation::Open, "t-0/durable-watermark", move || {
            writer.delete_topic("t").unwrap();
            if anew {
                fill(&writer.create_topic("t", small()).unwrap(), "new", 9);
            }
        });
        let elsewhere = read_only(&hooked);
        assert!(hooked.is_done());
        assert_eq!(elsewhere.topics(), ["u"], "made anew: {anew}");
        assert_eq!(read_all(&elsewhere, "u", 0).unwrap(), filled("record", 3));
    }
}

#[test]
fn what_somebody_put_into_a_partitions_directory_keeps_neither_the_topic_nor_the_log() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    fill(&log.create_topic("t", small().partitions(2)).unwrap(), "old", 9);
    fill(&log.create_topic("u", small()).unwrap(), "record", 3);
    log.group("g").unwrap().set_offsets(&[OffsetCommit::new("t", 0, 1)]).unwrap();
    storage.create_dir(Path::new("/log/t-0/copies")).unwrap();
    // That it is there still is said, and nothing else stays.
    let refused = log.delete_topic("t").unwrap_err();
    assert!(refused.to_string().contains("-delete"), "{refused}");
    assert!(matches!(log.topic("t"), Err(LogError::UnknownTopic { .. })));
    assert!(matches!(log.delete_topic("t"), Err(LogError::UnknownTopic { .. })));
    assert_eq!(log.group("g").unwrap().committed("t", 0).unwrap(), None);
    let [left] = &directories(&storage)[..] else { panic!("{:?}", directories(&storage)) };
    let left = Path::new(DIRECTORY).join(left);
    assert_eq!(storage.list(&left).unwrap().len(), 1);
    fill(&log.create_topic("t", small()).unwrap(), "new", 3);
    log.close().unwrap();
    for _ in 0..2 {
        let log = open(&storage);
        assert_eq!(read_all(&log, "t", 0).unwrap(), filled("new", 3));
        assert_eq!(read_all(&log, "u", 0).unwrap(), filled("record", 3));
        log.close().unwrap();
    }
    let report = Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap();
    assert!(report.is_sound());
    assert!(matches!(&report.findings[..], [only] if only.place.path.as_ref() == Some(&left)));
    storage.remove_dir(&left.join("copies")).unwrap();
    open(&storage).close().unwrap();
    assert_eq!(directories(&storage), ["t-0"]);
}

#[test]
fn directories_that_somebody_put_there_are_not_taken_for_those_of_a_new_topic() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let path = Path::new("/log/t-0");
    storage.create_dir(path).unwrap();
    storage.create_dir(&path.join("records")).unwrap();
    let refused = log.create_topic("t", small()).unwrap_err();
    assert!(matches!(refused, LogError::Corrupt { damage: Damage::Foreign, .. }), "{refused}");
    assert_eq!(storage.list(path).unwrap().len(), 1);
    storage.remove_dir(&path.join("records")).unwrap();
    storage.remove_dir(path).unwrap();
    log.create_topic("t", small()).unwrap();
}

/// A directory of real files, which goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("peermq-{name}-{}", std::process::id()));
        // Left by an earlier process of this number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_topic_with_the_longest_name_can_be_deleted_and_made_again() {
    let scratch = Scratch::new("longest");
    let name = "x".repeat(249);
    let log = Log::open(scratch.0.join("log")).unwrap();
    for _ in 0..2 {
        fill(&log.create_topic(&name, TopicOptions::default()).unwrap(), "record", 2);
        log.delete_topic(&name).unwrap();
    }
    log.close().unwrap();
    let names = std::fs::read_dir(scratch.0.join("log")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with('x')).count(), 0);
}

#[cfg(unix)]
#[test]
fn a_partition_that_lies_elsewhere_behind_a_link_can_be_deleted() {
    let scratch = Scratch::new("linked");
    let (there, here) = (scratch.0.join("elsewhere"), scratch.0.join("log").join("t-0"));
    let log = Log::open(scratch.0.join("log")).unwrap();
    fill(&log.create_topic("t", small()).unwrap(), "record", 9);
    log.close().unwrap();
    std::fs::rename(&here, &there).unwrap();
    std::os::unix::fs::symlink(&there, &here).unwrap();
    let log = Log::open(scratch.0.join("log")).unwrap();
    assert_eq!(read_all(&log, "t", 0).unwrap().len(), 9);
    log.delete_topic("t").unwrap();
    assert_eq!(std::fs::read_dir(&there).unwrap().count(), 0, "the space is given back");
    fill(&log.create_topic("t", small()).unwrap(), "new", 3);
    log.close().unwrap();
    let log = Log::open(scratch.0.join("log")).unwrap();
    assert_eq!(read_all(&log, "t", 0).unwrap(), filled("new", 3));
}

#[test]
fn who_reads_in_another_process_finds_the_topics_partitions_and_groups_that_come_later() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    fill(&log.create_topic("t", small()).unwrap(), "old", 3);
    let elsewhere = read_only(&storage);
    let before = elsewhere.topic("t").unwrap();
    assert_eq!(before.offset_of(0, Position::Committed("g".to_owned())).unwrap(), 0);

    log.group("g").unwrap().set_offsets(&[OffsetCommit::new("t", 0, 2)]).unwrap();
    assert_eq!(before.offset_of(0, Position::Committed("g".to_owned())).unwrap(), 2);
    assert_eq!(elsewhere.groups().unwrap(), ["g"]);

    let more = log.alter_topic("t", small().partitions(3)).unwrap();
    more.append_to(2, Level::Durable, "in the third").unwrap().wait().unwrap();
    fill(&log.create_topic("u", small()).unwrap(), "u", 2);
    let topic = elsewhere.topic("t").unwrap();
    assert_eq!((topic.partitions(), before.partitions()), (3, 1));
    assert_eq!(read_all(&elsewhere, "t", 2).unwrap(), [(0, "in the third".to_owned())]);
    assert_eq!(read_all(&elsewhere, "u", 0).unwrap(), filled("u", 2));
    assert_eq!(elsewhere.topics(), ["t", "u"]);

    log.delete_topic("t").unwrap();
    fill(&log.create_topic("t", small()).unwrap(), "new", 1);
    fill(&log.create_topic("v", small()).unwrap(), "v", 1);
    log.delete_topic("u").unwrap();
    elsewhere.refresh().unwrap();
    assert_eq!(elsewhere.topics(), ["t", "v"]);
    assert_eq!(read_all(&elsewhere, "t", 0).unwrap(), filled("new", 1));
    assert!(is_deleted(topic.read(0, Position::Latest), "t"), "it is another one");
    assert!(matches!(elsewhere.topic("u"), Err(LogError::UnknownTopic { .. })));
    // What was cut off before it was looked at is not there.
    let cut = log.create_topic("w", small()).unwrap();
    fill(&cut, "w", 3);
    cut.truncate_front(0, 2).unwrap();
    assert_eq!(read_all(&elsewhere, "w", 0).unwrap(), [(2, "w 2".to_owned())]);
}
