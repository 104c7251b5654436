//! Agents over REST: lists and single ones here.
//!
//! | to find | look in |
//! |---|---|
//! | creating one before it is there | [`create`] |
//! | registering, with a token or a key | [`register`] |
//! | changing what operators say of it, its pool too | [`change`] |
//! | disable, drain, enable, revoke, another key, remove | [`states`] |
//! | how an identity ends, whatever ended it | [`ending`] |
//! | an ephemeral agent's leaving | [`leave`] |
//! | jobs for one of them | [`commands`] |

mod change;
pub(crate) mod commands;
mod create;
mod ending;
mod filter;
pub(crate) mod leave;
pub(crate) mod ping;
mod register;
mod said;
mod secrets;
mod states;
mod store;
mod view;

use axum::{Json as Answer, extract::State, http::StatusCode};
use futures_util::{StreamExt as _, stream};
use muster_schemas::{
    api::{
        AgentHealth, AgentSecret, AgentView, ChangeAgent, ConnectedAgent, CreateAgent, Many, One, PongView, Register, Registered, Revoke,
    },
    code::Code,
    heartbeat::Heartbeat,
    names::AgentId,
    records::{AgentRecord, AgentState, Role},
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
const OPERATOR: Access = Access::Role(Role::Operator);
const ADMIN: Access = Access::Role(Role::Admin);
/// Heartbeats read at once for one page.
const READS_AT_ONCE: usize = 32;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    let own = vec![
        Endpoint::post("/api/v1/agents/register", Access::AgentOrToken, register::register)
            .about(TAG, "Register an agent", register::ABOUT)
            .body::<Register>()
            .answers::<One<Registered>>(StatusCode::CREATED, "A new agent; its API key is shown once.")
            .answers::<One<Registered>>(StatusCode::OK, "An agent that came back with its API key.")
            .codes(&[Code::NameInvalid, Code::NameTaken, Code::LabelsInvalid, Code::PoolNotFound, Code::AgentNotFound, Code::AgentRevoked])
            .codes(&[Code::KeyRevoked, Code::ClockSkewed, Code::AgentBusy])
            .audited_made("agents.register", "/data/agent_id"),
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
            .codes(&[Code::AgentNotFound, Code::AgentSilent, Code::NameInvalid])
            .unaudited("agents.ping", "it changes nothing"),
    ];
    own.into_iter().chain(lives()).chain(commands::endpoints()).collect()
}

/// What operators do to agents.
fn lives() -> Vec<Endpoint> {
    let changing = |endpoint: Endpoint| {
        endpoint
            .about(TAG, "Change an agent", change::ABOUT)
            .body::<ChangeAgent>()
            .answers::<One<AgentView>>(StatusCode::OK, "The agent as it is now.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid, Code::LabelsInvalid, Code::PoolNotFound, Code::AgentBusy, Code::SettlePending])
            .audited("agents.change")
    };
    vec![
        Endpoint::post("/api/v1/agents", ADMIN, create::create)
            .about(TAG, "Create an agent", create::ABOUT)
            .body::<CreateAgent>()
            .answers::<One<AgentSecret>>(StatusCode::CREATED, "The agent, and its secret, shown once.")
            .codes(&[Code::NameInvalid, Code::NameTaken, Code::LabelsInvalid, Code::PoolNotFound])
            .audited_made("agents.create", "/data/id"),
        changing(Endpoint::patch("/api/v1/agents/{id}", ADMIN, change::change)),
        changing(Endpoint::put("/api/v1/agents/{id}", ADMIN, change::change)),
        Endpoint::delete("/api/v1/agents/{id}", ADMIN, states::remove)
            .about(TAG, "Remove an agent", states::REMOVE_ABOUT)
            .answers_other(StatusCode::NO_CONTENT, "It is gone.", "")
            .codes(&[Code::AgentNotFound, Code::NameInvalid, Code::SettlePending])
            .audited("agents.delete"),
        Endpoint::post("/api/v1/agents/{id}/disable", OPERATOR, states::disable)
            .about(TAG, "Disable an agent", "It takes nothing new until it is enabled again. What it runs, it ends.")
            .answers::<One<AgentView>>(StatusCode::OK, "The agent as it is now.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid, Code::AgentBusy])
            .audited("agents.disable"),
        Endpoint::post("/api/v1/agents/{id}/drain", OPERATOR, states::drain)
            .about(
                TAG,
                "Drain an agent",
                "It ends what it has and takes nothing new, until it is enabled again. It stays online meanwhile.",
            )
            .answers::<One<AgentView>>(StatusCode::OK, "The agent as it is now.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid, Code::AgentBusy])
            .audited("agents.drain"),
        Endpoint::post("/api/v1/agents/{id}/enable", OPERATOR, states::enable)
            .about(TAG, "Enable an agent", states::ENABLE_ABOUT)
            .answers::<One<AgentSecret>>(StatusCode::OK, "The agent as it is now, with a join token where it needs one.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid, Code::AgentBusy])
            .audited("agents.enable"),
        Endpoint::post("/api/v1/agents/{id}/revoke", ADMIN, states::revoke)
            .about(TAG, "Revoke an agent", states::REVOKE_ABOUT)
            .body::<Revoke>()
            .answers::<One<AgentView>>(StatusCode::OK, "It is cut off.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid, Code::SettlePending])
            .audited("agents.revoke"),
        Endpoint::post("/api/v1/agents/{id}/rotate-key", ADMIN, states::rotate_key)
            .about(TAG, "Give an agent a new key", states::ROTATE_ABOUT)
            .answers::<One<AgentSecret>>(StatusCode::OK, "The agent, and its new key, shown once.")
            .codes(&[Code::AgentNotFound, Code::NameInvalid, Code::AgentBusy, Code::SettlePending])
            .audited("agents.rotate_key"),
    ]
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
    // One that is being removed is gone already.
    let there = agents.into_iter().filter(|(_, record)| record.state != AgentState::Deleting);
    there.map(|(id, record)| view::agent(AgentRecord::clone(&record), app.mirror.standings.get(&id).as_deref().cloned()))
}

/// One agent, exactly as the buckets have it now.
async fn read(app: &App, id: &AgentId) -> Result<AgentView, ApiError> {
    let record = store::there(app, id).await?.record;
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
