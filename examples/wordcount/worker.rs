//! A worker: counts the words of each batch it gets and reports them, with the numbers of the batches, to the sink.
//!
//! Counts and the numbers of the batches they come from travel in one message, which arrives whole or not at all: a batch
//! is either in the sink's result and in its list, or in neither.

use std::time::{Duration, Instant};

use peermq::{Context, Endpoint, Event, Monitor, Push, RecvError, Socket};

use super::protocol::{Partial, Report, Work};
use super::ventilator::{KERNEL_BUFFER_BYTES, WAITING_BYTES_MAX};
use super::{Problem, Times};

/// A worker without work for this long reports what it has.
const IDLE: Duration = Duration::from_millis(20);
/// A busy worker reports this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// It reports earlier when it holds that many different words: this bounds its memory and the size of a report.
const WORDS_MAX: usize = 50_000;

/// A worker that has shaken hands with the sink.
pub(crate) struct Worker {
    name: String,
    results: Socket<Push>,
    sink_events: Monitor,
    partial: Partial,
    reported: Instant,
}

/// Works until the ventilator closes, then says goodbye.
pub(crate) fn run(
    work: &Endpoint,
    sink: &Endpoint,
    name: String,
    times: Times,
) -> Result<(), Problem> {
    let context = Context::new();
    let mut worker = Worker::start(&context, sink, name, times)?;
    let builder = context.pull().recv_hwm_bytes(WAITING_BYTES_MAX);
    let pull = builder.kernel_recv_buffer(KERNEL_BUFFER_BYTES).open()?;
    let events = pull.monitor();
    pull.connect(work)?;

    let mut closed = false;
    loop {
        // In this order: everything that came before the connection ended is in the socket when the event is.
        closed |= has_disconnected(&events);
        match pull.recv_timeout(IDLE) {
            Ok(message) => {
                match Work::parse(message) {
                    Some(work) => worker.count(&work),
                    None => eprintln!("{}: a message that is no work is ignored", worker.name),
                }
                worker.report_if_due()?;
            }
            Err(RecvError::Timeout) => {
                worker.report()?;
                if closed {
                    return worker.say_goodbye(times);
                }
                if has_disconnected(&worker.sink_events) {
                    return Err("the sink is gone".into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a connection has ended, by the events up to now.
fn has_disconnected(events: &Monitor) -> bool {
    let events = std::iter::from_fn(|| events.try_recv().ok());
    events.filter(|event| matches!(event, Event::Disconnected { .. })).count() > 0
}

impl Worker {
    /// Announces itself to the sink. It takes work only afterwards: the sink knows of every worker that may lose some.
    fn start(
        context: &Context,
        sink: &Endpoint,
        name: String,
        times: Times,
    ) -> Result<Self, Problem> {
        let results = context.push().send_timeout(times.silence).open()?;
        let sink_events = results.monitor();
        results.connect(sink)?;
        results
            .wait_for_peers(1, times.patience.unwrap_or(Duration::MAX))
            .map_err(|error| format!("no sink at {sink}: {error}"))?;
        results.send(Report::Hello { worker: name.clone() }.into_message())?;
        let (partial, reported) = (Partial::default(), Instant::now());
        Ok(Self { name, results, sink_events, partial, reported })
    }

    fn count(&mut self, work: &Work) {
        if !self.partial.add(work) {
            eprintln!("{}: batch {} came twice and is counted once", self.name, work.id);
        }
    }

    fn report_if_due(&mut self) -> Result<(), Problem> {
        let large = self.partial.counts.len() >= WORDS_MAX;
        if large || self.reported.elapsed() >= REPORT_INTERVAL { self.report() } else { Ok(()) }
    }

    /// Sends what was counted since the last report, and forgets it.
    fn report(&mut self) -> Result<(), Problem> {
        self.reported = Instant::now();
        if self.partial.totals.batches == 0 {
            return Ok(());
        }
        let partial = std::mem::take(&mut self.partial);
        let report = Report::Partial { worker: self.name.clone(), partial };
        self.results.send(report.into_message())?;
        Ok(())
    }

    fn say_goodbye(self, times: Times) -> Result<(), Problem> {
        self.results.send(Report::Goodbye { worker: self.name }.into_message())?;
        self.results.close(times.silence)?;
        Ok(())
    }
}
