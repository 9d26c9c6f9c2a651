//! rzmq on tokio, with epoll or with io_uring sessions. Its adaptive throttle is off, as in its own published figures.

use std::sync::OnceLock;
use std::time::Duration;

use rzmq::socket::options;
use rzmq::{Context, Msg, MsgFlags, Socket, SocketType};

use super::{Address, Body, Echo, HWM, Library, Receiver, Sender, Spread, runtime};
use crate::outcome::{Outcome, failure};

/// With or without io_uring.
pub(crate) enum Rzmq<const URING: bool> {}

/// A PUB is not told of its subscribers: this is how long it waits for them.
const SETTLE: Duration = Duration::from_millis(500);

fn context() -> Outcome<&'static Context> {
    static CONTEXT: OnceLock<Result<Context, String>> = OnceLock::new();
    let made = CONTEXT.get_or_init(|| Context::new().map_err(|error| error.to_string()));
    made.as_ref().map_err(failure)
}

struct Peer(Socket);

impl Peer {
    async fn open<const URING: bool>(kind: SocketType) -> Outcome<Self> {
        if URING {
            start_uring()?;
        }
        let socket = context()?.socket(kind)?;
        let hwm = i32::try_from(HWM)?;
        socket.set_option(options::SNDHWM, hwm).await?;
        socket.set_option(options::RCVHWM, hwm).await?;
        socket.set_option(options::ADAPTIVE_THROTTLE, 0).await?;
        #[cfg(feature = "rzmq-uring")]
        if URING {
            socket.set_option(options::IO_URING_SESSION_ENABLED, true).await?;
        }
        Ok(Self(socket))
    }

    async fn connected(self, to: &Address) -> Outcome<Self> {
        self.0.connect(&to.to_string()).await?;
        Ok(self)
    }

    async fn bound(self, at: &Address, bound: &dyn Fn()) -> Outcome<Self> {
        self.0.bind(&at.to_string()).await?;
        bound();
        Ok(self)
    }

    /// DEALER and ROUTER without the empty frame that only this library adds. Over inproc it stays: without it no answer
    /// arrives.
    async fn plain(self, address: &Address) -> Outcome<Self> {
        if matches!(address, Address::Inproc(_)) {
            return Ok(self);
        }
        self.0.set_option(options::AUTO_DELIMITER, 0).await?;
        Ok(self)
    }
}

#[cfg(feature = "rzmq-uring")]
fn start_uring() -> Outcome {
    Ok(rzmq::uring::initialize_uring_backend(rzmq::uring::UringConfig::default())?)
}

#[cfg(not(feature = "rzmq-uring"))]
fn start_uring() -> Outcome {
    super::unsupported("io_uring in this build")
}

impl Sender for Peer {
    #[inline]
    async fn send(&mut self, body: &Body) -> Outcome {
        Ok(self.0.send(Msg::from_bytes(body.shared())).await?)
    }
}

impl Receiver for Peer {
    #[inline]
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let message = self.0.recv().await?;
        Ok(look(message.data().unwrap_or_default()))
    }
}

impl Echo for Peer {
    #[inline]
    async fn echo(&mut self) -> Outcome {
        let mut frames = self.0.recv_multipart().await?;
        if let Some((last, before)) = frames.split_last_mut() {
            before.iter_mut().for_each(|frame| frame.set_flags(frame.flags() | MsgFlags::MORE));
            last.set_flags(last.flags() & !MsgFlags::MORE);
        }
        Ok(self.0.send_multipart(frames).await?)
    }
}

impl<const URING: bool> Library for Rzmq<URING> {
    fn run<T>(spread: Spread, work: impl Future<Output = T>) -> T {
        runtime::tokio(spread, work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        Peer::open::<URING>(SocketType::Push).await?.connected(to).await
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        Peer::open::<URING>(SocketType::Pull).await?.bound(at, bound).await
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        Peer::open::<URING>(SocketType::Dealer).await?.plain(to).await?.connected(to).await
    }

    async fn router(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Echo> {
        let router = Peer::open::<URING>(SocketType::Router).await?.plain(at).await?;
        let connections = i32::try_from(peers)?.max(1024);
        router.0.set_option(options::MAX_CONNECTIONS, connections).await?;
        router.bound(at, bound).await
    }

    async fn publish(at: &Address, bound: &dyn Fn(), _: usize) -> Outcome<impl Sender> {
        let publisher = Peer::open::<URING>(SocketType::Pub).await?;
        publisher.0.set_option(options::XPUB_NODROP, 1).await?;
        let publisher = publisher.bound(at, bound).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(publisher)
    }

    async fn subscribe(to: &Address) -> Outcome<impl Receiver> {
        let subscriber = Peer::open::<URING>(SocketType::Sub).await?;
        subscriber.0.set_option(options::SUBSCRIBE, "").await?;
        subscriber.connected(to).await
    }
}
