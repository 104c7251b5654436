//! Agents' JWTs: minting them, and answering agents that ask for a fresh one over the broker.
//!
//! Who asks is in the subject, which the broker checks against the agent's permissions; a body that claims otherwise has no say.

use std::{fmt, path::Path};

use anyhow::Context as _;
use async_nats::Message;
use futures_util::StreamExt as _;
use muster_broker_config::{
    creds::{self, AGENT_JWT_LIFETIME},
    jwt,
};
use muster_runtime::config::Secret;
use muster_schemas::{
    api::Certificate,
    audit::{Actor, ActorKind, AuditEntry},
    code::Code,
    control::{RenewAnswer, RenewRequest},
    names::{AgentId, PoolName},
    records::AgentState,
    result::ErrorInfo,
    subjects,
    time::Timestamp,
    wire::{self, V},
};

use crate::{app::App, config::Files, problem::ApiError};

/// The gateways share the work.
pub(crate) const QUEUE: &str = "identity";
/// Requests answered at once. Each costs one read and one signature.
const AT_ONCE: usize = 16;

/// Mints agents' JWTs, if the gateway was given the key for it.
pub(crate) struct Minter(Option<Keys>);

struct Keys {
    seed: Secret,
    account: String,
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Minter")
    }
}

impl Minter {
    /// Reads the keys. Both files or neither have to be there.
    pub(crate) fn load(files: &Files) -> anyhow::Result<Self> {
        let (Some(seed), Some(account)) = (&files.signing_key, &files.fleet_account) else {
            tracing::warn!("no signing key is set: agents can neither register nor renew at this gateway");
            return Ok(Self(None));
        };
        let seed = Secret::new(text(seed)?);
        jwt::key_pair(seed.expose(), "the agents' signing key")?;
        Ok(Self(Some(Keys { seed, account: text(account)? })))
    }

    /// A JWT for an agent's public key, for 24 hours.
    pub(crate) fn mint(&self, pool: &PoolName, id: &AgentId, public_key: &str) -> Result<String, ApiError> {
        let keys = self.0.as_ref().ok_or_else(|| ApiError::internal("sign the agent's identity", "no signing key is set"))?;
        creds::mint_agent_jwt(keys.seed.expose(), &keys.account, pool, id, public_key, AGENT_JWT_LIFETIME)
            .map_err(|error| ApiError::internal("sign the agent's identity", error))
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Checks an agent's public key as it comes from outside.
pub(crate) fn check_public_key(key: &str) -> Result<(), ApiError> {
    let wrong = |_| ApiError::new(Code::FieldInvalid, "public_key is no public key of a user: an nkey of 56 characters that starts with U");
    jwt::check_user_key(key).map_err(wrong)
}

/// Answers requests for a fresh JWT.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    let requests = app.nats.queue_subscribe(subjects::renewals(), QUEUE.into()).await?;
    requests.for_each_concurrent(AT_ONCE, |request| answer(&app, request)).await;
    anyhow::bail!("the subscription for renewals ended")
}

async fn answer(app: &App, request: Message) {
    // An answer to any other subject would be sent with the gateway's rights instead of the agent's.
    let Some(reply) = request.reply.clone().filter(|reply| subjects::is_inbox(reply)) else { return };
    let answer = match renew(app, &request).await {
        Ok((jwt, certificate)) => answer_with(Some(jwt), None, certificate),
        Err(error) => {
            tracing::warn!(subject = %request.subject, code = %error.code, detail = error.detail, "an agent's identity was not renewed");
            refused(app, &request.subject, &error).await;
            answer_with(None, Some(ErrorInfo::new(error.code, error.detail)), None)
        }
    };
    if let Err(error) = app.nats.publish(reply, wire::encode(&answer).into()).await {
        tracing::warn!(%error, "cannot answer a request for renewal");
    }
}

fn answer_with(jwt: Option<String>, error: Option<ErrorInfo>, certificate: Option<Certificate>) -> RenewAnswer {
    RenewAnswer { v: V, jwt, error, certificate, now: Some(Timestamp::now()) }
}

/// Writes a refusal into the audit trail. Who asks is in the subject, which the broker has checked.
async fn refused(app: &App, subject: &str, error: &ApiError) {
    let Some(agent) = subjects::parse_renew(subject) else { return };
    let actor = Actor::new(ActorKind::Agent, agent.as_str());
    let entry = AuditEntry {
        target: Some(agent.to_string()),
        code: Some(error.code),
        ..AuditEntry::new("agents.renew", actor, error.outcome(), Timestamp::now())
    };
    // An agent asks again and again.
    app.audit.write_folded(entry).await;
}

/// The fresh JWT of the agent that asks, and a certificate if it asked for one.
async fn renew(app: &App, request: &Message) -> Result<(String, Option<Certificate>), ApiError> {
    let id = subjects::parse_renew(&request.subject).ok_or_else(|| ApiError::new(Code::NameInvalid, "the subject names no agent"))?;
    let RenewRequest { public_key, csr, .. } = wire::decode(&request.payload)?;
    let held = app.buckets.agent(&id).await?;
    let record = held.ok_or_else(|| ApiError::new(Code::AgentNotFound, format!("there is no agent {id}")))?.record;
    match record.state {
        AgentState::Revoked => return Err(ApiError::new(Code::AgentRevoked, "the agent was revoked")),
        AgentState::Deleting => return Err(ApiError::new(Code::AgentNotFound, "the agent is being removed")),
        AgentState::Pending => return Err(ApiError::new(Code::Forbidden, "the agent has not registered yet")),
        // One that takes no jobs still has to be reachable, or it could never be enabled again.
        AgentState::Active | AgentState::Disabled | AgentState::Draining => {}
    }
    if record.public_key.as_deref() != Some(public_key.as_str()) {
        return Err(ApiError::new(Code::Forbidden, "the public key is not the one that the agent registered last; register again"));
    }
    let certificate = app.certificates.for_agent(csr.as_deref(), &id)?;
    let jwt = app.minter.mint(&record.pool, &id, &public_key)?;
    Ok((jwt, certificate))
}
