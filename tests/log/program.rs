//! The example `log` as a program, for the tests that start it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

/// The program, beside the directory that this test's program is in.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().and_then(std::path::Path::parent).unwrap().join("examples");
    let program = directory.join("log").with_extension(std::env::consts::EXE_EXTENSION);
    let shown = program.display();
    assert!(program.exists(), "{shown} is not built: `cargo build --features log --example log`");
    program
}

/// The program with arguments, its input and outputs at hand.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (out, err) = (text(output.stdout), text(output.stderr));
        Self { status: output.status.code(), out, err }
    }
}

/// Runs the program to its end with this input.
pub(crate) fn run_with(input: &[u8], arguments: &[&str]) -> Finished {
    let mut child = command(arguments).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let feeder = thread::spawn(move || {
        // A program that ends early does not read all of it.
        let _ = stdin.write_all(&input);
    });
    let finished = child.wait_with_output().unwrap().into();
    feeder.join().unwrap();
    finished
}

/// Runs the program to its end without input.
pub(crate) fn run(arguments: &[&str]) -> Finished {
    run_with(b"", arguments)
}

/// An empty directory of a test's own, removed with the value.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("peermq-log-{}-{name}", std::process::id()));
        // Left by an earlier process of this number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
