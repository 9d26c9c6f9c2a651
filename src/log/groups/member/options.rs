//! How a member takes part in its group, in this process or in another one.

use std::time::Duration;

use crate::log::groups::types::Strategy;
use crate::log::read::Position;

/// How a member takes part in its group.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    pub(in crate::log) topics: Vec<String>,
    pub(in crate::log) strategy: Strategy,
    pub(in crate::log) session_timeout: Duration,
    pub(in crate::log) poll_interval_max: Duration,
    pub(in crate::log) instance: Option<String>,
    pub(in crate::log) start: Position,
    pub(in crate::log) durable_only: bool,
    pub(in crate::log) records_max: usize,
}

impl MemberOptions {
    /// A member that reads these topics. Those that do not exist yet it reads when they do.
    pub fn new<T: Into<String>>(topics: impl IntoIterator<Item = T>) -> Self {
        Self {
            topics: topics.into_iter().map(Into::into).collect(),
            strategy: Strategy::Sticky,
            session_timeout: Duration::from_secs(45),
            poll_interval_max: Duration::from_secs(300),
            instance: None,
            start: Position::Earliest,
            durable_only: false,
            records_max: 500,
        }
    }

    /// How partitions are divided; [`Strategy::Sticky`].
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// After so long without a sign of life the member is expelled; 45 s. In the process that has the log open `poll` and
    /// `heartbeat` are such signs, in another one the connection is.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// The longest that a member in another process may be busy between two calls of `poll`; 5 minutes. After that it is
    /// taken for stuck: no heartbeats are sent for it any more, and it is expelled when its session ends.
    #[must_use]
    pub fn poll_interval_max(mut self, interval: Duration) -> Self {
        self.poll_interval_max = interval;
        self
    }

    /// A name that outlives the process: when the member is dropped its place is kept until its session ends, and whoever
    /// joins with the same name gets it, partitions included. A member that is still there is replaced by that, for good
    /// ([`Fencing::Replaced`](crate::log::Fencing::Replaced)). None.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = Some(name.into());
        self
    }

    /// Where to begin in partitions for which the group has committed nothing: [`Position::Earliest`]. Any other start is
    /// committed at once, so that it does not move when the partition changes hands.
    #[must_use]
    pub fn start(mut self, start: Position) -> Self {
        self.start = start;
        self
    }

    /// Reads only what survives a power cut; everything that is written.
    #[must_use]
    pub fn durable_only(mut self, only: bool) -> Self {
        self.durable_only = only;
        self
    }

    /// Most records of one `poll`; 500.
    #[must_use]
    pub fn records_max(mut self, records: usize) -> Self {
        self.records_max = records.max(1);
        self
    }
}
