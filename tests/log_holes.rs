//! What a damaged or replaced segment is for those who read: an error that names the place, or the new segment, and never
//! the end.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/hooked.rs"]
mod hooked;
#[path = "log/support.rs"]
mod support;
#[path = "log/upkeep.rs"]
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hooked::HookedStorage;
use peermq::Context as Sockets;
use peermq::log::inspect::Inspector;
use peermq::log::storage::{MemoryStorage, OpenMode, Operation, Storage};
use peermq::log::{
    Damage, DurablePublisher, DurableSubscriber, Level, Log, LogClient, LogError, LogRecord,
    LogServer, MemberOptions, NewRecord, Position, Topic,
};
use support::{DIRECTORY, open, segments, small};
use upkeep::{compacted, put, records, seal};

const RECORDS: i64 = 60;

fn read_only(storage: &(impl Storage + Clone + 'static)) -> Log {
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    options.open_read_only(DIRECTORY).unwrap()
}

fn is_sound(storage: &MemoryStorage) -> bool {
    Inspector::new().storage(Arc::new(storage.clone())).verify(DIRECTORY).unwrap().is_sound()
}

/// What happens to a segment in front of the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Harm {
    Removed,
    Emptied,
    /// Without its last batch.
    Shortened,
}

const HARMS: [Harm; 3] = [Harm::Removed, Harm::Emptied, Harm::Shortened];

impl Harm {
    /// Does it to the second segment; the offsets from and to which records are missing then.
    fn of(self, storage: &MemoryStorage) -> (i64, i64) {
        let all = segments(storage);
        let mut paths = all.keys().filter(|path| path.parent().unwrap().ends_with("t-0")).skip(1);
        let (path, behind) = (paths.next().unwrap(), paths.next().unwrap());
        let base = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let (from, to): (i64, i64) = (base(path), base(behind));
        let batches: Vec<_> = peermq::log::format::batch::batches(&all[path])
            .map(|batch| *batch.unwrap().header())
            .collect();
        let last = batches.last().unwrap();
        let file = storage.open(path, OpenMode::Write).unwrap();
        match self {
            Self::Removed => storage.remove_file(path).unwrap(),
            Self::Emptied => file.set_len(0).unwrap(),
            Self::Shortened => {
                file.set_len((all[path].len() - last.batch_bytes()) as u64).unwrap();
            }
        }
        (if self == Self::Shortened { last.base_offset } else { from }, to)
    }
}

/// A closed log of one topic, with a time for each record.
fn sample() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let topic = log.create_topic("t", small()).unwrap();
    for n in 0..RECORDS {
        let (value, key) = (format!("value {n}"), format!("key {n}"));
        let record = NewRecord::new(&value).key(&key).timestamp_ms(1000 + n);
        topic.append_at(Level::Written, record).unwrap().wait().unwrap();
    }
    drop(topic);
    log.close().unwrap();
    storage
}

/// The error must name the first offset that is missing.
fn assert_names(error: &LogError, missing: (i64, i64)) {
    let LogError::Corrupt { place, damage } = error else { panic!("{error}") };
    let (expected, found) = missing;
    assert_eq!(*damage, Damage::WrongOffset { expected, found }, "{error}");
    assert_eq!((place.topic.as_deref(), place.partition), (Some("t"), Some(0)), "{error}");
    assert_eq!(place.offset, Some(expected), "{error}");
    assert!(place.segment.is_some() && place.path.is_some() && place.position.is_some());
}

#[test]
fn a_segment_that_is_missing_or_too_short_ends_no_reading_in_silence() {
    for harm in HARMS {
        let storage = sample();
        let missing = harm.of(&storage);
        for log in [open(&storage), read_only(&storage)] {
            let topic = log.topic("t").unwrap();
            let mut reader = topic.read(0, Position::Earliest).unwrap();
            for n in 0..missing.0 {
                assert_eq!(reader.next_record().unwrap().unwrap().offset, n, "{harm:?}");
            }
            for _ in 0..3 {
                assert_names(&reader.next_record().unwrap_err(), missing);
            }
            reader.seek(Position::Offset(missing.1)).unwrap();
            let rest = reader.map(|record| record.unwrap().offset);
            assert!(rest.eq(missing.1..RECORDS), "{harm:?}: what is behind is there");

            let within = Position::Offset(missing.1 - 1);
            let mut reader = topic.read(0, within).unwrap();
            assert_names(&reader.next_record().unwrap_err(), missing);

            let mut follow = topic.read(0, Position::Offset(missing.0)).unwrap().follow();
            assert_names(&follow.next_timeout(Duration::MAX).unwrap_err(), missing);
        }
    }
}

#[test]
fn a_log_whose_first_segment_is_missing_is_not_taken_for_one_whose_front_was_cut() {
    let storage = sample();
    let first = Path::new(DIRECTORY).join(format!("t-0/{:020}.log", 0));
    storage.remove_file(&first).unwrap();
    let options = Log::options().storage(Arc::new(storage.clone())).linger(None);
    for opened in [options.clone().open(DIRECTORY), options.open_read_only(DIRECTORY)] {
        let LogError::Corrupt { place, damage } = opened.unwrap_err() else { panic!() };
        assert_eq!((damage, place.path), (Damage::Missing, Some(first.clone())));
    }
}

#[test]
fn a_front_that_is_cut_while_a_log_is_opened_for_reading_only_is_no_damage() {
    let storage = sample();
    let hooked = HookedStorage::new(storage.clone());
    let writer = open(&storage);
    // Where the partition begins was read by then.
    hooked.before(Operation::List, "t-0", move || {
        writer.topic("t").unwrap().truncate_front(0, 33).unwrap();
    });
    let log = read_only(&hooked);
    assert!(hooked.is_done());
    let records = log.topic("t").unwrap().read(0, Position::Earliest).unwrap();
    assert!(records.map(|record| record.unwrap().offset).eq(33..RECORDS));
}

#[test]
fn no_time_is_looked_for_behind_records_that_are_missing() {
    for harm in HARMS {
        let storage = sample();
        let missing = harm.of(&storage);
        for log in [open(&storage), read_only(&storage)] {
            let topic = log.topic("t").unwrap();
            for n in 0..missing.0 {
                assert_eq!(topic.offset_of(0, Position::Time(1000 + n)).unwrap(), n, "{harm:?}");
            }
            for time in [missing.0, missing.1 - 1, missing.1, RECORDS - 1, RECORDS] {
                let looked = topic.offset_of(0, Position::Time(1000 + time));
                assert_names(&looked.unwrap_err(), missing);
            }
        }
    }
}

#[test]
fn members_of_groups_hear_of_records_that_are_missing() {
    let storage = sample();
    let missing = Harm::Emptied.of(&storage);
    let log = open(&storage);
    let mut member = log.group("g").unwrap().join(MemberOptions::new(["t"])).unwrap();
    let mut read = 0;
    let error = loop {
        match member.poll(Duration::from_secs(60)) {
            Ok(polled) if polled.records.is_empty() && polled.events.is_empty() => {
                panic!("{read} records, and then nothing")
            }
            Ok(polled) => read += polled.records.len() as i64,
            Err(error) => break error,
        }
    };
    assert_names(&error, missing);
    assert_eq!(read, missing.0);
}

#[test]
fn compaction_does_not_hide_records_that_are_missing() {
    // Compacted before or not: then the segments are looked at only for when tombstones may go.
    for before in [false, true] {
        for harm in HARMS {
            let storage = sample();
            let log = open(&storage);
            log.alter_topic("t", compacted().segment_bytes(600)).unwrap();
            if before {
                let topic = log.topic("t").unwrap();
                seal(&topic);
                log.maintain().unwrap();
                drop(topic);
            }
            log.close().unwrap();
            if before {
                storage.remove_file(&Path::new(DIRECTORY).join("t-0/segment-times")).unwrap();
            }
            let missing = harm.of(&storage);
            let damaged = segments(&storage);
            let log = open(&storage);
            assert_names(&log.maintain().unwrap_err(), missing);
            log.close().unwrap();
            assert_eq!(segments(&storage), damaged, "{harm:?}, {before}: nothing was replaced");
            assert!(!is_sound(&storage), "{harm:?}, {before}");
        }
    }
}

/// A log whose first segment shrinks when it is compacted: `round` has other values for its keys.
fn superseded(topic: &Topic, round: usize) {
    for n in 0..4 {
        put(topic, &format!("k{round}{n}"), &format!("round {round}"));
    }
    seal(topic);
}

/// A compacted topic, not compacted yet, whose first segments have keys that come again in each round of `superseded`.
fn to_be_compacted(storage: &MemoryStorage) -> (Log, Topic) {
    let log = open(storage);
    let topic = log.create_topic("t", compacted()).unwrap();
    for round in 0..4 {
        for n in 0..4 {
            put(&topic, &format!("k{round}{n}"), &format!("first {}", "x".repeat(100)));
        }
    }
    seal(&topic);
    (log, topic)
}

/// Compacts again each time before a file is opened that ends so, for some rounds.
fn compact_before_opening(
    hooked: &HookedStorage,
    writer: Arc<(Log, Topic)>,
    path: String,
    rounds: std::ops::Range<usize>,
) {
    if rounds.is_empty() {
        return;
    }
    let next = hooked.clone();
    hooked.before(Operation::Open, &path.clone(), move || {
        superseded(&writer.1, rounds.start);
        writer.0.maintain().unwrap();
        compact_before_opening(&next, writer, path, rounds.start + 1..rounds.end);
    });
}

#[test]
fn what_another_process_compacts_again_and_again_is_no_damage() {
    type Read = fn(&Topic) -> Result<Vec<i64>, LogError>;
    let ways: [Read; 3] = [
        |topic| topic.offset_of(0, Position::Time(i64::MAX)).map(|offset| vec![offset]),
        |topic| {
            let records = topic.read(0, Position::Earliest)?;
            records.map(|record| record.map(|record| record.offset)).collect()
        },
        |topic| {
            let mut follow = topic.read(0, Position::Earliest)?.follow();
            let next = || Ok(follow.next_timeout(Duration::ZERO)?.map(|record| record.offset));
            std::iter::from_fn({
                let mut next = next;
                move || next().transpose()
            })
            .collect()
        },
    ];
    for (n, way) in ways.into_iter().enumerate() {
        // What was read of the first segment is not read again, so that only who looks for a time opens it each time.
        for rounds in 1..if n == 0 { 4 } else { 2 } {
            let storage = MemoryStorage::new();
            let writer = Arc::new(to_be_compacted(&storage));
            let hooked = HookedStorage::new(storage.clone());
            let reader = read_only(&hooked);
            let first = format!("{:020}.log", 0);
            compact_before_opening(&hooked, writer.clone(), first, 0..rounds);
            let read = way(&reader.topic("t").unwrap());
            let read = read.unwrap_or_else(|error| panic!("way {n}, {rounds} rounds: {error}"));
            assert!(hooked.is_done(), "way {n}, {rounds} rounds: it was all done meanwhile");
            let there: Vec<_> = records(&writer.1).iter().map(|record| record.offset).collect();
            let end = there.last().unwrap() + 1;
            if n == 0 {
                assert_eq!(read, [end]);
            } else {
                // It may have read some before the segments were replaced.
                assert!(there.iter().all(|offset| read.contains(offset)), "{read:?}: {there:?}");
            }
        }
    }
}

/// A closed log with a flipped bit in the value of the record at this offset.
fn with_flipped_bit(offset: i64) -> MemoryStorage {
    let storage = sample();
    let named =
        |path: &PathBuf| -> i64 { path.file_stem().unwrap().to_str().unwrap().parse().unwrap() };
    let segments = segments(&storage);
    let (path, bytes) = segments.iter().rfind(|(path, _)| named(path) <= offset).unwrap();
    let value = format!("value {offset}");
    let at = bytes.windows(value.len()).position(|bytes| bytes == value.as_bytes()).unwrap();
    let file = storage.open(path, OpenMode::Write).unwrap();
    file.write_at(&[bytes[at] ^ 1], at as u64).unwrap();
    storage
}

/// What an iterator gives before it ends: offsets, and nothing for an error.
fn offsets<E>(records: impl Iterator<Item = Result<LogRecord, E>>) -> Vec<Option<i64>> {
    records.map(|record| record.ok().map(|record| record.offset)).collect()
}

#[test]
fn iterators_end_after_an_error_and_try_again_when_asked_again() {
    let storage = with_flipped_bit(20);
    let log = open(&storage);
    let topic = log.topic("t").unwrap();
    let expected: Vec<_> = (0..20).map(Some).chain([None]).collect();
    let mut reader = topic.read(0, Position::Earliest).unwrap();
    assert_eq!(offsets(&mut reader), expected);
    assert_eq!(offsets(&mut reader), [None], "it stays where it is");
    assert!(reader.next_record().is_err() && reader.next_record().is_err());
    assert!(reader.next().unwrap().is_err());
    reader.seek(Position::Offset(21)).unwrap();
    assert!(reader.map(|record| record.unwrap().offset).eq(21..RECORDS));
    assert_eq!(topic.read(0, Position::Earliest).unwrap().flatten().count(), 20);

    let mut follow = topic.read(0, Position::Earliest).unwrap().follow();
    assert_eq!(offsets(&mut follow), expected);
    assert_eq!(offsets(&mut follow), [None]);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        assert!(matches!(follow.poll_next(&mut context), Poll::Ready(Some(Err(_)))));
        assert!(matches!(follow.poll_next(&mut context), Poll::Ready(None)));
    }
    assert!(follow.next().unwrap().is_err());
    follow.reader().seek(Position::Offset(21)).unwrap();
    assert_eq!(follow.next().unwrap().unwrap().offset, 21);
}

#[test]
fn remote_iterators_end_after_an_error_and_try_again_when_asked_again() {
    let storage = with_flipped_bit(20);
    let log = open(&storage);
    let sockets = Sockets::new();
    let expected: Vec<_> = (0..20).map(Some).chain([None]).collect();

    let server = LogServer::bind(&sockets, &log, "inproc://server").unwrap();
    let options = LogClient::options().timeout(Duration::from_secs(60));
    let client = options.clone().connect(&sockets, server.endpoint()).unwrap();
    let mut reader = client.read("t", 0, Position::Earliest).unwrap();
    assert_eq!(offsets(&mut reader), expected);
    assert_eq!(offsets(&mut reader), [None]);

    let (live, replay) = ("inproc://live", "inproc://replay");
    let _publisher = DurablePublisher::bind(&sockets, &log, "t", live, replay).unwrap();
    let from = Position::Earliest;
    let options = DurableSubscriber::options().client(options);
    let mut subscriber = options.connect(&sockets, live, replay, "t", from).unwrap();
    assert_eq!(offsets(&mut subscriber), expected);
    assert_eq!(offsets(&mut subscriber), [None]);
}
