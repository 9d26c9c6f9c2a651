//! The subscriber: replays a topic from any position, goes on live, and reads in the log whatever it missed.
//!
//! All of it runs on the thread that asks for records. A subscriber that is slow fills its own queues and those at the
//! publisher, which drops then; the gap shows in the offsets and is read in the log ([`merge`](super::merge)).

mod bookmark;
mod options;
mod part;

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::live::{self, Header};
use super::merge::{Heard, Merge, Mode, Published};
use crate::context::Context;
use crate::error::{RecvError, SetupError};
use crate::log::format::Id;
use crate::log::peer::protocol::{Fetch, NO_EPOCH};
use crate::log::peer::{Fetching, LogClient, PeerError, RemoteCode, records_of};
use crate::log::read::{LogRecord, Position};
use crate::message::Message;
use crate::pattern::Sub;
use crate::socket::Socket;
use crate::transport::{ToEndpoint, now};
pub use bookmark::{BadBookmark, Bookmark};
pub use options::SubscriberOptions;
use part::Part;

/// Publications taken before records are handed out.
const HEARD_PER_TURN: usize = 256;

/// Why a subscriber has no record. After `Diverged` and `Expired` it goes on at the offset that they name, after
/// `Replaced` at the beginning of the new topic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// Records that were handed out, or before the place where it began, are gone: a crash took what was not durable, and
    /// others may have their offsets now.
    #[error(
        "records {resumes_at} to {seen} of topic {topic}, partition {partition}, the last one \
         excluded, are gone since they were read"
    )]
    Diverged {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: u32,
        /// The offset after the last record that was handed out.
        seen: i64,
        /// Where it goes on: the first offset that is gone.
        resumes_at: i64,
    },
    /// Records were removed from the log before they could be read.
    #[error(
        "records {wanted} to {resumes_at} of topic {topic}, partition {partition}, the last one \
         excluded, are removed"
    )]
    Expired {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: u32,
        /// The offset of the next record that was wanted.
        wanted: i64,
        /// Where it goes on: the first offset that is there.
        resumes_at: i64,
    },
    /// The topic was deleted and made anew. All that follows is from the new one.
    #[error("topic {topic} was deleted and made anew")]
    Replaced {
        /// The topic's name.
        topic: String,
    },
    /// The log could not be asked.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A socket could not be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The subscriber's context was closed.
    #[error("the context of the subscriber to topic {topic} is closed")]
    Closed {
        /// The topic's name.
        topic: String,
    },
}

/// What a subscriber has seen so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SubscriberStats {
    /// Records that came live.
    pub live: u64,
    /// Records that were read in the log.
    pub replayed: u64,
    /// How often a partition went live after a replay.
    pub joined: u64,
    /// How often a partition had to be replayed because something was missing.
    pub fell_back: u64,
    /// How often more publications came during a replay than are held.
    pub overflowed: u64,
    /// Messages that were no publications, or damaged.
    pub unreadable: u64,
}

/// Gets every record of a topic from a position on, once and in the order of its partition: first those that are in the
/// log, then live. As an iterator it waits for records and ends only with its context; and for now, after an error that is
/// neither `Diverged` nor `Expired` nor `Replaced`: asked again it goes on, or fails again.
#[derive(Debug)]
pub struct DurableSubscriber {
    socket: Socket<Sub>,
    client: LogClient,
    topic: String,
    topic_id: Id,
    prefix: Vec<u8>,
    options: SubscriberOptions,
    parts: Vec<Part>,
    /// The part of a replay that is under way. It is waited for as often as is necessary, and its partition is in a replay
    /// until it is answered.
    asked: Option<Fetching>,
    /// The partition that is replayed next, of those that are.
    turn: usize,
    ready: VecDeque<LogRecord>,
    stats: SubscriberStats,
    /// The last that the iterator gave was an error that may come again: there it ends.
    failed: bool,
}

impl DurableSubscriber {
    /// Subscribes in the usual way; see [`SubscriberOptions::connect`].
    ///
    /// # Errors
    /// As [`SubscriberOptions::connect`].
    pub fn connect(
        context: &Context,
        live: impl ToEndpoint,
        replay: impl ToEndpoint,
        topic: &str,
        from: Position,
    ) -> Result<Self, SubscribeError> {
        SubscriberOptions::default().connect(context, live, replay, topic, from)
    }

    /// How a subscriber is to behave.
    pub fn options() -> SubscriberOptions {
        SubscriberOptions::default()
    }

    fn start(
        options: SubscriberOptions,
        context: &Context,
        live: impl ToEndpoint,
        replay: impl ToEndpoint,
        topic: &str,
        from: Position,
    ) -> Result<Self, SubscribeError> {
        let prefix = live::subscription(topic);
        // Live first: what is published from now on is heard or missed, but never thought to be neither.
        let socket = context
            .subscribe()
            .topic(&prefix)
            .recv_hwm(options.recv_hwm)
            .reconnect_interval(Duration::from_millis(20))
            .reconnect_interval_max(Duration::from_secs(1))
            .connect(live)?;
        let client = options.client.clone().connect(context, replay)?;
        let (current_id, partitions) = client.topic_now(topic)?;
        // Of a bookmark of another topic the log will say so.
        let foreign = options.bookmarks.iter().map(|kept| kept.topic).find(|id| *id != current_id);
        let topic_id = foreign.unwrap_or(current_id);
        let mut parts = Vec::new();
        let mut count = partitions;
        for (number, _) in options.starts.iter().filter(|(number, _)| *number >= partitions) {
            // One that is not there the log refuses; else it has just been added.
            client.find(topic, *number, Position::Earliest)?;
            count = count.max(number + 1);
        }
        for number in 0..count {
            let mut kept = options.bookmarks.iter();
            let (offset, epoch) = match kept.find(|bookmark| bookmark.partition == number) {
                Some(bookmark) => (bookmark.offset, bookmark.epoch),
                None => {
                    let own = options.starts.iter().find(|(partition, _)| *partition == number);
                    let position = own.map_or(&from, |(_, position)| position).clone();
                    first_place(&client, topic, number, position)?
                }
            };
            parts.push(Part::new(offset, epoch, options.held_bytes));
        }
        Ok(Self {
            socket,
            client,
            topic: topic.to_owned(),
            topic_id,
            prefix,
            options,
            parts,
            asked: None,
            turn: 0,
            ready: VecDeque::new(),
            stats: SubscriberStats::default(),
            failed: false,
        })
    }

    /// The next offset of a partition to be handed out: what to commit when all records so far are dealt with.
    pub fn position(&self, partition: u32) -> Option<i64> {
        self.parts.get(partition as usize).map(|part| part.position)
    }

    /// Where it is in a partition, to be kept for one that is to go on there ([`SubscriberOptions::resume`]).
    pub fn bookmark(&self, partition: u32) -> Option<Bookmark> {
        let part = self.parts.get(partition as usize)?;
        let (topic, offset, epoch) = (self.topic_id, part.position, part.last_epoch);
        Some(Bookmark { topic, partition, offset, epoch })
    }

    /// What it has seen so far.
    pub fn stats(&self) -> SubscriberStats {
        let overflowed = self.parts.iter().map(|part| part.merge.overflows).sum();
        SubscriberStats { overflowed, ..self.stats }
    }

    /// Whether all partitions are live: nothing is known to be missing.
    pub fn is_live(&self) -> bool {
        self.parts.iter().all(|part| part.merge.mode() == Mode::Live)
    }

    /// The client that asks the log; for commits, for instance.
    pub fn client(&self) -> &LogClient {
        &self.client
    }

    /// The next record, after waiting for it at most this long; `None` if there was none until then.
    ///
    /// # Errors
    /// Any [`SubscribeError`]; it can be asked again after each.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<LogRecord>, SubscribeError> {
        let deadline = now().checked_add(timeout);
        loop {
            self.hear_what_is_there()?;
            if let Some(record) = self.ready.pop_front() {
                if let Some(part) = self.parts.get_mut(record.partition as usize) {
                    part.position = record.offset + 1;
                }
                return Ok(Some(record));
            }
            if self.asked.is_some() || !self.is_live() {
                if !self.replay(deadline)? {
                    return Ok(None);
                }
                continue;
            }
            let silent_at = self.silent_at();
            let until = match (deadline, silent_at) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            let left = until.map_or(Duration::MAX, |at| at.saturating_duration_since(now()));
            match self.socket.recv_timeout(left) {
                Ok(message) => self.hear(&message),
                Err(RecvError::Closed) => return Err(self.closed()),
                Err(_) if silent_at.is_some_and(|at| at <= now()) => self.ask_for_silent(),
                Err(_) => return Ok(None),
            }
        }
    }

    fn closed(&self) -> SubscribeError {
        SubscribeError::Closed { topic: self.topic.clone() }
    }

    /// When the log is to be asked for a partition, if nothing is heard of it until then.
    fn silent_at(&self) -> Option<Instant> {
        let heard_at = self.parts.iter().map(|part| part.heard_at).min()?;
        heard_at.checked_add(self.options.silence)
    }

    /// Perhaps the publisher of what nothing is heard of is gone, and the log goes on.
    fn ask_for_silent(&mut self) {
        let at = now();
        for part in &mut self.parts {
            if part.heard_at.checked_add(self.options.silence).is_some_and(|silent| silent <= at) {
                part.heard_at = at;
                part.merge.fall_back();
            }
        }
    }

    /// Takes publications that have come, so that the queue does not fill without need.
    fn hear_what_is_there(&mut self) -> Result<(), SubscribeError> {
        for _ in 0..HEARD_PER_TURN {
            if self.ready.len() >= HEARD_PER_TURN {
                return Ok(());
            }
            match self.socket.try_recv() {
                Ok(message) => self.hear(&message),
                Err(RecvError::Closed) => return Err(self.closed()),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: &Message) {
        let Ok((header, batch)) = live::decode(&self.prefix, message) else {
            self.stats.unreadable += 1;
            return;
        };
        if header.topic_id != self.topic_id {
            return self.doubt();
        }
        let partition = header.partition as usize;
        if partition == self.parts.len() {
            // A partition was added. What it has is in the log.
            self.parts.push(Part::new(0, NO_EPOCH, self.options.held_bytes));
        }
        let Some(part) = self.parts.get_mut(partition) else { return };
        part.heard_at = now();
        let visible = if self.options.durable_only { header.durable_end } else { i64::MAX };
        let Header { incarnation, from, next, .. } = header;
        let heard = match batch {
            Some(batch) if next <= visible => {
                part.merge.published(Published { incarnation, from, next, batch })
            }
            _ => part.merge.announced(incarnation, next.min(visible)),
        };
        match heard {
            Heard::Deliver(batch) => self.deliver(header.partition, &batch),
            Heard::FellBack => self.stats.fell_back += 1,
            Heard::Nothing => {}
        }
    }

    /// Another topic is published under the name, or was: the log says whether it is still this one.
    fn doubt(&mut self) {
        let live = |part: &&mut Part| part.merge.mode() == Mode::Live;
        if self.parts.iter().any(|part| part.merge.mode() == Mode::Replay) {
            return;
        }
        if let Some(part) = self.parts.iter_mut().find(live) {
            part.merge.fall_back();
            self.stats.fell_back += 1;
        }
    }

    /// Hands out a batch that came live.
    fn deliver(&mut self, partition: u32, batch: &Bytes) {
        let Some(part) = self.parts.get_mut(partition as usize) else { return };
        let queued = self.ready.iter().rev().find(|record| record.partition == partition);
        let from = queued.map_or(part.position, |record| record.offset + 1).max(part.position);
        match records_of(batch, partition, from) {
            Ok((header, records)) => {
                part.was_in(header.leader_epoch);
                self.stats.live += records.len() as u64;
                self.ready.extend(records);
            }
            Err(_) => {
                self.stats.unreadable += 1;
                self.stats.fell_back += 1;
                part.merge = Merge::new(from, self.options.held_bytes);
            }
        }
    }

    /// The partition whose turn it is to be replayed.
    fn next_replay(&mut self) -> Option<u32> {
        let count = self.parts.len();
        let order = (0..count).map(|step| (self.turn + step) % count);
        let replays = |index: &usize| {
            self.parts.get(*index).is_some_and(|part| part.merge.mode() == Mode::Replay)
        };
        let found = order.into_iter().find(replays)?;
        self.turn = found + 1;
        u32::try_from(found).ok()
    }

    /// Reads on in the log; false if the time was up before there was an answer.
    fn replay(&mut self, deadline: Option<Instant>) -> Result<bool, SubscribeError> {
        if self.asked.is_none() {
            self.asked = self.ask()?;
        }
        let Some(asked) = self.asked.take_if(|asked| asked.wait_until(deadline)) else {
            return Ok(self.asked.is_none());
        };
        let partition = asked.partition();
        let chunk = asked.answer();
        let Some(part) = self.parts.get_mut(partition as usize) else { return Ok(true) };
        let mut chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) if error.code() == Some(RemoteCode::TopicReplaced) => {
                return Err(self.begin_anew()?);
            }
            Err(error) => return Err(part.gone(&self.topic, partition, error)),
        };
        let at_end = chunk.batches.is_empty();
        let wanted = part.merge.next();
        let mut reached = wanted;
        loop {
            match chunk.next(&self.client, wanted) {
                Ok(Some((header, records))) => {
                    part.was_in(header.leader_epoch);
                    reached = header.last_offset() + 1;
                    self.stats.replayed += records.len() as u64;
                    self.ready.extend(records);
                }
                Ok(None) => break,
                Err(error) => {
                    // What came before it is handed out, and not asked for again.
                    part.merge.replayed(chunk.ends.incarnation, reached, false);
                    return Err(error.into());
                }
            }
        }
        part.was_in(chunk.ends.last_epoch);
        let ends = &chunk.ends;
        if part.merge.replayed(ends.incarnation, ends.next_offset, at_end) {
            self.stats.joined += 1;
            while let Some(part) = self.parts.get_mut(partition as usize)
                && let Some(batch) = part.merge.take_held()
            {
                self.deliver(partition, &batch);
            }
        }
        Ok(true)
    }

    /// Asks for what is next in the partition whose turn it is.
    fn ask(&mut self) -> Result<Option<Fetching>, SubscribeError> {
        let Some(partition) = self.next_replay() else { return Ok(None) };
        let Some(part) = self.parts.get(partition as usize) else { return Ok(None) };
        let fetch = part.fetch(Fetch {
            topic: self.topic.clone(),
            partition,
            offset: 0,
            last_epoch: NO_EPOCH,
            bytes_max: self.client.fetch_bytes(),
            bytes_min: 0,
            wait_ms: 0,
            durable_only: self.options.durable_only,
            topic_id: Some(self.topic_id),
        });
        Ok(Some(Fetching::begin(&self.client, fetch)?))
    }

    /// Goes on at the beginning of the topic that has the name now; returns what that is to be told by.
    fn begin_anew(&mut self) -> Result<SubscribeError, SubscribeError> {
        let (topic_id, partitions) = self.client.topic_now(&self.topic)?;
        let part = |_| Part::new(0, NO_EPOCH, self.options.held_bytes);
        self.parts = (0..partitions).map(part).collect();
        self.topic_id = topic_id;
        Ok(SubscribeError::Replaced { topic: self.topic.clone() })
    }
}

/// The offset of a position, and a writer in whose log everything before it was.
fn first_place(
    client: &LogClient,
    topic: &str,
    partition: u32,
    position: Position,
) -> Result<(i64, i32), PeerError> {
    match position {
        Position::Offset(offset) => Ok((offset, NO_EPOCH)),
        position => {
            let found = client.find(topic, partition, position)?;
            Ok((found.offset, found.last_epoch))
        }
    }
}

impl Iterator for DurableSubscriber {
    type Item = Result<LogRecord, SubscribeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if mem::take(&mut self.failed) {
            return None;
        }
        loop {
            match self.next_timeout(Duration::MAX) {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) => {}
                Err(SubscribeError::Closed { .. }) => return None,
                Err(error) => {
                    use SubscribeError::{Diverged, Expired, Replaced};
                    let goes_on =
                        matches!(error, Diverged { .. } | Expired { .. } | Replaced { .. });
                    self.failed = !goes_on;
                    return Some(Err(error));
                }
            }
        }
    }
}
