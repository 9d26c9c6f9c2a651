//! What a queue has to do beside its workers' requests, and what waits for the medium: bringing the dead to their topic,
//! keeping the journal short, and beginning anew over a topic that was made anew. One thread does it at a time, and others go on with the queue meanwhile: workers in this process
//! do it in their own threads, a server has a thread for it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::core::{Cause, Lease, Spot};
use super::{DurableQueue, dead};
use crate::log::append::Ticket;
use crate::log::error::LogError;
use crate::log::format::Id;
use crate::log::read::LogRecord;
use crate::log::topic::Topic;
use crate::log::wakers::{self, Held, hold, try_hold};

/// A record on its way to the dead letters.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) lease: Lease,
    pub(super) cause: Cause,
    pub(super) record: Option<LogRecord>,
}

/// All that are on their way now.
#[derive(Debug)]
pub(super) struct Mail {
    /// The topic that they are of.
    pub(super) origin: Id,
    pub(super) letters: Vec<Letter>,
    /// Where they go; `None`: they are only counted.
    pub(super) to: Option<Topic>,
}

/// What became of a letter.
type Outcome = (Spot, Result<(), LogError>);

/// Somebody has been asked to do what there is to do. Dropped, whether it was done or not, somebody else can be.
#[derive(Debug)]
pub(in crate::log) struct Chores {
    queue: DurableQueue,
    /// It was begun.
    begun: bool,
}

impl Chores {
    /// Does it, and tells who waits for room. What fails is tried again: dead letters and beginning anew a second later, the
    /// journal at the next chance.
    pub(in crate::log) fn run(mut self) {
        self.begun = true;
        let (queue, asked) = (&self.queue, &self.queue.inner.asked);
        loop {
            let only = hold(&queue.inner.chores);
            // Who is refused by the journal hears of it; see `dead_letter_error` for letters.
            let done = queue.do_chores();
            drop(only);
            // Who has found something to do meanwhile has counted on this.
            asked.store(false, Ordering::SeqCst);
            if done.is_err() || !queue.has_chores() || asked.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}

impl Drop for Chores {
    fn drop(&mut self) {
        self.queue.inner.asked.store(false, Ordering::SeqCst);
        // A server may end before it comes to this, and the workers of another have counted on it: the one that waits longest
        // asks again. Not if it was begun: what has failed would be tried again and again.
        if !self.begun && self.queue.has_chores() {
            wakers::call(self.queue.state().first_waiter());
        }
    }
}

/// `chores`, held. Who finds it held counts on the holder, who may have looked for the last time by then. So there is another
/// look once it is let go, and if there is something to do, the worker that waits longest is woken to see to it.
struct Alone<'a> {
    queue: &'a DurableQueue,
    only: Option<Held<'a, ()>>,
}

impl<'a> Alone<'a> {
    fn new(queue: &'a DurableQueue, only: Held<'a, ()>) -> Self {
        Self { queue, only: Some(only) }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.only = None;
        if self.queue.has_chores() {
            wakers::call(self.queue.state().first_waiter());
        }
    }
}

impl DurableQueue {
    /// What is to be done in a thread that may block, unless somebody has been asked to.
    pub(in crate::log) fn chores(&self) -> Option<Chores> {
        let due = self.state().has_chores();
        let asks = due && !self.inner.asked.swap(true, Ordering::SeqCst);
        asks.then(|| Chores { queue: self.clone(), begun: false })
    }

    /// Does what there is to do, unless somebody is at it.
    pub(super) fn tend(&self) -> Result<(), LogError> {
        if !self.has_chores() {
            return Ok(());
        }
        let Some(only) = try_hold(&self.inner.chores) else { return Ok(()) };
        let _only = Alone::new(self, only);
        self.do_chores()
    }

    /// All there is to do. For who has `chores`.
    fn do_chores(&self) -> Result<(), LogError> {
        self.shorten_journal()?;
        // The dead of a topic that is gone first: they are forgotten with it.
        self.bury()?;
        self.begin_anew()
    }

    /// Whether there is something to do and nobody at it.
    pub(super) fn has_chores(&self) -> bool {
        let mut state = self.state();
        state.revive(self.inner.clock.steady_ms());
        state.has_chores() && try_hold(&self.inner.chores).is_some()
    }

    /// Sees to it that the journal is short before something is noted there.
    pub(super) fn tidy(&self) -> Result<(), LogError> {
        if !self.state().journal.is_long() {
            return Ok(());
        }
        let _only = Alone::new(self, hold(&self.inner.chores));
        self.shorten_journal()
    }

    /// Brings these dead, and others, to their topic; the failure of the first one of these that was refused.
    pub(super) fn bury_these(&self, spots: &BTreeSet<Spot>) -> Result<(), LogError> {
        let only = Alone::new(self, hold(&self.inner.chores));
        let buried = self.bury();
        drop(only);
        // Somebody else may have done it, so what became of them counts.
        let state = self.state();
        let refused = state.unburied.iter().find(|((_, spot), _)| spots.contains(spot));
        refused.map_or(buried, |(_, error)| Err(error.clone()))
    }

    /// Notes everything in the journal and forgets what was noted before, if that is due. For who has `chores`.
    fn shorten_journal(&self) -> Result<(), LogError> {
        let mut state = self.state();
        if !state.journal.is_long() {
            return Ok(());
        }
        let memory = state.memory();
        // At once, as nothing else may be noted in between.
        let picture = state.journal.draw(memory)?;
        drop(state);
        let cut = picture.wait()?;
        self.state().journal.drawn(&cut);
        cut.forget_before()
    }

    /// Brings the dead to their topic, each for itself: one that is refused keeps no other. They are durable there before
    /// they are done with here; a crash between the two leaves a second copy, which its headers show. For who has `chores`.
    fn bury(&self) -> Result<(), LogError> {
        self.state().revive(self.inner.clock.steady_ms());
        // Those too that die meanwhile: who has seen to that may have counted on this thread.
        while let Some(mail) = { self.state().mail() } {
            self.deliver(&mail)?;
        }
        Ok(())
    }

    fn deliver(&self, mail: &Mail) -> Result<(), LogError> {
        let inner = &self.inner;
        let outcomes = send(&inner.topic, mail);
        let sent = outcomes.iter().filter(|(_, outcome)| outcome.is_ok());
        let sent: Vec<Spot> = sent.map(|(spot, _)| *spot).collect();

        let mut state = self.state();
        if state.topic.inner.id != mail.origin {
            // They are of another topic than the queue is over by now.
            return Ok(());
        }
        let noted = state.journal.finished(inner.options.level, &sent);
        drop(state);
        let noted = noted.and_then(|ticket| ticket.map_or(Ok(()), |it| it.wait().map(drop)));

        let mut state = self.state();
        let now_ms = inner.clock.steady_ms();
        let full = state.core.full();
        for (spot, outcome) in outcomes {
            match outcome.and(noted.clone()) {
                Ok(()) => state.buried(spot),
                Err(error) => state.refused(spot, error, now_ms),
            }
        }
        let next = state.first_waiter().filter(|_| state.core.full() < full);
        drop(state);
        wakers::call(next);
        noted
    }
}

/// Appends dead letters; what became of each, when that is known.
fn send(origin: &str, mail: &Mail) -> Vec<Outcome> {
    let Some(topic) = &mail.to else {
        return mail.letters.iter().map(|letter| (letter.lease.spot, Ok(()))).collect();
    };
    let mut tickets = Vec::with_capacity(mail.letters.len());
    for Letter { lease, cause, record } in &mail.letters {
        let record = record.as_ref();
        let ticket = record.map(|record| dead::bury(topic, origin, record, *lease, *cause));
        tickets.push((lease.spot, ticket.transpose()));
    }
    let wait = |ticket: Option<Ticket>| ticket.map_or(Ok(()), |ticket| ticket.wait().map(drop));
    tickets.into_iter().map(|(spot, ticket)| (spot, ticket.and_then(wait))).collect()
}

#[cfg(test)]
mod tests;
