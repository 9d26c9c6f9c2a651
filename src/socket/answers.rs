//! What a socket's own sends left gathering, and who writes it.
//!
//! An answer goes out at once, because whoever asked waits for it. Not so when further messages are at hand and the
//! application works through them quickly: then the answers gather, and go out in a few large writes when there is nothing more
//! to receive. What is published quickly to many peers gathers likewise. Should the application stop meanwhile, the keeper's
//! tick writes it all: after one tick with few sends, and in any case after a number of ticks that grows with the number of
//! pipes, for to write each of many at every tick would leave no time to fill them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pipe::Pipe;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};
use crate::transport;

/// An application that takes longer than this from one answer to the next is not quick.
const QUICK: Duration = Duration::from_micros(20);

/// With so many pipes, and then with twice as many as were left, those that gather no more are struck off: a socket that never
/// waits for messages keeps none of the peers that came and went.
const SIFTED_AFTER: usize = 64;

/// Ticks of the keeper after which everything goes out: one for so many pipes, up to a maximum.
const PIPES_PER_TICK: usize = 2;
const TICKS_MAX: usize = 50;

/// With fewer sends in a tick the sender is not quick any more.
const SENDS_PER_TICK_MIN: u64 = 8;

/// What the socket received since its last send.
#[derive(Default)]
pub(super) struct Heard(AtomicUsize);

impl Heard {
    const NOTHING: usize = 0;
    const LAST: usize = 1;
    const MORE_AT_HAND: usize = 2;

    /// A message was received; `more`: others are at hand.
    #[inline]
    pub(super) fn message(&self, more: bool) {
        let what = if more { Self::MORE_AT_HAND } else { Self::LAST };
        self.0.store(what, Ordering::Relaxed);
    }

    /// What was to be sent in this way was not: what is sent next is the answer still.
    #[cold]
    pub(super) fn not_answered(&self, answer: Answer) {
        let what = match answer {
            Answer::No => return,
            Answer::AtOnce => Self::LAST,
            Answer::Together => Self::MORE_AT_HAND,
        };
        // What was received meanwhile says it better.
        let _ = self.0.compare_exchange(Self::NOTHING, what, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Something was sent: what is sent next answers nothing.
    #[inline]
    fn answered(&self) {
        self.0.store(Self::NOTHING, Ordering::Relaxed);
    }
}

/// How the next send answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Nothing was received since the last send.
    No,
    AtOnce,
    /// Others are about to follow.
    Together,
}

pub(super) struct Answers {
    /// Shortly before this socket was made: the times below count from here.
    origin: Instant,
    /// The last send that was one of many, or its end if it wrote, in nanoseconds.
    last_ns: AtomicU64,
    /// Counts these sends, so that a tick sees whether they go on.
    sends: AtomicU64,
    left: Mutex<Left>,
}

#[derive(Default)]
struct Left {
    pipes: Vec<Arc<Pipe>>,
    /// The pattern gathers for so many pipes.
    shared_by: usize,
    /// The keeper ticks over this socket.
    listed: bool,
    /// See `SIFTED_AFTER`.
    sift_at: usize,
    sends_seen: u64,
    ticks: usize,
}

impl Answers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            // The first send is not quick.
            origin: now.checked_sub(QUICK).unwrap_or(now),
            last_ns: AtomicU64::new(0),
            sends: AtomicU64::new(0),
            left: Mutex::default(),
        }
    }

    /// How a send goes out that begins now.
    #[inline]
    pub(super) fn next(&self, heard: &Heard) -> Answer {
        match heard.0.load(Ordering::Relaxed) {
            Heard::NOTHING => Answer::No,
            Heard::LAST => {
                heard.answered();
                Answer::AtOnce
            }
            _ => {
                heard.answered();
                self.next_of_many()
            }
        }
    }

    fn now_ns(&self) -> u64 {
        let since_origin = transport::now().saturating_duration_since(self.origin);
        u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A send that wrote has ended: quickness counts from here, or every full unit would look like a pause.
    pub(super) fn wrote(&self) {
        self.last_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    /// How a send goes out that is one of many to be expected.
    pub(super) fn next_of_many(&self) -> Answer {
        let now_ns = self.now_ns();
        let before_ns = self.last_ns.swap(now_ns, Ordering::Relaxed);
        self.sends.fetch_add(1, Ordering::Relaxed);
        let quick = u128::from(now_ns.saturating_sub(before_ns)) < QUICK.as_nanos();
        if quick { Answer::Together } else { Answer::AtOnce }
    }

    /// Remembers pipes that began to gather. True when the keeper is to be asked to tick over this socket, because the
    /// reactor does not do so for its pipes (`unlisted`).
    pub(super) fn note(
        &self,
        pipes: impl IntoIterator<Item = Arc<Pipe>>,
        shared_by: usize,
        unlisted: bool,
    ) -> bool {
        let mut left = lock(&self.left);
        left.pipes.extend(pipes);
        left.shared_by = left.shared_by.max(shared_by);
        if left.pipes.len() >= left.sift_at.max(SIFTED_AFTER) {
            left.pipes.retain(|pipe| pipe.stays_noted());
            left.sift_at = 2 * left.pipes.len();
        }
        let ask = unlisted && !left.listed;
        left.listed |= ask;
        ask
    }

    /// Takes over what gathered: the pipes to flush. What the pattern gathers is distributed after this and before they are
    /// flushed; so whoever begins to gather anew is noted anew.
    pub(super) fn take(&self) -> Vec<Arc<Pipe>> {
        let mut left = lock(&self.left);
        left.ticks = 0;
        left.shared_by = 0;
        std::mem::take(&mut left.pipes)
    }

    /// The keeper's tick.
    pub(super) fn tick(&self) -> Tick {
        let mut left = lock(&self.left);
        let pipes = left.pipes.len().max(left.shared_by);
        if pipes == 0 {
            left.listed = false;
            return Tick::Over;
        }
        let sends = self.sends.load(Ordering::Relaxed);
        let goes_on = sends - left.sends_seen >= SENDS_PER_TICK_MIN;
        left.sends_seen = sends;
        left.ticks += 1;
        let ticks_max = TICKS_MAX.min(pipes / PIPES_PER_TICK);
        if goes_on && left.ticks < ticks_max { Tick::Wait } else { Tick::Flush }
    }
}

/// What the keeper's tick finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tick {
    /// Nothing gathers, and it need not come again.
    Over,
    Wait,
    Flush,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers_of_a_quick_socket() -> Answers {
        let answers = Answers::new(transport::now());
        // No send is ever later than this one.
        answers.last_ns.store(u64::MAX, Ordering::Relaxed);
        answers
    }

    #[test]
    fn the_last_answer_goes_out_at_once_and_what_follows_it_is_none() {
        let (answers, heard) = (answers_of_a_quick_socket(), Heard::default());
        assert_eq!(answers.next(&heard), Answer::No);
        heard.message(false);
        assert_eq!(answers.next(&heard), Answer::AtOnce);
        assert_eq!(answers.next(&heard), Answer::No);
    }

    #[test]
    fn answers_gather_while_more_is_at_hand_and_the_socket_is_quick() {
        let (answers, heard) = (Answers::new(transport::now()), Heard::default());
        heard.message(true);
        assert_eq!(answers.next(&heard), Answer::AtOnce, "the first of all");
        heard.message(true);
        answers.last_ns.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(answers.next(&heard), Answer::Together);
        heard.message(true);
        answers.last_ns.store(0, Ordering::Relaxed);
        assert_eq!(answers.next(&heard), Answer::AtOnce, "after a pause");
    }

    #[test]
    fn the_keeper_is_asked_once_and_told_when_it_need_not_come_again() {
        let answers = answers_of_a_quick_socket();
        assert!(answers.note([], 0, true));
        assert!(!answers.note([], 0, true));
        assert_eq!(answers.tick(), Tick::Over, "nothing gathers");
        assert!(!answers.note([], 0, false), "the reactor ticks over these itself");
        assert!(answers.note([], 0, true));
    }

    #[test]
    fn an_answer_for_which_there_is_no_room_is_as_urgent_when_it_is_sent_again() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let context = crate::Context::new();
        let router = context.router().mandatory(true).send_hwm(1).open().unwrap();
        let endpoint = router.bind("inproc://urgent").unwrap();
        let dealer = context.dealer().send_hwm(1).recv_hwm(1).routing_id("x").open().unwrap();
        dealer.connect(endpoint).unwrap();
        dealer.send("question").unwrap();
        let (to, _) = router.recv_from_timeout(PATIENCE).unwrap();
        while router.try_send_to(&to, "answer").is_ok() {}
        dealer.send("another").unwrap();
        router.recv_from_timeout(PATIENCE).unwrap();
        assert!(router.try_send_to(&to, "its answer").is_err());
        let core = router.core();
        assert_eq!(core.answers.next(core.inbound.heard()), Answer::AtOnce);
    }

    #[test]
    fn an_answer_to_the_only_peer_stays_urgent_without_room_too() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let context = crate::Context::new();
        let asks = context.dealer().send_hwm(1).recv_hwm(1).open().unwrap();
        let endpoint = asks.bind("inproc://urgent").unwrap();
        let answers = context.dealer().send_hwm(1).open().unwrap();
        answers.connect(endpoint).unwrap();
        let core = answers.core();
        // By the short way only: the long one closes it for want of room.
        let is_sent = || core.send_short(&crate::Message::from("answer"));
        while is_sent() {}
        asks.send("question").unwrap();
        answers.recv_timeout(PATIENCE).unwrap();
        assert!(!is_sent());
        assert_eq!(core.answers.next(core.inbound.heard()), Answer::AtOnce);
    }
}
