//! Threads that work for a log or its server. They call the wakers of others, and a waker may end what the thread works for.

use std::cell::Cell;
use std::thread::JoinHandle;

thread_local! {
    static WORKS: Cell<bool> = const { Cell::new(false) };
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// From now on the calling thread is one of these, and one that many wait for: it must not wait for the medium to sync.
pub(in crate::log) fn begin_service() {
    begin_work();
    SERVES.set(true);
}

/// Whether the calling thread must not wait for the medium to sync, nor for others who may: it leaves that to a thread of the
/// log.
pub(in crate::log) fn must_not_block() -> bool {
    SERVES.get()
}

/// From now on the calling thread is one of these.
pub(in crate::log) fn begin_work() {
    WORKS.set(true);
}

/// Waits for a thread that was told to end. One of these threads does not wait, and leaves it alone: the other one may be
/// itself, or may wait for it, directly or by way of a third.
pub(in crate::log) fn join(thread: JoinHandle<()>) {
    if !WORKS.get() {
        // A panic there has been reported by its own hook.
        let _ = thread.join();
    }
}
