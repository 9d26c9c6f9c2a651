//! `Message` and `Frame`: what an application hands to `send` and gets from `recv`.
//!
//! The first and the last station on the path of a message. A frame keeps a short body inline, so that
//! receiving a small message neither allocates nor touches a reference count, and never pins the buffer
//! it arrived in. Longer bodies are shared [`Bytes`].

mod sender;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use self::sender::Sender;
use crate::peer::PeerInfo;

/// Longest body that a frame stores inline, in bytes.
pub(crate) const INLINE_BYTES_MAX: usize = 64;

/// One frame of a message: an immutable sequence of bytes.
///
/// Bodies of up to 64 bytes live inside the value; longer ones are a reference-counted [`Bytes`], so cloning
/// a frame never copies a large body.
#[derive(Clone)]
pub struct Frame(Body);

/// The tag is a whole word for the same reason as the fields of [`Inline`]: the copy of what follows a tag of one byte begins at
/// an odd address.
#[derive(Clone)]
#[repr(u64)]
enum Body {
    Inline(Inline),
    Shared(Bytes),
}

/// A body stored in place. Tag and length are two words and the block follows at 16 bytes, so that whoever moves a message,
/// also inside a `Result` with its own view of the first two words, reads just what was written: a load that spans two younger
/// stores stalls, and costs more than the copy itself.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Inline {
    len: usize,
    bytes: [u8; INLINE_BYTES_MAX],
}

impl Frame {
    /// An empty frame: the delimiter of request envelopes (RFC 28).
    pub const fn empty() -> Self {
        Self(Body::Inline(Inline { bytes: [0; INLINE_BYTES_MAX], len: 0 }))
    }

    /// Copies `body` into a new frame.
    #[inline]
    pub fn copy_from(body: &[u8]) -> Self {
        if body.len() > INLINE_BYTES_MAX {
            return Self(Body::Shared(Bytes::copy_from_slice(body)));
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes[..body.len()].copy_from_slice(body);
        Self(Body::Inline(Inline { bytes, len: body.len() }))
    }

    /// The first `len` bytes of `block` as a frame. The whole block is copied, for a copy of fixed size needs no call; what
    /// lies behind the body is never read.
    #[inline]
    pub(crate) fn from_block(block: &[u8; INLINE_BYTES_MAX], len: usize) -> Self {
        debug_assert!(len <= INLINE_BYTES_MAX);
        Self(Body::Inline(Inline { bytes: *block, len }))
    }

    /// A body that is stored inline, as the whole block and its length.
    #[inline]
    pub(crate) fn as_block(&self) -> Option<(&[u8; INLINE_BYTES_MAX], usize)> {
        match &self.0 {
            Body::Inline(inline) => Some((&inline.bytes, inline.len)),
            Body::Shared(_) => None,
        }
    }

    /// The body of this frame.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Body::Inline(inline) => inline.bytes.get(..inline.len).unwrap_or_default(),
            Body::Shared(bytes) => bytes,
        }
    }

    /// The body as [`Bytes`]; copies only a body that is stored inline.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Body::Inline(_) => Bytes::copy_from_slice(self.as_slice()),
            Body::Shared(bytes) => bytes,
        }
    }

    /// The shared buffer behind a body that is not stored inline.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&Bytes> {
        match &self.0 {
            Body::Inline(_) => None,
            Body::Shared(bytes) => Some(bytes),
        }
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::empty()
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Frame {}

impl PartialEq<[u8]> for Frame {
    fn eq(&self, other: &[u8]) -> bool {
        self.as_slice() == other
    }
}

impl PartialEq<&str> for Frame {
    fn eq(&self, other: &&str) -> bool {
        self.as_slice() == other.as_bytes()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES_MAX: usize = 64;
        let body = self.as_slice();
        let shown = body.get(..SHOWN_BYTES_MAX).unwrap_or(body);
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < body.len() {
            write!(f, "... ({} bytes)", body.len())?;
        }
        Ok(())
    }
}

impl From<Bytes> for Frame {
    #[inline]
    fn from(body: Bytes) -> Self {
        if body.len() > INLINE_BYTES_MAX {
            return Self(Body::Shared(body));
        }
        Self::copy_from(&body)
    }
}

impl From<Vec<u8>> for Frame {
    #[inline]
    fn from(body: Vec<u8>) -> Self {
        if body.len() > INLINE_BYTES_MAX {
            return Self(Body::Shared(Bytes::from(body)));
        }
        Self::copy_from(&body)
    }
}

impl From<String> for Frame {
    fn from(body: String) -> Self {
        Self::from(body.into_bytes())
    }
}

impl From<&str> for Frame {
    #[inline]
    fn from(body: &str) -> Self {
        Self::copy_from(body.as_bytes())
    }
}

impl From<&[u8]> for Frame {
    #[inline]
    fn from(body: &[u8]) -> Self {
        Self::copy_from(body)
    }
}

impl<const N: usize> From<&[u8; N]> for Frame {
    #[inline]
    fn from(body: &[u8; N]) -> Self {
        Self::copy_from(body)
    }
}

impl From<&Frame> for Frame {
    fn from(frame: &Frame) -> Self {
        frame.clone()
    }
}

/// One message: one or more frames that travel together or not at all.
///
/// Anything that turns into a [`Frame`] turns into a message of one frame; arrays, vectors and iterators of
/// such values turn into messages of several.
///
/// ```
/// use peermq::Message;
///
/// let single: Message = "hello".into();
/// let request = Message::from(["", "GET", "/index"]);
/// assert_eq!(single.frames().len(), 1);
/// assert_eq!(request.get(1).map(|frame| frame.as_slice()), Some(&b"GET"[..]));
/// ```
#[derive(Clone)]
pub struct Message {
    frames: Frames,
    sender: Sender,
}

/// Invariant: `Many` is used for any number of frames but one.
#[derive(Clone)]
enum Frames {
    One(Frame),
    Many(Vec<Frame>),
}

impl Message {
    /// The frames in order.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        match &self.frames {
            Frames::One(frame) => std::slice::from_ref(frame),
            Frames::Many(frames) => frames,
        }
    }

    /// The only frame, if it is stored inline, as the whole block and its length.
    #[inline]
    pub(crate) fn as_short(&self) -> Option<(&[u8; INLINE_BYTES_MAX], usize)> {
        match &self.frames {
            Frames::One(frame) => frame.as_block(),
            Frames::Many(_) => None,
        }
    }

    /// The frame at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&Frame> {
        self.frames().get(index)
    }

    /// The frames, taken out of the message.
    pub fn into_parts(self) -> Vec<Frame> {
        match self.frames {
            Frames::One(frame) => vec![frame],
            Frames::Many(frames) => frames,
        }
    }

    /// The only frame; hands the message back when it has several frames or none.
    ///
    /// # Errors
    /// The message itself, unchanged.
    #[allow(clippy::result_large_err)]
    pub fn into_single(self) -> Result<Frame, Self> {
        match self.frames {
            Frames::One(frame) => Ok(frame),
            Frames::Many(_) => Err(self),
        }
    }

    /// The body of the first frame, empty for a message without frames. Most messages have just one frame,
    /// and this is their content.
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.frames().first().map(Frame::as_slice).unwrap_or_default()
    }

    /// The first frame's body as text, with invalid UTF-8 replaced.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.body())
    }

    /// Sum of the bodies' lengths, in bytes.
    #[inline]
    pub fn body_bytes(&self) -> usize {
        match &self.frames {
            Frames::One(frame) => frame.len(),
            Frames::Many(frames) => frames.iter().map(|frame| frame.len()).sum(),
        }
    }

    /// The peer this message came from; `None` for one that was made here.
    pub fn peer(&self) -> Option<&PeerInfo> {
        self.sender.peer()
    }

    /// Puts `frame` before the others: how an envelope is added.
    pub fn push_front(&mut self, frame: impl Into<Frame>) {
        self.with_frames(|frames| frames.insert(0, frame.into()));
    }

    /// Puts `frame` after the others.
    pub fn push_back(&mut self, frame: impl Into<Frame>) {
        self.with_frames(|frames| frames.push(frame.into()));
    }

    /// Takes the first frame: how an envelope is removed.
    pub fn pop_front(&mut self) -> Option<Frame> {
        self.with_frames(|frames| (!frames.is_empty()).then(|| frames.remove(0)))
    }

    fn with_frames<R>(&mut self, change: impl FnOnce(&mut Vec<Frame>) -> R) -> R {
        let taken = std::mem::replace(&mut self.frames, Frames::Many(Vec::new()));
        let mut frames = match taken {
            Frames::One(frame) => vec![frame],
            Frames::Many(frames) => frames,
        };
        let result = change(&mut frames);
        self.frames = Frames::from(frames);
        result
    }

    #[inline]
    pub(crate) fn received(frame: Frame, peer: Option<&Arc<PeerInfo>>) -> Self {
        let sender = peer.map(Sender::new).unwrap_or_default();
        Self { frames: Frames::One(frame), sender }
    }

    /// A received message of one short frame, as `Frame::from_block`. The block is copied last: nothing can fail between that and
    /// the return, so nobody but the receiver looks at what was copied.
    #[inline]
    pub(crate) fn received_short(
        block: &[u8; INLINE_BYTES_MAX],
        len: usize,
        peer: &Arc<PeerInfo>,
    ) -> Self {
        let sender = Sender::new(peer);
        Self { frames: Frames::One(Frame::from_block(block, len)), sender }
    }

    pub(crate) fn received_parts(frames: Vec<Frame>, peer: Option<&Arc<PeerInfo>>) -> Self {
        let sender = peer.map(Sender::new).unwrap_or_default();
        Self { frames: Frames::from(frames), sender }
    }
}

impl From<Vec<Frame>> for Frames {
    fn from(mut frames: Vec<Frame>) -> Self {
        match (frames.len(), frames.pop()) {
            (1, Some(only)) => Self::One(only),
            (_, Some(last)) => {
                frames.push(last);
                Self::Many(frames)
            }
            (_, None) => Self::Many(frames),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.frames()).finish()
    }
}

/// Equal when the frames are; where a message came from does not count.
impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.frames() == other.frames()
    }
}

impl Eq for Message {}

impl From<Frame> for Message {
    #[inline]
    fn from(frame: Frame) -> Self {
        Self { frames: Frames::One(frame), sender: Sender::default() }
    }
}

macro_rules! from_single {
    ($($body:ty),*) => {$(
        impl From<$body> for Message {
            #[inline]
            fn from(body: $body) -> Self {
                Self::from(Frame::from(body))
            }
        }
    )*};
}
from_single!(Bytes, Vec<u8>, String, &str, &[u8]);

impl<const N: usize> From<&[u8; N]> for Message {
    fn from(body: &[u8; N]) -> Self {
        Self::from(Frame::from(body))
    }
}

impl<T: Into<Frame>, const N: usize> From<[T; N]> for Message {
    fn from(frames: [T; N]) -> Self {
        frames.into_iter().collect()
    }
}

impl From<Vec<Frame>> for Message {
    fn from(frames: Vec<Frame>) -> Self {
        Self { frames: Frames::from(frames), sender: Sender::default() }
    }
}

impl<T: Into<Frame>> FromIterator<T> for Message {
    fn from_iter<I: IntoIterator<Item = T>>(frames: I) -> Self {
        Self::from(frames.into_iter().map(Into::into).collect::<Vec<Frame>>())
    }
}

impl IntoIterator for Message {
    type Item = Frame;
    type IntoIter = std::vec::IntoIter<Frame>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_parts().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_body_is_stored_inline_and_a_long_one_is_shared() {
        assert!(Frame::copy_from(&[7; INLINE_BYTES_MAX]).shared().is_none());
        assert!(Frame::copy_from(&[7; INLINE_BYTES_MAX + 1]).shared().is_some());
    }

    #[test]
    fn frames_are_small_enough_to_move() {
        assert!(size_of::<Frame>() <= 80, "{}", size_of::<Frame>());
        assert!(size_of::<Message>() <= 88, "{}", size_of::<Message>());
    }

    #[test]
    fn envelopes_can_be_added_and_removed() {
        let mut message = Message::from("body");
        message.push_front("");
        message.push_front("id");
        message.push_back("end");
        assert_eq!(message, Message::from(["id", "", "body", "end"]));
        assert_eq!(message.pop_front(), Some(Frame::from("id")));
        assert_eq!(message.frames().len(), 3);
    }

    #[test]
    fn a_single_frame_comes_out_and_several_are_handed_back() {
        assert_eq!(Message::from("a").into_single(), Ok(Frame::from("a")));
        let two = Message::from(["a", "b"]);
        assert_eq!(two.clone().into_single(), Err(two));
        assert!(Message::from(Vec::<Frame>::new()).into_single().is_err());
    }

    proptest! {
        #[test]
        fn a_frame_returns_the_bytes_it_was_made_from(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let expected = Bytes::from(body.clone());
            prop_assert_eq!(&Frame::copy_from(&body)[..], &body[..]);
            prop_assert_eq!(Frame::from(expected.clone()).into_bytes(), expected);
            let owned = Frame::from(body.clone());
            prop_assert_eq!(owned.as_slice(), &body[..]);
        }

        #[test]
        fn a_message_keeps_the_order_and_number_of_its_frames(bodies in proptest::collection::vec(any::<Vec<u8>>(), 0..5)) {
            let message: Message = bodies.iter().cloned().collect();
            prop_assert_eq!(message.frames().len(), bodies.len());
            let back: Vec<Vec<u8>> = message.into_iter().map(|frame| frame.to_vec()).collect();
            prop_assert_eq!(back, bodies);
        }
    }
}
