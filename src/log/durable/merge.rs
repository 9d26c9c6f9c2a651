//! How a subscriber makes one gapless sequence of what is published live and what is replayed from the log. No I/O.
//!
//! Offsets are the truth. What is next is delivered, what is lower was delivered before, and for what is higher the log
//! is asked. While it replays, live batches are held, up to a limit; when the replay reaches the first one held, or the
//! end of the log, it goes on live.

use std::collections::VecDeque;

use bytes::Bytes;

/// A batch that was published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Published {
    /// The writer that published it.
    pub(super) incarnation: i32,
    /// Everything before it was published earlier.
    pub(super) from: i64,
    /// The offset after it.
    pub(super) next: i64,
    pub(super) batch: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Replay,
    Live,
}

/// What is to be done with what was heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// It is next.
    Deliver(Bytes),
    /// It was delivered before, or is held, or comes with the replay.
    Nothing,
    /// Something is missing: the log must be asked.
    FellBack,
}

/// The state of one partition.
#[derive(Debug)]
pub(super) struct Merge {
    /// The next offset to deliver.
    next: i64,
    /// The newest writer whose log was asked since it began: everything before `next` is in it.
    incarnation: i32,
    mode: Mode,
    held: VecDeque<Published>,
    held_bytes: usize,
    held_bytes_max: usize,
    /// How far the log reaches, as was announced during a replay.
    known_end: i64,
    /// How often what was held became too much.
    pub(super) overflows: u64,
}

impl Merge {
    /// Begins with a replay from an offset.
    pub(super) fn new(next: i64, held_bytes_max: usize) -> Self {
        Self {
            next,
            incarnation: -1,
            mode: Mode::Replay,
            held: VecDeque::new(),
            held_bytes: 0,
            held_bytes_max,
            known_end: 0,
            overflows: 0,
        }
    }

    /// The next offset to deliver.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Goes on elsewhere.
    pub(super) fn reset(&mut self, next: i64) {
        self.next = next;
        self.fall_back();
    }

    /// The log is to be asked.
    pub(super) fn fall_back(&mut self) {
        self.mode = Mode::Replay;
    }

    /// Everything before an offset is there, a writer announces.
    pub(super) fn announced(&mut self, incarnation: i32, end: i64) -> Heard {
        let news =
            incarnation > self.incarnation || (incarnation == self.incarnation && end > self.next);
        if self.mode == Mode::Live && news {
            self.fall_back();
            return Heard::FellBack;
        }
        if incarnation >= self.incarnation {
            self.known_end = self.known_end.max(end);
        }
        Heard::Nothing
    }

    /// A batch was published.
    pub(super) fn published(&mut self, published: Published) -> Heard {
        if published.incarnation < self.incarnation
            || (published.incarnation == self.incarnation && published.next <= self.next)
        {
            return Heard::Nothing;
        }
        let follows = published.incarnation == self.incarnation && published.from <= self.next;
        if self.mode == Mode::Live && follows {
            self.next = published.next;
            return Heard::Deliver(published.batch);
        }
        let fell_back = self.mode == Mode::Live;
        self.fall_back();
        self.hold(published);
        if fell_back { Heard::FellBack } else { Heard::Nothing }
    }

    fn hold(&mut self, published: Published) {
        self.held_bytes += published.batch.len();
        self.held.push_back(published);
        if self.held_bytes > self.held_bytes_max {
            // All of it is in the log.
            self.let_go();
            self.overflows += 1;
        }
    }

    fn let_go(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    /// The log answered: everything before `next` was delivered or is not there; `at_end` if that was its end. True if it
    /// goes on live from here.
    pub(super) fn replayed(&mut self, incarnation: i32, next: i64, at_end: bool) -> bool {
        self.incarnation = self.incarnation.max(incarnation);
        self.next = self.next.max(next);
        while let Some(first) = self.held.front() {
            let newer = first.incarnation > self.incarnation;
            if newer || (first.incarnation == self.incarnation && first.next > self.next) {
                break;
            }
            self.held_bytes -= first.batch.len();
            self.held.pop_front();
        }
        let joins = self
            .held
            .front()
            .is_some_and(|first| first.incarnation == self.incarnation && first.from <= self.next);
        if at_end && !joins {
            // What is held is of another writer than the one that answered: its next announcement tells.
            self.let_go();
        }
        if at_end {
            self.known_end = 0;
        }
        if joins || at_end {
            self.mode = Mode::Live;
        }
        joins || at_end
    }

    /// The next batch that was held and follows.
    pub(super) fn take_held(&mut self) -> Option<Bytes> {
        while self.mode == Mode::Live {
            let Some(held) = self.held.pop_front() else {
                // More was announced than was held.
                if self.known_end > self.next {
                    self.fall_back();
                }
                return None;
            };
            self.held_bytes -= held.batch.len();
            match self.published(held) {
                Heard::Deliver(batch) => return Some(batch),
                // A gap among what was held: it went to the back of the queue, and is dropped there in time.
                Heard::Nothing | Heard::FellBack => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A log, its publisher and a subscriber, with a wire that loses and delays.
    struct World {
        /// The writer of each record.
        log: Vec<i32>,
        incarnation: i32,
        published_to: i64,
        /// What is on the wire.
        wire: VecDeque<Published>,
        merge: Merge,
        /// What was delivered: offset and writer.
        delivered: Vec<(i64, i32)>,
        last_epoch: i32,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Append(usize),
        Publish,
        Announce,
        Lose,
        Hear,
        Fetch(i64),
        /// A crash takes so many records.
        Crash(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1..4usize).prop_map(Step::Append),
            4 => Just(Step::Publish),
            1 => Just(Step::Announce),
            2 => Just(Step::Lose),
            4 => Just(Step::Hear),
            3 => (1..5i64).prop_map(Step::Fetch),
            1 => (0..4usize).prop_map(Step::Crash),
        ];
        proptest::collection::vec(step, 0..150)
    }

    impl World {
        fn end(&self) -> i64 {
            self.log.len() as i64
        }

        fn deliver(&mut self, batch: &Bytes) {
            for record in batch.chunks(12) {
                let offset = i64::from_be_bytes(record[..8].try_into().unwrap());
                let writer = i32::from_be_bytes(record[8..].try_into().unwrap());
                if offset >= self.next_delivered() {
                    self.delivered.push((offset, writer));
                    self.last_epoch = writer;
                }
            }
        }

        fn next_delivered(&self) -> i64 {
            self.delivered.last().map_or(0, |(offset, _)| offset + 1)
        }

        fn batch(&self, from: i64, to: i64) -> Bytes {
            let record = |offset: i64| {
                let writer = self.log[offset as usize];
                [&offset.to_be_bytes()[..], &writer.to_be_bytes()[..]].concat()
            };
            (from..to).flat_map(record).collect::<Vec<u8>>().into()
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Append(count) => self.log.extend(vec![self.incarnation; count]),
                Step::Publish if self.published_to < self.end() => {
                    let (incarnation, from, next) =
                        (self.incarnation, self.published_to, self.end());
                    let batch = self.batch(from, next);
                    self.wire.push_back(Published { incarnation, from, next, batch });
                    self.published_to = next;
                }
                Step::Publish => {}
                Step::Announce => {
                    self.merge.announced(self.incarnation, self.published_to);
                }
                Step::Lose => _ = self.wire.pop_front(),
                Step::Hear => {
                    if let Some(published) = self.wire.pop_front()
                        && let Heard::Deliver(batch) = self.merge.published(published)
                    {
                        self.deliver(&batch);
                    }
                }
                Step::Fetch(count) => self.fetch(count),
                Step::Crash(lost) => {
                    self.log.truncate(self.log.len().saturating_sub(lost));
                    self.incarnation += 1;
                    self.published_to = self.end();
                }
            }
        }

        /// Asks the log, as a subscriber that replays does.
        fn fetch(&mut self, count: i64) {
            if self.merge.mode() == Mode::Live {
                return;
            }
            let from = self.merge.next();
            let after = self.log.iter().position(|writer| *writer > self.last_epoch);
            let epoch_end = after.map_or(self.end(), |at| at as i64);
            if self.last_epoch >= 0 && epoch_end < from {
                // Told: what was delivered from here on is gone.
                self.delivered.truncate(epoch_end as usize);
                return self.merge.reset(epoch_end);
            }
            let to = (from + count).min(self.end());
            let batch = self.batch(from, to);
            self.deliver(&batch);
            if self.merge.replayed(self.incarnation, to, from == to) {
                while let Some(batch) = self.merge.take_held() {
                    self.deliver(&batch);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_the_wire_loses_each_record_is_delivered_once_in_order(steps in steps()) {
            let mut world = World {
                log: Vec::new(),
                incarnation: 0,
                published_to: 0,
                wire: VecDeque::new(),
                merge: Merge::new(0, 60),
                delivered: Vec::new(),
                last_epoch: -1,
            };
            for step in steps {
                world.step(step);
                for (index, (offset, _)) in world.delivered.iter().enumerate() {
                    prop_assert_eq!(*offset, index as i64);
                }
                prop_assert!(world.merge.held_bytes <= 60);
            }
            // An announcement and what it makes the subscriber do bring the rest, and mend what a crash changed.
            world.step(Step::Append(1));
            world.wire.clear();
            world.published_to = world.end();
            world.step(Step::Announce);
            while world.merge.mode() == Mode::Replay {
                world.fetch(3);
            }
            let writers: Vec<i32> = world.delivered.iter().map(|(_, writer)| *writer).collect();
            prop_assert_eq!(writers, world.log);
        }
    }

    #[test]
    fn a_gap_falls_back_and_the_replay_joins_what_was_held() {
        let published = |from, next| {
            let batch = Bytes::from(vec![0; 10]);
            Published { incarnation: 1, from, next, batch }
        };
        let mut merge = Merge::new(0, 100);
        assert!(merge.replayed(1, 0, true));
        assert!(matches!(merge.published(published(0, 2)), Heard::Deliver(_)));
        assert_eq!(merge.published(published(0, 2)), Heard::Nothing);
        assert_eq!(merge.published(published(4, 6)), Heard::FellBack);
        assert_eq!(merge.published(published(6, 7)), Heard::Nothing);
        assert!(!merge.replayed(1, 3, false));
        assert!(merge.replayed(1, 4, false));
        assert!(merge.take_held().is_some());
        assert!(merge.take_held().is_some());
        assert_eq!((merge.take_held(), merge.next(), merge.mode()), (None, 7, Mode::Live));
    }

    #[test]
    fn what_is_held_is_let_go_when_it_is_too_much() {
        let batch = Bytes::from(vec![0; 30]);
        let mut merge = Merge::new(0, 50);
        for from in 5..7 {
            let batch = batch.clone();
            merge.published(Published { incarnation: 1, from, next: from + 1, batch });
        }
        assert_eq!((merge.overflows, merge.held_bytes), (1, 0));
    }
}
