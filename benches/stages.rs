//! What each stage of a message's path costs by itself: frame, cut, route, match. No locks, threads or I/O.
//!
//! ```sh
//! cargo bench --features stages --bench stages
//! ```

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use peermq::stages::{Cutting, Framing, Lookup, Matching, Picking, Queueing};

const SIZES_BYTES: [usize; 4] = [16, 64, 1024, 4096];
const PEERS: [usize; 3] = [1, 32, 1000];
const TOPICS: [usize; 3] = [1, 1000, 100_000];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    per(&mut criterion, "frame", &SIZES_BYTES, |size| {
        let mut framing = Framing::new(size);
        move || framing.run()
    });
    per(&mut criterion, "cut", &SIZES_BYTES, |size| {
        let mut cutting = Cutting::new(size);
        assert_eq!(cutting.run(), size);
        move || cutting.run()
    });
    per(&mut criterion, "route/pick", &PEERS, |peers| {
        let mut picking = Picking::new(peers);
        move || picking.run()
    });
    per(&mut criterion, "route/look-up", &PEERS, |peers| {
        let mut lookup = Lookup::new(peers);
        assert_eq!(lookup.run(peers - 1), Some(peers as u64 - 1));
        let mut places = (0..peers).cycle();
        move || lookup.run(places.next().unwrap_or(0))
    });
    per(&mut criterion, "route/fair-queue", &PEERS, |peers| {
        let mut queueing = Queueing::new(peers);
        assert_eq!(queueing.run(), Some(99));
        move || queueing.run()
    });
    per(&mut criterion, "match", &TOPICS, |topics| {
        let mut matching = Matching::new(topics);
        assert_eq!(matching.run(), 1, "one subscriber, however many topics there are");
        move || matching.run()
    });
    criterion.final_summary();
}

/// Times one stage, one message at a time, for each parameter.
fn per<T, Run: FnMut() -> T>(
    criterion: &mut Criterion,
    name: &str,
    parameters: &[usize],
    make: impl Fn(usize) -> Run,
) {
    let mut group = criterion.benchmark_group(name);
    for &parameter in parameters {
        let mut run = make(parameter);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(parameter), |bencher| {
            bencher.iter(|| black_box(run()));
        });
    }
    group.finish();
}
