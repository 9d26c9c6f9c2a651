//! NNG: the same patterns over its own protocol (SP). Round trips use PAIR, as its own tool does.

use std::time::Duration;

use nng::options::{Options, RecvBufferSize, SendBufferSize, protocol::pubsub::Subscribe};
use nng::{Message, Protocol, Socket};

use super::{Address, Body, Echo, Library, Receiver, Sender, Spread, runtime, unsupported};
use crate::outcome::{Outcome, failure};

pub(crate) enum Nng {}

/// Messages buffered in each direction; the library refuses more than 8,192.
const BUFFERED: i32 = 1000;
/// A PUB is not told of its subscribers: this is how long it waits for them.
const SETTLE: Duration = Duration::from_millis(500);

struct Peer(Socket);

impl Peer {
    fn open(protocol: Protocol) -> Outcome<Self> {
        let socket = Socket::new(protocol)?;
        // Each protocol takes the buffers that it has.
        let _ = socket.set_opt::<SendBufferSize>(BUFFERED);
        let _ = socket.set_opt::<RecvBufferSize>(BUFFERED);
        Ok(Self(socket))
    }

    fn connected(self, to: &Address) -> Outcome<Self> {
        self.0.dial(&to.to_string())?;
        Ok(self)
    }

    fn bound(self, at: &Address, bound: &dyn Fn()) -> Outcome<Self> {
        self.0.listen(&at.to_string())?;
        bound();
        Ok(self)
    }
}

impl Sender for Peer {
    async fn send(&mut self, body: &Body) -> Outcome {
        self.0.send(Message::from(body.bytes.as_slice())).map_err(|(_, error)| failure(error))
    }
}

impl Receiver for Peer {
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        Ok(look(&self.0.recv()?))
    }
}

impl Echo for Peer {
    async fn echo(&mut self) -> Outcome {
        self.0.send(self.0.recv()?).map_err(|(_, error)| failure(error))
    }
}

impl Library for Nng {
    fn run<T>(_: Spread, work: impl Future<Output = T>) -> T {
        runtime::blocking(work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        Peer::open(Protocol::Push0)?.connected(to)
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        Peer::open(Protocol::Pull0)?.bound(at, bound)
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        Peer::open(Protocol::Pair0)?.connected(to)
    }

    async fn router(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Echo> {
        if peers > 1 {
            return unsupported("ROUTER");
        }
        Peer::open(Protocol::Pair0)?.bound(at, bound)
    }

    async fn publish(at: &Address, bound: &dyn Fn(), _: usize) -> Outcome<impl Sender> {
        let publisher = Peer::open(Protocol::Pub0)?.bound(at, bound)?;
        std::thread::sleep(SETTLE);
        Ok(publisher)
    }

    async fn subscribe(to: &Address) -> Outcome<impl Receiver> {
        let subscriber = Peer::open(Protocol::Sub0)?;
        subscriber.0.set_opt::<Subscribe>(Vec::new())?;
        subscriber.connected(to)
    }
}
