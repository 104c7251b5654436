//! Where a job is, from the broker's streams: its result, else its message in a pool's queue and the last event about it.
//!
//! A result counts only under a pool that the id can belong to: an agent may store results of its own pool only, so a result under
//! another pool's subject is a forgery ([`JobId::belongs_to`] tells, for ids that were made here). Ids of callers' own say nothing of their
//! pool; if several pools have one, the caller has to say which.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::JobView,
    code::Code,
    names::{JobId, PoolName},
    queue,
    subjects::{self, About},
    time::Timestamp,
    topology::{self, COMMANDS, EVENTS, RESULTS},
};

use super::{
    outcome::{self, Marked},
    view::{self, Queued},
};
use crate::{
    app::App,
    problem::ApiError,
    stored::{self, StoreError, Stored},
};

/// How many pools' queues are looked through at once for an id that may be in any of them.
const POOLS_AT_ONCE: usize = 32;
/// What the broker did not do when a look-up fails.
const LOOK: &str = "look up the job";

/// A job that was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// It has ended.
    Finished {
        /// Its pool.
        pool: PoolName,
        /// Its stored result.
        result: Box<Marked>,
    },
    /// It is in a queue.
    Queued(Box<Queued>),
}

impl Found {
    /// Its pool.
    pub(crate) fn pool(&self) -> &PoolName {
        match self {
            Self::Finished { pool, .. } => pool,
            Self::Queued(queued) => &queued.pool,
        }
    }

    /// The job as it is shown.
    pub(crate) fn view(self, id: &JobId, now: Timestamp) -> JobView {
        match self {
            Self::Finished { pool, result } => view::finished(pool, id.clone(), *result),
            Self::Queued(queued) => view::queued(&queued, now),
        }
    }
}

/// What the broker holds of an id in one pool.
#[derive(Default)]
struct Traces {
    result: Option<Stored>,
    queued: Option<Stored>,
    event: Option<Stored>,
}

/// The job with this id, or `job_not_found`.
pub(crate) async fn get(app: &App, id: &JobId, pool: Option<&PoolName>) -> Result<Found, ApiError> {
    find(app, id, pool).await?.ok_or_else(|| {
        let place = pool.map_or_else(String::new, |pool| format!(" in pool `{pool}`"));
        ApiError::new(Code::JobNotFound, format!("no job `{id}` is known{place}, or it is older than results are kept"))
    })
}

/// The job with this id, in the given pool or in whichever has it.
///
/// # Errors
/// `job_ambiguous` when several pools have it and none is given; `broker_unavailable`.
pub(crate) async fn find(app: &App, id: &JobId, pool: Option<&PoolName>) -> Result<Option<Found>, ApiError> {
    stored::reachable(&app.broker).await.map_err(|error| error.while_doing(LOOK))?;
    let found = match pool {
        Some(pool) => find_in(app, id, pool).await,
        None => find_anywhere(app, id).await,
    };
    let mut found = found.map_err(|error| error.while_doing(LOOK))?;
    if let [first, second, ..] = &*found {
        let (first, second) = (first.pool(), second.pool());
        let detail = format!("pools `{first}` and `{second}` both have a job `{id}`; say which with ?pool=");
        return Err(ApiError::new(Code::JobAmbiguous, detail));
    }
    Ok(found.pop())
}

/// The job with this id in this pool: at most one.
async fn find_in(app: &App, id: &JobId, pool: &PoolName) -> Result<Vec<Found>, StoreError> {
    if id.belongs_to(pool) == Some(false) {
        return Ok(Vec::new());
    }
    let (result_subject, event_subject) = (About::Result.job(pool, id), About::Event.job(pool, id));
    let (result, queued, event) = tokio::try_join!(
        stored::last(&app.nats, RESULTS, &result_subject),
        in_queue(app, id, pool),
        stored::last(&app.nats, EVENTS, &event_subject),
    )?;
    Ok(settle(app, id, pool.clone(), Traces { result, queued, event }).await?.into_iter().collect())
}

/// The job's message, wherever it waits in the pool.
async fn in_queue(app: &App, id: &JobId, pool: &PoolName) -> Result<Option<Stored>, StoreError> {
    let [lanes, commands] = queue::places(pool, id);
    let (job, command) = tokio::try_join!(waiting(app, &lanes.0, &lanes.1), waiting(app, &commands.0, &commands.1))?;
    Ok(job.or(command))
}

async fn waiting(app: &App, stream: &str, subject: &str) -> Result<Option<Stored>, StoreError> {
    match stored::last(&app.nats, stream, subject).await {
        // The pool was deleted, or is just being made.
        Err(StoreError::NoStream(_)) => Ok(None),
        other => other,
    }
}

/// The job with this id, wherever it is.
async fn find_anywhere(app: &App, id: &JobId) -> Result<Vec<Found>, StoreError> {
    let known = app.mirror.pools.all().into_iter().map(|(pool, _)| pool);
    let mut pools: Vec<PoolName> = known.filter(|pool| id.belongs_to(pool) != Some(false)).collect();
    // An id that was made here names its pool, up to one chance in a million: nearly every look-up ends here.
    if let [pool] = &*pools
        && id.belongs_to(pool) == Some(true)
    {
        let found = find_in(app, id, pool).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let (results, events) = (About::Result.any_pool(id), About::Event.any_pool(id));
    let commands = subjects::command_anywhere(id);
    let (results, events, commands) = tokio::try_join!(
        stored::last_of_each(&app.nats, RESULTS, &results),
        stored::last_of_each(&app.nats, EVENTS, &events),
        stored::last_of_each(&app.nats, COMMANDS, &commands),
    )?;
    let mut traces = BTreeMap::<PoolName, Traces>::new();
    for message in results {
        if let Some(pool) = pool_of(About::Result, &message, id) {
            traces.entry(pool).or_default().result = Some(message);
        }
    }
    for message in events {
        if let Some(pool) = pool_of(About::Event, &message, id) {
            traces.entry(pool).or_default().event = Some(message);
        }
    }
    // The mirror may not have a pool yet, and the events may have forgotten the job: look where either says.
    pools.extend(traces.keys().cloned());
    pools.sort();
    pools.dedup();
    let queued = stream::iter(pools).map(|pool| async move {
        let message = waiting(app, &topology::jobs_stream(&pool), &subjects::job_in_any_lane(&pool, id)).await?;
        Ok((message, pool))
    });
    let queued: Vec<_> = queued.buffer_unordered(POOLS_AT_ONCE).try_collect().await?;
    for (message, pool) in queued {
        if message.is_some() {
            traces.entry(pool).or_default().queued = message;
        }
    }
    for message in commands {
        if let Some(pool) = subjects::parse_job(&message.subject).map(|address| address.pool)
            && id.belongs_to(&pool) != Some(false)
        {
            traces.entry(pool).or_default().queued.get_or_insert(message);
        }
    }
    let mut found = Vec::new();
    for (pool, traces) in traces {
        found.extend(settle(app, id, pool, traces).await?);
    }
    Ok(found)
}

/// The pool that a message is about, if the id can belong to it.
fn pool_of(about: About, message: &Stored, id: &JobId) -> Option<PoolName> {
    let (pool, _) = about.parse(&message.subject)?;
    (id.belongs_to(&pool) != Some(false)).then_some(pool)
}

/// What the traces of an id in one pool amount to.
async fn settle(app: &App, id: &JobId, pool: PoolName, traces: Traces) -> Result<Option<Found>, StoreError> {
    if let Some(result) = traces.result {
        return Ok(Some(finished(app, pool, result).await));
    }
    if let Some(queued) = traces.queued.and_then(|message| Queued::read(message, traces.event.as_ref())) {
        return Ok(Some(Found::Queued(Box::new(queued))));
    }
    // A result is stored before its job leaves the queue: a job that ended between the two looks above has one now.
    let again = stored::last(&app.nats, RESULTS, &About::Result.job(&pool, id)).await?;
    match again {
        Some(result) => Ok(Some(finished(app, pool, result).await)),
        None => Ok(None),
    }
}

async fn finished(app: &App, pool: PoolName, stored: Stored) -> Found {
    Found::Finished { pool, result: Box::new(outcome::marked(app, &stored.into()).await) }
}
