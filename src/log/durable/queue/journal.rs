//! What a queue remembers across restarts: a topic of the same log, in which every delivery and every end of a record is
//! noted. Now and then a record with everything follows, and what is before it is forgotten.

use std::collections::BTreeMap;

use super::core::{Lease, Remembered, Spot};
use crate::log::Log;
use crate::log::append::{NewRecord, Ticket};
use crate::log::error::{Damage, LogError, Place};
use crate::log::format::{Fault, Field, FormatError};
use crate::log::options::{Level, TopicOptions};
use crate::log::peer::protocol::Malformed;
use crate::log::peer::protocol::wire::{Input, Wire, wire_kinds, wire_struct};
use crate::log::read::Position;
use crate::log::topic::Topic;

/// Version of what is written here.
const VERSION: u8 = 1;
/// Notes between two records with everything.
const NOTES_MAX: usize = 1024;
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
    /// Everything about one partition.
    struct Partition {
        partition: u32,
        floor: i64,
        done: Vec<i64>,
        attempts: Vec<(i64, u32)>,
    }
}

wire_struct! {
    /// Everything.
    struct Everything {
        partitions: Vec<Partition>,
    }
}

wire_kinds! {
    /// A note.
    enum Note {
        1 Delivered(Delivered),
        2 Finished(Finished),
        3 Everything(Everything),
    }
}

impl Note {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.code()];
        self.put_fields(&mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        let (version, code) = (u8::take(&mut input)?, u8::take(&mut input)?);
        if version != VERSION {
            return Err(Malformed::Version { found: version });
        }
        let note = Self::take_fields(code, &mut input)?;
        input.end()?;
        Ok(note)
    }
}

/// The journal of one queue.
#[derive(Debug)]
pub(super) struct Journal {
    topic: Topic,
    /// Since the last record with everything.
    notes: usize,
}

impl Journal {
    /// Opens the journal of a queue, or begins one; also what it remembers. `None` for a new one.
    pub(super) fn open(
        log: &Log,
        queue: &str,
    ) -> Result<(Self, Option<BTreeMap<u32, Remembered>>), LogError> {
        let options = TopicOptions::default().segment_bytes(SEGMENT_BYTES);
        let options = options.record_bytes_max(SEGMENT_BYTES);
        let inner = log.inner.internal_topic(&format!("__queue.{queue}"), options)?;
        let topic = Topic { inner, log: log.inner.clone() };
        let mut remembered = None;
        for record in topic.read(0, Position::Earliest)? {
            let record = record?;
            let note = Note::decode(record.value.as_deref().unwrap_or_default());
            let note = note.map_err(|error| unreadable(&topic, record.offset, error))?;
            apply(&mut remembered, note);
        }
        Ok((Self { topic, notes: 0 }, remembered))
    }

    /// Notes deliveries; written when this returns, so that attempts are counted though this process dies.
    pub(super) fn delivered(&mut self, leases: &[Lease]) -> Result<(), LogError> {
        let lease = |lease: &Lease| (lease.spot.0, (lease.spot.1, lease.attempt));
        let leases = leases.iter().map(lease).collect();
        self.note(Level::Written, &Note::Delivered(Delivered { leases }))?.wait().map(drop)
    }

    /// Notes records that are done with.
    pub(super) fn finished(&mut self, level: Level, spots: &[Spot]) -> Result<Ticket, LogError> {
        self.note(level, &Note::Finished(Finished { spots: spots.to_vec() }))
    }

    fn note(&mut self, level: Level, note: &Note) -> Result<Ticket, LogError> {
        self.notes += 1;
        self.topic.append_to(0, level, NewRecord::new(&note.encode()))
    }

    /// Whether so much was noted that everything should be.
    pub(super) fn is_long(&self) -> bool {
        self.notes >= NOTES_MAX
    }

    /// Notes everything, and forgets what was noted before.
    pub(super) fn everything(
        &mut self,
        remembered: BTreeMap<u32, Remembered>,
    ) -> Result<(), LogError> {
        let partition = |(partition, remembered): (u32, Remembered)| Partition {
            partition,
            floor: remembered.floor,
            done: remembered.done.into_iter().collect(),
            attempts: remembered.attempts.into_iter().collect(),
        };
        let partitions = remembered.into_iter().map(partition).collect();
        let ticket = self.note(Level::Durable, &Note::Everything(Everything { partitions }))?;
        let offset = ticket.wait()?;
        self.notes = 0;
        self.topic.truncate_front(0, offset)
    }
}

fn apply(remembered: &mut Option<BTreeMap<u32, Remembered>>, note: Note) {
    let partitions = remembered.get_or_insert_with(BTreeMap::new);
    match note {
        Note::Delivered(delivered) => {
            for (partition, (offset, attempt)) in delivered.leases {
                partitions.entry(partition).or_default().attempts.insert(offset, attempt);
            }
        }
        Note::Finished(finished) => {
            for (partition, offset) in finished.spots {
                let known = partitions.entry(partition).or_default();
                known.done.insert(offset);
                known.attempts.remove(&offset);
            }
        }
        Note::Everything(everything) => {
            partitions.clear();
            for Partition { partition, floor, done, attempts } in everything.partitions {
                let done = done.into_iter().collect();
                let attempts = attempts.into_iter().collect();
                partitions.insert(partition, Remembered { floor, done, attempts });
            }
        }
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
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::log::storage::MemoryStorage;

    fn remembered(floor: i64, done: &[i64], attempts: &[(i64, u32)]) -> Remembered {
        let (done, attempts) = (done.iter().copied().collect(), attempts.iter().copied().collect());
        Remembered { floor, done, attempts }
    }

    #[test]
    fn what_was_noted_is_remembered_and_what_is_before_everything_forgotten() {
        let storage = Arc::new(MemoryStorage::new());
        let log = Log::open_in(storage.clone(), "/log").unwrap();
        let (mut journal, nothing) = Journal::open(&log, "q").unwrap();
        assert!(nothing.is_none());
        let lease = |offset, attempt| Lease { spot: (2, offset), attempt };
        journal.everything([(2, remembered(5, &[7], &[(6, 2)]))].into()).unwrap();
        journal.delivered(&[lease(8, 1), lease(6, 3)]).unwrap();
        journal.finished(Level::Durable, &[(2, 8)]).unwrap().wait().unwrap();
        drop((journal, log));
        let log = Log::open_in(storage, "/log").unwrap();
        let (mut journal, found) = Journal::open(&log, "q").unwrap();
        assert_eq!(found.unwrap()[&2], remembered(5, &[7, 8], &[(6, 3)]));
        journal.everything([(1, remembered(1, &[], &[]))].into()).unwrap();
        let (journal, found) = Journal::open(&log, "q").unwrap();
        assert_eq!(found.unwrap(), [(1, remembered(1, &[], &[]))].into());
        let earliest = journal.topic.offset_of(0, Position::Earliest).unwrap();
        assert_eq!(earliest, 3, "what is before is forgotten");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_note_or_one_that_encodes_to_them(bytes: Vec<u8>) {
            if let Ok(note) = Note::decode(&bytes) {
                prop_assert_eq!(note.encode(), bytes);
            }
        }
    }
}
