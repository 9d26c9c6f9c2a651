//! One measurement: starts the processes, passes their words on, reads clocks and memory, and ends them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use super::case::{self, Transport};
use super::{Case, Measure, Timing};
use crate::library::Address;
use crate::outcome::{Outcome, failure};
use crate::peer::{Figures, Job, Role};
use crate::system;

/// A peer process; dropping it ends it.
struct Peer {
    child: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a peer said.
enum Word {
    Line(String),
    /// Its end, with what it wrote to the standard error stream.
    End(String),
}

impl Peer {
    fn start(job: &Job, words: Sender<Word>) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["peer", &serde_json::to_string(job)?]);
        if let Address::Directory(path) = &job.address {
            // The only way to tell walrus.
            command.env("WALRUS_QUIET", "1").env("WALRUS_DATA_DIR", path);
        }
        Self::spawn(command, words)
    }

    fn spawn(mut command: Command, words: Sender<Word>) -> Outcome<Self> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let mut errors = child.stderr.take().ok_or("no standard error")?;
        thread::spawn(move || {
            let complaints = thread::spawn(move || {
                let mut text = String::new();
                let _ = errors.by_ref().take(64 * 1024).read_to_string(&mut text);
                let _ = std::io::copy(&mut errors, &mut std::io::sink());
                text
            });
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = words.send(Word::Line(line));
            }
            let _ = words.send(Word::End(complaints.join().unwrap_or_default()));
        });
        Ok(Self { child })
    }

    fn cpu_seconds(&self) -> Outcome<f64> {
        system::cpu_seconds(self.child.id())
    }
}

/// Measures a case with a library.
pub(super) fn measure(case: &Case, library: &str, timing: Timing) -> Outcome<Figures> {
    let address = Address::free(case.transport)?;
    let outcome = between(case, library, timing, &address);
    match &address {
        Address::Ipc(path) => _ = fs::remove_file(path),
        Address::Directory(path) => _ = fs::remove_dir_all(path),
        _ => {}
    }
    outcome
}

impl Address {
    /// An address that nobody uses.
    fn free(transport: Transport) -> Outcome<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("peermq-bench-{}-{number}", std::process::id());
        Ok(match transport {
            Transport::Tcp => Self::Tcp(TcpListener::bind("127.0.0.1:0")?.local_addr()?),
            Transport::Ipc => Self::Ipc(std::env::temp_dir().join(name)),
            Transport::Inproc => Self::Inproc(name),
            Transport::Directory => Self::Directory(std::env::temp_dir().join(name)),
        })
    }
}

fn between(case: &Case, library: &str, timing: Timing, address: &Address) -> Outcome<Figures> {
    let (listener_cores, connector_cores) = case.placement.cores()?;
    let job = |role: Role, cores: Vec<usize>| Job {
        library: library.to_owned(),
        role,
        address: address.clone(),
        size: case.size,
        peers: case.peers,
        pace: case::connection_pace(library),
        cores,
        warm_up: timing.warm_up,
        window: timing.window,
        rate: case.rate,
    };
    let deadline = Instant::now() + timing.warm_up + timing.window + case.patience();
    let (words, said) = mpsc::channel();
    let listener = Peer::start(&job(case.listener, listener_cores), words)?;
    let Some(connector) = case.connector else {
        return observe(case, &said, &[&listener], deadline);
    };
    match next(&said, deadline)? {
        line if line == "bound" => {}
        other => return Err(format!("expected `bound`, got {other:?}").into()),
    }
    let resident_bytes = system::resident_bytes(listener.child.id())?;
    let (words, connector_said) = mpsc::channel();
    let connector = Peer::start(&job(connector, connector_cores), words)?;
    let both = [&listener, &connector];
    let counting = if case.connector_counts() { &connector_said } else { &said };
    let silent = if case.connector_counts() { &said } else { &connector_said };
    let mut figures =
        observe(case, counting, &both, deadline).map_err(|error| explained(error, silent))?;
    if case.measure == Measure::Memory {
        add_memory(&mut figures, &listener, resident_bytes)?;
    }
    Ok(figures)
}

/// Puts the other side's complaint before the consequence that the counting side saw.
fn explained(error: crate::outcome::Failure, other: &Receiver<Word>) -> crate::outcome::Failure {
    while let Ok(word) = other.recv_timeout(std::time::Duration::from_millis(100)) {
        if let Word::End(complaint) = word {
            return failure(reason(&complaint));
        }
    }
    error
}

/// The last line of a process's complaints, without this program's name.
fn reason(complaint: &str) -> String {
    let line = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("ended silently");
    line.trim_start_matches("peermq-bench: ").to_owned()
}

/// What a cell says whose processes were ended because their time was over.
const UNFINISHED: &str = "did not finish";

fn next(said: &Receiver<Word>, deadline: Instant) -> Outcome<String> {
    match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Word::Line(line)) => Ok(line),
        Ok(Word::End(complaint)) => Err(reason(&complaint).into()),
        Err(RecvTimeoutError::Timeout) => Err(UNFINISHED.into()),
        Err(RecvTimeoutError::Disconnected) => Err("ended silently".into()),
    }
}

/// Reads the CPU clocks of all processes at both ends of the window and takes the result.
fn observe(
    case: &Case,
    said: &Receiver<Word>,
    peers: &[&Peer],
    deadline: Instant,
) -> Outcome<Figures> {
    let (mut before, mut after) = (None, None);
    loop {
        let line = next(said, deadline)?;
        match line.as_str() {
            "bound" => {}
            "start" => before = Some(Clocks::read(peers)?),
            "end" => after = Some(Clocks::read(peers)?),
            other => {
                let json = other.strip_prefix("result ").ok_or_else(|| line.clone())?;
                let figures = serde_json::from_str(json)?;
                let (before, after) = before.zip(after).ok_or("the window was not told")?;
                return with_cpu(case, figures, &before, &after);
            }
        }
    }
}

/// Clocks at one end of a window.
struct Clocks {
    time: Instant,
    /// CPU seconds of each process.
    peers: Vec<f64>,
    /// CPU seconds of the whole machine.
    machine: f64,
}

impl Clocks {
    fn read(peers: &[&Peer]) -> Outcome<Self> {
        let machine = system::busy_seconds()?;
        let peers = peers.iter().map(|peer| peer.cpu_seconds()).collect::<Outcome<_>>()?;
        Ok(Self { time: Instant::now(), peers, machine })
    }
}

/// Adds what the processes cost, and what part of the machine others used meanwhile.
fn with_cpu(
    case: &Case,
    mut figures: Figures,
    before: &Clocks,
    after: &Clocks,
) -> Outcome<Figures> {
    let used: Vec<f64> =
        after.peers.iter().zip(&before.peers).map(|(after, before)| after - before).collect();
    let own: f64 = used.iter().sum();
    let seconds = (after.time - before.time).as_secs_f64().max(1e-9);
    let mut add = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    for (name, used) in ["listener_cpu_share", "connector_cpu_share"].into_iter().zip(&used) {
        add(name, used / seconds);
    }
    let machine = seconds * system::cores()?.len() as f64;
    let foreign = (after.machine - before.machine - own).max(0.0);
    add("foreign_cpu_share", foreign / machine);
    let messages = figures.get("messages").copied().unwrap_or(0.0);
    if messages > 0.0 && case.measure != Measure::Memory {
        figures.insert("cpu_s_per_million".to_owned(), own / messages * 1e6);
    }
    Ok(figures)
}

/// Adds what the connections cost the listener.
fn add_memory(figures: &mut Figures, listener: &Peer, before_bytes: u64) -> Outcome {
    let bytes = system::resident_bytes(listener.child.id())?.saturating_sub(before_bytes);
    let connections = figures.get("connections").copied().unwrap_or(1.0);
    figures.insert("bytes_per_connection".to_owned(), bytes as f64 / connections);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> (Peer, Receiver<Word>) {
        let (words, said) = mpsc::channel();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        (Peer::spawn(command, words).unwrap(), said)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_side_that_hangs_did_not_finish_and_is_ended() {
        let (peer, said) = shell("echo bound; exec sleep 600");
        assert_eq!(next(&said, soon()).unwrap(), "bound");
        assert_eq!(next(&said, Instant::now()).unwrap_err().to_string(), UNFINISHED);
        drop(peer);
        assert!(matches!(said.recv_timeout(Duration::from_secs(60)), Ok(Word::End(_))));
    }

    #[test]
    fn a_side_that_ends_early_gives_its_last_complaint_as_the_reason() {
        let (_peer, said) = shell("echo first >&2; echo 'peermq-bench: no room' >&2");
        assert_eq!(next(&said, soon()).unwrap_err().to_string(), "no room");
    }

    #[test]
    fn the_complaint_of_the_silent_side_explains_the_other_s_error() {
        let (_peer, said) = shell("echo broken >&2");
        // Its end must be there: the explanation waits for it only briefly.
        let end = said.recv().unwrap();
        let (words, said) = mpsc::channel();
        words.send(end).unwrap();
        assert_eq!(explained("refused".into(), &said).to_string(), "broken");
        assert_eq!(explained("refused".into(), &said).to_string(), "refused");
    }
}
