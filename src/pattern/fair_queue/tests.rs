//! Tests of the turn: fairness, lifetime of lanes and slots, and agreement with a naive model.

use proptest::prelude::*;

use super::*;

/// A lane of `(peer, message number)`; a chunk is a run of messages.
#[derive(Debug, Default)]
struct Numbers(VecDeque<(u64, u32)>);

impl Lane for Numbers {
    type Chunk = Vec<(u64, u32)>;

    fn push(&mut self, chunk: Self::Chunk) {
        self.0.extend(chunk);
    }

    fn replace(&mut self, chunk: Self::Chunk) {
        self.0 = chunk.into();
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Queues messages `0..count` of `peer`.
fn enter(queue: &mut FairQueue<Numbers>, peer: u64, count: u32) {
    let chunk = (0..count).map(|n| (peer, n)).collect();
    queue.enter(PeerId(peer), Numbers::default, chunk);
}

/// The next message.
fn next(queue: &mut FairQueue<Numbers>) -> Option<(u64, u32)> {
    queue.next(|lane| lane.0.pop_front())
}

#[test]
fn with_all_lanes_full_each_nth_message_comes_from_the_nth_peer() {
    let mut queue = FairQueue::new();
    for peer in 0..5 {
        enter(&mut queue, peer, 20);
    }
    for round in 0..20 {
        for peer in 0..5 {
            assert_eq!(next(&mut queue), Some((peer, round)));
        }
    }
    assert_eq!(next(&mut queue), None);
    assert!(queue.is_empty());
}

#[test]
fn a_peer_with_much_to_read_delays_another_by_one_message_only() {
    let mut queue = FairQueue::new();
    enter(&mut queue, 1, 1000);
    assert_eq!(next(&mut queue), Some((1, 0)));
    enter(&mut queue, 2, 1);
    assert_eq!(next(&mut queue), Some((1, 1)));
    assert_eq!(next(&mut queue), Some((2, 0)));
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_newest_chunk_replaces_the_waiting_one_and_keeps_the_place_in_the_turn() {
    let mut queue = FairQueue::new();
    queue.enter_newest(PeerId(1), Numbers::default, vec![(1, 0)]);
    queue.enter_newest(PeerId(2), Numbers::default, vec![(2, 0)]);
    queue.enter_newest(PeerId(1), Numbers::default, vec![(1, 7)]);
    assert_eq!(next(&mut queue), Some((1, 7)));
    assert_eq!(next(&mut queue), Some((2, 0)));
    assert!(queue.is_empty());
}

#[test]
fn an_empty_lane_is_dropped_and_made_anew_for_the_next_chunk() {
    let mut queue = FairQueue::new();
    let mut made = 0;
    for _ in 0..3 {
        let make = || {
            made += 1;
            Numbers::default()
        };
        queue.enter(PeerId(1), make, vec![(1, 0)]);
        assert_eq!(next(&mut queue), Some((1, 0)));
        assert!(queue.slots.iter().all(|slot| slot.lane.is_none()));
    }
    assert_eq!(made, 3);
}

#[test]
fn memory_is_bounded_by_the_peers_readable_at_once_and_not_by_the_peers_ever_seen() {
    let mut queue = FairQueue::new();
    for peer in 0..10_000 {
        enter(&mut queue, peer, 1);
        enter(&mut queue, peer + 1, 1);
        assert_eq!(next(&mut queue), Some((peer, 0)));
        while next(&mut queue).is_some() {}
    }
    assert!(queue.slots.len() <= 2);
    assert!(queue.slot_of.len() <= 2);
    assert!(queue.free.len() <= 2);
}

/// One step of the comparison with the model.
#[derive(Clone, Debug)]
enum Step {
    /// A chunk of so many messages arrives from a peer.
    Enter(u64, u32),
    /// The same for a conflating socket.
    EnterNewest(u64, u32),
    /// One message is read.
    Next,
}

/// Steps over a few peers.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..6_u64, 1..4_u32).prop_map(|(peer, count)| Step::Enter(peer, count)),
        1 => (0..6_u64, 1..4_u32).prop_map(|(peer, count)| Step::EnterNewest(peer, count)),
        4 => Just(Step::Next),
    ]
}

/// The naive model: a list of peers with messages, searched by peer and rotated by removal.
type Model = Vec<(u64, Vec<(u64, u32)>)>;

/// The model's lane of a peer.
fn model_lane(model: &mut Model, peer: u64) -> &mut Vec<(u64, u32)> {
    let position = model.iter().position(|(other, _)| *other == peer).unwrap_or_else(|| {
        model.push((peer, Vec::new()));
        model.len() - 1
    });
    &mut model[position].1
}

/// The model's next message.
fn model_next(model: &mut Model) -> Option<(u64, u32)> {
    if model.is_empty() {
        return None;
    }
    let (peer, mut messages) = model.remove(0);
    let message = messages.remove(0);
    if !messages.is_empty() {
        model.push((peer, messages));
    }
    Some(message)
}

proptest! {
    #[test]
    fn any_sequence_of_arrivals_and_reads_agrees_with_the_naive_model(
        steps in proptest::collection::vec(step(), 0..300),
    ) {
        let (mut queue, mut model) = (FairQueue::<Numbers>::new(), Model::new());
        let mut serial = 0;
        for step in steps {
            let mut chunk = |peer: u64, count: u32| -> Vec<(u64, u32)> {
                serial += count;
                (serial - count..serial).map(|n| (peer, n)).collect()
            };
            match step {
                Step::Enter(peer, count) => {
                    let chunk = chunk(peer, count);
                    model_lane(&mut model, peer).extend(chunk.iter().copied());
                    queue.enter(PeerId(peer), Numbers::default, chunk);
                }
                Step::EnterNewest(peer, count) => {
                    let chunk = chunk(peer, count);
                    *model_lane(&mut model, peer) = chunk.clone();
                    queue.enter_newest(PeerId(peer), Numbers::default, chunk);
                }
                Step::Next => prop_assert_eq!(next(&mut queue), model_next(&mut model)),
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            prop_assert!(queue.slots.len() <= 6 && queue.free.len() <= queue.slots.len());
        }
    }
}
