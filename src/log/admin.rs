//! The topics of an open log: making, changing and deleting them, cutting their front, and closing all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::catalog::{Catalogue, Entry, State as TopicState};
use super::directory::{
    check_unused, make_partition, open_partition, open_topic, random_id, remove_aside, set_aside,
};
use super::disk;
use super::error::{LogError, Place};
use super::format::Id;
use super::format::checkpoint::{PartitionOffset, encode_offsets};
use super::format::names::{self, CLEAN_SHUTDOWN, RECOVERY_POINTS};
use super::options::TopicOptions;
use super::partition::Partition;
use super::topic::TopicInner;
use super::wakers::hold;
use super::{LogInner, State, offsets_of, starts};
use crate::sync::lock;

/// What a clean stop leaves, in the form that Kafka reads.
const CLEAN_SHUTDOWN_TEXT: &str = "{\"version\":0,\"brokerEpoch\":-1}";

/// Refuses what no topic can have.
pub(super) fn check_topic(name: &str, options: &TopicOptions) -> Result<(), LogError> {
    if !names::is_valid_topic(name) {
        let reason = format!("{name:?} is not 1 to 249 of [a-zA-Z0-9._-]");
        return Err(LogError::Invalid { what: "topic name", reason });
    }
    options.check()
}

impl LogInner {
    fn check_writable(&self) -> Result<(), LogError> {
        self.shared.check()
    }

    pub(super) fn create_topic(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<Arc<TopicInner>, LogError> {
        self.create_topic_with_id(name, random_id(), options)
    }

    /// As [`create_topic`](Self::create_topic), with the id that the topic has elsewhere.
    pub(super) fn create_topic_with_id(
        &self,
        name: &str,
        id: Id,
        options: TopicOptions,
    ) -> Result<Arc<TopicInner>, LogError> {
        self.check_writable()?;
        check_topic(name, &options)?;
        let mut state = hold(&self.state);
        if self.find_topic(name).is_some() {
            return Err(LogError::TopicExists { topic: name.to_owned() });
        }
        // What an earlier attempt left behind, or a deletion that failed. What cannot be removed of it is in nobody's way.
        let _ = self.free_name(&mut state, name)?;
        check_unused(&*self.shared.storage, &self.shared.directory, name)?;
        let entry = Entry { id, state: TopicState::Making, options };
        let mut catalogue = state.catalogue.clone();
        catalogue.topics.insert(name.to_owned(), entry.clone());
        self.save_catalogue(&mut state, catalogue.clone())?;
        for number in 0..entry.options.partitions {
            make_partition(&self.shared, name, entry.id, number)?;
        }
        self.shared.storage.sync_dir(&self.shared.directory)?;
        let entry = Entry { state: TopicState::Live, ..entry };
        let topic = open_topic(&self.shared, name, &entry, &state.log_starts, true)?;
        let options = topic.options.clone();
        catalogue.topics.insert(name.to_owned(), entry);
        self.save_catalogue(&mut state, catalogue)?;
        let topic = Arc::new(topic);
        lock(&self.topics).insert(name.to_owned(), topic.clone());
        self.shared.maintenance.wanted(&options);
        Ok(topic)
    }

    pub(super) fn alter_topic(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<Arc<TopicInner>, LogError> {
        self.check_writable()?;
        options.check()?;
        let mut state = hold(&self.state);
        let (Some(old), Some(entry)) = (self.find_topic(name), state.catalogue.topics.get(name))
        else {
            return Err(LogError::UnknownTopic { topic: name.to_owned() });
        };
        let mut entry = entry.clone();
        let before = entry.options.partitions;
        if options.partitions < before {
            let reason = format!("topic {name} has {before} already, and none can go");
            return Err(LogError::Invalid { what: "partitions", reason });
        }
        entry.options = options;
        let mut partitions = old.partitions.clone();
        // Partitions beyond the catalogued number are leftovers until the catalogue says otherwise.
        let aside = set_aside(&*self.shared.storage, &self.shared.directory, name, before)?;
        let _ = remove_aside(&*self.shared.storage, &self.shared.directory, &aside);
        for number in before..entry.options.partitions {
            make_partition(&self.shared, name, entry.id, number)?;
        }
        self.shared.storage.sync_dir(&self.shared.directory)?;
        for number in before..entry.options.partitions {
            let partition =
                open_partition(&self.shared, name, &entry, &old.options, number, 0, true)?;
            partitions.push(partition);
        }
        let mut catalogue = state.catalogue.clone();
        catalogue.topics.insert(name.to_owned(), entry.clone());
        self.save_catalogue(&mut state, catalogue)?;
        old.options.set(entry.options);
        let topic = TopicInner::new(name.to_owned(), entry.id, old.options.clone(), partitions);
        let topic = Arc::new(topic);
        lock(&self.topics).insert(name.to_owned(), topic.clone());
        self.shared.maintenance.wanted(&topic.options);
        Ok(topic)
    }

    /// Deletes a topic, or does what is left to do of that when it failed half-way.
    pub(super) fn delete_topic(&self, name: &str) -> Result<(), LogError> {
        self.check_writable()?;
        let mut state = hold(&self.state);
        let mut catalogue = state.catalogue.clone();
        let Some(entry) = catalogue.topics.get_mut(name) else {
            return Err(LogError::UnknownTopic { topic: name.to_owned() });
        };
        if let Some(topic) = self.find_topic(name) {
            entry.state = TopicState::Deleting;
            self.save_catalogue(&mut state, catalogue)?;
            // From now on it is deleted, whatever fails.
            lock(&self.topics).remove(name);
            topic.partitions.iter().for_each(|partition| partition.retire());
        }
        self.free_name(&mut state, name)?
    }

    /// Frees a name that the catalogue has, but for a topic that was not made, or not deleted, to the end: when this returns
    /// nothing is left of it, after a crash too, but what could not be removed of directories that are set aside: the inner
    /// error, if there was any.
    fn free_name(&self, state: &mut State, name: &str) -> Result<Result<(), LogError>, LogError> {
        let mut catalogue = state.catalogue.clone();
        if catalogue.topics.remove(name).is_none() {
            return Ok(Ok(()));
        }
        let aside = set_aside(&*self.shared.storage, &self.shared.directory, name, 0)?;
        // The space first: what follows may need some of it.
        let removed = remove_aside(&*self.shared.storage, &self.shared.directory, &aside);
        let mut log_starts = state.log_starts.clone();
        log_starts.retain(|(topic, _), _| topic != name);
        if log_starts.len() < state.log_starts.len() {
            self.save_log_starts(&log_starts)?;
            state.log_starts = log_starts;
        }
        self.forget_cleaned(name)?;
        // Last of all: as long as the catalogue has it, it is known what must go.
        self.save_catalogue(state, catalogue)?;
        Ok(removed)
    }

    /// Replaces the catalogue, on the medium and here. When that fails it is on the medium as it is here.
    fn save_catalogue(&self, state: &mut State, catalogue: Catalogue) -> Result<(), LogError> {
        let Err(error) = catalogue.save(&self.shared) else {
            state.catalogue = catalogue;
            return Ok(());
        };
        // It may be there. The next opening would delete a topic that is in use here, or miss directories.
        if error.is_uncertain() && state.catalogue.save(&self.shared).is_err() {
            let poison = self.shared.poison.get_or_init(|| error.poisoned()).clone();
            let topics = self.all_topics();
            let partitions = topics.iter().flat_map(|topic| &topic.partitions);
            partitions.for_each(|partition| drop(partition.poison(&error)));
            return Err(poison);
        }
        Err(error)
    }

    pub(super) fn truncate_front(
        &self,
        topic: &TopicInner,
        number: u32,
        offset: i64,
    ) -> Result<(), LogError> {
        self.check_writable()?;
        let partition = topic.partition(number)?;
        let indexes = || partition.drop_indexes(offset);
        self.making_room(indexes, || self.try_truncate_front(topic, partition, offset))
    }

    fn try_truncate_front(
        &self,
        topic: &TopicInner,
        partition: &Partition,
        offset: i64,
    ) -> Result<(), LogError> {
        partition.flush_durable()?;
        let (earliest, end) = (partition.log_start(), partition.durable_end());
        if offset > end || offset < 0 {
            let place = Box::new(partition.home.place().at_offset(offset));
            return Err(LogError::OffsetOutOfRange { place, earliest, end });
        }
        if offset <= earliest {
            return partition.remove_dropped();
        }
        // What is cut off must not be missed when a transaction has to be completed.
        let _turn = self.settle_transactions()?;
        self.cut_front(topic, partition, offset)
    }

    /// Lets a partition begin at an offset, before which everything is durable, and of which no transaction needs anything
    /// any more.
    pub(super) fn cut_front(
        &self,
        topic: &TopicInner,
        partition: &Partition,
        offset: i64,
    ) -> Result<(), LogError> {
        let mut state = hold(&self.state);
        partition.check()?;
        // Somebody else may have cut more meanwhile.
        if offset <= partition.log_start() {
            return partition.remove_dropped();
        }
        let key = (topic.name.clone(), partition.home.partition);
        let mut log_starts = state.log_starts.clone();
        log_starts.insert(key, offset);
        self.save_log_starts(&log_starts)?;
        state.log_starts = log_starts;
        partition.drop_front(offset)
    }

    fn save_log_starts(&self, log_starts: &BTreeMap<(String, u32), i64>) -> Result<(), LogError> {
        starts::save(&*self.shared.storage, &self.shared.directory, &offsets_of(log_starts))
    }

    pub(super) fn save_offsets(
        &self,
        name: &str,
        offsets: Vec<PartitionOffset>,
    ) -> Result<(), LogError> {
        let text = encode_offsets(&offsets)
            .map_err(|error| LogError::corrupt(Place::path(PathBuf::from(name)), error))?;
        let (storage, directory) = (&*self.shared.storage, &self.shared.directory);
        Ok(disk::replace(storage, directory, name, text.as_bytes())?)
    }

    /// Closes the log, once.
    pub(super) fn close(&self) -> Result<(), LogError> {
        self.shared.maintenance.end();
        let closed = self.close_once();
        self.shared.keeper.join();
        closed
    }

    fn close_once(&self) -> Result<(), LogError> {
        // A pass that somebody called for ends soon, and none begins before the log is closed.
        let _pass = hold(&self.maintaining);
        // A transaction in flight ends first.
        let _turn = self.transactions.turn();
        let mut state = hold(&self.state);
        let Some(guard) = state.lock.take() else { return Ok(()) };
        // First of all: what is appended from now on would be lost.
        self.shared.closed.store(true, Ordering::SeqCst);
        let closed = self.close_partitions();
        self.shared.keeper.end();
        let marked = closed.and_then(|offsets| {
            self.save_offsets(RECOVERY_POINTS, offsets)?;
            let (storage, directory) = (&*self.shared.storage, &self.shared.directory);
            Ok(disk::replace(storage, directory, CLEAN_SHUTDOWN, CLEAN_SHUTDOWN_TEXT.as_bytes())?)
        });
        // Another process may open the log from now on, so that not even a late ticket may write.
        self.shared.poison.get_or_init(|| LogError::Closed);
        for topic in self.all_topics() {
            for partition in &topic.partitions {
                partition.let_go();
            }
        }
        self.transactions.end();
        // Those of deleted topics too.
        self.shared.wake_all();
        drop(guard);
        marked
    }

    /// Makes everything durable, as much of it as can be; returns how far that is.
    fn close_partitions(&self) -> Result<Vec<PartitionOffset>, LogError> {
        let mut offsets = Vec::new();
        let mut outcome = Ok(());
        for topic in self.all_topics() {
            for partition in &topic.partitions {
                outcome = outcome.and(partition.close(!self.opened_clean));
                let (topic, number) = (topic.name.clone(), partition.home.partition);
                let offset = partition.durable_end();
                offsets.push(PartitionOffset { topic, partition: number, offset });
            }
        }
        outcome.and(self.shared.check_poison())?;
        Ok(offsets)
    }
}
