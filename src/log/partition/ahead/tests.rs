//! When zeros are written, and where.

use super::*;

const LIMIT: u64 = 1 << 30;

/// What is wanted before each of so many syncs, 100 bytes apart, in quick succession.
fn syncs(ahead: &mut Ahead, holders: &Holders, count: u64) -> Vec<Wanted> {
    let from = ahead.synced;
    (1..=count).map(|n| ahead.before_sync(from + n * 100, LIMIT, 7, holders)).collect()
}

/// The same, of the last one.
fn after(ahead: &mut Ahead, holders: &Holders, count: u64) -> Wanted {
    syncs(ahead, holders, count).pop().unwrap()
}

#[test]
fn zeros_come_when_small_pieces_do_and_twice_as_many_when_they_are_used_up() {
    let (mut ahead, holders) = (Ahead::default(), Holders::default());
    let wanted = syncs(&mut ahead, &holders, 5);
    assert!(wanted[..4].iter().all(|wanted| *wanted == Wanted::Nothing), "{wanted:?}");
    let first = 500..(500 + AHEAD_BYTES_MIN).next_multiple_of(PAGE_BYTES);
    assert_eq!(wanted[4], Wanted::Zeros(first.clone()));
    let mut end = 600;
    while end + 100 <= first.end {
        assert_eq!(ahead.before_sync(end, LIMIT, 7, &holders), Wanted::Nothing, "{end}");
        end += 100;
    }
    let second = first.end..(end + 2 * AHEAD_BYTES_MIN).next_multiple_of(PAGE_BYTES);
    assert_eq!(ahead.before_sync(end, LIMIT, 7, &holders), Wanted::Zeros(second));
    for _ in 0..9 {
        ahead.cut();
        assert!(matches!(after(&mut ahead, &holders, 1), Wanted::Zeros(_)));
    }
    assert_eq!(ahead.step, AHEAD_BYTES_MAX, "not more and more");
}

#[test]
fn long_pieces_and_pauses_begin_anew() {
    let (mut ahead, holders) = (Ahead::default(), Holders::default());
    assert!(matches!(after(&mut ahead, &holders, 5), Wanted::Zeros(_)));
    ahead.cut();
    let end = ahead.synced + PIECE_BYTES_MAX;
    assert!(matches!(ahead.before_sync(end, LIMIT, 7, &holders), Wanted::Zeros(_)));
    ahead.cut();
    let end = end + PIECE_BYTES_MAX + 1;
    assert_eq!(ahead.before_sync(end, LIMIT, 7, &holders), Wanted::Nothing);
    assert_eq!(after(&mut ahead, &holders, 3), Wanted::Nothing, "counted anew");
    assert!(matches!(after(&mut ahead, &holders, 1), Wanted::Zeros(_)));
    ahead.cut();
    let (end, late) = (ahead.synced + 100, 7 + PAUSE_MS_MAX + 1);
    assert_eq!(ahead.before_sync(end, LIMIT, late, &holders), Wanted::Nothing);
    for n in 1..4 {
        let wanted = ahead.before_sync(end + n * 100, LIMIT, late, &holders);
        assert_eq!(wanted, Wanted::Nothing);
    }
    let wanted = ahead.before_sync(end + 400, LIMIT, late + PAUSE_MS_MAX, &holders);
    let zeros = end + 400..(end + 400 + AHEAD_BYTES_MIN).next_multiple_of(PAGE_BYTES);
    assert_eq!(wanted, Wanted::Zeros(zeros), "few at first");
}

#[test]
fn a_segment_gets_no_longer_than_it_may_be_and_the_next_one_begins_without_zeros() {
    let (mut ahead, holders) = (Ahead::default(), Holders::default());
    assert_eq!(after(&mut ahead, &holders, 4), Wanted::Nothing);
    assert_eq!(ahead.before_sync(500, 550, 7, &holders), Wanted::Zeros(500..550));
    assert!(ahead.is_beyond(549) && !ahead.is_beyond(550));
    assert_eq!(ahead.before_sync(520, 550, 7, &holders), Wanted::Nothing);
    assert_eq!(ahead.before_sync(550, 550, 7, &holders), Wanted::Nothing);
    ahead.rolled();
    assert!(!ahead.is_beyond(0));
    let wanted = ahead.before_sync(100, 550, 7, &holders);
    assert_eq!(wanted, Wanted::Zeros(100..550), "small pieces go on");
}

#[test]
fn so_many_have_zeros_and_others_ask_again_later() {
    let holders = Holders::default();
    let mut some: Vec<Ahead> = (0..HOLDERS_MAX).map(|_| Ahead::default()).collect();
    for ahead in &mut some {
        assert!(matches!(after(ahead, &holders, 5), Wanted::Zeros(_)));
    }
    let mut late = Ahead::default();
    assert_eq!(after(&mut late, &holders, 5), Wanted::Holder);
    assert!(!late.is_beyond(0));
    let wanted = syncs(&mut late, &holders, 63);
    assert!(wanted.iter().all(|wanted| *wanted == Wanted::Nothing), "{wanted:?}");
    assert_eq!(after(&mut late, &holders, 1), Wanted::Holder);
    some.pop();
    assert!(matches!(after(&mut late, &holders, 64), Wanted::Zeros(_)));
    some[0].cut();
    some[1].rolled();
    assert_eq!(holders.count.load(Ordering::Relaxed), HOLDERS_MAX - 2);
}

#[test]
fn after_space_was_wanted_there_are_none_for_a_while() {
    let (mut ahead, holders) = (Ahead::default(), Holders::default());
    holders.now_scarce(7 - SCARCE_MS + 1);
    assert_eq!(after(&mut ahead, &holders, 9), Wanted::Nothing);
    holders.now_scarce(7 - SCARCE_MS);
    assert!(matches!(after(&mut ahead, &holders, 1), Wanted::Zeros(_)));
}
