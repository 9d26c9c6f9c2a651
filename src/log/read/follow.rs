//! Following a partition: at its end readers wait for more.

use std::future::poll_fn;
use std::mem;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Reader;
use crate::log::error::LogError;
use crate::log::options::Level;
use crate::log::read::LogRecord;
use crate::transport::now;

/// First and longest pause between two looks at a log that another process writes.
pub(super) const PAUSE_MIN: Duration = Duration::from_micros(200);
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(20);

/// A reader that waits at the end. As an iterator it blocks, and ends only when the log is closed, or, with `TopicDeleted`,
/// the topic deleted, and everything read; and for now after another error: asked again it goes on, or fails again. With
/// feature `stream` it is a `Stream`, too. One of durable records only has them synced if nobody else would.
#[derive(Debug)]
pub struct Follow {
    reader: Reader,
    /// By which a waiting task is registered.
    task: Option<u64>,
    /// It was said that the topic was deleted. Nothing comes after that.
    told: bool,
}

impl Follow {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, task: None, told: false }
    }

    /// The reader, which ends at the end again.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// The next record, after waiting for it at most this long; `None` if there was none until then. A sync that this thread
    /// makes itself is not interrupted.
    ///
    /// # Errors
    /// As [`Reader::next_batch`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<LogRecord>, LogError> {
        self.next_within(Some(timeout))
    }

    fn next_within(&mut self, timeout: Option<Duration>) -> Result<Option<LogRecord>, LogError> {
        let deadline = timeout.and_then(|timeout| now().checked_add(timeout));
        while !self.told {
            if let Some(record) = self.read()? {
                return Ok(Some(record));
            }
            if self.is_over() {
                return self.end();
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let waited = self.wait(left);
            self.note(waited)?;
        }
        Ok(None)
    }

    /// The next record, if it is there.
    fn read(&mut self) -> Result<Option<LogRecord>, LogError> {
        let read = self.reader.next_record();
        self.note(read)
    }

    /// What is said when nothing can come any more.
    fn end(&mut self) -> Result<Option<LogRecord>, LogError> {
        let partition = &self.reader.partition;
        let deleted = partition.retired.load(Ordering::SeqCst);
        let end = if deleted { partition.check().map(|()| None) } else { Ok(None) };
        self.note(end)
    }

    /// Remembers if it was said that the topic was deleted.
    fn note<T>(&mut self, outcome: Result<T, LogError>) -> Result<T, LogError> {
        self.told |= matches!(outcome, Err(LogError::TopicDeleted { .. }));
        outcome
    }

    /// Whether nothing can come any more.
    fn is_over(&self) -> bool {
        let (partition, next) = (&self.reader.partition, self.reader.next_offset());
        // While a log is being closed, what has gathered is written and synced; it is poisoned after that.
        let stopped = partition.shared.poison.get().is_some();
        let deleted = partition.retired.load(Ordering::SeqCst) && next >= partition.written_end();
        partition.home.writable && (stopped || deleted) && next >= self.reader.end()
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<(), LogError> {
        let (reader, partition) = (&self.reader, &self.reader.partition);
        let next = reader.next_offset();
        if !partition.home.writable {
            return self.watch(timeout);
        }
        let durable = reader.level == Level::Durable;
        // What has gathered so far, nobody might write for a while; and what is only written, nobody might sync at all.
        let before = || {
            partition.write_if_free();
            if durable {
                partition.sync_for_readers();
            }
        };
        let ready =
            || reader.end() > next || self.is_over() || (durable && partition.is_left_to_readers());
        partition.readers(reader.level).wait(timeout, before, ready);
        Ok(())
    }

    /// Another process cannot wake this one, so it looks now and then.
    fn watch(&self, timeout: Option<Duration>) -> Result<(), LogError> {
        let deadline = timeout.and_then(|timeout| now().checked_add(timeout));
        let mut pause = PAUSE_MIN;
        let next = self.reader.next_offset();
        loop {
            self.reader.partition.refresh()?;
            // Perhaps another reader has found it.
            if self.reader.end() > next {
                return Ok(());
            }
            let left = deadline.map_or(pause, |end| end.saturating_duration_since(now()));
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The next record, for a task: registers it for when there is one. `None` when the log is closed, after
    /// `TopicDeleted`, and once after any other error. For a log that is open for reading only a thread of its own looks
    /// now and then, 20 ms apart at most, as long as tasks wait.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<LogRecord, LogError>>> {
        for registered in [false, true] {
            if self.told || mem::take(&mut self.reader.failed) {
                return Poll::Ready(None);
            }
            match self.read() {
                Ok(Some(record)) => return Poll::Ready(Some(Ok(record))),
                Err(error) => {
                    self.reader.failed = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Ok(None) if self.is_over() => return Poll::Ready(self.end().transpose()),
                Ok(None) if registered => break,
                Ok(None) => {}
            }
            let partition = self.reader.partition.clone();
            let waiters = partition.readers(self.reader.level);
            let id = *self.task.get_or_insert_with(|| waiters.id());
            waiters.register(id, context.waker());
            partition.urge(self.reader.level);
        }
        Poll::Pending
    }

    /// As [`poll_next`](Self::poll_next), for a task that awaits it. Dropping the future loses nothing.
    pub async fn next_async(&mut self) -> Option<Result<LogRecord, LogError>> {
        poll_fn(|context| self.poll_next(context)).await
    }
}

impl Iterator for Follow {
    type Item = Result<LogRecord, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if mem::take(&mut self.reader.failed) {
            return None;
        }
        let next = self.next_within(None);
        self.reader.failed = next.is_err();
        next.transpose()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let Some(id) = self.task {
            self.reader.partition.readers(self.reader.level).forget(id);
        }
    }
}
