//! What blocks: making and changing topics, transactions, and what is asked of groups. And how topics and queues are described.

use bytes::Bytes;

use crate::log::durable::QueueStats;
use crate::log::options::TopicOptions;
use crate::log::peer::protocol::{
    Done, Nothing, OffsetAt, OffsetFound, PartitionState, QueueState, Reply, Request, TopicSetup,
    TopicState,
};
use crate::log::peer::server::groups;
use crate::log::peer::server::work::{fingerprint, last_epoch};
use crate::log::read::Position;
use crate::log::topic::Topic;
use crate::log::{Log, LogError};

/// What changes topics and groups, and transactions. Runs on the thread for that.
pub(super) fn administer(log: &Log, request: Request, body: Vec<Bytes>) -> Result<Reply, LogError> {
    if let Some(answered) = groups::answer(log, &request) {
        return answered;
    }
    match request {
        Request::OffsetAt(at) => offset_at(log, at),
        Request::CreateTopic(setup) => {
            let topic = log.create_topic(&setup.0.topic, options(&setup.0, None)?)?;
            Ok(topic_state(&topic).into())
        }
        Request::AlterTopic(setup) => {
            let now = log.topic(&setup.0.topic)?.options().clone();
            let topic = log.alter_topic(&setup.0.topic, options(&setup.0, Some(now))?)?;
            Ok(topic_state(&topic).into())
        }
        Request::DeleteTopic(name) => {
            log.delete_topic(&name.0.topic)?;
            Ok(Done(Nothing {}).into())
        }
        Request::Truncate(truncate) => {
            let topic: Topic = log.topic(&truncate.topic)?;
            topic.truncate_front(truncate.partition, truncate.offset)?;
            Ok(Done(Nothing {}).into())
        }
        Request::Transact(request) => groups::transact(log, request, body),
        other => {
            let reason = format!("a request of kind {} is not one for topics", other.name());
            Err(LogError::Invalid { what: "request", reason })
        }
    }
}

fn offset_at(log: &Log, at: OffsetAt) -> Result<Reply, LogError> {
    let topic = log.topic(&at.topic)?;
    let position = Position::from(at.position);
    let offset = topic.offset_of(at.partition, position.clone())?;
    // Afterwards: a commit that was under way is done by then.
    let committed = match position {
        Position::Committed(group) => {
            log.group(&group)?.committed(&at.topic, at.partition)?.is_some()
        }
        _ => false,
    };
    let last_epoch = last_epoch(topic.inner.partition(at.partition)?);
    Ok(OffsetFound { offset, committed, last_epoch, topic_id: topic.inner.id }.into())
}

pub(super) fn queue_state(stats: QueueStats) -> QueueState {
    QueueState {
        delivered: stats.delivered,
        redelivered: stats.redelivered,
        acknowledged: stats.acknowledged,
        dead: stats.dead,
        missed: stats.missed,
        available: stats.available as u64,
        locked: stats.locked as u64,
        waiting: stats.waiting as u64,
        unburied: stats.unburied as u64,
    }
}

/// The options that words say; what they do not say stays as it is.
fn options(setup: &TopicSetup, now: Option<TopicOptions>) -> Result<TopicOptions, LogError> {
    let mut options = now.unwrap_or_default();
    for word in &setup.options {
        if !options.set_word(word) {
            let reason = format!("{word} is not known here");
            return Err(LogError::Invalid { what: "topic option", reason });
        }
    }
    Ok(options)
}

pub(super) fn topic_state(topic: &Topic) -> TopicState {
    let description = topic.describe();
    let partition = |partition: &crate::log::PartitionDescription| PartitionState {
        earliest: partition.earliest,
        end: partition.end,
        durable_end: partition.durable_end,
        segments: u32::try_from(partition.segments).unwrap_or(u32::MAX),
        bytes: partition.bytes,
    };
    TopicState {
        topic: description.name.clone(),
        id: description.id.to_string(),
        options: description.options.words(),
        partitions: description.partitions.iter().map(partition).collect(),
        fingerprint: fingerprint(topic),
    }
}
