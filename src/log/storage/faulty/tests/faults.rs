//! Every kind of fault, seen from outside.

use std::io::ErrorKind;

use super::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn os_error<T: std::fmt::Debug>(result: Result<T, StorageError>) -> i32 {
    result.unwrap_err().source.raw_os_error().unwrap()
}

#[test]
fn the_nth_call_of_a_kind_fails_and_no_other() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    storage.inject(Fault::at(1, FaultAction::Fail(Errno::Io)).of(Operation::Write));
    file.write_at(b"a", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(os_error(file.write_at(b"b", 1)), EIO);
    file.write_at(b"c", 1).unwrap();
    assert_eq!(content(&storage, "f"), b"ac");
    assert_eq!(storage.faults_met(), 1);
}

#[test]
fn every_kind_of_call_can_fail_and_then_changes_nothing() {
    type Attempt = fn(&FaultyStorage) -> Result<(), StorageError>;
    let tries: [(Operation, Attempt); 13] = [
        (Operation::Open, |s| s.open(p("new"), OpenMode::Create).map(drop)),
        (Operation::Read, |s| s.open(p("d/f"), OpenMode::Read)?.read_at(&mut [0], 0).map(drop)),
        (Operation::Write, |s| s.open(p("d/f"), OpenMode::Write)?.write_at(b"y", 0)),
        (Operation::SetLen, |s| s.open(p("d/f"), OpenMode::Write)?.set_len(9)),
        (Operation::Len, |s| s.open(p("d/f"), OpenMode::Write)?.len().map(drop)),
        (Operation::Preallocate, |s| s.open(p("d/f"), OpenMode::Write)?.preallocate(9)),
        (Operation::CreateDir, |s| s.create_dir(p("e"))),
        (Operation::List, |s| s.list(p("d")).map(drop)),
        (Operation::Rename, |s| s.rename(p("d/f"), p("d/g"))),
        (Operation::RemoveFile, |s| s.remove_file(p("d/f"))),
        (Operation::RemoveDir, |s| s.remove_dir(p("empty"))),
        (Operation::SyncDir, |s| s.sync_dir(p("d"))),
        (Operation::Metadata, |s| s.metadata(p("d/f")).map(drop)),
    ];
    let storage = FaultyStorage::new();
    storage.create_dir(p("d")).unwrap();
    storage.create_dir(p("empty")).unwrap();
    storage.open(p("d/f"), OpenMode::Create).unwrap().write_at(b"x", 0).unwrap();
    let (recorded, images) = (storage.recorded(), storage.power_cut(1).contents());
    for (operation, attempt) in tries {
        storage.inject(Fault::at(0, FaultAction::Fail(Errno::NoSpace)).of(operation));
        let error = attempt(&storage).unwrap_err();
        assert_eq!(error.operation, operation);
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{operation:?}");
        assert_eq!(storage.recorded(), recorded, "{operation:?}");
        storage.clear_faults();
    }
    assert_eq!(storage.power_cut(1).contents(), images);
    storage.inject(Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::Lock));
    assert!(matches!(storage.lock(p("l"), "x"), Err(LockError::Storage(_))));
    assert!(storage.lock(p("l"), "x").is_ok());
}

#[test]
fn any_call_can_be_counted_and_paths_can_be_picked() {
    let storage = FaultyStorage::new();
    storage.create_dir(p("d")).unwrap();
    assert_eq!(storage.calls(None), 1);
    storage.inject(Fault::at(2, FaultAction::Fail(Errno::Io)));
    storage.inject(Fault::at(0, FaultAction::Fail(Errno::NoSpace)).on("chosen"));
    storage.create_dir(p("d/a")).unwrap();
    assert_eq!(os_error(storage.create_dir(p("d/chosen"))), ENOSPC);
    assert_eq!(os_error(storage.sync_dir(p("d"))), EIO);
    storage.sync_dir(p("d")).unwrap();
    assert_eq!(storage.calls(None), 5);
    assert_eq!(storage.calls(Some(Operation::SyncDir)), 2);
    assert_eq!(storage.faults_met(), 2);
}

#[test]
fn a_full_medium_stays_full_until_it_is_well_again() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    let full = FaultAction::Fail(Errno::NoSpace);
    storage.inject(Fault::at(1, full).of(Operation::Write).from_then_on());
    file.write_at(b"a", 0).unwrap();
    for _ in 0..3 {
        assert_eq!(os_error(file.write_at(b"b", 1)), ENOSPC);
    }
    assert_eq!(content(&storage, "f"), b"a");
    storage.clear_faults();
    file.write_at(b"b", 1).unwrap();
}

#[test]
fn a_short_write_leaves_half_and_then_fails() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    storage.inject(Fault::at(0, FaultAction::ShortWrite(Errno::NoSpace)).of(Operation::Write));
    let slices = [IoSlice::new(b"abc"), IoSlice::new(b"defgh")];
    assert_eq!(os_error(file.write_vectored_at(&slices, 0)), ENOSPC);
    assert_eq!(content(&storage, "f"), b"abcd");
    file.write_at(b"again", 0).unwrap();
    assert_eq!(content(&storage, "f"), b"again");
}

#[test]
fn an_interrupted_attempt_is_repeated_by_the_call() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    for operation in [Operation::Write, Operation::Read] {
        storage.inject(Fault::at(0, FaultAction::Interrupt).of(operation));
    }
    file.write_at(b"abc", 0).unwrap();
    assert_eq!(storage.calls(Some(Operation::Write)), 2);
    let mut bytes = [0; 3];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 3);
    assert_eq!(&bytes, b"abc");
    assert_eq!(storage.calls(Some(Operation::Read)), 2);

    storage.inject(Fault::at(0, FaultAction::Interrupt).of(Operation::Write));
    let once = file.write_some_at(&[IoSlice::new(b"x")], 0).unwrap_err();
    assert_eq!(once.kind(), ErrorKind::Interrupted);

    storage.inject(Fault::at(0, FaultAction::Interrupt).of(Operation::SyncData));
    file.sync_data().unwrap();
    assert_eq!(contents_now(&storage, "f"), [b"abc"]);
}

#[test]
fn a_failed_sync_loses_what_was_not_synced_even_if_the_next_succeeds() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(b"kept", 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(b"lost", 4).unwrap();
    storage.inject(Fault::at(0, FaultAction::Fail(Errno::Io)).of(Operation::SyncData));
    assert_eq!(os_error(file.sync_data()), EIO);
    file.sync_data().unwrap();
    file.write_at(b"new", 8).unwrap();
    file.sync_data().unwrap();

    assert_eq!(content(&storage, "f"), b"keptlostnew", "the page cache still shows it");
    assert_eq!(contents_now(&storage, "f"), [b"kept\0\0\0\0new".to_vec()]);
    let restarted = storage.kill();
    assert_eq!(content(&restarted, "f"), b"keptlostnew", "another process sees it too");
    assert_eq!(content(&restarted.power_cut(0).storage(), "f"), b"kept\0\0\0\0new");
}

#[test]
fn a_bit_flips_in_what_was_read_and_not_on_the_medium() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[0; 4], 0).unwrap();
    storage.inject(Fault::at(0, FaultAction::FlipBit { bit: 32 + 9 }).of(Operation::Read));
    let mut bytes = [0; 100];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 4);
    assert_eq!(bytes[..4], [0, 2, 0, 0]);
    assert_eq!(content(&storage, "f"), [0; 4]);
}

#[test]
fn a_misdirected_write_lands_elsewhere() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(b"........", 0).unwrap();
    storage.inject(Fault::at(0, FaultAction::Misdirect { by: 3 }).of(Operation::Write));
    storage.inject(Fault::at(1, FaultAction::Misdirect { by: -9 }).of(Operation::Write));
    file.write_at(b"ab", 1).unwrap();
    file.write_at(b"c", 5).unwrap();
    assert_eq!(content(&storage, "f"), b"c...ab..");
}

#[test]
fn rot_stays_on_the_medium_and_in_the_record() {
    let storage = FaultyStorage::new();
    let file = durable_file(&storage, "f");
    file.write_at(&[0; 3], 0).unwrap();
    file.sync_data().unwrap();
    let before = storage.recorded();
    storage.flip_bit(p("f"), 15).unwrap();
    storage.flip_bit(p("f"), 24).unwrap();
    assert_eq!(content(&storage, "f"), [0, 128, 0]);
    assert_eq!(content(&storage.power_cut(0).storage(), "f"), [0, 128, 0]);
    let history = storage.history();
    assert_eq!(content(&history.killed_at(before), "f"), [0; 3]);
    assert_eq!(content(&history.killed_at(history.len()), "f"), [0, 128, 0]);
    assert_eq!(storage.flip_bit(p("g"), 0).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_record_can_be_read() {
    let storage = FaultyStorage::new();
    storage.create_dir(p("d")).unwrap();
    let file = durable_file(&storage, "d/f");
    file.write_at(b"abc", 7).unwrap();
    file.set_len(4).unwrap();
    file.sync_data().unwrap();
    storage.rename(p("d/f"), p("d/g")).unwrap();
    storage.remove_file(p("d/g")).unwrap();
    let expected = [
        "create d (Directory)",
        "create d/f (File)",
        "sync the directory d",
        "write d/f: 3 bytes at 7",
        "set the length of d/f to 4",
        "sync d/f",
        "rename d/f to g",
        "remove d/g (File)",
    ];
    assert_eq!(storage.history().describe(), expected);
}
