//! Results that the broker has not taken yet: kept on disk, encrypted, until it has. They survive a restart of the agent.
//!
//! What is kept is an [`Ending`]. Encryption is in [`cipher`], the database in [`store`], delivery in [`courier`]. A result counts as kept
//! only once it is flushed to disk. A damaged entry is moved aside with a line in the log; it never stops the others.

mod cipher;
pub(crate) mod courier;
mod store;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use muster_runtime::{config::Secret, metrics::Gauge};
use muster_schemas::{
    names::{AgentId, JobId},
    records::secret,
};
use tokio::sync::Notify;

use crate::finish::Ending;
use store::Store;

/// How much the spool takes. An agent without a broker gets no new jobs, so only a broker that takes no results fills it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Results.
    pub(crate) entries: usize,
    /// Bytes of them, encrypted.
    pub(crate) bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 512 * 1024 * 1024 }
    }
}

/// The spool can't do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// Its folder or its database.
    #[error("the spool in {path} can't be used")]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        source: sled::Error,
    },
    /// The file with its salt.
    #[error(transparent)]
    Salt(#[from] crate::identity::FileError),
    /// A read or write.
    #[error("the spool can't be read or written")]
    Database(#[from] sled::Error),
    /// It has as many results as it takes.
    #[error("the spool is full ({entries} results, {bytes} bytes)")]
    Full {
        /// Results in it.
        entries: usize,
        /// Bytes in it.
        bytes: u64,
    },
    /// The thread that did it failed.
    #[error("the spool failed: {0}")]
    Failed(String),
}

/// The spool; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    /// The jobs whose results are in it.
    jobs: Mutex<HashSet<JobId>>,
    filled: Notify,
    gauge: Gauge,
}

impl Spool {
    /// Opens the spool in the state directory. Deriving the key takes a moment, on a thread of its own.
    /// What an agent of another id or API key left there is void, and dropped.
    pub(crate) async fn open(state_dir: &Path, agent: &AgentId, api_key: Secret, limits: Limits, gauge: Gauge) -> Result<Self, SpoolError> {
        let state_dir = state_dir.to_owned();
        let owner = format!("{agent} {}", secret::prefix(api_key.expose()).unwrap_or_default());
        let (store, jobs) = blocking(move || {
            let store = Store::open(&state_dir, api_key.expose(), limits)?;
            let void = store.claim(&owner)?;
            if void > 0 {
                tracing::error!(
                    results = void,
                    "the spool was sealed with the API key of an identity that has ended: its results are void and dropped, their jobs run again elsewhere"
                );
            }
            let jobs = store.check()?;
            Ok((store, jobs))
        })
        .await?;
        gauge.set(jobs.len() as f64);
        if !jobs.is_empty() {
            tracing::info!(results = jobs.len(), "results of an earlier run wait in the spool");
        }
        Ok(Self(Arc::new(Inner { store, jobs: Mutex::new(jobs), filled: Notify::new(), gauge })))
    }

    /// Keeps a result. When this returns, it is on disk.
    pub(crate) async fn put(&self, ending: Ending) -> Result<(), SpoolError> {
        let (spool, id) = (self.clone(), ending.job_id.clone());
        blocking(move || spool.0.store.put(&ending)).await?;
        self.jobs(|jobs| jobs.insert(id));
        self.0.filled.notify_one();
        Ok(())
    }

    /// The oldest result from a place on, with its place.
    async fn next(&self, from: u64) -> Result<Option<(u64, Ending)>, SpoolError> {
        let spool = self.clone();
        blocking(move || spool.0.store.next(from)).await
    }

    async fn remove(&self, place: u64, id: &JobId) -> Result<(), SpoolError> {
        let spool = self.clone();
        blocking(move || spool.0.store.remove(place)).await?;
        self.jobs(|jobs| jobs.remove(id));
        Ok(())
    }

    /// How many results are in it.
    pub(crate) fn count(&self) -> usize {
        self.0.store.count()
    }

    /// Whether it takes no more.
    pub(crate) fn is_full(&self) -> bool {
        self.0.store.is_full()
    }

    /// Whether the result of a job waits in it: then the job must not run again.
    pub(crate) fn holds(&self, id: &JobId) -> bool {
        self.jobs(|jobs| jobs.contains(id))
    }

    fn jobs<T>(&self, f: impl FnOnce(&mut HashSet<JobId>) -> T) -> T {
        let mut jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = f(&mut jobs);
        self.0.gauge.set(jobs.len() as f64);
        answer
    }
}

/// Runs something that blocks, on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static) -> Result<T, SpoolError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(SpoolError::Failed(error.to_string())))
}

#[cfg(test)]
mod tests;
