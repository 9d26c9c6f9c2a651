//! Request and reply between two threads: a DEALER asks, a ROUTER answers.
//!
//! ```sh
//! cargo run --example hello
//! ```

use std::error::Error;
use std::thread;
use std::time::Duration;

use peermq::{Context, Endpoint, RecvError, Router, Socket};

fn main() -> Result<(), Box<dyn Error>> {
    let context = Context::new();
    let router = context.router().open()?;
    // Port `*` is any free one; `bind` returns the endpoint with the port that it got.
    let endpoint = router.bind("tcp://127.0.0.1:*")?;
    let server = thread::spawn(move || answer(&router).map_err(|error| error.to_string()));

    ask(&context, &endpoint)?;

    // Ends the server's `recv_from`; what was sent before still goes out.
    context.shutdown();
    server.join().map_err(|_| "the server thread panicked")??;
    Ok(())
}

/// Answers every request until the context ends.
fn answer(router: &Socket<Router>) -> Result<(), Box<dyn Error>> {
    loop {
        match router.recv_from() {
            // The routing id names the peer that asked: the answer goes back to that one.
            Ok((peer, request)) => {
                router.send_to(&peer, format!("hello, {}", request.to_text()))?;
            }
            Err(RecvError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks three times and prints the exchange.
fn ask(context: &Context, endpoint: &Endpoint) -> Result<(), Box<dyn Error>> {
    let dealer = context.dealer().recv_timeout(Duration::from_secs(30)).connect(endpoint)?;
    for name in ["Berlin", "Lima", "Nairobi"] {
        dealer.send(name)?;
        let reply = dealer.recv()?;
        println!("asked: {name:<8} answered: {}", reply.to_text());
    }
    Ok(())
}
