//! How a client behaves.

use std::time::Duration;

use super::LogClient;
use crate::context::Context;
use crate::error::SetupError;
use crate::log::options::Level;
use crate::transport::ToEndpoint;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct LogClientOptions {
    pub(super) timeout: Duration,
    pub(super) level: Option<Level>,
    pub(super) batch_bytes: usize,
    pub(super) buffer_bytes: usize,
    pub(super) fetch_bytes: u32,
    pub(super) reconnect_interval: Duration,
}

impl Default for LogClientOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            level: None,
            batch_bytes: 64 << 10,
            buffer_bytes: 4 << 20,
            fetch_bytes: 1 << 20,
            reconnect_interval: Duration::from_millis(20),
        }
    }
}

impl LogClientOptions {
    /// The longest that a call takes, beside what it was asked to wait; 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The level of appends that do not say one; that of the topic.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// Records gather into batches of about this many bytes while an earlier one is under way; 64 KiB. One that is larger goes
    /// alone.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes.max(1);
        self
    }

    /// Bytes of records that wait to be sent to one partition before appending blocks; 4 MiB, exceeded by at most one batch and
    /// the one that gathers.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes.max(1);
        self
    }

    /// Bytes of records that a reader asks for at a time; 1 MiB.
    #[must_use]
    pub fn fetch_bytes(mut self, bytes: u32) -> Self {
        self.fetch_bytes = bytes.max(1);
        self
    }

    /// Pause before a lost connection is made again; 20 ms, doubled up to 1 s.
    #[must_use]
    pub fn reconnect_interval(mut self, interval: Duration) -> Self {
        self.reconnect_interval = interval;
        self
    }

    /// Makes a client. The server need not be there yet.
    ///
    /// # Errors
    /// As `connect` of a socket.
    pub fn connect(
        self,
        context: &Context,
        endpoint: impl ToEndpoint,
    ) -> Result<LogClient, SetupError> {
        LogClient::start(self, context, &endpoint.to_endpoint()?)
    }
}
