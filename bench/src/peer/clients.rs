//! A neutral load for ROUTERs: many DEALER connections spoken by hand (ZMTP 3.0, NULL mechanism, RFC 23) from one epoll
//! loop, so that every library's ROUTER meets the same peers and no library's DEALER is in the way.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Job, finish, tell};
use crate::library::{Address, unsupported};
use crate::outcome::{Failure, Outcome, failure};

/// Messages that each connection keeps going round.
const IN_FLIGHT: usize = 10;
/// Connections that shake hands at the same time.
const TOGETHER: usize = 8;
/// How long a listener may take for one step of a handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the greeting in each direction.
const GREETING_BYTES: usize = 64;

fn greeting() -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

const READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER";

/// Connects all: `TOGETHER` at a time, or one after another where the job sets a pace.
fn connect_all(job: &Job) -> Outcome<Vec<TcpStream>> {
    let Address::Tcp(address) = &job.address else { return unsupported("except over tcp") };
    let mut streams = Vec::with_capacity(job.peers);
    let together = if job.pace.is_zero() { TOGETHER } else { 1 };
    while streams.len() < job.peers {
        let count = together.min(job.peers - streams.len());
        thread::sleep(job.pace);
        let mut group = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream =
                TcpStream::connect(address).map_err(|e| unanswered(&e, streams.len()))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&greeting())?;
            group.push(stream);
        }
        for stream in &mut group {
            stream
                .read_exact(&mut [0; GREETING_BYTES])
                .map_err(|e| unanswered(&e, streams.len()))?;
            stream.write_all(READY)?;
        }
        for stream in &mut group {
            read_ready(stream).map_err(|e| unanswered(&e, streams.len()))?;
        }
        streams.append(&mut group);
    }
    Ok(streams)
}

fn unanswered(error: &impl std::fmt::Display, connected: usize) -> Failure {
    let seconds = PATIENCE.as_secs();
    failure(format!(
        "no connection or no handshake in {seconds} s after {connected} connections: {error}"
    ))
}

fn read_ready(stream: &mut TcpStream) -> Outcome {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut body = [0; 255];
    let body = &mut body[..usize::from(head[1])];
    stream.read_exact(body)?;
    if head[0] == 4 && body.starts_with(b"\x05READY") {
        return Ok(());
    }
    Err("the listener refused the handshake".into())
}

/// Connects all and keeps them for the window, without a message.
pub(super) fn idle(job: &Job) -> Outcome {
    let begin = Instant::now();
    let streams = connect_all(job)?;
    let connect_s = begin.elapsed().as_secs_f64();
    thread::sleep(job.warm_up);
    tell("start");
    thread::sleep(job.window);
    tell("end");
    let connections = streams.len() as f64;
    let outcome = finish(&[("connections", connections), ("connect_s", connect_s)]);
    drop(streams);
    outcome
}

/// One connection with the messages it has on the way.
struct Client {
    stream: TcpStream,
    /// Bytes of an answer of which a part has come.
    partial: usize,
    /// Bytes that must be written when there is room.
    owed: usize,
    echoed: u64,
}

impl Client {
    /// Reads answers and sends as many messages.
    fn turn(&mut self, frames: &[u8], frame: usize, scratch: &mut [u8]) -> Outcome {
        match self.stream.read(scratch) {
            Ok(0) => return Err("the ROUTER closed a connection".into()),
            Ok(read) => {
                let bytes = self.partial + read;
                let answers = bytes / frame;
                self.partial = bytes % frame;
                self.echoed += answers as u64;
                self.owed += answers * frame;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        self.write(frames, frame)
    }

    /// Writes what is owed; a frame that was cut by a full buffer is continued where it was cut.
    fn write(&mut self, frames: &[u8], frame: usize) -> Outcome {
        while self.owed > 0 {
            let begin = (frame - self.owed % frame) % frame;
            let end = (begin + self.owed).min(frames.len());
            match self.stream.write(&frames[begin..end]) {
                Ok(written) => self.owed -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Connects all, keeps messages going round on each, and counts the answers.
pub(super) fn echo(job: &Job) -> Outcome {
    let length = u8::try_from(job.size).map_err(|_| "echo messages are at most 255 bytes")?;
    let frame = [vec![0, length], vec![b'x'; job.size]].concat();
    let frames = frame.repeat(IN_FLIGHT + 1);
    let poll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut clients = Vec::with_capacity(job.peers);
    let begin = Instant::now();
    let streams = connect_all(job)?;
    let connect_s = begin.elapsed().as_secs_f64();
    for (number, stream) in streams.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        poll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        clients.push(Client { stream, partial: 0, owed: IN_FLIGHT * frame.len(), echoed: 0 });
    }
    for client in &mut clients {
        client.write(&frames, frame.len())?;
    }
    let mut scratch = vec![0; 64 * 1024];
    let mut events = vec![EpollEvent::empty(); 1024];
    let begin = Instant::now();
    let mut window: Option<(Instant, Vec<u64>)> = None;
    loop {
        let ready = poll.wait(&mut events, EpollTimeout::from(100_u8))?;
        for event in &events[..ready] {
            let number = usize::try_from(event.data())?;
            clients[number].turn(&frames, frame.len(), &mut scratch)?;
        }
        match &window {
            None if begin.elapsed() >= job.warm_up => {
                tell("start");
                window = Some((Instant::now(), clients.iter().map(|c| c.echoed).collect()));
            }
            Some((start, before)) if start.elapsed() >= job.window => {
                tell("end");
                return report(&clients, before, start.elapsed(), connect_s);
            }
            _ => {}
        }
    }
}

fn report(clients: &[Client], before: &[u64], elapsed: Duration, connect_s: f64) -> Outcome {
    let echoed: Vec<u64> =
        clients.iter().zip(before).map(|(c, before)| c.echoed - before).collect();
    let messages = echoed.iter().sum::<u64>() as f64;
    let slowest = echoed.iter().copied().min().unwrap_or(0) as f64;
    finish(&[
        ("messages", messages),
        ("messages_per_s", messages / elapsed.as_secs_f64()),
        ("connect_s", connect_s),
        ("slowest_of_mean", slowest * clients.len() as f64 / messages.max(1.0)),
    ])
}
