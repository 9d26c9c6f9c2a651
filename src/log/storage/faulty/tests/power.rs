//! What a power cut may leave, one rule a test.

use std::collections::BTreeSet;

use super::super::image::{Tail, file_after};
use super::super::medium::FileState;
use super::*;

const SECTOR: usize = SECTOR_BYTES as usize;

fn names_now(storage: &FaultyStorage) -> BTreeSet<Vec<String>> {
    let names = |image: Contents| image.into_keys().map(|path| path.to_str().unwrap().to_owned());
    images_now(storage).into_iter().map(|image| names(image).collect()).collect()
}

fn set(images: &[&[&str]]) -> BTreeSet<Vec<String>> {
    images.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

#[test]
fn synced_data_is_all_there_and_nothing_else() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[7; 5000], 0).unwrap();
    file.set_len(4000).unwrap();
    file.write_at(&[8; 100], 10).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents_now(&storage, "f"), [content(&storage, "f")]);
}

#[test]
fn an_unsynced_write_may_be_torn_between_sectors_and_the_length_run_ahead() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[1; 2 * SECTOR], 0).unwrap();
    let found = contents_now(&storage, "f");
    // Without length; each sector there or zeros; or with garbage in place of zeros, where all there is the same again.
    assert_eq!(found.len(), 1 + 4 + 3);
    assert!(found.contains(&vec![]));
    let half_zeros = [[1; SECTOR], [0; SECTOR]].concat();
    assert!(found.contains(&half_zeros));
    let garbage = |bytes: &[u8]| bytes.iter().any(|byte| ![0, 1].contains(byte));
    assert_eq!(found.iter().filter(|bytes| garbage(bytes)).count(), 3);
    let torn = |sector: &[u8]| (50..SECTOR).contains(&sector.iter().filter(|b| **b == 1).count());
    assert!(!found.iter().any(|bytes| bytes.chunks(SECTOR).any(torn)));
}

#[test]
fn a_later_write_may_arrive_without_an_earlier_one() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[9; 6], 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(&[1; 2], 0).unwrap();
    file.write_at(&[2; 2], 1).unwrap();
    let mut expected = vec![
        vec![9, 9, 9, 9, 9, 9],
        vec![1, 1, 9, 9, 9, 9],
        vec![9, 2, 2, 9, 9, 9],
        vec![1, 2, 2, 9, 9, 9],
    ];
    expected.sort();
    assert_eq!(contents_now(&storage, "f"), expected);
}

#[test]
fn a_cut_may_be_undone_and_what_was_cut_may_come_back_after_growth() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[5; 3 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    file.set_len(SECTOR as u64).unwrap();
    let found = contents_now(&storage, "f");
    assert_eq!(found, [vec![5; SECTOR], vec![5; 3 * SECTOR]]);

    file.sync_data().unwrap();
    assert_eq!(contents_now(&storage, "f"), [vec![5; SECTOR]]);
    file.write_at(&[6; SECTOR], SECTOR as u64).unwrap();
    let found = contents_now(&storage, "f");
    assert_eq!(found.len(), 1 + 1 + 2, "shorter; arrived; zeros and garbage");
    let file = FileState::clone(lock(&storage.machine).medium.files.values().next().unwrap());
    assert_eq!(file.ever.len(), 3 * SECTOR_BYTES);
}

#[test]
fn a_cut_followed_by_growth_leaves_a_tail_like_any_other() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[5; 2 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(&[6; SECTOR], SECTOR as u64).unwrap();
    file.set_len(SECTOR as u64).unwrap();
    file.set_len(2 * SECTOR_BYTES).unwrap();
    let found = contents_now(&storage, "f");
    let second = |byte: u8| [[5; SECTOR], [byte; SECTOR]].concat();
    // Uncut, with the old or the new bytes (which may come back too); cut; grown by zeros or garbage.
    assert_eq!(found.len(), 2 + 1 + 2);
    assert!([0, 5, 6].iter().all(|byte| found.contains(&second(*byte))));

    let file = FileState::clone(lock(&storage.machine).medium.files.values().next().unwrap());
    let node = super::super::super::tree::NodeId(1);
    let grown = file_after(node, &file, 3, |_| true, Tail::Garbage);
    let mut bytes = [0; SECTOR];
    grown.read(&mut bytes, SECTOR_BYTES);
    assert!(
        ![[0; SECTOR], [5; SECTOR], [6; SECTOR]].contains(&bytes),
        "what arrived was cut again"
    );
}

#[test]
fn bytes_that_were_cut_long_ago_may_lie_in_a_new_tail() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[5; 4 * SECTOR], 0).unwrap();
    file.set_len(SECTOR as u64).unwrap();
    file.sync_data().unwrap();
    let image = storage.power_cut(1).storage();
    let file = image.open(p("f"), OpenMode::Write).unwrap();
    file.set_len(2 * SECTOR_BYTES).unwrap();
    let found = contents_now(&image, "f");
    assert_eq!(found.len(), 1 + 3, "shorter; zeros, garbage and the old bytes");
    assert!(found.contains(&vec![5; 2 * SECTOR]), "also after a power cut in between");
}

#[test]
fn a_sector_with_synced_bytes_gets_no_garbage() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[3; 100], 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(&[4; SECTOR], 100).unwrap();
    for bytes in contents_now(&storage, "f") {
        assert!(bytes[..100].iter().all(|byte| *byte == 3));
        let rest = &bytes[100..bytes.len().min(SECTOR)];
        assert!(rest.iter().all(|byte| *byte == 4) || rest.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_long_tail_is_filled_only_in_part() {
    let mut file = FileState::default();
    file.pending.push(super::super::medium::FileChange::SetLen(1 << 30));
    let node = super::super::super::tree::NodeId(1);
    let content = file_after(node, &file, 1, |_| true, Tail::Garbage);
    let mut bytes = vec![0; 1 << 17];
    assert_eq!(content.read(&mut bytes, 0), 1 << 17);
    assert!(bytes[..1 << 16].chunks(SECTOR).all(|sector| *sector != [0; SECTOR]));
    assert!(bytes[1 << 16..].iter().all(|byte| *byte == 0));
    assert_eq!(content.len(), 1 << 30);
}

#[test]
fn names_not_synced_come_in_every_subset() {
    let storage = FaultyStorage::new();
    durable_file(&storage, "old");
    storage.open(p("a"), OpenMode::Create).unwrap().sync_data().unwrap();
    storage.open(p("b"), OpenMode::Create).unwrap();
    storage.remove_file(p("old")).unwrap();
    let possible = names_now(&storage);
    assert_eq!(possible.len(), 8);
    assert!(possible.contains(&vec!["b".to_owned(), "old".to_owned()]));
    storage.sync_dir(p("/")).unwrap();
    assert_eq!(names_now(&storage), set(&[&["a", "b"]]));
}

#[test]
fn a_replacing_rename_leaves_the_old_or_the_new_file() {
    let storage = FaultyStorage::new();
    let old = durable_file(&storage, "f");
    old.write_at(b"old", 0).unwrap();
    old.sync_data().unwrap();
    let new = storage.open(p("f.tmp"), OpenMode::Create).unwrap();
    new.write_at(b"new", 0).unwrap();
    new.sync_data().unwrap();
    storage.rename(p("f.tmp"), p("f")).unwrap();
    assert_eq!(names_now(&storage), set(&[&["f"], &["f", "f.tmp"]]));
    assert_eq!(contents_now(&storage, "f"), [b"new", b"old"]);
    storage.sync_dir(p("/")).unwrap();
    assert_eq!(contents_now(&storage, "f"), [b"new"]);
    assert_eq!(names_now(&storage), set(&[&["f"]]));
}

#[test]
fn a_name_used_again_does_not_lose_the_file_that_moved_away() {
    let storage = FaultyStorage::new();
    durable_file(&storage, "f");
    storage.rename(p("f"), p("g")).unwrap();
    storage.open(p("f"), OpenMode::CreateNew).unwrap();
    assert_eq!(names_now(&storage), set(&[&["f"], &["g"], &["f", "g"]]));
}

#[test]
fn a_move_between_directories_is_atomic_and_durable_by_either_sync() {
    for synced in ["d", "e"] {
        let storage = FaultyStorage::new();
        for directory in ["d", "e"] {
            storage.create_dir_all(p(directory)).unwrap();
        }
        durable_file(&storage, "d/f");
        storage.rename(p("d/f"), p("e/g")).unwrap();
        assert_eq!(names_now(&storage), set(&[&["d", "d/f", "e"], &["d", "e", "e/g"]]));
        storage.sync_dir(p(synced)).unwrap();
        assert_eq!(names_now(&storage), set(&[&["d", "e", "e/g"]]));
    }
}

#[test]
fn a_move_into_a_new_directory_never_loses_the_file() {
    let storage = FaultyStorage::new();
    durable_file(&storage, "f");
    storage.create_dir(p("d")).unwrap();
    storage.rename(p("f"), p("d/f")).unwrap();
    assert_eq!(names_now(&storage), set(&[&["f"], &["d", "f"], &["d", "d/f"]]));
    storage.sync_dir(p("d")).unwrap();
    assert_eq!(names_now(&storage), set(&[&["d", "d/f"]]));
}

#[test]
fn a_directory_without_a_durable_name_takes_its_files_along() {
    let storage = FaultyStorage::new();
    storage.create_dir(p("d")).unwrap();
    let file = durable_file(&storage, "d/f");
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(names_now(&storage), set(&[&[], &["d", "d/f"]]));
    storage.sync_dir(p("/")).unwrap();
    assert_eq!(contents_now(&storage, "d/f"), [b"x"]);
}

#[test]
fn a_removed_directory_was_emptied_before() {
    let storage = FaultyStorage::new();
    storage.create_dir_all(p("d")).unwrap();
    durable_file(&storage, "d/f");
    storage.rename(p("d/f"), p("f")).unwrap();
    storage.remove_dir(p("d")).unwrap();
    assert_eq!(names_now(&storage), set(&[&["d", "d/f"], &["d", "f"], &["f"]]));
}

#[test]
fn a_kill_keeps_what_was_written_and_frees_locks_but_makes_nothing_durable() {
    let storage = FaultyStorage::new();
    let _guard = storage.lock(p(".lock"), "first").unwrap();
    let file = storage.open(p("f"), OpenMode::CreateNew).unwrap();
    file.write_at(b"written", 0).unwrap();
    let next = storage.kill();
    file.write_at(b"zombie!", 0).unwrap();
    assert_eq!(content(&next, "f"), b"written");
    let _guard = next.lock(p(".lock"), "second").unwrap();
    let lost = (0..100).filter(|seed| next.power_cut(*seed).contents().is_empty()).count();
    assert!((1..100).contains(&lost));
    let history = storage.history();
    assert_eq!(content(&history.killed_at(history.len()), "f"), b"zombie!");
    assert!(history.killed_at(0).list(p("/")).unwrap().is_empty());
}

#[test]
fn crash_points_go_through_the_record_and_each_content_comes_once() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[1; 2 * SECTOR], 0).unwrap();
    let images: Vec<_> = storage.history().every_image(1000).unwrap().collect();
    // No file; an empty one; then all but the empty one of the torn write.
    let points: Vec<_> = images.iter().map(|image| image.crash_point()).collect();
    assert_eq!(points, [vec![0, 1], vec![3; 7]].concat());
    let contents: BTreeSet<_> = images.iter().map(|image| image.contents()).collect();
    assert_eq!(contents.len(), images.len());
    let fingerprints: BTreeSet<_> = images.iter().map(|image| image.fingerprint()).collect();
    assert_eq!(fingerprints.len(), images.len());
}

#[test]
fn trying_everything_is_refused_beyond_the_bound() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[1; 4 * SECTOR], 0).unwrap();
    assert!(storage.history().every_image(100).is_ok());
    assert!(storage.history().every_image(20).is_err());
    file.write_at(&[1; 70 * SECTOR], 0).unwrap();
    let refused = storage.history().every_image(u64::MAX).unwrap_err();
    assert!(refused.combinations > 1 << 40, "{refused}");
    for name in 0..70 {
        storage.open(p(&name.to_string()), OpenMode::Create).unwrap();
    }
    assert!(storage.history().every_image(u64::MAX / 4).is_err());
}

#[test]
fn the_same_seed_gives_the_same_image_and_images_can_be_cut_again() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    for number in 0..20 {
        file.write_at(&[number; 300], u64::from(number) * 300).unwrap();
    }
    let history = storage.history();
    let contents: Vec<_> = (0..50).map(|seed| history.sample(seed).contents()).collect();
    let again: Vec<_> = (0..50).map(|seed| history.sample(seed).contents()).collect();
    assert_eq!(contents, again);
    assert!(contents.iter().collect::<BTreeSet<_>>().len() > 25);
    let at_end = history.sample_at(history.len(), 7).contents();
    assert_eq!(storage.power_cut(7).contents(), at_end);

    let image = history.sample_at(history.len(), 7);
    let found = image.storage();
    assert_eq!(found.power_cut(3).contents(), at_end, "what survived is durable");
    found.open(p("f"), OpenMode::Write).unwrap().set_len(1).unwrap();
    assert_eq!(image.contents(), at_end, "an image does not change with its storages");
}

#[test]
fn a_new_file_after_a_power_cut_is_not_mistaken_for_an_older_one() {
    let storage = FaultyStorage::new();
    durable_file(&storage, "f").write_at(b"old", 0).unwrap();
    storage.open(p("lost"), OpenMode::Create).unwrap();
    for seed in 0..20 {
        let found = storage.power_cut(seed).storage();
        durable_file(&found, "new").write_at(b"new", 0).unwrap();
        assert_eq!(content(&found, "new"), b"new");
        assert_ne!(content(&found, "f"), b"new");
    }
}
