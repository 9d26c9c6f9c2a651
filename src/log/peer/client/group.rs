//! A consumer group in another process.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{LogClient, PeerError, answer_of};
use crate::log::groups::{
    Committed, HeartbeatReply, HeartbeatRequest, OffsetCommit, TopicPartition,
};
use crate::log::peer::protocol::{Answer, Commit, Heartbeat, Leave, ListOffsets, Offset};

/// A consumer group of a log in another process: as [`Group`](crate::log::Group), through a server. Clones are the same.
#[derive(Clone, Debug)]
pub struct RemoteGroup {
    client: LogClient,
    name: String,
}

impl RemoteGroup {
    pub(super) fn new(client: LogClient, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells the coordinator that a member lives, what it wants and has; see
    /// [`Group::heartbeat`](crate::log::Group::heartbeat). With generation 0 it joins.
    ///
    /// # Errors
    /// `Refused` with `UnknownMember` if it has to join again; any other [`PeerError`].
    pub fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatReply, PeerError> {
        let owned = request.owned.into_iter();
        let request = Heartbeat {
            group: self.name.clone(),
            member: request.member,
            instance: request.instance,
            generation: request.generation,
            sequence: request.sequence,
            topics: request.topics,
            strategy: request.strategy.name().to_owned(),
            session_ms: u32::try_from(request.session_timeout.as_millis()).unwrap_or(u32::MAX),
            owned: owned.map(|partition| (partition.topic, partition.partition)).collect(),
        };
        let core = self.client.core();
        let reply = core.call(request.into(), Vec::new(), Duration::ZERO)?;
        let membership = answer_of!(core, "Heartbeat", reply, Membership)?;
        let named = |partitions: Vec<(String, u32)>| {
            let partitions = partitions.into_iter();
            partitions.map(|(topic, partition)| TopicPartition { topic, partition }).collect()
        };
        Ok(HeartbeatReply {
            member: membership.member,
            generation: membership.generation,
            assigned: named(membership.assigned),
            revoked: named(membership.revoked),
            awaited: membership.awaited as usize,
            heartbeat_interval: Duration::from_millis(membership.interval_ms.into()),
        })
    }

    /// A member leaves; its partitions go to others at once.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn leave(&self, member: &str) -> Result<(), PeerError> {
        let request = Leave { group: self.name.clone(), member: member.to_owned() };
        self.client.core().done_call(request.into())
    }

    /// Commits what a member has dealt with; durable when this returns.
    ///
    /// # Errors
    /// `Refused` with `UnknownMember` for a member that was expelled or does not own a partition; any other
    /// [`PeerError`].
    pub fn commit(
        &self,
        member: &str,
        generation: i32,
        offsets: &[OffsetCommit],
    ) -> Result<(), PeerError> {
        self.commit_as(Some((member.to_owned(), generation)), offsets)
    }

    /// Sets offsets of a group without members: for readers that divide no partitions, and to reset it.
    ///
    /// # Errors
    /// `Refused` with `Conflict` while there are members; any other [`PeerError`].
    pub fn set_offsets(&self, offsets: &[OffsetCommit]) -> Result<(), PeerError> {
        self.commit_as(None, offsets)
    }

    fn commit_as(
        &self,
        member: Option<(String, i32)>,
        offsets: &[OffsetCommit],
    ) -> Result<(), PeerError> {
        let offset = |commit: &OffsetCommit| Offset {
            topic: commit.topic.clone(),
            partition: commit.partition,
            offset: commit.offset,
            metadata: commit.metadata.clone(),
            timestamp_ms: 0,
        };
        let offsets = offsets.iter().map(offset).collect();
        let request = Commit { group: self.name.clone(), member, offsets };
        self.client.core().done_call(request.into())
    }

    /// All offsets that the group has committed.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn offsets(&self) -> Result<BTreeMap<TopicPartition, Committed>, PeerError> {
        let core = self.client.core();
        let request = ListOffsets { group: self.name.clone() };
        let reply = core.call(request.into(), Vec::new(), Duration::ZERO)?;
        let offsets = answer_of!(core, "ListOffsets", reply, Offsets)?;
        let committed = |found: Offset| {
            let Offset { topic, partition, offset, metadata, timestamp_ms } = found;
            (TopicPartition { topic, partition }, Committed { offset, metadata, timestamp_ms })
        };
        Ok(offsets.offsets.into_iter().map(committed).collect())
    }
}
