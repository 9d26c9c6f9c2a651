//! The endpoint grammar: text such as `tcp://127.0.0.1:5555` to a typed address and back.
//!
//! Every `bind` and `connect` passes here before any operating-system call. Parsing accepts what
//! either role may write; [`Endpoint::check_bind`] and [`Endpoint::check_connect`] then refuse
//! what makes no sense for one of them. No name is looked up here.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

#[cfg(test)]
mod tests;

/// Longest ipc address in bytes: `sun_path` less its closing NUL.
#[cfg(any(target_os = "linux", target_os = "android"))]
const IPC_PATH_BYTES_MAX: usize = 107;
/// Longest ipc address in bytes: `sun_path` less its closing NUL.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const IPC_PATH_BYTES_MAX: usize = 103;
/// Longest inproc name in bytes.
const INPROC_NAME_BYTES_MAX: usize = 256;
/// Longest host name in characters, the limit of the DNS.
const HOST_NAME_BYTES_MAX: usize = 253;
/// Longest zone of an IPv6 address in characters; interface names are far shorter.
const ZONE_BYTES_MAX: usize = 63;

/// Where a socket binds or connects, as parsed from `transport://address`.
///
/// `Display` writes the text form, and parsing that text gives an equal endpoint.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Endpoint {
    /// `tcp://host:port`, or `tcp://source:port;host:port` to choose the local side of a connect.
    Tcp(TcpEndpoint),
    /// `ipc://path`, `ipc://*` or, on Linux, `ipc://@name`.
    Ipc(IpcEndpoint),
    /// `inproc://name`: within one context, without a socket of the operating system.
    Inproc(String),
}

/// The address of a TCP endpoint.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TcpEndpoint {
    /// The local address that a connect starts from; never used by a bind.
    pub(crate) source: Option<TcpHostPort>,
    /// The host to bind or to reach.
    pub(crate) host: Host,
    /// The port; 0 stands for any free one (`*`).
    pub(crate) port: u16,
}

/// One `host:port` pair.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TcpHostPort {
    /// The host.
    pub(crate) host: Host,
    /// The port; 0 stands for any free one (`*`).
    pub(crate) port: u16,
}

/// The host part of a TCP address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Host {
    /// `*`: every address of this machine.
    Any,
    /// A DNS name or the name of a network interface.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address and its zone: an interface's name or number.
    V6(Ipv6Addr, Option<String>),
}

/// The address of an ipc endpoint.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IpcEndpoint {
    /// Which kind of name it is.
    pub(crate) address: IpcAddress,
}

/// The kinds of ipc names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum IpcAddress {
    /// A path in the file system, absolute or relative.
    Path(String),
    /// A name in Linux's abstract namespace, without the leading `@`.
    Abstract(String),
    /// `*`: a fresh private path.
    Wildcard,
}

/// Why a text is no endpoint, or an endpoint does not suit its role. Always the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No endpoint was given: the socket it was taken from is neither bound nor connected.
    #[error("no endpoint: the socket is neither bound nor connected")]
    Missing,
    /// There is no `://`.
    #[error("endpoint `{endpoint}` has no transport: write it as transport://address")]
    MissingScheme {
        /// The text as given.
        endpoint: String,
    },
    /// The word before `://` is no transport of this library.
    #[error("endpoint `{endpoint}`: unknown transport `{transport}`, use tcp, ipc or inproc")]
    UnknownTransport {
        /// The text as given.
        endpoint: String,
        /// The word before `://`.
        transport: String,
    },
    /// Nothing follows `://`, or nothing follows the `@` of an abstract name.
    #[error("endpoint `{endpoint}` has an empty address")]
    EmptyAddress {
        /// The text as given.
        endpoint: String,
    },
    /// The port is missing, no decimal number, or above 65535.
    #[error("endpoint `{endpoint}` has a bad port: give 0 to 65535, or * for any")]
    BadPort {
        /// The text as given.
        endpoint: String,
    },
    /// The host is no name, no IPv4 address and no IPv6 address in brackets.
    #[error("endpoint `{endpoint}` has a bad host: {reason}")]
    BadHost {
        /// The text as given.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The ipc path holds a byte that no path can hold.
    #[error("endpoint `{endpoint}` has a bad path: {reason}")]
    BadPath {
        /// The text as given.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The ipc path or abstract name does not fit into a socket address.
    #[error("endpoint `{endpoint}`: a path of {length} bytes, the system allows {limit}")]
    PathTooLong {
        /// The text as given.
        endpoint: String,
        /// Its length in bytes.
        length: usize,
        /// The longest that would do, in bytes.
        limit: usize,
    },
    /// The host or inproc name is longer than allowed.
    #[error("endpoint `{endpoint}`: a name of {length} bytes, at most {limit} are allowed")]
    NameTooLong {
        /// The text as given.
        endpoint: String,
        /// Its length in bytes.
        length: usize,
        /// The longest that would do, in bytes.
        limit: usize,
    },
    /// The endpoint is well formed, but nobody can bind to it.
    #[error("cannot bind to `{endpoint}`: {reason}")]
    NotBindable {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The endpoint is well formed, but nobody can connect to it.
    #[error("cannot connect to `{endpoint}`: {reason}")]
    NotConnectable {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Endpoint {
    /// Refuses what only a connect may name: a source address.
    ///
    /// Errors: [`EndpointError::NotBindable`], or the inproc name's own error if the variant was
    /// built by hand.
    pub fn check_bind(&self) -> Result<(), EndpointError> {
        let reason = match self {
            Endpoint::Tcp(tcp) if tcp.source.is_some() => "a source address is for connect only",
            Endpoint::Inproc(name) => return check_inproc(&self.to_string(), name),
            Endpoint::Tcp(_) | Endpoint::Ipc(_) => return Ok(()),
        };
        Err(EndpointError::NotBindable { endpoint: self.to_string(), reason })
    }

    /// Refuses what only a bind may name: the host `*`, the port 0 or `*`, and `ipc://*`.
    ///
    /// Errors: [`EndpointError::NotConnectable`], or the inproc name's own error if the variant
    /// was built by hand.
    pub fn check_connect(&self) -> Result<(), EndpointError> {
        let reason = match self {
            Endpoint::Tcp(tcp) if tcp.host == Host::Any => "the host * is for bind only",
            Endpoint::Tcp(tcp) if tcp.port == 0 => "port 0 or * is for bind only",
            Endpoint::Ipc(ipc) if ipc.address == IpcAddress::Wildcard => "ipc://* is for bind only",
            Endpoint::Inproc(name) => return check_inproc(&self.to_string(), name),
            Endpoint::Tcp(_) | Endpoint::Ipc(_) => return Ok(()),
        };
        Err(EndpointError::NotConnectable { endpoint: self.to_string(), reason })
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let Some((transport, address)) = text.split_once("://") else {
            return Err(EndpointError::MissingScheme { endpoint: text.to_owned() });
        };
        if !matches!(transport, "tcp" | "ipc" | "inproc") {
            let (endpoint, transport) = (text.to_owned(), transport.to_owned());
            return Err(EndpointError::UnknownTransport { endpoint, transport });
        }
        if address.is_empty() {
            return Err(EndpointError::EmptyAddress { endpoint: text.to_owned() });
        }
        match transport {
            "tcp" => parse_tcp(text, address).map(Endpoint::Tcp),
            "ipc" => parse_ipc(text, address).map(Endpoint::Ipc),
            _ => check_inproc(text, address).map(|()| Endpoint::Inproc(address.to_owned())),
        }
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, EndpointError> {
        text.parse()
    }
}

/// Parses `[source;]host:port`; `endpoint` is the whole text, for the error.
fn parse_tcp(endpoint: &str, address: &str) -> Result<TcpEndpoint, EndpointError> {
    let (source, target) = match address.split_once(';') {
        Some((source, target)) => (Some(parse_host_port(endpoint, source)?), target),
        None => (None, address),
    };
    let TcpHostPort { host, port } = parse_host_port(endpoint, target)?;
    Ok(TcpEndpoint { source, host, port })
}

/// Parses `host:port`; the last colon outside brackets divides.
fn parse_host_port(endpoint: &str, text: &str) -> Result<TcpHostPort, EndpointError> {
    let bad_port = || EndpointError::BadPort { endpoint: endpoint.to_owned() };
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, after) = bracketed
            .split_once(']')
            .ok_or_else(|| bad_host(endpoint, "the bracket is not closed"))?;
        let host = parse_v6(endpoint, inside)?;
        let port = after.strip_prefix(':').and_then(parse_port).ok_or_else(bad_port)?;
        return Ok(TcpHostPort { host, port });
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad_port)?;
    let host = parse_host(endpoint, host)?;
    Ok(TcpHostPort { host, port: parse_port(port).ok_or_else(bad_port)? })
}

/// `*` or decimal digits up to 65535; `*` is 0. A sign, which `u16::from_str` takes, is refused.
fn parse_port(text: &str) -> Option<u16> {
    if text == "*" {
        return Some(0);
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Parses the inside of the brackets: an IPv6 address and perhaps `%zone`.
fn parse_v6(endpoint: &str, inside: &str) -> Result<Host, EndpointError> {
    let (address, zone) = match inside.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (inside, None),
    };
    let address: Ipv6Addr =
        address.parse().map_err(|_| bad_host(endpoint, "not an IPv6 address in the brackets"))?;
    if let Some(zone) = zone
        && (zone.is_empty() || zone.len() > ZONE_BYTES_MAX || !zone.bytes().all(is_name_byte))
    {
        return Err(bad_host(endpoint, "not an interface after the %"));
    }
    Ok(Host::V6(address, zone.map(str::to_owned)))
}

/// Parses a host outside brackets: `*`, an IPv4 address, or a name.
fn parse_host(endpoint: &str, text: &str) -> Result<Host, EndpointError> {
    if text == "*" {
        return Ok(Host::Any);
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::V4(address));
    }
    if text.len() > HOST_NAME_BYTES_MAX {
        return Err(EndpointError::NameTooLong {
            endpoint: endpoint.to_owned(),
            length: text.len(),
            limit: HOST_NAME_BYTES_MAX,
        });
    }
    match name_fault(text) {
        Some(reason) => Err(bad_host(endpoint, reason)),
        None => Ok(Host::Name(text.to_owned())),
    }
}

/// What keeps `text` from being the name of a host or an interface; `None` if it may be one.
fn name_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.contains(':') {
        return Some("an IPv6 address goes in brackets");
    }
    if !text.bytes().all(is_name_byte) {
        return Some("only ASCII letters, digits, hyphen, underscore and dot are allowed");
    }
    if text.starts_with(['-', '.']) || text.contains("..") {
        return Some("a label is empty or the name starts with a hyphen");
    }
    // The resolver of the system would read 127.1 as 127.0.0.1 and 1.2.3.400 as a DNS name.
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Some("it looks like an IPv4 address but is none");
    }
    None
}

/// Whether a host name, interface name or zone may hold this byte.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Builds [`EndpointError::BadHost`].
fn bad_host(endpoint: &str, reason: &'static str) -> EndpointError {
    EndpointError::BadHost { endpoint: endpoint.to_owned(), reason }
}

/// Parses the address of an ipc endpoint, which is not empty.
fn parse_ipc(endpoint: &str, address: &str) -> Result<IpcEndpoint, EndpointError> {
    let owned = || endpoint.to_owned();
    if address.contains('\0') {
        return Err(EndpointError::BadPath { endpoint: owned(), reason: "it contains a NUL" });
    }
    let (length, limit) = (address.len(), IPC_PATH_BYTES_MAX);
    if length > limit {
        return Err(EndpointError::PathTooLong { endpoint: owned(), length, limit });
    }
    let address = match address.strip_prefix('@') {
        Some("") => return Err(EndpointError::EmptyAddress { endpoint: owned() }),
        Some(name) => IpcAddress::Abstract(name.to_owned()),
        None if address == "*" => IpcAddress::Wildcard,
        None => IpcAddress::Path(address.to_owned()),
    };
    Ok(IpcEndpoint { address })
}

/// Checks the length of an inproc name: 1 to 256 bytes.
fn check_inproc(endpoint: &str, name: &str) -> Result<(), EndpointError> {
    let (length, limit) = (name.len(), INPROC_NAME_BYTES_MAX);
    match length {
        0 => Err(EndpointError::EmptyAddress { endpoint: endpoint.to_owned() }),
        _ if length > limit => {
            Err(EndpointError::NameTooLong { endpoint: endpoint.to_owned(), length, limit })
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(tcp) => write!(f, "{tcp}"),
            Endpoint::Ipc(ipc) => write!(f, "{ipc}"),
            Endpoint::Inproc(name) => write!(f, "inproc://{name}"),
        }
    }
}

impl fmt::Display for TcpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tcp://")?;
        if let Some(source) = &self.source {
            write!(f, "{source};")?;
        }
        write_host_port(f, &self.host, self.port)
    }
}

impl fmt::Display for TcpHostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host_port(f, &self.host, self.port)
    }
}

/// Writes `host:port`, with `*` for port 0.
fn write_host_port(f: &mut fmt::Formatter<'_>, host: &Host, port: u16) -> fmt::Result {
    match host {
        Host::Any => f.write_str("*")?,
        Host::Name(name) => f.write_str(name)?,
        Host::V4(address) => write!(f, "{address}")?,
        Host::V6(address, None) => write!(f, "[{address}]")?,
        Host::V6(address, Some(zone)) => write!(f, "[{address}%{zone}]")?,
    }
    if port == 0 { f.write_str(":*") } else { write!(f, ":{port}") }
}

impl fmt::Display for IpcEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            IpcAddress::Path(path) => write!(f, "ipc://{path}"),
            IpcAddress::Abstract(name) => write!(f, "ipc://@{name}"),
            IpcAddress::Wildcard => f.write_str("ipc://*"),
        }
    }
}

/// Keeps [`ToEndpoint`] closed, so that it can grow without breaking anyone.
mod sealed {
    /// Implemented here and nowhere else.
    pub trait Sealed {}
    impl Sealed for str {}
    impl Sealed for String {}
    impl Sealed for super::Endpoint {}
    impl Sealed for Option<super::Endpoint> {}
    impl<T: Sealed + ?Sized> Sealed for &T {}
}

/// What `bind` and `connect` take: text in any of its usual forms, or an [`Endpoint`].
pub trait ToEndpoint: sealed::Sealed {
    /// The endpoint, parsed if it is text.
    ///
    /// Errors: whatever keeps the text from being an endpoint; none for an [`Endpoint`].
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError>;
}

impl ToEndpoint for str {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        self.parse()
    }
}

impl ToEndpoint for String {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        self.parse()
    }
}

impl ToEndpoint for Endpoint {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        Ok(self.clone())
    }
}

/// So that `connect(other.endpoint())` reads as it should: a socket that is bound nowhere has no endpoint.
impl ToEndpoint for Option<Endpoint> {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        self.clone().ok_or(EndpointError::Missing)
    }
}

impl<T: ToEndpoint + ?Sized> ToEndpoint for &T {
    fn to_endpoint(&self) -> Result<Endpoint, EndpointError> {
        (**self).to_endpoint()
    }
}
