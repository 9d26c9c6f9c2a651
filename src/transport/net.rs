//! The seam between the reactor and the operating system: one stream and one listener type over
//! TCP and ipc, readiness, and the one clock.
//!
//! The first module that touches an arriving byte and the last that touches a leaving one. Every
//! socket here is non-blocking, and nothing above `transport` names a socket type of the standard
//! library, so that a simulated network can stand in.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use socket2::{SockRef, Socket};

use super::ipc::IpcGuard;
use super::{sys, tcp};

/// Readiness, as the reactor sees it. Named here and nowhere above, so that these types can be exchanged together with
/// the streams and the clock.
pub(crate) mod readiness {
    #[cfg(not(loom))]
    pub(crate) use mio::Waker;
    pub(crate) use mio::{Events, Interest, Poll, Registry, Token};

    #[cfg(loom)]
    pub(crate) use super::super::model::Waker;
}
use readiness::{Interest, Registry, Token};

/// The time, from the one clock that everything above uses.
#[cfg(not(loom))]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of a model, which stands still until a timed wait ends: each run of a model must see the same times.
#[cfg(loom)]
pub(crate) fn now() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + crate::sync::time_passed()
}

/// TCP keepalive as probed by the kernel; what is `None` keeps the default of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// Whether the kernel probes at all.
    pub(crate) enabled: bool,
    /// Silence before the first probe.
    pub(crate) idle: Option<Duration>,
    /// Time between probes.
    pub(crate) interval: Option<Duration>,
    /// Unanswered probes after which the connection counts as dead.
    pub(crate) probes: Option<u32>,
}

/// Socket options of the operating system, for listeners and streams alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransportOptions {
    /// TCP keepalive; `None` leaves it as the system has it.
    pub(crate) keepalive: Option<Keepalive>,
    /// SO_SNDBUF in bytes; `None` leaves the kernel's own tuning on.
    pub(crate) send_buffer_bytes: Option<usize>,
    /// SO_RCVBUF in bytes; `None` leaves the kernel's own tuning on.
    pub(crate) recv_buffer_bytes: Option<usize>,
    /// Connections that may wait to be accepted; the kernel may allow fewer.
    pub(crate) backlog: u32,
    /// The type-of-service byte of IPv4, the traffic class of IPv6.
    pub(crate) type_of_service: Option<u8>,
    /// Whether IPv6 addresses are used at all.
    pub(crate) ipv6: bool,
}

impl Default for TransportOptions {
    fn default() -> Self {
        TransportOptions {
            keepalive: None,
            send_buffer_bytes: None,
            recv_buffer_bytes: None,
            backlog: 1024,
            type_of_service: None,
            ipv6: true,
        }
    }
}

impl TransportOptions {
    /// The backlog in the type that `listen` takes.
    pub(crate) fn backlog_or_max(&self) -> i32 {
        i32::try_from(self.backlog).unwrap_or(i32::MAX)
    }

    /// Sets the buffer sizes on a socket of either kind.
    pub(crate) fn apply_buffers(&self, socket: &Socket) -> io::Result<()> {
        if let Some(bytes) = self.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.recv_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }
}

/// A connected, or connecting, non-blocking byte stream.
///
/// All I/O takes `&self`: one thread may read while another writes.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix-domain connection.
    Ipc(UnixStream),
}

impl Stream {
    /// Reads what has arrived, at most `buffer.len()` bytes. `Ok(0)` is the end of the stream.
    ///
    /// Errors: `WouldBlock` if nothing has arrived, else what broke the connection.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry_interrupted(|| match self {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Ipc(stream) => (&mut &*stream).read(buffer),
        })
    }

    /// Writes as much as the kernel takes and returns how much that was. Never raises SIGPIPE.
    ///
    /// Errors: `WouldBlock` if it takes nothing now, else what broke the connection.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        retry_interrupted(|| self.socket().send_with_flags(bytes, sys::MSG_NOSIGNAL))
    }

    /// Like [`Stream::write`], from several buffers in one call. The kernel refuses more buffers
    /// than its IOV_MAX (1,024 on Linux).
    pub(crate) fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        retry_interrupted(|| self.socket().send_vectored_with_flags(buffers, sys::MSG_NOSIGNAL))
    }

    /// Asks, after a writable event, how the connect ended: `Ok(true)` connected, `Ok(false)` not
    /// yet.
    ///
    /// Errors: why it failed, reported once; or `ConnectionRefused` for a TCP stream that the
    /// kernel connected to itself, which happens when nobody listens on a local ephemeral port
    /// and the kernel picks the same port for our side.
    pub(crate) fn finish_connect(&self) -> io::Result<bool> {
        if let Some(error) = self.socket().take_error()? {
            return Err(error);
        }
        let connected = match self {
            Stream::Tcp(stream) => stream.peer_addr().map(Some),
            Stream::Ipc(stream) => stream.peer_addr().map(|_| None),
        };
        match connected {
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
            Ok(Some(peer)) if self.is_self_connection(peer) => Err(io::Error::new(
                ErrorKind::ConnectionRefused,
                "the connection met itself: nobody listens there",
            )),
            Ok(_) => Ok(true),
        }
    }

    /// Whether `peer` is our own address too.
    fn is_self_connection(&self, peer: SocketAddr) -> bool {
        match self {
            Stream::Tcp(stream) => stream.local_addr().is_ok_and(|local| local == peer),
            Stream::Ipc(_) => false,
        }
    }

    /// Ends our side: the peer reads the rest and then the end of the stream.
    ///
    /// Errors: `NotConnected` if there is no connection any more.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }

    /// Ends both sides. Whoever shares this stream reads its end and fails to write.
    ///
    /// Errors: `NotConnected` if there is no connection any more.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Both)
    }

    /// The peer as text: `127.0.0.1:1234`, or the path or `@name` of an ipc listener. Empty if it
    /// has no name or the connection is gone.
    pub(crate) fn peer_address(&self) -> String {
        match self {
            Stream::Tcp(stream) => tcp_address_text(stream.peer_addr()),
            Stream::Ipc(stream) => ipc_address_text(stream.peer_addr()),
        }
    }

    /// Our side as text, in the form of [`Stream::peer_address`].
    #[cfg(test)]
    pub(crate) fn local_address(&self) -> String {
        match self {
            Stream::Tcp(stream) => tcp_address_text(stream.local_addr()),
            Stream::Ipc(stream) => ipc_address_text(stream.local_addr()),
        }
    }

    /// Asks for readiness events, edge-triggered, under `token`. Called once, before the stream
    /// is shared.
    pub(crate) fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.raw_fd()), token, interest)
    }

    /// Ends the readiness events; works on a shared stream.
    pub(crate) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.raw_fd()))
    }

    /// The descriptor, for the poller.
    fn raw_fd(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Ipc(stream) => stream.as_raw_fd(),
        }
    }

    /// The same socket with the calls that the standard library lacks.
    fn socket(&self) -> SockRef<'_> {
        match self {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::Ipc(stream) => SockRef::from(stream),
        }
    }
}

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Listens on a TCP port.
    Tcp(TcpListener),
    /// Listens on a path or an abstract name.
    Ipc {
        /// Removes the file of the listener; `None` for an abstract name. Declared before the
        /// socket and so dropped first: while the socket lives, no other binder takes the file
        /// for stale and puts its own in its place.
        _guard: Option<IpcGuard>,
        /// The socket.
        listener: UnixListener,
    },
}

/// What to do about an accept that gave no connection.
#[derive(Debug)]
pub(crate) enum AcceptFailure {
    /// Nobody waits; the next event tells.
    WouldBlock,
    /// This one connection came to nothing; the next may be there already.
    Retry,
    /// The process or the system is out of descriptors or memory. No event will tell when that
    /// ends, and trying at once would spin: try again by a timer.
    Exhausted(io::Error),
    /// The listener itself is broken.
    Broken(io::Error),
}

impl From<io::Error> for AcceptFailure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(sys::EMFILE | sys::ENFILE | sys::ENOBUFS | sys::ENOMEM) => {
                return AcceptFailure::Exhausted(error);
            }
            Some(sys::EPROTO) => return AcceptFailure::Retry,
            _ => {}
        }
        match error.kind() {
            ErrorKind::WouldBlock => AcceptFailure::WouldBlock,
            ErrorKind::OutOfMemory => AcceptFailure::Exhausted(error),
            // Linux hands out the pending network errors of the connection it dequeued, and
            // PermissionDenied for one that the firewall forbids.
            ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::Interrupted
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied => AcceptFailure::Retry,
            _ => AcceptFailure::Broken(error),
        }
    }
}

impl Listener {
    /// Takes the next waiting connection and the peer's address as text. A TCP stream has
    /// TCP_NODELAY and `options` set; every stream is non-blocking.
    ///
    /// Errors: see [`AcceptFailure`].
    pub(crate) fn accept(
        &self,
        options: &TransportOptions,
    ) -> Result<(Stream, String), AcceptFailure> {
        let (socket, _) = match self {
            Listener::Tcp(listener) => SockRef::from(listener).accept()?,
            Listener::Ipc { listener, .. } => SockRef::from(listener).accept()?,
        };
        let stream = match self {
            Listener::Tcp(_) => prepare(&socket)
                .and_then(|()| tcp::apply_options(&socket, options))
                .map(|()| Stream::Tcp(TcpStream::from(socket))),
            Listener::Ipc { .. } => prepare(&socket)
                .and_then(|()| options.apply_buffers(&socket))
                .map(|()| Stream::Ipc(UnixStream::from(socket))),
        };
        // The listener took the same options when it was bound, so that it is not they that are
        // wrong: the peer is gone already, which some systems report from setsockopt.
        let stream = stream.map_err(|_| AcceptFailure::Retry)?;
        let peer = stream.peer_address();
        Ok((stream, peer))
    }

    /// Asks for an event, edge-triggered, under `token` when connections wait.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.raw_fd()), token, Interest::READABLE)
    }

    /// Ends the events.
    #[cfg(test)]
    pub(crate) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.raw_fd()))
    }

    /// The descriptor, for the poller.
    fn raw_fd(&self) -> RawFd {
        match self {
            Listener::Tcp(listener) => listener.as_raw_fd(),
            Listener::Ipc { listener, .. } => listener.as_raw_fd(),
        }
    }
}

/// What every socket of this library gets: non-blocking, and no SIGPIPE on Apple's systems, where
/// it cannot be asked for per write.
pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true)?;
    Ok(())
}

/// Whether the error of a non-blocking connect means that it goes on by itself.
pub(crate) fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(sys::EINPROGRESS) || error.kind() == ErrorKind::Interrupted
}

/// Runs a call again for as long as a signal interrupts it.
fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// An address as text; an IPv4 peer of a dual-stack listener reads as IPv4.
fn tcp_address_text(address: io::Result<SocketAddr>) -> String {
    match address {
        Ok(SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())).to_string(),
            None => v6.to_string(),
        },
        Ok(v4) => v4.to_string(),
        Err(_) => String::new(),
    }
}

/// An ipc address as text: the path, `@name`, or nothing.
fn ipc_address_text(address: io::Result<std::os::unix::net::SocketAddr>) -> String {
    let Ok(address) = address else { return String::new() };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = abstract_name(&address) {
        return format!("@{}", String::from_utf8_lossy(name));
    }
    address.as_pathname().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The name of an abstract address.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn abstract_name(address: &std::os::unix::net::SocketAddr) -> Option<&[u8]> {
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;
    address.as_abstract_name()
}
