//! What is where: every file and directory as it is seen, as a power cut would certainly leave it, and the changes
//! between the two that a power cut may or may not undo.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::super::EntryKind;
use super::super::content::Content;
use super::super::tree::{Change, NodeId, Tree};

/// One recorded operation.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Created, renamed or removed.
    Names(Change),
    Write {
        node: NodeId,
        position: u64,
        data: Bytes,
    },
    SetLen {
        node: NodeId,
        len: u64,
    },
    /// `lost`: it failed, and marked the unsynced bytes clean.
    SyncData {
        node: NodeId,
        lost: bool,
    },
    SyncDir {
        directory: NodeId,
    },
    /// A bit of the medium turned over by itself.
    Rot {
        node: NodeId,
        bit: u64,
    },
}

/// What was done to a file since its last sync.
#[derive(Debug, Clone)]
pub(super) enum FileChange {
    Write { position: u64, data: Bytes },
    SetLen(u64),
}

/// One file.
#[derive(Debug, Clone, Default)]
pub(super) struct FileState {
    /// What reads show.
    pub(super) live: Content,
    /// What the last sync made durable.
    pub(super) durable: Content,
    /// What was done since, in order.
    pub(super) pending: Vec<FileChange>,
    /// All that was ever written, never cut: what may lie on the medium beyond the end.
    pub(super) ever: Content,
}

impl FileState {
    /// A file found after a power cut: all of it is durable.
    pub(super) fn found(content: Content, ever: Content) -> Self {
        Self { live: content.clone(), durable: content, pending: Vec::new(), ever }
    }

    fn write(&mut self, position: u64, data: &Bytes) {
        self.live.write(position, data);
        self.ever.write(position, data);
        self.pending.push(FileChange::Write { position, data: data.clone() });
    }

    fn set_len(&mut self, len: u64) {
        self.live.set_len(len);
        self.pending.push(FileChange::SetLen(len));
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                FileChange::Write { position, data } => self.durable.write(position, &data),
                FileChange::SetLen(len) => self.durable.set_len(len),
            }
        }
    }

    /// The bytes of the pending writes will never arrive; the lengths they caused may.
    fn lose(&mut self) {
        let mut len = self.durable.len();
        for change in &mut self.pending {
            len = len_after(len, change);
            *change = FileChange::SetLen(len);
        }
    }
}

/// The length of a file of `len` bytes after a change.
pub(super) fn len_after(len: u64, change: &FileChange) -> u64 {
    match change {
        FileChange::Write { data, .. } if data.is_empty() => len,
        FileChange::Write { position, data } => len.max(position + data.len() as u64),
        FileChange::SetLen(len) => *len,
    }
}

/// A change of names that no sync made durable yet.
#[derive(Debug)]
pub(super) struct PendingChange {
    /// Counts all changes of names; ascending in the list of pending ones.
    number: u64,
    pub(super) change: Change,
    /// Numbers of earlier ones that happened if this one did.
    needs: Vec<u64>,
}

/// The whole storage at one moment. Cloning shares all contents and trees.
#[derive(Debug, Clone)]
pub(super) struct Medium {
    pub(super) live: Arc<Tree>,
    pub(super) durable: Arc<Tree>,
    pub(super) pending: Vec<Arc<PendingChange>>,
    /// Of every file that ever was, for a removed one may come back.
    pub(super) files: BTreeMap<NodeId, Arc<FileState>>,
    changes: u64,
}

impl Medium {
    pub(super) fn new() -> Self {
        Self::found(Arc::new(Tree::new()), BTreeMap::new())
    }

    /// What was found after a power cut: all of it is durable.
    pub(super) fn found(tree: Arc<Tree>, files: BTreeMap<NodeId, Arc<FileState>>) -> Self {
        Self { live: tree.clone(), durable: tree, pending: Vec::new(), files, changes: 0 }
    }

    pub(super) fn file(&self, node: NodeId) -> io::Result<&FileState> {
        self.files.get(&node).map(|file| &**file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn len_at(&self, path: &Path) -> io::Result<(EntryKind, u64)> {
        let node = self.live.find(path)?;
        Ok((self.live.kind(node), self.files.get(&node).map_or(0, |file| file.live.len())))
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Names(change) => self.change_names(change),
            Op::SyncDir { directory } => self.sync_dir(*directory),
            Op::Write { node, position, data } => {
                self.with_file(*node, |file| file.write(*position, data));
            }
            Op::SetLen { node, len } => self.with_file(*node, |file| file.set_len(*len)),
            Op::SyncData { node, lost: false } => self.with_file(*node, FileState::sync),
            Op::SyncData { node, lost: true } => self.with_file(*node, FileState::lose),
            Op::Rot { node, bit } => self.with_file(*node, |file| {
                file.live.flip(*bit);
                file.durable.flip(*bit);
            }),
        }
    }

    fn with_file(&mut self, node: NodeId, work: impl FnOnce(&mut FileState)) {
        if let Some(file) = self.files.get_mut(&node) {
            work(Arc::make_mut(file));
        }
    }

    fn change_names(&mut self, change: &Change) {
        Arc::make_mut(&mut self.durable).know(change.node, change.kind);
        let created = change.from.is_none();
        if created && change.kind == EntryKind::File {
            self.files.insert(change.node, Arc::default());
        }
        let needs = self.pending.iter().filter(|earlier| self.rests_on(change, &earlier.change));
        let needs = needs.map(|earlier| earlier.number).collect();
        Arc::make_mut(&mut self.live).apply(change);
        let pending = PendingChange { number: self.changes, change: change.clone(), needs };
        self.pending.push(Arc::new(pending));
        self.changes += 1;
    }

    /// Whether a change cannot have reached the medium without an earlier one: they share a name (as any two changes of
    /// one file do that follow each other); or the change removes a directory that the earlier one emptied; or it
    /// moves something into a directory that the earlier one brought to its place. (What is created in a directory
    /// may well get durable before the directory's name.)
    fn rests_on(&self, change: &Change, earlier: &Change) -> bool {
        let removed = change.to.is_none().then_some(change.node);
        let moved_into = change.from.as_ref().and(change.to.as_ref()).map(|place| place.0);
        change.places().any(|place| earlier.places().any(|other| other == place))
            || removed.into_iter().chain(change.replaced).any(|node| earlier.changes(node))
            || moved_into.is_some_and(|directory| {
                self.live.ancestors(directory).any(|above| above == earlier.node)
            })
    }

    fn sync_dir(&mut self, directory: NodeId) {
        let mut happened = BTreeSet::new();
        // Backwards, for what a change needs is earlier than it.
        for pending in self.pending.iter().rev() {
            if pending.change.changes(directory) || happened.contains(&pending.number) {
                happened.insert(pending.number);
                happened.extend(&pending.needs);
            }
        }
        if happened.is_empty() {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        self.pending.retain(|pending| {
            let done = happened.contains(&pending.number);
            if done {
                durable.apply(&pending.change);
            }
            !done
        });
    }

    /// The tree after a power cut that only the chosen ones of the pending changes outlived (by index), and with them
    /// what they need. `None` if a chosen one lacks what it needs, and `only_whole` is set.
    pub(super) fn names_after(
        &self,
        mut chosen: impl FnMut(usize) -> bool,
        only_whole: bool,
    ) -> Option<Arc<Tree>> {
        let mut tree = self.durable.clone();
        let mut missing = BTreeSet::new();
        for (index, pending) in self.pending.iter().enumerate() {
            let wanted = chosen(index);
            let possible = pending.needs.iter().all(|needed| !missing.contains(needed));
            if wanted && possible {
                Arc::make_mut(&mut tree).apply(&pending.change);
            } else if wanted && only_whole {
                return None;
            } else {
                missing.insert(pending.number);
            }
        }
        Some(tree)
    }
}
