//! The inbox's credit: how much of what a peer sent is still unread, and whether its reader must pause.
//!
//! The runs themselves are queued in the socket; this is only their count, kept per peer. Invariant: when the
//! reader was refused (`stalled`), the release that drains the inbox to half resumes it, exactly once; both
//! happen under one lock, so neither can miss the other.

use std::sync::Arc;

use super::{Doorbell, Pipe, Ring};
use crate::options::Marks;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};
use crate::wire::Allowance;

/// Where an inbox's messages come from, and so who is resumed.
pub(crate) enum Source {
    None,
    Wire {
        doorbell: Arc<dyn Doorbell>,
        connection: usize,
    },
    /// The other end, kept alive until it has said everything; the circle is cut when the session ends.
    Inproc(Arc<Pipe>),
    /// The peer is gone for good. It counts in here until all it sent is read.
    Orphaned(Arc<AtomicUsize>),
}

pub(crate) struct Inbox {
    marks: Marks,
    conflate: bool,
    credit: Mutex<Credit>,
}

struct Credit {
    messages: usize,
    bytes: usize,
    stalled: bool,
    /// The socket is closed: what a sender in this process has queued stays with it, and is counted there.
    shut: bool,
    source: Source,
}

/// The reader to wake, with no lock held.
#[must_use]
pub(crate) enum Resume {
    Wire(Arc<dyn Doorbell>, usize),
    Inproc(Arc<Pipe>),
}

impl Resume {
    /// Resumes the reader. Runs the writer of an in-process peer on this thread.
    pub(crate) fn run(self) {
        match self {
            Self::Wire(doorbell, connection) => doorbell.ring(Ring::Resume(connection)),
            Self::Inproc(feeder) => feeder.writable(),
        }
    }
}

impl Inbox {
    pub(crate) fn new(marks: Marks, conflate: bool) -> Self {
        let credit =
            Credit { messages: 0, bytes: 0, stalled: false, shut: false, source: Source::None };
        Self { marks, conflate, credit: Mutex::new(credit) }
    }

    /// Whether only the newest message is kept.
    pub(crate) fn conflates(&self) -> bool {
        self.conflate
    }

    /// Messages after which a receiver should return credit even in the middle of a run.
    pub(crate) fn return_credit_after(&self) -> usize {
        (self.marks.messages / 4).max(1)
    }

    pub(crate) fn set_source(&self, source: Source) {
        let mut credit = lock(&self.credit);
        credit.stalled = false;
        // The place of an orphan is given back by its last message, whatever happens to its connection.
        if !matches!(credit.source, Source::Orphaned(_)) {
            credit.source = source;
        }
    }

    /// Nobody will read any more. A peer in this process sends nothing further; one on a wire is read, and discarded, until
    /// its connection ends.
    pub(crate) fn shut(&self) {
        lock(&self.credit).shut = true;
    }

    /// The peer is gone for good: counts it among the orphans as long as something of it is unread.
    pub(crate) fn orphan(&self, orphans: &Arc<AtomicUsize>) {
        let mut credit = lock(&self.credit);
        credit.stalled = false;
        if matches!(credit.source, Source::Orphaned(_)) {
            return;
        }
        credit.source = if credit.messages > 0 {
            orphans.fetch_add(1, Ordering::Relaxed);
            Source::Orphaned(Arc::clone(orphans))
        } else {
            Source::None
        };
    }

    /// What may be admitted now; `None` at a mark, and then the reader is resumed later.
    pub(crate) fn allowance(&self) -> Option<Allowance> {
        let mut credit = lock(&self.credit);
        if credit.shut && matches!(credit.source, Source::Inproc(_)) {
            credit.stalled = true;
            return None;
        }
        if self.conflate {
            return Some(Allowance { messages: usize::MAX, bytes: usize::MAX });
        }
        let room = Allowance {
            messages: self.marks.messages.saturating_sub(credit.messages),
            bytes: self.marks.bytes.saturating_sub(credit.bytes),
        };
        if room.messages == 0 || room.bytes == 0 {
            credit.stalled = true;
            return None;
        }
        Some(room)
    }

    pub(crate) fn admitted(&self, messages: usize, bytes: usize) {
        if self.conflate {
            return;
        }
        let mut credit = lock(&self.credit);
        credit.messages += messages;
        credit.bytes += bytes;
    }

    /// Gives back the credit of messages that were read.
    pub(crate) fn released(&self, messages: usize, bytes: usize) -> Option<Resume> {
        if self.conflate {
            return None;
        }
        let mut credit = lock(&self.credit);
        debug_assert!(credit.messages >= messages && credit.bytes >= bytes);
        credit.messages -= messages;
        credit.bytes -= bytes;
        if credit.messages == 0
            && let Source::Orphaned(orphans) = &credit.source
        {
            orphans.fetch_sub(1, Ordering::Relaxed);
            credit.source = Source::None;
        }
        if !credit.stalled || !self.marks.drained(credit.messages, credit.bytes) {
            return None;
        }
        credit.stalled = false;
        match &credit.source {
            Source::None | Source::Orphaned(_) => None,
            Source::Wire { doorbell, connection } => {
                Some(Resume::Wire(Arc::clone(doorbell), *connection))
            }
            Source::Inproc(feeder) => Some(Resume::Inproc(Arc::clone(feeder))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Doorbell for Bell {
        fn ring(&self, job: Ring) {
            assert!(matches!(job, Ring::Resume(7)));
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn inbox(messages: usize, bytes: usize) -> (Inbox, Arc<Bell>) {
        let inbox = Inbox::new(Marks { messages, bytes }, false);
        let bell = Arc::new(Bell::default());
        inbox.set_source(Source::Wire { doorbell: bell.clone(), connection: 7 });
        (inbox, bell)
    }

    fn release(inbox: &Inbox, messages: usize, bytes: usize) {
        if let Some(resume) = inbox.released(messages, bytes) {
            resume.run();
        }
    }

    #[test]
    fn a_full_inbox_stalls_its_reader_and_resumes_it_once_at_half() {
        let (inbox, bell) = inbox(4, 1_000);
        inbox.admitted(4, 40);
        assert!(inbox.allowance().is_none());
        release(&inbox, 1, 10);
        assert_eq!(bell.0.load(Ordering::Relaxed), 0);
        release(&inbox, 1, 10);
        release(&inbox, 2, 20);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_reader_that_was_not_refused_is_not_resumed() {
        let (inbox, bell) = inbox(4, 1_000);
        inbox.admitted(4, 40);
        release(&inbox, 4, 40);
        assert_eq!(bell.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_byte_mark_stalls_as_the_message_mark_does() {
        let (inbox, bell) = inbox(100, 1_000);
        inbox.admitted(1, 5_000);
        assert!(inbox.allowance().is_none());
        release(&inbox, 1, 5_000);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        assert_eq!(inbox.allowance().map(|room| room.messages), Some(100));
    }

    #[test]
    fn a_gone_peer_counts_until_all_it_sent_is_read() {
        let (inbox, _) = inbox(4, 1_000);
        let orphans = Arc::new(AtomicUsize::new(0));
        inbox.admitted(2, 40);
        inbox.orphan(&orphans);
        assert_eq!(orphans.load(Ordering::Relaxed), 1);
        inbox.set_source(Source::None);
        inbox.orphan(&orphans);
        assert_eq!(orphans.load(Ordering::Relaxed), 1);
        release(&inbox, 1, 0);
        assert_eq!(orphans.load(Ordering::Relaxed), 1);
        release(&inbox, 1, 40);
        assert_eq!(orphans.load(Ordering::Relaxed), 0);
        inbox.orphan(&orphans);
        assert_eq!(orphans.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_conflating_inbox_never_stalls() {
        let inbox = Inbox::new(Marks { messages: 1, bytes: 1 }, true);
        inbox.admitted(9, 9);
        assert!(inbox.allowance().is_some());
    }
}
