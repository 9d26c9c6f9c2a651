//! A member of a group in this process: it reads what it is assigned, and tells the coordinator that it lives.

pub(in crate::log) mod lanes;
mod options;
pub(super) mod presence;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::handle::{CommitTicket, Group};
use super::signal::Signal;
use super::types::{
    Fencing, GroupRecord, HeartbeatRequest, Membership, OffsetCommit, Polled, TopicPartition,
};
use crate::log::LogInner;
use crate::log::directory::random_id;
use crate::log::error::LogError;
use crate::log::options::Level;
use crate::log::partition::Partition;
use crate::log::peer::watch::Watch;
use crate::log::read::{Position, Reader};
use crate::sync::lock;
use crate::transport::now;
use lanes::Lanes;
pub use options::MemberOptions;
use presence::Presence;

/// What a partition is read from.
#[derive(Debug)]
struct Source {
    partition: Arc<Partition>,
    /// `None` until it is known where to begin.
    reader: Option<Reader>,
    /// By which the member is registered for what comes.
    watch: Watch,
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
    lanes: Lanes<Source>,
    /// The group's version that the last heartbeat answered.
    version: u64,
    /// When the next heartbeat is due, on the log's steady clock.
    due_ms: i64,
    /// Another member has its place, for good.
    replaced: Option<Fencing>,
    signal: Arc<Signal>,
    presence: Arc<Presence>,
    /// By which it is registered for changes of the group, and as one that is here.
    task: u64,
    /// By which it is registered for the end of the log: one without partitions would not hear of it.
    bystander: u64,
}

/// A member while a task waits for its records.
struct Waiting<'a>(&'a mut GroupMember);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.presence.end();
    }
}

impl GroupMember {
    pub(super) fn join(group: Group, options: MemberOptions) -> Result<Self, LogError> {
        let (task, bystander) = (group.cell.waiting.id(), group.log.shared.bystanders.id());
        let presence = Presence::new(group.log.shared.clock.clone());
        let mut member = Self {
            group,
            options,
            id: random_id().to_string(),
            generation: 0,
            sequence: 0,
            lanes: Lanes::default(),
            version: 0,
            due_ms: 0,
            replaced: None,
            signal: Arc::default(),
            presence,
            task,
            bystander,
        };
        member.arrive();
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
        self.lanes.names()
    }

    /// Where it is in each partition: behind the last record that `poll` returned. What nothing was returned of is not here,
    /// nor what is deleted since.
    pub fn positions(&self) -> Vec<OffsetCommit> {
        let mut positions = self.lanes.positions();
        positions.retain(|one| !self.is_gone(one));
        positions
    }

    /// Whether a partition that it has is not there any more. There may be another one of the same name.
    fn is_gone(&self, position: &OffsetCommit) -> bool {
        let partition = TopicPartition::new(&position.topic, position.partition);
        let Some(lane) = self.lanes.get(&partition) else { return true };
        let topic = self.group.log.find_topic(&position.topic);
        let now = topic.as_ref().and_then(|topic| topic.partition(position.partition).ok());
        now.is_none_or(|now| !Arc::ptr_eq(now, &lane.source.partition))
    }

    /// The next records, after waiting at most this long for the first one. Returns early, perhaps without records, when
    /// partitions come or go; what was revoked before is given up now.
    ///
    /// # Errors
    /// `OffsetOutOfRange` if the front of a partition was cut beyond where the group is: records are missing, and
    /// [`seek`](Self::seek) says where to go on. Else as [`Group::heartbeat`] and [`Reader::next_batch`]. A member that was
    /// expelled joins again by itself, and says so in the events; but one whose place another member with its instance name
    /// has taken gets `MemberFenced` with [`Fencing::Replaced`], now and ever after.
    pub fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        let deadline = now().checked_add(timeout);
        self.give_up();
        let mut registered = None;
        loop {
            if self.is_heartbeat_due() {
                self.heartbeat()?;
            }
            let records = self.fetch()?;
            let over = deadline.is_some_and(|deadline| deadline <= now());
            if !records.is_empty() || self.lanes.has_events() || over {
                return Ok(self.lanes.polled(records));
            }
            self.group.log.shared.check()?;
            match registered.take() {
                // Once more, now that nothing can come unnoticed.
                None => {
                    let seen = self.signal.count();
                    self.register(&Waker::from(self.signal.clone()));
                    registered = Some(seen);
                }
                Some(_) if self.is_heartbeat_due() => {}
                Some(seen) => self.signal.wait(seen, self.wait_until(deadline)),
            }
        }
    }

    /// As [`poll`](Self::poll), for a task, and for as long as it takes. Dropping the future loses nothing.
    ///
    /// While the task waits the member is not silent: its session goes on when it was woken, or the future is dropped. A
    /// change of the group is made durable within the poll of the future, which blocks for a sync then; and so is what the
    /// owner before committed last for a partition that comes.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub async fn poll_async(&mut self) -> Result<Polled, LogError> {
        self.give_up();
        let waiting = Waiting(self);
        poll_fn(|context| waiting.0.poll_records(context)).await
    }

    fn poll_records(&mut self, context: &Context<'_>) -> Poll<Result<Polled, LogError>> {
        let mut registered = false;
        loop {
            if self.is_heartbeat_due() {
                self.heartbeat()?;
            }
            let records = self.fetch()?;
            if !records.is_empty() || self.lanes.has_events() {
                return Poll::Ready(Ok(self.lanes.polled(records)));
            }
            self.group.log.shared.check()?;
            if !registered {
                self.presence.wait(context.waker());
                self.register(&Waker::from(self.presence.clone()));
                registered = true;
            } else if !self.is_heartbeat_due() {
                return Poll::Pending;
            }
        }
    }

    /// Gives up what the last `poll` said is to be given up. The heartbeat that tells so must not be forgotten.
    fn give_up(&mut self) {
        if self.lanes.give_up() {
            self.due_ms = i64::MIN;
        }
    }

    /// Tells the coordinator that the member lives; for one that is busy for longer than its session. What it learns by that
    /// the next `poll` tells.
    ///
    /// # Errors
    /// As [`Group::heartbeat`], but for `MemberFenced`: it joins again then, unless it was replaced.
    pub fn heartbeat(&mut self) -> Result<(), LogError> {
        if let Some(why) = &self.replaced {
            return Err(self.group.cell.fenced(&self.id, self.generation, why.clone()));
        }
        self.lanes.lose(|lane| lane.source.partition.retired.load(Ordering::SeqCst));
        loop {
            self.sequence += 1;
            match self.group.heartbeat_at(self.request()) {
                Ok((reply, version)) => {
                    self.version = version;
                    let interval_ms = i64::try_from(reply.heartbeat_interval.as_millis());
                    let interval_ms = interval_ms.unwrap_or(i64::MAX);
                    self.due_ms = self.group.log.steady_ms().saturating_add(interval_ms);
                    (self.id, self.generation) = (reply.member, reply.generation);
                    let (log, durable_only) = (&self.group.log, self.options.durable_only);
                    let open = |partition: &_| Source::find(log, partition, durable_only);
                    if !self.lanes.take_over(reply.assigned, reply.revoked, open) {
                        return Ok(());
                    }
                }
                Err(LogError::MemberFenced { why: Fencing::UnknownMember, .. }) => {
                    self.lanes.lose(|_| true);
                    (self.id, self.generation) = (random_id().to_string(), 0);
                    self.arrive();
                }
                Err(error) => {
                    if let LogError::MemberFenced { why, .. } = &error {
                        self.lanes.clear();
                        self.replaced = Some(why.clone());
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Commits where the member is in all its partitions, but for those of topics that are deleted; durable when this
    /// returns.
    ///
    /// # Errors
    /// As [`Group::commit`], but for `UnknownTopic`. After `MemberFenced` the next `poll` joins again, unless it was replaced.
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
        loop {
            let mut offsets = self.positions();
            offsets
                .retain(|one| cell.committed_offset(&one.topic, one.partition) != Some(one.offset));
            match self.group.commit_ticket(&self.id, self.generation, &offsets, level) {
                // It was deleted since the positions were looked at: then they are fewer now.
                Err(LogError::UnknownTopic { .. })
                    if offsets.iter().any(|one| self.is_gone(one)) => {}
                done => return done,
            }
        }
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
        let reader = lane.source.open(to)?;
        lane.position = Some(reader.next_offset());
        lane.source.reader = Some(reader);
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

    fn is_heartbeat_due(&self) -> bool {
        let changed = self.group.cell.version() != self.version || self.replaced.is_some();
        changed || self.group.log.steady_ms() >= self.due_ms
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

    /// Notes under which id it is here.
    fn arrive(&self) {
        let here = (self.id.clone(), self.presence.clone());
        lock(&self.group.cell.present).insert(self.task, here);
    }

    /// Records that are there now, of each partition in its turn.
    fn fetch(&mut self) -> Result<Vec<GroupRecord>, LogError> {
        let (group, start) = (&self.group, &self.options.start);
        let (id, generation) = (self.id.as_str(), self.generation);
        let records_max = self.options.records_max;
        self.lanes.fetch(records_max, |partition, lane, records| {
            let source = &mut lane.source;
            if source.partition.retired.load(Ordering::SeqCst) {
                return Ok(());
            }
            let reader = match &mut source.reader {
                Some(reader) => reader,
                None => {
                    let reader = begin(group, (id, generation), partition, source, start)?;
                    source.reader.insert(reader)
                }
            };
            while records.len() < records_max {
                let Some(record) = reader.next_record()? else { break };
                lane.position = Some(record.offset + 1);
                records.push(GroupRecord { topic: lane.topic.clone(), record });
            }
            Ok(())
        })
    }

    /// Has the waker called when there may be something to do.
    fn register(&self, waker: &Waker) {
        self.group.cell.waiting.register(self.task, waker);
        self.group.log.shared.bystanders.register(self.bystander, waker);
        for lane in self.lanes.values().filter(|lane| !lane.revoked) {
            lane.source.watch.register(waker);
        }
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

/// Finds where to begin in a partition. What is not said by the group's offsets, nor always the same, it commits.
fn begin(
    group: &Group,
    (id, generation): (&str, i32),
    partition: &TopicPartition,
    source: &Source,
    start: &Position,
) -> Result<Reader, LogError> {
    let (topic, number) = (partition.topic.as_str(), partition.partition);
    if let Some(committed) = group.cell.final_offset(topic, number) {
        return source.open(Position::Offset(committed));
    }
    let reader = source.open(start.clone())?;
    if *start != Position::Earliest {
        let commit = OffsetCommit::new(topic, number, reader.next_offset());
        group.commit(id, generation, &[commit])?;
    }
    Ok(reader)
}

impl Source {
    fn find(log: &LogInner, partition: &TopicPartition, durable_only: bool) -> Option<Self> {
        let topic = log.find_topic(&partition.topic)?;
        let partition = topic.partition(partition.partition).ok()?.clone();
        let level = if durable_only { Level::Durable } else { Level::Written };
        let watch = Watch::new(partition.clone(), level);
        Some(Self { partition, reader: None, watch, durable_only })
    }

    fn open(&self, position: Position) -> Result<Reader, LogError> {
        let reader = Reader::new(self.partition.clone(), position)?;
        Ok(if self.durable_only { reader.durable_only() } else { reader })
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        self.group.cell.waiting.forget(self.task);
        self.group.log.shared.bystanders.forget(self.bystander);
        lock(&self.group.cell.present).remove(&self.task);
        // One with a name comes back; and whoever wants to hear of failures calls `leave`.
        if self.options.instance.is_none() && self.generation != 0 {
            let _ = self.group.leave(&self.id);
        }
    }
}
