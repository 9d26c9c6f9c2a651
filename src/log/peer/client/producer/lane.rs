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
use crate::log::format::{self, BatchBuilder, BatchOptions, Fault, Field, FormatError};
use crate::log::options::{BATCH_BYTES_MAX, Level};
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
    /// Batches that cannot be sent, as they cannot be encoded or are too large.
    pub(super) broken: Vec<Broken>,
}

/// A batch that could not be encoded, or is larger than any may be.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) fate: Arc<Fate>,
    pub(super) records: i32,
    pub(super) error: FormatError,
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
            broken: Vec::new(),
        }
    }

    /// Encodes a record; returns its fate and its place in the batch, unless it breaks the format.
    pub(super) fn push(
        &mut self,
        target: &Target,
        level: Level,
        record: &NewRecord<'_>,
    ) -> Result<(Arc<Fate>, i64), FormatError> {
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
        appended.map(|delta| (fate, delta))
    }

    pub(super) fn close_open(&mut self) {
        let Some(open) = self.open.take().filter(|open| !open.builder.is_empty()) else { return };
        let records = i32::try_from(open.builder.records_count()).unwrap_or(i32::MAX);
        match open.builder.finish().and_then(bounded) {
            Ok(bytes) => {
                self.closed_bytes += bytes.len();
                let (level, fate) = (open.level, open.fate);
                self.closed.push_back(Batch { bytes, records, level, fate });
            }
            Err(error) => self.broken.push(Broken { fate: open.fate, records, error }),
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
    pub(super) fn stamp(&mut self, key: &LaneKey) -> Result<Option<(Append, Bytes)>, FormatError> {
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

    /// All batches that are complete, the first one first.
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.in_flight.iter().chain(&self.closed)
    }
}

/// The batch, unless it is larger than any may be. A server ends the connection of a request that is much larger, and would
/// again whenever the batch is sent anew, and with it everything behind it.
fn bounded(batch: Vec<u8>) -> Result<Vec<u8>, FormatError> {
    if batch.len() <= BATCH_BYTES_MAX as usize {
        return Ok(batch);
    }
    let fault = Fault::TooLarge { limit: u64::from(BATCH_BYTES_MAX) };
    Err(FormatError { field: Field::BatchLength, position: 8, fault })
}

/// The sequence number this many records after another; they wrap from the largest to 0.
pub(in crate::log::peer::client) fn after(sequence: i32, records: i32) -> i32 {
    sequence.wrapping_add(records) & i32::MAX
}
