//! What can be told of groups without waiting for anything.

use crate::log::Log;
use crate::log::groups::handle::Group;

impl Log {
    /// A group that exists or is asked for already. `None` says nothing but that [`group`](Self::group) must be asked: what is
    /// known of groups may have to be read first, or is being read.
    pub(in crate::log) fn known_group(&self, name: &str) -> Option<Group> {
        let index = self.inner.groups.index.try_lock().ok()?;
        let current = index.loaded && self.inner.shared.epoch >= 0;
        let cell = index.groups.get(name).filter(|_| current)?.clone();
        Some(Group { log: self.inner.clone(), cell })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::context::Context;
    use crate::log::peer::protocol::{self, AwaitGroup};
    use crate::log::storage::MemoryStorage;
    use crate::log::{Log, LogClient, LogServer, TopicOptions};
    use crate::sync::lock;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_server_answers_others_while_groups_are_read_for_one_who_waits_for_a_change() {
        let log = Log::open_in(Arc::new(MemoryStorage::new()), "/log").unwrap();
        log.create_topic("t", TopicOptions::default()).unwrap();
        let context = Context::new();
        let server = LogServer::bind(&context, &log, "tcp://127.0.0.1:0").unwrap();
        let client = LogClient::options().timeout(PATIENCE);
        let client = client.connect(&context, server.endpoint().clone()).unwrap();
        let member = context.dealer().open().unwrap();
        member.connect(server.endpoint().clone()).unwrap();
        let reading = lock(&log.inner.groups.index);
        // Over at once, but not before the group is known.
        let request = AwaitGroup { group: "g".to_owned(), version: 0, wait_ms: 1 };
        member.send(protocol::encode_request(1, &request.into(), Vec::new())).unwrap();
        while server.stats().requests == 0 {
            std::thread::yield_now();
        }
        let answered = client.topics();
        drop(reading);
        assert_eq!(answered.unwrap(), ["t"]);
        let answer = member.recv_timeout(PATIENCE).unwrap();
        let (correlation, outcome) = protocol::decode_answer(&answer).unwrap();
        assert!(correlation == 1 && outcome.is_ok(), "{outcome:?}");
        assert!(log.known_group("g").is_some() && log.known_group("h").is_none());
    }
}
