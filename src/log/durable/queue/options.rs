//! How a queue works.

use super::DurableQueue;
use crate::log::Log;
use crate::log::error::LogError;
use crate::log::options::Level;
use crate::log::read::Position;

/// Most records in the window of a partition: what is noted of them fits a record.
const WINDOW_MAX: usize = 32 << 10;

/// How a queue works.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    pub(super) attempts_max: u32,
    pub(super) dead_letters: Option<String>,
    pub(super) level: Level,
    pub(super) window: usize,
    pub(super) ahead_bytes: usize,
    pub(super) start: Position,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            dead_letters: None,
            level: Level::Durable,
            window: 1024,
            ahead_bytes: 16 << 20,
            start: Position::Earliest,
        }
    }
}

impl QueueOptions {
    /// A record that was delivered so often without being acknowledged is given up; 5.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts.max(1);
        self
    }

    /// The topic that gets the records which are given up or rejected, with headers that tell where each is from and
    /// why. It must exist, and be another one than the queue's. Without one they are only counted. It should take records 700 bytes larger than those
    /// of the queue's topic: a letter for which it has no room goes without the record's value, and says so in the header
    /// `peermq.left_out`.
    #[must_use]
    pub fn dead_letters(mut self, topic: impl Into<String>) -> Self {
        self.dead_letters = Some(topic.into());
        self
    }

    /// The level that an acknowledgement must have before it counts; durable. At a lower level a crash can bring back
    /// what was acknowledged.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Records of a partition that are out at a time, counted from the first one that is not done with; 1024, at most
    /// 32768. They are held in memory; [`ahead_bytes`](Self::ahead_bytes) bounds those that nobody has yet.
    #[must_use]
    pub fn window(mut self, records: usize) -> Self {
        self.window = records.clamp(1, WINDOW_MAX);
        self
    }

    /// Bytes of a partition's records that are read before somebody wants them; 16 MiB, exceeded by at most one record. So
    /// large records come in smaller numbers than one asked for.
    #[must_use]
    pub fn ahead_bytes(mut self, bytes: usize) -> Self {
        self.ahead_bytes = bytes.max(1);
        self
    }

    /// Where a queue begins that is new; at the earliest record. Later it goes on where it was.
    #[must_use]
    pub fn start(mut self, start: Position) -> Self {
        self.start = start;
        self
    }

    /// Whether these make the same queue as others. Where it began is past.
    pub(super) fn are_those_of(&self, other: &Self) -> bool {
        let Self { attempts_max, dead_letters, level, window, ahead_bytes, start: _ } = self;
        let rules = (attempts_max, level) == (&other.attempts_max, &other.level);
        let bounds = (window, ahead_bytes) == (&other.window, &other.ahead_bytes);
        rules && bounds && *dead_letters == other.dead_letters
    }

    /// Opens the queue of this name over a topic, or begins it.
    ///
    /// A queue of this name that is open in this log already is shared. If the topic was deleted and made anew, the queue
    /// begins at the new one's earliest record; one that is open does, too.
    ///
    /// # Errors
    /// `UnknownTopic`; `Invalid` for a name that no topic could have, for a queue that was begun over a topic of another
    /// name, for one that is open with other options, and for dead letters that are to go to the queue's own topic; failures of
    /// the log.
    pub fn open(self, log: &Log, name: &str, topic: &str) -> Result<DurableQueue, LogError> {
        DurableQueue::start(self, log, name, topic)
    }
}
