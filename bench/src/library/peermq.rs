//! peermq, by its plain blocking calls, one message each.

use std::sync::OnceLock;
use std::time::Duration;

use peermq::{
    Builder, Context, Dealer, Frame, Message, Pattern, Pub, Pull, Push, Router, Socket, Sub,
};

use super::{
    Address, Body, Echo, HWM, Library, Receiver, Sender, Spread, runtime,
};
use crate::outcome::Outcome;

pub(crate) enum Peermq {}

/// The context of the process: one I/O thread.
fn context() -> &'static Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT.get_or_init(Context::new)
}

/// Sets what all libraries agree on; everything else is the default.
fn agreed<P: Pattern>(builder: Builder<P>) -> Builder<P> {
    builder.send_hwm(HWM).recv_hwm(HWM)
}

/// A frame stores so much in itself; a longer body is shared, as with the other Rust libraries.
const INLINE_BYTES_MAX: usize = 64;

#[inline]
fn message(body: &Body) -> Message {
    if body.bytes.len() <= INLINE_BYTES_MAX {
        body.bytes.as_slice().into()
    } else {
        Frame::from(body.shared()).into()
    }
}

macro_rules! sides {
    (send: $($sender:ty),*; receive: $($receiver:ty),*) => {
        $(impl Sender for Socket<$sender> {
            #[inline]
            async fn send(&mut self, body: &Body) -> Outcome {
                Ok(Socket::send(self, message(body))?)
            }
        })*
        $(impl Receiver for Socket<$receiver> {
            #[inline]
            async fn receive<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
                Ok(look(self.recv()?.body()))
            }
        })*
    };
}
sides!(send: Push, Dealer, Pub; receive: Pull, Dealer, Sub);

impl Echo for Socket<Router> {
    #[inline]
    async fn echo(&mut self) -> Outcome {
        let (peer, message) = self.recv_from()?;
        Ok(self.send_to(&peer, message)?)
    }
}

impl Library for Peermq {
    fn run<T>(_: Spread, work: impl Future<Output = T>) -> T {
        runtime::blocking(work)
    }

    async fn push(to: &Address) -> Outcome<impl Sender> {
        Ok(agreed(context().push()).connect(to.to_string().as_str())?)
    }

    async fn pull(at: &Address, bound: &dyn Fn()) -> Outcome<impl Receiver> {
        let socket = agreed(context().pull()).bind(at.to_string().as_str())?;
        bound();
        Ok(socket)
    }

    async fn dealer(to: &Address) -> Outcome<impl Sender + Receiver> {
        Ok(agreed(context().dealer()).connect(to.to_string().as_str())?)
    }

    async fn router(at: &Address, bound: &dyn Fn(), _: usize) -> Outcome<impl Echo> {
        let socket = agreed(context().router()).bind(at.to_string().as_str())?;
        bound();
        Ok(socket)
    }

    async fn publish(at: &Address, bound: &dyn Fn(), peers: usize) -> Outcome<impl Sender> {
        let socket = agreed(context().publish()).no_drop(true).bind(at.to_string().as_str())?;
        bound();
        socket.wait_for_subscribers(peers, Duration::MAX)?;
        Ok(socket)
    }

    async fn subscribe(to: &Address) -> Outcome<impl Receiver> {
        Ok(agreed(context().subscribe()).topic("").connect(to.to_string().as_str())?)
    }
}
