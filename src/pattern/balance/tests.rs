//! Tests of the rotation: exact shares, stable order, and agreement with a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A rotation of peers `0..count`, each its own target.
fn balance_of(count: u64) -> Balance<u64> {
    let mut balance = Balance::new();
    for n in 0..count {
        balance.attach(PeerId(n), n);
    }
    balance
}

/// The peer that takes the next message when nobody is full.
fn next(balance: &mut Balance<u64>) -> Option<u64> {
    balance.pick(|target| Some(*target))
}

#[test]
fn every_ready_peer_gets_exactly_its_share() {
    let (peers, rounds) = (7_usize, 100);
    let mut balance = balance_of(7);
    let mut counts = vec![0; peers];
    for _ in 0..peers * rounds {
        let peer = next(&mut balance).unwrap();
        counts[usize::try_from(peer).unwrap()] += 1;
    }
    assert_eq!(counts, vec![rounds; peers]);
}

#[test]
fn a_newcomer_is_served_last_in_the_current_turn() {
    let mut balance = balance_of(3);
    assert_eq!(next(&mut balance), Some(0));
    balance.attach(PeerId(9), 9);
    let order: Vec<_> = (0..5).filter_map(|_| next(&mut balance)).collect();
    assert_eq!(order, [1, 2, 0, 9, 1]);
}

#[test]
fn a_full_peer_is_not_asked_again_until_it_is_writable() {
    let mut balance = balance_of(3);
    let taken = balance.pick(|target| (*target != 0).then_some(*target));
    assert_eq!(taken, Some(1), "the refusal of 0 passes the turn on");
    let mut asked = Vec::new();
    for _ in 0..4 {
        balance.pick(|target| {
            asked.push(*target);
            Some(())
        });
    }
    assert_eq!(asked, [2, 1, 2, 1]);
    assert!(balance.writable(PeerId(0)));
    assert!(!balance.writable(PeerId(0)), "it is ready already");
    let order: Vec<_> = (0..3).filter_map(|_| next(&mut balance)).collect();
    assert_eq!(order, [2, 1, 0]);
}

#[test]
fn detaching_a_peer_neither_skips_nor_repeats_another() {
    for gone in 0..4 {
        let mut balance = balance_of(4);
        assert_eq!(next(&mut balance), Some(0));
        assert_eq!(balance.detach(PeerId(gone)), Some(gone));
        let order: Vec<_> = (0..3).filter_map(|_| next(&mut balance)).collect();
        let expected: Vec<_> = [1, 2, 3, 0].into_iter().filter(|n| *n != gone).collect();
        assert_eq!(order, expected);
    }
}

#[test]
fn with_every_peer_full_nobody_is_asked_and_all_stay_attached() {
    let mut balance = balance_of(2);
    assert_eq!(balance.pick(|_| None::<()>), None);
    let mut asked = 0;
    balance.pick(|_| {
        asked += 1;
        Some(())
    });
    assert_eq!(asked, 0);
    assert_eq!(balance.len(), 2);
    assert!(!balance.is_empty());
    assert_eq!(balance.detach(PeerId(1)), Some(1), "a full peer can leave too");
    assert_eq!(balance.detach(PeerId(1)), None);
}

/// The same rules on one plain list: a turn order with a flag for full peers.
#[derive(Default)]
struct Model {
    /// Peer and whether it is full, in the order of the turn.
    peers: Vec<(u64, bool)>,
}

impl Model {
    /// Moves the entry at `position` to the end and marks it as not full.
    fn move_last(&mut self, position: usize) {
        let (peer, _) = self.peers.remove(position);
        self.peers.push((peer, false));
    }

    /// Offers to all who are not full in list order; a refusal only sets the flag.
    fn pick(&mut self, full: &BTreeSet<u64>) -> Option<u64> {
        for position in 0..self.peers.len() {
            let (peer, parked) = self.peers[position];
            if parked {
                continue;
            }
            if !full.contains(&peer) {
                self.move_last(position);
                return Some(peer);
            }
            self.peers[position].1 = true;
        }
        None
    }

    /// Brings a full peer back at the end.
    fn writable(&mut self, id: u64) -> bool {
        let found = self.peers.iter().position(|(peer, parked)| *peer == id && *parked);
        found.map(|position| self.move_last(position)).is_some()
    }

    /// Removes a peer.
    fn detach(&mut self, id: u64) -> Option<u64> {
        let found = self.peers.iter().position(|(peer, _)| *peer == id);
        found.map(|position| self.peers.remove(position).0)
    }
}

/// One step of the comparison with the model.
#[derive(Clone, Debug)]
enum Step {
    /// A peer never seen before arrives.
    Attach,
    /// The peer with this number leaves, if it is there.
    Detach(u64),
    /// The peer with this number reports room.
    Writable(u64),
    /// A message is sent while these peers are full.
    Pick(BTreeSet<u64>),
}

/// Steps in which sends are the most frequent.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Attach),
        1 => (0..12_u64).prop_map(Step::Detach),
        2 => (0..12_u64).prop_map(Step::Writable),
        5 => proptest::collection::btree_set(0..12_u64, 0..6).prop_map(Step::Pick),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_steps_agrees_with_the_naive_model(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let (mut balance, mut model, mut newest) = (Balance::new(), Model::default(), 0);
        for step in steps {
            match step {
                Step::Attach => {
                    balance.attach(PeerId(newest), newest);
                    model.peers.push((newest, false));
                    newest += 1;
                }
                Step::Detach(id) => {
                    prop_assert_eq!(balance.detach(PeerId(id)), model.detach(id));
                }
                Step::Writable(id) => {
                    prop_assert_eq!(balance.writable(PeerId(id)), model.writable(id));
                }
                Step::Pick(full) => {
                    let picked = balance.pick(|peer| (!full.contains(peer)).then_some(*peer));
                    prop_assert_eq!(picked, model.pick(&full));
                }
            }
            let attached: BTreeSet<u64> = balance.iter().map(|(id, _)| id.0).collect();
            let expected: BTreeSet<u64> = model.peers.iter().map(|(peer, _)| *peer).collect();
            prop_assert_eq!(attached, expected);
            prop_assert_eq!(balance.len(), model.peers.len());
            prop_assert_eq!(balance.is_empty(), model.peers.is_empty());
        }
    }
}
