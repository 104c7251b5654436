//! Registering an agent: with a join token a new one, with an agent's key the same one again.
//!
//! Of what is done for a new one only counting the token's use cannot be repeated or undone for sure, so it comes after everything
//! that can be refused, and before everything that makes the agent exist. The order is: check, sign, declare lanes, reserve the name, make
//! the queue of its commands, count the use, store key and record.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use axum::{Json as Answer, extract::State, http::StatusCode};
use muster_broker_config::provision::{self, ensure_lanes};
use muster_runtime::tasks::Group;
use muster_schemas::{
    api::{One, Register, Registered, RegisteredConfig},
    code::Code,
    job::check_labels,
    names::{AgentId, AgentName, ExecutorName, PoolName},
    records::{self, AgentRecord, AgentState, ApiKeyRecord, JoinTokenRecord, KeyOwner, secret::Kind},
    time::Timestamp,
    wire::V,
};

use super::{commands, store};
use crate::{
    app::{App, Held, create, update},
    auth::{Joiner, secret},
    extract::{Json, Remote},
    identity, keys,
    problem::ApiError,
    tokens,
};

pub(super) const ABOUT: &str = "With a join token (header X-Agent-Token) a new agent is made: it gets its id, an API key that is shown once, and a \
    JWT for the broker, valid for 24 hours. With an agent's API key the same agent comes back: it gets a fresh JWT, for a new public key if it \
    brings one; the name in the body is then not looked at.";

/// Executors that one agent may tell of.
const CAPABILITIES_MAX: usize = 32;
/// Executors of all agents of a pool. Each costs the broker three consumers, for as long as the pool exists.
const POOL_EXECUTORS_MAX: usize = 64;
/// How often a write is tried again after somebody else's.
const TRIES: usize = 10;

/// What the agent said, checked.
struct Asked {
    name: AgentName,
    capabilities: BTreeSet<ExecutorName>,
    labels: BTreeMap<String, String>,
    version: String,
    os: String,
    arch: String,
    hostname: String,
    public_key: String,
}

impl TryFrom<Register> for Asked {
    type Error = ApiError;
    fn try_from(given: Register) -> Result<Self, ApiError> {
        identity::check_public_key(&given.public_key)?;
        check_labels(&given.labels)?;
        if given.capabilities.len() > CAPABILITIES_MAX {
            return Err(ApiError::new(Code::FieldInvalid, format!("capabilities takes at most {CAPABILITIES_MAX} executors")));
        }
        Ok(Self {
            name: given.name.parse()?,
            capabilities: given.capabilities.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
            labels: given.labels,
            version: plain("version", given.version, 64)?,
            os: plain("os", given.os, 64)?,
            arch: plain("arch", given.arch, 64)?,
            hostname: plain("hostname", given.hostname, 255)?,
            public_key: given.public_key,
        })
    }
}

/// A text that is shown to people: short, and without control characters.
fn plain(field: &str, text: String, most: usize) -> Result<String, ApiError> {
    if text.len() > most || text.contains(char::is_control) {
        return Err(ApiError::new(Code::FieldInvalid, format!("{field} takes at most {most} bytes, without control characters")));
    }
    Ok(text)
}

pub(super) async fn register(
    State(app): State<App>,
    joiner: Joiner,
    Remote(remote): Remote,
    Json(body): Json<Register>,
) -> Result<(StatusCode, Answer<One<Registered>>), ApiError> {
    let asked = Asked::try_from(body)?;
    // In a task of its own: a caller that hangs up half-way must not leave half an agent.
    let registration = Group::new("registration").spawn(async move {
        match joiner {
            Joiner::Token(token) => Ok::<_, ApiError>((StatusCode::CREATED, join(&app, token, asked, remote).await?)),
            Joiner::Agent(id) => Ok((StatusCode::OK, come_back(&app, &id, asked, remote).await?)),
        }
    });
    let (status, data) = registration.await.map_err(|error| ApiError::internal("register the agent", error))??;
    Ok((status, Answer(One { data })))
}

/// Makes a new agent.
async fn join(app: &App, token: Held<JoinTokenRecord>, asked: Asked, remote: IpAddr) -> Result<Registered, ApiError> {
    if token.record.agent_id.is_some() {
        return Err(ApiError::new(Code::TokenInvalid, "the join token is for one certain agent, and cannot make another"));
    }
    let (now, id, pool) = (Timestamp::now(), AgentId::generate(), token.record.pool.clone());
    declare(app, &pool, &asked.capabilities).await?;
    let jwt = app.minter.mint(&pool, &id, &asked.public_key)?;
    let parts = secret::fresh(Kind::Agent);
    let key = ApiKeyRecord {
        v: V,
        id: keys::fresh_id(now),
        prefix: parts.prefix.clone(),
        hash: app.auth.hash(parts.secret.clone(), app.config.bcrypt_cost).await?,
        name: asked.name.to_string(),
        owner: KeyOwner::Agent(id.clone()),
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    let record = AgentRecord {
        labels: asked.labels,
        capabilities: asked.capabilities,
        version: asked.version,
        os: asked.os,
        arch: asked.arch,
        hostname: asked.hostname,
        public_key: Some(asked.public_key),
        key_prefix: Some(parts.prefix.clone()),
        registered_at: Some(now),
        remote_ip: Some(remote.to_string()),
        ..AgentRecord::new(id.clone(), asked.name, pool.clone(), now)
    };
    let reserved = store::reserve(app, &record.name, &id).await?;
    let prefix = token.record.prefix.clone();
    if let Err(error) = commands::ensure(app, &pool, &id).await {
        store::release(app, reserved).await;
        return Err(error);
    }
    if let Err(refused) = tokens::take_use(&app.buckets.join_tokens, token).await {
        commands::remove(app, &id).await;
        store::release(app, reserved).await;
        return Err(refused);
    }
    match stored(app, &key, &record).await {
        Ok(revision) => app.mirror.agents.caught_up(revision).await,
        Err(error) => {
            tokens::give_back_use(&app.buckets.join_tokens, &prefix).await;
            commands::remove(app, &id).await;
            store::release(app, reserved).await;
            return Err(error);
        }
    }
    tracing::info!(agent = %id, name = %record.name, %pool, %remote, token = prefix, "an agent joined");
    Ok(registered(app, &record, Some(parts.reveal()), jwt))
}

/// Stores the key first: a key without an agent lets nobody do anything, an agent without a key could never come back.
async fn stored(app: &App, key: &ApiKeyRecord, record: &AgentRecord) -> Result<u64, ApiError> {
    let taken = || ApiError::internal("store the agent", "its id or its key's prefix exists already");
    create(&app.buckets.api_keys, &key.prefix, key).await?.ok_or_else(taken)?;
    create(&app.buckets.agents, &records::keys::agent(&record.id), record).await?.ok_or_else(taken)
}

/// Lets an agent come back that has its key: fresh JWT, record brought up to date.
async fn come_back(app: &App, id: &AgentId, asked: Asked, remote: IpAddr) -> Result<Registered, ApiError> {
    for _ in 0..TRIES {
        let Held { record, revision } = app.buckets.agent(id).await?.ok_or_else(|| super::unknown(id))?;
        if record.state == AgentState::Revoked {
            return Err(ApiError::new(Code::AgentRevoked, "the agent was revoked; an operator can enable it again"));
        }
        declare(app, &record.pool, &asked.capabilities).await?;
        commands::ensure(app, &record.pool, id).await?;
        let jwt = app.minter.mint(&record.pool, id, &asked.public_key)?;
        let renewed = AgentRecord {
            state: if record.state == AgentState::Pending { AgentState::Active } else { record.state },
            labels: asked.labels.clone(),
            capabilities: asked.capabilities.clone(),
            version: asked.version.clone(),
            os: asked.os.clone(),
            arch: asked.arch.clone(),
            hostname: asked.hostname.clone(),
            public_key: Some(asked.public_key.clone()),
            registered_at: Some(Timestamp::now()),
            remote_ip: Some(remote.to_string()),
            ..record
        };
        if let Some(revision) = update(&app.buckets.agents, &records::keys::agent(id), &renewed, revision).await? {
            app.mirror.agents.caught_up(revision).await;
            tracing::info!(agent = %id, name = %renewed.name, %remote, "an agent came back");
            return Ok(registered(app, &renewed, None, jwt));
        }
    }
    Err(ApiError::broker("store the agent", "others kept changing it"))
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

fn registered(app: &App, record: &AgentRecord, api_key: Option<String>, jwt: String) -> Registered {
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
        signers: None,
        certificate: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use nkeys::KeyPair;

    use super::*;

    fn body() -> Register {
        Register { name: "web-1".into(), public_key: KeyPair::new_user().public_key(), ..Register::default() }
    }

    fn code(body: Register) -> Code {
        Asked::try_from(body).err().unwrap().code
    }

    #[test]
    fn a_public_key_of_another_kind_or_damaged_is_refused() {
        assert!(Asked::try_from(body()).is_ok());
        let damaged = body().public_key.replacen(|c: char| c.is_ascii_digit(), "A", 1);
        for key in [String::new(), "U".into(), KeyPair::new_account().public_key(), KeyPair::new_user().seed().unwrap(), damaged + "A"] {
            assert_eq!(code(Register { public_key: key, ..body() }), Code::FieldInvalid);
        }
    }

    #[test]
    fn what_the_agent_says_of_itself_is_bounded() {
        let many: Vec<String> = (0..=CAPABILITIES_MAX).map(|n| format!("e{n}")).collect();
        assert_eq!(code(Register { capabilities: many, ..body() }), Code::FieldInvalid);
        assert_eq!(code(Register { capabilities: vec!["a.b".into()], ..body() }), Code::NameInvalid);
        assert_eq!(code(Register { hostname: "h".repeat(256), ..body() }), Code::FieldInvalid);
        assert_eq!(code(Register { os: "a\r\nb".into(), ..body() }), Code::FieldInvalid);
        assert_eq!(code(Register { labels: [(String::new(), "x".into())].into(), ..body() }), Code::LabelsInvalid);
        for name in ["", "*", "a.b", "A", "a b", "a\u{0}", "％"] {
            assert_eq!(code(Register { name: name.into(), ..body() }), Code::NameInvalid, "{name}");
        }
    }
}
