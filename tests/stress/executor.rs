//! Who waits: threads that block, and tasks on three executors. Every worker is one future; a blocking one never
//! is pending.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};

/// What a worker does, to its end.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a worker waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A thread of its own, which blocks.
    Blocking,
    /// A task of a tokio runtime with two threads.
    TokioThreads,
    /// A task of a tokio runtime on one thread.
    TokioCurrent,
    /// A task of the executor below, which polls nothing that was not woken.
    HandWritten,
}

/// All styles.
pub(crate) const STYLES: [Style; 4] =
    [Style::Blocking, Style::TokioThreads, Style::TokioCurrent, Style::HandWritten];

/// Starts workers, those of one executor together. The threads end when their workers have ended.
pub(crate) fn launch(works: Vec<(Style, Work)>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    let mut of_style: [Vec<Work>; 4] = Default::default();
    for (style, work) in works {
        of_style[STYLES.iter().position(|known| *known == style).unwrap()].push(work);
    }
    let [blocking, threaded, current, by_hand] = of_style;
    for work in blocking {
        threads.push(std::thread::spawn(move || run_blocking(work)));
    }
    if !threaded.is_empty() {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        threads.push(run_on_tokio(builder.worker_threads(2).build().unwrap(), threaded));
    }
    if !current.is_empty() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        threads.push(run_on_tokio(builder.build().unwrap(), current));
    }
    if !by_hand.is_empty() {
        threads.push(std::thread::spawn(move || run_by_hand(by_hand)));
    }
    threads
}

fn run_blocking(mut work: Work) {
    let polled = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready(), "a blocking worker waited as a task does");
}

fn run_on_tokio(runtime: tokio::runtime::Runtime, works: Vec<Work>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let tasks: Vec<_> = works.into_iter().map(|work| runtime.spawn(work)).collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    })
}

/// Remembers that its task was woken, and gets the executor's thread going.
struct Flag {
    woken: AtomicBool,
    executor: Thread,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.executor.unpark();
    }
}

fn run_by_hand(works: Vec<Work>) {
    let new_flag =
        || Arc::new(Flag { woken: AtomicBool::new(true), executor: std::thread::current() });
    let mut tasks: Vec<_> = works.into_iter().map(|work| (work, new_flag())).collect();
    while !tasks.is_empty() {
        let mut idle = true;
        tasks.retain_mut(|(work, flag)| {
            if !flag.woken.swap(false, Ordering::AcqRel) {
                return true;
            }
            idle = false;
            let waker = Waker::from(Arc::clone(flag));
            matches!(work.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending)
        });
        if idle {
            std::thread::park();
        }
    }
}
