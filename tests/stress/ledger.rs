//! The ledger of one round: what has to arrive where, what has arrived, and whether anything moves at all.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use peermq::Message;

use super::chance::Chance;

/// Bytes of a body that say who sent it and when: sender and number.
const HEAD_BYTES: usize = 8;

/// What has to arrive and what has arrived.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Times each message arrived: by place of arrival, then sender, then number.
    seen: Vec<Vec<Vec<AtomicU8>>>,
    expected: u64,
    arrived: AtomicU64,
    progress: AtomicU64,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Ledger {
    /// Each of `places` expects `count` messages of each of `senders`; receivers that share messages are one place.
    pub(crate) fn new(places: usize, senders: usize, count: usize) -> Self {
        let numbers = || (0..count).map(|_| AtomicU8::new(0)).collect();
        let of_place = || (0..senders).map(|_| numbers()).collect();
        Self {
            seen: (0..places).map(|_| of_place()).collect(),
            expected: (places * senders * count) as u64,
            arrived: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Something went on somewhere.
    pub(crate) fn note_progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Steps made so far.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Whether everything has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.arrived.load(Ordering::Acquire) >= self.expected
    }

    /// Enters a message that arrived for good; a second time is a failure.
    pub(crate) fn arrived(&self, place: usize, mark: Mark) {
        let Some(times) = self.seen.get(place).and_then(|place| place.get(mark.sender)) else {
            return self.fail(format!("{mark:?} is of nobody"));
        };
        match times.get(mark.number) {
            None => self.fail(format!("{mark:?} was never sent")),
            Some(times) if times.fetch_add(1, Ordering::Relaxed) > 0 => {
                self.fail(format!("{mark:?} arrived twice at {place}"));
            }
            Some(_) => drop(self.arrived.fetch_add(1, Ordering::AcqRel)),
        }
    }

    /// Remembers the first thing that went wrong.
    pub(crate) fn fail(&self, what: String) {
        self.failure.lock().unwrap().get_or_insert(what);
        self.failed.store(true, Ordering::Release);
    }

    /// What went wrong, if anything did.
    pub(crate) fn failure(&self) -> Option<String> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        self.failure.lock().unwrap().clone()
    }

    /// How much has arrived, and which messages have not, for a report.
    pub(crate) fn report(&self) -> String {
        let mut text = format!("{} of {}", self.arrived.load(Ordering::Acquire), self.expected);
        for (place, senders) in self.seen.iter().enumerate() {
            for (sender, numbers) in senders.iter().enumerate() {
                let missing =
                    numbers.iter().enumerate().filter(|(_, n)| n.load(Ordering::Relaxed) == 0);
                let missing: Vec<_> = missing.map(|(number, _)| number).collect();
                if let [first, ..] = missing[..] {
                    let count = missing.len();
                    text += &format!(
                        "\n  at {place} of sender {sender}: {count} missing, first {first}"
                    );
                }
            }
        }
        text
    }
}

/// Who sent a message, and which of his it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// Number of the sending worker.
    pub(crate) sender: usize,
    /// Number of the message, from 0.
    pub(crate) number: usize,
}

impl Mark {
    /// A message with this mark and a random amount of filling.
    pub(crate) fn message(self, chance: &mut Chance) -> Message {
        let bytes = chance.pick(&[0, 0, 10, 100, 300, 2_000]);
        let bytes = if chance.one_in(100) { 60_000 } else { bytes };
        let mut body = vec![0; HEAD_BYTES + bytes];
        body[..4].copy_from_slice(&(self.sender as u32).to_be_bytes());
        body[4..HEAD_BYTES].copy_from_slice(&(self.number as u32).to_be_bytes());
        Message::from(body)
    }

    /// The mark of a message that arrived.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let body = message.frames().last()?.as_slice();
        let word = |range| {
            let bytes: [u8; 4] = body.get::<std::ops::Range<usize>>(range)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes) as usize)
        };
        Some(Self { sender: word(0..4)?, number: word(4..HEAD_BYTES)? })
    }
}

/// One receiver's view of the order: what one sender sent comes in order, whoever else receives too.
#[derive(Debug, Default)]
pub(crate) struct Order(HashMap<usize, usize>);

impl Order {
    /// Enters a message; a failure when a later one of its sender was here before.
    pub(crate) fn check(&mut self, mark: Mark, ledger: &Ledger) {
        if let Some(before) = self.0.insert(mark.sender, mark.number)
            && before >= mark.number
        {
            ledger.fail(format!("{mark:?} came after {before}"));
        }
    }
}
