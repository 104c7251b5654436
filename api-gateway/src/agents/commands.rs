//! Commands: jobs for one agent alone. Submitted and listed here; from then on each is a job like any other.
//!
//! What a caller wrote becomes an order in [`ask`]; the list is in [`list`]. A command waits in the stream that all agents share, for as long as its
//! agent is away or may take nothing, until it expires.

mod ask;
mod list;

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_broker_config::provision;
use muster_schemas::{
    api::{Command, CommandAccepted, CommandView, IDEMPOTENCY_HEADER, Many, One},
    code::Code,
    control::{Order, What},
    names::{AgentId, ExecutorName, JobType, PoolName},
    records::{AgentRecord, AgentState, Role},
    subjects,
    time::Timestamp,
    wire::{self, V},
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use super::{TAG, VIEWER, store, unknown};
use crate::{
    app::App,
    audit::Noted,
    connections::named,
    endpoint::{Access, Endpoint},
    extract::{JOB_LIMIT, Json, Path, Query, Trace},
    jobs::{self, order, place, wait},
    problem::ApiError,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/api/v1/agents/{id}/commands", Access::Role(Role::Operator), submit)
            .about(
                TAG,
                "Send an agent a command",
                "A job for this agent alone, stored on the broker's disk before it is answered. An agent that is away or may take nothing gets it once it is back or may, unless it expires: after 24 hours if it does not say when. From then on it is a job: look it up, cancel it, read its output by `command_id`. A `type` without a verb means `<type>.run`; `params.timeout` beside `params.command` is taken as `timeout_s`.",
            )
            .query::<SubmitQuery>()
            .header(IDEMPOTENCY_HEADER, "1 to 255 visible ASCII characters: a second command with the same key to the same agent answers the first one.")
            .body::<Command>()
            .answers::<One<CommandAccepted>>(StatusCode::ACCEPTED, "The command waits for its agent.")
            .answers::<One<CommandAccepted>>(StatusCode::OK, "The command has ended: within the wait, or before this one was sent.")
            .codes(jobs::JOB_CODES)
            .codes(named::CODES)
            .codes(&[Code::AgentNotFound, Code::AgentRevoked, Code::TimeInvalid, Code::QueueFull, Code::WaitInvalid])
            .codes(&[Code::HeaderInvalid, Code::JobConflict])
            .audited("agents.command"),
        Endpoint::get("/api/v1/agents/{id}/commands", VIEWER, list::list)
            .about(
                TAG,
                "List an agent's commands",
                "Newest first, each with the end of its output while its result is kept. From a dispatcher's history, which is a fraction of a second behind. A page may be short and still have a cursor.",
            )
            .query::<list::CommandsQuery>()
            .answers::<Many<CommandView>>(StatusCode::OK, "A page of commands.")
            .codes(&[Code::NameInvalid, Code::QueryInvalid, Code::AgentNotFound, Code::HistoryUnavailable]),
    ]
}

/// Query of a command.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubmitQuery {
    /// Wait for the command to end, and answer it with its result: `30s`, `500ms` or `30`, at most 60 s.
    wait: Option<String>,
}

async fn submit(
    State(app): State<App>,
    Path(agent): Path<AgentId>,
    Query(query): Query<SubmitQuery>,
    Trace(trace): Trace,
    noted: Noted,
    headers: HeaderMap,
    Json(command): Json<Command, JOB_LIMIT>,
) -> Result<Response, ApiError> {
    let wait = query.wait.as_deref().map(wait::parse).transpose()?.filter(|wait| !wait.is_zero());
    let pool = pool_of(&app, &agent).await?;
    let checked = order::idempotency_key(&headers).and_then(|key| ask::order(command, &pool, &agent, key, Timestamp::now()));
    let order = checked.inspect_err(|error| app.desk.submits.with([error.code.as_str()]).inc())?;
    noted.detail(format!("job {}", order.id));
    let deadline = wait.map(|wait| Instant::now() + wait);
    // Before the command is published: its result may be there before the broker's acknowledgement of the command is.
    let waiter = deadline.map(|_| app.waiters.register(&order.pool, &order.id)).transpose()?;
    let place::Placed { mut view, repeated } = place::place(&app, &order, &trace).await?;
    if let (Some(mut waiter), Some(deadline), false) = (waiter, deadline, view.state.is_final()) {
        view = wait::until(&app, view, &mut waiter, deadline).await;
    }
    let (location, ended) = (jobs::location(&view)?, view.state.is_final());
    let status = if repeated || ended { view.state.as_str() } else { "queued" };
    let data = CommandAccepted {
        command_id: view.id.clone(),
        status: status.to_owned(),
        expires_at: order.job.expires_at.filter(|_| !repeated && !ended),
        job: wait.map(|_| view),
    };
    let code = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((code, [(header::LOCATION, location)], Answer(One { data })).into_response())
}

/// The pool of an agent. Whether the agent may be sent commands is asked of the bucket itself, in [`ready`].
async fn pool_of(app: &App, agent: &AgentId) -> Result<PoolName, ApiError> {
    if let Some(record) = app.mirror.agents.get(agent).filter(|record| record.state != AgentState::Deleting) {
        return Ok(record.pool.clone());
    }
    Ok(store::there(app, agent).await?.record.pool)
}

/// Makes sure that an agent of this pool can be sent a command of this type. Whether it is there, and may take any at present, does not
/// matter: the command waits.
///
/// # Errors
/// `agent_not_found`; `agent_revoked`; `type_unknown` when it does not have the executor; `pool_not_found`; `broker_unavailable`.
pub(crate) async fn ready(app: &App, pool: &PoolName, agent: &AgentId, job_type: &JobType) -> Result<(), ApiError> {
    let record = Some(store::there(app, agent).await?.record).filter(|record| record.pool == *pool).ok_or_else(|| unknown(agent))?;
    fit(&record, job_type)?;
    if app.mirror.pools.get(pool).is_none() {
        app.buckets.pool(pool).await?;
    }
    Ok(())
}

/// Sees to it that an agent gets a command that was stored for it: makes the consumer, which is there only while an agent has commands, and tells
/// the agent to ask. Not before it is stored: the dispatcher removes consumers that have nothing to give.
///
/// Failures are logged only: the command is stored, and the dispatcher sees to it within seconds.
pub(crate) async fn reach(app: &App, pool: &PoolName, agent: &AgentId) {
    let (task, pool, agent) = (app.clone(), pool.clone(), agent.clone());
    // To its end, also when the caller hangs up.
    let reached = app.desk.group().spawn(async move {
        if let Err(error) = provision::ensure_commands(&task.nats, &pool, &agent).await {
            return tracing::warn!(%error, %agent, "the consumer of an agent's commands could not be made; the dispatcher will");
        }
        let order = wire::encode(&Order { v: V, what: What::AskQueue });
        if let Err(error) = task.nats.publish(subjects::control(&agent), order.into()).await {
            tracing::debug!(%error, %agent, "an agent could not be told of a command; the dispatcher will");
        }
    });
    if let Err(error) = reached.await {
        tracing::warn!(%error, "an agent was not told of its command; the dispatcher will");
    }
}

fn fit(record: &AgentRecord, job_type: &JobType) -> Result<(), ApiError> {
    let (name, id, executor) = (&record.name, &record.id, job_type.executor());
    if record.state == AgentState::Revoked {
        let detail = format!("agent `{name}` ({id}) is revoked: it gets nothing until an operator enables it again");
        return Err(ApiError::new(Code::AgentRevoked, detail));
    }
    // Of one that has never registered nobody knows what it will have.
    if record.registered_at.is_none() && record.capabilities.is_empty() || record.may_run(&executor) {
        return Ok(());
    }
    let have = record.executors().iter().map(ExecutorName::as_str).collect::<Vec<_>>().join(", ");
    let have = if have.is_empty() { "none at all".to_owned() } else { have };
    Err(ApiError::new(Code::TypeUnknown, format!("agent `{name}` ({id}) does not run `{executor}` jobs; its executors: {have}")))
}
