//! The batches of one partition: one that gathers, complete ones that wait, and the one in flight with its number.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::LaneKey;
use super::target::Target;
use super::ticket::Fate;
use crate::log::append::NewRecord;
use crate::log::clock::{Clock, SystemClock};
use crate::log::format::batch::set_producer;
use crate::log::format::{self, BatchBuilder, BatchOptions};
use crate::log::options::Level;
use crate::log::peer::client::PeerError;
use crate::log::peer::client::records::unencodable;
use crate::log::peer::protocol::Append;

/// The batches of one partition.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) producer: i64,
    pub(super) epoch: i16,
    pub(super) sequence: i32,
    pub(super) open: Option<Open>,
    pub(super) closed: VecDeque<Batch>,
    /// Bytes in `closed`.
    pub(super) closed_bytes: usize,
    pub(super) in_flight: Option<Batch>,
    /// Whether the batch in flight has been numbered anew already.
    pub(super) renumbered: bool,
    /// Batches that will not be sent, to be told of when nothing is locked any more.
    pub(super) settled: Vec<Settled>,
}

/// What has become of a batch.
#[derive(Debug)]
pub(super) struct Settled(pub(super) Arc<Fate>, pub(super) Result<i64, PeerError>);

impl Settled {
    /// Tells whoever waits for it, and runs whatever is woken by that.
    pub(super) fn tell(self) {
        self.0.set(self.1);
    }
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) builder: BatchBuilder,
    pub(super) level: Level,
    pub(super) fate: Arc<Fate>,
}

/// A batch that is complete, but for its number.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) records: i32,
    pub(super) level: Level,
    pub(super) fate: Arc<Fate>,
}

impl Lane {
    pub(super) fn new(producer: i64) -> Self {
        Self {
            producer,
            epoch: 0,
            sequence: 0,
            open: None,
            closed: VecDeque::new(),
            closed_bytes: 0,
            in_flight: None,
            renumbered: false,
            settled: Vec::new(),
        }
    }

    /// Encodes a record; returns its fate and its place in the batch.
    pub(super) fn push(
        &mut self,
        target: &Target,
        level: Level,
        record: &NewRecord<'_>,
    ) -> (Arc<Fate>, i64) {
        let timestamp = record.timestamp_ms.unwrap_or_else(|| SystemClock.now_ms());
        let headers = || record.headers.iter().copied();
        let fits = |open: &Open| {
            let more = open.builder.bytes_of(timestamp, record.key, record.value, headers());
            let bytes = open.builder.bytes().saturating_add(more);
            bytes <= target.batch_bytes && open.builder.reaches(timestamp)
        };
        // The server will refuse it, and should nothing else with it.
        let alone = target.compact && record.key.is_none();
        if alone || self.open.as_ref().is_some_and(|open| !fits(open)) {
            self.close_open();
        }
        let open = self.open.get_or_insert_with(|| {
            let options = BatchOptions { codec: target.codec, ..BatchOptions::default() };
            Open { builder: BatchBuilder::new(options), level, fate: Arc::default() }
        });
        open.level = open.level.max(level);
        let fate = Arc::clone(&open.fate);
        let appended = open.builder.append(timestamp, record.key, record.value, headers());
        if alone {
            self.close_open();
        }
        appended.map_or_else(
            |error| {
                let fate = Arc::new(Fate::default());
                fate.set(Err(unencodable(&target.topic, &error)));
                (fate, 0)
            },
            |delta| (fate, delta),
        )
    }

    pub(super) fn close_open(&mut self) {
        let Some(open) = self.open.take().filter(|open| !open.builder.is_empty()) else { return };
        let records = i32::try_from(open.builder.records_count()).unwrap_or(i32::MAX);
        match open.builder.finish() {
            Ok(bytes) => {
                self.closed_bytes += bytes.len();
                let (level, fate) = (open.level, open.fate);
                self.closed.push_back(Batch { bytes, records, level, fate });
            }
            Err(error) => self.settled.push(Settled(open.fate, Err(unencodable("", &error)))),
        }
    }

    /// The next batch to send, numbered.
    pub(super) fn next(&mut self) -> Option<()> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.closed.is_empty() {
            self.close_open();
        }
        let batch = self.closed.pop_front()?;
        self.closed_bytes -= batch.bytes.len();
        self.in_flight = Some(batch);
        self.renumbered = false;
        Some(())
    }

    /// Numbers the batch in flight; the request that appends it.
    pub(super) fn stamp(
        &mut self,
        key: &LaneKey,
    ) -> Result<Option<(Append, Bytes)>, format::FormatError> {
        let Some(batch) = &mut self.in_flight else { return Ok(None) };
        let (id, epoch, base_sequence) = (self.producer, self.epoch, self.sequence);
        set_producer(&mut batch.bytes, format::Producer { id, epoch, base_sequence })?;
        let request = Append { topic: key.0.to_string(), partition: key.1, level: batch.level };
        Ok(Some((request, Bytes::copy_from_slice(&batch.bytes))))
    }

    /// Begins a new epoch; false when there is none left.
    pub(super) fn new_epoch(&mut self) -> bool {
        self.sequence = 0;
        match self.epoch.checked_add(1) {
            Some(epoch) => {
                self.epoch = epoch;
                true
            }
            None => false,
        }
    }

    /// Ends all of it; returns who is to be told.
    pub(super) fn fail_all(mut self, error: &PeerError) -> Vec<Settled> {
        self.close_open();
        let batches = self.in_flight.into_iter().chain(self.closed);
        self.settled.extend(batches.map(|batch| Settled(batch.fate, Err(error.clone()))));
        self.settled
    }
}

/// The sequence number this many records after another; they wrap from the largest to 0.
pub(in crate::log::peer::client) fn after(sequence: i32, records: i32) -> i32 {
    sequence.wrapping_add(records) & i32::MAX
}
