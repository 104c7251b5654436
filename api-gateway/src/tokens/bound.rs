//! Join tokens for one certain agent: each works once, for 24 hours, and a new one takes the place of those before it.

use std::time::Duration;

use muster_schemas::{
    names::{AgentId, PoolName},
    records::{JoinTokenRecord, secret::Kind},
    time::Timestamp,
    topology::MARKER_AGE,
    wire::V,
};

use crate::{
    app::{App, create},
    auth::secret,
    problem::ApiError,
};

/// How long one works.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Makes one, and withdraws the others of this agent. Answers the token and when it stops working.
pub(crate) async fn issue(app: &App, agent: &AgentId, pool: &PoolName) -> Result<(String, Timestamp), ApiError> {
    withdraw(app, agent).await?;
    let (parts, now) = (secret::fresh(Kind::Join), Timestamp::now());
    let expires_at = now + LIFETIME;
    let record = JoinTokenRecord {
        v: V,
        prefix: parts.prefix.clone(),
        hash: secret::token_hash(&parts.secret),
        pool: pool.clone(),
        uses_left: Some(1),
        created_at: now,
        expires_at: Some(expires_at),
        agent_id: Some(agent.clone()),
        name_pattern: None,
        ephemeral: false,
    };
    let revision = create(&app.buckets.join_tokens, &record.prefix, &record).await?;
    let revision = revision.ok_or_else(|| ApiError::internal("make the token", "its prefix exists already"))?;
    app.mirror.join_tokens.caught_up(revision).await;
    Ok((parts.reveal(), expires_at))
}

/// Deletes all of an agent's. One that another gateway has made this moment may be missed; it is of no use, since the agent's record does
/// not wait for it.
pub(crate) async fn withdraw(app: &App, agent: &AgentId) -> Result<(), ApiError> {
    for (prefix, _) in app.mirror.join_tokens.all().iter().filter(|(_, token)| token.agent_id.as_ref() == Some(agent)) {
        app.buckets
            .join_tokens
            .purge_with_ttl(prefix, MARKER_AGE)
            .await
            .map_err(|error| ApiError::broker("delete the agent's join token", error))?;
    }
    Ok(())
}
