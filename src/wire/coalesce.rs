//! Subscriptions that a peer has not heard of yet, in as few commands as tell it the same.
//!
//! A socket that subscribes and cancels again and again may do so faster than its peer reads. What it has not told yet need not
//! grow with that: a subscription and its cancellation are together nothing, in whichever order they come.

use std::collections::HashMap;
use std::ops::Range;

use super::command::{Command, Subscription};
use super::frame;

/// Frames without subscriptions and cancellations that undo each other; others stay as they are, all in their order. `frames`
/// are our own.
pub(crate) fn coalesce_subscriptions(frames: &[u8]) -> Vec<u8> {
    let mut kept: Vec<Option<Range<usize>>> = Vec::new();
    // The last change of a topic that nothing has undone: whether it subscribes, and its place among the frames.
    let mut last: HashMap<&[u8], (bool, usize)> = HashMap::new();
    let mut at = 0;
    while let Some((end, change)) = next(frames, at) {
        if let Some((subscribes, topic)) = change {
            if let Some(&(before, place)) = last.get(topic)
                && before != subscribes
            {
                last.remove(topic);
                kept[place] = None;
                at = end;
                continue;
            }
            last.insert(topic, (subscribes, kept.len()));
        }
        kept.push(Some(at..end));
        at = end;
    }
    // Nothing is left here unless a frame is incomplete, which ours are not.
    kept.push(Some(at..frames.len()));
    let ranges = kept.into_iter().flatten();
    ranges.flat_map(|range| frames.get(range).unwrap_or_default()).copied().collect()
}

/// Whether a frame subscribes or else cancels, and the topic.
type Change<'a> = (bool, &'a [u8]);

/// The end of the frame at a place, and the change of a subscription that it is, if it is one.
fn next(frames: &[u8], at: usize) -> Option<(usize, Option<Change<'_>>)> {
    let rest = frames.get(at..)?;
    let header = frame::parse_header(rest).ok()??;
    let len = header.header_len + header.body_len;
    let body = rest.get(header.header_len..len)?;
    let change = match header.is_command() {
        true => match Command::parse(body) {
            Ok(Command::Subscribe(topic)) => Some((true, topic)),
            Ok(Command::Cancel(topic)) => Some((false, topic)),
            _ => None,
        },
        false => match Subscription::from_message(body) {
            Some(Subscription::Subscribe(topic)) => Some((true, topic)),
            Some(Subscription::Cancel(topic)) => Some((false, topic)),
            None => None,
        },
    };
    Some((at + len, change))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Version, put_pong, put_subscription};

    /// What a publisher makes of frames that come after others: the topics it knows, and all else that it is told.
    fn told(frames: &[u8], known: &mut BTreeSet<Vec<u8>>) -> Vec<Vec<u8>> {
        let (mut at, mut others) = (0, Vec::new());
        while let Some((end, change)) = next(frames, at) {
            match change {
                Some((true, topic)) => assert!(known.insert(topic.to_vec()), "it is told twice"),
                Some((false, topic)) => assert!(known.remove(topic), "it is not known"),
                None => others.push(frames[at..end].to_vec()),
            }
            at = end;
        }
        assert_eq!(at, frames.len());
        others
    }

    proptest! {
        #[test]
        fn a_publisher_learns_the_same_from_what_is_left(
            version in prop_oneof![Just(Version::V3_0), Just(Version::V3_1)],
            known in prop::collection::btree_set(0..6u8, 0..6),
            steps in prop::collection::vec(0..8u8, 0..200),
        ) {
            let before: BTreeSet<Vec<u8>> = known.iter().map(|topic| vec![*topic; 3]).collect();
            let (mut frames, mut now) = (Vec::new(), before.clone());
            for step in steps {
                let topic = vec![step; 3];
                match step {
                    6.. => put_pong(&mut frames, &topic),
                    _ => {
                        let subscribes = !now.remove(&topic);
                        put_subscription(&mut frames, version, subscribes, &topic);
                        now.extend(subscribes.then_some(topic));
                    }
                }
            }
            let left = coalesce_subscriptions(&frames);
            let mut learnt = before.clone();
            let others = told(&left, &mut learnt);
            prop_assert_eq!(&learnt, &now);
            prop_assert_eq!(others, told(&frames, &mut before.clone()));
            let mut least = Vec::new();
            for topic in before.symmetric_difference(&now) {
                put_subscription(&mut least, version, now.contains(topic), topic);
            }
            let pongs = frames.windows(5).filter(|bytes| bytes[..] == *b"\x04PONG").count();
            prop_assert_eq!(left.len(), least.len() + pongs * (2 + 5 + 3));
        }
    }
}
