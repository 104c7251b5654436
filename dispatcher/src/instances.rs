//! Which runs of an agent send heartbeats: tells a restart from a replay, and from two processes that share one identity.
//!
//! Each run of an agent has a random `instance` and counts its heartbeats. A restart shows as a new instance after which the old one is
//! silent. When an old one speaks again, both are alive. Pure; used by [`crate::state`].

use std::{
    collections::{VecDeque, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    time::Duration,
};

use muster_schemas::time::Timestamp;

/// How many earlier runs are remembered.
const EARLIER_MAX: usize = 4;

/// What a heartbeat is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Fresh,
    /// It counts, and it shows that two processes use this identity.
    TwoProcesses,
    /// It has been seen, or is older than one that has: it does not count.
    Replay,
    /// The goodbye of a run that another one has already followed: it does not count.
    LateGoodbye,
}

/// The runs of one agent, the present one and some earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Instances {
    /// The one that spoke last is first.
    runs: VecDeque<Run>,
    conflict_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// A hash, so that a long text costs nothing to keep.
    instance: u64,
    seq: u64,
}

impl Instances {
    /// Takes in a heartbeat that arrived `at`, and says what it is worth. Of one that does not count nothing is kept.
    pub fn observe(&mut self, instance: &str, seq: u64, goodbye: bool, at: Timestamp, interval: Duration) -> Verdict {
        let instance = hash(instance);
        let known = self.runs.iter().position(|run| run.instance == instance);
        let run = match known.and_then(|place| self.runs.get(place)) {
            Some(run) if seq <= run.seq => return Verdict::Replay,
            Some(_) if goodbye && known != Some(0) => return Verdict::LateGoodbye,
            _ => Run { instance, seq },
        };
        if let Some(place) = known {
            self.runs.remove(place);
        }
        self.runs.push_front(run);
        self.runs.truncate(EARLIER_MAX + 1);
        if known.is_some_and(|place| place > 0) {
            // Two processes with one interval alternate, so three intervals without it mean that one has gone.
            self.conflict_until = Some(at + interval * 3);
            return Verdict::TwoProcesses;
        }
        Verdict::Fresh
    }

    /// Whether two processes use this identity, as far as is known now.
    pub fn in_conflict(&self, now: Timestamp) -> bool {
        self.conflict_until.is_some_and(|until| now < until)
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn noon() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    /// Heartbeats of instances, each (instance, seq, goodbye), one second apart.
    fn verdicts(beats: &[(&str, u64, bool)]) -> (Vec<Verdict>, Instances) {
        let mut instances = Instances::default();
        let observe = |(n, (instance, seq, goodbye)): (u64, &(&str, u64, bool))| {
            instances.observe(instance, *seq, *goodbye, noon() + Duration::from_secs(n), INTERVAL)
        };
        let verdicts = (0..).zip(beats).map(observe).collect();
        (verdicts, instances)
    }

    #[test]
    fn a_restart_is_no_conflict() {
        use Verdict::{Fresh, LateGoodbye};
        let (got, instances) = verdicts(&[("a", 1, false), ("a", 2, false), ("b", 1, false), ("a", 3, true), ("b", 2, false)]);
        assert_eq!(got, [Fresh, Fresh, Fresh, LateGoodbye, Fresh]);
        assert!(!instances.in_conflict(noon()));
    }

    #[test]
    fn a_heartbeat_that_was_seen_or_is_older_is_a_replay_also_after_a_restart() {
        use Verdict::{Fresh, Replay};
        let (got, instances) = verdicts(&[
            ("a", 5, false),
            ("a", 5, false),
            ("a", 4, false),
            ("b", 1, false),
            ("a", 5, false),
            ("a", 1, true),
            ("b", 1, false),
        ]);
        assert_eq!(got, [Fresh, Replay, Replay, Fresh, Replay, Replay, Replay]);
        assert!(!instances.in_conflict(noon()));
    }

    #[test]
    fn two_instances_that_alternate_are_in_conflict_until_one_is_silent_for_three_intervals() {
        use Verdict::{Fresh, TwoProcesses};
        let (got, instances) = verdicts(&[("a", 1, false), ("b", 1, false), ("a", 2, false), ("b", 2, false), ("b", 3, false)]);
        assert_eq!(got, [Fresh, Fresh, TwoProcesses, TwoProcesses, Fresh]);
        let last = noon() + Duration::from_secs(3);
        assert!(instances.in_conflict(last + Duration::from_secs(89)));
        assert!(!instances.in_conflict(last + Duration::from_secs(90)));
    }

    #[test]
    fn an_agent_that_restarts_a_thousand_times_costs_no_memory() {
        let mut instances = Instances::default();
        for n in 0..1000 {
            assert_eq!(instances.observe(&n.to_string(), 1, false, noon(), INTERVAL), Verdict::Fresh);
        }
        assert_eq!(instances.runs.len(), EARLIER_MAX + 1);
    }
}
