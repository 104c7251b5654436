//! Runs a finished job again, as a new job that names its parent.
//!
//! What the job asked for is in the event with which the broker told that it was queued.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_schemas::{
    api::{IDEMPOTENCY_HEADER, JobView, One},
    code::Code,
    event,
    headers::REPUBLISHED_SUBJECT,
    names::{AgentId, JobId, PoolName},
    records::Role,
    result::JobResult,
    subjects::{self, About},
    time::Timestamp,
    topology::EVENTS,
};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    again::{self, Again},
    handlers,
    lookup::{self, Found},
    order::{self, IdFrom},
    place,
};
use crate::{
    app::App,
    connections::named,
    endpoint::{Access, Endpoint},
    extract::{Path, Query, Trace},
    problem::ApiError,
    stored::{self, Stored},
};

/// Events of a job that are looked through for its body: all that are kept.
const EVENTS_MAX: usize = 64;

/// The endpoint.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/api/v1/jobs/{id}/retry", Access::Role(Role::Operator), retry)
            .about(
                "jobs",
                "Run a finished job again",
                "As a new job with the same body, whose `parent` is the first one; a command goes to the same agent. Each call makes a job, unless it is repeated with its Idempotency-Key. Its `not_before` and `expires_at` are left out where they have passed.",
            )
            .query::<RetryQuery>()
            .header(IDEMPOTENCY_HEADER, "1 to 255 visible ASCII characters: a second retry of the same job with the same key answers the first one's job.")
            .answers::<One<JobView>>(StatusCode::ACCEPTED, "The new job is in its queue.")
            .answers::<One<JobView>>(StatusCode::OK, "The new job has ended: an earlier retry with the same key made it.")
            .codes(&[Code::NameInvalid, Code::JobNotFound, Code::JobAmbiguous, Code::JobNotFinished, Code::BodyNotKept])
            .codes(&[Code::BodyTooLarge, Code::TypeUnknown, Code::ParamsInvalid, Code::PoolNotFound, Code::QueueFull, Code::AgentNotFound, Code::AgentRevoked])
            .codes(&[Code::HeaderInvalid, Code::JobConflict])
            .codes(named::CODES)
            .audited("jobs.retry"),
    ]
}

/// Query of a retry.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RetryQuery {
    /// The job's pool; needed only when several pools have a job of this id.
    pool: Option<String>,
}

async fn retry(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<RetryQuery>,
    Trace(trace): Trace,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let key = order::idempotency_key(&headers)?;
    let pool = query.pool.as_deref().map(str::parse::<PoolName>).transpose()?;
    let (pool, result) = match lookup::get(&app, &id, pool.as_ref()).await? {
        Found::Finished { pool, result } => (pool, result),
        Found::Queued(queued) => {
            let detail = format!("job `{id}` of pool `{}` has not ended; its next attempt is not up to you", queued.pool);
            return Err(ApiError::new(Code::JobNotFinished, detail));
        }
    };
    let queued = queued(&app, &id, &pool, &result).await?;
    let (new, id_from) = match key {
        Some(key) => (derived(&pool, &id, result.queued_at, key)?, IdFrom::Retry),
        None => (JobId::generate(&pool), IdFrom::Us),
    };
    let agent = target(&queued);
    let again = Again { body: &queued.payload, of: &id, pool, agent, priority: result.priority, id: new, id_from };
    let order = again::order(again, Timestamp::now())?;
    let data = place::place(&app, &order, &trace).await?.view;
    let status = if data.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, [(header::LOCATION, handlers::location(&data)?)], axum::Json(One { data })).into_response())
}

/// The id of the job that runs this one again with this key. When it was queued is part of it, since an id of the caller's own may be that of
/// another job later.
fn derived(pool: &PoolName, of: &JobId, queued_at: Timestamp, key: &str) -> Result<JobId, ApiError> {
    let mut digest = Sha256::new();
    for part in ["retry", pool.as_str(), of.as_str()] {
        digest = digest.chain_update(part).chain_update([0]);
    }
    let digest = digest.chain_update(queued_at.micros().to_be_bytes()).chain_update(key).finalize();
    let hex: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("retry-{hex}").parse()?)
}

/// The one agent that the job was for: the broker's copy has the subject that it was queued under.
fn target(queued: &Stored) -> Option<AgentId> {
    let mut subjects = queued.headers.get_all(REPUBLISHED_SUBJECT).filter_map(|subject| subjects::parse_job(subject.as_str()));
    subjects.next()?.queue.agent().cloned()
}

/// The message that was queued as this job.
async fn queued(app: &App, id: &JobId, pool: &PoolName, result: &JobResult) -> Result<Stored, ApiError> {
    let events = stored::from(&app.nats, EVENTS, &About::Event.job(pool, id), 1, EVENTS_MAX).await;
    let events = events.map_err(|error| error.while_doing("look up what the job asked for"))?;
    let is_queued = |event: &Stored| event::is_queued(event.headers.get_all(REPUBLISHED_SUBJECT).map(|subject| subject.as_str()));
    let queued = events.into_iter().filter(is_queued);
    // An id of the caller's own may have been used for several jobs: the one that ended is the one that was queued then.
    let away = |event: &Stored| event.at.since(result.queued_at).max(result.queued_at.since(event.at));
    queued.min_by_key(away).ok_or_else(|| {
        let detail = format!("job `{id}` was queued at {}, and its body is not kept any more; submit it anew", result.queued_at);
        ApiError::new(Code::BodyNotKept, detail)
    })
}
