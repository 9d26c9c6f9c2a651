//! Who leads, who waits, who is called.

use super::*;

const SYNC: Duration = Duration::from_millis(8);

fn leads(queue: &mut Queue, offset: i64) -> bool {
    matches!(queue.next(offset, true), Next::Lead)
}

/// Takes a seat; whether with an alarm, that is, as the lookout.
fn sits(queue: &mut Queue, offset: i64) -> (Arc<Waiter>, bool) {
    match queue.next(offset, true) {
        Next::Wait(seat) => (seat.waiter, seat.alarm.is_some()),
        Next::Lead => panic!("{offset} leads"),
    }
}

fn offsets(called: &Called) -> Vec<i64> {
    called.0.iter().map(|waiter| waiter.offset).collect()
}

/// A queue in which this many callers were served by the last sync.
fn after(callers: i64) -> Queue {
    let mut queue = Queue::default();
    assert!(leads(&mut queue, 0));
    for offset in 1..callers {
        assert!(!sits(&mut queue, offset).1);
    }
    assert_eq!(queue.end_turn(callers, SYNC).0.len() as i64, callers - 1);
    queue
}

#[test]
fn a_caller_that_is_alone_leads_at_once_every_time() {
    let mut queue = Queue::default();
    for offset in 0..5 {
        assert!(leads(&mut queue, offset));
        assert!(offsets(&queue.end_turn(offset + 1, SYNC)).is_empty());
    }
}

#[test]
fn exactly_those_whose_records_are_durable_are_called_and_one_more_to_lead() {
    let mut queue = Queue::default();
    assert!(leads(&mut queue, 0));
    for offset in [3, 1, 4, 2, 5] {
        assert!(!sits(&mut queue, offset).1, "no lookout while a sync is in flight");
    }
    assert_eq!(offsets(&queue.end_turn(3, SYNC)), [3, 1, 2]);
    assert_eq!(queue.waiting.len(), 2);
}

#[test]
fn the_last_of_those_who_came_before_leads_and_none_sooner() {
    let mut queue = after(4);
    assert!(sits(&mut queue, 4).1, "the first looks out");
    assert!(!sits(&mut queue, 5).1);
    assert!(!sits(&mut queue, 6).1);
    assert!(leads(&mut queue, 7));
    assert!(!sits(&mut queue, 8).1);
}

#[test]
fn who_is_not_patient_any_more_leads_unless_somebody_does() {
    let mut queue = after(4);
    assert!(matches!(queue.next(4, false), Next::Lead));
    assert!(matches!(queue.next(5, false), Next::Wait(_)));
}

#[test]
fn the_lookout_waits_the_shorter_the_fewer_are_missing() {
    let alarm = |released: i64, left: i64| {
        let mut queue = after(1);
        queue.sync_time = SYNC;
        assert!(leads(&mut queue, 0));
        for offset in 1..released + left {
            sits(&mut queue, offset);
        }
        let _ = queue.end_turn(released, SYNC);
        queue.patience
    };
    assert_eq!(alarm(8, 0), SYNC);
    assert_eq!(alarm(4, 4), SYNC / 2);
    assert_eq!(alarm(1, 7), SYNC / 8);
}

#[test]
fn a_lookout_whose_time_is_up_gives_its_seat_up_and_leads() {
    let mut queue = after(2);
    queue.patience = Duration::ZERO;
    let Next::Wait(seat) = queue.next(2, true) else { panic!("it leads too soon") };
    let queue = Mutex::new(queue);
    assert!(!seat.wait(&queue, None));
    let mut queue = lock(&queue);
    assert!(queue.waiting.is_empty() && !queue.lookout);
    assert!(matches!(queue.next(2, false), Next::Lead));
}

#[test]
fn who_leaves_without_having_led_calls_another() {
    let mut queue = after(3);
    queue.patience = Duration::from_secs(3600);
    let Next::Wait(lookout) = queue.next(3, true) else { panic!("it leads too soon") };
    sits(&mut queue, 4);
    let queue = Mutex::new(queue);
    // Its own time is up before the alarm.
    assert!(lookout.wait(&queue, Some(now())));
    assert_eq!(offsets(&lock(&queue).leave()), [4]);
}

#[test]
fn who_is_called_while_its_time_runs_out_loses_nothing() {
    let mut queue = Queue::default();
    assert!(leads(&mut queue, 0));
    let Next::Wait(seat) = queue.next(1, true) else { panic!("two lead") };
    let called = queue.end_turn(2, SYNC);
    let queue = Mutex::new(queue);
    assert!(seat.wait(&queue, Some(now())), "its seat was taken before it was told");
    called.wake();
}

#[test]
fn a_failure_calls_all() {
    let mut queue = after(4);
    sits(&mut queue, 4);
    sits(&mut queue, 5);
    assert_eq!(offsets(&queue.take_all()), [4, 5]);
    assert!(sits(&mut queue, 6).1, "there is a lookout again");
}
