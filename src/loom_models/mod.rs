//! Models of the crate's threads, run by loom through all their interleavings (up to `LOOM_MAX_PREEMPTIONS`, three unless it
//! is set) on the real code. A lost wake-up shows as a deadlock.
//!
//! Each model has a negative control: the same model with a mistake planted in the code, which it must find.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_`

mod biased;
mod joint;
mod outbox;
mod owner;
mod rendezvous;
mod token;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{self, Fault};

/// Preemptions of one run: more find nothing new in protocols of this size, and take minutes.
const PREEMPTIONS: usize = 3;

/// Operations of one run.
const BRANCHES_MAX: usize = 20_000;

/// Runs the model through all interleavings, with or without a mistake in the code.
fn explore(fault: Option<Fault>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.max_branches = builder.max_branches.max(BRANCHES_MAX);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        sync::begin(fault);
        model();
    });
    println!("{} interleavings", runs.load(Ordering::Relaxed));
}
