//! omq by its blocking API, one I/O thread of its context.

use std::sync::OnceLock;
use std::time::Duration;

use omq_tokio::blocking::Socket;
use omq_tokio::{Context, Message, Options, SocketType};

use super::{
    Address, Body, COPIED_MAX_BYTES, Echo, HWM, Library, Receiver, Sender, Spread, runtime,
};
use crate::outcome::Outcome;

pub(crate) enum Omq {}

fn context() -> &'static Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT.get_or_init(Context::new)
}

fn options() -> Options {
    let hwm = u32::try_from(HWM).unwrap_or(u32::MAX);
    Options::default().send_hwm(hwm).recv_hwm(hwm)
}

struct Peer(Socket);

impl Peer {
    fn connected(kind: SocketType, to: &Address) -> Outcome<Self> {
        let socket = context().blocking_socket(kind, options());
        socket.connect(to.to_string().as_str())?;
        Ok(Self(socket))
    }

    fn bound(kind: SocketType, options: Options, at: &Address, bound: &dyn Fn()) -> Outcome<Self> {
        let socket = context().blocking_socket(kind, options);
        socket.bind(at.to_string().as_str())?;
        bound();
        Ok(Self(socket))
    }
}

impl Sender for Peer {
    #[inline]
    async fn send(&mut self, body: &Body) -> Outcome {
        let message = if body.bytes.len() <= COPIED_MAX_BYTES {
            Message::from_slice(&body.bytes)
        } else {
            Message::from(body.shared())
        };
        Ok(self.0.send(message)?)
    }
}

impl Receiver for Peer {
    #[inline]
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let message = self.0.recv()?;
        Ok(look(message.part_slice(0).unwrap_or_default()))
    }
}

impl Echo for Peer {
    #[inline]
    async fn echo(&mut self) -> Outcome {
        Ok(self.0.send(self.0.recv()?)?)
    }
}

impl Library for Omq {
    fn run<T>(_: Spread, work: impl Future<Output = T>) -> T {
        runtime::blocking(work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        Peer::connected(SocketType::Push, to)
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        Peer::bound(SocketType::Pull, options(), at, bound)
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        Peer::connected(SocketType::Dealer, to)
    }

    async fn router(at: &Address, bound: &dyn Fn(), _: usize) -> Outcome<impl Echo> {
        Peer::bound(SocketType::Router, options(), at, bound)
    }

    async fn publish(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Sender> {
        let mut options = options();
        options.xpub_nodrop = true;
        let publisher = Peer::bound(SocketType::Pub, options, at, bound)?;
        publisher.0.wait_subscribed(u64::try_from(peers)?, Duration::from_secs(30))?;
        Ok(publisher)
    }

    async fn subscribe(to: &Address) -> Outcome<impl Receiver> {
        let subscriber = Peer::connected(SocketType::Sub, to)?;
        subscriber.0.subscribe("")?;
        Ok(subscriber)
    }
}
