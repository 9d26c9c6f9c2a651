//! Commits of groups. What a commit says was dealt with is durable before the commit is taken: for that a task waits here, not
//! the thread for groups. A later commit of the same client for the same group does not overtake an earlier one.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::blocking::Blocking;
use super::blocking::Place;
use super::groups;
use super::work::refused;
use crate::log::Log;
use crate::log::append::Ticket;
use crate::log::peer::alarm::Alarm;
use crate::log::peer::protocol::{Commit, Done, Nothing, Outcome};
use crate::peer::PeerId;
use crate::sync::{Mutex, lock};

/// Whose commits are in a line, and for which group.
type Whose = (PeerId, String);

/// The tasks of commits that were not taken yet, in the order in which they came. Its lock is a leaf.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<HashMap<Whose, VecDeque<u64>>>>);

/// A place in a line. Dropped, the next one is called.
#[derive(Debug)]
struct Turn {
    lines: Lines,
    whose: Whose,
    task: u64,
    alarm: Arc<Alarm>,
}

impl Turn {
    fn new(lines: &Lines, whose: Whose, task: u64, alarm: &Arc<Alarm>) -> Self {
        lock(&lines.0).entry(whose.clone()).or_default().push_back(task);
        Self { lines: lines.clone(), whose, task, alarm: Arc::clone(alarm) }
    }

    fn has_come(&self) -> bool {
        let lines = lock(&self.lines.0);
        lines.get(&self.whose).and_then(VecDeque::front) == Some(&self.task)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lines = lock(&self.lines.0);
        let Some(line) = lines.get_mut(&self.whose) else { return };
        line.retain(|task| *task != self.task);
        let next = line.front().copied();
        if next.is_none() {
            lines.remove(&self.whose);
        }
        drop(lines);
        next.into_iter().for_each(|task| self.alarm.ring(task));
    }
}

/// What a commit is made with.
#[derive(Debug)]
pub(super) struct Makes {
    pub(super) log: Log,
    pub(super) lines: Lines,
    pub(super) coordinating: Arc<Blocking>,
    pub(super) alarm: Arc<Alarm>,
}

/// A commit.
#[derive(Debug)]
pub(super) struct CommitWork {
    task: u64,
    stage: Stage,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    /// It waits for records to become durable, and for its turn.
    Waits { records: Vec<Ticket>, turn: Turn, commit: Commit, makes: Makes },
    /// The thread for groups takes it.
    Begins { place: Place, begun: Arc<Mutex<Option<Ticket>>> },
    /// It waits to be durable itself.
    Lasts(Ticket),
    /// It is answered.
    Over,
}

impl CommitWork {
    pub(super) fn new(task: u64, peer: PeerId, commit: Commit, makes: Makes) -> Self {
        let turn = Turn::new(&makes.lines, (peer, commit.group.clone()), task, &makes.alarm);
        let records = undurable(&makes.log, &commit);
        Self { task, stage: Stage::Waits { records, turn, commit, makes } }
    }

    pub(super) fn poll(&mut self, waker: &Waker) -> Poll<Outcome> {
        let mut context = Context::from_waker(waker);
        loop {
            self.stage = match mem::replace(&mut self.stage, Stage::Over) {
                Stage::Waits { mut records, turn, commit, makes } => {
                    // Whatever has become of them, the commit is taken by what is there then.
                    records.retain_mut(|record| Pin::new(record).poll(&mut context).is_pending());
                    if !records.is_empty() || !turn.has_come() {
                        self.stage = Stage::Waits { records, turn, commit, makes };
                        return Poll::Pending;
                    }
                    // Those behind it are handed over behind it.
                    begin(self.task, commit, &makes)
                }
                Stage::Begins { place, begun } => match place.take() {
                    Some(outcome) => match lock(&begun).take() {
                        Some(ticket) => Stage::Lasts(ticket),
                        None => return Poll::Ready(outcome),
                    },
                    None => {
                        self.stage = Stage::Begins { place, begun };
                        return Poll::Pending;
                    }
                },
                Stage::Lasts(mut ticket) => {
                    let polled = Pin::new(&mut ticket).poll(&mut context);
                    self.stage = Stage::Lasts(ticket);
                    return polled.map(|done| refused(done).map(|_| Done(Nothing {}).into()));
                }
                Stage::Over => return Poll::Pending,
            }
        }
    }
}

/// Hands a commit to the thread for groups, which only begins it.
fn begin(task: u64, commit: Commit, makes: &Makes) -> Stage {
    let (log, begun) = (makes.log.clone(), Arc::new(Mutex::new(None)));
    let begins = Arc::clone(&begun);
    let job = move || {
        *lock(&begins) = refused(groups::commit(&log, &commit))?;
        Ok(Done(Nothing {}).into())
    };
    Stage::Begins { place: makes.coordinating.run(task, Box::new(job)), begun }
}

/// The last records that a commit says were dealt with, as far as a power cut might take them. What is not right about it is
/// said when it is taken.
fn undurable(log: &Log, commit: &Commit) -> Vec<Ticket> {
    let record = |named: &crate::log::peer::protocol::Offset| {
        let topic = log.inner.find_topic(&named.topic)?;
        let partition = topic.partition(named.partition).ok()?;
        let is_at_stake =
            (partition.durable_end() + 1..=partition.written_end()).contains(&named.offset);
        is_at_stake.then(|| Ticket::of_written(partition, named.offset - 1))
    };
    commit.offsets.iter().filter_map(record).collect()
}
