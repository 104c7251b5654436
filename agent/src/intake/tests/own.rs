//! The agent's own queue, pulled as one more lane before all others.
use super::*;

const QUEUE: LaneIndex = 0;
const URGENT: LaneIndex = 1;
const OTHER: LaneIndex = 2;

/// The own queue and two lanes, connected.
fn bench(slots: u32) -> Bench {
    let mut bench = Bench::new(slots, &[OWN, LANES[0], LANES[1]]);
    bench.apply([Event::Connected]);
    bench
}

#[test]
fn the_own_queue_is_asked_before_all_lanes_and_what_it_gives_takes_a_slot() {
    let mut bench = Bench::new(1, &[LANES[0], OWN]);
    assert_eq!(bench.apply([Event::Connected]), [pull(1), pull(0)]);
    assert_eq!(bench.give(1).1, [Command::Start(1)]);
    assert_eq!(bench.intake.running(), 1);
    assert_eq!(bench.apply([Event::Expired { lane: 0, epoch: 0, pending: 1 }]), [], "no slot is free");
}

#[test]
fn a_command_that_is_held_starts_before_every_job_that_is() {
    let mut bench = bench(1);
    bench.give(OTHER);
    bench.give(URGENT);
    let command = bench.give(QUEUE).0;
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(command)]);
}

#[test]
fn with_a_backlog_of_commands_no_lane_is_asked() {
    let mut bench = bench(1);
    bench.apply([Event::Arrived { lane: QUEUE, handle: 1 }, Event::Arrived { lane: URGENT, handle: 2 }]);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(QUEUE, 1)]);
    bench.give(QUEUE);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(QUEUE, 1)]);
    assert_eq!(bench.after(10), [again(URGENT, 1)], "it had no more");
}

#[test]
fn a_command_without_a_slot_is_given_back_in_time_and_asked_for_first_once_there_is_one() {
    let mut bench = bench(1);
    bench.give(OTHER);
    let command = bench.give(QUEUE).0;
    assert_eq!(bench.after(200), [Command::Release(command, Why::Full)]);
    assert_eq!(bench.after(30_000), []);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(QUEUE, 1)]);
}

#[test]
fn an_agent_that_may_take_nothing_new_takes_no_command_either() {
    for stop in [Event::Standing { accepting: false, priority: 5 }, Event::Blocked(true), Event::Shutdown] {
        let mut bench = bench(2);
        let drained = bench.apply([stop.clone()]);
        assert!(drained.iter().all(|command| matches!(command, Command::Drain { .. })), "{drained:?}");
        assert_eq!(drained.len(), if stop == Event::Shutdown { 3 } else { 0 });
        assert_eq!(bench.give(QUEUE).1, [Command::Release(1, Why::Closed)]);
        assert_eq!(bench.after(100_000), []);
    }
}

/// The own queue is not there, or goes away.
const MISSING: Event = Event::Refused { lane: QUEUE, epoch: 0, why: Refusal::Missing };

#[test]
fn an_own_queue_that_is_not_there_rests_and_keeps_no_lane_waiting() {
    let mut bench = bench(1);
    assert_eq!(bench.apply([MISSING]), []);
    assert_eq!(bench.give(OTHER).1, [Command::Start(1)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(OTHER, 1)]);
    for _ in 0..3 {
        assert!(!bench.after(59_999).contains(&again(QUEUE, 1)));
        assert!(matches!(bench.after(1)[0], Command::Pull { lane: QUEUE, batch: 1, .. }), "once a minute, however often it was not there");
        bench.apply([MISSING]);
    }
}

#[test]
fn an_own_queue_that_rests_is_asked_at_once_when_a_command_waits_and_after_a_connect() {
    let mut bench = bench(1);
    bench.apply([MISSING]);
    assert_eq!(bench.apply([Event::Commands]), [pull(QUEUE)]);
    assert_eq!(bench.apply([Event::Commands]), [], "it is asked already");
    assert_eq!(bench.give(QUEUE).1, [Command::Start(1)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(QUEUE, 1)], "a queue that gave something is asked on");
    bench.apply([MISSING, Event::Disconnected]);
    let asked = bench.apply([Event::Connected]);
    assert!(matches!(asked[0], Command::Pull { lane: QUEUE, epoch: 1, .. }), "{asked:?}");
}

#[test]
fn a_refusal_of_before_the_order_does_not_put_the_queue_to_rest_and_one_of_after_it_does() {
    // The consumer was removed, and made again for a command: the word of its end may come behind the order.
    for together in [true, false] {
        let mut bench = bench(1);
        let asked = if together {
            bench.apply([Event::Commands, MISSING])
        } else {
            assert_eq!(bench.apply([Event::Commands]), []);
            bench.apply([MISSING])
        };
        assert_eq!(asked, [pull(QUEUE)]);
        assert_eq!(bench.apply([MISSING]), [], "it asked behind the order");
        assert!(bench.after(59_999).is_empty());
    }
}

#[test]
fn an_order_to_an_agent_that_may_take_nothing_or_has_no_slot_counts_once_it_may() {
    for (stop, go) in [
        (Event::Blocked(true), Event::Blocked(false)),
        (Event::Standing { accepting: false, priority: 5 }, Event::Standing { accepting: true, priority: 5 }),
    ] {
        let mut bench = bench(1);
        bench.apply([MISSING, stop]);
        assert_eq!(bench.apply([Event::Commands]), []);
        assert_eq!(bench.apply([go]), [pull(QUEUE)]);
    }
    let mut bench = bench(1);
    bench.apply([MISSING]);
    bench.give(OTHER);
    assert_eq!(bench.apply([Event::Commands]), []);
    assert_eq!(bench.apply([Event::SlotFreed])[0], again(QUEUE, 1));
}

#[test]
fn a_lane_that_is_not_there_does_not_heed_orders_about_the_own_queue() {
    let mut bench = bench(1);
    bench.apply([Event::Refused { lane: OTHER, epoch: 0, why: Refusal::Missing }]);
    assert_eq!(bench.apply([Event::Commands]), []);
    assert_eq!(bench.after(250), [pull(OTHER)]);
}

#[test]
fn a_better_priority_asks_nothing_more_of_the_queue_that_nobody_else_asks() {
    let mut bench = bench(2);
    let promotion = bench.apply([Event::Standing { accepting: true, priority: 0 }]);
    assert_eq!(promotion, [URGENT, OTHER].map(|lane| Command::Pull { lane, epoch: 0, batch: 1, priority: 0, expires: LONG }));
    assert_eq!(bench.credits(), [1, 2, 2]);
}
