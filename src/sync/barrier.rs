//! A barrier in two halves: one that costs nothing, for the thread that comes often, and one that makes up for it.
//!
//! Of two threads that each store to one place and then read the other's, with `light` between on one side and `heavy` on
//! the other, at least one reads what the other stored.

#[cfg(all(target_os = "linux", not(loom)))]
mod system {
    use std::sync::OnceLock;
    use std::sync::atomic::{Ordering, compiler_fence};

    use rustix::thread::{MembarrierCommand, membarrier};

    fn register() -> bool {
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    /// Whether `heavy` works here: the kernel may lack it, a sandbox may forbid it.
    pub(crate) fn is_there() -> bool {
        static THERE: OnceLock<bool> = OnceLock::new();
        *THERE.get_or_init(register)
    }

    /// Keeps the compiler from moving memory accesses across; the processor may.
    #[inline]
    pub(crate) fn light() {
        compiler_fence(Ordering::SeqCst);
    }

    /// A full barrier on every processor that runs a thread of this process. Precondition: `is_there`.
    pub(crate) fn heavy() {
        let run = || membarrier(MembarrierCommand::PrivateExpedited).is_ok();
        // Whoever forbids the call after it worked leaves no way to know what other threads see: nothing may go on.
        let worked = run() || (register() && run());
        if !worked {
            eprintln!("peermq: membarrier fails though it worked before");
            std::process::abort();
        }
    }
}

#[cfg(not(any(target_os = "linux", loom)))]
mod system {
    pub(crate) fn is_there() -> bool {
        false
    }

    pub(crate) fn light() {}

    /// Precondition: `is_there`, which never is.
    pub(crate) fn heavy() {}
}

#[cfg(loom)]
mod system {
    use crate::sync::atomic::{Ordering, fence};

    pub(crate) fn is_there() -> bool {
        true
    }

    /// What the other half makes of it.
    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
    }
}

/// Lets the thread run that this one waits for, also one of lower priority. There is no event to wait for: a favourite leaves
/// with a plain store and looks for nobody, and that is all that makes it a favourite.
#[cfg(not(loom))]
pub(super) fn pause(looks: u32) {
    const YIELDS: u32 = 100;
    if looks < YIELDS {
        std::thread::yield_now();
    } else {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

#[cfg(loom)]
pub(super) fn pause(_: u32) {
    loom::thread::yield_now();
}

pub(super) use system::{heavy, is_there, light};
