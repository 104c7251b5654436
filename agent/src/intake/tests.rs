#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
mod properties;

use super::*;

const HIGH: LaneIndex = 0;
const NORMAL: LaneIndex = 1;
const LOW: LaneIndex = 2;

struct Bench {
    intake: Intake,
    now: Instant,
}

impl Bench {
    /// One lane of each priority.
    fn new(slots: u32) -> Self {
        Self { intake: Intake::new(Settings::new(slots), [0, 1, 2], 5), now: Instant::now() }
    }

    fn connected(slots: u32) -> Self {
        let mut bench = Self::new(slots);
        bench.apply([Event::Connected]);
        bench
    }

    fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Command> {
        self.intake.apply(events, self.now)
    }

    fn arrive(&mut self, lane: LaneIndex, handle: Handle) -> Vec<Command> {
        self.apply([Event::Arrived { lane, handle }])
    }

    fn after(&mut self, ms: u64) -> Vec<Command> {
        self.now += Duration::from_millis(ms);
        self.apply([Event::Tick])
    }
}

fn pull(lane: LaneIndex, batch: u32) -> Command {
    Command::Pull { lane, epoch: 0, batch, priority: 5 }
}

fn drains(epoch: u32) -> Vec<Command> {
    [HIGH, NORMAL, LOW].map(|lane| Command::Drain { lane, epoch }).to_vec()
}

#[test]
fn nothing_is_pulled_before_the_broker_is_there() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.after(1000), []);
    assert_eq!(bench.apply([Event::Connected]), [pull(HIGH, 3), pull(NORMAL, 3), pull(LOW, 3)]);
    assert_eq!(bench.after(1000), []);
}

#[test]
fn a_job_starts_at_once_and_its_lane_is_pulled_again_when_half_of_the_credits_are_gone() {
    let mut bench = Bench::connected(4);
    assert_eq!(bench.arrive(NORMAL, 1), [Command::Start(1)]);
    assert_eq!(bench.apply([Event::SlotFreed]), []);
    assert_eq!(bench.arrive(NORMAL, 2), [Command::Start(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [pull(NORMAL, 2)]);
}

#[test]
fn one_slot_pulls_again_as_soon_as_it_frees() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.arrive(HIGH, 1), [Command::Start(1)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [pull(HIGH, 1)]);
}

#[test]
fn slots_that_free_together_are_one_pull() {
    let mut bench = Bench::connected(3);
    bench.apply((0..3).map(|handle| Event::Arrived { lane: HIGH, handle }));
    assert_eq!(bench.apply([Event::SlotFreed, Event::SlotFreed]), [pull(HIGH, 2)]);
}

#[test]
fn a_job_without_a_slot_is_held_and_the_most_urgent_starts_first() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.arrive(LOW, 1), [Command::Start(1)]);
    assert_eq!(bench.arrive(NORMAL, 2), []);
    assert_eq!(bench.arrive(HIGH, 3), []);
    assert_eq!(bench.intake.held(), 2);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(3)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(2)]);
}

#[test]
fn a_job_held_too_long_is_released_only_after_its_lanes_are_drained() {
    let mut bench = Bench::connected(2);
    bench.apply([1, 2, 3].map(|handle| Event::Arrived { lane: NORMAL, handle }));
    assert_eq!(bench.intake.wake_at(), Some(bench.now + Duration::from_millis(200)));
    assert_eq!(bench.after(199), []);
    assert_eq!(bench.after(1), [Command::Drain { lane: HIGH, epoch: 0 }, Command::Drain { lane: LOW, epoch: 0 }]);
    // What was under way still comes, and is held for its own time.
    assert_eq!(bench.arrive(LOW, 4), []);
    assert_eq!(bench.apply([Event::Drained { lane: HIGH, epoch: 0 }]), []);
    assert_eq!(bench.apply([Event::Drained { lane: LOW, epoch: 0 }]), [Command::Release(3)]);
    assert_eq!(bench.after(100), []);
    // A slot frees in time for the last one; nothing is pulled while the slots are taken.
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(4)]);
    let again = bench.apply([Event::SlotFreed, Event::SlotFreed]);
    assert!(again.contains(&Command::Pull { lane: HIGH, epoch: 1, batch: 2, priority: 5 }), "{again:?}");
}

#[test]
fn an_agent_that_stays_full_drains_its_lanes_once() {
    let mut bench = Bench::connected(1);
    bench.arrive(NORMAL, 1);
    assert_eq!(bench.after(200), [Command::Drain { lane: HIGH, epoch: 0 }, Command::Drain { lane: LOW, epoch: 0 }]);
    assert_eq!(bench.after(200), []);
    bench.apply([Event::Drained { lane: HIGH, epoch: 0 }, Event::Drained { lane: LOW, epoch: 0 }]);
    assert_eq!(bench.after(10_000), []);
    assert_eq!(bench.intake.wake_at(), None);
}

#[test]
fn a_lower_lane_waits_while_a_higher_one_answers() {
    let mut bench = Bench::connected(1);
    bench.apply([Event::Arrived { lane: HIGH, handle: 1 }, Event::Arrived { lane: LOW, handle: 2 }]);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [pull(HIGH, 1)], "both gave a job; only the higher one is asked");
    bench.arrive(HIGH, 3);
    assert_eq!(bench.apply([Event::SlotFreed]), [pull(HIGH, 1)]);
    assert_eq!(bench.after(9), []);
    assert_eq!(bench.after(1), [pull(LOW, 1)], "the higher one did not answer in time");
}

#[test]
fn lanes_of_one_priority_with_a_backlog_share_the_slots_in_turn() {
    let mut bench = Bench { intake: Intake::new(Settings::new(1), [1, 1], 5), now: Instant::now() };
    bench.apply([Event::Connected]);
    bench.apply([Event::Arrived { lane: 0, handle: 1 }, Event::Arrived { lane: 1, handle: 2 }]);
    bench.apply([Event::SlotFreed]);
    let mut pulled = Vec::new();
    for handle in 3..7 {
        let commands = bench.apply([Event::SlotFreed]);
        let [Command::Pull { lane, batch: 1, .. }] = commands[..] else { panic!("one pull for one slot: {commands:?}") };
        pulled.push(lane);
        bench.arrive(lane, handle);
    }
    assert!(pulled == [0, 1, 0, 1] || pulled == [1, 0, 1, 0], "{pulled:?}");
}

#[test]
fn an_expired_pull_is_asked_again() {
    let mut bench = Bench::connected(2);
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 0, pending: 2 }]), [pull(LOW, 2)]);
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 7, pending: 2 }]), [], "of another inbox");
}

#[test]
fn a_pull_that_the_broker_forgot_is_given_up() {
    let mut bench = Bench::connected(2);
    assert_eq!(bench.after(64_999), []);
    assert_eq!(bench.after(1), [pull(HIGH, 2), pull(NORMAL, 2), pull(LOW, 2)]);
}

#[test]
fn a_refused_lane_is_tried_again_after_growing_waits() {
    let mut bench = Bench::connected(1);
    for wait in [250, 500, 1000] {
        assert_eq!(bench.apply([Event::Refused { lane: LOW, epoch: 0, why: Refusal::Missing }]), []);
        assert_eq!(bench.after(wait - 1), []);
        assert_eq!(bench.after(1), [pull(LOW, 1)]);
    }
}

#[test]
fn a_changed_standing_drains_and_pulls_again_with_the_new_priority() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.apply([Event::Standing { accepting: true, priority: 5 }]), []);
    assert_eq!(bench.apply([Event::Standing { accepting: true, priority: 0 }]), drains(0));
    let again = bench.apply([HIGH, NORMAL, LOW].map(|lane| Event::Drained { lane, epoch: 0 }));
    assert_eq!(again, [HIGH, NORMAL, LOW].map(|lane| Command::Pull { lane, epoch: 1, batch: 1, priority: 0 }));
}

#[test]
fn an_agent_that_may_not_accept_drains_and_pulls_nothing_until_it_may() {
    for (stop, go) in [
        (Event::Standing { accepting: false, priority: 5 }, Event::Standing { accepting: true, priority: 5 }),
        (Event::Blocked(true), Event::Blocked(false)),
    ] {
        let mut bench = Bench::connected(1);
        assert_eq!(bench.apply([stop]), drains(0));
        bench.apply([HIGH, NORMAL, LOW].map(|lane| Event::Drained { lane, epoch: 0 }));
        assert_eq!(bench.after(100_000), []);
        assert_eq!(bench.apply([go]).len(), 3);
    }
}

#[test]
fn a_new_connection_begins_with_new_inboxes() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.apply([Event::Disconnected]), []);
    let again = bench.apply([Event::Connected]);
    assert_eq!(again, [HIGH, NORMAL, LOW].map(|lane| Command::Pull { lane, epoch: 1, batch: 1, priority: 5 }));
}

#[test]
fn a_shutdown_releases_what_is_held_and_starts_nothing() {
    let mut bench = Bench::connected(1);
    bench.arrive(HIGH, 1);
    bench.arrive(HIGH, 2);
    assert_eq!(bench.apply([Event::Shutdown]), [Command::Drain { lane: NORMAL, epoch: 0 }, Command::Drain { lane: LOW, epoch: 0 }]);
    assert_eq!(bench.apply([Event::SlotFreed]), []);
    let last = bench.apply([NORMAL, LOW].map(|lane| Event::Drained { lane, epoch: 0 }));
    assert_eq!(last, [Command::Release(2)]);
    assert_eq!(bench.arrive(HIGH, 3), [Command::Release(3)]);
}
