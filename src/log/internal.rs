//! Topics of the log's own: committed offsets, intents of transactions, and what else is kept in topics. They are topics
//! like others, but users neither list nor make, change or delete them.

use std::sync::Arc;

use super::LogInner;
use super::error::LogError;
use super::options::{BATCH_BYTES_MAX, Level, TopicOptions};
use super::partition::Partition;
use super::topic::TopicInner;
use crate::sync::lock;

/// What the names of internal topics begin with.
const PREFIX: &str = "__";
/// Committed offsets and generations of groups.
pub(super) const OFFSETS: &str = "__offsets";
/// Intents of transactions.
pub(super) const TRANSACTIONS: &str = "__transactions";

/// Whether a topic of this name is the log's own.
pub(super) fn is_internal(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Refuses names that users may not use.
pub(super) fn check_users_name(name: &str) -> Result<(), LogError> {
    if is_internal(name) {
        let reason = format!("{name:?} begins with {PREFIX:?}, as only the log's own do");
        return Err(LogError::Invalid { what: "topic name", reason });
    }
    Ok(())
}

/// The options of a topic in which the last record of each key counts: nothing else is kept of it, and nothing goes by age.
pub(super) fn keyed_options() -> TopicOptions {
    TopicOptions::default()
        .level(Level::Durable)
        .segment_bytes(16 << 20)
        .record_bytes_max(BATCH_BYTES_MAX)
        .compact(true)
}

/// Largest intent, in bytes; below what a batch may have, with room for its header.
const INTENT_BYTES_MAX: u32 = BATCH_BYTES_MAX - 1024;

/// The options of the topic of intents. Its front is cut when a segment is full.
pub(super) fn intent_options() -> TopicOptions {
    TopicOptions::default()
        .level(Level::Durable)
        .segment_bytes(16 << 20)
        .record_bytes_max(INTENT_BYTES_MAX)
}

impl LogInner {
    /// Creates a topic as a user may.
    pub(super) fn create_users_topic(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<Arc<TopicInner>, LogError> {
        check_users_name(name)?;
        let turn = self.take_turn()?;
        if self.find_topic(name).is_some() {
            return Err(LogError::TopicExists { topic: name.to_owned() });
        }
        // Of an earlier topic of that name; a crash may have kept them.
        self.forget_topic_offsets(name)?;
        let created = self.create_topic(name, options)?;
        drop(turn);
        self.nudge_groups();
        Ok(created)
    }

    /// Changes a topic as a user may.
    pub(super) fn alter_users_topic(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<Arc<TopicInner>, LogError> {
        check_users_name(name)?;
        // No transaction may have to be completed under options that do not allow what it contains.
        let turn = self.settle_transactions()?;
        let altered = self.alter_topic(name, options)?;
        drop(turn);
        self.nudge_groups();
        // Queues wait for records of the partitions that they know; there may be more now.
        altered.partitions.iter().for_each(|partition| partition.wake_readers());
        Ok(altered)
    }

    /// Deletes a topic as a user may.
    pub(super) fn delete_users_topic(&self, name: &str) -> Result<(), LogError> {
        check_users_name(name)?;
        let turn = self.take_turn()?;
        let indexes = || {
            let topic = self.find_topic(name);
            let mut partitions = topic.iter().flat_map(|topic| &topic.partitions);
            partitions.try_fold(false, |some, partition| {
                partition.drop_indexes(i64::MAX).map(|more| some || more)
            })
        };
        let deleted = self.making_room(indexes, || self.delete_topic(name));
        if let Err(LogError::UnknownTopic { .. }) = deleted {
            return deleted;
        }
        // It may have failed to give back the space only.
        let done = match self.find_topic(name) {
            None => deleted.and(self.forget_topic_offsets(name)),
            Some(_) => deleted,
        };
        drop(turn);
        self.nudge_groups();
        done
    }

    /// A topic, the log's own among them.
    pub(super) fn find_topic(&self, name: &str) -> Option<Arc<TopicInner>> {
        lock(&self.topics).get(name).cloned()
    }

    /// All topics, the log's own among them.
    pub(super) fn all_topics(&self) -> Vec<Arc<TopicInner>> {
        lock(&self.topics).values().cloned().collect()
    }

    /// An internal topic, which is created if there is none.
    pub(super) fn internal_topic(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<Arc<TopicInner>, LogError> {
        debug_assert!(is_internal(name));
        if let Some(topic) = self.find_topic(name) {
            return Ok(topic);
        }
        match self.create_topic(name, options) {
            // Somebody else was faster.
            Err(LogError::TopicExists { .. }) => self
                .find_topic(name)
                .ok_or_else(|| LogError::UnknownTopic { topic: name.to_owned() }),
            created => created,
        }
    }

    /// The only partition of an internal topic that has one.
    pub(super) fn internal_partition(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<Arc<Partition>, LogError> {
        Ok(self.internal_topic(name, options)?.partition(0)?.clone())
    }
}
