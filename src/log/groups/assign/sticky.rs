//! Sticky: as even as the subscriptions allow, and as few partitions as possible change hands.
//!
//! Who had a partition keeps it, what nobody has goes to those with the fewest, and then partitions move one by one from
//! those with many to those with at least two fewer, by way of others where the two have no topic in common. No such way
//! left means that no other division is more even.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Assignment, Subscriber};
use crate::log::groups::types::TopicPartition;

/// The division so far; members by their place in the list.
#[derive(Debug)]
struct Division<'a> {
    /// Who reads a topic.
    readers: BTreeMap<&'a str, Vec<usize>>,
    shares: Vec<BTreeSet<TopicPartition>>,
    previous: Vec<Option<&'a BTreeSet<TopicPartition>>>,
}

/// One step on the way of a partition: somebody gives one of this topic to the next.
#[derive(Clone, Debug)]
struct Step {
    from: usize,
    topic: String,
}

/// The share of each subscriber, in their order.
pub(super) fn assign<'a>(
    subscribers: &[Subscriber<'a>],
    topics: &'a BTreeMap<String, u32>,
    previous: &'a Assignment,
) -> Vec<BTreeSet<TopicPartition>> {
    let readers_of = |topic: &str| {
        let all = subscribers.iter().enumerate();
        let readers = all.filter(|(_, subscriber)| subscriber.topics.contains(topic));
        readers.map(|(n, _)| n).collect::<Vec<_>>()
    };
    let mut division = Division {
        readers: topics.keys().map(|topic| (topic.as_str(), readers_of(topic))).collect(),
        shares: vec![BTreeSet::new(); subscribers.len()],
        previous: subscribers.iter().map(|subscriber| previous.get(subscriber.id)).collect(),
    };
    let all = topics.iter().flat_map(|(topic, partitions)| {
        (0..*partitions).map(move |partition| TopicPartition::new(topic, partition))
    });
    let mut free = division.keep(all.collect());
    // Those that fewest can read first: the others have more of a choice.
    free.sort_by_key(|partition| division.readers_of(&partition.topic).len());
    for partition in free {
        division.give_to_least(partition);
    }
    while division.even_out() {}
    division.shares
}

impl Division<'_> {
    fn readers_of(&self, topic: &str) -> &[usize] {
        self.readers.get(topic).map_or(&[], Vec::as_slice)
    }

    fn count(&self, member: usize) -> usize {
        self.shares.get(member).map_or(0, BTreeSet::len)
    }

    /// Leaves everything where it was, if that reader still wants it; returns the rest.
    fn keep(&mut self, mut all: BTreeSet<TopicPartition>) -> Vec<TopicPartition> {
        for (n, previous) in self.previous.iter().enumerate() {
            let Some(share) = self.shares.get_mut(n) else { continue };
            for partition in previous.iter().copied().flatten() {
                let readers = self.readers.get(partition.topic.as_str());
                if readers.is_some_and(|readers| readers.contains(&n)) && all.remove(partition) {
                    share.insert(partition.clone());
                }
            }
        }
        all.into_iter().collect()
    }

    fn give_to_least(&mut self, partition: TopicPartition) {
        let readers = self.readers_of(&partition.topic).iter();
        let least = readers.copied().min_by_key(|reader| self.count(*reader));
        if let Some(share) = least.and_then(|reader| self.shares.get_mut(reader)) {
            share.insert(partition);
        }
    }

    /// Moves one partition from somebody with many to somebody with at least two fewer; false if nobody can.
    fn even_out(&mut self) -> bool {
        let mut members: Vec<usize> = (0..self.shares.len()).collect();
        members.sort_by_key(|member| std::cmp::Reverse(self.count(*member)));
        let least = members.last().map_or(0, |member| self.count(*member));
        for giver in members {
            if self.count(giver) < least + 2 {
                return false;
            }
            if let Some((way, taker)) = self.way_from(giver) {
                self.walk(&way, taker);
                return true;
            }
        }
        false
    }

    /// The shortest way from a member to the one with the fewest that it reaches, if that has at least two fewer.
    fn way_from(&self, giver: usize) -> Option<(Vec<Step>, usize)> {
        let mut came: Vec<Option<Step>> = vec![None; self.shares.len()];
        let mut queue = VecDeque::from([giver]);
        let mut best = None;
        while let Some(from) = queue.pop_front() {
            let topics: BTreeSet<&str> =
                self.shares.get(from)?.iter().map(|partition| partition.topic.as_str()).collect();
            for topic in topics {
                for reader in self.readers_of(topic) {
                    let place = came.get_mut(*reader)?;
                    if *reader == giver || place.is_some() {
                        continue;
                    }
                    *place = Some(Step { from, topic: topic.to_owned() });
                    queue.push_back(*reader);
                    if best.is_none_or(|best| self.count(*reader) < self.count(best)) {
                        best = Some(*reader);
                    }
                }
            }
        }
        let taker = best.filter(|taker| self.count(*taker) + 2 <= self.count(giver))?;
        let mut way = Vec::new();
        let mut here = taker;
        while here != giver {
            let step = came.get(here)?.clone()?;
            here = step.from;
            way.push(step);
        }
        Some((way, taker))
    }

    /// Moves a partition along each step, from the last step to the first.
    fn walk(&mut self, way: &[Step], taker: usize) {
        let mut to = taker;
        for step in way {
            let previous = self.previous.get(step.from).copied().flatten();
            let had = |partition: &&TopicPartition| {
                previous.is_some_and(|previous| previous.contains(*partition))
            };
            let Some(share) = self.shares.get_mut(step.from) else { return };
            let mut candidates = share.iter().rev().filter(|held| held.topic == step.topic);
            // One that it did not have before, if there is one.
            let last = candidates.clone().next();
            let chosen = candidates.find(|partition| !had(partition)).or(last).cloned();
            let Some(chosen) = chosen else { return };
            share.remove(&chosen);
            if let Some(share) = self.shares.get_mut(to) {
                share.insert(chosen);
            }
            to = step.from;
        }
    }
}
