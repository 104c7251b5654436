//! Many dead letters at once, by a filter: replayed or deleted, oldest first.
//!
//! One call does at most [`DEAD_BULK_MAX`] of them and looks at no more than [`LOOKED_MAX`]; its answer says how many may be left, and where to
//! go on. Each letter is done or fails on its own.

use futures_util::{StreamExt as _, stream};
use muster_runtime::trace::TraceContext;
use muster_schemas::{
    api::{DEAD_BULK_MAX, DeadLetterFailure, DeadLetterFilter, DeadLettersDone},
    code::Code,
    names::{JobId, PoolName},
    topology::DEAD,
};

use super::{
    find::{self, Filter},
    letter::Letter,
    replay,
};
use crate::{
    app::App,
    page::Cursor,
    problem::ApiError,
    stored::{self, StoreError, walk},
};

/// Letters that one call looks at.
const LOOKED_MAX: usize = 10_000;
/// Letters done side by side: what takes the time is the broker's flush to disk, and it flushes once for all that have come meanwhile.
const AT_ONCE: usize = 32;

/// What is done to each letter.
#[derive(Debug)]
pub(super) enum Act {
    Replay { to: Option<PoolName>, trace: TraceContext },
    Delete,
}

/// Which letters, checked.
#[derive(Debug)]
pub(super) struct Wanted {
    filter: Filter,
    ids: Option<Vec<JobId>>,
    /// Only what is stored behind this sequence.
    after: u64,
}

impl Wanted {
    /// Checks a filter. One that says nothing is refused: what is left out by mistake must not mean all.
    pub(super) fn check(given: &DeadLetterFilter) -> Result<Self, ApiError> {
        let invalid = |detail: String| ApiError::new(Code::FieldInvalid, detail);
        let filtered = given.pool.is_some() || given.job_type.is_some() || given.ids.is_some() || given.until.is_some();
        match (filtered, given.all == Some(true)) {
            (false, false) => {
                return Err(invalid("say which: at least one of `pool`, `type`, `ids` and `until`, or `all: true`".into()));
            }
            (true, true) => return Err(invalid("field `all`: with a filter beside it, it is not all".into())),
            _ => {}
        }
        let ids = given.ids.as_ref();
        if let Some(many) = ids.map(Vec::len).filter(|count| *count > DEAD_BULK_MAX) {
            return Err(invalid(format!("field `ids`: it takes at most {DEAD_BULK_MAX}, and got {many}")));
        }
        let ids = ids.map(|ids| ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()).transpose()?;
        let filter = Filter {
            pool: given.pool.as_deref().map(str::parse).transpose()?,
            job_type: given.job_type.as_deref().map(str::parse).transpose()?,
            since: None,
            until: given.until,
        };
        let after = given.cursor.as_deref().map(find::sequence).transpose()?.unwrap_or(0);
        Ok(Self { filter, ids, after })
    }
}

/// Does it.
pub(super) async fn run(app: &App, wanted: Wanted, act: &Act, request_id: &str) -> Result<DeadLettersDone, ApiError> {
    stored::reachable(&app.broker).await.map_err(|error| error.while_doing(find::READ))?;
    match &wanted.ids {
        Some(ids) => Ok(by_id(app, ids, &wanted.filter, act, request_id).await),
        None => by_walk(app, &wanted, act, request_id).await.map_err(|error| error.while_doing(find::READ)),
    }
}

async fn by_id(app: &App, ids: &[JobId], filter: &Filter, act: &Act, request_id: &str) -> DeadLettersDone {
    let each = stream::iter(ids.to_vec()).map(|id| one_of(app, id, filter, act, request_id));
    let mut done = DeadLettersDone::default();
    for outcome in each.buffered(AT_ONCE).collect::<Vec<_>>().await {
        match outcome {
            Ok(one) => done.done += u64::from(one),
            Err(failure) => done.failed.push(failure),
        }
    }
    done
}

/// Does it to the letter of this job, if the rest of the filter matches.
async fn one_of(app: &App, id: JobId, filter: &Filter, act: &Act, request_id: &str) -> Result<bool, DeadLetterFailure> {
    match find::one(app, &id, filter.pool.as_ref()).await {
        Ok(letter) if !filter.matches(&letter) || filter.until.is_some_and(|until| letter.stored.at >= until) => Ok(false),
        Ok(letter) => perform(app, letter, act, request_id).await.map(|()| true),
        Err(error) => Err(DeadLetterFailure { id, pool: filter.pool.clone(), problem: error.problem(request_id) }),
    }
}

async fn by_walk(app: &App, wanted: &Wanted, act: &Act, request_id: &str) -> Result<DeadLettersDone, StoreError> {
    let (filter, subject) = (&wanted.filter, wanted.filter.subject());
    let (mut done, mut after, mut looked, mut picked) = (DeadLettersDone::default(), wanted.after, 0, 0);
    loop {
        let batch = stored::from(&app.nats, DEAD, &subject, after.saturating_add(1), walk::WINDOW).await?;
        let (mut letters, mut over) = (Vec::new(), batch.len() < walk::WINDOW);
        let mut left = 0;
        for stored in batch {
            if filter.until.is_some_and(|until| stored.at >= until) {
                // Whatever lies behind is younger still.
                (over, left) = (true, 0);
                break;
            }
            (after, left) = (stored.sequence, walk::pending(&stored).unwrap_or(0));
            looked += 1;
            letters.extend(Letter::read(stored).filter(|letter| filter.matches(letter)));
            if picked + letters.len() == DEAD_BULK_MAX || looked == LOOKED_MAX {
                over = true;
                break;
            }
        }
        picked += letters.len();
        let each = stream::iter(letters).map(|letter| perform(app, letter, act, request_id));
        for outcome in each.buffered(AT_ONCE).collect::<Vec<_>>().await {
            match outcome {
                Ok(()) => done.done += 1,
                Err(failure) => done.failed.push(failure),
            }
        }
        if over {
            done.left = left;
            done.cursor = (left > 0).then(|| Cursor::encode(&after.to_string()));
            return Ok(done);
        }
    }
}

async fn perform(app: &App, letter: Letter, act: &Act, request_id: &str) -> Result<(), DeadLetterFailure> {
    let (id, pool) = (letter.id.clone(), letter.pool.clone());
    let outcome = match act {
        Act::Replay { to, trace } => replay::replay(app, letter, to.as_ref(), trace).await.map(drop),
        Act::Delete => replay::remove(app, &letter).await,
    };
    outcome.map_err(|error| DeadLetterFailure { id, pool: Some(pool), problem: error.problem(request_id) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn check(filter: &str) -> Result<Wanted, ApiError> {
        Wanted::check(&serde_json::from_str(filter).unwrap())
    }

    #[test]
    fn a_filter_that_says_nothing_is_refused_and_all_has_to_be_said() {
        for filter in ["{}", r#"{"all": false}"#, r#"{"all": true, "pool": "p"}"#] {
            assert_eq!(check(filter).unwrap_err().code, Code::FieldInvalid, "{filter}");
        }
        assert!(check(r#"{"all": true}"#).is_ok());
        assert!(check(r#"{"ids": []}"#).unwrap().ids.unwrap().is_empty(), "an empty list is none");
    }

    #[test]
    fn names_in_a_filter_are_checked() {
        assert_eq!(check(r#"{"pool": "*"}"#).unwrap_err().code, Code::NameInvalid);
        assert_eq!(check(r#"{"ids": ["a.b"]}"#).unwrap_err().code, Code::NameInvalid);
        let ids = vec!["a"; DEAD_BULK_MAX + 1];
        assert_eq!(check(&serde_json::json!({"ids": ids}).to_string()).unwrap_err().code, Code::FieldInvalid);
    }
}
