//! All that was done to a storage, and what a power cut or a kill at any moment of it would have left.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::EntryKind;
use super::super::tree::{NodeId, Tree};
use super::FaultyStorage;
use super::image::{
    CrashImage, Random, TAILS, Tail, file_after, fingerprint_of, length_steps, piece_count,
};
use super::medium::{FileState, Medium, Op};
use super::sample::sample;

/// An operation as recorded.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) path: Arc<Path>,
    pub(super) op: Op,
}

impl Recorded {
    fn describe(&self) -> String {
        let path = self.path.display();
        match &self.op {
            Op::Names(change) => match (&change.from, &change.to) {
                (None, _) => format!("create {path} ({:?})", change.kind),
                (Some(_), Some((_, name))) => format!("rename {path} to {}", name.display()),
                (Some(_), None) => format!("remove {path} ({:?})", change.kind),
            },
            Op::Write { position, data, .. } => {
                format!("write {path}: {} bytes at {position}", data.len())
            }
            Op::SetLen { len, .. } => format!("set the length of {path} to {len}"),
            Op::SyncData { lost: false, .. } => format!("sync {path}"),
            Op::SyncData { lost: true, .. } => format!("sync {path}, which fails"),
            Op::SyncDir { .. } => format!("sync the directory {path}"),
            Op::Rot { bit, .. } => format!("bit {bit} of {path} turns over"),
        }
    }
}

/// The operations recorded by a [`FaultyStorage`], and its state after each.
///
/// A *crash point* is a number of operations: the power went after that many. 0 is the start of the record,
/// [`len`](Self::len) the end of it.
#[derive(Debug, Clone)]
pub struct History {
    log: Arc<[Recorded]>,
    /// One more than operations.
    states: Arc<[Medium]>,
}

/// Trying everything was more than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{combinations} or more combinations of what survives, over the bound of {bound}")]
#[non_exhaustive]
pub struct TooManyImages {
    /// How many there are; counted only until it is clear that they are too many.
    pub combinations: u64,
    /// How many were allowed.
    pub bound: u64,
}

impl History {
    pub(super) fn new(start: &Medium, log: &[Recorded]) -> Self {
        let mut state = start.clone();
        let mut states = vec![state.clone()];
        for recorded in log {
            state.apply(&recorded.op);
            states.push(state.clone());
        }
        Self { log: log.into(), states: states.into() }
    }

    /// How many operations were recorded: the last crash point.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether nothing was recorded. There still is one crash point.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// The operations in words, for the message of a test that failed.
    pub fn describe(&self) -> Vec<String> {
        self.log.iter().map(Recorded::describe).collect()
    }

    /// The storage after this many operations (at most [`len`](Self::len)).
    fn state(&self, point: usize) -> (usize, &Medium) {
        let point = point.min(self.log.len());
        (point, &self.states[point])
    }

    /// A power cut at some crash point, leaving something: all by the seed.
    pub fn sample(&self, seed: u64) -> CrashImage {
        let mut random = Random::new(seed);
        let point = random.below(self.states.len());
        sample(&self.states[point], point, &mut random)
    }

    /// A power cut at this crash point (at most [`len`](Self::len)), leaving what the seed says.
    pub fn sample_at(&self, point: usize, seed: u64) -> CrashImage {
        let (point, state) = self.state(point);
        sample(state, point, &mut Random::new(seed))
    }

    /// A kill of the process at this crash point (at most [`len`](Self::len)): everything written is there, locks are
    /// free, but nothing is more durable than it was: the storage can still lose it in a power cut.
    pub fn killed_at(&self, point: usize) -> FaultyStorage {
        FaultyStorage::starting_with(self.state(point).1.clone())
    }

    /// Every image of a power cut at every crash point, each content once: every subset of the pending changes of names
    /// that is possible, every length a file may have, every subset of the 512-byte pieces of unsynced writes,
    /// and zeros, garbage or stale bytes where nothing arrived.
    ///
    /// # Errors
    /// When more than `bound` combinations would have to be tried, for one file or in all: their number doubles with
    /// every piece. The work and the memory (some dozen bytes each) grow with it; a million takes some seconds.
    pub fn every_image(&self, bound: u64) -> Result<CrashImages, TooManyImages> {
        let mut files = BTreeMap::new();
        let mut combinations = 0u64;
        for state in self.states.iter() {
            for tree in trees_after(state, bound)? {
                let mut product = 1u64;
                for (node, file) in files_of(&tree, state) {
                    product = product.saturating_mul(file_choices(&mut files, node, file, bound)?);
                }
                combinations = combinations.saturating_add(product);
                if combinations > bound {
                    return Err(TooManyImages { combinations, bound });
                }
            }
        }
        Ok(CrashImages {
            history: self.clone(),
            choices: files,
            seen: BTreeSet::new(),
            next_point: 0,
            trees: Vec::new(),
            current: None,
        })
    }
}

/// One of the ways in which a file may come out of a power cut.
#[derive(Debug, Clone, Copy)]
struct FileChoice {
    reached: usize,
    arrived: u64,
    tail: Tail,
    fingerprint: u128,
}

impl FileChoice {
    fn content(&self, node: NodeId, file: &FileState) -> super::super::content::Content {
        file_after(node, file, self.reached, |piece| self.arrived >> piece & 1 == 1, self.tail)
    }
}

/// States of files are shared between crash points; one is known by where it lies in memory, as long as the history
/// lives.
type Choices = BTreeMap<*const FileState, Arc<[FileChoice]>>;

fn files_of<'a>(
    tree: &Tree,
    state: &'a Medium,
) -> impl Iterator<Item = (NodeId, &'a Arc<FileState>)> {
    tree.files().into_iter().filter_map(|node| Some((node, state.files.get(&node)?)))
}

/// How many different contents a file may have; remembers them.
fn file_choices(
    known: &mut Choices,
    node: NodeId,
    file: &Arc<FileState>,
    bound: u64,
) -> Result<u64, TooManyImages> {
    if let Some(choices) = known.get(&Arc::as_ptr(file)) {
        return Ok(choices.len() as u64);
    }
    let (steps, pieces) = (length_steps(file), piece_count(file));
    let subsets = 1u64.checked_shl(pieces as u32).unwrap_or(u64::MAX);
    let combinations = subsets.saturating_mul((steps.len() * TAILS.len()) as u64);
    if combinations > bound.saturating_mul(TAILS.len() as u64) || pieces >= 64 {
        return Err(TooManyImages { combinations, bound });
    }
    let mut seen = BTreeSet::new();
    let mut choices = Vec::new();
    for reached in steps {
        for tail in TAILS {
            for arrived in 0..subsets {
                let mut choice = FileChoice { reached, arrived, tail, fingerprint: 0 };
                choice.fingerprint = choice.content(node, file).fingerprint();
                if seen.insert(choice.fingerprint) {
                    choices.push(choice);
                }
            }
        }
    }
    let count = choices.len() as u64;
    known.insert(Arc::as_ptr(file), choices.into());
    Ok(count)
}

/// Every different tree of names that a power cut may leave.
fn trees_after(state: &Medium, bound: u64) -> Result<Vec<Arc<Tree>>, TooManyImages> {
    let combinations = 1u64.checked_shl(state.pending.len() as u32).unwrap_or(u64::MAX);
    if combinations > bound {
        return Err(TooManyImages { combinations, bound });
    }
    let mut seen = HashSet::new();
    let mut trees = Vec::new();
    for subset in 0..combinations {
        if let Some(tree) = state.names_after(|index| subset >> index & 1 == 1, true)
            && seen.insert(tree.walk())
        {
            trees.push(tree);
        }
    }
    Ok(trees)
}

/// Every image of a history, from [`History::every_image`], in the order of the crash points; a content that several
/// crash points share comes at the first.
#[derive(Debug)]
pub struct CrashImages {
    history: History,
    choices: Choices,
    seen: BTreeSet<u128>,
    /// The crash point after the current one.
    next_point: usize,
    /// Trees of the current crash point that are not tried yet.
    trees: Vec<Arc<Tree>>,
    current: Option<Combination>,
}

/// A tree, and for each file in it the number of the choice that comes next.
#[derive(Debug)]
struct Combination {
    point: usize,
    tree: Arc<Tree>,
    entries: Vec<(PathBuf, NodeId, EntryKind)>,
    files: BTreeMap<NodeId, (Arc<[FileChoice]>, usize)>,
}

impl Combination {
    fn choice(&self, node: NodeId) -> Option<&FileChoice> {
        self.files.get(&node).and_then(|(choices, index)| choices.get(*index))
    }

    fn fingerprint(&self) -> u128 {
        fingerprint_of(&self.entries, |node| {
            self.choice(node).map_or(0, |choice| choice.fingerprint)
        })
    }

    fn image(&self, state: &Medium) -> CrashImage {
        CrashImage::new(self.point, self.tree.clone(), state, |node, file| {
            match self.choice(node) {
                Some(choice) => choice.content(node, file),
                None => file.durable.clone(),
            }
        })
    }

    /// Goes to the next combination; false after the last.
    fn advance(&mut self) -> bool {
        for (choices, index) in self.files.values_mut() {
            *index += 1;
            if *index < choices.len() {
                return true;
            }
            *index = 0;
        }
        false
    }
}

impl CrashImages {
    fn next_tree(&mut self) -> Option<Combination> {
        while self.trees.is_empty() {
            let state = self.history.states.get(self.next_point)?;
            self.next_point += 1;
            // The bound was checked when the iterator was made.
            self.trees = trees_after(state, u64::MAX).unwrap_or_default();
        }
        let (point, tree) = (self.next_point - 1, self.trees.pop()?);
        let files = files_of(&tree, self.history.states.get(point)?);
        let choices =
            |file: &Arc<FileState>| Some((self.choices.get(&Arc::as_ptr(file))?.clone(), 0));
        let files = files.filter_map(|(node, file)| Some((node, choices(file)?))).collect();
        Some(Combination { point, entries: tree.walk(), tree, files })
    }
}

impl Iterator for CrashImages {
    type Item = CrashImage;

    fn next(&mut self) -> Option<CrashImage> {
        loop {
            let mut combination = match self.current.take() {
                Some(combination) => combination,
                None => self.next_tree()?,
            };
            let new = self.seen.insert(combination.fingerprint());
            let state = self.history.states.get(combination.point)?;
            let image = new.then(|| combination.image(state));
            self.current = combination.advance().then_some(combination);
            if image.is_some() {
                return image;
            }
        }
    }
}
