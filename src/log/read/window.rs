//! What a reader has read of a segment's file and not handed out yet.

use std::mem;

use bytes::{Bytes, BytesMut};

use crate::log::error::LogError;

/// Bytes of a file, used up from the front. They are shared with whoever has slices of them, so that new ones get other
/// memory then; otherwise memory is used again: to get it from the system each time costs as much as the reading.
#[derive(Debug, Default)]
pub(super) struct Window {
    bytes: Bytes,
    /// Bytes at the front that are used up.
    taken: usize,
    /// The memory before, of which there were slices when it was used up.
    before: Bytes,
}

impl Window {
    /// What is not used up.
    #[inline]
    pub(super) fn rest(&self) -> Bytes {
        self.bytes.slice(self.taken..)
    }

    /// Bytes that are not used up.
    #[inline]
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Uses up bytes at the front of the rest.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken = self.bytes.len().min(self.taken + bytes);
    }

    /// Uses up everything.
    pub(super) fn take_all(&mut self) {
        self.taken = self.bytes.len();
    }

    /// Makes it begin with what is left of it and go on to `len` bytes. `read` gets the buffer for what comes after the
    /// given number of bytes that were left, and says how much of it there is.
    pub(super) fn extend(
        &mut self,
        len: usize,
        read: impl FnOnce(&mut [u8], usize) -> Result<usize, LogError>,
    ) -> Result<(), LogError> {
        let kept = self.left();
        let len = len.max(kept);
        let mut buffer = self.buffer(len);
        let read = read(buffer.get_mut(kept..).unwrap_or_default(), kept)?;
        buffer.truncate(kept + read);
        self.bytes = buffer.freeze();
        Ok(())
    }

    /// A buffer of this length that begins with what is left, which is not here any more.
    fn buffer(&mut self, len: usize) -> BytesMut {
        let taken = mem::take(&mut self.taken);
        match mem::take(&mut self.bytes).try_into_mut() {
            Ok(mut buffer) => {
                buffer.copy_within(taken.., 0);
                buffer.resize(len, 0);
                buffer
            }
            Err(bytes) => {
                let rest = bytes.get(taken..).unwrap_or_default();
                let mut buffer = match mem::take(&mut self.before).try_into_mut() {
                    Ok(mut buffer) if buffer.capacity() >= len => {
                        buffer.resize(len, 0);
                        buffer
                    }
                    _ => BytesMut::zeroed(len),
                };
                if let Some(front) = buffer.get_mut(..rest.len()) {
                    front.copy_from_slice(rest);
                }
                self.before = bytes;
                buffer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogError;

    /// Extends the window as if the file had this byte only.
    fn extend(window: &mut Window, len: usize, byte: u8) {
        let read = |buffer: &mut [u8], _| -> Result<usize, LogError> {
            buffer.fill(byte);
            Ok(buffer.len())
        };
        window.extend(len, read).unwrap();
    }

    #[test]
    fn what_is_left_comes_first_and_is_not_read_again() {
        let mut window = Window::default();
        extend(&mut window, 8, b'a');
        window.take(5);
        for sliced in [false, true] {
            let _slice = sliced.then(|| window.rest());
            let mut asked = None;
            let read = |buffer: &mut [u8], kept| {
                asked = Some((buffer.len(), kept));
                buffer[..2].fill(b'b');
                Ok(2)
            };
            window.extend(6, read).unwrap();
            assert_eq!(asked, Some((3, 3)));
            assert_eq!(&window.rest()[..], b"aaabb", "the file ends after them");
            window.take(2);
            extend(&mut window, 3, b'c');
            assert_eq!(&window.rest()[..], b"abb", "there was enough");
            window.take(1);
            extend(&mut window, 3, b'a');
            window.take_all();
            extend(&mut window, 3, b'a');
        }
    }

    #[test]
    fn memory_is_used_again_unless_somebody_has_a_slice_of_it() {
        let mut window = Window::default();
        extend(&mut window, 64, b'a');
        let first = window.rest().as_ptr();
        window.take(60);
        extend(&mut window, 64, b'b');
        assert_eq!(window.rest().as_ptr(), first, "nobody had a slice");
        let slice = window.rest();
        window.take_all();
        extend(&mut window, 64, b'c');
        let second = window.rest().as_ptr();
        assert_ne!(second, first);
        assert_eq!(slice, [b"aaaa".as_slice(), &[b'b'; 60]].concat());
        drop(slice);
        let slice = window.rest();
        window.take_all();
        extend(&mut window, 64, b'd');
        assert_eq!(window.rest().as_ptr(), first, "the slice of the one before is gone");
        assert_eq!(slice, vec![b'c'; 64]);
    }
}
