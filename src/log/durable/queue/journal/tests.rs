//! What is noted, and what is told of it after a restart.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::log::storage::MemoryStorage;
use crate::log::storage::faulty::FaultyStorage;

fn remembered(floor: i64, done: &[i64], attempts: &[(i64, u32)]) -> Remembered {
    let (done, attempts) = (done.iter().copied().collect(), attempts.iter().copied().collect());
    Remembered { floor, done, attempts }
}

fn memory(partitions: impl IntoIterator<Item = (u32, Remembered)>) -> Memory {
    let topic = ("jobs".to_owned(), Id::from_bits(7 << 64 | 8));
    Memory { topic, partitions: partitions.into_iter().collect() }
}

fn lease(offset: i64, attempt: u32) -> Lease {
    Lease { spot: (2, offset), attempt }
}

fn note(journal: &mut Journal, note: Note) {
    journal.note(Level::Written, [note].into_iter()).unwrap().unwrap().wait().unwrap();
}

fn earliest(journal: &Journal) -> i64 {
    journal.topic.offset_of(0, Position::Earliest).unwrap()
}

#[test]
fn what_was_noted_is_remembered_and_what_is_before_everything_forgotten() {
    let storage = Arc::new(MemoryStorage::new());
    let log = Log::open_in(storage.clone(), "/log").unwrap();
    let (mut journal, nothing) = Journal::open(&log, "q").unwrap();
    assert!(nothing.is_none());
    journal.everything(memory([(2, remembered(5, &[7], &[(6, 2)]))])).unwrap();
    journal.delivered(&[lease(8, 1), lease(6, 3)]).unwrap().unwrap().wait().unwrap();
    journal.finished(Level::Durable, &[(2, 8)]).unwrap().unwrap().wait().unwrap();
    drop((journal, log));
    let log = Log::open_in(storage, "/log").unwrap();
    let (mut journal, found) = Journal::open(&log, "q").unwrap();
    assert_eq!(found.unwrap(), memory([(2, remembered(5, &[7, 8], &[(6, 3)]))]));
    let two = || memory([(1, remembered(1, &[], &[])), (3, remembered(9, &[], &[]))]);
    journal.everything(two()).unwrap();
    let (journal, found) = Journal::open(&log, "q").unwrap();
    assert_eq!(found.unwrap(), two());
    assert_eq!(earliest(&journal), 4, "what is before is forgotten");
}

#[test]
fn a_picture_of_which_parts_are_missing_counts_for_nothing() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    journal.everything(memory([(2, remembered(5, &[], &[]))])).unwrap();
    let begins = |parts| Picture { topic: "jobs".to_owned(), id: (7, 8), parts };
    let part = || Partition { partition: 2, floor: 99, done: Vec::new(), attempts: Vec::new() };
    note(&mut journal, Note::Picture(begins(2)));
    note(&mut journal, Note::Partition(part()));
    let (mut journal, found) = Journal::open(&log, "q").unwrap();
    assert_eq!(found.unwrap(), memory([(2, remembered(5, &[], &[]))]));
    // Whoever failed to write it goes on with notes, as before it.
    journal.finished(Level::Durable, &[(2, 8)]).unwrap().unwrap().wait().unwrap();
    let (mut journal, found) = Journal::open(&log, "q").unwrap();
    assert_eq!(found.unwrap(), memory([(2, remembered(5, &[8], &[]))]));
    // Parts without a beginning are none of ours.
    note(&mut journal, Note::Partition(part()));
    assert!(matches!(Journal::open(&log, "q"), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_picture_of_which_only_the_small_parts_fit_on_the_medium_is_none() {
    let storage = FaultyStorage::new();
    let log = Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    let small = || remembered(5, &[7], &[(6, 2)]);
    journal.everything(memory([(3, small())])).unwrap();
    // So large that it is written as soon as it is appended, before what follows it.
    let count = ITEMS_MAX as i64;
    let done: Vec<i64> = (0..count).map(|n| 9 + 2 * n).collect();
    let attempts: Vec<(i64, u32)> = (0..count).map(|n| (10 + 2 * n, 3)).collect();
    storage.limit_room(Some(64 << 10));
    let all = memory([(2, remembered(8, &done, &attempts)), (3, small())]);
    let refused = journal.everything(all);
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
    storage.limit_room(None);
    journal.finished(Level::Durable, &[(3, 6)]).unwrap().unwrap().wait().unwrap();
    let found = Journal::open(&log, "q").unwrap().1;
    assert_eq!(found, Some(memory([(3, remembered(5, &[6, 7], &[]))])), "it is as it was before");
}

#[test]
fn a_picture_is_due_after_many_notes_though_few_of_them_are_of_one_run() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    journal.everything(memory([(2, Remembered::default())])).unwrap();
    for run in 0..8 {
        assert!(!journal.is_long(), "run {run}");
        for n in 0..NOTES_MAX / 8 {
            journal.finished(Level::Written, &[(2, n as i64)]).unwrap().unwrap().wait().unwrap();
        }
        journal = Journal::open(&log, "q").unwrap().0;
    }
    assert!(journal.is_long());
}

#[test]
fn a_picture_that_is_large_is_not_due_before_the_notes_are_as_large() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    let done: Vec<i64> = (0..4096).collect();
    journal.everything(memory([(2, remembered(0, &done, &[]))])).unwrap();
    for _ in 0..NOTES_MAX {
        journal.finished(Level::Written, &[(2, 1)]).unwrap().unwrap().wait().unwrap();
    }
    assert!(!journal.is_long());
    journal.finished(Level::Written, &vec![(2, 1); 4096]).unwrap().unwrap().wait().unwrap();
    assert!(journal.is_long());
}

#[test]
fn more_than_fits_a_record_goes_into_several_notes() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    journal.everything(memory([])).unwrap();
    let count = i64::from(SEGMENT_BYTES) / 8;
    let leases: Vec<Lease> = (0..count).map(|offset| lease(offset, 1)).collect();
    journal.delivered(&leases).unwrap().unwrap().wait().unwrap();
    let spots: Vec<Spot> = (1..count - 1).map(|offset| (2, offset)).collect();
    journal.finished(Level::Durable, &spots).unwrap().unwrap().wait().unwrap();
    let found = Journal::open(&log, "q").unwrap().1.unwrap();
    let known = &found.partitions[&2];
    let attempts = [(0, 1), (count - 1, 1)].into();
    assert_eq!((known.done.len() as i64, &known.attempts), (count - 2, &attempts));
}

#[test]
fn a_picture_of_which_a_partition_needs_several_parts_is_read_again() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    // More than a record holds, and more than a message may list.
    let count = i64::from(SEGMENT_BYTES) / 8 + 1;
    let done: Vec<i64> = (0..count).map(|n| 9 + 2 * n).collect();
    let attempts: Vec<(i64, u32)> = (0..count / 4).map(|n| (10 + 2 * n, 3)).collect();
    let all = || {
        let other = remembered(1, &[3], &[(2, 1)]);
        memory([(1, other.clone()), (2, remembered(8, &done, &attempts)), (3, other)])
    };
    journal.everything(all()).unwrap();
    let (mut journal, found) = Journal::open(&log, "q").unwrap();
    assert!(found.unwrap() == all());
    // What is at the floor is passed over, in whichever part it is.
    let rest: Vec<i64> = (0..count).collect();
    journal.everything(memory([(2, remembered(0, &rest, &attempts))])).unwrap();
    let found = Journal::open(&log, "q").unwrap().1.unwrap();
    assert!(found == memory([(2, remembered(count, &[], &attempts))]));
}

#[test]
fn a_part_that_lists_more_than_a_message_may_is_read() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    let done: Vec<i64> = (0..100_000).map(|n| 1 + 2 * n).collect();
    let begins = Picture { topic: "jobs".to_owned(), id: (7, 8), parts: 1 };
    let part = Partition { partition: 2, floor: 0, done: done.clone(), attempts: Vec::new() };
    note(&mut journal, Note::Picture(begins));
    note(&mut journal, Note::Partition(part));
    let found = Journal::open(&log, "q").unwrap().1.unwrap();
    assert!(found == memory([(2, remembered(0, &done, &[]))]));
}

#[test]
fn what_is_done_with_in_turn_is_not_remembered_one_by_one() {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    let (mut journal, _) = Journal::open(&log, "q").unwrap();
    journal.everything(memory([(2, remembered(5, &[7], &[]))])).unwrap();
    journal.finished(Level::Durable, &[(2, 8), (2, 5), (2, 10)]).unwrap().unwrap().wait().unwrap();
    let (mut journal, found) = Journal::open(&log, "q").unwrap();
    assert_eq!(found.unwrap(), memory([(2, remembered(6, &[7, 8, 10], &[]))]));
    journal.finished(Level::Durable, &[(2, 6)]).unwrap().unwrap().wait().unwrap();
    let found = Journal::open(&log, "q").unwrap().1.unwrap();
    assert_eq!(found, memory([(2, remembered(9, &[10], &[]))]));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_note_or_one_that_encodes_to_them(bytes: Vec<u8>) {
        if let Ok(note) = Note::decode(&bytes) {
            prop_assert_eq!(note.encode(), bytes);
        }
    }
}
