//! All groups of an open log: read from their internal topic at the first use, and kept in it.
//!
//! Locks are taken in this order: a pass of maintenance or a work queue, the turn of transactions, the index of groups, one
//! group, the log's state, those of partitions; last of all that of the members who wait, and none under it. Not all are
//! needed for anything, but none is taken under a later one:
//!
//! - The turn comes first for transactions, which find the group and then commit for it under its lock, and for topics that
//!   are made, altered or deleted. Those give up the log's state before they nudge groups (the index) and forget what was
//!   committed for a topic (the index, then group by group).
//! - The index is held while a group is looked for, and while the internal topic is read: the log's state and the partition
//!   are asked for what is in it, and each record is noted under its group's lock. Two groups are never locked at once.
//! - Under a group's lock topics are looked for, which nobody holds up, and the internal topic is made if there is none.
//! - Members are woken when their group, the index and the turn are unlocked: who is woken may do anything at once. Only a
//!   failure that ends the log wakes them where it is met, whatever is locked there.
//!
//! A group's lock is held during a sync in three cases: while its generation is made durable, while a transaction of one of
//! its members is, and while it is made durable that commits are forgotten, because their topic or the group is deleted. The
//! index is, too, when that is found out at the first use. For other commits the lock is held until they are appended; what
//! they say was dealt with is made durable before it is taken.

mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, atomic::AtomicU64};

use super::beats::Beats;
use super::coordinator::{Coordinator, TopicShape};
use super::locked::Locked;
use super::member::presence::Presence;
use super::offsets::Table;
use super::records::{Key, decode_generation, decode_offset, encode_generation, encode_offset};
use super::types::{Committed, Fencing, OffsetCommit, TopicPartition};
use crate::log::LogInner;
use crate::log::append::Ticket;
use crate::log::error::{Damage, LogError};
use crate::log::format::{BatchBuilder, BatchOptions};
use crate::log::internal::{OFFSETS, keyed_options};
use crate::log::options::Level;
use crate::log::partition::{Partition, Waiters};
use crate::log::read::{LogRecord, Position, Reader};
use crate::log::wakers::{Held, hold};
use crate::log::{topic::TopicInner, transaction::Turn};
use crate::sync::{Mutex, lock};

/// Longest name of a group, in bytes.
const NAME_BYTES_MAX: usize = 249;
/// From this many groups on those that do not exist are forgotten.
const TIDY_FROM: usize = 64;

/// The groups of an open log.
#[derive(Debug, Default)]
pub(in crate::log) struct Groups {
    index: Mutex<Index>,
    pub(super) beats: Arc<Beats>,
}

#[derive(Debug, Default)]
struct Index {
    /// Whether the topic was read. A log that is open for reading only reads on at each use.
    loaded: bool,
    /// Up to where.
    next_offset: i64,
    groups: BTreeMap<String, Arc<GroupCell>>,
}

/// One group.
#[derive(Debug)]
pub(super) struct GroupCell {
    pub(super) name: String,
    pub(super) state: Mutex<GroupState>,
    pub(super) beats: Arc<Beats>,
    /// Grows when members in this process should not wait with their next heartbeat.
    pub(super) version: AtomicU64,
    /// Those members, while they wait for records.
    pub(super) waiting: Waiters,
    /// All members in this process, by the number under which they wait: id, and whether they do. Taken after the group's
    /// lock.
    pub(super) present: Mutex<BTreeMap<u64, (String, Arc<Presence>)>>,
}

/// What a group's lock guards.
#[derive(Debug, Default)]
pub(super) struct GroupState {
    pub(super) coordinator: Coordinator,
    /// The generation that is durable. No later one is told to anybody.
    pub(super) persisted: i32,
    pub(super) table: Table,
}

/// What records of the topic say about partitions, in their order.
pub(super) type Said = Vec<(TopicPartition, Option<Committed>)>;

/// Commits that were checked, but for the right to make them.
#[derive(Debug)]
pub(in crate::log) struct Prepared {
    /// What their records will say.
    said: Said,
    /// The topics that they were checked against.
    topics: Vec<Arc<TopicInner>>,
}

/// Who wants to commit.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) enum Committer<'a> {
    /// A member, in the generation it knows.
    Member(&'a str, i32),
    /// Somebody else: only while there are no members.
    Nobody,
}

impl GroupCell {
    fn new(name: &str, beats: &Arc<Beats>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            beats: Arc::clone(beats),
            state: Mutex::default(),
            version: AtomicU64::new(0),
            waiting: Waiters::default(),
            present: Mutex::default(),
        })
    }

    /// The offset committed for a partition. For a log that is open for writing.
    pub(super) fn committed_offset(&self, topic: &str, partition: u32) -> Option<i64> {
        let mut state = lock(&self.state);
        state.table.settle();
        let committed = state.table.get(&TopicPartition::new(topic, partition));
        committed.map(|committed| committed.offset)
    }

    /// As [`committed_offset`](Self::committed_offset), once it is known what becomes of commits that are under way: where
    /// the next owner of a partition goes on. The owner before may not commit for it any more.
    pub(super) fn final_offset(&self, topic: &str, partition: u32) -> Option<i64> {
        let under_way = lock(&self.state).table.under_way(&TopicPartition::new(topic, partition));
        for ticket in under_way {
            // Whoever committed hears of a failure; nothing is committed then.
            let _ = ticket.wait();
        }
        self.committed_offset(topic, partition)
    }

    pub(super) fn fenced(&self, member: &str, generation: i32, why: Fencing) -> LogError {
        let (group, member) = (self.name.clone(), member.to_owned());
        LogError::MemberFenced { group, member, generation, why }
    }

    /// Refuses whoever must not commit.
    pub(super) fn authorise(
        &self,
        state: &mut Locked<'_>,
        now_ms: i64,
        committer: Committer<'_>,
        offsets: &[OffsetCommit],
    ) -> Result<(), LogError> {
        match committer {
            Committer::Member(member, generation) => {
                let partitions = offsets.iter().map(|one| (one.topic.as_str(), one.partition));
                let checked = self.coordinate(state, now_ms, |coordinator| {
                    coordinator.check_commit(now_ms, member, generation, partitions)
                });
                checked.map_err(|why| self.fenced(member, generation, why))
            }
            Committer::Nobody => {
                self.coordinate(state, now_ms, |coordinator| coordinator.expire(now_ms));
                match state.coordinator.members() {
                    0 => Ok(()),
                    members => Err(LogError::GroupNotEmpty { group: self.name.clone(), members }),
                }
            }
        }
    }
}

impl GroupState {
    /// Whether there is anything about this group.
    fn exists(&self) -> bool {
        let known = || !self.table.partitions().is_empty();
        self.persisted != 0 || self.coordinator.members() > 0 || known()
    }

    fn apply(&mut self, at: i64, key: Key, value: Option<&[u8]>) -> Option<()> {
        match (key, value) {
            (Key::Offset { topic, partition, .. }, value) => {
                let said = value.map(decode_offset);
                let said = if let Some(said) = said { Some(said?) } else { None };
                self.table.note(at, TopicPartition { topic, partition }, said);
            }
            (Key::Group { .. }, value) => {
                self.persisted = value.map_or(Some(0), decode_generation)?;
                self.coordinator = Coordinator::new(self.persisted);
            }
        }
        Some(())
    }
}

/// Refuses names that no group can have.
pub(super) fn check_name(name: &str) -> Result<(), LogError> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let reason = format!("{name:?} is not 1 to {NAME_BYTES_MAX} bytes without control characters");
    Err(LogError::Invalid { what: "group name", reason })
}

/// The records of commits.
fn commit_batch(
    partition: &Partition,
    group: &str,
    said: &[(TopicPartition, Option<Committed>)],
) -> Result<Vec<u8>, LogError> {
    let records = said.iter().map(|(TopicPartition { topic, partition }, committed)| {
        let (group, topic, partition) = (group.to_owned(), topic.clone(), *partition);
        let key = Key::Offset { group, topic, partition };
        (key.encode(), committed.as_ref().map(encode_offset))
    });
    encode(partition, records)
}

fn encode(
    partition: &Partition,
    records: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
) -> Result<Vec<u8>, LogError> {
    let now_ms = partition.shared.clock.now_ms();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (key, value) in records {
        let appended = builder.append(now_ms, Some(&key), value.as_deref(), []);
        appended.map_err(|error| partition.bad_batch(error))?;
    }
    builder.finish().map_err(|error| partition.bad_batch(error))
}

impl LogInner {
    pub(super) fn steady_ms(&self) -> i64 {
        self.shared.clock.steady_ms()
    }

    /// The topic of offsets, which is made when it is first needed.
    pub(in crate::log) fn offsets_partition(&self) -> Result<Arc<Partition>, LogError> {
        self.shared.check()?;
        self.internal_partition(OFFSETS, keyed_options())
    }

    /// What exists of a topic.
    pub(super) fn shape(&self, topic: &str) -> Option<TopicShape> {
        let topic = self.find_topic(topic)?;
        Some((topic.id, u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX)))
    }

    /// A group, which need not exist yet.
    pub(super) fn group(&self, name: &str) -> Result<Arc<GroupCell>, LogError> {
        let mut index = self.load_groups()?;
        index.tidy_up();
        let new = || GroupCell::new(name, &self.groups.beats);
        Ok(index.groups.entry(name.to_owned()).or_insert_with(new).clone())
    }

    /// All groups there are.
    pub(super) fn group_names(&self) -> Result<Vec<String>, LogError> {
        let cells: Vec<_> = self.load_groups()?.groups.values().cloned().collect();
        let existing = cells.iter().filter(|cell| {
            let mut state = lock(&cell.state);
            state.table.settle();
            state.exists()
        });
        Ok(existing.map(|cell| cell.name.clone()).collect())
    }

    /// The index, once everything is read.
    fn load_groups(&self) -> Result<Held<'_, Index>, LogError> {
        let mut index = hold(&self.groups.index);
        if index.loaded && self.shared.epoch >= 0 {
            return Ok(index);
        }
        // Perhaps it was made only now, in another process.
        self.look_for_topics()?;
        if let Some(topic) = self.find_topic(OFFSETS) {
            let partition = topic.partition(0)?;
            let from = index.next_offset.max(partition.log_start());
            let mut reader = Reader::new(partition.clone(), Position::Offset(from))?;
            while let Some(record) = reader.next_record()? {
                index.apply(partition, &record, &self.groups.beats)?;
                index.next_offset = reader.next_offset();
            }
        }
        if self.shared.epoch >= 0 {
            self.forget_deleted(&index)?;
        }
        index.loaded = true;
        Ok(index)
    }

    /// A crash may come between the end of a topic and that of its offsets.
    fn forget_deleted(&self, index: &Index) -> Result<(), LogError> {
        for cell in index.groups.values() {
            let mut state = hold(&cell.state);
            let mut gone = state.table.partitions();
            gone.retain(|partition| self.find_topic(&partition.topic).is_none());
            self.forget(cell, &mut state, gone)?;
        }
        Ok(())
    }

    /// Forgets what all groups committed for a topic; durable when this returns.
    pub(in crate::log) fn forget_topic_offsets(&self, topic: &str) -> Result<(), LogError> {
        if self.find_topic(OFFSETS).is_none() {
            return Ok(());
        }
        let cells: Vec<_> = self.load_groups()?.groups.values().cloned().collect();
        for cell in cells {
            let mut state = hold(&cell.state);
            let mut gone = state.table.partitions();
            gone.retain(|partition| partition.topic == topic);
            self.forget(&cell, &mut state, gone)?;
        }
        Ok(())
    }

    /// Forgets what a group committed; durable when this returns.
    fn forget(
        &self,
        cell: &GroupCell,
        state: &mut GroupState,
        partitions: BTreeSet<TopicPartition>,
    ) -> Result<(), LogError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let log = self.offsets_partition()?;
        let said: Said = partitions.into_iter().map(|partition| (partition, None)).collect();
        let ticket = log.append_batch(&commit_batch(&log, &cell.name, &said)?, Level::Durable)?;
        let first = ticket.first_offset();
        ticket.wait()?;
        state.table.note_all(first, said);
        Ok(())
    }

    /// Has the members of all groups look what topics there are.
    pub(in crate::log) fn nudge_groups(&self) {
        let cells: Vec<_> = lock(&self.groups.index).groups.values().cloned().collect();
        cells.iter().for_each(|cell| cell.nudge());
    }

    /// Makes the generation durable, before anybody learns of it.
    pub(super) fn persist_generation(
        &self,
        cell: &GroupCell,
        state: &mut GroupState,
    ) -> Result<(), LogError> {
        let generation = state.coordinator.generation();
        if generation == state.persisted {
            return Ok(());
        }
        let log = self.offsets_partition()?;
        let key = Key::Group { group: cell.name.clone() }.encode();
        let value = encode_generation(generation, self.shared.clock.now_ms());
        let batch = encode(&log, std::iter::once((key, Some(value))))?;
        log.append_batch(&batch, Level::Durable)?.wait()?;
        state.persisted = generation;
        Ok(())
    }

    /// Checks commits but for the right to make them, and makes durable what they say was dealt with: else a power cut could
    /// take records whose successors, with the same offsets, would then be skipped.
    pub(in crate::log) fn prepare_commit(
        &self,
        offsets: &[OffsetCommit],
    ) -> Result<Prepared, LogError> {
        self.shared.check()?;
        let timestamp_ms = self.shared.clock.now_ms();
        let mut said = Vec::with_capacity(offsets.len());
        let mut topics: Vec<Arc<TopicInner>> = Vec::new();
        for commit in offsets {
            commit.check_metadata()?;
            let unknown = || LogError::UnknownTopic { topic: commit.topic.clone() };
            let topic = self.find_topic(&commit.topic).ok_or_else(unknown)?;
            let partition = topic.partition(commit.partition)?;
            let end = partition.written_end();
            if !(0..=end).contains(&commit.offset) {
                let place = Box::new(partition.home.place().at_offset(commit.offset));
                let earliest = partition.log_start();
                return Err(LogError::OffsetOutOfRange { place, earliest, end });
            }
            if partition.durable_end() < commit.offset {
                partition.commit(commit.offset - 1, None, || None)?;
            }
            let (offset, metadata) = (commit.offset, commit.metadata.clone());
            let key = TopicPartition::new(&commit.topic, commit.partition);
            said.push((key, Some(Committed { offset, metadata, timestamp_ms })));
            if topics.last().is_none_or(|last| last.id != topic.id) {
                topics.push(topic);
            }
        }
        Ok(Prepared { said, topics })
    }

    /// Refuses commits that were checked against a topic that is not there any more. The caller has the group's lock: whoever
    /// deletes a topic takes that afterwards, to forget what was committed for it until then.
    fn check_topics(&self, topics: &[Arc<TopicInner>]) -> Result<(), LogError> {
        for topic in topics {
            if self.find_topic(&topic.name).is_none_or(|now| now.id != topic.id) {
                return Err(LogError::UnknownTopic { topic: topic.name.clone() });
            }
        }
        Ok(())
    }

    /// Commits offsets. Whether the committer may is decided before this returns.
    pub(super) fn commit_offsets(
        &self,
        cell: &Arc<GroupCell>,
        committer: Committer<'_>,
        offsets: &[OffsetCommit],
        level: Level,
    ) -> Result<Option<Ticket>, LogError> {
        let Prepared { said, topics } = self.prepare_commit(offsets)?;
        let log = self.offsets_partition()?;
        let mut state = cell.lock();
        self.check_topics(&topics)?;
        cell.authorise(&mut state, self.steady_ms(), committer, offsets)?;
        state.table.settle();
        if said.is_empty() {
            return Ok(None);
        }
        let ticket = log.append_batch(&commit_batch(&log, &cell.name, &said)?, level)?;
        state.table.note_when_done(ticket.twin(), said);
        Ok(Some(ticket))
    }

    /// Commits offsets as a part of a transaction: `run` gets their records, if any, and returns the offset of the first one. No
    /// member comes, goes, or gets a partition meanwhile. The turn is given up before members hear of a change.
    pub(in crate::log) fn commit_within<T>(
        &self,
        turn: Held<'_, Turn>,
        group: &str,
        committer: Committer<'_>,
        offsets: &[OffsetCommit],
        prepared: Prepared,
        run: impl FnOnce(&mut Turn, Option<Vec<u8>>) -> Result<(T, Option<i64>), LogError>,
    ) -> Result<T, LogError> {
        check_name(group)?;
        let Prepared { said, topics } = prepared;
        let cell = self.group(group)?;
        let log = self.offsets_partition()?;
        let batch = match said.is_empty() {
            true => None,
            false => Some(commit_batch(&log, group, &said)?),
        };
        // Dropped in the opposite order.
        let _news = cell.news();
        let mut held = turn;
        let mut state = cell.lock_quietly();
        self.check_topics(&topics)?;
        cell.authorise(&mut state, self.steady_ms(), committer, offsets)?;
        let (result, first) = run(&mut held, batch)?;
        if let Some(first) = first {
            state.table.note_all(first, said);
        }
        Ok(result)
    }

    /// Deletes a group: its offsets and its past.
    pub(super) fn delete_group(&self, cell: &GroupCell) -> Result<(), LogError> {
        self.shared.check()?;
        let mut state = cell.lock();
        cell.authorise(&mut state, self.steady_ms(), Committer::Nobody, &[])?;
        let known = state.table.partitions();
        self.forget(cell, &mut state, known)?;
        if state.persisted != 0 {
            let log = self.offsets_partition()?;
            let key = Key::Group { group: cell.name.clone() }.encode();
            let batch = encode(&log, std::iter::once((key, None)))?;
            log.append_batch(&batch, Level::Durable)?.wait()?;
            state.persisted = 0;
            state.coordinator = Coordinator::default();
        }
        Ok(())
    }
}

impl Groups {
    /// How many groups are in memory.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        lock(&self.index).groups.len()
    }
}

impl Index {
    /// Forgets groups that were asked for and do not exist, now and then; nobody else has them.
    fn tidy_up(&mut self) {
        let count = self.groups.len();
        if count >= TIDY_FROM && count.is_power_of_two() {
            self.groups.retain(|_, cell| Arc::strong_count(cell) > 1 || lock(&cell.state).exists());
        }
    }

    fn apply(
        &mut self,
        partition: &Partition,
        record: &LogRecord,
        beats: &Arc<Beats>,
    ) -> Result<(), LogError> {
        let damaged = || {
            let place = partition.home.place().at_offset(record.offset);
            LogError::corrupt(place, Damage::Unreadable)
        };
        let key = record.key.as_deref().and_then(Key::decode).ok_or_else(damaged)?;
        let (Key::Offset { group, .. } | Key::Group { group }) = &key;
        let new = || GroupCell::new(group, beats);
        let cell = self.groups.entry(group.clone()).or_insert_with(new);
        let applied = lock(&cell.state).apply(record.offset, key, record.value.as_deref());
        applied.ok_or_else(damaged)
    }
}
