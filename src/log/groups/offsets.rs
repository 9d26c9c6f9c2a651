//! The committed offsets of one group, in memory: what the log says, as far as it has the level that was asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{Committed, TopicPartition};
use crate::log::append::Ticket;

/// What the last record about a partition said.
#[derive(Debug)]
struct Entry {
    /// The offset of that record.
    at: i64,
    /// `None`: that nothing is committed any more.
    committed: Option<Committed>,
}

/// Records that are appended but have not reached their level yet.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    said: Vec<(TopicPartition, Option<Committed>)>,
}

/// The offsets of a group.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// What was said last; kept also when it was that there is nothing, so that an older commit that is done later is not
    /// taken for a newer one.
    entries: BTreeMap<TopicPartition, Entry>,
    pending: Vec<Pending>,
}

impl Table {
    /// Takes in what the record at offset `at` says.
    pub(super) fn note(&mut self, at: i64, partition: TopicPartition, said: Option<Committed>) {
        match self.entries.get_mut(&partition) {
            Some(entry) if entry.at > at => {}
            Some(entry) => *entry = Entry { at, committed: said },
            None => _ = self.entries.insert(partition, Entry { at, committed: said }),
        }
    }

    /// Takes in what consecutive records say, when their append is done. An append that fails says nothing.
    pub(super) fn note_when_done(
        &mut self,
        ticket: Ticket,
        said: Vec<(TopicPartition, Option<Committed>)>,
    ) {
        self.pending.push(Pending { ticket, said });
        self.settle();
    }

    /// Takes in what is done by now.
    pub(super) fn settle(&mut self) {
        let (done, pending): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|one| one.ticket.is_done());
        self.pending = pending;
        for Pending { ticket, said } in done {
            let first = ticket.first_offset();
            // Whoever committed hears of a failure by the other ticket.
            if ticket.wait().is_ok() {
                self.note_all(first, said);
            }
        }
    }

    /// The commits for a partition that are appended but have not reached their level yet.
    pub(super) fn under_way(&self, partition: &TopicPartition) -> Vec<Ticket> {
        let says = |one: &&Pending| one.said.iter().any(|(said, _)| said == partition);
        self.pending.iter().filter(says).map(|one| one.ticket.twin()).collect()
    }

    /// Takes in what consecutive records from offset `first` on say.
    pub(super) fn note_all(&mut self, first: i64, said: Vec<(TopicPartition, Option<Committed>)>) {
        for (at, (partition, committed)) in (first..).zip(said) {
            self.note(at, partition, committed);
        }
    }

    /// What is committed for a partition.
    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&Committed> {
        self.entries.get(partition)?.committed.as_ref()
    }

    /// All partitions for which something is committed, or will be when it is done.
    pub(super) fn partitions(&self) -> BTreeSet<TopicPartition> {
        let pending = self.pending.iter().flat_map(|one| &one.said).map(|(partition, _)| partition);
        self.iter().map(|(partition, _)| partition).chain(pending).cloned().collect()
    }

    /// All that is committed.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Committed)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, entry.committed.as_ref()?)))
    }
}
