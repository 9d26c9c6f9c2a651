//! Interoperation with the reference implementation: libzmq through pyzmq, and with peers made of raw bytes where
//! libzmq does not do what a test needs.
//!
//! The tests with libzmq need a Python with pyzmq: `PEERMQ_PYTHON` names it, else `python3` is tried. Without one they
//! pass and say so, unless `PEERMQ_INTEROP_REQUIRED=1`. `cargo test --test interop -- --nocapture` shows the matrix.
#![cfg(unix)]
// A failed expectation is what a test reports.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use peermq::{Event, Monitor};

#[path = "interop/body.rs"]
mod body;
#[path = "interop/heartbeats.rs"]
mod heartbeats;
#[path = "interop/limits.rs"]
mod limits;
#[path = "interop/matrix.rs"]
mod matrix;
#[path = "interop/peer.rs"]
mod peer;
#[path = "harness/ports.rs"]
mod ports;
#[path = "interop/raw.rs"]
mod raw;
#[path = "interop/reconnect.rs"]
mod reconnect;
#[path = "interop/subscriptions.rs"]
mod subscriptions;
#[path = "interop/versions.rs"]
mod versions;

/// How long a step that must succeed may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for the first event that `wanted` accepts, passing over others.
#[track_caller]
fn wait_for(monitor: &Monitor, wanted: impl Fn(&Event) -> bool) -> Event {
    let deadline = Instant::now() + PATIENCE;
    let mut before = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match monitor.recv_timeout(left) {
            Ok(event) if wanted(&event) => return event,
            Ok(event) => before.push(event),
            Err(error) => panic!("no such event: {error}; before: {before:#?}"),
        }
    }
}

/// Waits for what has no event of its own, such as a counter.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never happened that {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Bytes as an argument of a command for the peer process.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
