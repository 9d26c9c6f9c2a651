//! Which call goes wrong, and how.

use std::collections::BTreeMap;
use std::io;

use super::super::Operation;

/// The two ways in which a medium refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Errno {
    /// `EIO`: the device failed.
    Io,
    /// `ENOSPC`: the medium is full ([`io::ErrorKind::StorageFull`]).
    NoSpace,
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::Io => rustix::io::Errno::IO.into(),
            Errno::NoSpace => rustix::io::Errno::NOSPC.into(),
        }
    }
}

/// What goes wrong. An action that makes no sense for a call leaves the call alone, but counts as met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultAction {
    /// The call fails and does nothing. A failed `sync_data` also marks the unsynced bytes clean, as Linux does: reads
    /// go on to show them, but no later sync makes them durable. A length that ran ahead with them stays.
    Fail(Errno),
    /// A write gets half of its bytes written, and the attempt to write the others fails. Any other call fails at once.
    ShortWrite(Errno),
    /// The attempt to read or write ends with `EINTR`. Every other call is repeated by the storage itself, unseen.
    Interrupt,
    /// A read returns one wrong bit: this one, modulo the bits read. The medium itself is sound.
    FlipBit {
        /// Counted from the first byte read, lowest bit first.
        bit: u64,
    },
    /// A write says `Ok`, but its bytes landed this many bytes further on (or before, not below 0).
    Misdirect {
        /// Bytes from where it should have gone.
        by: i64,
    },
}

/// A plan for one call, or for all from one on: `Fault::at(3, ...).of(Operation::Write)` is the fourth write.
#[derive(Debug, Clone)]
pub struct Fault {
    nth: u64,
    operation: Option<Operation>,
    path_part: Option<String>,
    forever: bool,
    action: FaultAction,
    /// How many calls it could have been, so far.
    met: u64,
}

impl Fault {
    /// Hits the call with this number, counting from 0 from the moment the fault is given to the storage.
    pub fn at(nth: u64, action: FaultAction) -> Self {
        Self { nth, operation: None, path_part: None, forever: false, action, met: 0 }
    }

    /// Counts and hits only calls of this kind. Every attempt to read or write is one call.
    pub fn of(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Counts and hits only calls with this text in their path.
    pub fn on(mut self, path_part: impl Into<String>) -> Self {
        self.path_part = Some(path_part.into());
        self
    }

    /// Hits all later calls as well.
    pub fn from_then_on(mut self) -> Self {
        self.forever = true;
        self
    }

    /// Counts a call; what to do to it.
    fn meet(&mut self, operation: Operation, path: &str) -> Option<FaultAction> {
        let other_operation = self.operation.is_some_and(|wanted| wanted != operation);
        let other_path = self.path_part.as_ref().is_some_and(|part| !path.contains(part));
        if other_operation || other_path {
            return None;
        }
        let number = self.met;
        self.met += 1;
        (number == self.nth || (self.forever && number > self.nth)).then_some(self.action)
    }
}

/// The faults of one storage, and the count of its calls.
#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Vec<Fault>,
    calls: BTreeMap<Operation, u64>,
    hits: u64,
}

impl Plan {
    pub(super) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// Counts a call; what to do to it. Of several faults that hit one call the first acts.
    pub(super) fn meet(
        &mut self,
        operation: Operation,
        path: &std::path::Path,
    ) -> Option<FaultAction> {
        *self.calls.entry(operation).or_default() += 1;
        if self.faults.is_empty() {
            return None;
        }
        let path = path.to_string_lossy();
        let mut action = None;
        for fault in &mut self.faults {
            action = action.or(fault.meet(operation, &path));
        }
        self.hits += u64::from(action.is_some());
        action
    }

    pub(super) fn calls(&self, operation: Option<Operation>) -> u64 {
        match operation {
            Some(operation) => self.calls.get(&operation).copied().unwrap_or_default(),
            None => self.calls.values().sum(),
        }
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits
    }
}
