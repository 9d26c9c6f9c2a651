//! Files of segments and who may touch them: what is open and for how long, and what a log leaves alone that is not its own
//! any more, or not yet as it will be.

#![cfg(feature = "log")]
#![allow(clippy::unwrap_used)]

#[path = "log/hooked.rs"]
mod hooked;
#[path = "log/support.rs"]
mod support;

use peermq::log::storage::MemoryStorage;
use peermq::log::{Level, Position, TopicOptions};
use support::{files, open};

#[test]
fn a_reader_of_a_closed_log_changes_no_file_of_the_next_owner() {
    let storage = MemoryStorage::new();
    let log = open(&storage);
    let options = TopicOptions::default().index_interval_bytes(10).level(Level::Written);
    let topic = log.create_topic("t", options).unwrap();
    let append = |topic: &peermq::log::Topic| {
        (0..50).for_each(|_| _ = topic.append("x").unwrap().wait().unwrap());
    };
    append(&topic);
    log.close().unwrap();

    // It has not looked into a file yet, and knows the active segment as it is now.
    let log = open(&storage);
    let mut reader = log.topic("t").unwrap().read(0, Position::Offset(20)).unwrap();
    log.close().unwrap();
    let next = open(&storage);
    append(&next.topic("t").unwrap());
    next.close().unwrap();

    let next = open(&storage);
    let before = files(&storage);
    assert_eq!(reader.next().unwrap().unwrap().offset, 20);
    assert_eq!(reader.count(), 29, "what it knew of can be read");
    assert_eq!(files(&storage), before);
    next.close().unwrap();
}
