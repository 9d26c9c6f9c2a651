//! Atomic appends to a log in another process, with what a member of a group commits.
//!
//! Everything goes in one request. Its batches are numbered like those of an idempotent producer, by a producer that only
//! transactions have, so that the server knows one that it has carried out already. A producer's numbers are used by one
//! transaction after another; after a failure nobody knows how far they are, and the next transaction gets a new producer.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::Asked;
use super::group::wire_offset;
use super::producer::{Target, after};
use super::{Core, LogClient, PeerError, Subject, answer_of};
use crate::log::append::NewRecord;
use crate::log::clock::{Clock, SystemClock};
use crate::log::format::batch::{Producer, set_producer};
use crate::log::format::{BatchBuilder, BatchOptions, FormatError};
use crate::log::groups::{Fencing, Membership, OffsetCommit, TopicPartition};
use crate::log::peer::protocol::{
    Answer, MemberFencing, MemberName, Offset, RemoteCode, RemoteError, Transact, TransactPart,
    Transacted,
};
use crate::log::transaction::GIVEN;
use crate::sync::lock;

/// A producer of transactions, and its next number in each partition.
#[derive(Debug)]
pub(super) struct Transactor {
    id: i64,
    sequences: HashMap<TopicPartition, i32>,
}

/// What a transaction has for a partition.
#[derive(Debug)]
struct Gathered {
    target: Arc<Target>,
    /// Whole batches, or why one could not be packed, which [`RemoteTransaction::commit`] tells.
    closed: Vec<Result<Encoded, FormatError>>,
    open: Option<BatchBuilder>,
}

/// A batch, complete but for its number.
#[derive(Debug)]
struct Encoded {
    bytes: Vec<u8>,
    records: i32,
}

/// A transaction as it is sent, however often.
#[derive(Debug)]
struct Sealed {
    transactor: Transactor,
    request: Transact,
    body: Vec<Bytes>,
    /// The partition of each batch, and its records.
    batches: Vec<(TopicPartition, i32)>,
}

/// Collects records for any partitions of a log in another process, and offsets that a member of a group commits with them,
/// to append them all or none: as [`Transaction`](crate::log::Transaction), through a server.
#[derive(Debug)]
#[must_use = "nothing of a transaction is appended before it is committed"]
pub struct RemoteTransaction {
    client: LogClient,
    parts: BTreeMap<TopicPartition, Gathered>,
    /// Where each record goes, in the order of the calls.
    order: Vec<TopicPartition>,
    member: Option<Membership>,
    offsets: Vec<Offset>,
    stage: Stage,
}

/// How far a transaction is.
#[derive(Debug)]
enum Stage {
    /// It takes records.
    Open,
    /// It is sent, or was.
    Sealed(Box<Sealed>),
    /// It is done, and its records are there.
    Done(Vec<(TopicPartition, i64)>),
    /// It could not be encoded, and was not sent.
    Broken(PeerError),
}

impl RemoteTransaction {
    pub(super) fn new(client: LogClient) -> Self {
        let (parts, order, offsets) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { client, parts, order, member: None, offsets, stage: Stage::Open }
    }

    /// Adds a record, for the partition of its key, or without key for one that changes from batch to batch.
    ///
    /// # Errors
    /// `Refused` with `UnknownTopic`, or with `Invalid` after [`commit`](Self::commit) was called; any other [`PeerError`].
    /// The transaction is as before then.
    pub fn append<'a>(
        &mut self,
        topic: &str,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<(), PeerError> {
        self.add(topic, None, &record.into())
    }

    /// Adds a record for a partition of the caller's choice.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_to<'a>(
        &mut self,
        topic: &str,
        partition: u32,
        record: impl Into<NewRecord<'a>>,
    ) -> Result<(), PeerError> {
        self.add(topic, Some(partition), &record.into())
    }

    /// Adds offsets that a member of a group commits. Whether it may is decided by [`commit`](Self::commit).
    ///
    /// # Errors
    /// `Refused` with `Invalid` if there are offsets of another member already, or after [`commit`](Self::commit).
    pub fn commit_offsets(
        &mut self,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<(), PeerError> {
        self.check_open()?;
        if self.member.as_ref().is_some_and(|known| known != member) {
            return Err(self.invalid("a transaction commits for one member"));
        }
        self.member = Some(member.clone());
        self.offsets.extend(offsets.iter().map(wire_offset));
        Ok(())
    }

    /// Appends everything. It is durable when this returns; returns where the records are, in the order in which they were
    /// added, -1 for those that are gone again. However often the connection is lost and the server started anew meanwhile,
    /// it is done once.
    ///
    /// # Errors
    /// `Timeout`: whether it is done is not known; called again this tells, and does it if it is not. `Refused` with
    /// `UnknownMember`, `NotOwner` or `WrongGeneration`, and with what else an append or a commit of offsets is refused for:
    /// nothing of it is in the log, but after `Poisoned` or `Storage`, when that will be seen when the log is opened anew.
    /// Any other [`PeerError`].
    pub fn commit(&mut self) -> Result<Vec<(TopicPartition, i64)>, PeerError> {
        let core = Arc::clone(self.client.core());
        if matches!(self.stage, Stage::Open) {
            let transactor = core.transactor().map_err(|error| error.about(|| self.subject()))?;
            self.stage = match self.seal(transactor) {
                Ok(sealed) => Stage::Sealed(Box::new(sealed)),
                Err(error) => Stage::Broken(error),
            };
        }
        let sealed = match &self.stage {
            Stage::Sealed(sealed) => sealed,
            Stage::Done(places) => return Ok(places.clone()),
            Stage::Broken(error) => return Err(error.clone()),
            Stage::Open => return Err(self.invalid("it was not sent")),
        };
        let request = sealed.request.clone().into();
        let reply = core.call(request, sealed.body.clone(), Duration::ZERO);
        if let Err(PeerError::Refused { .. }) = &reply {
            // They may not be any more what is known here: the next transaction asks.
            let topics = sealed.request.parts.iter().map(|part| &part.topic);
            topics.for_each(|topic| core.producer.forget_topic(topic));
        }
        let reply = reply?;
        let asked = Arc::clone(&reply.asked);
        let Transacted { offsets, fingerprints } = answer_of!(core, reply, Transacted)?;
        for (topic, fingerprint) in fingerprints {
            core.check_topic(&Arc::from(topic), fingerprint);
        }
        if offsets.len() != sealed.batches.len() {
            return Err(core.bad_answer(&asked, "not every batch is in it"));
        }
        let mut places = BTreeMap::<&TopicPartition, VecDeque<i64>>::new();
        for ((partition, records), first) in sealed.batches.iter().zip(offsets) {
            let first = core.first_of(|| Asked::clone(&asked), first, *records)?;
            let place = |n: i32| if first < 0 { -1 } else { first + i64::from(n) };
            places.entry(partition).or_default().extend((0..*records).map(place));
        }
        let place = |partition: &TopicPartition| {
            Some((partition.clone(), places.get_mut(partition)?.pop_front()?))
        };
        let found: Vec<_> = self.order.iter().filter_map(place).collect();
        if let Stage::Sealed(sealed) =
            std::mem::replace(&mut self.stage, Stage::Done(found.clone()))
        {
            sealed.advance(&core);
        }
        Ok(found)
    }

    fn invalid(&self, reason: &str) -> PeerError {
        let asked = Asked::new("Transact", self.subject());
        self.client.core().refused(&asked, RemoteError::new(RemoteCode::Invalid, reason))
    }

    /// What it is about, while it is collected.
    fn subject(&self) -> Subject {
        let member = self.member.as_ref();
        let of = member.map(|member| Subject::group(&member.group, &member.member));
        let part = self.parts.keys().next().map(|part| (&part.topic[..], part.partition));
        let offset = self.offsets.first().map(|at| (&at.topic[..], at.partition));
        of.unwrap_or_default().at_first(part.or(offset), self.parts.len() + self.offsets.len())
    }

    fn check_open(&self) -> Result<(), PeerError> {
        match self.stage {
            Stage::Open => Ok(()),
            _ => Err(self.invalid("it was committed, or may have been")),
        }
    }

    fn add(
        &mut self,
        topic: &str,
        partition: Option<u32>,
        record: &NewRecord<'_>,
    ) -> Result<(), PeerError> {
        self.check_open()?;
        let core = self.client.core();
        let target = core.target(topic, core.deadline(Duration::ZERO))?;
        let number = partition.unwrap_or_else(|| target.choose(record));
        let partition = TopicPartition::new(topic, number);
        let asked = || Asked::new("Transact", Subject::partition(topic, number));
        let refused = |error| core.unencodable(&asked(), &error);
        match self.parts.entry(partition.clone()) {
            Entry::Occupied(mut known) => known.get_mut().push(record).map_err(refused)?,
            // Nothing is left of a record that was refused, not even a part without records.
            Entry::Vacant(place) => {
                let mut gathered = Gathered { target, closed: Vec::new(), open: None };
                gathered.push(record).map_err(refused)?;
                place.insert(gathered);
            }
        }
        self.order.push(partition);
        Ok(())
    }

    /// Completes the batches and numbers them. From here on it is the same, however often it is sent.
    fn seal(&mut self, transactor: Transactor) -> Result<Sealed, PeerError> {
        let (mut parts, mut body, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        for (partition, gathered) in std::mem::take(&mut self.parts) {
            let TopicPartition { topic, partition: number } = partition.clone();
            let place = || Subject::partition(&partition.topic, number);
            let failed = |error: FormatError| {
                self.client.core().unencodable(&Asked::new("Transact", place()), &error)
            };
            let encoded = gathered.finish().map_err(failed)?;
            let mut base_sequence = transactor.sequences.get(&partition).copied().unwrap_or(0);
            let count = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
            for Encoded { mut bytes, records } in encoded {
                let producer = Producer { id: transactor.id, epoch: 0, base_sequence };
                set_producer(&mut bytes, producer).map_err(failed)?;
                base_sequence = after(base_sequence, records);
                body.push(Bytes::from(bytes));
                batches.push((partition.clone(), records));
            }
            parts.push(TransactPart { topic, partition: number, batches: count });
        }
        let member = self.member.take().map(|Membership { group, member, generation }| {
            MemberName { group, member, generation }
        });
        let request = Transact { member, offsets: std::mem::take(&mut self.offsets), parts };
        Ok(Sealed { transactor, request, body, batches })
    }
}

impl Sealed {
    /// It is done: its numbers are used up, and the next transaction may go on from them.
    fn advance(mut self, core: &Core) {
        for (partition, records) in self.batches {
            let sequence = self.transactor.sequences.entry(partition).or_default();
            *sequence = after(*sequence, records);
        }
        lock(&core.transactors).push(self.transactor);
    }
}

impl Gathered {
    fn push(&mut self, record: &NewRecord<'_>) -> Result<(), FormatError> {
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(|| SystemClock.now_ms());
        let headers = || record.headers.iter().copied();
        if let Some(open) = &self.open {
            let more = open.bytes_of(timestamp_ms, record.key, record.value, headers());
            let bytes = open.bytes().saturating_add(more);
            if bytes > self.target.batch_bytes || !open.reaches(timestamp_ms) {
                self.close();
            }
        }
        let options = BatchOptions { codec: self.target.codec, ..BatchOptions::default() };
        let open = self.open.get_or_insert_with(|| BatchBuilder::new(options));
        open.append(timestamp_ms, record.key, record.value, headers()).map(drop)
    }

    fn close(&mut self) {
        let Some(open) = self.open.take().filter(|open| !open.is_empty()) else { return };
        let records = i32::try_from(open.records_count()).unwrap_or(i32::MAX);
        self.closed.push(open.finish().map(|bytes| Encoded { bytes, records }));
    }

    fn finish(mut self) -> Result<Vec<Encoded>, FormatError> {
        self.close();
        self.closed.into_iter().collect()
    }
}

impl Core {
    /// A producer that no other transaction uses.
    fn transactor(self: &Arc<Self>) -> Result<Transactor, PeerError> {
        if let Some(known) = lock(&self.transactors).pop() {
            return Ok(known);
        }
        let id = self.new_producer(self.deadline(Duration::ZERO))? | GIVEN;
        Ok(Transactor { id, sequences: HashMap::new() })
    }

    /// What a member is told that does not own a partition.
    pub(super) fn not_owner(&self, member: &Membership, partition: &TopicPartition) -> PeerError {
        let why = Fencing::NotOwner { partition: partition.clone() };
        let topic = Some(partition.topic.clone());
        let of = Subject::group(&member.group, &member.member);
        let subject = Subject { topic, partition: Some(partition.partition), ..of };
        let Membership { group, member, generation } = member.clone();
        let text = format!("member {member} of group {group} was refused: {why}");
        let mut error = RemoteError::new(RemoteCode::NotOwner, text);
        error.topic = Some(partition.topic.clone());
        error.partition = Some(partition.partition);
        error.fencing = Some(Box::new(MemberFencing { group, member, generation, why }));
        self.refused(&Asked::new("Seek", subject), error)
    }
}
