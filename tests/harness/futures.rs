//! An executor of a few lines, to show that the futures need no runtime, and to poll them step by step.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use super::SOON;

/// Remembers that it was woken, for whoever waits for that.
#[derive(Default)]
struct Flag {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// A future that is polled only when told, and then only by its own waker's leave.
pub(crate) struct Task<F: Future> {
    future: Pin<Box<F>>,
    flag: Arc<Flag>,
}

impl<F: Future> Task<F> {
    /// A task that was not polled yet.
    pub(crate) fn new(future: F) -> Self {
        Self { future: Box::pin(future), flag: Arc::default() }
    }

    /// A task that was polled once and is waiting.
    #[track_caller]
    pub(crate) fn pending(future: F) -> Self {
        let mut task = Self::new(future);
        assert!(task.poll().is_none(), "the future was ready at once");
        task
    }

    /// Polls once.
    pub(crate) fn poll(&mut self) -> Option<F::Output> {
        *self.flag.woken.lock().unwrap() = false;
        let waker = Waker::from(Arc::clone(&self.flag));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// Whether the task was woken since it was polled.
    pub(crate) fn is_woken(&self) -> bool {
        *self.flag.woken.lock().unwrap()
    }

    /// Waits until the task is woken.
    #[track_caller]
    pub(crate) fn wait_woken(&self) {
        let deadline = Instant::now() + SOON;
        let mut woken = self.flag.woken.lock().unwrap();
        while !*woken {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the future was never woken");
            woken = self.flag.changed.wait_timeout(woken, left).unwrap().0;
        }
    }

    /// Runs to the end. A future that was pending is polled again only when it was woken.
    #[track_caller]
    pub(crate) fn finish(mut self) -> F::Output {
        loop {
            self.wait_woken();
            if let Some(output) = self.poll() {
                return output;
            }
        }
    }
}

/// Runs a future on this thread.
#[track_caller]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut task = Task::new(future);
    match task.poll() {
        Some(output) => output,
        None => task.finish(),
    }
}
