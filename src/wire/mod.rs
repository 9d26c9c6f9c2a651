//! ZMTP 3.1 (RFC 37) without I/O: bytes, time and configuration come in as arguments, bytes and
//! facts come out as values.
//!
//! A connection meets the files of this module in this order:
//!
//! 1. [`Handshake`] exchanges greetings (`greeting`) and READY commands (`command`, `metadata`)
//!    and ends with an [`Established`] proof;
//! 2. [`Scanner`] finds complete messages in what arrives afterwards and hands commands out;
//! 3. [`Heartbeat`] says when to send a PING and when the peer counts as dead.
//!
//! On the way out [`put_header`] and the other `put_` functions frame straight into the caller's
//! buffer. Whatever a peer can do wrong is a [`ProtocolError`]; nothing here panics on input, and
//! nothing allocates by what a peer merely claims.

mod coalesce;
mod command;
mod error;
mod frame;
mod greeting;
mod handshake;
mod heartbeat;
mod kind;
mod limits;
mod metadata;
mod scan;

pub use error::ProtocolError;
pub use kind::SocketKind;
pub use metadata::Metadata;

pub(crate) use coalesce::coalesce_subscriptions;
pub(crate) use command::{
    Command, Subscription, SubscriptionChange, put_error, put_ping, put_pong, put_subscription,
};
pub(crate) use frame::{MORE, header_len, parse_header, put_header};
pub(crate) use greeting::Version;
pub(crate) use handshake::{Established, Handshake, HandshakeConfig, Progress, ReadyPeer};
pub(crate) use heartbeat::{Beat, Heartbeat, HeartbeatConfig};
pub(crate) use limits::WireLimits;
pub(crate) use scan::{Allowance, Ended, Scan, ScanFailure, Scanner};
