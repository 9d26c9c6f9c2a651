//! Dead letters: records that were given up, with headers that tell where they are from and why.

use super::core::{Cause, Lease};
use crate::log::append::{NewRecord, Ticket};
use crate::log::error::LogError;
use crate::log::format::{Header, HeaderRef};
use crate::log::options::Level;
use crate::log::read::LogRecord;
use crate::log::topic::Topic;

/// Names of the headers that a dead letter has beside its own.
const ORIGIN: [&str; 5] = [
    "peermq.origin.topic",
    "peermq.origin.partition",
    "peermq.origin.offset",
    "peermq.attempts",
    "peermq.reason",
];

/// Appends a dead letter.
pub(super) fn bury(
    topic: &Topic,
    origin: &str,
    record: &LogRecord,
    lease: Lease,
    cause: Cause,
) -> Result<Ticket, LogError> {
    let reason = match cause {
        Cause::Rejected => "rejected",
        Cause::Attempts => "attempts",
    };
    let values = [
        origin.to_owned(),
        lease.spot.0.to_string(),
        lease.spot.1.to_string(),
        lease.attempt.to_string(),
        reason.to_owned(),
    ];
    let added = ORIGIN.iter().zip(&values);
    let mut headers: Vec<HeaderRef<'_>> = record.headers.iter().map(Header::borrowed).collect();
    headers.extend(added.map(|(key, value)| HeaderRef { key, value: Some(value.as_bytes()) }));
    let letter = NewRecord {
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
        timestamp_ms: Some(record.timestamp_ms),
    };
    topic.append_at(Level::Durable, letter)
}
