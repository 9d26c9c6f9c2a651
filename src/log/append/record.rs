//! A record as a caller hands it in: borrowed, because it is encoded before the call returns.

use crate::log::format::HeaderRef;

/// A record to append.
///
/// ```
/// use peermq::log::NewRecord;
///
/// let record = NewRecord::new("value").key("key").timestamp_ms(1_700_000_000_000);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    pub(in crate::log) key: Option<&'a [u8]>,
    pub(in crate::log) value: Option<&'a [u8]>,
    pub(in crate::log) headers: &'a [HeaderRef<'a>],
    pub(in crate::log) timestamp_ms: Option<i64>,
}

impl<'a> NewRecord<'a> {
    /// A record with a value.
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { value: Some(value.as_ref()), ..Self::default() }
    }

    /// A record without value: in a compacted topic it says that its key is deleted.
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key: Some(key.as_ref()), ..Self::default() }
    }

    /// Gives it a key, which decides the partition unless the caller does.
    #[must_use]
    pub fn key(self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key: Some(key.as_ref()), ..self }
    }

    /// Gives it headers.
    #[must_use]
    pub fn headers(self, headers: &'a [HeaderRef<'a>]) -> Self {
        Self { headers, ..self }
    }

    /// Gives it a time of its own, in milliseconds since 1970; else it has that of the append.
    #[must_use]
    pub fn timestamp_ms(self, timestamp_ms: i64) -> Self {
        Self { timestamp_ms: Some(timestamp_ms), ..self }
    }

    /// Bytes of key, value and headers.
    #[inline]
    pub(in crate::log) fn bytes(&self) -> usize {
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers = self.headers.iter();
        headers.fold(len(self.key) + len(self.value), |sum, header| {
            sum + header.key.len() + len(header.value)
        })
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for NewRecord<'a> {
    fn from(value: &'a T) -> Self {
        Self::new(value)
    }
}
