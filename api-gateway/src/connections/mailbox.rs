//! Agents' mailboxes: the sealed credentials that lie ready for each. Read on demand, since together they may be large; written by
//! compare-and-set, since the dispatcher writes them as well.

use muster_schemas::{
    code::Code,
    connection::{CONNECTIONS_MAX, Mailbox, SealedEntry, keys},
    names::{AgentId, ConnectionName},
    topology::MARKER_AGE,
    wire::{self, Body as _},
};

use crate::{
    app::{App, Held, create, read, update},
    problem::ApiError,
};

/// How often a write is tried again after somebody else's.
const TRIES: usize = 10;

/// An agent's mailbox; an empty one where there is none.
pub(super) async fn open(app: &App, agent: &AgentId) -> Result<Mailbox, ApiError> {
    let held = read::<Mailbox>(&app.buckets.mailboxes, &keys::mailbox(agent)).await?;
    Ok(held.map(|held| held.record).unwrap_or_default())
}

/// Whether an entry has room in a mailbox.
///
/// # Errors
/// `credentials_invalid`, naming the agent.
pub(super) fn room(mailbox: &Mailbox, agent: &AgentId, name: &ConnectionName, entry: &SealedEntry) -> Result<(), ApiError> {
    let mut filled = mailbox.clone();
    filled.entries.insert(name.clone(), entry.clone());
    let size = wire::encode(&filled).len();
    let full = filled.entries.len() > CONNECTIONS_MAX || size > Mailbox::LIMIT;
    if !full {
        return Ok(());
    }
    let most = Mailbox::LIMIT / 1024;
    let detail = format!(
        "agent {agent} has the credentials of {} connections, and takes {CONNECTIONS_MAX}, of {most} KiB in all",
        mailbox.entries.len()
    );
    Err(ApiError::new(Code::CredentialsInvalid, detail))
}

/// Puts an entry into an agent's mailbox, unless a newer one is there, or this revision for the same key.
pub(super) async fn put(app: &App, agent: &AgentId, name: &ConnectionName, entry: &SealedEntry) -> Result<(), ApiError> {
    change(app, agent, |mailbox| {
        let there = mailbox.entries.get(name);
        let kept =
            there.is_some_and(|there| there.revision > entry.revision || (there.revision, &there.key) == (entry.revision, &entry.key));
        if kept {
            return false;
        }
        mailbox.entries.insert(name.clone(), entry.clone());
        true
    })
    .await
}

/// Takes a connection's entry out of an agent's mailbox.
pub(super) async fn forget(app: &App, agent: &AgentId, name: &ConnectionName) -> Result<(), ApiError> {
    change(app, agent, |mailbox| mailbox.entries.remove(name).is_some()).await
}

/// Removes an agent's mailbox with all that is in it: for one that leaves its pool.
pub(crate) async fn clear(app: &App, agent: &AgentId) -> Result<(), ApiError> {
    let removed = app.buckets.mailboxes.purge_with_ttl(keys::mailbox(agent), MARKER_AGE).await;
    removed.map_err(|error| ApiError::broker("remove the agent's mailbox", error))
}

/// Changes a mailbox; `change` says whether there is something to write.
async fn change(app: &App, agent: &AgentId, change: impl Fn(&mut Mailbox) -> bool) -> Result<(), ApiError> {
    let (bucket, key) = (&app.buckets.mailboxes, keys::mailbox(agent));
    for _ in 0..TRIES {
        let there = read::<Mailbox>(bucket, &key).await?;
        let (mut mailbox, revision) = there.map_or((Mailbox::default(), None), |Held { record, revision }| (record, Some(revision)));
        if !change(&mut mailbox) {
            return Ok(());
        }
        let written = match revision {
            None => create(bucket, &key, &mailbox).await?,
            Some(revision) => update(bucket, &key, &mailbox, revision).await?,
        };
        if written.is_some() {
            return Ok(());
        }
    }
    Err(ApiError::broker("write the agent's mailbox", "others kept changing it"))
}
