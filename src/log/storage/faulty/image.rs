//! One storage as a power cut could have left it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use super::super::EntryKind;
use super::super::content::Content;
use super::super::tree::{NodeId, Tree};
use super::FaultyStorage;
use super::medium::{FileChange, FileState, Medium, len_after};

/// What the medium writes in one piece, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Bytes of a length that ran ahead which get something else than zeros; what lies beyond is zeros. Keeps images small.
const TAIL_BYTES_MAX: u64 = 64 * 1024;

/// What stands in sectors that belong to a file by its length, but that nothing written arrived in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Tail {
    Zeros,
    /// Bytes that nobody wrote; the same in every image.
    Garbage,
    /// What once was written there, before the file was cut.
    Stale,
}

pub(super) const TAILS: [Tail; 3] = [Tail::Zeros, Tail::Garbage, Tail::Stale];

/// The parts of a write that lie in one sector each: (position, bytes).
fn sector_pieces(position: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let first = (SECTOR_BYTES - position % SECTOR_BYTES).min(data.len() as u64) as usize;
    let (head, rest) = data.split_at(first);
    let rest_position = position + first as u64;
    let rest = rest.chunks(SECTOR_BYTES as usize).enumerate();
    let rest = rest.map(move |(i, piece)| (rest_position + i as u64 * SECTOR_BYTES, piece));
    std::iter::once((position, head)).filter(|(_, head)| !head.is_empty()).chain(rest)
}

/// How many pieces of pending writes may each have arrived or not.
pub(super) fn piece_count(file: &FileState) -> usize {
    let pieces = file.pending.iter().map(|change| match change {
        FileChange::Write { position, data } => sector_pieces(*position, data).count(),
        FileChange::SetLen(_) => 0,
    });
    pieces.sum()
}

/// The lengths a file may have: after how many of its pending changes, without those that did not change the length or
/// cut anything.
pub(super) fn length_steps(file: &FileState) -> Vec<usize> {
    let mut len = file.durable.len();
    let mut steps = vec![0];
    for (index, change) in file.pending.iter().enumerate() {
        let after = len_after(len, change);
        if after != len || matches!(change, FileChange::SetLen(_)) {
            steps.push(index + 1);
        }
        len = after;
    }
    steps
}

/// A file after a power cut: its length is that after the first `reached` pending changes, of the pieces of pending
/// writes those arrived that `arrived` names by number, and `tail` says what stands in a sector that got nothing.
pub(super) fn file_after(
    node: NodeId,
    file: &FileState,
    reached: usize,
    mut arrived: impl FnMut(usize) -> bool,
    tail: Tail,
) -> Content {
    let mut content = file.durable.clone();
    let mut len = content.len();
    // Below this the sectors hold what was synced.
    let mut synced = len;
    let mut filled = BTreeSet::new();
    let mut number = 0;
    for (index, change) in file.pending.iter().enumerate() {
        if index < reached {
            len = len_after(len, change);
        }
        match change {
            FileChange::Write { position, data } => {
                for (position, piece) in sector_pieces(*position, data) {
                    if arrived(number) {
                        content.write(position, piece);
                        filled.insert(position / SECTOR_BYTES);
                    }
                    number += 1;
                }
            }
            FileChange::SetLen(cut) if index < reached => {
                content.set_len(content.len().min(*cut));
                synced = synced.min(*cut);
                drop(filled.split_off(&cut.div_ceil(SECTOR_BYTES)));
            }
            FileChange::SetLen(_) => {}
        }
    }
    content.set_len(len);
    let first = synced.div_ceil(SECTOR_BYTES);
    let end = len.min((first * SECTOR_BYTES).saturating_add(TAIL_BYTES_MAX));
    for sector in (first..end.div_ceil(SECTOR_BYTES)).filter(|sector| !filled.contains(sector)) {
        fill(&mut content, node, file, sector, tail);
    }
    content
}

/// Puts what lies on the medium into a sector that nothing was written to.
fn fill(content: &mut Content, node: NodeId, file: &FileState, sector: u64, tail: Tail) {
    let mut bytes = [0; SECTOR_BYTES as usize];
    let position = sector * SECTOR_BYTES;
    match tail {
        Tail::Zeros => return,
        Tail::Stale => _ = file.ever.read(&mut bytes, position),
        Tail::Garbage => {
            let mut random = Random::new(node.0 << 32 ^ sector);
            for chunk in bytes.chunks_mut(8) {
                chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
            }
        }
    }
    let rest = content.len().saturating_sub(position).min(SECTOR_BYTES) as usize;
    content.write(position, &bytes[..rest]);
}

/// A storage as a power cut could have left it: made by [`History`](super::History) or
/// [`FaultyStorage::power_cut`]. Cheap to keep; [`storage`](Self::storage) makes it usable.
#[derive(Clone)]
pub struct CrashImage {
    point: usize,
    tree: Arc<Tree>,
    files: BTreeMap<NodeId, Arc<FileState>>,
}

impl std::fmt::Debug for CrashImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut image = f.debug_struct("CrashImage");
        image.field("crash_point", &self.point);
        for (path, node, kind) in self.tree.walk() {
            match self.files.get(&node).filter(|_| kind == EntryKind::File) {
                Some(file) => image.field(&path.to_string_lossy(), &file.live.len()),
                None => image.field(&path.to_string_lossy(), &kind),
            };
        }
        image.finish()
    }
}

impl CrashImage {
    /// Of the given tree and the contents of the files that can be found in it.
    pub(super) fn new(
        point: usize,
        tree: Arc<Tree>,
        medium: &Medium,
        mut content: impl FnMut(NodeId, &FileState) -> Content,
    ) -> Self {
        let mut files = BTreeMap::new();
        for node in tree.files() {
            let Some(file) = medium.files.get(&node) else { continue };
            let found = FileState::found(content(node, file), file.ever.clone());
            files.insert(node, Arc::new(found));
        }
        Self { point, tree, files }
    }

    /// How many recorded operations came before the power cut.
    pub fn crash_point(&self) -> usize {
        self.point
    }

    /// A storage with this content, all of it durable, with no faults planned and nothing recorded.
    pub fn storage(&self) -> FaultyStorage {
        FaultyStorage::starting_with(Medium::found(self.tree.clone(), self.files.clone()))
    }

    /// Every file and directory (with `None`) by path, sorted, with its content.
    pub fn contents(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let read = |content: &Content| {
            let mut bytes = vec![0; usize::try_from(content.len()).unwrap_or(usize::MAX)];
            content.read(&mut bytes, 0);
            bytes
        };
        let entry = |(path, node, _): (PathBuf, NodeId, EntryKind)| {
            (path, self.files.get(&node).map(|file| read(&file.live)))
        };
        self.tree.walk().into_iter().map(entry).collect()
    }

    /// Equal for images with the same names and contents, and (by all practical odds) only for those.
    pub fn fingerprint(&self) -> u128 {
        fingerprint_of(&self.tree.walk(), |node| {
            self.files.get(&node).map_or(0, |file| file.live.fingerprint())
        })
    }
}

/// The fingerprint of a tree's entries, each file's content standing for itself by its own fingerprint.
pub(super) fn fingerprint_of(
    entries: &[(PathBuf, NodeId, EntryKind)],
    mut content: impl FnMut(NodeId) -> u128,
) -> u128 {
    let (mut low, mut high) = (DefaultHasher::new(), DefaultHasher::new());
    high.write_u8(1);
    for (path, node, kind) in entries {
        let content = if *kind == EntryKind::File { content(*node) } else { 0 };
        for hasher in [&mut low, &mut high] {
            path.hash(hasher);
            kind.hash(hasher);
            hasher.write_u128(content);
        }
    }
    u128::from(high.finish()) << 64 | u128::from(low.finish())
}

/// A small generator of random numbers (SplitMix64): the same seed gives the same numbers for ever.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}
