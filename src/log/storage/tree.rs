//! Names and directories in memory, with the rules and error kinds of a POSIX file system. Contents live elsewhere.
//!
//! A call first plans a [`Change`] against the tree, which says what is to happen independently of it; whoever keeps
//! several trees (as they are, as they would be after a power cut) applies it to each.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Entry, EntryKind};

/// Bytes of one name, as most file systems have it.
const NAME_BYTES_MAX: usize = 255;

/// A file or directory, whatever its name is; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) u64);

/// The directory that all paths start from: both the empty path and `/`.
pub(super) const ROOT: NodeId = NodeId(0);

/// One component of a path.
pub(super) type Name = Arc<OsStr>;

/// A name in a directory.
pub(super) type Place = (NodeId, Name);

/// One step of the names: a node gets a place (created), another place (renamed), or none (removed).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) node: NodeId,
    pub(super) kind: EntryKind,
    pub(super) from: Option<Place>,
    pub(super) to: Option<Place>,
    /// What had the new place before and has none now.
    pub(super) replaced: Option<NodeId>,
}

impl Change {
    /// Whether it changes an entry of this directory.
    pub(super) fn changes(&self, directory: NodeId) -> bool {
        self.places().any(|place| place.0 == directory)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(&self.to)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        [self.node].into_iter().chain(self.replaced)
    }
}

#[derive(Debug, Clone)]
struct Node {
    kind: EntryKind,
    place: Option<Place>,
    children: BTreeMap<Name, NodeId>,
}

/// All names. Nodes without a place, and those below them, cannot be found by path.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: u64,
}

impl Tree {
    /// Only the root directory.
    pub(super) fn new() -> Self {
        let root = Node { kind: EntryKind::Directory, place: None, children: BTreeMap::new() };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT.0 + 1 }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                Component::Normal(name) => node = self.child(node, name)?,
            }
        }
        Ok(node)
    }

    pub(super) fn kind(&self, node: NodeId) -> EntryKind {
        self.nodes.get(&node).map_or(EntryKind::Other, |node| node.kind)
    }

    /// The file at a path; a directory is refused.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        match self.kind(node) {
            EntryKind::Directory => Err(io::ErrorKind::IsADirectory.into()),
            _ => Ok(node),
        }
    }

    /// The directory at a path; a file is refused.
    pub(super) fn find_directory(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        self.children(node)?;
        Ok(node)
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let children = self.children(self.find(path)?)?;
        let entry = |(name, node): (&Name, &NodeId)| Entry {
            name: name.to_os_string(),
            kind: self.kind(*node),
        };
        Ok(children.iter().map(entry).collect())
    }

    /// All that can be found: (path, node, kind), sorted by path.
    pub(super) fn walk(&self) -> Vec<(PathBuf, NodeId, EntryKind)> {
        let mut found = Vec::new();
        let mut directories = vec![(PathBuf::new(), ROOT)];
        while let Some((path, directory)) = directories.pop() {
            for (name, node) in self.nodes.get(&directory).iter().flat_map(|node| &node.children) {
                let path = path.join(&**name);
                let kind = self.kind(*node);
                if kind == EntryKind::Directory {
                    directories.push((path.clone(), *node));
                }
                found.push((path, *node, kind));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// All files that can be found.
    pub(super) fn files(&self) -> Vec<NodeId> {
        let mut files = Vec::new();
        let mut directories = vec![ROOT];
        while let Some(directory) = directories.pop() {
            for node in self.nodes.get(&directory).iter().flat_map(|node| node.children.values()) {
                match self.kind(*node) {
                    EntryKind::Directory => directories.push(*node),
                    _ => files.push(*node),
                }
            }
        }
        files
    }

    /// The directory and those above it, up to the root or to one without a place.
    pub(super) fn ancestors(&self, directory: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(directory), |node| {
            self.nodes.get(node).and_then(|node| node.place.as_ref()).map(|place| place.0)
        })
    }

    fn children(&self, node: NodeId) -> io::Result<&BTreeMap<Name, NodeId>> {
        match self.nodes.get(&node) {
            Some(node) if node.kind == EntryKind::Directory => Ok(&node.children),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn check_empty(&self, directory: NodeId) -> io::Result<()> {
        if self.children(directory)?.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::DirectoryNotEmpty.into())
        }
    }

    fn child(&self, directory: NodeId, name: &OsStr) -> io::Result<NodeId> {
        let children = self.children(directory)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        children.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Where a path is or would be, and what is there. The root has no place (`ResourceBusy`).
    fn place(&self, path: &Path) -> io::Result<(Place, Option<NodeId>)> {
        let Some(name) = path.file_name() else {
            self.find(path)?;
            return Err(io::ErrorKind::ResourceBusy.into());
        };
        let directory = self.find(path.parent().unwrap_or(Path::new("")))?;
        let there = match self.child(directory, name) {
            Ok(node) => Some(node),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(((directory, Arc::from(name)), there))
    }

    pub(super) fn plan_create(&self, path: &Path, kind: EntryKind) -> io::Result<Change> {
        let (place, there) = self.place(path).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => io::ErrorKind::AlreadyExists.into(),
            _ => error,
        })?;
        if there.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Change { node: NodeId(self.next), kind, from: None, to: Some(place), replaced: None })
    }

    pub(super) fn plan_remove(&self, path: &Path, kind: EntryKind) -> io::Result<Change> {
        let (place, there) = self.place(path)?;
        let node = there.ok_or(io::ErrorKind::NotFound)?;
        match (kind, self.kind(node)) {
            (EntryKind::Directory, _) => self.check_empty(node)?,
            (EntryKind::File, EntryKind::Directory) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            _ => {}
        }
        Ok(Change { node, kind, from: Some(place), to: None, replaced: None })
    }

    /// `None` if both paths are one, and so nothing is to be done.
    pub(super) fn plan_rename(&self, from: &Path, to: &Path) -> io::Result<Option<Change>> {
        let (from, node) = self.place(from)?;
        let (to, there) = self.place(to)?;
        let node = node.ok_or(io::ErrorKind::NotFound)?;
        let kind = self.kind(node);
        if self.ancestors(to.0).any(|directory| directory == node) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(there) = there {
            if there == node {
                return Ok(None);
            }
            let holds_source = self.ancestors(from.0).any(|directory| directory == there);
            match (kind, self.kind(there)) {
                _ if holds_source => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
                (EntryKind::Directory, EntryKind::Directory) => self.check_empty(there)?,
                (EntryKind::Directory, _) => return Err(io::ErrorKind::NotADirectory.into()),
                (_, EntryKind::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
                _ => {}
            }
        }
        Ok(Some(Change { node, kind, from: Some(from), to: Some(to), replaced: there }))
    }

    /// Makes a change, planned for this tree or for another that shares its nodes.
    pub(super) fn apply(&mut self, change: &Change) {
        self.know(change.node, change.kind);
        for node in change.nodes() {
            self.displace(node);
        }
        let Some((directory, name)) = &change.to else { return };
        if let Some(there) = self.nodes.get(directory).and_then(|node| node.children.get(name)) {
            self.displace(*there);
        }
        if let Some(directory) = self.nodes.get_mut(directory) {
            directory.children.insert(name.clone(), change.node);
        }
        if let Some(node) = self.nodes.get_mut(&change.node) {
            node.place.clone_from(&change.to);
        }
    }

    /// Makes a node known that has no place yet, so that its own entries can be kept.
    pub(super) fn know(&mut self, node: NodeId, kind: EntryKind) {
        self.next = self.next.max(node.0 + 1);
        let new = || Node { kind, place: None, children: BTreeMap::new() };
        self.nodes.entry(node).or_insert_with(new);
    }

    /// Forgets a node that has no place and will get none.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.displace(node);
        self.nodes.remove(&node);
    }

    fn displace(&mut self, node: NodeId) {
        let place = self.nodes.get_mut(&node).and_then(|node| node.place.take());
        if let Some((directory, name)) = place
            && let Some(directory) = self.nodes.get_mut(&directory)
        {
            directory.children.remove(&name);
        }
    }
}
