//! What the tests of the log share.

#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peermq::log::storage::{EntryKind, OpenMode, Storage, StorageFile};
use peermq::log::{Log, LogError, Position, TopicOptions};

/// Where the log lies in the storage of a test.
pub(crate) const DIRECTORY: &str = "/log";

/// Opens the log of a storage; without a thread of its own, so that tests are deterministic.
pub(crate) fn try_open(storage: &(impl Storage + Clone + 'static)) -> Result<Log, LogError> {
    Log::options().storage(Arc::new(storage.clone())).linger(None).open(DIRECTORY)
}

/// As [`try_open`], where nothing may go wrong.
pub(crate) fn open(storage: &(impl Storage + Clone + 'static)) -> Log {
    try_open(storage).unwrap()
}

/// A topic whose batches and segments are so small that a few records show everything.
pub(crate) fn small() -> TopicOptions {
    TopicOptions::default()
        .segment_bytes(600)
        .batch_bytes(120)
        .index_interval_bytes(100)
        .record_bytes_max(400)
}

/// All records of a partition: offset and value.
pub(crate) fn read_all(
    log: &Log,
    topic: &str,
    partition: u32,
) -> Result<Vec<(i64, String)>, LogError> {
    let reader = log.topic(topic)?.read(partition, Position::Earliest)?;
    reader
        .map(|record| {
            let record = record?;
            let value = record.value.unwrap_or_default();
            Ok((record.offset, String::from_utf8_lossy(&value).into_owned()))
        })
        .collect()
}

/// All files of a storage below the log's directory, with their bytes.
pub(crate) fn files(storage: &impl Storage) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![PathBuf::from(DIRECTORY)];
    while let Some(directory) = directories.pop() {
        for entry in storage.list(&directory).unwrap_or_default() {
            let path = directory.join(&entry.name);
            match entry.kind {
                EntryKind::Directory => directories.push(path),
                _ => _ = found.insert(path.clone(), bytes_of(storage, &path)),
            }
        }
    }
    found
}

/// The files of batches alone.
pub(crate) fn segments(storage: &impl Storage) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files(storage);
    files.retain(|path, _| path.extension().is_some_and(|extension| extension == "log"));
    files
}

fn bytes_of(storage: &impl Storage, path: &Path) -> Vec<u8> {
    let file: Arc<dyn StorageFile> = storage.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// A generator of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
