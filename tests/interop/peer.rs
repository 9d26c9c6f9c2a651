//! The peer process: libzmq behind a pipe of text commands.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::PATIENCE;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/peer.py");

/// A running peer. Dropping it kills the process.
pub(crate) struct Peer {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
}

/// The first Python that can load libzmq, looked for once.
fn python() -> Option<&'static str> {
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    PYTHON.get_or_init(find_python).as_deref()
}

fn find_python() -> Option<String> {
    let python = env::var("PEERMQ_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let version = "import zmq; print('libzmq', zmq.zmq_version(), 'pyzmq', zmq.__version__)";
    let output = Command::new(&python).args(["-c", version]).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    eprintln!("interop with {}", String::from_utf8_lossy(&output.stdout).trim());
    Some(python)
}

impl Peer {
    /// Starts a peer. `None` where there is no Python with pyzmq, unless `PEERMQ_INTEROP_REQUIRED=1` says that there
    /// must be one.
    pub(crate) fn start() -> Option<Self> {
        let Some(python) = python() else {
            let required = env::var_os("PEERMQ_INTEROP_REQUIRED").is_some_and(|value| value == "1");
            assert!(!required, "no Python with pyzmq, but PEERMQ_INTEROP_REQUIRED=1");
            eprintln!("skipped: no Python with pyzmq");
            return None;
        };
        let mut child = Command::new(python)
            .arg(SCRIPT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer process starts");
        let commands = child.stdin.take().expect("stdin is piped");
        let output = child.stdout.take().expect("stdout is piped");
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Some(Self { child, commands, answers })
    }

    /// Sends a command without waiting for its end.
    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the peer process runs");
    }

    /// What the oldest unanswered command returned.
    pub(crate) fn answer(&self) -> String {
        self.answer_within(PATIENCE).expect("the peer process answers in time")
    }

    /// As [`answer`](Self::answer), but `None` when there is none in time.
    pub(crate) fn answer_within(&self, timeout: Duration) -> Option<String> {
        let line = match self.answers.recv_timeout(timeout) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => panic!("the peer process has ended"),
        };
        match line.strip_prefix("ok") {
            Some(result) => Some(result.trim_start().to_owned()),
            None => panic!("the peer process reports: {line}"),
        }
    }

    /// Sends a command and waits for what it returns.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// Stops the whole process, I/O threads included, so that its sockets stay open and mute.
    pub(crate) fn freeze(&self) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-STOP", &id]).status();
        assert!(status.expect("`kill` runs").success());
    }

    /// A new process without sockets in place of one that was killed.
    pub(crate) fn start_again(&mut self) {
        *self = Self::start().expect("there was a Python a moment ago");
    }

    /// Kills the process, as a crash would, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the peer process can be killed");
        self.child.wait().expect("the peer process can be waited for");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
