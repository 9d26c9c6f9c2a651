//! The examples as a newcomer meets them: started as processes, judged by their output and exit status.
//!
//! `cargo test` builds the examples; after `cargo test --test examples` alone they may be those of an earlier build.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

#[path = "harness/ports.rs"]
mod ports;
// The parts of `wordcount` that have tests of their own.
#[allow(dead_code)]
#[path = "../examples/wordcount/protocol.rs"]
mod protocol;
#[allow(dead_code)]
#[path = "../examples/wordcount/text.rs"]
mod text;

/// What the parts of `wordcount` expect of their crate.
type Problem = Box<dyn Error + Send + Sync>;

/// The longest that anything here may take; far more than it does.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of `wordcount` for a busy machine, which may keep its processes waiting.
const PATIENTLY: [&str; 4] = ["--patience", "60", "--silence", "60"];

/// A running example. Its output is read line by line as it comes; it is killed at the latest when this is dropped.
struct Running {
    name: String,
    child: Child,
    lines: Receiver<Line>,
    out: Vec<String>,
    err: Vec<String>,
}

enum Line {
    Out(String),
    Err(String),
}

struct Finished {
    status: Option<i32>,
    out: Vec<String>,
    err: Vec<String>,
}

impl Running {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(path_of(name))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let out_sender = sender.clone();
        thread::spawn(move || forward(out, |line| out_sender.send(Line::Out(line))));
        thread::spawn(move || forward(err, |line| sender.send(Line::Err(line))));
        let name = format!("{name} {}", arguments.join(" "));
        Self { name, child, lines, out: Vec::new(), err: Vec::new() }
    }

    /// Takes in the next line; false at the end of all output.
    fn read_line(&mut self, deadline: Instant) -> bool {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Line::Out(line)) => self.out.push(line),
            Ok(Line::Err(line)) => self.err.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("{} takes too long; out: {:#?}; err: {:#?}", self.name, self.out, self.err)
            }
        }
        true
    }

    /// Waits for a line that contains `text` and returns it.
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.out.iter().chain(&self.err).find(|line| line.contains(text));
            if let Some(line) = found {
                return line.clone();
            }
            let (name, err) = (&self.name, &self.err);
            let so_far = format!("{name} ended without {text:?}; err: {err:#?}");
            assert!(self.read_line(deadline), "{so_far}");
        }
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Closes the input and waits for the end.
    fn finish(mut self) -> Finished {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while self.read_line(deadline) {}
        let status = self.child.wait().unwrap().code();
        let (out, err) = (std::mem::take(&mut self.out), std::mem::take(&mut self.err));
        Finished { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward<E>(stream: impl Read, send: impl Fn(String) -> Result<(), E>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if send(line).is_err() {
            return;
        }
    }
}

fn run(name: &str, arguments: &[&str]) -> Finished {
    Running::start(name, arguments).finish()
}

/// The example's program, beside the directory that this test's program is in.
fn path_of(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().and_then(Path::parent).unwrap().join("examples");
    let program = directory.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.exists(), "{} is not built: `cargo build --examples`", program.display());
    program
}

/// A port for the processes of this test.
fn tcp_endpoint() -> String {
    format!("tcp://{}", ports::reserve_port())
}

/// An empty directory of this test's own, removed with the value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("peermq-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn hello_prints_three_questions_with_their_answers() {
    let done = run("hello", &[]);
    assert_eq!(done.status, Some(0), "{:?}", done.err);
    assert_eq!(done.out.len(), 3);
    assert_eq!(done.out[0], "asked: Berlin   answered: hello, Berlin");
}

#[test]
fn weather_shows_each_subscriber_its_prefix_only() {
    let done = run("weather", &[]);
    assert_eq!(done.status, Some(0), "{:?}", done.err);
    let count = |prefix| done.out.iter().filter(|line| line.starts_with(prefix)).count();
    assert_eq!(count("berlin/"), 6);
    assert_eq!(count("lima/temperature"), 3);
    assert_eq!(done.out.len(), 9);
}

#[test]
fn weather_reaches_a_subscriber_in_another_process() {
    let endpoint = tcp_endpoint();
    let mut subscriber = Running::start("weather", &["subscribe", &endpoint, "nairobi/h"]);
    let _publisher = Running::start("weather", &["publish", &endpoint]);
    assert!(subscriber.wait_for("nairobi").starts_with("nairobi/humidity"));
    assert!(subscriber.out.iter().all(|line| line.starts_with("nairobi/humidity")));
}

#[test]
fn the_chat_demo_follows_its_script() {
    let done = run("chat", &["demo"]);
    assert_eq!(done.status, Some(0), "{:?}", done.err);
    for line in [
        "alice hears: * bob joined",
        "bob   hears: alice: good evening",
        "alice hears: bob (to you): just between us: hello",
        "alice hears: * there is no carol here",
        "alice hears: * bob left",
    ] {
        assert!(done.out.iter().any(|shown| shown == line), "no {line:?} in {:#?}", done.out);
    }
    assert!(done.out.iter().any(|line| line.starts_with("second bob is told")));
    assert!(done.err.iter().any(|line| line.starts_with("server: refused a second bob")));
}

#[test]
fn chat_members_in_processes_talk_and_a_killed_one_is_seen_leaving() {
    let mut server = Running::start("chat", &["serve", "tcp://127.0.0.1:*"]);
    let open = server.wait_for("the room is open at ");
    let endpoint = open.strip_prefix("the room is open at ").unwrap();
    let mut ann = Running::start("chat", &["join", endpoint, "ann"]);
    ann.wait_for("welcome, ann");
    let mut ben = Running::start("chat", &["join", endpoint, "ben"]);
    ben.wait_for("welcome, ben");
    ann.wait_for("ben joined");
    ben.type_line("hello all");
    ann.wait_for("ben: hello all");
    ann.type_line("/to ben only you");
    ben.wait_for("ann (to you): only you");

    let second = run("chat", &["join", endpoint, "ben"]);
    assert_eq!(second.status, Some(1));
    assert!(
        second.err.iter().any(|line| line.contains("is there another ben")),
        "{:?}",
        second.err
    );
    server.wait_for("refused a second ben");

    drop(ben);
    ann.wait_for("ben left");
    assert_eq!(ann.finish().status, Some(0));
    server.wait_for("ann left");
}

/// Starts the two sides of a perf run, the connecting one first, and returns what the measuring side printed.
fn perf(measures: &str, other: &str, endpoint: &str, options: &[&str]) -> String {
    let start = |role: &str| {
        let mut arguments = vec![role, endpoint, "64", "2000"];
        arguments.extend(options);
        Running::start("perf", &arguments)
    };
    let (measuring, other) = (start(measures), start(other).finish());
    assert_eq!((other.status, other.out.len()), (Some(0), 0), "{:?}", other.err);
    one_line(measuring.finish())
}

fn one_line(done: Finished) -> String {
    assert_eq!((done.status, done.out.len()), (Some(0), 1), "{:?} {:?}", done.out, done.err);
    done.out.concat()
}

fn check_throughput(line: &str) {
    let fields: Vec<&str> = line.split(' ').collect();
    let ["thr", "size=64", "n=2000", messages, "M", "msg/s", bytes, "MB/s"] = fields[..] else {
        panic!("{line}");
    };
    let [messages, bytes] = [messages, bytes].map(|rate| rate.parse::<f64>().unwrap());
    // Both are rounded, to nothing on a machine that is slow enough.
    assert!(messages >= 0.0 && (bytes - messages * 64.0).abs() < 0.2, "{line}");
}

fn check_round_trips(line: &str) {
    let fields: Vec<&str> = line.split(' ').collect();
    let [rtt, size, n, quantiles @ .., unit] = &fields[..] else { panic!("{line}") };
    assert_eq!([rtt, size, n, unit], [&"rtt", &"size=64", &"n=2000", &"us"], "{line}");
    let value = |field: &str| {
        let (name, value) = field.split_once('=').unwrap();
        (name.to_owned(), value.parse::<f64>().unwrap())
    };
    let quantiles: Vec<_> = quantiles.iter().map(|field| value(field)).collect();
    let names: Vec<&str> = quantiles.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["p50", "p99", "p99.9", "mean"]);
    assert!(quantiles[0].1 <= quantiles[1].1 && quantiles[1].1 <= quantiles[2].1, "{line}");
}

#[test]
fn perf_prints_one_line_for_each_pair_of_roles_over_tcp_and_ipc() {
    let directory = Directory::new("perf");
    let ipc = |name: &str| format!("ipc://{}", directory.0.join(name).display());
    for (throughput, round_trip, fan_out) in
        [(tcp_endpoint(), tcp_endpoint(), tcp_endpoint()), (ipc("a"), ipc("b"), ipc("c"))]
    {
        check_throughput(&perf("pull", "push", &throughput, &[]));
        check_throughput(&perf("pull", "push", &throughput, &["--batch", "100"]));
        check_round_trips(&perf("dealer", "router", &round_trip, &[]));
        check_throughput(&perf("sub", "pub", &fan_out, &[]));
    }
}

#[test]
fn perf_measures_within_one_process() {
    check_throughput(&one_line(run("perf", &["inproc-thr", "inproc://a", "64", "2000"])));
    check_round_trips(&one_line(run("perf", &["inproc-lat", "inproc://a", "64", "2000"])));
}

#[test]
fn bad_usage_is_explained_on_stderr_with_status_2() {
    let bad: [(&str, &[&str]); 6] = [
        ("perf", &[]),
        ("perf", &["pull", "tcp://127.0.0.1:1", "64", "0"]),
        ("perf", &["pull", "nonsense", "64", "10"]),
        ("chat", &["sing"]),
        ("weather", &["publish"]),
        ("wordcount", &["worker", "tcp://127.0.0.1:1"]),
    ];
    for (name, arguments) in bad {
        let done = run(name, arguments);
        assert_eq!((done.status, done.out.len()), (Some(2), 0), "{name} {arguments:?}");
        assert!(done.err.iter().any(|line| line.contains("usage:")), "{name} {arguments:?}");
    }
}

/// A tree with text of several kinds, and the top lines that its count must begin with.
fn tree(directory: &Directory) -> Vec<String> {
    let mut expected = BTreeMap::<&str, u64>::new();
    for index in 0..20 {
        let text = "The quick fox; the lazy dog.\nthe end\n".repeat(400);
        directory.write(&format!("d{}/e/f{index}.txt", index % 3), text);
        for (word, count) in [("the", 3), ("dog", 1), ("end", 1), ("fox", 1), ("lazy", 1)] {
            *expected.entry(word).or_default() += 400 * count;
        }
    }
    directory.write("long-line", "dog ".repeat(50_000));
    *expected.entry("dog").or_default() += 50_000;
    directory.write("latin-1", b"caf\xE9 caf\xE9 no newline");
    directory.write("empty", "");
    directory.write("binary", b"dog dog dog\0");
    let mut order: Vec<_> = expected.into_iter().collect();
    order.sort_by_key(|&(word, count)| (std::cmp::Reverse(count), word));
    order.iter().take(3).map(|(word, count)| format!("{count:>10}  {word}")).collect()
}

#[test]
fn wordcount_with_workers_counts_what_a_single_process_counts() {
    let directory = Directory::new("tree");
    let expected = tree(&directory);
    let root = directory.0.to_str().unwrap();
    let done = run(
        "wordcount",
        &[&["--check", "--workers", "3", "--top", "3"], &PATIENTLY[..], &[root]].concat(),
    );
    assert_eq!(done.status, Some(0), "{:#?}", done.err);
    assert_eq!(done.out[..3], expected);
    assert!(done.err.iter().any(|line| line.contains("check passed")), "{:#?}", done.err);
}

#[test]
fn wordcount_names_a_file_that_it_cannot_read() {
    let done = run("wordcount", &["no-such-file"]);
    assert_eq!(done.status, Some(3), "{:#?}", done.err);
    assert!(done.err.iter().any(|line| line.contains("stopped early: no-such-file:")));
}

/// Ventilator, two workers and sink, each started by hand; the doomed worker is stopped before it has counted anything.
#[cfg(unix)]
struct ByHand {
    sink: Running,
    ventilator: Running,
    steady: Running,
    doomed: Running,
    lines: u64,
    _directory: Directory,
}

#[cfg(unix)]
impl ByHand {
    fn start(name: &str, silence: &str) -> Self {
        const LINES: usize = 150_000;
        let directory = Directory::new(name);
        // The input is a pipe, so that it begins when the test wants it to.
        let input = directory.0.join("input").to_str().unwrap().to_owned();
        assert!(Command::new("mkfifo").arg(&input).status().unwrap().success());
        let (work, sink) = (tcp_endpoint(), tcp_endpoint());
        let worker = |name| {
            let arguments = ["worker", &work, &sink, "--name", name, "--silence", "60"];
            Running::start("wordcount", &arguments)
        };
        let (doomed, steady) = (worker("doomed"), worker("steady"));
        let collecting = Running::start("wordcount", &["sink", &sink, "--silence", silence]);
        let arguments =
            ["ventilator", &work, &sink, "--workers", "2", "--silence", silence, &input];
        let mut ventilator = Running::start("wordcount", &arguments);
        ventilator.wait_for("2 workers are there");
        doomed.signal("-STOP");
        thread::spawn(move || {
            fs::write(input, "the quick brown fox and the lazy dog\n".repeat(LINES)).unwrap();
        });
        let lines = LINES as u64;
        Self { sink: collecting, ventilator, steady, doomed, lines, _directory: directory }
    }
}

/// The number before `unit` in a line such as `lost: 2 batches, 17 lines, 300 bytes`.
#[cfg(unix)]
fn number_before(unit: &str, line: &str) -> u64 {
    let words: Vec<&str> = line.split([' ', ',', ':']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|word| *word == unit).unwrap();
    words[at - 1].parse().unwrap()
}

/// The account adds up: every line of the input was reported by a worker or is listed as lost.
#[cfg(unix)]
fn check_account(done: &Finished, lines: u64, doomed_end: &str) {
    assert_eq!(done.status, Some(3), "{:#?}", done.err);
    let line = |text: &str| {
        let found = done.err.iter().find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no {text:?} in {:#?}", done.err))
    };
    assert!(line("handed to:").ends_with("doomed"));
    assert!(line("doomed: ").contains(doomed_end));
    assert!(number_before("of", line("had not left the ventilator's queue")) > 0);
    assert!(line("steady: ").contains("finished"));
    let lost = number_before("lines", line("lost: "));
    assert!(lost > 0);
    let reported = ["doomed: ", "steady: "].map(|name| number_before("lines", line(name)));
    assert_eq!(lost + reported.iter().sum::<u64>(), lines);
}

#[cfg(unix)]
#[test]
fn wordcount_accounts_for_what_a_killed_worker_had() {
    let mut parts = ByHand::start("killed", "60");
    parts.sink.wait_for("MB counted");
    parts.doomed.signal("-KILL");
    check_account(&parts.sink.finish(), parts.lines, "gone without a goodbye");
    assert_eq!(parts.ventilator.finish().status, Some(3));
    assert_eq!(parts.steady.finish().status, Some(0));
}

#[cfg(unix)]
#[test]
fn wordcount_gives_up_a_worker_that_is_silent() {
    // Longer than a busy machine keeps the steady one waiting.
    let parts = ByHand::start("silent", "10");
    check_account(&parts.sink.finish(), parts.lines, "silent for 10s");
    assert_eq!(parts.ventilator.finish().status, Some(3));
    assert_eq!(parts.steady.finish().status, Some(0));
}
