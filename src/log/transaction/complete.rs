//! Completing the last transaction when the log is opened, and keeping the topic of intents short.

use std::sync::Arc;

use super::Turn;
use super::intent::{Part, Record, encode_mark};
use crate::log::LogInner;
use crate::log::append::NewRecord;
use crate::log::error::{Damage, LogError};
use crate::log::format::BatchHeader;
use crate::log::format::batch::batches;
use crate::log::internal::TRANSACTIONS;
use crate::log::options::Level;
use crate::log::partition::Partition;
use crate::log::partition::producers::Verdict;
use crate::log::read::{Position, Reader};
use crate::log::topic::TopicInner;
use crate::log::wakers::Held;
use crate::sync::lock;

impl LogInner {
    /// Completes the transaction that a crash, or a failure, left incomplete. Durable when this returns; and until then
    /// nobody else has the log.
    pub(in crate::log) fn complete_transaction(&self) -> Result<(), LogError> {
        let Some(topic) = self.find_topic(TRANSACTIONS).filter(|_| self.shared.epoch >= 0) else {
            return Ok(());
        };
        let intents = topic.partition(0)?;
        // What is there was written at least. A mark is relied on from now on, and an intent must not be forgotten once a part
        // of it is there.
        intents.flush_durable()?;
        let Some(Record::Intent(parts)) = last_record(intents)? else { return Ok(()) };
        let mut turn = self.transactions.turn();
        *turn = Turn::Unmarked;
        for part in &parts {
            self.complete_part(part)?;
        }
        turn.mark(intents);
        Ok(())
    }

    /// As [`complete_transaction`](Self::complete_transaction) for a log that was saved from a damaged one: what cannot be
    /// completed is left as it is, and marked, so that the log can be opened. False if so. `lost`: the last intent may be.
    pub(in crate::log) fn complete_or_give_up(&self, lost: bool) -> Result<bool, LogError> {
        let Some(topic) = self.find_topic(TRANSACTIONS) else { return Ok(true) };
        if !lost {
            match self.complete_transaction() {
                Ok(()) => return Ok(true),
                Err(error) if is_of_storage(&error) => return Err(error),
                Err(_) => {}
            }
        }
        let mark = encode_mark();
        topic.partition(0)?.append(&NewRecord::new(&mark), Level::Durable)?.wait()?;
        Ok(false)
    }

    /// Appends what is missing of a part.
    fn complete_part(&self, part: &Part) -> Result<(), LogError> {
        // What was meant for a topic that is deleted is deleted with it.
        let Some(topic) = self.find_topic(&part.topic).filter(|topic| topic.id == part.id) else {
            return Ok(());
        };
        let partition = topic.partition(part.partition)?;
        for batch in batches(&part.batches) {
            let batch = batch.map_err(|error| partition.bad_batch(error))?;
            if !is_there(partition, part.from, batch.header())? {
                partition.append_batch(batch.bytes(), Level::Durable)?.wait()?;
            }
        }
        partition.flush_durable()
    }

    /// Waits for the transaction in flight, and keeps others from starting; what has been is marked as complete durably, so
    /// that nothing of it is needed any more. To be called before anything that transactions appended is removed or
    /// replaced, and after it was decided what that is.
    pub(in crate::log) fn settle_transactions(&self) -> Result<Held<'_, Turn>, LogError> {
        let mut turn = self.take_turn()?;
        if matches!(*turn, Turn::Settled) {
            return Ok(turn);
        }
        let Some(topic) = self.find_topic(TRANSACTIONS) else { return Ok(turn) };
        if matches!(*turn, Turn::Unmarked) {
            turn.mark(topic.partition(0)?);
        }
        if let Turn::Marked(mark) = &*turn {
            let marked = mark.twin().at_level(Level::Durable).wait();
            *turn = if marked.is_ok() { Turn::Settled } else { Turn::Unmarked };
            marked?;
        }
        Ok(turn)
    }

    /// Removes old intents when a segment is full of them. The caller has the turn, so that all of them are complete.
    pub(super) fn cut_intents(&self, intents: &Arc<TopicInner>) -> Result<(), LogError> {
        let partition = intents.partition(0)?;
        if partition.view().segments.len() < 2 {
            return Ok(());
        }
        partition.flush_durable()?;
        self.cut_front(intents, partition, partition.durable_end())
    }
}

fn is_of_storage(error: &LogError) -> bool {
    use LogError::{Full, Poisoned, Storage};
    matches!(error, Full { .. } | Poisoned { .. } | Storage { .. })
}

/// What the topic of intents ends with; `None` if it is empty.
fn last_record(intents: &Arc<Partition>) -> Result<Option<Record>, LogError> {
    let end = intents.written_end();
    if end <= intents.log_start() {
        return Ok(None);
    }
    let mut reader = Reader::new(intents.clone(), Position::Offset(end - 1))?;
    let record = reader.next_record()?;
    let decoded = record.and_then(|record| Record::decode(record.value.as_deref()?));
    let damaged = || {
        let place = intents.home.place().at_offset(end - 1);
        LogError::corrupt(place, Damage::Unreadable)
    };
    decoded.map(Some).ok_or_else(damaged)
}

/// Whether a batch of a part is in its partition. What the partition remembers of producers tells so at once; but it may
/// have forgotten, and remembers the last batches only, so that a no is looked up: nothing from the time of the intent
/// on was removed, or the intent would have been marked.
fn is_there(partition: &Arc<Partition>, from: i64, sought: &BatchHeader) -> Result<bool, LogError> {
    let judged = lock(&partition.gather).producers.judge(sought, || partition.home.place());
    if let Ok(Verdict::Duplicate { .. }) = judged {
        return Ok(true);
    }
    let from = from.clamp(partition.log_start(), partition.written_end());
    let mut reader = Reader::new(partition.clone(), Position::Offset(from))?;
    while let Some(batch) = reader.next_batch()? {
        if is_same(batch.batch().header(), sought) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether two batches have the same number of the same producer.
pub(super) fn is_same(one: &BatchHeader, other: &BatchHeader) -> bool {
    let number = |header: &BatchHeader| {
        let sequences = (header.base_sequence, header.last_sequence());
        (header.producer_id, header.producer_epoch, sequences)
    };
    number(one) == number(other)
}
