//! All rows in the order of the list, in memory: what a filter looks at first, 80 bytes a job.
//!
//! A filter is a pass over entries that lie one behind the other, newest first. A million of them take 4 to 8 ms, whatever the filter,
//! and need no index on the disk, where each one would be written anew with every change of state. An entry holds hashes, so it may
//! fit by chance; the row decides ([`super::page`]). Pure: it knows no disk and no clock.

use std::hash::BuildHasher as _;

use muster_schemas::{api::JobState, signature::Mark, time::Timestamp};

use super::{key::RowKey, row::Row};

/// Entries in a run. An insertion moves half of one; a new run begins when one is full.
const RUN: usize = 2048;
/// The hash of a name that is not there.
pub(crate) const NONE: u32 = 0;
/// A moment that is not there.
pub(crate) const NEVER: u32 = 0;

/// How long a job waited that never ran.
pub(crate) const NEVER_RAN: u32 = u32::MAX;

/// Where an entry is in the list: when it was queued, in microseconds, then its key.
pub(crate) type Spot = (i64, RowKey);

/// What a filter needs of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Entry {
    pub(crate) queued_at: i64,
    pub(crate) key: RowKey,
    /// Five bits for each label: with five labels one in five thousand other jobs is loaded in vain.
    pub(crate) labels: u128,
    pub(crate) pool: u32,
    pub(crate) agent: u32,
    /// The one agent that it is for.
    pub(crate) target: u32,
    pub(crate) job_type: u32,
    /// Of a job that has ended when it did, of another one when it may start; in seconds since 1970.
    pub(crate) at_s: u32,
    /// When it is too late to start it, in seconds since 1970; [`NEVER`] also for one that has ended.
    pub(crate) expires_s: u32,
    /// From when it could start to its start, in milliseconds; or [`NEVER_RAN`].
    pub(crate) waited_ms: u32,
    /// How long it ran, in milliseconds.
    pub(crate) ran_ms: u32,
    /// Without regard to the time: a job that is put off is pending.
    pub(crate) phase: JobState,
    /// The ledger found it nowhere.
    pub(crate) missing: bool,
    /// What is known of its result's signature.
    pub(crate) signature: Option<Mark>,
}

impl Entry {
    pub(crate) fn spot(&self) -> Spot {
        (self.queued_at, self.key)
    }

    /// Where the job is now, to the second.
    pub(crate) fn state(&self, now: Timestamp) -> JobState {
        let put_off = self.phase == JobState::Pending && self.at_s > seconds(now.micros());
        if put_off { JobState::Scheduled } else { self.phase }
    }
}

/// The hashes of entries: other ones in each process, so that nobody can choose names that fit together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hashes(std::hash::RandomState);

impl Hashes {
    /// Of a name; never [`NONE`].
    #[allow(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    pub(crate) fn name(&self, name: &str) -> u32 {
        (self.0.hash_one(name) as u32).max(1)
    }

    /// The bits of a label.
    pub(crate) fn label(&self, key: &str, value: &str) -> u128 {
        let hash = self.0.hash_one((key, value));
        [0, 7, 14, 21, 28].into_iter().fold(0, |bits, shift| bits | 1 << (hash >> shift & 127))
    }

    /// The entry of a row.
    pub(crate) fn entry(&self, key: RowKey, row: &Row) -> Entry {
        let name = |name: Option<&str>| name.map_or(NONE, |name| self.name(name));
        let (queued_at, (started, finished)) = (row.queued_at(), row.ran());
        let ms = |from: i64, to: i64| u32::try_from((to - from).max(0) / 1000).unwrap_or(u32::MAX - 1);
        Entry {
            queued_at,
            key,
            labels: row.labels().map_or(0, |labels| labels.iter().fold(0, |bits, (key, value)| bits | self.label(key, value))),
            pool: self.name(row.pool.as_str()),
            agent: name(row.agent().map(muster_schemas::names::AgentId::as_str)),
            target: name(row.target().map(muster_schemas::names::AgentId::as_str)),
            job_type: name(row.job_type().map(muster_schemas::names::JobType::as_str)),
            at_s: finished.or(row.not_before()).map_or(NEVER, seconds),
            expires_s: row.expires_at().map_or(NEVER, seconds),
            waited_ms: started.map_or(NEVER_RAN, |started| ms(row.not_before().map_or(queued_at, |at| at.max(queued_at)), started)),
            ran_ms: started.zip(finished).map_or(0, |(started, finished)| ms(started, finished)),
            phase: row.phase(),
            missing: row.is_missing(),
            signature: row.signature(),
        }
    }
}

/// Microseconds since 1970 as seconds, cut to what fits.
pub(crate) fn seconds(micros: i64) -> u32 {
    u32::try_from(micros.div_euclid(1_000_000).max(0)).unwrap_or(u32::MAX)
}

/// The entries, in runs that follow each other in order.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    runs: Vec<Vec<Entry>>,
    len: usize,
}

impl Catalogue {
    /// From entries in any order.
    pub(crate) fn build(mut entries: Vec<Entry>) -> Self {
        entries.sort_unstable_by_key(Entry::spot);
        entries.dedup_by_key(|entry| entry.spot());
        let runs = entries.chunks(RUN).map(<[Entry]>::to_vec).collect();
        Self { runs, len: entries.len() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts an entry in its place, over the one that is there.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let spot = entry.spot();
        // The first run that does not end before it; behind all of them the last one.
        let place = self.runs.partition_point(|run| run.last().is_some_and(|last| last.spot() < spot));
        let behind_all = place == self.runs.len();
        let place = place.min(self.runs.len().saturating_sub(1));
        let Some(run) = self.runs.get_mut(place) else {
            self.runs.push(vec![entry]);
            self.len = 1;
            return;
        };
        match run.binary_search_by_key(&spot, Entry::spot) {
            Ok(at) => {
                if let Some(held) = run.get_mut(at) {
                    *held = entry;
                }
                return;
            }
            // Jobs come at the end, so a run there stays full instead of being split into halves.
            Err(_) if behind_all && run.len() >= RUN => self.runs.push(vec![entry]),
            Err(at) => {
                run.insert(at, entry);
                if run.len() > RUN {
                    let rest = run.split_off(RUN / 2);
                    self.runs.insert(place + 1, rest);
                }
            }
        }
        self.len += 1;
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, spot: Spot) {
        let place = self.runs.partition_point(|run| run.last().is_some_and(|last| last.spot() < spot));
        let Some(run) = self.runs.get_mut(place) else { return };
        let Ok(at) = run.binary_search_by_key(&spot, Entry::spot) else { return };
        run.remove(at);
        if run.is_empty() {
            self.runs.remove(place);
        }
        self.len -= 1;
    }

    /// All entries, oldest first.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = &Entry> {
        self.runs.iter().flatten()
    }

    /// The entries behind a spot, oldest first.
    pub(crate) fn behind(&self, spot: Spot) -> impl Iterator<Item = &Entry> {
        let place = self.runs.partition_point(|run| run.last().is_some_and(|last| last.spot() <= spot));
        let mut runs = self.runs.iter().skip(place);
        let first = runs.next().map_or(&[][..], |run| run.get(run.partition_point(|entry| entry.spot() <= spot)..).unwrap_or_default());
        first.iter().chain(runs.flatten())
    }

    /// The entries before a spot, newest first; all of them without one.
    pub(crate) fn newest_first(&self, before: Option<Spot>) -> impl Iterator<Item = &Entry> {
        // Runs that begin before it: whole ones, and one that it may be in.
        let begin_before = |spot: Spot| self.runs.partition_point(|run| run.first().is_some_and(|first| first.spot() < spot));
        let count = before.map_or(self.runs.len(), begin_before);
        let mut runs = self.runs.get(..count).unwrap_or_default().iter().rev();
        let last = runs.next().map_or(&[][..], |run| match before {
            Some(spot) => run.get(..run.partition_point(|entry| entry.spot() < spot)).unwrap_or_default(),
            None => run,
        });
        last.iter().rev().chain(runs.flat_map(|run| run.iter().rev()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(queued_at: i64, key: u8) -> Entry {
        let state = JobState::Pending;
        Entry {
            queued_at,
            key: RowKey([key; 16]),
            labels: 0,
            pool: 1,
            agent: 0,
            target: 0,
            job_type: 1,
            at_s: 0,
            expires_s: 0,
            waited_ms: 0,
            ran_ms: 0,
            phase: state,
            missing: false,
            signature: None,
        }
    }

    #[test]
    fn an_entry_takes_as_much_memory_as_is_said() {
        assert_eq!(size_of::<Entry>(), 80);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn entries_are_in_order_wherever_they_were_put(
            changes in prop::collection::vec((0_i64..2_000, 0_u8..4, prop::bool::weighted(0.8)), 0..6_000),
            from in 0_i64..2_000,
        ) {
            let (mut catalogue, mut model) = (Catalogue::default(), std::collections::BTreeSet::new());
            for (at, key, put) in changes {
                let entry = entry(at, key);
                if put {
                    catalogue.insert(entry);
                    model.insert(entry.spot());
                } else {
                    catalogue.remove(entry.spot());
                    model.remove(&entry.spot());
                }
            }
            let spot = (from, RowKey([2; 16]));
            prop_assert_eq!(catalogue.len(), model.len());
            prop_assert!(catalogue.oldest_first().map(Entry::spot).eq(model.iter().copied()));
            prop_assert!(catalogue.newest_first(None).map(Entry::spot).eq(model.iter().rev().copied()));
            prop_assert!(catalogue.newest_first(Some(spot)).map(Entry::spot).eq(model.range(..spot).rev().copied()));
            let behind = (std::ops::Bound::Excluded(spot), std::ops::Bound::Unbounded);
            prop_assert!(catalogue.behind(spot).map(Entry::spot).eq(model.range(behind).copied()));
            let built = Catalogue::build(catalogue.newest_first(None).copied().collect());
            prop_assert!(built.oldest_first().map(Entry::spot).eq(model.iter().copied()));
        }
    }
}
