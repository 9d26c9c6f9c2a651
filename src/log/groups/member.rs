//! A member of a group in this process: it reads what it is assigned, and tells the coordinator that it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::handle::{CommitTicket, Group};
use super::signal::Signal;
use super::types::{
    Fencing, GroupEvent, GroupRecord, HeartbeatReply, HeartbeatRequest, Membership, OffsetCommit,
    Polled, Strategy, TopicPartition,
};
use crate::log::directory::random_id;
use crate::log::error::LogError;
use crate::log::options::Level;
use crate::log::partition::{Partition, Waiters};
use crate::log::read::{Position, Reader};
use crate::transport::now;

/// How a member takes part in its group.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    topics: Vec<String>,
    strategy: Strategy,
    session_timeout: Duration,
    instance: Option<String>,
    start: Position,
    durable_only: bool,
    records_max: usize,
}

impl MemberOptions {
    /// A member that reads these topics. Those that do not exist yet it reads when they do.
    pub fn new<T: Into<String>>(topics: impl IntoIterator<Item = T>) -> Self {
        Self {
            topics: topics.into_iter().map(Into::into).collect(),
            strategy: Strategy::Sticky,
            session_timeout: Duration::from_secs(45),
            instance: None,
            start: Position::Earliest,
            durable_only: false,
            records_max: 500,
        }
    }

    /// How partitions are divided; [`Strategy::Sticky`].
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// After so long without `poll` or `heartbeat` the member is expelled; 45 s.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// A name that outlives the process: when the member is dropped its place is kept until its session ends, and whoever
    /// joins with the same name gets it, partitions included. None.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = Some(name.into());
        self
    }

    /// Where to begin in partitions for which the group has committed nothing: [`Position::Earliest`]. Any other start is
    /// committed at once, so that it does not move when the partition changes hands.
    #[must_use]
    pub fn start(mut self, start: Position) -> Self {
        self.start = start;
        self
    }

    /// Reads only what survives a power cut; everything that is written.
    #[must_use]
    pub fn durable_only(mut self, only: bool) -> Self {
        self.durable_only = only;
        self
    }

    /// Most records of one `poll`; 500.
    #[must_use]
    pub fn records_max(mut self, records: usize) -> Self {
        self.records_max = records.max(1);
        self
    }
}

/// A partition that the member owns.
#[derive(Debug)]
struct Lane {
    topic: Arc<str>,
    partition: Arc<Partition>,
    /// `None` until it is known where to begin.
    reader: Option<Reader>,
    /// Behind the last record that was returned, if one was or the caller chose a position.
    position: Option<i64>,
    /// It has to be given up: nothing more is read of it.
    revoked: bool,
    /// A `poll` has said so.
    told: bool,
    /// By which the member is registered for what comes.
    task: u64,
    durable_only: bool,
}

/// A member of a group. It lives as long as it polls, or sends heartbeats while it is busy; dropping it leaves the group.
///
/// What [`poll`](Self::poll) returned counts as dealt with when [`commit`](Self::commit) is called, and not before: a member
/// that fails in between has somebody else get the same records again.
#[derive(Debug)]
pub struct GroupMember {
    group: Group,
    options: MemberOptions,
    id: String,
    generation: i32,
    sequence: u64,
    lanes: BTreeMap<TopicPartition, Lane>,
    /// What happened since the last `poll`.
    events: Vec<GroupEvent>,
    /// The partition that comes first in the next `poll`.
    next: Option<TopicPartition>,
    /// The group's version that the last heartbeat answered.
    version: u64,
    /// When the next heartbeat is due, on the log's steady clock.
    due_ms: i64,
    signal: Arc<Signal>,
    /// By which it is registered for changes of the group.
    task: u64,
}

impl GroupMember {
    pub(super) fn join(group: Group, options: MemberOptions) -> Result<Self, LogError> {
        let task = group.cell.waiting.id();
        let mut member = Self {
            group,
            options,
            id: random_id().to_string(),
            generation: 0,
            sequence: 0,
            lanes: BTreeMap::new(),
            events: Vec::new(),
            next: None,
            version: 0,
            due_ms: 0,
            signal: Arc::default(),
            task,
        };
        member.heartbeat()?;
        Ok(member)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Who it is now, for the offsets of a transaction.
    pub fn membership(&self) -> Membership {
        let (group, member) = (self.group.name().to_owned(), self.id.clone());
        Membership { group, member, generation: self.generation }
    }

    /// The partitions that it owns, those included that it has to give up.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.lanes.keys().cloned().collect()
    }

    /// Where it is in each partition: behind the last record that `poll` returned. What nothing was returned of is not here.
    pub fn positions(&self) -> Vec<OffsetCommit> {
        let position = |(partition, lane): (&TopicPartition, &Lane)| {
            let TopicPartition { topic, partition } = partition;
            lane.position.map(|offset| OffsetCommit::new(topic, *partition, offset))
        };
        self.lanes.iter().filter_map(position).collect()
    }

    /// The next records, after waiting at most this long for the first one. Returns early, perhaps without records, when
    /// partitions come or go; what was revoked before is given up now.
    ///
    /// # Errors
    /// `OffsetOutOfRange` if the front of a partition was cut beyond where the group is: records are missing, and
    /// [`seek`](Self::seek) says where to go on. Else as [`Group::heartbeat`] and [`Reader::next_batch`]. A member that was
    /// expelled joins again by itself, and says so in the events.
    pub fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        let deadline = now().checked_add(timeout);
        let before = self.lanes.len();
        self.lanes.retain(|_, lane| !lane.told);
        let mut gave_up = self.lanes.len() < before;
        let mut registered = None;
        loop {
            if std::mem::take(&mut gave_up) || self.is_heartbeat_due() {
                self.heartbeat()?;
            }
            let records = self.fetch()?;
            let over = deadline.is_some_and(|deadline| deadline <= now());
            if !records.is_empty() || !self.events.is_empty() || over {
                return Ok(self.polled(records));
            }
            self.group.log.shared.check()?;
            match registered.take() {
                // Once more, now that nothing can come unnoticed.
                None => registered = Some(self.register()),
                Some(_) if self.is_heartbeat_due() => {}
                Some(seen) => self.signal.wait(seen, self.wait_until(deadline)),
            }
        }
    }

    /// Tells the coordinator that the member lives; for one that is busy for longer than its session. What it learns by that
    /// the next `poll` tells.
    ///
    /// # Errors
    /// As [`Group::heartbeat`], but for `MemberFenced`: it joins again then.
    pub fn heartbeat(&mut self) -> Result<(), LogError> {
        self.drop_lanes(|lane| lane.partition.retired.load(Ordering::SeqCst));
        loop {
            self.sequence += 1;
            match self.group.heartbeat_at(self.request()) {
                Ok((reply, version)) => {
                    self.version = version;
                    let interval_ms = i64::try_from(reply.heartbeat_interval.as_millis());
                    let interval_ms = interval_ms.unwrap_or(i64::MAX);
                    self.due_ms = self.group.log.steady_ms().saturating_add(interval_ms);
                    // What it does not have (any more) others wait for.
                    let stale = reply.revoked.iter().any(|one| !self.lanes.contains_key(one));
                    self.take_over(reply);
                    if !stale {
                        return Ok(());
                    }
                }
                Err(LogError::MemberFenced { why: Fencing::UnknownMember, .. }) => {
                    self.drop_lanes(|_| true);
                    (self.id, self.generation) = (random_id().to_string(), 0);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Commits where the member is in all its partitions; durable when this returns.
    ///
    /// # Errors
    /// As [`Group::commit`]. After `MemberFenced` the next `poll` joins again.
    pub fn commit(&mut self) -> Result<(), LogError> {
        let ticket = self.commit_ticket(Level::Durable)?;
        ticket.wait()
    }

    /// As [`commit`](Self::commit), at another level and without waiting for it.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_ticket(&mut self, level: Level) -> Result<CommitTicket, LogError> {
        let cell = &self.group.cell;
        let mut offsets = self.positions();
        offsets.retain(|one| cell.committed_offset(&one.topic, one.partition) != Some(one.offset));
        self.group.commit_ticket(&self.id, self.generation, &offsets, level)
    }

    /// Goes on elsewhere in a partition that it owns. It becomes the group's position with the next commit.
    ///
    /// # Errors
    /// `MemberFenced` if it does not own the partition; `OffsetOutOfRange`.
    pub fn seek(&mut self, partition: &TopicPartition, to: Position) -> Result<(), LogError> {
        let (id, generation) = (&self.id, self.generation);
        let Some(lane) = self.lanes.get_mut(partition) else {
            let why = Fencing::NotOwner { partition: partition.clone() };
            return Err(self.group.cell.fenced(id, generation, why));
        };
        let reader = lane.open(to)?;
        lane.position = Some(reader.next_offset());
        lane.reader = Some(reader);
        Ok(())
    }

    /// Leaves the group; the partitions go to others at once. What is not committed they read again.
    ///
    /// # Errors
    /// As [`Group::leave`].
    pub fn leave(mut self) -> Result<(), LogError> {
        self.lanes.clear();
        self.options.instance = None;
        self.generation = 0;
        self.group.leave(&self.id)
    }

    /// What a `poll` returns. What it says is revoked, the next one gives up.
    fn polled(&mut self, records: Vec<GroupRecord>) -> Polled {
        for lane in self.lanes.values_mut() {
            lane.told = lane.revoked;
        }
        Polled { records, events: std::mem::take(&mut self.events) }
    }

    fn is_heartbeat_due(&self) -> bool {
        self.group.cell.version() != self.version || self.group.log.steady_ms() >= self.due_ms
    }

    fn request(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            member: self.id.clone(),
            instance: self.options.instance.clone(),
            generation: self.generation,
            sequence: self.sequence,
            topics: self.options.topics.clone(),
            strategy: self.options.strategy,
            session_timeout: self.options.session_timeout,
            owned: self.assigned(),
        }
    }

    /// Lets go of partitions that it has lost.
    fn drop_lanes(&mut self, mut lost: impl FnMut(&Lane) -> bool) {
        let gone = self.lanes.iter().filter(|(_, lane)| lost(lane));
        let gone: Vec<TopicPartition> = gone.map(|(partition, _)| partition.clone()).collect();
        if gone.is_empty() {
            return;
        }
        for partition in &gone {
            self.lanes.remove(partition);
        }
        self.events.push(GroupEvent::Lost(gone));
    }

    /// Does what the coordinator says.
    fn take_over(&mut self, reply: HeartbeatReply) {
        (self.id, self.generation) = (reply.member, reply.generation);
        let owned: BTreeSet<_> = reply.assigned.iter().chain(&reply.revoked).cloned().collect();
        let lost = self.lanes.keys().filter(|partition| !owned.contains(*partition));
        let lost: Vec<TopicPartition> = lost.cloned().collect();
        self.lanes.retain(|partition, _| owned.contains(partition));
        let mut revoked = Vec::new();
        for partition in reply.revoked {
            if let Some(lane) = self.lanes.get_mut(&partition)
                && !std::mem::replace(&mut lane.revoked, true)
            {
                revoked.push(partition);
            }
        }
        let mut assigned = Vec::new();
        for partition in reply.assigned {
            match self.lanes.get_mut(&partition) {
                Some(lane) => {
                    lane.told = false;
                    if std::mem::take(&mut lane.revoked) {
                        assigned.push(partition);
                    }
                }
                // A topic that is deleted meanwhile; the next heartbeat tells.
                None => {
                    if let Some(lane) = self.lane(&partition) {
                        self.lanes.insert(partition.clone(), lane);
                        assigned.push(partition);
                    }
                }
            }
        }
        for (event, partitions) in [
            (GroupEvent::Lost as fn(_) -> _, lost),
            (GroupEvent::Revoked, revoked),
            (GroupEvent::Assigned, assigned),
        ] {
            if !partitions.is_empty() {
                self.events.push(event(partitions));
            }
        }
    }

    fn lane(&self, partition: &TopicPartition) -> Option<Lane> {
        let topic = self.group.log.find_topic(&partition.topic)?;
        let partition = topic.partition(partition.partition).ok()?.clone();
        let (name, durable_only) = (topic.name.as_str().into(), self.options.durable_only);
        let mut lane = Lane {
            topic: name,
            partition,
            reader: None,
            position: None,
            revoked: false,
            told: false,
            task: 0,
            durable_only,
        };
        lane.task = lane.waiters().id();
        Some(lane)
    }

    /// Records that are there now, of each partition in its turn.
    fn fetch(&mut self) -> Result<Vec<GroupRecord>, LogError> {
        let mut records = Vec::new();
        let turns: Vec<TopicPartition> = match &self.next {
            Some(next) => {
                let (after, before) = (self.lanes.range(next..), self.lanes.range(..next));
                after.chain(before).map(|(partition, _)| partition.clone()).collect()
            }
            None => self.assigned(),
        };
        for (turn, partition) in turns.iter().enumerate() {
            if records.len() >= self.options.records_max {
                self.next = Some(partition.clone());
                break;
            }
            let fetched = self.fetch_from(partition, &mut records);
            self.next = turns.get(turn + 1).cloned();
            match fetched {
                Ok(()) => {}
                // First what was read before; it comes again with the next call.
                Err(_) if !records.is_empty() => {
                    self.next = Some(partition.clone());
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    fn fetch_from(
        &mut self,
        partition: &TopicPartition,
        records: &mut Vec<GroupRecord>,
    ) -> Result<(), LogError> {
        let Some(lane) = self.lanes.get(partition) else { return Ok(()) };
        if lane.revoked || lane.partition.retired.load(Ordering::SeqCst) {
            return Ok(());
        }
        if lane.reader.is_none() {
            self.begin(partition)?;
        }
        let Some(lane) = self.lanes.get_mut(partition) else { return Ok(()) };
        let Some(reader) = &mut lane.reader else { return Ok(()) };
        while records.len() < self.options.records_max {
            let Some(record) = reader.next_record()? else { break };
            lane.position = Some(record.offset + 1);
            records.push(GroupRecord { topic: lane.topic.clone(), record });
        }
        Ok(())
    }

    /// Finds where to begin in a partition.
    fn begin(&mut self, partition: &TopicPartition) -> Result<(), LogError> {
        let (topic, number) = (partition.topic.as_str(), partition.partition);
        let committed = self.group.cell.committed_offset(topic, number);
        let start = committed.map_or_else(|| self.options.start.clone(), Position::Offset);
        let fixed = committed.is_none() && start != Position::Earliest;
        let Some(lane) = self.lanes.get_mut(partition) else { return Ok(()) };
        let reader = lane.open(start)?;
        if fixed {
            let commit = OffsetCommit::new(topic, number, reader.next_offset());
            self.group.commit(&self.id, self.generation, &[commit])?;
        }
        lane.reader = Some(reader);
        Ok(())
    }

    /// Has the signal given when there may be something to do; returns how often it was so far.
    fn register(&self) -> u64 {
        let seen = self.signal.count();
        let waker = Waker::from(self.signal.clone());
        self.group.cell.waiting.register(self.task, &waker);
        for lane in self.lanes.values().filter(|lane| !lane.revoked) {
            lane.waiters().register(lane.task, &waker);
            // What has gathered so far, nobody might write for a while, and what is only written, nobody might sync.
            lane.partition.urge(lane.level());
        }
        seen
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<Instant> {
        let left_ms = self.due_ms.saturating_sub(self.group.log.steady_ms());
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or_default());
        let due = now().checked_add(left);
        match (deadline, due) {
            (Some(deadline), Some(due)) => Some(deadline.min(due)),
            (deadline, due) => deadline.or(due),
        }
    }
}

impl Lane {
    fn open(&self, position: Position) -> Result<Reader, LogError> {
        let reader = Reader::new(self.partition.clone(), position)?;
        Ok(if self.durable_only { reader.durable_only() } else { reader })
    }

    fn level(&self) -> Level {
        if self.durable_only { Level::Durable } else { Level::Written }
    }

    fn waiters(&self) -> &Waiters {
        self.partition.readers(self.level())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.waiters().forget(self.task);
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        self.group.cell.waiting.forget(self.task);
        // One with a name comes back; and whoever wants to hear of failures calls `leave`.
        if self.options.instance.is_none() && self.generation != 0 {
            let _ = self.group.leave(&self.id);
        }
    }
}
