//! What every strategy promises, and what each promises beyond that.

use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;

use super::{Assignment, BTreeMap, BTreeSet, Strategy, Subscriber, TopicPartition, assign};

/// Members by id with the topics they read.
type Members = BTreeMap<String, BTreeSet<String>>;

fn divide(
    strategy: Strategy,
    members: &Members,
    topics: &BTreeMap<String, u32>,
    previous: &Assignment,
) -> Assignment {
    let subscribers: Vec<_> =
        members.iter().map(|(id, topics)| Subscriber { id, topics }).collect();
    assign(strategy, &subscribers, topics, previous)
}

fn topics() -> impl Generator<Value = BTreeMap<String, u32>> {
    prop::collection::btree_map("[a-d]", 0u32..12, 1..4)
}

/// Members that read any of the topics, or some that do not exist.
fn members() -> impl Generator<Value = Members> {
    prop::collection::btree_map("m[0-9]", prop::collection::btree_set("[a-e]", 0..4), 0..6)
}

/// Members that all read the same.
fn equal_members(count: std::ops::Range<usize>) -> impl Generator<Value = Members> {
    let ids = prop::collection::btree_set("m[0-9]", count);
    ids.prop_map(|ids| {
        let all: BTreeSet<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        ids.into_iter().map(|id| (id, all.clone())).collect()
    })
}

fn counts(assignment: &Assignment) -> Vec<usize> {
    assignment.values().map(BTreeSet::len).collect()
}

fn difference(assignment: &Assignment) -> usize {
    let counts = counts(assignment);
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

/// Partitions that were somebody's and are somebody else's now, while both are members.
fn moved(before: &Assignment, after: &Assignment) -> usize {
    let stayed = |id: &String, share: &BTreeSet<TopicPartition>| {
        after.get(id).map_or(share.len(), |now| share.difference(now).count())
    };
    before.iter().filter(|(id, _)| after.contains_key(*id)).map(|(id, s)| stayed(id, s)).sum()
}

proptest! {
    #[test]
    fn every_partition_that_somebody_reads_goes_to_one_of_its_readers(
        members in members(), topics in topics(), before in members(),
    ) {
        let previous = divide(Strategy::Range, &before, &topics, &Assignment::new());
        for strategy in Strategy::ALL {
            let divided = divide(strategy, &members, &topics, &previous);
            prop_assert_eq!(divided.len(), members.len());
            let mut given = BTreeSet::new();
            for (id, share) in &divided {
                for partition in share {
                    prop_assert!(members[id].contains(&partition.topic));
                    prop_assert!(partition.partition < topics[&partition.topic]);
                    prop_assert!(given.insert(partition.clone()), "{} twice", partition);
                }
            }
            let read = |topic: &String| members.values().any(|topics| topics.contains(topic));
            let all: u32 = topics.iter().filter(|(topic, _)| read(topic)).map(|(_, n)| n).sum();
            prop_assert_eq!(given.len(), all as usize);
            prop_assert_eq!(&divide(strategy, &members, &topics, &previous), &divided);
        }
    }

    #[test]
    fn equal_subscriptions_get_equal_counts_but_for_one(
        members in equal_members(1..7), topics in topics(), partitions in 0u32..40,
    ) {
        let one = BTreeMap::from([("a".to_owned(), partitions)]);
        for strategy in Strategy::ALL {
            prop_assert!(difference(&divide(strategy, &members, &one, &Assignment::new())) <= 1);
        }
        for strategy in [Strategy::RoundRobin, Strategy::Sticky] {
            prop_assert!(difference(&divide(strategy, &members, &topics, &Assignment::new())) <= 1);
        }
    }

    #[test]
    fn sticky_moves_only_what_somebody_has_too_much_of(
        before in equal_members(1..7), after in equal_members(1..7), topics in topics(), more in topics(),
    ) {
        let previous = divide(Strategy::Sticky, &before, &topics, &Assignment::new());
        let mut grown = topics;
        for (topic, partitions) in more {
            let known = grown.entry(topic).or_default();
            *known = (*known).max(partitions);
        }
        let divided = divide(Strategy::Sticky, &after, &grown, &previous);
        prop_assert!(difference(&divided) <= 1);
        // The fewest possible: the members with most keep the larger shares, and each gives what is beyond its share.
        let total: usize = grown.values().map(|n| *n as usize).sum();
        let (share, larger) = (total / after.len(), total % after.len());
        let mut had: Vec<usize> =
            after.keys().map(|id| previous.get(id).map_or(0, BTreeSet::len)).collect();
        had.sort_unstable_by(|a, b| b.cmp(a));
        let excess = had.iter().enumerate().map(|(n, had)| {
            had.saturating_sub(share + usize::from(n < larger))
        });
        prop_assert_eq!(moved(&previous, &divided), excess.sum::<usize>());
    }

    #[test]
    fn sticky_is_as_even_as_any_subscriptions_allow(
        members in members(), topics in topics(), before in members(),
    ) {
        let previous = divide(Strategy::RoundRobin, &before, &topics, &Assignment::new());
        let divided = divide(Strategy::Sticky, &members, &topics, &previous);
        // The most even division has the least sum of squares; a plain search for improvements by ways of any length.
        let squares = |counts: Vec<usize>| counts.iter().map(|n| n * n).sum::<usize>();
        prop_assert_eq!(squares(counts(&divided)), least_squares(&members, &topics));
    }
}

/// The least possible sum of squares of counts: partitions placed one by one, each time by the cheapest change of all
/// placements so far (exact for this cost, by the theory of min-cost flow), found by Bellman-Ford.
fn least_squares(members: &Members, topics: &BTreeMap<String, u32>) -> usize {
    let ids: Vec<&String> = members.keys().collect();
    let mut placed: Vec<(String, usize)> = Vec::new();
    for (topic, partitions) in topics {
        for _ in 0..*partitions {
            let reads = |n: usize, topic: &str| members[ids[n]].contains(topic);
            let count =
                |placed: &Vec<(String, usize)>, n| placed.iter().filter(|p| p.1 == n).count();
            // Whom the new partition can displace towards, and through which placement.
            let mut reached: BTreeMap<usize, Option<usize>> = BTreeMap::new();
            let mut queue: Vec<usize> = (0..ids.len()).filter(|n| reads(*n, topic)).collect();
            queue.iter().for_each(|n| _ = reached.insert(*n, None));
            while let Some(n) = queue.pop() {
                for (at, (topic, holder)) in placed.iter().enumerate() {
                    if *holder != n {
                        continue;
                    }
                    for other in 0..ids.len() {
                        if reads(other, topic) && !reached.contains_key(&other) {
                            reached.insert(other, Some(at));
                            queue.push(other);
                        }
                    }
                }
            }
            let Some(end) = reached.keys().copied().min_by_key(|n| count(&placed, *n)) else {
                break;
            };
            let mut here = end;
            while let Some(Some(at)) = reached.get(&here).copied() {
                std::mem::swap(&mut placed[at].1, &mut here);
            }
            placed.push((topic.clone(), here));
        }
    }
    (0..ids.len()).map(|n| placed.iter().filter(|p| p.1 == n).count().pow(2)).sum()
}

#[test]
fn range_gives_runs_and_round_robin_takes_turns() {
    let members: Members =
        ["x", "y", "z"].map(|id| (id.to_owned(), BTreeSet::from(["a".to_owned()]))).into();
    let topics = BTreeMap::from([("a".to_owned(), 7)]);
    let numbers = |strategy| {
        let divided = divide(strategy, &members, &topics, &Assignment::new());
        let share = |share: BTreeSet<TopicPartition>| share.iter().map(|p| p.partition).collect();
        divided.into_values().map(share).collect::<Vec<Vec<u32>>>()
    };
    assert_eq!(numbers(Strategy::Range), [vec![0, 1, 2], vec![3, 4], vec![5, 6]]);
    assert_eq!(numbers(Strategy::RoundRobin), [vec![0, 3, 6], vec![1, 4], vec![2, 5]]);
}
