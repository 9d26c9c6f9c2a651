//! A chat room: a ROUTER serves DEALERs that have names, across processes.
//!
//! ```sh
//! cargo run --example chat demo                                # a server and two members in one process
//!
//! cargo run --example chat serve tcp://127.0.0.1:5555          # one terminal
//! cargo run --example chat join  tcp://127.0.0.1:5555 alice    # a terminal for each member
//! ```
//!
//! Each line typed goes to everybody else; `/to NAME text` goes to one member. A member's name is its routing id, which the
//! ROUTER sees in the handshake: nobody has to send a name, and no two members can have the same. Who comes and goes the
//! server learns from its socket's monitor, so that also a member whose process is killed is seen leaving.
//!
//! Everything that the server sends is a line of text. Members send `["say", text]` and `["to", name, text]`.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use peermq::{
    Builder, Context, Dealer, Endpoint, Event, Frame, HandshakeFailure, Message, Monitor,
    RecvError, Refusal, Router, SendError, Socket, ToEndpoint,
};

const USAGE: &str = "usage: chat serve ENDPOINT
       chat join ENDPOINT NAME
       chat demo";

/// How long a member that leaves waits until its last lines are sent.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long the members of the demo wait for a line.
const DEMO_PATIENCE: Duration = Duration::from_secs(30);
/// How often a member of the demo looks for a refusal while it waits for its welcome.
const TICK: Duration = Duration::from_millis(20);

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve", endpoint] => serve(endpoint),
        ["join", endpoint, name] => join(endpoint, name),
        ["demo"] => demo(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The server's side of the room. Clones are the same room.
#[derive(Clone)]
struct Room {
    router: Socket<Router>,
    members: Arc<Mutex<BTreeSet<String>>>,
}

impl Room {
    /// Opens a room and returns where it is. Its two threads end with the context.
    fn open(context: &Context, endpoint: impl ToEndpoint) -> Result<Endpoint, Box<dyn Error>> {
        // With `mandatory` a line for a member that has gone is an error instead of vanishing.
        let router = context.router().mandatory(true).open()?;
        let monitor = router.monitor();
        let endpoint = router.bind(endpoint)?;
        let room = Self { router, members: Arc::default() };
        let doors = room.clone();
        thread::spawn(move || doors.watch_doors(&monitor));
        thread::spawn(move || room.pass_messages());
        Ok(endpoint)
    }

    fn members(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces who comes and who goes.
    fn watch_doors(&self, monitor: &Monitor) {
        for event in monitor.iter() {
            match event {
                Event::PeerReady { peer, .. } => {
                    let name = String::from_utf8_lossy(peer.routing_id()).into_owned();
                    self.enter(&name);
                }
                Event::Disconnected { peer: Some(peer), reason, .. } => {
                    let name = String::from_utf8_lossy(peer.routing_id()).into_owned();
                    self.leave(&name, &reason.to_string());
                }
                Event::HandshakeFailed { address, reason, .. } => match reason {
                    HandshakeFailure::Refused(Refusal::DuplicateRoutingId { routing_id }) => {
                        eprintln!("server: refused a second {routing_id} from {address}");
                    }
                    reason => eprintln!("server: {address}: {reason}"),
                },
                _ => {}
            }
        }
    }

    fn enter(&self, name: &str) {
        let others: Vec<String> = self.members().iter().cloned().collect();
        let others = if others.is_empty() { "nobody else".to_owned() } else { others.join(", ") };
        self.members().insert(name.to_owned());
        eprintln!("server: {name} joined");
        self.tell(name, &format!("* welcome, {name}; here: {others}"));
        self.tell_all_but(name, &format!("* {name} joined"));
    }

    fn leave(&self, name: &str, reason: &str) {
        self.members().remove(name);
        eprintln!("server: {name} left: {reason}");
        self.tell_all_but(name, &format!("* {name} left"));
    }

    /// Passes on what members say.
    fn pass_messages(&self) {
        // Ends with the context.
        while let Ok((sender, message)) = self.router.recv_from() {
            let sender = String::from_utf8_lossy(sender.as_slice()).into_owned();
            let text = |frame: &Frame| String::from_utf8_lossy(frame).into_owned();
            match message.frames() {
                [kind, line] if *kind == "say" => {
                    self.tell_all_but(&sender, &format!("{sender}: {}", text(line)));
                }
                [kind, name, line] if *kind == "to" => {
                    let name = text(name);
                    if !self.tell(&name, &format!("{sender} (to you): {}", text(line))) {
                        self.tell(&sender, &format!("* there is no {name} here"));
                    }
                }
                _ => drop(self.tell(&sender, "* the server does not understand")),
            }
        }
    }

    fn tell_all_but(&self, name: &str, line: &str) {
        let others: Vec<String> = self.members().iter().filter(|m| *m != name).cloned().collect();
        for other in others {
            self.tell(&other, line);
        }
    }

    /// Sends a line to one member; false when there is no such member.
    fn tell(&self, name: &str, line: &str) -> bool {
        if name.is_empty() {
            return false;
        }
        // Without waiting: a member that does not read must not hold up the others.
        match self.router.try_send_to(&name.into(), line) {
            Ok(()) => true,
            Err(SendError::Full(_)) => {
                eprintln!("server: {name} does not read; a line for it is dropped");
                true
            }
            Err(_) => false,
        }
    }
}

/// Runs a room until the process is ended.
fn serve(endpoint: &str) -> Outcome {
    let context = Context::new();
    println!("the room is open at {}", Room::open(&context, endpoint)?);
    loop {
        thread::park();
    }
}

/// A socket with a member's name.
fn member(context: &Context, name: &str) -> Builder<Dealer> {
    context.dealer().routing_id(name)
}

/// What a member that has typed this line sends.
fn message_of(line: &str) -> Message {
    match line.strip_prefix("/to ").and_then(|rest| rest.trim_start().split_once(' ')) {
        Some((name, text)) => Message::from(["to", name, text.trim_start()]),
        None => Message::from(["say", line]),
    }
}

/// What can happen to a member, from three threads.
enum Happening {
    Heard(String),
    Typed(String),
    Connection(Box<Event>),
    EndOfInput,
}

/// Takes part in a room: prints what comes and sends what is typed.
fn join(endpoint: &str, name: &str) -> Outcome {
    let context = Context::new();
    let socket = member(&context, name).open()?;
    let monitor = socket.monitor();
    socket.connect(endpoint)?;

    let (sender, happenings) = mpsc::channel();
    let (listener, heard) = (socket.clone(), sender.clone());
    thread::spawn(move || {
        listener.iter().try_for_each(|m| heard.send(Happening::Heard(m.to_text().into_owned())))
    });
    let events = sender.clone();
    thread::spawn(move || {
        monitor.iter().try_for_each(|event| events.send(Happening::Connection(event.into())))
    });
    // What is typed before the room is known waits in the terminal.
    let mut keyboard = Some(sender);
    // That there is no room yet is said once.
    let mut told = false;

    for happening in &happenings {
        match happening {
            Happening::Heard(line) => {
                println!("{line}");
                // The first line is the welcome: the server has taken this member in.
                if let Some(typed) = keyboard.take() {
                    thread::spawn(move || read_keyboard(&typed));
                }
            }
            Happening::Typed(line) if line.trim().is_empty() => {}
            Happening::Typed(line) => socket.send(message_of(&line))?,
            Happening::Connection(event) => {
                let failed = matches!(*event, Event::ConnectFailed { .. });
                if !(failed && told) {
                    see(*event, name, keyboard.is_none())?;
                }
                told |= failed;
            }
            Happening::EndOfInput => break,
        }
    }
    socket.close(FAREWELL)?;
    Ok(())
}

fn read_keyboard(typed: &mpsc::Sender<Happening>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if typed.send(Happening::Typed(line)).is_err() {
            return;
        }
    }
    // Fails only when nobody listens any more.
    let _ = typed.send(Happening::EndOfInput);
}

/// Tells the user what happened to the connection.
///
/// A server that refuses a name closes the connection after the handshake. So a connection that ends before the
/// welcome is a refusal; one that ends later is made again by the socket.
fn see(event: Event, name: &str, welcomed: bool) -> Outcome {
    match event {
        Event::Disconnected { .. } | Event::HandshakeFailed { .. } if !welcomed => {
            Err(refused(name).into())
        }
        Event::Disconnected { reason, .. } => {
            eprintln!("* connection lost ({reason}); trying again");
            Ok(())
        }
        Event::ConnectFailed { endpoint, reason, retry_in: Some(_) } if !welcomed => {
            eprintln!("* no room at {endpoint} yet: {reason}");
            Ok(())
        }
        _ => Ok(()),
    }
}

fn refused(name: &str) -> String {
    format!("the server closed the door: is there another {name} in the room? Choose another name")
}

/// A server and two members with a script, in one process.
fn demo() -> Outcome {
    let context = Context::new();
    let endpoint = Room::open(&context, "tcp://127.0.0.1:*")?;

    let alice = DemoMember::join(&context, &endpoint, "alice")?;
    let bob = DemoMember::join(&context, &endpoint, "bob")?;
    alice.hear()?;

    alice.say("good evening")?;
    bob.hear()?;
    bob.say("/to alice just between us: hello")?;
    alice.hear()?;
    alice.say("/to carol are you there?")?;
    alice.hear()?;

    // The name is taken: the server's monitor names the refusal, the newcomer sees its connection end.
    match DemoMember::join(&context, &endpoint, "bob") {
        Err(error) => println!("second bob is told: {error}"),
        Ok(_) => return Err("two members have the same name".into()),
    }

    bob.socket.close(FAREWELL)?;
    alice.hear()?;
    alice.socket.close(FAREWELL)?;
    Ok(())
}

/// Whether the connection has ended, by the events up to now.
fn has_ended(monitor: &Monitor) -> bool {
    let mut events = std::iter::from_fn(|| monitor.try_recv().ok());
    events.any(|event| matches!(event, Event::Disconnected { .. } | Event::HandshakeFailed { .. }))
}

/// A member that follows a script.
struct DemoMember {
    name: &'static str,
    socket: Socket<Dealer>,
}

impl DemoMember {
    /// Joins and waits for the welcome.
    fn join(
        context: &Context,
        endpoint: &Endpoint,
        name: &'static str,
    ) -> Result<Self, Box<dyn Error>> {
        // One attempt is enough here: the server is there.
        let socket = member(context, name).reconnect(false).recv_timeout(DEMO_PATIENCE).open()?;
        let monitor = socket.monitor();
        socket.connect(endpoint)?;
        // The welcome or the end of the connection, whichever comes first.
        loop {
            match socket.recv_timeout(TICK) {
                Ok(welcome) => {
                    println!("{name:<5} hears: {}", welcome.to_text());
                    return Ok(Self { name, socket });
                }
                Err(RecvError::Timeout) if has_ended(&monitor) => return Err(refused(name).into()),
                Err(RecvError::Timeout) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn say(&self, line: &str) -> Outcome {
        println!("{:<5} types: {line}", self.name);
        self.socket.send(message_of(line))?;
        Ok(())
    }

    /// Waits for a line and prints it.
    fn hear(&self) -> Outcome {
        println!("{:<5} hears: {}", self.name, self.socket.recv()?.to_text());
        Ok(())
    }
}
