//! What a client may ask for.

use std::time::Duration;

use crate::log::peer::protocol::{RemoteCode, RemoteError};

/// So many times as many requests of a client may wait for records or a group as others may be in flight.
const POLLS_PER_REQUEST: usize = 16;

/// What a client may ask for.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Limits {
    /// Requests that are not answered.
    pub(in crate::log) requests_max: usize,
    /// Bytes of requests that are not answered.
    pub(in crate::log) request_bytes_max: usize,
    /// Bytes of answers that wait to be sent; beyond it no further request is looked at.
    pub(in crate::log) answer_bytes_max: usize,
    /// Bytes of batches in one answer, unless the first one alone is larger.
    pub(in crate::log) fetch_bytes_max: usize,
    /// The longest that a request waits.
    pub(in crate::log) wait_max: Duration,
    /// The longest that a member may be silent.
    pub(in crate::log) session_max: Duration,
    /// The longest lock on a delivery.
    pub(in crate::log) lock_max: Duration,
    /// Members of one group.
    pub(in crate::log) members_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 256,
            request_bytes_max: 128 << 20,
            answer_bytes_max: 16 << 20,
            fetch_bytes_max: 4 << 20,
            wait_max: Duration::from_secs(60),
            session_max: Duration::from_secs(30 * 60),
            lock_max: Duration::from_secs(12 * 3600),
            members_max: 1000,
        }
    }
}

impl Limits {
    /// Fetches that wait for records, and members that wait for changes of their groups.
    pub(in crate::log) fn polls_max(&self) -> usize {
        self.requests_max.saturating_mul(POLLS_PER_REQUEST)
    }

    /// Refuses a lock on deliveries of a queue that would last for too long.
    pub(super) fn check_lock(&self, queue: &str, lock_ms: u32) -> Result<(), RemoteError> {
        check_time("lock", "queue", queue, lock_ms, self.lock_max)
    }

    /// Refuses a member of a group that might be silent for too long.
    pub(super) fn check_session(&self, group: &str, session_ms: u32) -> Result<(), RemoteError> {
        check_time("session", "group", group, session_ms, self.session_max)
    }
}

fn check_time(
    what: &str,
    kind: &str,
    of: &str,
    ms: u32,
    most: Duration,
) -> Result<(), RemoteError> {
    let asked = Duration::from_millis(ms.into());
    if asked <= most {
        return Ok(());
    }
    let text = format!("{kind} {of}: a {what} of {asked:?}, where the server allows {most:?}");
    Err(over_limit(of, text))
}

/// Refuses what is more than the server allows.
pub(super) fn over_limit(of: &str, text: String) -> RemoteError {
    let mut error = RemoteError::new(RemoteCode::OverLimit, text);
    error.topic = Some(of.to_owned());
    error
}
