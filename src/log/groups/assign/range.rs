//! Range: each topic by itself, in runs of neighbouring partitions; the first members get the longer runs.

use std::collections::{BTreeMap, BTreeSet};

use super::Subscriber;
use crate::log::groups::types::TopicPartition;

/// The share of each subscriber, in their order.
pub(super) fn assign(
    subscribers: &[Subscriber<'_>],
    topics: &BTreeMap<String, u32>,
) -> Vec<BTreeSet<TopicPartition>> {
    let mut shares = vec![BTreeSet::new(); subscribers.len()];
    for (topic, partitions) in topics {
        let mut readers: Vec<&mut BTreeSet<TopicPartition>> = subscribers
            .iter()
            .zip(&mut shares)
            .filter(|(subscriber, _)| subscriber.topics.contains(topic))
            .map(|(_, share)| share)
            .collect();
        let count = u64::try_from(readers.len()).unwrap_or(u64::MAX);
        for partition in 0..*partitions {
            // Run `n` begins at `n * partitions / count`, rounded up; so the first ones are the longer ones.
            let reader = u64::from(partition) * count / u64::from(*partitions);
            if let Some(share) = usize::try_from(reader).ok().and_then(|n| readers.get_mut(n)) {
                share.insert(TopicPartition::new(topic, partition));
            }
        }
    }
    shares
}
