//! Streams and listeners over loopback TCP and ipc. Waits are for readiness, never for time.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::endpoint::{Endpoint, Host, IpcAddress, IpcEndpoint, TcpEndpoint};
use super::net::{AcceptFailure, Keepalive, Listener, Stream, TransportOptions};
use super::{ipc as ipc_transport, sys, tcp};

mod ipc;

/// The default options.
fn options() -> TransportOptions {
    TransportOptions::default()
}

/// Options without IPv6.
fn v4_only() -> TransportOptions {
    TransportOptions { ipv6: false, ..options() }
}

/// The TCP endpoint that `text` names.
fn tcp_endpoint(text: &str) -> TcpEndpoint {
    match text.parse() {
        Ok(Endpoint::Tcp(endpoint)) => endpoint,
        other => panic!("{other:?}"),
    }
}

/// Binds and gives the port.
fn bind_tcp(text: &str, options: &TransportOptions) -> io::Result<(Listener, TcpEndpoint)> {
    match tcp::bind(&tcp_endpoint(text), options)? {
        (listener, Endpoint::Tcp(endpoint)) => Ok((listener, endpoint)),
        other => panic!("{other:?}"),
    }
}

/// Waits until the poller reports something, at most a minute.
fn wait(poll: &mut Poll) {
    let mut events = Events::with_capacity(8);
    loop {
        match poll.poll(&mut events, Some(Duration::from_secs(60))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
            Ok(()) => return assert!(!events.is_empty(), "nothing became ready in time"),
        }
    }
}

/// Runs `attempt` each time the poller reports something until it gives a value.
fn until<T>(poll: &mut Poll, mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        wait(poll);
    }
}

/// A stream with its own poller, as a reactor would hold it.
struct Side {
    stream: Stream,
    poll: Poll,
}

impl Side {
    fn new(mut stream: Stream) -> Self {
        let poll = Poll::new().unwrap();
        let interest = Interest::READABLE | Interest::WRITABLE;
        stream.register(poll.registry(), Token(0), interest).unwrap();
        Side { stream, poll }
    }

    /// Waits for the connect to be decided.
    fn connected(mut self) -> io::Result<Self> {
        let stream = &self.stream;
        until(&mut self.poll, || match stream.finish_connect() {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        })?;
        Ok(self)
    }

    /// Runs a call until it does something other than block.
    fn io(&mut self, mut call: impl FnMut(&Stream) -> io::Result<usize>) -> io::Result<usize> {
        let stream = &self.stream;
        until(&mut self.poll, || match call(stream) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            result => Some(result),
        })
    }
}

/// Waits for a connection.
fn accept(listener: &mut Listener, options: &TransportOptions) -> (Side, String) {
    let mut poll = Poll::new().unwrap();
    listener.register(poll.registry(), Token(0)).unwrap();
    let (stream, peer) = until(&mut poll, || match listener.accept(options) {
        Ok(accepted) => Some(accepted),
        Err(AcceptFailure::WouldBlock | AcceptFailure::Retry) => None,
        Err(failure) => panic!("{failure:?}"),
    });
    listener.deregister(poll.registry()).unwrap();
    (Side::new(stream), peer)
}

/// Starts a connect to loopback.
fn connect_tcp(ip: impl Into<IpAddr>, port: u16) -> io::Result<Side> {
    Side::new(tcp::connect((ip.into(), port).into(), None, &options())?).connected()
}

/// A connected pair: (connector, acceptor).
fn tcp_pair() -> (Side, Side) {
    let (mut listener, endpoint) = bind_tcp("tcp://127.0.0.1:*", &options()).unwrap();
    let client = connect_tcp(Ipv4Addr::LOCALHOST, endpoint.port).unwrap();
    let (server, peer) = accept(&mut listener, &options());
    assert_eq!(peer, client.stream.local_address());
    assert_eq!(server.stream.local_address(), client.stream.peer_address());
    (client, server)
}

/// A connected ipc pair: (connector, acceptor).
fn ipc_pair() -> (Side, Side) {
    let wildcard = IpcEndpoint { address: IpcAddress::Wildcard };
    let (mut listener, endpoint) = ipc_transport::bind(&wildcard, &options()).unwrap();
    let Endpoint::Ipc(endpoint) = endpoint else { panic!("{endpoint:?}") };
    let client =
        Side::new(ipc_transport::connect(&endpoint, &options()).unwrap()).connected().unwrap();
    let (server, peer) = accept(&mut listener, &options());
    assert_eq!(peer, "");
    assert_eq!(format!("ipc://{}", client.stream.peer_address()), endpoint.to_string());
    (client, server)
}

/// An address that nobody listens on. On Linux it has a host of its own, so that hardly any other test takes the port between
/// its choice and its use.
fn free_address() -> SocketAddr {
    let ip = if cfg!(target_os = "linux") { "127.0.7.7" } else { "127.0.0.1" };
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// An address at which nobody can listen while the socket lives: it is bound to it and does not listen.
fn vacant_address() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Whether this machine has the IPv6 loopback address.
fn has_v6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn a_wildcard_bind_returns_the_real_endpoint() {
    let (_first, a) = bind_tcp("tcp://127.0.0.1:*", &options()).unwrap();
    let (_second, b) = bind_tcp("tcp://127.0.0.1:0", &options()).unwrap();
    assert_ne!(a.port, 0);
    assert_ne!(a.port, b.port);
    assert_eq!(a.host, Host::V4(Ipv4Addr::LOCALHOST));
    let (_third, any) = bind_tcp("tcp://*:*", &v4_only()).unwrap();
    assert_eq!(any.host, Host::V4(Ipv4Addr::UNSPECIFIED));
    assert!(Endpoint::Tcp(any).check_connect().is_ok());
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let (_listener, endpoint) = bind_tcp("tcp://127.0.0.1:*", &options()).unwrap();
    let error = bind_tcp(&endpoint.to_string(), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let (_any, endpoint) = bind_tcp("tcp://*:*", &options()).unwrap();
    let again = format!("tcp://*:{}", endpoint.port);
    assert_eq!(bind_tcp(&again, &options()).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_bind_to_any_host_takes_ipv4_and_ipv6() {
    let (mut listener, endpoint) = bind_tcp("tcp://*:*", &options()).unwrap();
    let client = connect_tcp(Ipv4Addr::LOCALHOST, endpoint.port).unwrap();
    let (server, peer) = accept(&mut listener, &options());
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    assert_eq!(server.stream.local_address(), client.stream.peer_address());
    if !has_v6() {
        return;
    }
    assert_eq!(endpoint.host, Host::V6(Ipv6Addr::UNSPECIFIED, None));
    let _client = connect_tcp(Ipv6Addr::LOCALHOST, endpoint.port).unwrap();
    let (_server, peer) = accept(&mut listener, &options());
    assert!(peer.starts_with("[::1]:"), "{peer}");
}

#[test]
fn names_bind_by_interface_first_and_by_host_else() {
    let loopback = if_addrs::get_if_addrs().unwrap().into_iter().find(|i| i.is_loopback());
    for name in loopback.map(|i| i.name).into_iter().chain(["localhost".to_owned()]) {
        let (_listener, endpoint) = bind_tcp(&format!("tcp://{name}:*"), &v4_only()).unwrap();
        assert_eq!(endpoint.host, Host::V4(Ipv4Addr::LOCALHOST), "{name}");
    }
}

#[test]
fn with_ipv6_off_its_addresses_are_not_used() {
    let error = bind_tcp("tcp://[::1]:*", &v4_only()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 9));
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    assert!(tcp::connect(v6, None, &v4_only()).is_err());
    assert_eq!(tcp::usable_addresses(vec![v6, v4], &v4_only()).unwrap(), [v4]);
    assert_eq!(tcp::usable_addresses(vec![v6, v4], &options()).unwrap(), [v6, v4]);
    assert!(tcp::usable_addresses(vec![v6], &v4_only()).is_err());
    assert!(tcp::usable_addresses(Vec::new(), &options()).is_err());
}

#[test]
fn a_bind_with_a_source_is_the_callers_fault() {
    let error = bind_tcp("tcp://127.0.0.1:1;127.0.0.1:2", &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn literal_addresses_need_no_lookup_and_zones_become_numbers() {
    let literal = |text: &str| {
        let addresses = tcp::literal_addresses(&tcp_endpoint(text));
        addresses.map(|all| all.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
    };
    assert_eq!(literal("tcp://1.2.3.4:5").unwrap(), ["1.2.3.4:5"]);
    assert_eq!(literal("tcp://[::1]:5").unwrap(), ["[::1]:5"]);
    assert_eq!(literal("tcp://[fe80::1%7]:5").unwrap(), ["[fe80::1%7]:5"]);
    assert_eq!(literal("tcp://[fe80::1%no-such-nic]:5"), Some(vec![]));
    assert_eq!(literal("tcp://*:5"), Some(vec![]));
    assert_eq!(literal("tcp://localhost:5"), None);
    let interfaces = if_addrs::get_if_addrs().unwrap();
    if let Some(lo) = interfaces.into_iter().find(|i| i.is_loopback() && i.index.is_some()) {
        let expected = format!("[fe80::1%{}]:5", lo.index.unwrap());
        assert_eq!(literal(&format!("tcp://[fe80::1%{}]:5", lo.name)).unwrap(), [expected]);
    }
}

#[test]
fn a_source_address_has_the_ip_version_of_the_remote() {
    let source = |text: &str, v6| {
        let endpoint = tcp_endpoint(&format!("tcp://{text};a:1"));
        tcp::source_address(&endpoint.source.unwrap(), v6).map(|address| address.to_string())
    };
    assert_eq!(source("*:*", false).unwrap(), "0.0.0.0:0");
    assert_eq!(source("*:7", true).unwrap(), "[::]:7");
    assert_eq!(source("127.0.0.1:7", false).unwrap(), "127.0.0.1:7");
    assert_eq!(source("[::1]:*", true).unwrap(), "[::1]:0");
    let error = tcp::source_address(&tcp_endpoint("tcp://127.0.0.1:7;a:1").source.unwrap(), true);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    assert!(source("no-such-nic:*", false).is_err());
    let interfaces = if_addrs::get_if_addrs().unwrap();
    if let Some(lo) = interfaces.iter().find(|i| i.is_loopback() && i.ip().is_ipv4()) {
        assert_eq!(source(&format!("{}:*", lo.name), false).unwrap(), format!("{}:0", lo.ip()));
    }
}

#[test]
fn a_connect_starts_from_its_source() {
    let (mut listener, endpoint) = bind_tcp("tcp://127.0.0.1:*", &options()).unwrap();
    // All of 127.0.0.0/8 is this machine on Linux only.
    let ip = if cfg!(target_os = "linux") { "127.0.0.2" } else { "127.0.0.1" };
    let source = format!("{ip}:0").parse().unwrap();
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, endpoint.port));
    let stream = tcp::connect(remote, Some(source), &options()).unwrap();
    let _client = Side::new(stream).connected().unwrap();
    let (_server, peer) = accept(&mut listener, &options());
    assert!(peer.starts_with(&format!("{ip}:")), "{peer}");
}

#[test]
fn a_connect_to_nobody_fails_when_it_is_decided() {
    let (_vacant, address) = vacant_address();
    let error = Side::new(tcp::connect(address, None, &options()).unwrap()).connected();
    assert_eq!(error.err().unwrap().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_connection_to_itself_counts_as_refused() {
    // Somebody else may have been quicker with a port.
    let attempts = std::iter::repeat_with(free_address);
    let mut streams = attempts.map(|address| tcp::connect(address, Some(address), &options()));
    let stream = streams.find_map(|stream| match stream {
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        other => Some(other.unwrap()),
    });
    let stream = stream.unwrap();
    let error = Side::new(stream).connected().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    if cfg!(target_os = "linux") {
        assert!(error.to_string().contains("itself"), "{error}");
    }
}

#[test]
fn the_configured_options_reach_both_sides() {
    let keepalive = Keepalive {
        enabled: true,
        idle: Some(Duration::from_secs(77)),
        interval: Some(Duration::from_secs(7)),
        probes: Some(3),
    };
    let options = TransportOptions {
        keepalive: Some(keepalive),
        send_buffer_bytes: Some(65_536),
        recv_buffer_bytes: Some(65_536),
        type_of_service: Some(0x10),
        ..options()
    };
    let (mut listener, endpoint) = bind_tcp("tcp://*:*", &options).unwrap();
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, endpoint.port));
    let client = Side::new(tcp::connect(remote, None, &options).unwrap()).connected().unwrap();
    let (server, _) = accept(&mut listener, &options);
    for side in [&client, &server] {
        let Stream::Tcp(stream) = &side.stream else { panic!("{:?}", side.stream) };
        let socket = socket2::SockRef::from(stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert!(socket.send_buffer_size().unwrap() >= 65_536);
        assert!(socket.recv_buffer_size().unwrap() >= 65_536);
        if stream.local_addr().unwrap().is_ipv4() {
            assert_eq!(socket.tos_v4().unwrap(), 0x10);
        }
    }
    let refused = Keepalive { enabled: false, idle: None, interval: None, probes: None };
    let options = TransportOptions { keepalive: Some(refused), ..self::options() };
    let stream = tcp::connect(remote, None, &options).unwrap();
    let Stream::Tcp(stream) = &stream else { panic!("{stream:?}") };
    assert!(!socket2::SockRef::from(stream).keepalive().unwrap());
}

#[test]
fn bytes_arrive_in_order_over_both_transports() {
    for (mut client, mut server) in [tcp_pair(), ipc_pair()] {
        assert_eq!(client.io(|s| s.write(b"one ")).unwrap(), 4);
        let slices = [IoSlice::new(b"two "), IoSlice::new(b""), IoSlice::new(b"three")];
        assert_eq!(client.io(|s| s.write_vectored(&slices)).unwrap(), 9);
        client.stream.shutdown_write().unwrap();
        let mut all = Vec::new();
        let mut part = [0; 5];
        loop {
            match server.io(|s| s.read(&mut part)).unwrap() {
                0 => break,
                count => all.extend_from_slice(&part[..count]),
            }
        }
        assert_eq!(all, b"one two three");
        // Half closed: the other direction still works.
        assert_eq!(server.io(|s| s.write(b"back")).unwrap(), 4);
        assert_eq!(client.io(|s| s.read(&mut part)).unwrap(), 4);
    }
}

#[test]
fn a_write_to_a_closed_peer_is_an_error() {
    for (mut client, server) in [tcp_pair(), ipc_pair()] {
        drop(server);
        // TCP takes writes until the peer's reset has arrived.
        let error = loop {
            match client.io(|s| s.write(b"anyone?")) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(kinds.contains(&error.kind()), "{error}");
        let error = client.io(|s| s.write_vectored(&[IoSlice::new(b"x")])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_shut_down_stream_ends_for_both_and_can_be_deregistered_behind_an_arc() {
    for (client, mut server) in [tcp_pair(), ipc_pair()] {
        let shared = std::sync::Arc::new(client.stream);
        let other = std::sync::Arc::clone(&shared);
        other.deregister(client.poll.registry()).unwrap();
        other.shutdown().unwrap();
        assert_eq!(shared.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(server.io(|s| s.read(&mut [0; 8])).unwrap(), 0);
    }
}

#[test]
fn accept_without_a_connection_would_block() {
    let (listener, _) = bind_tcp("tcp://127.0.0.1:*", &options()).unwrap();
    assert!(matches!(listener.accept(&options()), Err(AcceptFailure::WouldBlock)));
}

#[test]
fn accept_errors_say_whether_to_retry_back_off_or_give_up() {
    let classify = |code| AcceptFailure::from(io::Error::from_raw_os_error(code));
    for code in [sys::EMFILE, sys::ENFILE, sys::ENOBUFS, sys::ENOMEM] {
        assert!(matches!(classify(code), AcceptFailure::Exhausted(_)), "{code}");
    }
    assert!(matches!(classify(sys::EPROTO), AcceptFailure::Retry));
    for kind in [ErrorKind::ConnectionAborted, ErrorKind::Interrupted] {
        assert!(matches!(AcceptFailure::from(io::Error::from(kind)), AcceptFailure::Retry));
    }
    let failure = AcceptFailure::from(io::Error::from(ErrorKind::WouldBlock));
    assert!(matches!(failure, AcceptFailure::WouldBlock));
    let failure = AcceptFailure::from(io::Error::from(ErrorKind::InvalidInput));
    assert!(matches!(failure, AcceptFailure::Broken(_)));
}

#[cfg(target_os = "linux")]
#[test]
fn the_error_numbers_are_those_of_this_system() {
    // The texts come from the C library, which knows the numbers of the machine it runs on.
    let rows = [
        (sys::EMFILE, "Too many open files"),
        (sys::ENFILE, "Too many open files in system"),
        (sys::ENOBUFS, "No buffer space available"),
        (sys::ENOMEM, "Cannot allocate memory"),
        (sys::EPROTO, "Protocol error"),
        (sys::EINPROGRESS, "Operation now in progress"),
    ];
    for (code, text) in rows {
        let message = io::Error::from_raw_os_error(code).to_string();
        if cfg!(target_env = "gnu") {
            assert!(message.starts_with(text), "{message}");
        }
    }
}
