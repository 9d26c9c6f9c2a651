//! Fields of the log's own records: big-endian integers, and texts behind their length in two bytes.

/// Appends a text. The caller has made sure that its length can be told: at most 32767 bytes.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    debug_assert!(i16::try_from(text.len()).is_ok());
    let len = i16::try_from(text.len()).unwrap_or(i16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    let bytes = text.as_bytes();
    out.extend_from_slice(bytes.get(..len.unsigned_abs().into()).unwrap_or(bytes));
}

/// What is left to read of a record. Everything is `None` that is not there as a whole.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of a length known here.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn short(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn int(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.short()?).ok()?;
        let text = self.bytes(len)?;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }
}
