//! Registering an agent: with a join token a new one, with an agent's key the same one again ([`again`]), and with a token that was made for it
//! one that was created before. What an agent says is checked in [`asked`].
//!
//! Of what is done for a new one only counting the token's use cannot be repeated or undone for sure, so it comes after everything
//! that can be refused, and before everything that makes the agent exist. The order is: check, sign, declare lanes, reserve the name, count the
//! use, store key and record.

mod again;
mod asked;

use std::{collections::BTreeSet, net::IpAddr};

use async_nats::jetstream::kv::Operation;
use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use muster_broker_config::provision::{self, ensure_lanes};
use muster_schemas::{
    api::{Certificate, One, Register, Registered, RegisteredConfig},
    code::Code,
    names::{AgentId, ExecutorName, PoolName},
    records::{self, AgentRecord, ApiKeyRecord, JoinTokenRecord, secret},
    time::Timestamp,
};

use super::{secrets, store};
use crate::{
    app::{App, Held, create},
    auth::{self, Joiner},
    extract::{Json, Remote},
    problem::ApiError,
    tokens,
};

use asked::Asked;

pub(super) const ABOUT: &str = "With a join token (header X-Agent-Token) a new agent is made: it gets its id, an API key that is shown once, and a \
    JWT for the broker, valid for 24 hours. A token that was made for one agent is for the one that was created so, whose name and pool stay as they are. \
    With an agent's API key the same agent comes back: it gets a fresh JWT, for a new public key if it brings one; the name in the body is then \
    not looked at. `proof` has to prove that the public key is the caller's own, and by it the clocks are compared.";

/// Executors of all agents of a pool. Each costs the broker three consumers, for as long as the pool exists.
const POOL_EXECUTORS_MAX: usize = 64;

pub(super) async fn register(
    State(app): State<App>,
    joiner: Joiner,
    Remote(remote): Remote,
    headers: HeaderMap,
    Json(body): Json<Register>,
) -> Result<(StatusCode, Answer<One<Registered>>), ApiError> {
    let credential = auth::credential(&headers)?;
    let asked = Asked::new(body, credential, Timestamp::now())?;
    let prefix = secret::prefix(credential).unwrap_or_default();
    // A caller that hangs up half-way must not leave half an agent.
    let registration = app.in_full("register the agent", async move |app| match joiner {
        Joiner::Token(token) => match token.record.agent_id.clone() {
            Some(id) => Ok((StatusCode::CREATED, again::first(&app, &id, token, asked, remote).await?)),
            None => Ok((StatusCode::CREATED, join(&app, token, asked, remote).await?)),
        },
        Joiner::Agent(id) => Ok((StatusCode::OK, again::come_back(&app, &id, &prefix, asked, remote).await?)),
    });
    let (status, data) = registration.await?;
    Ok((status, Answer(One { data })))
}

/// Makes a new agent.
async fn join(app: &App, token: Held<JoinTokenRecord>, asked: Asked, remote: IpAddr) -> Result<Registered, ApiError> {
    tokens::check_name(&token.record, &asked.name)?;
    fresh_key(app, None, &asked.public_key).await?;
    let (now, id, pool) = (Timestamp::now(), AgentId::generate(), token.record.pool.clone());
    let certificate = app.certificates.for_agent(asked.csr.as_deref(), &id)?;
    declare(app, &pool, &asked.capabilities).await?;
    let jwt = app.minter.mint(&pool, &id, &asked.public_key)?;
    let key = secrets::make(app, &id, asked.name.as_str()).await?;
    let record = AgentRecord {
        labels: asked.labels,
        capabilities: asked.capabilities,
        version: asked.version,
        os: asked.os,
        arch: asked.arch,
        hostname: asked.hostname,
        public_key: Some(asked.public_key),
        key_prefix: Some(key.record.prefix.clone()),
        registered_at: Some(now),
        remote_ip: Some(remote.to_string()),
        ephemeral: asked.ephemeral || token.record.ephemeral,
        ..AgentRecord::new(id.clone(), asked.name, pool.clone(), now)
    };
    let reserved = store::reserve(app, &record.name, &id).await?;
    let prefix = token.record.prefix.clone();
    if let Err(refused) = tokens::take_use(&app.buckets.join_tokens, token).await {
        store::release(app, reserved).await;
        return Err(refused);
    }
    match stored(app, &key.record, &record).await {
        Ok(revision) => app.mirror.agents.caught_up(revision).await,
        Err(error) => {
            tokens::give_back_use(&app.buckets.join_tokens, &prefix).await;
            store::release(app, reserved).await;
            return Err(error);
        }
    }
    tracing::info!(agent = %id, name = %record.name, %pool, %remote, token = prefix, "an agent joined");
    Ok(registered(app, &record, Some(key.text), jwt, certificate))
}

/// Stores the key first: a key without an agent lets nobody do anything, an agent without a key could never come back.
async fn stored(app: &App, key: &ApiKeyRecord, record: &AgentRecord) -> Result<u64, ApiError> {
    secrets::store(app, key).await?;
    let revision = create(&app.buckets.agents, &records::keys::agent(&record.id), record).await?;
    revision.ok_or_else(|| ApiError::internal("store the agent", "its id exists already"))
}

/// Makes sure that no JWT is made for a public key that is refused, or that is another agent's: the end of one's identity would be the end of both.
async fn fresh_key(app: &App, own: Option<&AgentId>, public_key: &str) -> Result<(), ApiError> {
    // It is of A-Z and 2-7, so it is a key of the bucket's.
    let entry = app.buckets.revocations.entry(public_key).await.map_err(|error| ApiError::broker("look for the public key", error))?;
    if entry.is_some_and(|entry| entry.operation == Operation::Put) {
        return Err(key_refused("was revoked"));
    }
    let has = |record: &AgentRecord| {
        record.public_key.as_deref() == Some(public_key) || record.past_keys.iter().any(|past| past.public_key == public_key)
    };
    if app.mirror.agents.all().iter().any(|(id, record)| own != Some(id) && has(record)) {
        return Err(key_refused("is another agent's"));
    }
    Ok(())
}

fn key_refused(why: &str) -> ApiError {
    ApiError::new(Code::KeyRevoked, format!("the public key {why}; an agent that is to register has to make a new one"))
}

/// Declares the lanes of the executors that the pool does not have yet.
async fn declare(app: &App, pool: &PoolName, capabilities: &BTreeSet<ExecutorName>) -> Result<(), ApiError> {
    let declared = app.buckets.pool(pool).await?.record.executors;
    if capabilities.is_subset(&declared) {
        return Ok(());
    }
    let all = declared.union(capabilities).count();
    if all > POOL_EXECUTORS_MAX {
        let detail = format!("the pool would have {all} executors; it takes at most {POOL_EXECUTORS_MAX}");
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    match ensure_lanes(&app.nats, pool, capabilities).await {
        Ok(_) => Ok(()),
        Err(provision::Error::NoPool(pool)) => Err(ApiError::new(Code::PoolNotFound, format!("there is no pool `{pool}`"))),
        Err(error) => Err(ApiError::broker("declare the pool's lanes", error)),
    }
}

fn registered(app: &App, record: &AgentRecord, api_key: Option<String>, jwt: String, certificate: Option<Certificate>) -> Registered {
    let heartbeat_interval_s = u32::try_from(app.config.heartbeat_interval.get().as_secs()).unwrap_or(u32::MAX);
    let config = RegisteredConfig { heartbeat_interval_s, log_level: "INFO".into() };
    Registered {
        agent_id: record.id.clone(),
        name: record.name.clone(),
        pool: record.pool.clone(),
        api_key,
        jwt,
        nats_urls: app.config.urls_for_agents().to_vec(),
        config,
        now: Timestamp::now(),
        signers: app.signing.present().map(|present| present.signed.clone()),
        certificate,
        ephemeral: record.ephemeral,
    }
}
