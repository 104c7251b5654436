//! Delivering credentials that the caller has sealed: everything is checked, then the record's revision counts up, then they are put into the
//! mailboxes.
//!
//! The record keeps a digest of what was delivered. So whoever is cut off between the record and the last mailbox repeats the same request and goes
//! on where it ended, and nothing else is ever taken for that revision.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::{PutCredentials, SealedFor},
    code::Code,
    connection::{CREDENTIALS_LIMIT, ConnectionRecord, SealedEntry},
    names::{AgentId, ConnectionName},
    time::Timestamp,
};
use sha2::{Digest as _, Sha256};

use super::{mailbox, recipients, store};
use crate::{
    app::{App, Held},
    problem::ApiError,
};

/// Agents that are looked at, or written to, side by side.
const AT_ONCE: usize = 16;
/// The encapsulated key and the tag that a ciphertext has beyond its text.
const OVERHEAD: usize = 32 + 16;

/// What became of a delivery.
pub(super) struct Delivered {
    pub(super) record: ConnectionRecord,
    /// To how many agents.
    pub(super) agents: usize,
}

/// Delivers.
///
/// # Errors
/// `connection_not_found`; `revision_conflict`; `credentials_invalid`, naming the agent; `broker_unavailable`, then it is safe to repeat.
pub(super) async fn deliver(app: &App, name: &ConnectionName, put: PutCredentials) -> Result<Delivered, ApiError> {
    let held = store::find(app, name).await?;
    let digest = digest(&put);
    let repeated = (held.record.revision, held.record.delivery.as_ref()) == (put.revision, Some(&digest));
    if !repeated && put.revision != held.record.revision.saturating_add(1) {
        return Err(conflict(&held.record, put.revision));
    }
    let entries = check(app, &held.record, put).await?;
    let record = if repeated { held.record } else { count_up(app, held, digest).await? };
    let written = stream::iter(entries.iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |(agent, entry)| async move { mailbox::put(app, agent, name, entry).await });
    written.await?;
    if store::known(app, name).await?.is_none() {
        // It was deleted meanwhile, and whoever did that may have passed by these mailboxes before.
        for agent in entries.keys() {
            mailbox::forget(app, agent, name).await?;
        }
        return store::find(app, name).await.map(|held| Delivered { record: held.record, agents: 0 });
    }
    Ok(Delivered { record, agents: entries.len() })
}

/// Of what was sealed, to whom and as what: what tells one delivery from another.
fn digest(put: &PutCredentials) -> String {
    let mut digest = Sha256::new().chain_update(put.revision.to_be_bytes());
    for (agent, SealedFor { key, sealed }) in &put.sealed {
        for part in [agent.as_str(), key, sealed] {
            digest = digest.chain_update(part.len().to_be_bytes()).chain_update(part);
        }
    }
    BASE64.encode(digest.finalize())
}

fn conflict(record: &ConnectionRecord, asked: u64) -> ApiError {
    let detail = format!(
        "connection `{}` is at revision {}, so the next delivery is {}, and not {asked}; look at it, and seal them anew if yours are the newer ones",
        record.name,
        record.revision,
        record.revision.saturating_add(1)
    );
    ApiError::new(Code::RevisionConflict, detail)
}

/// Makes the revision that is delivered the connection's.
async fn count_up(app: &App, held: Held<ConnectionRecord>, digest: String) -> Result<ConnectionRecord, ApiError> {
    let Held { record, revision } = held;
    let next =
        ConnectionRecord { revision: record.revision.saturating_add(1), delivery: Some(digest), updated_at: Timestamp::now(), ..record };
    match store::rewrite(app, &next, revision).await? {
        Some(_) => Ok(next),
        None => {
            // Somebody has delivered, changed or deleted it since it was read.
            let now = store::find(app, &next.name).await?.record;
            Err(conflict(&now, next.revision))
        }
    }
}

/// The entries for the mailboxes, each checked against its agent.
async fn check(app: &App, connection: &ConnectionRecord, put: PutCredentials) -> Result<BTreeMap<AgentId, SealedEntry>, ApiError> {
    let PutCredentials { revision, sealed } = put;
    if sealed.is_empty() {
        return Err(invalid("they are sealed to nobody"));
    }
    let at = Timestamp::now();
    let each = stream::iter(sealed).map(|(agent, SealedFor { key, sealed })| async move {
        let size = BASE64.decode(&sealed).map_err(|_| invalid(format!("for agent {agent}: the ciphertext is not base64")))?.len();
        if !(OVERHEAD..=CREDENTIALS_LIMIT + OVERHEAD).contains(&size) {
            let detail = format!("for agent {agent}: the ciphertext has {size} bytes; credentials have at most {CREDENTIALS_LIMIT}");
            return Err(invalid(detail));
        }
        let entry = SealedEntry { revision, key, sealed, at };
        fits(app, connection, &agent, &entry).await?;
        Ok((agent, entry))
    });
    each.buffer_unordered(AT_ONCE).try_collect().await
}

/// Whether an agent is to have an entry, can open it and has room for it.
async fn fits(app: &App, connection: &ConnectionRecord, agent: &AgentId, entry: &SealedEntry) -> Result<(), ApiError> {
    let pool = &connection.pool;
    let record = app.buckets.agent(agent).await?.map(|held| held.record).filter(|record| recipients::is_member(record, pool));
    let record = record.ok_or_else(|| invalid(format!("agent {agent} is none of pool `{pool}`, of which the connection is")))?;
    let (beat, there) = tokio::try_join!(recipients::heartbeat(app, pool, agent), mailbox::open(app, agent))?;
    let sealing = beat.and_then(|beat| recipients::sealing(&record, &beat));
    if sealing.is_none_or(|sealing| sealing.key != entry.key) {
        let detail = format!(
            "agent `{}` ({agent}) has another sealing key, or none; look at the connection, and seal to the key of now",
            record.name
        );
        return Err(invalid(detail));
    }
    mailbox::room(&there, agent, &connection.name, entry)
}

fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::CredentialsInvalid, detail)
}
