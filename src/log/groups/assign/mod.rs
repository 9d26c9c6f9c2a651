//! Who of a group reads what: pure functions from members, topics and the former division to the next one.

mod range;
mod round_robin;
mod sticky;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::types::{Strategy, TopicPartition};

/// A member, as far as dividing is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber<'a> {
    pub(super) id: &'a str,
    pub(super) topics: &'a BTreeSet<String>,
}

/// The partitions of each member, by its id.
pub(super) type Assignment = BTreeMap<String, BTreeSet<TopicPartition>>;

/// Divides all partitions of the topics among those who want to read them. Each partition of a topic that somebody reads
/// goes to one of its readers. Equal arguments give equal results; the order of `subscribers` counts.
pub(super) fn assign(
    strategy: Strategy,
    subscribers: &[Subscriber<'_>],
    topics: &BTreeMap<String, u32>,
    previous: &Assignment,
) -> Assignment {
    let shares = match strategy {
        Strategy::Range => range::assign(subscribers, topics),
        Strategy::RoundRobin => round_robin::assign(subscribers, topics),
        Strategy::Sticky => sticky::assign(subscribers, topics, previous),
    };
    subscribers.iter().map(|subscriber| subscriber.id.to_owned()).zip(shares).collect()
}
