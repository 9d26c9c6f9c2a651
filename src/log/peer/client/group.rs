//! A consumer group in another process.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::Asked;
use super::{LogClient, PeerError, Subject, answer_of};
use crate::log::groups::{
    Committed, GroupDescription, GroupOffset, HeartbeatReply, HeartbeatRequest, MemberDescription,
    OffsetCommit, Strategy, TopicPartition,
};
use crate::log::peer::protocol::{
    Answer, Commit, DeleteGroup, DescribeGroup, GroupName, GroupState, Heartbeat, Leave,
    ListOffsets, MemberState, Membership, Offset, ProgressState,
};

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

    pub(super) fn client(&self) -> &LogClient {
        &self.client
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
        let core = self.client.core();
        let request = heartbeat_request(&self.name, request);
        let reply = core.call(request.into(), Vec::new(), Duration::ZERO)?;
        answer_of!(core, reply, Membership).map(heartbeat_reply)
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
    /// `Refused` with `UnknownMember` for a member that was expelled, `NotOwner` or `WrongGeneration` for one that does not
    /// own a partition, or did not in that generation, with the details in [`PeerError::fencing`]; any other [`PeerError`].
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
        let offsets = offsets.iter().map(wire_offset).collect();
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
        let offsets = answer_of!(core, reply, Offsets)?;
        let committed = |found: Offset| {
            let Offset { topic, partition, offset, metadata, timestamp_ms } = found;
            (TopicPartition { topic, partition }, Committed { offset, metadata, timestamp_ms })
        };
        Ok(offsets.offsets.into_iter().map(committed).collect())
    }

    /// Its members, what they own, what is committed and how much is left to read.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn describe(&self) -> Result<GroupDescription, PeerError> {
        let core = self.client.core();
        let request = DescribeGroup(GroupName { group: self.name.clone() });
        let reply = core.call(request.into(), Vec::new(), Duration::ZERO)?;
        let state = answer_of!(core, reply, GroupState)?;
        let unknown = |name: String| {
            let asked = Asked::new("DescribeGroup", Subject::group(&self.name, ""));
            core.bad_answer(&asked, format!("the strategy {name} is not known here"))
        };
        description(state).map_err(unknown)
    }

    /// Deletes the group: its committed offsets and its past. Durable when this returns.
    ///
    /// # Errors
    /// `Refused` with `Conflict` while it has members; any other [`PeerError`].
    pub fn delete(&self) -> Result<(), PeerError> {
        let request = DeleteGroup(GroupName { group: self.name.clone() });
        self.client.core().done_call(request.into())
    }
}

fn partitions(named: Vec<(String, u32)>) -> Vec<TopicPartition> {
    let partition = |(topic, partition)| TopicPartition { topic, partition };
    named.into_iter().map(partition).collect()
}

/// A commit, as it travels.
pub(super) fn wire_offset(commit: &OffsetCommit) -> Offset {
    Offset {
        topic: commit.topic.clone(),
        partition: commit.partition,
        offset: commit.offset,
        metadata: commit.metadata.clone(),
        timestamp_ms: 0,
    }
}

/// A heartbeat, as it travels.
pub(super) fn heartbeat_request(group: &str, request: HeartbeatRequest) -> Heartbeat {
    let owned = request.owned.into_iter();
    Heartbeat {
        group: group.to_owned(),
        member: request.member,
        instance: request.instance,
        generation: request.generation,
        sequence: request.sequence,
        topics: request.topics,
        strategy: request.strategy.name().to_owned(),
        session_ms: u32::try_from(request.session_timeout.as_millis()).unwrap_or(u32::MAX),
        owned: owned.map(|partition| (partition.topic, partition.partition)).collect(),
    }
}

/// The answer to a heartbeat.
pub(super) fn heartbeat_reply(membership: Membership) -> HeartbeatReply {
    HeartbeatReply {
        member: membership.member,
        generation: membership.generation,
        assigned: partitions(membership.assigned),
        revoked: partitions(membership.revoked),
        awaited: membership.awaited as usize,
        heartbeat_interval: Duration::from_millis(membership.interval_ms.into()),
    }
}

/// A group's description; fails with the name of a strategy that is not known here.
fn description(state: GroupState) -> Result<GroupDescription, String> {
    let strategy = |name: String| Strategy::parse(&name).ok_or(name);
    let member = |member: MemberState| {
        Ok(MemberDescription {
            member: member.member,
            instance: member.instance,
            topics: member.topics,
            strategy: strategy(member.strategy)?,
            assigned: partitions(member.assigned),
            revoked: partitions(member.revoked),
            awaited: partitions(member.awaited),
            silent_for: Duration::from_millis(member.silent_ms),
        })
    };
    let progress = |progress: ProgressState| GroupOffset {
        partition: TopicPartition::new(progress.topic, progress.partition),
        committed: progress.committed.map(|(offset, (metadata, timestamp_ms))| Committed {
            offset,
            metadata,
            timestamp_ms,
        }),
        earliest: progress.earliest,
        end: progress.end,
    };
    Ok(GroupDescription {
        name: state.group,
        generation: state.generation,
        strategy: state.strategy.map(strategy).transpose()?,
        settled: state.settled,
        members: state.members.into_iter().map(member).collect::<Result<_, String>>()?,
        offsets: state.offsets.into_iter().map(progress).collect(),
    })
}
