//! Ports that a test needs free and that stay so.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Socket, Type};

/// A port at which nobody listens and anybody may. Where the system lets others listen there, a socket that is bound to
/// it and does not listen keeps it, to the end of this process, from those who ask for any free port.
pub(crate) fn reserve_port() -> SocketAddr {
    static RESERVED: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    if cfg!(target_os = "linux") {
        RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    }
    address
}
