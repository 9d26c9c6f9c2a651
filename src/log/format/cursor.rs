//! Reads the fields of a record one after another and names the one that fails.

use super::error::{Fault, Field, FormatError};
use super::varint::{VarintError, read_varint, read_varlong};

/// A position in `bytes`, which end where the enclosing structure ends.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    /// Never beyond the end of `bytes`.
    pub(super) position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    #[inline]
    pub(super) fn byte(&mut self, field: Field) -> Result<u8, FormatError> {
        let Some(&byte) = self.bytes.get(self.position) else {
            return Err(self.truncated(field, 1));
        };
        self.position += 1;
        Ok(byte)
    }

    #[inline]
    pub(super) fn varint(&mut self, field: Field) -> Result<i32, FormatError> {
        match read_varint(self.bytes, self.position) {
            Ok((value, next)) => {
                self.position = next;
                Ok(value)
            }
            Err(error) => Err(self.bad_varint(field, error, 32)),
        }
    }

    #[inline]
    pub(super) fn varlong(&mut self, field: Field) -> Result<i64, FormatError> {
        match read_varlong(self.bytes, self.position) {
            Ok((value, next)) => {
                self.position = next;
                Ok(value)
            }
            Err(error) => Err(self.bad_varint(field, error, 64)),
        }
    }

    /// A length that must not be negative.
    #[inline]
    pub(super) fn length(&mut self, field: Field) -> Result<usize, FormatError> {
        let start = self.position;
        let length = self.varint(field)?;
        usize::try_from(length)
            .map_err(|_| FormatError::new(field, start, Fault::Invalid { found: length.into() }))
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize, field: Field) -> Result<&'a [u8], FormatError> {
        let taken = self.bytes.get(self.position..).and_then(|rest| rest.get(..length));
        let Some(taken) = taken else {
            return Err(self.truncated(field, length));
        };
        self.position += length;
        Ok(taken)
    }

    /// Bytes behind their length, where -1 means null.
    #[inline]
    pub(super) fn nullable(
        &mut self,
        length_field: Field,
        field: Field,
    ) -> Result<Option<&'a [u8]>, FormatError> {
        let start = self.position;
        let length = self.varint(length_field)?;
        match usize::try_from(length) {
            Ok(length) => self.take(length, field).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => {
                let fault = Fault::Invalid { found: length.into() };
                Err(FormatError::new(length_field, start, fault))
            }
        }
    }

    #[cold]
    fn truncated(&self, field: Field, needed: usize) -> FormatError {
        let fault = Fault::Truncated { needed: needed as u64, available: self.left() as u64 };
        FormatError::new(field, self.position, fault)
    }

    #[cold]
    fn bad_varint(&self, field: Field, error: VarintError, bits: u32) -> FormatError {
        match error {
            VarintError::Truncated => self.truncated(field, self.left() + 1),
            VarintError::Overlong => {
                FormatError::new(field, self.position, Fault::Overlong { bits })
            }
        }
    }
}
