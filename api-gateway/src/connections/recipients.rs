//! Which agents are to have a connection's credentials, and how far they are with each: from their heartbeats and their mailboxes.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use muster_schemas::{
    api::{Delivery, Recipient},
    connection::{ConnectionRecord, SealedEntry},
    heartbeat::Heartbeat,
    names::{AgentId, PoolName},
    records::{AgentRecord, AgentState},
    sealed::SealingKey,
    standing::Status,
    subjects,
    topology::HEARTBEATS,
    wire,
};

use super::mailbox;
use crate::{app::App, problem::ApiError, stored};

/// How long an agent may take with what lies in its mailbox, its clock included.
const TAKING: Duration = Duration::from_secs(60);
/// Agents that are looked at side by side.
const AT_ONCE: usize = 32;
/// The same where the first that has something is enough.
const FEW: usize = 4;

/// Every agent that may have the credentials, by id.
pub(super) async fn all(app: &App, connection: &ConnectionRecord) -> Result<Vec<Recipient>, ApiError> {
    let each = stream::iter(members(app, &connection.pool)).map(|(id, agent)| async move {
        let (beat, mailbox) = tokio::try_join!(heartbeat(app, &connection.pool, &id), mailbox::open(app, &id))?;
        let sealing = beat.as_ref().and_then(|beat| sealing(&agent, beat));
        let (status, revision) = status(connection, sealing.as_ref(), beat.as_ref(), mailbox.entries.get(&connection.name));
        Ok(Recipient { agent_id: id, name: agent.name.clone(), status, revision, public_key: agent.public_key.clone(), sealing })
    });
    each.buffered(AT_ONCE).try_collect().await
}

/// Whether anybody has the credentials, or will once they are back; with `only`, whether this agent does. Those that are there are asked first, and
/// nobody behind the first that has them.
pub(crate) async fn anybody(app: &App, connection: &ConnectionRecord, only: Option<&AgentId>) -> Result<bool, ApiError> {
    let offline = |id: &AgentId| app.mirror.standings.get(id).is_none_or(|standing| standing.status == Status::Offline);
    let mut members: Vec<AgentId> = members(app, &connection.pool).into_iter().map(|(id, _)| id).collect();
    members.retain(|id| only.is_none_or(|only| only == id));
    members.sort_by_key(offline);
    for few in members.chunks(FEW) {
        let said: Vec<Option<Heartbeat>> = try_join_all(few.iter().map(|id| heartbeat(app, &connection.pool, id))).await?;
        let usable = |beat: &Heartbeat| matches!(held(connection, beat), Some(Delivery::Delivered | Delivery::Local));
        if said.iter().flatten().any(usable) {
            return Ok(true);
        }
    }
    for few in members.chunks(FEW) {
        let looked = try_join_all(few.iter().map(async |id| {
            let (beat, mailbox) = tokio::try_join!(heartbeat(app, &connection.pool, id), mailbox::open(app, id))?;
            let sealing = beat.as_ref().zip(app.mirror.agents.get(id)).and_then(|(beat, agent)| sealing(&agent, beat));
            let entry = mailbox.entries.get(&connection.name);
            Ok::<_, ApiError>(entry.is_some_and(|entry| is_for(entry, connection, sealing.as_ref())))
        }));
        if connection.revision > 0 && looked.await?.contains(&true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Agents of a pool whose identity has not ended.
fn members(app: &App, pool: &PoolName) -> Vec<(AgentId, Arc<AgentRecord>)> {
    let mut agents = app.mirror.agents.all();
    agents.retain(|(_, agent)| is_member(agent, pool));
    agents
}

/// Whether an agent may have what agents of this pool have.
pub(super) fn is_member(agent: &AgentRecord, pool: &PoolName) -> bool {
    agent.pool == *pool && !matches!(agent.state, AgentState::Revoked | AgentState::Deleting)
}

/// An agent's last heartbeat in this pool. `None` when there is none that can be read.
pub(super) async fn heartbeat(app: &App, pool: &PoolName, id: &AgentId) -> Result<Option<Heartbeat>, ApiError> {
    let last = stored::last(&app.nats, HEARTBEATS, &subjects::heartbeat(pool, id)).await;
    let last = last.map_err(|error| error.while_doing("read a heartbeat"))?;
    Ok(last.and_then(|beat| wire::decode(&beat.payload).inspect_err(|error| tracing::warn!(agent = %id, %error, "bad heartbeat")).ok()))
}

/// Where credentials for an agent are sealed to: what it says, if its present identity has signed it.
pub(super) fn sealing(agent: &AgentRecord, beat: &Heartbeat) -> Option<SealingKey> {
    let (key, identity) = (beat.sealing.as_ref()?, agent.public_key.as_ref()?);
    key.check(&agent.id, identity).is_ok().then(|| key.clone())
}

/// What the agent says that it has, as far as jobs can use it or could.
fn held(connection: &ConnectionRecord, beat: &Heartbeat) -> Option<Delivery> {
    Some(match beat.credentials.get(&connection.name)? {
        0 => Delivery::Local,
        revision if connection.revision > 0 && *revision >= connection.revision => Delivery::Delivered,
        _ => Delivery::Stale,
    })
}

/// Whether an agent with this sealing key can open what lies in its mailbox, and that is the newest.
fn is_for(entry: &SealedEntry, connection: &ConnectionRecord, sealing: Option<&SealingKey>) -> bool {
    entry.revision == connection.revision && sealing.is_some_and(|sealing| entry.key == sealing.key)
}

/// How far they are with an agent, and which it has.
fn status(
    connection: &ConnectionRecord,
    sealing: Option<&SealingKey>,
    beat: Option<&Heartbeat>,
    entry: Option<&SealedEntry>,
) -> (Delivery, Option<u64>) {
    let revision = beat.and_then(|beat| beat.credentials.get(&connection.name)).copied();
    let waits = entry.filter(|entry| is_for(entry, connection, sealing));
    // An entry stays in the mailbox. One that the agent had time to take, and that it has something else than, is lain over.
    let taken = waits.zip(beat).is_some_and(|(entry, beat)| beat.at.since(entry.at) > TAKING);
    let status = match beat.and_then(|beat| held(connection, beat)) {
        Some(Delivery::Delivered) => Delivery::Delivered,
        Some(Delivery::Local) if taken => Delivery::Local,
        _ if waits.is_some() => Delivery::Sent,
        Some(older) => older,
        None if sealing.is_none() => Delivery::NoKey,
        None => Delivery::Missing,
    };
    (status, revision)
}

#[cfg(test)]
mod tests;
