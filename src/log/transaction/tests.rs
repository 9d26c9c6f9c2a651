//! What a transaction is after something was refused.

use std::sync::Arc;

use super::TopicPartition;
use crate::log::storage::MemoryStorage;
use crate::log::{Codec, Log, LogError, TopicOptions};

fn log_with(topics: &[&str]) -> Log {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    for topic in topics {
        log.create_topic(topic, TopicOptions::default().record_bytes_max(100)).unwrap();
    }
    log
}

#[test]
fn a_record_that_was_refused_moves_no_other_and_leaves_nothing_of_its_topic() {
    let log = log_with(&["a", "b", "c"]);
    log.topic("c")
        .unwrap()
        .append_all(0, crate::log::Level::Durable, &["x".into(), "y".into()])
        .unwrap();
    let mut transaction = log.transaction();
    let refused = transaction.append_to("a", 0, &"v".repeat(500)).unwrap_err();
    assert!(matches!(refused, LogError::TooLarge { .. }), "{refused}");
    transaction.append("b", "for b").unwrap();
    let refused = transaction.append_to("b", 0, &"v".repeat(500)).unwrap_err();
    assert!(matches!(refused, LogError::TooLarge { .. }), "{refused}");
    transaction.append("c", "for c").unwrap();
    log.delete_topic("a").unwrap();
    let places = transaction.commit().unwrap();
    assert_eq!(places, [(TopicPartition::new("b", 0), 0), (TopicPartition::new("c", 0), 2)]);
}

#[test]
fn what_can_not_be_packed_keeps_all_of_a_transaction_out_of_the_log_and_not_a_part_of_it() {
    let Some(codec) = Codec::ALL.into_iter().find(|codec| !codec.is_available()) else { return };
    let log = log_with(&["a", "b"]);
    let topic = log.topic("a").unwrap();
    // As one that another build has made.
    topic.inner.options.set(TopicOptions::default().batch_bytes(100).codec(codec));
    let mut transaction = log.transaction();
    transaction.append("b", "first").unwrap();
    for _ in 0..3 {
        transaction.append("a", &"v".repeat(80)).unwrap();
    }
    let refused = transaction.commit().unwrap_err();
    assert!(matches!(refused, LogError::BadBatch { .. }), "{refused}");
    for topic in ["a", "b"] {
        assert_eq!(log.topic(topic).unwrap().describe().partitions[0].end, 0, "{topic}");
    }
}
