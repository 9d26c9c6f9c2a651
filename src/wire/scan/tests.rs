//! Scans against a naive reading of the same bytes, and every limit from both sides.

use proptest::prelude::*;

use super::super::frame::put_header;
use super::*;

/// An allowance that never runs out.
const PLENTY: Allowance = Allowance { messages: usize::MAX, bytes: usize::MAX };

/// Appends a frame.
fn put_frame(out: &mut Vec<u8>, flags: u8, body: &[u8]) {
    put_header(out, flags, body.len());
    out.extend_from_slice(body);
}

/// A stream of frames given as flags and body.
fn stream(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (flags, body) in frames {
        put_frame(&mut out, *flags, body);
    }
    out
}

/// A scan whose commands are collected.
fn scan(
    scanner: &mut Scanner,
    input: &[u8],
    allowance: Allowance,
    commands: &mut Vec<Vec<u8>>,
) -> Result<Scan, ProtocolError> {
    let scan = scanner.scan(input, allowance, &mut |body| {
        commands.push(body.to_vec());
        Ok(())
    });
    scan.map_err(|failure| failure.error)
}

/// A scan by a fresh scanner, with the commands it met.
fn scan_once(input: &[u8], allowance: Allowance, limits: WireLimits) -> (Scan, Vec<Vec<u8>>) {
    let mut commands = Vec::new();
    let scan = scan(&mut Scanner::new(limits), input, allowance, &mut commands).unwrap();
    (scan, commands)
}

/// The error that a fresh scanner with these limits meets.
fn refused(input: &[u8], limits: WireLimits) -> ProtocolError {
    Scanner::new(limits).scan(input, PLENTY, &mut |_| Ok(())).unwrap_err().error
}

/// `NeedMore` in short.
const fn need(bytes: usize) -> Ended {
    Ended::NeedMore { bytes }
}

#[test]
fn a_run_ends_behind_the_last_complete_message() {
    let input = stream(&[(0, b"a"), (MORE, b"b"), (0, &[7; 300]), (MORE, b"open")]);
    let (scan, commands) = scan_once(&input, PLENTY, WireLimits::default());
    assert_eq!(scan, Scan { end: input.len() - 6, messages: 2, ended: need(1) });
    assert!(commands.is_empty());
}

#[test]
fn commands_at_a_boundary_advance_the_run_without_a_message() {
    let input = stream(&[(COMMAND, b"\x04PONG"), (COMMAND, b"\x04PING\0\0")]);
    let (scan, commands) = scan_once(&input, PLENTY, WireLimits::default());
    assert_eq!(scan, Scan { end: input.len(), messages: 0, ended: need(1) });
    assert_eq!(commands, [&b"\x04PONG"[..], b"\x04PING\0\0"]);
}

#[test]
fn a_command_inside_a_message_is_handed_out_once_and_stays_in_the_run() {
    let input = stream(&[(MORE, b"a"), (COMMAND, b"\x04PONG"), (0, b"b")]);
    let mut scanner = Scanner::new(WireLimits::default());
    let mut commands = Vec::new();
    for cut in 0..input.len() {
        let scan = scan(&mut scanner, &input[..cut], PLENTY, &mut commands).unwrap();
        assert_eq!((scan.end, scan.messages), (0, 0));
    }
    let scan = scan(&mut scanner, &input, PLENTY, &mut commands).unwrap();
    assert_eq!((scan.end, scan.messages), (input.len(), 1));
    assert_eq!(commands, [b"\x04PONG"]);
}

#[test]
fn need_more_says_what_completes_the_header_and_then_the_frame() {
    let ended = |input: &[u8]| scan_once(input, PLENTY, WireLimits::default()).0.ended;
    assert_eq!(ended(b""), need(1));
    assert_eq!(ended(&[0]), need(1));
    assert_eq!(ended(&[0, 9, 1]), need(8));
    assert_eq!(ended(&[LONG]), need(8));
    assert_eq!(ended(&[LONG, 0, 0, 0, 0, 0, 0, 1]), need(1));
    assert_eq!(ended(&[LONG, 0, 0, 0, 0, 0, 0, 1, 0]), need(256));
    assert_eq!(ended(&[LONG, 0, 0, 0, 0, 0x3f, 0, 0, 0]), need(0x3f00_0000));
}

#[test]
fn the_allowance_stops_the_run_at_a_message_boundary_and_a_later_scan_continues() {
    let input = stream(&[(0, b"a"), (0, b"b"), (0, b"c")]);
    let two = Allowance { messages: 2, bytes: usize::MAX };
    let (scan, _) = scan_once(&input, two, WireLimits::default());
    assert_eq!(scan, Scan { end: 6, messages: 2, ended: Ended::Allowance });
    let (scan, _) = scan_once(&input[6..], two, WireLimits::default());
    assert_eq!(scan, Scan { end: 3, messages: 1, ended: need(1) });
}

#[test]
fn the_last_message_may_overshoot_the_byte_allowance() {
    let input = stream(&[(0, b"abc"), (0, b"def"), (0, b"ghi")]);
    for (bytes, messages) in [(0, 0), (1, 1), (5, 1), (6, 2), (10, 2), (11, 3)] {
        let allowance = Allowance { messages: 9, bytes };
        let (scan, _) = scan_once(&input, allowance, WireLimits::default());
        assert_eq!((scan.messages, scan.end), (messages, messages * 5));
        let ended = if messages == 3 { need(1) } else { Ended::Allowance };
        assert_eq!(scan.ended, ended);
    }
}

#[test]
fn an_allowance_used_up_with_the_input_asks_for_more() {
    let input = stream(&[(0, b"a")]);
    let one = Allowance { messages: 1, bytes: 100 };
    assert_eq!(scan_once(&input, one, WireLimits::default()).0.ended, need(1));
    let none = Allowance { messages: 0, bytes: 0 };
    assert_eq!(scan_once(b"", none, WireLimits::default()).0.ended, need(1));
}

#[test]
fn without_allowance_commands_at_the_boundary_are_still_handed_out() {
    let input = stream(&[(COMMAND, b"\x04PONG"), (0, b"a")]);
    let none = Allowance { messages: 0, bytes: 0 };
    let (scan, commands) = scan_once(&input, none, WireLimits::default());
    assert_eq!(scan, Scan { end: 7, messages: 0, ended: Ended::Allowance });
    assert_eq!(commands.len(), 1);
    assert_eq!(scan_once(&[COMMAND], none, WireLimits::default()).0.ended, need(1));
}

#[test]
fn without_allowance_a_message_in_progress_waits_with_the_commands_inside_it() {
    let input = stream(&[(MORE, b"a"), (COMMAND, b"\x04PONG"), (0, b"b")]);
    let mut scanner = Scanner::new(WireLimits::default());
    let mut commands = Vec::new();
    scan(&mut scanner, &input[..3], PLENTY, &mut commands).unwrap();
    let none = Allowance { messages: 0, bytes: 0 };
    let waiting = scan(&mut scanner, &input, none, &mut commands).unwrap();
    assert_eq!(waiting, Scan { end: 0, messages: 0, ended: Ended::Allowance });
    assert!(commands.is_empty());
    let taken = scan(&mut scanner, &input, PLENTY, &mut commands).unwrap();
    assert_eq!((taken.end, taken.messages, commands.len()), (input.len(), 1, 1));
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_before_its_body_arrives() {
    let limits = WireLimits { message_bytes_max: 10, ..Default::default() };
    let refusal = ProtocolError::FrameTooLong { length: 11, limit: 10 };
    assert_eq!(refused(&[0, 11], limits), refusal);
    assert_eq!(refused(&stream(&[(0, &[0; 11])]), limits), refusal);
    assert_eq!(scan_once(&[0, 10], PLENTY, limits).0.ended, need(10));
}

#[test]
fn frames_that_add_up_to_more_than_a_message_are_refused_before_the_last_body_arrives() {
    let limits = WireLimits { message_bytes_max: 10, ..Default::default() };
    let mut input = stream(&[(MORE, b"12345"), (MORE, b"123")]);
    input.extend_from_slice(&[0, 3]);
    assert_eq!(refused(&input, limits), ProtocolError::MessageTooLarge { limit: 10 });
    *input.last_mut().unwrap() = 2;
    assert_eq!(scan_once(&input, PLENTY, limits).0.ended, need(2));
}

#[test]
fn endless_empty_frames_are_refused() {
    let limits = WireLimits { frames_per_message_max: 3, ..Default::default() };
    let refusal = ProtocolError::TooManyFrames { limit: 3 };
    assert_eq!(refused(&[1, 0, 1, 0, 1, 0], limits), refusal);
    assert_eq!(refused(&[1, 0, 1, 0, 1, 0, 0, 0], limits), refusal);
    assert_eq!(scan_once(&[1, 0, 1, 0, 0, 0], PLENTY, limits).0.messages, 1);
}

#[test]
fn a_long_command_is_refused_before_its_body_arrives() {
    let limits = WireLimits { command_bytes_max: 20, ..Default::default() };
    let refusal = ProtocolError::CommandTooLong { length: 21, limit: 20 };
    assert_eq!(refused(&[COMMAND, 21], limits), refusal);
    assert_eq!(scan_once(&[COMMAND, 20], PLENTY, limits).0.ended, need(20));
}

#[test]
fn endless_commands_inside_a_message_are_refused_by_count_and_by_bytes() {
    let few = WireLimits { frames_per_message_max: 2, ..Default::default() };
    let pong = stream(&[(COMMAND, b"\x04PONG")]);
    let open = [&[MORE, 1, 0], &pong[..], &pong[..]].concat();
    assert_eq!(scan_once(&open, PLENTY, few).1.len(), 2);
    let refusal = ProtocolError::TooManyFrames { limit: 2 };
    assert_eq!(refused(&[&open[..], &pong[..]].concat(), few), refusal);

    let small = WireLimits { message_bytes_max: 1, command_bytes_max: 10, ..Default::default() };
    assert_eq!(scan_once(&open, PLENTY, small).1.len(), 2);
    let refusal = ProtocolError::MessageTooLarge { limit: 1 };
    assert_eq!(refused(&[&open[..], &pong[..]].concat(), small), refusal);
}

#[test]
fn an_error_of_the_command_handler_ends_the_scan() {
    let input = stream(&[(COMMAND, b"\x05READY"), (0, b"a")]);
    let error = ProtocolError::UnexpectedCommand { name: "READY".to_owned() };
    let result =
        Scanner::new(WireLimits::default()).scan(&input, PLENTY, &mut |_| Err(error.clone()));
    assert_eq!(result.unwrap_err().error, error);
}

#[test]
fn complete_messages_before_an_error_are_still_found() {
    let mut input = stream(&[(0, b"a"), (MORE, b"b"), (0, b"c")]);
    input.extend([0x80, 1, b'd']);
    let failure =
        Scanner::new(WireLimits::default()).scan(&input, PLENTY, &mut |_| Ok(())).unwrap_err();
    assert_eq!((failure.messages, failure.end), (2, 9));
    assert_eq!(failure.error, ProtocolError::ReservedFlags(0x80));
}

/// Reads a run naively: its messages as lists of frames, commands skipped.
fn read_run(run: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut messages = Vec::new();
    let mut message = Vec::new();
    let mut at = 0;
    while at < run.len() {
        let flags = run[at];
        let (header_len, body_len) = if flags & LONG == 0 {
            (2, usize::from(run[at + 1]))
        } else {
            (9, u64::from_be_bytes(run[at + 1..at + 9].try_into().unwrap()) as usize)
        };
        let body = &run[at + header_len..at + header_len + body_len];
        at += header_len + body_len;
        if flags & COMMAND != 0 {
            continue;
        }
        message.push(body.to_vec());
        if flags & MORE == 0 {
            messages.push(std::mem::take(&mut message));
        }
    }
    assert!(message.is_empty(), "a run holds complete messages only");
    messages
}

/// Bodies around the border between short and long headers, and tiny ones.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        5 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 250..260),
    ]
}

/// A frame with the commands that come before it.
type Framed = (Vec<Vec<u8>>, Vec<u8>);

/// Messages of one to four frames, with commands anywhere.
fn messages() -> impl Strategy<Value = Vec<Vec<Framed>>> {
    let commands = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..3),
    ];
    let frames = prop_oneof![
        3 => prop::collection::vec((commands.clone(), body()), 1..2),
        1 => prop::collection::vec((commands, body()), 2..5),
    ];
    prop::collection::vec(frames, 0..25)
}

/// What a connection would see: feeds the stream in pieces and takes run after run.
fn drive(
    bytes: &[u8],
    sizes: &[usize],
    allowances: &[Allowance],
) -> (Vec<Vec<Vec<u8>>>, Vec<Vec<u8>>) {
    let mut scanner = Scanner::new(WireLimits::default());
    let (mut messages, mut commands, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
    let mut sizes = sizes.iter().copied().cycle();
    let mut allowances = allowances.iter().copied().chain([PLENTY]).cycle();
    let mut fed = 0;
    loop {
        let allowance = allowances.next().unwrap();
        let found = scan(&mut scanner, &buffer, allowance, &mut commands).unwrap();
        let run: Vec<u8> = buffer.drain(..found.end).collect();
        let run = read_run(&run);
        assert_eq!(run.len(), found.messages);
        assert!(run.len() <= allowance.messages);
        messages.extend(run);
        let Ended::NeedMore { bytes: missing } = found.ended else { continue };
        assert!(missing >= 1);
        if fed == bytes.len() {
            assert!(buffer.is_empty());
            return (messages, commands);
        }
        assert!(missing <= bytes.len() - fed, "more is asked for than completes the frame");
        let next = (fed + sizes.next().unwrap()).min(bytes.len());
        buffer.extend_from_slice(&bytes[fed..next]);
        fed = next;
    }
}

proptest! {
    #[test]
    fn any_split_and_any_allowance_give_the_messages_and_commands_that_were_sent(
        messages in messages(),
        sizes in prop::collection::vec(prop_oneof![1usize..4, 1usize..400], 1..20),
        allowances in prop::collection::vec((0usize..4, 0usize..64), 0..6),
    ) {
        let (mut bytes, mut sent, mut commands) = (Vec::new(), Vec::new(), Vec::new());
        for message in &messages {
            for (index, (before, body)) in message.iter().enumerate() {
                for command in before {
                    put_frame(&mut bytes, COMMAND, command);
                    commands.push(command.clone());
                }
                let more = if index + 1 < message.len() { MORE } else { 0 };
                put_frame(&mut bytes, more, body);
            }
            sent.push(message.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>());
        }
        let allowances: Vec<_> = allowances
            .into_iter()
            .map(|(messages, bytes)| Allowance { messages, bytes })
            .collect();
        prop_assert_eq!(drive(&bytes, &sizes, &allowances), (sent, commands));
    }

    #[test]
    fn hostile_bytes_end_the_same_way_whole_or_byte_by_byte(
        bytes in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..60),
    ) {
        let limits = WireLimits {
            message_bytes_max: 12,
            frames_per_message_max: 3,
            command_bytes_max: 6,
            ..Default::default()
        };
        let (mut whole_commands, mut split_commands) = (Vec::new(), Vec::new());
        let whole =
            scan(&mut Scanner::new(limits), &bytes, PLENTY, &mut whole_commands);
        let mut scanner = Scanner::new(limits);
        let (mut start, mut messages) = (0, 0);
        let mut split = Ok(need(1));
        for end in 1..=bytes.len() {
            match scan(&mut scanner, &bytes[start..end], PLENTY, &mut split_commands) {
                Ok(found) => {
                    start += found.end;
                    messages += found.messages;
                    split = Ok(found.ended);
                }
                Err(error) => {
                    split = Err(error);
                    break;
                }
            }
        }
        prop_assert_eq!(whole_commands, split_commands);
        match whole {
            Ok(whole) => {
                prop_assert_eq!((whole.end, whole.messages), (start, messages));
                prop_assert_eq!(Ok(whole.ended), split);
            }
            Err(error) => prop_assert_eq!(Err(error), split),
        }
    }
}
