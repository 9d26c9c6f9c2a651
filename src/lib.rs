//! Brokerless messaging in pure Rust: ZeroMQ's socket types over ZMTP 3.1, so that every existing ZeroMQ program is
//! a peer. No server, no C library, no async runtime.
//!
//! A [`Context`] makes typed sockets that share a small pool of I/O threads. What a type cannot do does not
//! compile: a [`Push`] socket has no `recv`, only a [`Sub`] socket has `subscribe`.
//!
//! ```
//! use peermq::Context;
//!
//! let ctx = Context::new();
//! let pull = ctx.pull().recv_hwm(10_000).bind("tcp://127.0.0.1:0")?;
//! let push = ctx.push().connect(pull.endpoint())?;
//! push.send("hello")?;
//! assert_eq!(pull.recv()?.to_text(), "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which socket?
//!
//! | type | sends | receives | without room |
//! |---|---|---|---|
//! | [`Push`] | to its peers in turn | - | waits |
//! | [`Pull`] | - | from its peers in turn | - |
//! | [`Dealer`] | to its peers in turn | from its peers in turn | waits |
//! | [`Router`] | to the peer it names | from its peers in turn, named | drops and counts; waits if `mandatory` |
//! | [`Pub`] | to all peers that subscribed | - | drops and counts; waits if `no_drop` |
//! | [`Sub`] | - | what it subscribed to | - |
//!
//! # Calls
//!
//! [`Socket`] is `Send + Sync + Clone`; all clones are one socket. Each way to wait comes with the same name:
//! [`send`](Socket::send), [`try_send`](Socket::try_send), [`send_timeout`](Socket::send_timeout),
//! [`send_async`](Socket::send_async); [`recv`](Socket::recv), [`try_recv`](Socket::try_recv),
//! [`recv_timeout`](Socket::recv_timeout), [`recv_async`](Socket::recv_async), [`recv_many`](Socket::recv_many),
//! [`iter`](Socket::iter). The futures run on any executor. A failed send hands the message back in its
//! [`SendError`].
//!
//! # The path of a message
//!
//! One direction, one file after another; each is small enough to read on its own.
//!
//! 1. [`Socket::send`] (`src/socket/`) takes a [`Message`] (`src/message.rs`) and asks its pattern
//!    (`src/pattern/`: [`Push`], [`Router`], [`Pub`], ...) for the peer or peers.
//! 2. The peer's *outbox* (`src/pipe/outbox.rs`) frames the message straight into the chunk that will be written
//!    (`src/pipe/chunk.rs`). There is no queue of message objects. High-water marks
//!    ([`Builder::send_hwm`], [`Builder::send_hwm_bytes`]) are checked here.
//! 3. Whoever holds the writer role - mostly the sender itself - writes chunks of up to 48 KiB to the stream
//!    (`src/transport/`).
//! 4. At the other end whoever turns the reactor (`src/reactor/`) - a thread that waits in `recv`, else the I/O
//!    thread - reads, finds runs of complete messages (`src/wire/`) and hands each run over as one piece
//!    ([`Builder::recv_hwm`]).
//! 5. [`Socket::recv`] picks the peer whose turn it is and cuts the next message out of its run
//!    (`src/pipe/run.rs`) on the caller's thread. The [`Message`] knows its [`peer`](Message::peer).
//!
//! `inproc://` endpoints take the same path; only step 3 moves the chunk to the other end's memory.
//!
//! # What is promised
//!
//! A message is delivered whole or not at all, in order per peer, never twice. A send that returns `Ok` was
//! accepted, and every later loss is counted by its cause in [`Stats`]. No bytes from a peer can panic, hang or
//! grow memory beyond the marks and limits that the [`Builder`] documents. What happens to connections is told by
//! a [`Monitor`].

// What the unit tests share with those of the public API names the crate as they do.
#[cfg(all(test, feature = "log"))]
extern crate self as peermq;

mod completion;
mod context;
mod error;
#[cfg(feature = "log")]
pub mod log;
#[cfg(all(test, loom))]
mod loom_models;
mod message;
mod monitor;
mod options;
mod pattern;
mod peer;
mod pipe;
mod reactor;
mod socket;
#[cfg(feature = "stages")]
#[doc(hidden)]
pub mod stages;
mod sync;
mod transport;
mod wire;

pub use context::Context;
pub use error::{CloseError, OptionError, RecvError, SendError, SetupError, WaitError};
pub use message::{Frame, Message};
pub use monitor::{DisconnectReason, Event, Failure, HandshakeFailure, Monitor};
pub use pattern::{CanReceive, CanSend, Dealer, Pattern, Pub, Pull, Push, Router, RoutingId, Sub};
pub use peer::{PeerId, PeerInfo, Refusal};
pub use socket::{Builder, RecvFromFuture, RecvFuture, SendFuture, Socket, Stats, TcpKeepalive};
pub use transport::{Endpoint, EndpointError, IpcEndpoint, TcpEndpoint, ToEndpoint};
pub use wire::{Metadata, ProtocolError, SocketKind};
