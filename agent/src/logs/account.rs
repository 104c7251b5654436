//! How much of a job's log this agent has stored, over all attempts that it ran.
//!
//! Only a figure per job is kept, of the newest jobs: one that was forgotten starts anew, within the limits that the stream has itself.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use muster_schemas::{names::JobId, topology::LOG_OUTPUT_CHUNKS};

/// Jobs that are remembered: some 100 KiB. A retry follows within minutes, and an agent runs 50 jobs at once.
const JOBS_MAX: usize = 1_000;

/// What a job's log has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spent {
    pub(super) bytes: u64,
    pub(super) chunks: u64,
    /// It takes no more.
    pub(super) full: bool,
    /// The log says so.
    pub(super) said: bool,
}

impl Spent {
    /// How many of the next bytes the log takes.
    pub(super) fn room(self, limit: u64) -> usize {
        let left = if self.full || self.chunks >= LOG_OUTPUT_CHUNKS { 0 } else { limit.saturating_sub(self.bytes) };
        usize::try_from(left).unwrap_or(usize::MAX)
    }
}

/// What the logs of the newest jobs have taken.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Jobs>);

#[derive(Debug, Default)]
struct Jobs {
    spent: HashMap<JobId, Spent>,
    /// Oldest first.
    order: VecDeque<JobId>,
}

impl Account {
    /// What a job's log has taken before.
    pub(super) fn of(&self, id: &JobId) -> Spent {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spent.get(id).copied().unwrap_or_default()
    }

    /// Remembers what a job's log has taken.
    pub(super) fn keep(&self, id: &JobId, spent: Spent) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.spent.insert(id.clone(), spent).is_none() {
            jobs.order.push_back(id.clone());
        }
        if jobs.order.len() > JOBS_MAX
            && let Some(oldest) = jobs.order.pop_front()
        {
            jobs.spent.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn the_newest_jobs_are_remembered() {
        let (account, spent) = (Account::default(), Spent { bytes: 7, ..Spent::default() });
        let id = |number: usize| format!("j{number}").parse::<JobId>().unwrap();
        for number in 0..JOBS_MAX + 5 {
            account.keep(&id(number), spent);
            account.keep(&id(number), spent);
        }
        assert_eq!((account.of(&id(4)), account.of(&id(5))), (Spent::default(), spent));
        let jobs = account.0.lock().unwrap();
        assert_eq!((jobs.spent.len(), jobs.order.len()), (JOBS_MAX, JOBS_MAX));
    }

    #[test]
    fn a_log_takes_so_many_bytes_and_so_many_chunks() {
        let spent = |bytes, chunks| Spent { bytes, chunks, ..Spent::default() };
        assert_eq!(spent(3, 0).room(10), 7);
        assert_eq!((spent(10, 0).room(10), spent(11, 0).room(10)), (0, 0));
        assert_eq!((spent(0, LOG_OUTPUT_CHUNKS - 1).room(10), spent(0, LOG_OUTPUT_CHUNKS).room(10)), (10, 0));
        assert_eq!(Spent { full: true, ..spent(0, 0) }.room(10), 0);
    }
}
