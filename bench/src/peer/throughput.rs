//! Sending and counting as fast as possible: PUSH and PULL, PUB and SUB.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Job, Part, fail_together, finish, tell, tell_bound};
use crate::library::{Body, Library, Receiver, Sender, Spread};
use crate::outcome::Outcome;

/// Messages that one receiver has counted, on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

async fn send_all(mut sender: impl Sender, size: usize) -> Outcome {
    let body = Body::of_size(size);
    loop {
        sender.send(&body).await?;
    }
}

async fn count_all(mut receiver: impl Receiver, size: usize, counter: &Counter) -> Outcome {
    let mut count = 0;
    loop {
        let bytes = receiver.receive(<[u8]>::len).await?;
        if bytes != size {
            return Err(format!("received {bytes} bytes instead of {size}").into());
        }
        count += 1;
        counter.0.store(count, Ordering::Relaxed);
    }
}

/// Waits until every receiver has something, warms up, counts during the window and reports.
fn observe(job: &Job, counters: &[Counter]) -> Outcome {
    let counts =
        || counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
    while counts().contains(&0) {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(job.warm_up);
    tell("start");
    let (begin, before) = (Instant::now(), counts());
    thread::sleep(job.window);
    let (after, seconds) = (counts(), begin.elapsed().as_secs_f64());
    tell("end");
    let each: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let messages = each.iter().sum::<u64>() as f64;
    if messages == 0.0 {
        fail_together(Err("nothing arrived during the window".into()));
    }
    let slowest = each.iter().copied().min().unwrap_or(0) as f64;
    finish(&[
        ("messages", messages),
        ("messages_per_s", messages / seconds),
        ("megabytes_per_s", messages * job.size as f64 / seconds / 1e6),
        ("slowest_of_mean", slowest * each.len() as f64 / messages.max(1.0)),
    ])
}

/// PUSH: connects and sends until the process is ended.
pub(super) fn push<L: Library>(job: &Job) -> Outcome {
    L::run(Spread::Streams, async { send_all(L::push(&job.address).await?, job.size).await })
}

/// PULL: binds, counts on one thread and observes on another.
pub(super) fn pull<L: Library>(job: &Job) -> Outcome {
    let counter = [Counter::default()];
    thread::scope(|scope| {
        scope.spawn(|| {
            fail_together(L::run(Spread::Streams, async {
                let receiver = L::pull(&job.address, &tell_bound).await?;
                count_all(receiver, job.size, &counter[0]).await
            }));
        });
        observe(job, &counter)
    })
}

/// PUB: binds, waits for its subscribers and sends until the process is ended.
pub(super) fn publish<L: Library>(job: &Job) -> Outcome {
    L::run(Spread::Fan, async {
        let sender = L::publish(&job.address, &tell_bound, job.peers).await?;
        send_all(sender, job.size).await
    })
}

/// SUBs: each connects and counts on a thread of its own; one more observes.
pub(super) fn subscribe<L: Library>(job: &Job) -> Outcome {
    let counters: Vec<Counter> = (0..job.peers).map(|_| Counter::default()).collect();
    thread::scope(|scope| {
        for counter in &counters {
            scope.spawn(move || {
                fail_together(L::run(Spread::Streams, async {
                    let receiver = L::subscribe(&job.address).await?;
                    count_all(receiver, job.size, counter).await
                }));
            });
        }
        observe(job, &counters)
    })
}

/// PUSH and PULL as threads of this process, each on its half of the cores.
pub(super) fn push_pull<L: Library>(job: &Job) -> Outcome {
    let counter = [Counter::default()];
    let (bound, is_bound) = mpsc::channel();
    let counters = &counter;
    thread::scope(|scope| {
        scope.spawn(move || {
            let bound = || _ = bound.send(());
            fail_together(L::run(Spread::Streams, async {
                let receiver = L::pull(&job.address, &bound).await?;
                job.settle(Part::First)?;
                count_all(receiver, job.size, &counters[0]).await
            }));
        });
        scope.spawn(move || {
            fail_together(is_bound.recv().map_err(Into::into).and_then(|()| {
                L::run(Spread::Streams, async {
                    let sender = L::push(&job.address).await?;
                    job.settle(Part::Second)?;
                    send_all(sender, job.size).await
                })
            }));
        });
        observe(job, &counter)
    })
}
