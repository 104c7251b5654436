//! A page of the list: which rows, in which order, and where the next page begins. Pure but for loading rows.
//!
//! Entries are looked at newest first, from the cursor on. One whose hashes fit is loaded, and the row decides. How many are loaded for one
//! page is bounded, so a page may be short and still have a cursor; a cursor names a place in the order, so jobs that come meanwhile
//! neither repeat nor hide others.

use muster_schemas::{
    api::{JobRow, JobState},
    history::{JobsQuestion, ROWS_BYTES_MAX, ROWS_MAX},
    signature::Mark,
    time::Timestamp,
};

use super::{
    catalogue::{Catalogue, Entry, Hashes, Spot, seconds},
    key::RowKey,
    row::Row,
};

/// The most rows that are loaded for one page. Loading one takes 5 to 60 µs, by whether the disk must be asked.
pub(crate) const LOADS_MAX: usize = 2_000;

/// A page.
#[derive(Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) rows: Vec<JobRow>,
    /// Where the next one begins.
    pub(crate) next: Option<Spot>,
}

/// The hashes that an entry must have.
struct Sieve {
    pool: Option<u32>,
    agent: Option<u32>,
    target: Option<u32>,
    job_type: Option<u32>,
    labels: u128,
    state: Option<JobState>,
    signature: Option<Mark>,
    now_s: u32,
}

impl Sieve {
    fn new(question: &JobsQuestion, hashes: &Hashes, now: Timestamp) -> Self {
        Self {
            pool: question.pool.as_ref().map(|pool| hashes.name(pool.as_str())),
            agent: question.agent.as_ref().map(|agent| hashes.name(agent.as_str())),
            target: question.target_agent.as_ref().map(|agent| hashes.name(agent.as_str())),
            job_type: question.job_type.as_ref().map(|job_type| hashes.name(job_type.as_str())),
            labels: question.label.as_ref().map_or(0, |(key, value)| hashes.label(key, value)),
            state: question.state,
            signature: question.signature,
            now_s: seconds(now.micros()),
        }
    }

    fn lets_through(&self, entry: &Entry) -> bool {
        let same = |wanted: Option<u32>, has: u32| wanted.is_none_or(|wanted| wanted == has);
        let state = self.state.is_none_or(|state| match state {
            // Which of the two it is changes with the time, here known to the second.
            JobState::Pending => entry.phase == JobState::Pending && entry.at_s <= self.now_s,
            JobState::Scheduled => entry.phase == JobState::Pending && entry.at_s >= self.now_s,
            state => entry.phase == state,
        });
        same(self.pool, entry.pool)
            && same(self.agent, entry.agent)
            && same(self.target, entry.target)
            && same(self.job_type, entry.job_type)
            && entry.labels & self.labels == self.labels
            && state
            && (self.signature.is_none() || entry.signature == self.signature)
            // Of one that is nowhere it is not known where it is.
            && (self.state.is_none() || !entry.missing)
    }
}

/// Whether a row is asked for, apart from when it was queued.
fn fits(question: &JobsQuestion, row: &JobRow) -> bool {
    question.pool.as_ref().is_none_or(|pool| row.pool == *pool)
        && question.agent.as_ref().is_none_or(|agent| row.agent_id.as_ref() == Some(agent))
        && question.target_agent.as_ref().is_none_or(|agent| row.target_agent.as_ref() == Some(agent))
        && question.job_type.as_ref().is_none_or(|job_type| row.job_type.as_ref() == Some(job_type))
        && question.state.is_none_or(|state| row.state == state)
        && (question.signature.is_none() || row.signature == question.signature)
        && question.label.as_ref().is_none_or(|(key, value)| row.labels.get(key) == Some(value))
}

/// The page that is asked for. `load` answers the row of a key.
///
/// # Errors
/// What `load` gives.
pub(crate) fn page<E>(
    catalogue: &Catalogue,
    hashes: &Hashes,
    question: &JobsQuestion,
    from: Option<Spot>,
    now: Timestamp,
    mut load: impl FnMut(RowKey) -> Result<Option<Row>, E>,
) -> Result<Page, E> {
    let sieve = Sieve::new(question, hashes, now);
    let until = question.until.map(|until| (until.micros(), RowKey([0; 16])));
    let before = [from, until].into_iter().flatten().min();
    let since = question.since.map_or(i64::MIN, Timestamp::micros);
    let limit = question.limit.clamp(1, ROWS_MAX) as usize;
    let entries = catalogue.newest_first(before).take_while(|entry| entry.queued_at >= since);
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, None);
    for (loads, entry) in entries.filter(|entry| sieve.lets_through(entry)).enumerate() {
        // There is one more that may fit: the page ends before it.
        if rows.len() >= limit || loads >= LOADS_MAX || bytes >= ROWS_BYTES_MAX {
            return Ok(Page { rows, next: last });
        }
        last = Some(entry.spot());
        if let Some(row) = load(entry.key)?.map(|row| row.view(now)).filter(|row| fits(question, row)) {
            bytes += size(&row);
            rows.push(row);
        }
    }
    Ok(Page { rows, next: None })
}

/// About how many bytes a row takes in an answer, without its fixed fields' exact lengths.
pub(crate) fn size(row: &JobRow) -> usize {
    let labels: usize = row.labels.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
    let error = row.error.as_ref().map_or(0, |error| error.message.len());
    600 + labels + error + row.reason.as_ref().map_or(0, String::len)
}

/// A spot as a cursor.
pub(crate) fn cursor((at, RowKey(key)): Spot) -> String {
    format!("{at}.{:032x}", u128::from_be_bytes(key))
}

/// The spot that a cursor names.
pub(crate) fn spot(cursor: &str) -> Option<Spot> {
    let (at, key) = cursor.split_once('.').filter(|(_, key)| key.len() == 32)?;
    Some((at.parse().ok()?, RowKey(u128::from_str_radix(key, 16).ok()?.to_be_bytes())))
}

#[cfg(test)]
mod tests;
