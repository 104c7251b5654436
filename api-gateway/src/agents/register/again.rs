//! Agents that have a record already: those that come back with their API key, and those that were created first and register with the join token
//! that was made for them.

use std::net::IpAddr;

use muster_schemas::{
    api::Registered,
    code::Code,
    names::AgentId,
    records::{AgentRecord, AgentState, JoinTokenRecord, PAST_KEYS_MAX, keys},
    time::Timestamp,
    topology::AGENT_JWT_LIFETIME,
};

use super::{
    super::{ending, secrets, states::busy, store},
    asked::Asked,
    declare, fresh_key, key_refused, registered,
};
use crate::{
    app::{App, Held, update},
    problem::ApiError,
    tokens,
};

/// How often a write is tried again after somebody else's.
const TRIES: usize = 10;

/// Lets an agent come back that has its key: fresh JWT, record brought up to date.
pub(super) async fn come_back(app: &App, id: &AgentId, prefix: &str, asked: Asked, remote: IpAddr) -> Result<Registered, ApiError> {
    let certificate = app.certificates.for_agent(asked.csr.as_deref(), id)?;
    fresh_key(app, Some(id), &asked.public_key).await?;
    for _ in 0..TRIES {
        let held = store::there(app, id).await?;
        may_come_back(&held.record, prefix)?;
        if let Some((record, jwt)) = renewed(app, held, &asked, remote, None).await? {
            tracing::info!(agent = %id, name = %record.name, %remote, "an agent came back");
            return Ok(registered(app, &record, None, jwt, certificate));
        }
    }
    Err(contended())
}

fn may_come_back(record: &AgentRecord, prefix: &str) -> Result<(), ApiError> {
    if record.state == AgentState::Revoked {
        return Err(revoked(record));
    }
    // A gateway may not have heard yet that the key was replaced. The record has.
    if record.key_prefix.as_deref() != Some(prefix) {
        return Err(ApiError::new(Code::Unauthenticated, "the API key was replaced by another one"));
    }
    Ok(())
}

/// Lets an agent in that was created before, with the token that is for it. Nothing in the token or the body has a say in what it is called and where
/// it belongs: that is in its record.
pub(super) async fn first(
    app: &App,
    id: &AgentId,
    token: Held<JoinTokenRecord>,
    asked: Asked,
    remote: IpAddr,
) -> Result<Registered, ApiError> {
    let certificate = app.certificates.for_agent(asked.csr.as_deref(), id)?;
    fresh_key(app, Some(id), &asked.public_key).await?;
    let held = store::there(app, id).await?;
    is_awaited(&held.record)?;
    declare(app, &held.record.pool, &asked.capabilities).await?;
    let key = secrets::make(app, id, held.record.name.as_str()).await?;
    secrets::store(app, &key.record).await?;
    let (prefix, had) = (token.record.prefix.clone(), held.record.key_prefix.clone());
    if let Err(refused) = tokens::take_use(&app.buckets.join_tokens, token).await {
        secrets::drop_unused(app, &key.record.prefix).await;
        return Err(refused);
    }
    match enter(app, held, &asked, remote, &key.record.prefix).await {
        Ok((record, jwt)) => {
            tracing::info!(agent = %id, name = %record.name, %remote, token = prefix, "an agent that was created registered");
            if let Err(error) = ending::end_secrets(app, id, had.as_deref(), Some(&key.record.prefix)).await {
                tracing::warn!(agent = %id, code = %error.code, "what the agent could prove itself with before is left; it is good for nothing");
            }
            Ok(registered(app, &record, Some(key.text), jwt, certificate))
        }
        Err(error) => {
            secrets::drop_unused(app, &key.record.prefix).await;
            tokens::give_back_use(&app.buckets.join_tokens, &prefix).await;
            Err(error)
        }
    }
}

async fn enter(
    app: &App,
    mut held: Held<AgentRecord>,
    asked: &Asked,
    remote: IpAddr,
    key: &str,
) -> Result<(AgentRecord, String), ApiError> {
    let id = held.record.id.clone();
    for _ in 0..TRIES {
        is_awaited(&held.record)?;
        if let Some(entered) = renewed(app, held, asked, remote, Some(key)).await? {
            return Ok(entered);
        }
        held = store::there(app, &id).await?;
    }
    Err(contended())
}

fn is_awaited(record: &AgentRecord) -> Result<(), ApiError> {
    match record.state {
        AgentState::Pending => Ok(()),
        AgentState::Revoked => Err(revoked(record)),
        _ => Err(busy(record, "it has registered, and comes back with its API key; rotate-key gives it a new one")),
    }
}

/// The record as this registration leaves it, and the JWT that goes with it. `None` when somebody else changed the record meanwhile.
async fn renewed(
    app: &App,
    Held { record, revision }: Held<AgentRecord>,
    asked: &Asked,
    remote: IpAddr,
    key: Option<&str>,
) -> Result<Option<(AgentRecord, String)>, ApiError> {
    let (id, now) = (record.id.clone(), Timestamp::now());
    // The record knows of an end before the bucket of revocations does, and for longer.
    if record.past_keys.iter().any(|past| past.revoked && past.public_key == asked.public_key) {
        return Err(key_refused("was revoked"));
    }
    declare(app, &record.pool, &asked.capabilities).await?;
    let jwt = app.minter.mint(&record.pool, &id, &asked.public_key)?;
    let mut renewed = AgentRecord {
        state: if record.state == AgentState::Pending { AgentState::Active } else { record.state },
        labels: asked.labels.clone(),
        capabilities: asked.capabilities.clone(),
        version: asked.version.clone(),
        os: asked.os.clone(),
        arch: asked.arch.clone(),
        hostname: asked.hostname.clone(),
        registered_at: Some(now),
        remote_ip: Some(remote.to_string()),
        ..record
    };
    if let Some(key) = key {
        renewed.key_prefix = Some(key.to_owned());
    }
    if renewed.public_key.as_deref() != Some(asked.public_key.as_str()) {
        forget_last(app, &renewed, now).await?;
    }
    renewed.replace_key(Some(asked.public_key.clone()), now);
    let Some(revision) = update(&app.buckets.agents, &keys::agent(&id), &renewed, revision).await? else { return Ok(None) };
    app.mirror.agents.caught_up(revision).await;
    Ok(Some((renewed, jwt)))
}

/// A record remembers so many keys. Those that it is about to forget, with this key and with the next, are refused first: a later revocation would
/// not find them, and somebody with the API key could otherwise keep a JWT by registering with one new key after the other.
async fn forget_last(app: &App, record: &AgentRecord, now: Timestamp) -> Result<(), ApiError> {
    if record.public_key.is_none() {
        return Ok(());
    }
    for past in record.past_keys.iter().skip(PAST_KEYS_MAX - 2).filter(|past| now.since(past.until) < AGENT_JWT_LIFETIME) {
        ending::refuse_key(app, &record.id, &past.public_key, now).await?;
    }
    Ok(())
}

fn revoked(record: &AgentRecord) -> ApiError {
    let reason = record.revoked.as_ref().and_then(|revoked| revoked.reason.as_deref());
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    ApiError::new(Code::AgentRevoked, format!("the agent was revoked{reason}; an operator can enable it again"))
}

fn contended() -> ApiError {
    ApiError::broker("store the agent", "others kept changing it")
}
