//! What the sink found: the top words, and a clear account of what is missing.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Duration;

use super::protocol::{End, Ids, Totals};
use super::text::Counts;

/// The result, and everything needed to judge it.
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    pub(crate) words: u64,
    /// What the ventilator said it had handed out.
    pub(crate) issued: Totals,
    pub(crate) reported: Totals,
    pub(crate) lost_ids: Ids,
    pub(crate) workers: Vec<WorkerOutcome>,
    /// The ventilator's last word; `None` when it went, or fell silent, without one.
    pub(crate) end: Option<End>,
    pub(crate) silence: Duration,
    /// From the first batch to the last report.
    pub(crate) seconds: f64,
}

/// What became of one worker.
pub(crate) struct WorkerOutcome {
    pub(crate) name: String,
    pub(crate) end: WorkerEnd,
    pub(crate) reported: Totals,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerEnd {
    /// It had reported everything.
    Goodbye,
    /// Its connection ended without a goodbye.
    Gone,
    /// It is connected, and says nothing.
    Silent,
}

impl Outcome {
    /// Whether all of the input is in the counts.
    pub(crate) fn is_complete(&self) -> bool {
        self.lost_ids.len() == 0 && self.end.as_ref().is_some_and(|end| end.trouble.is_empty())
    }

    /// The most frequent words and the rate. Words of equal frequency come in the order of the alphabet.
    pub(crate) fn summary(&self, top: usize) -> String {
        let mut order: Vec<_> = self.counts.iter().collect();
        order.sort_unstable_by_key(|&(word, &count)| (Reverse(count), word));
        let mut text = String::new();
        for (word, count) in order.into_iter().take(top) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{count:>10}  {word}");
        }
        let mb = self.reported.bytes as f64 / 1e6;
        let rate = mb / self.seconds.max(1e-9);
        let _ = write!(
            text,
            "{} words, {} different; {} lines, {mb:.1} MB in {:.2} s, {rate:.1} MB/s, {} workers",
            self.words,
            self.counts.len(),
            self.reported.lines,
            self.seconds,
            self.workers.len(),
        );
        text
    }

    /// What is missing and whose it was; for an incomplete outcome.
    pub(crate) fn account(&self) -> String {
        let lost = self.issued.without(self.reported);
        let mut lines = vec!["INCOMPLETE: the counts do not cover all of the input".to_owned()];
        match &self.end {
            None => lines.push(format!(
                "the ventilator went without its last word; it had handed out at least {}",
                self.issued
            )),
            Some(end) if !end.trouble.is_empty() => {
                lines.push(format!("the ventilator stopped early: {}", end.trouble));
            }
            Some(_) => {}
        }
        if self.lost_ids.len() > 0 {
            lines.push(format!("lost: {lost} handed out and not reported back"));
            lines.push(format!("lost batches: {}", self.lost_ids));
            lines.push(format!("handed to: {}", self.suspects()));
        }
        if let Some(End { undelivered: undelivered @ 1.., .. }) = self.end {
            lines.push(format!("{undelivered} of them had not left the ventilator's queue"));
        }
        for worker in &self.workers {
            let end = match worker.end {
                WorkerEnd::Goodbye => "finished",
                WorkerEnd::Gone => "gone without a goodbye",
                WorkerEnd::Silent => &format!("connected, but silent for {:?}", self.silence),
            };
            lines.push(format!("{}: {end}; reported {}", worker.name, worker.reported));
        }
        lines.join("\nwordcount:   ")
    }

    /// Who had the lost batches: PUSH chooses the worker, so with several the ventilator does not know which.
    fn suspects(&self) -> String {
        let unfinished = self.workers.iter().filter(|worker| worker.end != WorkerEnd::Goodbye);
        let names: Vec<&str> = unfinished.map(|worker| worker.name.as_str()).collect();
        match names.as_slice() {
            [] => "no worker that the sink has heard of".to_owned(),
            [only] => (*only).to_owned(),
            several => format!("one of {}", several.join(", ")),
        }
    }
}
