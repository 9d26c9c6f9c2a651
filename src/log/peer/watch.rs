//! Waiting for a partition to get further, for tasks: what fetches and queues do at the end.

use std::sync::Arc;
use std::task::Waker;

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
