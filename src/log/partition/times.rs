//! When segments were appended to, by the log's clock: what retention by age goes by, and when a segment is old.
//!
//! The records' own times do not say it: one dated in the future would keep its segment for ever, one dated in the past
//! would take it away at once. The times of files do not either, for they change with copying. So they are written
//! down: entry after entry, the last one of a segment counts. No entry is synced for that, for one that is missing makes
//! a segment younger, never older: it counts as appended to when the log was opened.

use std::collections::BTreeMap;

use crate::log::disk;
use crate::log::format::crc::crc32c;
use crate::log::segment::{Home, Segment};
use crate::log::storage::{OpenMode, StorageError};

/// The file's name in the partition's directory.
pub(in crate::log) const FILE: &str = "segment-times";

const ENTRY_BYTES: usize = 48;
const CRC_AT: usize = ENTRY_BYTES - 4;

/// A time that is not known.
pub(in crate::log) const UNKNOWN: i64 = -1;

/// What is known of one segment; times in milliseconds since 1970, [`UNKNOWN`] if they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log) struct Times {
    /// The first append.
    pub(in crate::log) first: i64,
    /// The last append.
    pub(in crate::log) last: i64,
    /// When the first tombstone may go; `i64::MAX` if there is none that waits for that.
    pub(in crate::log) horizon: i64,
}

impl Times {
    /// Nothing is known.
    pub(in crate::log) const NONE: Self = Self { first: UNKNOWN, last: UNKNOWN, horizon: UNKNOWN };

    /// Those of a segment made of two.
    pub(in crate::log) fn merged(self, other: Self) -> Self {
        let first = if self.first.min(other.first) == UNKNOWN {
            self.first.max(other.first)
        } else {
            self.first.min(other.first)
        };
        let horizon = self.horizon.min(other.horizon);
        Self { first, last: self.last.max(other.last), horizon }
    }
}

/// One entry: the times of a segment when it ended with an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    base_offset: i64,
    next_offset: i64,
    times: Times,
}

impl Entry {
    fn of(segment: &Segment) -> Self {
        let (base_offset, next_offset) = (segment.base_offset, segment.next_offset());
        Self { base_offset, next_offset, times: segment.times() }
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let Times { first, last, horizon } = self.times;
        let mut entry = [0; ENTRY_BYTES];
        let fields = [self.base_offset, self.next_offset, first, last, horizon];
        for (place, field) in entry.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        let (fields, crc) = entry.split_at_mut(CRC_AT);
        crc.copy_from_slice(&crc32c(fields).to_be_bytes());
        entry
    }

    /// `None` for what a crash left in place of an entry.
    fn decode(entry: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let (fields, crc) = entry.split_at(CRC_AT);
        if crc != crc32c(fields).to_be_bytes() {
            return None;
        }
        let (words, _) = fields.as_chunks::<8>();
        let mut words = words.iter().map(|word| i64::from_be_bytes(*word));
        let (base_offset, next_offset) = (words.next()?, words.next()?);
        let times = Times { first: words.next()?, last: words.next()?, horizon: words.next()? };
        Some(Self { base_offset, next_offset, times })
    }
}

/// A place in the file for an entry.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Place {
    /// Its first byte.
    pub(in crate::log) position: u64,
    /// Base offset of a segment, the offset after its last one then, and its times; `None` for what is no entry.
    pub(in crate::log) content: Option<(i64, i64, Times)>,
}

/// What the file holds, place by place.
pub(in crate::log) fn entries(bytes: &[u8]) -> impl Iterator<Item = Place> {
    let places = (0..).step_by(ENTRY_BYTES).zip(bytes.chunks(ENTRY_BYTES));
    places.map(|(position, entry)| {
        let entry = entry.first_chunk().and_then(Entry::decode);
        let content = entry.map(|entry| (entry.base_offset, entry.next_offset, entry.times));
        Place { position, content }
    })
}

/// The file, as its writer knows it.
#[derive(Debug, Default)]
pub(in crate::log) struct TimesFile {
    entries: u64,
    /// What was noted of the segment that is appended to.
    noted: Option<(i64, i64, Times)>,
}

impl TimesFile {
    /// Reads the file and tells the segments. What it does not say is as of now. Writes the file anew when it says too
    /// much or too little, which may fail: the next opening does it then.
    pub(in crate::log) fn load(
        home: &Home,
        segments: &[std::sync::Arc<Segment>],
        now_ms: i64,
    ) -> Result<Self, StorageError> {
        let bytes = disk::read(&*home.storage, &home.directory.join(FILE))?.unwrap_or_default();
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        let mut known = BTreeMap::new();
        for entry in entries.iter().filter_map(Entry::decode) {
            known.insert(entry.base_offset, entry);
        }
        let mut complete = bytes.len() % ENTRY_BYTES == 0;
        for segment in segments {
            let entry = known.get(&segment.base_offset);
            let mut times = entry.map_or(Times::NONE, |entry| entry.times);
            if segment.next_offset() == segment.base_offset {
                times = Times::NONE;
            } else if entry.is_none_or(|entry| entry.next_offset != segment.next_offset()) {
                // It was appended to after that, nobody knows when.
                complete = false;
                times.last = now_ms;
                times.horizon = UNKNOWN;
                if times.first == UNKNOWN {
                    times.first = now_ms;
                }
            }
            segment.set_times(times);
        }
        let noted = segments.last().map(|active| Entry::of(active));
        let noted = noted.filter(|active| known.get(&active.base_offset) == Some(active));
        let noted = noted.map(|active| (active.base_offset, active.next_offset, active.times));
        let mut file = Self { entries: entries.len() as u64, noted };
        if home.writable && (!complete || entries.len() > 8 + 4 * segments.len()) {
            let _ = file.rewrite(home, segments);
        }
        Ok(file)
    }

    /// Writes the file anew when it has become much longer than it must be. It may fail: see above.
    pub(in crate::log) fn shorten(&mut self, home: &Home, segments: &[std::sync::Arc<Segment>]) {
        if self.entries > 64 + 8 * segments.len() as u64 {
            let _ = self.rewrite(home, segments);
        }
    }

    /// Writes the file anew, durably.
    fn rewrite(
        &mut self,
        home: &Home,
        segments: &[std::sync::Arc<Segment>],
    ) -> Result<(), StorageError> {
        let filled = segments.iter().filter(|segment| segment.end() > 0);
        let bytes: Vec<u8> = filled.flat_map(|segment| Entry::of(segment).encode()).collect();
        disk::replace(&*home.storage, &home.directory, FILE, &bytes)?;
        self.entries = (bytes.len() / ENTRY_BYTES) as u64;
        Ok(())
    }

    /// Makes what was noted durable.
    pub(in crate::log) fn sync(&self, home: &Home) -> Result<(), StorageError> {
        if self.entries == 0 {
            return Ok(());
        }
        home.storage.open(&home.directory.join(FILE), OpenMode::Create)?.sync_data()
    }

    /// Notes the times of a segment, unless they are noted. It may fail: see above.
    pub(in crate::log) fn note(&mut self, home: &Home, segment: &Segment) {
        let entry = Entry::of(segment);
        let news = (entry.base_offset, entry.next_offset, entry.times);
        if segment.end() == 0 || self.noted == Some(news) {
            return;
        }
        let at = self.entries * ENTRY_BYTES as u64;
        let path = home.directory.join(FILE);
        let opened = home.storage.open(&path, OpenMode::Create);
        if opened.and_then(|file| file.write_at(&entry.encode(), at)).is_ok() {
            self.entries += 1;
            self.noted = Some(news);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const KNOWN: Times = Times { first: 5, last: 9, horizon: 70 };

    fn home() -> Arc<Home> {
        Arc::new(Home::in_memory())
    }

    fn segment(home: &Arc<Home>, base: i64, next: i64) -> Arc<Segment> {
        Arc::new(Segment::known(home.clone(), base, 100, next, true))
    }

    #[test]
    fn times_survive_and_what_was_not_noted_is_as_of_now() {
        let home = home();
        let mut file = TimesFile::default();
        for (base, next) in [(0, 10), (10, 20)] {
            let noted = segment(&home, base, next);
            noted.set_times(KNOWN);
            file.note(&home, &noted);
        }
        let segments = [segment(&home, 0, 10), segment(&home, 10, 25), segment(&home, 25, 30)];
        TimesFile::load(&home, &segments, 1000).unwrap();
        assert_eq!(segments[0].times(), KNOWN);
        let longer = Times { first: 5, last: 1000, horizon: UNKNOWN };
        assert_eq!(segments[1].times(), longer, "it was appended to later");
        assert_eq!(segments[2].times(), Times { first: 1000, ..longer });
        let again = [segment(&home, 10, 25)];
        TimesFile::load(&home, &again, 2000).unwrap();
        assert_eq!(again[0].times(), longer, "what was found out is kept");
    }

    #[test]
    fn a_file_that_has_grown_long_is_written_anew() {
        let home = home();
        let mut file = TimesFile::default();
        let segments = [segment(&home, 0, 10)];
        for last in 0..100 {
            segments[0].set_times(Times { last, ..KNOWN });
            file.note(&home, &segments[0]);
            file.shorten(&home, &segments);
            assert!(file.entries <= 72);
        }
        let again = [segment(&home, 0, 10)];
        TimesFile::load(&home, &again, 1000).unwrap();
        assert_eq!(again[0].times().last, 99);
    }

    #[test]
    fn every_flipped_bit_of_an_entry_is_noticed() {
        let entry = Entry { base_offset: 3, next_offset: 4, times: KNOWN };
        assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        for bit in 0..CRC_AT * 8 {
            let mut flipped = entry.encode();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Entry::decode(&[0; ENTRY_BYTES]), None, "what lies ahead of the data");
    }
}
