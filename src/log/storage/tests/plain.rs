//! A file system as plainly as it can be written down: paths as text, contents as vectors.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::rc::Rc;

use proptest::prelude::*;

use super::super::{EntryKind, OpenMode};

/// How many files are open at a time.
pub(super) const SLOTS: usize = 3;

/// One call; files by the number of the slot they were opened in.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Open(usize, &'static str, OpenMode),
    CreateDir(&'static str),
    List(&'static str),
    Rename(&'static str, &'static str),
    RemoveFile(&'static str),
    RemoveDir(&'static str),
    SyncDir(&'static str),
    Metadata(&'static str),
    Read(usize, u64, usize),
    Write(usize, u64, Vec<Vec<u8>>),
    SetLen(usize, u64),
    SyncData(usize),
    Len(usize),
    Preallocate(usize, u64),
}

impl Step {
    pub(super) fn slot(&self) -> usize {
        match self {
            Self::Open(slot, ..)
            | Self::Read(slot, ..)
            | Self::Write(slot, ..)
            | Self::SetLen(slot, _)
            | Self::SyncData(slot)
            | Self::Len(slot)
            | Self::Preallocate(slot, _) => *slot,
            _ => 0,
        }
    }
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "a/x", "e", "e/a"])
}

pub(super) fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let mode = prop::sample::select(vec![
        OpenMode::Read,
        OpenMode::Write,
        OpenMode::Create,
        OpenMode::Create,
        OpenMode::CreateNew,
    ]);
    let position = || prop_oneof![0..20u64, 0..10_000u64];
    let part = (any::<u8>(), 0..3000usize).prop_map(|(byte, len)| vec![byte; len]);
    let slot = || 0..SLOTS;
    let step = prop_oneof![
        4 => (slot(), path(), mode).prop_map(|(slot, path, mode)| Step::Open(slot, path, mode)),
        3 => path().prop_map(Step::CreateDir),
        1 => path().prop_map(Step::List),
        4 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => path().prop_map(Step::RemoveFile),
        1 => path().prop_map(Step::RemoveDir),
        1 => path().prop_map(Step::SyncDir),
        2 => path().prop_map(Step::Metadata),
        3 => (slot(), position(), 0..6000usize).prop_map(|(s, at, len)| Step::Read(s, at, len)),
        4 => (slot(), position(), prop::collection::vec(part, 0..4))
            .prop_map(|(slot, at, parts)| Step::Write(slot, at, parts)),
        2 => (slot(), position()).prop_map(|(slot, len)| Step::SetLen(slot, len)),
        1 => slot().prop_map(Step::SyncData),
        1 => slot().prop_map(Step::Len),
        1 => (slot(), position()).prop_map(|(slot, len)| Step::Preallocate(slot, len)),
    ];
    prop::collection::vec(step, 1..max)
}

type Bytes = Rc<RefCell<Vec<u8>>>;

/// The model. A directory has no bytes.
pub(super) struct Plain {
    entries: BTreeMap<String, Option<Bytes>>,
    slots: [Option<(Bytes, bool)>; SLOTS],
}

fn told<T: std::fmt::Debug>(result: Result<T, ErrorKind>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(kind) => format!("{kind:?}"),
    }
}

/// Whether `path` lies somewhere below `directory`.
fn below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

impl Plain {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), slots: Default::default() }
    }

    /// The directories on the way to a path must be there and must be directories.
    fn check_parents(&self, path: &str) -> Result<(), ErrorKind> {
        for (end, _) in path.match_indices('/') {
            match self.entries.get(&path[..end]) {
                None => return Err(ErrorKind::NotFound),
                Some(Some(_)) => return Err(ErrorKind::NotADirectory),
                Some(None) => {}
            }
        }
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, ErrorKind> {
        self.check_parents(path)?;
        self.entries.get(path).cloned().ok_or(ErrorKind::NotFound)
    }

    fn has_children(&self, path: &str) -> bool {
        self.entries.keys().any(|other| below(other, path))
    }

    fn open(&mut self, slot: usize, path: &str, mode: OpenMode) -> Result<(), ErrorKind> {
        let bytes = match self.get(path) {
            Ok(_) if mode == OpenMode::CreateNew => return Err(ErrorKind::AlreadyExists),
            Ok(None) => return Err(ErrorKind::IsADirectory),
            Ok(Some(bytes)) => bytes,
            Err(ErrorKind::NotFound)
                if matches!(mode, OpenMode::Create | OpenMode::CreateNew)
                    && self.check_parents(path).is_ok() =>
            {
                let bytes = Bytes::default();
                self.entries.insert(path.to_owned(), Some(bytes.clone()));
                bytes
            }
            Err(kind) => return Err(kind),
        };
        self.slots[slot] = Some((bytes, mode.is_writable()));
        Ok(())
    }

    fn create_dir(&mut self, path: &str) -> Result<(), ErrorKind> {
        self.check_parents(path)?;
        if self.entries.contains_key(path) {
            return Err(ErrorKind::AlreadyExists);
        }
        self.entries.insert(path.to_owned(), None);
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<(String, EntryKind)>, ErrorKind> {
        if self.get(path)?.is_some() {
            return Err(ErrorKind::NotADirectory);
        }
        let mut listed = Vec::new();
        for (other, bytes) in self.entries.iter().filter(|(other, _)| below(other, path)) {
            let name = &other[path.len() + 1..];
            if !name.contains('/') {
                let kind = if bytes.is_some() { EntryKind::File } else { EntryKind::Directory };
                listed.push((name.to_owned(), kind));
            }
        }
        Ok(listed)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), ErrorKind> {
        self.check_parents(from)?;
        self.check_parents(to)?;
        let source = self.get(from)?;
        if below(to, from) {
            return Err(ErrorKind::InvalidInput);
        }
        if below(from, to) {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        match (source, self.entries.get(to)) {
            _ if from == to => return Ok(()),
            (None, Some(Some(_))) => return Err(ErrorKind::NotADirectory),
            (Some(_), Some(None)) => return Err(ErrorKind::IsADirectory),
            (None, Some(None)) if self.has_children(to) => {
                return Err(ErrorKind::DirectoryNotEmpty);
            }
            _ => {}
        }
        self.entries.remove(to);
        let moved = |path: &String| path == from || below(path, from);
        let paths: Vec<String> = self.entries.keys().filter(|path| moved(path)).cloned().collect();
        for path in paths {
            let entry = self.entries.remove(&path).unwrap();
            self.entries.insert(format!("{to}{}", &path[from.len()..]), entry);
        }
        Ok(())
    }

    fn remove_file(&mut self, path: &str) -> Result<(), ErrorKind> {
        self.get(path)?.ok_or(ErrorKind::IsADirectory)?;
        self.entries.remove(path);
        Ok(())
    }

    fn remove_dir(&mut self, path: &str) -> Result<(), ErrorKind> {
        match self.get(path)? {
            Some(_) => Err(ErrorKind::NotADirectory),
            None if self.has_children(path) => Err(ErrorKind::DirectoryNotEmpty),
            None => {
                self.entries.remove(path);
                Ok(())
            }
        }
    }

    pub(super) fn step(&mut self, step: &Step) -> String {
        match step {
            Step::Open(slot, path, mode) => told(self.open(*slot, path, *mode)),
            Step::CreateDir(path) => told(self.create_dir(path)),
            Step::List(path) => told(self.list(path)),
            Step::Rename(from, to) => told(self.rename(from, to)),
            Step::RemoveFile(path) => told(self.remove_file(path)),
            Step::RemoveDir(path) => told(self.remove_dir(path)),
            Step::SyncDir(path) => told(match self.get(path) {
                Ok(Some(_)) => Err(ErrorKind::NotADirectory),
                Ok(None) => Ok(()),
                Err(kind) => Err(kind),
            }),
            Step::Metadata(path) => told(self.get(path).map(|bytes| match bytes {
                Some(bytes) => (EntryKind::File, bytes.borrow().len()),
                None => (EntryKind::Directory, 0),
            })),
            _ => match self.slots[step.slot()].clone() {
                Some((bytes, writable)) => file_step(step, &mut bytes.borrow_mut(), writable),
                None => "not open".to_owned(),
            },
        }
    }
}

fn file_step(step: &Step, bytes: &mut Vec<u8>, writable: bool) -> String {
    match step {
        Step::Read(_, position, wanted) => {
            let start = (*position as usize).min(bytes.len());
            let end = (start + wanted).min(bytes.len());
            told(Ok(&bytes[start..end]))
        }
        Step::Write(_, position, parts) => {
            let data = parts.concat();
            if data.is_empty() {
                return told(Ok(()));
            }
            if !writable {
                return told::<()>(Err(ErrorKind::PermissionDenied));
            }
            let (start, end) = (*position as usize, *position as usize + data.len());
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(&data);
            told(Ok(()))
        }
        Step::SetLen(..) if !writable => told::<()>(Err(ErrorKind::PermissionDenied)),
        Step::SetLen(_, len) => {
            bytes.resize(*len as usize, 0);
            told(Ok(()))
        }
        Step::SyncData(_) => told(Ok(())),
        Step::Len(_) | Step::Preallocate(..) => told(Ok(bytes.len())),
        _ => unreachable!("a step without a file"),
    }
}
