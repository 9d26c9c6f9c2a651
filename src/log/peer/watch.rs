//! Waiting for a partition to get further, for tasks: what fetches and queues do at the end.

use std::sync::Arc;
use std::task::Waker;

use crate::log::options::Level;
use crate::log::partition::Partition;

/// A task's registration with a partition. It ends when this is dropped.
///
/// Who waits for durable records is woken by written ones too: perhaps nobody else wants them synced.
#[derive(Debug)]
pub(in crate::log) struct Watch {
    partition: Arc<Partition>,
    durable: bool,
    written_id: u64,
    durable_id: u64,
}

impl Watch {
    /// A registration for records of a level.
    pub(in crate::log) fn new(partition: Arc<Partition>, level: Level) -> Self {
        let (written_id, durable_id) = (partition.followers.id(), partition.durables.id());
        Self { partition, durable: level == Level::Durable, written_id, durable_id }
    }

    /// The partition.
    pub(in crate::log) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// The offset after the last record of the level.
    pub(in crate::log) fn end(&self) -> i64 {
        if self.durable { self.partition.durable_end() } else { self.partition.written_end() }
    }

    /// Registers for the next progress, and sees to it that there is some if anything has gathered. The task must look
    /// again afterwards.
    pub(in crate::log) fn register(&self, waker: &Waker) {
        let partition = &self.partition;
        partition.followers.register(self.written_id, waker);
        if self.durable {
            partition.durables.register(self.durable_id, waker);
        }
        partition.write_if_free();
        if self.durable && partition.written_end() > partition.durable_end() {
            partition.shared.keeper.sync(partition);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.partition.followers.forget(self.written_id);
        self.partition.durables.forget(self.durable_id);
    }
}
