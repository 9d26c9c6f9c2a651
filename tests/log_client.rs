//! What a client of a log in another process is told: of what it has appended, of where it failed and why; and what it can
//! count on when either side goes.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::sync::Arc;

use harness::{TRANSPORTS, Transport};
use peermq::Context;
use peermq::log::storage::MemoryStorage;
use peermq::log::{DurablePublisher, Log, LogServer, TopicOptions};

/// Enough for one that is free a moment later to be missed.
const ROUNDS: usize = 300;

fn log_with(topic: &str) -> Log {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic(topic, TopicOptions::default()).unwrap();
    log
}

#[test]
fn the_address_of_a_server_is_free_when_its_drop_returns() {
    let log = log_with("t");
    let context = Context::new();
    for endpoint in TRANSPORTS.map(Transport::vacant) {
        for _ in 0..ROUNDS {
            drop(LogServer::bind(&context, &log, &endpoint[..]).unwrap());
        }
    }
}

#[test]
fn the_addresses_of_a_publisher_are_free_when_its_drop_returns() {
    let log = log_with("t");
    let context = Context::new();
    for (live, replay) in TRANSPORTS.map(|transport| (transport.vacant(), transport.vacant())) {
        for _ in 0..ROUNDS {
            let bound = DurablePublisher::bind(&context, &log, "t", &live[..], &replay[..]);
            drop(bound.unwrap());
        }
    }
}
