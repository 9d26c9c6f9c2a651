//! The floor: what the kernel allows without any library. Streams carry bodies of a known size without framing.
//!
//! PUSH and PULL write and read 48 KiB at a time, the best size on the machines tried. DEALER and ROUTER are two
//! nonblocking sockets that wait in `epoll` and make one `write` and one `read` per message.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Address, Body, Echo, Library, Receiver, Sender, Spread, runtime, unsupported};
use crate::outcome::Outcome;
use crate::peer::job_size;

/// Bytes of one write and one read.
const CHUNK_BYTES: usize = 48 * 1024;

pub(crate) enum Floor {}

enum Stream {
    Tcp(TcpStream),
    Ipc(UnixStream),
}

impl Stream {
    fn connect(to: &Address) -> Outcome<Self> {
        Ok(match to {
            Address::Tcp(address) => Self::tcp(TcpStream::connect(address)?)?,
            Address::Ipc(path) => Self::Ipc(UnixStream::connect(path)?),
            Address::Inproc(_) | Address::Directory(_) => return unsupported("inproc"),
        })
    }

    fn accept(at: &Address, bound: &dyn Fn()) -> Outcome<Self> {
        Ok(match at {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                bound();
                Self::tcp(listener.accept()?.0)?
            }
            Address::Ipc(path) => {
                let listener = UnixListener::bind(path)?;
                bound();
                Self::Ipc(listener.accept()?.0)
            }
            Address::Inproc(_) | Address::Directory(_) => return unsupported("inproc"),
        })
    }

    fn tcp(stream: TcpStream) -> Outcome<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Ipc(stream) => stream.set_nonblocking(true),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Ipc(stream) => stream.as_fd(),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Ipc(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Ipc(stream) => stream.write_all(bytes),
        }
    }
}

/// Bodies above this are only counted: a chunk no longer begins with a whole one.
const WHOLE_MAX_BYTES: usize = 4096;

/// Writes what was sent when it is 48 KiB.
struct Writer {
    stream: Stream,
    chunk: Vec<u8>,
    /// Written for bodies that are only counted.
    filler: Vec<u8>,
    /// Bytes sent of bodies that are only counted.
    owed: usize,
}

impl Sender for Writer {
    #[inline]
    async fn send(&mut self, body: &Body) -> Outcome {
        if body.bytes.len() > WHOLE_MAX_BYTES {
            self.owed += body.bytes.len();
            while self.owed >= CHUNK_BYTES {
                self.stream.write_all(&self.filler)?;
                self.owed -= CHUNK_BYTES;
            }
            return Ok(());
        }
        self.chunk.extend_from_slice(&body.bytes);
        if self.chunk.len() + body.bytes.len() > CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Outcome {
        if !self.chunk.is_empty() {
            self.stream.write_all(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }
}

/// Reads up to 48 KiB at a time and counts bodies of the agreed size.
struct Reader {
    stream: Stream,
    chunk: Vec<u8>,
    /// Where what is not yet received begins and ends in `chunk`.
    begin: usize,
    end: usize,
    /// Bytes of one body.
    size: usize,
    /// What is shown for a body that is only counted.
    filler: Vec<u8>,
    /// Bytes read of bodies that are only counted.
    credit: usize,
}

impl Reader {
    fn fill(&mut self) -> Outcome {
        self.chunk.copy_within(self.begin..self.end, 0);
        self.end -= self.begin;
        self.begin = 0;
        match self.stream.read(&mut self.chunk[self.end..])? {
            0 => Err("the sender has gone".into()),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}

impl Receiver for Reader {
    #[inline]
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        if self.size > WHOLE_MAX_BYTES {
            while self.credit < self.size {
                self.fill()?;
                self.credit += self.end;
                self.end = 0;
            }
            self.credit -= self.size;
            return Ok(look(&self.filler));
        }
        while self.end - self.begin < self.size {
            self.fill()?;
        }
        let body = self.begin..self.begin + self.size;
        self.begin = body.end;
        Ok(look(&self.chunk[body]))
    }
}

/// One side of the ping-pong.
struct PingPong {
    stream: Stream,
    poll: Epoll,
    body: Vec<u8>,
}

impl PingPong {
    fn new(stream: Stream) -> Outcome<Self> {
        stream.set_nonblocking()?;
        let poll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        poll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { stream, poll, body: vec![0; job_size()] })
    }

    /// Waits, then reads one body.
    fn read(&mut self) -> Outcome {
        let mut read = 0;
        while read < self.body.len() {
            self.poll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE)?;
            match self.stream.read(&mut self.body[read..]) {
                Ok(0) => return Err("the other side has gone".into()),
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Sender for PingPong {
    async fn send(&mut self, body: &Body) -> Outcome {
        Ok(self.stream.write_all(&body.bytes)?)
    }
}

impl Receiver for PingPong {
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        self.read()?;
        Ok(look(&self.body))
    }
}

impl Echo for PingPong {
    async fn echo(&mut self) -> Outcome {
        self.read()?;
        Ok(self.stream.write_all(&self.body)?)
    }
}

impl Library for Floor {
    fn run<T>(_: Spread, work: impl Future<Output = T>) -> T {
        runtime::blocking(work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        let filler = vec![b'x'; CHUNK_BYTES];
        let chunk = Vec::with_capacity(CHUNK_BYTES);
        Ok(Writer { stream: Stream::connect(to)?, chunk, filler, owed: 0 })
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        let (stream, size) = (Stream::accept(at, bound)?, job_size());
        let (chunk, filler) = (vec![0; CHUNK_BYTES], vec![0; size]);
        Ok(Reader { stream, chunk, begin: 0, end: 0, size, filler, credit: 0 })
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        PingPong::new(Stream::connect(to)?)
    }

    async fn router(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Echo> {
        if peers > 1 {
            return unsupported("several peers");
        }
        PingPong::new(Stream::accept(at, bound)?)
    }
}
