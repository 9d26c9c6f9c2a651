//! The outbox's rules without any stream: the test plays writer, kernel and reactor.

mod accounts;

use std::time::Duration;

use proptest::prelude::*;

use super::state::GATHER_MAX;
use super::*;
use crate::message::Message;
use crate::pipe::chunk::UNIT_BYTES;
use crate::wire::{self, Version};

#[derive(Default)]
struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self, _: crate::pipe::Ring) {}
}

fn link() -> Link {
    Link::Inproc { doorbell: Arc::new(NoBell) }
}

const PLAIN: Manner =
    Manner { answering: false, together: false, inline: true, told: true, sole: false };
const ANSWER: Manner =
    Manner { answering: true, together: false, inline: true, told: true, sole: false };

fn outbox(messages: usize, bytes: usize, conflate: bool) -> Outbox {
    Outbox::new(Marks { messages, bytes }, conflate, crate::transport::now())
}

fn offer(outbox: &Outbox, text: &str, manner: Manner) -> Option<Next> {
    {
        let message = Message::from(text);
        match outbox.conflates() {
            true => outbox.offer_newest(Content::Message(&message), manner).map(|(next, _)| next),
            false => outbox.offer(Content::Message(&message), manner),
        }
    }
}

/// One write that the kernel takes only `room` bytes of. Returns what went out; `None` when there was nothing to do.
fn write(outbox: &Outbox, room: usize) -> Option<(Vec<u8>, Step)> {
    let job = outbox.begin_write()?;
    let bytes = flight_bytes(job.flight());
    let taken = room.min(bytes.len());
    let result = match taken {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(Written::Bytes(taken)),
    };
    let step = outbox.end_write(job, result, false, crate::transport::now);
    Some((bytes[..taken].to_vec(), step))
}

fn flight_bytes(flight: &Flight) -> Vec<u8> {
    match flight {
        Flight::Control { bytes, written } => bytes[*written..].to_vec(),
        Flight::Chunk { chunk, written } => chunk.with_slices(*written, |slices| {
            slices.iter().flat_map(|slice| slice.iter().copied()).collect()
        }),
    }
}

fn framed(texts: &[&str]) -> Vec<u8> {
    let mut chunk = Chunk::default();
    texts.iter().for_each(|text| chunk.push(&Message::from(*text)));
    flight_bytes(&Flight::Chunk { chunk, written: 0 })
}

#[test]
fn subscriptions_that_a_peer_does_not_read_take_no_more_room_however_often_they_change() {
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    let tell = |subscribes, topic: &[u8]| {
        let mut command = Vec::new();
        wire::put_subscription(&mut command, Version::V3_1, subscribes, topic);
        outbox.control(&command)
    };
    assert!(tell(true, b"first"), "the role is held from now on, and nothing is written");
    for _ in 0..20_000 {
        tell(true, b"flickering");
        tell(false, b"flickering");
        assert!(outbox.control_bytes() <= CONTROL_BYTES);
    }
    tell(true, b"last");
    let (bytes, _) = write(&outbox, usize::MAX).unwrap();
    let left = wire::coalesce_subscriptions(&bytes);
    assert_eq!(left, b"\x04\x0f\x09SUBSCRIBEfirst\x04\x0e\x09SUBSCRIBElast");
}

#[test]
fn nothing_is_kept_of_what_was_written_and_queued_for_a_peer_that_is_gone() {
    let outbox = outbox(10, 100_000, false);
    outbox.link(link(), &[1; 100]);
    write(&outbox, usize::MAX).unwrap();
    assert!(matches!(offer(&outbox, &"x".repeat(3_000), ANSWER), Some(Next::Write)));
    write(&outbox, usize::MAX).unwrap();
    assert!(outbox.state.lock().spare.is_some(), "for the next chunk");
    outbox.control(b"anything");
    outbox.abandon(Loss::Disconnect);
    let state = outbox.state.lock();
    assert!(state.spare.is_none());
    assert_eq!((state.control.capacity(), state.queue.capacity()), (0, 0));
}

#[test]
fn a_message_alone_on_an_idle_session_is_the_senders_to_write() {
    let outbox = outbox(10, 1_000, false);
    assert!(!outbox.link(link(), &[]), "nothing is queued yet");
    assert!(matches!(offer(&outbox, "a", PLAIN), Some(Next::Write)));
    let (bytes, step) = write(&outbox, 100).unwrap();
    assert_eq!(bytes, framed(&["a"]));
    assert!(!step.more);
    assert!(outbox.report().drained);
}

#[test]
fn a_message_right_after_a_write_gathers_unless_it_is_an_answer() {
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    outbox.state.lock().last_write = crate::transport::now() + Duration::from_secs(60);
    assert!(matches!(
        offer(&outbox, "a", PLAIN),
        Some(Next::Schedule(_) | Next::ScheduleAndTell(_))
    ));
    assert!(matches!(offer(&outbox, "b", PLAIN), Some(Next::Nothing)));
    assert!(outbox.claim_scheduled());
    assert_eq!(write(&outbox, 100).unwrap().0, framed(&["a", "b"]));
    outbox.state.lock().last_write = crate::transport::now() + Duration::from_secs(60);
    assert!(matches!(offer(&outbox, "c", ANSWER), Some(Next::Write)));
}

#[test]
fn a_gathering_sender_writes_itself_when_a_unit_or_the_mark_is_reached() {
    let outbox = outbox(3, 1 << 20, false);
    outbox.link(link(), &[]);
    outbox.state.lock().last_write = crate::transport::now() + Duration::from_secs(60);
    assert!(matches!(
        offer(&outbox, "a", PLAIN),
        Some(Next::Schedule(_) | Next::ScheduleAndTell(_))
    ));
    assert!(matches!(offer(&outbox, "b", PLAIN), Some(Next::Nothing)));
    assert!(matches!(offer(&outbox, "c", PLAIN), Some(Next::Write)));
    let outbox = super::Outbox::new(Marks::default(), false, crate::transport::now());
    outbox.link(link(), &[]);
    outbox.state.lock().last_write = crate::transport::now() + Duration::from_secs(60);
    let body = "x".repeat(UNIT_BYTES / 2);
    assert!(matches!(
        offer(&outbox, &body, PLAIN),
        Some(Next::Schedule(_) | Next::ScheduleAndTell(_))
    ));
    assert!(matches!(offer(&outbox, &body, PLAIN), Some(Next::Write)));
}

#[test]
fn an_outbox_on_the_reactors_list_is_not_listed_twice() {
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    let moment = busy(&outbox);
    assert!(matches!(
        offer(&outbox, "a", PLAIN),
        Some(Next::Schedule(_) | Next::ScheduleAndTell(_))
    ));
    assert_eq!(outbox.claim_tick(moment + GATHER_MAX), (true, true));
    write(&outbox, 100).unwrap();
    busy(&outbox);
    assert!(matches!(offer(&outbox, "b", PLAIN), Some(Next::Nothing)), "still listed");
    assert_eq!(outbox.claim_tick(busy(&outbox) + GATHER_MAX), (true, true));
    write(&outbox, 100).unwrap();
    assert_eq!(outbox.claim_tick(moment), (false, true), "something was written since");
    assert_eq!(outbox.claim_tick(moment), (false, false), "nothing came since");
    busy(&outbox);
    assert!(matches!(
        offer(&outbox, "c", PLAIN),
        Some(Next::Schedule(_) | Next::ScheduleAndTell(_))
    ));
}

/// Says that the last write has not ended yet: what comes now belongs to a stream. Returns that moment.
fn busy(outbox: &Outbox) -> Instant {
    let moment = crate::transport::now() + Duration::from_secs(60);
    outbox.state.lock().last_write = moment;
    moment
}

#[test]
fn an_answer_takes_along_what_gathers() {
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    busy(&outbox);
    offer(&outbox, "a", PLAIN);
    assert!(matches!(offer(&outbox, "b", PLAIN), Some(Next::Nothing)));
    assert!(matches!(offer(&outbox, "c", ANSWER), Some(Next::Write)));
    assert_eq!(write(&outbox, 100).unwrap().0, b"\0\x01a\0\x01b\0\x01c");
}

#[test]
fn answers_that_go_together_gather_for_the_socket_and_not_for_the_reactor() {
    let together = Manner { together: true, inline: false, ..ANSWER };
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    assert!(matches!(offer(&outbox, "a", together), Some(Next::Gather)));
    assert!(matches!(offer(&outbox, "b", together), Some(Next::Nothing)));
    assert!(outbox.claim_scheduled(), "the socket flushes");
    assert_eq!(write(&outbox, 100).unwrap().0, b"\0\x01a\0\x01b");
    assert!(matches!(offer(&outbox, "c", together), Some(Next::Gather)), "told anew");
}

#[test]
fn an_outbox_that_is_struck_off_the_sockets_list_is_told_of_anew() {
    let together = Manner { together: true, inline: false, ..ANSWER };
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    assert!(matches!(offer(&outbox, "a", together), Some(Next::Gather)));
    assert!(outbox.stays_noted(), "it gathers");
    assert!(matches!(offer(&outbox, "b", ANSWER), Some(Next::Write)));
    write(&outbox, 100).unwrap();
    assert!(!outbox.stays_noted());
    assert!(matches!(offer(&outbox, "c", together), Some(Next::Gather)));
}

#[test]
fn a_sender_that_does_not_want_to_be_told_takes_the_news_from_nobody() {
    let stream = Manner { told: false, ..PLAIN };
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    let moment = busy(&outbox);
    assert!(matches!(offer(&outbox, "a", stream), Some(Next::Schedule(_))));
    assert_eq!(outbox.claim_tick(moment + GATHER_MAX), (true, true));
    write(&outbox, 100).unwrap();
    let together = Manner { together: true, inline: false, ..ANSWER };
    assert!(matches!(offer(&outbox, "b", together), Some(Next::Gather)));
}

#[test]
fn a_tick_leaves_a_sender_alone_that_writes_its_units_itself() {
    let outbox = outbox(10, 1_000, false);
    outbox.link(link(), &[]);
    let written = busy(&outbox);
    offer(&outbox, "a", PLAIN);
    assert_eq!(outbox.claim_tick(written + GATHER_MAX - Duration::from_nanos(1)), (false, true));
    assert_eq!(outbox.claim_tick(written + GATHER_MAX), (true, true));
}

#[test]
fn a_sender_that_looks_at_the_clock_writes_what_gathers_for_too_long() {
    let outbox = outbox(1_000, 1_000_000, false);
    outbox.link(link(), &[]);
    busy(&outbox);
    assert!(matches!(
        offer(&outbox, "a", PLAIN),
        Some(Next::Schedule(_) | Next::ScheduleAndTell(_))
    ));
    for _ in 0..200 {
        assert!(matches!(offer(&outbox, "b", PLAIN), Some(Next::Nothing)));
    }
    outbox.state.lock().last_write = crate::transport::now() - GATHER_MAX;
    let written = (0..100).position(|_| matches!(offer(&outbox, "c", PLAIN), Some(Next::Write)));
    assert!(written.is_some_and(|after| after <= 16), "{written:?}");
}

proptest! {
    /// What the short way appends is counted, bounded and written as what the long way appends.
    #[test]
    fn a_stream_fills_the_outbox_to_its_marks_and_writes_then(
        messages in 1_usize..200,
        bytes in 100_usize..20_000,
        sizes in proptest::collection::vec(0_usize..100, 1..300),
    ) {
        let outbox = outbox(messages, bytes, false);
        outbox.link(link(), &[]);
        busy(&outbox);
        let (mut count, mut total) = (0, 0);
        for size in sizes {
            let wire = 2 + size;
            let next = offer(&outbox, &"x".repeat(size), PLAIN);
            prop_assert!(next.is_some(), "what gathers is no reason to refuse a message");
            (count, total) = (count + 1, total + wire);
            let at_mark = count == messages || total > bytes;
            prop_assert!(!at_mark || matches!(next, Some(Next::Write)));
            let report = outbox.report();
            prop_assert_eq!((report.messages, report.bytes), (count, total));
            // At a mark the sender writes: then this model ends.
            if matches!(next, Some(Next::Write)) {
                break;
            }
        }
        let state = outbox.state.lock();
        prop_assert_eq!(state.queue.iter().map(Chunk::wire_bytes).sum::<usize>(), total);
        prop_assert_eq!(state.queue.iter().map(Chunk::messages).sum::<usize>(), count);
    }
}

#[test]
fn a_refused_offer_is_followed_by_made_room_at_half_of_the_mark_and_only_then() {
    let outbox = outbox(4, 1_000, false);
    for text in ["a", "b", "c", "d"] {
        assert!(offer(&outbox, text, PLAIN).is_some());
    }
    assert!(offer(&outbox, "e", PLAIN).is_none());
    assert!(outbox.link(link(), &[]), "queued messages make the linker the writer");
    let (_, step) = write(&outbox, 4).unwrap();
    assert!(step.more && !step.made_room, "a chunk counts until it is wholly written");
    let (_, step) = write(&outbox, 1_000).unwrap();
    assert!(step.made_room && !step.more);
}

#[test]
fn a_writable_event_while_writing_is_not_lost() {
    let outbox = outbox(10, 1_000, false);
    offer(&outbox, "a", PLAIN);
    assert!(outbox.link(link(), &[]));
    let job = outbox.begin_write().unwrap();
    assert!(!outbox.claim_writable(), "the writer is out");
    let step =
        outbox.end_write(job, Err(io::ErrorKind::WouldBlock.into()), false, crate::transport::now);
    assert!(step.more, "the writer tries again instead of blocking");
    let (_, step) = write(&outbox, 0).unwrap();
    assert!(!step.more);
    assert!(outbox.claim_writable(), "now it is blocked, and the event claims it");
}

#[test]
fn commands_go_between_chunks_and_need_no_room() {
    let outbox = outbox(1, 1_000, false);
    offer(&outbox, "a", PLAIN);
    assert!(outbox.link(link(), b"opening"));
    assert!(!outbox.control(b"more"), "there is a writer already");
    assert_eq!(write(&outbox, 100).unwrap().0, b"openingmore");
    let (bytes, _) = write(&outbox, 2).unwrap();
    assert!(!outbox.control(b"ping"));
    let rest = write(&outbox, 100).unwrap().0;
    assert_eq!([bytes, rest].concat(), framed(&["a"]), "a message is not cut in two");
    assert_eq!(write(&outbox, 100).unwrap().0, b"ping");
}

#[test]
fn commands_without_a_session_are_dropped() {
    let outbox = outbox(1, 1_000, false);
    assert!(!outbox.control(b"ping"));
    outbox.link(link(), &[]);
    assert!(outbox.report().drained);
}

#[test]
fn a_new_session_goes_on_behind_the_torn_message() {
    let outbox = outbox(10, 1_000, false);
    for text in ["first", "second", "third"] {
        offer(&outbox, text, PLAIN);
    }
    assert!(outbox.link(link(), &[]));
    let whole = framed(&["first"]).len();
    write(&outbox, whole + 3).unwrap();
    write(&outbox, 0).unwrap();
    assert_eq!(outbox.unlink().0, 1, "the second message was cut in two");
    assert_eq!(outbox.report().messages, 1);
    assert!(outbox.link(link(), &[]));
    assert_eq!(write(&outbox, 100).unwrap().0, framed(&["third"]));
}

#[test]
fn a_writer_that_is_out_when_its_session_ends_recovers_its_flight_in_order() {
    let outbox = outbox(10, 1_000, false);
    for text in ["first", "second", "third"] {
        offer(&outbox, text, PLAIN);
    }
    assert!(outbox.link(link(), &[]));
    let job = outbox.begin_write().unwrap();
    assert_eq!(outbox.unlink().0, 0);
    assert!(!outbox.link(link(), b"hi"), "the former writer goes on");
    offer(&outbox, "last", PLAIN);
    let written = framed(&["first"]).len() + 3;
    let step = outbox.end_write(job, Ok(Written::Bytes(written)), false, crate::transport::now);
    assert!(step.more);
    assert_eq!(step.torn, 1, "the second was cut in two, the first is the peer's");
    assert_eq!(write(&outbox, 100).unwrap().0, b"hi");
    assert_eq!(write(&outbox, 100).unwrap().0, framed(&["third"]));
    assert_eq!(write(&outbox, 100).unwrap().0, framed(&["last"]));
    assert_eq!(outbox.report().messages, 0);
}

#[test]
fn an_abandoned_outbox_counts_everything_once_and_takes_nothing_more() {
    let outbox = outbox(10, 1_000, false);
    for text in ["a", "b", "c"] {
        offer(&outbox, text, PLAIN);
    }
    assert!(outbox.link(link(), &[]));
    let job = outbox.begin_write().unwrap();
    offer(&outbox, "d", PLAIN);
    assert_eq!(outbox.abandon(Loss::Linger), 1, "the flight is the writer's to count");
    let step = outbox.end_write(job, Ok(Written::Bytes(1)), false, crate::transport::now);
    assert_eq!((step.torn, step.cause, step.more), (3, Loss::Linger, false));
    assert!(offer(&outbox, "e", PLAIN).is_none());
    assert!(outbox.report().drained);
}

#[test]
fn of_framed_messages_the_first_are_taken_that_fit() {
    let outbox = outbox(3, 1_000, false);
    outbox.link(link(), &[]);
    busy(&outbox);
    offer(&outbox, "a", PLAIN);
    let mut many = Chunk::default();
    ["b", "c", "d", "e"].iter().for_each(|text| many.push(&Message::from(*text)));
    assert!(matches!(outbox.offer_front(&many), (Next::Write, 2)));
    assert!(matches!(outbox.offer_front(&many), (Next::Nothing, 0)), "it is full");
    assert_eq!(outbox.report().messages, 3);
    assert_eq!(write(&outbox, 100).unwrap().0, framed(&["a", "b", "c"]));
    assert!(outbox.report().drained);
    assert!(matches!(outbox.offer_front(&many), (Next::Write, 3)));
}

#[test]
fn an_empty_queue_takes_one_framed_message_whatever_its_length() {
    let outbox = outbox(10, 5, false);
    outbox.link(link(), &[]);
    let mut many = Chunk::default();
    ["a long one", "b"].iter().for_each(|text| many.push(&Message::from(*text)));
    assert!(matches!(outbox.offer_front(&many), (Next::Write, 1)));
    assert!(matches!(outbox.offer_front(&many), (Next::Nothing, 0)));
    assert_eq!(write(&outbox, 100).unwrap().0, framed(&["a long one"]));
}

#[test]
fn a_unit_that_nobody_has_begun_to_write_takes_one_message_whatever_its_length() {
    let outbox = outbox(10, 5, false);
    outbox.link(link(), &[]);
    assert!(matches!(offer(&outbox, "a", ANSWER), Some(Next::Write)));
    assert!(offer(&outbox, "a long one", PLAIN).is_some());
    assert!(offer(&outbox, "b", PLAIN).is_none(), "that was the one");
    write(&outbox, 100).unwrap();
    assert!(matches!(offer(&outbox, "c", ANSWER), Some(Next::Write)));
    let job = outbox.begin_write().unwrap();
    assert!(offer(&outbox, "a long one", PLAIN).is_none(), "the kernel may be full");
    outbox.end_write(job, Ok(Written::Bytes(3)), false, crate::transport::now);
    assert!(matches!(offer(&outbox, "d", ANSWER), Some(Next::Write)));
}

#[test]
fn a_conflating_outbox_keeps_the_newest_message() {
    let outbox = outbox(1, 1, true);
    offer(&outbox, "a", PLAIN);
    let (_, replaced) = outbox.offer_newest(Content::Message(&Message::from("b")), PLAIN).unwrap();
    assert_eq!(replaced.iter().map(Chunk::messages).sum::<usize>(), 1);
    assert!(outbox.link(link(), &[]));
    assert_eq!(write(&outbox, 100).unwrap().0, framed(&["b"]));
}

#[test]
fn closing_is_told_when_the_last_byte_is_written() {
    let outbox = outbox(10, 1_000, false);
    offer(&outbox, "a", PLAIN);
    assert!(outbox.link(link(), &[]));
    outbox.begin_close();
    let (_, step) = write(&outbox, 1).unwrap();
    assert!(step.note.is_none());
    let (_, step) = write(&outbox, 100).unwrap();
    assert!(matches!(step.note, Some((_, Note::Drained))));
}

#[test]
fn a_write_error_ends_the_session_and_tells_the_reactor() {
    let outbox = outbox(10, 1_000, false);
    offer(&outbox, "a", PLAIN);
    assert!(outbox.link(link(), &[]));
    let job = outbox.begin_write().unwrap();
    let broken = Err(io::ErrorKind::BrokenPipe.into());
    let step = outbox.end_write(job, broken, false, crate::transport::now);
    assert!(!step.more);
    assert!(matches!(step.note, Some((_, Note::Broken))));
    assert_eq!(outbox.report().messages, 1, "what was not written stays");
}

#[test]
fn messages_moved_while_the_session_ended_are_off_the_books() {
    let outbox = outbox(2, 1_000, false);
    for text in ["a", "b"] {
        offer(&outbox, text, PLAIN);
    }
    assert!(outbox.link(link(), &[]));
    let mut job = outbox.begin_write().unwrap();
    outbox.unlink();
    let Flight::Chunk { chunk, .. } = job.flight_mut() else { panic!("a chunk is in flight") };
    let moved = chunk.split_front(1, 1_000);
    let written = Written::Moved { messages: 1, wire_bytes: moved.wire_bytes() };
    let step = outbox.end_write(job, Ok(written), false, crate::transport::now);
    assert_eq!(step.torn, 0);
    assert_eq!(outbox.report().messages, 1);
    assert!(offer(&outbox, "c", PLAIN).is_some(), "the mark counts what is there");
}

#[test]
fn room_that_the_end_of_a_session_makes_is_told_too() {
    let outbox = outbox(1, 1_000, false);
    offer(&outbox, "only", PLAIN);
    assert!(outbox.link(link(), &[]));
    write(&outbox, 2).unwrap();
    write(&outbox, 0).unwrap();
    assert!(offer(&outbox, "refused", PLAIN).is_none());
    assert_eq!(outbox.unlink(), (1, true));
}
