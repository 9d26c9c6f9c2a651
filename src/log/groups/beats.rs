//! Heartbeats that have come and are not answered: whoever waits for an answer is not silent, however long others keep it
//! waiting.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::coordinator::Coordinator;
use crate::log::Log;
use crate::log::clock::Clock;
use crate::sync::{Mutex, lock};

/// Of all groups of a log, by group and member. Its lock is a leaf.
#[derive(Debug, Default)]
pub(super) struct Beats(Mutex<BTreeMap<String, BTreeMap<String, Beat>>>);

/// One member's.
#[derive(Clone, Copy, Debug, Default)]
struct Beat {
    /// Heartbeats that are not answered.
    waiting: usize,
    /// When the last one was, on the log's steady clock; for as long as nobody has asked for it.
    answered_ms: i64,
}

impl Beats {
    /// Tells a coordinator who was there, and until when.
    pub(super) fn tell(&self, group: &str, now_ms: i64, coordinator: &mut Coordinator) {
        let mut groups = lock(&self.0);
        let Some(members) = groups.get_mut(group) else { return };
        members.retain(|member, beat| {
            let waits = beat.waiting > 0;
            coordinator.heard(member, if waits { now_ms } else { beat.answered_ms });
            waits
        });
        if members.is_empty() {
            groups.remove(group);
        }
    }
}

/// A heartbeat that has come. Dropped when it is answered, or never will be.
#[derive(Debug)]
pub(in crate::log) struct Beating {
    beats: Arc<Beats>,
    clock: Arc<dyn Clock>,
    group: String,
    member: String,
    /// Whether it was the heartbeat of a member.
    taken: bool,
}

impl Log {
    /// A heartbeat has come just now. Waits for nothing.
    pub(in crate::log) fn beating(&self, group: &str, member: &str) -> Beating {
        let beats = Arc::clone(&self.inner.groups.beats);
        let mut groups = lock(&beats.0);
        let members = groups.entry(group.to_owned()).or_default();
        members.entry(member.to_owned()).or_default().waiting += 1;
        drop(groups);
        let (group, member) = (group.to_owned(), member.to_owned());
        let clock = self.inner.shared.clock.clone();
        Beating { beats, clock, group, member, taken: false }
    }
}

impl Beating {
    /// It was taken: this is a member, which has the rest of its session for the next one from the answer on.
    pub(in crate::log) fn taken(&mut self) {
        self.taken = true;
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        let now_ms = self.clock.steady_ms();
        let mut groups = lock(&self.beats.0);
        let Some(members) = groups.get_mut(&self.group) else { return };
        if let Some(beat) = members.get_mut(&self.member) {
            beat.waiting -= 1;
            beat.answered_ms = now_ms;
            if beat.waiting == 0 && !self.taken {
                // Nothing is kept for strangers.
                members.remove(&self.member);
            }
        }
        if members.is_empty() {
            groups.remove(&self.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::context::Context;
    use crate::log::peer::protocol::{self, Answer, Heartbeat, Nothing, Outcome, Request};
    use crate::log::storage::MemoryStorage;
    use crate::log::{LogServer, ManualClock};
    use crate::pattern::Dealer;
    use crate::socket::Socket;

    const PATIENCE: Duration = Duration::from_secs(60);
    const SESSION_MS: u32 = 1000;

    fn heartbeat(group: &str, member: &str, generation: i32, sequence: u64) -> Request {
        let heartbeat = Heartbeat {
            group: group.to_owned(),
            member: member.to_owned(),
            instance: None,
            generation,
            sequence,
            topics: vec!["t".to_owned()],
            strategy: "range".to_owned(),
            session_ms: SESSION_MS,
            owned: Vec::new(),
        };
        heartbeat.into()
    }

    fn open() -> (Arc<ManualClock>, Log) {
        let clock = Arc::new(ManualClock::new(0));
        let options = Log::options().storage(Arc::new(MemoryStorage::new())).clock(clock.clone());
        (clock, options.open("/log").unwrap())
    }

    fn send(socket: &Socket<Dealer>, correlation: u64, request: &Request) {
        socket.send(protocol::encode_request(correlation, request, Vec::new())).unwrap();
    }

    fn answer(socket: &Socket<Dealer>) -> Outcome {
        let answer = socket.recv_timeout(PATIENCE).unwrap();
        protocol::decode_answer(&answer).unwrap().1
    }

    #[test]
    fn a_member_whose_client_has_to_read_first_is_not_silent() {
        let (clock, log) = open();
        let context = Context::new();
        // Whatever is not sent is too much.
        let options = LogServer::options().answer_bytes_max(1);
        let server = options.bind(&context, &log, "inproc://log").unwrap();
        let client = context.dealer().recv_hwm(1).open().unwrap();
        client.connect(server.endpoint().clone()).unwrap();
        send(&client, 1, &heartbeat("g", "m", 0, 1));
        let Ok(reply) = answer(&client) else { panic!("it cannot join") };
        let Answer::Membership(joined) = reply.answer else { panic!("{reply:?}") };

        let ask =
            |correlation| send(&client, correlation, &protocol::ListTopics(Nothing {}).into());
        (2..22).for_each(ask);
        send(&client, 22, &heartbeat("g", "m", joined.generation, 2));
        // When this one is taken, that one has been.
        ask(23);
        while server.stats().requests < 23 {
            std::thread::yield_now();
        }
        clock.advance(10 * i64::from(SESSION_MS));
        let group = log.group("g").unwrap();
        assert_eq!(group.describe().unwrap().members.len(), 1, "it has not read, but is there");
        let outcomes: Vec<Outcome> = (2..24).map(|_| answer(&client)).collect();
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");

        // From the answer on it has a session as always, and no longer.
        clock.advance(i64::from(SESSION_MS));
        assert_eq!(group.describe().unwrap().members.len(), 1);
        clock.advance(1);
        assert!(group.describe().unwrap().members.is_empty());
        assert!(lock(&log.inner.groups.beats.0).is_empty(), "nothing is left of it");
    }

    #[test]
    fn a_member_whose_heartbeat_waits_for_another_group_is_not_silent() {
        let (clock, log) = open();
        let context = Context::new();
        let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
        let [slow, member] = [(), ()].map(|()| {
            let options = context.dealer().linger(Duration::ZERO);
            options.connect(server.endpoint().clone()).unwrap()
        });
        send(&member, 1, &heartbeat("h", "m", 0, 1));
        let Ok(reply) = answer(&member) else { panic!("it cannot join") };
        let Answer::Membership(joined) = reply.answer else { panic!("{reply:?}") };

        let other = log.group("g").unwrap();
        let locked = lock(&other.cell.state);
        send(&slow, 1, &heartbeat("g", "s", 0, 1));
        while server.stats().waiting < 1 {
            std::thread::yield_now();
        }
        clock.advance(i64::from(SESSION_MS) / 2);
        send(&member, 1, &heartbeat("h", "m", joined.generation, 2));
        while server.stats().waiting < 2 {
            std::thread::yield_now();
        }
        clock.advance(10 * i64::from(SESSION_MS));
        let group = log.group("h").unwrap();
        assert_eq!(group.describe().unwrap().members.len(), 1, "it is there, and waits");
        drop(locked);
        assert!(answer(&slow).is_ok());
        let beaten = answer(&member);
        assert!(beaten.is_ok(), "it is expelled: {beaten:?}");

        // From the answer on it has a session as always, and no longer.
        clock.advance(i64::from(SESSION_MS));
        assert_eq!(group.describe().unwrap().members.len(), 1);
        clock.advance(1);
        assert!(group.describe().unwrap().members.is_empty());
        other.describe().unwrap();
        assert!(lock(&log.inner.groups.beats.0).is_empty(), "nothing is left of them");
    }
}
