//! Requests about consumer groups. They may wait for a sync, so they run on the thread for what blocks.

use std::time::Duration;

use crate::log::groups::{HeartbeatRequest, OffsetCommit, Strategy, TopicPartition};
use crate::log::peer::protocol::{
    Commit, Done, Heartbeat, Membership, Nothing, Offset, Offsets, Reply, Request,
};
use crate::log::{Log, LogError};

/// Answers a request about a group; `None` for others.
pub(super) fn answer(log: &Log, request: &Request) -> Option<Result<Reply, LogError>> {
    Some(match request {
        Request::Heartbeat(request) => heartbeat(log, request),
        Request::Leave(request) => log
            .group(&request.group)
            .and_then(|group| group.leave(&request.member))
            .map(|()| Done(Nothing {}).into()),
        Request::Commit(request) => commit(log, request),
        Request::ListOffsets(request) => offsets(log, &request.group),
        _ => return None,
    })
}

fn heartbeat(log: &Log, request: &Heartbeat) -> Result<Reply, LogError> {
    let Some(strategy) = Strategy::parse(&request.strategy) else {
        let reason = format!("{} is not known here", request.strategy);
        return Err(LogError::Invalid { what: "strategy", reason });
    };
    let owned = request.owned.iter();
    let reply = log.group(&request.group)?.heartbeat(HeartbeatRequest {
        member: request.member.clone(),
        instance: request.instance.clone(),
        generation: request.generation,
        sequence: request.sequence,
        topics: request.topics.clone(),
        strategy,
        session_timeout: Duration::from_millis(request.session_ms.into()),
        owned: owned.map(|(topic, partition)| TopicPartition::new(topic, *partition)).collect(),
    })?;
    let named = |partitions: Vec<TopicPartition>| {
        partitions.into_iter().map(|partition| (partition.topic, partition.partition)).collect()
    };
    Ok(Membership {
        member: reply.member,
        generation: reply.generation,
        assigned: named(reply.assigned),
        revoked: named(reply.revoked),
        awaited: u32::try_from(reply.awaited).unwrap_or(u32::MAX),
        interval_ms: u32::try_from(reply.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
    }
    .into())
}

fn commit(log: &Log, request: &Commit) -> Result<Reply, LogError> {
    let group = log.group(&request.group)?;
    let commit = |offset: &Offset| {
        let commit = OffsetCommit::new(&offset.topic, offset.partition, offset.offset);
        commit.metadata(&offset.metadata)
    };
    let offsets: Vec<OffsetCommit> = request.offsets.iter().map(commit).collect();
    match &request.member {
        Some((member, generation)) => group.commit(member, *generation, &offsets)?,
        None => group.set_offsets(&offsets)?,
    }
    Ok(Done(Nothing {}).into())
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
