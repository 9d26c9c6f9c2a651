//! What a publisher gathers for two subscribers, without a reactor: the test is the only thread there is, so that a queue is
//! written whenever its sender may write it, and the kernel takes everything.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

use proptest::prelude::*;

use super::super::core::Core;
use crate::message::Message;
use crate::options::{Marks, Options};
use crate::pattern::{Behaviour, Pub, Sending};
use crate::peer::PeerId;
use crate::pipe::{Chunk, Doorbell, Link, Pipe, Ring};
use crate::transport::{Endpoint, Stream};
use crate::wire::{Established, Metadata, ReadyPeer, Subscription, Version};

/// A reactor that never comes.
struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self, _: Ring) {}
}

/// A subscriber to everything: its queue at the publisher, and the far end of its connection.
struct Subscriber {
    pipe: Arc<Pipe>,
    far: UnixStream,
    heard: Vec<u8>,
}

impl Subscriber {
    fn new(number: u64, options: &Options) -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let nobody: Weak<Core<Pub>> = Weak::new();
        let endpoint = Endpoint::Inproc("subscriber".into());
        let pipe = Arc::new(Pipe::new(PeerId(number), endpoint, nobody, options));
        let stream = Arc::new(Stream::Ipc(near));
        let link = Link::Wire { stream, doorbell: Arc::new(NoBell), connection: 0 };
        assert!(pipe.link(link, &[], Established::in_process()).is_none(), "nothing is queued yet");
        Self { pipe, far, heard: Vec::new() }
    }

    /// Empties the kernel's buffer.
    fn hear(&mut self) {
        let ended = self.far.read_to_end(&mut self.heard).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::WouldBlock);
    }
}

/// A publisher with two subscribers.
struct Publication {
    publisher: Pub,
    subscribers: [Subscriber; 2],
    dropped: u64,
}

impl Publication {
    fn new(send_marks: Marks) -> Self {
        let options = Options { send_marks, ..Options::default() };
        let mut publisher = Pub::new(&options, 0);
        let subscribers = [1, 2].map(|number| Subscriber::new(number, &options));
        for Subscriber { pipe, .. } in &subscribers {
            publisher.ready(pipe, &anybody(), false).unwrap();
            publisher.subscription(pipe, Subscription::Subscribe(b"")).unwrap();
        }
        Self { publisher, subscribers, dropped: 0 }
    }

    /// `together`: the publisher sends quickly, and may gather.
    fn publish(&mut self, message: &Message, together: bool) {
        let mut sending = Sending::new(false, together, false);
        assert!(self.publisher.route(&mut message.clone(), None, &mut sending).is_ok());
        self.finish(sending);
    }

    /// What the socket's tick and the reactor's do together.
    fn flush(&mut self) {
        let mut sending = Sending::new(false, false, false);
        self.publisher.distribute(&mut sending);
        self.finish(sending);
        self.subscribers.iter().for_each(|subscriber| subscriber.pipe.flush());
        self.subscribers.iter_mut().for_each(Subscriber::hear);
    }

    fn finish(&mut self, sending: Sending) {
        self.dropped += sending.dropped_hwm;
        sending.run();
        self.subscribers.iter_mut().for_each(Subscriber::hear);
    }
}

fn anybody() -> ReadyPeer {
    let version = Version::V3_1;
    ReadyPeer { version, kind: None, identity: bytes::Bytes::new(), metadata: Metadata::default() }
}

fn framed(messages: &[(Message, bool)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (message, _) in messages {
        let mut chunk = Chunk::default();
        chunk.push(message);
        chunk.with_slices(0, |slices| {
            slices.iter().for_each(|slice| bytes.extend_from_slice(slice))
        });
    }
    bytes
}

proptest! {
    /// With a kernel that takes everything no queue is ever too full, however small its marks are.
    #[test]
    fn what_is_gathered_reaches_every_subscriber_in_order_whatever_the_marks_are(
        messages in 1_usize..40,
        bytes in 1_usize..2_000,
        sizes in prop::collection::vec((0_usize..600, any::<bool>()), 1..120),
    ) {
        let mut publication = Publication::new(Marks { messages, bytes });
        let sent: Vec<_> = sizes
            .into_iter()
            .enumerate()
            .map(|(number, (size, together))| (Message::from(vec![number as u8; size]), together))
            .collect();
        sent.iter().for_each(|(message, together)| publication.publish(message, *together));
        publication.flush();
        prop_assert_eq!(publication.dropped, 0);
        for subscriber in &publication.subscribers {
            prop_assert!(subscriber.heard == framed(&sent));
        }
    }
}
