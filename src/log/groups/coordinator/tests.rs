//! The coordinator by itself, and against members that do as they like.

use proptest::prelude::*;

use super::*;
use crate::log::groups::types::Strategy;

const SESSION_MS: i64 = 1_000;

fn topic(count: u32) -> impl Fn(&str) -> Option<TopicShape> + Copy {
    move |name| (name == "t").then_some((Id::from_bits(7), count))
}

fn request(member: &str, generation: i32, sequence: u64, owned: &[u32]) -> HeartbeatRequest {
    HeartbeatRequest {
        member: member.to_owned(),
        instance: None,
        generation,
        sequence,
        topics: vec!["t".to_owned()],
        strategy: Strategy::Sticky,
        session_timeout: Duration::from_millis(SESSION_MS.unsigned_abs()),
        owned: owned.iter().map(|partition| TopicPartition::new("t", *partition)).collect(),
    }
}

fn numbers(partitions: &[TopicPartition]) -> Vec<u32> {
    partitions.iter().map(|partition| partition.partition).collect()
}

#[test]
fn every_change_raises_the_generation_and_nothing_else_does() {
    let mut group = Coordinator::default();
    let mut beat = |now, request: HeartbeatRequest, partitions| {
        group.heartbeat(now, &request, topic(partitions)).unwrap().generation
    };
    assert_eq!(beat(0, request("a", 0, 1, &[]), 2), 1);
    assert_eq!(beat(1, request("a", 1, 2, &[0, 1]), 2), 1);
    assert_eq!(beat(2, request("b", 0, 1, &[]), 2), 2, "a member more");
    assert_eq!(beat(3, request("a", 2, 3, &[0]), 2), 2, "a partition changes hands");
    assert_eq!(beat(4, request("b", 2, 2, &[]), 2), 2);
    assert_eq!(beat(5, request("b", 2, 3, &[1]), 3), 3, "the topic has more partitions");
    let ranged = HeartbeatRequest { strategy: Strategy::Range, ..request("a", 3, 4, &[0]) };
    assert_eq!(beat(6, ranged, 3), 4, "another strategy");
    assert!(group.leave(7, "b") && !group.leave(7, "b"));
    assert_eq!(group.generation(), 5);
    assert!(group.expire(8 + SESSION_MS));
    assert_eq!((group.generation(), group.members()), (6, 0));
}

#[test]
fn a_heartbeat_that_took_its_time_gives_nothing_up() {
    let mut group = Coordinator::default();
    let mut beat = |request: HeartbeatRequest| group.heartbeat(0, &request, topic(2)).unwrap();
    beat(request("a", 0, 1, &[]));
    beat(request("b", 0, 1, &[]));
    let told = beat(request("a", 1, 3, &[0, 1]));
    assert_eq!(numbers(&told.revoked), [1]);
    // Sent before the first answer was there, and on the way until now.
    let late = beat(request("a", 0, 2, &[]));
    assert_eq!(numbers(&late.revoked), [1], "it still works on it");
    assert_eq!(beat(request("b", 2, 2, &[])).awaited, 1);
    beat(request("a", 2, 4, &[0]));
    assert_eq!(numbers(&beat(request("b", 2, 3, &[])).assigned), [1]);
}

#[test]
fn whoever_joins_with_the_name_of_a_member_takes_its_place() {
    let mut group = Coordinator::default();
    let named = |member: &str, generation, sequence| HeartbeatRequest {
        instance: Some("one".to_owned()),
        ..request(member, generation, sequence, &[])
    };
    group.heartbeat(0, &named("a", 0, 1), topic(4)).unwrap();
    group.heartbeat(0, &request("b", 0, 1, &[]), topic(4)).unwrap();
    group.heartbeat(0, &HeartbeatRequest { generation: 2, ..named("a", 2, 2) }, topic(4)).unwrap();
    let before = group.heartbeat(0, &named("a", 2, 3), topic(4)).unwrap();
    let after = group.heartbeat(0, &named("c", 0, 1), topic(4)).unwrap();
    assert_eq!((after.assigned, after.awaited), (before.assigned, 0), "no detour, no waiting");
    assert_eq!(group.members(), 2);
    let partition = [("t", 0)];
    let check = |group: &mut Coordinator, member, generation| {
        group.check_commit(0, member, generation, partition.into_iter())
    };
    let replaced = Fencing::Replaced { instance: "one".to_owned() };
    assert_eq!(check(&mut group, "a", 2), Err(replaced.clone()));
    let since = after.generation;
    assert!(matches!(check(&mut group, "c", since - 1), Err(Fencing::WrongGeneration { .. })));
    assert_eq!(check(&mut group, "c", since), Ok(()));
    // A heartbeat of before, and the joining, which was sent again as its answer was lost.
    for generation in [2, 0] {
        let late = group.heartbeat(0, &named("a", generation, 4), topic(4));
        assert_eq!(late, Err(replaced.clone()));
    }
    // Of one that the coordinator has never seen its name tells.
    assert_eq!(group.heartbeat(0, &named("x", 1, 1), topic(4)), Err(replaced));
    assert_eq!(group.generation(), since, "nothing has changed by that");
    assert!(group.leave(0, "c"));
    let vacant = group.heartbeat(0, &named("a", 2, 5), topic(4));
    assert_eq!(vacant, Err(Fencing::UnknownMember), "there is a place for it again");
}

#[test]
fn a_topic_made_anew_is_not_owned_by_those_who_owned_the_old_one() {
    let mut group = Coordinator::default();
    let shape = |id| move |_: &str| Some((Id::from_bits(id), 1));
    group.heartbeat(0, &request("a", 0, 1, &[]), shape(1)).unwrap();
    assert_eq!(group.check_commit(0, "a", 1, [("t", 0)].into_iter()), Ok(()));
    let reply = group.heartbeat(0, &request("a", 1, 2, &[0]), shape(2)).unwrap();
    assert_eq!((reply.generation, numbers(&reply.assigned)), (2, vec![0]));
    let late = group.check_commit(0, "a", 1, [("t", 0)].into_iter());
    assert!(matches!(late, Err(Fencing::WrongGeneration { since: 2, .. })), "{late:?}");
    let gone = group.heartbeat(0, &request("a", 2, 3, &[0]), |_| None).unwrap();
    assert!(gone.assigned.is_empty() && gone.revoked.is_empty());
}

/// A member as it sees itself.
#[derive(Clone, Debug)]
struct Player {
    id: String,
    generation: i32,
    sequence: u64,
    /// What it works on, and whether it has to give it up.
    owned: BTreeMap<TopicPartition, bool>,
    strategy: Strategy,
    heard_ms: i64,
}

/// A group, and members that act in any order.
struct Game {
    group: Coordinator,
    now_ms: i64,
    players: Vec<Player>,
    partitions: u32,
    names: u32,
    /// Requests that come once more, later.
    delayed: Vec<HeartbeatRequest>,
    /// Who owned a partition in a generation.
    history: BTreeMap<(i32, TopicPartition), String>,
}

impl Game {
    fn new() -> Self {
        Self {
            group: Coordinator::new(3),
            now_ms: 0,
            players: vec![],
            partitions: 5,
            names: 0,
            delayed: vec![],
            history: BTreeMap::new(),
        }
    }

    fn step(&mut self, action: u8, who: usize, number: u32) {
        match action {
            0..=1 => self.join(number),
            2..=9 => self.beat(who, number),
            10 => self.leave(who),
            11 => self.now_ms += i64::from(number % 700),
            12 => self.partitions += number % 3,
            // Fails, and comes back as somebody else.
            13 => _ = self.players.remove_if(who),
            _ => self.deliver_late(who),
        }
        self.check();
    }

    fn join(&mut self, number: u32) {
        self.names += 1;
        let strategy = Strategy::ALL[number as usize % 3];
        let id = format!("m{}", self.names);
        let heard_ms = self.now_ms;
        let owned = BTreeMap::new();
        self.players.push(Player { id, generation: 0, sequence: 0, owned, strategy, heard_ms });
        self.beat(self.players.len() - 1, 0);
    }

    /// A heartbeat; a number that is a multiple of 5 loses the answer, of 7 delays the request besides.
    fn beat(&mut self, who: usize, number: u32) {
        let count = self.players.len();
        let Some(player) = self.players.get_mut(who % count.max(1)) else { return };
        // By now it has finished with what it was told to give up - most of the time.
        if number % 4 != 3 {
            player.owned.retain(|_, revoked| !*revoked);
        }
        player.sequence += 1;
        let request = HeartbeatRequest {
            strategy: player.strategy,
            owned: player.owned.keys().cloned().collect(),
            ..request(&player.id, player.generation, player.sequence, &[])
        };
        if number % 7 == 1 {
            self.delayed.push(request.clone());
        }
        let reply = self.group.heartbeat(self.now_ms, &request, topic(self.partitions));
        let Ok(reply) = reply else {
            // Expelled: it knows now.
            self.players.remove_if(who);
            return;
        };
        player.heard_ms = self.now_ms;
        if number % 5 == 1 {
            return;
        }
        assert!(reply.generation >= player.generation);
        player.generation = reply.generation;
        let kept = reply.revoked.into_iter().filter(|one| player.owned.contains_key(one));
        let kept: Vec<_> = kept.map(|partition| (partition, true)).collect();
        let assigned = reply.assigned.into_iter().map(|partition| (partition, false));
        player.owned = kept.into_iter().chain(assigned).collect();
    }

    fn leave(&mut self, who: usize) {
        if let Some(player) = self.players.remove_if(who) {
            self.group.leave(self.now_ms, &player.id);
        }
    }

    fn deliver_late(&mut self, which: usize) {
        if let Some(request) = self.delayed.get(which % self.delayed.len().max(1)).cloned() {
            // One that joins would be a member that nobody is.
            if request.generation != 0 {
                let _ = self.group.heartbeat(self.now_ms, &request, topic(self.partitions));
            }
        }
    }

    /// No two members that may commit work on the same partition; and whoever works on one, and is a member, may commit.
    fn check(&mut self) {
        let mut owners = BTreeMap::new();
        for player in &self.players {
            for partition in player.owned.keys() {
                let name = [(partition.topic.as_str(), partition.partition)];
                let may = self.group.check_commit(
                    self.now_ms,
                    &player.id,
                    player.generation,
                    name.into_iter(),
                );
                match may {
                    Ok(()) => {
                        let other = owners.insert(partition.clone(), player.id.clone());
                        assert_eq!(other, None, "{partition} has two owners: {player:?}");
                    }
                    Err(Fencing::UnknownMember) => continue,
                    Err(why) => panic!("{why}: {player:?} works on {partition}"),
                }
                let place = (player.generation, partition.clone());
                let first = self.history.entry(place).or_insert_with(|| player.id.clone());
                assert_eq!(*first, player.id, "{partition} twice in {}", player.generation);
            }
        }
    }

    fn everybody_beats(&mut self) {
        for who in (0..self.players.len()).rev() {
            self.beat(who, 0);
            self.check();
        }
    }

    /// Everybody who is left acts as it should; soon each has its share.
    fn settle(&mut self) {
        for player in &mut self.players {
            player.strategy = Strategy::Sticky;
        }
        // Those that failed are expelled in time.
        self.now_ms += SESSION_MS;
        self.everybody_beats();
        self.now_ms += 1;
        self.group.expire(self.now_ms);
        for _ in 0..4 {
            self.everybody_beats();
        }
        assert_eq!(self.group.members(), self.players.len());
        assert!(self.group.is_settled(), "{:?}", self.group);
        let counts: Vec<_> = self.players.iter().map(|player| player.owned.len()).collect();
        let (most, least) = (counts.iter().max(), counts.iter().min());
        assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 1, "{counts:?}");
        let all: usize = counts.iter().sum();
        assert!(self.players.is_empty() || all == self.partitions as usize);
    }
}

trait RemoveIf<T> {
    fn remove_if(&mut self, at: usize) -> Option<T>;
}

impl<T> RemoveIf<T> for Vec<T> {
    /// The element at a place counted around, if there is any.
    fn remove_if(&mut self, at: usize) -> Option<T> {
        (!self.is_empty()).then(|| self.remove(at % self.len()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_members_do_no_partition_has_two_owners_and_in_the_end_all_are_shared_out(
        steps in prop::collection::vec((0u8..16, 0usize..8, 0u32..1000), 0..120),
    ) {
        let mut game = Game::new();
        for (action, who, number) in steps {
            game.step(action, who, number);
        }
        game.settle();
    }
}
