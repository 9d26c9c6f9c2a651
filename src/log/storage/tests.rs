//! All storages side by side with a plain model, and what only one of them can show.

mod plain;

use std::fs;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::faulty::FaultyStorage;
use super::*;
use plain::{Plain, SLOTS, Step};

/// A new directory of the real file system, removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("peermq-storage-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Left by an earlier process of this number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// A storage under test, with its open files.
struct Subject {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    slots: [Option<Arc<dyn StorageFile>>; SLOTS],
}

fn told<T: std::fmt::Debug>(result: Result<T, StorageError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

impl Subject {
    fn new(storage: impl Storage + 'static, root: &Path) -> Self {
        Self { storage: Arc::new(storage), root: root.to_owned(), slots: Default::default() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Takes a step; what the storage answered, as text.
    fn step(&mut self, step: &Step) -> String {
        let storage = self.storage.clone();
        match step {
            Step::Open(slot, path, mode) => match storage.open(&self.at(path), *mode) {
                Ok(file) => {
                    self.slots[*slot] = Some(file);
                    told(Ok(()))
                }
                Err(error) => told::<()>(Err(error)),
            },
            Step::CreateDir(path) => told(storage.create_dir(&self.at(path))),
            Step::List(path) => told(storage.list(&self.at(path)).map(|entries| {
                let entry = |e: Entry| (e.name.into_string().unwrap(), e.kind);
                entries.into_iter().map(entry).collect::<Vec<_>>()
            })),
            Step::Rename(from, to) => told(storage.rename(&self.at(from), &self.at(to))),
            Step::RemoveFile(path) => told(storage.remove_file(&self.at(path))),
            Step::RemoveDir(path) => told(storage.remove_dir(&self.at(path))),
            Step::SyncDir(path) => told(storage.sync_dir(&self.at(path))),
            Step::Metadata(path) => {
                told(storage.metadata(&self.at(path)).map(|found| (found.kind, found.len)))
            }
            _ => self.file_step(step),
        }
    }

    fn file_step(&mut self, step: &Step) -> String {
        let Some(file) = self.slots[step.slot()].clone() else { return "not open".to_owned() };
        match step {
            Step::Read(_, position, bytes) => {
                let mut buffer = vec![0; *bytes];
                told(file.read_at(&mut buffer, *position).map(|read| buffer[..read].to_vec()))
            }
            Step::Write(_, position, parts) => {
                let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
                told(file.write_vectored_at(&slices, *position))
            }
            Step::SetLen(_, len) => told(file.set_len(*len)),
            Step::SyncData(_) => told(file.sync_data()),
            Step::Len(_) => told(file.len()),
            Step::Preallocate(_, len) => {
                // A hint: it may fail, and must not be seen.
                _ = file.preallocate(*len);
                told(file.len())
            }
            _ => unreachable!("a step without a file"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn all_storages_answer_as_a_plain_model_does(steps in plain::steps(60)) {
        let directory = Temporary::new();
        let mut plain = Plain::new();
        let mut subjects = [
            Subject::new(FileStorage::new(), &directory.0),
            Subject::new(MemoryStorage::new(), Path::new("/")),
            Subject::new(FaultyStorage::new(), Path::new("")),
        ];
        for step in &steps {
            let expected = plain.step(step);
            for subject in &mut subjects {
                let got = subject.step(step);
                prop_assert_eq!(&got, &expected, "{:?} on {:?}", step, subject.storage);
            }
        }
    }
}

/// Every kind of storage with a root directory that exists, for tests that treat all alike.
fn everywhere(test: impl Fn(&dyn Storage, &Path)) {
    let directory = Temporary::new();
    test(&FileStorage::new(), &directory.0);
    test(&MemoryStorage::new(), Path::new("/"));
    test(&FaultyStorage::new(), Path::new("/"));
}

#[test]
fn a_lock_excludes_others_until_its_guard_is_dropped_and_names_its_holder() {
    everywhere(|storage, root| {
        let path = root.join(".lock");
        let guard = storage.lock(&path, "the first and much longer text").unwrap();
        match storage.lock(&path, "second") {
            Err(LockError::HeldBy(holder)) => assert_eq!(holder, "the first and much longer text"),
            other => panic!("{other:?}"),
        }
        drop(guard);
        let _guard = storage.lock(&path, "third").unwrap();
        match storage.lock(&path, "fourth") {
            Err(LockError::HeldBy(holder)) => assert_eq!(holder, "third"),
            other => panic!("{other:?}"),
        }
        assert_eq!(storage.metadata(&path).unwrap().kind, EntryKind::File);
        let elsewhere = storage.lock(&root.join("missing/.lock"), "x").unwrap_err();
        assert!(matches!(elsewhere, LockError::Storage(error)
            if error.kind() == io::ErrorKind::NotFound && error.operation == Operation::Lock));
    });
}

#[test]
fn a_lock_whose_holder_wrote_no_name_is_held_all_the_same() {
    let directory = Temporary::new();
    let path = directory.0.join(".lock");
    let file = fs::File::create(&path).unwrap();
    file.try_lock().unwrap();
    match FileStorage::new().lock(&path, "late") {
        Err(LockError::HeldBy(holder)) => assert!(holder.contains("did not say its name")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn this_process_is_named_by_its_id_and_always_alike() {
    let name = this_process();
    assert!(name.starts_with(&format!("process {}", std::process::id())));
    assert_eq!(name, this_process());
    #[cfg(target_os = "linux")]
    {
        let second: u64 = name.rsplit(' ').next().unwrap().parse().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(second <= now.as_secs() + 1 && second + 7 * 86_400 > now.as_secs());
    }
}

#[test]
fn create_dir_all_creates_what_is_missing_and_refuses_a_file_on_the_way() {
    everywhere(|storage, root| {
        let deep = root.join("x/y/z");
        storage.create_dir_all(&deep).unwrap();
        storage.create_dir_all(&deep).unwrap();
        assert_eq!(storage.metadata(&deep).unwrap().kind, EntryKind::Directory);
        storage.open(&root.join("f"), OpenMode::CreateNew).unwrap();
        let refused = storage.create_dir_all(&root.join("f/d")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotADirectory);
    });
}

#[test]
fn directories_made_by_create_dir_all_survive_a_power_cut() {
    let storage = FaultyStorage::new();
    storage.create_dir_all(Path::new("/x/y/z")).unwrap();
    let images: Vec<_> = storage.history().every_image(1000).unwrap().collect();
    assert!(images.len() > 1);
    for seed in 0..50 {
        let found = storage.power_cut(seed).storage();
        assert!(found.metadata(Path::new("/x/y/z")).is_ok());
    }
}

#[test]
fn an_error_names_the_call_and_the_path() {
    everywhere(|storage, root| {
        let path = root.join("missing");
        let error = storage.open(&path, OpenMode::Read).unwrap_err();
        assert_eq!(error.operation, Operation::Open);
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot open {}: ", path.display())), "{text}");
    });
}

#[test]
fn nothing_takes_the_name_of_a_directory_that_holds_it() {
    everywhere(|storage, root| {
        storage.create_dir_all(&root.join("d/e")).unwrap();
        storage.open(&root.join("d/f"), OpenMode::CreateNew).unwrap();
        for inner in ["d/e", "d/f"] {
            let refused = storage.rename(&root.join(inner), &root.join("d")).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::DirectoryNotEmpty);
        }
        let refused = storage.rename(&root.join("d"), &root.join("d/e/x")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn no_file_reaches_beyond_the_largest_position() {
    everywhere(|storage, root| {
        let file = storage.open(&root.join("f"), OpenMode::CreateNew).unwrap();
        let refused = file.write_at(b"xy", FILE_BYTES_MAX - 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let refused = file.set_len(FILE_BYTES_MAX + 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert!(file.is_empty().unwrap());
    });
}

#[test]
fn a_write_of_more_buffers_than_one_call_takes_is_continued() {
    everywhere(|storage, root| {
        let file = storage.open(&root.join("f"), OpenMode::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..6000u32).map(|i| i as u8).collect();
        let mut slices = vec![IoSlice::new(&[]); 2000];
        slices.extend(bytes.chunks(2).map(IoSlice::new));
        file.write_vectored_at(&slices, 3).unwrap();
        let mut read = vec![0; 7000];
        assert_eq!(file.read_at(&mut read, 3).unwrap(), bytes.len());
        assert_eq!(&read[..bytes.len()], bytes);
    });
}

#[test]
fn preallocation_leaves_the_length_alone() {
    everywhere(|storage, root| {
        let file = storage.open(&root.join("f"), OpenMode::CreateNew).unwrap();
        file.write_at(b"abc", 0).unwrap();
        // Not every file system can; what matters is the length.
        _ = file.preallocate(1 << 20);
        assert_eq!(file.len().unwrap(), 3);
        assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 3);
    });
}

#[test]
fn links_are_listed_as_what_they_lead_to_and_sockets_as_other() {
    let directory = Temporary::new();
    fs::create_dir(directory.0.join("real")).unwrap();
    std::os::unix::fs::symlink(directory.0.join("real"), directory.0.join("link")).unwrap();
    std::os::unix::fs::symlink(directory.0.join("none"), directory.0.join("loose")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.0.join("socket")).unwrap();
    let listed = FileStorage::new().list(&directory.0).unwrap();
    let listed: Vec<_> =
        listed.iter().map(|entry| (entry.name.to_str().unwrap(), entry.kind)).collect();
    assert_eq!(
        listed,
        [
            ("link", EntryKind::Directory),
            ("loose", EntryKind::Other),
            ("real", EntryKind::Directory),
            ("socket", EntryKind::Other),
        ]
    );
}

#[test]
fn a_large_hole_in_memory_takes_no_memory() {
    let storage = MemoryStorage::new();
    let file = storage.open(Path::new("f"), OpenMode::CreateNew).unwrap();
    file.set_len(FILE_BYTES_MAX).unwrap();
    file.write_at(b"x", FILE_BYTES_MAX - 1).unwrap();
    let mut bytes = [9; 4];
    assert_eq!(file.read_at(&mut bytes, FILE_BYTES_MAX - 3).unwrap(), 3);
    assert_eq!(&bytes, &[0, 0, b'x', 9]);
}
