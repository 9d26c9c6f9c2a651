//! Publish and subscribe with prefixes: stations publish readings, each subscriber gets the topics it asked for.
//!
//! ```sh
//! cargo run --example weather                                        # both sides in one process, ends by itself
//!
//! cargo run --example weather publish tcp://127.0.0.1:5556           # one terminal
//! cargo run --example weather subscribe tcp://127.0.0.1:5556 berlin/ lima/temperature   # another
//! ```
//!
//! A message is two frames: the topic, such as `berlin/temperature`, and the reading. A subscription matches every
//! topic that begins with it; without a prefix everything comes. The publisher keeps nothing: who subscribes late gets
//! the readings from then on.

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use peermq::{Context, Endpoint, Message, Pub, Socket, Sub};

const USAGE: &str = "usage: weather
       weather publish ENDPOINT
       weather subscribe ENDPOINT [PREFIX..]";

/// Readings that the run in one process takes at each station.
const DEMO_HOURS: u32 = 3;
/// The topic that tells the subscribers of the run in one process that it is over.
const END: &str = "end";
/// How long the two sides of the run in one process wait for each other.
const DEMO_PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] => demo(),
        ["publish", endpoint] => publish(endpoint),
        ["subscribe", endpoint, prefixes @ ..] => subscribe(endpoint, prefixes),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weather: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Publishes a round of readings each second until the process is ended.
fn publish(endpoint: &str) -> Result<(), Box<dyn Error>> {
    let context = Context::new();
    let publisher = context.publish().open()?;
    println!("publishing at {}", publisher.bind(endpoint)?);
    for hour in 0.. {
        publish_hour(&publisher, hour)?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Prints the readings whose topic begins with one of the prefixes until the process is ended.
fn subscribe(endpoint: &str, prefixes: &[&str]) -> Result<(), Box<dyn Error>> {
    let context = Context::new();
    let subscriber = context.subscribe().connect(endpoint)?;
    if prefixes.is_empty() {
        subscriber.subscribe("")?;
    }
    for prefix in prefixes {
        subscriber.subscribe(prefix)?;
    }
    for message in subscriber.iter() {
        println!("{}", line(&message));
    }
    Ok(())
}

/// Both sides in one process: a publisher and two subscribers with different prefixes.
fn demo() -> Result<(), Box<dyn Error>> {
    let context = Context::new();
    let publisher = context.publish().open()?;
    let endpoint = publisher.bind("tcp://127.0.0.1:*")?;
    let subscribers = [
        demo_subscriber(&context, &endpoint, "berlin/")?,
        demo_subscriber(&context, &endpoint, "lima/temperature")?,
    ];
    let readers = subscribers.map(|subscriber| thread::spawn(move || read_until_end(&subscriber)));

    // A publisher drops what nobody has subscribed to yet.
    publisher.wait_for_subscribers(2, DEMO_PATIENCE)?;
    for hour in 0..DEMO_HOURS {
        publish_hour(&publisher, hour)?;
    }
    publisher.send(END)?;

    for reader in readers {
        for line in reader.join().map_err(|_| "a subscriber's thread panicked")?? {
            println!("{line}");
        }
    }
    Ok(())
}

fn demo_subscriber(
    context: &Context,
    endpoint: &Endpoint,
    prefix: &str,
) -> Result<Socket<Sub>, Box<dyn Error>> {
    let builder = context.subscribe().topic(prefix).topic(END).recv_timeout(DEMO_PATIENCE);
    Ok(builder.connect(endpoint)?)
}

/// The lines of all readings up to the end.
fn read_until_end(subscriber: &Socket<Sub>) -> Result<Vec<String>, peermq::RecvError> {
    let mut lines = Vec::new();
    loop {
        let message = subscriber.recv()?;
        if message.body() == END.as_bytes() {
            return Ok(lines);
        }
        lines.push(line(&message));
    }
}

/// Publishes what every station reads in one hour.
fn publish_hour(publisher: &Socket<Pub>, hour: u32) -> Result<(), Box<dyn Error>> {
    for (station, base_celsius) in [("berlin", 9.0), ("lima", 19.0), ("nairobi", 17.0)] {
        // A day of 24 readings: coldest at its start, eight degrees warmer at noon.
        let daytime = f64::from(hour % 24) / 24.0 * std::f64::consts::TAU;
        let warmth = (1.0 - daytime.cos()) / 2.0;
        let celsius = base_celsius + 8.0 * warmth;
        let humidity_percent = 80.0 - 30.0 * warmth;
        let temperature = [format!("{station}/temperature"), format!("{celsius:.1} C")];
        let humidity = [format!("{station}/humidity"), format!("{humidity_percent:.0} %")];
        publisher.send(temperature)?;
        publisher.send(humidity)?;
    }
    Ok(())
}

/// A reading as one line of text.
fn line(message: &Message) -> String {
    let reading = message.get(1).map(|frame| String::from_utf8_lossy(frame)).unwrap_or_default();
    format!("{:<20} {reading}", message.to_text())
}
