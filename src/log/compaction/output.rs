//! The segment that compaction writes: what is kept, with the offsets it had, and no gap between.
//!
//! Where batches were left out, the batch before reaches as far as they did: its last offset delta grows, as it is in any
//! batch whose last records were removed. A batch of an idempotent producer must not be changed so, for its delta tells
//! the last sequence number; behind it an empty batch takes the place. So the batches of a partition always continue each
//! other, compacted or not, and a wrong length or offset is found in either.

use std::path::Path;
use std::sync::Arc;

use crate::log::error::LogError;
use crate::log::format::batch::set_last_offset_delta;
use crate::log::format::batch::{Attributes, TimestampType};
use crate::log::format::{BatchHeader, Codec};
use crate::log::partition::Partition;
use crate::log::segment::{Indexes, Segment};
use crate::log::storage::{OpenMode, StorageFile};

/// Bytes that are written at a time, unless a batch is longer.
const BUFFER_BYTES: usize = 256 << 10;

/// A segment being written.
#[derive(Debug)]
pub(super) struct Output<'a> {
    partition: &'a Partition,
    base_offset: i64,
    file: Arc<dyn StorageFile>,
    /// Bytes in the file.
    written: u64,
    /// What follows them.
    buffer: Vec<u8>,
    indexes: Indexes,
    /// The last batch, whose end is not known yet.
    last: Vec<u8>,
    /// The offset after the last batch.
    next_offset: i64,
}

impl<'a> Output<'a> {
    /// Starts a segment in a file of its own.
    pub(super) fn create(
        partition: &'a Partition,
        base_offset: i64,
        path: &Path,
    ) -> Result<Self, LogError> {
        let opened = partition.home.storage.open(path, OpenMode::Create);
        // What an earlier attempt left.
        let opened = opened.and_then(|file| file.set_len(0).map(|()| file));
        let file = opened.map_err(|error| partition.home.failed(error))?;
        Ok(Self {
            partition,
            base_offset,
            file,
            written: 0,
            buffer: Vec::new(),
            indexes: Indexes::default(),
            last: Vec::new(),
            next_offset: base_offset,
        })
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.written + (self.buffer.len() + self.last.len()) as u64
    }

    /// The offset after the last batch so far.
    pub(super) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Adds a batch that begins at or behind the end.
    pub(super) fn push(&mut self, batch: &[u8], header: &BatchHeader) -> Result<(), LogError> {
        self.reach(header.base_offset, header.leader_epoch)?;
        self.flush_last()?;
        self.last.extend_from_slice(batch);
        self.next_offset = header.last_offset() + 1;
        Ok(())
    }

    /// Lets the segment reach up to an offset, before which nothing comes any more. `epoch`: of what comes then, or came
    /// last; so epochs do not fall.
    fn reach(&mut self, offset: i64, epoch: i32) -> Result<(), LogError> {
        if offset <= self.next_offset {
            return Ok(());
        }
        if !self.last.is_empty() {
            let header = BatchHeader::decode(&self.last);
            let header = header.map_err(|error| self.partition.bad_batch(error))?;
            if header.producer_id < 0 && !header.attributes.is_control() {
                let delta = i32::try_from(offset - 1 - header.base_offset).unwrap_or(i32::MAX);
                set_last_offset_delta(&mut self.last, delta)
                    .map_err(|error| self.partition.bad_batch(error))?;
                self.next_offset = header.offset_of(delta) + 1;
            }
        }
        while self.next_offset < offset {
            self.flush_last()?;
            let filler = filler(self.next_offset, offset, epoch);
            self.last.extend_from_slice(&filler.encode_emptied());
            self.next_offset = filler.last_offset() + 1;
        }
        Ok(())
    }

    /// Writes the last batch, now that it is known how far it reaches.
    fn flush_last(&mut self) -> Result<(), LogError> {
        if self.last.is_empty() {
            return Ok(());
        }
        let header = BatchHeader::decode(&self.last);
        let header = header.map_err(|error| self.partition.bad_batch(error))?;
        let at = self.written + self.buffer.len() as u64;
        let interval = self.partition.options.index_interval_bytes;
        self.indexes.note(self.base_offset, at, &header, interval);
        self.buffer.append(&mut self.last);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let written = self.file.write_at(&self.buffer, self.written);
        written.map_err(|error| self.partition.home.failed(error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the segment at an offset and makes it durable, but for its name. `epoch` is that of the last batch that was
    /// there.
    pub(super) fn finish(mut self, next_offset: i64, epoch: i32) -> Result<Segment, LogError> {
        self.reach(next_offset, epoch)?;
        self.flush_last()?;
        self.flush()?;
        self.indexes.note_time();
        let home = &self.partition.home;
        self.file.sync_data().map_err(|error| home.failed(error))?;
        let end = (self.written, next_offset);
        Ok(Segment::cleaned(home.clone(), self.base_offset, self.file, end, self.indexes))
    }
}

/// The header of a batch without records and without producer, from an offset up to another, or as far as one can reach.
fn filler(from: i64, to: i64, leader_epoch: i32) -> BatchHeader {
    BatchHeader {
        base_offset: from,
        length: 0,
        leader_epoch,
        crc: 0,
        attributes: Attributes::new(Codec::None, TimestampType::Create),
        last_offset_delta: i32::try_from(to - 1 - from).unwrap_or(i32::MAX),
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        records_count: 0,
    }
}
