//! The protocol: what is encoded comes back, and what comes from anywhere never harms.

use crate::log::groups::{Fencing, TopicPartition};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Buffered), Just(Level::Written), Just(Level::Durable)]
}

fn id() -> impl Strategy<Value = Id> {
    any::<u128>().prop_map(Id::from_bits)
}

fn setup() -> impl Strategy<Value = TopicSetup> {
    (any::<String>(), vec(any::<String>(), 0..4))
        .prop_map(|(topic, options)| TopicSetup { topic, options })
}

fn deliveries() -> impl Strategy<Value = Vec<WireDelivery>> {
    let fields = (any::<(u32, i64, u32)>(), id());
    let delivery = fields.prop_map(|((partition, offset, attempt), topic)| WireDelivery {
        partition,
        offset,
        attempt,
        topic,
    });
    vec(delivery, 0..4)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Ack),
        Just(Verdict::Release),
        Just(Verdict::Reject),
        any::<u32>().prop_map(Verdict::Renew),
    ]
}

fn position() -> impl Strategy<Value = WirePosition> {
    prop_oneof![
        Just(WirePosition::Earliest),
        Just(WirePosition::Latest),
        any::<i64>().prop_map(WirePosition::Time),
        any::<String>().prop_map(WirePosition::Committed),
        any::<i64>().prop_map(WirePosition::Offset),
    ]
}

fn fetch() -> impl Strategy<Value = Fetch> {
    let numbers = any::<(u32, i64, i32, u32, u32, u32, bool)>();
    (any::<String>(), numbers, option::of(id())).prop_map(|(topic, numbers, topic_id)| {
        let (partition, offset, last_epoch, bytes_max, bytes_min, wait_ms, durable_only) = numbers;
        Fetch {
            topic,
            partition,
            offset,
            last_epoch,
            bytes_max,
            bytes_min,
            wait_ms,
            durable_only,
            topic_id,
        }
    })
}

fn offsets() -> impl Strategy<Value = Vec<Offset>> {
    let offset = any::<(String, u32, i64, String, i64)>().prop_map(|fields| {
        let (topic, partition, offset, metadata, timestamp_ms) = fields;
        Offset { topic, partition, offset, metadata, timestamp_ms }
    });
    vec(offset, 0..3)
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let names = any::<(String, String, Option<String>, String)>();
    let lists = (vec(any::<String>(), 0..3), vec(any::<(String, u32)>(), 0..3));
    (names, any::<(i32, u64, u32)>(), lists).prop_map(|(names, numbers, (topics, owned))| {
        let (group, member, instance, strategy) = names;
        let (generation, sequence, session_ms) = numbers;
        Heartbeat {
            group,
            member,
            instance,
            generation,
            sequence,
            topics,
            strategy,
            session_ms,
            owned,
        }
    })
}

fn partitions() -> impl Strategy<Value = Vec<(String, u32)>> {
    vec(any::<(String, u32)>(), 0..3)
}

fn transact() -> impl Strategy<Value = Transact> {
    let member = any::<Option<(String, String, i32)>>().prop_map(|member| {
        member.map(|(group, member, generation)| MemberName { group, member, generation })
    });
    let part = (any::<String>(), any::<u32>(), 0..3u32)
        .prop_map(|(topic, partition, batches)| TransactPart { topic, partition, batches });
    (member, offsets(), vec(part, 0..3)).prop_map(|(member, offsets, parts)| Transact {
        member,
        offsets,
        parts,
    })
}

fn fencing() -> impl Strategy<Value = MemberFencing> {
    let partition = any::<(String, u32)>().prop_map(|(name, n)| TopicPartition::new(name, n));
    let why = prop_oneof![
        Just(Fencing::UnknownMember),
        (partition.clone(), any::<(i32, i32)>()).prop_map(|(partition, (since, current))| {
            Fencing::WrongGeneration { partition, since, current }
        }),
        partition.prop_map(|partition| Fencing::NotOwner { partition }),
        any::<String>().prop_map(|instance| Fencing::Replaced { instance }),
    ];
    (any::<(String, String, i32)>(), why).prop_map(|((group, member, generation), why)| {
        MemberFencing { group, member, generation, why }
    })
}

fn group_state() -> impl Strategy<Value = GroupState> {
    let names = any::<(String, Option<String>, String, u64)>();
    let lists = (vec(any::<String>(), 0..2), partitions(), partitions(), partitions());
    let member = (names, lists).prop_map(|(names, (topics, assigned, revoked, awaited))| {
        let (member, instance, strategy, silent_ms) = names;
        MemberState { member, instance, topics, strategy, assigned, revoked, awaited, silent_ms }
    });
    let progress = any::<(String, u32, Option<(i64, (String, i64))>, i64, i64)>().prop_map(
        |(topic, partition, committed, earliest, end)| ProgressState {
            topic,
            partition,
            committed,
            earliest,
            end,
        },
    );
    let fields = any::<(String, i32, Option<String>, bool)>();
    (fields, vec(member, 0..3), vec(progress, 0..3)).prop_map(|(fields, members, offsets)| {
        let (group, generation, strategy, settled) = fields;
        GroupState { group, generation, strategy, settled, members, offsets }
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(ListGroups(Nothing {}).into()),
        any::<String>().prop_map(|group| DescribeGroup(GroupName { group }).into()),
        any::<String>().prop_map(|group| DeleteGroup(GroupName { group }).into()),
        any::<String>().prop_map(|queue| QueueName { queue }.into()),
        any::<(String, u64, u32)>()
            .prop_map(|(group, version, wait_ms)| AwaitGroup { group, version, wait_ms }.into()),
        transact().prop_map(Request::from),
        Just(NewProducer(Nothing {}).into()),
        Just(ListTopics(Nothing {}).into()),
        heartbeat().prop_map(Request::from),
        any::<(String, String)>().prop_map(|(group, member)| Leave { group, member }.into()),
        (any::<String>(), any::<Option<(String, i32)>>(), offsets())
            .prop_map(|(group, member, offsets)| Commit { group, member, offsets }.into()),
        any::<String>().prop_map(|group| ListOffsets { group }.into()),
        (any::<String>(), any::<u32>(), level())
            .prop_map(|(topic, partition, level)| Append { topic, partition, level }.into()),
        fetch().prop_map(Request::from),
        any::<String>().prop_map(|topic| DescribeTopic(TopicName { topic }).into()),
        any::<String>().prop_map(|topic| DeleteTopic(TopicName { topic }).into()),
        setup().prop_map(|setup| CreateTopic(setup).into()),
        setup().prop_map(|setup| AlterTopic(setup).into()),
        any::<(String, u32, i64)>()
            .prop_map(|(topic, partition, offset)| Truncate { topic, partition, offset }.into()),
        (any::<String>(), any::<u32>(), position())
            .prop_map(|(topic, partition, position)| OffsetAt { topic, partition, position }.into()),
        any::<(String, u32, u32, u32)>().prop_map(|(queue, count_max, lock_ms, wait_ms)| {
            Acquire { queue, count_max, lock_ms, wait_ms }.into()
        }),
        (any::<String>(), verdict(), deliveries())
            .prop_map(|(queue, verdict, deliveries)| Settle { queue, verdict, deliveries }.into()),
    ]
}

fn remote_error() -> impl Strategy<Value = RemoteError> {
    let places = (option::of(any::<String>()), option::of(any::<u32>()), any::<Option<i64>>());
    let fencing = option::of(fencing().prop_map(Box::new));
    let ends = any::<(Option<i64>, Option<i64>)>();
    (1..300u16, places, ends, fencing, any::<String>()).prop_map(
        |(number, (topic, partition, offset), (earliest, end), fencing, text)| {
            let mut bytes = Vec::new();
            number.put(&mut bytes);
            let code = RemoteCode::take(&mut Input::new(&bytes)).unwrap();
            let fencing = fencing.filter(|_| code != RemoteCode::Version);
            RemoteError { code, topic, partition, offset, earliest, end, fencing, text }
        },
    )
}

fn answer() -> impl Strategy<Value = Answer> {
    let state = any::<(i64, i64, i64, u32, u64)>().prop_map(|numbers| {
        let (earliest, end, durable_end, segments, bytes) = numbers;
        PartitionState { earliest, end, durable_end, segments, bytes }
    });
    prop_oneof![
        any::<(i64, i16)>().prop_map(|(id, epoch)| ProducerId { id, epoch }.into()),
        any::<(i64, i64, u64)>().prop_map(|(first_offset, last_offset, fingerprint)| {
            Appended { first_offset, last_offset, fingerprint }.into()
        }),
        (any::<(i64, i64, i64, i32, i64, i32)>(), id()).prop_map(|(numbers, topic_id)| {
            let (earliest, end, durable_end, incarnation, next_offset, last_epoch) = numbers;
            Fetched { earliest, end, durable_end, incarnation, next_offset, last_epoch, topic_id }
                .into()
        }),
        vec(any::<String>(), 0..4).prop_map(|topics| TopicNames { topics }.into()),
        (setup(), any::<(String, u64)>(), vec(state, 0..4)).prop_map(
            |(setup, (id, fingerprint), partitions)| {
                let TopicSetup { topic, options } = setup;
                TopicState { topic, id, options, partitions, fingerprint }.into()
            }
        ),
        Just(Done(Nothing {}).into()),
        group_state().prop_map(Answer::from),
        any::<u64>().prop_map(|version| GroupVersion { version }.into()),
        vec(any::<String>(), 0..4).prop_map(|groups| GroupNames { groups }.into()),
        (vec(any::<i64>(), 0..4), vec(any::<(String, u64)>(), 0..3))
            .prop_map(|(offsets, fingerprints)| Transacted { offsets, fingerprints }.into()),
        (any::<(u64, u64, u64, u64)>(), any::<(u64, u64, u64, u64, u64)>()).prop_map(
            |(done, now)| {
                let (delivered, redelivered, acknowledged, dead) = done;
                let (missed, available, locked, waiting, unburied) = now;
                QueueState {
                    delivered,
                    redelivered,
                    acknowledged,
                    dead,
                    missed,
                    available,
                    locked,
                    waiting,
                    unburied,
                }
                .into()
            }
        ),
        (any::<(String, i32, u32, u32, u64)>(), partitions(), partitions()).prop_map(
            |(numbers, assigned, revoked)| {
                let (member, generation, awaited, interval_ms, version) = numbers;
                Membership { member, generation, assigned, revoked, awaited, interval_ms, version }
                    .into()
            }
        ),
        offsets().prop_map(|offsets| Offsets { offsets }.into()),
        (any::<(i64, bool, i32)>(), id()).prop_map(
            |((offset, committed, last_epoch), topic_id)| {
                OffsetFound { offset, committed, last_epoch, topic_id }.into()
            }
        ),
        vec(option::of(remote_error()), 0..3).prop_map(|refused| Settled { refused }.into()),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was(correlation: u64, request in request(), batch: Vec<u8>) {
        let frames = match &request {
            Request::Append(_) => 1,
            Request::Transact(transact) => transact.frames(),
            _ => 0,
        };
        let body = vec![Bytes::from(batch); frames];
        let message = encode_request(correlation, &request, body.clone());
        prop_assert_eq!(decode_request(&message), Ok((correlation, request, body)));
    }

    #[test]
    fn an_answer_comes_back_as_it_was(correlation: u64, answer in answer(), batches: Vec<Vec<u8>>) {
        let many = matches!(answer, Answer::Fetched(_));
        let batches = batches.into_iter().map(Bytes::from);
        let body = if many { batches.collect() } else { Vec::new() };
        let outcome = Ok(Reply { answer, body });
        let message = encode_answer(correlation, &outcome);
        prop_assert_eq!(decode_answer(&message), Ok((correlation, outcome)));
    }

    #[test]
    fn a_refusal_comes_back_as_it_was(correlation: u64, error in remote_error()) {
        let message = encode_answer(correlation, &Err(error.clone()));
        prop_assert_eq!(decode_answer(&message), Ok((correlation, Err(error))));
    }

    #[test]
    fn arbitrary_frames_are_refused_or_mean_what_they_would_be_encoded_to(frames: Vec<Vec<u8>>) {
        let message: Message = frames.into_iter().collect();
        if let Ok((correlation, request, body)) = decode_request(&message) {
            prop_assert_eq!(encode_request(correlation, &request, body), message.clone());
        }
        if let Ok((correlation, outcome)) = decode_answer(&message)
            && !is_of_version(&outcome)
        {
            prop_assert_eq!(encode_answer(correlation, &outcome), message);
        }
    }

    #[test]
    fn a_request_with_any_byte_changed_or_cut_never_panics(
        request in request(),
        at: prop::sample::Index,
        byte: u8,
        cut: bool,
    ) {
        let message = encode_request(7, &request, Vec::new());
        let mut head = message.body().to_vec();
        let at = at.index(head.len());
        if cut { head.truncate(at) } else { head[at] = byte }
        if let Ok((correlation, request, _)) = decode_request(&Message::from(head.clone())) {
            let again = encode_request(correlation, &request, Vec::new());
            prop_assert_eq!(again.body(), &head[..]);
        }
    }
}

#[test]
fn a_claimed_count_is_not_believed_beyond_the_bytes_that_are_there() {
    let mut head = encode_answer(1, &Ok(TopicNames { topics: Vec::new() }.into())).body().to_vec();
    let at = head.len() - 4;
    head[at..].copy_from_slice(&u32::MAX.to_be_bytes());
    let failed = decode_answer(&Message::from(head)).unwrap_err();
    assert_eq!(failed.reason, Malformed::Truncated);
}

#[test]
fn another_version_is_told_from_nonsense_and_keeps_its_number() {
    let mut head = encode_request(77, &ListTopics(Nothing {}).into(), Vec::new()).body().to_vec();
    head[0] = 9;
    let failed = decode_request(&Message::from(head)).unwrap_err();
    let reason = Malformed::Version { found: 9 };
    assert_eq!(failed, Unreadable { correlation: Some(77), reason });
}

/// Such a refusal is understood whatever else is in the message.
fn is_of_version(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error.code == RemoteCode::Version)
}

#[test]
fn the_refusal_of_a_version_is_in_that_version_and_as_the_first_one_had_it() {
    let error = RemoteError::new(RemoteCode::Version, "no");
    let refusal = encode_version_refusal(1, 6, &error);
    let expected = [&[1, 255, 0, 0, 0, 0, 0, 0, 0, 6, 0, 18][..], &[0; 5], &[0, 0, 0, 2], b"no"];
    assert_eq!(refusal.body(), expected.concat());
}

#[test]
fn an_answer_of_another_version_is_the_refusal_of_this_one_whatever_is_in_it() {
    for kind in [132, REFUSED] {
        let head = [&[VERSION + 1, kind, 0, 0, 0, 0, 0, 0, 0, 6][..], b"anything"].concat();
        let (correlation, outcome) = decode_answer(&Message::from(head)).unwrap();
        assert!(correlation == 6 && is_of_version(&outcome), "{outcome:?}");
    }
}

#[test]
fn a_refusal_of_the_version_is_understood_though_more_fields_than_are_known_follow() {
    let error = RemoteError::new(RemoteCode::Version, "only 3 is spoken");
    let refusal = encode_version_refusal(VERSION, 6, &error);
    let more = [refusal.body(), b"fields of version 3"].concat();
    assert_eq!(decode_answer(&Message::from(more)), Ok((6, Err(error))));
    let other = [&refusal.body()[..12], b"\xff other fields"].concat();
    let (_, outcome) = decode_answer(&Message::from(other)).unwrap();
    assert!(is_of_version(&outcome), "{outcome:?}");
}

#[test]
fn the_bytes_of_a_fetch_are_those_in_the_document() {
    let fetch = Fetch {
        topic: "t".to_owned(),
        partition: 1,
        offset: 2,
        last_epoch: NO_EPOCH,
        bytes_max: 3,
        bytes_min: 4,
        wait_ms: 5,
        durable_only: true,
        topic_id: Some(Id::from_bits(7)),
    };
    let message = encode_request(6, &fetch.into(), Vec::new());
    let expected = [
        &[2, 3, 0, 0, 0, 0, 0, 0, 0, 6][..],
        &[0, 0, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2],
        &[255, 255, 255, 255, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 1],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
    ];
    assert_eq!(message.body(), expected.concat());
}

#[test]
fn a_list_of_more_entries_than_there_may_be_is_refused_unread() {
    let topic = Id::from_bits(0);
    let delivery = || WireDelivery { partition: 0, offset: 0, attempt: 0, topic };
    let settle = |count| {
        let deliveries = (0..count).map(|_| delivery()).collect();
        let request = Settle { queue: String::new(), verdict: Verdict::Ack, deliveries };
        decode_request(&encode_request(1, &request.into(), Vec::new()))
    };
    assert!(settle(LIST_MAX).is_ok());
    let refused = settle(LIST_MAX + 1).unwrap_err();
    assert_eq!(refused.reason, Malformed::List { count: LIST_MAX + 1 });
}
