//! Waiting for a partition to get further, for tasks: what fetches and queues do at the end.

use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::log::error::LogError;
use crate::log::options::Level;
use crate::log::partition::Partition;

/// A task's registration with a partition. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::log) struct Watch {
    partition: Arc<Partition>,
    level: Level,
    id: u64,
}

impl Watch {
    /// A registration for records of a level.
    pub(in crate::log) fn new(partition: Arc<Partition>, level: Level) -> Self {
        let id = partition.readers(level).id();
        Self { partition, level, id }
    }

    /// The partition.
    pub(in crate::log) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// The offset after the last record of the level.
    pub(in crate::log) fn end(&self) -> i64 {
        match self.level {
            Level::Durable => self.partition.durable_end(),
            Level::Written | Level::Buffered => self.partition.written_end(),
        }
    }

    /// Registers for the next progress, and sees to it that there is some if anything has gathered. The task must look
    /// again afterwards.
    pub(in crate::log) fn register(&self, waker: &Waker) {
        self.partition.readers(self.level).register(self.id, waker);
        self.partition.urge(self.level);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.partition.readers(self.level).forget(self.id);
    }
}

/// Waiting, for tasks, until what has gathered in a partition is written: it is there for whoever asks for it.
#[derive(Debug)]
pub(in crate::log) struct Gathered {
    partition: Arc<Partition>,
    /// The offset after the last one that had gathered.
    end: i64,
    id: u64,
}

impl Gathered {
    /// What has gathered by now; of a log that is open for reading only, what is there by now.
    pub(in crate::log) fn new(partition: Arc<Partition>) -> Result<Self, LogError> {
        let end = match partition.home.writable {
            true => partition.appended_end(),
            false => partition.refresh().map(|()| i64::MIN)?,
        };
        let id = partition.writes.id();
        Ok(Self { partition, end, id })
    }

    /// Done when all of it is written, or never will be.
    pub(in crate::log) fn poll(&self, waker: &Waker) -> Poll<()> {
        for registered in [false, true] {
            if self.is_over() {
                return Poll::Ready(());
            }
            if !registered {
                self.partition.writes.register(self.id, waker);
                self.partition.write_without_waiting();
            }
        }
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        // First the end: what failed to be written has taken back its offsets.
        let end = self.end.min(self.partition.appended_end());
        self.partition.written_end() >= end || self.partition.shared.poison.get().is_some()
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.partition.writes.forget(self.id);
    }
}
