//! Changes of a group, of which its members hear when the group is unlocked: who is woken may do anything at once, and no
//! lock of the group may be in his way.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

use super::coordinator::Coordinator;
use super::registry::{GroupCell, GroupState};
use crate::log::wakers::{Held, hold};
use crate::sync::lock;

/// A group that is locked.
pub(super) struct Locked<'a> {
    // The order matters: it is unlocked first.
    state: Held<'a, GroupState>,
    /// `None` if somebody else tells.
    _news: Option<News<'a>>,
}

/// Wakes the members, when it is dropped, if the group's version is not this any more.
pub(super) struct News<'a> {
    cell: &'a GroupCell,
    version: u64,
}

impl GroupCell {
    /// Grows when members should not wait with their next heartbeat.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Has the members send a heartbeat soon. The caller has no lock.
    pub(super) fn nudge(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
        self.waiting.wake_all();
    }

    /// Locks the group for what may change something for its members.
    pub(super) fn lock(&self) -> Locked<'_> {
        let state = hold(&self.state);
        Locked { state, _news: Some(self.news()) }
    }

    /// As [`lock`](Self::lock), for one who has other locks, and drops [`news`](Self::news) that are older than this when they
    /// are given up.
    pub(super) fn lock_quietly(&self) -> Locked<'_> {
        Locked { state: hold(&self.state), _news: None }
    }

    /// Has members hear of what changes from now on.
    pub(super) fn news(&self) -> News<'_> {
        News { cell: self, version: self.version() }
    }

    /// Runs an operation on the coordinator, which hears of members that wait here first. If it changed something for the
    /// members the version grows, and they are woken when the group is unlocked.
    pub(super) fn coordinate<T>(
        &self,
        state: &mut Locked<'_>,
        now_ms: i64,
        run: impl FnOnce(&mut Coordinator) -> T,
    ) -> T {
        for (member, presence) in lock(&self.present).values() {
            state.coordinator.heard(member, presence.seen_ms(now_ms));
        }
        self.beats.tell(&self.name, now_ms, &mut state.coordinator);
        let before = state.coordinator.changes();
        let result = run(&mut state.coordinator);
        if state.coordinator.changes() != before {
            self.version.fetch_add(1, Ordering::SeqCst);
        }
        result
    }
}

impl Deref for Locked<'_> {
    type Target = GroupState;

    fn deref(&self) -> &GroupState {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut GroupState {
        &mut self.state
    }
}

impl Drop for News<'_> {
    fn drop(&mut self) {
        if self.cell.version() != self.version {
            self.cell.waiting.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::context::Context;
    use crate::log::storage::MemoryStorage;
    use crate::log::{Log, LogClient, LogServer, Position, TopicOptions};

    #[test]
    fn a_server_answers_others_while_a_group_that_is_asked_for_is_locked() {
        let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
        log.create_topic("t", TopicOptions::default()).unwrap();
        let group = log.group("g").unwrap();
        let context = Context::new();
        let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
        let client = LogClient::options().timeout(Duration::from_secs(60));
        let client = client.connect(&context, server.endpoint().clone()).unwrap();
        std::thread::scope(|scope| {
            let locked = group.cell.lock();
            let position = Position::Committed("g".to_owned());
            let asking = scope.spawn(|| client.offset_of("t", 0, position));
            while server.stats().requests == 0 {
                std::thread::yield_now();
            }
            let answered = client.topics();
            drop(locked);
            assert_eq!(answered.unwrap(), ["t"]);
            assert_eq!(asking.join().unwrap().unwrap(), 0);
        });
    }
}
