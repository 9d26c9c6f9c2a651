//! TCP: binding listeners and starting connects.
//!
//! Used by `bind` and the dialer. Host names reach [`bind`] unresolved and are looked up there,
//! on the caller's thread; a connect gets addresses that were looked up elsewhere.

use std::io::{self, ErrorKind};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, ToSocketAddrs,
};

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::endpoint::{Endpoint, Host, TcpEndpoint, TcpHostPort};
use super::net::{self, Listener, Stream, TransportOptions};

/// Binds and listens. Returns the listener and the real endpoint: the address instead of a name,
/// the port that the system chose instead of `*`. The host `*` takes IPv6 and IPv4 on one socket
/// where the machine has IPv6 and the options allow it. Of a name's addresses the first that
/// binds is used; an interface goes before a host of the same name.
///
/// Blocks while the system looks up a host name. Errors: `InvalidInput` for an endpoint that only
/// a connect can use, `AddrNotAvailable` if no address is left, else what the system said about
/// the last address tried.
pub(crate) fn bind(
    endpoint: &TcpEndpoint,
    options: &TransportOptions,
) -> io::Result<(Listener, Endpoint)> {
    Endpoint::Tcp(endpoint.clone())
        .check_bind()
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let listener = match endpoint.host {
        Host::Any => listen_any(endpoint.port, options)?,
        _ => listen_first(&bind_addresses(endpoint)?, options)?,
    };
    let real = real_endpoint(listener.local_addr()?, &endpoint.host);
    Ok((Listener::Tcp(listener), Endpoint::Tcp(real)))
}

/// Listens on every address of the machine.
fn listen_any(port: u16, options: &TransportOptions) -> io::Result<TcpListener> {
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    if !options.ipv6 {
        return listen(v4, options);
    }
    match listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), options) {
        Ok(listener) => Ok(listener),
        // A port that is taken or forbidden is no sign of a machine without IPv6, and half a
        // listener would hide it.
        Err(error)
            if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) =>
        {
            Err(error)
        }
        Err(_) => listen(v4, options),
    }
}

/// Listens on the first of `addresses` that allows it.
fn listen_first(addresses: &[SocketAddr], options: &TransportOptions) -> io::Result<TcpListener> {
    let mut failure = no_address("the host has no address");
    for address in usable_addresses(addresses.to_vec(), options)? {
        match listen(address, options) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Listens on one address. The unspecified IPv6 address also takes IPv4.
fn listen(address: SocketAddr, options: &TransportOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    net::prepare(&socket)?;
    socket.set_reuse_address(true)?;
    if let IpAddr::V6(ip) = address.ip() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    // The receive buffer decides the window scale, which is fixed before accept; and a value that
    // the system refuses has to fail here rather than on each connection.
    apply_options(&socket, options)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(options.backlog_or_max())?;
    Ok(TcpListener::from(socket))
}

/// The endpoint of a bound socket. A zone keeps the words in which it was configured.
fn real_endpoint(local: SocketAddr, configured: &Host) -> TcpEndpoint {
    let host = match local {
        SocketAddr::V4(v4) => Host::V4(*v4.ip()),
        SocketAddr::V6(v6) => {
            let zone = match configured {
                Host::V6(_, Some(zone)) => Some(zone.clone()),
                _ => Some(v6.scope_id()).filter(|&index| index != 0).map(|i| i.to_string()),
            };
            Host::V6(*v6.ip(), zone)
        }
    };
    TcpEndpoint { source: None, host, port: local.port() }
}

/// The addresses that a bind of a single host may use, best first.
fn bind_addresses(endpoint: &TcpEndpoint) -> io::Result<Vec<SocketAddr>> {
    if let Some(addresses) = literal_addresses(endpoint) {
        return Ok(addresses);
    }
    let Host::Name(name) = &endpoint.host else { return Ok(Vec::new()) };
    let addresses = interface_addresses(name, endpoint.port);
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    (name.as_str(), endpoint.port).to_socket_addrs().map(Iterator::collect)
}

/// Starts a non-blocking connect from `source`, or from wherever the system chooses. The stream
/// becomes writable when it is decided; [`Stream::finish_connect`] then tells how.
///
/// Errors: `AddrNotAvailable` for an IPv6 address with IPv6 off, else what the system said at
/// once.
pub(crate) fn connect(
    remote: SocketAddr,
    source: Option<SocketAddr>,
    options: &TransportOptions,
) -> io::Result<Stream> {
    if remote.is_ipv6() && !options.ipv6 {
        return Err(no_address("IPv6 is turned off"));
    }
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    net::prepare(&socket)?;
    apply_options(&socket, options)?;
    if let Some(source) = source {
        // A fixed source port must survive a reconnect while the last connection is in TIME_WAIT.
        if source.port() != 0 {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SockAddr::from(source))?;
    }
    match socket.connect(&SockAddr::from(remote)) {
        Err(error) if !net::is_in_progress(&error) => Err(error),
        _ => Ok(Stream::Tcp(TcpStream::from(socket))),
    }
}

/// The local address that a connect to a remote of the given family starts from. `*` gives the
/// unspecified address; a name is that of an interface.
///
/// Errors: `AddrNotAvailable` if the source has no address of that family.
pub(crate) fn source_address(source: &TcpHostPort, remote_is_v6: bool) -> io::Result<SocketAddr> {
    let port = source.port;
    let candidates = match &source.host {
        Host::Any if remote_is_v6 => vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))],
        Host::Any => vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))],
        Host::Name(name) => interface_addresses(name, port),
        host => literal_host_addresses(host, port).unwrap_or_default(),
    };
    candidates.into_iter().find(|address| address.is_ipv6() == remote_is_v6).ok_or_else(|| {
        no_address("the source is no interface or address of the remote's IP version")
    })
}

/// The address of an endpoint that needs no lookup, `None` for one that does. Empty for an IPv6
/// zone that no interface of this machine has, and for the host `*`, which is no remote.
pub(crate) fn literal_addresses(endpoint: &TcpEndpoint) -> Option<Vec<SocketAddr>> {
    literal_host_addresses(&endpoint.host, endpoint.port)
}

/// [`literal_addresses`] of one host and port.
fn literal_host_addresses(host: &Host, port: u16) -> Option<Vec<SocketAddr>> {
    match host {
        Host::Name(_) => None,
        Host::Any => Some(Vec::new()),
        Host::V4(ip) => Some(vec![SocketAddr::from((*ip, port))]),
        Host::V6(ip, None) => Some(vec![SocketAddr::from((*ip, port))]),
        Host::V6(ip, Some(zone)) => {
            let scope = zone.parse::<u32>().ok().or_else(|| interface_index(zone));
            Some(scope.map(|id| SocketAddrV6::new(*ip, port, 0, id).into()).into_iter().collect())
        }
    }
}

/// Leaves the addresses that the options allow, in their order.
///
/// Errors: `AddrNotAvailable` if that leaves none.
pub(crate) fn usable_addresses(
    mut addresses: Vec<SocketAddr>,
    options: &TransportOptions,
) -> io::Result<Vec<SocketAddr>> {
    if addresses.is_empty() {
        return Err(no_address("the host has no address"));
    }
    addresses.retain(|address| options.ipv6 || address.is_ipv4());
    if addresses.is_empty() {
        return Err(no_address("the host has IPv6 addresses only, and IPv6 is turned off"));
    }
    Ok(addresses)
}

/// The addresses of the interface `name`, IPv4 first; empty if there is no such interface or the
/// system does not tell.
fn interface_addresses(name: &str, port: u16) -> Vec<SocketAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<SocketAddr> = interfaces
        .into_iter()
        .filter(|interface| interface.name == name)
        .map(|interface| match interface.ip() {
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
            IpAddr::V6(ip) => {
                let linked = ip.is_unicast_link_local();
                let scope = interface.index.filter(|_| linked).unwrap_or(0);
                SocketAddrV6::new(ip, port, 0, scope).into()
            }
        })
        .collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

/// The number of the interface `name`.
fn interface_index(name: &str) -> Option<u32> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.into_iter().find(|interface| interface.name == name)?.index
}

/// Sets TCP_NODELAY and the configured options on a listener or a stream.
///
/// Errors: an option whose value the system refuses.
pub(crate) fn apply_options(socket: &Socket, options: &TransportOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    options.apply_buffers(socket)?;
    if let Some(keepalive) = &options.keepalive {
        let mut timing = TcpKeepalive::new();
        if let Some(idle) = keepalive.idle {
            timing = timing.with_time(idle);
        }
        #[cfg(not(target_os = "openbsd"))]
        if let Some(interval) = keepalive.interval {
            timing = timing.with_interval(interval);
        }
        #[cfg(not(target_os = "openbsd"))]
        if let Some(probes) = keepalive.probes {
            timing = timing.with_retries(probes);
        }
        // Setting the timing turns keepalive on, so that a refusal has to skip it.
        if keepalive.enabled {
            socket.set_tcp_keepalive(&timing)?;
        } else {
            socket.set_keepalive(false)?;
        }
    }
    if let Some(type_of_service) = options.type_of_service {
        set_type_of_service(socket, u32::from(type_of_service))?;
    }
    Ok(())
}

/// Sets the type of service. On an IPv6 socket also for the IPv4 traffic that it may carry, where
/// the system has that.
fn set_type_of_service(socket: &Socket, value: u32) -> io::Result<()> {
    if !socket.local_addr()?.is_ipv6() {
        return socket.set_tos_v4(value);
    }
    let _ = socket.set_tos_v4(value);
    socket.set_tclass_v6(value)
}

/// An error about an address that this machine cannot use.
fn no_address(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::AddrNotAvailable, reason)
}
