//! How a pool has been doing, from one pass over the catalogue. Pure.

use std::{collections::BTreeMap, time::Duration};

use muster_schemas::{
    api::{JobState, Percentiles, PoolStats},
    names::PoolName,
    time::Timestamp,
};

use super::catalogue::{Catalogue, Hashes, seconds};

/// What percentiles are taken over.
const WINDOW: Duration = Duration::from_secs(3600);

/// How a pool has been doing.
pub(crate) fn of(catalogue: &Catalogue, hashes: &Hashes, pool: &PoolName, now: Timestamp) -> PoolStats {
    let (hash, since_s) = (hashes.name(pool.as_str()), seconds((now - WINDOW).micros()));
    let mut counts = BTreeMap::<String, u64>::new();
    let (mut finished, mut oldest) = (0, None::<i64>);
    let (mut waited, mut ran) = (Vec::new(), Vec::new());
    // Of one that is nowhere it is not known how it ended.
    for entry in catalogue.oldest_first().filter(|entry| entry.pool == hash && !entry.missing) {
        let state = entry.state(now);
        match counts.get_mut(state.as_str()) {
            Some(count) => *count += 1,
            None => drop(counts.insert(state.as_str().to_owned(), 1)),
        }
        if state == JobState::Pending {
            oldest = oldest.or(Some(entry.queued_at));
        }
        if state.is_final() && entry.at_s >= since_s {
            finished += 1;
            if entry.waited_ms != u32::MAX {
                waited.push(entry.waited_ms);
                ran.push(entry.ran_ms);
            }
        }
    }
    let oldest = oldest.map(Timestamp::from_micros);
    PoolStats {
        pool: pool.clone(),
        counts,
        oldest_pending_at: oldest,
        oldest_pending_s: oldest.map(|at| now.since(at).as_secs_f64()),
        finished_last_hour: finished,
        waiting_s: percentiles(waited),
        running_s: percentiles(ran),
    }
}

/// Percentiles of milliseconds, in seconds, by the nearest rank.
fn percentiles(mut millis: Vec<u32>) -> Option<Percentiles> {
    millis.sort_unstable();
    let at = |percent: usize| {
        let rank = (millis.len() * percent).div_ceil(100).saturating_sub(1);
        millis.get(rank).map(|ms| f64::from(*ms) / 1000.0)
    };
    Some(Percentiles { p50: at(50)?, p90: at(90)?, p99: at(99)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(percentiles(Vec::new()), None);
        assert_eq!(percentiles(vec![1000]), Some(Percentiles { p50: 1.0, p90: 1.0, p99: 1.0 }));
        assert_eq!(percentiles((1..=100).rev().map(|n| n * 1000).collect()), Some(Percentiles { p50: 50.0, p90: 90.0, p99: 99.0 }));
    }
}
