//! What clients of one server have to suffer from each other: nothing.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;
#[path = "log/hooked.rs"]
mod hooked;

use std::sync::{Arc, mpsc};
use std::thread;

use harness::SOON;
use hooked::HookedStorage;
use peermq::Context;
use peermq::log::storage::{MemoryStorage, Operation};
use peermq::log::{Log, LogClient, LogServer, MemberOptions, OffsetCommit, Position, TopicOptions};

#[test]
fn nobody_waits_for_a_topic_that_somebody_else_has_made() {
    let storage = HookedStorage::new(MemoryStorage::new());
    let log = Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    log.group("g").unwrap().set_offsets(&[OffsetCommit::new("t", 0, 0)]).unwrap();
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = || LogClient::options().timeout(SOON).connect(&context, server.endpoint());
    let (slow, other) = (client().unwrap(), client().unwrap());
    let (reached, is_reached) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    storage.before(Operation::CreateDir, "many-1", move || {
        reached.send(()).unwrap();
        // An error if the test has failed.
        let _ = may_go_on.recv();
    });
    let maker = thread::spawn(move || {
        slow.create_topic("many", TopicOptions::default().partitions(2)).map(drop)
    });
    is_reached.recv_timeout(SOON).unwrap();

    assert_eq!(other.append("t", "x").unwrap().wait().unwrap(), 0);
    let record = other.read("t", 0, Position::Earliest).unwrap().next().unwrap().unwrap();
    assert_eq!(record.value.as_deref(), Some(&b"x"[..]));
    assert_eq!(other.topics().unwrap(), ["t"]);
    assert_eq!(other.describe("t").unwrap().partitions[0].end, 1);
    let mut member = other.group("g").join(MemberOptions::new(["t"])).unwrap();
    assert!(!member.poll(SOON).unwrap().events.is_empty());
    assert!(!maker.is_finished(), "it is made all the while");
    member.leave().unwrap();

    drop(go_on);
    maker.join().unwrap().unwrap();
    assert_eq!(other.topics().unwrap(), ["many", "t"]);
}
