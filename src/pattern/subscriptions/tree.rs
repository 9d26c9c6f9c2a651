//! A compact radix tree (PATRICIA) of topics, each with the peers that hold it.
//!
//! One subject meets every topic that is its prefix on one way down from the root.
//!
//! Nodes live in a slab and refer to each other by number, so every walk is a loop and dropping
//! the tree does not recurse. A node does not store the bytes of its edge: it shares one whole
//! topic from its own subtree, its key, and says which part of that the edge is. Splitting and
//! merging edges therefore copies no bytes, however long the topics are, and a topic's bytes are
//! kept exactly as long as somebody holds that topic.
//!
//! Invariants (the root, which is the empty topic, is exempt from 2 to 4):
//! 1. children are sorted by the first byte of their edge and know their parent;
//! 2. an edge has at least one byte;
//! 3. the key of a node with holders is that node's own topic;
//! 4. a node without holders has two children at least and shares the key of one of them.
//!
//! From 3 and 4 follows that the nodes sharing one key form a chain upward from its topic's node.

use std::iter;
use std::sync::Arc;

/// Number of a node in the slab. The number of a node with holders never changes.
pub(super) type NodeIndex = usize;

/// The root, the node of the empty topic.
const ROOT: NodeIndex = 0;

/// A peer's hold on one topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    /// The peer's slot.
    pub(super) slot: usize,
    /// How often the peer has subscribed, at least once.
    pub(super) count: u32,
}

/// A node: a topic that is held, a fork between topics, or both.
#[derive(Debug, Default)]
struct Node {
    /// A topic in this subtree, beginning with this node's own.
    key: Arc<[u8]>,
    /// Length of the parent's topic: where the edge begins in `key`.
    start: usize,
    /// Length of this node's topic: where the edge ends in `key`.
    end: usize,
    /// The node above; the root is its own.
    parent: NodeIndex,
    /// The nodes below with the first bytes of their edges, sorted by that byte.
    children: Vec<(u8, NodeIndex)>,
    /// Who holds this node's topic, sorted by slot.
    holders: Vec<Holder>,
}

impl Node {
    /// The bytes between the parent's topic and this one.
    fn edge(&self) -> &[u8] {
        &self.key[self.start..self.end]
    }

    /// The child whose edge begins with `byte`.
    fn child(&self, byte: u8) -> Option<NodeIndex> {
        let position = self.children.binary_search_by_key(&byte, |(first, _)| *first).ok()?;
        Some(self.children[position].1)
    }

    /// Puts `child` where the child with the same first byte is, or would be.
    fn set_child(&mut self, byte: u8, child: NodeIndex) {
        match self.children.binary_search_by_key(&byte, |(first, _)| *first) {
            Ok(position) => self.children[position].1 = child,
            Err(position) => self.children.insert(position, (byte, child)),
        }
    }
}

/// The tree. Its slab grows with the largest number of nodes there ever were.
#[derive(Debug)]
pub(super) struct Tree {
    /// All nodes, free ones included; the root is always there.
    nodes: Vec<Node>,
    /// Numbers of the free nodes, which own nothing.
    free: Vec<NodeIndex>,
}

impl Tree {
    /// A tree without topics.
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new() }
    }

    /// The holders of each node on the way down that is a prefix of `subject`, the shortest first;
    /// an empty slice for a fork that nobody holds.
    pub(super) fn prefixes<'a>(&'a self, subject: &'a [u8]) -> impl Iterator<Item = &'a [Holder]> {
        self.walk(subject).map(|index| self.holders(index))
    }

    /// The node that stands for exactly this topic, held or not.
    pub(super) fn find(&self, topic: &[u8]) -> Option<NodeIndex> {
        let lowest = self.walk(topic).last()?;
        (self.nodes[lowest].end == topic.len()).then_some(lowest)
    }

    /// The topic of a node.
    pub(super) fn topic(&self, index: NodeIndex) -> &[u8] {
        let node = &self.nodes[index];
        &node.key[..node.end]
    }

    /// Who holds a node's topic, sorted by slot.
    pub(super) fn holders(&self, index: NodeIndex) -> &[Holder] {
        &self.nodes[index].holders
    }

    /// One peer's hold on a node's topic.
    pub(super) fn holder_mut(&mut self, index: NodeIndex, slot: usize) -> Option<&mut Holder> {
        let holders = &mut self.nodes[index].holders;
        let position = holders.binary_search_by_key(&slot, |holder| holder.slot).ok()?;
        holders.get_mut(position)
    }

    /// Makes the node of a topic ready to be held. A call of [`add_holder`](Self::add_holder) for
    /// it must follow at once: until then invariant 4 need not hold.
    pub(super) fn insert(&mut self, topic: &[u8]) -> NodeIndex {
        let lowest = self.walk(topic).last().unwrap_or(ROOT);
        let rest = &topic[self.nodes[lowest].end..];
        let Some(&first) = rest.first() else {
            return self.own_key(lowest, topic);
        };
        let Some(child) = self.nodes[lowest].child(first) else {
            return self.add_leaf(lowest, first, topic);
        };
        let common = iter::zip(self.nodes[child].edge(), rest).take_while(|(a, b)| a == b).count();
        let fork = self.split(child, common);
        match rest.get(common) {
            None => self.own_key(fork, topic),
            Some(&next) => self.add_leaf(fork, next, topic),
        }
    }

    /// Adds a holder, which must not be there yet, with a count of one.
    pub(super) fn add_holder(&mut self, index: NodeIndex, slot: usize) {
        let holders = &mut self.nodes[index].holders;
        let position = holders.partition_point(|holder| holder.slot < slot);
        holders.insert(position, Holder { slot, count: 1 });
    }

    /// Removes a holder whatever its count. `true` if that was the last one; then the node goes,
    /// unless it is a fork, and `index` means nothing any more.
    pub(super) fn remove_holder(&mut self, index: NodeIndex, slot: usize) -> bool {
        let holders = &mut self.nodes[index].holders;
        let Ok(position) = holders.binary_search_by_key(&slot, |holder| holder.slot) else {
            return false;
        };
        holders.remove(position);
        let last = holders.is_empty();
        if last {
            self.prune(index);
        }
        last
    }

    /// The nodes whose topics are prefixes of `subject`, from the root down.
    fn walk(&self, subject: &[u8]) -> impl Iterator<Item = NodeIndex> {
        iter::successors(Some(ROOT), move |index| {
            let node = &self.nodes[*index];
            let rest = subject.get(node.end..)?;
            let child = node.child(*rest.first()?)?;
            rest.starts_with(self.nodes[child].edge()).then_some(child)
        })
    }

    /// Stores a node in the slab.
    fn store(&mut self, node: Node) -> NodeIndex {
        match self.free.pop() {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Empties a node that nothing refers to any more and returns what it was.
    fn release(&mut self, index: NodeIndex) -> Node {
        self.free.push(index);
        std::mem::take(&mut self.nodes[index])
    }

    /// Adds a node for `topic` under `parent`, where no edge begins with `first` yet.
    fn add_leaf(&mut self, parent: NodeIndex, first: u8, topic: &[u8]) -> NodeIndex {
        let start = self.nodes[parent].end;
        let leaf = Node { key: topic.into(), start, end: topic.len(), parent, ..Node::default() };
        let leaf = self.store(leaf);
        self.nodes[parent].set_child(first, leaf);
        leaf
    }

    /// Puts a new node on the edge above `lower`, `length` bytes below its parent. It shares the
    /// key of `lower`; `length` is less than that of the edge and not 0.
    fn split(&mut self, lower: NodeIndex, length: usize) -> NodeIndex {
        let Node { ref key, start, parent, .. } = self.nodes[lower];
        let end = start + length;
        let (above, below) = (key[start], key[end]);
        let (key, children) = (Arc::clone(key), vec![(below, lower)]);
        let fork = self.store(Node { key, start, end, parent, children, holders: Vec::new() });
        self.nodes[parent].set_child(above, fork);
        self.nodes[lower].start = end;
        self.nodes[lower].parent = fork;
        fork
    }

    /// Gives a node that is about to be held its own topic as key, unless it has it already.
    fn own_key(&mut self, index: NodeIndex, topic: &[u8]) -> NodeIndex {
        let node = &self.nodes[index];
        if node.holders.is_empty() && index != ROOT {
            let old = Arc::clone(&node.key);
            self.change_key(index, &old, &topic.into());
        }
        index
    }

    /// Replaces the key `old` by `new`, a topic of the same subtree, in the chain of forks that
    /// share it, from `index` up.
    fn change_key(&mut self, mut index: NodeIndex, old: &Arc<[u8]>, new: &Arc<[u8]>) {
        while index != ROOT {
            let node = &mut self.nodes[index];
            if !node.holders.is_empty() || !Arc::ptr_eq(&node.key, old) {
                return;
            }
            node.key = Arc::clone(new);
            index = node.parent;
        }
    }

    /// Restores the invariants at a node that has just lost its last holder.
    fn prune(&mut self, index: NodeIndex) {
        if index == ROOT {
            return;
        }
        match self.nodes[index].children.as_slice() {
            [] => self.remove_leaf(index),
            [(_, only)] => self.merge(index, *only),
            [(_, heir), ..] => {
                let old = Arc::clone(&self.nodes[index].key);
                let new = Arc::clone(&self.nodes[*heir].key);
                self.change_key(index, &old, &new);
            }
        }
    }

    /// Removes a node without children and, if that leaves a fork with one branch, the fork.
    fn remove_leaf(&mut self, index: NodeIndex) {
        let Node { key: old, parent, .. } = self.release(index);
        let node = &mut self.nodes[parent];
        node.children.retain(|(_, child)| *child != index);
        if parent == ROOT || !node.holders.is_empty() {
            return;
        }
        let Some(&(_, heir)) = node.children.first() else {
            return;
        };
        let one_branch = node.children.len() == 1;
        let new = Arc::clone(&self.nodes[heir].key);
        self.change_key(parent, &old, &new);
        if one_branch {
            self.merge(parent, heir);
        }
    }

    /// Takes a node without holders out of the way between its parent and its only child.
    fn merge(&mut self, index: NodeIndex, only: NodeIndex) {
        let Node { key: old, start, parent, .. } = self.release(index);
        let child = &mut self.nodes[only];
        child.start = start;
        child.parent = parent;
        let (first, new) = (child.key[start], Arc::clone(&child.key));
        self.nodes[parent].set_child(first, only);
        self.change_key(parent, &old, &new);
    }
}

#[cfg(test)]
impl Tree {
    /// Number of nodes in use, the root included.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Fails if one of the numbered invariants does not hold.
    pub(super) fn assert_invariants(&self) {
        let mut seen = 0;
        let mut open = vec![ROOT];
        while let Some(index) = open.pop() {
            seen += 1;
            let node = &self.nodes[index];
            assert!(node.children.is_sorted_by(|(a, _), (b, _)| a < b), "1: sorted, unique");
            for &(first, child) in &node.children {
                let below = &self.nodes[child];
                assert_eq!((below.parent, below.start), (index, node.end), "1: links");
                assert_eq!(below.edge().first(), Some(&first), "2: edges are not empty");
                assert!(below.key.starts_with(self.topic(index)));
                open.push(child);
            }
            if index == ROOT {
                assert_eq!((node.end, node.key.len()), (0, 0));
            } else if node.holders.is_empty() {
                let shares =
                    |&(_, child): &(u8, NodeIndex)| Arc::ptr_eq(&node.key, &self.nodes[child].key);
                assert!(node.children.len() >= 2 && node.children.iter().any(shares), "4");
            } else {
                assert_eq!(node.key.len(), node.end, "3: own key");
            }
        }
        assert_eq!(seen, self.node_count(), "every node in use can be reached");
    }
}
