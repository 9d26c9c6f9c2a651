//! Stored batches: found in bytes, checked, read.

use std::iter::FusedIterator;

use bytes::Bytes;

use super::header::{BatchHeader, CRC_AT, CRC_FROM, HEADER_BYTES};
use super::records::{Records, RecordsRef};
use crate::log::format::compression::Codec;
use crate::log::format::crc::crc32c;
use crate::log::format::error::{Fault, Field, FormatError};

/// A batch borrowed from the bytes of a segment. Its header makes sense and all its bytes are there; whether they are
/// intact is asked by [`check_crc`](Self::check_crc).
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: BatchHeader,
    /// Exactly the batch, header included.
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the front of `bytes`, which may go on after it.
    ///
    /// # Errors
    /// What [`BatchHeader::decode`] says; `Truncated` if `bytes` end before the batch.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let header = BatchHeader::decode(bytes)?;
        let needed = header.batch_bytes();
        match bytes.get(..needed) {
            Some(bytes) => Ok(Self { header, bytes }),
            None => {
                let available = bytes.len() as u64;
                let fault = Fault::Truncated { needed: needed as u64, available };
                Err(FormatError::new(Field::Records, 0, fault))
            }
        }
    }

    /// The header.
    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// All bytes of the batch.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Checks the CRC.
    ///
    /// # Errors
    /// `Mismatch` if any byte from the attributes on has changed, or the CRC itself.
    #[inline]
    pub fn check_crc(&self) -> Result<(), FormatError> {
        let expected = crc32c(self.bytes.get(CRC_FROM..).unwrap_or_default());
        if expected == self.header.crc {
            return Ok(());
        }
        let (expected, found) = (expected.into(), self.header.crc.into());
        Err(FormatError::new(Field::Crc, CRC_AT, Fault::Mismatch { expected, found }))
    }

    /// The records; without codec they are borrowed from the batch itself, else from `scratch`, whose contents are
    /// replaced and whose capacity stays below twice `bytes_max` (the limit on decompressed bytes, for instance
    /// [`DECOMPRESSED_BYTES_MAX`](super::DECOMPRESSED_BYTES_MAX)). Does not check the CRC.
    ///
    /// # Errors
    /// What the codec says; `TooLarge` beyond `bytes_max`.
    pub fn records<'s>(
        &self,
        scratch: &'s mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<RecordsRef<'s>, FormatError>
    where
        'a: 's,
    {
        if self.is_plain() {
            return Ok(RecordsRef::new(&self.header, self.bytes, HEADER_BYTES));
        }
        scratch.clear();
        self.unpack(scratch, bytes_max)?;
        Ok(RecordsRef::new(&self.header, scratch, 0))
    }

    /// Checks everything: CRC, every record, every header.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self, scratch: &mut Vec<u8>, bytes_max: usize) -> Result<(), FormatError> {
        self.check_crc()?;
        self.records(scratch, bytes_max)?.try_for_each(|record| record?.check_headers())
    }

    fn is_plain(&self) -> bool {
        // An emptied batch has no stream to unpack, whatever its codec.
        self.header.attributes.codec() == Codec::None || self.header.records_count == 0
    }

    fn unpack(&self, out: &mut Vec<u8>, bytes_max: usize) -> Result<(), FormatError> {
        let packed = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        self.header.attributes.codec().decode(packed, out, bytes_max)
    }
}

/// A batch that shares the memory of a segment's bytes; as [`BatchView`], but can be kept.
#[derive(Clone, Debug)]
pub struct Batch {
    header: BatchHeader,
    /// Exactly the batch, header included.
    bytes: Bytes,
}

impl Batch {
    /// The batch at the front of `bytes`, which may go on after it.
    ///
    /// # Errors
    /// As [`BatchView::parse`].
    pub fn parse(bytes: &Bytes) -> Result<Self, FormatError> {
        let view = BatchView::parse(bytes)?;
        Ok(Self { header: view.header, bytes: bytes.slice(..view.bytes.len()) })
    }

    /// The same batch, borrowed.
    #[inline]
    pub fn view(&self) -> BatchView<'_> {
        BatchView { header: self.header, bytes: &self.bytes }
    }

    /// The header.
    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// All bytes of the batch.
    #[inline]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, as slices of the batch or of its decompressed records. Does not check the CRC.
    ///
    /// # Errors
    /// As [`BatchView::records`].
    pub fn records(&self, bytes_max: usize) -> Result<Records, FormatError> {
        let view = self.view();
        if view.is_plain() {
            return Ok(Records::new(&self.header, self.bytes.clone(), HEADER_BYTES));
        }
        let mut plain = Vec::new();
        view.unpack(&mut plain, bytes_max)?;
        Ok(Records::new(&self.header, plain.into(), 0))
    }
}

/// The batches of `bytes`, one after another. Positions in errors count from the start of `bytes`.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { bytes, position: 0 }
}

/// Iterates over batches; ends after an error.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Batches<'_> {
    /// Where the next batch starts. After an error: where the bad batch starts.
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.position..).filter(|rest| !rest.is_empty())?;
        match BatchView::parse(rest) {
            Ok(view) => {
                self.position += view.bytes.len();
                Some(Ok(view))
            }
            Err(mut error) => {
                error.position += self.position;
                self.bytes = &[];
                Some(Err(error))
            }
        }
    }
}

impl FusedIterator for Batches<'_> {}
