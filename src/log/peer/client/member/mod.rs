//! A member of a group in another process: it reads what it is assigned, in a thread or as a task, while the client's
//! thread sends its heartbeats ([`beat`]).

mod beat;
mod source;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::error::Asked;
use super::group::RemoteGroup;
use super::link::Pending;
use super::{LogClient, PeerError, Subject, answer_of};
use crate::log::groups::{
    GroupRecord, Lane, Lanes, MemberOptions, Membership, OffsetCommit, Polled, Signal,
    TopicPartition,
};
use crate::log::peer::protocol::{Answer, Commit, Leave, RemoteCode};
use crate::log::read::Position;
use crate::sync::lock;
use crate::transport::now;
pub(super) use beat::{Beat, Beaten};
use source::{Reading, Source};

/// Least bytes that are asked for of one partition at a time.
const FETCH_BYTES_MIN: u32 = 16 << 10;

/// Who the member is, as it has seen it last.
#[derive(Clone, Debug)]
struct Identity {
    group: String,
    id: String,
    generation: i32,
}

impl Identity {
    fn begin_commit(
        &self,
        client: &LogClient,
        offsets: &[OffsetCommit],
    ) -> Result<Pending, PeerError> {
        let member = Some((self.id.clone(), self.generation));
        let offsets = offsets.iter().map(super::group::wire_offset).collect();
        let request = Commit { group: self.group.clone(), member, offsets };
        client.core().begin_task(&request.into(), Vec::new())
    }
}

/// A member of a group of a log in another process: as [`GroupMember`](crate::log::GroupMember), through a server.
///
/// The client's thread keeps it alive while it is busy, up to [`MemberOptions::poll_interval_max`], and wakes it when its
/// partitions change. Dropping it leaves the group, unless it has an instance name.
#[derive(Debug)]
pub struct RemoteMember {
    client: LogClient,
    beat: Arc<Beat>,
    identity: Identity,
    lanes: Lanes<Source>,
    signal: Arc<Signal>,
}

/// A member while it waits, in a thread or as a task.
struct Waiting<'a>(&'a mut RemoteMember);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.beat.turn_away();
    }
}

impl RemoteGroup {
    /// Joins as a member; returns when the coordinator has answered.
    ///
    /// # Errors
    /// `Refused` with `Invalid` for a session below 10 ms, with `OverLimit` for one that is longer than the server allows (30 min, if
    /// it does not say otherwise), or one member more than that; any other [`PeerError`].
    pub fn join(&self, options: MemberOptions) -> Result<RemoteMember, PeerError> {
        let mut member = RemoteMember::new(self, options);
        let core = member.client.core().clone();
        let (deadline, signal) = (core.deadline(Duration::ZERO), member.signal.clone());
        let waker = Waker::from(signal.clone());
        let waiting = Waiting(&mut member);
        loop {
            let seen = signal.count();
            if let Poll::Ready(joined) = waiting.0.poll_joined(&waker) {
                joined?;
                break;
            }
            if deadline.is_some_and(|deadline| deadline <= now()) {
                let subject = Subject::group(self.name(), waiting.0.id());
                return Err(core.timed_out(&Asked::new("Heartbeat", subject)));
            }
            signal.wait(seen, deadline);
        }
        drop(waiting);
        Ok(member)
    }

    /// As [`join`](Self::join), for a task, and for as long as it takes.
    ///
    /// # Errors
    /// As [`join`](Self::join), without `Timeout`.
    pub async fn join_async(&self, options: MemberOptions) -> Result<RemoteMember, PeerError> {
        let mut member = RemoteMember::new(self, options);
        let waiting = Waiting(&mut member);
        poll_fn(|context| waiting.0.poll_joined(context.waker())).await?;
        drop(waiting);
        Ok(member)
    }
}

impl RemoteMember {
    fn new(group: &RemoteGroup, options: MemberOptions) -> Self {
        let (client, group) = (group.client().clone(), group.name().to_owned());
        let beat = Beat::new(&group, options);
        lock(&client.core().beats).push(Arc::downgrade(&beat));
        let identity = Identity { group, id: String::new(), generation: 0 };
        Self { client, beat, identity, lanes: Lanes::default(), signal: Arc::default() }
    }

    fn poll_joined(&mut self, waker: &Waker) -> Poll<Result<(), PeerError>> {
        self.look(waker)?;
        if self.identity.generation == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// Who it is now, for the offsets of a transaction.
    pub fn membership(&self) -> Membership {
        let Identity { group, id, generation } = self.identity.clone();
        Membership { group, member: id, generation }
    }

    /// The partitions that it owns, those included that it has to give up, as the last `poll` has told.
    pub fn assigned(&self) -> Vec<TopicPartition> {
        self.lanes.names()
    }

    /// Where it is in each partition: behind the last record that `poll` returned. What nothing was returned of is not here.
    pub fn positions(&self) -> Vec<OffsetCommit> {
        self.lanes.positions()
    }

    /// The next records, after waiting at most this long for the first one. Returns early, perhaps without records, when
    /// partitions come or go; what was revoked before is given up now.
    ///
    /// # Errors
    /// `Refused` with `OffsetOutOfRange` if the front of a partition was cut beyond where the group is: records are missing,
    /// and [`seek`](Self::seek) says where to go on; with `Diverged` if records that were returned are gone; any other
    /// [`PeerError`] but `Timeout`: it waits for a server that is gone. A member that was expelled joins again by itself, and says so in the events; but one whose place another member
    /// with its instance name has taken gets `Refused` with `MemberReplaced`, now and ever after.
    pub fn poll(&mut self, timeout: Duration) -> Result<Polled, PeerError> {
        let deadline = now().checked_add(timeout);
        let waker = Waker::from(self.signal.clone());
        let signal = self.signal.clone();
        self.give_up();
        let waiting = Waiting(self);
        loop {
            let seen = signal.count();
            let polled = waiting.0.poll_records(&mut Context::from_waker(&waker));
            if let Poll::Ready(polled) = polled {
                return polled;
            }
            if deadline.is_some_and(|deadline| deadline <= now()) {
                return Ok(waiting.0.lanes.polled(Vec::new()));
            }
            signal.wait(seen, deadline);
        }
    }

    /// As [`poll`](Self::poll), for a task, and for as long as it takes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub async fn poll_async(&mut self) -> Result<Polled, PeerError> {
        self.give_up();
        let waiting = Waiting(self);
        poll_fn(|context| waiting.0.poll_records(context)).await
    }

    fn poll_records(&mut self, context: &mut Context<'_>) -> Poll<Result<Polled, PeerError>> {
        self.look(context.waker())?;
        let records = self.fetch(context)?;
        if records.is_empty() && !self.lanes.has_events() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.lanes.polled(records)))
    }

    /// Gives up what the last `poll` said is to be given up.
    fn give_up(&mut self) {
        if self.lanes.give_up() {
            self.beat.hold(self.client.core(), self.lanes.names(), true);
        }
    }

    /// Does what the heartbeats have learnt.
    fn look(&mut self, waker: &Waker) -> Result<(), PeerError> {
        let core = self.client.core();
        let news = self.beat.look(core, waker);
        if news.lost {
            self.lanes.lose(|_| true);
        }
        if let Some(reply) = news.reply {
            (self.identity.id, self.identity.generation) = (reply.member, reply.generation);
            let open = |_: &TopicPartition| Some(Source::new());
            let stale = self.lanes.take_over(reply.assigned, reply.revoked, open);
            self.beat.hold(core, self.lanes.names(), stale);
            // This answer was taken, so the next one has to wake the task anew.
            return self.look(waker);
        }
        news.failed.map_or(Ok(()), Err)
    }

    /// Records that have come, of each partition in its turn.
    fn fetch(&mut self, context: &mut Context<'_>) -> Result<Vec<GroupRecord>, PeerError> {
        let options = &self.beat.options;
        let lanes = u32::try_from(self.lanes.values().count().max(1)).unwrap_or(u32::MAX);
        let share = self.client.fetch_bytes() / lanes;
        let reading = Reading {
            client: &self.client,
            identity: &self.identity,
            start: &options.start,
            durable_only: options.durable_only,
            bytes_max: share.max(FETCH_BYTES_MIN),
        };
        let mut gone = Vec::new();
        let records = self.lanes.fetch(options.records_max, |partition, lane, records| {
            while records.len() < options.records_max {
                match lane.source.poll_next(&reading, partition, context) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(record)) => {
                        lane.position = Some(record.offset + 1);
                        records.push(GroupRecord { topic: lane.topic.clone(), record });
                    }
                    Poll::Ready(Err(error)) if is_gone(&error) => {
                        gone.push(partition.clone());
                        break;
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                }
            }
            Ok(())
        });
        if !gone.is_empty() {
            self.lanes.lose_named(gone);
            self.beat.hold(self.client.core(), self.lanes.names(), true);
        }
        records
    }

    /// Commits where the member is in all its partitions; durable when this returns.
    ///
    /// # Errors
    /// `Refused` with `UnknownMember`, `MemberReplaced`, `NotOwner` or `WrongGeneration`: the next `poll` tells what became of
    /// its partitions. `UnknownTopic` if one of its topics was deleted since the last `poll`: nothing is committed, and the next
    /// one lets go of it. Any other [`PeerError`].
    pub fn commit(&mut self) -> Result<(), PeerError> {
        let offsets = self.uncommitted();
        let pending = self.identity.begin_commit(&self.client, &offsets)?;
        let core = self.client.core();
        let reply = pending.wait(core.deadline(Duration::ZERO))?;
        answer_of!(core, reply, Done)?;
        self.committed(&offsets);
        Ok(())
    }

    /// As [`commit`](Self::commit), for a task. A future that is dropped may have committed, if there was a connection; what was
    /// not sent then is not sent later.
    ///
    /// # Errors
    /// As [`commit`](Self::commit), without `Timeout`.
    pub async fn commit_async(&mut self) -> Result<(), PeerError> {
        let offsets = self.uncommitted();
        let pending = self.identity.begin_commit(&self.client, &offsets)?;
        let reply = poll_fn(|context| pending.poll(context.waker())).await?;
        answer_of!(self.client.core(), reply, Done)?;
        self.committed(&offsets);
        Ok(())
    }

    /// Where it is, if that is not committed yet.
    fn uncommitted(&mut self) -> Vec<OffsetCommit> {
        let position = |(partition, lane): (&TopicPartition, &mut Lane<Source>)| {
            let TopicPartition { topic, partition } = partition;
            let offset = lane.position.filter(|offset| lane.source.committed != Some(*offset));
            offset.map(|offset| OffsetCommit::new(topic, *partition, offset))
        };
        self.lanes.iter_mut().filter_map(position).collect()
    }

    fn committed(&mut self, offsets: &[OffsetCommit]) {
        for commit in offsets {
            let partition = TopicPartition::new(&commit.topic, commit.partition);
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.source.committed = Some(commit.offset);
            }
        }
    }

    /// Goes on elsewhere in a partition that it owns. It becomes the group's position with the next commit.
    ///
    /// # Errors
    /// `Refused` with `NotOwner` if it does not own the partition, with `OffsetOutOfRange` for an offset that is not there; any
    /// other [`PeerError`].
    pub fn seek(&mut self, partition: &TopicPartition, to: Position) -> Result<(), PeerError> {
        let Some(lane) = self.lanes.get_mut(partition) else {
            return Err(self.client.core().not_owner(&self.identity.membership(), partition));
        };
        let TopicPartition { topic, partition: number } = partition;
        let offset = self.client.offset_of(topic, *number, to)?;
        let options = &self.beat.options;
        let reading = Reading {
            client: &self.client,
            identity: &self.identity,
            start: &options.start,
            durable_only: options.durable_only,
            bytes_max: self.client.fetch_bytes(),
        };
        lane.source.seek(&reading, partition, offset);
        lane.position = Some(offset);
        Ok(())
    }

    /// Leaves the group; the partitions go to others at once. What is not committed they read again.
    ///
    /// # Errors
    /// Any [`PeerError`].
    pub fn leave(mut self) -> Result<(), PeerError> {
        self.lanes.clear();
        let Some(member) = self.beat.leave() else { return Ok(()) };
        let request = Leave { group: self.identity.group.clone(), member };
        self.client.core().done_call(request.into())
    }
}

impl Identity {
    fn membership(&self) -> Membership {
        let Self { group, id, generation } = self.clone();
        Membership { group, member: id, generation }
    }
}

/// The topic is deleted, or not the one any more that it was.
fn is_gone(error: &PeerError) -> bool {
    use RemoteCode::{TopicReplaced, UnknownPartition, UnknownTopic};
    matches!(error.code(), Some(UnknownTopic | TopicReplaced | UnknownPartition))
}

impl Drop for RemoteMember {
    fn drop(&mut self) {
        let Some(member) = self.beat.leave() else { return };
        // One with a name comes back; and whoever wants to hear of failures calls `leave`.
        if self.beat.options.instance.is_none() {
            let request = Leave { group: self.identity.group.clone(), member };
            self.client.core().submit_aside(&request.into());
        }
    }
}
