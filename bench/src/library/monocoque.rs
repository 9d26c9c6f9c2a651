//! monocoque on its tokio backend: as it comes (each message written at once), and coalescing, where nothing leaves
//! before 64 KiB or a `flush()`. One connection per socket.

use bytes::Bytes;
use monocoque::SocketOptions;
use monocoque::rt::{LocalRuntime, TcpListener, TcpStream, UnixListener, UnixStream};
use monocoque::zmq::{DealerSocket, PubSocket, PullSocket, PushSocket, RouterSocket, SubSocket};

use super::{Address, Body, Echo, Library, Receiver, Sender, Spread, unsupported};
use crate::outcome::Outcome;

/// Eager or coalescing.
pub(crate) enum Monocoque<const COALESCING: bool> {}

fn options<const COALESCING: bool>() -> SocketOptions {
    SocketOptions::default().with_write_coalescing(COALESCING)
}

/// A socket over either kind of stream, and the place for what it receives.
enum Peer<T, I> {
    Tcp(T, Vec<Bytes>),
    Ipc(I, Vec<Bytes>),
}

macro_rules! connect {
    ($socket:ident, $to:ident, $options:expr) => {
        match $to {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                let socket = $socket::from_tcp_with_options(stream, $options).await?;
                Peer::Tcp(socket, Vec::new())
            }
            Address::Ipc(path) => {
                let stream = UnixStream::connect(path).await?;
                Peer::Ipc($socket::<UnixStream>::open(stream, $options).await?, Vec::new())
            }
            Address::Inproc(_) | Address::Directory(_) => return unsupported("inproc sockets"),
        }
    };
}

macro_rules! accept {
    ($socket:ident, $at:ident, $bound:ident, $options:expr) => {
        match $at {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                $bound();
                let (stream, _) = listener.accept().await?;
                let socket = $socket::from_tcp_with_options(stream, $options).await?;
                Peer::Tcp(socket, Vec::new())
            }
            Address::Ipc(path) => {
                let listener = UnixListener::bind(path).await?;
                $bound();
                let (stream, _) = listener.accept().await?;
                Peer::Ipc($socket::<UnixStream>::open(stream, $options).await?, Vec::new())
            }
            Address::Inproc(_) | Address::Directory(_) => return unsupported("inproc sockets"),
        }
    };
}

/// Opens a socket over a connected local stream; the library's types name this differently.
trait Open: Sized {
    async fn open(stream: UnixStream, options: SocketOptions) -> std::io::Result<Self>;
}

macro_rules! open {
    ($($socket:ident: $owner:ty),*) => {$(
        impl Open for $socket<UnixStream> {
            async fn open(stream: UnixStream, options: SocketOptions) -> std::io::Result<Self> {
                <$owner>::with_options(stream, options).await
            }
        }
    )*};
}
open!(
    PushSocket: PushSocket<UnixStream>, PullSocket: PullSocket<UnixStream>,
    DealerSocket: DealerSocket, RouterSocket: RouterSocket
);

impl Sender for Peer<PushSocket, PushSocket<UnixStream>> {
    #[inline]
    async fn send(&mut self, body: &Body) -> Outcome {
        match self {
            Self::Tcp(socket, _) => socket.send_one(body.shared()).await?,
            Self::Ipc(socket, _) => socket.send_one(body.shared()).await?,
        }
        Ok(())
    }

    async fn flush(&mut self) -> Outcome {
        match self {
            Self::Tcp(socket, _) => socket.flush().await?,
            Self::Ipc(socket, _) => socket.flush().await?,
        }
        Ok(())
    }
}

impl Sender for Peer<DealerSocket, DealerSocket<UnixStream>> {
    async fn send(&mut self, body: &Body) -> Outcome {
        let message = vec![body.shared()];
        match self {
            Self::Tcp(socket, _) => socket.send(message).await?,
            Self::Ipc(socket, _) => socket.send(message).await?,
        }
        Ok(())
    }

    async fn flush(&mut self) -> Outcome {
        match self {
            Self::Tcp(socket, _) => socket.flush().await?,
            Self::Ipc(socket, _) => socket.flush().await?,
        }
        Ok(())
    }
}

macro_rules! receivers {
    ($($socket:ident),*) => {$(
        impl Receiver for Peer<$socket, $socket<UnixStream>> {
            #[inline]
            async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
                let (more, frames) = match self {
                    Self::Tcp(socket, frames) => (socket.recv_into(frames).await?, frames),
                    Self::Ipc(socket, frames) => (socket.recv_into(frames).await?, frames),
                };
                if !more {
                    return Err("the sender has gone".into());
                }
                let looked = look(frames.last().map(AsRef::as_ref).unwrap_or_default());
                frames.clear();
                Ok(looked)
            }
        }
    )*};
}
receivers!(PullSocket, DealerSocket, SubSocket);

impl Echo for Peer<RouterSocket, RouterSocket<UnixStream>> {
    async fn echo(&mut self) -> Outcome {
        match self {
            Self::Tcp(socket, _) => {
                let message = socket.recv().await?.ok_or("the peer has gone")?;
                socket.send(message).await?;
                socket.flush().await?;
            }
            Self::Ipc(socket, _) => {
                let message = socket.recv().await?.ok_or("the peer has gone")?;
                socket.send(message).await?;
                socket.flush().await?;
            }
        }
        Ok(())
    }
}

struct Publisher(PubSocket);

impl Sender for Publisher {
    async fn send(&mut self, body: &Body) -> Outcome {
        Ok(self.0.send(vec![body.shared()]).await?)
    }
}

impl<const COALESCING: bool> Library for Monocoque<COALESCING> {
    #[allow(clippy::expect_used)]
    fn run<T>(_: Spread, work: impl Future<Output = T>) -> T {
        LocalRuntime::new().expect("the system has room for a runtime").block_on(work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        Ok(connect!(PushSocket, to, options::<COALESCING>()))
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        Ok(accept!(PullSocket, at, bound, options::<COALESCING>()))
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        Ok(connect!(DealerSocket, to, options::<COALESCING>()))
    }

    async fn router(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Echo> {
        if peers > 1 {
            return unsupported("a ROUTER with several connections");
        }
        Ok(accept!(RouterSocket, at, bound, options::<COALESCING>()))
    }

    async fn publish(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Sender> {
        let Address::Tcp(address) = at else { return unsupported("PUB except over tcp") };
        let mut publisher = PubSocket::bind_with_options(address, options::<COALESCING>()).await?;
        bound();
        for _ in 0..peers {
            publisher.accept_subscriber().await?;
        }
        // The library does not tell when a subscription has come.
        monocoque::rt::sleep(std::time::Duration::from_millis(500)).await;
        Ok(Publisher(publisher))
    }

    async fn subscribe(to: &Address) -> Outcome<impl Receiver> {
        let Address::Tcp(address) = to else { return unsupported("SUB except over tcp") };
        let stream = TcpStream::connect(address).await?;
        let options = options::<COALESCING>();
        let mut subscriber = SubSocket::from_tcp_with_options(stream, options).await?;
        subscriber.subscribe(b"").await?;
        Ok(Peer::<_, SubSocket<UnixStream>>::Tcp(subscriber, Vec::new()))
    }
}
