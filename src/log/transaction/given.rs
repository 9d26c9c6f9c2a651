//! Transactions whose batches somebody else has encoded: a client in another process. It may send one again whose answer it
//! never got, so each is known by the numbers of its batches, like those of an idempotent producer.
//!
//! Such a producer's id is [`GIVEN`] or above, which nothing but transactions may use. They come one after another, so
//! nothing changes between the look at a batch's number and its append, which must not fail any more.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::intent::Part;
use super::{PRODUCER, Turn};
use crate::log::append::gather::check_foreign;
use crate::log::error::LogError;
use crate::log::format::BatchHeader;
use crate::log::format::batch::TimestampType;
use crate::log::groups::{Committer, Membership, OffsetCommit};
use crate::log::internal::{OFFSETS, is_internal, keyed_options};
use crate::log::partition::Partition;
use crate::log::partition::producers::{Verdict, after};
use crate::log::read::{Position, Reader};
use crate::log::{LogInner, topic::TopicInner};
use crate::sync::lock;

/// The first id of producers of transactions.
pub(in crate::log) const GIVEN: i64 = 1 << 62;
/// Where a batch is that is not there any more.
const GONE: i64 = -1;

/// Batches for one partition, one going on from the other.
#[derive(Debug)]
pub(in crate::log) struct Given {
    pub(in crate::log) topic: String,
    pub(in crate::log) partition: u32,
    pub(in crate::log) batches: Vec<Bytes>,
}

/// The same, checked: nothing but the medium can keep it from being appended.
#[derive(Debug)]
struct Checked<'a> {
    topic: Arc<TopicInner>,
    partition: Arc<Partition>,
    batches: &'a [Bytes],
}

impl LogInner {
    /// Appends all batches, and commits offsets for a member, or does nothing. Durable when this returns; returns the first
    /// offset of each batch. What was done before is not done again, but answered; -1 is for batches that are gone since.
    ///
    /// # Errors
    /// As [`Transaction::commit`](super::Transaction::commit); `BadBatch`; `Invalid` for a producer id that is not for
    /// transactions, for more records than a batch can have, or a partition that comes twice; `OutOfSequence`, `Fenced`.
    pub(in crate::log) fn commit_given(
        &self,
        given: &[Given],
        member: Option<&Membership>,
        commits: &[OffsetCommit],
    ) -> Result<Vec<i64>, LogError> {
        if member.is_none() && !commits.is_empty() {
            return invalid("offsets are committed for a member".to_owned());
        }
        let prepared = self.prepare_commit(commits);
        let mut turn = self.take_turn()?;
        if let Some(offsets) = self.find_repeated(given)? {
            return Ok(offsets);
        }
        let checked = self.check_given(given)?;
        let prepared = prepared?;
        let mut parts: Vec<Part> = checked.iter().map(Checked::part).collect();
        let Some(Membership { group, member, generation }) = member else {
            return self
                .carry_out_given(&mut turn, parts, checked.len())
                .map(|(offsets, _)| offsets);
        };
        let committer = Committer::Member(member, *generation);
        self.commit_within(turn, group, committer, commits, prepared, |turn, batch| {
            if let Some(batch) = batch {
                let topic = self.internal_topic(OFFSETS, keyed_options())?;
                parts.push(super::part(&topic, topic.partition(0)?, vec![batch])?);
            }
            self.carry_out_given(turn, parts, checked.len())
        })
    }

    /// Returns the first offset of each batch of the first `checked` parts, and that of the part behind them, if there is one.
    fn carry_out_given(
        &self,
        turn: &mut Turn,
        parts: Vec<Part>,
        checked: usize,
    ) -> Result<(Vec<i64>, Option<i64>), LogError> {
        let mut found = self.carry_out(turn, parts)?.into_iter();
        let mut offsets = Vec::new();
        for spans in found.by_ref().take(checked) {
            offsets.extend(spans.iter().map(|span| *span.start()));
        }
        let behind = found.next().and_then(|spans| spans.first().map(|span| *span.start()));
        Ok((offsets, behind))
    }

    /// Where all batches are, if some are there already, whatever became of the topics since. The caller has the turn.
    fn find_repeated(&self, given: &[Given]) -> Result<Option<Vec<i64>>, LogError> {
        let mut parts = Vec::with_capacity(given.len());
        for Given { topic: name, partition, batches } in given {
            let decoded = batches.iter().map(|batch| BatchHeader::decode(batch).ok());
            let own = |header: &BatchHeader| (GIVEN..PRODUCER).contains(&header.producer_id);
            let headers: Option<Vec<BatchHeader>> = decoded.map(|one| one.filter(own)).collect();
            // What is wrong with it the checks say.
            let Some(headers) = headers else { return Ok(None) };
            let topic = self.find_topic(name).filter(|_| !is_internal(name));
            let partition = topic.and_then(|topic| topic.partition(*partition).ok().cloned());
            parts.push((partition, headers));
        }
        let is_repeated = |(partition, headers): &(Option<Arc<Partition>>, Vec<BatchHeader>)| {
            let sequence = partition.as_ref().map(|partition| check_sequence(partition, headers));
            matches!(sequence, Some(Ok(true)))
        };
        if !parts.iter().any(is_repeated) {
            return Ok(None);
        }
        let mut offsets = Vec::new();
        for (partition, headers) in &parts {
            for header in headers {
                offsets.push(match partition {
                    Some(partition) => find(partition, header)?,
                    None => GONE,
                });
            }
        }
        Ok(Some(offsets))
    }

    /// Checks everything about batches that could keep them from being appended. The caller has the turn.
    fn check_given<'a>(&self, given: &'a [Given]) -> Result<Vec<Checked<'a>>, LogError> {
        let mut places = BTreeSet::new();
        let mut checked = Vec::with_capacity(given.len());
        for Given { topic: name, partition, batches } in given {
            let topic = self.find_topic(name).filter(|_| !is_internal(name));
            let topic = topic.ok_or_else(|| LogError::UnknownTopic { topic: name.clone() })?;
            let partition = topic.partition(*partition)?.clone();
            if !places.insert((name, partition.home.partition)) {
                return invalid(format!("{} comes twice", partition.home.place()));
            }
            let mut headers = Vec::with_capacity(batches.len());
            for batch in batches {
                headers.push(check_batch(&partition, batch)?);
            }
            check_sequence(&partition, &headers)?;
            checked.push(Checked { topic, partition, batches });
        }
        Ok(checked)
    }
}

fn invalid<T>(reason: String) -> Result<T, LogError> {
    Err(LogError::Invalid { what: "transaction", reason })
}

/// Refuses what an append would refuse, whatever its number.
fn check_batch(partition: &Partition, batch: &[u8]) -> Result<BatchHeader, LogError> {
    let limit = partition.options.batch_limit();
    if batch.len() > limit {
        return Err(partition.too_large(batch.len(), limit));
    }
    check_foreign(batch).map_err(|error| partition.bad_batch(error))?;
    partition.check_keys(batch)?;
    let header = BatchHeader::decode(batch).map_err(|error| partition.bad_batch(error))?;
    if !(GIVEN..PRODUCER).contains(&header.producer_id) {
        return invalid(format!("producer {} is not one of transactions", header.producer_id));
    }
    super::check_claim(&header)?;
    Ok(header)
}

/// Whether these batches are in the partition already.
///
/// # Errors
/// They are not, and not the next ones of their producer either.
fn check_sequence(partition: &Partition, headers: &[BatchHeader]) -> Result<bool, LogError> {
    let (Some(first), Some(last)) = (headers.first(), headers.last()) else { return Ok(false) };
    let place = || partition.home.place();
    for pair in headers.windows(2) {
        let producer = |header: &BatchHeader| (header.producer_id, header.producer_epoch);
        let (expected, found) = (after(pair[0].last_sequence()), pair[1].base_sequence);
        if expected != found || producer(&pair[0]) != producer(&pair[1]) {
            let (place, producer) = (Box::new(place()), pair[1].producer_id);
            return Err(LogError::OutOfSequence { place, producer, expected, found });
        }
    }
    let gather = lock(&partition.gather);
    // Of several batches the last is remembered longest.
    if let Ok(Verdict::Duplicate { .. }) = gather.producers.judge(last, place) {
        return Ok(true);
    }
    gather.producers.judge(first, place).map(|verdict| verdict != Verdict::Append)
}

impl Checked<'_> {
    fn part(&self) -> Part {
        Part {
            topic: self.topic.name.clone(),
            id: self.topic.id,
            partition: self.partition.home.partition,
            // What is appended from now on comes behind this, after a crash too.
            from: self.partition.durable_end(),
            batches: self.batches.concat(),
        }
    }
}

/// Where a batch is. What is not remembered of its producer is looked up, from the time of its records on.
fn find(partition: &Arc<Partition>, sought: &BatchHeader) -> Result<i64, LogError> {
    let judged = lock(&partition.gather).producers.judge(sought, || partition.home.place());
    if let Ok(Verdict::Duplicate { first_offset, .. }) = judged {
        return Ok(first_offset);
    }
    let from = match partition.options.timestamps {
        TimestampType::Create => Position::Time(sought.max_timestamp),
        TimestampType::Append => Position::Earliest,
    };
    let mut reader = Reader::new(partition.clone(), from)?;
    while let Some(batch) = reader.next_batch()? {
        let found = batch.batch().header();
        if super::complete::is_same(found, sought) {
            return Ok(found.base_offset);
        }
    }
    Ok(GONE)
}
