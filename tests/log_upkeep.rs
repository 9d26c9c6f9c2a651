//! Retention, and options that are changed, as users of a log see them.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/hooked.rs"]
mod hooked;
#[path = "log/support.rs"]
mod support;
#[path = "log/upkeep.rs"]
mod upkeep;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use hooked::HookedStorage;
use peermq::log::storage::faulty::FaultyStorage;
use peermq::log::storage::{MemoryStorage, OpenMode, Operation, Storage};
use peermq::log::{Level, Log, LogError, NewRecord, Position, Ticket, Topic, TopicOptions};
use support::{DIRECTORY, Random, files, read_all, segments, small};
use upkeep::{Bench, compacted, contents, fill, open, put, records, seal};

#[test]
fn a_time_is_found_whatever_single_bit_of_a_time_index_is_wrong() {
    let storage = FaultyStorage::new();
    let log = support::open(&storage);
    let options = small().segment_bytes(20_000).index_interval_bytes(400);
    let topic = log.create_topic("t", options).unwrap();
    let mut random = Random(3);
    // The largest time comes again and again, and larger ones between that no entry tells of.
    let times: Vec<i64> = (0..60).map(|n| 1_000 + n / 6 * 8 + random.below(5) as i64 * 8).collect();
    for time in &times {
        let record = NewRecord::new("value").timestamp_ms(*time);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
    }
    drop(topic);
    log.close().unwrap();
    let path = PathBuf::from(format!("{DIRECTORY}/t-0/00000000000000000000.timeindex"));
    let bytes = files(&storage)[&path].len() as u64;
    assert!(bytes > 60, "{bytes} bytes of index");
    for bit in 0..bytes * 8 {
        let rotten = storage.kill();
        rotten.flip_bit(&path, bit).unwrap();
        let log = support::open(&rotten);
        let topic = log.topic("t").unwrap();
        for time in (990..1_120).step_by(8) {
            let first = times.iter().position(|found| *found >= time).unwrap_or(times.len());
            let found = topic.offset_of(0, Position::Time(time)).unwrap();
            assert_eq!(found, first as i64, "bit {bit}, {time}");
        }
    }
}

#[test]
fn records_go_by_the_age_of_their_append_whatever_time_they_have_themselves() {
    let bench = Bench::new();
    let options = small().retention(Some(Duration::from_secs(10)));
    let topic = bench.log.create_topic("t", options).unwrap();
    for n in 0..20i64 {
        // Some are dated long ago, some far ahead.
        let time = if n % 2 == 0 { 0 } else { i64::MAX / 2 };
        let value = format!("{n:090}");
        let record = NewRecord::new(&value).timestamp_ms(time);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
        bench.clock.advance(1000);
    }
    bench.log.maintain().unwrap();
    let earliest = topic.describe().partitions[0].earliest;
    assert!((6..=10).contains(&earliest), "ten seconds stay, by segments: {earliest}");
    assert_eq!(records(&topic)[0].offset, earliest);
    let described = topic.describe().partitions[0];
    assert_eq!(described.removed_records, earliest as u64);
    assert!(described.removed_bytes > 90 * earliest as u64);
}

#[test]
fn a_topic_that_gets_nothing_more_ages_to_the_last_record() {
    let bench = Bench::new();
    let options = TopicOptions::default().retention(Some(Duration::from_secs(10)));
    let topic = bench.log.create_topic("t", options).unwrap();
    fill(&topic, 3);
    bench.clock.advance(10_000);
    assert_eq!(bench.log.maintain().unwrap().removed_records, 0);
    bench.clock.advance(1);
    assert_eq!(bench.log.maintain().unwrap().removed_records, 3);
    assert!(records(&topic).is_empty());
    let earliest = topic.offset_of(0, Position::Earliest).unwrap();
    assert_eq!((earliest, topic.append("x").unwrap().wait().unwrap()), (3, 3));
    let bench = bench.reopen();
    assert_eq!(records(&bench.topic()).len(), 1);
}

#[test]
fn by_size_the_oldest_segments_go_and_at_least_the_limit_stays() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", small().retention_bytes(Some(2000))).unwrap();
    fill(&topic, 100);
    let mut before = topic.read(0, Position::Earliest).unwrap().chunk_bytes(1);
    assert_eq!(before.next().unwrap().unwrap().offset, 0);
    bench.log.maintain().unwrap();
    let described = topic.describe().partitions[0];
    assert!((2000..2600).contains(&described.bytes), "{} bytes", described.bytes);
    // A reader of a segment that is gone is told where to go on.
    let refused = before.find_map(Result::err).unwrap();
    assert!(
        matches!(refused, LogError::OffsetOutOfRange { earliest, .. } if earliest == described.earliest)
    );
    let refused = topic.read(0, Position::Offset(0)).unwrap_err();
    assert!(
        matches!(refused, LogError::OffsetOutOfRange { earliest, .. } if earliest == described.earliest)
    );
    assert_eq!(bench.log.maintain().unwrap().removed_records, 0);
    let bench = bench.reopen();
    assert_eq!(bench.topic().describe().partitions[0].earliest, described.earliest);
    assert_eq!(segments(&bench.storage).len(), described.segments);
}

#[test]
fn ages_survive_a_restart_and_what_is_not_known_is_young() {
    let bench = Bench::new();
    let options = small().retention(Some(Duration::from_secs(10)));
    let topic = bench.log.create_topic("t", options).unwrap();
    fill(&topic, 20);
    drop(topic);
    bench.clock.advance(9_000);
    let bench = bench.reopen();
    bench.clock.advance(1_001);
    assert_eq!(bench.log.maintain().unwrap().removed_records, 20, "they were ten seconds old");

    let topic = bench.topic();
    fill(&topic, 20);
    drop(topic);
    let path = format!("{DIRECTORY}/t-0/segment-times");
    let times = bench.storage.open(path.as_ref(), OpenMode::Write).unwrap();
    times.set_len(0).unwrap();
    bench.clock.advance(9_000);
    let Bench { storage, clock, log } = bench;
    // Closing would note the active segment, which is not what this is about.
    log.close().unwrap();
    times.set_len(0).unwrap();
    let log = open(&storage, &clock, 1 << 20);
    clock.advance(10_000);
    assert_eq!(log.maintain().unwrap().removed_records, 0, "as of the opening");
    clock.advance(1);
    assert_eq!(log.maintain().unwrap().removed_records, 20);
}

#[test]
fn a_segment_is_ended_when_it_was_begun_too_long_ago() {
    let bench = Bench::new();
    let options = TopicOptions::default().segment_ms(1000);
    let topic = bench.log.create_topic("t", options).unwrap();
    for _ in 0..4 {
        // All dated alike, so that only the time of the append can tell.
        let record = NewRecord::new("x").timestamp_ms(5);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
        bench.clock.advance(600);
    }
    assert_eq!(topic.describe().partitions[0].segments, 2);
}

#[test]
fn changed_options_count_at_once_for_topics_that_are_open_already() {
    let bench = Bench::new();
    let topic = bench.log.create_topic("t", TopicOptions::default().level(Level::Written)).unwrap();
    topic.append("no key").unwrap().wait().unwrap();
    let options = small().compact(true).level(Level::Durable).record_bytes_max(64);
    bench.log.alter_topic("t", options.clone()).unwrap();
    assert_eq!(*topic.options(), options);
    assert!(matches!(topic.append("x"), Err(LogError::KeyMissing { .. })));
    let large = "x".repeat(1000);
    assert!(matches!(
        topic.append(NewRecord::new(&large).key("k")),
        Err(LogError::TooLarge { .. })
    ));
    let ticket = topic.append(NewRecord::new("x").key("k")).unwrap();
    assert_eq!(ticket.level(), Level::Durable);
    ticket.wait().unwrap();
    assert_eq!(topic.describe().partitions[0].durable_end, 2);
    // What has no key supersedes nothing and is superseded by nothing.
    bench.log.alter_topic("t", compacted()).unwrap();
    put(&topic, "k", "y");
    seal(&topic);
    bench.log.maintain().unwrap();
    let left: Vec<_> = contents(&topic).into_iter().map(|(offset, ..)| offset).collect();
    assert_eq!(left, [0, 2]);
}

#[test]
fn the_thread_of_the_log_does_it_by_itself_when_a_segment_ends() {
    let storage = MemoryStorage::new();
    let log = Log::open_in(Arc::new(storage), DIRECTORY).unwrap();
    let topic = log.create_topic("t", small().retention_bytes(Some(0))).unwrap();
    let mut reader = topic.read(0, Position::Earliest).unwrap().follow();
    fill(&topic, 50);
    // Retention runs sooner or later; the reader that is left behind is told so.
    loop {
        if topic.describe().partitions[0].removed_records > 0 {
            break;
        }
        fill(&topic, 1);
        std::thread::yield_now();
    }
    let refused = topic.read(0, Position::Offset(0)).unwrap_err();
    assert!(matches!(refused, LogError::OffsetOutOfRange { .. }));
    let _ = reader.reader().next_record();
    assert!(log.maintenance_failure().is_none());
    drop((reader, topic));
    log.close().unwrap();
}

/// Does this before each of the next so many segments that compaction begins to write.
fn before_copies(storage: &HookedStorage, times: usize, act: impl Fn() + Send + 'static) {
    let again = storage.clone();
    storage.before(Operation::Open, ".cleaned", move || {
        act();
        if times > 1 {
            before_copies(&again, times - 1, act);
        }
    });
}

#[test]
fn a_pass_ends_however_much_is_appended_meanwhile() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let log = support::open(&storage);
    let topic = log.create_topic("t", compacted()).unwrap();
    seal(&topic);
    let writer = topic.clone();
    before_copies(&storage, 100, move || seal(&writer));
    let maintained = log.maintain().unwrap();
    assert!(maintained.compacted_records > 0);
    assert!(!storage.is_done(), "it went on as long as something was appended");
}

#[test]
fn no_partition_waits_for_the_compaction_of_others_until_it_lets_go_of_what_it_need_not_keep() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let log = support::open(&storage);
    let compacted = log.create_topic("a", compacted().partitions(2)).unwrap();
    for n in 0..24 {
        let value = format!("{n:090}");
        let record = NewRecord::new(&value).key("k");
        compacted.append_to(n % 2, Level::Written, record).unwrap().wait().unwrap();
    }
    let limited = log.create_topic("b", small().retention_bytes(Some(2000))).unwrap();
    fill(&limited, 50);
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let sees = seen.clone();
    before_copies(&storage, 100, move || {
        sees.lock().unwrap().push(limited.describe().partitions[0].bytes);
        fill(&limited, 50);
    });
    assert_eq!(log.maintain().unwrap().compacted_partitions, 2);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "one new segment for each partition");
    assert!(seen.iter().all(|bytes| (2000..2600).contains(bytes)), "{seen:?}");
}

/// With threads of its own, which only do what they are called for.
fn open_with_threads(storage: &HookedStorage) -> Log {
    let never = Some(Duration::from_secs(3600));
    let options = Log::options().storage(Arc::new(storage.clone()));
    options.linger(never).maintenance_interval(never).open(DIRECTORY).unwrap()
}

fn is_closed_in_order(storage: &HookedStorage) -> bool {
    storage.metadata(&PathBuf::from(DIRECTORY).join(".kafka_cleanshutdown")).is_ok()
}

#[test]
fn a_pass_that_drops_the_last_handle_ends_and_closes_the_log() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let log = open_with_threads(&storage);
    let topic = log.create_topic("t", compacted()).unwrap();
    let (hand, handles) = channel();
    // As a waker does that has them.
    storage.before(Operation::Open, ".cleaned", move || drop(handles.recv().unwrap()));
    seal(&topic);
    hand.send((log, topic)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_closed_in_order(&storage) {
        assert!(Instant::now() < deadline, "nobody closes the log");
        std::thread::yield_now();
    }
    // The lock is given up a moment later.
    let log = loop {
        match support::try_open(&storage) {
            Err(LogError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(read_all(&log, "t", 0).unwrap().len(), 12);
}

/// A waker that has the last handles.
struct Drops {
    handles: Mutex<Option<(Log, [Topic; 2])>>,
    done: Sender<()>,
}

impl Wake for Drops {
    fn wake(self: Arc<Self>) {
        drop(self.handles.lock().unwrap().take());
        self.done.send(()).unwrap();
    }
}

#[test]
fn the_keeper_that_drops_the_last_handle_does_not_wait_for_a_pass_that_may_wait_for_it() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let log = open_with_threads(&storage);
    let topic = log.create_topic("t", compacted()).unwrap();
    let other = log.create_topic("u", small()).unwrap();
    let (begun, begins) = channel();
    let (done, is_done) = channel();
    storage.before(Operation::Open, ".cleaned", move || {
        begun.send(()).unwrap();
        is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    });
    seal(&topic);
    begins.recv().unwrap();
    let handles = Mutex::new(Some((log, [topic, other])));
    let drops = Arc::new(Drops { handles, done });
    let waker = Waker::from(drops.clone());
    let appended = || {
        let handles = drops.handles.lock().unwrap();
        handles.as_ref().map(|(_, [_, other])| Box::pin(other.append("x").unwrap()))
    };
    // Until the keeper is not so fast that nothing needs to be woken.
    let waits = |ticket: &mut Pin<Box<Ticket>>| {
        ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
    };
    let _ticket =
        std::iter::from_fn(appended).find_map(|mut ticket| waits(&mut ticket).then_some(ticket));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_closed_in_order(&storage) {
        assert!(Instant::now() < deadline, "nobody closes the log");
        std::thread::yield_now();
    }
}

#[test]
fn a_table_of_keys_may_be_of_any_size() {
    let bench = Bench::with(usize::MAX);
    let topic = bench.log.create_topic("t", compacted()).unwrap();
    for n in 0..30 {
        put(&topic, ["a", "b", "c"][n % 3], &n.to_string());
    }
    seal(&topic);
    assert!(bench.log.maintain().unwrap().compacted_records > 20);
    let last = |n: i64, key: &str| (n, key.to_owned(), Some(n.to_string()));
    assert_eq!(contents(&topic), [last(27, "a"), last(28, "b"), last(29, "c")]);
}
