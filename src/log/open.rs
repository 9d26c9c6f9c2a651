//! How long a log is open: as long as somebody has a handle. The log's own threads do not count.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::LogInner;

/// What all handles have together. The last one of them closes the log, and returns when that is done, whatever the log's
/// own threads are at.
#[derive(Debug)]
pub(super) struct Open {
    inner: Arc<LogInner>,
}

impl Open {
    pub(super) fn new(inner: LogInner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// For threads of the log's own, which do not keep it open.
    pub(super) fn weak(&self) -> Weak<LogInner> {
        Arc::downgrade(&self.inner)
    }
}

impl Deref for Open {
    type Target = LogInner;

    fn deref(&self) -> &LogInner {
        &self.inner
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A waker that a thread of the log's own calls may have the last handle. Such a thread cannot wait for the pass, which
        // is its own or may wait for it. But the pass ends soon, and has what is behind the handles, so that it closes the log.
        let (keeper, maintenance) = (&self.shared.keeper, &self.shared.maintenance);
        if keeper.is_own_thread() || maintenance.is_own_thread() {
            maintenance.hurry();
        } else {
            // Whoever wants to hear of failures calls `close`.
            let _ = self.close();
        }
    }
}
