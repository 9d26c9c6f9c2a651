//! Looks up host names off the I/O thread.
//!
//! Used by the dialer before each connect to a name: the system's lookup blocks for as long as a
//! name server keeps silent, and a reactor must not. A few threads, started when needed, make the
//! lookups; one that hangs holds up only its thread.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Threads that look up names at the same time.
const THREADS_MAX: usize = 4;
/// Lookups that may wait for a thread.
const QUEUE_MAX: usize = 1024;
/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 64;
/// How long a thread without work stays.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Called once with the addresses of a name, or with why there are none.
pub(crate) type Done = Box<dyn FnOnce(io::Result<Vec<SocketAddr>>) + Send>;

/// Gives the addresses of a host and port; may block.
pub(crate) type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// A handle to the lookup threads. Clones share them; the threads end with the last clone, one
/// that is in a lookup as soon as that returns.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    /// Closes the queue when the last clone goes.
    handle: Arc<Handle>,
}

/// The owner's side of [`Shared`]; the threads hold the other.
#[derive(Debug)]
struct Handle {
    /// What the threads work on.
    shared: Arc<Shared>,
}

/// What the owner and the threads share.
struct Shared {
    /// The queue and the counts.
    state: Mutex<State>,
    /// Signalled once per queued lookup, and to all when the queue closes.
    wake: Condvar,
    /// How names are looked up.
    lookup: Box<Lookup>,
    /// How long a thread without work stays.
    idle_max: Duration,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The queue and the counts.
///
/// Invariant, whenever the lock is free and the queue is open: with lookups waiting, either a
/// thread without work has yet to wake for each of them, or [`THREADS_MAX`] threads run, or the
/// system refused another thread while at least one runs.
#[derive(Default)]
struct State {
    /// Lookups that no thread has taken.
    queue: VecDeque<Job>,
    /// Threads that run.
    threads: usize,
    /// Threads of those that wait for work.
    idle: usize,
    /// The last [`Resolver`] is gone.
    closed: bool,
}

/// One lookup.
struct Job {
    /// The name.
    host: String,
    /// The port that the addresses get.
    port: u16,
    /// Takes the result.
    done: Done,
}

impl Resolver {
    /// A resolver that asks the system. Starts no thread yet.
    pub(crate) fn new() -> Self {
        Self::with_lookup(
            Box::new(|host: &str, port: u16| (host, port).to_socket_addrs().map(Iterator::collect)),
            IDLE_MAX,
        )
    }

    /// A resolver that calls `lookup`, and whose threads end after `idle_max` without work.
    pub(crate) fn with_lookup(lookup: Box<Lookup>, idle_max: Duration) -> Self {
        let (state, wake) = (Mutex::new(State::default()), Condvar::new());
        let shared = Arc::new(Shared { state, wake, lookup, idle_max });
        Resolver { handle: Arc::new(Handle { shared }) }
    }

    /// Looks up `host` and calls `done` on a lookup thread, never blocking the caller. The result
    /// is not empty, holds no address twice, is in the order of the system and at most 64 long.
    ///
    /// `done` is called on the caller's thread, with `WouldBlock`, if 1,024 lookups wait already,
    /// and with the error of the system if no thread can be started. It is dropped uncalled if
    /// the last clone of the resolver goes while the lookup waits.
    pub(crate) fn resolve(&self, host: String, port: u16, done: Done) {
        let shared = &self.handle.shared;
        if let Some((job, error)) = shared.submit(Job { host, port, done }) {
            (job.done)(Err(error));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let abandoned = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.queue)
        };
        self.shared.wake.notify_all();
        // Outside the lock: what the closures hold may do anything when it is dropped.
        drop(abandoned);
    }
}

impl Shared {
    /// The state. A panic of someone's `done` happens outside the lock and poisons nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job and sees to it that a thread takes it. Gives the job back with the reason if
    /// that is not possible.
    fn submit(self: &Arc<Self>, job: Job) -> Option<(Job, io::Error)> {
        let mut state = self.lock();
        if state.queue.len() >= QUEUE_MAX {
            let message = "too many host names wait to be looked up";
            return Some((job, io::Error::new(ErrorKind::WouldBlock, message)));
        }
        state.queue.push_back(job);
        // A thread that was notified but has not run yet still counts as idle, hence the
        // comparison with the whole queue.
        if state.idle < state.queue.len() && state.threads < THREADS_MAX {
            let shared = Arc::clone(self);
            let builder = thread::Builder::new().name("peermq-resolver".to_owned());
            match builder.spawn(move || shared.run()) {
                Ok(_) => state.threads += 1,
                // The threads there are will come to it; without any it goes back.
                Err(error) if state.threads == 0 => {
                    return state.queue.pop_back().map(|job| (job, error));
                }
                Err(_) => {}
            }
        }
        drop(state);
        self.wake.notify_one();
        None
    }

    /// What a thread does: lookups, until there is no work for a while or the resolver is gone.
    fn run(&self) {
        while let Some(Job { host, port, done }) = self.next_job() {
            // A thread that a panic ended would stay in the count and leave the queue waiting.
            // The panic hook has reported it by then.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                done((self.lookup)(&host, port).and_then(reduce));
            }));
        }
    }

    /// Waits for a job. `None` when the thread has to end; it has then left the count, under the
    /// lock that showed the queue empty, so that no later job counts on it.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                state.threads -= 1;
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            let (woken, timeout) = self
                .wake
                .wait_timeout(state, self.idle_max)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

/// Removes duplicates, keeps the first [`ADDRESSES_MAX`], and makes an empty answer an error.
fn reduce(addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut seen = HashSet::new();
    let kept: Vec<SocketAddr> =
        addresses.into_iter().filter(|&address| seen.insert(address)).take(ADDRESSES_MAX).collect();
    if kept.is_empty() {
        return Err(io::Error::new(ErrorKind::AddrNotAvailable, "the host has no address"));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Far longer than any test takes: a wait that ends by it has failed.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// An address that differs for each number.
    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], number))
    }

    /// A `done` that reports to `results`, and the name of the thread that called it.
    fn report(results: &Sender<(io::Result<Vec<SocketAddr>>, Option<String>)>) -> Done {
        let results = results.clone();
        Box::new(move |result| {
            let name = thread::current().name().map(str::to_owned);
            let _ = results.send((result, name));
        })
    }

    /// A resolver whose lookups say that they have begun and then wait for a go-ahead; a closed
    /// channel is one too.
    fn gated() -> (Resolver, Receiver<String>, Sender<()>) {
        let (begun, begins) = channel();
        let (go, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let begun = Mutex::new(begun);
        let lookup = move |host: &str, port: u16| {
            let _ = begun.lock().unwrap().send(host.to_owned());
            if host != "quick" {
                let _ = gate.lock().unwrap().recv();
            }
            Ok(vec![address(port)])
        };
        (Resolver::with_lookup(Box::new(lookup), IDLE_MAX), begins, go)
    }

    #[test]
    fn a_name_is_looked_up_on_a_thread_of_the_resolver() {
        let (sender, results) = channel();
        let resolver = Resolver::new();
        resolver.resolve("127.0.0.1".to_owned(), 7, report(&sender));
        let (result, name) = results.recv_timeout(PATIENCE).unwrap();
        assert_eq!(result.unwrap(), [address(7)]);
        assert_eq!(name.as_deref(), Some("peermq-resolver"));
    }

    #[test]
    fn duplicates_go_and_the_order_of_the_system_stays_up_to_64_addresses() {
        let many: Vec<SocketAddr> = (0..200).map(|number| address(number / 2 + 1)).collect();
        let kept = reduce(many).unwrap();
        assert_eq!(kept, (1..=64).map(address).collect::<Vec<_>>());
        assert_eq!(reduce(Vec::new()).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn a_lookup_that_hangs_holds_up_only_its_own_thread() {
        let (resolver, begins, go) = gated();
        let (sender, results) = channel();
        for _ in 0..THREADS_MAX - 1 {
            resolver.resolve("slow".to_owned(), 1, report(&sender));
            assert_eq!(begins.recv_timeout(PATIENCE).unwrap(), "slow");
        }
        for port in 10..20 {
            resolver.resolve("quick".to_owned(), port, report(&sender));
            let (result, _) = results.recv_timeout(PATIENCE).unwrap();
            assert_eq!(result.unwrap(), [address(port)]);
        }
        drop(go);
        for _ in 0..THREADS_MAX - 1 {
            assert_eq!(results.recv_timeout(PATIENCE).unwrap().0.unwrap(), [address(1)]);
        }
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_loses_nothing_it_took() {
        let (resolver, begins, go) = gated();
        let (sender, results) = channel();
        for _ in 0..THREADS_MAX {
            resolver.resolve("slow".to_owned(), 1, report(&sender));
            begins.recv_timeout(PATIENCE).unwrap();
        }
        for _ in 0..QUEUE_MAX {
            resolver.resolve("slow".to_owned(), 1, report(&sender));
        }
        assert!(results.try_recv().is_err());
        resolver.resolve("one too many".to_owned(), 1, report(&sender));
        let (result, thread) = results.try_recv().unwrap();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_ne!(thread.as_deref(), Some("peermq-resolver"));
        drop(go);
        for _ in 0..THREADS_MAX + QUEUE_MAX {
            assert!(results.recv_timeout(PATIENCE).unwrap().0.is_ok());
        }
    }

    #[test]
    fn never_more_than_four_threads_look_up_names() {
        let (resolver, begins, go) = gated();
        let (sender, results) = channel();
        for _ in 0..50 {
            resolver.resolve("slow".to_owned(), 1, report(&sender));
        }
        for _ in 0..THREADS_MAX {
            begins.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!(resolver.handle.shared.lock().threads, THREADS_MAX);
        assert!(begins.try_recv().is_err());
        drop(go);
        assert_eq!(results.iter().take(50).count(), 50);
    }

    #[test]
    fn waiting_lookups_are_dropped_uncalled_with_the_last_clone() {
        let (resolver, begins, go) = gated();
        let (sender, results) = channel();
        for _ in 0..THREADS_MAX {
            resolver.resolve("slow".to_owned(), 1, report(&sender));
            begins.recv_timeout(PATIENCE).unwrap();
        }
        resolver.resolve("waiting".to_owned(), 2, report(&sender));
        drop(sender);
        let other = resolver.clone();
        drop(resolver);
        assert_eq!(other.handle.shared.lock().queue.len(), 1);
        drop(other);
        drop(go);
        // Ends when every `done` is gone; the one that waited was never called.
        let ports: HashSet<u16> =
            results.iter().flat_map(|(result, _)| result.unwrap()).map(|a| a.port()).collect();
        assert_eq!(ports, HashSet::from([1]));
    }

    /// Says when the thread that holds it ends.
    struct EndOfThread(Sender<()>);

    impl Drop for EndOfThread {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    thread_local! {
        static END: RefCell<Option<EndOfThread>> = const { RefCell::new(None) };
    }

    /// A resolver whose threads report their end.
    fn mortal(idle_max: Duration) -> (Resolver, Receiver<()>) {
        let (ended, ends) = channel();
        let ended = Mutex::new(ended);
        let lookup = move |_: &str, port: u16| {
            let end = EndOfThread(ended.lock().unwrap().clone());
            END.with_borrow_mut(|slot| slot.get_or_insert(end).0.clone());
            Ok(vec![address(port)])
        };
        (Resolver::with_lookup(Box::new(lookup), idle_max), ends)
    }

    #[test]
    fn an_idle_thread_ends_and_a_later_lookup_starts_another() {
        let (resolver, ends) = mortal(Duration::from_millis(1));
        let (sender, results) = channel();
        for port in 1..4 {
            resolver.resolve("name".to_owned(), port, report(&sender));
            assert_eq!(results.recv_timeout(PATIENCE).unwrap().0.unwrap(), [address(port)]);
            ends.recv_timeout(PATIENCE).unwrap();
            assert_eq!(resolver.handle.shared.lock().threads, 0);
        }
    }

    #[test]
    fn an_idle_thread_ends_with_the_resolver() {
        let (resolver, ends) = mortal(Duration::from_secs(3600));
        let (sender, results) = channel();
        resolver.resolve("name".to_owned(), 1, report(&sender));
        results.recv_timeout(PATIENCE).unwrap().0.unwrap();
        drop(resolver);
        ends.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn a_panic_in_a_lookup_costs_only_that_lookup() {
        let lookup = |host: &str, port: u16| {
            assert_ne!(host, "bad", "planted");
            Ok(vec![address(port)])
        };
        let resolver = Resolver::with_lookup(Box::new(lookup), IDLE_MAX);
        let (sender, results) = channel();
        for _ in 0..THREADS_MAX * 2 {
            resolver.resolve("bad".to_owned(), 1, report(&sender));
        }
        resolver.resolve("good".to_owned(), 2, report(&sender));
        drop(sender);
        assert_eq!(results.recv_timeout(PATIENCE).unwrap().0.unwrap(), [address(2)]);
    }
}
