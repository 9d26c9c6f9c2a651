//! How long a message takes: round trips in a closed loop.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::{Job, Part, fail_together, finish, tell, tell_bound};
use crate::library::{Body, Echo, Library, Receiver, Sender, Spread};
use crate::outcome::Outcome;

/// Most samples of one measurement; what comes after is not kept.
const SAMPLES_MAX: usize = 16 << 20;

async fn echo_all(mut echo: impl Echo) -> Outcome {
    loop {
        echo.echo().await?;
    }
}

async fn round_trips(mut dealer: impl Sender + Receiver, job: &Job) -> Outcome {
    let body = Body::of_size(job.size);
    let mut times_ns: Vec<u32> = Vec::with_capacity(1 << 20);
    round_trip(&mut dealer, &body).await?;
    let mut last = Instant::now();
    let warm = last + job.warm_up;
    while last < warm {
        round_trip(&mut dealer, &body).await?;
        last = Instant::now();
    }
    tell("start");
    last = Instant::now();
    let begin = last;
    while last - begin < job.window && times_ns.len() < SAMPLES_MAX {
        round_trip(&mut dealer, &body).await?;
        let now = Instant::now();
        times_ns.push(u32::try_from((now - last).as_nanos()).unwrap_or(u32::MAX));
        last = now;
    }
    tell("end");
    let seconds = (last - begin).as_secs_f64();
    let mut figures = quantiles(&mut times_ns);
    figures.push(("messages", times_ns.len() as f64));
    figures.push(("round_trips_per_s", times_ns.len() as f64 / seconds));
    finish(&figures)
}

#[inline]
async fn round_trip(dealer: &mut (impl Sender + Receiver), body: &Body) -> Outcome {
    dealer.send(body).await?;
    dealer.flush().await?;
    let bytes = dealer.receive(<[u8]>::len).await?;
    if bytes == body.bytes.len() {
        return Ok(());
    }
    Err(format!("received {bytes} bytes instead of {}", body.bytes.len()).into())
}

/// Quantiles in microseconds.
pub(super) fn quantiles(times_ns: &mut [u32]) -> Vec<(&'static str, f64)> {
    times_ns.sort_unstable();
    let at = |fraction: f64| {
        let rank = (times_ns.len() as f64 * fraction).ceil() as usize;
        f64::from(times_ns.get(rank.saturating_sub(1)).copied().unwrap_or(0)) / 1e3
    };
    vec![
        ("p50_us", at(0.5)),
        ("p90_us", at(0.9)),
        ("p99_us", at(0.99)),
        ("p999_us", at(0.999)),
        ("max_us", at(1.0)),
    ]
}

/// ROUTER: binds and echoes until the process is ended.
pub(super) fn router<L: Library>(job: &Job) -> Outcome {
    let spread = if job.peers == 1 { Spread::Turns } else { Spread::Streams };
    L::run(spread, async { echo_all(L::router(&job.address, &tell_bound, job.peers).await?).await })
}

/// DEALER: connects and makes round trips.
pub(super) fn dealer<L: Library>(job: &Job) -> Outcome {
    L::run(Spread::Turns, async { round_trips(L::dealer(&job.address).await?, job).await })
}

/// DEALER and ROUTER as threads of this process, each on its half of the cores.
pub(super) fn dealer_router<L: Library>(job: &Job) -> Outcome {
    let (bound, is_bound) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let bound = || _ = bound.send(());
            fail_together(L::run(Spread::Streams, async {
                let router = L::router(&job.address, &bound, 1).await?;
                job.settle(Part::First)?;
                echo_all(router).await
            }));
        });
        is_bound.recv()?;
        L::run(Spread::Streams, async {
            let dealer = L::dealer(&job.address).await?;
            job.settle(Part::Second)?;
            round_trips(dealer, job).await
        })
    })
}
