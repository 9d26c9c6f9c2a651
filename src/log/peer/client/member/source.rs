//! Reading a partition for a member, from where its group is; all of it for a task.

use std::task::{Context, Poll};

use super::Identity;
use crate::log::groups::{OffsetCommit, TopicPartition};
use crate::log::peer::client::link::{Answered, Pending};
use crate::log::peer::client::{LogClient, PeerError, RemoteReader, answer_of};
use crate::log::peer::protocol::{Answer, OffsetAt, OffsetFound};
use crate::log::read::{LogRecord, Position};

/// What a partition is read from.
#[derive(Debug)]
pub(super) struct Source {
    step: Step,
    /// What the group has committed, as far as this member knows.
    pub(super) committed: Option<i64>,
}

/// How far it is with that.
#[derive(Debug)]
enum Step {
    /// Nothing is under way.
    New,
    /// Asking what the group has committed.
    Committed(Pending),
    /// Asking where to begin if that is nothing.
    Start(Pending),
    /// Committing this, so that it does not move.
    Fixing(Pending, i64),
    Reading(Box<RemoteReader>),
}

/// Who reads, and how.
pub(super) struct Reading<'a> {
    pub(super) client: &'a LogClient,
    pub(super) identity: &'a Identity,
    pub(super) start: &'a Position,
    pub(super) durable_only: bool,
    pub(super) bytes_max: u32,
}

impl Source {
    pub(super) fn new() -> Self {
        Self { step: Step::New, committed: None }
    }

    /// Goes on at an offset.
    pub(super) fn seek(&mut self, reading: &Reading<'_>, partition: &TopicPartition, offset: i64) {
        self.step = reading.reader(partition, offset);
    }

    /// The next record. After an error it begins anew where it has not begun to read.
    pub(super) fn poll_next(
        &mut self,
        reading: &Reading<'_>,
        partition: &TopicPartition,
        context: &mut Context<'_>,
    ) -> Poll<Result<LogRecord, PeerError>> {
        loop {
            let next = match &mut self.step {
                Step::Reading(reader) => return reader.poll_next(context),
                Step::New => Poll::Ready(reading.ask_committed(partition)),
                Step::Committed(pending) => pending.poll(context.waker()).map(|reply| {
                    let found = reading.offset(reply)?;
                    self.committed = found.committed.then_some(found.offset);
                    reading.committed(partition, &found)
                }),
                Step::Start(pending) => pending
                    .poll(context.waker())
                    .map(|reply| reading.fix(partition, reading.offset(reply)?.offset)),
                Step::Fixing(pending, offset) => {
                    let polled = pending.poll(context.waker());
                    self.committed = Some(*offset).filter(|_| polled.is_ready());
                    polled.map(|reply| reply.map(|_| reading.reader(partition, *offset)))
                }
            };
            match next {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(step)) => self.step = step,
                Poll::Ready(Err(error)) => {
                    self.step = Step::New;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl Reading<'_> {
    fn reader(&self, partition: &TopicPartition, offset: i64) -> Step {
        let TopicPartition { topic, partition } = partition;
        let reader = RemoteReader::new(self.client.clone(), topic, *partition, offset);
        let reader = reader.bytes_max(self.bytes_max);
        Step::Reading(Box::new(if self.durable_only { reader.durable_only() } else { reader }))
    }

    fn ask(&self, partition: &TopicPartition, position: Position) -> Result<Pending, PeerError> {
        let TopicPartition { topic, partition } = partition.clone();
        let request = OffsetAt { topic, partition, position: position.into() };
        self.client.core().begin_task(&request.into(), Vec::new())
    }

    fn ask_committed(&self, partition: &TopicPartition) -> Result<Step, PeerError> {
        let position = Position::Committed(self.identity.group.clone());
        self.ask(partition, position).map(Step::Committed)
    }

    fn committed(
        &self,
        partition: &TopicPartition,
        found: &OffsetFound,
    ) -> Result<Step, PeerError> {
        match self.start {
            start if found.committed || *start == Position::Earliest => {
                Ok(self.reader(partition, found.offset))
            }
            start => self.ask(partition, start.clone()).map(Step::Start),
        }
    }

    fn fix(&self, partition: &TopicPartition, offset: i64) -> Result<Step, PeerError> {
        let commit = OffsetCommit::new(&partition.topic, partition.partition, offset);
        let pending = self.identity.begin_commit(self.client, &[commit])?;
        Ok(Step::Fixing(pending, offset))
    }

    fn offset(&self, reply: Result<Answered, PeerError>) -> Result<OffsetFound, PeerError> {
        answer_of!(self.client.core(), reply?, OffsetFound)
    }
}
