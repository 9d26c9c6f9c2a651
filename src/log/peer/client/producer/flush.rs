//! Waiting until everything that was appended is acknowledged, and telling what was not.
//!
//! Each batch that fails is told by a flush once: by those that wait for it then, else by the next one. What is known so is
//! kept under the lock of the lanes, under which every batch is in its lane or has an outcome.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::LaneKey;
use super::ticket::Fate;
use crate::log::peer::client::error::Asked;
use crate::log::peer::client::{Core, PeerError};
use crate::sync::lock;

/// Records of one partition that a client has appended and the server did not acknowledge.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unacknowledged {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: u32,
    /// How many they are.
    pub records: u64,
    /// Why the first of them was not acknowledged. After a `Timeout` it is still pursued, unless the client was closed.
    pub error: PeerError,
}

/// Not everything was acknowledged that a client has appended.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{records} records were not acknowledged by {endpoint}, the first of them for topic {}, \
     partition {}: {}",
    first.topic,
    first.partition,
    first.error
)]
#[non_exhaustive]
pub struct FlushError {
    /// The server's endpoint.
    pub endpoint: String,
    /// How many records were not acknowledged.
    pub records: u64,
    /// Those of the partition of which it was known first.
    pub first: Box<Unacknowledged>,
    /// All of them, by partition, the first one first.
    pub partitions: Vec<Unacknowledged>,
}

/// What was not acknowledged, by partition in the order of the first failures. There are no more than partitions.
#[derive(Debug, Default)]
pub(super) struct Failures {
    all: Vec<Unacknowledged>,
    places: HashMap<LaneKey, usize>,
}

impl Failures {
    pub(super) fn add(&mut self, key: &LaneKey, records: i32, error: PeerError) {
        let records = u64::try_from(records).unwrap_or_default();
        self.add_all(Unacknowledged { topic: key.0.to_string(), partition: key.1, records, error });
    }

    fn add_all(&mut self, more: Unacknowledged) {
        let key: LaneKey = (more.topic.as_str().into(), more.partition);
        let place = *self.places.entry(key).or_insert(self.all.len());
        match self.all.get_mut(place) {
            Some(known) => known.records = known.records.saturating_add(more.records),
            None => self.all.push(more),
        }
    }

    fn into_result(self, endpoint: &str) -> Result<(), FlushError> {
        let Some(first) = self.all.first().cloned().map(Box::new) else { return Ok(()) };
        let (endpoint, partitions) = (endpoint.to_owned(), self.all);
        let records = partitions.iter().fold(0, |sum, some| some.records.saturating_add(sum));
        Err(FlushError { endpoint, records, first, partitions })
    }
}

/// What was appended so far, to be waited for. Dropped before it is [finished](Self::finish), it leaves it to the next one to
/// tell what failed.
#[derive(Debug)]
pub(in crate::log::peer::client) struct Flushing {
    core: Arc<Core>,
    batches: Vec<(LaneKey, i32, Arc<Fate>)>,
    /// So many of them are done.
    done: usize,
    failures: Failures,
}

impl Flushing {
    pub(in crate::log::peer::client) fn begin(core: &Arc<Core>) -> Self {
        let mut batches = Vec::new();
        let mut lanes = lock(&core.producer.lanes);
        let mut broken = Vec::new();
        for (key, lane) in &mut lanes.lanes {
            // What comes later is not waited for.
            lane.close_open();
            broken.push((key.clone(), std::mem::take(&mut lane.broken)));
            for batch in lane.batches() {
                batch.fate.begin_flush();
                batches.push((key.clone(), batch.records, Arc::clone(&batch.fate)));
            }
        }
        for (key, broken) in broken {
            lanes.settle_broken(core, &key, broken);
        }
        let failures = std::mem::take(&mut lanes.failures);
        super::tell(lanes);
        Self { core: Arc::clone(core), batches, done: 0, failures }
    }

    /// Waits until all of it is done, or the time is up.
    pub(in crate::log::peer::client) fn wait_until(&mut self, deadline: Option<Instant>) {
        while let Some((.., fate)) = self.batches.get(self.done) {
            if fate.wait_until(deadline).is_none() {
                return;
            }
            self.done += 1;
        }
    }

    /// Ready when all of it is done; else the waker is called when more of it is.
    pub(in crate::log::peer::client) fn poll(&mut self, waker: &Waker) -> Poll<()> {
        while let Some((.., fate)) = self.batches.get(self.done) {
            if fate.poll(waker).is_pending() {
                return Poll::Pending;
            }
            self.done += 1;
        }
        Poll::Ready(())
    }

    /// What of it was not acknowledged.
    pub(in crate::log::peer::client) fn finish(mut self) -> Result<(), FlushError> {
        let core = Arc::clone(&self.core);
        let connection = core.link.connection();
        let (batches, mut failures) =
            (std::mem::take(&mut self.batches), std::mem::take(&mut self.failures));
        let mut pending = Vec::new();
        // What fails from now on is left to the next one.
        let lanes = lock(&core.producer.lanes);
        for (key, records, fate) in batches {
            match fate.end_flush() {
                Some(Ok(_)) => {}
                Some(Err(error)) => failures.add(&key, records, error),
                None => pending.push((key, records)),
            }
        }
        drop(lanes);
        for (key, records) in pending {
            let asked = Asked::append(&key.0, key.1);
            failures.add(&key, records, core.unanswered(&asked, connection.clone()));
        }
        failures.into_result(core.link.endpoint())
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        let mut lanes = lock(&self.core.producer.lanes);
        let newer = std::mem::replace(&mut lanes.failures, std::mem::take(&mut self.failures));
        for (key, records, fate) in std::mem::take(&mut self.batches) {
            if let Some(Err(error)) = fate.drop_flush() {
                lanes.failures.add(&key, records, error);
            }
        }
        newer.all.into_iter().for_each(|failed| lanes.failures.add_all(failed));
    }
}
