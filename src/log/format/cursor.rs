//! Reads the fields of a record one after another and names the one that fails.

use super::error::{Fault, Field, FormatError};
use super::varint::{VarintError, read_varint, read_varlong};

/// What was decoded, or what is wrong. The error is boxed so that the result of each step is one or two words: it stays in
/// registers, where a whole error would take every field of a record through memory.
pub(in crate::log) type Checked<T> = Result<T, Box<FormatError>>;

/// A position in `bytes`, which end where the enclosing structure ends.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    /// Never beyond the end of `bytes`.
    pub(super) position: usize,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, field: Field) -> Checked<u8> {
        let Some(&byte) = self.bytes.get(self.position) else {
            return Err(self.truncated(field, 1));
        };
        self.position += 1;
        Ok(byte)
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, field: Field) -> Checked<i32> {
        match read_varint(self.bytes, self.position) {
            Ok((value, next)) => {
                self.position = next;
                Ok(value)
            }
            Err(error) => Err(self.bad_varint(field, error, 32)),
        }
    }

    #[inline(always)]
    pub(super) fn varlong(&mut self, field: Field) -> Checked<i64> {
        match read_varlong(self.bytes, self.position) {
            Ok((value, next)) => {
                self.position = next;
                Ok(value)
            }
            Err(error) => Err(self.bad_varint(field, error, 64)),
        }
    }

    /// A length that must not be negative.
    #[inline(always)]
    pub(super) fn length(&mut self, field: Field) -> Checked<usize> {
        let start = self.position;
        let length = self.varint(field)?;
        usize::try_from(length).map_err(|_| invalid(field, start, length))
    }

    #[inline(always)]
    pub(super) fn take(&mut self, length: usize, field: Field) -> Checked<&'a [u8]> {
        let taken = self.bytes.get(self.position..).and_then(|rest| rest.get(..length));
        let Some(taken) = taken else {
            return Err(self.truncated(field, length));
        };
        self.position += length;
        Ok(taken)
    }

    /// Bytes behind their length, where -1 means null.
    #[inline(always)]
    pub(super) fn nullable(
        &mut self,
        length_field: Field,
        field: Field,
    ) -> Checked<Option<&'a [u8]>> {
        let start = self.position;
        let length = self.varint(length_field)?;
        match usize::try_from(length) {
            Ok(length) => self.take(length, field).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(invalid(length_field, start, length)),
        }
    }

    #[cold]
    #[inline(never)]
    fn truncated(&self, field: Field, needed: usize) -> Box<FormatError> {
        let fault = Fault::Truncated { needed: needed as u64, available: self.left() as u64 };
        FormatError::boxed(field, self.position, fault)
    }

    #[cold]
    #[inline(never)]
    fn bad_varint(&self, field: Field, error: VarintError, bits: u32) -> Box<FormatError> {
        match error {
            VarintError::Truncated => self.truncated(field, self.left() + 1),
            VarintError::Overlong => {
                FormatError::boxed(field, self.position, Fault::Overlong { bits })
            }
        }
    }
}

#[cold]
#[inline(never)]
fn invalid(field: Field, position: usize, found: i32) -> Box<FormatError> {
    FormatError::boxed(field, position, Fault::Invalid { found: found.into() })
}
