//! Names of agents: each belongs to one agent at a time, wherever gateways race for it. And their records, read and changed.

use std::time::Duration;

use async_nats::jetstream::kv::{self, CreateErrorKind, Operation};
use muster_schemas::{
    code::Code,
    names::{AgentId, AgentName},
    records::{AgentRecord, AgentState, keys},
    time::Timestamp,
    topology::MARKER_AGE,
};

use super::unknown;
use crate::{
    app::{App, Held, update},
    problem::ApiError,
};

/// A name whose agent has no record after this long belongs to a registration that was cut off: it is free again.
const ABANDONED: Duration = Duration::from_secs(60);

/// How often a write is tried again after somebody else's.
const TRIES: usize = 10;

/// An agent's record, straight from the bucket. One that is being removed is gone already.
///
/// # Errors
/// `agent_not_found`.
pub(super) async fn there(app: &App, id: &AgentId) -> Result<Held<AgentRecord>, ApiError> {
    let held = app.buckets.agent(id).await?;
    held.filter(|held| held.record.state != AgentState::Deleting).ok_or_else(|| unknown(id))
}

/// Changes an agent's record, and answers it as it is then. `change` is given it again whenever somebody else was faster; `None` leaves it.
///
/// # Errors
/// `agent_not_found`, also for one that is being removed; and those of `change`.
pub(super) async fn change(
    app: &App,
    id: &AgentId,
    mut change: impl FnMut(AgentRecord) -> Result<Option<AgentRecord>, ApiError>,
) -> Result<AgentRecord, ApiError> {
    let gone = |record: AgentRecord| if record.state == AgentState::Deleting { Err(unknown(id)) } else { change(record) };
    change_any(app, id, gone).await
}

/// As [`change`], of one that is being removed too.
pub(super) async fn change_any(
    app: &App,
    id: &AgentId,
    mut change: impl FnMut(AgentRecord) -> Result<Option<AgentRecord>, ApiError>,
) -> Result<AgentRecord, ApiError> {
    for _ in 0..TRIES {
        let Held { record, revision } = app.buckets.agent(id).await?.ok_or_else(|| unknown(id))?;
        let Some(changed) = change(record.clone())? else { return Ok(record) };
        if let Some(revision) = update(&app.buckets.agents, &keys::agent(id), &changed, revision).await? {
            app.mirror.agents.caught_up(revision).await;
            return Ok(changed);
        }
    }
    Err(ApiError::broker("store the agent", "others kept changing it"))
}

/// A name that was reserved; without a record that goes with it, it has to be released.
#[derive(Debug)]
pub(super) struct Reserved {
    key: String,
    revision: u64,
}

/// Reserves a name for an agent.
///
/// # Errors
/// `name_taken`.
pub(super) async fn reserve(app: &App, name: &AgentName, id: &AgentId) -> Result<Reserved, ApiError> {
    let (bucket, key) = (&app.buckets.agents, keys::agent_name(name));
    let value = || id.to_string().into_bytes().into();
    match bucket.create(&key, value()).await {
        Ok(revision) => return Ok(Reserved { key, revision }),
        Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let taken = || ApiError::new(Code::NameTaken, format!("another agent has the name `{name}`; choose another name or remove that agent"));
    let entry = bucket.entry(&key).await.map_err(failed)?.filter(|entry| entry.operation == Operation::Put).ok_or_else(taken)?;
    if !abandoned(app, &entry).await? {
        return Err(taken());
    }
    tracing::warn!(%name, "a name is taken over from a registration that was cut off");
    let revision = bucket.update(&key, value(), entry.revision).await.map_err(|_| taken())?;
    Ok(Reserved { key, revision })
}

async fn abandoned(app: &App, entry: &kv::Entry) -> Result<bool, ApiError> {
    let reserved_at = Timestamp::from_nanos(i64::try_from(entry.created.unix_timestamp_nanos()).unwrap_or(i64::MAX));
    if Timestamp::now().since(reserved_at) < ABANDONED {
        return Ok(false);
    }
    match std::str::from_utf8(&entry.value).ok().and_then(|id| id.parse::<AgentId>().ok()) {
        Some(holder) => Ok(app.buckets.agent(&holder).await?.is_none()),
        None => Ok(true),
    }
}

/// Gives a name back after a registration that failed.
pub(super) async fn release(app: &App, reserved: Reserved) {
    if let Err(error) = app.buckets.agents.purge_expect_revision_with_ttl(&reserved.key, reserved.revision, MARKER_AGE).await {
        tracing::warn!(%error, key = reserved.key, "a name could not be released; it is free again in a minute");
    }
}

fn failed(error: impl std::fmt::Display) -> ApiError {
    ApiError::broker("reserve the name", error)
}
