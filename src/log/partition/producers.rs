//! What a partition has seen of idempotent producers: the last batches of each, by which repetitions are known.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::log::error::{LogError, Place};
use crate::log::format::BatchHeader;
use crate::log::format::producers::ProducerEntry;
use crate::log::transaction::PRODUCER;

/// Batches remembered of each producer.
const BATCHES_MAX: usize = 5;
/// The time of a batch that was found in the log and not in a snapshot.
const UNKNOWN_MS: i64 = i64::MAX;

/// A batch that was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    first_sequence: i32,
    last_sequence: i32,
    last_offset: i64,
    offset_delta: i32,
    /// When it was appended, or [`UNKNOWN_MS`].
    appended_ms: i64,
}

/// One producer.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    epoch: i16,
    batches: VecDeque<Seen>,
}

impl State {
    fn push(&mut self, seen: Seen) {
        if self.batches.len() == BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(seen);
    }
}

/// The producers of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::log) struct Producers {
    states: HashMap<i64, State>,
}

/// What is to be done with a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::log) enum Verdict {
    /// It is the next one.
    Append,
    /// It is there already, and ends with this offset.
    Duplicate { first_offset: i64, last_offset: i64 },
}

/// The sequence number after this one; they wrap from the largest to 0.
pub(in crate::log) fn after(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

impl Producers {
    /// Whether there are none.
    pub(in crate::log) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The sequence number that is next of a producer: 0 of one that nobody remembers.
    pub(in crate::log) fn next_sequence(&self, producer: i64) -> i32 {
        let last = self.states.get(&producer).and_then(|state| state.batches.back());
        last.map_or(0, |seen| after(seen.last_sequence))
    }

    /// Judges a batch by its producer, epoch and sequence.
    ///
    /// # Errors
    /// `Fenced` for an old epoch, `OutOfSequence` for a gap.
    pub(in crate::log) fn judge(
        &self,
        header: &BatchHeader,
        place: impl FnOnce() -> Place,
    ) -> Result<Verdict, LogError> {
        let producer = header.producer_id;
        if producer < 0 {
            return Ok(Verdict::Append);
        }
        let (found, last) = (header.base_sequence, header.last_sequence());
        let out_of_sequence = |expected, place: Place| {
            Err(LogError::OutOfSequence { place: Box::new(place), producer, expected, found })
        };
        // A producer nobody remembers may go on where it likes: it may have been silent for long.
        let Some(state) = self.states.get(&producer) else { return Ok(Verdict::Append) };
        if header.producer_epoch < state.epoch {
            let (current, found) = (state.epoch, header.producer_epoch);
            return Err(LogError::Fenced { place: Box::new(place()), producer, current, found });
        }
        if header.producer_epoch > state.epoch {
            return if found == 0 { Ok(Verdict::Append) } else { out_of_sequence(0, place()) };
        }
        let repeated = state
            .batches
            .iter()
            .find(|seen| (seen.first_sequence, seen.last_sequence) == (found, last));
        if let Some(seen) = repeated {
            let first_offset = seen.last_offset - i64::from(seen.offset_delta);
            return Ok(Verdict::Duplicate { first_offset, last_offset: seen.last_offset });
        }
        let expected = state.batches.back().map_or(0, |seen| after(seen.last_sequence));
        if found == expected { Ok(Verdict::Append) } else { out_of_sequence(expected, place()) }
    }

    /// Takes a batch in, whose header has its final offsets; nobody knows when it was appended.
    pub(in crate::log) fn note(&mut self, header: &BatchHeader) {
        self.note_at(header, UNKNOWN_MS);
    }

    /// Takes a batch in, whose header has its final offsets.
    pub(in crate::log) fn note_at(&mut self, header: &BatchHeader, now_ms: i64) {
        if header.producer_id < 0 {
            return;
        }
        let new = || State { epoch: header.producer_epoch, batches: VecDeque::new() };
        let state = self.states.entry(header.producer_id).or_insert_with(new);
        if state.epoch != header.producer_epoch {
            *state = new();
        }
        state.push(Seen {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            appended_ms: now_ms,
        });
    }

    /// Lets all batches of which nobody knows when they were appended count as appended now.
    pub(in crate::log) fn known_since(&mut self, now_ms: i64) {
        let batches = self.states.values_mut().flat_map(|state| &mut state.batches);
        for seen in batches.filter(|seen| seen.appended_ms == UNKNOWN_MS) {
            seen.appended_ms = now_ms;
        }
    }

    /// Forgets producers that were silent since before a time; returns the last offset of each. That of transactions stays.
    pub(in crate::log) fn expire(&mut self, silent_since_ms: i64) -> Vec<(i64, i64)> {
        let mut expired = Vec::new();
        self.states.retain(|producer, state| {
            let Some(last) = state.batches.back() else { return false };
            let silent = last.appended_ms < silent_since_ms && *producer != PRODUCER;
            if silent {
                expired.push((*producer, last.last_offset));
            }
            !silent
        });
        expired
    }

    /// Forgets a producer, if its last batch ends with this offset.
    pub(in crate::log) fn forget(&mut self, producer: i64, last_offset: i64) {
        let last = self.states.get(&producer).and_then(|state| state.batches.back());
        if last.is_some_and(|last| last.last_offset == last_offset) {
            self.states.remove(&producer);
        }
    }

    /// The last offsets of the last batches of all producers: these batches are what they are remembered by.
    pub(in crate::log) fn last_offsets(&self) -> HashSet<i64> {
        let last = |state: &State| state.batches.back().map(|last| last.last_offset);
        self.states.values().filter_map(last).collect()
    }

    /// The batches that are remembered, for a snapshot: by producer, those of one in their order. Who takes one entry of each
    /// producer, and the last if there are several, has the last batch of each.
    pub(in crate::log) fn entries(&self) -> Vec<ProducerEntry> {
        let mut states: Vec<_> = self.states.iter().collect();
        states.sort_by_key(|(producer, _)| **producer);
        let entries = states.into_iter().flat_map(|(producer_id, state)| {
            state.batches.iter().map(|seen| ProducerEntry {
                producer_id: *producer_id,
                epoch: state.epoch,
                last_sequence: seen.last_sequence,
                last_offset: seen.last_offset,
                offset_delta: seen.offset_delta,
                timestamp_ms: seen.appended_ms,
                coordinator_epoch: -1,
                transaction_first_offset: -1,
            })
        });
        entries.collect()
    }

    /// As a snapshot has them.
    pub(in crate::log) fn from_entries(entries: &[ProducerEntry]) -> Self {
        let mut producers = Self::default();
        for entry in entries {
            let first = entry.last_sequence.wrapping_sub(entry.offset_delta) & i32::MAX;
            let new = || State { epoch: entry.epoch, batches: VecDeque::new() };
            let state = producers.states.entry(entry.producer_id).or_insert_with(new);
            if state.epoch != entry.epoch {
                *state = new();
            }
            state.push(Seen {
                first_sequence: if entry.last_sequence < 0 { -1 } else { first },
                last_sequence: entry.last_sequence,
                last_offset: entry.last_offset,
                offset_delta: entry.offset_delta,
                appended_ms: entry.timestamp_ms,
            });
        }
        producers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::{BatchBuilder, BatchOptions, BatchView, Producer};

    fn batch(base_offset: i64, epoch: i16, base_sequence: i32, records: usize) -> BatchHeader {
        batch_of(7, base_offset, epoch, base_sequence, records)
    }

    fn batch_of(
        id: i64,
        base_offset: i64,
        epoch: i16,
        base_sequence: i32,
        records: usize,
    ) -> BatchHeader {
        let producer = Producer { id, epoch, base_sequence };
        let options = BatchOptions { base_offset, producer, ..Default::default() };
        let mut builder = BatchBuilder::new(options);
        for _ in 0..records {
            builder.append(0, None, Some(b"v"), []).unwrap();
        }
        *BatchView::parse(&builder.finish().unwrap()).unwrap().header()
    }

    fn judge(producers: &Producers, header: &BatchHeader) -> Result<Verdict, LogError> {
        producers.judge(header, Place::default)
    }

    #[test]
    fn a_repeated_batch_is_known_by_its_sequence_and_a_gap_is_refused() {
        let mut producers = Producers::default();
        producers.note(&batch(10, 0, 0, 2));
        let again = Verdict::Duplicate { first_offset: 10, last_offset: 11 };
        assert_eq!(judge(&producers, &batch(99, 0, 0, 2)).unwrap(), again);
        assert_eq!(judge(&producers, &batch(99, 0, 2, 1)).unwrap(), Verdict::Append);
        let error = judge(&producers, &batch(99, 0, 3, 1)).unwrap_err();
        assert!(matches!(error, LogError::OutOfSequence { expected: 2, found: 3, .. }));
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_fences_the_old_one() {
        let mut producers = Producers::default();
        producers.note(&batch(10, 0, 0, 2));
        assert!(judge(&producers, &batch(12, 1, 2, 1)).is_err());
        assert_eq!(judge(&producers, &batch(12, 1, 0, 1)).unwrap(), Verdict::Append);
        producers.note(&batch(12, 1, 0, 1));
        let error = judge(&producers, &batch(13, 0, 2, 1)).unwrap_err();
        assert!(matches!(error, LogError::Fenced { current: 1, found: 0, .. }));
    }

    #[test]
    fn sequences_wrap_and_five_batches_are_remembered() {
        let mut producers = Producers::default();
        producers.note(&batch(0, 0, i32::MAX - 1, 3));
        for n in 0..5 {
            let next = batch(3 + n, 0, 1 + n as i32, 1);
            assert_eq!(judge(&producers, &next).unwrap(), Verdict::Append, "{n}");
            producers.note(&next);
        }
        assert!(judge(&producers, &batch(0, 0, i32::MAX - 1, 3)).is_err(), "forgotten");
        assert!(matches!(judge(&producers, &batch(0, 0, 1, 1)), Ok(Verdict::Duplicate { .. })));
    }

    #[test]
    fn a_producer_that_was_silent_for_long_is_forgotten_by_the_time_of_its_appends() {
        let mut producers = Producers::default();
        producers.note_at(&batch(0, 0, 0, 1), 100);
        assert_eq!(producers.expire(100), []);
        producers.note(&batch(1, 0, 1, 1));
        producers.known_since(150);
        assert_eq!(producers.expire(150), []);
        let mut gathered = producers.clone();
        gathered.note(&batch(2, 0, 2, 1));
        assert_eq!(producers.expire(151), [(7, 1)]);
        assert!(producers.is_empty());
        gathered.forget(7, 1);
        assert!(!gathered.is_empty(), "it has appended meanwhile");
    }

    #[test]
    fn the_producer_of_transactions_is_never_forgotten() {
        let mut producers = Producers::default();
        producers.note_at(&batch_of(PRODUCER, 0, 0, 0, 1), 100);
        assert_eq!(producers.expire(i64::MAX), []);
        assert_eq!(producers.next_sequence(PRODUCER), 1);
    }

    #[test]
    fn what_is_remembered_survives_a_snapshot_which_ends_with_the_last_batch_of_a_producer() {
        let mut producers = Producers::default();
        producers.note(&batch_of(6, 40, 1, 0, 1));
        producers.note(&batch(0, 2, 0, 4));
        for n in 0..7 {
            producers.note(&batch(
                4 * n,
                3,
                (i32::MAX - 9).wrapping_add(4 * n as i32) & i32::MAX,
                4,
            ));
        }
        let entries = producers.entries();
        let ends: Vec<_> = entries.iter().map(|one| (one.producer_id, one.last_offset)).collect();
        assert_eq!(ends, [(6, 40), (7, 11), (7, 15), (7, 19), (7, 23), (7, 27)]);
        assert_eq!(Producers::from_entries(&entries), producers);
        let last = entries.into_iter().next_back().unwrap();
        let again = judge(&Producers::from_entries(&[last]), &batch(0, 3, 14, 4));
        assert_eq!(again.unwrap(), Verdict::Duplicate { first_offset: 24, last_offset: 27 });
    }
}
