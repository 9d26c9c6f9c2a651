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
/// Name of the header that tells what of the record is not in its letter.
const LEFT_OUT: &str = "peermq.left_out";

/// What a letter leaves out: more and more, until its topic has room for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LeftOut {
    Nothing,
    Value,
    AllButOrigin,
}

/// Appends a dead letter. If its topic has no room for so large a record, it goes without its value; if there is no room
/// for that either, without its own key and headers. What is left out is where the headers say that the record is from,
/// for as long as that is kept. A topic that wants keys gets the origin as the key of a record that has none.
pub(super) fn bury(
    topic: &Topic,
    origin: &str,
    record: &LogRecord,
    lease: Lease,
    cause: Cause,
) -> Result<Ticket, LogError> {
    let (partition, offset) = lease.spot;
    let made_key = format!("{origin}/{partition}/{offset}");
    let reason = match cause {
        Cause::Rejected => "rejected",
        Cause::Attempts => "attempts",
    };
    let values = [
        origin.to_owned(),
        partition.to_string(),
        offset.to_string(),
        lease.attempt.to_string(),
        reason.to_owned(),
    ];
    let (mut key, mut left_out) = (record.key.as_deref(), LeftOut::Nothing);
    loop {
        let added = ORIGIN.iter().zip(&values);
        let added = added.map(|(key, value)| HeaderRef { key, value: Some(value.as_bytes()) });
        let own = record.headers.iter().map(Header::borrowed);
        let note = |note: &'static str| HeaderRef { key: LEFT_OUT, value: Some(note.as_bytes()) };
        // Empty, not null: that would delete its key in a compacted topic.
        let nothing: Option<&[u8]> = Some(b"");
        let (value, headers): (_, Vec<HeaderRef<'_>>) = match left_out {
            LeftOut::Nothing => (record.value.as_deref(), own.chain(added).collect()),
            LeftOut::Value => (nothing, own.chain(added).chain([note("value")]).collect()),
            LeftOut::AllButOrigin => (nothing, added.chain([note("value key headers")]).collect()),
        };
        let timestamp_ms = Some(record.timestamp_ms);
        let letter = NewRecord { key, value, headers: &headers, timestamp_ms };
        match topic.append_at(Level::Durable, letter) {
            Err(LogError::TooLarge { .. }) if left_out == LeftOut::Nothing => {
                left_out = LeftOut::Value;
            }
            Err(LogError::TooLarge { .. }) if left_out == LeftOut::Value => {
                (left_out, key) = (LeftOut::AllButOrigin, None);
            }
            Err(LogError::KeyMissing { .. }) if key.is_none() => key = Some(made_key.as_bytes()),
            done => return done,
        }
    }
}
