//! Follows this agent's mailbox: a look at each connect, and after each hint.
//!
//! What is published on the mailbox's subject is a hint only, since a publish that the bucket refuses is heard as well: what counts is what a
//! look finds. A mailbox that was never written, as after the loss of the broker's disk, says nothing; one that is empty or was deleted takes
//! everything away that was delivered.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    connection::{CONNECTIONS_MAX, Mailbox, SealedEntry, keys},
    headers::KV_OPERATION,
    names::ConnectionName,
    sealed::{OpeningKey, Purpose},
    subjects::js,
    topology::{MAILBOXES, bucket_stream},
    wire,
};

use super::mailbox::steps;
use crate::{
    core::Core,
    heartbeat::Pulse,
    vault::{Vault, VaultError},
};

/// Between two looks for what a hint said, and how many there are: the broker stores it in milliseconds, or refuses it.
const HINT: (Duration, u32) = (Duration::from_millis(50), 20);
/// Between two looks when one came to nothing.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Follows the mailbox until the shutdown.
pub(crate) async fn run(core: Arc<Core>, pulse: Pulse, shutdown: Shutdown) -> anyhow::Result<()> {
    let subject = js::key(MAILBOXES, &keys::mailbox(&core.id));
    let mut hints = core.js.client().subscribe(subject.clone()).await.context("can't listen for credentials")?;
    let mut link = core.link.clone();
    link.mark_changed();
    let mut follow = Follow { core, pulse, subject, bad: BTreeMap::new(), hint: None };
    let mut look_at: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            Some(hint) = hints.next() => {
                follow.hint = Some((hint.payload, HINT.1));
                look_at = Some(Instant::now());
            }
            up = link.changed() => {
                up?;
                if link.borrow_and_update().up {
                    look_at = Some(Instant::now());
                }
            }
            () = tokio::time::sleep_until(look_at.unwrap_or_else(Instant::now).into()), if look_at.is_some() => {
                look_at = follow.look().await.map(|wait| Instant::now() + wait);
            }
            else => anyhow::bail!("the subscription ended"),
        }
    }
}

struct Follow {
    core: Arc<Core>,
    pulse: Pulse,
    subject: String,
    /// Entries that could not be opened: they are not tried again, nor told again.
    bad: BTreeMap<ConnectionName, SealedEntry>,
    /// What was published last, and how often it is still looked for.
    hint: Option<(Bytes, u32)>,
}

impl Follow {
    /// Looks at the mailbox. Answers after what time to look again, if at all.
    async fn look(&mut self) -> Option<Duration> {
        let message = match self.core.js.last(&bucket_stream(MAILBOXES), &self.subject).await {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "can't look at this agent's mailbox");
                // Away from the broker the next connect is a look.
                return self.core.link.borrow().up.then_some(AGAIN_AFTER);
            }
        };
        let mut again = None;
        if let Some(message) = &message {
            let deleted = message.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some());
            match if deleted { Ok(Mailbox::default()) } else { wire::decode(&message.payload) } {
                Ok(mailbox) => again = self.take(&mailbox).await.then_some(AGAIN_AFTER),
                Err(error) => self.tell(format!("this agent's mailbox can't be read: {error}")),
            }
        }
        match &mut self.hint {
            Some((hint, left)) if message.as_ref().is_none_or(|message| message.payload != *hint) && *left > 0 => {
                *left -= 1;
                Some(HINT.0)
            }
            _ => {
                self.hint = None;
                again
            }
        }
    }

    /// Brings the vault to where the mailbox is. One entry that can't be used keeps the others from nothing. Answers whether the vault has to be
    /// tried again.
    async fn take(&mut self, mailbox: &Mailbox) -> bool {
        let vault = &self.core.vault;
        // A closed one says so itself, and stays closed until the agent starts again.
        let Some(key) = vault.opening_key() else { return false };
        self.bad.retain(|name, bad| mailbox.entries.get(name) == Some(bad));
        let steps = steps(mailbox, &vault.held());
        if steps.surplus > 0 {
            self.tell(format!("its mailbox has {} entries more than the {CONNECTIONS_MAX} that an agent takes", steps.surplus));
        }
        let mut failed = false;
        for name in steps.remove {
            match vault.remove(&name).await {
                Ok(_) => tracing::info!(connection = %name, "credentials were taken away"),
                Err(error) => {
                    failed = true;
                    self.tell(format!("can't remove the credentials of connection `{name}`: {error}"));
                }
            }
        }
        for (name, entry) in steps.put {
            if self.bad.contains_key(name) {
                continue;
            }
            match self.put(&key, vault, name, entry).await {
                Ok(true) => tracing::info!(connection = %name, revision = entry.revision, "credentials were delivered"),
                Ok(false) => {}
                Err(PutError::Vault(error)) => {
                    failed = true;
                    self.tell(format!("can't keep the credentials of connection `{name}`: {error}"));
                }
                Err(PutError::Entry(why)) => {
                    self.bad.insert(name.clone(), entry.clone());
                    self.tell(format!("can't use the credentials that were delivered for connection `{name}`: {why}"));
                }
            }
        }
        failed
    }

    /// Keeps what an entry holds. `false` when somebody has put something here by hand since.
    async fn put(&self, key: &OpeningKey, vault: &Vault, name: &ConnectionName, entry: &SealedEntry) -> Result<bool, PutError> {
        let revision = entry.revision;
        if revision == 0 {
            return Err(PutError::Entry("it has no revision".to_owned()));
        }
        if vault.held().get(name) == Some(&0) && vault.lies_over(name).await? == revision {
            return Ok(false);
        }
        let credentials = key.open(entry, Purpose { agent: &self.core.id, connection: name, revision });
        let credentials = credentials.map_err(|error| PutError::Entry(error.to_string()))?;
        vault.put_credentials(name, revision, credentials).await?;
        Ok(true)
    }

    fn tell(&self, text: String) {
        tracing::error!("{text}");
        self.core.figures.error(text);
        self.pulse.tell();
    }
}

#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The entry itself is not to be used, however often it is tried.
    #[error("{0}")]
    Entry(String),
}
