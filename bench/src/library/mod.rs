//! The one interface through which every library is driven, so that all do the same work.
//!
//! Calls are `async` for the sake of libraries that know no other way; those of blocking libraries never suspend, so
//! nothing is left of it after inlining. One message is sent or received per call: no library's batch calls are used.
//! Each library makes a message from a fixed buffer in the cheapest way it offers.

mod floor;
#[cfg(feature = "libzmq")]
mod libzmq;
#[cfg(feature = "monocoque")]
mod monocoque;
#[cfg(feature = "nng")]
mod nng;
#[cfg(feature = "omq")]
mod omq;
mod peermq;
mod runtime;
#[cfg(feature = "rzmq")]
mod rzmq;
#[cfg(feature = "zeromq")]
mod zeromq;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::peer::Job;

/// High-water mark for each direction, where a library lets one choose. It is libzmq's default.
#[allow(dead_code)]
pub(crate) const HWM: usize = 1000;

/// Bodies above this are handed over by reference where the library can, in bytes.
pub(crate) const COPIED_MAX_BYTES: usize = 4096;

/// Where two sides meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Ipc(PathBuf),
    Inproc(String),
    /// Not of sockets: where a log may put its files.
    Directory(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
            Self::Inproc(name) => write!(f, "inproc://{name}"),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The fixed content of all messages.
pub(crate) struct Body {
    /// For libraries that copy small bodies.
    pub(crate) bytes: Vec<u8>,
    /// For libraries that take reference-counted ones; `None` when `bytes` has content of its own.
    shared: Option<Bytes>,
    /// For libraries that borrow large ones for ever.
    pub(crate) fixed: &'static [u8],
}

impl Body {
    /// Content of this many bytes.
    pub(crate) fn of_size(bytes: usize) -> Self {
        let bytes = vec![b'x'; bytes];
        let fixed: &'static [u8] = Vec::leak(bytes.clone());
        Self { shared: Some(Bytes::from_static(fixed)), fixed, bytes }
    }

    /// Puts a number into the first eight bytes, as a message with content of its own.
    pub(crate) fn stamp(&mut self, number: u64) {
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = number.to_le_bytes();
        }
        self.shared = None;
    }

    /// The content as reference-counted bytes: another reference if it is always the same, a copy if it is not.
    #[inline]
    pub(crate) fn shared(&self) -> Bytes {
        match &self.shared {
            Some(shared) => shared.clone(),
            None => Bytes::copy_from_slice(&self.bytes),
        }
    }

    /// The number that [`stamp`](Self::stamp) put there.
    pub(crate) fn read_stamp(bytes: &[u8]) -> u64 {
        bytes.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
    }
}

/// PUSH, PUB, and the sending half of DEALER.
pub(crate) trait Sender {
    /// Sends one message.
    async fn send(&mut self, body: &Body) -> Outcome;

    /// Puts what was sent on the wire, where the library leaves that to its user.
    async fn flush(&mut self) -> Outcome {
        Ok(())
    }
}

/// PULL, SUB, and the receiving half of DEALER.
pub(crate) trait Receiver {
    /// Receives one message and looks at its last frame.
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T>;
}

/// ROUTER.
pub(crate) trait Echo {
    /// Receives one message and sends it back to where it came from.
    async fn echo(&mut self) -> Outcome;
}

/// What the application's threads do; async libraries get the runtime that serves them best there, as tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// One thread that sends and waits in turn: on a current-thread runtime no thread stands between it and the socket.
    Turns,
    /// Threads that send or receive without a pause: the library's tasks need threads of their own beside them, or they
    /// starve.
    Streams,
    /// One thread that publishes without a pause.
    Fan,
}

/// A library. A function that is not overridden is one it does not have.
pub(crate) trait Library {
    /// Runs the work of one application thread.
    fn run<T>(spread: Spread, work: impl Future<Output = T>) -> T;

    /// A connected PUSH.
    async fn push(_to: &Address) -> Outcome<impl Sender> {
        unsupported::<Missing>("PUSH")
    }

    /// A bound PULL. Listeners call `bound` as soon as peers can connect.
    async fn pull(_at: &Address, _bound: &dyn Fn()) -> Outcome<impl Receiver> {
        unsupported::<Missing>("PULL")
    }

    /// A connected DEALER.
    async fn dealer(_to: &Address) -> Outcome<impl Sender + Receiver> {
        unsupported::<Missing>("DEALER")
    }

    /// A bound ROUTER for this many peers.
    async fn router(_at: &Address, _bound: &dyn Fn(), _peers: usize) -> Outcome<impl Echo> {
        unsupported::<Missing>("ROUTER")
    }

    /// A bound PUB that has this many subscribers.
    async fn publish(_at: &Address, _bound: &dyn Fn(), _peers: usize) -> Outcome<impl Sender> {
        unsupported::<Missing>("PUB")
    }

    /// A connected SUB for everything.
    async fn subscribe(_to: &Address) -> Outcome<impl Receiver> {
        unsupported::<Missing>("SUB")
    }
}

/// A library of the group `log`, which has no sockets.
pub(crate) enum LogOnly {}

impl Library for LogOnly {
    fn run<T>(_: Spread, work: impl Future<Output = T>) -> T {
        runtime::blocking(work)
    }
}

/// A socket that does not exist.
pub(crate) enum Missing {}

impl Sender for Missing {
    async fn send(&mut self, _: &Body) -> Outcome {
        match *self {}
    }
}

impl Receiver for Missing {
    async fn receive<T>(&mut self, _: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        match *self {}
    }
}

impl Echo for Missing {
    async fn echo(&mut self) -> Outcome {
        match *self {}
    }
}

/// The mark by which the report tells "cannot" from "failed".
pub(crate) const CANNOT: &str = "cannot: ";

/// Says that the library does not offer something.
pub(crate) fn unsupported<T>(what: &str) -> Outcome<T> {
    Err(format!("{CANNOT}{what}").into())
}

macro_rules! libraries {
    ($($(#[$condition:meta])? $name:literal, $feature:literal => $library:ty, $version:expr;)*) => {
        /// Does a peer's work with the library of this name.
        pub(crate) fn with_library(name: &str, job: &Job) -> Outcome {
            match name {
                $($(#[$condition])? $name => job.work::<$library>(),)*
                _ => Err(format!("{name} is not in this build").into()),
            }
        }

        /// Every library that this program knows, in the order of the report.
        pub(crate) fn known() -> Vec<Known> {
            let known: Vec<Known> =
                vec![$(Known { name: $name, feature: $feature, version: None },)*];
            #[allow(unused_mut)]
            let mut known = known;
            $($(#[$condition])? set_version(&mut known, $name, $version);)*
            known
        }
    };
}

/// A library and whether it is in this build.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    /// The cargo feature that brings it.
    pub(crate) feature: &'static str,
    /// `None` when it is not in this build.
    pub(crate) version: Option<String>,
}

fn set_version(known: &mut [Known], name: &str, version: String) {
    if let Some(entry) = known.iter_mut().find(|entry| entry.name == name) {
        entry.version = Some(version);
    }
}

/// The version of a package as this program was locked to it.
fn locked(package: &str) -> String {
    let lock = include_str!("../../Cargo.lock");
    let head = format!("name = \"{package}\"\nversion = \"");
    lock.split_once(&head)
        .and_then(|(_, rest)| rest.split('"').next())
        .map_or_else(|| package.to_owned(), |version| format!("{package} {version}"))
}

libraries! {
    "peermq", "" => peermq::Peermq, locked("peermq");
    #[cfg(feature = "libzmq")]
    "libzmq", "libzmq" => libzmq::Libzmq, libzmq::version();
    #[cfg(feature = "monocoque")]
    "monocoque", "monocoque" => monocoque::Monocoque<false>, format!("{}, eager, tokio", locked("monocoque-rs"));
    #[cfg(feature = "monocoque")]
    "monocoque-coalesced", "monocoque" => monocoque::Monocoque<true>, format!("{}, coalescing with flush, tokio", locked("monocoque-rs"));
    #[cfg(feature = "omq")]
    "omq", "omq" => omq::Omq, format!("{}, blocking API", locked("omq-tokio"));
    #[cfg(feature = "rzmq")]
    "rzmq", "rzmq" => rzmq::Rzmq<false>, locked("rzmq");
    #[cfg(feature = "rzmq-uring")]
    "rzmq-uring", "rzmq-uring" => rzmq::Rzmq<true>, format!("{}, io_uring", locked("rzmq"));
    #[cfg(feature = "zeromq")]
    "zeromq", "zeromq" => zeromq::Zeromq, locked("zeromq");
    #[cfg(feature = "nng")]
    "nng", "nng" => nng::Nng, format!("{}, {} (own protocol, PAIR for round trips)", locked("nng"), locked("nng-sys"));
    #[cfg(feature = "commitlog")]
    "commitlog", "commitlog" => LogOnly, locked("commitlog");
    #[cfg(feature = "walrus")]
    "walrus", "walrus" => LogOnly, format!("{}, file backend, no sync", locked("walrus-rust"));
    "floor", "" => floor::Floor, "raw write and read of 48 KiB; raw epoll ping-pong; pwrite, pread and fdatasync".to_owned();
}
