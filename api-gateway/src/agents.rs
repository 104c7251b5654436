//! Agents over REST: lists and single ones here, registering in [`register`], jobs for one of them in [`commands`].

pub(crate) mod commands;
mod filter;
pub(crate) mod ping;
mod register;
mod store;
mod view;

use axum::{Json as Answer, extract::State, http::StatusCode};
use futures_util::{StreamExt as _, stream};
use muster_schemas::{
    api::{AgentHealth, AgentView, ConnectedAgent, Many, One, PongView, Register, Registered},
    code::Code,
    heartbeat::Heartbeat,
    names::AgentId,
    records::{AgentRecord, Role},
    subjects, topology, wire,
};

use crate::{
    app::App,
    endpoint::{Access, Endpoint},
    extract::{Path, Query},
    problem::ApiError,
};

use filter::{ConnectedQuery, Filter, ListQuery};

const TAG: &str = "agents";
const VIEWER: Access = Access::Role(Role::Viewer);
/// Heartbeats read at once for one page.
const READS_AT_ONCE: usize = 32;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    let own = vec![
        Endpoint::post("/api/v1/agents/register", Access::AgentOrToken, register::register)
            .about(TAG, "Register an agent", register::ABOUT)
            .body::<Register>()
            .answers::<One<Registered>>(StatusCode::CREATED, "A new agent; its API key is shown once.")
            .answers::<One<Registered>>(StatusCode::OK, "An agent that came back with its API key.")
            .codes(&[Code::NameInvalid, Code::NameTaken, Code::LabelsInvalid, Code::PoolNotFound, Code::AgentNotFound, Code::AgentRevoked]),
        Endpoint::get("/api/v1/agents", VIEWER, list)
            .about(TAG, "List agents", "Newest first, or by name. All filters have to match.")
            .query::<ListQuery>()
            .answers::<Many<AgentView>>(StatusCode::OK, "A page of agents.")
            .codes(&[Code::QueryInvalid, Code::NameInvalid]),
        Endpoint::get("/api/v1/agents/connected", VIEWER, connected)
            .about(TAG, "List agents that are there", "Those online and degraded, newest first, with the start of their present run.")
            .query::<ConnectedQuery>()
            .answers::<Many<ConnectedAgent>>(StatusCode::OK, "A page of agents.")
            .codes(&[Code::QueryInvalid, Code::NameInvalid]),
        Endpoint::get("/api/v1/agents/{id}", VIEWER, one)
            .about(TAG, "Read an agent", "")
            .answers::<One<AgentView>>(StatusCode::OK, "The agent.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid]),
        Endpoint::get("/api/v1/agents/{id}/health", VIEWER, health)
            .about(TAG, "Read an agent's health", "Its standing, both parts of its score, and what its last heartbeat said.")
            .answers::<One<AgentHealth>>(StatusCode::OK, "Its health.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid]),
        Endpoint::post("/api/v1/agents/{id}/ping", VIEWER, ping::ping)
            .about(TAG, "Ping an agent", "Asks the agent itself and waits up to 5 s for its answer. Runs no job.")
            .answers::<One<PongView>>(StatusCode::OK, "It answered.")
            .codes(&[Code::AgentNotFound, Code::AgentSilent, Code::NameInvalid]),
    ];
    own.into_iter().chain(commands::endpoints()).collect()
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Answer<Many<AgentView>>, ApiError> {
    let filter = Filter::try_from(query)?;
    Ok(Answer(filter.page(views(&app))))
}

async fn connected(State(app): State<App>, Query(query): Query<ConnectedQuery>) -> Result<Answer<Many<ConnectedAgent>>, ApiError> {
    let filter = Filter::try_from(query)?;
    let Many { data, meta } = filter.page(views(&app));
    let beats = stream::iter(data).map(async |agent| {
        let beat = heartbeat(&app, &agent).await?;
        Ok::<_, ApiError>(ConnectedAgent { connected_since: beat.map(|beat| beat.started_at), agent })
    });
    let beats: Vec<Result<ConnectedAgent, ApiError>> = beats.buffered(READS_AT_ONCE).collect().await;
    Ok(Answer(Many { data: beats.into_iter().collect::<Result<_, _>>()?, meta }))
}

async fn one(State(app): State<App>, Path(id): Path<AgentId>) -> Result<Answer<One<AgentView>>, ApiError> {
    Ok(Answer(One { data: read(&app, &id).await? }))
}

async fn health(State(app): State<App>, Path(id): Path<AgentId>) -> Result<Answer<One<AgentHealth>>, ApiError> {
    let agent = read(&app, &id).await?;
    let beat = heartbeat(&app, &agent).await?;
    Ok(Answer(One { data: view::health(agent, beat) }))
}

/// All agents as the copies have them, in the order of their ids.
fn views(app: &App) -> impl DoubleEndedIterator<Item = AgentView> {
    let agents = app.mirror.agents.all();
    agents.into_iter().map(|(id, record)| view::agent(AgentRecord::clone(&record), app.mirror.standings.get(&id).as_deref().cloned()))
}

/// One agent, exactly as the buckets have it now.
async fn read(app: &App, id: &AgentId) -> Result<AgentView, ApiError> {
    let held = app.buckets.agent(id).await?;
    let record = held.ok_or_else(|| unknown(id))?.record;
    let standing = app.buckets.standing(&record.pool, id).await?;
    Ok(view::agent(record, standing.map(|held| held.record)))
}

fn unknown(id: &AgentId) -> ApiError {
    ApiError::new(Code::AgentNotFound, format!("there is no agent {id}"))
}

/// An agent's last heartbeat. `None` when it never sent one, or one that can't be read.
async fn heartbeat(app: &App, agent: &AgentView) -> Result<Option<Heartbeat>, ApiError> {
    use async_nats::jetstream::stream::DirectGetErrorKind;
    let failed = |error: &dyn std::fmt::Display| ApiError::broker("read a heartbeat", error);
    let stream = app.js.get_stream_no_info(topology::HEARTBEATS).await.map_err(|error| failed(&error))?;
    match stream.direct_get_last_for_subject(subjects::heartbeat(&agent.pool, &agent.id)).await {
        Ok(message) => {
            Ok(wire::decode(&message.payload).inspect_err(|error| tracing::warn!(agent = %agent.id, %error, "bad heartbeat")).ok())
        }
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}
