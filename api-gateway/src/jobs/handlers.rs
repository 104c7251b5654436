//! Endpoints of jobs: what each takes, answers and refuses.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_schemas::{
    api::{BASE, BATCH_MAX, Batch, BatchEntry, GroupView, IDEMPOTENCY_HEADER, JobView, LogView, Many, Meta, One, Page, Submit},
    code::Code,
    names::{JobId, PoolName},
    records::Role,
    time::Timestamp,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use super::{batch, cancel, logs, lookup, order, order::Order, place, wait, watch};
use crate::{
    app::App,
    audit::Noted,
    auth::Caller,
    connections::named,
    endpoint::{Access, Endpoint},
    extract::{BATCH_LIMIT, JOB_LIMIT, Json, Path, Query, RequestId, Trace},
    groups,
    problem::ApiError,
};

/// The sequence of the last chunk in a log that is answered as text, where no page can say it.
const LOG_SEQUENCE: HeaderName = HeaderName::from_static("muster-log-seq");

/// What can be wrong with a job, submitted or of a schedule.
pub(crate) const JOB_CODES: &[Code] = &[
    Code::VersionUnknown,
    Code::NameInvalid,
    Code::TypeUnknown,
    Code::ParamsInvalid,
    Code::TimeoutInvalid,
    Code::RetryInvalid,
    Code::LabelsInvalid,
    Code::PoolNotFound,
];

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/api/v1/jobs", Access::Role(Role::Operator), submit)
            .about("jobs", "Submit a job", "Stored on the broker's disk before it is answered. The same submit again (by `id` or Idempotency-Key) answers the first job. With a `target` it is a job for each agent that matches: a group, which takes no `priority`, `id` and `wait`.")
            .query::<SubmitQuery>()
            .header(IDEMPOTENCY_HEADER, "1 to 255 visible ASCII characters: a second submit with the same key to the same pool answers the first job.")
            .body::<Submit>()
            .answers::<One<JobView>>(StatusCode::ACCEPTED, "The job is in its pool's queue.")
            .answers::<One<GroupView>>(StatusCode::ACCEPTED, "With a `target`: the group is made, and its jobs are sent.")
            .answers::<One<JobView>>(StatusCode::OK, "The job has ended: within the wait, or before this submit.")
            .codes(JOB_CODES)
            .codes(named::CODES)
            .codes(&[Code::TimeInvalid, Code::QueueFull, Code::WaitInvalid, Code::HeaderInvalid, Code::JobConflict, Code::NoAgentMatches])
            .unaudited("jobs.submit", "every job is in the stream of events; one for many agents is audited as groups.create"),
        Endpoint::post("/api/v1/jobs/batch", Access::Role(Role::Operator), submit_batch)
            .about("jobs", "Submit many jobs", "1 to 1 000 jobs, each accepted or refused on its own; the answers are in the order of the jobs. At most 16 MiB.")
            .query::<BatchQuery>()
            .body::<Batch>()
            .answers::<Many<BatchEntry>>(StatusCode::OK, "What became of each job.")
            .codes(&[Code::HeaderInvalid])
            .unaudited("jobs.submit", "every job is in the stream of events"),
        Endpoint::get("/api/v1/jobs/{id}", Access::Role(Role::Viewer), get)
            .about("jobs", "Look up a job", "Where it is, and its result once it has ended. Results are kept for a day unless the job says otherwise.")
            .query::<LookQuery>()
            .answers::<One<JobView>>(StatusCode::OK, "The job.")
            .codes(&[Code::NameInvalid, Code::WaitInvalid, Code::JobNotFound, Code::JobAmbiguous]),
        Endpoint::post("/api/v1/jobs/{id}/cancel", Access::Role(Role::Operator), stop)
            .about("jobs", "Cancel a job", "A queued job never runs; a running one is stopped with its whole process tree. Cancelling a cancelled job answers it again.")
            .query::<PoolQuery>()
            .answers::<One<JobView>>(StatusCode::OK, "The job is cancelled.")
            .codes(&[Code::NameInvalid, Code::JobNotFound, Code::JobAmbiguous, Code::JobFinished])
            .audited("jobs.cancel"),
        Endpoint::get("/api/v1/jobs/{id}/logs", Access::Role(Role::Viewer), log)
            .about("jobs", "Read a job's output", "What is stored of it: at most 5 MiB, for a day; a note says where it was cut. Progress is among it, in the stream `progress`. With `Accept: text/plain` the bytes alone, and the place of the last one in the header Muster-Log-Seq.")
            .query::<LogQuery>()
            .header("accept", "`application/json` (default) or `text/plain`.")
            .answers::<Many<LogView>>(StatusCode::OK, "The chunks; send the last `seq` as `after` for what comes behind them.")
            .answers_other(StatusCode::OK, "The output as written.", "text/plain")
            .codes(&[Code::NameInvalid, Code::WaitInvalid, Code::JobNotFound, Code::JobAmbiguous]),
        watch::endpoint(),
    ]
}

/// Query of a submit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubmitQuery {
    /// Wait for the job to end: `30s`, `500ms` or `30`, at most 60 s.
    wait: Option<String>,
}

/// Query of a batch: nothing, so that a `wait` is refused and not passed over.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BatchQuery {}

/// Query of a look-up.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LookQuery {
    /// The job's pool; needed only when several pools have a job of this id.
    pool: Option<String>,
    /// Wait for the job to end: `30s`, `500ms` or `30`, at most 60 s.
    wait: Option<String>,
}

/// Query that may name a pool.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PoolQuery {
    /// The job's pool; needed only when several pools have a job of this id.
    pool: Option<String>,
}

/// Query of a log.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    /// The job's pool; needed only when several pools have a job of this id.
    pool: Option<String>,
    /// Only what is stored behind the chunk with this `seq`. The cursor of a page is one, and may be sent as `cursor` as well.
    #[serde(alias = "cursor")]
    after: Option<u64>,
    /// The most chunks: 1 to 512, default 100.
    limit: Option<usize>,
    /// When there is nothing yet and the job runs, wait for more: `30s`, `500ms` or `30`, at most 60 s.
    wait: Option<String>,
}

fn pool(text: Option<&str>) -> Result<Option<PoolName>, ApiError> {
    Ok(text.map(str::parse).transpose()?)
}

fn wait_of(text: Option<&str>) -> Result<Duration, ApiError> {
    text.map_or(Ok(Duration::ZERO), wait::parse)
}

async fn submit(
    State(app): State<App>,
    Query(query): Query<SubmitQuery>,
    Trace(trace): Trace,
    by: Caller,
    noted: Noted,
    headers: HeaderMap,
    Json(mut submit): Json<Submit, JOB_LIMIT>,
) -> Result<Response, ApiError> {
    if let Some(target) = submit.target.take() {
        noted.act("groups.create");
        return groups::submit(&app, submit, target, query.wait.is_some(), &headers, &by, &noted).await;
    }
    let wait = wait_of(query.wait.as_deref())?;
    named::settle_pool(&app, &mut submit).await?;
    let checked = order::idempotency_key(&headers).and_then(|key| Order::check(&submit, key, Timestamp::now()));
    let order = checked.inspect_err(|error| app.desk.submits.with([error.code.as_str()]).inc())?;
    let deadline = Instant::now() + wait;
    // Before the job is published: its result may be there before the broker's acknowledgement of the job is.
    let waiter = if wait.is_zero() { None } else { Some(app.waiters.register(&order.pool, &order.id)?) };
    let mut view = place::place(&app, &order, &trace).await?.view;
    if let Some(mut waiter) = waiter
        && !view.state.is_final()
    {
        view = wait::until(&app, view, &mut waiter, deadline).await;
    }
    let status = if view.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, [(header::LOCATION, location(&view)?)], axum::Json(One { data: view })).into_response())
}

/// Where a job is looked up. An id that we did not make does not tell its pool.
pub(crate) fn location(view: &JobView) -> Result<HeaderValue, ApiError> {
    let pool = if view.id.belongs_to(&view.pool).is_some() { String::new() } else { format!("?pool={}", view.pool) };
    HeaderValue::try_from(format!("{BASE}/jobs/{}{pool}", view.id)).map_err(|error| ApiError::internal("name the job's place", error))
}

async fn submit_batch(
    State(app): State<App>,
    Query(BatchQuery {}): Query<BatchQuery>,
    RequestId(request_id): RequestId,
    Trace(trace): Trace,
    headers: HeaderMap,
    Json(batch): Json<Batch, BATCH_LIMIT>,
) -> Result<Response, ApiError> {
    if headers.contains_key(IDEMPOTENCY_HEADER) {
        let detail = "an Idempotency-Key stands for one job; give each job of a batch an `id` of its own instead";
        return Err(ApiError::new(Code::HeaderInvalid, detail));
    }
    let data = batch::submit(&app, batch, &trace, &request_id).await?;
    let limit = u32::try_from(BATCH_MAX).unwrap_or(u32::MAX);
    Ok(axum::Json(Many { data, meta: Meta { page: Page { limit, cursor: None } } }).into_response())
}

async fn get(State(app): State<App>, Path(id): Path<JobId>, Query(query): Query<LookQuery>) -> Result<axum::Json<One<JobView>>, ApiError> {
    let (pool, wait) = (pool(query.pool.as_deref())?, wait_of(query.wait.as_deref())?);
    let deadline = Instant::now() + wait;
    let mut view = lookup::get(&app, &id, pool.as_ref()).await?.view(&id, Timestamp::now());
    if !wait.is_zero() && !view.state.is_final() {
        let mut waiter = app.waiters.register(&view.pool, &id)?;
        // Again, now that nothing can be missed any more.
        view = lookup::get(&app, &id, Some(&view.pool)).await?.view(&id, Timestamp::now());
        if !view.state.is_final() {
            view = wait::until(&app, view, &mut waiter, deadline).await;
        }
        // Its state may have changed without its having ended.
        if !view.state.is_final() {
            view = lookup::get(&app, &id, Some(&view.pool)).await?.view(&id, Timestamp::now());
        }
    }
    Ok(axum::Json(One { data: view }))
}

async fn stop(State(app): State<App>, Path(id): Path<JobId>, Query(query): Query<PoolQuery>) -> Result<axum::Json<One<JobView>>, ApiError> {
    let pool = pool(query.pool.as_deref())?;
    let data = cancel::cancel(&app, &id, pool.as_ref()).await?;
    Ok(axum::Json(One { data }))
}

async fn log(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (pool, wait) = (pool(query.pool.as_deref())?, wait_of(query.wait.as_deref())?);
    let part = logs::Part { after: query.after.unwrap_or(0), limit: logs::limit(query.limit)? };
    let chunks = logs::read(&app, &id, pool.as_ref(), part, wait).await?;
    if !wants_text(&headers) {
        return Ok(axum::Json(logs::page(chunks, part.limit)).into_response());
    }
    let last = chunks.last().map_or(part.after, |chunk| chunk.seq);
    let headers = [
        // Output is whatever a command wrote: it must not be taken for a page.
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (LOG_SEQUENCE, HeaderValue::from(last)),
    ];
    Ok((headers, logs::plain(&chunks)).into_response())
}

/// Whether the caller asks for text, and not for JSON as well.
fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("text/plain") && !accept.contains("json")
}
