//! How an agent's identity ends, whatever ended it: its API keys, its join tokens, its public keys, its connection.
//!
//! The record comes first and is what counts: every other door asks it. All of this may be repeated, and a repeated request goes on where a
//! gateway died. See `docs/decisions/0034-an-identity-ends-by-its-public-key.md`.

use std::time::Duration;

use async_nats::Request;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use muster_schemas::{
    code::Code,
    control::{IdentityEnd, Order, SettleAnswer, SettleRequest, What},
    names::AgentId,
    records::{AgentRecord, AgentState, ApiKeyRecord, KeyOwner, RevocationRecord},
    subjects,
    time::Timestamp,
    topology::{MARKER_AGE, REVOCATION_AGE},
    wire::{self, V},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    app::{App, Held, create, read, update},
    problem::ApiError,
    tokens,
};

/// How long the dispatcher may take to carry out what is decided.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer is waited for before the question is put again: whoever heard it may have died since.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long to wait before the dispatcher is looked for again where there is none: another one takes over within seconds.
const APART: Duration = Duration::from_millis(200);
/// How long a key may take from its making to the record that names it.
const JUST_MADE: Duration = Duration::from_secs(60);
/// How often a write is tried again after somebody else's.
const TRIES: usize = 10;

/// Cuts off an agent whose record says that its present public key counts no longer, and returns once the broker has done it.
///
/// # Errors
/// `settle_pending`; `broker_unavailable`. Both are safe to repeat.
pub(super) async fn cut(app: &App, record: &AgentRecord, why: IdentityEnd, reason: Option<&str>) -> Result<(), ApiError> {
    // On its way before the keys are refused, since nothing arrives behind that.
    tell(app, &record.id, why, reason).await;
    refuse_keys(app, record).await?;
    settle(app, record).await
}

/// Revokes the agent's API keys but the one with the prefix `keep`, and withdraws its join tokens. `known` is the key that it had: the copy of all
/// keys may not have heard of it yet. Where one is kept, so are others that were just made: somebody may be about to put one of them in its place.
/// None of them lets anybody in but the one that the record names.
pub(super) async fn end_secrets(app: &App, id: &AgentId, known: Option<&str>, keep: Option<&str>) -> Result<(), ApiError> {
    let (now, owner) = (Timestamp::now(), KeyOwner::Agent(id.clone()));
    let left = |record: &ApiKeyRecord| keep.is_none() || now.since(record.created_at) > JUST_MADE;
    let owned = |record: &ApiKeyRecord| record.revoked_at.is_none() && record.owner == owner && left(record);
    let keys = app.mirror.api_keys.all();
    let listed = keys.iter().filter(|(_, record)| owned(record)).map(|(prefix, _)| prefix.as_str());
    let mut last = None;
    for prefix in listed.filter(|prefix| known != Some(*prefix)).chain(known).filter(|prefix| keep != Some(*prefix)) {
        last = revoke_key(app, prefix).await?.or(last);
    }
    if let Some(revision) = last {
        // What was remembered of them here is gone with that.
        app.mirror.api_keys.caught_up(revision).await;
    }
    tokens::bound::withdraw(app, id).await
}

/// Deletes the API keys and join tokens of an agent that is being removed: its record lets nobody in any more. The dispatcher deletes the key that
/// the record names as well.
pub(super) async fn forget_secrets(app: &App, id: &AgentId) -> Result<(), ApiError> {
    let owner = KeyOwner::Agent(id.clone());
    for (prefix, _) in app.mirror.api_keys.all().iter().filter(|(_, record)| record.owner == owner) {
        app.buckets.api_keys.purge_with_ttl(prefix, MARKER_AGE).await.map_err(|error| ApiError::broker("delete the agent's key", error))?;
    }
    tokens::bound::withdraw(app, id).await
}

async fn revoke_key(app: &App, prefix: &str) -> Result<Option<u64>, ApiError> {
    for _ in 0..TRIES {
        let Some(Held { mut record, revision }) = read::<ApiKeyRecord>(&app.buckets.api_keys, prefix).await? else { return Ok(None) };
        if record.revoked_at.is_some() {
            return Ok(None);
        }
        record.revoked_at = Some(Timestamp::now());
        if let Some(revision) = update(&app.buckets.api_keys, prefix, &record, revision).await? {
            return Ok(Some(revision));
        }
    }
    Err(ApiError::broker("revoke the agent's key", "others kept changing it"))
}

/// Puts every past public key for which a JWT may still be about among those that the broker refuses: not only the last one, since an agent may
/// register with a new one at any time and keep what it had.
pub(super) async fn refuse_keys(app: &App, record: &AgentRecord) -> Result<(), ApiError> {
    let now = Timestamp::now();
    for past in record.past_keys.iter().filter(|past| now.since(past.until) < REVOCATION_AGE) {
        refuse_key(app, &record.id, &past.public_key, now).await?;
    }
    Ok(())
}

/// Puts one public key among those that the broker refuses. An earlier entry for it does the same.
pub(super) async fn refuse_key(app: &App, id: &AgentId, public_key: &str, now: Timestamp) -> Result<(), ApiError> {
    let entry = RevocationRecord { v: V, agent_id: id.clone(), until_s: (now + REVOCATION_AGE).secs(), at: now };
    create(&app.buckets.revocations, public_key, &entry).await.map(drop)
}

/// Tells the agent, so that an honest one stops at once and says why. Nothing depends on it.
async fn tell(app: &App, id: &AgentId, why: IdentityEnd, reason: Option<&str>) {
    let order = Order { v: V, what: What::IdentityEnded { why, reason: reason.map(str::to_owned) } };
    if let Err(error) = app.nats.publish(subjects::control(id), wire::encode(&order).into()).await {
        tracing::warn!(%error, agent = %id, "cannot tell the agent that its identity has ended");
    }
}

/// Has the active dispatcher carry out what the agent's record says, and waits for it.
///
/// # Errors
/// `settle_pending`.
pub(super) async fn settle(app: &App, record: &AgentRecord) -> Result<(), ApiError> {
    let until = Instant::now() + PATIENCE;
    // Those before are still listened to: the dispatcher may take longer than the time between two.
    let mut asked = FuturesUnordered::new();
    let mut why = "no dispatcher answered".to_owned();
    while Instant::now() < until {
        asked.push(ask(app, &record.id, until));
        match timeout_at(until.min(Instant::now() + AGAIN_AFTER), asked.next()).await {
            Ok(Some(Some(SettleAnswer { error: None, .. }))) => return Ok(()),
            Ok(Some(Some(SettleAnswer { error: Some(error), .. }))) => {
                why = error.message;
                break;
            }
            Ok(_) | Err(_) => {}
        }
        // One that died may have done it, and not said so any more. The record goes last.
        if matches!(app.buckets.agent(&record.id).await, Ok(None)) {
            return Ok(());
        }
    }
    tracing::warn!(agent = %record.id, why, "what was decided about an agent is not carried out yet");
    let then = if record.state == AgentState::Deleting { "; `agent_not_found` (404) then means that it is done" } else { "" };
    let detail = format!(
        "it is stored, and every gateway acts on it; no dispatcher has carried it out yet. Repeat the request once one is active{then}"
    );
    Err(ApiError::new(Code::SettlePending, detail).retry_after(Duration::from_secs(2)))
}

/// Puts the question once. `None` if there is no answer, a moment after that is known.
async fn ask(app: &App, id: &AgentId, until: Instant) -> Option<SettleAnswer> {
    let body = wire::encode(&SettleRequest { v: V, agent_id: id.clone() });
    let request = Request::new().payload(body.into()).timeout(Some(until.saturating_duration_since(Instant::now())));
    let answer = app.nats.send_request(subjects::SETTLE, request).await.map_err(|error| error.to_string());
    match answer.and_then(|answer| wire::decode(&answer.payload).map_err(|error| error.to_string())) {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(agent = %id, error, "no dispatcher answers");
            sleep(APART).await;
            None
        }
    }
}
