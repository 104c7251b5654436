//! Finding dead letters: one by its id, or a page of them, newest first.
//!
//! A page is a walk through the stream, and its work is bounded: after [`LOOKED_MAX`] letters it ends with what it has, and a cursor.

use muster_schemas::{
    api::{DeadLetterView, Many, Meta, Page},
    code::Code,
    names::{JobId, JobType, PoolName},
    subjects::About,
    time::Timestamp,
    topology::DEAD,
};

use super::letter::Letter;
use crate::{
    app::App,
    page::Cursor,
    problem::ApiError,
    stored::{
        self, StoreError,
        walk::{self, Backwards},
    },
};

/// Letters that one page looks at.
const LOOKED_MAX: usize = 1000;
/// Requests that one page makes, whatever they find.
const STEPS_MAX: usize = 64;
/// What the broker did not do when it fails.
pub(super) const READ: &str = "read the dead letters";

/// Which letters a page shows.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) pool: Option<PoolName>,
    pub(super) job_type: Option<JobType>,
    /// Stored at or after this.
    pub(super) since: Option<Timestamp>,
    /// Stored before this.
    pub(super) until: Option<Timestamp>,
}

impl Filter {
    /// The letters that can match, as the broker can tell.
    pub(super) fn subject(&self) -> String {
        self.pool.as_ref().map_or_else(|| About::Dead.all(), |pool| About::Dead.pool(pool))
    }

    pub(super) fn matches(&self, letter: &Letter) -> bool {
        let typed = |wanted: &JobType| letter.job.as_ref().is_ok_and(|job| job.job_type == *wanted);
        self.job_type.as_ref().is_none_or(typed)
    }
}

/// The place in a cursor: a sequence.
pub(super) fn sequence(cursor: &str) -> Result<u64, ApiError> {
    Cursor::number(cursor)
}

/// One page.
pub(super) async fn page(app: &App, filter: &Filter, limit: u32, before: Option<u64>) -> Result<Many<DeadLetterView>, ApiError> {
    let failed = |error: StoreError| error.while_doing(READ);
    stored::reachable(&app.broker).await.map_err(failed)?;
    let (data, before) = walk(app, filter, limit as usize, before).await.map_err(failed)?;
    let cursor = before.map(|before| Cursor::encode(&before.to_string()));
    Ok(Many { data, meta: Meta { page: Page { limit, cursor } } })
}

/// The letters of a page, and below which sequence the next one begins.
async fn walk(app: &App, filter: &Filter, limit: usize, before: Option<u64>) -> Result<(Vec<DeadLetterView>, Option<u64>), StoreError> {
    let subject = filter.subject();
    let mut before = before;
    if let Some(until) = filter.until
        && let Some(first) = walk::first_since(&app.nats, DEAD, &subject, until).await?
    {
        before = Some(before.map_or(first, |before| before.min(first)));
    }
    let mut walk = Backwards::new(walk::ends(&app.nats, DEAD).await?, before);
    let (mut data, mut looked) = (Vec::new(), 0);
    for _ in 0..STEPS_MAX {
        for stored in walk.step(&app.nats, DEAD, &subject).await? {
            let (sequence, at) = (stored.sequence, stored.at);
            if filter.since.is_some_and(|since| at < since) {
                return Ok((data, None));
            }
            looked += 1;
            data.extend(Letter::read(stored).filter(|letter| filter.matches(letter)).map(|letter| letter.view()));
            if data.len() == limit || looked == LOOKED_MAX {
                return Ok((data, Some(sequence)));
            }
        }
        if walk.is_over() {
            return Ok((data, None));
        }
    }
    Ok((data, Some(walk.before())))
}

/// The letter of a job, in the given pool or in whichever has it.
///
/// # Errors
/// `dead_letter_not_found`; `job_ambiguous` when several pools have one and none is given; `broker_unavailable`.
pub(super) async fn one(app: &App, id: &JobId, pool: Option<&PoolName>) -> Result<Letter, ApiError> {
    let failed = |error: StoreError| error.while_doing(READ);
    stored::reachable(&app.broker).await.map_err(failed)?;
    let mut found: Vec<Letter> = match pool {
        Some(pool) => {
            let stored = stored::last(&app.nats, DEAD, &About::Dead.job(pool, id)).await.map_err(failed)?;
            stored.and_then(Letter::read).into_iter().collect()
        }
        None => {
            let stored = stored::last_of_each(&app.nats, DEAD, &About::Dead.any_pool(id)).await.map_err(failed)?;
            // An agent may write letters of its own pool only, and an id that was made here knows its pool.
            stored.into_iter().filter_map(Letter::read).filter(|letter| id.belongs_to(&letter.pool) != Some(false)).collect()
        }
    };
    if let [first, second, ..] = &*found {
        let detail = format!("pools `{}` and `{}` both have a dead letter of a job `{id}`; say which with ?pool=", first.pool, second.pool);
        return Err(ApiError::new(Code::JobAmbiguous, detail));
    }
    found.pop().ok_or_else(|| {
        let place = pool.map_or_else(String::new, |pool| format!(" in pool `{pool}`"));
        ApiError::new(Code::DeadLetterNotFound, format!("there is no dead letter of a job `{id}`{place}"))
    })
}
