//! Each fault shown to occur, each way to lose power shown to occur, and all of it checked against an oracle that knows
//! only the rules.

mod faults;
mod oracle;
mod power;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// A new file whose name is durable.
fn durable_file(storage: &FaultyStorage, path: &str) -> Arc<dyn StorageFile> {
    let file = storage.open(p(path), OpenMode::CreateNew).unwrap();
    storage.sync_dir(p(path).parent().unwrap()).unwrap();
    file
}

fn content(storage: &dyn Storage, path: &str) -> Vec<u8> {
    let file = storage.open(p(path), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// All images of power cuts at the end of what was recorded.
fn images_now(storage: &FaultyStorage) -> Vec<Contents> {
    storage.forget_history();
    let images = storage.history().every_image(1_000_000).unwrap();
    images.map(|image| image.contents()).collect()
}

/// All contents that a file may have after a power cut now, sorted; files that are missing are left out.
fn contents_now(storage: &FaultyStorage, path: &str) -> Vec<Vec<u8>> {
    let mut found: Vec<_> =
        images_now(storage).into_iter().filter_map(|mut image| image.remove(p(path))?).collect();
    found.sort();
    found.dedup();
    found
}
