//! Endpoints of pools: what each takes, answers and refuses.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::{Many, One, PausePool, PoolHealth, PoolView, PutPool},
    code::Code,
    names::PoolName,
    records::{PoolRecord, Role},
    time::Timestamp,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{health, pause, put, queue, remove};
use crate::{
    app::App,
    auth::Caller,
    endpoint::{Access, Endpoint},
    extract::{Json, Path, Query},
    page::{self, ListQuery},
    problem::ApiError,
};

/// How many queues are looked at side by side for a list.
const AT_ONCE: usize = 8;

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::put("/api/v1/pools/{name}", Access::Role(Role::Admin), save)
            .about(
                "pools",
                "Make or change a pool",
                "What is left out keeps its value. Lanes are only added; an empty list of executors adds none, and makes a new pool with `probe` alone. \
                 `defaults` are replaced as a whole, and reach a job when an agent starts it.",
            )
            .body::<PutPool>()
            .answers::<One<PoolView>>(StatusCode::OK, "The pool as it is now.")
            .answers::<One<PoolView>>(StatusCode::CREATED, "The pool is made.")
            .codes(&[Code::NameInvalid, Code::TimeoutInvalid, Code::RetryInvalid])
            .audited("pools.put"),
        Endpoint::get("/api/v1/pools", Access::Role(Role::Viewer), list)
            .about("pools", "List pools", "By name.")
            .query::<ListQuery>()
            .answers::<Many<PoolView>>(StatusCode::OK, "A page of pools."),
        Endpoint::get("/api/v1/pools/{name}", Access::Role(Role::Viewer), get)
            .about(
                "pools",
                "Look up a pool",
                "With what is in its queue now. A job that waits for its next attempt counts as running, and so may one that has ended within \
                 the last second.",
            )
            .answers::<One<PoolView>>(StatusCode::OK, "The pool.")
            .codes(&[Code::NameInvalid, Code::PoolNotFound]),
        Endpoint::delete("/api/v1/pools/{name}", Access::Role(Role::Admin), delete)
            .about(
                "pools",
                "Remove a pool",
                "Refused while it has jobs, commands to its agents or agents, or schedules name it, with what would be lost. With `force`, its jobs and \
                 commands are cancelled (each gets its result), and only agents that are there are in the way. Its schedules stay: each of their \
                 firings is refused for as long as there is no pool of that name.",
            )
            .query::<DeleteQuery>()
            .answers_other(StatusCode::NO_CONTENT, "The pool is gone.", "")
            .codes(&[Code::NameInvalid, Code::PoolNotFound, Code::PoolNotEmpty])
            .audited("pools.delete"),
        Endpoint::post("/api/v1/pools/{name}/pause", Access::Role(Role::Operator), stop)
            .about(
                "pools",
                "Pause a pool",
                "From the moment of the answer it gives out no job. Jobs are taken and wait, those that run end normally, and a job whose \
                 agent is lost waits too. Who, when and why are shown with the pool. Pausing again replaces them, but without a note \
                 the earlier one stays.",
            )
            .body::<PausePool>()
            .answers::<One<PoolView>>(StatusCode::OK, "The pool, paused.")
            .codes(&[Code::NameInvalid, Code::PoolNotFound])
            .audited("pools.pause"),
        Endpoint::post("/api/v1/pools/{name}/resume", Access::Role(Role::Operator), go_on)
            .about("pools", "Let a paused pool go on", "Jobs that waited are given out at once. A pool that is not paused stays as it is.")
            .answers::<One<PoolView>>(StatusCode::OK, "The pool.")
            .codes(&[Code::NameInvalid, Code::PoolNotFound])
            .audited("pools.resume"),
        Endpoint::get("/api/v1/pools/{name}/health", Access::Role(Role::Viewer), health)
            .about("pools", "A pool's health", "Whether jobs of it run, by its agents' standings.")
            .answers::<One<PoolHealth>>(StatusCode::OK, "Its health.")
            .codes(&[Code::NameInvalid, Code::PoolNotFound]),
    ]
}

/// Query of a removal.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteQuery {
    /// Cancel the pool's jobs, and take no account of agents that are offline.
    #[serde(default, deserialize_with = "flag")]
    force: bool,
}

/// A parameter that is set by being there: `?force` is `?force=true`.
fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match String::deserialize(from)?.as_str() {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(D::Error::custom("`force` takes `true` or `false`, and is `true` without either")),
    }
}

async fn view(app: &App, record: &PoolRecord) -> Result<PoolView, ApiError> {
    let queue = queue::look(app, record).await.map_err(|error| error.while_doing("look at the pool's queue"))?;
    Ok(PoolView {
        name: record.name.clone(),
        description: record.description.clone(),
        executors: record.executors.clone(),
        limits: record.limits,
        defaults: record.defaults.clone(),
        paused: record.paused.clone(),
        created_at: record.created_at,
        queue,
    })
}

async fn save(State(app): State<App>, Path(name): Path<PoolName>, Json(body): Json<PutPool>) -> Result<Response, ApiError> {
    let wanted = put::Wanted::check(body)?;
    let (record, new) = put::put(&app, &name, &wanted).await?;
    let data = view(&app, &record).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(One { data })).into_response())
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<axum::Json<Many<PoolView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let after = query.cursor.as_deref().map(page::Cursor::decode).transpose()?;
    let pools = app.mirror.pools.all().into_iter();
    let behind = pools.filter(|(name, _)| after.as_deref().is_none_or(|after| name.as_str() > after));
    let page = page::cut(behind, limit, |(name, _)| name.to_string());
    let views = stream::iter(page.data).map(|(_, record)| {
        let app = app.clone();
        async move { view(&app, &record).await }
    });
    let data = views.buffered(AT_ONCE).try_collect().await?;
    Ok(axum::Json(Many { data, meta: page.meta }))
}

async fn get(State(app): State<App>, Path(name): Path<PoolName>) -> Result<axum::Json<One<PoolView>>, ApiError> {
    let record = app.buckets.pool(&name).await?.record;
    let data = view(&app, &record).await?;
    Ok(axum::Json(One { data }))
}

async fn stop(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<PoolName>,
    body: Option<Json<PausePool>>,
) -> Result<axum::Json<One<PoolView>>, ApiError> {
    let paused = pause::wanted(&caller, body.map(|Json(body)| body).unwrap_or_default(), Timestamp::now())?;
    let record = pause::set(&app, &name, Some(paused)).await?;
    tracing::info!(pool = %name, by = caller.name, key_id = caller.key_id, "a pool is paused");
    Ok(axum::Json(One { data: view(&app, &record).await? }))
}

async fn go_on(State(app): State<App>, caller: Caller, Path(name): Path<PoolName>) -> Result<axum::Json<One<PoolView>>, ApiError> {
    let record = pause::set(&app, &name, None).await?;
    tracing::info!(pool = %name, by = caller.name, key_id = caller.key_id, "a pool goes on");
    Ok(axum::Json(One { data: view(&app, &record).await? }))
}

async fn delete(State(app): State<App>, Path(name): Path<PoolName>, Query(query): Query<DeleteQuery>) -> Result<StatusCode, ApiError> {
    remove::remove(&app, &name, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn health(State(app): State<App>, Path(name): Path<PoolName>) -> Result<axum::Json<One<PoolHealth>>, ApiError> {
    let record = app.buckets.pool(&name).await?.record;
    let queue = queue::look(&app, &record).await.map_err(|error| error.while_doing("look at the pool's queue"))?;
    let members: Vec<_> = app.mirror.agents.all().into_iter().filter(|(_, agent)| agent.pool == name).collect();
    let standings: Vec<_> = members.iter().map(|(id, _)| app.mirror.standings.get(id)).collect();
    let agents = members.iter().zip(&standings).map(|((_, agent), standing)| (agent.as_ref(), standing.as_deref()));
    let (counts, fit) = health::count(agents);
    Ok(axum::Json(One { data: health::judge(name, record.paused.as_ref(), counts, fit, queue) }))
}
