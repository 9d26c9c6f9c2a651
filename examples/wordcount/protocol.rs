//! What the processes say to each other. All of it is text, so that it can be read in a packet dump.
//!
//! ```text
//! ventilator -> worker   ["17 240"            , text]    batch 17 begins 240 lines
//! worker -> sink         ["hello"             , name]
//!                        ["partial"           , name, "0-4,17", "1200 163840 25000", "the 870\nof 512\n.."]
//!                        ["goodbye"           , name]
//! ventilator -> sink     ["issued"            , "18 4310 589824"]     so far
//!                        ["end"               , "18 4310 589824", "0", ""]
//! ```

use std::collections::BTreeMap;
use std::fmt;

use peermq::{Frame, Message};

use super::text::{Counts, count_words};

/// A batch of lines on its way to a worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Its number: 0, 1, 2, ..
    pub(crate) id: u64,
    /// Lines that begin in it.
    pub(crate) lines: u64,
    pub(crate) text: Frame,
}

impl Work {
    pub(crate) fn into_message(self) -> Message {
        Message::from([Frame::from(format!("{} {}", self.id, self.lines)), self.text])
    }

    /// `None` for a message that is no batch.
    pub(crate) fn parse(message: Message) -> Option<Self> {
        let [id, lines] = numbers(message.get(0)?)?;
        let [_, text] = <[Frame; 2]>::try_from(message.into_parts()).ok()?;
        Some(Self { id, lines, text })
    }
}

/// How much was handed out, or reported back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) batches: u64,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: Self) {
        self.batches = self.batches.saturating_add(other.batches);
        self.lines = self.lines.saturating_add(other.lines);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// What is missing of these totals.
    pub(crate) fn without(self, other: Self) -> Self {
        Self {
            batches: self.batches.saturating_sub(other.batches),
            lines: self.lines.saturating_sub(other.lines),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let [batches, lines, bytes] = numbers(text)?;
        Some(Self { batches, lines, bytes })
    }

    fn to_text(self) -> String {
        format!("{} {} {}", self.batches, self.lines, self.bytes)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} batches, {} lines, {} bytes", self.batches, self.lines, self.bytes)
    }
}

/// A set of batch numbers. Numbers in sequence take no room, so it stays small however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    /// First number of each range and the number after its last. Ranges neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
}

impl Ids {
    /// Adds the numbers from `start` up to, and without, `end`; false when one of them is there already.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) -> bool {
        if start >= end || self.overlaps(start, end) {
            return false;
        }
        let before = self.ranges.range(..start).next_back().map(|(&start, &end)| (start, end));
        if let Some((first, after)) = before
            && after == start
        {
            start = first;
        }
        if let Some(after) = self.ranges.remove(&end) {
            end = after;
        }
        self.ranges.insert(start, end);
        true
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        let before = self.ranges.range(..end).next_back();
        before.is_some_and(|(_, &after)| after > start)
    }

    /// Adds all of `other`; false, and nothing is added, when one of them is there already.
    pub(crate) fn absorb(&mut self, other: &Self) -> bool {
        if other.ranges.iter().any(|(&start, &end)| self.overlaps(start, end)) {
            return false;
        }
        other.ranges.iter().all(|(&start, &end)| self.insert(start, end))
    }

    pub(crate) fn len(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// The numbers below `total` that are not there.
    pub(crate) fn missing(&self, total: u64) -> Self {
        let mut missing = Self::default();
        let mut next = 0;
        for (&start, &end) in &self.ranges {
            missing.insert(next, start.min(total));
            next = end;
        }
        missing.insert(next, total);
        missing
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut ids = Self::default();
        for range in std::str::from_utf8(text).ok()?.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let end = last.parse::<u64>().ok()?.checked_add(1)?;
            if !ids.insert(first.parse().ok()?, end) {
                return None;
            }
        }
        Some(ids)
    }
}

impl fmt::Display for Ids {
    /// Writes `0-4,17`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (start, end)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match end - 1 {
                last if last == *start => write!(f, "{comma}{start}")?,
                last => write!(f, "{comma}{start}-{last}")?,
            }
        }
        Ok(())
    }
}

/// The words of some batches, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partial {
    pub(crate) ids: Ids,
    pub(crate) totals: Totals,
    pub(crate) words: u64,
    pub(crate) counts: Counts,
}

impl Partial {
    /// Counts a batch; false when it was counted already.
    pub(crate) fn add(&mut self, work: &Work) -> bool {
        if !self.ids.insert(work.id, work.id.saturating_add(1)) {
            return false;
        }
        let bytes = work.text.len() as u64;
        self.totals.add(Totals { batches: 1, lines: work.lines, bytes });
        self.words += count_words(&work.text, &mut self.counts);
        true
    }
}

/// What workers and the ventilator tell the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// A worker is there; sent before it takes work.
    Hello { worker: String },
    /// What a worker has counted since its last report.
    Partial { worker: String, partial: Partial },
    /// A worker has reported everything and ends.
    Goodbye { worker: String },
    /// What the ventilator has handed out so far.
    Issued(Totals),
    /// The ventilator ends.
    End(End),
}

/// The ventilator's last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) issued: Totals,
    /// Batches that were still in the ventilator's queues when their worker's connection ended.
    pub(crate) undelivered: u64,
    /// Why not all of the input was handed out; empty when it was.
    pub(crate) trouble: String,
}

impl Report {
    pub(crate) fn into_message(self) -> Message {
        match self {
            Self::Hello { worker } => Message::from(["hello".to_owned(), worker]),
            Self::Goodbye { worker } => Message::from(["goodbye".to_owned(), worker]),
            Self::Issued(totals) => Message::from(["issued".to_owned(), totals.to_text()]),
            Self::End(end) => Message::from([
                "end".to_owned(),
                end.issued.to_text(),
                end.undelivered.to_string(),
                end.trouble,
            ]),
            Self::Partial { worker, partial } => {
                let Totals { lines, bytes, .. } = partial.totals;
                let numbers = format!("{lines} {bytes} {}", partial.words);
                let mut words = String::new();
                for (word, count) in partial.counts {
                    words.push_str(&word);
                    words.push(' ');
                    words.push_str(&count.to_string());
                    words.push('\n');
                }
                let ids = partial.ids.to_string();
                Message::from(["partial".to_owned(), worker, ids, numbers, words])
            }
        }
    }

    /// `None` for a message that is no report.
    pub(crate) fn parse(message: &Message) -> Option<Self> {
        let text = |frame: &Frame| String::from_utf8_lossy(frame).into_owned();
        let [kind, rest @ ..] = message.frames() else { return None };
        Some(match (kind.as_slice(), rest) {
            (b"hello", [worker]) => Self::Hello { worker: text(worker) },
            (b"goodbye", [worker]) => Self::Goodbye { worker: text(worker) },
            (b"issued", [totals]) => Self::Issued(Totals::parse(totals)?),
            (b"end", [totals, undelivered, trouble]) => {
                let [undelivered] = numbers(undelivered)?;
                let trouble = text(trouble);
                Self::End(End { issued: Totals::parse(totals)?, undelivered, trouble })
            }
            (b"partial", [worker, ids, sums, words]) => {
                let ids = Ids::parse(ids)?;
                let [lines, bytes, sum] = numbers(sums)?;
                let totals = Totals { batches: ids.len(), lines, bytes };
                let counts = parse_counts(words)?;
                let partial = Partial { ids, totals, words: sum, counts };
                Self::Partial { worker: text(worker), partial }
            }
            _ => return None,
        })
    }
}

fn parse_counts(text: &[u8]) -> Option<Counts> {
    let count = |line: &str| {
        let (word, count) = line.split_once(' ')?;
        Some((word.to_owned(), count.parse().ok()?))
    };
    std::str::from_utf8(text).ok()?.lines().map(count).collect()
}

/// Exactly `N` numbers, separated by spaces.
fn numbers<const N: usize>(text: &[u8]) -> Option<[u64; N]> {
    let text = std::str::from_utf8(text).ok()?;
    let numbers: Vec<u64> = text.split(' ').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Ids {
        Ids::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_in_sequence_become_one_range_in_whatever_order_they_come() {
        let mut set = Ids::default();
        assert!([3, 0, 4, 2, 9].into_iter().all(|id| set.insert(id, id + 1)));
        assert_eq!(set.to_string(), "0,2-4,9");
        assert!(set.insert(1, 2));
        assert_eq!(set, ids("0-4,9"));
        assert_eq!(set.len(), 6);
    }

    #[test]
    fn a_number_is_taken_only_once() {
        let mut set = ids("2-4");
        assert!(!set.insert(3, 4));
        assert!(!set.insert(0, 3));
        assert!(!set.absorb(&ids("7,4-5")));
        assert_eq!(set, ids("2-4"), "a refused set leaves nothing behind");
    }

    #[test]
    fn missing_numbers_are_those_between_and_after_the_ranges() {
        assert_eq!(ids("2-4,9").missing(12), ids("0-1,5-8,10-11"));
        assert_eq!(ids("0-11").missing(12), Ids::default());
        assert_eq!(Ids::default().missing(0), Ids::default());
    }

    #[test]
    fn a_report_survives_the_journey() {
        let mut partial = Partial::default();
        assert!(partial.add(&Work { id: 7, lines: 2, text: "to be or\nnot to be".into() }));
        let reports = [
            Report::Hello { worker: "w".into() },
            Report::Partial { worker: "w".into(), partial },
            Report::End(End { issued: Totals::default(), undelivered: 3, trouble: "why".into() }),
        ];
        for report in reports {
            assert_eq!(Report::parse(&report.clone().into_message()), Some(report));
        }
    }

    #[test]
    fn nonsense_is_no_report_and_no_work() {
        for nonsense in [&["hello"][..], &["partial", "w", "4-2", "1 2 3", ""], &["end", "1 2"]] {
            let message: Message = nonsense.iter().copied().collect();
            assert_eq!(Report::parse(&message), None);
            assert_eq!(Work::parse(message), None);
        }
        let huge = format!("0-{}", u64::MAX);
        assert_eq!(Ids::parse(huge.as_bytes()), None);
    }
}
