//! Waiting for a group to change, for members in other processes.

use std::task::{Poll, Waker};

use super::handle::Group;

/// A task's registration with a group. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::log) struct GroupWatch {
    group: Group,
    id: u64,
}

impl GroupWatch {
    /// A registration that waits for nothing yet.
    pub(in crate::log) fn new(group: Group) -> Self {
        let id = group.cell.waiting.id();
        Self { group, id }
    }

    /// The group's version, once that is another one than this, or at once if the time is over.
    pub(in crate::log) fn poll_version(&self, not: u64, waker: &Waker, over: bool) -> Poll<u64> {
        let cell = &self.group.cell;
        cell.waiting.register(self.id, waker);
        match cell.version() {
            version if over || version != not => Poll::Ready(version),
            _ => Poll::Pending,
        }
    }
}

impl Drop for GroupWatch {
    fn drop(&mut self) {
        self.group.cell.waiting.forget(self.id);
    }
}
