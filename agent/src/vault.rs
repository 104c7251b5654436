//! The vault in a running agent: the credentials of connections and the private key that they are sealed to.
//!
//! [`Vault`] is open from the beginning of a turn to its end, or closed with a reason, which heartbeats and `/readyz` tell. Whatever waits
//! for the disk runs on a thread for that. Each change is followed by a heartbeat, and by masking what is in it from then on.
//!
//! | to find | look in |
//! |---|---|
//! | opening it, and what becomes of one that does not open | `open` |
//! | what an entry holds | `entry` |
//! | the file itself | the crate `muster_vault` |
//!
//! Nothing here decides which credentials there should be: [`crate::admin`] puts what a person says.

pub(crate) mod entry;
mod open;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use muster_executor::Masks;
use muster_runtime::http::Readiness;
use muster_schemas::{
    connection::CONNECTIONS_MAX,
    heartbeat::VaultMark,
    names::ConnectionName,
    sealed::{Credentials, OpeningKey},
};
use tokio::sync::Notify;

use entry::Held;

/// The name of the check that fails while the vault can't be used.
pub(crate) const CHECK: &str = "vault";

/// Why something can't be had from the vault or put into it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    /// It can't be used at all.
    #[error("the vault is closed: {0}")]
    Closed(String),
    /// Its file.
    #[error(transparent)]
    File(#[from] muster_vault::VaultError),
    /// An entry of another build, or credentials that are too large.
    #[error("the credentials of `{name}`: {problem}")]
    Content {
        /// The connection.
        name: ConnectionName,
        /// What is wrong.
        problem: String,
    },
    /// It has as many connections as it takes.
    #[error("the vault has the credentials of {CONNECTIONS_MAX} connections, which is all it takes")]
    Full,
    /// The thread that did it failed.
    #[error("the vault failed: {0}")]
    Failed(String),
}

/// The vault; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Vault(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Held while the disk works, so only on threads for that. `None` once it is closed.
    store: Mutex<Option<muster_vault::Vault>>,
    /// What can be told of it at once.
    shown: RwLock<Shown>,
    masks: Masks,
    readiness: Readiness,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Shown {
    closed: Option<String>,
    mark: Option<VaultMark>,
    held: BTreeMap<ConnectionName, u64>,
    opening_key: Option<Arc<OpeningKey>>,
}

impl Vault {
    /// The credentials of a connection, with their revision; 0 is what somebody put here by hand.
    pub(crate) async fn credentials(&self, name: &ConnectionName) -> Result<Option<(u64, Credentials)>, VaultError> {
        let name = name.clone();
        let held = self.with(move |store| Held::get(store, &name)).await?;
        Ok(held.map(|held| (held.revision, held.credentials)))
    }

    /// Keeps the credentials of a connection instead of those that were here.
    pub(crate) async fn put_credentials(&self, name: &ConnectionName, revision: u64, credentials: Credentials) -> Result<(), VaultError> {
        self.change(name, move |_| Held { revision, over: 0, credentials }).await
    }

    /// Keeps what is made of the credentials that are here.
    pub(crate) async fn change(
        &self,
        name: &ConnectionName,
        make: impl FnOnce(Option<Held>) -> Held + Send + 'static,
    ) -> Result<(), VaultError> {
        let name = name.clone();
        self.with(move |store| {
            let before = Held::get(store, &name)?;
            if before.is_none() && Held::names(store).count() >= CONNECTIONS_MAX {
                return Err(VaultError::Full);
            }
            make(before).put(store, &name)
        })
        .await
    }

    /// The delivered revision that somebody has replaced by hand; 0 if there was none.
    pub(crate) async fn lies_over(&self, name: &ConnectionName) -> Result<u64, VaultError> {
        let name = name.clone();
        Ok(self.with(move |store| Held::get(store, &name)).await?.map_or(0, |held| held.delivered()))
    }

    /// Removes the credentials of a connection; says whether there were any.
    pub(crate) async fn remove(&self, name: &ConnectionName) -> Result<bool, VaultError> {
        let name = name.clone();
        self.with(move |store| Held::remove(store, &name)).await
    }

    /// The connections whose credentials are here, with their revisions.
    pub(crate) fn held(&self) -> BTreeMap<ConnectionName, u64> {
        self.shown(|shown| shown.held.clone())
    }

    /// Which vault this is, and how often it was written; `None` while it is closed.
    pub(crate) fn mark(&self) -> Option<VaultMark> {
        self.shown(|shown| shown.mark.clone())
    }

    /// The key to open what is delivered; `None` while the vault is closed.
    pub(crate) fn opening_key(&self) -> Option<Arc<OpeningKey>> {
        self.shown(|shown| shown.opening_key.clone())
    }

    /// Why it is closed; `None` while it is open.
    pub(crate) fn fault(&self) -> Option<String> {
        self.shown(|shown| shown.closed.clone())
    }

    /// Waits for the next change of what is held. One listens: the heartbeat.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Closes a vault that is behind what the dispatcher has seen of it: somebody put an older file in its place, so what it holds may be
    /// credentials that were replaced or taken away since.
    pub(crate) fn must_reach(&self, seen: &VaultMark) {
        let behind = |mark: &VaultMark| mark.id == seen.id && mark.counter < seen.counter;
        if let Some(mark) = self.mark().filter(behind) {
            self.close(format!(
                "the file was rolled back: it is at change {}, and the dispatcher has seen change {}; restore the newest file, or move it \
                 away and deliver the credentials again",
                mark.counter, seen.counter
            ));
        }
    }

    /// Ends its use, with the identity: whoever comes next may open it. Nothing is wrong with it.
    pub(crate) async fn end(&self) {
        self.shut("the agent's identity has ended".to_owned());
        // Whatever works with it at this moment is waited for.
        let _closed = self.with(|_| Ok(())).await;
    }

    fn close(&self, why: String) {
        tracing::error!(why, "the vault is closed: jobs that name a connection do not run here");
        self.0.readiness.set(CHECK, Err(why.clone()));
        self.shut(why);
    }

    fn shut(&self, why: String) {
        {
            let mut shown = self.0.shown.write().unwrap_or_else(PoisonError::into_inner);
            *shown = Shown { closed: Some(why), ..Shown::default() };
        }
        // Whoever works with it at this moment lets it go afterwards.
        if let Ok(mut store) = self.0.store.try_lock() {
            *store = None;
        }
        self.0.changed.notify_one();
    }

    /// Does something with the open vault, on a thread for that; then shows what has become of it.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut muster_vault::Vault) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let vault = self.clone();
        let done = tokio::task::spawn_blocking(move || vault.work(work));
        done.await.unwrap_or_else(|error| Err(VaultError::Failed(error.to_string())))
    }

    fn work<T>(&self, work: impl FnOnce(&mut muster_vault::Vault) -> Result<T, VaultError>) -> Result<T, VaultError> {
        let mut store = self.0.store.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = |vault: &Self| VaultError::Closed(vault.fault().unwrap_or_default());
        if self.fault().is_some() {
            *store = None;
        }
        let Some(open) = store.as_mut() else { return Err(closed(self)) };
        let before = open.mark();
        let done = work(open);
        if open.mark() != before {
            self.show(open);
        }
        if let Err(VaultError::File(error @ (muster_vault::VaultError::Replaced { .. } | muster_vault::VaultError::Altered { .. }))) = &done
        {
            *store = None;
            self.close(error.to_string());
        }
        if self.fault().is_some() {
            *store = None;
            return Err(closed(self));
        }
        done
    }

    /// Shows what is in it, and masks it.
    fn show(&self, store: &muster_vault::Vault) {
        let all: Vec<(ConnectionName, Held)> = Held::names(store)
            .filter_map(|name| match Held::get(store, &name) {
                Ok(held) => Some((name, held?)),
                Err(error) => {
                    tracing::error!(%error, "can't read what is in the vault");
                    None
                }
            })
            .collect();
        self.0.masks.replace(all.iter().flat_map(|(_, held)| held.credentials.secrets()));
        let muster_vault::Mark { id, counter } = store.mark();
        let mut shown = self.0.shown.write().unwrap_or_else(PoisonError::into_inner);
        if shown.closed.is_none() {
            shown.mark = Some(VaultMark { id, counter });
            shown.held = all.into_iter().map(|(name, held)| (name, held.revision)).collect();
        }
        drop(shown);
        self.0.changed.notify_one();
    }

    fn shown<T>(&self, look: impl FnOnce(&Shown) -> T) -> T {
        look(&self.0.shown.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
