//! What a client knows of a topic that it appends to, and which partition a record goes to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::log::append::NewRecord;
use crate::log::format::Codec;
use crate::log::format::murmur2::partition_for_key;
use crate::log::options::Level;
use crate::log::peer::client::RemoteTopic;

/// A topic to append to.
#[derive(Debug)]
pub(in crate::log::peer::client) struct Target {
    pub(in crate::log::peer::client) topic: Arc<str>,
    pub(in crate::log::peer::client) partitions: u32,
    pub(in crate::log::peer::client) level: Level,
    pub(in crate::log::peer::client) codec: Codec,
    pub(in crate::log::peer::client) batch_bytes: usize,
    pub(in crate::log::peer::client) compact: bool,
    /// The server's number for all this.
    pub(super) fingerprint: u64,
    /// Whether the server was asked again since it has another number.
    pub(super) asked_again: AtomicBool,
    /// Bytes of records without key: they go to one partition until a batch's worth has gone there.
    pub(in crate::log::peer::client) unkeyed_bytes: AtomicU64,
}

impl Target {
    pub(super) fn new(topic: &RemoteTopic, fingerprint: u64, batch_bytes: usize) -> Self {
        let options = &topic.options;
        // A batch of several records must not exceed what the topic allows for one.
        let limit = options.record_bytes_max as usize;
        let available = options.codec.is_available();
        Self {
            topic: topic.name.as_str().into(),
            partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX).max(1),
            level: options.level,
            codec: if available { options.codec } else { Codec::None },
            batch_bytes: batch_bytes.min(limit),
            compact: options.compact,
            fingerprint,
            asked_again: AtomicBool::new(false),
            unkeyed_bytes: AtomicU64::new(0),
        }
    }

    pub(in crate::log::peer::client) fn choose(&self, record: &NewRecord<'_>) -> u32 {
        match (record.key, NonZeroU32::new(self.partitions)) {
            (Some(key), Some(count)) => partition_for_key(key, count),
            _ => {
                let bytes = record.bytes() as u64;
                let gone = self.unkeyed_bytes.fetch_add(bytes, Ordering::Relaxed);
                let batch = gone / (self.batch_bytes.max(1) as u64);
                (batch % u64::from(self.partitions)) as u32
            }
        }
    }
}
