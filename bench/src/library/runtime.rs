//! What drives the `async` interface for blocking libraries, and the runtimes for the others.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Runs work whose calls block instead of suspending.
pub(crate) fn blocking<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        std::thread::yield_now();
    }
}

/// Runs work on tokio: on the calling thread alone, or with one worker per core beside it.
#[cfg(any(feature = "rzmq", feature = "zeromq"))]
pub(crate) fn tokio<T>(spread: super::Spread, work: impl Future<Output = T>) -> T {
    use std::sync::OnceLock;
    use tokio::runtime::{Builder, Runtime};

    static SHARED: OnceLock<Runtime> = OnceLock::new();
    static LOCAL: OnceLock<Runtime> = OnceLock::new();
    let (cell, mut builder) = match spread {
        super::Spread::Turns => (&LOCAL, Builder::new_current_thread()),
        super::Spread::Streams | super::Spread::Fan => (&SHARED, Builder::new_multi_thread()),
    };
    #[allow(clippy::expect_used)]
    let runtime =
        cell.get_or_init(|| builder.enable_all().build().expect("the system has room for threads"));
    runtime.block_on(work)
}
