//! libzmq through the `zmq` crate, one I/O thread. Large bodies are borrowed with `zmq_msg_init_data`, which the crate
//! has no safe call for; everything else is its safe interface.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::OnceLock;
use std::{mem, ptr};

use zmq::{Context, Message, Socket, SocketType};

use super::{
    Address, Body, COPIED_MAX_BYTES, Echo, HWM, Library, Receiver, Sender, Spread, runtime,
};
use crate::outcome::Outcome;

pub(crate) enum Libzmq {}

/// The version that runs, not the one of the bindings.
pub(crate) fn version() -> String {
    let (major, minor, patch) = zmq::version();
    format!("libzmq {major}.{minor}.{patch}, {}", super::locked("zmq"))
}

fn context() -> &'static Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT.get_or_init(Context::new)
}

/// A socket with what all libraries agree on.
fn open(kind: SocketType) -> Outcome<Peer> {
    let socket = context().socket(kind)?;
    let hwm = i32::try_from(HWM)?;
    socket.set_sndhwm(hwm)?;
    socket.set_rcvhwm(hwm)?;
    Ok(Peer { socket, received: Message::new() })
}

struct Peer {
    socket: Socket,
    /// Reused, as programs for libzmq do.
    received: Message,
}

impl Peer {
    fn connected(self, to: &Address) -> Outcome<Self> {
        self.socket.connect(&to.to_string())?;
        Ok(self)
    }

    fn bound(self, at: &Address, bound: &dyn Fn()) -> Outcome<Self> {
        self.socket.bind(&at.to_string())?;
        bound();
        Ok(self)
    }

    /// Makes a PUB wait for slow subscribers, as it is told to in the other libraries.
    fn keep_all(&mut self) -> Outcome {
        let (on, size) = (1_i32, mem::size_of::<i32>());
        // SAFETY: the socket is open, and libzmq reads `size` bytes of the integer before the call returns.
        let result = unsafe {
            zmq_sys::zmq_setsockopt(
                self.socket.as_mut_ptr(),
                zmq_sys::ZMQ_XPUB_NODROP as i32,
                ptr::from_ref(&on).cast(),
                size,
            )
        };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }

    fn send_borrowed(&mut self, body: &'static [u8]) -> Outcome {
        /// Nothing owns the body.
        unsafe extern "C" fn keep(_: *mut c_void, _: *mut c_void) {}
        let mut message = mem::MaybeUninit::<zmq_sys::zmq_msg_t>::uninit();
        // SAFETY: `zmq_msg_init_data` initialises the message before `zmq_msg_send` takes it over; the body lives as
        // long as the process and nobody writes to it.
        let sent = unsafe {
            let data = body.as_ptr().cast_mut().cast();
            zmq_sys::zmq_msg_init_data(
                message.as_mut_ptr(),
                data,
                body.len(),
                Some(keep),
                ptr::null_mut(),
            );
            zmq_sys::zmq_msg_send(message.as_mut_ptr(), self.socket.as_mut_ptr(), 0)
        };
        if sent >= 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }
}

impl Sender for Peer {
    #[inline]
    async fn send(&mut self, body: &Body) -> Outcome {
        if body.bytes.len() > COPIED_MAX_BYTES {
            return self.send_borrowed(body.fixed);
        }
        Ok(self.socket.send(body.bytes.as_slice(), 0)?)
    }
}

impl Receiver for Peer {
    #[inline]
    async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        self.socket.recv(&mut self.received, 0)?;
        Ok(look(&self.received))
    }
}

impl Echo for Peer {
    #[inline]
    async fn echo(&mut self) -> Outcome {
        let identity = self.socket.recv_msg(0)?;
        let body = self.socket.recv_msg(0)?;
        self.socket.send(identity, zmq::SNDMORE)?;
        Ok(self.socket.send(body, 0)?)
    }
}

impl Library for Libzmq {
    fn run<T>(_: Spread, work: impl Future<Output = T>) -> T {
        runtime::blocking(work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        open(zmq::PUSH)?.connected(to)
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        open(zmq::PULL)?.bound(at, bound)
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        open(zmq::DEALER)?.connected(to)
    }

    async fn router(at: &Address, bound: &dyn Fn(), _: usize) -> Outcome<impl Echo> {
        open(zmq::ROUTER)?.bound(at, bound)
    }

    /// An XPUB, which is a PUB that tells of its subscribers.
    async fn publish(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Sender> {
        let mut publisher = open(zmq::XPUB)?;
        publisher.keep_all()?;
        publisher.socket.set_xpub_verbose(true)?;
        let publisher = publisher.bound(at, bound)?;
        for _ in 0..peers {
            publisher.socket.recv_msg(0)?;
        }
        Ok(publisher)
    }

    async fn subscribe(to: &Address) -> Outcome<impl Receiver> {
        let subscriber = open(zmq::SUB)?;
        subscriber.socket.set_subscribe(b"")?;
        subscriber.connected(to)
    }
}
