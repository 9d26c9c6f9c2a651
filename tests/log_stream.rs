//! Followers as streams of the async world.

#![cfg(feature = "stream")]
#![allow(clippy::unwrap_used, reason = "a failed expectation fails the test")]

mod harness;

use std::fmt::Debug;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use harness::SOON;
use harness::futures::{Task, block_on};
use peermq::Context;
use peermq::log::storage::MemoryStorage;
use peermq::log::{Log, LogClient, LogRecord, LogServer, Position, TopicOptions};

/// What any combinator does, and knows of a stream.
async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// A stream that was begun at offset 0 of topic `t`, which has two records, gets these and what comes, and comes to an end
/// when the topic is deleted.
fn check<E: Debug>(log: &Log, mut stream: impl Stream<Item = Result<LogRecord, E>> + Unpin) {
    for offset in 0..2 {
        assert_eq!(block_on(next(&mut stream)).unwrap().unwrap().offset, offset);
    }
    let third = Task::pending(next(&mut stream));
    log.topic("t").unwrap().append("third").unwrap().wait().unwrap();
    assert_eq!(third.finish().unwrap().unwrap().offset, 2);
    let end = Task::pending(next(&mut stream));
    log.delete_topic("t").unwrap();
    assert!(end.finish().unwrap().is_err());
    assert!(block_on(next(&mut stream)).is_none(), "nobody goes round for ever");
}

fn log_of_two(storage: &MemoryStorage) -> Log {
    let log = Log::open_in(Arc::new(storage.clone()), "/log").unwrap();
    let topic = log.create_topic("t", TopicOptions::default()).unwrap();
    topic.append("first").unwrap().wait().unwrap();
    topic.append("second").unwrap().wait().unwrap();
    log
}

#[test]
fn who_follows_in_this_process_or_another_one_is_a_stream() {
    for elsewhere in [false, true] {
        let storage = MemoryStorage::new();
        let log = log_of_two(&storage);
        let options = Log::options().storage(Arc::new(storage));
        let reads = if elsewhere { options.open_read_only("/log").unwrap() } else { log.clone() };
        let reader = reads.topic("t").unwrap().read(0, Position::Earliest).unwrap();
        check(&log, reader.follow());
    }
}

#[test]
fn a_remote_reader_is_a_stream() {
    let log = log_of_two(&MemoryStorage::new());
    let context = Context::new();
    let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
    let client = LogClient::options().timeout(SOON);
    let client = client.connect(&context, server.endpoint().clone()).unwrap();
    check(&log, client.read("t", 0, Position::Earliest).unwrap());
}
