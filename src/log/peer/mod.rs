//! The log over sockets: a [`LogServer`] in the process that has the log open, a [`LogClient`] anywhere.

pub(in crate::log) mod alarm;
mod client;
pub(in crate::log) mod protocol;
mod server;
pub(in crate::log) mod watch;

pub(in crate::log) use client::reader::Fetching;
pub(in crate::log) use client::records::records_of;
pub use client::{
    AppendTicket, Connection, FlushError, LogClient, LogClientOptions, PeerError, RemoteGroup,
    RemoteMember, RemotePartition, RemoteQueue, RemoteReader, RemoteTopic, RemoteTransaction,
    Subject, Unacknowledged,
};
pub use protocol::{Malformed, MemberFencing, RemoteCode, RemoteError};
pub(in crate::log) use server::free;
pub use server::{LogServer, LogServerOptions, LogServerStats};
