//! Completion of work that several reactors share: closing a socket, unbinding an endpoint.
//!
//! Every source that still has something to finish holds a clone of the guard; when the last clone goes, the
//! completion is done. Nobody has to count, and a source that is dropped on any path counts as finished.

use std::sync::{Arc, PoisonError};

use crate::sync::{Condvar, Mutex, lock};

/// Held by whoever still works on it.
#[derive(Clone, Debug)]
pub(crate) struct Guard(#[allow(dead_code)] Arc<LastOne>);

/// Waited on by whoever wants it finished.
#[derive(Clone, Debug)]
pub(crate) struct Completion(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    done: Mutex<bool>,
    changed: Condvar,
}

#[derive(Debug)]
struct LastOne(Arc<Shared>);

impl Drop for LastOne {
    fn drop(&mut self) {
        *lock(&self.0.done) = true;
        self.0.changed.notify_all();
    }
}

/// A completion and its first guard.
pub(crate) fn completion() -> (Completion, Guard) {
    let shared = Arc::new(Shared::default());
    (Completion(Arc::clone(&shared)), Guard(Arc::new(LastOne(shared))))
}

impl Completion {
    pub(crate) fn is_done(&self) -> bool {
        *lock(&self.0.done)
    }

    /// Waits until all guards are gone.
    pub(crate) fn wait(&self) {
        let mut done = lock(&self.0.done);
        while !*done {
            done = self.0.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_when_the_last_guard_is_gone() {
        let (completion, first) = completion();
        let second = first.clone();
        drop(first);
        assert!(!completion.is_done());
        drop(second);
        assert!(completion.is_done());
        completion.wait();
    }
}
