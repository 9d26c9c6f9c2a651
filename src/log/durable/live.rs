//! What a publisher sends to its subscribers: a header frame, and the batch as it is stored. Without a batch it is an
//! announcement of how far a partition has got.
//!
//! The header begins with the topic's name and a zero byte, which is what subscribers subscribe to.

use bytes::Bytes;

use crate::log::format::Id;
use crate::log::peer::protocol::Malformed;
use crate::log::peer::protocol::wire::{Input, Wire, wire_struct};
use crate::message::{Frame, Message};

/// Version of the header.
const VERSION: u8 = 2;

wire_struct! {
    /// The header behind the topic's name.
    pub(super) struct Header {
        /// The topic, which another one may have had the name of.
        topic_id: Id,
        partition: u32,
        /// The writer that has the log open.
        incarnation: i32,
        /// Everything before it was published earlier.
        from: i64,
        /// The offset after the batch; of an announcement the same as `from`.
        next: i64,
        /// Everything before it survives a power cut.
        durable_end: i64,
    }
}

/// What subscribers of a topic subscribe to.
pub(super) fn subscription(topic: &str) -> Vec<u8> {
    let mut prefix = topic.as_bytes().to_vec();
    prefix.push(0);
    prefix
}

/// A publication as a message. `prefix` is that of its topic.
pub(super) fn encode(prefix: &[u8], header: &Header, batch: Option<Bytes>) -> Message {
    let mut head = Vec::with_capacity(prefix.len() + 1 + Header::BYTES_MIN);
    head.extend_from_slice(prefix);
    head.push(VERSION);
    header.put(&mut head);
    let mut frames = vec![Frame::from(head)];
    frames.extend(batch.map(Frame::from));
    Message::from(frames)
}

/// Decodes a publication.
pub(super) fn decode(
    prefix: &[u8],
    message: &Message,
) -> Result<(Header, Option<Bytes>), Malformed> {
    let fields = message.body().strip_prefix(prefix).ok_or(Malformed::Truncated)?;
    let mut input = Input::new(fields);
    match u8::take(&mut input)? {
        VERSION => {}
        found => return Err(Malformed::Version { found }),
    }
    let header = Header::take(&mut input)?;
    input.end()?;
    let batch = match message.frames() {
        [_] => None,
        [_, batch] => Some(batch.clone().into_bytes()),
        _ => return Err(Malformed::Frames),
    };
    let sound =
        if batch.is_some() { header.from < header.next } else { header.from == header.next };
    if !sound || header.from < 0 {
        return Err(Malformed::Value { found: header.next.cast_unsigned() });
    }
    Ok((header, batch))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_publication_comes_back_as_it_was(
            topic: u128,
            partition: u32,
            incarnation: i32,
            from in 0..1000i64,
            more in 1..1000i64,
            durable_end: i64,
            batch: Option<Vec<u8>>,
        ) {
            let next = if batch.is_some() { from + more } else { from };
            let topic_id = Id::from_bits(topic);
            let header = Header { topic_id, partition, incarnation, from, next, durable_end };
            let batch = batch.map(Bytes::from);
            let message = encode(&subscription("t"), &header, batch.clone());
            prop_assert!(message.body().starts_with(b"t\0"));
            prop_assert_eq!(decode(&subscription("t"), &message), Ok((header, batch)));
            prop_assert!(decode(&subscription("tt"), &message).is_err());
        }

        #[test]
        fn arbitrary_frames_are_no_publication_or_one_that_encodes_to_them(frames: Vec<Vec<u8>>) {
            let message: Message = frames.into_iter().collect();
            if let Ok((header, batch)) = decode(b"", &message) {
                prop_assert_eq!(encode(b"", &header, batch), message);
            }
        }
    }
}
