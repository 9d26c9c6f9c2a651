//! Order and accounts of an outbox, whatever happens in whatever order.

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Offer(usize),
    Write(usize),
    Reconnect,
    /// The session ends between a write and its account.
    ReconnectAround(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => (0_usize..200).prop_map(Action::Offer),
        4 => (0_usize..300).prop_map(Action::Write),
        1 => Just(Action::Reconnect),
        1 => (0_usize..300).prop_map(Action::ReconnectAround),
    ];
    proptest::collection::vec(action, 0..60)
}

proptest! {
    /// O1 and O3: whatever happens, each session gets whole messages in order, none twice, and what is missing at the
    /// end is exactly what was counted as torn or is still queued.
    #[test]
    fn order_and_accounts_hold_over_sessions(actions in actions()) {
        let outbox = outbox(20, 2_000, false);
        let mut next = 0_u32;
        let (mut sessions, mut torn) = (vec![Vec::new()], 0);
        let mut role = outbox.link(link(), &[]);
        for action in actions {
            match action {
                Action::Offer(size) => {
                    let mut body = next.to_be_bytes().to_vec();
                    body.resize(4 + size, 7);
                    let offered = outbox.offer(Content::Message(&Message::from(body)), ANSWER);
                    if let Some(decision) = offered {
                        next += 1;
                        role |= matches!(decision, Next::Write);
                    }
                }
                Action::Write(room) => {
                    role |= outbox.claim_writable();
                    if role && let Some((bytes, step)) = write(&outbox, room) {
                        sessions.last_mut().unwrap().extend(bytes);
                        role = step.more;
                    } else {
                        role = false;
                    }
                }
                Action::Reconnect => {
                    torn += outbox.unlink().0;
                    sessions.push(Vec::new());
                    role |= outbox.link(link(), &[]);
                }
                Action::ReconnectAround(room) => {
                    role |= outbox.claim_writable();
                    let Some(job) = role.then(|| outbox.begin_write()).flatten() else {
                        role = false;
                        continue;
                    };
                    let bytes = flight_bytes(job.flight());
                    let taken = room.min(bytes.len());
                    sessions.last_mut().unwrap().extend(&bytes[..taken]);
                    torn += outbox.unlink().0;
                    sessions.push(Vec::new());
                    outbox.link(link(), &[]);
                    let written = Ok(Written::Bytes(taken));
                    let step = outbox.end_write(job, written, false, crate::transport::now);
                    torn += step.torn;
                    role = step.more;
                }
            }
        }
        let mut delivered = Vec::new();
        for bytes in &sessions {
            let mut rest = &bytes[..];
            while let Ok(Some(header)) = crate::wire::parse_header(rest) {
                let Some(body) = rest.get(header.header_len..header.header_len + header.body_len) else { break };
                delivered.push(u32::from_be_bytes(body[..4].try_into().unwrap()));
                rest = &rest[header.header_len + header.body_len..];
            }
        }
        prop_assert!(delivered.is_sorted_by(|a, b| a < b), "{:?}", delivered);
        prop_assert_eq!(delivered.len() as u64 + torn + outbox.report().messages as u64
            - whole_in_unfinished_chunk(&outbox), u64::from(next));
    }
}

/// Messages of the interrupted flight that the peer has already: they count as queued until their chunk is done.
fn whole_in_unfinished_chunk(outbox: &Outbox) -> u64 {
    let mut state = outbox.state.lock();
    let Some(Flight::Chunk { mut chunk, written }) = state.flight.take() else { return 0 };
    let before = chunk.messages() as u64;
    let torn = chunk.drop_written(written);
    before - chunk.messages() as u64 - torn
}
