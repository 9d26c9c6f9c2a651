//! Tests of the routing table: generated ids, duplicates, hand-over, and a naive model.

use proptest::prelude::*;

use super::*;

/// The peer that arrives first.
const OLD: PeerId = PeerId(1);
/// The peer that arrives second.
const NEW: PeerId = PeerId(2);

#[test]
fn an_empty_claim_gets_a_zero_byte_and_a_big_endian_counter() {
    let mut table = RoutingTable::new(0x0102_0304);
    let first = table.attach(OLD, b"", 'a', Duplicate::Refuse).unwrap();
    let second = table.attach(NEW, b"", 'b', Duplicate::HandOver).unwrap();
    assert_eq!(first.id, &[0, 1, 2, 3, 4][..]);
    assert_eq!(second.id, &[0, 1, 2, 3, 5][..]);
    assert!(second.replaced.is_none());
    assert_eq!(table.find(&[0, 1, 2, 3, 4]), Some((OLD, &'a')));
}

#[test]
fn generated_ids_wrap_around_and_skip_ids_in_use() {
    let mut table = RoutingTable::new(u32::MAX);
    table.attach(PeerId(0), &[0, 0, 0, 0, 0], 'x', Duplicate::Refuse).unwrap();
    table.attach(OLD, b"", 'a', Duplicate::Refuse).unwrap();
    table.attach(NEW, b"", 'b', Duplicate::Refuse).unwrap();
    assert_eq!(table.id_of(OLD).unwrap(), &[0, 255, 255, 255, 255][..]);
    assert_eq!(table.id_of(NEW).unwrap(), &[0, 0, 0, 0, 1][..]);
    assert_eq!(table.len(), 3);
}

#[test]
fn a_duplicate_is_refused_and_the_owner_stays() {
    let mut table = RoutingTable::new(0);
    table.attach(OLD, b"id", 'a', Duplicate::Refuse).unwrap();
    let refused = table.attach(NEW, b"id", 'b', Duplicate::Refuse).unwrap_err();
    assert_eq!(refused, DuplicateId { owner: OLD });
    assert_eq!(refused.to_string(), "the routing id is already in use by peer 1");
    assert_eq!(table.find(b"id"), Some((OLD, &'a')));
    assert_eq!(table.id_of(NEW), None);
    assert_eq!(table.detach(NEW), None);
}

#[test]
fn after_a_hand_over_the_detach_of_the_old_peer_leaves_the_newcomer() {
    let mut table = RoutingTable::new(0);
    table.attach(OLD, b"id", 'a', Duplicate::HandOver).unwrap();
    let attached = table.attach(NEW, b"id", 'b', Duplicate::HandOver).unwrap();
    assert_eq!(attached.replaced, Some((OLD, 'a')));
    assert_eq!(table.id_of(OLD), None);
    assert_eq!(table.detach(OLD), None);
    assert_eq!(table.find(b"id"), Some((NEW, &'b')));
    assert_eq!(table.detach(NEW), Some((Bytes::from_static(b"id"), 'b')));
    assert_eq!(table.len(), 0);
}

/// One step of the comparison with the model.
#[derive(Clone, Debug)]
enum Step {
    /// A new peer claims an id; the flag allows a hand-over.
    Attach(Vec<u8>, bool),
    /// The peer with this number leaves.
    Detach(u64),
}

/// Steps over few ids, among them ones that the generator would make.
fn step() -> impl Strategy<Value = Step> {
    let id = prop_oneof![
        Just(Vec::new()),
        (0..3_u8).prop_map(|n| vec![b'a', n]),
        (0..3_u8).prop_map(|n| vec![0, 0, 0, 0, n]),
    ];
    prop_oneof![
        3 => (id, any::<bool>()).prop_map(|(id, hand_over)| Step::Attach(id, hand_over)),
        2 => (0..20_u64).prop_map(Step::Detach),
    ]
}

/// The naive model: a list of id and peer, and the counter.
struct Model {
    /// Owned ids.
    owners: Vec<(Vec<u8>, u64)>,
    /// The next generated id.
    counter: u32,
}

impl Model {
    /// The id and the replaced peer, or `Err` with the owner.
    fn attach(&mut self, id: &[u8], hand_over: bool, peer: u64) -> Result<Reply, u64> {
        let mut id = id.to_vec();
        while id.is_empty() {
            let candidate = [&[0][..], &self.counter.to_be_bytes()].concat();
            self.counter = self.counter.wrapping_add(1);
            if self.owners.iter().all(|(owned, _)| *owned != candidate) {
                id = candidate;
            }
        }
        let taken = self.owners.iter().position(|(owned, _)| *owned == id);
        if let (Some(position), false) = (taken, hand_over) {
            return Err(self.owners[position].1);
        }
        let replaced = taken.map(|position| self.owners.remove(position).1);
        self.owners.push((id.clone(), peer));
        Ok((id, replaced))
    }

    /// The id that the peer owned.
    fn detach(&mut self, peer: u64) -> Option<Vec<u8>> {
        let position = self.owners.iter().position(|(_, owner)| *owner == peer)?;
        Some(self.owners.remove(position).0)
    }
}

/// What an attachment yields in the model: the id and the peer replaced.
type Reply = (Vec<u8>, Option<u64>);

proptest! {
    #[test]
    fn any_sequence_of_arrivals_and_departures_agrees_with_the_naive_model(
        steps in proptest::collection::vec(step(), 0..100),
        start in prop_oneof![Just(0), Just(u32::MAX)],
    ) {
        let mut table = RoutingTable::new(start);
        let mut model = Model { owners: Vec::new(), counter: start };
        let mut peer = 0;
        for step in steps {
            match step {
                Step::Attach(id, hand_over) => {
                    let rule = if hand_over { Duplicate::HandOver } else { Duplicate::Refuse };
                    let real = table.attach(PeerId(peer), &id, peer, rule);
                    let real = real
                        .map(|done| (done.id.to_vec(), done.replaced.map(|(id, _)| id.0)))
                        .map_err(|refused| refused.owner.0);
                    prop_assert_eq!(real, model.attach(&id, hand_over, peer));
                    peer += 1;
                }
                Step::Detach(id) => {
                    let real = table.detach(PeerId(id)).map(|(id, _)| id.to_vec());
                    prop_assert_eq!(real, model.detach(id));
                }
            }
            prop_assert_eq!(table.len(), model.owners.len());
            prop_assert_eq!(table.iter().count(), table.id_of.len());
            for (id, owner) in &model.owners {
                prop_assert_eq!(table.find(id), Some((PeerId(*owner), owner)));
                let owned = table.id_of(PeerId(*owner)).map(|id| id.to_vec());
                prop_assert_eq!(owned.as_ref(), Some(id));
            }
        }
    }
}
