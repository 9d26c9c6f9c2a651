//! What becomes of requests that nobody waits for any more.

use super::*;
use crate::log::LogClient;
use crate::log::peer::protocol::{ListGroups, ListTopics, Nothing};
use crate::pattern::Router;

const PATIENCE: Duration = Duration::from_secs(60);
const ENDPOINT: &str = "inproc://log";

fn ask(client: &LogClient, request: impl Into<Request>) -> Pending {
    client.core().begin_task(&request.into(), Vec::new()).unwrap()
}

fn serve(context: &Context) -> Socket<Router> {
    let server = context.router().open().unwrap();
    server.bind(ENDPOINT).unwrap();
    server
}

fn next(server: &Socket<Router>) -> Request {
    let (_, message) = server.recv_from_timeout(PATIENCE).unwrap();
    protocol::decode_request(&message).unwrap().1
}

#[test]
fn a_request_that_is_given_up_before_there_is_a_connection_is_never_sent() {
    let context = Context::new();
    let client = LogClient::connect(&context, ENDPOINT).unwrap();
    let given_up = ask(&client, ListGroups(Nothing {}));
    // What comes first is sent first.
    let _wanted = ask(&client, ListTopics(Nothing {}));
    drop(given_up);
    let request = next(&serve(&context));
    assert!(matches!(request, Request::ListTopics(_)), "{request:?}");
}

#[test]
fn a_request_that_is_given_up_is_not_sent_again_over_the_next_connection() {
    let context = Context::new();
    let server = serve(&context);
    let client = LogClient::connect(&context, ENDPOINT).unwrap();
    let given_up = ask(&client, ListGroups(Nothing {}));
    let _wanted = ask(&client, ListTopics(Nothing {}));
    assert!(matches!(next(&server), Request::ListGroups(_)));
    drop(given_up);
    server.close(Duration::ZERO).unwrap();
    let request = next(&serve(&context));
    assert!(matches!(request, Request::ListTopics(_)), "{request:?}");
}
