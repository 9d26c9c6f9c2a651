//! The bytes of a file in memory: pages that copies share until one of them writes.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io;
use std::sync::Arc;

use super::FILE_BYTES_MAX;

/// Bytes of a page. A page that is not there is all zeros.
const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

/// The bytes of one file. Cloning costs two words; the first write after it copies the references to the pages.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    /// By number. Bytes beyond `len` are zeros.
    pages: Arc<BTreeMap<u64, Arc<Page>>>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The pieces of a range that lie in one page each: (page, offset in it, bytes).
fn pieces(position: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = position + done as u64;
        let offset = (at % PAGE_BYTES as u64) as usize;
        let piece = (bytes - done).min(PAGE_BYTES - offset);
        done += piece;
        (piece > 0).then_some((at / PAGE_BYTES as u64, offset, piece))
    })
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads up to the end of the file; returns how many bytes.
    pub(super) fn read(&self, buffer: &mut [u8], position: u64) -> usize {
        let rest = self.len.saturating_sub(position);
        let bytes = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let mut done = 0;
        for (page, offset, piece) in pieces(position, bytes) {
            let target = &mut buffer[done..done + piece];
            match self.pages.get(&page) {
                Some(page) => target.copy_from_slice(&page[offset..offset + piece]),
                None => target.fill(0),
            }
            done += piece;
        }
        bytes
    }

    /// Writes, growing the file if need be. The caller sees to it that the end is at most `FILE_BYTES_MAX`.
    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut done = 0;
        let pages = Arc::make_mut(&mut self.pages);
        for (page, offset, piece) in pieces(position, bytes.len()) {
            let page = pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[offset..offset + piece].copy_from_slice(&bytes[done..done + piece]);
            done += piece;
        }
        self.len = self.len.max(position + bytes.len() as u64);
    }

    /// Cuts, or grows by zeros.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let pages = Arc::make_mut(&mut self.pages);
            drop(pages.split_off(&len.div_ceil(PAGE_BYTES as u64)));
            let offset = (len % PAGE_BYTES as u64) as usize;
            if offset > 0
                && let Some(page) = pages.get_mut(&(len / PAGE_BYTES as u64))
            {
                Arc::make_mut(page)[offset..].fill(0);
            }
        }
        self.len = len;
    }

    /// Flips one bit, if the file is long enough.
    pub(super) fn flip(&mut self, bit: u64) {
        let mut byte = [0];
        if self.read(&mut byte, bit / 8) == 1 {
            self.write(bit / 8, &[byte[0] ^ (1 << (bit % 8))]);
        }
    }

    /// A number that two contents share only if they are equal (by all practical odds).
    pub(super) fn fingerprint(&self) -> u128 {
        let (mut low, mut high) = (DefaultHasher::new(), DefaultHasher::new());
        high.write_u8(1);
        for hasher in [&mut low, &mut high] {
            hasher.write_u64(self.len);
            for (number, page) in self.pages.iter().filter(|(_, page)| page[..] != [0; PAGE_BYTES])
            {
                hasher.write_u64(*number);
                hasher.write(&page[..]);
            }
        }
        u128::from(high.finish()) << 64 | u128::from(low.finish())
    }
}

/// Refuses a length or an end of a write that no file may have.
pub(super) fn check_end(end: u64) -> io::Result<()> {
    if end > FILE_BYTES_MAX { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}
