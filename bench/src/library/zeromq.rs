//! zeromq (zmq.rs) on tokio. It offers no high-water marks, and its PUB drops what a slow subscriber does not take.

use std::time::Duration;

use zeromq::{
    DealerSocket, PubSocket, PullSocket, PushSocket, RouterSocket, Socket, SocketRecv, SocketSend,
    SubSocket, ZmqMessage,
};

use super::{Address, Body, Echo, Library, Receiver, Sender, Spread, runtime, unsupported};
use crate::outcome::Outcome;

pub(crate) enum Zeromq {}

/// A PUB is not told of its subscribers: this is how long it waits for them.
const SETTLE: Duration = Duration::from_millis(500);

/// One of the library's sockets.
struct Peer<S>(S);

impl<S: Socket> Peer<S> {
    async fn connected(to: &Address) -> Outcome<Self> {
        offered(to)?;
        let mut socket = S::new();
        socket.connect(&to.to_string()).await?;
        Ok(Self(socket))
    }

    async fn bound(at: &Address, bound: &dyn Fn()) -> Outcome<Self> {
        offered(at)?;
        let mut socket = S::new();
        socket.bind(&at.to_string()).await?;
        bound();
        Ok(Self(socket))
    }
}

fn offered(address: &Address) -> Outcome {
    if matches!(address, Address::Inproc(_)) { unsupported("inproc") } else { Ok(()) }
}

impl<S: SocketSend> Sender for Peer<S> {
    async fn send(&mut self, body: &Body) -> Outcome {
        Ok(self.0.send(ZmqMessage::from(body.shared())).await?)
    }
}

impl<S: SocketRecv> Receiver for Peer<S> {
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let message = self.0.recv().await?;
        Ok(look(message.get(0).map(AsRef::as_ref).unwrap_or_default()))
    }
}

impl Echo for Peer<RouterSocket> {
    async fn echo(&mut self) -> Outcome {
        let message = self.0.recv().await?;
        Ok(self.0.send(message).await?)
    }
}

/// `send` of a PUB never suspends: it fills a queue that a task of the library empties into the queues of the connections'
/// tasks, without a pause as long as there is something in it. On one worker, the connections' tasks then never run, and
/// no subscriber receives anything. On a runtime of one thread, a publisher that gives way every few messages lets all
/// of them run in turn; nothing is dropped then.
struct Publisher {
    socket: PubSocket,
    /// Messages since it gave way.
    sent: u32,
}

/// Messages between two pauses. Of 16 to 4,096 in trials, more served few subscribers and short messages a little better,
/// and the others worse.
const IN_A_ROW: u32 = 256;

impl Sender for Publisher {
    async fn send(&mut self, body: &Body) -> Outcome {
        self.socket.send(ZmqMessage::from(body.shared())).await?;
        self.sent += 1;
        if self.sent >= IN_A_ROW {
            self.sent = 0;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Library for Zeromq {
    fn run<T>(spread: Spread, work: impl Future<Output = T>) -> T {
        let spread = if spread == Spread::Fan { Spread::Turns } else { spread };
        runtime::tokio(spread, work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        Peer::<PushSocket>::connected(to).await
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        Peer::<PullSocket>::bound(at, bound).await
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        Peer::<DealerSocket>::connected(to).await
    }

    async fn router(at: &Address, bound: &dyn Fn(), _: usize) -> Outcome<impl Echo> {
        Peer::<RouterSocket>::bound(at, bound).await
    }

    async fn publish(at: &Address, bound: &dyn Fn(), _: usize) -> Outcome<impl Sender> {
        let publisher = Peer::<PubSocket>::bound(at, bound).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(Publisher { socket: publisher.0, sent: 0 })
    }

    async fn subscribe(to: &Address) -> Outcome<impl Receiver> {
        let mut subscriber = Peer::<SubSocket>::connected(to).await?;
        subscriber.0.subscribe("").await?;
        Ok(subscriber)
    }
}
