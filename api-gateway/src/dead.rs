//! Dead letters over REST: jobs that nobody could finish are listed, shown, queued again and thrown away.
//!
//! Agents write them; nothing here does. Where they are found is in [`find`], how one is read and shown in [`letter`], queuing again in
//! [`replay`], many at once in [`bulk`].

mod bulk;
mod find;
mod letter;
mod replay;

use axum::{
    Json as Answer,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_schemas::{
    api::{DeadLetterDetail, DeadLetterFilter, DeadLetterView, DeadLettersDone, JobView, Many, One, ReplayTo},
    code::Code,
    names::{JobId, PoolName},
    records::Role,
    time::Timestamp,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    app::App,
    endpoint::{Access, Endpoint},
    extract::{Json, Path, Query, RequestId, Trace},
    jobs, page,
    problem::ApiError,
};
use bulk::{Act, Wanted};

const TAG: &str = "dead letters";
const VIEWER: Access = Access::Role(Role::Viewer);
const OPERATOR: Access = Access::Role(Role::Operator);
const ONE: &[Code] = &[Code::NameInvalid, Code::DeadLetterNotFound, Code::JobAmbiguous];
const REPLAY: &[Code] = &[
    Code::JobFinished,
    Code::BodyNotKept,
    Code::TypeUnknown,
    Code::ParamsInvalid,
    Code::ConnectionNotFound,
    Code::ConnectionMismatch,
    Code::ConnectionUndelivered,
    Code::PoolNotFound,
    Code::QueueFull,
    Code::AgentNotFound,
    Code::AgentRevoked,
];

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v1/dead-letters", VIEWER, list)
            .about(
                TAG,
                "List dead letters",
                "Newest first. A page looks at 1 000 letters at most, so under a filter it may have few entries, or none, and a cursor all the same: it is the last only without one.",
            )
            .query::<ListQuery>()
            .answers::<Many<DeadLetterView>>(StatusCode::OK, "A page of dead letters.")
            .codes(&[Code::NameInvalid]),
        Endpoint::get("/api/v1/dead-letters/{id}", VIEWER, show)
            .about(TAG, "Show a dead letter", "The job, why it died, and each attempt with its agent, times, exit, error and the end of its output.")
            .query::<PoolQuery>()
            .answers::<One<DeadLetterDetail>>(StatusCode::OK, "The dead letter.")
            .codes(ONE),
        Endpoint::post("/api/v1/dead-letters/{id}/replay", OPERATOR, replay_one)
            .about(
                TAG,
                "Replay a dead letter",
                "Queues its job again, as a new one whose `parent` is the first; the letter goes once that is stored. A command goes to its agent again, unless the body names a pool: then to whichever agent of that is next. The same replay again is the same job. The body may be left out.",
            )
            .query::<PoolQuery>()
            .body::<ReplayTo>()
            .answers::<One<JobView>>(StatusCode::ACCEPTED, "The new job is in its queue.")
            .answers::<One<JobView>>(StatusCode::OK, "The letter was replayed before, and its job has ended.")
            .codes(ONE)
            .codes(REPLAY)
            .audited("dead_letters.replay"),
        Endpoint::post("/api/v1/dead-letters/replay", OPERATOR, replay_many)
            .about(TAG, "Replay dead letters by filter", "Oldest first, 1 000 in one call. A filter that says nothing is refused; `all` says all.")
            .body::<DeadLetterFilter>()
            .answers::<One<DeadLettersDone>>(StatusCode::OK, "What became of them, and how many may be left.")
            .codes(&[Code::NameInvalid, Code::QueryInvalid])
            .audited("dead_letters.replay_many"),
        Endpoint::post("/api/v1/dead-letters/delete", OPERATOR, delete_many)
            .about(TAG, "Delete dead letters by filter", "Oldest first, 1 000 in one call. A filter that says nothing is refused; `all` says all.")
            .body::<DeadLetterFilter>()
            .answers::<One<DeadLettersDone>>(StatusCode::OK, "What became of them, and how many may be left.")
            .codes(&[Code::NameInvalid, Code::QueryInvalid])
            .audited("dead_letters.delete_many"),
        Endpoint::delete("/api/v1/dead-letters/{id}", OPERATOR, delete_one)
            .about(TAG, "Delete a dead letter", "The job's result stays.")
            .query::<PoolQuery>()
            .answers_other(StatusCode::NO_CONTENT, "The dead letter is gone.", "")
            .codes(ONE)
            .audited("dead_letters.delete"),
    ]
}

/// Query of the list. All filters have to match.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Of this pool.
    pool: Option<String>,
    /// Of this type.
    #[serde(rename = "type")]
    job_type: Option<String>,
    /// Stored at or after this, RFC 3339.
    since: Option<Timestamp>,
    /// Stored before this, RFC 3339.
    until: Option<Timestamp>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

/// Query that may name a pool.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PoolQuery {
    /// The job's pool; needed only when several pools have a dead letter of a job of this id.
    pool: Option<String>,
}

impl PoolQuery {
    fn pool(&self) -> Result<Option<PoolName>, ApiError> {
        pool(self.pool.as_deref())
    }
}

fn pool(text: Option<&str>) -> Result<Option<PoolName>, ApiError> {
    Ok(text.map(str::parse).transpose()?)
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Answer<Many<DeadLetterView>>, ApiError> {
    let (limit, before) = (page::limit(query.limit)?, query.cursor.as_deref().map(find::sequence).transpose()?);
    let job_type = query.job_type.as_deref().map(str::parse).transpose()?;
    let filter = find::Filter { pool: pool(query.pool.as_deref())?, job_type, since: query.since, until: query.until };
    Ok(Answer(find::page(&app, &filter, limit, before).await?))
}

async fn show(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<PoolQuery>,
) -> Result<Answer<One<DeadLetterDetail>>, ApiError> {
    let letter = find::one(&app, &id, query.pool()?.as_ref()).await?;
    let data = letter.detail(&app).await.map_err(|error| error.while_doing(find::READ))?;
    Ok(Answer(One { data }))
}

async fn replay_one(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<PoolQuery>,
    Trace(trace): Trace,
    body: Option<Json<ReplayTo>>,
) -> Result<Response, ApiError> {
    let to = pool(body.as_ref().and_then(|Json(body)| body.pool.as_deref()))?;
    let letter = find::one(&app, &id, query.pool()?.as_ref()).await?;
    let data = replay::replay(&app, letter, to.as_ref(), &trace).await?;
    let status = if data.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, [(header::LOCATION, jobs::location(&data)?)], Answer(One { data })).into_response())
}

async fn replay_many(
    State(app): State<App>,
    RequestId(request_id): RequestId,
    Trace(trace): Trace,
    Json(filter): Json<DeadLetterFilter>,
) -> Result<Answer<One<DeadLettersDone>>, ApiError> {
    let act = Act::Replay { to: pool(filter.to.as_deref())?, trace };
    let data = bulk::run(&app, Wanted::check(&filter)?, &act, &request_id).await?;
    Ok(Answer(One { data }))
}

async fn delete_many(
    State(app): State<App>,
    RequestId(request_id): RequestId,
    Json(filter): Json<DeadLetterFilter>,
) -> Result<Answer<One<DeadLettersDone>>, ApiError> {
    if filter.to.is_some() {
        return Err(ApiError::new(Code::FieldInvalid, "field `to`: what is deleted goes nowhere"));
    }
    let data = bulk::run(&app, Wanted::check(&filter)?, &Act::Delete, &request_id).await?;
    Ok(Answer(One { data }))
}

async fn delete_one(State(app): State<App>, Path(id): Path<JobId>, Query(query): Query<PoolQuery>) -> Result<StatusCode, ApiError> {
    let letter = find::one(&app, &id, query.pool()?.as_ref()).await?;
    replay::remove(&app, &letter).await?;
    Ok(StatusCode::NO_CONTENT)
}
