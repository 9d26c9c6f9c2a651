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
pub(crate) mod parker;
mod received;
mod resolver;
mod slab;
mod slot;
mod timers;
mod turn;
mod watch;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

pub(crate) use errand::Errand;
#[cfg(loom)]
pub(crate) use mailbox::Mailbox;
pub(crate) use mailbox::{Belongs, EndpointId, Job, Scope, SocketId};
use resolver::Resolver;
pub(crate) use slot::Slot;
#[cfg(loom)]
pub(crate) use slot::Turning;
use turn::Turn;

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};

/// The reactors of one context.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    slots: OnceLock<Vec<Arc<Slot>>>,
    next: AtomicUsize,
    /// Tasks that wait for something a reactor brings.
    tasks: Arc<AtomicUsize>,
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
        let mut slots = Vec::new();
        for _ in 0..count {
            let tasks = Arc::clone(&pool.tasks);
            let turn = Turn::new(Arc::clone(&pool), resolver.clone(), tasks, random_seed())?;
            let slot = Arc::clone(turn.slot());
            slot.install(turn);
            slots.push(slot);
        }
        for (index, slot) in slots.iter().enumerate() {
            let (slot, failed) = (Arc::clone(slot), failed.clone());
            let keeper = move || {
                let keeping = std::panic::AssertUnwindSafe(|| slot.keep());
                let ended_well = std::panic::catch_unwind(keeping).unwrap_or(false);
                if !ended_well {
                    slot.fail();
                    failed();
                }
            };
            let name = format!("peermq-io-{index}");
            match std::thread::Builder::new().name(name).spawn(keeper) {
                Ok(thread) => lock(&pool.threads).push(thread),
                Err(error) => {
                    slots.iter().for_each(|slot| slot.fail());
                    return Err(error);
                }
            }
        }
        let set = pool.slots.set(slots);
        debug_assert!(set.is_ok(), "a pool is started once");
        Ok(pool)
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        self.slots.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// The reactor that serves everything, if there is only one: then a waiting thread may turn it.
    pub(crate) fn only(&self) -> Option<&Arc<Slot>> {
        match self.slots() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The reactor for the next source, in turn.
    pub(crate) fn next(&self) -> Option<&Arc<Slot>> {
        let slots = self.slots();
        let index = self.next.fetch_add(1, Ordering::Relaxed) % slots.len().max(1);
        slots.get(index)
    }

    /// The reactor for an accepted connection, or `None` when it is the caller's own.
    pub(crate) fn next_for_connection(&self, own: &Arc<Slot>) -> Option<&Arc<Slot>> {
        self.next().filter(|slot| !Arc::ptr_eq(slot, own))
    }

    /// A task begins to wait: from now on the keepers turn.
    pub(crate) fn task_waits(&self) {
        self.tasks.fetch_add(1, Ordering::SeqCst);
        self.slots().iter().for_each(|slot| slot.ensure_turning());
    }

    /// A task waits no more.
    pub(crate) fn task_leaves(&self) {
        self.tasks.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the calling thread is one of this pool, or turns one of its reactors: then it must not wait for them.
    pub(crate) fn is_own_thread(&self) -> bool {
        let own = std::thread::current().id();
        lock(&self.threads).iter().any(|thread| thread.thread().id() == own)
            || self.slots().iter().any(|slot| slot.is_turned_by_this_thread())
    }

    /// Stops the threads and waits for them, unless this is called on one of them.
    pub(crate) fn stop(&self) {
        let own = self.is_own_thread();
        self.slots().iter().for_each(|slot| slot.stop());
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads.into_iter().filter(|_| !own) {
            // A panic was reported by `failed` already.
            let _ = thread.join();
        }
    }
}

/// A number that differs from process to process and call to call; not for secrets.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(0)
}
