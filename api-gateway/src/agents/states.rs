//! What an operator decides about an agent: disable, drain, enable, revoke, give it another key, remove.
//!
//! Each is one change of the record, and then what follows from it. Whoever repeats a request after a failure goes through the same steps again,
//! and finds those done that were.

use axum::{Json as Answer, extract::State, http::StatusCode};
use muster_schemas::{
    api::{AgentSecret, AgentView, One, Revoke},
    code::Code,
    control::IdentityEnd,
    names::AgentId,
    records::{AgentRecord, AgentState, Revoked, Role},
    time::Timestamp,
};

use super::{ending, said, secrets, store, view};
use crate::{
    app::App,
    auth::Caller,
    extract::{Json, Path},
    problem::ApiError,
    tokens,
};

pub(super) const ENABLE_ABOUT: &str = "One that is disabled or draining takes jobs again. One that is revoked is `pending` from then on, and the answer has a \
    join token for it, shown once, which works once and for 24 hours: give it to the agent, whose state directory may stay. So has one that never \
    registered, whose earlier token then works no more. Those two take the role admin.";
pub(super) const REVOKE_ABOUT: &str = "Its API key, its join tokens and its credential on the broker stop working, and its connection is cut before this is answered. \
    What it was running is stopped and run by another agent once the lease has run out. The record stays, and with it the name. Revoking it again changes \
    nothing, but makes sure that all of that has happened.";
pub(super) const ROTATE_ABOUT: &str = "Makes a new API key, shown once. The one before, and the agent's credential on the broker, stop working before this is answered: \
    whatever was copied from its machine is worthless. Drain the agent first where that was not the reason.";
pub(super) const REMOVE_ABOUT: &str = "Cuts it off as a revocation does, ends the commands that wait for it with `agent_deleted`, and removes all that is known of it but the \
    history of its jobs. Its name is free then. Jobs of its pool go to other agents.";

pub(super) async fn disable(State(app): State<App>, caller: Caller, Path(id): Path<AgentId>) -> Result<Answer<One<AgentView>>, ApiError> {
    stop(&app, &caller, &id, AgentState::Disabled, "disabled").await
}

pub(super) async fn drain(State(app): State<App>, caller: Caller, Path(id): Path<AgentId>) -> Result<Answer<One<AgentView>>, ApiError> {
    stop(&app, &caller, &id, AgentState::Draining, "drained").await
}

/// The dispatcher tells the agent, by its standing.
async fn stop(app: &App, caller: &Caller, id: &AgentId, state: AgentState, how: &str) -> Result<Answer<One<AgentView>>, ApiError> {
    let record = store::change(app, id, |record| match record.state {
        AgentState::Active | AgentState::Disabled | AgentState::Draining => {
            Ok((record.state != state).then_some(AgentRecord { state, ..record }))
        }
        AgentState::Pending | AgentState::Revoked | AgentState::Deleting => Err(busy(&record, "it takes no jobs anyway")),
    });
    let record = record.await?;
    tracing::info!(agent = %id, by = caller.key_id, "an agent was {how}");
    shown(app, record).await
}

pub(super) async fn enable(State(app): State<App>, caller: Caller, Path(id): Path<AgentId>) -> Result<Answer<One<AgentSecret>>, ApiError> {
    let record = store::change(&app, &id, |record| match record.state {
        AgentState::Active => Ok(None),
        AgentState::Disabled | AgentState::Draining => Ok(Some(AgentRecord { state: AgentState::Active, ..record })),
        AgentState::Pending | AgentState::Revoked | AgentState::Deleting if caller.role < Role::Admin => {
            let detail =
                format!("agent `{}` ({id}) needs a secret to come back, and making one takes the role {}", record.name, Role::Admin);
            Err(ApiError::new(Code::Forbidden, detail))
        }
        AgentState::Pending | AgentState::Revoked | AgentState::Deleting => Ok(None),
    });
    let record = record.await?;
    if !matches!(record.state, AgentState::Pending | AgentState::Revoked) {
        tracing::info!(agent = %id, by = caller.key_id, "an agent was enabled");
        let agent = shown(&app, record).await?.0.data;
        return Ok(Answer(One { data: AgentSecret { agent, join_token: None, api_key: None, expires_at: None, note: None } }));
    }
    // Before the record: until then it lets nobody in.
    let (token, expires_at) = tokens::bound::issue(&app, &id, &record.pool).await?;
    let record = store::change(&app, &id, |record| match record.state {
        AgentState::Pending => Ok(None),
        AgentState::Revoked => Ok(Some(AgentRecord { state: AgentState::Pending, revoked: None, ..record })),
        _ => Err(busy(&record, "somebody else changed it at the same moment")),
    });
    let record = record.await?;
    tracing::info!(agent = %id, by = caller.key_id, "an agent may register again");
    let note = "give the agent this join token: the API key in its vault is void; its state directory may stay".to_owned();
    let note = record.registered_at.is_some().then_some(note);
    let agent = shown(&app, record).await?.0.data;
    Ok(Answer(One { data: AgentSecret { agent, join_token: Some(token), api_key: None, expires_at: Some(expires_at), note } }))
}

pub(super) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AgentId>,
    body: Option<Json<Revoke>>,
) -> Result<Answer<One<AgentView>>, ApiError> {
    let reason = said::prose("reason", body.and_then(|Json(revoke)| revoke.reason))?;
    let by = caller.name.clone();
    let record = app.in_full("revoke the agent", async move |app| {
        let mut had = None;
        let record = store::change(&app, &id, |record| {
            had = record.key_prefix.clone().or(had.take());
            let revoked = Revoked { at: Timestamp::now(), by: by.clone(), reason: reason.clone() };
            Ok((record.state != AgentState::Revoked)
                .then(|| AgentRecord { revoked: Some(revoked), ..keyless(record, AgentState::Revoked) }))
        });
        let record = record.await?;
        ending::end_secrets(&app, &id, had.as_deref(), None).await?;
        // The first one's words stay.
        let reason = record.revoked.as_ref().and_then(|revoked| revoked.reason.as_deref());
        ending::cut(&app, &record, IdentityEnd::Revoked, reason).await?;
        Ok(record)
    });
    let record = record.await?;
    tracing::info!(agent = %record.id, by = caller.key_id, "an agent was revoked");
    shown(&app, record).await
}

pub(super) async fn rotate_key(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AgentId>,
) -> Result<Answer<One<AgentSecret>>, ApiError> {
    let rotated = app.in_full("replace the agent's key", async move |app| {
        let name = store::there(&app, &id).await?.record.name;
        let key = secrets::make(&app, &id, name.as_str()).await?;
        secrets::store(&app, &key.record).await?;
        let mut had = None;
        let record = store::change(&app, &id, |record| {
            if record.state == AgentState::Revoked {
                return Err(busy(&record, "enable it first, which gives it a new secret"));
            }
            if record.key_prefix.is_none() {
                return Err(busy(&record, "it has no API key yet"));
            }
            had.clone_from(&record.key_prefix);
            let (key_prefix, key_rotated_at) = (Some(key.record.prefix.clone()), Some(Timestamp::now()));
            let state = record.state;
            Ok(Some(AgentRecord { key_prefix, key_rotated_at, ..keyless(record, state) }))
        });
        let record = match record.await {
            Ok(record) => record,
            Err(error) => {
                secrets::drop_unused(&app, &key.record.prefix).await;
                return Err(error);
            }
        };
        ending::end_secrets(&app, &id, had.as_deref(), Some(&key.record.prefix)).await?;
        ending::cut(&app, &record, IdentityEnd::KeyRotated, None).await?;
        Ok((record, key.text))
    });
    let (record, key) = rotated.await?;
    tracing::info!(agent = %record.id, by = caller.key_id, "an agent's key was replaced");
    let note = "the agent's vault is void: put the key into AGENT_API_KEY there and restart the agent".to_owned();
    let agent = shown(&app, record).await?.0.data;
    Ok(Answer(One { data: AgentSecret { agent, join_token: None, api_key: Some(key), expires_at: None, note: Some(note) } }))
}

pub(super) async fn remove(State(app): State<App>, caller: Caller, Path(id): Path<AgentId>) -> Result<StatusCode, ApiError> {
    let record = app.in_full("remove the agent", async move |app| {
        let record = leaving(&app, &id).await?;
        ending::forget_secrets(&app, &id).await?;
        ending::cut(&app, &record, IdentityEnd::Deleted, None).await?;
        Ok(record)
    });
    let record = record.await?;
    tracing::info!(agent = %record.id, name = %record.name, by = caller.key_id, "an agent was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Writes down that an agent is being removed, from which on it is gone for everybody but the dispatcher, which finds its API key in the record.
pub(super) async fn leaving(app: &App, id: &AgentId) -> Result<AgentRecord, ApiError> {
    let leaving = |mut record: AgentRecord| {
        if record.state == AgentState::Deleting {
            return Ok(None);
        }
        record.replace_key(None, Timestamp::now());
        Ok(Some(AgentRecord { state: AgentState::Deleting, ..record }))
    };
    store::change_any(app, id, leaving).await
}

/// The record without what the agent proves itself with.
fn keyless(mut record: AgentRecord, state: AgentState) -> AgentRecord {
    record.replace_key(None, Timestamp::now());
    AgentRecord { state, key_prefix: None, ..record }
}

/// The agent as it is shown, after a change.
pub(super) async fn shown(app: &App, record: AgentRecord) -> Result<Answer<One<AgentView>>, ApiError> {
    let standing = app.buckets.standing(&record.pool, &record.id).await?;
    Ok(Answer(One { data: view::agent(record, standing.map(|held| held.record)) }))
}

pub(super) fn busy(record: &AgentRecord, why: &str) -> ApiError {
    let state = match record.state {
        AgentState::Pending => "has not registered yet",
        AgentState::Active => "is active",
        AgentState::Disabled => "is disabled",
        AgentState::Draining => "is draining",
        AgentState::Revoked => "is revoked",
        AgentState::Deleting => "is being removed",
    };
    ApiError::new(Code::AgentBusy, format!("agent `{}` ({}) {state}: {why}", record.name, record.id))
}
