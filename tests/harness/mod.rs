//! What the tests of the public API share: endpoints of each transport, waiting with a deadline, a ZMTP peer written
//! by hand, and tests that need a process of their own.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation fails the test")]

pub(crate) mod futures;
pub(crate) mod ports;
pub(crate) mod raw;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use peermq::{
    DisconnectReason, Endpoint, Event, HandshakeFailure, Message, Monitor, Pattern, Pub, RecvError,
    SendError, Socket, Sub,
};

/// Whatever a test waits for has come by then, or never will: however slow the machine is and whatever else it does.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// How long a test watches that something does not happen.
pub(crate) const MOMENT: Duration = Duration::from_millis(30);

/// Size of a kernel's buffer where a test counts on the kernel to be full sooner or later.
pub(crate) const KERNEL: usize = 32 << 10;

/// Every transport.
pub(crate) const TRANSPORTS: [Transport; 3] = [Transport::Tcp, Transport::Ipc, Transport::Inproc];

/// The transports that have a wire.
pub(crate) const WIRES: [Transport; 2] = [Transport::Tcp, Transport::Ipc];

/// A transport that a test runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Ipc,
    Inproc,
}

impl Transport {
    /// An endpoint to bind, unlike any other of this process.
    pub(crate) fn fresh(self) -> String {
        match self {
            // Also when it is free again nobody else gets this port, whom sockets of this test might find there.
            Self::Tcp => self.vacant(),
            Self::Ipc => "ipc://*".to_owned(),
            Self::Inproc => unique("inproc://test"),
        }
    }

    /// An endpoint that nobody is bound to and that can be bound later.
    pub(crate) fn vacant(self) -> String {
        match self {
            Self::Tcp => format!("tcp://{}", ports::reserve_port()),
            Self::Ipc => unique("ipc://@peermq-test"),
            Self::Inproc => unique("inproc://vacant"),
        }
    }
}

/// `stem` with a number that nothing else on this machine uses at the same time.
pub(crate) fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The endpoint a socket was bound to.
pub(crate) fn endpoint<P: Pattern>(socket: &Socket<P>) -> Endpoint {
    socket.endpoint().expect("the socket was bound")
}

/// Waits for the first event that `pick` takes; fails with all events seen when none comes.
pub(crate) fn wait_event<T>(
    monitor: &Monitor,
    what: &str,
    mut pick: impl FnMut(&Event) -> Option<T>,
) -> T {
    let deadline = Instant::now() + SOON;
    let mut seen = Vec::new();
    loop {
        match monitor.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => match pick(&event) {
                Some(picked) => return picked,
                None => seen.push(event),
            },
            Err(error) => panic!("no event that {what}: {error}; seen: {seen:#?}"),
        }
    }
}

/// Waits for a failed handshake and returns its endpoint and reason.
pub(crate) fn handshake_failure(monitor: &Monitor) -> (Endpoint, HandshakeFailure) {
    wait_event(monitor, "a handshake failed", |event| match event {
        Event::HandshakeFailed { endpoint, reason, .. } => Some((endpoint.clone(), reason.clone())),
        _ => None,
    })
}

/// Waits for the end of an attached peer and returns its endpoint and reason.
pub(crate) fn disconnection(monitor: &Monitor) -> (Endpoint, DisconnectReason) {
    wait_event(monitor, "a peer was disconnected", |event| match event {
        Event::Disconnected { endpoint, reason, .. } => Some((endpoint.clone(), reason.clone())),
        _ => None,
    })
}

/// Waits for a peer that ended its handshake.
pub(crate) fn peer_ready(monitor: &Monitor) {
    wait_event(monitor, "a peer is ready", |event| {
        matches!(event, Event::PeerReady { .. }).then_some(())
    });
}

/// Waits for a condition that has no event of its own, such as a counter.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "it never happened that {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// The frames of a message as text.
pub(crate) fn texts(message: &Message) -> Vec<String> {
    message.frames().iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
}

/// Sends numbers from `first` on until the socket has taken nothing for a moment, but the first `surely` of them however long
/// the threads that make room for them are kept waiting; returns how many it took.
pub(crate) fn send_at_least(
    surely: usize,
    first: usize,
    mut send: impl FnMut(String, Duration) -> Result<(), SendError>,
) -> usize {
    let mut sent = 0;
    loop {
        match send((first + sent).to_string(), if sent < surely { SOON } else { MOMENT }) {
            Ok(()) => sent += 1,
            Err(SendError::Timeout(message)) => {
                assert_eq!(message.to_text(), (first + sent).to_string(), "it is handed back");
                return sent;
            }
            Err(error) => panic!("send failed: {error}"),
        }
    }
}

/// Asserts that a receive call found nothing for a moment.
#[track_caller]
pub(crate) fn assert_silent(received: Result<Message, RecvError>) {
    assert_eq!(received, Err(RecvError::Timeout));
}

/// Waits until everything `subscriber` has subscribed to is in force at `publisher`: commands keep their order, so a
/// subscription made last and heard of is proof of all before it.
pub(crate) fn settle(publisher: &Socket<Pub>, subscriber: &Socket<Sub>) {
    let mark = unique("~settled");
    subscriber.subscribe(&mark).unwrap();
    let came_first = publish_until_heard(publisher, subscriber, &mark);
    assert!(came_first.is_empty(), "{came_first:?}");
    // Further copies on their way are filtered out from here on.
    assert!(subscriber.unsubscribe(&mark).unwrap());
}

/// Publishes a mark until the subscriber, which has subscribed to it just now, hears it; returns what came before. The pauses
/// grow, so that there are never many copies on their way: what is published next finds room, whoever stood still.
pub(crate) fn publish_until_heard(
    publisher: &Socket<Pub>,
    subscriber: &Socket<Sub>,
    mark: &str,
) -> Vec<String> {
    let deadline = Instant::now() + SOON;
    let mut came_first = Vec::new();
    let mut pause = Duration::from_millis(5);
    loop {
        assert!(Instant::now() < deadline, "{mark} was never heard; before: {came_first:?}");
        publisher.send(mark).unwrap();
        let until = Instant::now() + pause;
        while let Ok(message) =
            subscriber.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if message.to_text() == mark {
                return came_first;
            }
            came_first.push(message.to_text().into_owned());
        }
        pause = (2 * pause).min(Duration::from_secs(1));
    }
}

/// Runs the test `name` of this binary in a process of its own, with no other test beside it and, if given, a limit on
/// open files. True in that process, where the test's body is to be run.
pub(crate) fn alone(name: &str, open_files: Option<u32>) -> bool {
    const MARK: &str = "PEERMQ_TEST_ALONE";
    if std::env::var_os(MARK).is_some_and(|test| test == name) {
        return true;
    }
    let limit = open_files.map(|files| format!("ulimit -n {files} && ")).unwrap_or_default();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{limit} exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=1", "--nocapture"])
        .env(MARK, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "no test {name}");
    false
}

/// Memory of this process that is in use, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

/// Memory that this process has asked for, in bytes, used or not.
pub(crate) fn requested_bytes() -> u64 {
    status_bytes("VmSize:")
}

fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Entries of a directory under /proc/self: threads or open files.
pub(crate) fn count_entries(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}
