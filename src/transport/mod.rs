//! Where bytes enter and leave the process: the endpoint grammar and the non-blocking streams
//! under it.
//!
//! The lowest layer on the path of a message. The reactor above sees only [`Stream`] and
//! [`Listener`] and never learns which operating-system socket is behind them.

pub(crate) mod endpoint;
pub(crate) mod inproc;
pub(crate) mod ipc;
#[cfg(loom)]
pub(crate) mod model;
pub(crate) mod net;
mod sys;
pub(crate) mod tcp;

#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, EndpointError, IpcEndpoint, TcpEndpoint, ToEndpoint};
pub(crate) use net::{
    AcceptFailure, Keepalive, Listener, Stream, TransportOptions, now, readiness,
};
