//! The catalogue of a log: which topics there are, with their options, and how often the log was opened for writing.
//!
//! One text file, replaced as a whole. A topic is noted as being made before its directories are, and as being deleted
//! before they get other names, so that a crash in between leaves no doubt what to do.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::disk;
use super::error::{Damage, LogError, Place};
use super::format::Id;
use super::format::crc::crc32c;
use super::format::names::is_valid_topic;
use super::options::TopicOptions;
use super::partition::Shared;

/// The file's name.
pub(super) const FILE: &str = "topics.catalogue";

const FIRST_LINE: &str = "peermq catalogue 1";

/// How far a topic has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Its directories are being made; after a crash they go.
    Making,
    Live,
    /// Its directories get other names, by which they are known as deleted; after a crash they go.
    Deleting,
}

const STATES: [(State, &str); 3] =
    [(State::Making, "making"), (State::Live, "live"), (State::Deleting, "deleting")];

/// A topic as the catalogue has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) state: State,
    pub(super) options: TopicOptions,
}

/// The catalogue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Catalogue {
    /// The number of the last opening for writing.
    pub(super) epoch: i32,
    pub(super) topics: BTreeMap<String, Entry>,
}

impl Catalogue {
    pub(super) fn encode(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nepoch {}\n", self.epoch);
        for (name, entry) in &self.topics {
            let state = STATES.iter().find(|(state, _)| *state == entry.state);
            let state = state.map_or("live", |(_, state)| state);
            let words = entry.options.words().join(" ");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "topic {name} {} {state} {words}", entry.id);
        }
        let crc = crc32c(text.as_bytes());
        let _ = writeln!(text, "crc {crc:08x}");
        text
    }

    /// Reads the file; `None` if anything about it is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let body_bytes = text.strip_suffix('\n')?.rfind('\n')? + 1;
        let (body, crc) = text.split_at_checked(body_bytes)?;
        if crc != format!("crc {:08x}\n", crc32c(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let epoch = lines.next()?.strip_prefix("epoch ")?.parse().ok()?;
        let mut topics = BTreeMap::new();
        for line in lines {
            let mut words = line.split(' ');
            if words.next()? != "topic" {
                return None;
            }
            let name = words.next().filter(|name| is_valid_topic(name))?;
            let id = words.next()?.parse().ok()?;
            let state = words.next()?;
            let state = STATES.iter().find(|(_, known)| *known == state)?.0;
            let mut options = TopicOptions::default();
            if !words.all(|word| options.set_word(word)) || options.partitions == 0 {
                return None;
            }
            topics.insert(name.to_owned(), Entry { id, state, options });
        }
        Some(Self { epoch, topics })
    }

    /// Reads the catalogue of a log directory; `None` if there is none.
    pub(super) fn load(
        storage: &dyn super::storage::Storage,
        directory: &std::path::Path,
    ) -> Result<Option<Self>, LogError> {
        let path = directory.join(FILE);
        let Some(bytes) = disk::read(storage, &path)? else { return Ok(None) };
        match Self::decode(&bytes) {
            Some(catalogue) => Ok(Some(catalogue)),
            None => Err(LogError::corrupt(Place::path(path), Damage::Unreadable)),
        }
    }

    /// Replaces the file; durable when this returns.
    pub(super) fn save(&self, shared: &Shared) -> Result<(), LogError> {
        self.save_to(&*shared.storage, &shared.directory)
    }

    pub(super) fn save_to(
        &self,
        storage: &dyn super::storage::Storage,
        directory: &std::path::Path,
    ) -> Result<(), LogError> {
        Ok(disk::replace(storage, directory, FILE, self.encode().as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Catalogue {
        let entry = |state, partitions| {
            let options = TopicOptions::default().partitions(partitions);
            Entry { id: Id::from_bits(u128::from(partitions)), state, options }
        };
        let topics = BTreeMap::from([
            ("a".to_owned(), entry(State::Live, 3)),
            ("b-c".to_owned(), entry(State::Deleting, 1)),
        ]);
        Catalogue { epoch: 7, topics }
    }

    #[test]
    fn it_reads_back_what_it_wrote() {
        assert_eq!(Catalogue::decode(sample().encode().as_bytes()), Some(sample()));
        let empty = Catalogue::default();
        assert_eq!(Catalogue::decode(empty.encode().as_bytes()), Some(empty));
    }

    #[test]
    fn every_flipped_bit_and_every_missing_end_is_noticed() {
        let text = sample().encode().into_bytes();
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Catalogue::decode(&flipped), None, "bit {bit}");
        }
        for end in 0..text.len() {
            assert_eq!(Catalogue::decode(&text[..end]), None, "{end} bytes");
        }
    }
}
