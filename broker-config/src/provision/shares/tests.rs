//! What a division promises, for any lanes, and for a whole run of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

fn load(priority: Priority, held: u64, waiting: u64) -> Load {
    Load { priority, share: 0, held, waiting, served: 0 }
}

fn any_load() -> impl Strategy<Value = Load> {
    let few = || prop_oneof![Just(0_u64), 0..30_u64, 0..100_000_u64];
    (0..3_usize, few(), few(), few(), 0..10_u64).prop_map(|(priority, share, held, waiting, served)| Load {
        priority: Priority::ALL[priority],
        share,
        held,
        waiting,
        served,
    })
}

fn any_limit() -> impl Strategy<Value = u64> {
    prop_oneof![1..40_u64, 1..10_000_u64]
}

#[test]
fn higher_priorities_get_more_and_each_lane_with_jobs_gets_some() {
    use Priority::{High, Low, Normal};
    let lanes = [load(High, 0, 100), load(Normal, 0, 100), load(Low, 0, 100), load(High, 0, 0)];
    assert_eq!(divide(3, &lanes), [1, 1, 1, 0]);
    assert_eq!(divide(17, &lanes), [9, 5, 3, 0]);
    assert_eq!(divide(2, &lanes), [1, 1, 0, 0], "too few for all: the higher ones");
    assert_eq!(divide(10, &[load(Low, 0, 2), load(Low, 3, 0)]).iter().sum::<u64>(), 10, "what nobody needs is room for the next");
}

#[test]
fn of_a_pool_without_jobs_the_normal_lanes_are_open_first() {
    use Priority::{High, Low, Normal};
    let lanes = [High, Normal, Low, High, Normal, Low].map(|priority| load(priority, 0, 0));
    assert_eq!(divide(3, &lanes), [1, 1, 0, 0, 1, 0]);
    assert_eq!(divide(7, &lanes), [1, 2, 1, 1, 1, 1]);
}

#[test]
fn nothing_is_changed_while_nobody_goes_short() {
    let mut lanes = [load(Priority::High, 1, 0), load(Priority::Low, 0, 0)];
    (lanes[0].share, lanes[1].share) = (2, 5);
    assert!(!is_due(7, &lanes, &divide(7, &lanes)));
    lanes[0].waiting = 4;
    assert!(is_due(7, &lanes, &divide(7, &lanes)));
    assert!(is_due(6, &[Load { share: 7, ..lanes[1] }], &[6]), "together more than the limit");
}

/// The broker of a test: lanes that give out what they may, and the changes of one division.
fn step(limit: u64, lanes: &mut [Load]) {
    let shares = divide(limit, lanes);
    if !is_due(limit, lanes, &shares) {
        return;
    }
    for (place, share) in lowered(lanes, &shares).collect::<Vec<_>>() {
        lanes[place].share = share;
    }
    for (place, share) in raised(limit, lanes, &shares) {
        lanes[place].share = share;
    }
}

/// Each lane gives out all that it may.
fn give_out(lanes: &mut [Load], now: u64) {
    for lane in lanes {
        let given = lane.waiting.min(lane.share.saturating_sub(lane.held));
        (lane.held, lane.waiting) = (lane.held + given, lane.waiting - given);
        if given > 0 {
            lane.served = now;
        }
    }
}

proptest! {
    #[test]
    fn shares_are_never_more_than_the_limit_and_use_all_of_it(limit in any_limit(), lanes in prop::collection::vec(any_load(), 1..200)) {
        let shares = divide(limit, &lanes);
        prop_assert_eq!(shares.len(), lanes.len());
        prop_assert_eq!(shares.iter().sum::<u64>(), limit);
    }

    #[test]
    fn no_lane_with_jobs_goes_without_while_there_is_enough_for_each(limit in any_limit(), lanes in prop::collection::vec(any_load(), 1..200)) {
        let shares = divide(limit, &lanes);
        let busy: Vec<_> = lanes.iter().zip(&shares).filter(|(lane, _)| lane.need() > 0).collect();
        if busy.len() as u64 <= limit {
            prop_assert!(busy.iter().all(|(_, share)| **share > 0));
        } else {
            let least = busy.iter().filter(|(_, share)| **share > 0).map(|(lane, _)| lane.priority).max();
            let left_out = busy.iter().filter(|(_, share)| **share == 0).map(|(lane, _)| lane.priority).min();
            prop_assert!(least <= left_out, "{:?} was served before {:?}", least, left_out);
        }
    }

    #[test]
    fn a_higher_priority_never_gets_less_than_it_needs_while_a_lower_one_gets_more(
        limit in any_limit(), lanes in prop::collection::vec(any_load(), 1..50)
    ) {
        let shares = divide(limit, &lanes);
        for (high, its) in lanes.iter().zip(&shares).filter(|(lane, share)| lane.need() > **share) {
            for (low, other) in lanes.iter().zip(&shares).filter(|(lane, _)| lane.need() > 0 && lane.priority > high.priority) {
                prop_assert!(other <= its, "{low:?} got {other}, {high:?} got {its}");
            }
        }
    }

    #[test]
    fn what_lanes_use_never_grows_beyond_the_limit_however_shares_change(limit in any_limit(), mut lanes in prop::collection::vec(any_load(), 1..50)) {
        let used = |lanes: &[Load]| lanes.iter().map(Load::used).sum::<u64>();
        let before = used(&lanes);
        let shares = divide(limit, &lanes);
        for (place, share) in lowered(&lanes, &shares).collect::<Vec<_>>() {
            prop_assert!(share < lanes[place].share);
            lanes[place].share = share;
            prop_assert!(used(&lanes) <= before);
        }
        let held: u64 = lanes.iter().map(|lane| lane.held).sum();
        for (place, share) in raised(limit, &lanes, &shares) {
            prop_assert!(share > lanes[place].share);
            lanes[place].share = share;
            // More than the limit may be out from before; then nothing is raised beyond what is out.
            prop_assert!(used(&lanes) <= limit.max(before).max(held));
        }
        if before <= limit {
            prop_assert!(used(&lanes) <= limit);
        }
    }

    #[test]
    fn letting_jobs_back_takes_nothing_from_the_limit(limit in any_limit(), mut lanes in prop::collection::vec(any_load(), 1..50)) {
        let used = |lanes: &[Load]| lanes.iter().map(Load::used).sum::<u64>();
        let mut shares = divide(limit, &lanes);
        let_back(&lanes, &mut shares);
        prop_assert!(lanes.iter().zip(&shares).all(|(lane, share)| lane.held == 0 || *share > 0));
        let before = used(&lanes);
        for (place, share) in lowered(&lanes, &shares).collect::<Vec<_>>() {
            lanes[place].share = share;
        }
        for (place, share) in raised(limit, &lanes, &shares) {
            lanes[place].share = share;
        }
        prop_assert!(used(&lanes) <= limit.max(before));
    }

    #[test]
    fn every_job_runs_in_the_end_and_never_more_than_the_limit_at_once(
        limit in 1..12_u64,
        waiting in prop::collection::vec((0..3_usize, 0..20_u64), 1..12),
        ends in prop::collection::vec(0..12_usize, 1..20),
    ) {
        let mut lanes: Vec<_> = waiting.iter().map(|(priority, waiting)| load(Priority::ALL[*priority], 0, *waiting)).collect();
        let mut now = 0;
        while lanes.iter().any(|lane| lane.need() > 0) {
            now += 1;
            prop_assert!(now < 2_000, "stuck: {lanes:?}");
            step(limit, &mut lanes);
            give_out(&mut lanes, now);
            let held: u64 = lanes.iter().map(|lane| lane.held).sum();
            prop_assert!(held <= limit, "{held} of {limit}: {lanes:?}");
            // One job ends somewhere, and its lane gives out the next before anybody looks.
            let count = lanes.len();
            let from = ends[now as usize % ends.len()];
            if let Some(place) = (0..count).map(|n| (from + n) % count).find(|place| lanes[*place].held > 0) {
                lanes[place].held -= 1;
            }
            give_out(&mut lanes, now);
        }
    }

    #[test]
    fn lanes_of_one_priority_take_turns_where_there_is_not_enough_for_each(limit in 1..4_u64, count in 4..9_usize) {
        let mut lanes = vec![load(Priority::Normal, 0, 1_000); count];
        let mut served = vec![0_u64; count];
        for now in 1..=200 {
            step(limit, &mut lanes);
            let before: Vec<u64> = lanes.iter().map(|lane| lane.waiting).collect();
            give_out(&mut lanes, now);
            for (place, lane) in lanes.iter().enumerate() {
                served[place] += before[place] - lane.waiting;
            }
            for lane in &mut lanes {
                lane.held = 0;
            }
        }
        // Those served in the same look go on in their order, so turns are not quite even.
        prop_assert!(served.iter().max().unwrap() / 2 <= *served.iter().min().unwrap(), "{served:?}");
    }
}
