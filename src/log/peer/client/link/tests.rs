//! What becomes of requests that nobody waits for any more.

use super::*;
use crate::log::LogClient;
use crate::log::format::Id;
use crate::log::peer::protocol::{
    Acquire, Acquired, Done, Fetched, ListGroups, ListTopics, Nothing, WireDelivery,
};
use crate::log::read::Position;
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

/// More than the calls that may be in flight: they wait at the server, and nobody waits for them.
#[test]
fn requests_that_wait_at_the_server_keep_no_other_from_being_asked() {
    let context = Context::new();
    let server = serve(&context);
    let client = LogClient::connect(&context, ENDPOINT).unwrap();
    let deadline = now().checked_add(PATIENCE);
    let acquire = || Acquire { queue: "q".to_owned(), count_max: 1, lock_ms: 1, wait_ms: u32::MAX };
    let begin = |request: Request| client.core().begin(request, Vec::new(), deadline).unwrap();
    let waiting: Vec<_> = (0..2 * CALLS_MAX).map(|_| begin(acquire().into())).collect();
    let _asked = begin(ListTopics(Nothing {}).into());
    (0..waiting.len()).for_each(|_| assert!(next(&server).waits()));
    assert!(matches!(next(&server), Request::ListTopics(_)));
}

#[test]
fn a_request_that_was_never_sent_is_told_apart_from_one_without_an_answer() {
    let context = Context::new();
    let client = LogClient::connect(&context, ENDPOINT).unwrap();
    let unsent = ask(&client, ListGroups(Nothing {}));
    let error = unsent.wait(Some(now())).unwrap_err();
    assert!(matches!(error, PeerError::NotSent { .. }), "{error}");
    let server = serve(&context);
    let sent = ask(&client, ListTopics(Nothing {}));
    assert!(matches!(next(&server), Request::ListTopics(_)));
    let error = sent.wait(Some(now())).unwrap_err();
    assert!(matches!(error, PeerError::Timeout { .. }), "{error}");
}

#[test]
fn a_request_that_was_never_sent_says_what_was_wrong_with_the_connection() {
    let context = Context::new();
    // Nobody listens at a port that this socket keeps.
    let kept = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    kept.bind(&any.into()).unwrap();
    let endpoint = format!("tcp://{}", kept.local_addr().unwrap().as_socket().unwrap());
    let client = LogClient::connect(&context, &endpoint[..]).unwrap();
    let until = now() + PATIENCE;
    loop {
        let error = ask(&client, ListTopics(Nothing {})).wait(Some(now())).unwrap_err();
        let PeerError::NotSent { reason, .. } = error else { panic!("{error}") };
        if reason.contains("refused") {
            return;
        }
        assert!(now() < until, "{reason}");
        std::thread::yield_now();
    }
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    let client = LogClient::connect(&Context::new(), ENDPOINT).unwrap();
    let asked = || Asked::append("t", 3);
    assert_eq!(client.core().first_of(asked, i64::MAX - 3, 3).unwrap(), i64::MAX - 3);
    let error = client.core().first_of(asked, i64::MAX - 3, 4).unwrap_err();
    assert!(matches!(error, PeerError::BadAnswer { .. }), "{error}");
}

/// What a client says of these answers to its next request.
fn said<T: Send + std::fmt::Debug>(
    reply: impl Into<Reply>,
    ask: impl FnOnce(LogClient) -> Result<T, PeerError> + Send,
) -> String {
    let context = Context::new();
    let server = context.router().mandatory(true).open().unwrap();
    server.bind(ENDPOINT).unwrap();
    let client = LogClient::options().timeout(PATIENCE).connect(&context, ENDPOINT).unwrap();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(client));
        let (from, message) = server.recv_from_timeout(PATIENCE).unwrap();
        let (correlation, ..) = protocol::decode_request(&message).unwrap();
        let answer = protocol::encode_answer(correlation, &Ok(reply.into()));
        server.send_to(&from, answer).unwrap();
        asking.join().unwrap().unwrap_err().to_string()
    })
}

#[test]
fn an_answer_that_makes_no_sense_is_named_by_what_was_asked() {
    let ends = Fetched {
        earliest: 0,
        end: 20,
        durable_end: 20,
        incarnation: 0,
        next_offset: 20,
        last_epoch: 0,
        topic_id: Id::from_bits(7),
    };
    let damaged = || vec![Bytes::from_static(&[7; 100])];
    let read = |client: LogClient| {
        client.read("t", 3, Position::Offset(9))?.next().map_or(Ok(()), |record| record.map(drop))
    };
    let fetched = Reply { answer: ends.into(), body: damaged() };
    let text = said(fetched, read);
    assert!(text.contains("Fetch for topic t, partition 3, offset 9: "), "{text}");
    let text = said(Done(Nothing {}), read);
    assert!(text.contains("Fetch for topic t, partition 3, offset 9: it is Done"), "{text}");
    let text = said(Done(Nothing {}), |client| client.describe("t"));
    assert!(text.contains("DescribeTopic for topic t: it is Done"), "{text}");
    let deliveries =
        vec![WireDelivery { partition: 2, offset: 5, attempt: 1, topic: Id::from_bits(1) }];
    let acquired = Reply { answer: Acquired { deliveries }.into(), body: damaged() };
    let acquire = |client: LogClient| client.queue("q").acquire(1, PATIENCE, Duration::ZERO);
    let text = said(acquired, acquire);
    assert!(text.contains("Acquire for queue q, partition 2, offset 5: "), "{text}");
}
