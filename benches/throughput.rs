//! Streams: one PUSH to one PULL, and one PUB to 1 and 8 SUBs that lose nothing.
//!
//! Each sample is a whole stream, timed from its first send to the last receiver's last message.

#![allow(clippy::expect_used)] // A benchmark that fails has nothing better to do than to stop.

mod common;

use std::hint::black_box;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use peermq::{CanReceive, CanSend, Context, Socket};

use common::{PATIENCE, Payload, TRANSPORTS, criterion};

const SIZES_BYTES: [usize; 5] = [16, 64, 1024, 16384, 131_072];
const SUBSCRIBERS: [usize; 2] = [1, 8];

fn main() {
    let mut criterion = criterion();
    for (name, endpoint) in TRANSPORTS {
        one_way(&mut criterion, name, endpoint);
        for subscribers in SUBSCRIBERS {
            fan_out(&mut criterion, name, endpoint, subscribers);
        }
    }
    criterion.final_summary();
}

fn one_way(criterion: &mut Criterion, transport: &str, endpoint: &str) {
    let context = Context::new();
    let pull = context.pull().open().expect("a PULL");
    let endpoint = pull.bind(endpoint).expect("bound");
    let push = context.push().connect(&endpoint).expect("connected");
    push.wait_for_peers(1, PATIENCE).expect("a peer");
    let receivers = vec![Receiving::start(pull)];
    measure(criterion, &format!("one-way/{transport}"), &push, &receivers);
}

fn fan_out(criterion: &mut Criterion, transport: &str, endpoint: &str, subscribers: usize) {
    let context = Context::new();
    let publisher = context.publish().no_drop(true).open().expect("a PUB");
    let endpoint = publisher.bind(endpoint).expect("bound");
    let subscribe = |_| context.subscribe().topic("").connect(&endpoint).expect("connected");
    let receivers: Vec<_> = (0..subscribers).map(subscribe).map(Receiving::start).collect();
    publisher.wait_for_subscribers(subscribers, PATIENCE).expect("all subscribers");
    measure(criterion, &format!("fan-out-{subscribers}/{transport}"), &publisher, &receivers);
}

fn measure<P: CanSend>(
    criterion: &mut Criterion,
    name: &str,
    sender: &Socket<P>,
    receivers: &[Receiving],
) {
    let mut group = criterion.benchmark_group(name);
    for size in SIZES_BYTES {
        let payload = Payload::of_size(size);
        let elements = receivers.len() as u64;
        let bytes = elements * size as u64;
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|messages| stream(sender, receivers, &payload, messages));
        });
    }
    group.finish();
}

/// Sends one stream and waits until every receiver has all of it.
fn stream<P: CanSend>(
    sender: &Socket<P>,
    receivers: &[Receiving],
    payload: &Payload,
    messages: u64,
) -> Duration {
    receivers.iter().for_each(|receiver| receiver.expect(messages));
    let start = Instant::now();
    for _ in 0..messages {
        sender.send(payload.message()).expect("sent");
    }
    receivers.iter().for_each(Receiving::wait);
    start.elapsed()
}

/// A receiver on a thread of its own, which ends with this value.
struct Receiving {
    wanted: Sender<u64>,
    done: Receiver<()>,
}

impl Receiving {
    fn start<P: CanReceive>(socket: Socket<P>) -> Self {
        let (wanted, orders) = mpsc::channel::<u64>();
        let (report, done) = mpsc::channel();
        thread::spawn(move || {
            for messages in orders {
                for _ in 0..messages {
                    black_box(socket.recv().expect("received"));
                }
                if report.send(()).is_err() {
                    return;
                }
            }
        });
        Self { wanted, done }
    }

    /// Has the thread receive that many messages.
    fn expect(&self, messages: u64) {
        self.wanted.send(messages).expect("the receiver's thread is there");
    }

    /// Waits until it has them.
    fn wait(&self) {
        self.done.recv().expect("the receiver's thread is there");
    }
}
