//! Zeros behind the end of a segment that is synced again and again in small pieces: when they come, and when they go.
//!
//! After a sync that makes a file longer, its length and the places of its new blocks have to be durable too, which can take
//! as long as what was appended. So where small pieces are synced in quick succession, zeros are written ahead, in one piece
//! that becomes durable with the next sync; those after it find everything there but the records.
//!
//! No batch begins with zeros: whoever looks at the last segment takes them for its end. They are only ever written behind
//! the end, under the writer's lock, and cut off before the segment gets another one behind it, when the log is closed,
//! where space is wanted, and when others are in more of a hurry.

use std::io::IoSlice;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::writer::Writer;
use super::{Partition, Shared};
use crate::log::error::LogError;
use crate::log::segment::Segment;
use crate::log::storage::Operation;
use crate::log::wakers::try_hold;
use crate::sync::lock;

/// A longer piece is not small: to write it takes longer than what is saved.
const PIECE_BYTES_MAX: u64 = 64 << 10;
/// After so many small pieces in a row more are expected.
const PIECES_MIN: i32 = 4;
/// Syncs that begin no further apart than this follow each other quickly.
const PAUSE_MS_MAX: i64 = 50;
/// At first so many zeros are written, and then twice as many each time they are used up, so that few syncs take longer
/// where it goes on, and little is left where it does not.
const AHEAD_BYTES_MIN: u64 = 16 << 10;
const AHEAD_BYTES_MAX: u64 = 256 << 10;
/// Zeros end where a page does, so that each is written by one call only.
const PAGE_BYTES: u64 = 4096;
/// So many partitions of a log have zeros at a time, ...
const HOLDERS_MAX: usize = 16;
/// ... and another one asks again after so many pieces, as to find out who could do without costs time.
const PIECES_REFUSED: i32 = 60;
/// How long nothing is written ahead after space was wanted.
const SCARCE_MS: i64 = 10_000;

/// What is written, as often as needed.
static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// Of all partitions of a log: how many have zeros, and whether they may.
#[derive(Debug, Default)]
pub(in crate::log) struct Holders {
    count: Arc<AtomicUsize>,
    /// By the steady clock: space was wanted, so that nothing is written ahead before that. Zero if it never was.
    scarce_until_ms: AtomicI64,
}

/// The right to have zeros behind the end.
#[derive(Debug)]
struct Holder(Arc<AtomicUsize>);

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Holders {
    fn enter(&self) -> Option<Holder> {
        let more = |count| (count < HOLDERS_MAX).then_some(count + 1);
        let entered = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.ok().map(|_| Holder(self.count.clone()))
    }

    fn is_scarce(&self, now_ms: i64) -> bool {
        now_ms < self.scarce_until_ms.load(Ordering::Relaxed)
    }

    fn now_scarce(&self, now_ms: i64) {
        self.scarce_until_ms.store(now_ms.saturating_add(SCARCE_MS), Ordering::Relaxed);
    }
}

/// What is known of the pieces that are synced, and of the zeros behind them.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Small pieces in a row, in quick succession; fewer than none while those after a refusal do not count.
    pieces: i32,
    /// When the last sync began, by the steady clock.
    begun_ms: Option<i64>,
    /// Where the last piece ended in the segment.
    synced: u64,
    /// The file reaches no further than there, or than its batches.
    reach: u64,
    /// How many zeros were written last.
    step: u64,
    /// While there may be zeros.
    holder: Option<Holder>,
    /// They were cut off, and a power cut may bring them back.
    returns: bool,
}

/// What is to be done before a sync.
#[derive(PartialEq, Eq, Debug)]
enum Wanted {
    Nothing,
    /// These bytes of the file are to become zeros.
    Zeros(Range<u64>),
    /// Others have zeros that may need them less.
    Holder,
}

impl Ahead {
    /// A sync of everything before `end` is to begin; the segment is not to get longer than `limit`.
    fn before_sync(&mut self, end: u64, limit: u64, now_ms: i64, holders: &Holders) -> Wanted {
        let piece = end.saturating_sub(self.synced);
        let is_quick = !self.is_idle(now_ms);
        (self.synced, self.begun_ms) = (end, Some(now_ms));
        if piece > PIECE_BYTES_MAX || !is_quick {
            (self.pieces, self.step) = (0, 0);
            return Wanted::Nothing;
        }
        self.pieces = self.pieces.saturating_add(1);
        // The next piece is likely to be as long.
        let is_needed = self.pieces >= PIECES_MIN && end + piece > self.reach;
        if !is_needed || holders.is_scarce(now_ms) {
            return Wanted::Nothing;
        }
        let step = (self.step * 2).max(piece * 2).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        let zeros = end.max(self.reach)..(end + step).next_multiple_of(PAGE_BYTES).min(limit);
        if zeros.is_empty() {
            return Wanted::Nothing;
        }
        if self.holder.is_none() {
            self.holder = holders.enter();
        }
        if self.holder.is_none() {
            self.pieces = -PIECES_REFUSED;
            return Wanted::Holder;
        }
        (self.step, self.reach, self.returns) = (step, zeros.end, false);
        Wanted::Zeros(zeros)
    }

    /// Whether there may be zeros behind the end.
    fn is_beyond(&self, end: u64) -> bool {
        self.reach > end
    }

    /// Whether they have not been needed lately.
    fn is_idle(&self, now_ms: i64) -> bool {
        self.begun_ms.is_none_or(|begun_ms| now_ms.saturating_sub(begun_ms) > PAUSE_MS_MAX)
    }

    /// Nothing is behind the end any more, and that is durable, or will be with the next sync.
    pub(super) fn cut(&mut self) {
        (self.reach, self.holder, self.returns) = (0, None, false);
    }

    /// Another segment goes on, in which nothing is yet.
    pub(super) fn rolled(&mut self) {
        self.synced = 0;
        self.cut();
    }
}

impl Writer {
    /// Before a sync of the active segment: writes zeros behind its end where that makes the syncs after this one shorter.
    /// Whether they would, but for others that have some.
    ///
    /// # Errors
    /// What poisons the log. Lack of space is none: then there are no zeros.
    pub(in crate::log) fn write_ahead(&mut self, partition: &Partition) -> Result<bool, LogError> {
        // What is written behind the end of a log that is being closed would stay; and what a full medium has taken of a
        // batch is no zeros.
        if partition.check().is_err() || self.uncut {
            return Ok(false);
        }
        let (shared, limit) = (&partition.shared, u64::from(partition.options.segment_bytes));
        let now_ms = shared.clock.steady_ms();
        let end = self.active.end();
        let zeros = match self.ahead.before_sync(end, limit, now_ms, &shared.holders) {
            Wanted::Nothing => return Ok(false),
            Wanted::Holder => return Ok(true),
            Wanted::Zeros(zeros) => zeros,
        };
        let written = partition.unless_panic(Operation::Write, || self.active.write_zeros(zeros));
        match written.unwrap_or_else(|(_, payload)| resume_unwind(payload)) {
            Err(error) if !error.is_full() => Err(partition.poison(&error)),
            Err(_) => {
                shared.holders.now_scarce(now_ms);
                self.give_back();
                Ok(false)
            }
            Ok(()) => Ok(false),
        }
    }

    /// Cuts off what was written ahead, so that others have the space; whether there was something. A power cut may bring it
    /// back.
    fn give_back(&mut self) -> bool {
        let end = self.active.end();
        if !self.ahead.is_beyond(end) {
            // Batches are over all of them.
            self.ahead.holder = None;
            return false;
        }
        // What cannot be cut off now is when the segment ends, where it has to be.
        let cut = self.active.file().is_ok_and(|file| file.set_len(end).is_ok());
        if cut {
            self.ahead.cut();
            self.ahead.returns = true;
        }
        cut
    }

    /// Lets others have zeros instead, because the file goes with all that is in it.
    pub(super) fn forget_ahead(&mut self) {
        self.ahead.cut();
    }

    /// Cuts off what was written ahead. Whether there was something, and so a sync has to follow.
    ///
    /// # Errors
    /// What poisons the log.
    pub(super) fn cut_ahead(&mut self, partition: &Partition) -> Result<bool, LogError> {
        let end = self.active.end();
        if !self.ahead.is_beyond(end) && !self.ahead.returns {
            return Ok(false);
        }
        partition.shared.check_poison()?;
        let cut = self.active.file().and_then(|file| {
            let cut = file.set_len(end);
            cut.map_err(|error| LogError::storage(self.active.place(), error))
        });
        cut.map_err(|error| partition.poison(&error))?;
        self.ahead.cut();
        Ok(true)
    }
}

impl Segment {
    /// Writes zeros behind the end. After an error any part of them may be in the file.
    fn write_zeros(&self, range: Range<u64>) -> Result<(), LogError> {
        let mut left = usize::try_from(range.end - range.start).unwrap_or_default();
        let mut slices = Vec::with_capacity(left / ZEROS.len() + 1);
        while left > 0 {
            let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
            left -= zeros.len();
            slices.push(IoSlice::new(zeros));
        }
        let written = self.file()?.write_vectored_at(&slices, range.start);
        written.map_err(|error| LogError::storage(self.place().at_position(range.start), error))
    }
}

impl Shared {
    /// Space is wanted: takes it from what was written ahead in any partition, as far as nobody writes there just now, and
    /// has nothing written ahead for a while. Whether there was something.
    #[cold]
    pub(in crate::log) fn take_ahead(&self) -> bool {
        let now_ms = self.clock.steady_ms();
        self.holders.now_scarce(now_ms);
        self.cut_ahead_where(|_| true)
    }

    /// Takes what was written ahead where it was not needed lately, for those who need it now.
    #[cold]
    pub(in crate::log) fn take_idle_ahead(&self) {
        let now_ms = self.clock.steady_ms();
        self.cut_ahead_where(|ahead| ahead.is_idle(now_ms));
    }

    fn cut_ahead_where(&self, wanted: impl Fn(&Ahead) -> bool) -> bool {
        let known = lock(&self.partitions);
        let partitions: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        drop(known);
        let mut some = false;
        for partition in partitions {
            // The caller may have a writer's lock: so no other is waited for.
            let Some(mut writer) = try_hold(&partition.writer) else { continue };
            if partition.check().is_ok() && wanted(&writer.ahead) {
                some |= writer.give_back();
            }
            drop(writer);
            if partition.write_wanted.load(Ordering::SeqCst) {
                self.keeper.write(&partition);
            }
        }
        some
    }
}

#[cfg(test)]
mod tests;
