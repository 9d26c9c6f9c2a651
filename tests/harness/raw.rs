//! A ZMTP peer made of a blocking stream: it says exactly the bytes that a test gives it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use peermq::Endpoint;

use super::SOON;

/// Flag of a frame that others follow.
pub(crate) const MORE: u8 = 1;
/// Flag of a frame with an eight-byte length.
pub(crate) const LONG: u8 = 2;
/// Flag of a command.
pub(crate) const COMMAND: u8 = 4;

/// Frames a body, with the long length where it is needed.
pub(crate) fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = match u8::try_from(body.len()) {
        Ok(length) => vec![flags, length],
        Err(_) => {
            let mut header = vec![flags | LONG];
            header.extend((body.len() as u64).to_be_bytes());
            header
        }
    };
    bytes.extend_from_slice(body);
    bytes
}

/// The header of a frame with the eight-byte length, whatever the length.
pub(crate) fn long_header(flags: u8, length: u64) -> Vec<u8> {
    let mut header = vec![flags | LONG];
    header.extend(length.to_be_bytes());
    header
}

/// A command frame.
pub(crate) fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = vec![name.len() as u8];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    frame(COMMAND, &body)
}

/// One property of a READY command.
pub(crate) fn property(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend((value.len() as u32).to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// A message of these frames.
pub(crate) fn message(frames: &[&[u8]]) -> Vec<u8> {
    let last = frames.len() - 1;
    let flags = |index: usize| if index < last { MORE } else { 0 };
    frames.iter().enumerate().flat_map(|(index, body)| frame(flags(index), body)).collect()
}

/// A greeting of version 3.`minor` with the NULL mechanism.
pub(crate) fn greeting(minor: u8) -> [u8; 64] {
    let mut greeting = [0; 64];
    greeting[0] = 0xFF;
    greeting[9] = 0x7F;
    greeting[10] = 3;
    greeting[11] = minor;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A peer by hand.
pub(crate) struct Raw {
    stream: Box<dyn Stream>,
}

impl Raw {
    /// Connects to a tcp or ipc endpoint.
    pub(crate) fn connect(endpoint: &Endpoint) -> Self {
        let text = endpoint.to_string();
        if let Some(address) = text.strip_prefix("tcp://") {
            return Self::over_tcp(TcpStream::connect(address).unwrap());
        }
        let path = text.strip_prefix("ipc://").unwrap();
        let stream = match path.strip_prefix('@') {
            Some(name) => {
                UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
            }
            None => UnixStream::connect(path).unwrap(),
        };
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Self { stream: Box::new(stream) }
    }

    fn over_tcp(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Box::new(stream) }
    }

    /// Takes the next connection of a listener.
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        // Where the system has no such limit, a test whose connection does not come hangs.
        socket2::SockRef::from(listener).set_read_timeout(Some(SOON)).unwrap();
        Self::over_tcp(listener.accept().unwrap().0)
    }

    /// Connects and shakes hands as a socket of this type.
    pub(crate) fn peer(endpoint: &Endpoint, socket_type: &str) -> Self {
        let mut raw = Self::connect(endpoint);
        raw.shake_hands(1, socket_type, b"");
        raw
    }

    /// The whole handshake, as version 3.`minor`.
    pub(crate) fn shake_hands(&mut self, minor: u8, socket_type: &str, identity: &[u8]) {
        self.try_shake_hands(minor, socket_type, identity).unwrap();
    }

    /// The whole handshake with a side that may close meanwhile.
    pub(crate) fn try_shake_hands(
        &mut self,
        minor: u8,
        socket_type: &str,
        identity: &[u8],
    ) -> io::Result<()> {
        self.try_greet(minor)?;
        let mut properties = property("Socket-Type", socket_type.as_bytes());
        properties.extend(property("Identity", identity));
        self.try_send(&command("READY", &properties))?;
        let (flags, body) = self.try_read_frame().ok_or(io::ErrorKind::UnexpectedEof)?;
        assert_eq!(flags, COMMAND, "{:?}", body.escape_ascii().to_string());
        assert!(body.starts_with(b"\x05READY"), "{:?}", body.escape_ascii().to_string());
        Ok(())
    }

    /// Exchanges greetings.
    pub(crate) fn greet(&mut self, minor: u8) {
        self.try_greet(minor).unwrap();
    }

    fn try_greet(&mut self, minor: u8) -> io::Result<()> {
        self.try_send(&greeting(minor))?;
        let mut theirs = [0; 64];
        self.stream.read_exact(&mut theirs)?;
        assert_eq!(theirs[..12], greeting(1)[..12]);
        Ok(())
    }

    /// Sends bytes; the other side is expected to take them.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends bytes to a side that may close meanwhile.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads so many bytes.
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next frame: its flags without LONG, and its body.
    pub(crate) fn read_frame(&mut self) -> (u8, Vec<u8>) {
        self.try_read_frame().expect("the other side closed the connection")
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) fn try_read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        match self.next_frame() {
            Ok(frame) => Some(frame),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn next_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        // All by `read_exact`, which goes on where a signal broke a call off.
        let mut flags = [0];
        self.stream.read_exact(&mut flags)?;
        let length = if flags[0] & LONG == 0 {
            let mut length = [0];
            self.stream.read_exact(&mut length)?;
            usize::from(length[0])
        } else {
            let mut length = [0; 8];
            self.stream.read_exact(&mut length)?;
            usize::try_from(u64::from_be_bytes(length)).unwrap()
        };
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((flags[0] & !LONG, body))
    }

    /// Waits until the other side has heard everything that was said: it answers a PING after that. Nothing else may be
    /// on its way here.
    pub(crate) fn wait_heard(&mut self) {
        self.send(&command("PING", b"\0\0heard"));
        assert_eq!(self.read_frame(), (COMMAND, b"\x04PONGheard".to_vec()));
    }

    /// Reads whole messages to the end of the stream and counts them.
    pub(crate) fn count_messages(&mut self) -> usize {
        let mut messages = 0;
        while let Some((flags, _)) = self.try_read_frame() {
            messages += usize::from(flags & (MORE | COMMAND) == 0);
        }
        messages
    }

    /// Asserts that the other side closes the connection, whatever it says before that.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection is still open: {error}"),
        }
    }
}
