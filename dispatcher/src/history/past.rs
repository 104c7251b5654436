//! What other tasks of this dispatcher learn from its history, once it has been read.

use std::sync::{Arc, Weak};

use muster_schemas::{
    names::{GroupId, JobId, PoolName},
    time::Timestamp,
};
use tokio::sync::watch;

use super::{
    blocking,
    catalogue::{Entry, NEVER, Spot, seconds},
    key::RowKey,
    members::{self, Fate},
    store::{HistoryError, Store},
};

/// The history, for reading; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    /// Nothing until it is read, and while its folder cannot be used.
    store: watch::Receiver<Weak<Store>>,
}

/// A job, by where its row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) pool: PoolName,
    pub(crate) id: JobId,
}

impl Past {
    /// A history that is not read yet, and what tells that it is.
    pub(super) fn new() -> (watch::Sender<Weak<Store>>, Self) {
        let (sender, store) = watch::channel(Weak::new());
        (sender, Self { store })
    }

    /// Runs something with the store, unless there is none to ask. A failure is logged, and is as if there were none.
    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Store) -> Result<T, HistoryError> + Send + 'static) -> Option<T> {
        let store: Arc<Store> = self.store.borrow().upgrade()?;
        let asked = blocking(move || ask(&store)).await;
        asked.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "cannot read the history of jobs")).ok()
    }

    /// How it stands with the jobs of a group's members. `None` while there is no history to ask.
    pub(crate) async fn fates(&self, pool: &PoolName, group: &GroupId, members: usize) -> Option<Vec<Fate>> {
        let (pool, group) = (pool.clone(), group.clone());
        self.ask(move |store| Ok(members::fates(&store.catalogue(), store.hashes(), &pool, &group, members))).await
    }

    /// Jobs that no agent has begun, as far as is known, and that were to begin before `limit`: at most `most`, from `from` on. Answers where
    /// to go on, which is the beginning once the end is reached.
    pub(crate) async fn overdue(&self, limit: Timestamp, from: Option<Spot>, most: usize) -> Option<(Vec<Late>, Option<Spot>)> {
        let limit_s = seconds(limit.micros());
        let (late, next) = self
            .found(from, most, move |entry| {
                !entry.phase.is_final() && !entry.missing && entry.expires_s != NEVER && entry.expires_s < limit_s
            })
            .await?;
        Some((late, next))
    }

    /// Jobs that ended as expired since `since` and that no agent ran.
    pub(crate) async fn expired(&self, since: Timestamp, most: usize) -> Option<Vec<Late>> {
        let since_s = seconds(since.micros());
        let expired = muster_schemas::api::JobState::Expired;
        Some(self.found(None, most, move |entry| entry.phase == expired && entry.at_s >= since_s).await?.0)
    }

    async fn found(
        &self,
        from: Option<Spot>,
        most: usize,
        wanted: impl Fn(&Entry) -> bool + Send + 'static,
    ) -> Option<(Vec<Late>, Option<Spot>)> {
        self.ask(move |store| {
            let from = from.unwrap_or((i64::MIN, RowKey([0; 16])));
            let spots: Vec<Spot> = store.catalogue().behind(from).filter(|entry| wanted(entry)).take(most).map(Entry::spot).collect();
            let next = spots.last().copied().filter(|_| spots.len() == most);
            let mut late = Vec::new();
            for (_, key) in spots {
                late.extend(store.row(key)?.map(|row| Late { pool: row.pool, id: row.id }));
            }
            Ok((late, next))
        })
        .await
    }
}
