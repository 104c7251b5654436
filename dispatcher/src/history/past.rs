//! What other tasks of this dispatcher learn from its history, once it has been read.

use std::sync::{Arc, Weak};

use muster_schemas::{
    api::JobState,
    names::{JobId, PoolName},
    time::Timestamp,
};
use tokio::sync::watch;

use super::{
    blocking,
    catalogue::{Entry, NEVER, NEVER_RAN, Spot, seconds},
    key::RowKey,
    members::{Fate, Followed, Member},
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

    /// How it stands with jobs that are followed, as [`Followed::fates`]. `None` while there is no history to ask.
    pub(crate) async fn fates(&self, followed: Arc<Followed>) -> Option<Vec<(Member, Fate, bool)>> {
        self.ask(move |store| Ok(followed.fates(&store.catalogue()))).await
    }

    /// Jobs that have not ended, as far as is known, and that were to begin before `limit`: at most `most`, from `from` on. Answers where
    /// to go on, which is the beginning once the end is reached.
    pub(crate) async fn overdue(&self, limit: Timestamp, from: Option<Spot>, most: usize) -> Option<(Vec<Late>, Option<Spot>)> {
        let limit_s = seconds(limit.micros());
        let overdue =
            move |entry: &Entry| !entry.phase.is_final() && !entry.missing && entry.expires_s != NEVER && entry.expires_s < limit_s;
        self.found(from, most, overdue).await
    }

    /// Jobs that were ended since `since` without their agents, by a gateway or a dispatcher: cancelled, or expired before they ran. In
    /// pages, as [`Past::overdue`].
    pub(crate) async fn put_to_an_end(&self, since: Timestamp, from: Option<Spot>, most: usize) -> Option<(Vec<Late>, Option<Spot>)> {
        let since_s = seconds(since.micros());
        let ended = move |entry: &Entry| match entry.phase {
            JobState::Cancelled => entry.at_s >= since_s,
            JobState::Expired => entry.at_s >= since_s && entry.waited_ms == NEVER_RAN,
            _ => false,
        };
        self.found(from, most, ended).await
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
