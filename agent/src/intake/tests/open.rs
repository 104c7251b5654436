//! Lanes that may not be pulled.

use super::*;

fn pulled(commands: &[Command]) -> Vec<LaneIndex> {
    commands.iter().filter_map(|command| if let Command::Pull { lane, .. } = command { Some(*lane) } else { None }).collect()
}

#[test]
fn a_closed_lane_is_not_pulled_and_is_again_once_it_is_open() {
    let mut bench = Bench::new(2, &LANES);
    bench.apply([Event::Gates(vec![Gate::Open, Gate::Closed, Gate::Open])]);
    assert_eq!(pulled(&bench.apply([Event::Connected])), [HIGH, LOW]);
    assert_eq!(pulled(&bench.apply([Event::Gates(vec![Gate::Open, Gate::Open, Gate::Open])])), [NORMAL]);
}

#[test]
fn no_open_lane_means_no_pull_at_all() {
    let mut bench = Bench::new(2, &LANES);
    bench.apply([Event::Gates(vec![Gate::Closed; 3])]);
    assert_eq!(bench.apply([Event::Connected]), []);
    assert_eq!(bench.credits(), [0, 0, 0]);
}

#[test]
fn what_a_closed_lane_still_gives_is_released_at_once_and_does_not_stop_lower_lanes() {
    let mut bench = Bench::connected(2);
    bench.apply([Event::Gates(vec![Gate::Closed, Gate::Open, Gate::Open])]);
    let (handle, commands) = bench.give(HIGH);
    assert!(commands.contains(&Command::Release(handle, Why::Closed)), "{commands:?}");
    assert_eq!(bench.intake.running(), 0);
    // A hot lane would keep lower ones from being pulled.
    let (low, commands) = bench.give(LOW);
    assert!(commands.contains(&Command::Start(low)), "{commands:?}");
    assert!(pulled(&commands).contains(&LOW), "{commands:?}");
}

#[test]
fn a_job_that_waits_for_a_slot_is_released_when_its_lane_closes_and_others_still_wait() {
    let mut bench = Bench::connected(1);
    let (_, _) = bench.give(HIGH);
    let ((normal, _), (low, _)) = (bench.give(NORMAL), bench.give(LOW));
    assert_eq!(bench.intake.held(), 2);
    assert_eq!(bench.apply([Event::Gates(vec![Gate::Open, Gate::Closed, Gate::Open])]), [Command::Release(normal, Why::Closed)]);
    assert!(bench.apply([Event::SlotFreed]).contains(&Command::Start(low)));
}
