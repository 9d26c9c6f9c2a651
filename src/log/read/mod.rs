//! Reading a partition: positions, and readers that go through it batch by batch.

mod cursor;
mod follow;
mod lookout;
mod looks;
mod record;
mod window;

use std::mem;
use std::sync::Arc;

use super::error::LogError;
use super::format::FormatError;
use super::format::batch::DECOMPRESSED_BYTES_MAX;
use super::options::Level;
use super::partition::Partition;
use cursor::Cursor;
pub use follow::Follow;
pub(super) use lookout::Lookout;
use looks::Looks;
use record::Pending;
pub use record::{LogRecord, ReadBatch};
use window::Window;

/// Bytes read at a time, where a reader does not say otherwise.
const CHUNK_BYTES: usize = 256 << 10;

/// Where to begin to read.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Position {
    /// The record with this offset.
    Offset(i64),
    /// The first record that is there.
    Earliest,
    /// Behind the last record that is written now.
    Latest,
    /// The first record with a timestamp not before this one, in milliseconds since 1970; if there is none, behind the
    /// last record.
    Time(i64),
    /// Where the group of this name goes on: the offset that it committed, or the first record that is there if it has not
    /// committed any; [`Group::committed`](super::Group::committed) tells which. If the front was cut beyond what it has
    /// committed, that is an error, as it would miss records.
    Committed(String),
}

/// Reads one partition from a position on, in order, everything that is written. An iterator over records that ends at
/// the end of the partition for now, and after an error; asked again later it goes on, or fails again. Keeps no writer
/// waiting.
#[derive(Debug)]
pub struct Reader {
    partition: Arc<Partition>,
    cursor: Cursor,
    level: Level,
    chunk_bytes: usize,
    window: Window,
    /// The batch whose records are being handed out.
    pending: Option<Pending>,
    /// The last that the iterator gave was an error: there it ends.
    failed: bool,
}

impl Reader {
    pub(super) fn new(partition: Arc<Partition>, from: Position) -> Result<Self, LogError> {
        let offset = partition.offset_of(from)?;
        Ok(Self::from_offset(partition, offset))
    }

    /// Begins at an offset up to the end, whatever has gathered behind it.
    ///
    /// # Errors
    /// `OffsetOutOfRange`.
    pub(super) fn at(partition: Arc<Partition>, offset: i64) -> Result<Self, LogError> {
        let end = partition.written_end();
        let offset = partition.offset_within(Position::Offset(offset), end)?;
        Ok(Self::from_offset(partition, offset))
    }

    fn from_offset(partition: Arc<Partition>, offset: i64) -> Self {
        Self {
            partition,
            cursor: Cursor::new(offset),
            level: Level::Written,
            chunk_bytes: CHUNK_BYTES,
            window: Window::default(),
            pending: None,
            failed: false,
        }
    }

    /// Reads only what survives a power cut.
    #[must_use]
    pub fn durable_only(mut self) -> Self {
        self.level = Level::Durable;
        self
    }

    /// Reads about so many bytes at a time; 256 KiB. A batch that is larger is read whole.
    #[must_use]
    pub fn chunk_bytes(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes.max(1);
        self
    }

    /// The partition's number.
    pub fn partition_number(&self) -> u32 {
        self.partition.home.partition
    }

    /// The offset of the next record: what to commit when all records so far are dealt with.
    pub fn next_offset(&self) -> i64 {
        self.pending.as_ref().map_or(self.cursor.next_offset(), Pending::next_offset)
    }

    /// Goes on reading elsewhere; not at what a group has committed, which [`Topic::offset_of`](super::Topic::offset_of)
    /// tells.
    ///
    /// # Errors
    /// `OffsetOutOfRange`; `Invalid` for `Committed`.
    pub fn seek(&mut self, to: Position) -> Result<(), LogError> {
        self.cursor = Cursor::new(self.partition.offset_of(to)?);
        (self.window, self.pending, self.failed) = (Window::default(), None, false);
        Ok(())
    }

    /// The offset after the last one that this reader may see.
    fn end(&self) -> i64 {
        match self.level {
            Level::Durable => self.partition.durable_end(),
            _ => self.partition.written_end(),
        }
    }

    /// The next batch, its CRC checked; `None` at the end for now. Its first records may lie before the position that was
    /// asked for; [`ReadBatch`] leaves them out. After an error it stays where it is.
    ///
    /// # Errors
    /// `Corrupt`, with the place; `OffsetOutOfRange` if the front was cut meanwhile; failures of the storage.
    pub fn next_batch(&mut self) -> Result<Option<ReadBatch>, LogError> {
        self.failed = false;
        let mut looks = Looks::default();
        loop {
            match self.try_next_batch() {
                Err(error) => {
                    looks.again(&self.partition, error)?;
                    self.window = Window::default();
                    self.cursor.lose_place();
                }
                read => return read,
            }
        }
    }

    #[inline]
    fn try_next_batch(&mut self) -> Result<Option<ReadBatch>, LogError> {
        loop {
            // What was read may reach further than what is durable; it is read again when it is.
            if self.level == Level::Durable && self.cursor.next_offset() >= self.end() {
                self.window = Window::default();
            }
            if self.window.left() > 0
                && let Some((batch, first_offset)) = self.cursor.cut_batch(&self.window.rest())?
            {
                self.window.take(batch.bytes().len());
                if batch.header().last_offset() >= first_offset {
                    return Ok(Some(ReadBatch { batch, first_offset }));
                }
                continue;
            }
            let end = self.end();
            match self.cursor.fetch(&self.partition, end, self.chunk_bytes, &mut self.window) {
                Ok(true) => {}
                Ok(false) => {
                    self.partition.refresh()?;
                    // Whoever found it: another reader may have looked since.
                    if self.end() <= end {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(self.cut_meanwhile(error)),
            }
        }
    }

    /// A file that is gone is no failure of the storage if the front was cut.
    #[cold]
    fn cut_meanwhile(&self, error: LogError) -> LogError {
        let (earliest, offset) = (self.partition.log_start(), self.cursor.next_offset());
        if offset >= earliest {
            return error;
        }
        let place = Box::new(self.partition.home.place().at_offset(offset));
        LogError::OffsetOutOfRange { place, earliest, end: self.partition.written_end() }
    }

    /// The next record; `None` at the end for now.
    ///
    /// # Errors
    /// As [`next_batch`](Self::next_batch).
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<LogRecord>, LogError> {
        loop {
            if let Some(record) = self.pending.as_mut().and_then(Pending::next) {
                return Ok(Some(record));
            }
            if !self.open_batch()? {
                return Ok(None);
            }
        }
    }

    #[cold]
    fn bad_record(&self, error: FormatError) -> LogError {
        LogError::corrupt(self.partition.home.place().at_offset(self.next_offset()), error)
    }

    /// Makes ready to hand out the records of the next batch; false at the end for now.
    #[inline(never)]
    fn open_batch(&mut self) -> Result<bool, LogError> {
        // The rest of a batch that cannot be decoded is not skipped in silence: the error stays.
        if let Some(error) = self.pending.as_ref().and_then(Pending::failed) {
            return Err(self.bad_record(error));
        }
        self.pending = None;
        loop {
            let Some(batch) = self.next_batch()? else { return Ok(false) };
            // Control records are not for readers.
            if batch.batch.header().attributes.is_control() {
                continue;
            }
            let pending = Pending::new(&batch, self.partition_number(), DECOMPRESSED_BYTES_MAX);
            let place = || self.partition.home.place().at_offset(batch.first_offset);
            self.pending = Some(pending.map_err(|error| LogError::corrupt(place(), error))?);
            return Ok(true);
        }
    }

    /// Waits at the end for more instead of ending: an iterator for threads, with calls for tasks beside.
    pub fn follow(self) -> Follow {
        Follow::new(self)
    }
}

impl Iterator for Reader {
    type Item = Result<LogRecord, LogError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.pending.as_mut().and_then(Pending::next) {
                return Some(Ok(record));
            }
            if mem::take(&mut self.failed) {
                return None;
            }
            match self.open_batch() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Partition {
    /// The offset a position stands for now.
    pub(super) fn offset_of(&self, position: Position) -> Result<i64, LogError> {
        let end = match &position {
            Position::Latest | Position::Time(_) => self.look()?,
            // What has gathered is there for whoever asks for it.
            Position::Offset(offset) if *offset >= self.written_end() => self.look()?,
            _ => self.written_end(),
        };
        self.offset_within(position, end)
    }

    /// The offset a position stands for as long as the partition ends here.
    pub(super) fn offset_within(&self, position: Position, end: i64) -> Result<i64, LogError> {
        let earliest = self.log_start();
        match position {
            Position::Earliest => Ok(earliest),
            Position::Latest => Ok(end),
            Position::Time(timestamp_ms) => self.offset_of_time(timestamp_ms, end),
            Position::Committed(_) => {
                let reason = "what a group has committed is known to the topic".to_owned();
                Err(LogError::Invalid { what: "position", reason })
            }
            Position::Offset(offset) => {
                if (earliest..=end).contains(&offset) {
                    return Ok(offset);
                }
                let place = Box::new(self.home.place().at_offset(offset));
                Err(LogError::OffsetOutOfRange { place, earliest, end })
            }
        }
    }

    /// Writes what has gathered here, or looks what another process has written; returns the end then.
    fn look(&self) -> Result<i64, LogError> {
        if self.home.writable {
            // Who appended hears of a failure by its ticket.
            let _ = self.write_now();
        } else {
            self.refresh()?;
        }
        Ok(self.written_end())
    }

    fn offset_of_time(&self, timestamp_ms: i64, end: i64) -> Result<i64, LogError> {
        let (mut end, mut looks) = (end, Looks::default());
        loop {
            let earliest = self.log_start();
            match self.try_offset_of_time(timestamp_ms, end) {
                // The front was cut meanwhile.
                Err(_) if self.log_start() > earliest => {}
                Err(error) => looks.again(self, error)?,
                found => return found,
            }
            // Another look may have found more.
            end = self.written_end();
        }
    }

    fn try_offset_of_time(&self, timestamp_ms: i64, end: i64) -> Result<i64, LogError> {
        let earliest = self.log_start();
        let view = self.view();
        for (n, segment) in view.segments.iter().enumerate() {
            let next = view.segments.get(n + 1).map(|next| next.base_offset);
            if segment.next_offset() <= earliest || (segment.end() == 0 && next.is_none()) {
                continue;
            }
            let found = segment.find_time(timestamp_ms)?;
            if found.position >= segment.end() {
                match next.filter(|next| found.offset < *next) {
                    Some(next) => return Err(segment.ends_early(found, next)),
                    None => continue,
                }
            }
            let mut cursor = Cursor::at(segment.clone(), found, earliest);
            let mut window = Window::default();
            // The batch has a record late enough, unless that lies before the log's start.
            while cursor.fetch(self, end, CHUNK_BYTES, &mut window)? {
                while let Some((batch, _)) = cursor.cut_batch(&window.rest())? {
                    window.take(batch.bytes().len());
                    if batch.header().max_timestamp < timestamp_ms {
                        continue;
                    }
                    let corrupt = |error| LogError::corrupt(segment.place(), error);
                    let read = ReadBatch { batch, first_offset: earliest };
                    let found = read.first_since(timestamp_ms).map_err(corrupt)?;
                    if let Some(offset) = found {
                        return Ok(offset);
                    }
                }
            }
        }
        Ok(end)
    }
}
