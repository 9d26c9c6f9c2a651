//! Atomic appends to several partitions, with what a group commits: all of it or nothing, whatever happens.
//!
//! A transaction is written ahead as a whole: its *intent*, in the internal topic `__transactions`, is made durable before
//! anything of it is appended where it belongs. Then its parts are appended, made durable, and acknowledged. An intent is
//! only written when everything before it is complete, so that only the last one can be incomplete; opening the log
//! completes it (`complete.rs`). A mark behind it, written when there is occasion, spares that.
//!
//! Whoever reads may see one part before the others, but never one without the others in the end: after its intent
//! is durable a transaction is completed, now or when the log is opened next. In between nothing at all is appended.
//!
//! One transaction is under way at a time: it has the *turn*, a lock before all others.

mod aside;
mod complete;
mod given;
mod intent;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::append::{NewRecord, Ticket};
use super::error::LogError;
use super::format::batch::{Producer, RECORDS_MAX, batches, set_producer};
use super::format::{BatchBuilder, BatchHeader, BatchOptions, FormatError};
use super::groups::{Committer, Membership, OffsetCommit, TopicPartition};
use super::internal::{OFFSETS, TRANSACTIONS, intent_options, keyed_options};
use super::options::Level;
use super::partition::Partition;
use super::partition::producers::after;
use super::topic::TopicInner;
use super::wakers::{Held, hold};
use super::{Log, LogInner, Open};
use crate::sync::{Mutex, lock};
use aside::Aside;
pub use aside::TransactionTicket;
pub(super) use given::{GIVEN, Given};
use intent::{Part, encode_intent, encode_mark};

/// The producer of all batches of transactions: by its sequence numbers a part is known that is there already.
pub(super) const PRODUCER: i64 = i64::MAX;
const PRODUCER_EPOCH: i16 = 0;

/// Where the batches of a part are: the offsets of each, from the first to the last. Never one by one: a batch says how many
/// records it has, and that may be far more than its bytes.
type Spans = Vec<RangeInclusive<i64>>;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    turn: Mutex<Turn>,
    /// Commits for tasks.
    aside: Aside,
}

/// What the next transaction has to know of the one before. That is complete, or nothing is appended any more.
#[derive(Debug, Default)]
pub(super) enum Turn {
    /// The topic of intents ends with a mark that is durable, or is empty.
    #[default]
    Settled,
    /// It ends with an intent.
    Unmarked,
    /// It ends with a mark that is appended.
    Marked(Ticket),
}

/// Collects records for any partitions of a log, and offsets that a group commits with them, to append them all or none.
#[derive(Debug)]
#[must_use = "nothing of a transaction is appended before it is committed"]
pub struct Transaction {
    log: Arc<Open>,
    parts: BTreeMap<(String, u32), Gathered>,
    /// Where each record goes, in the order of the calls.
    order: Vec<TopicPartition>,
    offsets: Option<(Membership, Vec<OffsetCommit>)>,
}

/// What a transaction has for a partition.
#[derive(Debug)]
struct Gathered {
    topic: Arc<TopicInner>,
    partition: u32,
    /// Whole batches, or why one could not be packed, which [`Transaction::commit`] tells.
    closed: Vec<Result<Vec<u8>, FormatError>>,
    open: Option<BatchBuilder>,
}

impl Log {
    /// Starts to collect a transaction.
    pub fn transaction(&self) -> Transaction {
        let log = self.inner.clone();
        Transaction { log, parts: BTreeMap::new(), order: Vec::new(), offsets: None }
    }
}

impl Transaction {
    /// Adds a record, for the partition of its key, or without key for one that changes from batch to batch.
    ///
    /// # Errors
    /// `UnknownTopic`, `TooLarge`, `KeyMissing`. The transaction is as before then.
    pub fn append<'a>(
        &mut self,
        topic: &str,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<(), LogError> {
        let (topic, record) = (self.topic(topic)?, record.into());
        let partition = topic.choose(&record)?.clone();
        self.add(topic, &partition, &record)
    }

    /// Adds a record for a partition of the caller's choice.
    ///
    /// # Errors
    /// As [`append`](Self::append); `UnknownPartition`.
    pub fn append_to<'a>(
        &mut self,
        topic: &str,
        partition: u32,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<(), LogError> {
        let topic = self.topic(topic)?;
        let partition = topic.partition(partition)?.clone();
        self.add(topic, &partition, &record.into())
    }

    /// Adds offsets that a member of a group commits. Whether it may is decided by [`commit`](Self::commit).
    ///
    /// # Errors
    /// `Invalid` if there are offsets of another member already: a transaction commits for one.
    pub fn commit_offsets(
        &mut self,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<(), LogError> {
        let new = || (member.clone(), Vec::new());
        let (known, all) = self.offsets.get_or_insert_with(new);
        if known != member {
            let reason = format!("member {} of {} has offsets in it", known.member, known.group);
            return Err(LogError::Invalid { what: "transaction", reason });
        }
        all.extend_from_slice(offsets);
        Ok(())
    }

    /// Appends everything. It is durable when this returns; returns where the records are, in the order in which they were
    /// added. Other transactions wait meanwhile, and so do heartbeats of the group that commits.
    ///
    /// # Errors
    /// `MemberFenced`, and what else a commit of offsets is refused for; `TooLarge` above 64 MiB; `UnknownTopic` if one
    /// was deleted meanwhile, `KeyMissing` if one is compacted since; `BadBatch` if the codec of one is not built in;
    /// `Full`: nothing of it is in the log. `Poisoned`: whether it is will be seen when the log is opened anew, all or
    /// nothing; that includes a medium that was full after the intent was written.
    pub fn commit(mut self) -> Result<Vec<(TopicPartition, i64)>, LogError> {
        let log = self.log.clone();
        let offsets = self.offsets.take();
        let commits = offsets.as_ref().map_or(&[][..], |(_, commits)| commits);
        let prepared = log.prepare_commit(commits)?;
        let mut turn = log.take_turn()?;
        let mut parts = Vec::new();
        for gathered in std::mem::take(&mut self.parts).into_values() {
            parts.push(gathered.finish(&log)?);
        }
        let found = match &offsets {
            Some((membership, commits)) => {
                let Membership { group, member, generation } = membership;
                let committer = Committer::Member(member, *generation);
                log.commit_within(turn, group, committer, commits, prepared, |turn, batch| {
                    if let Some(batch) = batch {
                        let topic = log.internal_topic(OFFSETS, keyed_options())?;
                        let partition = topic.partition(0)?;
                        parts.push(part(&topic, partition, vec![batch])?);
                    }
                    let found = log.carry_out(turn, parts)?;
                    // The part of the offsets is the last one.
                    let first =
                        found.last().and_then(|spans| spans.first()).map(|span| *span.start());
                    Ok((found, first))
                })?
            }
            None => log.carry_out(&mut turn, parts)?,
        };
        Ok(self.places(found))
    }

    fn topic(&self, name: &str) -> Result<Arc<TopicInner>, LogError> {
        let known = Log { inner: self.log.clone() }.topic(name)?;
        Ok(known.inner)
    }

    fn add(
        &mut self,
        topic: Arc<TopicInner>,
        partition: &Partition,
        record: &NewRecord<'_>,
    ) -> Result<(), LogError> {
        partition.check_key(record)?;
        let (name, number) = (topic.name.clone(), partition.home.partition);
        let new = || Gathered { topic, partition: number, closed: Vec::new(), open: None };
        match self.parts.entry((name.clone(), number)) {
            MapEntry::Occupied(mut known) => known.get_mut().push(partition, record)?,
            // Nothing is left of a record that was refused, not even a part without records.
            MapEntry::Vacant(place) => {
                let mut gathered = new();
                gathered.push(partition, record)?;
                place.insert(gathered);
            }
        }
        self.order.push(TopicPartition { topic: name, partition: number });
        Ok(())
    }

    /// Where each record is, from where those of each part are.
    fn places(self, found: Vec<Spans>) -> Vec<(TopicPartition, i64)> {
        // Parts are in the order of their partitions; that of offsets, if there is one, comes last.
        let mut partitions: Vec<TopicPartition> = self.order.clone();
        partitions.sort();
        partitions.dedup();
        let found = found.into_iter().map(|spans| spans.into_iter().flatten());
        let mut offsets: BTreeMap<_, _> = partitions.into_iter().zip(found).collect();
        let place = |partition: TopicPartition| {
            let offset = offsets.get_mut(&partition)?.next()?;
            Some((partition, offset))
        };
        self.order.into_iter().filter_map(place).collect()
    }
}

impl Gathered {
    fn push(&mut self, partition: &Partition, record: &NewRecord<'_>) -> Result<(), LogError> {
        let options = &partition.options;
        let limit = options.batch_limit();
        let now_ms = || partition.shared.clock.now_ms();
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(now_ms);
        let headers = || record.headers.iter().copied();
        let new = || BatchBuilder::new(BatchOptions { codec: options.codec, ..Default::default() });
        let mut open = self.open.take().unwrap_or_else(new);
        let bytes_with = |open: &BatchBuilder| {
            let bytes = open.bytes_of(timestamp_ms, record.key, record.value, headers());
            open.bytes().saturating_add(bytes)
        };
        if !open.is_empty() && (bytes_with(&open) > limit || !open.reaches(timestamp_ms)) {
            let full = std::mem::replace(&mut open, new());
            self.closed.push(full.finish());
        }
        let bytes = bytes_with(&open);
        let fits = if bytes > limit {
            Err(partition.too_large(bytes, limit))
        } else {
            let appended = open.append(timestamp_ms, record.key, record.value, headers());
            appended.map(drop).map_err(|error| partition.bad_batch(error))
        };
        self.open = Some(open).filter(|open| !open.is_empty());
        fits
    }

    /// The part that this is of an intent written now.
    fn finish(self, log: &LogInner) -> Result<Part, LogError> {
        let name = &self.topic.name;
        let Some(topic) = log.find_topic(name).filter(|topic| topic.id == self.topic.id) else {
            return Err(LogError::UnknownTopic { topic: name.clone() });
        };
        let partition = topic.partition(self.partition)?;
        let open = self.open.map(BatchBuilder::finish);
        let batches: Result<Vec<_>, _> = self.closed.into_iter().chain(open).collect();
        let batches = batches.map_err(|error| partition.bad_batch(error))?;
        // The topic may be compacted by now. It does not change any more before the end of the transaction.
        batches.iter().try_for_each(|batch| partition.check_keys(batch))?;
        part(&topic, partition, batches)
    }
}

/// A part of an intent that is written now: batches with the sequence numbers that are next. The caller has the turn.
fn part(
    topic: &TopicInner,
    partition: &Partition,
    batches: Vec<Vec<u8>>,
) -> Result<Part, LogError> {
    let bad = |error| partition.bad_batch(error);
    let mut base_sequence = lock(&partition.gather).producers.next_sequence(PRODUCER);
    let mut all = Vec::new();
    for mut batch in batches {
        let producer = Producer { id: PRODUCER, epoch: PRODUCER_EPOCH, base_sequence };
        set_producer(&mut batch, producer).map_err(bad)?;
        base_sequence = after(BatchHeader::decode(&batch).map_err(bad)?.last_sequence());
        all.extend_from_slice(&batch);
    }
    Ok(Part {
        topic: topic.name.clone(),
        id: topic.id,
        partition: partition.home.partition,
        // What is appended from now on comes behind this, after a crash too.
        from: partition.durable_end(),
        batches: all,
    })
}

/// Refuses batches that say they are from a producer of transactions, or have more records than any can have.
pub(super) fn check_users_batch(batch: &[u8]) -> Result<(), LogError> {
    match BatchHeader::decode(batch) {
        Ok(header) if header.producer_id >= GIVEN => {
            let reason = format!("those from {GIVEN} on are for transactions");
            Err(LogError::Invalid { what: "producer id", reason })
        }
        Ok(header) => check_claim(&header),
        // What is wrong with it otherwise is found by who appends it.
        Err(_) => Ok(()),
    }
}

/// Refuses a batch with more records than may come out of one. Of most batches they are counted; those in a codec that is not
/// built in are kept as they are, and would use up the offsets of billions that nobody could ever read.
fn check_claim(header: &BatchHeader) -> Result<(), LogError> {
    if usize::try_from(header.records_count).is_ok_and(|count| count <= RECORDS_MAX) {
        return Ok(());
    }
    let reason =
        format!("{} records are more than the {RECORDS_MAX} that fit", header.records_count);
    Err(LogError::Invalid { what: "batch", reason })
}

impl LogInner {
    /// Waits for the transaction in flight, and keeps others from starting.
    pub(super) fn take_turn(&self) -> Result<Held<'_, Turn>, LogError> {
        let turn = self.transactions.turn();
        self.shared.check()?;
        Ok(turn)
    }

    /// Writes the intent and does what it says; returns where the batches of each part are.
    fn carry_out(&self, turn: &mut Turn, parts: Vec<Part>) -> Result<Vec<Spans>, LogError> {
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        let intents = self.internal_topic(TRANSACTIONS, intent_options())?;
        self.cut_intents(&intents)?;
        let partition = intents.partition(0)?;
        let intent = encode_intent(&parts);
        partition.append(&NewRecord::new(&intent), Level::Durable)?.wait()?;
        *turn = Turn::Unmarked;
        // There is no way back from here. What cannot be done now, the next opening does, and nothing comes in between.
        let found = self.apply(&parts).map_err(|error| partition.poison(&error))?;
        turn.mark(partition);
        Ok(found)
    }

    /// Appends all parts, and makes them durable; returns where the batches of each are.
    fn apply(&self, parts: &[Part]) -> Result<Vec<Spans>, LogError> {
        let mut tickets = Vec::new();
        for part in parts {
            tickets.push(self.append_part(part)?);
        }
        for level in [Level::Written, Level::Durable] {
            for ticket in tickets.iter().flatten() {
                ticket.twin().at_level(level).wait()?;
            }
        }
        let spans = |part: &Vec<Ticket>| {
            part.iter().map(|ticket| ticket.first_offset()..=ticket.offset()).collect()
        };
        Ok(tickets.iter().map(spans).collect())
    }

    fn append_part(&self, part: &Part) -> Result<Vec<Ticket>, LogError> {
        let Some(topic) = self.find_topic(&part.topic) else {
            return Err(LogError::UnknownTopic { topic: part.topic.clone() });
        };
        let partition = topic.partition(part.partition)?;
        let mut tickets = Vec::new();
        for batch in batches(&part.batches) {
            let batch = batch.map_err(|error| partition.bad_batch(error))?;
            tickets.push(partition.append_batch(batch.bytes(), Level::Durable)?);
        }
        Ok(tickets)
    }
}

impl Transactions {
    /// The turn, whatever has become of the log.
    pub(super) fn turn(&self) -> Held<'_, Turn> {
        hold(&self.turn)
    }

    /// Lets the thread that commits for tasks end; what waits for it is refused.
    pub(super) fn end(&self) {
        self.aside.end();
    }
}

impl Turn {
    /// Notes that everything is complete. It is written with the next intent or a little later, and does not matter if it is
    /// not: then the next opening finds out by itself.
    fn mark(&mut self, intents: &Arc<Partition>) {
        let mark = intents.append(&NewRecord::new(&encode_mark()), Level::Buffered);
        *self = mark.map_or(Self::Unmarked, Self::Marked);
    }
}

#[cfg(test)]
mod tests;
