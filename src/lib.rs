//! Brokerless messaging: ZeroMQ's sockets over ZMTP 3.1, in Rust, without a server, a C library or an async runtime.

mod completion;
mod context;
mod error;
mod message;
mod monitor;
mod options;
mod pattern;
mod pipe;
mod reactor;
mod socket;
mod transport;
mod wire;

pub use context::Context;
pub use error::{CloseError, OptionError, RecvError, SendError, SetupError, WaitError};
pub use message::{Frame, Message};
pub use monitor::{DisconnectReason, Event, Failure, HandshakeFailure, Monitor};
pub use pattern::{
    CanReceive, CanSend, Dealer, Pattern, PeerId, Pub, Pull, Push, Router, RoutingId, Sub,
};
pub use pipe::{PeerInfo, Refusal};
pub use socket::{Builder, RecvFromFuture, RecvFuture, SendFuture, Socket, Stats, TcpKeepalive};
pub use transport::{Endpoint, EndpointError, IpcEndpoint, TcpEndpoint, ToEndpoint};
pub use wire::{Metadata, ProtocolError, SocketKind};
