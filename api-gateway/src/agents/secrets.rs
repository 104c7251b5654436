//! What an agent proves itself with: an API key of its own.

use muster_schemas::{
    names::AgentId,
    records::{ApiKeyRecord, KeyOwner, secret::Kind},
    time::Timestamp,
    topology::MARKER_AGE,
    wire::V,
};

use crate::{
    app::{App, create},
    auth::secret,
    keys,
    problem::ApiError,
};

/// An API key for an agent that is not stored yet, with its text. It is good for nothing until the agent's record names its prefix.
pub(super) struct AgentKey {
    pub(super) record: ApiKeyRecord,
    pub(super) text: String,
}

/// Makes one. Costs a password hash.
pub(super) async fn make(app: &App, id: &AgentId, name: &str) -> Result<AgentKey, ApiError> {
    let (parts, now) = (secret::fresh(Kind::Agent), Timestamp::now());
    let record = ApiKeyRecord {
        v: V,
        id: keys::fresh_id(now),
        prefix: parts.prefix.clone(),
        hash: app.auth.hash(parts.secret.clone(), app.config.bcrypt_cost).await?,
        name: name.to_owned(),
        owner: KeyOwner::Agent(id.clone()),
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    Ok(AgentKey { record, text: parts.reveal() })
}

/// Stores it.
pub(super) async fn store(app: &App, key: &ApiKeyRecord) -> Result<(), ApiError> {
    let stored = create(&app.buckets.api_keys, &key.prefix, key).await?;
    stored.map(drop).ok_or_else(|| ApiError::internal("store the agent's key", "its prefix exists already"))
}

/// Deletes one that came to nothing.
pub(super) async fn drop_unused(app: &App, prefix: &str) {
    if let Err(error) = app.buckets.api_keys.purge_with_ttl(prefix, MARKER_AGE).await {
        tracing::warn!(%error, key = prefix, "a key that came to nothing could not be deleted; it is good for nothing");
    }
}
