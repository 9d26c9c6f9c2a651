//! What a member has: its partitions with where it is in each, whatever it reads them from, and what happened to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::log::groups::types::{GroupEvent, GroupRecord, OffsetCommit, Polled, TopicPartition};

/// A partition that the member owns, read from an `R`.
#[derive(Debug)]
pub(in crate::log) struct Lane<R> {
    pub(in crate::log) topic: Arc<str>,
    pub(in crate::log) source: R,
    /// Behind the last record that was returned, if one was or the caller chose a position.
    pub(in crate::log) position: Option<i64>,
    /// It has to be given up: nothing more is read of it.
    pub(in crate::log) revoked: bool,
    /// A `poll` has said so.
    told: bool,
}

/// All partitions of a member.
#[derive(Debug)]
pub(in crate::log) struct Lanes<R> {
    lanes: BTreeMap<TopicPartition, Lane<R>>,
    /// What happened since the last `poll`.
    events: Vec<GroupEvent>,
    /// The partition that comes first in the next `poll`.
    next: Option<TopicPartition>,
}

impl<R> Default for Lanes<R> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), events: Vec::new(), next: None }
    }
}

impl<R> Lanes<R> {
    /// The partitions, those included that have to be given up.
    pub(in crate::log) fn names(&self) -> Vec<TopicPartition> {
        self.lanes.keys().cloned().collect()
    }

    /// Where the member is, in the partitions of which something was returned.
    pub(in crate::log) fn positions(&self) -> Vec<OffsetCommit> {
        let position = |(partition, lane): (&TopicPartition, &Lane<R>)| {
            let TopicPartition { topic, partition } = partition;
            lane.position.map(|offset| OffsetCommit::new(topic, *partition, offset))
        };
        self.lanes.iter().filter_map(position).collect()
    }

    pub(in crate::log) fn values(&self) -> impl Iterator<Item = &Lane<R>> {
        self.lanes.values()
    }

    pub(in crate::log) fn iter_mut(
        &mut self,
    ) -> impl Iterator<Item = (&TopicPartition, &mut Lane<R>)> {
        self.lanes.iter_mut()
    }

    pub(in crate::log) fn get(&self, partition: &TopicPartition) -> Option<&Lane<R>> {
        self.lanes.get(partition)
    }

    pub(in crate::log) fn get_mut(&mut self, partition: &TopicPartition) -> Option<&mut Lane<R>> {
        self.lanes.get_mut(partition)
    }

    /// Whether something happened that no `poll` has told yet.
    pub(in crate::log) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Gives up what a `poll` has said is to be given up; whether there was anything.
    pub(in crate::log) fn give_up(&mut self) -> bool {
        let before = self.lanes.len();
        self.lanes.retain(|_, lane| !lane.told);
        self.lanes.len() < before
    }

    /// Gives up everything at once.
    pub(in crate::log) fn clear(&mut self) {
        self.lanes.clear();
    }

    /// Lets go of partitions that are somebody else's, perhaps, or are not there any more.
    pub(in crate::log) fn lose(&mut self, mut lost: impl FnMut(&Lane<R>) -> bool) {
        let gone = self.lanes.iter().filter(|(_, lane)| lost(lane));
        let gone: Vec<TopicPartition> = gone.map(|(partition, _)| partition.clone()).collect();
        self.lose_named(gone);
    }

    /// Lets go of these, which are not there any more.
    pub(in crate::log) fn lose_named(&mut self, gone: Vec<TopicPartition>) {
        for partition in &gone {
            self.lanes.remove(partition);
        }
        if !gone.is_empty() {
            self.events.push(GroupEvent::Lost(gone));
        }
    }

    /// Does what the coordinator says; `open` makes the source of a partition, if it is there. Returns whether the
    /// coordinator waits for something to be given up that the member does not have: others wait for it.
    pub(in crate::log) fn take_over(
        &mut self,
        assigned: Vec<TopicPartition>,
        revoked: Vec<TopicPartition>,
        mut open: impl FnMut(&TopicPartition) -> Option<R>,
    ) -> bool {
        let stale = revoked.iter().any(|one| !self.lanes.contains_key(one));
        let owned: BTreeSet<_> = assigned.iter().chain(&revoked).cloned().collect();
        let lost = self.lanes.keys().filter(|partition| !owned.contains(*partition));
        let lost: Vec<TopicPartition> = lost.cloned().collect();
        self.lanes.retain(|partition, _| owned.contains(partition));
        let mut given_up = Vec::new();
        for partition in revoked {
            if let Some(lane) = self.lanes.get_mut(&partition)
                && !std::mem::replace(&mut lane.revoked, true)
            {
                given_up.push(partition);
            }
        }
        let mut got = Vec::new();
        for partition in assigned {
            match self.lanes.get_mut(&partition) {
                Some(lane) => {
                    lane.told = false;
                    if std::mem::take(&mut lane.revoked) {
                        got.push(partition);
                    }
                }
                // A topic that is deleted meanwhile; the next heartbeat tells.
                None => {
                    let Some(source) = open(&partition) else { continue };
                    let topic = partition.topic.as_str().into();
                    let (position, revoked, told) = (None, false, false);
                    let lane = Lane { topic, source, position, revoked, told };
                    self.lanes.insert(partition.clone(), lane);
                    got.push(partition);
                }
            }
        }
        for (event, partitions) in [
            (GroupEvent::Lost as fn(_) -> _, lost),
            (GroupEvent::Revoked, given_up),
            (GroupEvent::Assigned, got),
        ] {
            if !partitions.is_empty() {
                self.events.push(event(partitions));
            }
        }
        stale
    }

    /// Reads partitions in their turn, up to so many records. `read` adds what there is now of one, up to that.
    pub(in crate::log) fn fetch<E>(
        &mut self,
        records_max: usize,
        mut read: impl FnMut(&TopicPartition, &mut Lane<R>, &mut Vec<GroupRecord>) -> Result<(), E>,
    ) -> Result<Vec<GroupRecord>, E> {
        let mut records = Vec::new();
        let turns: Vec<TopicPartition> = match &self.next {
            Some(next) => {
                let (after, before) = (self.lanes.range(next..), self.lanes.range(..next));
                after.chain(before).map(|(partition, _)| partition.clone()).collect()
            }
            None => self.names(),
        };
        for (turn, partition) in turns.iter().enumerate() {
            if records.len() >= records_max {
                self.next = Some(partition.clone());
                break;
            }
            let lane = self.lanes.get_mut(partition).filter(|lane| !lane.revoked);
            let read = lane.map_or(Ok(()), |lane| read(partition, lane, &mut records));
            self.next = turns.get(turn + 1).cloned();
            match read {
                Ok(()) => {}
                // First what was read before; it comes again with the next call.
                Err(_) if !records.is_empty() => {
                    self.next = Some(partition.clone());
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// What a `poll` returns. What it says is revoked, the next one gives up.
    pub(in crate::log) fn polled(&mut self, records: Vec<GroupRecord>) -> Polled {
        for lane in self.lanes.values_mut() {
            lane.told = lane.revoked;
        }
        Polled { records, events: std::mem::take(&mut self.events) }
    }
}
