//! A peer made of raw bytes: what libzmq cannot be made to do.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use peermq::Endpoint;

use crate::PATIENCE;

/// Flags of a frame (RFC 37).
const LONG: u8 = 2;
pub(crate) const COMMAND: u8 = 4;

/// One end of a TCP connection on which the test writes ZMTP itself.
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects to a bound socket.
    pub(crate) fn connect(endpoint: &Endpoint) -> Self {
        let endpoint = endpoint.to_string();
        let address = endpoint.strip_prefix("tcp://").expect("a tcp endpoint");
        Self::new(TcpStream::connect(address).unwrap())
    }

    /// Takes the connection of a connecting socket.
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        Self::new(listener.accept().unwrap().0)
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// A whole handshake as ZMTP 3.`minor` with the NULL mechanism.
    pub(crate) fn shake_hands(&mut self, minor: u8, socket_type: &str) {
        let mut greeting = [0; 64];
        greeting[0] = 0xFF;
        greeting[9] = 0x7F;
        greeting[10] = 3;
        greeting[11] = minor;
        greeting[12..16].copy_from_slice(b"NULL");
        self.write(&greeting);
        let theirs = self.read(64);
        assert_eq!((theirs[0], theirs[9], &theirs[10..16]), (0xFF, 0x7F, &b"\x03\x01NULL"[..]));
        let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
        ready.push(socket_type.len() as u8);
        ready.extend_from_slice(socket_type.as_bytes());
        self.write_frame(COMMAND, &ready);
        let (flags, body) = self.read_frame();
        assert_eq!(flags, COMMAND);
        assert!(body.starts_with(b"\x05READY"), "{}", body.escape_ascii());
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Writes one frame; the length takes the short form where it fits.
    pub(crate) fn write_frame(&mut self, flags: u8, body: &[u8]) {
        let mut frame = Vec::with_capacity(body.len() + 9);
        match u8::try_from(body.len()) {
            Ok(length) => frame.extend_from_slice(&[flags, length]),
            Err(_) => {
                frame.push(flags | LONG);
                frame.extend_from_slice(&(body.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(body);
        self.write(&frame);
    }

    /// Reads one frame: its flags without LONG, which must fit the length, and its body.
    pub(crate) fn read_frame(&mut self) -> (u8, Vec<u8>) {
        let flags = self.read(1)[0];
        let length = if flags & LONG == 0 {
            usize::from(self.read(1)[0])
        } else {
            let bytes = self.read(8).try_into().unwrap();
            usize::try_from(u64::from_be_bytes(bytes)).unwrap()
        };
        assert_eq!(flags & LONG != 0, length > 255, "the long form is for long frames only");
        (flags & !LONG, self.read(length))
    }

    /// Reads until the other side closes; what came before is returned.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the connection is closed, and not reset");
        rest
    }
}
