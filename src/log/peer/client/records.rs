//! Records out of batches that came over a socket, checked again; and what is wrong with one that cannot go there.

use bytes::Bytes;

use super::error::Asked;
use super::{Core, PeerError};
use crate::log::format::batch::DECOMPRESSED_BYTES_MAX;
use crate::log::format::{Batch, BatchHeader, Fault, FormatError};
use crate::log::peer::protocol::{RemoteCode, RemoteError};
use crate::log::read::LogRecord;

/// The records of a batch from an offset on, its CRC and every record checked, and the batch's header. None of a control
/// batch, which is not for readers.
pub(in crate::log) fn records_of(
    bytes: &Bytes,
    partition: u32,
    from: i64,
) -> Result<(BatchHeader, Vec<LogRecord>), FormatError> {
    let batch = Batch::parse(bytes)?;
    batch.view().check_crc()?;
    let header = *batch.header();
    let mut found = Vec::new();
    if header.attributes.is_control() {
        return Ok((header, found));
    }
    for record in batch.records(DECOMPRESSED_BYTES_MAX)? {
        let record = record?;
        let offset = header.offset_of(record.offset_delta);
        if offset >= from {
            found.push(LogRecord {
                partition,
                offset,
                timestamp_ms: header.timestamp_of(record.timestamp_delta),
                key: record.key,
                value: record.value,
                headers: record.headers,
            });
        }
    }
    Ok((header, found))
}

impl Core {
    /// The record breaks the format, for instance by its size.
    pub(super) fn unencodable(&self, asked: &Asked, error: &FormatError) -> PeerError {
        let code = match error.fault {
            Fault::TooLarge { .. } => RemoteCode::TooLarge,
            _ => RemoteCode::BadBatch,
        };
        let mut remote = RemoteError::new(code, error.to_string());
        remote.topic.clone_from(&asked.subject.topic);
        remote.partition = asked.subject.partition;
        self.refused(asked, remote)
    }
}
