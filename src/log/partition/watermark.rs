//! The durable watermark of a partition: up to where its bytes are known to be durable, and so must be whole.
//!
//! A file of two slots, each in a sector of its own, written in turn after a sync. It is never synced for that: a slot
//! that reaches the medium says the truth whenever it does, and one that does not leaves the older one, which is true
//! too. A third slot, durable from the beginning and never written again, says that nothing was durable: it counts when
//! a write failed half-way and a power cut took the other slot. The watermark also guards what the CRC of a batch does
//! not cover: length and offset up to here.

use std::sync::Arc;

use crate::log::error::{Damage, LogError, Place};
use crate::log::format::crc::crc32c;
use crate::log::segment::{Home, MarkFile};
use crate::log::storage::{OpenMode, StorageError, StorageFile};

/// The file's name in the partition's directory.
pub(in crate::log) const FILE: &str = "durable-watermark";

const MAGIC: [u8; 8] = *b"pmqwm\0\0\x01";
/// Distance of the slots; a write to one never touches the other's sector, on mediums of 4 KiB sectors too.
const SLOT_DISTANCE: u64 = 4096;
/// Slots that are written in turn; the one after them is the first and last resort.
const SLOTS: u64 = 2;
const SLOT_BYTES: usize = 64;
/// Where the partition's number plus one is; 0 says nothing of it.
const PARTITION_AT: usize = CRC_AT - 4;
const CRC_AT: usize = SLOT_BYTES - 4;

const FLAG_PRODUCERS: u32 = 1;
const FLAG_SYNC_FAILED: u32 = 2;

/// What a slot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log) struct Watermark {
    /// Base offset of the segment that was written to.
    pub(in crate::log) segment: i64,
    /// Bytes of that segment that are durable.
    pub(in crate::log) position: u64,
    /// The offset after the last durable one.
    pub(in crate::log) offset: i64,
    /// Epoch of the writer.
    pub(in crate::log) epoch: i32,
    /// Largest timestamp of that segment up to here.
    pub(in crate::log) max_timestamp: i64,
    /// Whether there were idempotent producers.
    pub(in crate::log) producers: bool,
    /// A sync failed after this: what can be read beyond may not be on the medium.
    pub(in crate::log) sync_failed: bool,
}

impl Watermark {
    /// The watermark of a partition that is empty at this offset.
    pub(in crate::log) fn empty(offset: i64) -> Self {
        Self {
            segment: offset,
            position: 0,
            offset,
            epoch: -1,
            max_timestamp: -1,
            producers: false,
            sync_failed: false,
        }
    }

    fn encode(&self, sequence: u64, partition: u32) -> [u8; SLOT_BYTES] {
        let flags = u32::from(self.producers) * FLAG_PRODUCERS
            + u32::from(self.sync_failed) * FLAG_SYNC_FAILED;
        let mut bytes = Vec::with_capacity(SLOT_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(&self.segment.to_be_bytes());
        bytes.extend_from_slice(&self.position.to_be_bytes());
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        bytes.extend_from_slice(&self.max_timestamp.to_be_bytes());
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&partition.wrapping_add(1).to_be_bytes());
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        let mut slot = [0; SLOT_BYTES];
        slot.copy_from_slice(&bytes);
        slot
    }

    /// The sequence number of a slot that is sound, what it says, and of which partition.
    fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Self, Option<u32>)> {
        let long = |at: usize| {
            let bytes = slot.get(at..)?.first_chunk::<8>()?;
            Some(u64::from_be_bytes(*bytes))
        };
        let int = |at: usize| {
            let bytes = slot.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_be_bytes(*bytes))
        };
        if !slot.starts_with(&MAGIC) || int(CRC_AT)? != crc32c(slot.get(..CRC_AT)?) {
            return None;
        }
        let flags = int(52)?;
        let watermark = Self {
            segment: long(16)?.cast_signed(),
            position: long(24)?,
            offset: long(32)?.cast_signed(),
            max_timestamp: long(40)?.cast_signed(),
            epoch: int(48)?.cast_signed(),
            producers: flags & FLAG_PRODUCERS != 0,
            sync_failed: flags & FLAG_SYNC_FAILED != 0,
        };
        Some((long(8)?, watermark, int(PARTITION_AT)?.checked_sub(1)))
    }
}

/// The file, and what was written to it last. It is open when it is needed, as a log has one for each partition.
#[derive(Debug)]
pub(in crate::log) struct WatermarkFile {
    home: Arc<Home>,
    file: MarkFile,
    sequence: u64,
    last: Watermark,
    /// Since it was opened a sync failed.
    failed: bool,
}

impl WatermarkFile {
    /// Creates the file with its first slot, durably but for its name.
    pub(in crate::log) fn create(home: &Arc<Home>, first: Watermark) -> Result<Self, LogError> {
        let path = home.directory.join(FILE);
        let created = home.storage.open(&path, OpenMode::Create).and_then(|file| {
            file.set_len(0)?;
            let slot = first.encode(0, home.partition);
            file.write_at(&slot, 0)?;
            file.write_at(&slot, SLOTS * SLOT_DISTANCE)?;
            file.sync_data()
        });
        created.map(|()| Self::of(home, first)).map_err(|error| home.failed(error))
    }

    /// Opens the file and finds the newest slot that is sound. One of another partition is refused: what is here was put here.
    pub(in crate::log) fn open(home: &Arc<Home>) -> Result<Self, LogError> {
        let mut watermark = Self::of(home, Watermark::empty(0));
        let path = home.directory.join(FILE);
        let place = || Place { path: Some(path.clone()), ..home.place() };
        let file = match watermark.file() {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LogError::corrupt(place(), Damage::Missing));
            }
            Err(error) => return Err(home.failed(error)),
        };
        match newest(&*file, home)? {
            Some((sequence, last)) => {
                (watermark.sequence, watermark.last) = (sequence, last);
                Ok(watermark)
            }
            None => Err(LogError::corrupt(place(), Damage::Unreadable)),
        }
    }

    fn of(home: &Arc<Home>, last: Watermark) -> Self {
        let file = MarkFile::new(home.files.clone());
        Self { home: home.clone(), file, sequence: 0, last, failed: false }
    }

    fn file(&self) -> Result<Arc<dyn StorageFile>, StorageError> {
        let mode = if self.home.writable { OpenMode::Write } else { OpenMode::Read };
        self.file.get(|| self.home.storage.open(&self.home.directory.join(FILE), mode))
    }

    /// What the newest slot says by now, of a file that another process writes. A slot that is being written does not count.
    pub(in crate::log) fn look_again(&mut self) -> Result<Watermark, LogError> {
        let file = self.file().map_err(|error| self.home.failed(error))?;
        if let Some((sequence, last)) = newest(&*file, &self.home)?
            && sequence > self.sequence
        {
            (self.sequence, self.last) = (sequence, last);
        }
        Ok(self.last)
    }

    /// What the newest slot says.
    pub(in crate::log) fn last(&self) -> Watermark {
        self.last
    }

    /// Writes the other slot, if this one is news. A failure is none: the older slot stays true.
    pub(in crate::log) fn store(&mut self, watermark: Watermark) {
        // Of two segments with one offset the later one counts: the other may be replaced already, and who tells of it late.
        let place = |watermark: &Watermark| (watermark.offset, watermark.segment);
        let known = watermark == self.last || place(&watermark) < place(&self.last);
        // After a failed sync the mark of it stays: the next opening must not believe what it can read.
        if known || self.failed {
            return;
        }
        let _ = self.write_next(watermark);
    }

    /// Notes that a sync failed, as well as that can be done now.
    pub(in crate::log) fn sync_failed(&mut self) {
        self.store(Watermark { sync_failed: true, ..self.last });
        self.failed = true;
    }

    /// Writes what the newest slot says to the other one too, durably: from now on nothing needs what the watermark was
    /// before, whichever slot is damaged.
    pub(in crate::log) fn settle(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let written = self.write_next(self.last);
        written.map_err(|error| self.home.failed(error))?;
        self.sync()
    }

    /// Makes the newest slot durable.
    pub(in crate::log) fn sync(&self) -> Result<(), LogError> {
        let synced = self.file().and_then(|file| file.sync_data());
        synced.map_err(|error| self.home.failed(error))
    }

    /// Writes the slot that is not the newest, which makes it that.
    fn write_next(&mut self, watermark: Watermark) -> Result<(), StorageError> {
        let sequence = self.sequence + 1;
        let at = (sequence % SLOTS) * SLOT_DISTANCE;
        let slot = watermark.encode(sequence, self.home.partition);
        self.file()?.write_at(&slot, at)?;
        (self.sequence, self.last) = (sequence, watermark);
        Ok(())
    }
}

/// A slot of the file as it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log) struct SlotFound {
    /// Where it starts in the file.
    pub(in crate::log) position: u64,
    /// Sequence number and content, if it is sound.
    pub(in crate::log) content: Option<(u64, Watermark)>,
    /// The number of the partition that it says it is of.
    pub(in crate::log) partition: Option<u32>,
    /// Nothing was ever written to it.
    pub(in crate::log) is_blank: bool,
}

/// All slots of the file with these bytes.
pub(in crate::log) fn slots(file: &[u8]) -> impl Iterator<Item = SlotFound> + '_ {
    (0..=SLOTS).map(|slot| {
        let position = slot * SLOT_DISTANCE;
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let rest = file.get(start..).unwrap_or_default();
        let bytes = rest.get(..SLOT_BYTES).unwrap_or(rest);
        let decoded = bytes.first_chunk().and_then(Watermark::decode);
        let content = decoded.map(|(sequence, watermark, _)| (sequence, watermark));
        let partition = decoded.and_then(|(_, _, partition)| partition);
        SlotFound { position, content, partition, is_blank: bytes.iter().all(|byte| *byte == 0) }
    })
}

/// The newest slot that is sound.
fn newest(file: &dyn StorageFile, home: &Home) -> Result<Option<(u64, Watermark)>, LogError> {
    let mut newest: Option<(u64, Watermark)> = None;
    for at in (0..=SLOTS).map(|slot| slot * SLOT_DISTANCE) {
        let mut slot = [0; SLOT_BYTES];
        file.read_at(&mut slot, at).map_err(|error| home.failed(error))?;
        let Some((sequence, watermark, partition)) = Watermark::decode(&slot) else { continue };
        if let Some(found) = partition.filter(|found| *found != home.partition) {
            let place = Place { path: Some(home.directory.join(FILE)), ..home.place() };
            return Err(LogError::corrupt(place.at_position(at), Damage::WrongPartition { found }));
        }
        newest = newest.max_by_sequence(Some((sequence, watermark)));
    }
    Ok(newest)
}

/// Which of two slots counts.
trait Newest {
    fn max_by_sequence(self, other: Self) -> Self;
}

impl Newest for Option<(u64, Watermark)> {
    fn max_by_sequence(self, other: Self) -> Self {
        match (self, other) {
            (Some(one), Some(two)) => Some(if two.0 > one.0 { two } else { one }),
            (one, two) => one.or(two),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Watermark {
        Watermark { offset, position: offset as u64 * 10, ..Watermark::empty(0) }
    }

    #[test]
    fn the_newest_slot_counts_and_a_damaged_one_gives_way_to_the_older() {
        let home = Arc::new(Home::in_memory());
        let mut file = WatermarkFile::create(&home, Watermark::empty(0)).unwrap();
        file.store(at(3));
        file.store(at(7));
        assert_eq!(WatermarkFile::open(&home).unwrap().last(), at(7));
        let raw = home.storage.open(&home.directory.join(FILE), OpenMode::Write).unwrap();
        raw.write_at(&[0xff], 33).unwrap();
        assert_eq!(WatermarkFile::open(&home).unwrap().last(), at(3));
        raw.write_at(&[0xff], SLOT_DISTANCE + 33).unwrap();
        assert_eq!(WatermarkFile::open(&home).unwrap().last(), Watermark::empty(0));
        raw.write_at(&[0xff], SLOTS * SLOT_DISTANCE + 33).unwrap();
        assert!(WatermarkFile::open(&home).unwrap_err().is_corruption());
    }

    #[test]
    fn who_looks_again_finds_what_was_stored_since_and_nothing_that_is_half_written() {
        let home = Arc::new(Home::in_memory());
        let mut file = WatermarkFile::create(&home, Watermark::empty(0)).unwrap();
        file.store(at(3));
        let mut other = WatermarkFile::open(&home).unwrap();
        assert_eq!(other.look_again().unwrap(), at(3));
        file.store(at(7));
        assert_eq!(other.look_again().unwrap(), at(7));
        let raw = home.storage.open(&home.directory.join(FILE), OpenMode::Write).unwrap();
        for slot in 0..=SLOTS {
            raw.write_at(&[0xff], slot * SLOT_DISTANCE + 33).unwrap();
            assert_eq!(other.look_again().unwrap(), at(7));
        }
    }

    #[test]
    fn it_never_goes_back_and_remembers_a_failed_sync() {
        let home = Arc::new(Home::in_memory());
        let mut file = WatermarkFile::create(&home, Watermark::empty(0)).unwrap();
        file.store(at(7));
        file.store(at(5));
        assert_eq!(file.last(), at(7));
        file.store(Watermark::empty(7));
        file.store(at(7));
        assert_eq!(file.last(), Watermark::empty(7), "back to the segment before");
        file.sync_failed();
        file.store(at(9));
        let mut opened = WatermarkFile::open(&home).unwrap();
        assert_eq!(opened.last(), Watermark { sync_failed: true, ..Watermark::empty(7) });
        opened.store(at(9));
        assert_eq!(opened.last(), at(9), "whoever opens it has seen to that");
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_noticed() {
        let slot = at(7).encode(9, 4);
        assert_eq!(Watermark::decode(&slot), Some((9, at(7), Some(4))));
        for bit in 0..SLOT_BYTES * 8 {
            let mut flipped = slot;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Watermark::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_slot_without_a_number_is_of_any_partition_and_one_with_another_of_none() {
        let home = Arc::new(Home::in_memory());
        let mut file = WatermarkFile::create(&home, Watermark::empty(0)).unwrap();
        file.store(at(7));
        let path = home.directory.join(FILE);
        let raw = home.storage.open(&path, OpenMode::Write).unwrap();
        for slot in 0..=SLOTS {
            // As number -1, which leaves zeros.
            let bytes = at(slot as i64).encode(slot, u32::MAX);
            assert_eq!(bytes[PARTITION_AT..CRC_AT], [0; 4]);
            raw.write_at(&bytes, slot * SLOT_DISTANCE).unwrap();
        }
        assert_eq!(WatermarkFile::open(&home).unwrap().last(), at(2));
        raw.write_at(&at(1).encode(1, home.partition + 1), 0).unwrap();
        let refused = WatermarkFile::open(&home).unwrap_err();
        let found = home.partition + 1;
        let LogError::Corrupt { damage, .. } = refused else { panic!("{refused}") };
        assert_eq!(damage, Damage::WrongPartition { found });
    }
}
