//! One thread that waits for any of several things to happen.

use std::sync::{Arc, PoisonError};
use std::task::Wake;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, lock};
use crate::transport::now;

/// Counts calls, and lets a thread wait for the next.
#[derive(Debug, Default)]
pub(in crate::log) struct Signal {
    count: Mutex<u64>,
    called: Condvar,
}

impl Signal {
    /// Calls so far.
    pub(in crate::log) fn count(&self) -> u64 {
        *lock(&self.count)
    }

    /// Waits until there were more calls than `seen`, or until a moment.
    pub(in crate::log) fn wait(&self, seen: u64, until: Option<Instant>) {
        let mut count = lock(&self.count);
        while *count == seen {
            let left = until.map(|until| until.saturating_duration_since(now()));
            count = match left {
                Some(left) if left.is_zero() => return,
                Some(left) => {
                    let waited = self.called.wait_timeout(count, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.called.wait(count).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        *lock(&self.count) += 1;
        self.called.notify_all();
    }
}
