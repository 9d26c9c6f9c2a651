//! How a subscriber behaves.

use std::time::Duration;

use super::{Bookmark, DurableSubscriber, SubscribeError};
use crate::context::Context;
use crate::log::peer::LogClientOptions;
use crate::log::read::Position;
use crate::transport::ToEndpoint;

/// How a subscriber behaves.
#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    pub(super) client: LogClientOptions,
    pub(super) durable_only: bool,
    pub(super) held_bytes: usize,
    pub(super) recv_hwm: usize,
    pub(super) silence: Duration,
    pub(super) starts: Vec<(u32, Position)>,
    pub(super) bookmarks: Vec<Bookmark>,
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
            bookmarks: Vec::new(),
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

    /// After so long without hearing anything of a partition the log is asked; 2 s, at least 1 ms. To be longer than the
    /// publisher's interval of announcements.
    #[must_use]
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence.max(Duration::from_millis(1));
        self
    }

    /// Where to begin in one partition, if not where the others do: what was committed, for instance.
    #[must_use]
    pub fn start(mut self, partition: u32, position: Position) -> Self {
        self.starts.push((partition, position));
        self
    }

    /// Goes on in one partition where an earlier subscriber was. If records before that place are gone since, or the topic
    /// is another one, that is told; an offset alone does not show it.
    #[must_use]
    pub fn resume(mut self, bookmark: Bookmark) -> Self {
        self.bookmarks.push(bookmark);
        self
    }

    /// Subscribes to a topic that is published at `live` and served at `replay`, from a position on.
    ///
    /// # Errors
    /// `Setup`; `Peer` if the log cannot be asked for the position in time, or refuses it: with `UnknownPartition` if there is none
    /// of a number for which [`start`](Self::start) was called.
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
