//! Stress: every combination of waiters, sockets, transports and I/O threads, with random pauses, timeouts and dropped
//! futures. Everything accepted arrives once and in order, and nothing ever stands still.
//!
//! `cargo test --test stress` runs some combinations for about ten seconds. `PEERMQ_STRESS_SECONDS` sets another time,
//! `PEERMQ_STRESS_SEED` draws the same combinations again, and `PEERMQ_STRESS_ONLY` keeps to those whose description
//! contains all its words (with `-- --nocapture`, rounds that were slow are described).
// A failed expectation is what a test reports.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "stress/chance.rs"]
mod chance;
#[path = "stress/combination.rs"]
mod combination;
#[path = "stress/executor.rs"]
mod executor;
#[path = "stress/ledger.rs"]
mod ledger;
#[path = "stress/round.rs"]
mod round;
#[path = "stress/worker.rs"]
mod worker;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chance::Chance;
use combination::{Combination, Draw};
use executor::launch;
use round::Round;

/// Nothing that goes on at all takes that long, on no machine.
const STALL: Duration = Duration::from_secs(60);

/// A round in which nothing went on for that long is named in the output.
const SLOW: Duration = Duration::from_millis(20);

/// How often the round's progress is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// `stem` with a number that nothing else in this process uses.
fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

#[test]
fn waiters_of_every_kind_never_stand_still_and_lose_nothing() {
    let seed = number_from_environment("PEERMQ_STRESS_SEED")
        .unwrap_or_else(|| RandomState::new().hash_one(0));
    let seconds = number_from_environment("PEERMQ_STRESS_SECONDS").unwrap_or(10);
    let only = std::env::var("PEERMQ_STRESS_ONLY").unwrap_or_default();
    println!("PEERMQ_STRESS_SEED={seed}");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut chance = Chance::new(seed);
    let mut combinations = Combination::all();
    combinations
        .retain(|one| only.split_whitespace().all(|word| format!("{one:?}").contains(word)));
    assert!(!combinations.is_empty(), "no combination is called {only:?}");
    let (mut rounds, mut slowest) = (0_usize, (Duration::ZERO, String::new()));
    while Instant::now() < end {
        chance.shuffle(&mut combinations);
        for &combination in &combinations {
            if Instant::now() >= end {
                break;
            }
            let mut chance = Chance::new(chance.next());
            let draw = Draw::new(combination, &mut chance);
            let what = format!("seed {seed}, round {rounds}: {combination:?} {draw:?}");
            let gap = run(combination, draw, chance, &what);
            rounds += 1;
            if gap > SLOW {
                println!("{gap:?} without progress: {what}");
            }
            if gap > slowest.0 {
                slowest = (gap, what);
            }
        }
    }
    println!("{rounds} rounds of {} combinations", combinations.len());
    println!("longest time without progress: {:?} in {}", slowest.0, slowest.1);
}

/// Runs one round to its end and returns the longest time in which nothing went on.
fn run(combination: Combination, draw: Draw, chance: Chance, what: &str) -> Duration {
    let mut round = Round::new(combination, draw, chance);
    let threads = launch(std::mem::take(&mut round.works));
    let mut slowest = Duration::ZERO;
    // Time is counted in looks, so that a pause of the whole machine is not taken for a stall.
    let (mut idle, mut steps) = (Duration::ZERO, 0);
    while !round.ledger.is_complete() {
        std::thread::park_timeout(LOOK);
        if let Some(failure) = round.ledger.failure() {
            give_up(round, what, &failure);
        }
        let now_steps = round.ledger.progress();
        idle = if now_steps == steps { idle + LOOK } else { Duration::ZERO };
        slowest = slowest.max(idle);
        steps = now_steps;
        if idle > STALL {
            give_up(round, what, "stall: work is outstanding and nothing goes on");
        }
    }
    round.shutdown();
    if !end_within_time(threads) {
        give_up(round, what, "workers panicked or still waited on closed sockets");
    }
    if let Some(failure) = round.ledger.failure() {
        give_up(round, what, &failure);
    }
    round.probes.clear();
    let contexts = round.into_contexts();
    let last = std::thread::spawn(move || drop(contexts));
    assert!(end_within_time(vec![last]), "{what}\nthe context's end took too long");
    slowest
}

/// Whether all threads end, without a panic, before that counts as a stall.
fn end_within_time(threads: Vec<JoinHandle<()>>) -> bool {
    let deadline = Instant::now() + STALL;
    while !threads.iter().all(JoinHandle::is_finished) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(LOOK);
    }
    threads.into_iter().all(|thread| thread.join().is_ok())
}

/// Reports and panics. The sockets stay as they are: whoever waits on them may wait for ever.
fn give_up(round: Round, what: &str, why: &str) -> ! {
    let mut text = format!("{what}\n{why}\narrived: {}", round.ledger.report());
    for (name, probe) in &round.probes {
        text += &format!("\n{name} {:?}", probe());
    }
    std::mem::forget(round);
    panic!("{text}");
}
