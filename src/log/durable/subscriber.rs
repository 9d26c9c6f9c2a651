//! The subscriber: replays a topic from any position, goes on live, and reads in the log whatever it missed.
//!
//! All of it runs on the thread that asks for records. A subscriber that is slow fills its own queues and those at the
//! publisher, which drops then; the gap shows in the offsets and is read in the log ([`merge`](super::merge)).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::live::{self, Header};
use super::merge::{Heard, Merge, Mode, Published};
use crate::context::Context;
use crate::error::{RecvError, SetupError};
use crate::log::peer::protocol::{Fetch, NO_EPOCH};
use crate::log::peer::{
    LogClient, LogClientOptions, PeerError, RemoteCode, RemoteError, records_of,
};
use crate::log::read::{LogRecord, Position};
use crate::message::Message;
use crate::pattern::Sub;
use crate::socket::Socket;
use crate::transport::{ToEndpoint, now};

/// Publications taken before records are handed out.
const HEARD_PER_TURN: usize = 256;

/// Why a subscriber has no record. After `Diverged` and `Expired` it goes on at the offset that they name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// Records that were handed out are gone: a crash took what was not durable, and others may have their offsets now.
    #[error(
        "records {resumes_at} to {seen} of partition {partition}, the last one excluded, are gone \
         since they were read"
    )]
    Diverged {
        /// The partition.
        partition: u32,
        /// The offset after the last record that was handed out.
        seen: i64,
        /// Where it goes on: the first offset that is gone.
        resumes_at: i64,
    },
    /// Records were removed from the log before they could be read.
    #[error(
        "records {wanted} to {resumes_at} of partition {partition}, the last one excluded, are removed"
    )]
    Expired {
        /// The partition.
        partition: u32,
        /// The offset of the next record that was wanted.
        wanted: i64,
        /// Where it goes on: the first offset that is there.
        resumes_at: i64,
    },
    /// The log could not be asked.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A socket could not be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The subscriber's context was closed.
    #[error("the subscriber's context is closed")]
    Closed,
}

/// How a subscriber behaves.
#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    client: LogClientOptions,
    durable_only: bool,
    held_bytes: usize,
    recv_hwm: usize,
    silence: Duration,
    starts: Vec<(u32, Position)>,
}

impl Default for SubscriberOptions {
    fn default() -> Self {
        Self {
            client: LogClientOptions::default(),
            durable_only: false,
            held_bytes: 8 << 20,
            recv_hwm: 1000,
            silence: Duration::from_secs(2),
            starts: Vec::new(),
        }
    }
}

impl SubscriberOptions {
    /// How the log is asked.
    #[must_use]
    pub fn client(mut self, client: LogClientOptions) -> Self {
        self.client = client;
        self
    }

    /// Only records that survive a power cut, so that none is ever taken back. If the publisher publishes at a lower
    /// level, they come when it announces that they are durable.
    #[must_use]
    pub fn durable_only(mut self, durable_only: bool) -> Self {
        self.durable_only = durable_only;
        self
    }

    /// Bytes of publications of one partition that are held during a replay; 8 MiB. What is too much is read in the log
    /// later.
    #[must_use]
    pub fn held_bytes(mut self, bytes: usize) -> Self {
        self.held_bytes = bytes;
        self
    }

    /// Publications that wait to be read; 1000.
    #[must_use]
    pub fn recv_hwm(mut self, messages: usize) -> Self {
        self.recv_hwm = messages;
        self
    }

    /// After so long without hearing anything the log is asked; 2 s. To be longer than the publisher's interval of
    /// announcements.
    #[must_use]
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Where to begin in one partition, if not where the others do: what was committed, for instance.
    #[must_use]
    pub fn start(mut self, partition: u32, position: Position) -> Self {
        self.starts.push((partition, position));
        self
    }

    /// Subscribes to a topic that is published at `live` and served at `replay`, from a position on.
    ///
    /// # Errors
    /// `Setup`; `Peer` if the log cannot be asked for the position in time.
    pub fn connect(
        self,
        context: &Context,
        live: impl ToEndpoint,
        replay: impl ToEndpoint,
        topic: &str,
        from: Position,
    ) -> Result<DurableSubscriber, SubscribeError> {
        DurableSubscriber::start(self, context, live, replay, topic, from)
    }
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

#[derive(Debug)]
struct Part {
    merge: Merge,
    /// The offset after the last record that was handed out.
    position: i64,
    /// The writer of the record before the next one.
    last_epoch: i32,
}

/// Gets every record of a topic from a position on, once and in the order of its partition: first those that are in the
/// log, then live. As an iterator it waits for records and never ends by itself.
#[derive(Debug)]
pub struct DurableSubscriber {
    socket: Socket<Sub>,
    client: LogClient,
    topic: String,
    prefix: Vec<u8>,
    options: SubscriberOptions,
    parts: Vec<Part>,
    /// The partition that is replayed next, of those that are.
    turn: usize,
    ready: VecDeque<LogRecord>,
    heard_at: Instant,
    stats: SubscriberStats,
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
        let partitions = client.describe(topic)?.partitions.len();
        let mut parts = Vec::with_capacity(partitions);
        for number in 0..u32::try_from(partitions).unwrap_or(u32::MAX) {
            let own = options.starts.iter().find(|(partition, _)| *partition == number);
            let position = own.map_or(&from, |(_, position)| position).clone();
            let offset = client.offset_of(topic, number, position)?;
            parts.push(Part::new(offset, options.held_bytes));
        }
        Ok(Self {
            socket,
            client,
            topic: topic.to_owned(),
            prefix,
            options,
            parts,
            turn: 0,
            ready: VecDeque::new(),
            heard_at: now(),
            stats: SubscriberStats::default(),
        })
    }

    /// The next offset of a partition to be handed out: what to commit when all records so far are dealt with.
    pub fn position(&self, partition: u32) -> Option<i64> {
        self.parts.get(partition as usize).map(|part| part.position)
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
            if let Some(partition) = self.next_replay() {
                if !self.replay(partition, deadline)? {
                    return Ok(None);
                }
                continue;
            }
            let silent_at = self.heard_at.checked_add(self.options.silence);
            let until = match (deadline, silent_at) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            let left = until.map_or(Duration::MAX, |at| at.saturating_duration_since(now()));
            match self.socket.recv_timeout(left) {
                Ok(message) => self.hear(&message),
                Err(RecvError::Closed) => return Err(SubscribeError::Closed),
                Err(_) if silent_at.is_some_and(|at| at <= now()) => {
                    // Perhaps the publisher is gone; the log may go on.
                    self.heard_at = now();
                    self.parts.iter_mut().for_each(|part| part.merge.fall_back());
                }
                Err(_) => return Ok(None),
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
                Err(RecvError::Closed) => return Err(SubscribeError::Closed),
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
        self.heard_at = now();
        let partition = header.partition as usize;
        if partition == self.parts.len() {
            // A partition was added. What it has is in the log.
            self.parts.push(Part::new(0, self.options.held_bytes));
        }
        let Some(part) = self.parts.get_mut(partition) else { return };
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

    /// Hands out a batch that came live.
    fn deliver(&mut self, partition: u32, batch: &Bytes) {
        let Some(part) = self.parts.get_mut(partition as usize) else { return };
        let queued = self.ready.iter().rev().find(|record| record.partition == partition);
        let from = queued.map_or(part.position, |record| record.offset + 1).max(part.position);
        match records_of(batch, partition, from) {
            Ok((header, records)) => {
                part.last_epoch = header.leader_epoch;
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
    fn replay(
        &mut self,
        partition: u32,
        deadline: Option<Instant>,
    ) -> Result<bool, SubscribeError> {
        let Some(part) = self.parts.get_mut(partition as usize) else { return Ok(true) };
        let wanted = part.merge.next();
        let fetch = Fetch {
            topic: self.topic.clone(),
            partition,
            offset: wanted,
            last_epoch: part.last_epoch,
            bytes_max: self.client.fetch_bytes(),
            bytes_min: 0,
            wait_ms: 0,
            durable_only: self.options.durable_only,
        };
        let mut chunk = match self.client.fetch(fetch, deadline) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(false),
            Err(error) => return Err(part.gone(partition, wanted, error)),
        };
        let at_end = chunk.batches.is_empty();
        let mut reached = wanted;
        loop {
            match chunk.next(&self.client, wanted) {
                Ok(Some((header, records))) => {
                    part.last_epoch = header.leader_epoch;
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
}

impl Part {
    fn new(offset: i64, held_bytes: usize) -> Self {
        Self { merge: Merge::new(offset, held_bytes), position: offset, last_epoch: NO_EPOCH }
    }

    /// What a refusal means, and where to go on after it.
    fn gone(&mut self, partition: u32, wanted: i64, error: PeerError) -> SubscribeError {
        let Some(RemoteError { code, offset, earliest, end, .. }) = error.remote() else {
            return error.into();
        };
        let (seen, wanted) = (wanted, wanted);
        let (resumes_at, error) = match (code, offset, earliest, end) {
            (RemoteCode::Diverged, Some(resumes_at), ..) => {
                let resumes_at = *resumes_at;
                (resumes_at, SubscribeError::Diverged { partition, seen, resumes_at })
            }
            (RemoteCode::OffsetOutOfRange, _, Some(earliest), _) if *earliest > wanted => {
                let resumes_at = *earliest;
                (resumes_at, SubscribeError::Expired { partition, wanted, resumes_at })
            }
            (RemoteCode::OffsetOutOfRange, _, _, Some(end)) if *end < wanted => {
                let resumes_at = *end;
                (resumes_at, SubscribeError::Diverged { partition, seen, resumes_at })
            }
            _ => return error.into(),
        };
        self.merge.reset(resumes_at);
        self.position = resumes_at;
        // After a divergence the old writer still bounds what was seen: a further crash is noticed too.
        if matches!(error, SubscribeError::Expired { .. }) {
            self.last_epoch = NO_EPOCH;
        }
        error
    }
}

impl Iterator for DurableSubscriber {
    type Item = Result<LogRecord, SubscribeError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_timeout(Duration::MAX) {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) => {}
                Err(SubscribeError::Closed) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
