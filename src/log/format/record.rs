//! One record of a batch: a length, then attributes, deltas, key, value and headers.
//!
//! Layout, all integers zigzag variable-length: length of the rest | attributes (one byte, 0) | timestamp delta | offset
//! delta | key length or -1, key | value length or -1, value | header count | per header: key length, key (UTF-8), value
//! length or -1, value.

use bytes::Bytes;

use super::cursor::{Checked, Cursor};
use super::error::{Fault, Field, FormatError};
use super::varint::{put_varint, put_varlong, varint_len, varlong_len};

/// Largest encoded record, its length field included. Lengths are signed 32-bit integers.
pub const RECORD_BYTES_MAX: usize = i32::MAX as usize;

/// A header of a record: a name and a value, for the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The name.
    pub key: String,
    /// The value; `None` is null, which differs from empty.
    pub value: Option<Bytes>,
}

impl Header {
    /// The same header, borrowed.
    pub fn borrowed(&self) -> HeaderRef<'_> {
        HeaderRef { key: &self.key, value: self.value.as_deref() }
    }
}

/// A borrowed [`Header`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderRef<'a> {
    /// The name.
    pub key: &'a str,
    /// The value; `None` is null, which differs from empty.
    pub value: Option<&'a [u8]>,
}

/// A record that shares its batch's memory: key and value are slices of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Milliseconds after the batch's base timestamp; may be negative.
    pub timestamp_delta: i64,
    /// Offsets after the batch's base offset.
    pub offset_delta: i32,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null, which means "deleted" in a compacted topic.
    pub value: Option<Bytes>,
    /// The headers, in order; names may repeat.
    pub headers: Vec<Header>,
}

impl Record {
    /// Bytes that [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        self.parts().encoded_len()
    }

    /// Appends the record; returns how many bytes that took.
    ///
    /// # Errors
    /// `TooLarge` beyond [`RECORD_BYTES_MAX`]; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<usize, FormatError> {
        let parts = self.parts();
        let body = parts.body_len();
        let bytes = framed_len(body);
        if bytes > RECORD_BYTES_MAX {
            return Err(too_large(out.len()));
        }
        parts.put(body, out);
        Ok(bytes)
    }

    /// Decodes the record that starts at `position` of `batch` and checks it whole; also returns the position after it.
    /// Key, values and header values are slices of `batch`.
    ///
    /// # Errors
    /// Any [`FormatError`] of a record; positions count from the start of `batch`.
    pub fn decode(batch: &Bytes, position: usize) -> Result<(Self, usize), FormatError> {
        let (record, next) = RecordRef::decode(batch, position)?;
        Ok((record.to_record(batch)?, next))
    }

    fn parts(&self) -> Parts<'_, impl Iterator<Item = HeaderRef<'_>> + Clone> {
        Parts {
            timestamp_delta: self.timestamp_delta,
            offset_delta: self.offset_delta,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: self.headers.iter().map(Header::borrowed),
        }
    }
}

/// A record borrowed from the bytes of its batch. Headers are only decoded when asked for.
#[derive(Clone, Debug)]
pub struct RecordRef<'a> {
    /// Milliseconds after the batch's base timestamp; may be negative.
    pub timestamp_delta: i64,
    /// Offsets after the batch's base offset.
    pub offset_delta: i32,
    /// The key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is null, which means "deleted" in a compacted topic.
    pub value: Option<&'a [u8]>,
    header_count: u32,
    /// Stands at the first header; its bytes end with the record.
    headers: Cursor<'a>,
}

impl<'a> RecordRef<'a> {
    /// Decodes the record that starts at `position` of `bytes`; also returns the position after it. The lengths of
    /// everything but the headers are checked here, the headers by [`headers`](Self::headers).
    ///
    /// # Errors
    /// Any [`FormatError`] of a record; positions count from the start of `bytes`.
    #[inline]
    pub fn decode(bytes: &'a [u8], position: usize) -> Result<(Self, usize), FormatError> {
        Self::decode_checked(bytes, position).map_err(|error| *error)
    }

    /// As [`decode`](Self::decode). Always inlined, so that the record is put together where it is wanted.
    #[inline(always)]
    pub(super) fn decode_checked(bytes: &'a [u8], position: usize) -> Checked<(Self, usize)> {
        let position = position.min(bytes.len());
        let mut cursor = Cursor { bytes, position };
        let length = cursor.length(Field::RecordLength)?;
        let start = cursor.position;
        cursor.take(length, Field::Records)?;
        let end = cursor.position;
        cursor = Cursor { bytes: bytes.get(..end).unwrap_or_default(), position: start };
        let attributes = cursor.byte(Field::RecordAttributes)?;
        if attributes != 0 {
            let fault = Fault::Invalid { found: attributes.into() };
            return Err(FormatError::boxed(Field::RecordAttributes, start, fault));
        }
        let timestamp_delta = cursor.varlong(Field::TimestampDelta)?;
        let offset_delta = cursor.varint(Field::OffsetDelta)?;
        let key = cursor.nullable(Field::KeyLength, Field::Key)?;
        let value = cursor.nullable(Field::ValueLength, Field::Value)?;
        let header_count = header_count(&mut cursor)?;
        let record =
            Self { timestamp_delta, offset_delta, key, value, header_count, headers: cursor };
        Ok((record, end))
    }

    /// How many headers the record says it has; no more than half its remaining bytes.
    #[inline]
    pub fn header_count(&self) -> usize {
        self.header_count as usize
    }

    /// The headers in order. After an error, or after the last header, it ends.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        Headers { cursor: self.headers.clone(), left: self.header_count }
    }

    /// Checks the headers too.
    ///
    /// # Errors
    /// Any [`FormatError`] of a header.
    #[inline]
    pub fn check_headers(&self) -> Result<(), FormatError> {
        self.headers().try_for_each(|header| header.map(drop))
    }

    /// The record as one that shares `memory`, which must be what it was decoded from; checks the headers too.
    #[inline]
    pub(super) fn to_record(&self, memory: &Bytes) -> Result<Record, FormatError> {
        Ok(Record {
            timestamp_delta: self.timestamp_delta,
            offset_delta: self.offset_delta,
            headers: self.shared_headers(memory).map_err(|error| *error)?,
            key: share(memory, self.key),
            value: share(memory, self.value),
        })
    }

    /// The headers as ones that share `memory`, which must be what the record was decoded from; checks them.
    #[inline(always)]
    pub(in crate::log) fn shared_headers(&self, memory: &Bytes) -> Checked<Vec<Header>> {
        if self.header_count == 0 { Ok(Vec::new()) } else { self.some_shared_headers(memory) }
    }

    /// Kept out of line: most records have no headers.
    #[inline(never)]
    fn some_shared_headers(&self, memory: &Bytes) -> Checked<Vec<Header>> {
        let mut headers = Vec::new();
        for header in self.headers() {
            let HeaderRef { key, value } = header.map_err(Box::new)?;
            headers.push(Header { key: key.to_owned(), value: share(memory, value) });
        }
        Ok(headers)
    }
}

/// A slice of `memory` as one that keeps it alive.
#[inline(always)]
pub(in crate::log) fn share(memory: &Bytes, slice: Option<&[u8]>) -> Option<Bytes> {
    let slice = slice?;
    let start = slice.as_ptr().addr().wrapping_sub(memory.as_ptr().addr());
    Some(memory.slice(start..start.wrapping_add(slice.len())))
}

/// Reads the header count and checks it against the bytes that are left.
#[inline(always)]
fn header_count(cursor: &mut Cursor<'_>) -> Checked<u32> {
    let start = cursor.position;
    let count = cursor.length(Field::HeaderCount)?;
    if count == 0 && cursor.left() != 0 {
        let fault = Fault::Trailing { count: cursor.left() as u64 };
        return Err(FormatError::boxed(Field::RecordLength, cursor.position, fault));
    }
    // The shortest header has two bytes, one for each length.
    if count > cursor.left() / 2 {
        let fault = Fault::TooLarge { limit: cursor.left() as u64 / 2 };
        return Err(FormatError::boxed(Field::HeaderCount, start, fault));
    }
    Ok(count as u32)
}

/// The headers of one record, decoded as they are asked for.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    left: u32,
}

impl<'a> Headers<'a> {
    fn header(&mut self) -> Checked<HeaderRef<'a>> {
        let cursor = &mut self.cursor;
        let length = cursor.length(Field::HeaderKeyLength)?;
        let start = cursor.position;
        let key = cursor.take(length, Field::HeaderKey)?;
        let key = std::str::from_utf8(key)
            .map_err(|_| FormatError::boxed(Field::HeaderKey, start, Fault::NotUtf8))?;
        let value = cursor.nullable(Field::HeaderValueLength, Field::HeaderValue)?;
        if self.left == 0 && cursor.left() != 0 {
            let fault = Fault::Trailing { count: cursor.left() as u64 };
            return Err(FormatError::boxed(Field::RecordLength, cursor.position, fault));
        }
        Ok(HeaderRef { key, value })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<HeaderRef<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let header = self.header().map_err(|error| *error);
        if header.is_err() {
            self.left = 0;
        }
        Some(header)
    }
}

/// The fields of a record to encode; `headers` is walked twice, once to measure.
#[derive(Debug)]
pub(super) struct Parts<'a, H> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: H,
}

impl<'a, H: Iterator<Item = HeaderRef<'a>> + Clone> Parts<'a, H> {
    /// Bytes of the whole record, its length field included. Saturates instead of overflowing.
    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        framed_len(self.body_len())
    }

    /// Bytes after the length field.
    #[inline]
    pub(super) fn body_len(&self) -> usize {
        let mut count = 0usize;
        let mut bytes = 1 + varlong_len(self.timestamp_delta) + varint_len(self.offset_delta);
        bytes = bytes.saturating_add(nullable_len(self.key));
        bytes = bytes.saturating_add(nullable_len(self.value));
        for header in self.headers.clone() {
            count = count.saturating_add(1);
            bytes = bytes.saturating_add(nullable_len(Some(header.key.as_bytes())));
            bytes = bytes.saturating_add(nullable_len(header.value));
        }
        bytes.saturating_add(length_len(count))
    }

    /// Appends the record. The caller has measured `body` and found it within [`RECORD_BYTES_MAX`], so that no length
    /// in here exceeds 31 bits.
    #[inline]
    pub(super) fn put(self, body: usize, out: &mut Vec<u8>) {
        debug_assert!(framed_len(body) <= RECORD_BYTES_MAX);
        out.reserve(framed_len(body));
        put_varint(out, body as i32);
        out.push(0);
        put_varlong(out, self.timestamp_delta);
        put_varint(out, self.offset_delta);
        put_nullable(out, self.key);
        put_nullable(out, self.value);
        put_varint(out, self.headers.clone().count() as i32);
        for header in self.headers {
            put_nullable(out, Some(header.key.as_bytes()));
            put_nullable(out, header.value);
        }
    }
}

/// Bytes of a record with a body of `body` bytes.
#[inline]
pub(super) fn framed_len(body: usize) -> usize {
    body.saturating_add(length_len(body))
}

#[cold]
pub(super) fn too_large(position: usize) -> FormatError {
    let fault = Fault::TooLarge { limit: RECORD_BYTES_MAX as u64 };
    FormatError::new(Field::RecordLength, position, fault)
}

#[inline]
fn length_len(length: usize) -> usize {
    varint_len(i32::try_from(length).unwrap_or(i32::MAX))
}

#[inline]
fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| bytes.len().saturating_add(length_len(bytes.len())))
}

#[inline]
fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

#[cfg(test)]
mod tests;
