//! The coordinator of one group: who is a member, who owns what, who shall own what. A pure state machine: no storage, no
//! clock, no lock; what it is told is all it knows.
//!
//! Each change of members, of what they want, or of the topics raises the generation and computes a target. Partitions then
//! change hands one by one: an owner learns in the answer to its heartbeat what it has to give up, leaves that out of a
//! later heartbeat, and only then its next owner gets it in an answer. A partition is owned from the answer that hands
//! it out until the heartbeat that leaves it out, or until its owner left or was expelled; so it never has two owners.
//! A member that has something to give up stays in the generation that it was in and gets nothing new; so even one after
//! the other no two members own a partition in the same generation.
//!
//! An owner may commit for what it owns, however far the group's generation has gone on meanwhile: nobody else does
//! until it has given the partition up. What it claims to have owned in a generation before it was handed out to it
//! (this time) it must not commit, as somebody else may have got further in between.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assign::{Assignment, Subscriber, assign};
use super::types::{
    Fencing, HeartbeatReply, HeartbeatRequest, MemberDescription, Strategy, TopicPartition,
};
use crate::log::format::Id;

/// Heartbeats that fit into a session.
const HEARTBEATS_PER_SESSION: i64 = 3;

/// Ids that are kept of the members whose place one has taken; the latest.
const PREDECESSORS_MAX: usize = 16;

/// What is known of a topic: its id, by which it is told from an earlier one of the same name, and its partitions.
pub(super) type TopicShape = (Id, u32);

/// One member.
#[derive(Debug)]
struct Member {
    instance: Option<String>,
    /// Those that had the instance name before it, the latest last.
    predecessors: Vec<String>,
    topics: BTreeSet<String>,
    strategy: Strategy,
    session_timeout_ms: i64,
    /// When its last heartbeat came.
    heard_ms: i64,
    /// The number of that.
    sequence: u64,
    /// The last generation in which it had nothing to give up.
    generation: i32,
    /// What it owns, and in which generation it got it; not above `generation`.
    owned: BTreeMap<TopicPartition, i32>,
}

/// One group.
#[derive(Debug, Default)]
pub(super) struct Coordinator {
    generation: i32,
    members: BTreeMap<String, Member>,
    /// The topics that members read, those that exist.
    topics: BTreeMap<String, TopicShape>,
    /// What each member shall own.
    target: Assignment,
    /// All partitions that somebody owns.
    taken: BTreeSet<TopicPartition>,
    /// Grows with each change that another member than the one that caused it may have to learn of.
    changes: u64,
}

impl Coordinator {
    /// A group without members, whose last generation was this one.
    pub(super) fn new(generation: i32) -> Self {
        Self { generation, ..Self::default() }
    }

    /// The generation now; 0 before the first member.
    pub(super) fn generation(&self) -> i32 {
        self.generation
    }

    /// Grows with each change that members may have to learn of by a heartbeat.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// How many members there are.
    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    /// The topics that members read, whether they exist or not.
    pub(super) fn subscribed(&self) -> BTreeSet<String> {
        self.members.values().flat_map(|member| member.topics.iter().cloned()).collect()
    }

    /// A member was there at this moment, whatever its heartbeats say.
    pub(super) fn heard(&mut self, id: &str, at_ms: i64) {
        if let Some(member) = self.members.get_mut(id) {
            member.heard_ms = member.heard_ms.max(at_ms);
        }
    }

    /// Takes a heartbeat, or lets a member join. `shape` tells what topics exist.
    ///
    /// # Errors
    /// `UnknownMember` for one that is none and does not join; `Replaced` for one whose place another member has.
    pub(super) fn heartbeat(
        &mut self,
        now_ms: i64,
        request: &HeartbeatRequest,
        shape: impl Fn(&str) -> Option<TopicShape>,
    ) -> Result<HeartbeatReply, Fencing> {
        self.expire(now_ms);
        let (mut changed, mut admitted) = (false, false);
        match self.members.get_mut(&request.member) {
            Some(member) => {
                member.heard_ms = member.heard_ms.max(now_ms);
                if request.sequence > member.sequence {
                    changed = member.update(request);
                    self.release(&request.member, &request.owned);
                }
            }
            None => {
                self.check_replaced(&request.member)?;
                if request.generation != 0 {
                    return Err(self.stranger(request));
                }
                self.admit(now_ms, request);
                (changed, admitted) = (true, true);
            }
        }
        changed |= self.look_at_topics(shape);
        if changed {
            self.rebalance();
        }
        if admitted {
            // What its predecessor had and it shall not have, nobody works on.
            self.release(&request.member, &[]);
        }
        Ok(self.hand_out(&request.member))
    }

    /// Whether a heartbeat lets no further member join where there are so many already.
    pub(super) fn has_room_for(
        &mut self,
        now_ms: i64,
        request: &HeartbeatRequest,
        members_max: usize,
    ) -> bool {
        self.expire(now_ms);
        let is_known = self.members.contains_key(&request.member);
        let replaces = |member: &Member| member.instance == request.instance;
        request.generation != 0
            || is_known
            || self.members.len() < members_max
            || request.instance.is_some() && self.members.values().any(replaces)
    }

    /// A member goes; whether it was one.
    pub(super) fn leave(&mut self, now_ms: i64, id: &str) -> bool {
        self.expire(now_ms);
        let was = self.remove(id).is_some();
        if was {
            self.rebalance();
        }
        was
    }

    /// Expels members that were silent for longer than their session; whether there were any.
    pub(super) fn expire(&mut self, now_ms: i64) -> bool {
        let silent =
            |member: &Member| now_ms.saturating_sub(member.heard_ms) > member.session_timeout_ms;
        let gone: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| silent(member))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            self.remove(id);
        }
        if !gone.is_empty() {
            self.rebalance();
        }
        !gone.is_empty()
    }

    /// Whether a member may commit for these partitions, by the generation it knows.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_commit<'a>(
        &mut self,
        now_ms: i64,
        id: &str,
        generation: i32,
        partitions: impl Iterator<Item = (&'a str, u32)>,
    ) -> Result<(), Fencing> {
        self.expire(now_ms);
        let Some(member) = self.members.get(id) else {
            self.check_replaced(id)?;
            return Err(Fencing::UnknownMember);
        };
        for (topic, partition) in partitions {
            let partition = TopicPartition::new(topic, partition);
            let current = self.generation;
            match member.owned.get(&partition).copied() {
                None => return Err(Fencing::NotOwner { partition }),
                Some(since) if !(since..=current).contains(&generation) => {
                    return Err(Fencing::WrongGeneration { partition, since, current });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Whether each member owns what it shall own.
    pub(super) fn is_settled(&self) -> bool {
        self.members.iter().all(|(id, member)| {
            let owned = member.owned.keys();
            self.target.get(id).is_some_and(|target| owned.eq(target.iter()))
        })
    }

    /// The strategy that counts; `None` without members.
    pub(super) fn strategy(&self) -> Option<Strategy> {
        let votes = |strategy: &Strategy| {
            self.members.values().filter(|member| member.strategy == *strategy).count()
        };
        // Of equal ones `max_by_key` takes the last.
        let most = Strategy::ALL.into_iter().rev().max_by_key(votes);
        most.filter(|_| !self.members.is_empty())
    }

    /// The members by id.
    pub(super) fn describe(&self, now_ms: i64) -> Vec<MemberDescription> {
        let describe = |(id, member): (&String, &Member)| {
            let Lists { assigned, revoked, awaited } = self.lists(id, member);
            let silent_ms = now_ms.saturating_sub(member.heard_ms);
            MemberDescription {
                member: id.clone(),
                instance: member.instance.clone(),
                topics: member.topics.iter().cloned().collect(),
                strategy: member.strategy,
                assigned,
                revoked,
                awaited,
                silent_for: Duration::from_millis(u64::try_from(silent_ms).unwrap_or_default()),
            }
        };
        self.members.iter().map(describe).collect()
    }

    /// Refuses one of which it is known that a member has taken its place: it must not take that back, or the two would
    /// replace each other for ever.
    fn check_replaced(&self, id: &str) -> Result<(), Fencing> {
        let successor =
            self.members.values().find(|member| member.predecessors.iter().any(|one| one == id));
        match successor.and_then(|member| member.instance.clone()) {
            Some(instance) => Err(Fencing::Replaced { instance }),
            None => Ok(()),
        }
    }

    /// Why somebody of whom nothing is known is no member, by what it says itself.
    fn stranger(&self, request: &HeartbeatRequest) -> Fencing {
        let has_name = |name: &String| {
            self.members.values().any(|member| member.instance.as_ref() == Some(name))
        };
        match request.instance.clone().filter(has_name) {
            Some(instance) => Fencing::Replaced { instance },
            None => Fencing::UnknownMember,
        }
    }

    /// Takes a new member in, in place of the one with the same instance name.
    fn admit(&mut self, now_ms: i64, request: &HeartbeatRequest) {
        let (mut owned, mut predecessors) = (BTreeMap::new(), Vec::new());
        let same =
            |member: &Member| request.instance.is_some() && member.instance == request.instance;
        let replaced =
            self.members.iter().find(|(_, member)| same(member)).map(|(id, _)| id.clone());
        if let Some(replaced) = replaced
            && let Some(before) = self.members.remove(&replaced)
        {
            // Nobody else gets what it had; but from now on only its successor can commit for it.
            let since = self.generation.saturating_add(1);
            owned = before.owned.into_keys().map(|partition| (partition, since)).collect();
            predecessors = before.predecessors;
            if predecessors.len() == PREDECESSORS_MAX {
                predecessors.remove(0);
            }
            predecessors.push(replaced.clone());
            if let Some(target) = self.target.remove(&replaced) {
                self.target.insert(request.member.clone(), target);
            }
        }
        let member = Member {
            instance: request.instance.clone(),
            predecessors,
            topics: request.topics.iter().cloned().collect(),
            strategy: request.strategy,
            session_timeout_ms: session_ms(request),
            heard_ms: now_ms,
            sequence: request.sequence,
            // The one that begins with it.
            generation: self.generation.saturating_add(1),
            owned,
        };
        self.members.insert(request.member.clone(), member);
    }

    fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.target.remove(id);
        for partition in member.owned.keys() {
            self.taken.remove(partition);
        }
        Some(member)
    }

    /// Frees what a member shall not have and says it has not any more.
    fn release(&mut self, id: &str, has: &[TopicPartition]) {
        let Some(member) = self.members.get_mut(id) else { return };
        let (target, has) = (self.target.get(id), has.iter().collect::<BTreeSet<_>>());
        let taken = &mut self.taken;
        let before = member.owned.len();
        member.owned.retain(|partition, _| {
            let shall = target.is_some_and(|target| target.contains(partition));
            let keeps = shall || has.contains(partition);
            if !keeps {
                taken.remove(partition);
            }
            keeps
        });
        self.changes += u64::from(member.owned.len() < before);
    }

    /// Notices what happened to the topics that members read; whether that was anything.
    fn look_at_topics(&mut self, shape: impl Fn(&str) -> Option<TopicShape>) -> bool {
        let subscribed = self.subscribed();
        let topics: BTreeMap<String, TopicShape> = subscribed
            .into_iter()
            .filter_map(|topic| shape(&topic).map(|shape| (topic, shape)))
            .collect();
        if topics == self.topics {
            return false;
        }
        let taken = &mut self.taken;
        for member in self.members.values_mut() {
            member.owned.retain(|partition, _| {
                let before = self.topics.get(&partition.topic).map(|(id, _)| id);
                // A topic nobody reads any more is still there; its owner gives it up as usual.
                let now = topics.get(&partition.topic).copied().or_else(|| shape(&partition.topic));
                let same = now.is_some_and(|(id, count)| {
                    before.is_none_or(|before| *before == id) && partition.partition < count
                });
                if !same {
                    taken.remove(partition);
                }
                same
            });
        }
        self.topics = topics;
        true
    }

    /// Starts a generation with a target of its own.
    fn rebalance(&mut self) {
        self.generation = self.generation.saturating_add(1);
        self.changes += 1;
        let Some(strategy) = self.strategy() else {
            self.target.clear();
            return;
        };
        // By the name that outlives the process, so that a member that comes back gets the place it had.
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(id, member)| (member.instance.as_ref().unwrap_or(id), *id));
        let subscribers: Vec<_> =
            members.iter().map(|(id, member)| Subscriber { id, topics: &member.topics }).collect();
        let topics =
            self.topics.iter().map(|(topic, (_, partitions))| (topic.clone(), *partitions));
        self.target = assign(strategy, &subscribers, &topics.collect(), &self.target);
    }

    /// Gives a member what it shall have and nobody owns, and tells it what is its.
    fn hand_out(&mut self, id: &str) -> HeartbeatReply {
        let mut reply = HeartbeatReply {
            member: id.to_owned(),
            generation: self.generation,
            assigned: Vec::new(),
            revoked: Vec::new(),
            awaited: 0,
            heartbeat_interval: Duration::ZERO,
        };
        if let (Some(member), Some(target)) = (self.members.get_mut(id), self.target.get(id)) {
            if member.owned.keys().all(|partition| target.contains(partition)) {
                member.generation = self.generation;
                let free = target.iter().filter(|partition| !self.taken.contains(*partition));
                let got = free.map(|partition| (partition.clone(), self.generation));
                member.owned.extend(got);
                self.taken.extend(member.owned.keys().cloned());
            }
            reply.generation = member.generation;
        }
        if let Some(member) = self.members.get(id) {
            let lists = self.lists(id, member);
            (reply.assigned, reply.revoked) = (lists.assigned, lists.revoked);
            reply.awaited = lists.awaited.len();
            let interval_ms = member.session_timeout_ms / HEARTBEATS_PER_SESSION;
            let interval_ms = u64::try_from(interval_ms).unwrap_or_default();
            reply.heartbeat_interval = Duration::from_millis(interval_ms);
        }
        reply
    }

    fn lists(&self, id: &str, member: &Member) -> Lists {
        let nothing = BTreeSet::new();
        let target = self.target.get(id).unwrap_or(&nothing);
        let owned = member.owned.keys().cloned();
        let (assigned, revoked) = owned.partition(|partition| target.contains(partition));
        let awaited = target.iter().filter(|partition| !member.owned.contains_key(*partition));
        Lists { assigned, revoked, awaited: awaited.cloned().collect() }
    }
}

/// What a member is told about its partitions.
#[derive(Debug)]
struct Lists {
    assigned: Vec<TopicPartition>,
    revoked: Vec<TopicPartition>,
    awaited: Vec<TopicPartition>,
}

fn session_ms(request: &HeartbeatRequest) -> i64 {
    i64::try_from(request.session_timeout.as_millis()).unwrap_or(i64::MAX)
}

impl Member {
    /// Takes over what a heartbeat says; whether that changes who shall own what.
    fn update(&mut self, request: &HeartbeatRequest) -> bool {
        self.sequence = request.sequence;
        self.session_timeout_ms = session_ms(request);
        let topics = request.topics.iter().cloned().collect();
        let changed = self.topics != topics || self.strategy != request.strategy;
        (self.topics, self.strategy) = (topics, request.strategy);
        changed
    }
}
