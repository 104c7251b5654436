//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
mod open;
mod own;
mod properties;
mod standby;

use super::*;

const HIGH: LaneIndex = 0;
const NORMAL: LaneIndex = 1;
const LOW: LaneIndex = 2;

/// The tiers of one lane of each priority.
const LANES: [u8; 3] = [OWN + 1, OWN + 2, OWN + 3];

struct Bench {
    intake: Intake,
    now: Instant,
    handles: Handle,
}

impl Bench {
    fn new(slots: u32, tiers: &[u8]) -> Self {
        Self { intake: Intake::new(Settings::new(slots), tiers.iter().copied(), 5), now: Instant::now(), handles: 0 }
    }

    /// One lane of each priority, connected.
    fn connected(slots: u32) -> Self {
        let mut bench = Self::new(slots, &LANES);
        bench.apply([Event::Connected]);
        bench
    }

    fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Command> {
        self.intake.apply(events, self.now)
    }

    /// A lane gives a job; answers its handle too.
    fn give(&mut self, lane: LaneIndex) -> (Handle, Vec<Command>) {
        self.handles += 1;
        (self.handles, self.apply([Event::Arrived { lane, handle: self.handles }]))
    }

    /// A lane gives as many jobs as it was asked for, again and again, until the slots are full; then one slot is freed.
    fn warm_up(&mut self, lane: LaneIndex) {
        while self.intake.running() < self.intake.settings.slots {
            self.give(lane);
        }
        self.apply([Event::SlotFreed]);
    }

    fn after(&mut self, ms: u64) -> Vec<Command> {
        self.now += Duration::from_millis(ms);
        self.apply([Event::Tick])
    }

    fn credits(&self) -> Vec<u32> {
        self.intake.lanes.iter().map(Lane::credits).collect()
    }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(10);

/// A pull of an agent that has had no work yet.
fn pull(lane: LaneIndex) -> Command {
    Command::Pull { lane, epoch: 0, batch: 1, priority: 5, expires: LONG }
}

/// A pull of an agent that had work lately.
fn again(lane: LaneIndex, batch: u32) -> Command {
    Command::Pull { lane, epoch: 0, batch, priority: 5, expires: SHORT }
}

#[test]
fn nothing_is_pulled_before_the_broker_is_there() {
    let mut bench = Bench::new(3, &LANES);
    assert_eq!(bench.after(1000), []);
    assert_eq!(bench.apply([Event::Connected]), [pull(HIGH), pull(NORMAL), pull(LOW)]);
    assert_eq!(bench.after(1000), []);
}

#[test]
fn a_job_starts_at_once_and_its_lane_is_pulled_again_while_a_slot_is_free() {
    let mut bench = Bench::connected(2);
    bench.after(60_000);
    assert_eq!(bench.give(NORMAL).1, [Command::Start(1), again(NORMAL, 1)]);
    assert_eq!(bench.give(NORMAL).1, [Command::Start(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(NORMAL, 1)]);
}

#[test]
fn a_lane_with_a_backlog_is_soon_asked_for_all_that_is_free() {
    let mut bench = Bench::connected(16);
    bench.after(60_000);
    let mut goals = Vec::new();
    for _ in 0..16 {
        bench.give(NORMAL);
        goals.push(bench.intake.lanes[NORMAL].goal(16));
    }
    assert_eq!(goals, [1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 16], "the very first answers a pull of long ago");
    bench.apply((0..16).map(|_| Event::SlotFreed));
    assert_eq!(bench.credits(), [1, 16, 1]);
}

#[test]
fn a_lane_that_gives_now_and_then_is_owed_one_job() {
    let mut bench = Bench::connected(10);
    for _ in 0..20 {
        bench.after(1500);
        bench.give(HIGH);
        bench.apply([Event::SlotFreed]);
        assert_eq!(bench.credits(), [1, 1, 1]);
    }
}

#[test]
fn slots_that_free_together_are_one_pull() {
    let mut bench = Bench::connected(4);
    bench.warm_up(HIGH);
    bench.give(HIGH);
    assert_eq!(bench.apply([Event::SlotFreed, Event::SlotFreed, Event::SlotFreed]), [again(HIGH, 3)]);
}

#[test]
fn a_job_without_a_slot_is_held_and_the_most_urgent_starts_first() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.give(LOW), (1, vec![Command::Start(1)]));
    assert_eq!(bench.give(NORMAL), (2, vec![]));
    assert_eq!(bench.give(HIGH), (3, vec![]));
    assert_eq!(bench.intake.held(), 2);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(3)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(2)]);
}

#[test]
fn a_job_held_too_long_is_released_and_nothing_is_pulled_until_a_slot_frees() {
    let mut bench = Bench::connected(1);
    bench.give(NORMAL);
    bench.give(HIGH);
    assert_eq!(bench.intake.wake_at(), Some(bench.now + Duration::from_millis(200)));
    assert_eq!(bench.after(199), []);
    assert_eq!(bench.give(LOW).1, []);
    assert_eq!(bench.after(1), [Command::Release(2, Why::Full)]);
    // The low one came later, and is held for its own time.
    assert_eq!(bench.after(198), []);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(3)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(HIGH, 1)], "only the lane that gave a job of the highest priority");
    assert_eq!(bench.after(10), [again(NORMAL, 1)], "then the next, and so on");
}

#[test]
fn a_full_agent_lets_its_pulls_expire_and_asks_for_nothing() {
    let mut bench = Bench::connected(1);
    bench.give(NORMAL);
    let expired = [HIGH, LOW].map(|lane| Event::Expired { lane, epoch: 0, pending: 1 });
    assert_eq!(bench.apply(expired), []);
    assert_eq!((bench.after(100_000), bench.intake.wake_at()), (vec![], None));
}

#[test]
fn pulls_are_short_while_there_is_work_and_long_when_there_is_none() {
    let mut bench = Bench::connected(4);
    let (_, commands) = bench.give(NORMAL);
    assert!(matches!(commands[1], Command::Pull { expires: SHORT, .. }), "{commands:?}");
    bench.apply([Event::SlotFreed]);
    bench.after(60_000);
    let commands = bench.apply([Event::Expired { lane: NORMAL, epoch: 0, pending: u32::MAX }]);
    assert!(matches!(commands[..], [Command::Pull { lane: NORMAL, batch: 1, expires: LONG, .. }]), "{commands:?}");
}

#[test]
fn a_worse_priority_counts_from_the_next_pull_on() {
    let mut bench = Bench::connected(4);
    assert_eq!(bench.apply([Event::Standing { accepting: true, priority: 9 }]), []);
    let (_, commands) = bench.give(NORMAL);
    assert!(matches!(commands[1], Command::Pull { lane: NORMAL, priority: 9, .. }), "{commands:?}");
}

#[test]
fn an_agent_that_gave_a_job_back_for_others_asks_behind_them_for_a_moment() {
    let mut bench = Bench::connected(1);
    bench.apply([Event::Standing { accepting: true, priority: 0 }]);
    bench.give(NORMAL);
    let commands = bench.apply([Event::StepBack, Event::SlotFreed]);
    assert!(matches!(commands[..], [Command::Pull { lane: NORMAL, priority: 9, .. }]), "{commands:?}");
    assert_eq!(bench.after(1_999), []);
    let commands = bench.after(1);
    assert!(commands.iter().any(|command| matches!(command, Command::Pull { lane: NORMAL, priority: 0, .. })), "{commands:?}");
    assert!(commands.iter().all(|command| matches!(command, Command::Pull { priority: 0, .. })), "{commands:?}");
}

#[test]
fn a_better_priority_is_asked_for_at_once() {
    let mut bench = Bench::connected(2);
    let promotion = bench.apply([Event::Standing { accepting: true, priority: 0 }]);
    assert_eq!(promotion, [HIGH, NORMAL, LOW].map(|lane| Command::Pull { lane, epoch: 0, batch: 1, priority: 0, expires: LONG }));
    assert_eq!(bench.credits(), [2, 2, 2]);
    // The old ones expire; they are not asked for again.
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 0, pending: 1 }]), []);
    for priority in [4, 3].repeat(50) {
        bench.apply([Event::Standing { accepting: true, priority }]);
        assert_eq!(bench.apply([Event::Tick]), []);
    }
    assert!(bench.credits().iter().all(|credits| *credits <= 20), "{:?}", bench.credits());
}

#[test]
fn a_lower_lane_waits_while_a_higher_one_answers() {
    let mut bench = Bench::connected(1);
    bench.apply([Event::Arrived { lane: HIGH, handle: 1 }, Event::Arrived { lane: LOW, handle: 2 }]);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(HIGH, 1)], "both gave a job; only the higher one is asked");
    bench.give(HIGH);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(HIGH, 1)]);
    assert_eq!(bench.after(9), []);
    assert_eq!(bench.after(1), [again(LOW, 1)], "the higher one did not answer in time");
}

#[test]
fn patience_grows_with_the_time_that_the_broker_takes() {
    let mut bench = Bench::connected(2);
    bench.intake.broker_answers_within(Duration::from_millis(30));
    bench.apply([Event::Arrived { lane: HIGH, handle: 1 }, Event::Arrived { lane: LOW, handle: 2 }]);
    assert_eq!(bench.apply([Event::SlotFreed]), [again(HIGH, 1)]);
    assert_eq!(bench.after(89), []);
    assert_eq!(bench.after(1), [again(LOW, 1)]);
    bench.intake.broker_answers_within(Duration::from_secs(60));
    assert_eq!(bench.intake.settings.patience, Duration::from_millis(250), "a lower lane does not wait for ever");
}

#[test]
fn a_trickle_of_urgent_jobs_does_not_starve_a_lower_lane_beside_free_slots() {
    let mut bench = Bench::connected(10);
    let mut low = 0;
    for handle in 0..200 {
        bench.apply([Event::Arrived { lane: HIGH, handle }]);
        bench.apply([Event::SlotFreed]);
        bench.now += Duration::from_millis(8);
        if bench.intake.lanes[LOW].credits() > 0 {
            low += 1;
            bench.apply([Event::Arrived { lane: LOW, handle: handle + 1000 }]);
            bench.apply([Event::SlotFreed]);
        }
    }
    assert!(low > 50, "{low}");
}

#[test]
fn lanes_of_one_priority_with_a_backlog_share_the_slots_in_turn() {
    let mut bench = Bench::new(1, &[1, 1]);
    bench.apply([Event::Connected]);
    bench.apply([Event::Arrived { lane: 0, handle: 1 }, Event::Arrived { lane: 1, handle: 2 }]);
    bench.apply([Event::SlotFreed]);
    let mut pulled = Vec::new();
    for _ in 3..7 {
        let commands = bench.apply([Event::SlotFreed]);
        let [Command::Pull { lane, batch: 1, .. }] = commands[..] else { panic!("one pull for one slot: {commands:?}") };
        pulled.push(lane);
        bench.give(lane);
    }
    assert!(pulled == [0, 1, 0, 1] || pulled == [1, 0, 1, 0], "{pulled:?}");
}

#[test]
fn an_expired_pull_is_asked_again() {
    let mut bench = Bench::connected(2);
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 0, pending: 1 }]), [pull(LOW)]);
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 7, pending: 1 }]), [], "of another inbox");
}

#[test]
fn a_pull_that_the_broker_forgot_is_given_up() {
    let mut bench = Bench::connected(2);
    assert_eq!(bench.after(64_999), []);
    assert_eq!(bench.after(1), [pull(HIGH), pull(NORMAL), pull(LOW)]);
}

#[test]
fn a_refused_lane_is_tried_again_after_growing_waits() {
    let mut bench = Bench::connected(1);
    for wait in [250, 500, 1000] {
        assert_eq!(bench.apply([Event::Refused { lane: LOW, epoch: 0, why: Refusal::Missing }]), []);
        assert_eq!(bench.after(wait - 1), []);
        assert_eq!(bench.after(1), [pull(LOW)]);
    }
}

#[test]
fn an_agent_that_may_not_accept_gives_back_what_comes_and_pulls_nothing_until_it_may() {
    for (stop, go) in [
        (Event::Standing { accepting: false, priority: 5 }, Event::Standing { accepting: true, priority: 5 }),
        (Event::Blocked(true), Event::Blocked(false)),
    ] {
        let mut bench = Bench::connected(2);
        assert_eq!(bench.apply([stop]), []);
        assert_eq!(bench.give(HIGH).1, [Command::Release(1, Why::Closed)]);
        assert_eq!(bench.apply([NORMAL, LOW].map(|lane| Event::Expired { lane, epoch: 0, pending: 1 })), []);
        assert_eq!(bench.after(100_000), []);
        assert_eq!(bench.apply([go]).len(), 1, "the lane that gave a job comes first");
        assert_eq!(bench.after(10).len(), 2);
    }
}

#[test]
fn a_new_connection_begins_with_new_inboxes() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.apply([Event::Disconnected]), []);
    let again = bench.apply([Event::Connected]);
    assert_eq!(again, [HIGH, NORMAL, LOW].map(|lane| Command::Pull { lane, epoch: 1, batch: 1, priority: 5, expires: LONG }));
}

#[test]
fn a_shutdown_releases_what_is_held_starts_nothing_and_drains_each_lane_once_it_is_quiet() {
    let mut bench = Bench::connected(2);
    bench.give(NORMAL);
    bench.give(NORMAL);
    bench.give(HIGH);
    assert_eq!(bench.credits(), [0, 0, 1]);
    assert_eq!(bench.apply([Event::Shutdown]), [Command::Drain { lane: LOW, epoch: 0 }, Command::Release(3, Why::Closed)]);
    assert_eq!(bench.apply([Event::SlotFreed]), []);
    assert_eq!(bench.apply([Event::Drained { lane: LOW, epoch: 0 }]), []);
    assert_eq!(bench.give(LOW).1, [Command::Release(4, Why::Closed)]);
    assert_eq!(bench.intake.wake_at(), None);

    let mut bench = Bench::connected(2);
    bench.give(NORMAL);
    let drains = bench.apply([Event::Shutdown]);
    assert_eq!(drains, [HIGH, LOW].map(|lane| Command::Drain { lane, epoch: 0 }), "the one that gave just now is waited for");
    assert!(bench.intake.wake_at().is_some());
    assert_eq!(bench.after(200), [Command::Drain { lane: NORMAL, epoch: 0 }]);
}
