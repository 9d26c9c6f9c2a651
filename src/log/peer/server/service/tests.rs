//! Clients that do not read what they are answered.

use std::thread;

use super::*;
use crate::Context as Sockets;
use crate::log::LogServer;
use crate::log::options::TopicOptions;
use crate::log::peer::protocol::{Fetch, NO_EPOCH};
use crate::log::storage::MemoryStorage;
use crate::pattern::Dealer;

const PATIENCE: Duration = Duration::from_secs(60);
const WAIT_MS: u32 = 3_600_000;

fn log() -> Log {
    let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
    log.create_topic("t", TopicOptions::default()).unwrap();
    log
}

fn send(client: &Socket<Dealer>, correlation: u64, request: impl Into<Request>) {
    let request = request.into();
    client.send(protocol::encode_request(correlation, &request, Vec::new())).unwrap();
}

fn poll() -> Fetch {
    Fetch {
        topic: "t".to_owned(),
        partition: 0,
        offset: 0,
        last_epoch: NO_EPOCH,
        bytes_max: 1 << 20,
        bytes_min: 1,
        wait_ms: WAIT_MS,
        durable_only: false,
        topic_id: None,
    }
}

#[test]
fn what_a_client_asks_behind_polls_of_its_own_does_not_wait_for_them() {
    let log = log();
    let context = Sockets::new();
    // Whatever is not sent is too much.
    let options = LogServer::options().answer_bytes_max(1).wait_max(Duration::from_secs(3600));
    let server = options.bind(&context, &log, "inproc://log").unwrap();
    let client = context.dealer().recv_hwm(1).open().unwrap();
    client.connect(server.endpoint().clone()).unwrap();
    let ask = |correlation| send(&client, correlation, protocol::ListTopics(Nothing {}));
    let taken = |count| {
        let begun = now();
        while server.stats().requests < count {
            assert!(begun.elapsed() < PATIENCE, "not all were taken");
            thread::yield_now();
        }
    };
    (0..20).for_each(ask);
    taken(20);
    (20..24).for_each(|correlation| send(&client, correlation, poll()));
    ask(24);
    taken(25);
    let answers = (0..21).map(|_| {
        let answer = client.recv_timeout(PATIENCE).expect("it waits for polls");
        protocol::decode_answer(&answer).unwrap().0
    });
    let answers: BTreeSet<u64> = answers.collect();
    assert!(answers.into_iter().eq((0..20).chain([24])));
}
