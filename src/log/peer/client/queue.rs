//! A queue in another process, for its workers.

use std::time::Duration;

use super::error::Asked;
use super::records::records_of;
use super::{LogClient, PeerError, Subject, answer_of};
use crate::log::durable::{Delivery, DeliveryId, QueueStats};
use crate::log::peer::protocol::{
    Acquire, Answer, LIST_MAX, QueueName, RemoteError, Settle, Verdict, WireDelivery,
};
use crate::transport::now;

/// A queue in another process: as [`DurableQueue`](crate::log::DurableQueue), through a server. Clones are the same.
#[derive(Clone, Debug)]
pub struct RemoteQueue {
    client: LogClient,
    name: String,
}

impl RemoteQueue {
    pub(super) fn new(client: LogClient, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Acquires up to `count_max` records, waiting at most `timeout` for the first; none if there was none until then.
    /// If the answer is lost with the connection, what it locked comes again when the locks are over.
    ///
    /// # Errors
    /// `Refused` with `UnknownQueue`, with `OverLimit` for a lock that is longer than the server allows (12 h, if it does not say
    /// otherwise), with `UnknownTopic` while the queue's topic is deleted; any other [`PeerError`].
    pub fn acquire(
        &self,
        count_max: usize,
        lock: Duration,
        timeout: Duration,
    ) -> Result<Vec<Delivery>, PeerError> {
        let deadline = now().checked_add(timeout);
        loop {
            let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(now()));
            let deliveries = self.acquire_once(count_max, lock, left)?;
            // The server lets nobody wait for longer than it likes.
            if !deliveries.is_empty() || deadline.is_some_and(|end| end <= now()) {
                return Ok(deliveries);
            }
        }
    }

    fn acquire_once(
        &self,
        count_max: usize,
        lock: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, PeerError> {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let request = Acquire {
            queue: self.name.clone(),
            count_max: u32::try_from(count_max).unwrap_or(u32::MAX),
            lock_ms: millis(lock),
            wait_ms: millis(wait),
        };
        let core = self.client.core();
        let reply = core.call(request.into(), Vec::new(), wait)?;
        let asked = reply.asked;
        let acquired = match reply.answer {
            Answer::Acquired(acquired) => acquired,
            other => return Err(core.bad_answer(&asked, format!("it is {}", other.name()))),
        };
        let mut deliveries = Vec::with_capacity(acquired.deliveries.len());
        for (named, bytes) in acquired.deliveries.iter().zip(&reply.body) {
            let damaged = |reason: &dyn ToString| {
                let (partition, offset) = (Some(named.partition), Some(named.offset));
                let place = || Subject { partition, offset, ..asked.subject.clone() };
                core.bad_answer(&asked, reason.to_string()).about(place)
            };
            let (_, records) = records_of(bytes, named.partition, named.offset)
                .map_err(|error| damaged(&error))?;
            let record = records.into_iter().next();
            let record = record.ok_or_else(|| damaged(&"a record is missing"))?;
            deliveries.push(Delivery { id: DeliveryId::from(named), record });
        }
        Ok(deliveries)
    }

    /// These are dealt with and never come again.
    ///
    /// # Errors
    /// The first failure: `Refused` with `LockLost` for a delivery whose lock is over - after a lost connection it may
    /// have been settled by this very call. The others are settled nevertheless. Any other [`PeerError`].
    pub fn ack(&self, ids: &[DeliveryId]) -> Result<(), PeerError> {
        self.settle(Verdict::Ack, ids)
    }

    /// These go to somebody else, at once.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn release(&self, ids: &[DeliveryId]) -> Result<(), PeerError> {
        self.settle(Verdict::Release, ids)
    }

    /// These cannot be dealt with: they go to the dead letters.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(&self, ids: &[DeliveryId]) -> Result<(), PeerError> {
        self.settle(Verdict::Reject, ids)
    }

    /// The locks on these last so long from when the server hears of it.
    ///
    /// # Errors
    /// As [`ack`](Self::ack), and with `OverLimit` as [`acquire`](Self::acquire).
    pub fn renew(&self, ids: &[DeliveryId], lock: Duration) -> Result<(), PeerError> {
        let lock_ms = u32::try_from(lock.as_millis()).unwrap_or(u32::MAX);
        self.settle(Verdict::Renew(lock_ms), ids)
    }

    /// What it has done since the server opened it, and has now.
    ///
    /// # Errors
    /// `Refused` with `UnknownQueue`; any other [`PeerError`].
    pub fn stats(&self) -> Result<QueueStats, PeerError> {
        let core = self.client.core();
        let request = QueueName { queue: self.name.clone() };
        let reply = core.call(request.into(), Vec::new(), Duration::ZERO)?;
        let state = answer_of!(core, reply, QueueState)?;
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(QueueStats {
            delivered: state.delivered,
            redelivered: state.redelivered,
            acknowledged: state.acknowledged,
            dead: state.dead,
            missed: state.missed,
            available: count(state.available),
            locked: count(state.locked),
            waiting: count(state.waiting),
            unburied: count(state.unburied),
        })
    }

    fn settle(&self, verdict: Verdict, ids: &[DeliveryId]) -> Result<(), PeerError> {
        let core = self.client.core();
        let mut first: Option<RemoteError> = None;
        for ids in ids.chunks(LIST_MAX) {
            let deliveries: Vec<WireDelivery> = ids.iter().map(|id| (*id).into()).collect();
            let request = Settle { queue: self.name.clone(), verdict, deliveries };
            let reply = core.call(request.into(), Vec::new(), Duration::ZERO)?;
            let settled = answer_of!(core, reply, Settled)?;
            first = first.or_else(|| settled.refused.into_iter().flatten().next());
        }
        first.map_or(Ok(()), |error| {
            let (partition, offset) = (error.partition, error.offset);
            let queue = Some(self.name.clone());
            let subject = Subject { queue, partition, offset, ..Subject::default() };
            Err(core.refused(&Asked::new("Settle", subject), error))
        })
    }
}
