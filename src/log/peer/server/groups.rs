//! Requests about consumer groups. They may wait for a sync, so they run on a thread of their own; commits are only begun there.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::limits::over_limit;
use super::work::{fingerprint, refused};
use crate::log::append::Ticket;
use crate::log::groups::{
    GroupDescription, GroupOffset, HeartbeatRequest, MemberDescription, OffsetCommit, Strategy,
    TopicPartition,
};
use crate::log::options::Level;
use crate::log::peer::protocol::{
    Commit, Done, GroupNames, GroupState, Heartbeat, MemberState, Membership, Nothing, Offset,
    Offsets, Outcome, ProgressState, Reply, Request, Transact, Transacted,
};
use crate::log::transaction::Given;
use crate::log::{Log, LogError};

impl Request {
    /// Whether it is about a group, and [`answer`] answers it.
    pub(super) fn is_of_group(&self) -> bool {
        matches!(
            self,
            Self::Leave(_)
                | Self::ListOffsets(_)
                | Self::ListGroups(_)
                | Self::DescribeGroup(_)
                | Self::DeleteGroup(_)
        )
    }
}

/// Answers a request about a group; `None` for others.
pub(super) fn answer(log: &Log, request: &Request) -> Option<Result<Reply, LogError>> {
    Some(match request {
        Request::Leave(request) => log
            .group(&request.group)
            .and_then(|group| group.leave(&request.member))
            .map(|()| Done(Nothing {}).into()),
        Request::ListOffsets(request) => offsets(log, &request.group),
        Request::ListGroups(_) => log.groups().map(|groups| GroupNames { groups }.into()),
        Request::DescribeGroup(name) => log
            .group(&name.0.group)
            .and_then(|group| group.describe())
            .map(|group| group_state(group).into()),
        Request::DeleteGroup(name) => log
            .group(&name.0.group)
            .and_then(|group| group.delete())
            .map(|()| Done(Nothing {}).into()),
        _ => return None,
    })
}

/// Takes the heartbeat of a member, of which there are to be at most so many.
pub(super) fn heartbeat(log: &Log, request: &Heartbeat, members_max: usize) -> Outcome {
    let Some(strategy) = Strategy::parse(&request.strategy) else {
        let reason = format!("{} is not known here", request.strategy);
        return refused(Err(LogError::Invalid { what: "strategy", reason }));
    };
    let owned = request.owned.iter();
    let heartbeat = HeartbeatRequest {
        member: request.member.clone(),
        instance: request.instance.clone(),
        generation: request.generation,
        sequence: request.sequence,
        topics: request.topics.clone(),
        strategy,
        session_timeout: Duration::from_millis(request.session_ms.into()),
        owned: owned.map(|(topic, partition)| TopicPartition::new(topic, *partition)).collect(),
    };
    let name = &request.group;
    let group = refused(log.group(name))?;
    if !group.has_room_for(&heartbeat, members_max) {
        let text = format!("group {name}: one more member, where the server allows {members_max}");
        return Err(over_limit(name, text));
    }
    let (reply, version) = refused(group.heartbeat_at(heartbeat))?;
    Ok(Membership {
        member: reply.member,
        generation: reply.generation,
        assigned: named(reply.assigned),
        revoked: named(reply.revoked),
        awaited: u32::try_from(reply.awaited).unwrap_or(u32::MAX),
        interval_ms: u32::try_from(reply.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
        version,
    }
    .into())
}

/// Partitions, as they travel.
fn named(partitions: Vec<TopicPartition>) -> Vec<(String, u32)> {
    partitions.into_iter().map(|partition| (partition.topic, partition.partition)).collect()
}

fn commits(offsets: &[Offset]) -> Vec<OffsetCommit> {
    let commit = |offset: &Offset| {
        let commit = OffsetCommit::new(&offset.topic, offset.partition, offset.offset);
        commit.metadata(&offset.metadata)
    };
    offsets.iter().map(commit).collect()
}

fn group_state(group: GroupDescription) -> GroupState {
    let member = |member: MemberDescription| MemberState {
        member: member.member,
        instance: member.instance,
        topics: member.topics,
        strategy: member.strategy.name().to_owned(),
        assigned: named(member.assigned),
        revoked: named(member.revoked),
        awaited: named(member.awaited),
        silent_ms: u64::try_from(member.silent_for.as_millis()).unwrap_or(u64::MAX),
    };
    let progress = |offset: GroupOffset| ProgressState {
        topic: offset.partition.topic,
        partition: offset.partition.partition,
        committed: offset.committed.map(|one| (one.offset, (one.metadata, one.timestamp_ms))),
        earliest: offset.earliest,
        end: offset.end,
    };
    GroupState {
        group: group.name,
        generation: group.generation,
        strategy: group.strategy.map(|strategy| strategy.name().to_owned()),
        settled: group.settled,
        members: group.members.into_iter().map(member).collect(),
        offsets: group.offsets.into_iter().map(progress).collect(),
    }
}

/// Appends what a client has put together, all or nothing.
pub(super) fn transact(log: &Log, request: Transact, body: Vec<Bytes>) -> Result<Reply, LogError> {
    let commits = commits(&request.offsets);
    let member = request.member.map(|member| crate::log::Membership {
        group: member.group,
        member: member.member,
        generation: member.generation,
    });
    let mut body = body.into_iter();
    let parts = request.parts.into_iter().map(|part| Given {
        batches: body.by_ref().take(part.batches as usize).collect(),
        topic: part.topic,
        partition: part.partition,
    });
    let parts: Vec<Given> = parts.collect();
    let offsets = log.inner.commit_given(&parts, member.as_ref(), &commits)?;
    let topics: BTreeSet<String> = parts.into_iter().map(|part| part.topic).collect();
    // One that is deleted meanwhile is none to be told of.
    let known = |name: String| log.topic(&name).ok().map(|topic| (name, fingerprint(&topic)));
    let fingerprints = topics.into_iter().filter_map(known).collect();
    Ok(Transacted { offsets, fingerprints }.into())
}

/// Commits offsets; what is left is to wait until they are durable.
pub(super) fn commit(log: &Log, request: &Commit) -> Result<Option<Ticket>, LogError> {
    let group = log.group(&request.group)?;
    let offsets = commits(&request.offsets);
    let committed = match &request.member {
        Some((member, generation)) => {
            group.commit_ticket(member, *generation, &offsets, Level::Durable)?
        }
        None => group.set_offsets_ticket(&offsets)?,
    };
    Ok(committed.into_ticket())
}

fn offsets(log: &Log, group: &str) -> Result<Reply, LogError> {
    let offset = |(place, committed): (TopicPartition, crate::log::groups::Committed)| Offset {
        topic: place.topic,
        partition: place.partition,
        offset: committed.offset,
        metadata: committed.metadata,
        timestamp_ms: committed.timestamp_ms,
    };
    let offsets = log.group(group)?.offsets()?.into_iter().map(offset).collect();
    Ok(Offsets { offsets }.into())
}
