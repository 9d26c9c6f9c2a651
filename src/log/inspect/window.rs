//! A stretch of a file in memory, read ahead in large pieces; where the medium cannot be read, as far as it can.

use std::sync::Arc;

use crate::log::storage::{StorageError, StorageFile};

/// Bytes read at a time, unless more are wanted.
const CHUNK_BYTES: usize = 256 << 10;
/// What a medium fails to read as a whole.
const BLOCK_BYTES: u64 = 4096;

/// The part of a file that is being looked at.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a dyn StorageFile,
    /// Bytes of the file that count.
    len: u64,
    /// The file from `at` on; only `filled` bytes of it count.
    buffer: Vec<u8>,
    filled: usize,
    at: u64,
    /// Why the last call had too little, if the storage was the cause.
    error: Option<Arc<StorageError>>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn StorageFile, len: u64) -> Self {
        Self { file, len, buffer: Vec::new(), filled: 0, at: 0, error: None }
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What kept the last call from giving what was needed.
    pub(super) fn take_error(&mut self) -> Option<Arc<StorageError>> {
        self.error.take()
    }

    /// Where the block behind the one with this byte starts.
    pub(super) fn next_block(&self, at: u64) -> u64 {
        (at / BLOCK_BYTES + 1) * BLOCK_BYTES
    }

    /// The bytes from a position on: so many, unless the file ends or cannot be read.
    pub(super) fn have(&mut self, position: u64, needed: usize) -> &[u8] {
        self.error = None;
        if !self.holds(position, needed) {
            self.fill(position, needed);
        }
        let start = usize::try_from(position.saturating_sub(self.at)).unwrap_or(usize::MAX);
        self.buffer.get(start..self.filled).unwrap_or_default()
    }

    fn holds(&self, position: u64, needed: usize) -> bool {
        let end = position.saturating_add(needed as u64);
        position >= self.at && end <= self.at + self.filled as u64
    }

    fn fill(&mut self, position: u64, needed: usize) {
        let left = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let wanted = needed.max(CHUNK_BYTES).min(left);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        (self.at, self.filled) = (position, 0);
        let buffer = self.buffer.get_mut(..wanted).unwrap_or_default();
        match self.file.read_at(buffer, position) {
            Ok(read) => self.filled = read,
            Err(_) => self.fill_by_blocks(position, wanted, needed),
        }
    }

    /// Reads up to the first block that cannot be read.
    fn fill_by_blocks(&mut self, position: u64, wanted: usize, needed: usize) {
        while self.filled < wanted {
            let from = position + self.filled as u64;
            let end = (self.next_block(from) - position).min(wanted as u64);
            let end = usize::try_from(end).unwrap_or(wanted);
            let block = self.buffer.get_mut(self.filled..end).unwrap_or_default();
            match self.file.read_at(block, from) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) => {
                    if self.filled < needed {
                        self.error = Some(Arc::new(error));
                    }
                    break;
                }
            }
        }
    }
}
