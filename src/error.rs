//! Errors, one enum per family of calls, each variant saying who or what is at fault.
//!
//! A call that was given a message hands it back inside its error.

use std::io;

use crate::message::Message;
use crate::transport::{Endpoint, EndpointError};
use crate::wire::SocketKind;

/// Why a socket could not be made, bound, connected or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// An option has a value outside its range. Configuration is at fault.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The endpoint's text is wrong, or it cannot be used in this role. Configuration is at fault.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The operating system, or another socket of this context, refused the address.
    #[error("cannot bind {endpoint}: {source}")]
    Bind {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// What was wrong; `AddrInUse` when something listens there already.
        source: io::Error,
    },
    /// The socket at the other end of an `inproc://` endpoint is of a type that this one cannot talk to.
    #[error("{endpoint}: a {theirs} socket is there, which a {ours} socket cannot talk to")]
    IncompatibleSocketType {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// This socket's type.
        ours: SocketKind,
        /// The type of the socket found there.
        theirs: SocketKind,
    },
    /// The socket is not bound or connected to this endpoint.
    #[error("{endpoint}: this socket is not {role} there")]
    UnknownEndpoint {
        /// The endpoint given.
        endpoint: Endpoint,
        /// `"bound"` or `"connected"`.
        role: &'static str,
    },
    /// The socket was closed, or its context was.
    #[error("the socket or its context is closed")]
    Closed,
    /// The operating system gave no thread or no poll handle.
    #[error("the operating system refused: {0}")]
    Os(#[from] io::Error),
}

/// An option with a value outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option {option} = {value}: {reason}")]
#[non_exhaustive]
pub struct OptionError {
    /// The builder method's name.
    pub option: &'static str,
    /// The value given, as text.
    pub value: String,
    /// What would be accepted.
    pub reason: &'static str,
}

/// Why a message was not accepted. It is handed back in every case.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No peer has room just now (or there is none), and the call was not allowed to wait.
    #[error("no peer has room for the message now")]
    Full(Message),
    /// No peer had room within the time allowed.
    #[error("no peer had room for the message in time")]
    Timeout(Message),
    /// No connected peer has this routing id (RFC 28; only with `mandatory`).
    #[error("no peer with the routing id {routing_id} is connected")]
    Unroutable {
        /// The routing id asked for, printable.
        routing_id: String,
        /// The message.
        message: Message,
    },
    /// The message breaks a rule of this socket, for example one frame too few for a ROUTER.
    #[error("the message cannot be sent: {reason}")]
    Invalid {
        /// The rule.
        reason: &'static str,
        /// The message.
        message: Message,
    },
    /// The socket was closed, or its context was.
    #[error("the socket or its context is closed")]
    Closed(Message),
}

impl SendError {
    /// The message that was not sent.
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message)
            | Self::Timeout(message)
            | Self::Closed(message)
            | Self::Unroutable { message, .. }
            | Self::Invalid { message, .. } => message,
        }
    }
}

impl std::fmt::Debug for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Full(_) => "Full",
            Self::Timeout(_) => "Timeout",
            Self::Closed(_) => "Closed",
            Self::Unroutable { routing_id, .. } => {
                return write!(f, "Unroutable({routing_id})");
            }
            Self::Invalid { reason, .. } => return write!(f, "Invalid({reason})"),
        };
        f.write_str(name)
    }
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[repr(u64)]
pub enum RecvError {
    /// Nothing has arrived, and the call was not allowed to wait.
    #[error("no message has arrived yet")]
    Empty,
    /// Nothing arrived within the time allowed.
    #[error("no message arrived in time")]
    Timeout,
    /// The socket was closed, or its context was.
    #[error("the socket or its context is closed")]
    Closed,
}

/// `close` could not hand every accepted message to the operating system in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{unsent} accepted messages were not sent before the deadline")]
#[non_exhaustive]
pub struct CloseError {
    /// How many messages were dropped; they are in the statistics too, under `linger` and `disconnect`.
    pub unsent: u64,
}

/// Waiting for peers or subscribers ended without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// Fewer than asked for were there in time.
    #[error("only {present} of {wanted} were there in time")]
    Timeout {
        /// How many there were.
        present: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// The socket was closed, or its context was.
    #[error("the socket or its context is closed")]
    Closed,
}
