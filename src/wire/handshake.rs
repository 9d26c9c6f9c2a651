//! The handshake of one connection with the NULL mechanism (RFC 37).
//!
//! ```text
//! AwaitGreeting --greeting--> AwaitReady --READY--> Done(ReadyPeer, Established)
//! ```
//!
//! Each state is a value that its transition consumes, and accepts exactly what is drawn; anything
//! else is a [`ProtocolError`]. Both sides send the greeting at once and READY as soon as the
//! peer's greeting is accepted. Only the end of the handshake makes an [`Established`], and a peer
//! is attached to a socket only in exchange for one.

use std::sync::Arc;

use bytes::Bytes;

use super::command::{self, Command};
use super::error::{ProtocolError, escaped_ascii, printable_text};
use super::frame::{self, Header};
use super::greeting::{self, GREETING_BYTES, GreetingParser, Mechanism, Version};
use super::kind::SocketKind;
use super::limits::WireLimits;
use super::metadata::{self, Metadata};

/// Longest identity (RFC 37).
const IDENTITY_BYTES_MAX: usize = 255;

/// What a socket tells its peers, and what it holds them to.
#[derive(Debug)]
pub(crate) struct HandshakeConfig {
    /// Type of our socket.
    pub(crate) kind: SocketKind,
    /// Our identity; empty for none. Announced by REQ, DEALER and ROUTER only.
    pub(crate) identity: Bytes,
    /// The application's own `X-` properties; names must be property names.
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    /// Limits on what the peer sends.
    pub(crate) limits: WireLimits,
}

impl HandshakeConfig {
    /// Appends our READY command.
    fn put_ready(&self, out: &mut Vec<u8>) {
        let mut properties = Vec::new();
        let kind = self.kind.name().as_bytes();
        metadata::put_property(&mut properties, metadata::SOCKET_TYPE, kind);
        if self.kind.announces_identity() {
            metadata::put_property(&mut properties, metadata::IDENTITY, &self.identity);
        }
        for (name, value) in &self.properties {
            metadata::put_property(&mut properties, name, value);
        }
        command::put_ready(out, &properties);
    }
}

/// A handshake in progress.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Shared by all connections of the socket.
    config: Arc<HandshakeConfig>,
    /// What is awaited.
    state: State,
}

/// What a handshake waits for.
#[derive(Debug)]
enum State {
    /// The peer's greeting.
    Greeting(AwaitGreeting),
    /// The peer's READY.
    Ready(AwaitReady),
}

/// What a handshake came to after some input.
#[derive(Debug)]
pub(crate) enum Progress {
    /// More input is needed; all of it so far was consumed.
    Pending(Handshake),
    /// The peer is ready.
    Done {
        /// Who it is.
        peer: ReadyPeer,
        /// Proof that it got here.
        established: Established,
        /// Bytes of this input that belonged to the handshake; the rest is traffic.
        consumed: usize,
    },
}

/// A peer that completed the handshake.
#[derive(Debug, PartialEq)]
pub(crate) struct ReadyPeer {
    /// The version to speak with it.
    pub(crate) version: Version,
    /// Its socket type; `None` if it named none, which is tolerated.
    pub(crate) kind: Option<SocketKind>,
    /// Its identity; empty if it has none or its type may not have one.
    pub(crate) identity: Bytes,
    /// Everything it said about itself.
    pub(crate) metadata: Metadata,
}

/// Proof that a handshake ended well. Only this file can make one.
#[derive(Debug)]
pub(crate) struct Established(());

impl Established {
    /// The proof for a peer in the same context: there is nothing to shake hands about but the socket types, which the
    /// rendezvous of `inproc://` compared.
    pub(crate) fn in_process() -> Self {
        Self(())
    }
}

impl Handshake {
    /// Begins a handshake: our greeting is appended to `out`.
    pub(crate) fn start(config: Arc<HandshakeConfig>, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&greeting::encode(Mechanism::Null, false));
        let state = State::Greeting(AwaitGreeting { parser: GreetingParser::new() });
        Self { config, state }
    }

    /// Takes bytes from the peer, in any pieces; what is to be sent is appended to `out`.
    ///
    /// # Errors
    /// Any violation ends the connection. Where the peer should be told why, `out` holds an ERROR
    /// command, which is to be sent before closing.
    pub(crate) fn receive(
        self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, ProtocolError> {
        let result = self.advance(input, out);
        if let Some(reason) = result.as_ref().err().and_then(ProtocolError::error_reason) {
            command::put_error(out, &reason);
        }
        result
    }

    /// Runs through as many states as the input completes.
    fn advance(self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ProtocolError> {
        let Self { config, state } = self;
        let (ready, greeting_consumed) = match state {
            State::Greeting(awaiting) => match awaiting.receive(input, &config, out)? {
                (consumed, State::Ready(ready)) => (ready, consumed),
                (_, state) => return Ok(Progress::Pending(Self { config, state })),
            },
            State::Ready(ready) => (ready, 0),
        };
        let rest = input.get(greeting_consumed..).unwrap_or_default();
        match ready.receive(rest, &config)? {
            ReadyStep::Pending(ready) => {
                Ok(Progress::Pending(Self { config, state: State::Ready(ready) }))
            }
            ReadyStep::Done { peer, consumed } => {
                let consumed = greeting_consumed + consumed;
                Ok(Progress::Done { peer, established: Established(()), consumed })
            }
        }
    }
}

/// State: the peer's greeting is not complete.
#[derive(Debug)]
struct AwaitGreeting {
    /// What of it has arrived.
    parser: GreetingParser,
}

impl AwaitGreeting {
    /// Takes greeting bytes; returns how many, and the next state. Accepting the greeting appends
    /// our READY to `out`.
    fn receive(
        mut self,
        input: &[u8],
        config: &HandshakeConfig,
        out: &mut Vec<u8>,
    ) -> Result<(usize, State), ProtocolError> {
        let (consumed, version) = self.parser.receive(input, Mechanism::Null)?;
        let Some(version) = version else { return Ok((consumed, State::Greeting(self))) };
        config.put_ready(out);
        let ready = AwaitReady { version, header: None, bytes: Vec::new() };
        Ok((consumed, State::Ready(ready)))
    }
}

/// State: the greeting is accepted, the peer's READY is not complete.
#[derive(Debug)]
struct AwaitReady {
    /// The version to speak with the peer.
    version: Version,
    /// Header of the frame in progress, once complete and within the limits.
    header: Option<Header>,
    /// Without a header, the part of it that arrived; with one, the part of the body that did.
    bytes: Vec<u8>,
}

/// What became of an [`AwaitReady`].
#[derive(Debug)]
enum ReadyStep {
    /// The command is not complete.
    Pending(AwaitReady),
    /// READY is accepted.
    Done {
        /// Who the peer is.
        peer: ReadyPeer,
        /// Bytes of the input that were used.
        consumed: usize,
    },
}

impl AwaitReady {
    /// Takes bytes of the peer's one command.
    fn receive(
        mut self,
        input: &[u8],
        config: &HandshakeConfig,
    ) -> Result<ReadyStep, ProtocolError> {
        let (header_consumed, header) = self.receive_header(input, &config.limits)?;
        let Some(header) = header else { return Ok(ReadyStep::Pending(self)) };
        let rest = input.get(header_consumed..).unwrap_or_default();
        let missing = header.body_len.saturating_sub(self.bytes.len());
        let Some(end_of_body) = rest.get(..missing) else {
            self.bytes.extend_from_slice(rest);
            return Ok(ReadyStep::Pending(self));
        };
        self.bytes.extend_from_slice(end_of_body);
        let peer = ready_peer(&self.bytes, self.version, config)?;
        Ok(ReadyStep::Done { peer, consumed: header_consumed + missing })
    }

    /// Completes the frame header, of at most nine bytes; returns how many bytes of the input
    /// that took, and the header once it is complete.
    fn receive_header(
        &mut self,
        input: &[u8],
        limits: &WireLimits,
    ) -> Result<(usize, Option<Header>), ProtocolError> {
        let mut bytes = input.iter();
        while self.header.is_none() {
            let Some(&byte) = bytes.next() else { break };
            self.bytes.push(byte);
            if let Some(header) = frame::parse_header(&self.bytes)? {
                check_header(header, limits)?;
                self.header = Some(header);
                self.bytes.clear();
            }
        }
        Ok((input.len() - bytes.len(), self.header))
    }
}

/// Refuses messages, and commands that claim more than the limits, before their body arrives.
fn check_header(header: Header, limits: &WireLimits) -> Result<(), ProtocolError> {
    if !header.is_command() {
        return Err(ProtocolError::TrafficBeforeReady);
    }
    if header.body_len > limits.command_bytes_max {
        return Err(ProtocolError::CommandTooLong {
            length: header.body_len as u64,
            limit: limits.command_bytes_max,
        });
    }
    let before_body = GREETING_BYTES + header.header_len;
    if header.body_len > limits.handshake_bytes_max.saturating_sub(before_body) {
        return Err(ProtocolError::HandshakeTooLong { limit: limits.handshake_bytes_max });
    }
    Ok(())
}

/// Reads the command that must be READY, and judges the peer by it.
fn ready_peer(
    body: &[u8],
    version: Version,
    config: &HandshakeConfig,
) -> Result<ReadyPeer, ProtocolError> {
    let properties = match Command::parse(body)? {
        Command::Ready(properties) => properties,
        Command::Error(reason) => {
            return Err(ProtocolError::PeerError { reason: printable_text(reason) });
        }
        other => {
            return Err(ProtocolError::UnexpectedCommand { name: escaped_ascii(other.name()) });
        }
    };
    let metadata = Metadata::parse(properties, &config.limits)?;
    let kind = peer_kind(&metadata, config.kind)?;
    let identity = peer_identity(&metadata, kind)?;
    Ok(ReadyPeer { version, kind, identity, metadata })
}

/// The peer's socket type, if it named one; it must be known and compatible with ours.
fn peer_kind(metadata: &Metadata, ours: SocketKind) -> Result<Option<SocketKind>, ProtocolError> {
    let Some(name) = metadata.get(metadata::SOCKET_TYPE) else { return Ok(None) };
    let theirs = SocketKind::from_name(name)
        .ok_or_else(|| ProtocolError::UnknownSocketType(escaped_ascii(name)))?;
    if !ours.is_compatible_with(theirs) {
        return Err(ProtocolError::IncompatibleSocketType { ours, theirs });
    }
    Ok(Some(theirs))
}

/// The peer's identity. One from a type that may not have any is ignored; one from a peer of
/// unnamed type counts.
fn peer_identity(metadata: &Metadata, kind: Option<SocketKind>) -> Result<Bytes, ProtocolError> {
    if kind.is_some_and(|kind| !kind.announces_identity()) {
        return Ok(Bytes::new());
    }
    let identity = metadata.get(metadata::IDENTITY).unwrap_or_default();
    if identity.len() > IDENTITY_BYTES_MAX {
        return Err(ProtocolError::IdentityTooLong { length: identity.len() });
    }
    if identity.first() == Some(&0) {
        return Err(ProtocolError::ReservedIdentity);
    }
    Ok(Bytes::copy_from_slice(identity))
}

#[cfg(test)]
mod tests;
