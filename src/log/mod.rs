//! Durable topics: a log of partitions on a storage that outlives the process (feature `log`).

pub mod format;
pub mod storage;
