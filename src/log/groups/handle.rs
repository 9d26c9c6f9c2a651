//! A group as callers have it: what members in other processes ask of its coordinator, and what is asked about it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::member::{GroupMember, MemberOptions};
use super::registry::{Committer, GroupCell, check_name};
use super::types::{
    Committed, GroupDescription, GroupOffset, HeartbeatReply, HeartbeatRequest, OffsetCommit,
    TopicPartition,
};
use crate::log::append::Ticket;
use crate::log::directory::random_id;
use crate::log::error::LogError;
use crate::log::options::Level;
use crate::log::{Log, LogInner, Open};
use crate::sync::lock;

/// Shortest session; a shorter one is over before a member can do anything.
const SESSION_MIN: Duration = Duration::from_millis(10);

/// A group of consumers. Clones are the same group; each keeps the log open. It exists from its first member or commit on.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) log: Arc<Open>,
    pub(super) cell: Arc<GroupCell>,
}

/// Tells when a commit has its level. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "a commit is only known to be done when its ticket was waited for"]
pub struct CommitTicket {
    cell: Arc<GroupCell>,
    /// `None` if there was nothing to commit.
    ticket: Option<Ticket>,
}

impl CommitTicket {
    /// What is to be waited for, if anything is. What is known of the group is brought up to date when somebody asks for it.
    pub(in crate::log) fn into_ticket(self) -> Option<Ticket> {
        self.ticket
    }

    /// Whether it is done, or has failed: waiting would not block.
    pub fn is_done(&self) -> bool {
        self.ticket.as_ref().is_none_or(Ticket::is_done)
    }

    /// Waits until the commit has its level.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn wait(self) -> Result<(), LogError> {
        if let Some(ticket) = self.ticket {
            ticket.wait()?;
            lock(&self.cell.state).table.settle();
        }
        Ok(())
    }
}

impl Future for CommitTicket {
    type Output = Result<(), LogError>;

    /// As [`wait`](Self::wait), for a task.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(ticket) = &mut self.ticket else { return Poll::Ready(Ok(())) };
        let polled = Pin::new(ticket).poll(context);
        polled.map(|done| {
            done?;
            lock(&self.cell.state).table.settle();
            Ok(())
        })
    }
}

impl Log {
    /// A group. It need not exist yet.
    ///
    /// # Errors
    /// `Invalid` for a name other than 1 to 249 bytes without control characters; failures to read what is known of groups.
    pub fn group(&self, name: &str) -> Result<Group, LogError> {
        check_name(name)?;
        Ok(Group { log: self.inner.clone(), cell: self.inner.group(name)? })
    }

    /// The names of all groups that have members, committed offsets or a past, sorted.
    ///
    /// # Errors
    /// Failures to read what is known of groups.
    pub fn groups(&self) -> Result<Vec<String>, LogError> {
        self.inner.group_names()
    }
}

impl LogInner {
    /// What a group has committed for a partition.
    pub(in crate::log) fn committed(
        &self,
        group: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<Committed>, LogError> {
        check_name(group)?;
        let cell = self.group(group)?;
        let mut state = lock(&cell.state);
        state.table.settle();
        Ok(state.table.get(&TopicPartition::new(topic, partition)).cloned())
    }

    /// Where a group goes on in a partition, if it has committed that: what is being committed counts, and is waited for.
    pub(in crate::log) fn goes_on_at(
        &self,
        group: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<i64>, LogError> {
        check_name(group)?;
        Ok(self.group(group)?.final_offset(topic, partition))
    }
}

impl Group {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.cell.name
    }

    /// Joins as a member in this process.
    ///
    /// # Errors
    /// As [`heartbeat`](Self::heartbeat).
    pub fn join(&self, options: MemberOptions) -> Result<GroupMember, LogError> {
        GroupMember::join(self.clone(), options)
    }

    /// Takes the heartbeat of a member, wherever it is, or lets it join, and tells it what it owns. A new generation is
    /// durable before this returns.
    ///
    /// # Errors
    /// `MemberFenced` for one that is no member (any more): it owns nothing, and joins again with generation 0 and another id,
    /// unless another member has its place.
    /// `Invalid` for a session below 10 ms. `ReadOnly`, `Poisoned`, `Closed`, failures of the storage.
    pub fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatReply, LogError> {
        self.heartbeat_at(request).map(|(reply, _)| reply)
    }

    /// As [`heartbeat`](Self::heartbeat); also returns the group's version that the reply is of.
    pub(in crate::log) fn heartbeat_at(
        &self,
        mut request: HeartbeatRequest,
    ) -> Result<(HeartbeatReply, u64), LogError> {
        self.log.shared.check()?;
        if request.session_timeout < SESSION_MIN {
            let reason = format!("{:?} is below {SESSION_MIN:?}", request.session_timeout);
            return Err(LogError::Invalid { what: "session_timeout", reason });
        }
        if request.member.is_empty() {
            request.member = random_id().to_string();
        }
        let mut state = self.cell.lock();
        let now_ms = self.log.steady_ms();
        // Read before: what others change meanwhile, such as topics, the reply may not be of.
        let (version, changes) = (self.cell.version(), state.coordinator.changes());
        let reply = self.cell.coordinate(&mut state, now_ms, |coordinator| {
            coordinator.heartbeat(now_ms, &request, |topic| self.log.shape(topic))
        });
        let version = version + u64::from(state.coordinator.changes() != changes);
        self.log.persist_generation(&self.cell, &mut state)?;
        match reply {
            Ok(reply) => Ok((reply, version)),
            Err(why) => Err(self.cell.fenced(&request.member, request.generation, why)),
        }
    }

    /// Whether a heartbeat may be taken if there are to be at most so many members.
    pub(in crate::log) fn has_room_for(
        &self,
        request: &HeartbeatRequest,
        members_max: usize,
    ) -> bool {
        let mut state = self.cell.lock();
        let now_ms = self.log.steady_ms();
        self.cell.coordinate(&mut state, now_ms, |coordinator| {
            coordinator.has_room_for(now_ms, request, members_max)
        })
    }

    /// A member leaves; what it owned is for others at once. Nothing happens if it is none.
    ///
    /// # Errors
    /// As [`heartbeat`](Self::heartbeat), but for `MemberFenced`.
    pub fn leave(&self, member: &str) -> Result<(), LogError> {
        self.log.shared.check()?;
        let mut state = self.cell.lock();
        let now_ms = self.log.steady_ms();
        self.cell.coordinate(&mut state, now_ms, |coordinator| coordinator.leave(now_ms, member));
        self.log.persist_generation(&self.cell, &mut state)
    }

    /// Commits offsets for a member; durable when this returns. Either all of them are committed or none.
    ///
    /// # Errors
    /// `MemberFenced` if it is no member, does not own a partition, or got it in a later generation than that. What it owns
    /// it may commit though the group's generation is later. `UnknownTopic`, `UnknownPartition`; `OffsetOutOfRange` for an
    /// offset beyond the end; `Invalid` for too long a text; `ReadOnly`, `Full`, `Poisoned`, `Closed`, failures of the
    /// storage.
    pub fn commit(
        &self,
        member: &str,
        generation: i32,
        offsets: &[OffsetCommit],
    ) -> Result<(), LogError> {
        self.commit_ticket(member, generation, offsets, Level::Durable)?.wait()
    }

    /// As [`commit`](Self::commit), at another level, and without waiting for it: whether the member may commit is decided
    /// now, the rest is told by the ticket. The records that are said to be dealt with are made durable first.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_ticket(
        &self,
        member: &str,
        generation: i32,
        offsets: &[OffsetCommit],
        level: Level,
    ) -> Result<CommitTicket, LogError> {
        let committer = Committer::Member(member, generation);
        let ticket = self.log.commit_offsets(&self.cell, committer, offsets, level)?;
        Ok(CommitTicket { cell: self.cell.clone(), ticket })
    }

    /// Sets offsets from outside: for readers that divide partitions themselves, and to have a group read again or skip.
    /// Durable when this returns; either all are set or none.
    ///
    /// # Errors
    /// `GroupNotEmpty` while it has members; else as [`commit`](Self::commit).
    pub fn set_offsets(&self, offsets: &[OffsetCommit]) -> Result<(), LogError> {
        self.set_offsets_ticket(offsets)?.wait()
    }

    /// As [`set_offsets`](Self::set_offsets), without waiting until they are durable.
    pub(in crate::log) fn set_offsets_ticket(
        &self,
        offsets: &[OffsetCommit],
    ) -> Result<CommitTicket, LogError> {
        let set = self.log.commit_offsets(&self.cell, Committer::Nobody, offsets, Level::Durable);
        Ok(CommitTicket { cell: self.cell.clone(), ticket: set? })
    }

    /// What is committed for a partition; `None` if nothing is.
    ///
    /// # Errors
    /// Failures to read it, of a log that is open for reading only.
    pub fn committed(&self, topic: &str, partition: u32) -> Result<Option<Committed>, LogError> {
        self.log.committed(&self.cell.name, topic, partition)
    }

    /// All that is committed.
    ///
    /// # Errors
    /// As [`committed`](Self::committed).
    pub fn offsets(&self) -> Result<BTreeMap<TopicPartition, Committed>, LogError> {
        let cell = self.log.group(&self.cell.name)?;
        let mut state = lock(&cell.state);
        state.table.settle();
        Ok(state.table.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Its members, what they own, what is committed and how much is left to read. A log that is open for reading only
    /// knows no members.
    ///
    /// # Errors
    /// As [`committed`](Self::committed).
    pub fn describe(&self) -> Result<GroupDescription, LogError> {
        let offsets = self.offsets()?;
        let mut state = self.cell.lock();
        let now_ms = self.log.steady_ms();
        self.cell.coordinate(&mut state, now_ms, |coordinator| coordinator.expire(now_ms));
        if self.log.shared.check().is_ok() {
            self.log.persist_generation(&self.cell, &mut state)?;
        }
        let coordinator = &state.coordinator;
        let mut partitions: BTreeSet<TopicPartition> = offsets.keys().cloned().collect();
        for topic in coordinator.subscribed() {
            let count = self.log.shape(&topic).map_or(0, |(_, count)| count);
            partitions.extend((0..count).map(|partition| TopicPartition::new(&topic, partition)));
        }
        let offset = |partition: TopicPartition| {
            let topic = self.log.find_topic(&partition.topic)?;
            let ends = topic.partition(partition.partition).ok()?;
            let (earliest, end) = (ends.log_start(), ends.written_end());
            let committed = offsets.get(&partition).cloned();
            Some(GroupOffset { partition, committed, earliest, end })
        };
        Ok(GroupDescription {
            name: self.cell.name.clone(),
            generation: coordinator.generation(),
            strategy: coordinator.strategy(),
            settled: coordinator.is_settled(),
            members: coordinator.describe(now_ms),
            offsets: partitions.into_iter().filter_map(offset).collect(),
        })
    }

    /// Deletes the group: its committed offsets and its past. Durable when this returns.
    ///
    /// # Errors
    /// `GroupNotEmpty` while it has members; `ReadOnly`, `Full`, `Poisoned`, `Closed`, failures of the storage.
    pub fn delete(&self) -> Result<(), LogError> {
        self.log.delete_group(&self.cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::TopicOptions;
    use crate::log::storage::MemoryStorage;

    #[test]
    fn groups_that_were_only_asked_for_are_forgotten() {
        let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
        log.create_topic("t", TopicOptions::default()).unwrap();
        let kept = log.group("kept").unwrap();
        for n in 0..300 {
            let group = log.group(&format!("g{n}")).unwrap();
            if n % 100 == 0 {
                group.set_offsets(&[OffsetCommit::new("t", 0, 0)]).unwrap();
            }
        }
        assert_eq!(log.groups().unwrap(), ["g0", "g100", "g200"]);
        assert!(Arc::ptr_eq(&kept.cell, &log.group("kept").unwrap().cell), "it is in use");
        assert!(log.inner.groups.known() <= 70, "{} are known", log.inner.groups.known());
    }
}
