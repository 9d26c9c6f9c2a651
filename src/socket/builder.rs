//! The builder: every option as a typed method, checked when the socket is made.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::Socket;
use super::core::Core;
use super::shared::{Shared, SocketControl};
use crate::error::SetupError;
use crate::options::Options;
use crate::pattern::{Dealer, Pattern, Pub, Pull, Push, Router, Sub};
use crate::transport::{Keepalive, ToEndpoint};

/// Makes a socket: set options, then [`open`](Self::open), [`bind`](Self::bind) or [`connect`](Self::connect) it.
///
/// Values are checked when the socket is made; an error names the method. Options apply to all of the socket's peers.
#[must_use = "a builder makes no socket until `open`, `bind` or `connect`"]
pub struct Builder<P> {
    context: Arc<Shared>,
    options: Options,
    pattern: PhantomData<fn() -> P>,
}

impl<P> fmt::Debug for Builder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}

/// TCP keepalive probes by the operating system. Parts that are not set keep the system's values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    idle: Option<Duration>,
    interval: Option<Duration>,
    probes: Option<u32>,
}

impl TcpKeepalive {
    /// Keepalive with the system's values.
    pub const fn new() -> Self {
        Self { idle: None, interval: None, probes: None }
    }

    /// Silence before the first probe; whole seconds.
    #[must_use]
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Time between probes; whole seconds.
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Unanswered probes after which the connection is dead.
    #[must_use]
    pub const fn probes(mut self, probes: u32) -> Self {
        self.probes = Some(probes);
        self
    }
}

impl<P: Pattern> Builder<P> {
    pub(crate) fn new(context: Arc<Shared>) -> Self {
        Self { context, options: Options::default(), pattern: PhantomData }
    }

    /// Makes the socket without binding or connecting it.
    ///
    /// # Errors
    /// [`SetupError::Option`], [`SetupError::Closed`], or [`SetupError::Os`] when no I/O thread can be started.
    pub fn open(self) -> Result<Socket<P>, SetupError> {
        self.options.check()?;
        self.context.pool()?;
        let id = self.context.next_socket_id();
        let core = Core::<P>::new(Arc::clone(&self.context), id, self.options);
        let this: Arc<dyn SocketControl> = core.clone();
        self.context.add_socket(id, Arc::downgrade(&this))?;
        Ok(Socket::new(core))
    }

    /// Makes the socket and binds it; see [`Socket::bind`].
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`Socket::bind`].
    pub fn bind(self, endpoint: impl ToEndpoint) -> Result<Socket<P>, SetupError> {
        let socket = self.open()?;
        socket.bind(endpoint)?;
        Ok(socket)
    }

    /// Makes the socket and connects it; see [`Socket::connect`].
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`Socket::connect`].
    pub fn connect(self, endpoint: impl ToEndpoint) -> Result<Socket<P>, SetupError> {
        let socket = self.open()?;
        socket.connect(endpoint)?;
        Ok(socket)
    }

    fn with(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }

    /// High-water mark for sending: messages queued per peer before it counts as full. Default 1,000; `usize::MAX` for
    /// none.
    pub fn send_hwm(self, messages: usize) -> Self {
        self.with(|options| options.send_marks.messages = messages)
    }

    /// High-water mark for sending, in bytes on the wire. Default 16 MiB. An empty queue takes one message of any
    /// allowed size.
    pub fn send_hwm_bytes(self, bytes: usize) -> Self {
        self.with(|options| options.send_marks.bytes = bytes)
    }

    /// High-water mark for receiving: unread messages per peer before it is no longer read, so that the peer's own
    /// queue fills. Default 1,000; `usize::MAX` for none.
    pub fn recv_hwm(self, messages: usize) -> Self {
        self.with(|options| options.recv_marks.messages = messages)
    }

    /// High-water mark for receiving, in bytes on the wire. Default 16 MiB.
    pub fn recv_hwm_bytes(self, bytes: usize) -> Self {
        self.with(|options| options.recv_marks.bytes = bytes)
    }

    /// How long a closed socket goes on sending what it had accepted, counted from the last progress. Default 30 s; zero
    /// drops it at once, `Duration::MAX` waits for ever. What is dropped is counted under `linger`.
    pub fn linger(self, linger: Duration) -> Self {
        self.with(|options| options.linger = linger)
    }

    /// The longest that `send` waits. Default: no limit.
    pub fn send_timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.send_timeout = Some(timeout))
    }

    /// The longest that `recv` waits. Default: no limit.
    pub fn recv_timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.recv_timeout = Some(timeout))
    }

    /// Whether a connect gets its queue only once the peer is there: messages then go to live peers only, and are lost
    /// with the connection. Default false: the queue is there at once and outlives the connection.
    pub fn immediate(self, immediate: bool) -> Self {
        self.with(|options| options.immediate = immediate)
    }

    /// Pause before the first attempt to connect again; doubled with each further failure. Default 100 ms. The real
    /// pause is drawn between half of it and all of it, and is at least a millisecond.
    pub fn reconnect_interval(self, interval: Duration) -> Self {
        self.with(|options| {
            options.reconnect_interval = interval;
            options.reconnect_interval_max = options.reconnect_interval_max.max(interval);
        })
    }

    /// Longest pause between attempts to connect. Default 5 s.
    pub fn reconnect_interval_max(self, interval: Duration) -> Self {
        self.with(|options| options.reconnect_interval_max = interval)
    }

    /// Whether a lost or failed connection is made again. Default true.
    pub fn reconnect(self, reconnect: bool) -> Self {
        self.with(|options| options.reconnect = reconnect)
    }

    /// Deadline of a whole handshake, on both sides. Default 10 s; `Duration::MAX` for none.
    pub fn handshake_timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.handshake_timeout = timeout)
    }

    /// Deadline of one attempt to connect, before the handshake. Default 30 s; `Duration::MAX` leaves it to the
    /// operating system.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.connect_timeout = timeout)
    }

    /// Sends a PING this often (RFC 37). Default: none are sent.
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        self.with(|options| options.heartbeat_interval = Some(interval))
    }

    /// A peer that is silent for this long after a PING is dead. Default: as long as the interval.
    pub fn heartbeat_timeout(self, timeout: Duration) -> Self {
        self.with(|options| options.heartbeat_timeout = Some(timeout))
    }

    /// After how much silence of ours the peer should take us for dead. Default none; at most 6553.5 s; counted in
    /// tenths of a second.
    pub fn heartbeat_ttl(self, ttl: Duration) -> Self {
        self.with(|options| options.heartbeat_ttl = ttl)
    }

    /// Largest message accepted from a peer over tcp or ipc: the sum of its frames' bodies in bytes. Default 1 GiB. A peer that sends a
    /// larger one is disconnected.
    pub fn max_message_bytes(self, bytes: usize) -> Self {
        self.with(|options| options.limits.message_bytes_max = bytes)
    }

    /// Most frames of one message accepted from a peer. Default 65,536.
    pub fn max_frames(self, frames: usize) -> Self {
        self.with(|options| options.limits.frames_per_message_max = frames)
    }

    /// Most peers at a time; further ones are refused. A peer that went away counts until what it sent is read.
    /// Default 65,536.
    pub fn max_peers(self, peers: usize) -> Self {
        self.with(|options| options.peers_max = peers)
    }

    /// Most connections of one listener that have not finished their handshake. Default 1,024; further ones wait in
    /// the listener's backlog.
    pub fn max_half_open(self, connections: usize) -> Self {
        self.with(|options| options.half_open_max = connections)
    }

    /// TCP keepalive. Default: the system's setting.
    pub fn tcp_keepalive(self, keepalive: TcpKeepalive) -> Self {
        let TcpKeepalive { idle, interval, probes } = keepalive;
        self.with(|options| {
            options.transport.keepalive = Some(Keepalive { enabled: true, idle, interval, probes });
        })
    }

    /// Size of the kernel's send buffer, in bytes. Default: the system's.
    pub fn kernel_send_buffer(self, bytes: usize) -> Self {
        self.with(|options| options.transport.send_buffer_bytes = Some(bytes))
    }

    /// Size of the kernel's receive buffer, in bytes. Default: the system's.
    pub fn kernel_recv_buffer(self, bytes: usize) -> Self {
        self.with(|options| options.transport.recv_buffer_bytes = Some(bytes))
    }

    /// Connections that the kernel holds for a listener until they are accepted. Default 1,024.
    pub fn backlog(self, connections: u32) -> Self {
        self.with(|options| options.transport.backlog = connections)
    }

    /// Type-of-service byte of outgoing packets (DSCP and ECN). Default: the system's.
    pub fn type_of_service(self, tos: u8) -> Self {
        self.with(|options| options.transport.type_of_service = Some(tos))
    }

    /// Whether IPv6 addresses are used, and `*` listens on both families. Default true.
    pub fn ipv6(self, ipv6: bool) -> Self {
        self.with(|options| options.transport.ipv6 = ipv6)
    }
}

macro_rules! conflate {
    ($($pattern:ty),*) => {$(
        impl Builder<$pattern> {
            /// Keeps only the newest message of each queue; the marks do not apply then. Messages that a newer one
            /// replaced are counted under `conflate`. Default false. Messages of several frames stay whole.
            pub fn conflate(self, conflate: bool) -> Self {
                self.with(|options| options.conflate = conflate)
            }
        }
    )*};
}
conflate!(Push, Pull, Dealer, Pub, Sub);

macro_rules! routing_id {
    ($($pattern:ty),*) => {$(
        impl Builder<$pattern> {
            /// The id announced to ROUTER peers: 1 to 255 bytes, not beginning with a zero byte. Default: none, and the
            /// ROUTER makes one up.
            pub fn routing_id(self, id: impl Into<Vec<u8>>) -> Self {
                let id = id.into();
                self.with(|options| options.routing_id = id)
            }
        }
    )*};
}
routing_id!(Dealer, Router);

impl Builder<Router> {
    /// Whether a message to an unknown peer fails instead of being dropped, and one to a full peer waits. Default false.
    pub fn mandatory(self, mandatory: bool) -> Self {
        self.with(|options| options.mandatory = mandatory)
    }

    /// Whether a peer with a routing id that is in use takes the place of the former one, whose connection is closed.
    /// Default false: the newcomer is refused, and a monitor event says so.
    pub fn handover(self, handover: bool) -> Self {
        self.with(|options| options.handover = handover)
    }
}

impl Builder<Pub> {
    /// Whether `send` waits for a full subscriber instead of dropping its copy. Default false.
    pub fn no_drop(self, no_drop: bool) -> Self {
        self.with(|options| options.no_drop = no_drop)
    }
}

impl Builder<Sub> {
    /// Subscribes from the start; may be repeated. The empty topic is everything.
    pub fn topic(self, topic: impl AsRef<[u8]>) -> Self {
        self.with(|options| options.subscriptions.push(topic.as_ref().to_vec()))
    }
}
