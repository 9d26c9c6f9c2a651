//! Passes that are under way when their log ends.

#[path = "../../../tests/log/hooked.rs"]
mod hooked;

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

use hooked::HookedStorage;

use super::*;
use crate::log::storage::{MemoryStorage, Operation, Storage};
use crate::log::{Level, Log, NewRecord, Position, Topic, TopicOptions};

const PATIENCE: Duration = Duration::from_secs(60);

fn put(topic: &Topic, key: &str, value: &str) {
    topic.append_at(Level::Written, NewRecord::new(value).key(key)).unwrap().wait().unwrap();
}

#[test]
fn the_last_handle_closes_the_log_though_a_pass_is_under_way() {
    let storage = HookedStorage::new(MemoryStorage::new());
    // Its threads only do what they are called for.
    let never = Some(Duration::from_secs(3600));
    let options = Log::options().storage(Arc::new(storage.clone()));
    let log = options.linger(never).maintenance_interval(never).open("/log").unwrap();
    let small = TopicOptions::default().segment_bytes(600).batch_bytes(120);
    let topic = log.create_topic("t", small.compact(true).min_dirty_percent(0)).unwrap();
    let shared = log.inner.shared.clone();
    let (begun, begins) = channel();
    let (_never, wait) = channel::<()>();
    storage.before(Operation::Open, ".cleaned", move || {
        begun.send(()).unwrap();
        let until = Instant::now() + PATIENCE;
        while !shared.maintenance.is_ending() {
            assert!(Instant::now() < until, "nobody closes the log");
            std::thread::yield_now();
        }
        // Long enough for who does not wait to be found out.
        wait.recv_timeout(Duration::from_millis(200)).unwrap_err();
    });
    for n in 0..12 {
        put(&topic, "key", &format!("{n:090}"));
    }
    begins.recv().unwrap();
    let record = NewRecord::new("last").key("last");
    let _not_waited_for = topic.append_at(Level::Written, record).unwrap();
    let is_closed_in_order = || storage.metadata(Path::new("/log/.kafka_cleanshutdown")).is_ok();
    drop(log);
    assert!(!is_closed_in_order());
    drop(topic);
    assert!(is_closed_in_order());
    let log = Log::options().storage(Arc::new(storage.clone())).linger(None).open("/log").unwrap();
    let there = log.topic("t").unwrap().read(0, Position::Earliest).unwrap();
    let there: Vec<_> = there.map(|record| record.unwrap().value.unwrap()).collect();
    assert_eq!((there.len(), there.last().unwrap().as_ref()), (13, &b"last"[..]), "it went on");
}
