//! Creating an agent before it is there: its record waits, and one secret lets it register.

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use muster_schemas::{
    api::{AgentSecret, CreateAgent, Credential, One},
    names::{AgentId, AgentName, PoolName},
    records::{self, AgentRecord, AgentState},
    time::Timestamp,
};

use super::{said, secrets, store, view};
use crate::{
    app::{App, create as store_new},
    auth::Caller,
    extract::Json,
    problem::ApiError,
    tokens,
};

pub(super) const ABOUT: &str = "It is `pending` until it registers. With `credential: join_token` the answer has a join token for this agent alone, \
    which works once and for 24 hours; with `api_key` it has the agent's API key. Either is shown once. A token that was lost or has expired is \
    replaced by `POST /agents/{id}/enable`.";

pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(asked): Json<CreateAgent>,
) -> Result<(StatusCode, HeaderMap, Answer<One<AgentSecret>>), ApiError> {
    let (credential, record) = checked(asked)?;
    app.buckets.pool(&record.pool).await?;
    // A caller that hangs up half-way must not leave half an agent.
    let made = app.in_full("create the agent", async move |app| make(&app, credential, record).await);
    let data = made.await?;
    tracing::info!(agent = %data.agent.id, name = %data.agent.name, pool = %data.agent.pool, by = caller.key_id, "an agent was created");
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/agents/{}", data.agent.id)) {
        headers.insert(header::LOCATION, location);
    }
    Ok((StatusCode::CREATED, headers, Answer(One { data })))
}

fn checked(asked: CreateAgent) -> Result<(Credential, AgentRecord), ApiError> {
    let (name, pool): (AgentName, PoolName) = (asked.name.parse()?, asked.pool.parse()?);
    let record = AgentRecord {
        state: AgentState::Pending,
        description: said::prose("description", asked.description)?,
        tags: said::tags(asked.tags)?,
        set_labels: said::labels(asked.labels)?,
        metadata: said::labels(asked.metadata)?,
        platform: asked.platform.map(|platform| said::plain("platform", platform, 64)).transpose()?,
        ..AgentRecord::new(AgentId::generate(), name, pool, Timestamp::now())
    };
    Ok((asked.credential, record))
}

/// The secret comes before the record that makes it worth something, and after the name, for which there may be others.
async fn make(app: &App, credential: Credential, mut record: AgentRecord) -> Result<AgentSecret, ApiError> {
    let key = match credential {
        Credential::ApiKey => Some(secrets::make(app, &record.id, record.name.as_str()).await?),
        Credential::JoinToken => None,
    };
    record.key_prefix = key.as_ref().map(|key| key.record.prefix.clone());
    let reserved = store::reserve(app, &record.name, &record.id).await?;
    let stored = async {
        let token = match &key {
            Some(key) => secrets::store(app, &key.record).await.map(|()| None)?,
            None => Some(tokens::bound::issue(app, &record.id, &record.pool).await?),
        };
        let revision = store_new(&app.buckets.agents, &records::keys::agent(&record.id), &record).await?;
        Ok::<_, ApiError>((token, revision.ok_or_else(|| ApiError::internal("store the agent", "its id exists already"))?))
    };
    match stored.await {
        Ok((token, revision)) => {
            app.mirror.agents.caught_up(revision).await;
            let (join_token, expires_at) = token.unzip();
            let agent = view::agent(record, None);
            Ok(AgentSecret { agent, join_token, api_key: key.map(|key| key.text), expires_at, note: None })
        }
        Err(error) => {
            if let Some(key) = &key {
                secrets::drop_unused(app, &key.record.prefix).await;
            }
            if let Err(error) = tokens::bound::withdraw(app, &record.id).await {
                tracing::warn!(%error, "the join token of an agent that did not come to be is left; it is good for nothing");
            }
            store::release(app, reserved).await;
            Err(error)
        }
    }
}
