//! Round-robin: all partitions of all topics in turn to all members, leaving out those that do not read the topic.

use std::collections::{BTreeMap, BTreeSet};

use super::Subscriber;
use crate::log::groups::types::TopicPartition;

/// The share of each subscriber, in their order.
pub(super) fn assign(
    subscribers: &[Subscriber<'_>],
    topics: &BTreeMap<String, u32>,
) -> Vec<BTreeSet<TopicPartition>> {
    let mut shares = vec![BTreeSet::new(); subscribers.len()];
    let mut next = 0;
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            let turn = (next..subscribers.len()).chain(0..next);
            let reader = turn.into_iter().find(|n| {
                subscribers.get(*n).is_some_and(|subscriber| subscriber.topics.contains(topic))
            });
            let Some(reader) = reader else { break };
            next = (reader + 1) % subscribers.len();
            if let Some(share) = shares.get_mut(reader) {
                share.insert(TopicPartition::new(topic, partition));
            }
        }
    }
    shares
}
