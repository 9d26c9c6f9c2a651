//! The ventilator: reads the input and hands it out, in batches of whole lines, to whichever worker has room.

use std::time::{Duration, Instant};

use peermq::{Builder, Context, Endpoint, Push, SendError, Socket, WaitError};

use super::protocol::{End, Report, Totals, Work};
use super::text::{Input, Pieces};
use super::{PROGRESS_INTERVAL, Problem, Times};

/// Bytes that may wait for one worker here; as much again waits in the worker. A worker that dies loses little more
/// than that and the kernel's buffers between the two.
pub(crate) const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// The kernel's own buffers would otherwise hold some megabytes for each worker.
pub(crate) const KERNEL_BUFFER_BYTES: usize = 256 * 1024;

/// The socket that work is handed out by. It binds and the workers connect, so that a queue ends with its worker
/// instead of waiting for one that never returns.
pub(crate) fn socket(context: &Context, times: Times) -> Builder<Push> {
    let builder = context.push().send_hwm_bytes(WAITING_BYTES_MAX);
    builder.kernel_send_buffer(KERNEL_BUFFER_BYTES).send_timeout(times.silence)
}

/// A ventilator at work.
pub(crate) struct Ventilator {
    work: Socket<Push>,
    reports: Socket<Push>,
    times: Times,
    issued: Totals,
    told: Instant,
}

impl Ventilator {
    /// Hands out through `work` and tells the sink.
    pub(crate) fn new(
        context: &Context,
        work: Socket<Push>,
        sink: &Endpoint,
        times: Times,
    ) -> Result<Self, Problem> {
        let reports = context.push().send_timeout(times.silence).connect(sink)?;
        let told = Instant::now();
        Ok(Self { work, reports, times, issued: Totals::default(), told })
    }

    /// Hands out all the input to at least `workers` workers, and tells the sink how much it was, also when it
    /// has to stop early. Returns what it told.
    pub(crate) fn run(mut self, input: &Input, workers: usize) -> Result<End, Problem> {
        let handed_out = self.wait_for(workers).and_then(|()| self.hand_out(input));
        let trouble = handed_out.err().map(|error| error.to_string()).unwrap_or_default();
        // Counters outlive the close; what a close could not deliver is among them.
        let after = self.work.clone();
        let closed = self.work.close(self.times.silence);
        let stats = after.stats();
        let undelivered = stats.dropped_disconnect + stats.dropped_linger;
        debug_assert!(closed.is_ok() || undelivered > 0, "what was not sent is counted");
        let end = End { issued: self.issued, undelivered, trouble };
        self.reports.send(Report::End(end.clone()).into_message())?;
        self.reports.close(self.times.silence)?;
        Ok(end)
    }

    fn wait_for(&mut self, workers: usize) -> Result<(), Problem> {
        let patience = self.times.patience.unwrap_or(Duration::MAX);
        match self.work.wait_for_peers(workers, patience) {
            Ok(()) => eprintln!("wordcount: {workers} workers are there"),
            Err(WaitError::Timeout { present, .. }) if present > 0 => {
                eprintln!("wordcount: only {present} of {workers} workers came; they begin");
            }
            Err(error) => return Err(format!("waiting for workers: {error}").into()),
        }
        self.tell()
    }

    fn hand_out(&mut self, input: &Input) -> Result<(), Problem> {
        for path in input.files() {
            let path = path?;
            let named = |error| format!("{}: {error}", path.display());
            let mut pieces = Pieces::open(&path).map_err(named)?;
            while let Some(piece) = pieces.next_piece().map_err(named)? {
                let bytes = piece.text.len() as u64;
                let (id, lines) = (self.issued.batches, piece.lines);
                self.send(Work { id, lines, text: piece.text.into() })?;
                self.issued.add(Totals { batches: 1, lines, bytes });
                if self.told.elapsed() >= PROGRESS_INTERVAL {
                    self.tell()?;
                }
            }
        }
        // What is still queued may take a while.
        self.tell()
    }

    fn send(&self, work: Work) -> Result<(), Problem> {
        match self.work.send(work.into_message()) {
            Err(SendError::Timeout(_)) => {
                Err(format!("no worker took work for {:?}", self.times.silence).into())
            }
            sent => Ok(sent?),
        }
    }

    /// Tells the sink how much there is so far.
    fn tell(&mut self) -> Result<(), Problem> {
        self.told = Instant::now();
        self.reports.send(Report::Issued(self.issued).into_message())?;
        Ok(())
    }
}
