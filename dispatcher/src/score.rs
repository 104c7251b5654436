//! Health as numbers: the score of an agent and its status, as pure functions of what is known of it.
//!
//! It holds no state and reads no clock. What is known comes from [`crate::window`] (finished jobs) and [`crate::state`] (heartbeats);
//! who is served first follows in [`crate::ranking`].

use std::time::Duration;

use muster_schemas::standing::Status;

/// Points for a heartbeat that is not late.
pub const HEARTBEAT_POINTS: f64 = 50.0;
/// Points for jobs that all succeed.
pub const SUCCESS_POINTS: f64 = 50.0;
/// Up to this many intervals a heartbeat is not late: one may be lost without any effect.
pub const LATE_AFTER: u32 = 2;
/// From this many intervals without a heartbeat on, an agent is offline.
pub const GONE_AFTER: u32 = 3;
/// Below this share of successes an agent is degraded.
pub const DEGRADED_BELOW: f64 = 0.5;
/// So many jobs must have finished before their share of successes makes an agent degraded: fewer say little.
pub const DEGRADED_FROM: u32 = 5;
/// The longest interval between heartbeats that is believed, in seconds: an agent that claims more would stay online for days after its end.
pub const INTERVAL_MAX: u32 = 3600;

/// Jobs that finished within a sliding hour, of the outcomes that say something of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// All of them.
    pub finished: u32,
    /// Those that succeeded.
    pub succeeded: u32,
}

impl Tally {
    /// The share of successes, 0 to 1. No finished job counts as full: a new agent gets its chance.
    pub fn rate(self) -> f64 {
        if self.finished == 0 { 1.0 } else { f64::from(self.succeeded.min(self.finished)) / f64::from(self.finished) }
    }
}

/// A heartbeat as far as the score needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// How long ago the broker stored it.
    pub age: Duration,
    /// The time between heartbeats, from [`interval`].
    pub interval: Duration,
    /// Whether it was the last one of a run that ended.
    pub goodbye: bool,
    /// Whether the agent reports a fault, or one was found in how it behaves.
    pub fault: bool,
}

/// What the figures say of an agent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// 0 to 50.
    pub heartbeat_part: f64,
    /// 0 to 50.
    pub success_part: f64,
    /// Whether it is there and well.
    pub status: Status,
}

impl Health {
    /// 0 to 100.
    pub fn score(&self) -> f64 {
        self.heartbeat_part + self.success_part
    }
}

/// The interval that an agent claims, bounded to what is believed: one second to one hour.
pub fn interval(claimed_s: u32) -> Duration {
    Duration::from_secs(u64::from(claimed_s.clamp(1, INTERVAL_MAX)))
}

/// Judges an agent by its last heartbeat, if there was one, and the jobs it finished.
///
/// A goodbye takes the heartbeat's points away at once, as if the three intervals had passed.
pub fn health(pulse: Option<Pulse>, tally: Tally) -> Health {
    let heartbeat_part = pulse.filter(|pulse| !pulse.goodbye).map_or(0.0, |pulse| heartbeat_part(pulse.age, pulse.interval));
    Health { heartbeat_part, success_part: success_part(tally), status: status(pulse, tally) }
}

/// Full while the heartbeat is younger than two intervals, then linear to zero at three.
pub fn heartbeat_part(age: Duration, interval: Duration) -> f64 {
    let (late, gone) = (interval * LATE_AFTER, interval * GONE_AFTER);
    if age < late {
        HEARTBEAT_POINTS
    } else if age >= gone {
        0.0
    } else {
        HEARTBEAT_POINTS * (gone - age).as_secs_f64() / (gone - late).as_secs_f64()
    }
}

/// The share of successes in points.
pub fn success_part(tally: Tally) -> f64 {
    SUCCESS_POINTS * tally.rate()
}

/// Offline after three intervals without a heartbeat or after a goodbye; degraded when most jobs fail or a fault is known; else online.
pub fn status(pulse: Option<Pulse>, tally: Tally) -> Status {
    match pulse {
        None => Status::Offline,
        Some(pulse) if pulse.goodbye || pulse.age >= pulse.interval * GONE_AFTER => Status::Offline,
        Some(pulse) if pulse.fault || mostly_fails(tally) => Status::Degraded,
        Some(_) => Status::Online,
    }
}

/// Whether fewer than half of enough jobs succeeded.
pub fn mostly_fails(tally: Tally) -> bool {
    tally.finished >= DEGRADED_FROM && tally.rate() < DEGRADED_BELOW
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(30);

    fn tally(succeeded: u32, finished: u32) -> Tally {
        Tally { finished, succeeded }
    }

    fn pulse(age_ms: u64) -> Pulse {
        Pulse { age: Duration::from_millis(age_ms), interval: INTERVAL, goodbye: false, fault: false }
    }

    #[test]
    fn the_heartbeat_part_is_full_up_to_two_intervals_and_falls_to_zero_at_three() {
        let table = [
            (0, 50.0),
            (30_000, 50.0),
            (59_999, 50.0),
            (60_000, 50.0),
            (61_000, 50.0 * 29.0 / 30.0),
            (75_000, 25.0),
            (89_000, 50.0 / 30.0),
            (90_000, 0.0),
            (90_001, 0.0),
            (86_400_000, 0.0),
        ];
        for (age_ms, points) in table {
            let got = heartbeat_part(Duration::from_millis(age_ms), INTERVAL);
            assert!((got - points).abs() < 1e-9, "{age_ms} ms: {got}, not {points}");
        }
    }

    #[test]
    fn the_agents_own_interval_counts_within_bounds() {
        for (claimed, believed) in [(0, 1), (1, 1), (30, 30), (3600, 3600), (3601, 3600), (u32::MAX, 3600)] {
            assert_eq!(interval(claimed), SECOND * believed, "{claimed}");
        }
        assert_eq!(heartbeat_part(SECOND, interval(1)), 50.0);
        assert_eq!(heartbeat_part(SECOND * 3, interval(1)), 0.0);
    }

    #[test]
    fn the_success_part_is_the_share_of_successes_and_full_without_jobs() {
        for (succeeded, finished, points) in [(0, 0, 50.0), (1, 1, 50.0), (0, 1, 0.0), (1, 2, 25.0), (2, 3, 100.0 / 3.0), (5, 4, 50.0)] {
            let got = success_part(tally(succeeded, finished));
            assert!((got - points).abs() < 1e-9, "{succeeded}/{finished}: {got}");
        }
    }

    #[test]
    fn status_changes_exactly_at_its_boundaries() {
        let goodbye = Pulse { goodbye: true, ..pulse(0) };
        let faulty = Pulse { fault: true, ..pulse(0) };
        let table = [
            (None, tally(0, 0), Status::Offline),
            (Some(pulse(0)), tally(0, 0), Status::Online),
            (Some(pulse(89_999)), tally(0, 0), Status::Online),
            (Some(pulse(90_000)), tally(0, 0), Status::Offline),
            (Some(goodbye), tally(9, 9), Status::Offline),
            (Some(faulty), tally(9, 9), Status::Degraded),
            (Some(Pulse { fault: true, ..pulse(90_000) }), tally(9, 9), Status::Offline),
            (Some(pulse(0)), tally(0, 4), Status::Online),
            (Some(pulse(0)), tally(0, 5), Status::Degraded),
            (Some(pulse(0)), tally(2, 5), Status::Degraded),
            (Some(pulse(0)), tally(3, 5), Status::Online),
            (Some(pulse(0)), tally(3, 6), Status::Online),
            (Some(pulse(0)), tally(2, 6), Status::Degraded),
        ];
        for (pulse, tally, want) in table {
            assert_eq!(status(pulse, tally), want, "{pulse:?} {tally:?}");
        }
    }

    #[test]
    fn a_goodbye_takes_the_heartbeats_points_at_once() {
        let health = health(Some(Pulse { goodbye: true, ..pulse(0) }), tally(1, 1));
        assert_eq!((health.heartbeat_part, health.score()), (0.0, 50.0));
    }

    proptest! {
        #[test]
        fn a_score_is_between_0_and_100(age_ms in any::<u32>(), claimed in any::<u32>(), succeeded in any::<u32>(), finished in any::<u32>(), goodbye: bool) {
            let pulse = Pulse { age: Duration::from_millis(age_ms.into()), interval: interval(claimed), goodbye, fault: false };
            let health = health(Some(pulse), tally(succeeded, finished));
            prop_assert!((0.0..=100.0).contains(&health.score()));
            prop_assert!((0.0..=50.0).contains(&health.heartbeat_part) && (0.0..=50.0).contains(&health.success_part));
        }

        #[test]
        fn a_score_never_rises_with_age(a in 0u64..20_000_000, b in 0u64..20_000_000, claimed in any::<u32>(), succeeded in 0u32..100, finished in 0u32..100) {
            let at = |age_ms| health(Some(Pulse { interval: interval(claimed), ..pulse(age_ms) }), tally(succeeded, finished)).score();
            prop_assert!(at(a.min(b)) >= at(a.max(b)));
        }

        #[test]
        fn a_score_never_falls_with_a_success_and_never_rises_with_a_failure(succeeded in 0u32..1000, failed in 0u32..1000) {
            let at = |succeeded, failed| success_part(tally(succeeded, succeeded + failed));
            prop_assert!(at(succeeded + 1, failed) >= at(succeeded, failed));
            prop_assert!(at(succeeded, failed + 1) <= at(succeeded, failed));
        }

        #[test]
        fn the_same_figures_give_the_same_health(age_ms in any::<u32>(), succeeded in any::<u32>(), finished in any::<u32>()) {
            let once = health(Some(pulse(age_ms.into())), tally(succeeded, finished));
            prop_assert_eq!(once, health(Some(pulse(age_ms.into())), tally(succeeded, finished)));
        }
    }
}
