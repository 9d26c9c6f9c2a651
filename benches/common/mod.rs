//! What both benchmarks share: transports, sizes, and messages made as an application makes them.

use std::time::Duration;

use criterion::Criterion;
use peermq::{Frame, Message};

/// A name and the endpoint to bind. `*` takes whatever is free.
pub(crate) const TRANSPORTS: [(&str, &str); 3] =
    [("tcp", "tcp://127.0.0.1:*"), ("ipc", "ipc://*"), ("inproc", "inproc://bench")];

/// How long the sides of a benchmark wait for each other to come up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Larger bodies are shared with the socket, smaller ones copied.
const COPIED_MAX_BYTES: usize = 4096;

/// Short measurements: all of `cargo bench` takes minutes. Options of the command line come on top.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args()
}

/// The fixed content of all messages of one benchmark.
#[derive(Clone)]
pub(crate) struct Payload {
    bytes: Vec<u8>,
    shared: Frame,
}

impl Payload {
    /// Content of this many bytes.
    pub(crate) fn of_size(bytes: usize) -> Self {
        let bytes = vec![b'x'; bytes];
        let shared = Frame::copy_from(&bytes);
        Self { bytes, shared }
    }

    /// One message: a copy of a small body, a reference to a large one.
    #[inline]
    pub(crate) fn message(&self) -> Message {
        if self.bytes.len() <= COPIED_MAX_BYTES {
            self.bytes.as_slice().into()
        } else {
            self.shared.clone().into()
        }
    }
}
