//! Round trips between a DEALER and a ROUTER on two threads, one message at a time.

#![allow(clippy::expect_used)] // A benchmark that fails has nothing better to do than to stop.

mod common;

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use peermq::{Context, Router, Socket};

use common::{PATIENCE, Payload, TRANSPORTS, criterion};

const SIZES_BYTES: [usize; 4] = [16, 64, 1024, 16384];

fn main() {
    let mut criterion = criterion();
    for (name, endpoint) in TRANSPORTS {
        round_trips(&mut criterion, name, endpoint);
    }
    criterion.final_summary();
}

fn round_trips(criterion: &mut Criterion, transport: &str, endpoint: &str) {
    let context = Context::new();
    let router = context.router().open().expect("a ROUTER");
    let endpoint = router.bind(endpoint).expect("bound");
    let dealer = context.dealer().connect(&endpoint).expect("connected");
    let echo = thread::spawn(move || echo(&router));
    dealer.wait_for_peers(1, PATIENCE).expect("a peer");

    let mut group = criterion.benchmark_group(format!("round-trip/{transport}"));
    for size in SIZES_BYTES {
        let payload = Payload::of_size(size);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|rounds| {
                let start = Instant::now();
                for _ in 0..rounds {
                    dealer.send(payload.message()).expect("sent");
                    black_box(dealer.recv().expect("answered"));
                }
                start.elapsed()
            });
        });
    }
    group.finish();
    context.shutdown();
    echo.join().expect("the echo ended well");
}

/// Sends everything back until the context ends.
fn echo(router: &Socket<Router>) {
    while let Ok(message) = router.recv() {
        if router.send(message).is_err() {
            return;
        }
    }
}
