//! Lanes that others pull, until this agent is called up.

use super::*;

const STANDBY: Gate = Gate::Standby;
/// The second lane only.
const NORMAL_ONLY: [bool; 3] = [false, true, false];

fn pulls(commands: &[Command]) -> Vec<(LaneIndex, Duration)> {
    let pull = |command: &Command| match command {
        Command::Pull { lane, expires, .. } => Some((*lane, *expires)),
        _ => None,
    };
    commands.iter().filter_map(pull).collect()
}

/// An agent that stands by for all its lanes, with this many slots.
fn standing_by(slots: u32) -> Bench {
    let mut bench = Bench::new(slots, &LANES);
    bench.apply([Event::Gates(vec![STANDBY; 3]), Event::Connected]);
    assert_eq!(bench.credits(), [0, 0, 0]);
    bench
}

fn call(bench: &Bench, ms: u64) -> Event {
    Event::CallUp { lanes: NORMAL_ONLY.into(), until: bench.now + Duration::from_millis(ms) }
}

#[test]
fn a_lane_on_standby_gets_no_new_credits_and_what_still_comes_is_run() {
    let mut bench = Bench::connected(2);
    bench.apply([Event::Gates(vec![Gate::Open, STANDBY, Gate::Open])]);
    let (handle, commands) = bench.give(NORMAL);
    assert_eq!(commands, [Command::Start(handle)], "it runs, and the lane is not asked again");
    assert_eq!(bench.credits(), [1, 0, 1]);
    assert_eq!(pulls(&bench.after(60_000)), []);
    assert_eq!(bench.apply([Event::Gates(vec![Gate::Open; 3])]).len(), 1);
}

#[test]
fn a_job_of_a_lane_on_standby_that_finds_no_slot_waits_like_any_other() {
    let mut bench = Bench::connected(1);
    bench.give(HIGH);
    bench.apply([Event::Gates(vec![STANDBY; 3])]);
    let (held, commands) = bench.give(LOW);
    assert_eq!((commands, bench.intake.held()), (vec![], 1));
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(held)]);
}

#[test]
fn called_up_it_pulls_and_stops_when_the_call_ends() {
    let mut bench = standing_by(2);
    let called = call(&bench, 5_000);
    assert_eq!(pulls(&bench.apply([called])), [(NORMAL, Duration::from_secs(5))], "the pull ends with the call");
    let (handle, commands) = bench.give(NORMAL);
    assert_eq!((commands[0].clone(), pulls(&commands).len()), (Command::Start(handle), 1), "it is asked for more");
    bench.after(5_000);
    assert_eq!(bench.apply([Event::Expired { lane: NORMAL, epoch: 0, pending: 1 }]), []);
    assert_eq!((bench.credits(), bench.after(60_000)), (vec![0, 0, 0], vec![]));
    assert_eq!(bench.intake.wake_at(), None, "one that is not called any more costs nothing");
}

#[test]
fn a_longer_call_counts_and_a_shorter_one_does_not_end_it() {
    let mut bench = standing_by(1);
    let (long, short) = (call(&bench, 20_000), call(&bench, 1_000));
    assert_eq!(pulls(&bench.apply([long, short])), [(NORMAL, Duration::from_secs(20))]);
    bench.after(2_000);
    let asked = bench.apply([Event::Expired { lane: NORMAL, epoch: 0, pending: 1 }]);
    assert_eq!(pulls(&asked), [(NORMAL, Duration::from_secs(18))]);
}

#[test]
fn a_call_that_is_about_to_end_or_is_for_a_closed_lane_means_nothing() {
    let mut bench = standing_by(1);
    let late = call(&bench, 100);
    assert_eq!(bench.apply([late]), []);
    bench.apply([Event::Gates(vec![STANDBY, Gate::Closed, STANDBY])]);
    let called = call(&bench, 5_000);
    assert_eq!(bench.apply([called]), []);
}

#[test]
fn a_lane_whose_call_has_ended_keeps_no_lower_one_from_being_pulled() {
    let mut bench = Bench::connected(1);
    bench.apply([Event::Gates(vec![Gate::Open, STANDBY, Gate::Open])]);
    let called = call(&bench, 1_000);
    bench.apply([called]);
    bench.give(NORMAL);
    bench.apply([Event::Expired { lane: HIGH, epoch: 0, pending: 1 }, Event::Expired { lane: LOW, epoch: 0, pending: 1 }]);
    bench.now += Duration::from_secs(1);
    let lanes: Vec<_> = pulls(&bench.apply([Event::SlotFreed])).into_iter().map(|(lane, _)| lane).collect();
    assert_eq!(lanes, [HIGH, LOW]);
}

#[test]
fn while_nobody_could_call_it_up_it_pulls_as_if_it_stood_by_for_nothing() {
    let mut bench = standing_by(1);
    let alone = bench.apply([Event::Unled(true)]);
    assert_eq!(pulls(&alone), [HIGH, NORMAL, LOW].map(|lane| (lane, LONG)));
    bench.apply([Event::Unled(false)]);
    let ended = [HIGH, NORMAL, LOW].map(|lane| Event::Expired { lane, epoch: 0, pending: 1 });
    assert_eq!(bench.apply(ended), [], "its pulls have run out, and it asks for nothing");
}
