//! The jobs of a group: found by the ids that they must have, in one pass over the catalogue. Pure but for loading rows.
//!
//! The keys of such jobs are hashes, so their rows lie anywhere on the disk. What is counted is therefore taken from the catalogue alone.

use std::collections::{BTreeMap, HashMap};

use muster_schemas::{
    api::{JobRow, JobState},
    history::{GroupAnswer, GroupQuestion, ROWS_BYTES_MAX, ROWS_MAX},
    names::{GroupId, JobId, PoolName},
    time::Timestamp,
    topology::GROUP_MEMBERS_MAX,
    wire::V,
};

use super::{
    catalogue::{Catalogue, Entry, Hashes},
    key::RowKey,
    page::size,
    row::Row,
};

/// Servers of one broker may differ by so much in their clocks, in microseconds, by which groups and jobs are dated.
const SKEW: i64 = 60_000_000;

/// How it stands with a member's job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing is known of it.
    Unknown,
    /// It waits or runs.
    Open,
    /// It has ended, and succeeded or not. One that was lost did not.
    Ended(bool),
}

impl Fate {
    fn of(entry: &Entry) -> Self {
        match entry.phase {
            JobState::Succeeded => Self::Ended(true),
            phase if phase.is_final() || entry.missing => Self::Ended(false),
            _ => Self::Open,
        }
    }
}

/// The entries of the first `members` jobs of a group, by their places.
fn entries(catalogue: &Catalogue, hashes: &Hashes, pool: &PoolName, group: &GroupId, members: usize) -> Vec<Option<Entry>> {
    let members = members.min(GROUP_MEMBERS_MAX);
    let keys = (0..members).filter_map(|place| Some((RowKey::of(pool, &group.job(place))?, place)));
    let places: HashMap<RowKey, usize> = keys.collect();
    let mut entries = vec![None; members];
    let pool = hashes.name(pool.as_str());
    for entry in catalogue.newest_first(None).filter(|entry| entry.pool == pool && entry.key.is_of_chosen_id()) {
        if let Some(room) = places.get(&entry.key).and_then(|place| entries.get_mut(*place)) {
            *room = Some(*entry);
        }
    }
    entries
}

/// A member of a group, by a number that is the group's while it is followed, and its place.
pub(crate) type Member = (u64, usize);

/// Jobs of groups that are followed until they end. However many groups there are, it takes one pass over what was queued since the first
/// of them began.
#[derive(Debug, Clone, Default)]
pub(crate) struct Followed {
    /// By their keys, with when the group began. Of a group with a member that is away for days only that one stays.
    jobs: HashMap<RowKey, (Member, i64)>,
}

impl Followed {
    /// Follows a member's job. The broker stored its group at `since`, in microseconds.
    pub(crate) fn follow(&mut self, pool: &PoolName, id: &JobId, member: Member, since: i64) {
        self.jobs.extend(RowKey::of(pool, id).map(|key| (key, (member, since))));
    }

    /// Follows a job no longer.
    pub(crate) fn forget(&mut self, pool: &PoolName, id: &JobId) {
        RowKey::of(pool, id).and_then(|key| self.jobs.remove(&key));
    }

    /// How it stands with those that are known, and whether that is for good.
    pub(crate) fn fates(&self, catalogue: &Catalogue) -> Vec<(Member, Fate, bool)> {
        let Some(since) = self.jobs.values().map(|(_, since)| *since).min() else { return Vec::new() };
        let entries = catalogue.behind((since.saturating_sub(SKEW), RowKey([0; 16]))).filter(|entry| entry.key.is_of_chosen_id());
        let known = entries.filter_map(|entry| self.jobs.get(&entry.key).map(|(member, _)| (*member, entry)));
        known.map(|(member, entry)| (member, Fate::of(entry), entry.phase.is_final())).collect()
    }
}

/// Answers a question about a group. `load` answers the row of a key.
///
/// # Errors
/// What `load` gives.
pub(crate) fn answer<E>(
    catalogue: &Catalogue,
    hashes: &Hashes,
    question: &GroupQuestion,
    now: Timestamp,
    mut load: impl FnMut(RowKey) -> Result<Option<Row>, E>,
) -> Result<GroupAnswer, E> {
    let members = usize::try_from(question.members).unwrap_or(usize::MAX);
    let entries = entries(catalogue, hashes, &question.pool, &question.group, members);
    let mut counts = BTreeMap::<String, u64>::new();
    // One that is nowhere is as good as forgotten.
    for entry in entries.iter().flatten().filter(|entry| !entry.missing) {
        *counts.entry(entry.state(now).as_str().to_owned()).or_default() += 1;
    }
    let limit = question.limit.min(ROWS_MAX) as usize;
    let (mut rows, mut bytes, mut next) = (Vec::<(u32, JobRow)>::new(), 0, question.from);
    for (place, entry) in (0..).zip(&entries).skip(question.from as usize) {
        if rows.len() >= limit || bytes >= ROWS_BYTES_MAX {
            break;
        }
        next = place + 1;
        let Some(entry) = entry else { continue };
        if let Some(row) = load(entry.key)?.map(|row| row.view(now)) {
            bytes += size(&row);
            rows.push((place, row));
        }
    }
    Ok(GroupAnswer { v: V, counts, rows, next, error: None })
}

#[cfg(test)]
mod tests;
