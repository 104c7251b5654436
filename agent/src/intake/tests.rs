//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
mod properties;

use super::*;

const HIGH: LaneIndex = 0;
const NORMAL: LaneIndex = 1;
const LOW: LaneIndex = 2;

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
        let mut bench = Self::new(slots, &[0, 1, 2]);
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

fn pull(lane: LaneIndex, batch: u32) -> Command {
    Command::Pull { lane, epoch: 0, batch, priority: 5 }
}

fn drain(lane: LaneIndex) -> Command {
    Command::Drain { lane, epoch: 0 }
}

fn drained(lanes: impl IntoIterator<Item = LaneIndex>) -> Vec<Event> {
    lanes.into_iter().map(|lane| Event::Drained { lane, epoch: 0 }).collect()
}

#[test]
fn nothing_is_pulled_before_the_broker_is_there() {
    let mut bench = Bench::new(3, &[0, 1, 2]);
    assert_eq!(bench.after(1000), []);
    assert_eq!(bench.apply([Event::Connected]), [pull(HIGH, 1), pull(NORMAL, 1), pull(LOW, 1)]);
    assert_eq!(bench.after(1000), []);
}

#[test]
fn a_job_starts_at_once_and_its_lane_is_pulled_again_while_a_slot_is_free() {
    let mut bench = Bench::connected(2);
    bench.after(60_000);
    assert_eq!(bench.give(NORMAL).1, [Command::Start(1), pull(NORMAL, 1)]);
    assert_eq!(bench.give(NORMAL).1, [Command::Start(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [pull(NORMAL, 1)]);
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
    assert_eq!(bench.apply([Event::SlotFreed, Event::SlotFreed, Event::SlotFreed]), [pull(HIGH, 3)]);
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
    assert_eq!(bench.after(1), [drain(LOW), Command::Release(2)]);
    // What was under way still comes, and is held for its own time.
    assert_eq!(bench.give(LOW).1, []);
    assert_eq!(bench.apply(drained([LOW])), []);
    assert_eq!(bench.after(100), []);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(3)]);
    let again = bench.apply([Event::SlotFreed]);
    assert_eq!(again.len(), 1, "only the lane that gave a job of the highest priority: {again:?}");
    assert_eq!(bench.after(10).len(), 1, "then the next, and so on");
}

#[test]
fn a_job_is_released_only_when_the_broker_owes_its_lane_nothing() {
    let mut bench = Bench::connected(4);
    bench.warm_up(LOW);
    bench.apply([Event::SlotFreed, Event::SlotFreed, Event::SlotFreed]);
    assert_eq!(bench.credits(), [1, 1, 4]);
    bench.give(HIGH);
    for _ in 0..4 {
        bench.give(LOW);
    }
    // The high lane was asked again in between; a low job is held, and the low lane owes nothing.
    assert_eq!((bench.intake.held(), bench.credits()[LOW]), (1, 0));
    let mut bench = Bench::connected(4);
    bench.warm_up(LOW);
    bench.apply([Event::SlotFreed, Event::SlotFreed, Event::SlotFreed]);
    for lane in [HIGH, HIGH, NORMAL, LOW, LOW] {
        bench.give(lane);
    }
    assert_eq!((bench.intake.held(), bench.credits()[LOW]), (1, 2));
    let commands = bench.after(200);
    assert!(commands.contains(&drain(LOW)) && !commands.iter().any(|command| matches!(command, Command::Release(_))), "{commands:?}");
    assert!(matches!(bench.apply(drained([LOW]))[..], [Command::Release(_)]));
}

#[test]
fn a_lane_that_gives_is_not_drained_until_it_is_quiet() {
    let mut bench = Bench::connected(4);
    bench.give(NORMAL);
    let demotion = bench.apply([Event::Standing { accepting: true, priority: 9 }]);
    assert_eq!(demotion, [drain(HIGH), drain(LOW)]);
    bench.apply(drained([HIGH, LOW]));
    assert!(!bench.after(999).contains(&drain(NORMAL)));
    assert_eq!(bench.after(1), [drain(NORMAL)]);
}

#[test]
fn a_lane_that_gives_uses_up_its_unwanted_credits_by_itself() {
    let mut bench = Bench::connected(4);
    bench.give(NORMAL);
    bench.apply([Event::Standing { accepting: true, priority: 9 }]);
    bench.apply(drained([HIGH, LOW]));
    let (_, commands) = bench.give(NORMAL);
    assert!(commands.iter().any(|command| matches!(command, Command::Pull { lane: NORMAL, epoch: 0, priority: 9, .. })), "{commands:?}");
    bench.give(NORMAL);
    assert_ne!(bench.credits()[NORMAL], 0);
    assert!(!bench.after(5000).contains(&drain(NORMAL)), "what is owed has the new priority");
}

#[test]
fn a_better_priority_withdraws_nothing_and_is_asked_for_at_once() {
    let mut bench = Bench::connected(2);
    let promotion = bench.apply([Event::Standing { accepting: true, priority: 0 }]);
    assert_eq!(promotion, [HIGH, NORMAL, LOW].map(|lane| Command::Pull { lane, epoch: 0, batch: 1, priority: 0 }));
    assert_eq!(bench.credits(), [2, 2, 2]);
    // The old ones expire; they are not asked for again.
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 0, pending: 1 }]), []);
    for priority in [4, 3, 4, 3].repeat(50) {
        bench.apply([Event::Standing { accepting: true, priority }]);
        let begun: Vec<_> = bench.apply([Event::Tick]);
        assert_eq!(begun, []);
    }
    assert!(bench.credits().iter().all(|credits| *credits <= 20), "{:?}", bench.credits());
}

#[test]
fn an_agent_that_stays_full_drains_its_lanes_once() {
    let mut bench = Bench::connected(1);
    bench.give(NORMAL);
    assert_eq!(bench.after(200), [drain(HIGH), drain(LOW)]);
    assert_eq!(bench.after(200), []);
    bench.apply(drained([HIGH, LOW]));
    assert_eq!(bench.after(10_000), []);
    assert_eq!(bench.intake.wake_at(), None);
}

#[test]
fn a_lower_lane_waits_while_a_higher_one_answers() {
    let mut bench = Bench::connected(1);
    bench.apply([Event::Arrived { lane: HIGH, handle: 1 }, Event::Arrived { lane: LOW, handle: 2 }]);
    assert_eq!(bench.apply([Event::SlotFreed]), [Command::Start(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), [pull(HIGH, 1)], "both gave a job; only the higher one is asked");
    bench.give(HIGH);
    assert_eq!(bench.apply([Event::SlotFreed]), [pull(HIGH, 1)]);
    assert_eq!(bench.after(9), []);
    assert_eq!(bench.after(1), [pull(LOW, 1)], "the higher one did not answer in time");
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
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 0, pending: 1 }]), [pull(LOW, 1)]);
    assert_eq!(bench.apply([Event::Expired { lane: LOW, epoch: 7, pending: 1 }]), [], "of another inbox");
}

#[test]
fn a_pull_that_the_broker_forgot_is_given_up() {
    let mut bench = Bench::connected(2);
    assert_eq!(bench.after(64_999), []);
    assert_eq!(bench.after(1), [pull(HIGH, 1), pull(NORMAL, 1), pull(LOW, 1)]);
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
fn an_agent_that_may_not_accept_drains_and_pulls_nothing_until_it_may() {
    for (stop, go) in [
        (Event::Standing { accepting: false, priority: 5 }, Event::Standing { accepting: true, priority: 5 }),
        (Event::Blocked(true), Event::Blocked(false)),
    ] {
        let mut bench = Bench::connected(1);
        assert_eq!(bench.apply([stop]), [HIGH, NORMAL, LOW].map(drain));
        bench.apply(drained([HIGH, NORMAL, LOW]));
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
    bench.give(NORMAL);
    bench.give(HIGH);
    assert_eq!(bench.apply([Event::Shutdown]), [drain(LOW), Command::Release(2)]);
    assert_eq!(bench.apply([Event::SlotFreed]), []);
    assert_eq!(bench.apply(drained([LOW])), []);
    assert_eq!(bench.give(LOW).1, [Command::Release(3)]);
}
