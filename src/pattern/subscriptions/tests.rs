//! Tests of the subscriptions: counting, limits, size, and agreement with a naive model.

use proptest::prelude::*;

use super::*;

/// A peer number.
const A: PeerId = PeerId(1);
/// Another peer number.
const B: PeerId = PeerId(2);

/// An empty table with the default limits.
fn table() -> Subscriptions {
    Subscriptions::new(SubscriptionLimits::default())
}

/// The peers reported for a subject, sorted; duplicates stay visible.
fn matching(table: &mut Subscriptions, subject: &[u8]) -> Vec<u64> {
    let mut peers = Vec::new();
    table.matches(subject, |peer| peers.push(peer.0));
    peers.sort_unstable();
    peers
}

#[test]
fn a_topic_matches_subjects_that_begin_with_it_and_no_others() {
    let mut table = table();
    table.subscribe(A, b"weather.").unwrap();
    for subject in [&b"weather."[..], b"weather.oslo"] {
        assert_eq!(matching(&mut table, subject), [1]);
        assert!(table.matches_any(subject));
    }
    for subject in [&b""[..], b"weather", b"weathers", b"Weather."] {
        assert_eq!(matching(&mut table, subject), []);
        assert!(!table.matches_any(subject));
    }
}

#[test]
fn the_empty_topic_matches_everything() {
    let mut table = table();
    table.subscribe(A, b"").unwrap();
    assert_eq!(matching(&mut table, b""), [1]);
    assert_eq!(matching(&mut table, b"anything"), [1]);
    assert_eq!(table.topics_of(A).collect::<Vec<_>>(), [b""]);
    assert!(table.cancel(A, b"").unwrap().last_of_topic);
    assert!(!table.matches_any(b"anything"));
}

#[test]
fn a_peer_with_many_matching_topics_is_reported_once_per_message() {
    let mut table = table();
    for topic in [&b""[..], b"a", b"ab", b"abc"] {
        table.subscribe(A, topic).unwrap();
        table.subscribe(B, topic).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(matching(&mut table, b"abcd"), [1, 2]);
    }
}

#[test]
fn repeated_subscriptions_are_counted_per_peer() {
    let mut table = table();
    let first = Subscribed { first_of_peer: true, first_of_topic: true };
    let second_peer = Subscribed { first_of_peer: true, first_of_topic: false };
    let again = Subscribed { first_of_peer: false, first_of_topic: false };
    assert_eq!(table.subscribe(A, b"t"), Ok(first));
    assert_eq!(table.subscribe(A, b"t"), Ok(again));
    assert_eq!(table.subscribe(B, b"t"), Ok(second_peer));
    let counted = Cancelled { last_of_peer: false, last_of_topic: false };
    assert_eq!(table.cancel(A, b"t"), Some(counted));
    assert_eq!(table.cancel(A, b"t"), Some(Cancelled { last_of_peer: true, ..counted }));
    assert_eq!(table.cancel(A, b"t"), None);
    let last = Cancelled { last_of_peer: true, last_of_topic: true };
    assert_eq!(table.cancel(B, b"t"), Some(last));
    assert_eq!((table.peer_count(), table.topic_count()), (0, 0));
}

#[test]
fn cancelling_what_is_not_held_changes_nothing() {
    let mut table = table();
    table.subscribe(A, b"abc").unwrap();
    table.subscribe(A, b"abd").unwrap();
    for topic in [&b""[..], b"a", b"ab", b"abcd", b"x"] {
        assert_eq!(table.cancel(A, topic), None);
        assert_eq!(table.cancel(B, topic), None);
    }
    assert_eq!(table.cancel(B, b"abc"), None);
    assert_eq!(table.topic_count(), 2);
}

#[test]
fn removing_a_peer_returns_only_the_topics_that_nobody_else_holds() {
    let mut table = table();
    table.subscribe(A, b"own").unwrap();
    table.subscribe(A, b"own").unwrap();
    table.subscribe(A, b"shared").unwrap();
    table.subscribe(B, b"shared").unwrap();
    assert_eq!(table.remove_peer(A), [b"own"]);
    assert_eq!(table.remove_peer(A), [b""; 0]);
    assert_eq!(matching(&mut table, b"own"), []);
    assert_eq!(matching(&mut table, b"shared"), [2]);
    assert_eq!((table.peer_count(), table.topic_count()), (1, 1));
}

#[test]
fn each_limit_refuses_the_topic_that_would_exceed_it_and_changes_nothing() {
    let mut table = Subscriptions::new(SubscriptionLimits {
        topics_per_peer_max: 3,
        topic_bytes_max: 4,
        bytes_per_peer_max: 8,
    });
    let refused = |what, limit| Err(LimitExceeded { what, limit });
    assert_eq!(table.subscribe(A, b"12345"), refused("bytes in a topic", 4));
    assert_eq!(table.peer_count(), 0);
    table.subscribe(A, b"1234").unwrap();
    table.subscribe(A, b"123").unwrap();
    assert_eq!(table.subscribe(A, b"12"), refused("bytes in the topics of one peer", 8));
    table.subscribe(A, b"1").unwrap();
    assert_eq!(table.subscribe(A, b""), refused("topics of one peer", 3));
    assert_eq!(table.topic_count(), 3);
    table.subscribe(A, b"1").expect("a repetition costs nothing");
    table.subscribe(B, b"12").expect("limits are per peer");
    table.cancel(A, b"1234").unwrap();
    table.subscribe(A, b"12").expect("a cancelled topic gives its share back");
}

#[test]
fn the_count_of_a_topic_saturates() {
    let mut table = table();
    table.subscribe(A, b"t").unwrap();
    table.holder_mut(A, b"t").unwrap().count = u32::MAX;
    table.subscribe(A, b"t").unwrap();
    assert_eq!(table.holder_mut(A, b"t").unwrap().count, u32::MAX);
}

#[test]
fn removing_everything_frees_every_node() {
    let mut table = table();
    let start = table.tree.node_count();
    let topics = [&b""[..], b"a", b"abcdef", b"abcxyz", b"abc", b"abcd", b"b", b"bcd", b"bce"];
    for peer in 0..10 {
        for topic in topics {
            table.subscribe(PeerId(peer), topic).unwrap();
        }
    }
    assert!(table.tree.node_count() > topics.len());
    for peer in 0..5 {
        assert!(table.remove_peer(PeerId(peer)).is_empty());
    }
    for peer in 5..10 {
        for topic in topics {
            assert!(table.cancel(PeerId(peer), topic).unwrap().last_of_peer);
            table.tree.assert_invariants();
        }
    }
    assert_eq!(table.tree.node_count(), start);
    assert_eq!((table.peer_count(), table.topic_count()), (0, 0));
    assert_eq!(table.free_slots.len(), table.peers.len());
}

#[test]
fn a_chain_of_prefixes_up_to_64_kib_is_walked_and_dropped_without_recursion() {
    let mut table = table();
    let longest = vec![b'x'; 64 << 10];
    for length in (1..3_000).chain([16 << 10, 32 << 10, 64 << 10]) {
        table.subscribe(A, &longest[..length]).unwrap();
    }
    table.subscribe(B, &longest).unwrap();
    assert_eq!(matching(&mut table, &longest), [1, 2]);
    assert_eq!(matching(&mut table, &longest[1..]), [1]);
    assert_eq!(table.remove_peer(A).len(), 3_001);
    assert_eq!(table.topics_of(B).collect::<Vec<_>>(), [longest]);
    assert_eq!(table.tree.node_count(), 2);
}

#[test]
fn among_ten_thousand_peers_with_distinct_topics_only_the_meant_one_matches() {
    let mut table = table();
    let topic = |n: u64| format!("sensor/{n}/").into_bytes();
    for n in 0..10_000 {
        table.subscribe(PeerId(n), &topic(n)).unwrap();
    }
    table.tree.assert_invariants();
    assert_eq!((table.peer_count(), table.topic_count()), (10_000, 10_000));
    for n in (0..10_000).step_by(97) {
        let subject = [&topic(n), &b"temperature"[..]].concat();
        assert_eq!(matching(&mut table, &subject), [n]);
    }
    for n in 0..10_000 {
        assert_eq!(table.remove_peer(PeerId(n)), [topic(n)]);
    }
    assert_eq!(table.tree.node_count(), 1);
}

/// One step of the comparison with the model.
#[derive(Clone, Debug)]
enum Step {
    /// A peer subscribes.
    Subscribe(u64, Vec<u8>),
    /// A peer cancels.
    Cancel(u64, Vec<u8>),
    /// A peer goes away.
    RemovePeer(u64),
}

/// Topics over three letters, so that most of them are related.
fn topic() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(b'a'..=b'c', 0..6)
}

/// Steps of few peers.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u64, topic()).prop_map(|(peer, topic)| Step::Subscribe(peer, topic)),
        5 => (0..4_u64, topic()).prop_map(|(peer, topic)| Step::Cancel(peer, topic)),
        1 => (0..4_u64).prop_map(Step::RemovePeer),
    ]
}

/// The naive model: a list of peer, topic and count.
#[derive(Default)]
struct Model(Vec<(u64, Vec<u8>, u32)>);

impl Model {
    /// Whether anybody holds the topic.
    fn held(&self, topic: &[u8]) -> bool {
        self.0.iter().any(|(_, held, _)| held == topic)
    }

    /// Where the peer's hold on the topic is.
    fn position(&self, peer: u64, topic: &[u8]) -> Option<usize> {
        self.0.iter().position(|(holder, held, _)| *holder == peer && held == topic)
    }

    /// Counts a subscription.
    fn subscribe(&mut self, peer: u64, topic: &[u8]) -> Subscribed {
        if let Some(position) = self.position(peer, topic) {
            self.0[position].2 += 1;
            return Subscribed { first_of_peer: false, first_of_topic: false };
        }
        let first_of_topic = !self.held(topic);
        self.0.push((peer, topic.to_vec(), 1));
        Subscribed { first_of_peer: true, first_of_topic }
    }

    /// Takes a subscription back.
    fn cancel(&mut self, peer: u64, topic: &[u8]) -> Option<Cancelled> {
        let position = self.position(peer, topic)?;
        self.0[position].2 -= 1;
        let last_of_peer = self.0[position].2 == 0;
        if last_of_peer {
            self.0.remove(position);
        }
        Some(Cancelled { last_of_peer, last_of_topic: !self.held(topic) })
    }

    /// Forgets a peer; the topics that nobody holds any more, sorted.
    fn remove_peer(&mut self, peer: u64) -> Vec<Vec<u8>> {
        let mut topics = self.topics(|holder| holder == peer);
        self.0.retain(|(holder, _, _)| *holder != peer);
        topics.retain(|topic| !self.held(topic));
        topics
    }

    /// The different topics of the peers chosen, sorted.
    fn topics(&self, chosen: impl Fn(u64) -> bool) -> Vec<Vec<u8>> {
        let held = self.0.iter().filter(|(peer, _, _)| chosen(*peer));
        let set: BTreeSet<_> = held.map(|(_, topic, _)| topic.clone()).collect();
        set.into_iter().collect()
    }

    /// The peers with a prefix of the subject, sorted.
    fn matching(&self, subject: &[u8]) -> Vec<u64> {
        let held = self.0.iter().filter(|(_, topic, _)| subject.starts_with(topic));
        let set: BTreeSet<_> = held.map(|(peer, _, _)| *peer).collect();
        set.into_iter().collect()
    }
}

/// Applies one step to both and compares what they return.
fn apply(table: &mut Subscriptions, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Subscribe(peer, topic) => {
            let real = table.subscribe(PeerId(peer), &topic);
            prop_assert_eq!(real, Ok(model.subscribe(peer, &topic)));
        }
        Step::Cancel(peer, topic) => {
            prop_assert_eq!(table.cancel(PeerId(peer), &topic), model.cancel(peer, &topic));
        }
        Step::RemovePeer(peer) => {
            let mut real = table.remove_peer(PeerId(peer));
            real.sort_unstable();
            prop_assert_eq!(real, model.remove_peer(peer));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_sequence_of_subscriptions_agrees_with_the_naive_model(
        steps in proptest::collection::vec(step(), 0..150),
        subjects in proptest::collection::vec(topic(), 1..8),
    ) {
        let (mut table, mut model) = (table(), Model::default());
        for step in steps {
            apply(&mut table, &mut model, step)?;
            table.tree.assert_invariants();
            for subject in &subjects {
                let expected = model.matching(subject);
                prop_assert_eq!(table.matches_any(subject), !expected.is_empty());
                prop_assert_eq!(matching(&mut table, subject), expected);
            }
            let holders: Vec<u64> =
                (0..4).filter(|peer| !model.topics(|p| p == *peer).is_empty()).collect();
            prop_assert_eq!(table.peer_count(), holders.len());
            prop_assert_eq!(table.topic_count(), model.topics(|_| true).len());
        }
        for peer in 0..4 {
            let mut topics: Vec<_> = table.topics_of(PeerId(peer)).collect();
            topics.sort_unstable();
            prop_assert_eq!(topics, model.topics(|p| p == peer));
        }
        for peer in 0..4 {
            table.remove_peer(PeerId(peer));
        }
        prop_assert_eq!(table.tree.node_count(), 1);
    }
}
