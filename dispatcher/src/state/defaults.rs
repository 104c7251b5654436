//! What each pool gives to jobs that say nothing themselves, and for how long its agents may hold back acks. Agents cannot read the bucket of
//! pools, so it goes into their standings.

use std::collections::{BTreeMap, BTreeSet};

use muster_schemas::{
    names::PoolName,
    records::{PoolDefaults, PoolRecord},
};

use super::Feed;
use crate::sweeper::ACK_DELAY_MS;

/// A finished job takes up room in its queue until it is acked; in a queue that holds fewer than this it should go at once. It is ten times
/// what finishes while an ack waits.
const ROOMY: u64 = 10_000;

/// What a pool's record says, as far as it is used here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Terms {
    /// What its jobs get that say nothing themselves.
    pub defaults: PoolDefaults,
    /// Whether a job must not be counted as running, or as queued, once it has ended: its pool has limits of its own on these.
    pub prompt: bool,
}

impl From<&PoolRecord> for Terms {
    fn from(record: &PoolRecord) -> Self {
        let prompt = record.limits.is_divided() || record.limits.max_queued < ROOMY;
        Self { defaults: record.defaults.clone(), prompt }
    }
}

/// The terms of all pools that have any.
#[derive(Debug, Default)]
pub struct Defaults {
    known: BTreeMap<PoolName, Terms>,
    /// What has come of a reading of the whole bucket that is going on.
    reading: Option<BTreeMap<PoolName, Terms>>,
}

impl Defaults {
    /// What a pool gives; `None` is nothing.
    pub fn of(&self, pool: &PoolName) -> Option<PoolDefaults> {
        self.known.get(pool).map(|terms| &terms.defaults).filter(|defaults| !defaults.is_empty()).cloned()
    }

    /// For how many milliseconds the agents of a pool may hold back acks of jobs whose results are stored.
    pub fn ack_delay_ms(&self, pool: &PoolName) -> u32 {
        if self.known.get(pool).is_some_and(|terms| terms.prompt) { 0 } else { ACK_DELAY_MS }
    }

    /// Takes in what the bucket says. Gives back the pools whose terms have changed.
    pub fn follow(&mut self, feed: Feed<PoolName, Terms>) -> BTreeSet<PoolName> {
        let (name, terms) = match feed {
            Feed::Begin => {
                self.reading = Some(BTreeMap::new());
                return BTreeSet::new();
            }
            Feed::End => {
                let before = std::mem::replace(&mut self.known, self.reading.take().unwrap_or_default());
                let names = before.keys().chain(self.known.keys());
                return names.filter(|name| before.get(*name) != self.known.get(*name)).cloned().collect();
            }
            Feed::Put(name, terms, _) => (name, Some(terms).filter(|terms| *terms != Terms::default())),
            Feed::Gone(name, _) => (name, None),
        };
        let map = self.reading.as_mut().unwrap_or(&mut self.known);
        let before = match terms.clone() {
            Some(terms) => map.insert(name.clone(), terms),
            None => map.remove(&name),
        };
        (self.reading.is_none() && before != terms).then_some(name).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{records::PoolLimits, time::Timestamp};

    use super::*;

    #[test]
    fn a_reading_replaces_all_and_a_change_touches_its_pool() {
        let mut defaults = Defaults::default();
        let name = |name: &str| name.parse::<PoolName>().unwrap();
        let put =
            |pool: &str, timeout_s| Feed::Put(name(pool), Terms { defaults: PoolDefaults { timeout_s, retry: None }, prompt: false }, 1);
        let mut follow = |feed| defaults.follow(feed).into_iter().map(|pool| pool.to_string()).collect::<Vec<_>>();
        assert!([Feed::Begin, put("p", Some(1)), put("q", None)].into_iter().all(|feed| follow(feed).is_empty()));
        assert_eq!(follow(Feed::End), ["p"]);
        assert_eq!(follow(put("q", Some(2))), ["q"]);
        assert_eq!(follow(put("q", Some(2))), [""; 0]);
        assert_eq!(follow(Feed::Gone(name("q"), 3)), ["q"]);
        follow(Feed::Begin);
        follow(put("r", Some(3)));
        assert_eq!(follow(Feed::End), ["p", "r"]);
        assert_eq!(defaults.of(&name("r")).and_then(|defaults| defaults.timeout_s), Some(3));
        assert_eq!(defaults.of(&name("p")), None);
    }

    #[test]
    fn acks_are_held_back_only_in_pools_that_have_no_limits_of_their_own() {
        let name: PoolName = "p".parse().unwrap();
        let mut record = muster_broker_config::provision::default_pool(name.clone(), Timestamp::from_secs(0));
        let mut defaults = Defaults::default();
        let mut delay = |max_queued, max_running| {
            record.limits = PoolLimits { max_queued, max_running };
            let changed = !defaults.follow(Feed::Put(name.clone(), Terms::from(&record), 1)).is_empty();
            (defaults.ack_delay_ms(&name), changed)
        };
        let PoolLimits { max_queued, max_running } = PoolLimits::default();
        assert_eq!(delay(max_queued, max_running), (ACK_DELAY_MS, false));
        assert_eq!(delay(max_queued, 5), (0, true));
        assert_eq!(delay(max_queued, max_running + 1), (ACK_DELAY_MS, true));
        assert_eq!(delay(100, max_running), (0, true));
        assert_eq!(defaults.of(&name), None, "the jobs get nothing");
    }
}
