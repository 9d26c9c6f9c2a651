//! Waiting for a partition to get further, for tasks: what fetches and queues do at the end.

use std::sync::Arc;
use std::task::Waker;

use crate::log::options::Level;
use crate::log::partition::{Partition, Waiters};

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
        let id = waiters(&partition, level).id();
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
            _ => self.partition.written_end(),
        }
    }

    /// Registers for the next progress, and sees to it that there is some if anything has gathered. The task must look
    /// again afterwards.
    pub(in crate::log) fn register(&self, waker: &Waker) {
        waiters(&self.partition, self.level).register(self.id, waker);
        self.partition.write_if_free();
        if self.level == Level::Durable
            && self.partition.written_end() > self.partition.durable_end()
        {
            self.partition.shared.keeper.sync(&self.partition);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        waiters(&self.partition, self.level).forget(self.id);
    }
}

/// Those who wait for records of a level.
fn waiters(partition: &Partition, level: Level) -> &Waiters {
    if level == Level::Durable { &partition.durables } else { &partition.followers }
}
