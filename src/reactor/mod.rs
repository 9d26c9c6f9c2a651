//! The reactor: the turning state, its mailbox, and the pool of I/O threads that turn.
//!
//! Below the socket on the way in: reads streams, finds runs, feeds pipes. On the way out it only serves
//! outboxes whose writer met a full kernel or is gathering.

mod connection;
mod dialer;
mod errand;
mod linger;
mod listener;
mod mailbox;
mod open;
mod resolver;
mod slab;
mod timers;
mod turn;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

pub(crate) use errand::Errand;
pub(crate) use mailbox::{Belongs, EndpointId, Job, Mailbox, Scope, SocketId};
use resolver::Resolver;
use turn::Turn;

use crate::sync::lock;

/// The reactors of one context.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    mailboxes: OnceLock<Vec<Arc<Mailbox>>>,
    next: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts `count` I/O threads. `failed` is called on a thread that panicked, after its reactor is gone.
    ///
    /// # Errors
    /// When the operating system gives no poll handle or no thread.
    pub(crate) fn start(
        count: usize,
        failed: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self::default());
        let resolver = Resolver::new();
        let turns = (0..count)
            .map(|_| Turn::new(Arc::clone(&pool), resolver.clone(), random_seed()))
            .collect::<io::Result<Vec<_>>>()?;
        let mailboxes = turns.iter().map(|turn| Arc::clone(turn.mailbox())).collect();
        let set = pool.mailboxes.set(mailboxes);
        debug_assert!(set.is_ok(), "a pool is started once");
        for (index, turn) in turns.into_iter().enumerate() {
            let failed = failed.clone();
            let thread =
                std::thread::Builder::new().name(format!("peermq-io-{index}")).spawn(move || {
                    let turning = std::panic::AssertUnwindSafe(|| turn.run());
                    if std::panic::catch_unwind(turning).is_err() {
                        failed();
                    }
                });
            match thread {
                Ok(thread) => lock(&pool.threads).push(thread),
                Err(error) => {
                    pool.stop();
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    pub(crate) fn mailboxes(&self) -> &[Arc<Mailbox>] {
        self.mailboxes.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// The reactor for the next source, in turn.
    pub(crate) fn next(&self) -> Option<&Arc<Mailbox>> {
        let mailboxes = self.mailboxes();
        let index = self.next.fetch_add(1, Ordering::Relaxed) % mailboxes.len().max(1);
        mailboxes.get(index)
    }

    /// The reactor for an accepted connection, or `None` when it is the caller's own.
    pub(crate) fn next_for_connection(&self, own: &Arc<Mailbox>) -> Option<&Arc<Mailbox>> {
        self.next().filter(|mailbox| !Arc::ptr_eq(mailbox, own))
    }

    /// Whether the calling thread is one of this pool.
    pub(crate) fn is_own_thread(&self) -> bool {
        let own = std::thread::current().id();
        lock(&self.threads).iter().any(|thread| thread.thread().id() == own)
    }

    /// Stops the threads and waits for them; one that calls this itself is not waited for.
    pub(crate) fn stop(&self) {
        for mailbox in self.mailboxes() {
            mailbox.post(Job::Stop);
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() {
                // A panic was reported by `failed` already.
                let _ = thread.join();
            }
        }
    }
}

/// A number that differs from process to process and call to call; not for secrets.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(0)
}
