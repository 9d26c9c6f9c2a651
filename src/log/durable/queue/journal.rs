//! What a queue remembers across restarts: a topic of the same log, in which every delivery and every end of a record is
//! noted. Now and then a picture of everything follows, and what is before it is forgotten. A picture takes a record or more
//! for each partition and counts once it is complete.

use std::collections::BTreeMap;
use std::iter;

use super::core::{Lease, Remembered, Spot};
use crate::log::Log;
use crate::log::append::{NewRecord, Ticket};
use crate::log::error::{Damage, LogError, Place};
use crate::log::format::{Fault, Field, FormatError, Id};
use crate::log::options::{Level, TopicOptions};
use crate::log::peer::protocol::Malformed;
use crate::log::peer::protocol::wire::{Input, Wire, wire_kinds, wire_struct};
use crate::log::read::Position;
use crate::log::topic::Topic;

/// Version of what is written here.
const VERSION: u8 = 2;
/// Notes between two pictures, at least.
const NOTES_MAX: usize = 1024;
/// Deliveries or spots in one note, at most: it fits a record.
const ITEMS_MAX: usize = 64 << 10;
/// Bytes of a segment; what is forgotten goes segment by segment.
const SEGMENT_BYTES: u32 = 4 << 20;

wire_struct! {
    /// Deliveries: partition, offset and attempt of each.
    struct Delivered {
        leases: Vec<(u32, (i64, u32))>,
    }
}

wire_struct! {
    /// Records that are done with.
    struct Finished {
        spots: Vec<(u32, i64)>,
    }
}

wire_struct! {
    /// A picture begins: of this topic, with so many parts, which follow at once.
    struct Picture {
        topic: String,
        id: (u64, u64),
        parts: u32,
    }
}

wire_struct! {
    /// A part: everything about one partition, or some of it; the rest is in other parts.
    struct Partition {
        partition: u32,
        floor: i64,
        done: Vec<i64>,
        attempts: Vec<(i64, u32)>,
    }
}

wire_kinds! {
    /// A note.
    enum Note {
        1 Delivered(Delivered),
        2 Finished(Finished),
        3 Picture(Picture),
        4 Partition(Partition),
    }
}

impl Note {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.code()];
        self.put_fields(&mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::of_own(bytes);
        let (version, code) = (u8::take(&mut input)?, u8::take(&mut input)?);
        if version != VERSION {
            return Err(Malformed::Version { found: version });
        }
        let note = Self::take_fields(code, &mut input)?;
        input.end()?;
        Ok(note)
    }
}

/// What a journal tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Memory {
    /// The topic that the queue is over: its name and its id, by which it is told from a later one of that name.
    pub(super) topic: (String, Id),
    pub(super) partitions: BTreeMap<u32, Remembered>,
}

/// What a picture says of a partition, in parts that fit a record each.
fn parts(partition: u32, remembered: Remembered) -> Vec<Partition> {
    let Remembered { floor, done, attempts } = remembered;
    let (done, attempts) = (Vec::from_iter(done), Vec::from_iter(attempts));
    let count = done.len().max(attempts.len()).div_ceil(ITEMS_MAX).max(1);
    let (mut done, mut attempts) = (done.chunks(ITEMS_MAX), attempts.chunks(ITEMS_MAX));
    let part = |_| {
        let done = done.next().unwrap_or_default().to_vec();
        let attempts = attempts.next().unwrap_or_default().to_vec();
        Partition { partition, floor, done, attempts }
    };
    (0..count).map(part).collect()
}

/// The journal of one queue.
#[derive(Debug)]
pub(super) struct Journal {
    topic: Topic,
    /// Since the last picture.
    notes: usize,
    /// Of these notes.
    bytes: usize,
    /// Of the last picture.
    picture_bytes: usize,
}

impl Journal {
    /// Opens the journal of a queue, or begins one; also what it tells. `None` for a new one.
    pub(super) fn open(log: &Log, queue: &str) -> Result<(Self, Option<Memory>), LogError> {
        let options = TopicOptions::default().segment_bytes(SEGMENT_BYTES);
        let options = options.record_bytes_max(SEGMENT_BYTES);
        let inner = log.inner.internal_topic(&format!("__queue.{queue}"), options)?;
        let topic = Topic { inner, log: log.inner.clone() };
        let mut replay = Replay::default();
        for record in topic.read(0, Position::Earliest)? {
            let record = record?;
            let value = record.value.as_deref().unwrap_or_default();
            let noted = Note::decode(value).and_then(|note| replay.note(note, value.len()));
            noted.map_err(|error| unreadable(&topic, record.offset, error))?;
        }
        let Replay { memory, notes, bytes, picture_bytes, .. } = replay;
        Ok((Self { topic, notes, bytes, picture_bytes }, memory))
    }

    /// Notes deliveries. They may be handed out when the ticket is done: attempts are counted then though this process dies.
    pub(super) fn delivered(&mut self, leases: &[Lease]) -> Result<Option<Ticket>, LogError> {
        let lease = |lease: &Lease| (lease.spot.0, (lease.spot.1, lease.attempt));
        let chunks = leases.chunks(ITEMS_MAX).map(|leases| leases.iter().map(lease).collect());
        self.note(Level::Written, chunks.map(|leases| Note::Delivered(Delivered { leases })))
    }

    /// Notes records that are done with. The ticket is that of the last note, which has no level before the others have
    /// it. `None` for no records.
    pub(super) fn finished(
        &mut self,
        level: Level,
        spots: &[Spot],
    ) -> Result<Option<Ticket>, LogError> {
        let chunks = spots.chunks(ITEMS_MAX).map(<[Spot]>::to_vec);
        self.note(level, chunks.map(|spots| Note::Finished(Finished { spots })))
    }

    /// Notes these, at once: appended one by one, some of them might fail to be written before the next is appended, which
    /// then takes their place and is written, and so the ticket of the last would tell nothing of those before it.
    fn note(
        &mut self,
        level: Level,
        notes: impl Iterator<Item = Note>,
    ) -> Result<Option<Ticket>, LogError> {
        let notes: Vec<Vec<u8>> = notes.map(|note| note.encode()).collect();
        self.notes += notes.len();
        self.bytes += notes.iter().map(Vec::len).sum::<usize>();
        let records: Vec<NewRecord<'_>> = notes.iter().map(NewRecord::new).collect();
        self.topic.append_all(0, level, &records)
    }

    /// Whether anything can be noted.
    pub(super) fn check(&self) -> Result<(), LogError> {
        self.topic.inner.partition(0)?.check()
    }

    /// Whether so much was noted that a picture is due: it is no more work than the notes before it were.
    pub(super) fn is_long(&self) -> bool {
        self.notes >= NOTES_MAX && self.bytes >= self.picture_bytes
    }

    /// Notes everything. What was noted before can be forgotten once that is durable.
    pub(super) fn draw(&mut self, memory: Memory) -> Result<Drawing, LogError> {
        let Memory { topic: (topic, id), partitions } = memory;
        let id = ((id.bits() >> 64) as u64, id.bits() as u64);
        let parts = partitions.into_iter().flat_map(|(number, known)| parts(number, known));
        let parts: Vec<Partition> = parts.collect();
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let before = self.bytes;
        let picture = Picture { topic, id, parts: count };
        let parts = parts.into_iter().map(Note::Partition);
        let all = iter::once(Note::Picture(picture)).chain(parts);
        // There is none for no notes.
        let noted = self.note(Level::Durable, all)?.ok_or(LogError::Closed)?;
        let (notes, bytes) = (self.notes, self.bytes);
        let offset = noted.first_offset();
        let drawn = Drawn { topic: self.topic.clone(), offset, notes, bytes, before };
        Ok(Drawing { noted, drawn })
    }

    /// A picture is durable, and what follows it is what counts from now on.
    pub(super) fn drawn(&mut self, drawn: &Drawn) {
        self.notes -= drawn.notes;
        (self.picture_bytes, self.bytes) = (drawn.bytes - drawn.before, self.bytes - drawn.bytes);
    }

    /// Notes everything, and forgets what was noted before.
    pub(super) fn everything(&mut self, memory: Memory) -> Result<(), LogError> {
        let drawn = self.draw(memory)?.wait()?;
        self.drawn(&drawn);
        drawn.forget_before()
    }
}

/// A picture that is appended, but need not be durable yet.
#[derive(Debug)]
pub(super) struct Drawing {
    noted: Ticket,
    drawn: Drawn,
}

impl Drawing {
    pub(super) fn wait(self) -> Result<Drawn, LogError> {
        self.noted.wait()?;
        Ok(self.drawn)
    }
}

/// A picture that is durable.
#[derive(Debug)]
pub(super) struct Drawn {
    topic: Topic,
    /// Where it begins.
    offset: i64,
    /// Notes since the picture before it, up to its end, and their bytes.
    notes: usize,
    bytes: usize,
    /// Bytes of those before it.
    before: usize,
}

impl Drawn {
    /// Forgets what was noted before.
    pub(super) fn forget_before(&self) -> Result<(), LogError> {
        self.topic.truncate_front(0, self.offset)
    }
}

/// Goes through a journal.
#[derive(Debug, Default)]
struct Replay {
    memory: Option<Memory>,
    /// A picture of which parts are to come. It counts for nothing before they have: writing it has failed if something
    /// else follows.
    incomplete: Option<(Memory, u32)>,
    notes: usize,
    bytes: usize,
    picture_bytes: usize,
}

impl Replay {
    fn note(&mut self, note: Note, bytes: usize) -> Result<(), Malformed> {
        self.notes += 1;
        self.bytes += bytes;
        match note {
            Note::Picture(picture) => {
                let bits = u128::from(picture.id.0) << 64 | u128::from(picture.id.1);
                let topic = (picture.topic, Id::from_bits(bits));
                let memory = Memory { topic, partitions: BTreeMap::new() };
                self.incomplete = Some((memory, picture.parts));
                self.picture_bytes = bytes;
            }
            Note::Partition(Partition { partition, floor, done, attempts }) => {
                let Some((memory, left)) = &mut self.incomplete else {
                    return Err(Malformed::Kind { found: 4 });
                };
                let known = memory.partitions.entry(partition).or_default();
                // Another part may have brought it further.
                known.floor = known.floor.max(floor);
                known.done.extend(done);
                known.attempts.extend(attempts);
                known.tidy();
                *left = left.saturating_sub(1);
                self.picture_bytes += bytes;
            }
            Note::Delivered(delivered) => {
                let partitions = self.partitions().ok_or(Malformed::Kind { found: 1 })?;
                for (partition, (offset, attempt)) in delivered.leases {
                    partitions.entry(partition).or_default().attempts.insert(offset, attempt);
                }
            }
            Note::Finished(finished) => {
                let partitions = self.partitions().ok_or(Malformed::Kind { found: 2 })?;
                for (partition, offset) in finished.spots {
                    let known = partitions.entry(partition).or_default();
                    known.done.insert(offset);
                    known.attempts.remove(&offset);
                    known.tidy();
                }
            }
        }
        if self.incomplete.as_ref().is_some_and(|(_, left)| *left == 0) {
            self.memory = self.incomplete.take().map(|(memory, _)| memory);
            (self.notes, self.bytes) = (0, 0);
        }
        Ok(())
    }

    /// What notes are about.
    fn partitions(&mut self) -> Option<&mut BTreeMap<u32, Remembered>> {
        self.incomplete = None;
        self.memory.as_mut().map(|memory| &mut memory.partitions)
    }
}

/// A record of the journal that is sound, but not a note that is known here.
fn unreadable(topic: &Topic, offset: i64, error: Malformed) -> LogError {
    let found = match error {
        Malformed::Version { found } | Malformed::Kind { found } => found.into(),
        _ => -1,
    };
    let damage = FormatError { field: Field::Value, position: 0, fault: Fault::Invalid { found } };
    let place =
        Place { topic: Some(topic.name().to_owned()), partition: Some(0), ..Place::default() };
    LogError::corrupt(place.at_offset(offset), Damage::Format(damage))
}

#[cfg(test)]
mod tests;
