//! How often a pool is judged for news that could wait for the next tick.
//!
//! Judging a pool looks at all its agents. While thousands of them come, every heartbeat is such news, and judging them all for each of the
//! newest took three quarters of a core at 7 000 agents.

use std::{collections::BTreeMap, time::Duration};

use muster_schemas::{names::PoolName, time::Timestamp};

/// Pools of so few agents are judged at once, in a millisecond or less.
const FEW: usize = 256;
/// How long a larger pool is left alone for each of its agents: some ten times what judging one takes, so that all of it takes a tenth of a core. One
/// of 1 000 waits 20 ms, one of 20 000 for 0.4 s; the next tick ends the wait in any case.
const PER_AGENT: Duration = Duration::from_micros(20);

/// When each pool was last judged.
#[derive(Debug, Default)]
pub(super) struct Pace(BTreeMap<PoolName, Timestamp>);

impl Pace {
    /// Whether a pool of so many agents may be judged again.
    pub(super) fn allows(&self, pool: &PoolName, agents: usize, now: Timestamp) -> bool {
        if agents <= FEW {
            return true;
        }
        let rest = PER_AGENT * u32::try_from(agents).unwrap_or(u32::MAX);
        // A clock that went back is no reason to wait.
        self.0.get(pool).is_none_or(|last| now < *last || now >= *last + rest)
    }

    /// It is judged now.
    pub(super) fn judged(&mut self, pool: &PoolName, now: Timestamp) {
        self.0.insert(pool.clone(), now);
    }

    /// Forgets pools that are no more.
    pub(super) fn keep(&mut self, exists: impl Fn(&PoolName) -> bool) {
        self.0.retain(|pool, _| exists(pool));
    }
}
