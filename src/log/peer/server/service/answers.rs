//! The answers of a server: sent as far as their clients read them, and held back beyond that.

use std::sync::atomic::Ordering;

use super::{Service, Task};
use crate::log::peer::protocol::{self, Outcome, RemoteCode, RemoteError, Request};
use crate::log::peer::server::clients::{Client, Kind, Sent};
use crate::peer::PeerId;
use crate::sync::lock;
use crate::transport::now;

impl Service {
    pub(super) fn finish(&mut self, peer: PeerId, correlation: u64, outcome: &Outcome) {
        let Some(client) = self.clients.get_mut(&peer) else { return };
        let kind = client.finish(correlation);
        // The next server does it: its client sends it there. Who waits for something to come is to know that nothing will.
        if kind == Some(Kind::Other)
            && outcome.as_ref().is_err_and(|error| error.code == RemoteCode::Closed)
        {
            return self.send(peer);
        }
        self.answer(peer, correlation, outcome);
    }

    pub(super) fn answer(&mut self, peer: PeerId, correlation: u64, outcome: &Outcome) {
        if outcome.is_err() {
            self.control.refused.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(client) = self.clients.get_mut(&peer) {
            client.push(protocol::encode_answer(correlation, outcome));
            self.send(peer);
        }
    }

    /// Refuses a request that was not looked at, in the version in which it came.
    pub(super) fn refuse(
        &mut self,
        peer: PeerId,
        version: u8,
        correlation: u64,
        error: RemoteError,
    ) {
        if version == protocol::VERSION {
            return self.answer(peer, correlation, &Err(error));
        }
        self.control.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(client) = self.clients.get_mut(&peer) {
            client.push(protocol::encode_version_refusal(version, correlation, &error));
            self.send(peer);
        }
    }

    /// Sends what a client has room for, and looks at its further requests when it has read enough.
    pub(super) fn send(&mut self, peer: PeerId) {
        let Some(client) = self.clients.get_mut(&peer) else { return };
        let (before, task) = (client.sending_task(), self.next_task);
        if client.send(&self.socket, &self.alarm, task) == Sent::Gone {
            return self.forget(peer);
        }
        let after = client.sending_task();
        if before != after {
            before.map(|task| self.tasks.remove(&task));
            if after == Some(task) {
                self.next_task += 1;
                self.tasks.insert(task, Task::Send(peer));
            }
        }
        if !client.is_over(self.limits.answer_bytes_max) {
            if !client.held.is_empty() {
                self.roomy.insert(peer);
            }
            self.resume(peer);
            self.forget_if_idle(peer);
        }
    }

    /// Has the next request looked at that a client has sent and that waited until it had read enough: one at a time, as each
    /// may be answered.
    pub(super) fn resume(&mut self, peer: PeerId) {
        let Some(client) = self.clients.get_mut(&peer) else { return };
        let is_resumed = self.resumed.iter().any(|(resumed, _)| *resumed == peer);
        if !is_resumed && !client.is_over(self.limits.answer_bytes_max) {
            self.resumed.extend(client.deferred.pop_front().map(|deferred| (peer, deferred)));
        }
    }

    /// Goes on with what was held of a client, as far as it has read enough by now.
    pub(super) fn release(&mut self, peer: PeerId) {
        let bytes_max = self.limits.answer_bytes_max;
        while let Some(client) = self.clients.get_mut(&peer)
            && !client.is_over(bytes_max)
            && let Some(task) = client.held.pop_first()
        {
            let over = match self.tasks.get(&task) {
                Some(Task::Request { deadline, .. }) => *deadline <= now(),
                _ => false,
            };
            self.go_on(task, over);
        }
    }

    pub(super) fn forget_if_idle(&mut self, peer: PeerId) {
        if self.clients.get(&peer).is_some_and(Client::is_idle) {
            self.clients.remove(&peer);
        }
    }

    /// Drops all that was in flight for a client that is gone.
    fn forget(&mut self, peer: PeerId) {
        self.clients.remove(&peer);
        self.resumed.retain(|(resumed, _)| *resumed != peer);
        let deadlines = &mut self.deadlines;
        self.tasks.retain(|number, task| match task {
            Task::Request { peer: other, deadline, .. } if *other == peer => {
                deadlines.remove(*number, *deadline);
                false
            }
            Task::Send(other) => *other != peer,
            Task::Request { .. } => true,
        });
    }

    pub(super) fn forget_gone(&mut self) {
        self.ended.retain(|peer| self.socket.has_peer(*peer));
        let gone = std::mem::take(&mut *lock(&self.control.gone));
        for peer in gone {
            self.forget(peer);
            // That may be told before the socket lets go of it.
            if self.socket.has_peer(peer) {
                self.ended.insert(peer);
            }
        }
    }

    /// Whether a request is for an answer that reaches nobody: its client can be gone while what it has sent is still in the
    /// socket, and nothing ends a wait for it then. As long as the socket has the client, it will be told when it goes.
    pub(super) fn is_in_vain(&self, peer: PeerId, request: Option<&Request>) -> bool {
        let only_asks = request.is_some_and(Request::only_asks);
        let in_vain = only_asks && (self.ended.contains(&peer) || !self.socket.has_peer(peer));
        if in_vain {
            self.control.dropped.fetch_add(1, Ordering::Relaxed);
        }
        in_vain
    }
}
